"""What attackers of a round would have sent honestly, made at random."""

import numpy as np
from hypothesis import strategies as st

from fedrec.aggregation.update import RowBlock, UpdateBatch
from fedrec.compute.context import RoundContext
from fedrec.ragged import offsets_of
from fedrec.types import FloatArray

N_ITEMS, D, N_CLIENTS = 12, 3, 40
PARAMS = {
    "item": np.random.default_rng(7).normal(size=(N_ITEMS, D)).astype(np.float32),
    "head": np.zeros((2, D), np.float32),
}


def context_of(targets: tuple[int, ...] = (), round: int = 2) -> RoundContext:
    """The context of a round in which all clients take part."""
    cohort = np.arange(N_CLIENTS)
    return RoundContext(3, round, N_CLIENTS, N_ITEMS, cohort, np.array(targets, np.int64))


@st.composite
def pools(draw: st.DrawFn, most: int = 6) -> UpdateBatch:
    """Updates of some of the last clients, of unequal rows."""
    n, seed = draw(st.integers(1, most)), draw(st.integers(0, 2**32))
    rows = [sorted(draw(st.sets(st.integers(0, N_ITEMS - 1), max_size=6))) for _ in range(n)]
    return pool_of(rows, seed)


def pool_of(rows: list[list[int]], seed: int = 0) -> UpdateBatch:
    """Updates of the last clients, which touched these rows."""
    rng, n = np.random.default_rng(seed), len(rows)

    def values(*shape: int) -> FloatArray:
        return rng.normal(size=shape).astype(np.float32)

    ids = np.array([item for row in rows for item in row], np.int64)
    offsets = offsets_of(np.array([len(row) for row in rows], np.int64))
    return UpdateBatch(
        2,
        np.arange(N_CLIENTS - n, N_CLIENTS),
        rng.integers(1, 20, n).astype(np.float64),
        {"item": RowBlock(offsets, ids, values(len(ids), D))},
        {"head": values(n, 2, D)},
        {"loss": np.ones(n), "examples": np.ones(n)},
    )


def of_item(batch: UpdateBatch, item: int) -> FloatArray:
    """The changes of an item's row, float64 [n, D], in the order of the clients."""
    block = batch.tables["item"]
    return np.asarray(block.values[block.ids == item], np.float64)
