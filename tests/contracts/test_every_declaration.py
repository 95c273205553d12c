"""Whatever may be declared is filled, trained, kept and ranked with its owner's values."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal

import numpy as np
import pytest
import torch

from fedrec.compute.batch import Tensors
from fedrec.compute.operations import row_dot
from fedrec.data.catalogue import Catalogue
from fedrec.errors import ConfigError
from fedrec.evaluation.scorer import UserScorer
from fedrec.models.base import Batch, Model
from fedrec.models.module import ModelParams
from fedrec.personalization.base import FrozenItems, Personalization, Ranking, View
from fedrec.training.clients import train_clients
from fedrec.training.draws import Layout
from fedrec.training.task import ClientTask
from fedrec.types import ParamSpec, Shard
from tests.planted import initial_state, method_of, rates, shard_of, split_state, train

# Clients of 2, 1, 3 and 1 users, who have 1 to 6 items; two users of one client share an item.
SHARD = shard_of(
    13, [[0, 1, 4], [1, 2, 3], [5], [1, 7, 8, 9, 10, 12], [2], [3, 11], [4, 6]], [2, 1, 3, 1]
)
AXES = ("user", "client", "positive")


class Shifted(Model):
    """Factors and one private number added to each score, of a given axis."""

    axis: Literal["user", "client", "positive"] = "user"
    trainable: bool = True

    def params(self, catalogue: Catalogue) -> Mapping[str, ParamSpec]:
        shift = ParamSpec("private", self.axis, (), init_std=0.5, trainable=self.trainable)
        return {
            "item": ParamSpec("shared", "item", (3,), init_std=0.5),
            "bias": ParamSpec("shared", "item", ()),
            "scale": ParamSpec("shared", None, (), init_value=1.0),
            "user": ParamSpec("private", "user", (3,), init_std=0.5),
            "shift": shift,
        }

    def score(self, params: ModelParams, batch: Batch, vectors: torch.Tensor) -> torch.Tensor:
        product = params["scale"] * row_dot(params["user"], vectors)
        return product + params["bias"] + params["shift"]


class LoopShifted(Shifted):
    execution: ClassVar[Literal["flat", "vmap", "loop"]] = "loop"


class VmapShifted(Shifted):
    execution: ClassVar[Literal["flat", "vmap", "loop"]] = "vmap"


class Added(Personalization):
    """A private number added to each score, of a given axis."""

    axis: Literal["user", "client", "positive"] = "user"
    trainable: bool = True

    def state(self, dim: int) -> Mapping[str, ParamSpec]:
        spec = ParamSpec("private", self.axis, (), init_std=0.5, trainable=self.trainable)
        return {"added": spec}

    def score(
        self, base: torch.Tensor, local: Tensors, index: torch.Tensor, prepared: Any
    ) -> torch.Tensor:
        return base + local["added"]

    def rank(
        self, frozen_items: FrozenItems, local: Tensors, ranking: Ranking
    ) -> dict[View, torch.Tensor]:
        scores = ranking.scores().clone()
        if self.axis != "positive":
            return {"mixed": scores + local["added"].unsqueeze(1)}
        for row, user in enumerate(ranking.users.tolist()):
            client = frozen_items.clients[user]
            of_client = slice(*frozen_items.positives.offsets[client : client + 2])
            items = torch.from_numpy(frozen_items.positives.values[of_client])
            scores[row, items] += local["added"][of_client]
        return {"mixed": scores}


FORMS = [
    pytest.param(model(axis=axis), Personalization(), "shift", axis, id=f"{model.__name__}-{axis}")
    for model in (Shifted, LoopShifted, VmapShifted)
    for axis in AXES
] + [
    pytest.param(model, Added(axis=axis), "added", axis, id=f"{type(model).__name__}-added-{axis}")
    for model in (Shifted(), VmapShifted())
    for axis in AXES
]
every_form = pytest.mark.parametrize(("model", "personalization", "name", "axis"), FORMS)


def task_of(model: Model, personalization: Personalization, **train: Any) -> ClientTask:
    fields = {"optimizers": rates(0.1), "batch_size": 2, "local_epochs": 2, "negatives": 2}
    return method_of(fields | train, personalization, model)


@every_form
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_every_value_is_trained_and_no_other_client_is_needed_for_it(
    model: Model, personalization: Personalization, name: str, axis: str, optimizer: str
) -> None:
    optimizers = rates(0.1, {"name": optimizer, "lr": 0.1})
    task = task_of(model, personalization, optimizers=optimizers, weight_decay=0.1)
    params, local = initial_state(task, SHARD)
    update, after = train_clients(task, SHARD, params, local, 1, chunk=3)
    layout = Layout.of(task, SHARD)
    for param, spec in task.stored_specs().items():
        assert len(after[param]) == layout.offsets[str(spec.axis)][-1]
    assert (after[name] != local[name]).all()
    for client in range(SHARD.n_clients):
        one = np.array([client])
        own = split_state(task, SHARD, local, one)
        alone, state = train_clients(task, SHARD.take(one), params, own, 1)
        for param, value in split_state(task, SHARD, after, one).items():
            np.testing.assert_allclose(state[param], value, atol=1e-6, err_msg=param)
        for param in update.dense:
            np.testing.assert_allclose(
                alone.dense[param][0], update.dense[param][client], atol=1e-6
            )


@every_form
def test_untrainable_values_stay(
    model: Model, personalization: Personalization, name: str, axis: str
) -> None:
    fixed = {"trainable": False}
    if name == "added":
        task = task_of(model, personalization.model_copy(update=fixed))
    else:
        task = task_of(model.model_copy(update=fixed), personalization)
    _, _, after = train(task, SHARD, rounds=2)
    assert np.array_equal(after[name], initial_state(task, SHARD)[1][name])


@every_form
def test_users_rank_with_their_own_values(
    model: Model, personalization: Personalization, name: str, axis: str
) -> None:
    task = task_of(model, personalization)
    params, local = initial_state(task, SHARD)
    users = np.array([1, 2, 5, 6])
    before = UserScorer(task, SHARD, params, local)(users)["mixed"]
    shift = np.arange(1, 1 + len(local[name]), dtype=np.float32)
    after = UserScorer(task, SHARD, params, {**local, name: local[name] + shift})(users)["mixed"]
    np.testing.assert_allclose(after - before, added(SHARD, users, axis, shift), atol=1e-4)


def added(shard: Shard, users: np.ndarray, axis: str, shift: np.ndarray) -> np.ndarray:
    """What each user's own values add to each score."""
    clients = shard.client_of_user()[users]
    if axis != "positive":
        return np.tile(shift[users if axis == "user" else clients, None], (1, shard.n_items))
    expected, start = np.zeros((shard.n_users, shard.n_items)), 0
    for client, (low, high) in enumerate(
        zip(shard.client_offsets, shard.client_offsets[1:], strict=False)
    ):
        rows = range(low, high)
        items = sorted({int(i) for row in rows for i in shard.train.row(row)})
        expected[np.ix_(rows, items)] = shift[start : start + len(items)]
        start += len(items)
        assert client < shard.n_clients
    return np.asarray(expected[users])


class Odd(Shifted):
    """Declares one thing more."""

    def params(self, catalogue: Catalogue) -> Mapping[str, ParamSpec]:
        return {**super().params(catalogue), "odd": ODD[0]}


ODD: list[ParamSpec] = []
GOOD = ParamSpec("private", "user", (2,))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (dict(scope="globl"), "scope 'globl' is unknown"),
        (dict(axis="row"), "axis 'row' is unknown"),
        (dict(axis=None), "a private parameter needs an axis"),
        (dict(axis="item"), "axis positive"),
        (dict(scope="shared"), "axis item or None"),
        (dict(scope="shared", axis="positive"), "axis item or None"),
        (dict(scope="frozen", axis=None), "a frozen parameter is a feature of items"),
        (dict(scope="frozen"), "a frozen parameter is a feature of items"),
        (dict(scope="frozen", axis="item"), "the items have no feature 'odd'"),
        (dict(scope="shared", axis="item", trainable=False), "always trained"),
        (dict(scope="shared", axis=None, dtype="int32"), "not trained"),
        (dict(dtype="int32"), "not trained"),
        (dict(dtype="float16"), "dtype 'float16' is unknown"),
        (dict(dtype="int32", trainable=False, init_std=1.0), "init_std"),
        (dict(init_std=-1.0), "from 0"),
        (dict(init_std=float("nan")), "finite"),
        (dict(init_value=float("inf")), "finite"),
        (dict(shape=(0,)), "shape"),
        (dict(shape=3), "shape"),
        (dict(axis="seen_item"), "seen_item"),
        (dict(axis="seen_item", trainable=False), "seen_item"),
        (dict(trainable="no"), "trainable"),
        (dict(trainable=1), "trainable"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(changed: dict[str, Any], message: str) -> None:
    ODD[:] = [replace(GOOD, **changed)]
    with pytest.raises(ConfigError, match="'odd'") as error:
        method_of(model=Odd())
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_personalization_declares_private_parameters_only() -> None:
    class Sharing(Personalization):
        def state(self, dim: int) -> Mapping[str, ParamSpec]:
            return {"extra": ParamSpec("shared", None, (dim,))}

    with pytest.raises(ConfigError, match="personalization Sharing: parameter 'extra'"):
        method_of(personalization=Sharing())
