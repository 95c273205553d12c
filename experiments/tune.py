"""Tune an experiment on validation: every combination of some settings, then the winner's test.

Each combination is an ordinary run on the serial engine, several at a time, one process each. The
table shows validation alone; the test values of the best combination come last.

Run::

    python experiments/tune.py experiments/ml-100k/mf.yaml --grid train.weight_decay=0.1,0.2 \
        --grid strategy.server_optimizer.lr=0.005,0.01 --seeds 0 --jobs 2 --out tuning/mf

A combination whose folder holds the same experiment, finished, is not run again. One that diverges
is left out.
"""

import argparse
import hashlib
import itertools
import json
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import mean
from typing import Any

from fedrec import load_experiment, run
from fedrec.config.experiment import Experiment, recorded_experiment
from fedrec.config.yaml import parse_yaml
from fedrec.errors import ConfigError, FedRecError, NumericError
from fedrec.runs.folder import FINISHED

LONGEST_NAME = 150
"""Of a run folder; file systems take 255 bytes."""


def combinations(grid: Sequence[str]) -> list[tuple[str, ...]]:
    """Every combination of ``key=a,b,c`` entries, as overrides for `load_experiment`."""
    choices = []
    for entry in grid:
        key, equals, values = entry.partition("=")
        if not equals:
            raise ConfigError(f"--grid {entry}: expected dotted.key=value,value")
        parsed = [v if isinstance(v, str) else json.dumps(v) for v in parse_yaml(f"[{values}]")]
        choices.append([f"{key}={value}" for value in parsed])
    return list(itertools.product(*choices))


def one(config: str, sets: tuple[str, ...], seed: int, out: str) -> dict[str, Any]:
    """Run one combination with one seed, or read it if it was run."""
    os.environ["OMP_NUM_THREADS"] = "1"
    # No folder, and no variable that is expanded where a run is written.
    named = (each.replace("/", "-").replace("$", "") for each in sets)
    name = "_".join([*named, f"seed={seed}"])
    if len(name) > LONGEST_NAME:
        name = f"{name[:LONGEST_NAME]}_{hashlib.sha256(name.encode()).hexdigest()[:12]}"
    folder = Path(out) / name
    experiment = load_experiment(config, [*sets, f"seed={seed}", "engine.name=serial"])
    if not _is_done(folder, experiment):
        try:
            run(experiment, out=folder, overwrite=True)
        except NumericError as error:  # the table says so; the other combinations go on
            return {"status": f"diverged: {error}"}
    result: dict[str, Any] = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    return result


def _is_done(folder: Path, experiment: Experiment) -> bool:
    """Return whether the folder holds the finished run of this very experiment."""
    if not (folder / "result.json").exists():
        return False
    same = recorded_experiment(folder / "config.yaml").to_yaml() == experiment.to_yaml()
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    return same and result["status"] in FINISHED


def main() -> None:
    """Tune, print the table, write ``tuning.json``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config")
    parser.add_argument("--grid", action="append", default=[], metavar="key=a,b")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--out", help="default: tuning/ and the name of the configuration")
    chosen = parser.parse_args()
    chosen.out = chosen.out or f"tuning/{Path(chosen.config).stem}"
    settings = combinations(chosen.grid)
    load_experiment(chosen.config, settings[0])
    metric = load_experiment(chosen.config).evaluate.chooser
    tasks = [(sets, seed) for sets in settings for seed in chosen.seeds]
    rows: dict[tuple[str, ...], list[dict[str, Any]]] = {sets: [] for sets in settings}
    with ProcessPoolExecutor(chosen.jobs) as pool:
        futures = [pool.submit(one, chosen.config, *task, chosen.out) for task in tasks]
        for (sets, seed), future in zip(tasks, futures, strict=True):
            result = future.result()
            rows[sets].append(result)
            if "metrics" not in result:
                print(f"{' '.join(sets)} seed {seed}: {result['status']}", flush=True)
                continue
            valid = result["metrics"]["valid"][metric]
            print(
                f"{' '.join(sets)} seed {seed}: valid {metric} {valid:.4f}, round "
                f"{result['best_round']} of {result['rounds']}, {result['seconds']['total']:.0f} s",
                flush=True,
            )
    finished = [sets for sets in settings if all("metrics" in run for run in rows[sets])]
    if not finished:
        raise FedRecError("every combination diverged; lower the rates")
    scores = {sets: mean(r["metrics"]["valid"][metric] for r in rows[sets]) for sets in finished}
    best = max(scores, key=lambda sets: scores[sets])
    test = mean(result["metrics"]["test"][metric] for result in rows[best])
    print(f"best on validation: {' '.join(best)}: valid {scores[best]:.4f}, test {test:.4f}")
    table = [{"settings": sets, "valid": scores.get(sets), "runs": rows[sets]} for sets in settings]
    Path(chosen.out, "tuning.json").write_text(json.dumps(table, indent=1), encoding="utf-8")


if __name__ == "__main__":
    try:
        main()
    except FedRecError as error:
        sys.exit(f"error: {error}")
