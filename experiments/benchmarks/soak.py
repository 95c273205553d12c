"""Does memory grow with the rounds? Many rounds on Ray, the memory of all processes, a line fitted.

    python experiments/benchmarks/soak.py [--rounds 200] [--out FOLDER]

Samples the proportional set size of our processes (the driver and Ray's actors) every few rounds,
Ray's daemons apart, and writes soak.json and soak.png. The growth is the median slope between any
two samples after the first 50 rounds. Exit code 1 if our processes grow by more than 1 MB per 100
rounds. What others run on the machine shifts shares of the pages of common libraries; the figure
``ours_anonymous`` is free of that. ``ours_store`` are pages of Ray's object store that our
processes have touched; Ray limits them.
"""

import argparse
import sys
from itertools import combinations
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from experiments.benchmarks.meter import Meter, metered
from experiments.benchmarks.report import about_run, write
from experiments.benchmarks.rounds import run_rounds
from experiments.benchmarks.workload import DATA, PERSONALIZATIONS, workload
from fedrec.runs.log import RoundRecord

MB = 1e6
LIMIT = 1.0
FIRST = 50

Sample = dict[str, float]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--every", type=int, default=5, help="rounds between two samples")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--data", default="ml-100k", choices=DATA)
    parser.add_argument("--personalization", default="none", choices=list(PERSONALIZATIONS))
    parser.add_argument("--out", type=Path, default=Path("experiments/soak"))
    options = parser.parse_args()
    samples = soak(options)
    growth = {
        kind: slope([(s["round"], s[kind]) for s in samples if s["round"] >= first(options.rounds)])
        for kind in ("ours", "ours_anonymous", "ours_store", "driver", "workers", "daemons")
    }
    result = {
        "bench": "soak",
        "data": options.data,
        "personalization": options.personalization,
        "rounds": options.rounds,
        "workers": options.workers,
        "growth_mb_per_100_rounds": growth,
        "limit": LIMIT,
        "samples_mb": samples,
        **about_run(),
    }
    write(result, options.out / "soak.json")
    draw(samples, growth["ours"], options.out / "soak.png")
    for kind, value in growth.items():
        print(f"{kind:15} {samples[-1][kind]:8.1f} MB {value:+7.2f} MB per 100 rounds")
    return 1 if growth["ours"] > LIMIT else 0


def first(rounds: int) -> int:
    """The first round that counts."""
    return min(FIRST, rounds // 4)


def soak(options: argparse.Namespace) -> list[Sample]:
    """The memory in MB by kind of process, every few rounds."""
    work = workload(options.data, options.personalization)
    samples: list[Sample] = []

    def sample(meter: Meter, record: RoundRecord) -> None:
        if record.round % options.every == 0 or record.round == options.rounds:
            sizes: Sample = {kind: size / MB for kind, size in meter.memory().items()}
            sizes["ours"] = sizes["driver"] + sizes["workers"]
            anonymous = meter.memory("Pss_Anon")
            sizes["ours_anonymous"] = (anonymous["driver"] + anonymous["workers"]) / MB
            shared = meter.memory("Pss_Shmem")
            sizes["ours_store"] = (shared["driver"] + shared["workers"]) / MB
            samples.append({"round": float(record.round), **sizes})

    with metered() as meter, TemporaryDirectory(prefix="fedrec-soak-") as name:
        engine: dict[str, Any] = {"name": "ray", "workers": options.workers}
        run_rounds(
            work,
            Path(name) / "run",
            meter,
            engine,
            rounds=options.rounds - 1,
            on_round=lambda record: sample(meter, record),
        )
    return samples


def slope(points: list[tuple[float, float]]) -> float:
    """The median slope between any two points, per 100."""
    pairs = combinations(points, 2)
    return 100 * median((b[1] - a[1]) / (b[0] - a[0]) for a, b in pairs)


def draw(samples: list[Sample], growth: float, path: Path) -> None:
    """The memory by round."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    rounds = [each["round"] for each in samples]
    for kind, label in (
        ("ours", "ours: driver and actors"),
        ("driver", "driver"),
        ("workers", "actors"),
        ("daemons", "Ray's daemons"),
    ):
        axes.plot(rounds, [each[kind] for each in samples], label=label)
    axes.axvline(first(int(rounds[-1])), color="grey", linewidth=0.5)
    axes.set(xlabel="round", ylabel="PSS, MB", ylim=(0, None))
    axes.set_title(f"our processes: {growth:+.2f} MB per 100 rounds", fontsize="medium")
    axes.legend()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


if __name__ == "__main__":
    sys.exit(main())
