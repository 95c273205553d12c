"""Time to target on a virtual clock: rounds that wait for the slowest, and rounds that do not.

    FEDREC_DATA=DATA python experiments/studies/virtual_time.py OUT [--jobs 2] [--plan NAME ...]

Runs matrix factorisation with the settings of ``experiments/ml-100k/mf.yaml`` on MovieLens-100K,
three seeds, once for each round plan, on the same made devices. They are always online, so what
differs is their speed. A job takes 0.1 ms per example: an item and its four negatives take 12
microseconds on a core of a server with torch (0.4 million rows a second), and a phone is taken as
eight times as slow. So most of a job is its download of 860 kB and its upload.

The target of a seed is 90 % of the best NDCG@10 on validation of synchronous rounds with all
clients, as ``mf.yaml`` has them. Other runs stop once they reach it, or after `UPDATES`. Prints a
table of what it takes to reach the target: virtual hours, updates, bytes; and writes it to OUT,
with a figure of NDCG@10 against virtual time. A run that is under way in its folder is continued.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from pathlib import Path
from statistics import mean

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[2]))

import pandas as pd

from experiments.studies.tables import markdown
from fedrec import load, load_experiment, resume, run
from fedrec.runs.log import RoundRecord, read_log

CONFIG = str(Path(__file__).parents[1] / "ml-100k" / "mf.yaml")
SEEDS = (0, 1, 2)
DEVICES = (
    "rounds.devices={name: synthetic, seconds_per_example: 0.0001, online_hours: 24, "
    "online_spread: 0}"
)
EVERYBODY, SHARE, UPDATES, METRIC = "synchronous, all", 0.9, 200_000, "ndcg@10"


def _synchronous(size: int, lr: float, **options: float) -> tuple[str, ...]:
    plan = ", ".join(f"{name}: {value}" for name, value in options.items())
    return (
        f"rounds.cohort_size={size}",
        f"rounds.plan={{name: synchronous, {plan}}}",
        *_settings(size, lr),
    )


def _buffered(size: int, concurrency: int, lr: float) -> tuple[str, ...]:
    plan = f"{{name: asynchronous, size: {size}, concurrency: {concurrency}}}"
    return f"rounds.plan={plan}", *_settings(size, lr)


def _settings(size: int, lr: float) -> tuple[str, ...]:
    """Rates of the server, and evaluations every 2,500 updates."""
    return (
        f"strategy.server_optimizer.lr={lr}",
        f"rounds.count={UPDATES // size}",
        f"evaluate.every={2500 // size}",
        "rounds.patience=null",
    )


PLANS: dict[str, tuple[str, ...]] = {
    EVERYBODY: (),
    "synchronous, 100": _synchronous(100, 0.005),
    "synchronous, 100 of 130": _synchronous(100, 0.005, over_selection=0.3),
    "synchronous, 100, 10 s": _synchronous(100, 0.005, deadline=10, quorum=0.5),
    "FedBuff, K = 50 of 100": _buffered(50, 100, 0.005),
    "FedBuff, K = 50 of 100, half the rate": _buffered(50, 100, 0.0025),
    "FedBuff, K = 10 of 100": _buffered(10, 100, 0.0025),
}


def log_of(out: Path, plan: str, seed: int) -> list[RoundRecord]:
    """Return the rounds of a run."""
    return read_log(_folder(out, plan, seed) / "rounds.jsonl")


def _folder(out: Path, plan: str, seed: int) -> Path:
    name = "".join(c if c.isalnum() else "-" for c in plan).replace("--", "-")
    return out / name / f"seed{seed}"


def reached(log: Sequence[RoundRecord], target: float) -> int:
    """Return how many rounds it took to reach a target, 0 if it was not."""
    for number, record in enumerate(log, start=1):
        score = record.score("valid", METRIC)
        if score is not None and score >= target:
            return number
    return 0


def one(out: Path, plan: str, seed: int, target: float | None) -> None:
    """Run a plan with a seed until it reaches the target; None: to its end."""
    folder = _folder(out, plan, seed)

    def watch(record: RoundRecord) -> None:
        if target is not None and reached([record], target):
            raise KeyboardInterrupt

    try:
        if not (folder / "checkpoint.safetensors").exists():
            sets = [*PLANS[plan], DEVICES, f"seed={seed}", "engine.name=serial"]
            run(load_experiment(CONFIG, sets), out=folder, overwrite=True, on_round=watch)
        elif target is None or not reached(log_of(out, plan, seed), target):
            resume(folder, on_round=watch)
    except KeyboardInterrupt:
        pass


def target_of(out: Path, seed: int) -> float:
    """Return the target of a seed."""
    return SHARE * float(load(_folder(out, EVERYBODY, seed)).result["metrics"]["valid"][METRIC])


def all_of(out: Path, plans: Sequence[str], pool: Executor) -> None:
    """Run what was not run yet."""
    for future in [pool.submit(one, out, EVERYBODY, seed, None) for seed in SEEDS]:
        future.result()
    jobs = {
        (plan, seed): pool.submit(one, out, plan, seed, target_of(out, seed))
        for plan in plans
        if plan != EVERYBODY
        for seed in SEEDS
    }
    for (plan, seed), job in jobs.items():
        job.result()
        print(plan, seed, flush=True)


def table(out: Path, plans: Sequence[str]) -> str:
    """Return what each plan takes to reach the target, as Markdown.

    Hours are those of each seed; the rest are means over the seeds that reach it.
    """
    rows = []
    for plan in plans:
        hours, spent = list[str](), list[dict[str, float]]()
        for seed in SEEDS:
            log = log_of(out, plan, seed)
            log = log[: reached(log, target_of(out, seed))]
            times = [record.virtual for record in log if record.virtual]
            hours.append(f"{times[-1].seconds / 3600:.2f}" if log else "–")
            if not log:
                continue
            updates = sum(record.clients for record in log)
            left_out = sum(each.stragglers + each.discarded for each in times)
            spent.append(
                {
                    "Rounds": len(log),
                    "Updates, thousands": updates / 1000,
                    "GB down": sum(record.bytes.down for record in log) / 1e9,
                    "GB up": sum(record.bytes.up for record in log) / 1e9,
                    "Left out, %": 100 * left_out / (updates + left_out),
                    "Staleness": mean(each.staleness for each in times),
                }
            )
        means = {name: mean(each[name] for each in spent) for name in (spent[0] if spent else ())}
        row = {"Plan": plan, "Virtual hours by seed": ", ".join(hours)}
        rows.append(row | {name: f"{value:.3g}" for name, value in means.items()})
    return markdown(pd.DataFrame(rows))


def draw(out: Path, plans: Sequence[str]) -> None:
    """Draw NDCG@10 on validation against virtual time, a line for each seed."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.2), layout="constrained")
    for number, plan in enumerate(plans):
        for seed in SEEDS:
            log = [each for each in log_of(out, plan, seed) if each.evaluation and each.virtual]
            hours = [each.virtual.seconds / 3600 for each in log if each.virtual]
            scores = [each.score("valid", METRIC) or 0.0 for each in log]
            label = plan if seed == SEEDS[0] else None
            axes.plot(hours, scores, color=f"C{number}", lw=1.2, alpha=0.8, label=label)
    for seed in SEEDS:
        axes.axhline(target_of(out, seed), color="0.5", lw=0.8, ls=":")
    axes.set(xscale="log", xlabel="virtual hours", ylabel="NDCG@10, validation")
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(out / "virtual_time.png", dpi=150)
    pyplot.close(figure)


def main() -> None:
    """Run what was not run yet, write the table and draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--plan", action="append", choices=PLANS, dest="plans")
    chosen = parser.parse_args()
    plans = [name for name in PLANS if name == EVERYBODY or name in (chosen.plans or PLANS)]
    with ProcessPoolExecutor(chosen.jobs) as pool:
        all_of(chosen.out, plans, pool)
    text = table(chosen.out, plans)
    (chosen.out / "virtual_time.md").write_text(text + "\n", encoding="utf-8")
    draw(chosen.out, plans)
    print(text)


if __name__ == "__main__":
    main()
