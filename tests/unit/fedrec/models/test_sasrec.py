"""SASRec against torch's own encoder, and what it may look at."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.errors import ConfigError
from fedrec.evaluation.scorer import UserScorer
from fedrec.models import SASRec
from fedrec.models.base import Batch, History
from fedrec.models.module import ModelParams
from fedrec.personalization.base import View
from fedrec.personalization.plgc.plgc import PLGC
from fedrec.training.clients import train_clients
from fedrec.training.plan import plan_training
from tests.planted import initial_state, method_of, rates, shard_of, with_module

D, PLACES = 4, 6


def random_parameters(model: SASRec, seed: int) -> ModelParams:
    rng = np.random.default_rng(seed)
    specs = {n: s for n, s in method_of(model=model).specs().items() if n != "item"}
    values = {name: torch.from_numpy(rng.standard_normal(s.shape)) for name, s in specs.items()}
    return with_module(model, values)


def encoder(model: SASRec, params: ModelParams) -> torch.nn.TransformerEncoder:
    """torch's own encoder with the same weights: norm first, relu, a last norm."""
    block = torch.nn.TransformerEncoderLayer(
        D, model.heads, D, 0.0, batch_first=True, norm_first=True, dtype=torch.float64
    )
    norm = torch.nn.LayerNorm(D, dtype=torch.float64)
    layers = torch.nn.TransformerEncoder(block, model.blocks, norm, enable_nested_tensor=False)
    names = {
        "query_key_value.": "self_attn.in_proj_",
        "mix.": "self_attn.out_proj.",
        "ffn.0.": "linear1.",
        "ffn.2.": "linear2.",
        "norm1.": "norm1.",
        "norm2.": "norm2.",
    }
    state = {f"norm.{n}": params[f"{model.blocks}.{n}"] for n in ("weight", "bias")}
    for block_at in range(model.blocks):
        for ours, theirs in names.items():
            for n in ("weight", "bias"):
                state[f"layers.{block_at}.{theirs}{n}"] = params[f"{block_at}.{ours}{n}"]
    layers.load_state_dict(state)
    return layers


@pytest.mark.parametrize(("blocks", "heads"), [(1, 1), (2, 2)])
@pytest.mark.parametrize("length", [0, 3, 5, 6])
def test_states_are_those_of_torchs_encoder(blocks: int, heads: int, length: int) -> None:
    model = SASRec(embedding_dim=D, max_len=PLACES, blocks=blocks, heads=heads)
    params = random_parameters(model, 3)
    rng = np.random.default_rng(4)
    vectors = torch.from_numpy(rng.standard_normal((2, length, D)))
    x = torch.cat([params["start"].expand(2, 1, D), vectors], 1)[:, :PLACES]
    x = x + params["positions"][: x.shape[1]]
    mask = torch.nn.Transformer.generate_square_subsequent_mask(x.shape[1], dtype=torch.float64)
    expected = encoder(model, params)(x, mask=mask, is_causal=True)
    states = model.states(params, vectors)
    assert states.shape == (2, min(length + 1, PLACES), D)
    torch.testing.assert_close(states, expected, rtol=1e-10, atol=1e-10)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 99), place=st.integers(0, 4), length=st.integers(5, 9))
def test_a_later_item_changes_no_earlier_score(seed: int, place: int, length: int) -> None:
    model = SASRec(embedding_dim=D, max_len=PLACES, heads=2)
    params = random_parameters(model, seed)
    rng = np.random.default_rng(seed)
    vectors = torch.from_numpy(rng.standard_normal((1, length, D)))
    other = vectors.clone()
    other[:, place:] = torch.from_numpy(rng.standard_normal((1, length - place, D)))
    item = torch.from_numpy(rng.standard_normal((place + 1, D)))
    context = torch.arange(place + 1)
    nobody = torch.zeros_like(context)
    batch = Batch(nobody, nobody, context=context)

    def scores(history: torch.Tensor) -> torch.Tensor:
        items = torch.zeros(1, length, dtype=torch.int64)
        past = History(history, torch.tensor([length]), items)
        return model.score(params, replace(batch, history=past), item)

    assert torch.equal(scores(vectors), scores(other))


def timed(rows: list[list[int]], n_items: int = 12) -> tuple[np.ndarray, list[list[int]]]:
    """Times of sorted rows such that the items come in the order in which they are written."""
    times = [float(row.index(item)) for row in rows for item in sorted(row)]
    return np.array(times), rows


def test_each_positive_and_its_negatives_stand_after_what_came_before() -> None:
    times, rows = timed([[7, 2, 9, 4, 0], [3, 1]])
    shard = replace(shard_of(12, rows), timestamps=times)
    model = SASRec(embedding_dim=D, max_len=3)
    method = method_of({"negatives": 2}, model=model)
    (epoch,) = plan_training(method, shard, 1).epochs
    (step,) = epoch.steps
    pairs = step.pairs
    assert pairs.history is not None and step.scored is not None and step.context is not None
    items = pairs.items.numpy()
    assert [items[pairs.history.rows.row(user)].tolist() for user in (0, 1)] == [[9, 4, 0], [3, 1]]
    users = pairs.users[step.scored].tolist()
    scored = list(zip(users, items[step.scored].tolist(), step.context.tolist(), strict=True))
    draws, before = epoch.draws, {(0, 9): 0, (0, 4): 1, (0, 0): 2, (1, 3): 0, (1, 1): 1}
    expected = []
    for user, item, negatives in zip(draws.users, draws.items, draws.negatives, strict=True):
        stands = before[int(user), int(item)]
        expected += [(int(user), int(i), stands) for i in (item, *negatives)]
    assert scored == expected
    assert step.is_positive.tolist() == [1.0, 0.0, 0.0] * 5
    assert step.n_negative.tolist() == [0.0, 1.0, 1.0] * 5


def test_the_ranking_starts_from_the_latest_train_items() -> None:
    times, rows = timed([[7, 2, 9, 4, 0], [3, 1], [5]])
    shard = replace(shard_of(12, rows), timestamps=times)
    method = method_of(model=SASRec(embedding_dim=D, max_len=4, init_std=0.5), dtype="float64")
    params, local = initial_state(method, shard)
    scores = UserScorer(method, shard, params, local)(np.arange(3))["mixed"]
    assert isinstance(method.model, SASRec)
    values = {name: torch.from_numpy(value).double() for name, value in params.items()}
    tensors = with_module(method.model, values)
    for user, items in enumerate(([9, 4, 0], [3, 1], [5])):
        state = method.model.states(tensors, tensors["item"][items][None])[0, len(items)]
        torch.testing.assert_close(scores[user], tensors["item"] @ state)


def test_a_clients_own_item_vectors_count_as_history_and_as_candidates() -> None:
    times, rows = timed([[7, 2, 9, 4, 0], [3, 1], [5]])
    shard = replace(shard_of(12, rows, [2, 1]), timestamps=times)
    model = SASRec(embedding_dim=D, max_len=4, init_std=0.5)
    method = method_of(model=model, personalization=PLGC(branch="table"), dtype="float64")
    params, local = initial_state(method, shard)
    rng = np.random.default_rng(0)
    local = {**local, "residual": rng.standard_normal(local["residual"].shape)}
    local["lambda"] = np.array([0.25, 0.5, 1.0])
    views = UserScorer(method, shard, params, local)(np.arange(3))
    values = {name: torch.from_numpy(value).double() for name, value in params.items()}
    tensors, table = with_module(model, values), values["item"]
    tables = [table.clone(), table.clone()]
    positives = ([0, 1, 2, 3, 4, 7, 9], [5])
    residual = iter(torch.from_numpy(local["residual"]))
    for client, own in enumerate(positives):
        for item in own:
            tables[client][item] += next(residual)
    for user, items in enumerate(([9, 4, 0], [3, 1], [5])):
        of_client, share = tables[user // 2], float(local["lambda"][user])
        expected: dict[View, torch.Tensor] = {
            "global": table,
            "local": of_client,
            "mixed": share * of_client + (1 - share) * table,
        }
        for view, rows_of in expected.items():
            state = model.states(tensors, rows_of[items][None])[0, len(items)]
            torch.testing.assert_close(views[view][user], rows_of @ state, rtol=1e-6, atol=1e-9)


def test_the_order_of_clients_does_not_matter() -> None:
    times, rows = timed([[7, 2, 9, 4, 0], [3, 1], [5], [8, 6, 2]])
    shard = replace(shard_of(12, rows), timestamps=times)
    method = method_of({"optimizers": rates(0.1)}, model=SASRec(embedding_dim=D, init_std=0.5))
    params, local = initial_state(method, shard)
    order = np.array([2, 0, 3, 1])
    one, _ = train_clients(method, shard, params, local, 1)
    other, _ = train_clients(method, shard.take(order), params, local, 1)
    for place, client in enumerate(order):
        (a, b), (x, y) = (
            u.tables["item"].offsets[[i, i + 1]] for u, i in ((one, client), (other, place))
        )
        assert one.tables["item"].ids[a:b].tolist() == other.tables["item"].ids[x:y].tolist()
        np.testing.assert_allclose(
            one.tables["item"].values[a:b], other.tables["item"].values[x:y], atol=1e-6
        )
        np.testing.assert_allclose(
            one.dense["start"][client], other.dense["start"][place], atol=1e-6
        )


def test_heads_divide_the_dimension() -> None:
    with pytest.raises(ConfigError, match="heads: 3 do not divide embedding_dim 32"):
        SASRec(heads=3)
