"""The section ``train`` of an experiment."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from fedrec.plugins import Count, Section
from fedrec.training.optimizers import NO_PRIVATE, Optimizers
from fedrec.training.schedule import Schedule


class Train(Section):
    """Training on the client.

    Args:
        loss: ``bce`` on positives and sampled negatives, or ``bpr`` on pairs of them.
        reduction: ``sum`` or ``mean`` over the rows of a batch.
        negatives: sampled negatives per positive, drawn anew in each local epoch.
        negative_sampling: ``uniform``, or ``popularity`` (in proportion to train count + 1).
        local_epochs: passes over the client's positives in one round.
        batch_size: positives per step (with their negatives), or ``full``.
        micro_batch: pairs of a client in one forward and backward pass, whose gradients are added
            up to those of the step; None: all. A positive stays with its negatives where the loss
            or the model compares them. A personalization's loss over all pairs, such as PLGC's
            decorrelation, is computed once for the step. Equal to rounding but for dropout's draws.
        optimizers: One per group of parameters.
        schedule: Of their rates.
        clip_norm: The norm that the gradient of a client's loss by all of its trainable values has
            in a step at most; None: any. Weight decay and the terms of a strategy are added after.
        backend: ``numba``, ``torch``, or ``auto``: numba for what it covers: ``mf`` and
            ``pfedrec``, alone or with PLGC's similarity branch, as the shipped configurations have
            them, and the rounds of ``finetune``. Both give the same values to rounding, not to the
            bit.
        weight_decay: w in w/2 * n * ||p||^2 for each trainable private parameter of a user, n the
            user's positives in the batch; ``reduction: mean`` divides it too.
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
    micro_batch: Count | None = None
    optimizers: Optimizers = Optimizers()
    schedule: Schedule = Schedule()
    clip_norm: float | None = Field(None, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    backend: Literal["auto", "numba", "torch"] = "auto"

    def without_effect(self, run: Any) -> list[str]:
        """Say that nothing decays, or that a batch holds all that any client has."""
        names = [] if run.task.trains_private else ["weight_decay"]
        lines = self.unused(NO_PRIVATE, *names)
        if not run.task.counts_local_epochs:
            lines += self.unused("the personalization has epochs of its own", "local_epochs")
        if run.task.model.overrides("negatives"):
            lines += self.unused("the model draws its negatives itself", "negative_sampling")
        if run.task.model.overrides("loss"):
            lines += self.unused("the model has a loss of its own", "loss")
        if self.one_step(run):
            lines += self.unused("no client has more train items", "batch_size")
        if self.micro_batch is not None and self.micro_batch >= self.most_pairs(run):
            lines += self.unused("no client has more pairs in a step", "micro_batch")
        return lines

    def most_pairs(self, run: Any) -> int:
        """Return how many pairs a client has in a step at most."""
        longest = self.longest(run)
        positives = longest if self.batch_size == "full" else min(longest, self.batch_size)
        return positives * (1 + self.negatives)

    def longest(self, run: Any) -> int:
        """Return how many positives the client trains on that trains on most."""
        split, window = run.split, run.task.model.window
        lengths = split.train.lengths[split.clients.values]
        if window is not None:
            lengths = np.minimum(lengths, window)
        return int(np.bincount(split.clients.owners(), lengths).max(initial=0))

    def one_step(self, run: Any) -> bool:
        """Return whether every client makes one step per local epoch."""
        return self.batch_size == "full" or self.batch_size >= self.longest(run)
