"""What holds for every aggregation, whatever its options and whatever clients send."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.aggregation.update import UpdateBatch
from fedrec.testing.strategies import N_ITEMS, contracts_of_part, joint_change, updates
from fedrec.testing.trial import as_bytes
from strategies.aggregations import AGGREGATIONS
from strategies.aggregations.mean import Mean
from tests.contracts.aggregation_options import OPTIONS, aggregations_of

every_aggregation = pytest.mark.parametrize("name", sorted(AGGREGATIONS))
BY_VALUE = ("mean", "median", "q_fair", "trimmed_mean")
"""They sort values or add them up exactly: it does not matter which client sent which update."""
SHORTENING = ("centred_clipping", "norm_bounded", "q_fair")
TABLES = ("item", "bias")

ROWS = st.lists(st.sets(st.integers(0, N_ITEMS - 1)).map(sorted), min_size=1, max_size=14)
SEEDS = st.integers(0, 999)


def rounds_of(rows: Sequence[Sequence[int]], seed: int) -> list[UpdateBatch]:
    return [updates(rows, seed), updates(rows, seed + 1000)]


def test_every_option_is_tried() -> None:
    declared = {name: {*kind.model_fields} for name, kind in AGGREGATIONS.items()}
    assert declared == {name: {*options} for name, options in OPTIONS.items()}


@every_aggregation
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_contracts_hold_with_any_options(name: str, data: st.DataObject) -> None:
    aggregation = data.draw(aggregations_of(name))
    for contract in contracts_of_part(aggregation):
        contract(aggregation)


@every_aggregation
@settings(max_examples=20, deadline=None)
@given(data=st.data(), rows=ROWS, seed=SEEDS)
def test_the_dealing_of_clients_changes_no_bit(
    name: str, data: st.DataObject, rows: list[list[int]], seed: int
) -> None:
    aggregation, rounds = data.draw(aggregations_of(name)), rounds_of(rows, seed)
    dealt = []
    for batch in rounds:
        order = np.array(data.draw(st.permutations(range(len(rows)))))
        cuts = sorted(data.draw(st.sets(st.integers(1, len(rows)), max_size=4)) - {len(rows)})
        dealt.append([batch.take(clients) for clients in np.split(order, cuts)])
    expected = joint_change(aggregation, [[batch] for batch in rounds])
    assert as_bytes(joint_change(aggregation, dealt)) == as_bytes(expected)


@pytest.mark.parametrize("name", BY_VALUE)
@settings(max_examples=20, deadline=None)
@given(data=st.data(), rows=ROWS, seed=SEEDS)
def test_who_sent_an_update_changes_no_bit(
    name: str, data: st.DataObject, rows: list[list[int]], seed: int
) -> None:
    aggregation, batch = data.draw(aggregations_of(name)), updates(rows, seed)
    order = np.array(data.draw(st.permutations(range(len(rows)))))
    renamed = replace(batch.take(order), client_ids=batch.client_ids)
    _, expected = joint_change(aggregation, [[batch]])
    assert as_bytes(joint_change(aggregation, [[renamed]])[1]) == as_bytes(expected)


@pytest.mark.parametrize("name", sorted({*AGGREGATIONS} - {*SHORTENING}))
@settings(max_examples=20, deadline=None)
@given(data=st.data(), count=st.integers(1, 14), seed=SEEDS)
def test_equal_updates_are_returned(name: str, data: st.DataObject, count: int, seed: int) -> None:
    """To the bit by all but the geometric median, which divides by distances."""
    fixed: dict[str, Any] = {"average": "per_row", "floor": 0} if name == "mean" else {}
    if name in ("krum", "multi_krum", "bulyan", "median", "trimmed_mean", "geometric_median"):
        fixed = {"below": "median"}
    aggregation = data.draw(aggregations_of(name, **fixed))
    check_equal(aggregation, count, seed, 1e-12 if name == "geometric_median" else 0.0)


@pytest.mark.parametrize("name", ["norm_bounded", "centred_clipping"])
@pytest.mark.parametrize(("bound", "per"), [("median", "update"), (99.0, "update"), (99.0, "row")])
@settings(max_examples=5, deadline=None)
@given(data=st.data(), count=st.integers(1, 9), seed=SEEDS)
def test_equal_updates_are_returned_within_the_bound(
    name: str, bound: Any, per: str, data: st.DataObject, count: int, seed: int
) -> None:
    fixed = {"average": "per_row", "floor": 0, "bound": bound, "per": per}
    check_equal(data.draw(aggregations_of(name, **fixed)), count, seed, 1e-8)


def check_equal(aggregation: Any, count: int, seed: int, tolerance: float) -> None:
    batch = updates([[0, 2, 5]] * count, seed, equal=True)
    _, (change,) = joint_change(aggregation, [[batch]])
    for table in TABLES:
        expected = np.zeros_like(change[table])
        expected[[0, 2, 5]] = batch.tables[table].values[:3]
        np.testing.assert_allclose(change[table], expected, rtol=0, atol=tolerance)
    for name, values in batch.dense.items():
        np.testing.assert_allclose(change[name], values[0], rtol=0, atol=tolerance)


@every_aggregation
@settings(max_examples=15, deadline=None)
@given(data=st.data(), rows=ROWS, seed=SEEDS, factor=st.sampled_from([3.0, 0.7, 8.0, 0.5]))
def test_weights_are_relative(
    name: str, data: st.DataObject, rows: list[list[int]], seed: int, factor: float
) -> None:
    """To the bit for powers of two."""
    aggregation, rounds = data.draw(aggregations_of(name)), rounds_of(rows, seed)
    heavier = [[replace(batch, weight=factor * batch.weight)] for batch in rounds]
    _, expected = joint_change(aggregation, [[batch] for batch in rounds])
    _, came = joint_change(aggregation, heavier)
    if factor in (8.0, 0.5):
        exact = getattr(aggregation, "weighting", "uniform") == "uniform" or name == "mean"
        assert not exact or as_bytes(came) == as_bytes(expected)
    for one, other in zip(expected, came, strict=True):
        for key, value in one.items():
            np.testing.assert_allclose(other[key], value, rtol=1e-6, atol=1e-7)


@settings(max_examples=20, deadline=None)
@given(rows=ROWS, seed=SEEDS)
def test_a_floor_of_one_client_is_none(rows: list[list[int]], seed: int) -> None:
    batch = updates(rows, seed)
    bare, one, all_of_them = (
        joint_change(Mean(floor=floor), [[batch]])[1] for floor in (0, 1, len(rows))
    )
    assert as_bytes(one) == as_bytes(bare)
    over_cohort = joint_change(Mean(average="cohort"), [[batch]])[1]
    assert as_bytes(all_of_them) == as_bytes(over_cohort)


@settings(max_examples=20, deadline=None)
@given(data=st.data(), rows=ROWS, seed=SEEDS)
def test_without_fairness_it_is_the_mean(
    data: st.DataObject, rows: list[list[int]], seed: int
) -> None:
    fair, batch = data.draw(aggregations_of("q_fair", q=0.0)), updates(rows, seed)
    assert as_bytes(joint_change(fair, [[batch]])[1]) == as_bytes(
        joint_change(Mean(), [[batch]])[1]
    )


@settings(max_examples=20, deadline=None)
@given(data=st.data(), rows=ROWS, seed=SEEDS)
def test_a_bound_that_nobody_reaches_is_none(
    data: st.DataObject, rows: list[list[int]], seed: int
) -> None:
    bounded = data.draw(aggregations_of("norm_bounded", bound=1e6))
    shared = {name: getattr(bounded, name) for name in Mean.model_fields}
    rounds = [[batch] for batch in rounds_of(rows, seed)]
    expected = joint_change(Mean(**shared), rounds)[1]
    assert as_bytes(joint_change(bounded, rounds)[1]) == as_bytes(expected)
