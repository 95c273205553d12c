"""The section ``train`` of an experiment."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from fedrec.plugins import Count, Section

NO_PRIVATE = "the model has no private parameters that are trained"


class SGD(Section):
    """Plain stochastic gradient descent.

    Args:
        name: ``sgd``.
        lr: Step size.
    """

    name: Literal["sgd"] = "sgd"
    lr: float = Field(1.0, gt=0)


class PrivateOptimizer(Section):
    """The optimizer of the private parameters. Its state never leaves the client.

    Args:
        name: ``adam`` or ``sgd``.
        lr: Step size.
        beta1: Decay of Adam's first moment.
        beta2: Decay of Adam's second moment.
        epsilon: Floor of Adam's denominator.
    """

    name: Literal["adam", "sgd"] = "adam"
    lr: float = Field(0.02, gt=0)
    beta1: float = Field(0.9, ge=0, lt=1)
    beta2: float = Field(0.999, ge=0, lt=1)
    epsilon: float = Field(1e-8, gt=0)

    def without_effect(self, experiment: Any, split: Any) -> list[str]:
        """Say that SGD has no moments."""
        names = ("beta1", "beta2", "epsilon") if self.name == "sgd" else ()
        return self.unused("it belongs to adam", *names)


class Optimizers(Section):
    """The optimizers of local training, one per group of parameters.

    Args:
        item: Of the item tables.
        shared: Of the other shared parameters.
        private: Of the private parameters.
    """

    item: SGD = SGD()
    shared: SGD = SGD()
    private: PrivateOptimizer = PrivateOptimizer()

    def without_effect(self, experiment: Any, split: Any) -> list[str]:
        """Say which group of parameters the model does not have."""
        task, unused = experiment.client_task(), {}
        if not task.dense():
            unused["shared"] = "the model shares nothing but item tables"
        if not task.trains_private:
            unused["private"] = NO_PRIVATE
        # What a strategy fills in for all models is nobody's wish.
        usual = experiment.strategy.defaults.get("train", {}).get("optimizers", {})
        lines = []
        for group, why in unused.items():
            section, kind = getattr(self, group), type(getattr(self, group))
            if section != kind.model_validate(usual.get(group, {})):
                lines += [f"{group}.{line}" for line in section.unused(why, *kind.model_fields)]
        return lines


class Train(Section):
    """Training on the client.

    Args:
        loss: ``bce`` on positives and sampled negatives, or ``bpr`` on pairs of them.
        reduction: ``sum`` or ``mean`` over the rows of a batch.
        negatives: sampled negatives per positive, drawn anew in each local epoch.
        negative_sampling: ``uniform``, or ``popularity`` (in proportion to train count + 1).
        local_epochs: passes over the client's positives in one round.
        batch_size: positives per step (with their negatives), or ``full``.
        optimizers: One per group of parameters.
        backend: ``numba``, ``torch``, or ``auto``: numba for what it covers: ``mf`` and
            ``pfedrec``, alone or with PLGC's similarity branch, as the shipped configurations have
            them. Both give the same values to rounding, not to the bit.
        weight_decay: w in w/2 * n * ||p||^2 for each trainable local parameter of a user, n the
            user's positives in the batch.
    """

    renamed: ClassVar[Mapping[str, str]] = {
        "item_lr": "train.optimizers.item.lr and train.optimizers.shared.lr",
        "local_optimizer": "train.optimizers.private",
        "kernel": "train.backend: auto, numba or torch",
    }

    loss: Literal["bce", "bpr"] = "bce"
    reduction: Literal["sum", "mean"] = "sum"
    negatives: int = Field(4, ge=1)
    negative_sampling: Literal["uniform", "popularity"] = "uniform"
    local_epochs: int = Field(1, ge=1)
    batch_size: Count | Literal["full"] = "full"
    optimizers: Optimizers = Optimizers()
    weight_decay: float = Field(0.0, ge=0)
    backend: Literal["auto", "numba", "torch"] = "auto"

    def without_effect(self, experiment: Any, split: Any) -> list[str]:
        """Say that nothing decays, or that a batch holds all that any client has."""
        names = [] if experiment.client_task().trains_private else ["weight_decay"]
        lines = self.unused(NO_PRIVATE, *names)
        if self.one_step(split):
            lines += self.unused("no client has more train items", "batch_size")
        return lines

    def one_step(self, split: Any) -> bool:
        """Return whether every client makes one step per local epoch."""
        lengths = split.train.lengths[split.clients.values]
        longest = np.bincount(split.clients.owners(), lengths).max(initial=0)
        return self.batch_size == "full" or self.batch_size >= longest
