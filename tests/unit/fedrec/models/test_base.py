"""A model that does not keep to its declaration is an error before anything is trained."""

from collections.abc import Mapping
from typing import ClassVar, Literal

import pytest
import torch

from fedrec.compute.batch import Tensors
from fedrec.errors import ConfigError
from fedrec.models.base import Model, Pairs
from fedrec.types import ParamSpec
from tests.planted import method_of


class _Odd(Model):
    """Factors, with one mistake."""

    mistake: Literal["name", "score", "features", "raises", "none"] = "none"

    def params(self) -> Mapping[str, ParamSpec]:
        return {
            "item": ParamSpec("shared", "item", (3,)),
            "user": ParamSpec("private", "user", (3,)),
        }

    def score(self, params: Tensors, pairs: Pairs) -> torch.Tensor:
        if self.mistake == "raises":
            raise RuntimeError("not today")
        product = params["user"] * params["itm" if self.mistake == "name" else "item"]
        return product.sum(-1, keepdim=self.mistake == "score")

    def features(self, params: Tensors, pairs: Pairs) -> torch.Tensor:
        return params["item"][0] if self.mistake == "features" else params["item"]


class _OddLoop(_Odd):
    execution: ClassVar[Literal["flat", "vmap", "loop"]] = "loop"


@pytest.mark.parametrize("model", [_Odd, _OddLoop])
@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        ("name", "score asks for the parameter 'itm', which params.. does not declare .*'item'"),
        ("score", r"score returns the shape \(2, 1\) for 2 pairs; expected \(2,\)"),
        ("features", r"features returns the shape \(3,\) for 2 pairs; expected \(2, width\)"),
    ],
)
def test_a_mistake_is_named(model: type[_Odd], mistake: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"model {model.__name__}: {message}") as error:
        method_of(model=model.model_validate({"mistake": mistake}))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("mistake", ["none", "raises"])
def test_what_else_a_model_does_is_its_own(mistake: str) -> None:
    method_of(model=_Odd.model_validate({"mistake": mistake}))
