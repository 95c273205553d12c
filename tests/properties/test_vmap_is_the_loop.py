"""Many clients side by side are the clients one by one, for every model that says so."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, ClassVar, Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.evaluation.scorer import UserScorer
from fedrec.models.base import Model
from fedrec.models.neumf import NeuMF
from fedrec.models.sasrec import SASRec
from fedrec.personalization.base import NoPersonalization, Personalization
from fedrec.personalization.plgc.plgc import PLGC
from fedrec.training.clients import train_clients
from fedrec.types import FloatArray, Shard
from tests.contracts.own_models import SmallNet, VmapNet
from tests.planted import federations, initial_state, method_of, rates, shard_of

Batching = Literal["flat", "vmap", "loop"]


class LoopNeuMF(NeuMF):
    execution: ClassVar[Batching] = "loop"  # type: ignore[assignment]


class LoopSASRec(SASRec):
    execution: ClassVar[Batching] = "loop"  # type: ignore[assignment]


# Weights of order 1, so that the network matters; and sigmoids that are not linear.
NET: dict[str, Any] = {"embedding_dim": 3, "layers": (5, 4), "init_std": 0.5}
ORDER: dict[str, Any] = {"embedding_dim": 4, "max_len": 5, "heads": 2, "init_std": 0.5}
MODELS: dict[str, tuple[Model, Model]] = {
    "neumf": (NeuMF(**NET), LoopNeuMF(**NET)),
    "neumf-private": (NeuMF(**NET, head="private"), LoopNeuMF(**NET, head="private")),
    "sasrec": (SASRec(**ORDER), LoopSASRec(**ORDER)),
    "own": (VmapNet(), SmallNet()),
}
FORMS: dict[str, Personalization] = {
    "none": NoPersonalization(),
    "kernel": PLGC(branch="similarity", tau=2.0, decorrelation=0.05, history_cap=3, extra_rows=2),
    "kernel-residual": PLGC(branch="similarity", balance="residual", tau=2.0),
    "table": PLGC(branch="table", balance="trace", decorrelation=0.05),
    "table-residual": PLGC(branch="table", balance="residual", persistence=0.5),
}
TRAINS = st.fixed_dictionaries(
    {
        "loss": st.sampled_from(["bce", "bpr"]),
        "reduction": st.sampled_from(["sum", "mean"]),
        "negatives": st.integers(1, 3),
        "local_epochs": st.integers(1, 2),
        "batch_size": st.sampled_from(["full", 5]),
        "optimizers": st.builds(
            rates,
            st.just(0.05),
            st.sampled_from(
                [{"name": "sgd", "lr": 0.1}, {"name": "adam", "lr": 0.02, "epsilon": 0.01}]
            ),
        ),
        "weight_decay": st.sampled_from([0.0, 0.2]),
        # With a tiny epsilon Adam's first step is the sign of the gradient, of rounding errors too.
    }
)


@pytest.fixture(autouse=True, scope="module")
def smooth() -> Iterator[None]:
    """Rounding decides on which side of its kink a ReLU near 0 is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "relu", torch.nn.functional.softplus)
        yield


def with_times(shard: Shard, seed: int) -> Shard:
    """Times with ties."""
    times = np.random.default_rng(seed).integers(0, 6, len(shard.train.values))
    return replace(shard, timestamps=times.astype(np.float64))


def results(
    model: Model, own: Personalization, shard: Shard, train: dict[str, Any], dtype: str, chunk: int
) -> dict[str, FloatArray]:
    """Two rounds of training and a ranking: every array."""
    method = method_of(train, own, model, dtype)
    params, local = initial_state(method, shard)
    _, local = train_clients(method, shard, params, local, 1, chunk)
    update, after = train_clients(method, shard, params, local, 2, chunk)
    views = UserScorer(method, shard, params, after)(np.arange(shard.n_users))
    arrays = {f"table {n}": b.values for n, b in update.tables.items()}
    arrays |= {f"rows {n}": b.ids for n, b in update.tables.items()}
    arrays |= {f"dense {n}": v for n, v in update.dense.items()}
    arrays |= {f"local {n}": v for n, v in after.items()} | {"loss": update.metrics["loss"]}
    return arrays | {f"view {view}": scores.numpy() for view, scores in views.items()}


@pytest.mark.parametrize(
    ("dtype", "form"), [("float32", "kernel"), *(("float64", form) for form in FORMS)]
)
@pytest.mark.parametrize("name", MODELS)
@settings(max_examples=4, deadline=None)
@given(shard=federations(several=True), train=TRAINS, seed=st.integers(0, 99))
def test_side_by_side_is_one_by_one(
    name: str, form: str, dtype: str, shard: Shard, train: dict[str, Any], seed: int
) -> None:
    together, alone = MODELS[name]
    shard = with_times(shard, seed)
    one = results(together, FORMS[form], shard, train, dtype, 64)
    other = results(alone, FORMS[form], shard, train, dtype, 64)
    assert one.keys() == other.keys()
    # A layer norm divides rounding by the small spread of fresh vectors, again in each block.
    tolerance = 1e-10 if dtype == "float64" else 1e-3 if name == "sasrec" else 1e-5
    for key, value in one.items():
        # Relative to the largest value, as a sum's rounding is to its terms.
        scale = max(float(np.abs(other[key]).max(initial=0)), 1.0)
        np.testing.assert_allclose(value, other[key], rtol=0, atol=tolerance * scale, err_msg=key)


@pytest.mark.parametrize("name", MODELS)
def test_any_chunk_gives_the_same_values(name: str) -> None:
    shard = with_times(shard_of(30, [range(n) for n in (1, 9, 3, 20, 4, 4, 12)], [2, 1, 1, 3]), 1)
    train = {"optimizers": rates(0.05), "batch_size": 3}
    expected = results(MODELS[name][0], FORMS["kernel"], shard, train, "float64", 64)
    for chunk in (1, 3):
        part = results(MODELS[name][0], FORMS["kernel"], shard, train, "float64", chunk)
        for key, value in expected.items():
            np.testing.assert_allclose(value, part[key], rtol=0, atol=1e-10, err_msg=key)


def test_the_path_has_its_name() -> None:
    names = {name: [method_of(model=m).executor() for m in pair] for name, pair in MODELS.items()}
    assert set(map(tuple, names.values())) == {("vmap", "loop")}
