"""Clients per CPU second of the generic training path, beside bare arithmetic and deep copies.

    FEDREC_DATA=DATA python experiments/benchmarks/executors.py --json executors.json

Per model and schedule, on clients of ml-100k in one thread: fedrec (draws, training and exact
sums), the bare arithmetic on prepared indices with each client's own gradient (the fastest of a
loop over touched rows, a flat computation and one batched computation per step), and one
deep-copied module per client. All candidates take turns; the best time of each counts.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
import torch
from pydantic import Field

from experiments.benchmarks import bare
from experiments.benchmarks.workload import workload
from fedrec.aggregation.reduce import Summing, reduce_sums
from fedrec.compute.operations import row_dot
from fedrec.data.catalogue import Catalogue
from fedrec.models.base import Batch, Model
from fedrec.models.module import ModelParams
from fedrec.models.multimodal import VBPR, LIRDRec, MetaMMF
from fedrec.models.multimodal.base import Multimodal
from fedrec.models.multimodal.sphere import unit
from fedrec.models.neumf import NeuMF
from fedrec.models.sasrec import SASRec
from fedrec.personalization.plgc.plgc import PLGC
from fedrec.training.clients import train_clients
from fedrec.training.draws import Layout
from fedrec.training.initial_values import initial_local
from fedrec.training.plan import plan_training
from fedrec.training.task import ClientTask
from fedrec.types import IntArray, ParamSpec, Shard, Split


class GMF(Model):
    """Generalised matrix factorisation: a shared weight per dimension of the product."""

    execution: ClassVar[Literal["flat", "vmap", "loop"]] = "flat"

    embedding_dim: int = Field(32, ge=1)

    def params(self, catalogue: Catalogue) -> Mapping[str, ParamSpec]:
        d = (self.embedding_dim,)
        return {
            "item": ParamSpec("shared", "item", d, init_std=0.01),
            "user": ParamSpec("private", "user", d, init_std=0.01),
            "weight": ParamSpec("shared", None, d, init_value=1.0),
            "bias": ParamSpec("shared", None, ()),
        }

    def score(self, params: ModelParams, batch: Batch, vectors: torch.Tensor) -> torch.Tensor:
        return row_dot(params["weight"] * params["user"], vectors) + params["bias"]


class LoopNeuMF(NeuMF):
    """NeuMF, one client at a time."""

    execution = "loop"  # type: ignore[assignment]


CASES: Mapping[str, tuple[str, str]] = {
    "gmf": ("experiments.benchmarks.executors:GMF", "none"),
    "neumf": ("neumf", "none"),
    "sasrec": ("sasrec", "none"),
    "neumf-plgc": ("neumf", "plgc"),
    "neumf-loop": ("experiments.benchmarks.executors:LoopNeuMF", "none"),
    "vbpr": ("vbpr", "none"),
    "metammf": ("metammf", "none"),
    "lirdrec": ("lirdrec", "none"),
}
SCHEDULES: Mapping[str, Mapping[str, Any]] = {
    "full": {"local_epochs": 1, "batch_size": "full"},
    "5x64": {"local_epochs": 5, "batch_size": 64},
}


def _linear(w: Mapping[str, torch.Tensor], name: str, x: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.linear(x, w[f"{name}_weight"], w[f"{name}_bias"])


def _norm(w: Mapping[str, torch.Tensor], name: str, x: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.layer_norm(x, x.shape[-1:], w[f"{name}_weight"], w[f"{name}_bias"])


def _states(w: Mapping[str, torch.Tensor], vectors: torch.Tensor, blocks: int) -> torch.Tensor:
    """Return SASRec's states of one history with one head, [h, d] -> [h + 1, d]."""
    x = torch.cat([w["start"].unsqueeze(0), vectors])[: len(w["positions"])]
    x = x + w["positions"][: len(x)]
    later = torch.ones(len(x), len(x), dtype=torch.bool).triu(1)
    for block in range(blocks):
        q, k, v = _linear(w, f"{block}_query_key_value", _norm(w, f"{block}_norm1", x)).chunk(3, 1)
        weights = (q @ k.T * q.shape[1] ** -0.5).masked_fill(later, -torch.inf)
        x = x + _linear(w, f"{block}_mix", weights.softmax(1) @ v)
        hidden = torch.relu(_linear(w, f"{block}_ffn_0", _norm(w, f"{block}_norm2", x)))
        x = x + _linear(w, f"{block}_ffn_2", hidden)
    return _norm(w, str(blocks), x)


def network_of(task: ClientTask, shard: Shard) -> bare.Network:
    """Return the model of a task as plain arithmetic, with its initial values."""
    model, content = task.model, None
    params = {n: torch.tensor(v) for n, v in task.initial_globals(shard.n_items).items()}
    tables = [params.pop(name).reshape(shard.n_items, -1) for name in task.tables()]
    weights = {name.replace(".", "_"): value for name, value in params.items()}
    users = [
        torch.from_numpy(initial_local(0, name, spec, shard.user_ids)).reshape(shard.n_users, -1)
        for name, spec in task.specs().items()
        if spec.axis == "user"
    ]
    if isinstance(model, Multimodal):
        content = torch.cat([task.frozen_tables[name] for name in model.modalities], 1)

    def scores(
        w: Mapping[str, torch.Tensor],
        user: torch.Tensor,
        rows: torch.Tensor,
        inputs: Mapping[str, torch.Tensor],
    ) -> torch.Tensor:
        if isinstance(model, SASRec):
            history = inputs["history"]
            states = _states(w, rows[history], model.blocks)[: len(history)]
            return (states.unsqueeze(1) * rows[inputs["asked"]]).sum(-1)
        if isinstance(model, GMF):
            return (w["weight"] * user * rows).sum(-1) + w["bias"]
        if isinstance(model, VBPR):
            x, d = inputs["content"], model.embedding_dim
            projection = torch.cat([w["maps_0_weight"], w["maps_1_weight"]], 1)
            vectors = torch.cat([rows[:, :d], x @ projection.T], 1)
            shared = torch.nn.functional.pad(w["content_bias"], (d, 0))
            return vectors @ (user[:-1] + shared) + rows[:, d] + user[-1]
        if isinstance(model, MetaMMF):
            h = inputs["content"]
            z = _linear(w, "meta", h)
            for number in range(len(model.layers) + 1):
                static, a, b, c = (w[f"layers_{number}_{n}"] for n in ("static", "a", "b", "c"))
                h = torch.nn.functional.leaky_relu(h @ static + ((h @ a) * (z @ c.T)) @ b)
            return torch.cat([rows, h], 1) @ user
        if isinstance(model, LIRDRec):
            x, blocks = inputs["content"], len(model.modalities) + 1
            of_blocks = []
            for number, part in enumerate([*x.chunk(len(model.modalities), 1), x]):
                hidden = torch.nn.functional.leaky_relu(_linear(w, f"encoders_{number}_0", part))
                of_blocks.append(unit(_linear(w, f"encoders_{number}_2", hidden)))
            users = user[:-blocks].reshape(blocks, -1)
            general = torch.einsum("bd,bdh->bh", users, w["general_first"])
            general = (torch.nn.functional.leaky_relu(general) * w["general_last"]).sum(-1)
            shares = (general + user[-blocks:]).softmax(-1)
            return torch.cat(of_blocks, 1) @ (shares.unsqueeze(-1) * users).flatten()
        assert isinstance(model, NeuMF)
        d = model.embedding_dim
        x = torch.cat([user[d:].expand(len(rows), d), rows[:, d:]], 1)
        for number in range(len(model.layers)):
            x = torch.relu(_linear(w, f"tower_{2 * number}", x))
        return _linear(w, "last", torch.cat([user[:d] * rows[:, :d], x], 1)).squeeze(1)

    none = torch.zeros(shard.n_items, 0)
    joined = torch.cat([*tables, none], 1), torch.cat(users or [torch.zeros(shard.n_users, 1)], 1)
    return bare.Network(scores, weights, *joined, isinstance(model, SASRec), content)


def clients_of(task: ClientTask, shard: Shard) -> tuple[list[bare.Client], list[list[IntArray]]]:
    """Return the clients' rounds on prepared indices, and the items of each step as drawn."""
    clients, drawn = [], []
    for number in range(shard.n_clients):
        alone = shard.take(np.array([number]))
        plan = plan_training(task, alone, 1)
        steps, items_of = [], []
        for epoch in plan.epochs:
            draws = epoch.draws
            for at, step in enumerate(epoch.steps):
                of_step = draws.step == at
                items_of.append(
                    np.concatenate([draws.items[of_step], draws.negatives[of_step].ravel()])
                )
                history = asked = torch.zeros(0, dtype=torch.int64)
                positive, negative = step.is_positive, step.n_negative
                if step.scored is not None:
                    assert step.pairs.history is not None and step.context is not None
                    scored = step.scored.reshape(int(of_step.sum()), -1)
                    order = torch.argsort(step.context.reshape(scored.shape)[:, 0])
                    asked = scored[order]
                    history = torch.from_numpy(step.pairs.history.rows.row(0))
                    positive = positive.reshape(scored.shape)[order]
                    negative = negative.reshape(scored.shape)[order]
                    if len(order) < len(history):  # A part of the window: the others ask nothing.
                        places = step.context.reshape(scored.shape)[:, 0][order]
                        wide = torch.zeros(len(history), scored.shape[1], dtype=torch.int64)
                        wide[places], asked = asked, wide
                        ones, zeros = torch.zeros(wide.shape), torch.zeros(wide.shape)
                        ones[places], zeros[places] = positive, negative
                        positive, negative = ones, zeros
                steps.append(
                    bare.Step(step.local_rows, step.pairs.items, positive, negative, history, asked)
                )
        touched = torch.from_numpy(plan.rows.values)
        clients.append(bare.Client(touched, torch.from_numpy(alone.train.values), steps))
        drawn.append(items_of)
    return clients, drawn


def catalogue_of(split: Split) -> Catalogue:
    """Return the items with features of two kinds, drawn at random: what counts is their size."""
    rng = np.random.default_rng(0)
    rows = {name: rng.normal(size=(split.n_items, 64)) for name in ("text", "image")}
    norms = {name: np.linalg.norm(values, axis=1, keepdims=True) for name, values in rows.items()}
    features = {name: (values / norms[name]).astype(np.float32) for name, values in rows.items()}
    return Catalogue.of(split, features)


def measure(case: str, schedule: str, n_clients: int, repeats: int) -> dict[str, Any]:
    """Return clients per CPU second of every candidate."""
    model, personalization = CASES[case]
    name = {"name": model, "embedding_dim": 32}
    rates = {"item": {"lr": bare.RATE}, "shared": {"lr": bare.RATE}}
    train = {
        **SCHEDULES[schedule],
        "backend": "torch",
        "weight_decay": 0.0,
        "optimizers": rates,
    }
    work = workload("ml-100k", personalization, clients=n_clients, model=name, train=train)
    split = work.split
    task = work.experiment.client_task(catalogue_of(split))
    shard = split.shard(np.arange(split.n_clients, dtype=np.int64))
    if task.executor() == "vmap":  # A node trains such clients by length.
        shard = shard.take(np.argsort(-shard.examples(), kind="stable"))
    owners = Layout.of(task, shard).owner_ids()
    params = task.initial_globals(shard.n_items)
    local = {
        name: initial_local(0, name, spec, owners[str(spec.axis)])
        for name, spec in task.stored_specs().items()
    }
    net = network_of(task, shard)
    clients, drawn = clients_of(task, shard)
    plgc = None
    if isinstance(task.personalization, PLGC):
        unit_items = task.personalization.unit_item_vectors(net.table)
        assert unit_items is not None
        plgc = bare.Plgc(unit_items, task.personalization.tau, task.personalization.decorrelation)

    chunk = work.experiment.engine.clients_together("cpu")

    def fedrec() -> None:
        update, _ = train_clients(task, shard, params, local, 1, chunk)
        reduce_sums(update, Summing())

    candidates: dict[str, Callable[[], object]] = {
        "fedrec": fedrec,
        "loop": lambda: bare.loop(net, clients, plgc),
        "batched": lambda: bare.batched(net, clients, plgc),
        "deep copies": lambda: bare.deep_copies(net, clients, drawn, plgc),
    }
    if case == "gmf" and schedule == "full":
        candidates["flat"] = lambda: bare.flat(net, clients)
    best = dict.fromkeys(candidates, float("inf"))
    for _ in range(repeats):
        for label, run in candidates.items():
            began = time.process_time()
            run()
            best[label] = min(best[label], time.process_time() - began)
    speed = {label: round(shard.n_clients / seconds, 1) for label, seconds in best.items()}
    names = ["loop"] if case == "neumf-loop" else ["loop", "batched", "flat"]
    fastest = max(names, key=lambda label: speed.get(label, 0.0))
    return {
        "model": case,
        "schedule": schedule,
        "clients": shard.n_clients,
        "clients_per_cpu_second": speed,
        "bare": fastest,
        "of_bare": round(speed["fedrec"] / speed[fastest], 3),
        "of_deep_copies": round(speed["fedrec"] / speed["deep copies"], 2),
    }


def main() -> None:
    """Measure, print a table and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--clients", type=int, default=128, help="of ml-100k, of all lengths")
    parser.add_argument("--repeats", type=int, default=5, help="turns of every candidate")
    parser.add_argument("--case", choices=CASES, action="append", help="default: all")
    parser.add_argument("--schedule", choices=SCHEDULES, action="append", help="default: both")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    given = parser.parse_args()
    torch.set_num_threads(1)
    sys.modules.setdefault("experiments.benchmarks.executors", sys.modules["__main__"])
    head = f"{'model':<12}{'steps':<7}{'fedrec':>9}{'bare':>9}  {'which':<9}{'copies':>8}"
    print(f"{head}{'/bare':>8}{'/copies':>9}   clients per CPU second")
    rows = []
    for case in given.case or CASES:
        for schedule in given.schedule or SCHEDULES:
            row = measure(case, schedule, given.clients, given.repeats)
            speed = row["clients_per_cpu_second"]
            print(
                f"{case:<12}{schedule:<7}{speed['fedrec']:>9.0f}{speed[row['bare']]:>9.0f}  "
                f"{row['bare']:<9}{speed['deep copies']:>8.0f}{row['of_bare']:>8.2f}"
                f"{row['of_deep_copies']:>9.2f}",
                flush=True,
            )
            rows.append(row)
    if given.json:
        given.json.write_text(json.dumps({"torch": torch.__version__, "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
