"""Attacks against defences on MovieLens-100K: exposure of the targets and NDCG@10.

    FEDREC_DATA=DATA python experiments/studies/attacks.py OUT [--jobs 2]

Matrix factorisation of 32 dimensions, all clients in each of 60 rounds, 10 % attackers, five
unpopular targets drawn anew with each of six seeds. First each defence gets the same number of
trials without attack (step size of the server x negatives per positive, seed 0), of which the best
on validation is taken. Then every attack meets every defence. A run whose folder holds the same
experiment, finished, is not run again; one that diverges is reported as such.

The tables give means over the seeds at the last round, over honest users. A difference is that to
the same defence without attack, over the users that both measure, one number for each seed; its
interval is Student's over the six seeds, and a star says that it is not 0 by Holm's procedure over
all cells of both tables at the level .05.
"""

import argparse
import itertools
import json
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
import pandas as pd
from scipy.stats import t as student

from experiments.studies.tables import markdown
from experiments.tune import one
from fedrec import load
from fedrec.config.experiment import load_experiment
from fedrec.data.prepare import split_of

CONFIG = str(Path(__file__).parents[1] / "ml-100k" / "strategies" / "fedavg.yaml")
SEEDS = range(6)
BASE = (
    "rounds.count=60",
    "rounds.patience=null",
    "evaluate.every=60",
    "evaluate.metrics=[ndcg@10, er@10]",
)
DEFENCES = {
    "mean": "fedavg",
    "median": "median",
    "trimmed mean": "{name: trimmed_mean, aggregation: {trim: 0.2}}",
    "Krum": "{name: krum, aggregation: {byzantine: 30}}",
    "geometric median": "rfa",
    "norm-bounded": "norm_bounded",
    "centred clipping": "centred_clipping",
}
TRIALS: list[tuple[str, ...]] = [
    (f"strategy.server_optimizer.lr={lr}", f"train.negatives={negatives}")
    for lr, negatives in itertools.product((20, 80, 240), (1, 4))
]
ATTACKS = {
    "none": "[]",
    "label flip": "[label_flip]",
    "sign flip": "[sign_flip]",
    "scaling": "[scaling]",
    "Gaussian": "[gaussian_attack]",
    "ALIE": "[alie]",
    "IPM": "[ipm]",
    "random shilling": "[random_shilling]",
    "popular shilling": "[popular_shilling]",
    "PipAttack": "[pipattack]",
    "FedRecAttack": "[fedrecattack]",
    "UA-FedRec": "[ua_fedrec]",
}
METRICS = ("er@10", "ndcg@10")


def targets_of(seed: int) -> str:
    """Return the setting of five unpopular targets: the same with and without attack."""
    experiment = load_experiment(CONFIG, ["evaluate.targets={choose: unpopular, count: 5}"])
    split = split_of(experiment.data, experiment.clients)
    items = split.item_ids[experiment.evaluate.targets_of(split, seed)].tolist()
    return f"evaluate.targets={json.dumps(items)}"


def tuned(out: Path, pool: ProcessPoolExecutor) -> dict[str, tuple[str, ...]]:
    """Return the settings of each defence that validation chose without attack."""
    futures = {
        (name, trial): pool.submit(
            one,
            CONFIG,
            (f"strategy={strategy}", *trial, *BASE, targets_of(0)),
            0,
            str(out / "tuning" / name),
        )
        for name, strategy in DEFENCES.items()
        for trial in TRIALS
    }
    scores = {key: future.result() for key, future in futures.items()}

    def score(name: str, trial: tuple[str, ...]) -> float:
        result = scores[name, trial]
        return result["metrics"]["valid"]["ndcg@10"] if "metrics" in result else -1.0

    best = {name: max(TRIALS, key=lambda trial: score(name, trial)) for name in DEFENCES}
    for name, trial in best.items():
        print(f"{name}: {' '.join(trial)}: valid NDCG@10 {score(name, trial):.4f}", flush=True)
    return best


def per_user(folder: Path) -> pd.DataFrame:
    """Return the metrics of each honest user, by raw id; empty for a run that diverged."""
    if not (folder / "per_user.parquet").exists():
        return pd.DataFrame(columns=[f"test.{metric}" for metric in METRICS])
    return load(folder).per_user().set_index("user")[[f"test.{metric}" for metric in METRICS]]


def cell(attacked: list[pd.DataFrame], clean: list[pd.DataFrame], metric: str) -> dict[str, Any]:
    """Return mean, difference to the runs without attack, and the p value of the difference."""
    column = f"test.{metric}"
    if any(frame.empty for frame in attacked):
        return {"mean": np.nan, "difference": np.nan, "margin": np.nan, "p": np.nan}
    differences = np.array(
        [(a[column] - c[column]).dropna().mean() for a, c in zip(attacked, clean, strict=True)]
    )
    n, deviation = len(differences), differences.std(ddof=1)
    error = deviation / n**0.5
    p = 1.0 if error == 0 else 2 * student.sf(abs(differences.mean()) / error, n - 1)
    return {
        "mean": float(np.mean([frame[column].mean() for frame in attacked])),
        "difference": float(differences.mean()),
        "margin": float(student.ppf(0.975, n - 1) * error),
        "p": float(p),
    }


def holm(p: "pd.Series[float]", level: float = 0.05) -> "pd.Series[bool]":
    """Return which hypotheses Holm's procedure rejects."""
    in_order = p.sort_values()
    bounds = level / np.arange(len(in_order), 0, -1)
    return pd.Series((in_order <= bounds).cummin(), in_order.index).reindex(p.index)


def text(row: "pd.Series[Any]") -> str:
    """Return what a cell of a table says."""
    if np.isnan(row["mean"]):
        return "diverged"
    difference = f"{row['difference']:+.4f} ± {row['margin']:.4f}"
    return f"{row['mean']:.4f} ({difference})" + "*" * bool(row["star"])


def main() -> None:
    """Run what was not run yet, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--jobs", type=int, default=1)
    chosen = parser.parse_args()
    folders: dict[tuple[str, str], list[Path]] = {}
    targets = {seed: targets_of(seed) for seed in SEEDS}
    with ProcessPoolExecutor(chosen.jobs) as pool:
        best, futures = tuned(chosen.out, pool), []
        for attack, transforms in ATTACKS.items():
            for defence, strategy in DEFENCES.items():
                out = chosen.out / attack.replace(" ", "-") / defence.replace(" ", "-")
                sets = (f"strategy={strategy}", *best[defence], *BASE)
                sets = (*sets, f"transforms={transforms}")
                for seed in SEEDS:
                    of_seed = (*sets, targets[seed])
                    futures.append(pool.submit(one, CONFIG, of_seed, seed, str(out / str(seed))))
                    folders.setdefault((attack, defence), []).append(out / str(seed))
        for number, future in enumerate(futures, start=1):
            future.result()
            print(f"{number} of {len(futures)} runs", flush=True)
    frames = {
        key: [per_user(next(iter(sorted(path.glob("*"))), path)) for path in paths]
        for key, paths in folders.items()
    }
    keys = [(metric, *key) for metric in METRICS for key in frames]
    index = pd.MultiIndex.from_tuples(keys, names=["metric", "attack", "defence"])
    rows = [cell(frames[key[1:]], frames["none", key[2]], key[0]) for key in keys]
    cells = pd.DataFrame(rows, index)
    tested = cells["p"].notna() & (index.get_level_values("attack") != "none")
    cells["star"] = holm(cells.loc[tested, "p"]).reindex(index, fill_value=False)
    for metric in METRICS:
        table = cells.loc[metric].apply(text, axis=1).unstack().loc[list(ATTACKS), list(DEFENCES)]
        print(f"\n{metric}\n{markdown(table.reset_index())}")


if __name__ == "__main__":
    main()
