"""Clipping: the norm of a client's gradient in a step is bounded, whoever is trained beside it."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from fedrec.compute.operations import segment_sum
from fedrec.training.plan import Step
from fedrec.types import ParamSpec


def clipped(
    step: Step, gradients: Mapping[str, Tensor | None], specs: Mapping[str, ParamSpec], norm: float
) -> dict[str, Tensor | None]:
    r"""Return :math:`g \min(1, C / \lVert g \rVert)` for the gradient :math:`g` of each client.

    A client's gradient is that by all of its values: its rows of item tables, dense and private
    parameters.

    Args:
        step: The pairs.
        gradients: By name, of an item table float [q, *shape], a row per pair; of a dense parameter
            float [c, *shape]; of a private one float [n, *shape], one per owner; None: zero.
        specs: Of the parameters.
        norm: C.

    Reference: pascanu2013difficulty, Algorithm 1.
    """
    squares = torch.zeros(len(step.owners["client"].present), dtype=torch.float64)
    clients = {}
    for name, gradient in gradients.items():
        if gradient is None:
            continue
        axis = specs[name].axis
        if axis == "item":
            clients[name] = torch.as_tensor(step.owners["client"].index)
            # Pairs of several users of a client may share a row.
            rows, row = torch.unique(step.local_rows, return_inverse=True)
            of_rows = torch.empty_like(rows).index_copy_(0, row, clients[name])
            gradient = segment_sum(gradient, row, len(rows))
        else:
            of_rows = clients[name] = clients_of_owners(step, axis or "client")
        values = gradient.double().reshape(len(gradient), -1)
        squares.index_add_(0, of_rows, values.square().sum(1))
    factors = (norm / squares.sqrt()).clamp(max=1.0)
    shortened = dict(gradients)
    for name, client in clients.items():
        gradient = gradients[name]
        assert gradient is not None
        factor = factors.to(gradient.dtype)[client]
        shortened[name] = gradient * factor.reshape(-1, *[1] * (gradient.dim() - 1))
    return shortened


def clients_of_owners(step: Step, axis: str) -> Tensor:
    """Return the client of each owner of an axis among those of the step, int64 [n]."""
    owners = step.owners[axis]
    client = np.zeros(len(owners.present) + 1, np.int64)
    client[owners.index] = step.owners["client"].index
    return torch.as_tensor(client[:-1])
