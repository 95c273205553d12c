"""What multimodal client models share: the items' frozen features, and which are missing."""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from fedrec.data.catalogue import Catalogue
from fedrec.errors import ConfigError
from fedrec.models.base import Execution, Model
from fedrec.models.module import ModelParams
from fedrec.plugins import Defaults
from fedrec.types import ParamSpec


class Multimodal(Model):
    """A client model of items with frozen features; the features are never trained and never sent.

    An item may lack some of them, as the catalogue says: they are 0 there, and their weight
    goes to the others. An item without any is scored by its row of the item table alone, or 0.

    Args:
        modalities: names of the features, as the section ``features`` declares them.
        embedding_dim: d, length of the vectors.
        init_std: standard deviation of the normal initial values of item rows and user vectors.
    """

    execution: ClassVar[Execution] = "vmap"
    defaults: ClassVar[Defaults] = {
        "strategy": {"name": "fedadam", "server_optimizer": {"name": "adam", "lr": 0.005}},
        "rounds": {"count": 400, "cohort_fraction": 0.1},
        "evaluate": {"every": 10},
    }

    modalities: tuple[str, ...] = ("text", "image")
    embedding_dim: int = Field(32, ge=1)
    init_std: float = Field(0.01, ge=0)

    @field_validator("modalities")
    @classmethod
    def _distinct(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value or len(set(value)) < len(value):
            raise ValueError(
                f"expected different names of features, such as [text, image], got {list(value)}"
            )
        return value

    @property
    def needs_features(self) -> Sequence[str]:
        """Return ``modalities``."""
        return self.modalities

    def frozen(self, catalogue: Catalogue) -> dict[str, ParamSpec]:
        """Declare the features, and for each whether an item has it."""
        specs = {}
        for name in self.modalities:
            specs[name] = ParamSpec("frozen", "item", (width_of(catalogue, name),))
            specs[f"{name}.present"] = ParamSpec("frozen", "item", ())
        return specs

    def present(self, params: ModelParams) -> Tensor:
        """Return 1.0 where an item has a modality and 0.0 where not, float [..., m]."""
        return torch.stack([params[f"{name}.present"] for name in self.modalities], dim=-1)

    def present_blocks(self, params: ModelParams) -> Tensor:
        """Return the same with a block more, which any modality makes, float [..., m + 1]."""
        present = self.present(params)
        return torch.cat([present, present.amax(-1, keepdim=True)], dim=-1)

    def content(self, params: ModelParams, *options: Any) -> Any:
        """Return what the module makes of the features of items, float [..., f] per modality."""
        return params.module([params[name] for name in self.modalities], *options)


class ScaledLinear(nn.Linear):
    """A linear layer over frozen features of several modalities, each scaled to a mean norm of 1.

    Without that, the modality with the larger numbers would swamp the others, in the scores and in
    the steps of its weights. The weights are scaled rather than the features, of which there are
    more.

    Args:
        catalogue: The items.
        modalities: The names of the features, which stand side by side.
        width: Numbers that come out.
        rows: Numbers of the input after the features, which are not scaled.
        bias: Whether there is one.
    """

    scale: Tensor

    def __init__(
        self,
        catalogue: Catalogue,
        modalities: Sequence[str],
        width: int,
        rows: int = 0,
        bias: bool = True,
    ) -> None:
        scale = scale_of(catalogue, modalities)
        super().__init__(len(scale) + rows, width, bias)
        self.register_buffer("scale", torch.cat([scale, torch.ones(rows)]))

    def forward(self, x: Tensor) -> Tensor:
        """float [..., f] -> float [..., width]."""
        return nn.functional.linear(x, self.weight * self.scale, self.bias)


def two_layers(
    catalogue: Catalogue, modalities: Sequence[str], hidden: int, width: int
) -> nn.Module:
    """Return two layers over the features of some modalities side by side."""
    first = ScaledLinear(catalogue, modalities, hidden)
    return nn.Sequential(first, nn.LeakyReLU(), nn.Linear(hidden, width))


class Projections(nn.Module):
    """A linear map of each modality to d numbers, without bias: what is missing stays 0."""

    def __init__(self, catalogue: Catalogue, modalities: Sequence[str], width: int) -> None:
        super().__init__()
        self.maps = nn.ModuleList(
            ScaledLinear(catalogue, [name], width, bias=False) for name in modalities
        )

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """float [..., f] per modality -> float [..., d] per modality."""
        return [linear(x) for linear, x in zip(self.maps, features, strict=True)]


def scale_of(catalogue: Catalogue, modalities: Sequence[str]) -> Tensor:
    """Return what features are multiplied with so that their mean norm is 1, float [f].

    Args:
        catalogue: The items.
        modalities: The names of the features, which stand side by side.

    Raises:
        ConfigError: If there is no such feature, it is no vector, or no item has it.
    """
    of_each = []
    for name in modalities:
        rows = catalogue.feature(name)[catalogue.present[name]]
        norm = float(np.linalg.norm(rows, axis=1).mean()) if len(rows) else 0.0
        if norm == 0:
            raise ConfigError(f"model.modalities: no item has the feature '{name}'; leave it out")
        of_each.append(torch.full((width_of(catalogue, name),), 1 / norm))
    return torch.cat(of_each)


def as_masks(present: Tensor) -> list[Tensor]:
    """Return one mask for each modality: float [..., m] -> float [..., 1] each."""
    return [present[..., m : m + 1] for m in range(present.shape[-1])]


def masked_softmax(logits: Tensor, present: Tensor) -> Tensor:
    """Return weights of the modalities that an item has; they add up to 1.

    Args:
        logits: float [..., m].
        present: float [..., m], 1 or 0.

    Returns:
        float [..., m]: 0 for a modality that is missing, all 0 if every one is.
    """
    weights = positive_weights(logits) * present
    return weights / above_zero(weights.sum(-1, keepdim=True))


def positive_weights(logits: Tensor) -> Tensor:
    """Return the weights of a softmax before they are divided by their sum, float [..., m]."""
    return torch.exp(logits - logits.detach().amax(-1, keepdim=True))


def above_zero(total: Tensor) -> Tensor:
    """Return a divisor that is not 0, so that 0 of nothing is 0."""
    return total.clamp_min(torch.finfo(total.dtype).tiny)


def width_of(catalogue: Catalogue, name: str) -> int:
    """Return the numbers of a feature.

    Raises:
        ConfigError: If there is no such feature, or it is no vector.
    """
    shape = catalogue.feature(name).shape[1:]
    if len(shape) != 1:
        raise ConfigError(
            f"model.modalities: the feature '{name}' has the shape {shape} for each item; "
            "expected one vector, as an encoder gives"
        )
    return int(shape[0])
