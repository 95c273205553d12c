"""Ranking some items at a time gives the integers of ranking some users at a time."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.data.catalogue import Catalogue
from fedrec.errors import NumericError
from fedrec.evaluation import counting
from fedrec.evaluation.evaluate import Evaluation, evaluate
from fedrec.evaluation.metrics import parse_metric
from fedrec.evaluation.scorer import UserScorer
from fedrec.models.mf import MatrixFactorization
from fedrec.models.pfedrec import PFedRec
from fedrec.personalization.plgc.plgc import PLGC
from fedrec.training.task import ClientTask
from fedrec.types import Params, ParamSpec, Shard
from tests.planted import initial_state, method_of, shard_of

METRICS = tuple(map(parse_metric, ("ndcg@3", "mrr", "coverage@2", "gini@5", "er@2", "er@4")))
TARGETS = np.array([0, 2, 5])


def federation(seed: int, n_users: int, n_items: int) -> Shard:
    """Users with any numbers of train, validation and test items, some without."""
    rng = np.random.default_rng(seed)
    parts: list[list[list[int]]] = [[], [], []]
    for _ in range(n_users):
        items = rng.permutation(n_items)[: rng.integers(0, n_items + 1)]
        cuts = np.sort(rng.integers(0, len(items) + 1, 2))
        for part, chosen in zip(parts, np.split(items, cuts), strict=True):
            part.append(sorted(chosen.tolist()))
    sizes = [2] * (n_users // 2) + [1] * (n_users % 2)
    return shard_of(n_items, parts[0], sizes, valid=parts[1], test=parts[2])


def with_ties(params: Params, distinct: int) -> Params:
    """The parameters with a table of a few distinct rows, so that scores are equal to the bit."""
    table = params["item"]
    return {**params, "item": table[np.arange(len(table)) % distinct].copy()}


def both_ways(
    task: ClientTask, shard: Shard, params: Params, local: Params
) -> tuple[Evaluation, Evaluation]:
    """Rank by columns, as one block does not hold all users, and all users in one block."""
    scorer = UserScorer(task, shard, params, local)
    assert scorer.by_columns
    by_columns = evaluate(shard, scorer, METRICS, block=1, targets=TARGETS)
    return by_columns, evaluate(shard, scorer, METRICS, block=shard.n_users, targets=TARGETS)


def assert_same(one: Evaluation, two: Evaluation) -> None:
    assert set(one.values) == {"mixed", "global", "local"}
    np.testing.assert_equal(one.values, two.values)
    np.testing.assert_equal(one.exposure, two.exposure)
    np.testing.assert_array_equal(one.users, two.users)


@pytest.mark.parametrize("model", [MatrixFactorization, PFedRec])
@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 999),
    n_users=st.integers(2, 90),
    n_items=st.integers(6, 300),
    distinct=st.integers(1, 400),
    fields=st.fixed_dictionaries(
        {
            "beta": st.integers(1, 3),
            "tau": st.floats(0, 3),
            "history_cap": st.sampled_from([None, 3]),
            "per": st.sampled_from(["user", "row"]),
        }
    ),
)
def test_both_ways_give_the_same_integers(
    model: Any, seed: int, n_users: int, n_items: int, distinct: int, fields: dict[str, Any]
) -> None:
    pytest.importorskip("numba", reason="needs the extra 'sim'")
    shard = federation(seed, n_users, n_items)
    task = method_of({}, PLGC.model_validate(fields), model(embedding_dim=5), seed=seed)
    params, local = initial_state(task, shard)
    assert_same(*both_ways(task, shard, with_ties(params, distinct), local))


def test_groups_and_blocks_of_users_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("numba", reason="needs the extra 'sim'")
    shard = federation(3, 300, 150)
    task = method_of({}, PLGC(), MatrixFactorization(embedding_dim=32, init_std=0.1))
    params, local = initial_state(task, shard)
    scorer = UserScorer(task, shard, with_ties(params, 40), local)
    together = evaluate(shard, scorer, METRICS, block=1, targets=TARGETS)
    monkeypatch.setattr(counting, "_GROUP", 130)
    monkeypatch.setattr(counting, "_CACHED_USERS", 50)
    assert_same(together, evaluate(shard, scorer, METRICS, block=1, targets=TARGETS))


def test_scores_that_are_not_numbers_are_counted_by_user() -> None:
    pytest.importorskip("numba", reason="needs the extra 'sim'")
    shard = federation(1, 5, 300)
    task = method_of({}, PLGC(), MatrixFactorization(embedding_dim=4))
    params, local = initial_state(task, shard)
    broken = local["user"].copy()
    broken[[1, 4]] = np.nan
    with pytest.raises(NumericError, match="2 of 5 users"):
        scorer = UserScorer(task, shard, params, {**local, "user": broken})
        evaluate(shard, scorer, METRICS, 1, targets=TARGETS)


class _ByPositive(MatrixFactorization):
    """Matrix factorization with a private value for each positive of a client."""

    def params(self, catalogue: Catalogue) -> Mapping[str, ParamSpec]:
        return {**super().params(catalogue), "own": ParamSpec("private", "positive", ())}


def test_a_model_with_values_of_positives_is_not_ranked_by_columns() -> None:
    shard = federation(1, 5, 30)
    for model, expected in ((MatrixFactorization, True), (_ByPositive, False)):
        task = method_of({}, PLGC(), model(embedding_dim=4))
        assert UserScorer(task, shard, *initial_state(task, shard)).by_columns is expected
