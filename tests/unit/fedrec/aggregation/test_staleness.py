"""Sums times a factor are the exact product, rounded once, whatever the order of the updates."""

from dataclasses import replace
from fractions import Fraction
from math import floor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.aggregation.fixed_point import times
from fedrec.aggregation.reduce import Summing, keep_each, mean_update, merge, reduce_sums
from fedrec.aggregation.staleness import downweighted
from fedrec.aggregation.update import Aggregate, UpdateBatch
from fedrec.ragged import Ragged
from tests.unit.fedrec.aggregation.test_reduce import PARAMS, batches, whole_updates

FACTORS = st.integers(0, 2**31).map(lambda parts: parts / 2**31)


@given(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=5), FACTORS)
def test_the_product_is_exact_and_rounded_once(values: list[int], factor: float) -> None:
    expected = [floor(value * Fraction(factor) + Fraction(1, 2)) for value in values]
    assert times(np.array(values, np.int64), factor).tolist() == expected


@given(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=5))
def test_one_changes_nothing_and_zero_leaves_nothing(values: list[int]) -> None:
    before = np.array(values, np.int64)
    assert np.array_equal(times(before, 1.0), before)
    assert not times(before, 0.0).any()


def same(a: Aggregate, b: Aggregate) -> bool:
    arrays = (
        np.array_equal(getattr(a, kind)[name], getattr(b, kind)[name])
        for kind in ("ids", "sums", "row_weight")
        for name in getattr(a, kind)
    )
    return all(arrays) and (a.weight, a.clients, a.metrics) == (b.weight, b.clients, b.metrics)


@settings(max_examples=30, deadline=None)
@given(batch=batches(least=2), factor=FACTORS, data=st.data())
def test_the_order_of_the_updates_does_not_matter(
    batch: UpdateBatch, factor: float, data: st.DataObject
) -> None:
    """Neither within a version, nor that of the versions."""
    n = len(batch.client_ids)
    order = np.array(data.draw(st.permutations(range(n))))
    cut = data.draw(st.integers(1, n - 1))
    versions = order[:cut], order[cut:]

    def summed(clients: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Aggregate:
        parts = [reduce_sums(batch.take(np.array([client])), Summing()) for client in clients]
        total = parts[0]
        for part in parts[1:]:
            total = merge(total, part)
        return total

    late, current = (summed(clients) for clients in versions)
    first = merge(downweighted(late, factor), current)
    sorted_late, sorted_current = (summed(np.sort(clients)) for clients in versions)
    assert same(first, merge(sorted_current, downweighted(sorted_late, factor)))


@settings(max_examples=30, deadline=None)
@given(batch=batches(least=2), factor=FACTORS)
def test_a_mean_over_the_cohort_divides_by_the_size_of_the_buffer(
    batch: UpdateBatch, factor: float
) -> None:
    """FedBuff: the sum of s times the change of each, divided by K."""
    n = len(batch.client_ids)
    late, current = np.arange(n // 2 + 1), np.arange(n // 2 + 1, n)
    aggregate = downweighted(reduce_sums(batch.take(late), Summing()), factor)
    if len(current):
        aggregate = merge(aggregate, reduce_sums(batch.take(current), Summing()))
    mean = mean_update(PARAMS, aggregate, "cohort")
    updates = [{n: v.astype(np.float64) for n, v in u.items()} for u in whole_updates(batch)]
    for name in PARAMS:
        scaled = [factor * updates[u][name] for u in late] + [updates[u][name] for u in current]
        assert mean[name] == pytest.approx(np.sum(scaled, axis=0) / n, abs=1e-8)


@settings(max_examples=20, deadline=None)
@given(batches())
def test_updates_in_time_stay_as_they_are(batch: UpdateBatch) -> None:
    aggregate = reduce_sums(batch, Summing())
    assert downweighted(aggregate, 1.0) is aggregate


@settings(max_examples=20, deadline=None)
@given(batches())
def test_what_clients_remember_of_what_they_sent_stays(batch: UpdateBatch) -> None:
    beside = replace(
        batch,
        tables={**batch.tables, "item/control": batch.tables["item"]},
        dense={**batch.dense, "head/control": batch.dense["head"]},
        extras={"steps": np.ones(len(batch.client_ids))},
    )
    before = reduce_sums(beside, Summing())
    after = downweighted(before, 0.5)
    for name in ("item/control", "head/control"):
        assert np.array_equal(after.sums[name], before.sums[name])
    assert after.extras == before.extras
    assert after.weight == before.weight


@settings(max_examples=20, deadline=None)
@given(batches(), st.sampled_from([0.0, 0.25, 2**-31]))
def test_updates_that_are_kept_are_scaled_one_by_one(batch: UpdateBatch, factor: float) -> None:
    kept = downweighted(keep_each(batch), factor).each
    assert kept is not None
    assert np.array_equal(kept.weight, batch.weight)
    for name, block in batch.tables.items():
        after = kept.tables[name]
        assert after.values.dtype == np.float32
        assert np.array_equal(after.values, block.values * np.float32(factor))
        assert np.array_equal(
            Ragged(after.offsets, after.ids).owners(), Ragged(block.offsets, block.ids).owners()
        )
