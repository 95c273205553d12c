"""How much of compiled training is drawing, gathering and summing: the same done again, alone."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from experiments.benchmarks.workload import Workload
from fedrec.training.clients import resolve_executor, train_clients
from fedrec.training.task import initial_local

__all__ = ["inside_training"]

PART = 256


def inside_training(work: Workload) -> dict[str, float]:
    """Seconds of the machine code in a round by phase: ``sample``, ``gather``, ``reduce``.

    Args:
        work: What is trained, one user per client, on one thread. Nothing is found where it is
            not compiled.
    """
    if resolve_executor(work.task) != "numba":
        return {}
    method, split = work.task, work.split
    drawing, adding = _drawing(), _adding()
    longest = int(split.train.lengths.max(initial=0)) * method.train.negatives
    scratch = np.empty(split.n_items, np.int32), np.empty(longest, np.int32)
    users = np.arange(split.n_users, dtype=np.int64)
    found = {"sample": np.inf, "gather": np.inf, "reduce": np.inf}
    params = method.initial_globals(split.n_items)
    parts = np.array_split(users, max(1, len(users) // PART))
    touched = [_touched(work, part, params) for part in parts]
    d = params["item"].shape[1]
    room = np.zeros((max(len(block.ids) for block in touched), d), np.float32)
    sums = np.zeros((split.n_items, d), np.int64)
    counts = np.zeros((2, split.n_items), np.int64)
    adding(touched[0].offsets, touched[0].ids, room, sums, *counts, np.zeros(d, np.int64))
    for number in range(1, 4):
        began = time.perf_counter()
        drawing(
            method.seed,
            number,
            users,
            np.ascontiguousarray(split.train.offsets),
            np.ascontiguousarray(split.train.values),
            split.n_items,
            method.train.negatives,
            *scratch,
        )
        drawn = time.perf_counter()
        for block in touched:
            np.take(params["item"], block.ids, axis=0, out=room[: len(block.ids)], mode="clip")
        gathered = time.perf_counter()
        for block in touched:
            adding(block.offsets, block.ids, room, sums, *counts, np.zeros(d, np.int64))
        added = time.perf_counter()
        found["sample"] = min(found["sample"], drawn - began)
        found["gather"] = min(found["gather"], gathered - drawn)
        found["reduce"] = min(found["reduce"], added - gathered)
    return found


def _touched(work: Workload, part: Any, params: Any) -> Any:
    """The rows that some clients gather in a round."""
    method, shard = work.task, work.split.shard(part)
    local = {
        name: initial_local(method.seed, name, spec, shard.user_ids)
        for name, spec in method.locals().items()
    }
    return train_clients(method, shard, params, local, 1)[0].tables["item"]


def _adding() -> Any:
    from fedrec.aggregation.sums_numba import add_client
    from fedrec.compute.numba_compiler import compiled

    @compiled
    def add_all(
        offsets: Any, ids: Any, room: Any, sums: Any, total: Any, counts: Any, peak: Any
    ) -> None:
        for c in range(len(offsets) - 1):
            mine = ids[offsets[c] : offsets[c + 1]]
            add_client(room[: len(mine)], mine, 1.0, 1, sums, total, counts, peak)

    return add_all


def _drawing() -> Any:
    from fedrec.compute.numba_compiler import compiled
    from fedrec.training.executors.numba.draws import draw_negatives

    @compiled
    def draw_all(
        seed: Any,
        number: Any,
        users: Any,
        offsets: Any,
        items: Any,
        n_items: Any,
        k: Any,
        shift: Any,
        drawn: Any,
    ) -> None:
        for u in range(len(users)):
            own = items[offsets[u] : offsets[u + 1]]
            draw_negatives(seed, number, users[u], 0, own, n_items, shift, drawn[: len(own) * k])

    return draw_all
