"""The private optimizer: plain functions on tensors."""

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
) -> None:
    """Step the owners that have data in this batch, in place; the others keep their values.

    Args:
        optimizer: Which, and its rates.
        name: Of the parameter.
        values: The private parameters with the optimizer's state, each float [n, ...].
        gradient: float [m, *shape], of the owners that are present.
        present: int64 [m], which of the n have data in this batch; sorted.

    Reference: Adam with bias correction, kingma2015adam, Algorithm 1.
    """
    if optimizer.name == "sgd":
        values[name].index_add_(0, present, -optimizer.lr * gradient)
        return
    state = {part: values[f"{name}/{part}"] for part in ("first", "second", "steps")}
    steps = state["steps"].index_select(0, present) + 1
    first = optimizer.beta1 * state["first"].index_select(0, present)
    first += (1 - optimizer.beta1) * gradient
    second = optimizer.beta2 * state["second"].index_select(0, present)
    second += (1 - optimizer.beta2) * gradient * gradient
    shape = (-1, *[1] * (gradient.dim() - 1))
    first_scale = _correction(optimizer.beta1, steps).reshape(shape)
    second_scale = _correction(optimizer.beta2, steps).reshape(shape)
    move = (first / first_scale) / ((second / second_scale).sqrt() + optimizer.epsilon)
    values[name].index_add_(0, present, -optimizer.lr * move)
    for part, value in (("first", first), ("second", second), ("steps", steps)):
        state[part].index_copy_(0, present, value)


def _correction(beta: float, steps: torch.Tensor) -> torch.Tensor:
    """Return 1 - beta**t, by scalar powers so that it does not depend on the place."""
    distinct, inverse = np.unique(steps.numpy(), return_inverse=True)
    table = np.array([1.0 - beta ** max(int(t), 1) for t in distinct])
    return torch.from_numpy(table[inverse]).to(steps.dtype)
