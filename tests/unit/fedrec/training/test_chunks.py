"""Clients are cut to chunks within a budget; chunks that do not fit are halved."""

from dataclasses import replace
from itertools import zip_longest
from typing import ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedrec.compute.device import Resources
from fedrec.errors import EngineError
from fedrec.models.base import Batch
from fedrec.models.mf import MatrixFactorization
from fedrec.models.module import ModelParams
from fedrec.ragged import offsets_of
from fedrec.training.blocks import bounded_slices
from fedrec.training.clients import train_clients, training_together
from tests.planted import initial_state, method_of, rates, shard_of

OUT = ("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried",)


class Narrow(MatrixFactorization):
    """Matrix factorisation on a machine where only so many pairs fit."""

    room: int = 30
    how: str = "torch"
    asked: ClassVar[list[int]] = []

    def score(self, params: ModelParams, batch: Batch, vectors: torch.Tensor) -> torch.Tensor:
        self.asked.append(len(vectors))
        if len(vectors) > self.room:
            raise RuntimeError(*OUT) if self.how == "torch" else MemoryError("no room")
        return super().score(params, batch, vectors)


class Counted(MatrixFactorization):
    """Notes how many users are scored together."""

    sizes: ClassVar[list[int]] = []

    def score(self, params: ModelParams, batch: Batch, vectors: torch.Tensor) -> torch.Tensor:
        self.sizes.append(len(torch.unique(batch.users)))
        return super().score(params, batch, vectors)


@pytest.mark.parametrize("how", ["torch", "python"])
def test_a_chunk_that_does_not_fit_is_halved_and_nothing_changes(how: str) -> None:
    shard = shard_of(20, [[0, 1], [2, 3, 4], [5], [6, 7, 8, 9], [1, 3, 5]])
    wide = method_of({"optimizers": rates(0.1)})
    narrow = method_of(
        {"optimizers": rates(0.1)}, model=Narrow(embedding_dim=4, init_std=0.5, how=how)
    )
    params, local = initial_state(wide, shard)
    update, after = train_clients(wide, shard, params, local, 1)
    other, same = train_clients(narrow, shard, params, local, 1)
    assert max(Narrow.asked) > 30
    assert update.tables["item"].values.tobytes() == other.tables["item"].values.tobytes()
    assert after["user"].tobytes() == same["user"].tobytes()


def test_what_did_not_fit_is_not_tried_again_and_said_once() -> None:
    shard = shard_of(20, [[0, 1], [2, 3, 4], [5], [6, 7, 8, 9], [1, 3, 5]])
    task = method_of(model=Narrow(embedding_dim=4, init_std=0.5))
    params, local = initial_state(task, shard)
    together = training_together()
    for number in (1, 2):
        Narrow.asked.clear()
        train_clients(task, shard, params, local, number, together=together)
        assert (max(Narrow.asked) > 30) == (number == 1)
        assert together.note().startswith("memory ran out ([enforce fail") == (number == 1)
    assert together.most is not None and 1 <= together.most < 5


def test_memory_bounds_the_clients_trained_together() -> None:
    """Each client has a vector and ten rows of 4,000 numbers, six times, of half the memory."""
    shard = shard_of(20, [[0, 1]] * 64)
    wide = MatrixFactorization(embedding_dim=4000)
    params, local = initial_state(method_of(model=wide), shard)
    sizes = {}
    for mebibytes in (8, 32):
        task = replace(method_of(model=wide), resources=Resources(memory=mebibytes * 2**20))
        Counted.sizes.clear()
        counted = replace(task, model=Counted(embedding_dim=4000))
        train_clients(counted, shard, params, local, 1)
        sizes[mebibytes] = max(Counted.sizes)
    of_client = 11 * 4_000 * 4 * 6
    assert sizes == {each: each * 2**20 // 2 // of_client for each in sizes}


def test_a_client_that_does_not_fit_alone_is_named_with_the_way_out() -> None:
    shard = shard_of(20, [[0, 1], list(range(12))], first_user=70)
    method = method_of(model=Narrow(embedding_dim=4, room=12))
    params, local = initial_state(method, shard)
    with pytest.raises(
        EngineError, match=r"client 71 \(1 users, 12 train items\) does not fit .* lower train"
    ):
        train_clients(method, shard, params, local, 1)


def test_another_error_is_not_taken_for_lack_of_memory() -> None:
    def compute(rows: slice) -> int:
        raise RuntimeError("sizes differ")

    with pytest.raises(RuntimeError, match="sizes differ"):
        training_together().compute(slice(0, 2), compute, str)


@given(st.lists(st.integers(0, 9), max_size=20), st.integers(1, 30))
def test_slices_are_all_clients_in_order_within_the_budget(rows: list[int], budget: int) -> None:
    cut = bounded_slices(offsets_of(np.array(rows, np.int64)), budget)
    assert [at for part in cut for at in range(part.start, part.stop)] == list(range(len(rows)))
    for part, after in zip_longest(cut, cut[1:]):
        needed = sum(rows[part])
        assert part.stop > part.start
        assert needed <= budget or part.stop - part.start == 1
        # No slice could have taken the next client too.
        assert after is None or needed + rows[after.start] > budget
