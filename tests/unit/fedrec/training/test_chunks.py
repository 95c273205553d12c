"""Chunks that do not fit are halved, and clients come back in their order."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.compute.batch import Tensors
from fedrec.errors import EngineError
from fedrec.models.base import Pairs
from fedrec.models.mf import MatrixFactorization
from fedrec.training.chunks import block_back, in_chunks
from fedrec.training.clients import train_clients
from fedrec.training.layout import Layout
from fedrec.types import IntArray, RowBlock, Shard, offsets_of
from tests.planted import federations, initial_state, method_of, rates, shard_of

OUT = ("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried",)


class Narrow(MatrixFactorization):
    """Matrix factorisation on a machine where only so many pairs fit."""

    room: int = 30
    how: str = "torch"
    asked: ClassVar[list[int]] = []

    def score(self, params: Tensors, pairs: Pairs) -> torch.Tensor:
        self.asked.append(len(pairs.items))
        if len(pairs.items) > self.room:
            raise RuntimeError(*OUT) if self.how == "torch" else MemoryError("no room")
        return super().score(params, pairs)


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


def test_a_client_that_does_not_fit_alone_is_named_with_the_way_out() -> None:
    shard = shard_of(20, [[0, 1], list(range(12))], first_user=70)
    method = method_of(model=Narrow(embedding_dim=4, room=12))
    params, local = initial_state(method, shard)
    with pytest.raises(
        EngineError, match=r"client 71 \(1 users, 12 train items\) does not fit .* lower train"
    ):
        train_clients(method, shard, params, local, 1)


def test_another_error_is_not_taken_for_lack_of_memory() -> None:
    def compute(rows: IntArray) -> int:
        raise RuntimeError("sizes differ")

    with pytest.raises(RuntimeError, match="sizes differ"):
        in_chunks([np.arange(2)], compute, shard_of(3, [[0], [1]]))


@settings(max_examples=40)
@given(shard=federations(several=True), seed=st.integers(0, 99), size=st.integers(1, 5))
def test_values_come_back_in_the_order_of_the_clients(shard: Shard, seed: int, size: int) -> None:
    layout = Layout.of(method_of(), shard)
    rng = np.random.default_rng(seed)
    order = rng.permutation(shard.n_clients)
    chunks = np.split(order, range(size, len(order), size))
    parts = in_chunks(chunks, lambda rows: layout.positions(rows)["user"], shard)
    ordered = np.concatenate(parts)
    assert ordered[layout.restored(order)["user"]].tolist() == list(range(shard.n_users))
    lengths = rng.integers(0, 3, shard.n_clients)
    offsets = offsets_of(lengths[order])
    ids = np.concatenate([np.full(lengths[client], client) for client in order])
    block = block_back(RowBlock(offsets, ids, ids[:, None] * 2.0), order)
    assert block.offsets.tolist() == offsets_of(lengths).tolist()
    assert block.ids.tolist() == np.repeat(np.arange(shard.n_clients), lengths).tolist()
    assert (block.values[:, 0] == 2 * block.ids).all()
