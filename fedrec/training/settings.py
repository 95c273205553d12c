"""The section ``train`` of an experiment."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from fedrec.plugins import Section

__all__ = ["LocalOptimizer", "Train"]


class LocalOptimizer(Section):
    """The private optimiser of the local parameters. Its state never leaves the client.

    Args:
        name: ``adam`` or ``sgd``.
        lr: step size.
        beta1: decay of Adam's first moment.
        beta2: decay of Adam's second moment.
        epsilon: floor of Adam's denominator.
    """

    name: Literal["adam", "sgd"] = "adam"
    lr: float = Field(0.02, gt=0)
    beta1: float = Field(0.9, ge=0, lt=1)
    beta2: float = Field(0.999, ge=0, lt=1)
    epsilon: float = Field(1e-8, gt=0)


class Train(Section):
    """Training on the client.

    Args:
        loss: ``bce`` on positives and sampled negatives, or ``bpr`` on pairs of them.
        reduction: ``sum`` or ``mean`` over the rows of a batch.
        negatives: sampled negatives per positive, drawn anew in each local epoch.
        negative_sampling: ``uniform``, or ``popularity`` (in proportion to train count + 1).
        local_epochs: passes over the client's positives in one round.
        batch_size: positives per step (with their negatives), or ``full``.
        item_lr: SGD step size of all global parameters.
        local_optimizer: optimiser of the local parameters.
        kernel: ``compiled``, ``reference`` (torch), or ``auto``: compiled for what it covers. Both
            give the same values to rounding, not to the bit.
        weight_decay: w in w/2 * n * ||p||^2 for each trainable local parameter of a user, n the
            user's positives in the batch.
    """

    loss: Literal["bce", "bpr"] = "bce"
    reduction: Literal["sum", "mean"] = "sum"
    negatives: int = Field(4, ge=1)
    negative_sampling: Literal["uniform", "popularity"] = "uniform"
    local_epochs: int = Field(1, ge=1)
    batch_size: int | Literal["full"] = "full"
    item_lr: float = Field(1.0, gt=0)
    local_optimizer: LocalOptimizer = LocalOptimizer()
    weight_decay: float = Field(0.0, ge=0)
    kernel: Literal["auto", "compiled", "reference"] = "auto"

    @field_validator("batch_size")
    @classmethod
    def _positive(cls, value: int | str) -> int | str:
        if isinstance(value, int) and value < 1:
            raise ValueError("expected a number from 1, or 'full'")
        return value
