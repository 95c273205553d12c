"""A phase trains its parameters and nothing else; only what shared phases changed is uploaded."""

from collections.abc import Collection, Mapping
from typing import Any, ClassVar, cast

import numpy as np
import pytest
import torch

from fedrec.aggregation.update import UpdateBatch
from fedrec.errors import ConfigError
from fedrec.models.base import Batch
from fedrec.models.module import ModelParams
from fedrec.personalization.base import Personalization, Phase, View
from fedrec.ragged import Ragged
from fedrec.training.client_rule import ClientRule
from fedrec.training.clients import train_clients
from fedrec.training.draws import capacity, draw_round
from fedrec.training.task import ClientTask
from fedrec.types import Params, ParamSpec
from strategies.client_rules.proximal import Proximal
from strategies.client_rules.scaffold import ControlVariates
from tests.contracts.own_models import BiasedMF, Weighted
from tests.planted import initial_state, method_of, rates, shard_of, train
from tests.unit.fedrec.personalization.test_fixed_points import ALONE, Quadratic

SHARD = shard_of(12, [[0, 1, 4], [2, 3], [5], [1, 7]], [2, 1, 1])
PRIVATE = {"name": "adam", "lr": 0.05}


class InTurns(Personalization):
    """Trains what it is told to, phase after phase."""

    parts: tuple[tuple[str, ...], ...]
    epochs: int | None = None

    def phases(self, specs: Mapping[str, ParamSpec], copies: Collection[str]) -> tuple[Phase, ...]:
        return tuple(Phase(part, epochs=self.epochs) for part in self.parts)


def one_round(task: ClientTask) -> tuple[Params, Params, UpdateBatch, Params]:
    params, private = initial_state(task, SHARD)
    update, after = train_clients(task, SHARD, params, private, 1)
    return params, private, update, after


def in_turns(*parts: tuple[str, ...], **train: Any) -> ClientTask:
    settings = {"optimizers": rates(0.1, PRIVATE), "weight_decay": 0.2, "batch_size": 2, **train}
    return method_of(settings, InTurns(parts=parts), BiasedMF())


def test_a_phase_of_private_parameters_uploads_no_row() -> None:
    _, private, update, after = one_round(in_turns(("user",)))
    for block in update.tables.values():
        assert len(block.ids) == len(block.values) == block.offsets[-1] == 0
    assert not update.dense["constant"].any()
    np.testing.assert_array_equal(after["client_bias"], private["client_bias"])
    assert not after["client_bias/first"].any()
    assert (after["user"] != private["user"]).any(1).all()


def test_a_phase_of_shared_parameters_leaves_private_ones_with_their_optimizer() -> None:
    _, private, update, after = one_round(in_turns(("item", "constant")))
    for name, value in private.items():
        np.testing.assert_array_equal(after[name], value)
    assert update.tables["item"].values.any(1).all()
    assert len(update.tables["item_bias"].ids) == 0


def test_rows_of_the_first_phase_are_not_uploaded_by_the_second() -> None:
    task = in_turns(("user",), ("item",))
    first, second = draw_round(task, SHARD, 1)
    assert not np.array_equal(first.negatives, second.negatives)
    _, _, update, _ = one_round(task)
    block = update.tables["item"]
    client = np.array([0, 0, 1, 2])[second.users]
    expected = {
        *zip(client, second.items, strict=True),
        *zip(np.repeat(client, 4), second.negatives.ravel(), strict=True),
    }
    uploaded = zip(np.repeat(np.arange(3), np.diff(block.offsets)), block.ids, strict=True)
    assert {*uploaded} == expected


def test_phases_in_turns_are_rounds_in_turns() -> None:
    """The second phase goes on from what the first came to."""
    both = one_round(in_turns(("user", "client_bias"), ("item",)))
    first = one_round(in_turns(("user", "client_bias")))
    for name in ("user", "client_bias", "user/first", "user/steps"):
        np.testing.assert_array_equal(both[3][name], first[3][name])


@pytest.mark.parametrize("momentum", [{"momentum": 0.9}, {"name": "adam"}])
def test_what_an_optimizer_remembers_of_shared_parameters_does_not_span_phases(
    momentum: Mapping[str, Any],
) -> None:
    optimizers = {"shared": {"lr": 0.1, **momentum}}

    def after(parts: tuple[tuple[str, ...], ...], epochs: int, rounds: int) -> float:
        form = InTurns(parts=parts, epochs=epochs)
        task = method_of({"optimizers": optimizers}, form, Quadratic())
        return float(train(task, ALONE, rounds)[0]["x"])

    in_phases = after((("x",), ("x",)), epochs=2, rounds=1)
    assert in_phases == pytest.approx(after((("x",),), epochs=2, rounds=2), rel=1e-6)
    assert in_phases != pytest.approx(after((("x",),), epochs=4, rounds=1), rel=1e-3)


class Copied(Personalization):
    """Trains private copies alone."""

    views: ClassVar[tuple[View, ...]] = ("mixed", "global")

    def copies(self, specs: Mapping[str, ParamSpec]) -> Collection[str]:
        return specs

    def phases(self, specs: Mapping[str, ParamSpec], copies: Collection[str]) -> tuple[Phase, ...]:
        return (Phase(tuple(copies)),)


class PositivesAlone(Weighted):
    """Is trained on positives, of which alone there are copies."""

    def loss(self, params: ModelParams, batch: Batch, vectors: torch.Tensor) -> torch.Tensor:
        assert batch.labels is not None
        return batch.labels * (self.score(params, batch, vectors) - 1) ** 2


@pytest.mark.parametrize(
    "optimizer", [{"lr": 0.1}, {"lr": 0.1, "momentum": 0.9}, {"name": "adam", "lr": 0.1}]
)
def test_a_copy_steps_as_its_parameter_does(optimizer: Mapping[str, Any]) -> None:
    """In the first round both begin alike; rows without gradient go on with their momentum."""
    settings = {
        "optimizers": {"item": optimizer, "shared": optimizer, "private": PRIVATE},
        "batch_size": 1,
        "weight_decay": 0.2,
    }
    shard, model = shard_of(40, [[0, 1, 4], [2, 3]]), PositivesAlone()
    task, plain = method_of(settings, Copied(), model), method_of(settings, None, model)
    (params, local), (_, private) = initial_state(task, shard), initial_state(plain, shard)
    _, after = train_clients(task, shard, params, local, 1)
    update, expected = train_clients(plain, shard, params, private, 1)
    block, positives = update.tables["item"], [0, 1, 4, 2, 3]
    at = Ragged(block.offsets, block.ids).find(np.array([0, 0, 0, 1, 1]), np.array(positives))
    moved = {name: after[name] - local[name] for name in ("copy.item", "copy.weight", "copy.user")}
    np.testing.assert_allclose(moved["copy.item"], block.values[at], rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(moved["copy.weight"], update.dense["weight"], rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(after["copy.user"], expected["user"], rtol=1e-5)
    # Of copies of what is shared nothing is remembered from round to round.
    remembered = {name for name in task.stored_specs() if "/" in name}
    assert remembered == {
        f"{n}/{key}" for n in ("user", "copy.user") for key in ("first", "second", "steps")
    }


def test_clipping_bounds_the_gradient_of_what_a_phase_trains() -> None:
    """With SGD at the rate 1 the step of each client is at most the norm, of its user alone."""
    settings = {"optimizers": rates(1.0, {"name": "sgd", "lr": 1.0}), "clip_norm": 1e-3}
    shard = shard_of(12, [[0, 1, 4], [5]])
    task = method_of(settings, InTurns(parts=(("user",),)), BiasedMF())
    params, private = initial_state(task, shard)
    _, after = train_clients(task, shard, params, private, 1)
    norms = np.linalg.norm(after["user"] - private["user"], axis=1)
    np.testing.assert_allclose(norms, 1e-3, rtol=1e-3)


def test_terms_of_a_strategy_move_what_a_phase_trains_and_nothing_else() -> None:
    rule = Proximal(mu=0.5)
    form = InTurns(parts=(("user",), ("item",)))
    task = method_of(
        {"optimizers": rates(0.1), "batch_size": 2}, form, BiasedMF(), client_rule=rule
    )
    plain = method_of({"optimizers": rates(0.1), "batch_size": 2}, form, BiasedMF())
    pulled, free = one_round(task)[2], one_round(plain)[2]
    np.testing.assert_array_equal(pulled.tables["item"].ids, free.tables["item"].ids)
    assert not np.array_equal(pulled.tables["item"].values, free.tables["item"].values)
    assert len(pulled.tables["item_bias"].ids) == 0


def test_control_variates_count_the_steps_of_their_parameter() -> None:
    """SCAFFOLD divides a change by the steps that made it: 3 of the rows, 3 more of the user."""
    rule = ControlVariates()
    form = InTurns(parts=(("user",), ("item", "item_bias", "constant")), epochs=3)
    settings = {"optimizers": rates(0.1), "local_epochs": 3}
    task = method_of(settings, form, BiasedMF(), client_rule=rule)
    params, local = initial_state(task, SHARD)
    sent = {**params, **{f"{n}/control": np.zeros_like(v) for n, v in params.items()}}
    update, after = train_clients(task, SHARD, sent, local, 1)
    name = next(n for n in after if n.startswith("constant/"))
    # Of control variates that are 0 the new one is minus the change over steps times rate.
    np.testing.assert_allclose(after[name], -update.dense["constant"] / (3 * 0.1), rtol=1e-4)


def test_the_end_counts_its_epochs_on_and_a_client_rule_ends_before_it() -> None:
    class Twice(Personalization):
        def phases(
            self, specs: Mapping[str, ParamSpec], copies: Collection[str]
        ) -> tuple[Phase, ...]:
            return Phase(epochs=2), Phase(("user",), epochs=3, when="end")

    task = method_of({}, Twice(), client_rule=Proximal(mu=1.0))
    assert list(task.epochs) == [0, 1]
    assert list(task.at_end().epochs) == [2, 3, 4]
    assert task.at_end().client_rule == ClientRule()
    assert capacity(SHARD, task)[-1] <= 3 * 12


def declaring(**methods: Any) -> ClientTask:
    form: Any = type("Odd", (Personalization,), {"__module__": __name__, **methods})
    return method_of({}, form(), BiasedMF())


@pytest.mark.parametrize(
    ("methods", "said"),
    [
        ({"private": lambda *_: ["constent"]}, r"private: 'constent' .*mean 'constant'"),
        ({"private": lambda *_: ["item"]}, r"private: 'item' is shared with the axis item; only"),
        ({"copies": lambda *_: ["users"]}, r"copies: 'users' .*mean 'user'"),
        ({"phases": lambda *_: (Phase(("itm",)),)}, r"phases: 'itm' .*mean 'item'"),
        ({"phases": lambda *_: [Phase()]}, r"phases: expected a tuple of Phase, got \["),
        (
            {"phases": lambda *_: (Phase(views=cast(Any, ("all",))),)},
            r"phases: views \['all'\]: expected some of",
        ),
        ({"phases": lambda *_: (Phase(()),)}, r"phases: .*expected parameters, and epochs from 0"),
        ({"phases": lambda *_: (Phase(epochs=-1),)}, r"phases: .*epochs from 0"),
        ({"phases": lambda *_: (Phase(epochs=0),)}, "phases: no phase of a round trains anything"),
        (
            {"phases": lambda *_: (Phase(), Phase(("item",), when="end"))},
            r"phases: 'item' is no parameter for it",
        ),
        ({"moves": ("alpha",)}, r"moves: 'alpha' is no parameter for it"),
    ],
)
def test_a_declaration_that_makes_no_sense_is_named(methods: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=f"^personalization Odd: {said}"):
        declaring(**methods)


def test_a_value_of_another_shape_is_named() -> None:
    task = declaring(
        copies=lambda *_: ["item"],
        parameter=lambda self, view, name, shared, copy, own: copy[:, :1],
    )
    with pytest.raises(ConfigError, match=r"^personalization Odd: parameter of 'item' returned"):
        one_round(task)


def test_a_move_of_another_shape_is_named() -> None:
    task = declaring(
        state=lambda self, dim: {"alpha": ParamSpec("private", "client", ())},
        copies=lambda *_: ["constant"],
        parameter=lambda self, view, name, shared, copy, own: own["alpha"] * copy,
        moves=("alpha",),
        move=lambda self, name, value, gradient, number: torch.zeros(1),
    )
    with pytest.raises(ConfigError, match=r"^personalization Odd: move of 'alpha' returned"):
        one_round(task)
