"""The local branch over the whole catalogue is its definition, whoever is ranked together."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.evaluation.scorer import UserScorer
from fedrec.models.mf import MatrixFactorization
from fedrec.personalization.plgc.plgc import PLGC
from fedrec.types import FloatArray, Shard
from tests.planted import initial_state, method_of, shard_of, split_state


def crowd(seed: int, n_users: int, n_items: int) -> Shard:
    """Users with no train items, some, and all but one."""
    rng = np.random.default_rng(seed)
    lengths = [0, n_items - 1, *rng.integers(1, n_items // 2, n_users - 2).tolist()]
    rows = [np.sort(rng.choice(n_items, size=n, replace=False)).tolist() for n in lengths]
    return shard_of(n_items, rows)


def by_definition(table: FloatArray, history: list[int], beta: int, tau: float) -> FloatArray:
    """float64 [n_items], one pair after the other."""
    z = table.astype(np.float64)
    z -= z.mean(0)
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    branch = np.zeros(len(z))
    for item in range(len(z)):
        for known in history:
            if known != item:
                branch[item] += max(0.0, float(z[item] @ z[known])) ** beta
    return np.asarray(tau * branch / np.sqrt(max(len(history), 1)))


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 99),
    n_items=st.integers(20, 300),
    beta=st.integers(1, 4),
    tau=st.floats(0.1, 3.0),
    cap=st.sampled_from([None, 4]),
)
def test_the_branch_is_its_definition(
    seed: int, n_items: int, beta: int, tau: float, cap: int | None
) -> None:
    shard = crowd(seed, 4, n_items)
    plgc = PLGC.model_validate({"beta": beta, "tau": tau, "history_cap": cap})
    method = method_of({}, plgc, MatrixFactorization(embedding_dim=5, init_std=0.1), seed=seed)
    params, local = initial_state(method, shard)
    branch = UserScorer(method, shard, params, local)(np.arange(4))["local"]
    assert branch.shape == (4, n_items)
    history = plgc.history(shard, seed)
    for user in range(4):
        expected = by_definition(params["item"], history.row(user).tolist(), beta, tau)
        np.testing.assert_allclose(branch[user], expected, rtol=1e-3, atol=1e-4)
    assert not branch[0].any()


@pytest.mark.parametrize("fields", [{}, {"branch": "table"}, {"history_cap": 50, "per": "row"}])
def test_any_block_and_thread_number_at_a_real_size(fields: dict[str, object]) -> None:
    shard = crowd(7, 12, 700)
    model = MatrixFactorization(embedding_dim=32, init_std=0.1)
    method = method_of({}, PLGC.model_validate(fields), model)
    params, local = initial_state(method, shard)
    everybody = np.arange(12)
    before = torch.get_num_threads()
    together = UserScorer(method, shard, params, local)(everybody)
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            for rows in np.split(everybody, [1, 4, 5]):
                private = split_state(method, shard, local, rows)
                alone = UserScorer(method, shard.take(rows), params, private)
                for view, scores in alone(np.arange(len(rows))).items():
                    assert torch.equal(scores, together[view][rows])
    finally:
        torch.set_num_threads(before)
