"""How much of the compiled training is drawing and gathering: the same done once more, alone."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from fedrec.bench.workload import Workload
from fedrec.training.clients import kernel_of, train_clients
from fedrec.training.method import initial_local

__all__ = ["inside_training"]

PART = 256


def inside_training(work: Workload) -> dict[str, float]:
    """Seconds that the machine code spends in a round on ``sample`` and ``gather``, one thread.

    Args:
        work: What is trained, one user per client. Nothing is found where it is not compiled.
    """
    if kernel_of(work.method) != "compiled":
        return {}
    method, split = work.method, work.split
    drawing = _drawing()
    longest = int(split.train.lengths.max(initial=0)) * method.train.negatives
    scratch = (
        np.empty(split.n_items, np.int32),
        np.empty(longest, np.int32),
    )
    users = np.arange(split.n_users, dtype=np.int64)
    found = {"sample": np.inf, "gather": np.inf}
    params = method.initial_globals(split.n_items)
    parts = np.array_split(users, max(1, len(users) // PART))
    touched = [_touched(work, part, params) for part in parts]
    room = np.empty((max(len(ids) for ids in touched), params["item"].shape[1]), np.float32)
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
        for ids in touched:
            np.take(params["item"], ids, axis=0, out=room[: len(ids)], mode="clip")
        gathered = time.perf_counter()
        found["sample"] = min(found["sample"], drawn - began)
        found["gather"] = min(found["gather"], gathered - drawn)
    return found


def _touched(work: Workload, part: Any, params: Any) -> Any:
    """The items of the rows that some clients gather in a round."""
    method, shard = work.method, work.split.shard(part)
    local = {
        name: initial_local(method.seed, name, spec, shard.user_ids)
        for name, spec in method.locals().items()
    }
    return train_clients(method, shard, params, local, 1)[0].tables["item"].ids


def _drawing() -> Any:
    from fedrec.training.jit.compiler import compiled
    from fedrec.training.jit.draws import draw_negatives

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
