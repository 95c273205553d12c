"""A model that does not keep to its declaration is an error before anything is trained."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch

from fedrec.compute.batch import Tensors
from fedrec.errors import ConfigError, FedRecError, NumericError
from fedrec.models.base import History, Model, Pairs
from fedrec.training.clients import train_clients
from fedrec.types import ParamSpec
from tests.planted import initial_state, method_of, shard_of

Score = Callable[[Tensors, Pairs], Any]


class Factors(Model):
    """Factors, and a parameter that no score uses."""

    def params(self) -> Mapping[str, ParamSpec]:
        return {
            "item": ParamSpec("shared", "item", (3,), init_std=0.1),
            "user": ParamSpec("private", "user", (3,), init_std=0.1),
        }

    def score(self, params: Tensors, pairs: Pairs) -> Any:
        return product(params)


def product(params: Tensors) -> torch.Tensor:
    return (params["user"] * params["item"]).sum(-1)


def model_with(**attributes: Any) -> Model:
    odd: type[Model] = type("Odd", (Factors,), {"__module__": __name__, **attributes})
    return odd()


def from_score(score: Score) -> dict[str, Any]:
    return {"score": lambda self, params, pairs: score(params, pairs)}


def in_place(params: Tensors, pairs: Pairs) -> torch.Tensor:
    params["item"].clamp_(min=0)
    return product(params)


def ranked(self: Model, users: Tensors, table: Tensors, history: History | None = None) -> Any:
    table["item"].mul_(2)
    return users["user"] @ table["item"].T


MISTAKES: dict[str, tuple[str, dict[str, Any]]] = {
    "another name": ("score asks for", from_score(lambda p, _: p["itm"])),
    "a column": ("score returns", from_score(lambda p, _: product(p).unsqueeze(1))),
    "no axis for one pair": ("score returns", from_score(lambda p, _: product(p).squeeze())),
    "nothing": ("score returns", from_score(lambda p, _: None)),
    "a tuple": ("score returns", from_score(lambda p, _: (product(p), 0))),
    "an array": ("score returns", from_score(lambda p, q: np.zeros(len(q.items)))),
    "whole numbers": ("score returns", from_score(lambda p, _: product(p).long())),
    "truth values": ("score returns", from_score(lambda p, _: product(p) > 0)),
    "doubles": ("score returns", from_score(lambda p, _: product(p).double())),
    "complex": ("score returns", from_score(lambda p, _: product(p).to(torch.complex64))),
    "detached": ("score depends on no", from_score(lambda p, _: product(p).detach())),
    "by numpy": (
        "score depends on no",
        from_score(lambda p, _: torch.from_numpy(p["item"].numpy().sum(-1))),
    ),
    "in place": ("score changes", from_score(in_place)),
    "random": (
        "score uses torch's random",
        from_score(lambda p, _: torch.nn.functional.dropout(product(p))),
    ),
    "features": ("features returns", {"features": lambda self, p, _: p["item"][0]}),
    "catalogue": (
        "score_catalogue returns",
        {"score_catalogue": lambda self, users, table, history=None: torch.zeros(3)},
    ),
    "catalogue in place": ("score_catalogue changes", {"score_catalogue": ranked}),
}


@pytest.mark.parametrize("execution", ["flat", "vmap", "loop"])
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_named_before_the_run(mistake: str, execution: str) -> None:
    said, attributes = MISTAKES[mistake]
    with pytest.raises(ConfigError, match=f"^model Odd: {said}") as error:
        method_of(model=model_with(execution=execution, **attributes))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "attributes",
    [
        {"execution": "loopy"},
        {"params": lambda self: [("item", ParamSpec("shared", "item", (3,)))]},
        {"params": lambda self: {3: ParamSpec("shared", "item", (3,))}},
    ],
    ids=["execution", "a list", "a number"],
)
def test_a_declaration_of_no_use_is_refused(attributes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"^model Odd: ") as error:
        method_of(model=model_with(**attributes))
    assert "\n" not in str(error.value)


def fails(params: Tensors, pairs: Pairs) -> torch.Tensor:
    raise RuntimeError("not today")


@pytest.mark.parametrize("attributes", [{}, from_score(fails)])
def test_what_else_a_model_does_is_its_own(attributes: dict[str, Any]) -> None:
    method_of(model=model_with(**attributes))


@pytest.mark.parametrize("execution", ["flat", "vmap", "loop"])
@pytest.mark.parametrize("scope", [("shared", None), ("private", "user"), ("private", "client")])
def test_a_parameter_that_no_score_depends_on_is_named(scope: Any, execution: str) -> None:
    lost = ParamSpec(scope[0], scope[1], (2,))
    specs = {**Factors().params(), "lost": lost}

    def detached(params: Tensors, pairs: Pairs) -> torch.Tensor:
        return product(params) + params["lost"].detach().sum()

    attributes = {"execution": execution, "params": lambda self: specs}
    for score in ({}, from_score(detached)):
        (line,) = model_with(**attributes, **score).without_effect(None, None)
        assert "'lost'" in line
    assert Factors().without_effect(None, None) == []


# What shows only with the values of a client ------------------------------------------------------


def by_value(change: Callable[[torch.Tensor], torch.Tensor]) -> Score:
    """A score that is like others for the values of the check before the run, 0.5 and -0.5."""

    def score(params: Tensors, pairs: Pairs) -> torch.Tensor:
        scores = product(params)
        checked = bool((params["item"].detach().abs() == 0.5).all())
        return scores if checked else change(scores)

    return score


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda scores: scores.detach(), "depends on no parameter"),
        (lambda scores: scores[:1], "returned "),
        (lambda scores: scores / 0.0, "is not finite"),
        (lambda scores: scores.abs().neg().log(), "is not finite"),
    ],
)
@pytest.mark.parametrize("execution", ["flat", "loop"])
def test_a_score_that_fails_in_training_is_named(
    change: Callable[[torch.Tensor], torch.Tensor], said: str, execution: str
) -> None:
    task = method_of(model=model_with(execution=execution, **from_score(by_value(change))))
    shard = shard_of(9, [[0, 1, 4], [2, 3]])
    params, private = initial_state(task, shard)
    with pytest.raises(FedRecError, match=f"^model Odd: score {said}") as error:
        train_clients(task, shard, params, private, 1)
    assert "\n" not in str(error.value)


def test_values_without_bounds_are_a_matter_of_rates() -> None:
    task = method_of(model=Factors())
    shard = shard_of(9, [[0, 1, 4], [2, 3]])
    params, private = initial_state(task, shard)
    exploded = {name: value * np.float32(1e30) for name, value in params.items()}
    with pytest.raises(NumericError):
        train_clients(task, shard, exploded, {**private, "user": private["user"] * 1e30}, 1)
