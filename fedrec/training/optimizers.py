"""The optimizers of local training, one per group of parameters, and what a step of them does.

References: Adam with bias correction, kingma2015adam, Algorithm 1; decoupled weight decay,
loshchilov2019decoupled, Algorithm 2; momentum as `torch.optim.SGD` has it, after
sutskever2013importance.
"""

from collections.abc import Mapping
from typing import Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from fedrec.plugins import Section
from fedrec.types import ParamSpec

NO_PRIVATE = "the model has no private parameters that are trained"


class Optimizer(Section):
    """How a group of parameters steps: as ``torch.optim``'s SGD, Adam or AdamW.

    Args:
        name: ``sgd``, ``adam`` or ``adamw``.
        lr: Step size. `Schedule` multiplies it.
        momentum: Of sgd, from 0 to 1.
        nesterov: Whether sgd's momentum looks ahead.
        beta1: Decay of Adam's first moment.
        beta2: Decay of Adam's second moment.
        epsilon: Floor of Adam's denominator.
        weight_decay: w; sgd and adam add w times the value to its gradient, adamw takes w times
            the rate off the value at every step.
    """

    name: Literal["sgd", "adam", "adamw"] = "sgd"
    lr: float = Field(1.0, gt=0)
    momentum: float = Field(0.0, ge=0, lt=1)
    nesterov: bool = False
    beta1: float = Field(0.9, ge=0, lt=1)
    beta2: float = Field(0.999, ge=0, lt=1)
    epsilon: float = Field(1e-8, gt=0)
    weight_decay: float = Field(0.0, ge=0)

    @property
    def state(self) -> tuple[str, ...]:
        """Return the names of what is remembered from step to step: arrays shaped as the values.

        Only ``steps`` is one number of each owner.
        """
        if self.name == "sgd":
            return ("momentum",) if self.momentum > 0 else ()
        return "first", "second", "steps"

    @property
    def plain(self) -> bool:
        """Whether a step is the rate times the gradient."""
        return not self.state and self.weight_decay == 0

    def initial_state(self, values: Tensor) -> dict[str, Tensor]:
        """Return the state before the first step of values float [n, *shape]: zeros."""
        shapes = {key: values.shape[:1] if key == "steps" else values.shape for key in self.state}
        return {key: values.new_zeros(shape) for key, shape in shapes.items()}

    def without_effect(self, run: Any) -> list[str]:
        """Say what belongs to the other optimizers."""
        if self.name == "sgd":
            return self.unused("it belongs to adam and adamw", "beta1", "beta2", "epsilon")
        return self.unused("it belongs to sgd", "momentum", "nesterov")

    @model_validator(mode="after")
    def _looks_ahead_along_momentum(self) -> Self:
        if self.name == "sgd" and self.nesterov and self.momentum == 0:
            raise ValueError("nesterov: needs a momentum above 0, such as momentum: 0.9")
        return self


class ItemOptimizer(Optimizer):
    """The optimizer of the item tables. Rows that a client does not touch in a round do not move.

    That is exact: its state starts at 0 in every round, and a row without gradient keeps it there.
    A row that was touched in an earlier step of the round steps on with its momentum, as the whole
    table would. Weight decay, which moves every row, is refused.
    """

    @model_validator(mode="after")
    def _moves_touched_rows_alone(self) -> Self:
        if self.weight_decay > 0:
            raise ValueError(
                "weight_decay: moves every row of an item table, and a client trains only those "
                f"of its pairs; leave it out, got {self.weight_decay:g}"
            )
        return self


class SharedOptimizer(Optimizer):
    """The optimizer of the dense shared parameters.

    Its state starts at 0 on every client and in every round, and never leaves the client.
    """


class PrivateOptimizer(Optimizer):
    """The optimizer of the private parameters.

    Its state is private too: a client keeps it from round to round.
    """

    name: Literal["sgd", "adam", "adamw"] = "adam"
    lr: float = Field(0.02, gt=0)


class Optimizers(Section):
    """The optimizers of local training, one per group of parameters.

    Args:
        item: Of the item tables.
        shared: Of the other shared parameters.
        private: Of the private parameters.
    """

    item: ItemOptimizer = ItemOptimizer()
    shared: SharedOptimizer = SharedOptimizer()
    private: PrivateOptimizer = PrivateOptimizer()

    def of(self, spec: ParamSpec) -> Optimizer:
        """Return the optimizer of a parameter."""
        if spec.scope == "private":
            return self.private
        return self.item if spec.axis == "item" else self.shared

    def scaled(self, factor: float) -> Self:
        """Return the optimizers with all rates multiplied by a factor from 0."""
        if factor == 1:
            return self
        groups = {name: getattr(self, name) for name in type(self).model_fields}
        rates = {
            name: group.model_copy(update={"lr": group.lr * factor})
            for name, group in groups.items()
        }
        return self.model_copy(update=rates)

    def without_effect(self, run: Any) -> list[str]:
        """Say which group of parameters the model does not have."""
        task, unused = run.task, {}
        if not task.dense():
            unused["shared"] = "the model shares nothing but item tables"
        if not task.trains_private:
            unused["private"] = NO_PRIVATE
        # What a strategy fills in for all models is nobody's wish.
        usual = run.experiment.strategy.defaults.get("train", {}).get("optimizers", {})
        lines = []
        for group, why in unused.items():
            section, kind = getattr(self, group), type(getattr(self, group))
            if section != kind.model_validate(usual.get(group, {})):
                lines += [f"{group}.{line}" for line in section.unused(why, *kind.model_fields)]
        return lines


def gradient_of_rows(
    value: Tensor, gradient: Tensor | None, at: Tensor, rows: Tensor, term: Tensor | None
) -> Tensor:
    """Return the gradient of some rows of a parameter, float [m, *shape].

    Args:
        value: float [n, *shape], the parameter.
        gradient: float [q, *shape], parts of it; None: there are none.
        at: int64 [q], the row of each part.
        rows: int64 [m], ascending.
        term: float [n, *shape], what is added; None: nothing.
    """
    if gradient is not None and at is rows and term is None:
        return gradient
    total = torch.zeros_like(value) if term is None else term
    if gradient is not None:
        total = total.index_add(0, at, gradient)
    return total if len(rows) == len(total) else total.index_select(0, rows)


def step_rows(
    optimizer: Optimizer,
    value: Tensor,
    gradient: Tensor,
    state: Mapping[str, Tensor],
    owners: Tensor,
) -> None:
    """Make a step of some owners, in place; the others stay.

    Args:
        optimizer: Whose step; with the rate of the round.
        value: float [n, *shape], one per owner.
        gradient: float [m, *shape], of those that step.
        state: Per name of `Optimizer.state`, float [n, *shape]; ``steps``, float [n].
        owners: int64 [m], which step, in ascending order.
    """
    if len(owners) == len(value):
        value += -optimizer.lr * _direction(optimizer, value, gradient, state)
        return
    stepping = {key: each.index_select(0, owners) for key, each in state.items()}
    before = value if optimizer.weight_decay == 0 else value.index_select(0, owners)
    value.index_add_(0, owners, -optimizer.lr * _direction(optimizer, before, gradient, stepping))
    for key, each in stepping.items():
        state[key].index_copy_(0, owners, each)


def _direction(
    optimizer: Optimizer, value: Tensor, gradient: Tensor, state: Mapping[str, Tensor]
) -> Tensor:
    """Return what a step at the rate 1 takes off the values; bring the state up to date."""
    decay = optimizer.weight_decay
    if decay > 0 and optimizer.name != "adamw":
        gradient = gradient + decay * value
    if optimizer.name == "sgd":
        if optimizer.momentum == 0:
            return gradient
        velocity = state["momentum"].mul_(optimizer.momentum).add_(gradient)
        return gradient + optimizer.momentum * velocity if optimizer.nesterov else velocity
    first, second, steps = (state[key] for key in optimizer.state)
    first.mul_(optimizer.beta1).add_((1 - optimizer.beta1) * gradient)
    second.mul_(optimizer.beta2).add_((1 - optimizer.beta2) * gradient * gradient)
    steps += 1
    # Powers of single numbers do not depend on where they stand.
    counts, shape = steps.tolist(), (-1, *[1] * (gradient.dim() - 1))

    def corrected(moment: Tensor, beta: float) -> Tensor:
        factors = {count: 1.0 - beta ** int(count) for count in set(counts)}
        of_owners = torch.tensor([factors[count] for count in counts], dtype=moment.dtype)
        return moment / of_owners.reshape(shape)

    direction = corrected(first, optimizer.beta1)
    direction /= corrected(second, optimizer.beta2).sqrt_().add_(optimizer.epsilon)
    return direction + decay * value if decay > 0 and optimizer.name == "adamw" else direction
