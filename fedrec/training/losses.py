"""The losses of the pairs of a step, and how those of a client are weighted."""

import numpy as np
import torch
from torch import Tensor

from fedrec.compute.device import to_array
from fedrec.compute.operations import gather, log_sigmoid
from fedrec.training.plan import Step
from fedrec.training.task import ClientTask
from fedrec.types import FloatArray


def losses_of(task: ClientTask, step: Step, score: Tensor) -> tuple[Tensor, Tensor]:
    """Return the position of the client and the loss of each score, or of each positive.

    Args:
        task: The loss.
        step: What is scored.
        score: float [r], the scores, or the model's own losses.
    """
    clients = torch.as_tensor(step.owners["client"].index)
    of_scores = clients if step.scored is None else clients[step.scored]
    if task.model.overrides("loss"):
        return of_scores, score
    if task.train.loss == "bce":
        positive, negative = step.is_positive.to(score.dtype), step.n_negative.to(score.dtype)
        return of_scores, -(positive * log_sigmoid(score) + negative * log_sigmoid(-score))
    # Bayesian personalised ranking; rendle2009bpr.
    assert step.asked is not None
    asked = step.asked if step.scored is None else torch.arange(len(score)).view_as(step.asked)
    scores = gather(score, asked)
    return of_scores[asked[:, 0]], -log_sigmoid(scores[:, :1] - scores[:, 1:]).sum(-1)


def weights_of(task: ClientTask, step: Step) -> Tensor | None:
    """Return the weight of each client's loss, float64 [c]; a mean is over its own rows."""
    train = task.train
    if train.reduction == "sum":
        return None
    counts_positives = train.loss == "bce" or task.model.overrides("loss")
    rows = positives_of(step, "client") * (train.negatives + counts_positives)
    return torch.as_tensor(1.0 / np.maximum(rows, 1))


def positives_of(step: Step, axis: str) -> FloatArray:
    """Return how many positives of a step each owner of an axis has, float64 [n]."""
    owners = step.owners[axis]
    n = len(owners.present)
    return np.bincount(owners.index, to_array(step.pairs.labels), n + 1)[:n]
