"""Clients per second of strategies and transforms on MovieLens-100K, beside plain averaging.

    FEDREC_DATA=DATA python experiments/benchmarks/strategies.py [NAME ...] [--repeats 3]

Takes the configurations of ``experiments/ml-100k/strategies/``, or those that are named; the name
``clip+int8`` is ``fedavg`` with these two transforms. Each runs for some rounds without evaluation
in one process, the serial engine, all taking turns. A run's rate is that of its median round,
without the first two, in which machine code is loaded. Prints the median rate of each over the
turns, and the median of its ratios to ``fedavg`` in the same turn.
"""

import argparse
import os
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from statistics import median

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[2]))

from fedrec import load_experiment, run
from fedrec.runs.log import read_log

FOLDER = Path(__file__).parents[1] / "ml-100k" / "strategies"
PLAIN, TRANSFORMED = "fedavg", "clip+int8"
WARM = 2


def rate(name: str, rounds: int, folder: Path) -> float:
    """Return clients per second of the median round of a configuration."""
    sets = [f"rounds.count={WARM + rounds}", f"evaluate.every={WARM + rounds}"]
    sets += ["rounds.patience=null", "engine={name: serial, nodes: 1}"]
    if name == TRANSFORMED:
        sets += ["transforms=[{name: clip, norm: 1.0}, int8]"]
    config = FOLDER / f"{PLAIN if name == TRANSFORMED else name}.yaml"
    run(load_experiment(config, sets), out=folder)
    log = read_log(folder / "rounds.jsonl")[WARM:]
    return median(record.clients / record.seconds.train for record in log)


def main() -> None:
    """Run all in turn, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = [*sorted(path.stem for path in FOLDER.iterdir()), TRANSFORMED]
    parser.add_argument("names", nargs="*", metavar="NAME", help="default: all")
    parser.add_argument("--repeats", type=int, default=3, help="turns")
    parser.add_argument("--rounds", type=int, default=8, help="measured rounds of a run")
    chosen = parser.parse_args()
    if unknown := set(chosen.names) - set(names):
        parser.error(
            f"no configuration {', '.join(sorted(unknown))}: choose from {', '.join(names)}"
        )
    rates: defaultdict[str, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as out:
        for turn in range(chosen.repeats):
            for name in dict.fromkeys([PLAIN, *(chosen.names or names)]):
                rates[name].append(rate(name, chosen.rounds, Path(out, f"{name}-{turn}")))
    print("| configuration | clients/s | of fedavg |\n|---|---:|---:|")
    for name, values in rates.items():
        share = median(a / b for a, b in zip(values, rates[PLAIN], strict=True))
        print(f"| {name} | {median(values):,.0f} | {share:.2f} |")


if __name__ == "__main__":
    main()
