"""The centralised ceiling: implicit ALS on MovieLens-100K, under fedrec's own split and ranking.

Weighted matrix factorisation (hu2008collaborative) by the package ``implicit``; it sees all train
items in one place, so a federated matrix factorisation is measured against it. Tuned on
validation alone (NDCG@10, mean over ``--tune-seeds``):

1. every combination of factors, regularization and alpha in `GRID`, with 15 iterations;
2. the best five of those with the numbers of iterations in `ITERATIONS`.

The setting with the best validation is then reported on test, over the seeds. Full ranking, train
(and for the test validation) items masked, ties of score against the held-out item.

Run::

    pip install 'fedrec[sim]' implicit
    python experiments/ml-100k/als.py --data-seed 0 --seeds 0 1 2 --out als.json
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from fedrec.baselines.base import Scorer
from fedrec.config.experiment import load_experiment
from fedrec.data.prepare import split_of
from fedrec.errors import FedRecError
from fedrec.evaluation.evaluate import PARTS, Part, evaluate
from fedrec.evaluation.metrics import Metric, parse_metric
from fedrec.types import FloatArray, IntArray, Split

GRID: Mapping[str, Sequence[float]] = {
    "factors": (16, 32, 64, 128),
    "regularization": (0.1, 1.0, 3.0, 6.0, 10.0, 20.0, 50.0, 100.0),
    "alpha": (1.0, 1.5, 2.0, 4.0, 8.0, 16.0),  # at 1 all cells weigh the same; the package's least
}
ITERATIONS = (5, 10, 15, 30, 60)
LABELS = ("ndcg@10", "hit_rate@10", "recall@10", "mrr", "coverage@10", "gini@10")


@dataclass(frozen=True, slots=True)
class Setting:
    """Hyper-parameters of ``implicit.als.AlternatingLeastSquares``."""

    factors: int
    regularization: float
    alpha: float
    iterations: int = 15


def fit(split: Split, setting: Setting, seed: int) -> Scorer:
    """Factorise the train matrix.

    Args:
        split: the data; only ``split.train`` is looked at.
        setting: hyper-parameters.
        seed: of the initial factors.
    """
    from implicit.als import AlternatingLeastSquares
    from scipy.sparse import csr_matrix

    train = split.train
    ones = np.ones(len(train.values), np.float32)
    taken = csr_matrix((ones, train.values, train.offsets), (split.n_users, split.n_items))
    model = AlternatingLeastSquares(
        **asdict(setting), random_state=seed, num_threads=1, use_gpu=False
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # advice on the threads of BLAS
        model.fit(taken, show_progress=False)
    users, items = np.asarray(model.user_factors), np.asarray(model.item_factors)

    def scores(rows: IntArray) -> FloatArray:
        return np.asarray(users[rows] @ items.T)

    return scores


def measure(
    split: Split, scorer: Scorer, metrics: Sequence[Metric]
) -> dict[Part, dict[str, float]]:
    """The metrics on validation and test."""
    shard = split.shard(np.arange(split.n_clients, dtype=np.int64))

    def mixed(rows: IntArray) -> Mapping[Any, FloatArray]:
        return {"mixed": scorer(shard.user_ids[rows])}

    found = evaluate(shard, mixed, metrics, block=256)
    return {part: found.summarise(metrics, "mixed", part) for part in PARTS}


def say(line: str) -> None:
    """One line on the terminal, at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def tune(split: Split, seeds: Sequence[int]) -> list[tuple[float, Setting]]:
    """Validation NDCG@10 of every setting tried, best first."""
    metrics = (parse_metric("ndcg@10"),)
    tried: dict[Setting, float] = {}

    def validate(settings: Sequence[Setting]) -> list[tuple[float, Setting]]:
        for setting in settings:
            if setting not in tried:
                values = [
                    measure(split, fit(split, setting, seed), metrics)["valid"]["ndcg@10"]
                    for seed in seeds
                ]
                tried[setting] = float(np.mean(values))
                say(f"{len(tried):4d}  {tried[setting]:.4f}  {setting}")
        return sorted(((v, s) for s, v in tried.items()), key=lambda pair: -pair[0])

    first = validate(
        [
            Setting(int(factors), regularization, alpha)
            for factors, regularization, alpha in itertools.product(*GRID.values())
        ]
    )
    second = [replace(s, iterations=n) for _, s in first[:5] for n in ITERATIONS]
    return validate(second)


def table(tests: Sequence[Mapping[str, float]]) -> list[str]:
    """One line per metric: mean and standard deviation over the seeds."""
    lines = []
    for label in (label for label in LABELS if label in tests[0]):
        values = np.array([test[label] for test in tests])
        spread = values.std(ddof=1) if len(values) > 1 else 0.0
        lines.append(f"{label:<12} {values.mean():.4f} ± {spread:.4f}")
    return lines


def main(arguments: Sequence[str]) -> int:
    """Tune, test, report; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--data-seed", type=int, default=0, help="seed of the split")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--tune-seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, help="JSON with everything that was tried")
    options = parser.parse_args(arguments)
    try:
        import implicit
    except ImportError:
        sys.stderr.write("als.py needs the package implicit; run: pip install implicit\n")
        return 2
    started = time.perf_counter()
    try:
        data = {"name": "ml-100k", "split": {"name": "leave_one_out", "seed": options.data_seed}}
        experiment = load_experiment({"data": data})
        split = split_of(experiment.data, experiment.clients)
    except FedRecError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    ranked = tune(split, options.tune_seeds)
    best_value, best = ranked[0]
    metrics = tuple(parse_metric(label) for label in LABELS)
    runs = [measure(split, fit(split, best, seed), metrics) for seed in options.seeds]
    say(f"\nbest of {len(ranked)} on validation: {best}, ndcg@10 {best_value:.4f}")
    for part in PARTS:
        say(f"{part}, {len(runs)} seeds")
        for line in table([run[part] for run in runs]):
            say(f"  {line}")
    say(f"{time.perf_counter() - started:.0f} s on {os.cpu_count()} cores")
    if options.out is not None:
        document = {
            "method": "implicit.als.AlternatingLeastSquares",
            "version": implicit.__version__,
            "data_seed": options.data_seed,
            "seeds": options.seeds,
            "best": asdict(best),
            "runs": [{"seed": s, **run} for s, run in zip(options.seeds, runs, strict=True)],
            "tuning": [{"valid_ndcg@10": value, **asdict(s)} for value, s in ranked],
        }
        options.out.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
