"""Median, Krum and Multi-Krum by hand."""

from collections.abc import Sequence

import numpy as np

from fedrec.aggregation.update import RowBlock, UpdateBatch
from fedrec.compute.context import RoundContext
from fedrec.ragged import offsets_of
from fedrec.types import FloatArray, Params
from strategies import Krum, Median, MultiKrum, Strategy


def ragged(rows: Sequence[dict[int, Sequence[float]]]) -> UpdateBatch:
    """Clients that touch some items, with the change of each."""
    ids = np.array([item for row in rows for item in row], np.int64)
    values = np.array([value for row in rows for value in row.values()], np.float32)
    offsets = offsets_of(np.array([len(row) for row in rows]))
    c = len(rows)
    metrics = {"loss": np.zeros(c), "examples": np.ones(c)}
    block = RowBlock(offsets, ids, values)
    return UpdateBatch(1, np.arange(c, dtype=np.int64), np.ones(c), {"item": block}, {}, metrics)


def after(strategy: Strategy, batch: UpdateBatch, start: Params) -> Params:
    context = RoundContext(0, 1, 99, 4)
    state = strategy.init(start, context)
    return strategy.apply(state, start, {0: strategy.reduce(batch)}, context)[1]


def krum(byzantine: int, select: int | None = 1) -> Strategy:
    if select == 1:
        return Krum(aggregation={"byzantine": byzantine})
    return MultiKrum(aggregation={"byzantine": byzantine, "select": select})


ZERO: dict[str, FloatArray] = {"item": np.zeros((4, 1), np.float32)}
ROWS: list[dict[int, Sequence[float]]] = [
    {0: [1.0], 1: [4.0], 2: [9.0]},
    {0: [2.0], 1: [6.0]},
    {0: [9.0]},
]


def test_only_who_touched_an_item_has_a_say_in_its_median() -> None:
    params = after(Median(), ragged(ROWS), ZERO)["item"][:, 0]
    assert params.tolist() == [2.0, 5.0, 9.0, 0.0]
    half = after(Median(server_optimizer={"lr": 0.5}), ragged(ROWS), ZERO)["item"][:, 0]
    assert half.tolist() == [1.0, 2.5, 4.5, 0.0]


def test_krum_takes_the_client_in_the_crowd() -> None:
    # f = 1, m = 5: two nearest others. 0: 1 + 4, 1: 1 + 1, 2: 1 + 4, 3 and 4: far.
    rows = ragged([{0: [x]} for x in (0.0, 1.0, 2.0, 10.0, 20.0)])
    assert after(krum(byzantine=1), rows, ZERO)["item"][0, 0] == 1.0
    # Of the scores 5, 2, 5, 145 and 424 the two lowest, also if more are asked for.
    for select in (2, 9, None):
        assert after(krum(byzantine=1, select=select), rows, ZERO)["item"][0, 0] == 0.5


def test_of_equal_scores_the_lowest_client_is_taken() -> None:
    # f = 0, m = 4: two nearest others; the middle two score 1 + 1 and 1 + 1.
    rows = ragged([{0: [x]} for x in (3.0, 2.0, 1.0, 0.0)])
    assert after(krum(byzantine=0), rows, ZERO)["item"][0, 0] == 2.0
    assert after(krum(byzantine=0), ragged(rows_of(rows)[::-1]), ZERO)["item"][0, 0] == 1.0
    alike = ragged([{0: [7.0]}] * 5)
    assert after(krum(byzantine=1, select=2), alike, ZERO)["item"][0, 0] == 7.0


def rows_of(batch: UpdateBatch) -> list[dict[int, Sequence[float]]]:
    return [{0: value.tolist()} for value in batch.tables["item"].values]


def test_items_that_nobody_touched_stay() -> None:
    for strategy in (Median(), Krum()):
        params = after(strategy, ragged([{2: [1.0]}, {2: [3.0]}, {}]), ZERO)["item"][:, 0]
        assert params.tolist() == [0.0, 0.0, 2.0, 0.0]


def test_liars_that_agree_do_not_win() -> None:
    """f clients send one and the same vector: each has only f - 1 neighbours at distance 0."""
    rows: list[dict[int, Sequence[float]]] = [{0: [x / 10]} for x in range(8)]
    rows += [{0: [50.0]}] * 3
    value = after(krum(byzantine=3), ragged(rows), ZERO)["item"][0, 0]
    assert 0.0 <= value <= 0.7
