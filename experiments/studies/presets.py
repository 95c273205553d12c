"""Every strategy on MovieLens-100K: six trials each on validation, three seeds of the best.

    FEDREC_DATA=DATA python experiments/studies/presets.py OUT [NAME ...] [--jobs 2]

Takes the configurations of ``experiments/ml-100k/strategies/``, or those that are named. A trial,
with seed 0, sets how far a round steps and how many negatives there are for each positive. The
best on validation is taken, of those whose best round lies before the last tenth of the rounds. A
run whose folder holds the same experiment, finished, is not run again; a trial that diverges is
left out. Prints the settings that were chosen, and a table of means and deviations over the seeds.
"""

import argparse
import itertools
import os
import sys
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from statistics import mean, stdev
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[2]))

import pandas as pd

from experiments.studies.tables import markdown
from experiments.tune import one
from fedrec.errors import FedRecError

FOLDER = Path(__file__).parents[1] / "ml-100k" / "strategies"
SEEDS = (0, 1, 2)
NEGATIVES = (1, 4)
SERVER, ITEM = "strategy.server_optimizer.lr", "train.optimizers.item.lr"
STEPS = {
    "fedavg": (SERVER, (20.0, 80.0, 240.0)),
    "fedavgm": (SERVER, (2.0, 8.0, 24.0)),
    "fedadam": (SERVER, (0.003, 0.01, 0.03)),
    "fedyogi": (SERVER, (0.003, 0.01, 0.03)),
    "fedadagrad": (SERVER, (0.03, 0.1, 0.3)),
    "fedprox": (SERVER, (10.0, 40.0, 120.0)),
    "scaffold": (SERVER, (40.0, 120.0, 360.0)),
    "feddyn": (SERVER, (40.0, 120.0, 360.0)),
    "fednova": (SERVER, (40.0, 120.0, 360.0)),
    "clustered": ("strategy.server_lr", (20.0, 80.0, 240.0)),
    "gpfedrec": (ITEM, (0.3, 1.0, 3.0)),
    "flower-fedadam": ("strategy.options.eta", (0.003, 0.01, 0.03)),
    "flower-fedtrimmedavg": (ITEM, (0.1, 1.0, 10.0)),
    "flower-krum": (ITEM, (0.1, 1.0, 10.0)),
}
OTHERS = (SERVER, (80.0, 240.0, 720.0))
METRICS = ("ndcg@10", "hit_rate@10", "recall@20", "mrr", "coverage@10", "gini@10")

Trial = tuple[str, ...]


def trials_of(name: str) -> list[Trial]:
    """Return the settings that are tried for a configuration."""
    key, steps = STEPS.get(name, OTHERS)
    pairs = itertools.product(steps, NEGATIVES)
    return [(f"{key}={step}", f"train.negatives={negatives}") for step, negatives in pairs]


def is_early(result: dict[str, Any]) -> bool:
    """Return whether a run ended, with its best round before the last tenth of the rounds."""
    return "metrics" in result and result["best_round"] <= 0.9 * result["rounds"]


def chosen(trials: dict[Trial, Future[dict[str, Any]]]) -> Trial:
    """Return the best trial on validation."""
    results = {trial: future.result() for trial, future in trials.items()}
    early = [trial for trial, result in results.items() if is_early(result)]
    if not early:
        raise FedRecError(f"no trial had its best round early: {', '.join(map(' '.join, results))}")
    return max(early, key=lambda trial: results[trial]["metrics"]["valid"]["ndcg@10"])


def row(name: str, trial: Trial, runs: list[dict[str, Any]]) -> dict[str, str]:
    """Return a row of the table."""
    settings = ", ".join(each.split(".", each.partition("=")[0].count("."))[-1] for each in trial)
    valid = mean(run["metrics"]["valid"]["ndcg@10"] for run in runs)
    cells = {"Configuration": name, "Chosen": settings}
    cells["Best rounds"] = ", ".join(str(run["best_round"]) for run in runs)
    cells["Valid NDCG@10"] = f"{valid:.4f}"
    for metric in METRICS:
        values = [run["metrics"]["test"][metric] for run in runs]
        cells[metric] = f"{mean(values):.4f} ± {stdev(values):.4f}"
    return cells


def main() -> None:
    """Run what was not run yet, and print the settings and the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("names", nargs="*", default=sorted(path.stem for path in FOLDER.iterdir()))
    parser.add_argument("--jobs", type=int, default=1)
    given = parser.parse_args()
    with ProcessPoolExecutor(given.jobs) as pool:

        def run(name: str, trial: Trial, seed: int) -> Future[dict[str, Any]]:
            return pool.submit(one, f"{FOLDER / name}.yaml", trial, seed, str(given.out / name))

        trials = {name: {t: run(name, t, 0) for t in trials_of(name)} for name in given.names}
        best: dict[str, Trial] = {}
        for name, futures in trials.items():
            best[name] = chosen(futures)
            print(name, *best[name], flush=True)
        runs = {name: [run(name, best[name], seed) for seed in SEEDS] for name in given.names}
        rows = [row(name, best[name], [f.result() for f in runs[name]]) for name in given.names]
    print(markdown(pd.DataFrame(rows)))


if __name__ == "__main__":
    try:
        main()
    except FedRecError as error:
        sys.exit(f"error: {error}")
