"""When training has diverged, and what may be the cause."""

from __future__ import annotations

import math

from fedrec.config.experiment import Experiment

__all__ = ["GROWTH", "likely_causes", "loss_fault"]

GROWTH = 1000.0
"""A loss this many times that of the first round stops the run."""


def loss_fault(loss: float, first: float | None, negatives: int) -> str | None:
    """Return what is wrong with the loss of a round; None if it is within bounds.

    A first loss below that of a model that tells no items apart, ln 2 per pair under BCE and BPR,
    counts as the latter, so that a run that begins near 0 may rise to what is normal.

    Args:
        loss: Mean training loss of the round, per positive with its negatives.
        first: The same of the first round; None in the first round.
        negatives: Sampled negatives per positive.
    """
    if not math.isfinite(loss):
        return "the training loss is not finite"
    untrained = math.log(2.0) * (1 + negatives)
    start = max(untrained if first is None else first, untrained)
    if loss <= GROWTH * start:
        return None
    return f"the training loss is {loss:.3g}, {loss / start:,.0f} times that at the start"


def likely_causes(experiment: Experiment) -> str:
    """Return the rates of an experiment that can make its training diverge, with the way out."""
    optimizers, task = experiment.train.optimizers, experiment.client_task()
    rates = {"train.optimizers.item.lr": optimizers.item.lr}
    if set(task.globals()) - set(task.tables()):
        rates["train.optimizers.shared.lr"] = optimizers.shared.lr
    if task.locals():
        rates["train.optimizers.private.lr"] = optimizers.private.lr
    server_lr = getattr(experiment.strategy, "server_lr", None)
    if server_lr is not None:
        rates["strategy.server_lr"] = server_lr
    named = ", ".join(f"{key} {rate:g}" for key, rate in rates.items())
    return f"lower the rates: {named}"
