"""What a job takes is what it is reported to take, or a close estimate of that."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.aggregation.codec import payload_bytes
from fedrec.aggregation.reduce import download_bytes
from fedrec.aggregation.update import Down
from fedrec.devices.work import work_of
from fedrec.models import PFedRec, SASRec
from fedrec.models.base import Model
from fedrec.models.mf import MatrixFactorization
from fedrec.personalization.plgc.plgc import PLGC
from fedrec.ragged import Ragged
from fedrec.testing.trial import Trial
from fedrec.training.task import ClientTask
from fedrec.transforms import TRANSFORMS
from fedrec.transforms.base import Transform
from fedrec.transforms.pipeline import transformed
from fedrec.types import IntArray, Shard
from strategies import Composed, FedAvg, FedDyn, Scaffold
from tests.planted import federations, method_of, shard_of

CODINGS: dict[str, Sequence[Transform]] = {
    "none": [],
    "int8": [TRANSFORMS["int8"]()],
    "float16": [TRANSFORMS["float16"]()],
    "top_k": [TRANSFORMS["top_k"].model_validate({"share": 0.25})],
    "low_rank": [TRANSFORMS["low_rank"].model_validate({"rank": 2})],
    "top_k, int8": [TRANSFORMS["top_k"](), TRANSFORMS["int8"]()],
}


def sent(task: ClientTask, shard: Shard, down: Down | None = None) -> IntArray:
    """The bytes that clients send after a round of training."""
    trial = Trial.before(task, shard)
    trial = replace(trial, down=down or trial.down)
    update, private = trial.train(1)
    positives = Ragged(shard.train.offsets, shard.train.values)
    update, _ = transformed(task.transforms, update, private, positives, trial.context(1))
    return payload_bytes(update)


@settings(max_examples=30, deadline=None)
@given(
    shard=federations(several=True),
    model=st.sampled_from([MatrixFactorization(embedding_dim=4), PFedRec(embedding_dim=4)]),
    strategy=st.sampled_from([FedAvg(), FedDyn(), Scaffold()]),
    epochs=st.integers(1, 3),
    negatives=st.integers(1, 3),
)
def test_no_client_sends_more(
    shard: Shard, model: Model, strategy: Composed, epochs: int, negatives: int
) -> None:
    """Of catalogues of up to 128 items."""
    train = {"local_epochs": epochs, "negatives": negatives}
    task = method_of(train, PLGC(), model, client_rule=strategy.client_rule)
    work, trial = work_of(task, shard), Trial.before(task, shard)
    assert np.array_equal(work.examples, shard.examples() * epochs)
    context = trial.context(0)
    state = strategy.init(trial.params, context)
    down = strategy.broadcast(state, trial.params, shard.client_ids, context)
    assert (work.down == download_bytes(down)).all()
    assert (sent(task, shard, down) <= work.up).all()


@pytest.mark.parametrize("coding", CODINGS)
def test_the_estimate_is_close_where_every_item_is_touched(coding: str) -> None:
    """A thousand negatives touch all of 300 items."""
    shard = shard_of(300, [[1, 2, 3], [4, 250]])
    model = MatrixFactorization(embedding_dim=8, init_std=0.5)
    task = replace(method_of({"negatives": 1000}, model=model), transforms=tuple(CODINGS[coding]))
    up, real = work_of(task, shard).up, sent(task, shard)
    assert up == pytest.approx(real, rel=0.03)
    if coding != "none":
        assert (up < work_of(replace(task, transforms=()), shard).up).all()


def test_a_window_limits_what_is_trained_on() -> None:
    shard = shard_of(60, [range(40), range(5)])
    shard = replace(shard, timestamps=np.arange(45, dtype=np.float64))
    model = SASRec(embedding_dim=8, max_len=10)
    task = method_of({"local_epochs": 2, "negatives": 1}, model=model)
    work = work_of(task, shard)
    assert work.examples.tolist() == [20, 10]
    assert (sent(task, shard) <= work.up).all()


def test_dense_parameters_are_sent_by_those_without_items_too() -> None:
    shard = shard_of(60, [[], [3, 4]])
    task = method_of(model=PFedRec(embedding_dim=4))
    work = work_of(task, shard)
    assert work.examples.tolist() == [0, 2]
    assert 0 < work.up[0] < work.up[1]
