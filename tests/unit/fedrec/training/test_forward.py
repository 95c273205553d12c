"""Rows cut into clients, filled up and laid flat again: the same as one client after another."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.compute.batch import Histories
from fedrec.errors import ConfigError
from fedrec.models.base import Batch
from fedrec.models.module import ModelParams
from fedrec.ragged import Ragged, offsets_of
from fedrec.training.forward import Rows, compute


def weigh(params: ModelParams, batch: Batch, vectors: torch.Tensor) -> torch.Tensor:
    """[l, 2]: something that needs every input, and the history up to the pair's context."""
    plain = (vectors @ params["dense"]) * params["user"] + params["whole"]
    if batch.history is None or batch.context is None:
        return torch.stack([plain, batch.users + batch.items.to(plain.dtype)], 1)
    sums = torch.cumsum(batch.history.vectors.sum(-1), 1)
    sums = torch.cat([sums.new_zeros(len(sums), 1), sums], 1)
    before = sums[batch.users, batch.context]
    return torch.stack([plain + before, batch.history.lengths[batch.users].to(plain.dtype)], 1)


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 13), min_size=1, max_size=7),
    several=st.integers(1, 3),
    most=st.sampled_from([None, 1, 20]),
    ordered=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_together_is_one_by_one_is_plain_python(
    sizes: list[int], several: int, most: int | None, ordered: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    sizes = [size for size in sizes if size]
    clients = np.repeat(np.arange(len(sizes)), sizes)
    users = clients * several + rng.integers(0, several, len(clients))
    users = users[np.lexsort((users, clients))]
    n_users, count = len(sizes) * several, len(clients)

    def normal(*shape: int) -> torch.Tensor:
        return torch.from_numpy(rng.standard_normal(shape))

    source, own, dense, whole = normal(30, 3), normal(n_users), normal(len(sizes), 3), normal()
    at = torch.from_numpy(rng.integers(0, 30, count))
    lengths = rng.integers(0, 6, n_users)
    history = Ragged(offsets_of(lengths), rng.integers(0, 30, int(lengths.sum())))
    context = np.array([rng.integers(0, lengths[user] + 1) for user in users], np.int64)
    rows = Rows(
        np.array(sizes, np.int64),
        torch.from_numpy(users),
        at,
        {"user": own[torch.from_numpy(users)]},
        {"dense": dense},
        {"whole": whole},
        vectors=source[at],
        context=torch.from_numpy(context) if ordered else None,
        history=Histories(history, history.values) if ordered else None,
        source=source if ordered else None,
    )
    side_by_side = compute(weigh, rows, "vmap", most)
    one_by_one = compute(weigh, rows, "loop")
    torch.testing.assert_close(side_by_side, one_by_one, rtol=1e-12, atol=1e-12)
    for row in range(count):
        client, user = int(clients[row]), int(users[row])
        plain = source[at[row]] @ dense[client] * own[user] + whole
        first = int(users[clients == client].min())
        second = float(user - first + int(at[row]))
        if ordered:
            plain = plain + source[history.row(user)[: context[row]]].sum()
            second = float(lengths[user])
        expected = torch.stack([plain, plain.new_tensor(second)])
        torch.testing.assert_close(one_by_one[row], expected)


def rows_of(x: torch.Tensor, *clients: int) -> Rows:
    column = torch.tensor(clients)
    return Rows(np.bincount(clients), column, torch.zeros_like(column), {"x": x}, {})


def test_what_is_filled_up_gets_no_gradient() -> None:
    source = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64).requires_grad_()
    rows = rows_of(source, 0, 0, 1)
    gradients = compute(lambda params, batch, vectors: params["x"] ** 2, rows, "vmap")
    (gradient,) = torch.autograd.grad(gradients.sum(), [source])
    assert gradient.tolist() == [2.0, 4.0, 6.0]


def test_a_call_that_vmap_cannot_compute_is_named_with_the_way_out() -> None:
    def branches(params: ModelParams, batch: Batch, vectors: torch.Tensor) -> torch.Tensor:
        return params["x"] if params["x"].sum() > 0 else -params["x"]

    rows = rows_of(torch.ones(2), 0, 1)
    assert compute(branches, rows, "loop").tolist() == [1.0, 1.0]
    with pytest.raises(ConfigError, match=r"vmap.*declare execution = 'loop'"):
        compute(branches, rows, "vmap")


def test_another_fault_of_the_model_stays_what_it_is() -> None:
    def broken(params: ModelParams, batch: Batch, vectors: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("no such thing")

    with pytest.raises(RuntimeError, match="no such thing"):
        compute(broken, rows_of(torch.ones(2), 0, 1), "vmap")
