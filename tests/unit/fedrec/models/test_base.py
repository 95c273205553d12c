"""A model that does not keep to its declaration is an error before anything is trained."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch

from fedrec.data.catalogue import Catalogue
from fedrec.errors import ConfigError, FedRecError, NumericError
from fedrec.models.base import Batch, Model
from fedrec.models.module import ModelParams
from fedrec.training.clients import train_clients
from fedrec.types import ParamSpec
from tests.planted import initial_state, method_of, shard_of

Score = Callable[[ModelParams, torch.Tensor], Any]


class Factors(Model):
    """Factors, and a parameter that no score uses."""

    def params(self, catalogue: Catalogue) -> Mapping[str, ParamSpec]:
        return {
            "item": ParamSpec("shared", "item", (3,), init_std=0.1),
            "user": ParamSpec("private", "user", (3,), init_std=0.1),
        }

    def score(self, params: ModelParams, batch: Batch, vectors: torch.Tensor) -> Any:
        return product(params, vectors)


def product(params: ModelParams, vectors: torch.Tensor) -> torch.Tensor:
    return (params["user"] * vectors).sum(-1)


def model_with(**attributes: Any) -> Model:
    odd: type[Model] = type("Odd", (Factors,), {"__module__": __name__, **attributes})
    return odd()


def from_score(score: Score) -> dict[str, Any]:
    return {"score": lambda self, params, batch, vectors: score(params, vectors)}


def in_place(params: ModelParams, vectors: torch.Tensor) -> torch.Tensor:
    params["item"].clamp_(min=0)
    return product(params, vectors)


def ranked(self: Model, params: ModelParams, batch: Batch, encoded: torch.Tensor) -> Any:
    encoded.mul_(2)
    return params["user"] @ encoded.T


def ranked_by_rows(self: Model, params: ModelParams, batch: Batch, encoded: torch.Tensor) -> Any:
    params["item"].mul_(2)
    return params["user"] @ encoded.T


def clamped(params: ModelParams, vectors: torch.Tensor) -> torch.Tensor:
    return product(params, vectors.clamp_(min=0))


MISTAKES: dict[str, tuple[str, dict[str, Any]]] = {
    "another name": ("score asks for", from_score(lambda p, _: p["itm"])),
    "a column": ("score returns", from_score(lambda p, v: product(p, v).unsqueeze(1))),
    "no axis for one pair": ("score returns", from_score(lambda p, v: product(p, v).squeeze())),
    "nothing": ("score returns", from_score(lambda p, _: None)),
    "a tuple": ("score returns", from_score(lambda p, v: (product(p, v), 0))),
    "an array": ("score returns", from_score(lambda p, v: np.zeros(len(v)))),
    "whole numbers": ("score returns", from_score(lambda p, v: product(p, v).long())),
    "truth values": ("score returns", from_score(lambda p, v: product(p, v) > 0)),
    "doubles": ("score returns", from_score(lambda p, v: product(p, v).double())),
    "complex": ("score returns", from_score(lambda p, v: product(p, v).to(torch.complex64))),
    "detached": ("score depends on no", from_score(lambda p, v: product(p, v).detach())),
    "by numpy": (
        "score fails where gradients are wanted",
        from_score(lambda p, v: torch.from_numpy(v.numpy().sum(-1))),
    ),
    "in place": ("score changes", from_score(in_place)),
    "random": (
        "score uses torch's random",
        from_score(lambda p, v: torch.nn.functional.dropout(product(p, v))),
    ),
    "features": ("features returns", {"features": lambda self, p, b, v: v[0]}),
    "catalogue": (
        "rank returns",
        {"rank": lambda self, params, batch, encoded: torch.zeros(3)},
    ),
    "catalogue in place": ("rank changes", {"rank": ranked}),
    "table in place": ("rank changes", {"rank": ranked_by_rows}),
    "vectors in place": (
        "score changes",
        {"item_vectors": lambda self, params, items: 2 * params["item"], **from_score(clamped)},
    ),
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
        {"params": lambda self, catalogue: [("item", ParamSpec("shared", "item", (3,)))]},
        {"params": lambda self, catalogue: {3: ParamSpec("shared", "item", (3,))}},
    ],
    ids=["execution", "a list", "a number"],
)
def test_a_declaration_of_no_use_is_refused(attributes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"^model Odd: ") as error:
        method_of(model=model_with(**attributes))
    assert "\n" not in str(error.value)


def fails(params: ModelParams, vectors: torch.Tensor) -> torch.Tensor:
    raise RuntimeError("not today")


@pytest.mark.parametrize("attributes", [{}, from_score(fails)])
def test_what_else_a_model_does_is_its_own(attributes: dict[str, Any]) -> None:
    method_of(model=model_with(**attributes))


@pytest.mark.parametrize("execution", ["flat", "vmap", "loop"])
@pytest.mark.parametrize("scope", [("shared", None), ("private", "user"), ("private", "client")])
def test_a_parameter_that_no_score_depends_on_is_named(scope: Any, execution: str) -> None:
    lost = ParamSpec(scope[0], scope[1], (2,))
    specs = {**Factors().params(Catalogue.empty()), "lost": lost}

    def detached(params: ModelParams, vectors: torch.Tensor) -> torch.Tensor:
        return product(params, vectors) + params["lost"].detach().sum(-1)

    attributes = {"execution": execution, "params": lambda self, catalogue: specs}
    for score in ({}, from_score(detached)):
        (line,) = method_of(model=model_with(**attributes, **score)).untrained()
        assert "'lost'" in line
    assert method_of(model=Factors()).untrained() == []


# What shows only with the values of a client ------------------------------------------------------


def by_value(change: Callable[[torch.Tensor], torch.Tensor]) -> Score:
    """A score that is like others for the values of the check before the run, 0.5 and -0.5."""

    def score(params: ModelParams, vectors: torch.Tensor) -> torch.Tensor:
        scores = product(params, vectors)
        checked = bool((vectors.detach().abs() == 0.5).all())
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
