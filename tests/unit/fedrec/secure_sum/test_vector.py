from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrec.aggregation.reduce import keep_each, merge
from fedrec.aggregation.update import Aggregate
from fedrec.errors import ConfigError, NumericError, ProtocolError
from fedrec.secure_sum.vector import VectorLayout
from tests.secure_sums import SHAPES, assert_same, layout_of, plain_sum, sums_of, updates

SUMS = sums_of(updates(5, seed=3))
LAYOUT = layout_of(SUMS)
ALL = plain_sum(SUMS, range(5))


def changed(sums: Aggregate, name: str, value: int) -> Aggregate:
    """Return a sum with another first value of a parameter."""
    values = sums.sums[name].copy()
    values.reshape(-1)[0] = value
    return replace(sums, sums={**sums.sums, name: values})


@given(st.integers(1, 6), st.integers(0, 99))
def test_a_sum_is_packed_and_back(n: int, seed: int) -> None:
    total = plain_sum(sums_of(updates(n, seed)), range(n))
    vector = LAYOUT.pack(total, n)
    assert vector.shape == (LAYOUT.size,)
    assert_same(LAYOUT.unpack(vector), total)


@given(st.lists(st.integers(0, 4), min_size=1, unique=True))
def test_vectors_add_up_as_sums_do(clients: list[int]) -> None:
    vectors = [LAYOUT.pack(SUMS[client], 5) for client in clients]
    assert_same(LAYOUT.unpack(np.sum(vectors, axis=0)), plain_sum(SUMS, clients))


def test_the_order_of_names_does_not_matter() -> None:
    turned = VectorLayout(
        dict(reversed([*LAYOUT.tables.items()])),
        dict(reversed([*LAYOUT.dense.items()])),
        LAYOUT.scale,
        LAYOUT.metrics,
        LAYOUT.extras,
    )
    assert turned == LAYOUT
    assert np.array_equal(turned.pack(ALL, 5), LAYOUT.pack(ALL, 5))


def test_the_vector_is_as_long_for_whoever_touched_nothing() -> None:
    rows = {name: values[:0] for name, values in ALL.ids.items()}
    sums = {name: ALL.sums[name][:0] if name in rows else ALL.sums[name] for name in ALL.sums}
    empty = replace(ALL, ids=rows, sums=sums, row_weight=rows)
    assert LAYOUT.pack(empty, 5).shape == LAYOUT.pack(ALL, 5).shape
    assert_same(LAYOUT.unpack(LAYOUT.pack(empty, 5)), empty)


@pytest.mark.parametrize("name", ["item", "bias", "head", "constant"])
@pytest.mark.parametrize("sign", [-1, 1])
def test_headroom_is_checked_for_each_parameter(name: str, sign: int) -> None:
    cohort = 1000
    client = next(each for each in SUMS if len(each.ids["item"]))
    limit = -(-(2**63) // cohort)
    LAYOUT.pack(changed(client, name, sign * (2**63 // cohort - 1)), cohort)
    with pytest.raises(NumericError, match=f"'{name}' may overflow"):
        LAYOUT.pack(changed(client, name, sign * limit), cohort)


def test_the_error_tells_no_value_of_the_update() -> None:
    value = 2**62 + 987654321
    with pytest.raises(NumericError) as caught:
        LAYOUT.pack(changed(SUMS[0], "head", value), 1000)
    assert str(value) not in str(caught.value)


def test_the_smallest_integer_has_no_headroom() -> None:
    with pytest.raises(NumericError, match="'head' may overflow"):
        LAYOUT.pack(changed(SUMS[0], "head", -(2**63)), 1)


@pytest.mark.parametrize(
    ("kind", "value"), [("metrics", {"loss": 2**70}), ("extras", {"steps": -(2**62)})]
)
def test_headroom_of_numbers(kind: str, value: dict[str, int]) -> None:
    changes = {kind: {**getattr(SUMS[0], kind), **value}}
    with pytest.raises(NumericError, match=f"'{next(iter(value))}' may overflow"):
        LAYOUT.pack(replace(SUMS[0], **changes), 5)  # type: ignore[arg-type]


def test_clients_of_one_vector_share_their_headroom() -> None:
    value = 2**61  # of the 2**63 that four clients have, two may use 2**62
    two = plain_sum([changed(each, "head", 0) for each in SUMS], range(2))
    LAYOUT.pack(changed(two, "head", value), 4)
    with pytest.raises(NumericError, match="'head' may overflow"):
        LAYOUT.pack(changed(two, "head", 2 * value), 4)
    with pytest.raises(NumericError, match="'head' may overflow"):
        LAYOUT.pack(changed(SUMS[0], "head", value), 4)


@given(st.integers(2, 9), st.integers(0, 2**31))
def test_no_sum_of_vectors_with_headroom_is_wrong(n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    limit = 2**63 // n
    values = rng.choice([-limit + 1, limit - 1, 0, 5], n).tolist()
    clients = [changed(SUMS[0], "head", value) for value in values]
    total = LAYOUT.unpack(np.sum([LAYOUT.pack(each, n) for each in clients], axis=0))
    assert int(total.sums["head"].reshape(-1)[0]) == sum(values)


def test_a_touched_row_without_weight_is_refused() -> None:
    client = next(each for each in SUMS if len(each.ids["item"]))
    weight = {name: np.zeros_like(each) for name, each in client.row_weight.items()}
    with pytest.raises(NumericError, match="rows without weight"):
        LAYOUT.pack(replace(client, row_weight=weight), 5)


def test_updates_of_single_clients_are_refused() -> None:
    each = keep_each(updates(3))
    for make in (lambda: LAYOUT.pack(each, 3), lambda: VectorLayout.of(each, SHAPES)):
        with pytest.raises(ConfigError, match="the update of every client"):
            make()


def without(values: dict[str, object], name: str) -> dict[str, object]:
    return {key: value for key, value in values.items() if key != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sums": without(dict(ALL.sums), "head")}, "other parameters than the layout: head"),
        ({"ids": without(dict(ALL.ids), "item")}, "other tables than the layout: item"),
        ({"metrics": {}}, "other metrics than the layout: examples, loss"),
        ({"extras": {**ALL.extras, "x": 1}}, "other extras than the layout: x"),
        ({"scale": {**ALL.scale, "head": 20}}, "another scale"),
        ({"sums": {**ALL.sums, "head": np.zeros(3, np.int64)}}, "'head' of another shape"),
        ({"ids": {**ALL.ids, "item": ALL.ids["item"] + 9}}, "rows of 'item' that are not sorted"),
        ({"ids": {**ALL.ids, "item": ALL.ids["item"][::-1]}}, "rows of 'item' that are not"),
        ({"ids": {**ALL.ids, "item": ALL.ids["item"][:-1]}}, "'item' of another shape"),
    ],
)
def test_a_sum_that_is_not_as_the_layout_says_is_refused(
    change: dict[str, object], message: str
) -> None:
    with pytest.raises(ProtocolError, match=message):
        LAYOUT.pack(replace(ALL, **change), 5)  # type: ignore[arg-type]


def test_a_vector_of_no_sum_is_refused() -> None:
    vector = LAYOUT.pack(ALL, 5)
    with pytest.raises(ProtocolError, match="values, expected"):
        LAYOUT.unpack(vector[:-1])
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 2**64, LAYOUT.size, np.uint64)
    with pytest.raises(ProtocolError, match="install the same version"):
        LAYOUT.unpack(noise)
    client = next(each for each in SUMS if 0 < len(each.ids["item"]) < 9)
    bare = LAYOUT.pack(client, 5)
    n_values = 9 * 1 + 9  # bias and its weights stand first
    (row,) = np.flatnonzero(~np.isin(np.arange(9), client.ids["item"]))[:1]
    bare[n_values + 3 * row] = 1
    with pytest.raises(ProtocolError, match="'item' that nobody has touched"):
        LAYOUT.unpack(bare)


def test_merging_in_the_vector_is_merging() -> None:
    once = merge(SUMS[0], SUMS[1])
    vector = LAYOUT.pack(SUMS[0], 2) + LAYOUT.pack(SUMS[1], 2)
    assert np.array_equal(vector, LAYOUT.pack(once, 2))
