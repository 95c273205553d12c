"""SmolLM2-135M with federated adapters on MovieLens-1M, beside three that rank the same candidates.

    FEDREC_DATA=DATA python experiments/studies/language.py OUT

Runs ``experiments/ml-1m/llm-lora.yaml``; after each round it notes the memory of the process, the
bytes sent, and the loss on a validation item and a random item of each of 64 users. Then it lets
the untuned model, popularity and matrix factorisation rank the same 20 candidates of the same
users, and compares them by paired differences. About 40 minutes on one core.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import json
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
import psutil
import torch
from torch.func import functional_call

import fedrec
from fedrec.config.experiment import Experiment, load_experiment
from fedrec.data.catalogue import Catalogue
from fedrec.data.history import latest
from fedrec.data.prepare import open_split, prepare
from fedrec.report.tables import interval
from fedrec.runs.log import RoundRecord, read_checkpoint
from fedrec.training.task import ClientTask
from fedrec.types import IntArray, Params, Split

CONFIG = Path(__file__).parents[1] / "ml-1m" / "llm-lora.yaml"
UNTUNED = {"rounds.count": 1, "rounds.cohort_size": 1, "train.optimizers.shared.lr": 1e-30}
MF = {"model": "mf", "strategy": "fedadam"}
USERS = 64


def held_out_pairs(split: Split, users: int) -> tuple[IntArray, IntArray]:
    """Return user rows, and a validation item and an item they do not know of each, [u, 2]."""
    rng = np.random.default_rng(0)
    shard = split.shard(np.arange(split.n_clients))
    rows, items = np.flatnonzero(shard.valid.lengths > 0)[:users], []
    for row in rows:
        parts = (shard.train, shard.valid, shard.test)
        items_of_user = np.concatenate([part.row(row) for part in parts])
        others = np.setdiff1d(np.arange(split.n_items), items_of_user)
        items.append([rng.choice(shard.valid.row(row)), rng.choice(others)])
    return rows, np.array(items)


def validation_loss(task: ClientTask, split: Split, params: Params) -> float:
    """Return the mean binary cross-entropy of `held_out_pairs` from the latest train items."""
    assert task.network is not None and task.model.window is not None
    values = {name: torch.as_tensor(value) for name, value in params.items()}
    shard = split.shard(np.arange(split.n_clients))
    histories, losses = latest(shard, task.model.window - 1), []
    with torch.no_grad():
        for row, items in zip(*held_out_pairs(split, USERS), strict=True):
            past = torch.as_tensor(shard.train.values[histories.row(row)])[None]
            none = torch.zeros(2, dtype=torch.int64)
            inputs = past, none, none + past.shape[1], torch.as_tensor(items)
            odds = functional_call(task.network.module, values, inputs)
            losses.append(torch.nn.functional.softplus(torch.stack([-odds[0], odds[1]])).mean())
    return float(torch.stack(losses).mean())


def tuned(experiment: Experiment, out: Path) -> dict[str, Any]:
    """Run the experiment; return what was noted after each round."""
    split = open_split(prepare(experiment.data, experiment.clients))
    task = experiment.client_task(Catalogue.of(split))
    process, curve = psutil.Process(), []

    def note(params: Params, record: RoundRecord) -> None:
        seconds, memory = time.process_time(), process.memory_info().rss / 2**20
        curve.append(
            {
                "round": record.round,
                "validation_loss": round(validation_loss(task, split, params), 4),
                "train_loss": None if record.loss is None else round(record.loss, 4),
                "rss_mib": round(memory),
                "bytes_up_per_client": record.bytes.up // max(record.clients, 1),
                "cpu_seconds": round(seconds),
            }
        )
        print(curve[-1], flush=True)

    def on_round(record: RoundRecord) -> None:
        checkpoint = read_checkpoint(out)
        assert checkpoint is not None and checkpoint.record.round == record.round
        note(checkpoint.params, record)

    note(task.initial_globals(split.n_items), RoundRecord(round=0, clients=0))
    fedrec.run(experiment, out=out, on_round=on_round)
    return {"adapter_numbers": task.size(*task.dense()), "curve": curve}


def main() -> None:
    """Run all, write what was noted, and print the comparison."""
    torch.set_num_threads(1)
    out = Path(sys.argv[1])
    experiment = load_experiment(CONFIG, {"engine.name": "serial"})
    result = tuned(experiment, out / "lora")
    fedrec.run(load_experiment(experiment, UNTUNED), out=out / "untuned")
    document = {name: getattr(experiment, name) for name in ("seed", "data", "evaluate")}
    fedrec.run({**document, "model": "popularity"}, out=out / "popularity")
    evaluate = experiment.evaluate.model_copy(update={"every": 20})
    fedrec.run({**document, "evaluate": evaluate, **MF}, out=out / "mf")
    runs = {name: fedrec.load(out / name) for name in ("lora", "untuned", "popularity", "mf")}
    columns = [f"test.{metric}" for metric in experiment.evaluate.metrics]
    users = {name: run.per_user()[columns].dropna() for name, run in runs.items()}
    result["users"] = len(users["lora"])
    result["test"] = {name: each.mean().round(4).to_dict() for name, each in users.items()}
    result["tuned minus other: mean, 95 % interval"] = {
        f"{name}, {column}": [round(v, 4) for v in interval((users["lora"] - each)[column])]
        for name, each in users.items()
        for column in columns
        if name != "lora"
    }
    (out / "study.json").write_text(json.dumps(result, indent=2))
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
