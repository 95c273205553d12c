"""What personalizations come to where it can be derived by hand, or is another method."""

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar, Literal

import numpy as np
import pytest
import torch

from fedrec.aggregation.update import UpdateBatch
from fedrec.data.catalogue import Catalogue
from fedrec.evaluation.scorer import UserScorer
from fedrec.models.base import Batch, Model
from fedrec.models.mf import MatrixFactorization
from fedrec.models.module import ModelParams
from fedrec.personalization.additive import Additive
from fedrec.personalization.base import NoPersonalization, Personalization, View
from fedrec.personalization.ditto import Ditto
from fedrec.personalization.fedrep import FedRep
from fedrec.personalization.finetune import FineTune
from fedrec.personalization.interpolation import Interpolation
from fedrec.testing.trial import TRAIN, small_catalogue, small_split
from fedrec.training.clients import train_clients
from fedrec.training.end import begin_end
from fedrec.training.plan import plan_training
from fedrec.training.task import ClientTask
from fedrec.types import Params, ParamSpec
from tests.contracts.content_models import TextAlone
from tests.contracts.own_models import Weighted
from tests.planted import (
    in_numba,
    initial_state,
    method_of,
    rates,
    shard_of,
    split_state,
    train,
)

SHARD = shard_of(9, [[0, 1, 4], [2, 3], [5], [1, 7]], [2, 1, 1])
ALONE = shard_of(6, [[2]])
"""One client with one positive, so that a sum over positives has one term."""


class Quadratic(Model):
    r"""One shared number x with the loss :math:`F(x) = (x - a)^2 / 2` of each positive."""

    execution: ClassVar[Literal["flat", "vmap", "loop"]] = "loop"
    a: float = 2.0

    def params(self, catalogue: Catalogue) -> Mapping[str, ParamSpec]:
        return {"x": ParamSpec("shared", None, ())}

    def item_vectors(self, params: ModelParams, items: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(items), 1)

    def score(self, params: ModelParams, batch: Batch, vectors: torch.Tensor) -> torch.Tensor:
        return params["x"] + vectors[:, 0]

    def loss(self, params: ModelParams, batch: Batch, vectors: torch.Tensor) -> torch.Tensor:
        assert batch.labels is not None
        return batch.labels * (params["x"] - self.a) ** 2 / 2


def quadratic(form: Personalization, a: float = 2.0, lr: float = 0.1) -> ClientTask:
    return method_of({"optimizers": rates(lr)}, form, Quadratic(a=a), "float64")


def trained(
    task: ClientTask, w: float, private: Mapping[str, float] | None = None, rounds: int = 1
) -> tuple[float, Params]:
    """What is uploaded of x after the last of some rounds that all begin from w, and the rest."""
    params, local = initial_state(task, ALONE)
    params = {"x": np.full_like(params["x"], w)}
    local = {**local, **{name: np.array([value]) for name, value in (private or {}).items()}}
    update: UpdateBatch | None = None
    for number in range(1, rounds + 1):
        update, local = train_clients(task, ALONE, params, local, number)
    assert update is not None
    return float(update.dense["x"][0]), local


@pytest.mark.parametrize(("pull", "w"), [(0.0, 3.0), (0.5, 3.0), (1.0, -1.0), (4.0, 1.0)])
def test_ditto_ends_between_its_own_aim_and_the_shared_model(pull: float, w: float) -> None:
    """With F = (x - a)^2 / 2 the private model has the fixed point (a + pull w) / (1 + pull)."""
    _, local = trained(quadratic(Ditto(pull=pull)), w, rounds=300)
    assert local["copy.x"] == pytest.approx((2.0 + pull * w) / (1 + pull), abs=1e-9)


def test_a_step_of_ditto() -> None:
    """v - lr (v - a + pull (v - w)); the shared model makes a step of its own."""
    change, local = trained(quadratic(Ditto(pull=0.5)), w=1.0, private={"copy.x": 3.0})
    assert change == pytest.approx(-0.1 * (1.0 - 2.0))
    assert local["copy.x"][0] == pytest.approx(3.0 - 0.1 * (1.0 + 0.5 * 2.0))


def test_a_step_of_interpolation() -> None:
    """v = 2, w = 0, alpha = 1/2, a = 2: the mix is 1, and the gradient of alpha is (v - w) (-1)."""
    form = Interpolation(alpha=0.5, alpha_lr=0.1)
    change, local = trained(quadratic(form), w=0.0, private={"copy.x": 2.0, "alpha": 0.5})
    assert local["alpha"][0] == pytest.approx(0.5 - 0.1 * -2.0)
    assert local["copy.x"][0] == pytest.approx(2.0 - 0.1 * 0.5 * -1.0)
    assert change == pytest.approx(-0.1 * (0.0 - 2.0))


def test_the_weight_of_interpolation_stays_from_0_to_1_and_moves_once_in_a_round() -> None:
    for start, expected in ((0.9, 1.0), (0.1, 0.0)):
        form = Interpolation(alpha=start, alpha_lr=1.0)
        given = {"copy.x": 4.0 if start > 0.5 else -2.0, "alpha": start}
        aim = 4.0 if start > 0.5 else 2.0
        _, local = trained(quadratic(form, a=aim), w=0.0, private=given)
        assert local["alpha"][0] == expected
    train = {"optimizers": rates(0.1), "local_epochs": 3}
    form = Interpolation(alpha=0.5, alpha_lr=0.1)
    task = method_of(train, form, Quadratic(), "float64")
    _, local = trained(task, w=0.0, private={"copy.x": 2.0, "alpha": 0.5})
    assert local["alpha"][0] == pytest.approx(0.7)


def same_rounds(task: ClientTask, expected: ClientTask, names: Mapping[str, str]) -> None:
    """Both send the same and keep the same, under some names, for three rounds; to the bit."""
    (params, updates, private), other = train(task, SHARD, 3), train(expected, SHARD, 3)
    for name in other[0]:
        np.testing.assert_array_equal(params[name], other[0][name])
    for update, like in zip(updates, other[1], strict=True):
        for name, block in like.tables.items():
            np.testing.assert_array_equal(update.tables[name].ids, block.ids)
            np.testing.assert_array_equal(update.tables[name].values, block.values)
    for name, like_name in names.items():
        np.testing.assert_array_equal(private[name], other[2][like_name])


FORMS: list[Personalization] = [
    Interpolation(alpha=0.0, alpha_lr=0.0),
    Interpolation(alpha=0.7),
    Ditto(),
    FedRep(heads=()),
]


@pytest.mark.parametrize("model", [MatrixFactorization(embedding_dim=4, init_std=0.5), Weighted()])
@pytest.mark.parametrize("form", FORMS, ids=repr)
def test_the_shared_model_is_trained_as_without_it(form: Personalization, model: Model) -> None:
    private = {"name": "adam", "lr": 0.05}
    settings = {"optimizers": rates(0.1, private), "batch_size": 2, "weight_decay": 0.1}
    task, expected = method_of(settings, form, model), method_of(settings, None, model)
    same_rounds(task, expected, {"user": "user", "user/first": "user/first"})


@pytest.mark.parametrize(("alpha", "view"), [(0.0, "global"), (1.0, "local")])
def test_interpolation_of_one_model_ranks_with_it(alpha: float, view: View) -> None:
    task = method_of({"optimizers": rates(0.1)}, Interpolation(alpha=alpha, alpha_lr=0))
    params, _, private = train(task, SHARD, 2)
    scores = UserScorer(task, SHARD, params, private)(np.arange(4))
    torch.testing.assert_close(scores["mixed"], scores[view])
    assert not torch.allclose(scores["global"], scores["local"])


def test_interpolation_of_weight_1_learns_from_nobody() -> None:
    """Whatever the server sends; the model has no item table, of which it would copy positives."""
    alone = ClientTask(
        TextAlone(), NoPersonalization(), TRAIN, 0, "clean", "float64", catalogue=small_catalogue()
    )
    shard = small_split().shard(np.array([3]))
    task = replace(alone, personalization=Interpolation(alpha=1.0, alpha_lr=0.0))
    (params, private), (sent, local) = initial_state(alone, shard), initial_state(task, shard)
    for number in (1, 2, 3):
        update, private = train_clients(alone, shard, params, private, number)
        params = {name: value + update.dense[name][0] for name, value in params.items()}
        others = {name: value + np.float32(number) for name, value in sent.items()}
        _, local = train_clients(task, shard, others, local, number)
    for name, value in params.items():
        np.testing.assert_allclose(local[f"copy.{name}"][0], value, rtol=1e-9)
    np.testing.assert_allclose(local["copy.user"], private["user"], rtol=1e-9)


def test_ditto_without_pull_does_not_see_what_the_server_sends() -> None:
    task = quadratic(Ditto(pull=0.0))
    first, second = (trained(task, w, rounds=3)[1]["copy.x"] for w in (-5.0, 7.0))
    np.testing.assert_array_equal(first, second)


def test_copies_and_heads_begin_as_what_they_stand_for() -> None:
    model = Weighted(embedding_dim=3)
    plain = method_of({}, None, model)
    shared, private = initial_state(plain, SHARD)
    task = method_of({}, Ditto(), model)
    _, local = initial_state(task, SHARD)
    np.testing.assert_array_equal(local["copy.user"], private["user"])
    np.testing.assert_array_equal(local["copy.weight"], np.tile(shared["weight"], (3, 1)))
    positives = [0, 1, 2, 3, 4, 5, 1, 7]
    np.testing.assert_array_equal(local["copy.item"], shared["item"][positives])
    # A head is no longer shared, and that of each client is its own.
    heads = method_of({"optimizers": rates(0.1)}, FedRep(heads=("weight",)), model)
    sent, local = initial_state(heads, SHARD)
    assert set(sent) == {"item"}
    np.testing.assert_array_equal(local["weight"], np.tile(shared["weight"], (3, 1)))
    one = np.array([1])
    private = split_state(heads, SHARD, local, one)
    before = {name: value.copy() for name, value in local.items()}
    _, after = train_clients(heads, SHARD.take(one), sent, private, 1)
    assert (after["weight"] != before["weight"][1]).all()
    np.testing.assert_array_equal(local["weight"], before["weight"])


def test_clients_of_fedrep_that_were_not_drawn_keep_their_first_head() -> None:
    """However the others move: it does not follow them."""
    task = method_of({"optimizers": rates(0.1)}, FedRep(heads=("weight",)), Weighted())
    params, local = initial_state(task, SHARD)
    first = task.initial_private("weight", np.array([2]), SHARD.n_items)
    for number in (1, 2):
        drawn = np.array([0, 1])
        private = split_state(task, SHARD, local, drawn)
        update, _ = train_clients(task, SHARD.take(drawn), params, private, number)
        assert "weight" not in update.dense
    np.testing.assert_array_equal(local["weight"][2:], first)


def test_fedrep_finds_the_head_of_a_model_that_shows_its_last_layer() -> None:
    assert set(method_of({}, FedRep()).phases[0].parameters or ()) == {"user"}
    task = method_of({}, FedRep(), Weighted())
    # The weights make the features; only the user's vector is behind them.
    assert [phase.parameters for phase in task.phases] == [("user",), ("item", "weight")]


@pytest.mark.parametrize(
    ("form", "epochs"),
    [(Interpolation(), 2), (Additive(), 2), (Ditto(), 4), (FedRep(body_epochs=2), 4)],
    ids=lambda each: type(each).__name__,
)
def test_each_model_makes_as_many_steps_as_without_it(form: Personalization, epochs: int) -> None:
    """Ditto's two models, and FedRep's two parts, take turns."""
    settings = {"local_epochs": 2, "batch_size": 2}
    task, plain = method_of(settings, form), method_of(settings)
    plan = plan_training(task, SHARD, 1)
    expected = len(list(plan_training(plain, SHARD, 1).steps_of("item")))
    assert len(plan.epochs) == epochs
    assert len(list(plan.steps_of("item"))) == expected
    for copy in task.copies():
        assert len(list(plan.steps_of(copy))) == expected


@pytest.mark.parametrize("pull", [0.0, 0.5])
def test_fine_tuning_makes_steps_from_the_shared_model(pull: float) -> None:
    """From w, each of K steps takes lr (v - a + pull (v - w)) off v."""
    task = quadratic(FineTune(epochs=3, pull=pull)).at_end()
    params, w, v = {"x": np.array(5.0)}, 5.0, 5.0
    begun = begin_end(task, ALONE, params, {})
    assert begun["copy.x"].tolist() == [5.0]
    _, after = train_clients(task, ALONE, params, begun, 4)
    for _ in range(3):
        v -= 0.1 * (v - 2.0 + pull * (v - w))
    assert after["copy.x"][0] == pytest.approx(v)


def test_fine_tuning_changes_no_round() -> None:
    settings = {"optimizers": rates(0.1), "batch_size": 2}
    task = method_of(settings, FineTune(epochs=2), Weighted())
    assert not task.copies()
    assert set(task.at_end().copies().values()) == {"item", "weight"}
    same_rounds(task, method_of(settings, None, Weighted()), {"user": "user"})
    assert not method_of(settings, FineTune(epochs=0)).at_end().epochs


@pytest.mark.skipif(not in_numba(NoPersonalization()), reason="needs numba")
def test_numba_trains_the_rounds_before_fine_tuning_and_torch_the_end() -> None:
    shard = shard_of(9, [[0, 1, 4], [2, 3], [5], [1, 7]])
    task, plain = (
        method_of({"backend": "numba", "optimizers": rates(0.1)}, form)
        for form in (FineTune(), NoPersonalization())
    )
    assert (task.executor(), task.at_end().executor()) == ("numba", "flat")
    np.testing.assert_array_equal(
        train(task, shard, 2)[0]["item"], train(plain, shard, 2)[0]["item"]
    )


def test_the_end_begins_with_the_values_of_the_chosen_round() -> None:
    settings = {"optimizers": rates(0.1, {"name": "adam", "lr": 0.05})}
    task = method_of(settings, FineTune(), Weighted()).at_end()
    params, private = initial_state(replace(task, when="round"), SHARD)
    begun = begin_end(task, SHARD, params, {"user": private["user"] + 1})
    np.testing.assert_array_equal(begun["user"], private["user"] + 1)
    np.testing.assert_array_equal(begun["copy.item"], params["item"][[0, 1, 2, 3, 4, 5, 1, 7]])
    np.testing.assert_array_equal(begun["copy.weight"], np.tile(params["weight"], (3, 1)))
    assert set(begun) == set(task.stored_specs())
    assert not begun["user/first"].any()


def test_fedrep_ends_with_the_head_alone() -> None:
    task = method_of({}, FedRep(final_epochs=4), Weighted())
    assert [phase.parameters for phase in task.at_end().phases] == [("user",)]
    assert list(task.at_end().epochs) == [2, 3, 4, 5]
    assert not task.at_end().copies()


def test_additive_adds_private_rows_to_shared_ones() -> None:
    task = method_of({"optimizers": rates(0.1)}, Additive())
    plain = method_of({"optimizers": rates(0.1)})
    params, private = initial_state(task, SHARD)
    # The private rows begin as 0, so the first step of what is shared is that without them.
    update, after = train_clients(task, SHARD, params, private, 1)
    expected, _ = train_clients(plain, SHARD, params, initial_state(plain, SHARD)[1], 1)
    np.testing.assert_array_equal(update.tables["item"].values, expected.tables["item"].values)
    rows = np.random.default_rng(0).normal(size=after["private_item"].shape).astype(np.float32)
    scores = UserScorer(task, SHARD, params, {**after, "private_item": rows})(np.arange(4))
    user, table = after["user"], params["item"]
    positives = [[0, 1, 2, 3, 4], [0, 1, 2, 3, 4], [5], [1, 7]]
    offsets = [0, 0, 5, 6]
    for row, items in enumerate(positives):
        own = table.copy()
        own[items] += rows[offsets[row] : offsets[row] + len(items)]
        np.testing.assert_allclose(scores["mixed"][row], own @ user[row], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(scores["global"][row], table @ user[row], rtol=1e-5, atol=1e-6)


def test_the_terms_of_additive() -> None:
    """Of one positive with a negative: - repulsion mean (D - C)^2 + sparsity mean |C| over both."""
    form = Additive(repulsion=0.3, sparsity=0.2)
    task = method_of({"optimizers": rates(0.1), "negatives": 1}, form, dtype="float64")
    plain = method_of({"optimizers": rates(0.1), "negatives": 1}, Additive(), dtype="float64")
    params, private = initial_state(task, ALONE)
    update, _ = train_clients(task, ALONE, params, private, 1)
    without, _ = train_clients(plain, ALONE, params, private, 1)
    block = update.tables["item"]
    change = (block.values - without.tables["item"].values) / -0.1
    for item, gradient in zip(block.ids, change, strict=True):
        row = params["item"][item].astype(np.float64)
        expected = 0.2 * np.sign(row) / 4 / 2
        if item == 2:
            expected -= 0.3 * 2 * row / 4
        np.testing.assert_allclose(gradient, expected, rtol=1e-9)


def test_replaced_settings_make_another_task() -> None:
    """Copies and phases belong to the personalization as it is set."""
    task = method_of({}, Interpolation())
    assert set(task.copies().values()) == {"item", "user"}
    assert not replace(task, personalization=FedRep()).copies()
