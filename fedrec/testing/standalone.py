"""Contracts of plug-ins that need no clients: data sets, metrics and centralised baselines."""

from dataclasses import replace
from unittest import SkipTest

import numpy as np

from fedrec.baselines.base import Baseline
from fedrec.data.base import DataSet
from fedrec.data.tabular import Frame
from fedrec.evaluation.metrics.base import ExposureMetric, Metric, PerUserMetric
from fedrec.testing.trial import as_bytes, require, small_split
from fedrec.types import FloatArray, IntArray, Interactions, Ragged, offsets_of

__all__ = ["BASELINE_CONTRACTS", "DATA_CONTRACTS", "METRIC_CONTRACTS"]

N_ITEMS = 100


def interactions_fit_together(data: DataSet) -> None:
    """Index users and items by their raw ids, with a value of each column for each."""
    read = _loaded(data)
    for name, index, ids in (
        ("users", read.users, read.user_ids),
        ("items", read.items, read.item_ids),
    ):
        inside = len(index) and index.min() >= 0 and index.max() < len(ids)
        require(inside, f"{name}: expected indices from 0 to {len(ids) - 1}")
        require(len(np.unique(ids)) == len(ids), f"{name}: a raw id stands twice")
    columns = {"items": read.items, "ratings": read.ratings, "timestamps": read.timestamps}
    wrong = [name for name, v in columns.items() if v is not None and len(v) != len(read)]
    require(not wrong, f"{wrong}: expected {len(read)} values, as there are users")


def loading_twice_gives_the_same(data: DataSet) -> None:
    """Load the same data twice, with the same fingerprint."""
    copied = data.model_copy()
    require(as_bytes(_loaded(data)) == as_bytes(copied.load()), "load returns other data")
    prints = {data.fingerprint(), data.fingerprint(), copied.fingerprint()}
    require(len(prints) == 1, f"fingerprint: {sorted(prints)}, expected the same each time")


def perfect_is_best(metric: Metric) -> None:
    """Give the perfect ranking the best value and the worst ranking the worst."""
    if isinstance(metric, ExposureMetric):
        even, single = np.full(N_ITEMS, 3), np.eye(1, N_ITEMS, dtype=np.int64)[0]
        differ = metric.value(even) != metric.value(single)
        require(differ, "value: equal exposure has the value of a single item's")
        return
    counts = [1, 3, 2, 5]
    best = _per_user(metric, [np.arange(n) + 1 for n in counts])
    worst = _per_user(metric, [N_ITEMS - np.arange(n)[::-1] for n in counts])
    other = _per_user(metric, [np.arange(n) * 7 + 2 for n in counts])
    low, high = np.minimum(worst, best), np.maximum(worst, best)
    require((low < high).all(), f"per_user: {best} for the perfect ranking, {worst} for the worst")
    inside = ((low <= other) & (other <= high)).all()
    require(inside, f"per_user: {other} is not between the worst and the best, {low} and {high}")


def values_keep_their_bounds(metric: Metric) -> None:
    """Give every ranking a value within the metric's bounds."""
    rng, (low, high) = np.random.default_rng(0), metric.bounds
    if isinstance(metric, ExposureMetric):
        shares = 10 ** rng.uniform(-3, 1, (20, 1))
        exposures = [*rng.poisson(shares, (20, N_ITEMS)) + np.eye(20, N_ITEMS, dtype=np.int64)]
        values = np.array([metric.value(each) for each in exposures])
    else:
        rows = [_random_row(rng, 1 + n % 7) for n in range(200)]
        rows += [np.arange(n) + 1 for n in (1, 2, 20, N_ITEMS)] + [np.array([N_ITEMS])]
        values = _per_user(metric, rows)
    outside = values[~((low <= values) & (values <= high))]
    expected = f"expected {low:g} to {high:g}, or other bounds of the class"
    require(not len(outside), f"{outside[:3]} came; {expected}")


def nothing_depends_on_order(metric: Metric) -> None:
    """Depend on no order: neither of users nor of the items that are exposed."""
    rng = np.random.default_rng(0)
    if isinstance(metric, ExposureMetric):
        exposure = rng.integers(0, 9, N_ITEMS)
        one, other = metric.value(exposure), metric.value(rng.permutation(exposure))
        require(one == other, f"value: {one}, and {other} with the items in another order")
        return
    rows = [_random_row(rng, 1 + n % 5) for n in range(40)]
    together, backwards = _per_user(metric, rows), _per_user(metric, rows[::-1])[::-1]
    alone = np.concatenate([_per_user(metric, [row]) for row in rows])
    for name, came in (("in another order", backwards), ("alone", alone)):
        require(np.array_equal(came, together), f"per_user: users {name} have other values")


def scores_are_finite(baseline: Baseline) -> None:
    """Score users with finite float32 numbers, one for each item."""
    split = small_split()
    scores = baseline.fit(split, 0)(np.array([3, 0, 7]))
    form = (scores.dtype.name, scores.shape)
    require(form == ("float32", (3, split.n_items)), f"the scores of 3 users are {form}")
    require(np.isfinite(scores).all(), "a score is not finite")


def only_train_items_are_read(baseline: Baseline) -> None:
    """Read train items alone, and score a user alike in any company."""
    split, users = small_split(), np.arange(24)
    before, scorer = as_bytes(split), baseline.fit(split, 0)
    empty = Ragged(np.zeros(25, np.int64), np.zeros(0, np.int64))
    expected = scorer(users)
    require(as_bytes(split) == before, "fit changes its arguments")
    for name, came in {
        "without held-out items": baseline.fit(replace(split, valid=empty, test=empty), 0)(users),
        "of users in another order": scorer(users[::-1].copy())[::-1],
        "of users alone": np.concatenate([scorer(users[[user]]) for user in users]),
    }.items():
        same = np.allclose(came, expected, rtol=1e-5, atol=1e-6)
        require(same, f"the scores {name} are others")


DATA_CONTRACTS = (interactions_fit_together, loading_twice_gives_the_same)
METRIC_CONTRACTS = (perfect_is_best, values_keep_their_bounds, nothing_depends_on_order)
BASELINE_CONTRACTS = (scores_are_finite, only_train_items_are_read)


def _loaded(data: DataSet) -> Interactions:
    if isinstance(data, Frame) and not data.content:
        raise SkipTest("its rows are given from Python; check what Frame.of returns")
    return data.load()


def _random_row(rng: np.random.Generator, n: int) -> IntArray:
    """Return n sorted ranks from 1."""
    return np.sort(rng.permutation(N_ITEMS)[:n]) + 1


def _per_user(metric: Metric, rows: list[IntArray]) -> FloatArray:
    assert isinstance(metric, PerUserMetric)
    offsets = offsets_of(np.array([len(row) for row in rows]))
    values = metric.per_user(Ragged(offsets, np.concatenate(rows)))
    require(np.shape(values) == (len(rows),), f"per_user returned {np.shape(values)}")
    return values
