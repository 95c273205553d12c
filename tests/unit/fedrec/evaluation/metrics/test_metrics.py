"""The measures equal an independent library, their closed forms and a slow loop."""

import math

import ir_measures
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ir_measures import RR, R, Success, nDCG

from fedrec.errors import ConfigError
from fedrec.evaluation.evaluate import per_user_values
from fedrec.evaluation.metrics import METRICS, ExposureMetric, PerUserMetric, parse_metric
from fedrec.ragged import Ragged, offsets_of
from fedrec.types import FloatArray

N_ITEMS = 40
PER_USER = [name for name, metric in METRICS.items() if issubclass(metric, PerUserMetric)]
THEIRS = {
    "ndcg": lambda k: nDCG @ k,
    "hit_rate": lambda k: Success @ k,
    "recall": lambda k: R @ k,
    "mrr": lambda k: RR @ k,
}

ranks_of_a_user = st.sets(st.integers(1, N_ITEMS), max_size=8).map(sorted)
ranks_of_users = st.lists(ranks_of_a_user, min_size=1, max_size=8)
cutoffs = st.integers(1, N_ITEMS)


def ragged(rows: list[list[int]]) -> Ragged:
    values = np.array([value for row in rows for value in row], np.int64)
    return Ragged(offsets_of(np.array([len(row) for row in rows], np.int64)), values)


def values_of(label: str, rows: list[list[int]]) -> FloatArray:
    return per_user_values(ragged(rows), [parse_metric(label)], np.arange(len(rows)))[:, 0]


def exposure_value(label: str, exposure: list[int]) -> float:
    metric = parse_metric(label)
    assert isinstance(metric, ExposureMetric)
    return metric.value(np.array(exposure, np.int64))


@pytest.mark.parametrize("name", PER_USER)
@pytest.mark.parametrize("k", [1, 2, 5, 10, 40])
def test_equals_an_independent_library(name: str, k: int) -> None:
    rng = np.random.default_rng(k)
    rows, runs, judgements = [], {}, {}
    for user in range(50):
        scores = rng.permutation(N_ITEMS)
        held_out = rng.choice(N_ITEMS, size=rng.integers(1, 12), replace=False)
        rows.append(sorted(int((scores >= scores[item]).sum()) for item in held_out))
        runs[str(user)] = {str(item): float(score) for item, score in enumerate(scores)}
        judgements[str(user)] = {str(item): 1 for item in held_out}
    theirs = {
        int(measured.query_id): measured.value
        for measured in ir_measures.iter_calc([THEIRS[name](k)], judgements, runs)
    }
    expected = [theirs[user] for user in range(50)]
    np.testing.assert_allclose(values_of(f"{name}@{k}", rows), expected, rtol=0, atol=1e-12)


def slow(name: str, ranks: list[int], k: int) -> float:
    """The definitions, one user at a time."""
    if not ranks:
        return math.nan
    inside = [rank for rank in ranks if rank <= k]
    match name:
        case "hit_rate":
            return 1.0 if inside else 0.0
        case "recall":
            return len(inside) / len(ranks)
        case "mrr":
            return 1.0 / inside[0] if inside else 0.0
        case _:
            ideal = sum(1 / math.log2(1 + r) for r in range(1, min(len(ranks), k) + 1))
            return sum(1 / math.log2(1 + r) for r in inside) / ideal


@pytest.mark.parametrize("name", PER_USER)
@given(rows=ranks_of_users, k=cutoffs)
def test_equals_the_slow_loop(name: str, rows: list[list[int]], k: int) -> None:
    expected = [slow(name, row, k) for row in rows]
    np.testing.assert_allclose(values_of(f"{name}@{k}", rows), expected, rtol=1e-12)


@pytest.mark.parametrize("name", PER_USER)
@given(rows=ranks_of_users, k=cutoffs)
def test_a_user_has_the_same_bits_in_any_company(name: str, rows: list[list[int]], k: int) -> None:
    together = values_of(f"{name}@{k}", rows)
    alone = [values_of(f"{name}@{k}", [row])[0] for row in rows]
    np.testing.assert_array_equal(together, alone)


@pytest.mark.parametrize("name", PER_USER)
@given(rows=ranks_of_users, k=cutoffs)
def test_from_zero_to_one_and_nan_without_held_out_items(
    name: str, rows: list[list[int]], k: int
) -> None:
    values = values_of(f"{name}@{k}", rows)
    empty = np.array([not row for row in rows])
    np.testing.assert_array_equal(np.isnan(values), empty)
    assert np.all((values[~empty] >= 0) & (values[~empty] <= 1))


@pytest.mark.parametrize("name", PER_USER)
@given(n=st.integers(1, 10), more=st.integers(0, 10))
def test_the_ideal_ranking_gives_one(name: str, n: int, more: int) -> None:
    assert values_of(f"{name}@{n + more}", [list(range(1, n + 1))])[0] == 1.0


@pytest.mark.parametrize("name", PER_USER)
@given(rows=ranks_of_users, k=cutoffs)
def test_a_worse_rank_is_never_better(name: str, rows: list[list[int]], k: int) -> None:
    worse = [[rank + 1 for rank in row] for row in rows]
    before, after = values_of(f"{name}@{k}", rows), values_of(f"{name}@{k}", worse)
    assert not np.any(after > before)


def test_ndcg_by_hand() -> None:
    value = values_of("ndcg@3", [[2, 3, 9]])[0]
    gain, ideal = 1 / math.log2(3) + 1 / 2, 1 + 1 / math.log2(3) + 1 / 2
    assert value == pytest.approx(gain / ideal, rel=1e-15)


def test_mrr_without_cutoff_looks_at_the_whole_ranking() -> None:
    np.testing.assert_array_equal(values_of("mrr", [[], [4, 6], [1000]]), [np.nan, 0.25, 0.001])


def test_coverage_and_gini_by_hand() -> None:
    assert exposure_value("coverage@5", [3, 0, 1, 0]) == 0.5
    assert exposure_value("gini@5", [2, 2, 2]) == 0.0
    assert exposure_value("gini@5", [0, 0, 0, 9]) == 0.75
    assert math.isnan(exposure_value("gini@5", [0, 0]))


@given(exposure=st.lists(st.integers(0, 50), min_size=1, max_size=30).filter(any))
def test_gini_is_the_mean_absolute_difference(exposure: list[int]) -> None:
    n, total = len(exposure), sum(exposure)
    differences = sum(abs(a - b) for a in exposure for b in exposure)
    expected = differences / (2 * n * total)
    assert exposure_value("gini@5", exposure) == pytest.approx(expected, abs=1e-12)


@given(exposure=st.lists(st.integers(0, 50), min_size=1, max_size=30), seed=st.integers(0, 99))
def test_names_of_the_items_do_not_matter(exposure: list[int], seed: int) -> None:
    shuffled = np.random.default_rng(seed).permutation(exposure).tolist()
    for label in ("coverage@5", "gini@5"):
        np.testing.assert_equal(exposure_value(label, shuffled), exposure_value(label, exposure))


@pytest.mark.parametrize(
    ("label", "says"),
    [
        ("ndcg", "ndcg@10"),
        ("ndcg@0", "k a number from 1"),
        ("ndcg@ten", "k a number from 1"),
        ("ndgc@10", "did you mean 'ndcg'"),
    ],
)
def test_a_bad_label_says_what_was_expected(label: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        parse_metric(label)


def test_labels_come_back() -> None:
    for name, metric in METRICS.items():
        assert parse_metric(f"{name}@7").label == f"{name}@7"
        if not metric.needs_k:
            assert parse_metric(name).label == name
