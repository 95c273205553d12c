"""Rows that are transformed and summed in training have the sums of rows that numpy transforms."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.aggregation.codec import payload_bytes
from fedrec.aggregation.update import Aggregate, UpdateBatch
from fedrec.compute.context import RoundContext
from fedrec.errors import NumericError
from fedrec.models.mf import MatrixFactorization
from fedrec.training.clients import train_clients
from fedrec.training.draws import positives_of_clients
from fedrec.training.numba_coverage import transforms_in_numba
from fedrec.transforms.base import Transform
from fedrec.transforms.clip import Clip
from fedrec.transforms.gaussian import Gaussian
from fedrec.transforms.pipeline import transformed
from fedrec.transforms.quantize import Float16, Int8
from fedrec.transforms.top_k import TopK
from fedrec.types import Shard
from strategies import FedAvg
from tests.planted import federations, initial_state, method_of, rates, shard_of
from tests.properties.test_invariance import raw_partial

pytest.importorskip("numba", reason="needs the extra 'sim'")

ROUNDING = st.sampled_from(["stochastic", "nearest"])
NARROW = st.one_of(st.builds(Int8, rounding=ROUNDING), st.builds(Float16, rounding=ROUNDING))
CLIPS = st.builds(
    Clip,
    norm=st.floats(-4, 1).map(lambda exponent: 10**exponent),
    per=st.sampled_from(["update", "row"]),
)
TRANSFORMS = st.builds(
    lambda clips, narrow: [*clips, *narrow],
    st.lists(CLIPS, max_size=2),
    st.lists(NARROW, max_size=1),
)
ROUND = 3


def both(
    transforms: list[Transform], shard: Shard, train: dict[str, Any], d: int = 4, **fields: Any
) -> list[UpdateBatch]:
    """Updates transformed in training, where that is done, and the same updates by numpy alone."""
    model = MatrixFactorization(embedding_dim=d, init_std=0.5)
    task = method_of({"backend": "numba"} | train, model=model, **fields)
    params, local = initial_state(task, shard)
    context = RoundContext(task.seed, ROUND, shard.n_clients, shard.n_items)
    updates = []
    for summing in (FedAvg().summing, None):
        update, _ = train_clients(
            task, shard, params, local, ROUND, summing=summing, transforms=transforms
        )
        if not update.summed:
            update, _ = transformed(transforms, update, {}, positives_of_clients(shard), context)
        updates.append(update)
    return updates


def reduced(update: UpdateBatch) -> dict[str, Any]:
    aggregate: Aggregate = FedAvg().reduce(update.decoded())
    return raw_partial(aggregate)


@settings(max_examples=150, deadline=None)
@given(
    transforms=TRANSFORMS,
    shard=federations(),
    d=st.integers(1, 11),
    lr=st.sampled_from([0.1, 1e-6, 1e3]),
    seed=st.integers(0, 99),
    dtype=st.sampled_from(["float32", "float64"]),
)
def test_the_sums_and_the_bytes_are_those_of_numpy(
    transforms: list[Transform], shard: Shard, d: int, lr: float, seed: int, dtype: str
) -> None:
    train = {"optimizers": rates(lr), "negatives": 3}
    fast, plain = both(transforms, shard, train, d, seed=seed, dtype=dtype)
    assert reduced(fast) == reduced(plain)
    assert payload_bytes(fast).tolist() == payload_bytes(plain).tolist()


@pytest.mark.parametrize(("transform", "limit"), [(Float16(), "6.55e"), (Int8(), "8.32e")])
@pytest.mark.parametrize("lr", [1e9, 1e38])
def test_what_does_not_fit_is_an_error_in_the_same_words(
    transform: Transform, limit: str, lr: float
) -> None:
    shard, said = shard_of(9, [[0, 1], [2, 3]]), []
    task = method_of({"backend": "numba", "optimizers": rates(lr)})
    params, local = initial_state(task, shard)
    rows, _ = train_clients(task, shard, params, local, 1)
    with pytest.raises(NumericError, match=rf"'item' has the value .* above {limit}") as slow:
        transform.on_update(rows, RoundContext(0, 1, 2, 9))
    with pytest.raises(NumericError) as fast:
        train_clients(
            task, shard, params, local, 1, summing=FedAvg().summing, transforms=[transform]
        )
    said = [str(slow.value), str(fast.value)]
    assert said[0] == said[1]


class Halved(Clip):
    """Does more than `Clip`."""


def test_only_what_the_kernel_knows_is_left_to_it() -> None:
    known = [Clip(norm=1), Clip(norm=1, per="row"), Float16(), Int8()]
    assert transforms_in_numba(known) and transforms_in_numba([])
    for other in (Gaussian(std=1), TopK(), Halved(norm=1)):
        assert not transforms_in_numba([*known, other])
