"""The private optimiser of local parameters: plain functions on tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from fedrec.training.settings import PrivateOptimizer

__all__ = ["step"]


def step(
    optimizer: PrivateOptimizer,
    name: str,
    values: Mapping[str, torch.Tensor],
    gradient: torch.Tensor,
    present: torch.Tensor,
) -> dict[str, torch.Tensor]:
    """One step for the owners that have data in this batch; the others keep theirs.

    Args:
        optimizer: Which, and its rates.
        name: of the parameter.
        values: the local parameters with the optimiser's state, each float [n, ...].
        gradient: float [n, *shape].
        present: bool [n], who has data in this batch.

    Returns:
        The changed entries of ``values``.

    Reference: Adam with bias correction, kingma2015adam, Algorithm 1.
    """
    value = values[name]
    mask = present.reshape(-1, *[1] * (value.dim() - 1))
    if optimizer.name == "sgd":
        return {name: torch.where(mask, value - optimizer.lr * gradient, value)}
    steps = values[f"{name}/steps"] + present.to(value.dtype)
    first = values[f"{name}/first"]
    second = values[f"{name}/second"]
    new_first = torch.where(mask, optimizer.beta1 * first + (1 - optimizer.beta1) * gradient, first)
    new_second = torch.where(
        mask, optimizer.beta2 * second + (1 - optimizer.beta2) * gradient * gradient, second
    )
    first_scale = _correction(optimizer.beta1, steps).reshape(mask.shape)
    second_scale = _correction(optimizer.beta2, steps).reshape(mask.shape)
    move = (new_first / first_scale) / ((new_second / second_scale).sqrt() + optimizer.epsilon)
    return {
        name: torch.where(mask, value - optimizer.lr * move, value),
        f"{name}/first": new_first,
        f"{name}/second": new_second,
        f"{name}/steps": steps,
    }


def _correction(beta: float, steps: torch.Tensor) -> torch.Tensor:
    """1 - beta**t, by scalar powers so that it does not depend on the place in the vector."""
    distinct, inverse = np.unique(steps.numpy(), return_inverse=True)
    table = np.array([1.0 - beta ** max(int(t), 1) for t in distinct])
    return torch.from_numpy(table[inverse]).to(steps.dtype)
