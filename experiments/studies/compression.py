"""What compressed updates cost and save: NDCG@10 against bytes per client.

    FEDREC_DATA=DATA python experiments/studies/compression.py OUT [--jobs 2]

Runs matrix factorisation with the settings of ``experiments/ml-100k/mf.yaml``, on MovieLens-100K
and filmtrust, three seeds, once for each way in which clients send their updates. A run whose
folder holds the same experiment, finished, is not run again. Prints a table of both: bytes that
a client sends in a round, in total and as a share of float32; NDCG@10 on test at the round that
validation chose; and the difference to float32, paired over users and averaged over the seeds,
with its 95 % interval.
"""

import argparse
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import mean, stdev
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[2]))

import pandas as pd

from experiments.studies.tables import markdown
from experiments.tune import one
from fedrec import load
from fedrec.report.tables import interval

CONFIG = str(Path(__file__).parents[1] / "ml-100k" / "mf.yaml")
SEEDS = (0, 1, 2)
DATA = {
    "ml-100k": (),
    "filmtrust": (
        "data={name: csv, path: '${FEDREC_DATA}/filmtrust/ratings.txt.gz', separator: ' ', "
        "header: false, columns: {user: 0, item: 1, rating: 2}, duplicates: last, "
        "short_users: drop, split: {name: leave_one_out, seed: 0}}",
    ),
}
WAYS = {
    "float32": "[]",
    "float16": "[float16]",
    "int8": "[int8]",
    "top-k, 25 %": "[{name: top_k, share: 0.25}]",
    "top-k, 10 %": "[{name: top_k, share: 0.1}]",
    "top-k, 10 %, no feedback": "[{name: top_k, share: 0.1, error_feedback: false}]",
    "top-k, 10 %, int8": "[{name: top_k, share: 0.1}, int8]",
    "low rank 32": "[{name: low_rank, rank: 32}]",
    "low rank 8": "[{name: low_rank, rank: 8}]",
    "low rank 8, int8": "[{name: low_rank, rank: 8}, int8]",
}


def folder(out: Path, data: str, way: str) -> Path:
    """Return where the runs of one way on one data set are kept."""
    return out / data / way.replace(" ", "").replace("%", "").replace(",", "-")


def users(out: Path, data: str, way: str) -> "pd.Series[float]":
    """Return the NDCG@10 of each user, averaged over the seeds."""
    runs = sorted(path.parent for path in folder(out, data, way).glob("*/result.json"))
    columns = [load(run).per_user().set_index("user")["test.ndcg@10"] for run in runs]
    return pd.concat(columns, axis=1).mean(axis=1)


def main() -> None:
    """Run what was not run yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--set", action="append", default=[], dest="sets", metavar="key=value")
    chosen = parser.parse_args()
    results: dict[tuple[str, str], list[dict[str, Any]]] = {}
    with ProcessPoolExecutor(chosen.jobs) as pool:
        futures = {
            (data, way, seed): pool.submit(
                one,
                CONFIG,
                (*sets, f"transforms={transforms}", *chosen.sets),
                seed,
                str(folder(chosen.out, data, way)),
            )
            for data, sets in DATA.items()
            for way, transforms in WAYS.items()
            for seed in SEEDS
        }
        for (data, way, seed), future in futures.items():
            result = future.result()
            results.setdefault((data, way), []).append(result)
            print(data, way, seed, result["status"], flush=True)
    for data in DATA:
        plain, rows = mean(r["bytes_per_client"]["up"] for r in results[data, "float32"]), []
        for way in WAYS:
            runs = results[data, way]
            scores = [run["metrics"]["test"]["ndcg@10"] for run in runs]
            sent = mean(run["bytes_per_client"]["up"] for run in runs)
            row = {"Updates": way, "Up per client": f"{sent:,.0f}", "Share": f"{sent / plain:.3f}"}
            row["Best rounds"] = ", ".join(str(run["best_round"]) for run in runs)
            row["NDCG@10"] = f"{mean(scores):.4f} ± {stdev(scores):.4f}"
            if way != "float32":
                difference = users(chosen.out, data, way) - users(chosen.out, data, "float32")
                middle, low, high = interval(difference)
                row["Difference"] = f"{middle:+.4f} [{low:+.4f}, {high:+.4f}]"
            rows.append(row)
        print(f"\n{data}\n{markdown(pd.DataFrame(rows))}")


if __name__ == "__main__":
    main()
