"""How much of the local branch a user gets: weights from the neural tangent kernel.

For a linear last layer with input features Phi [n, h] the tangent kernel of that layer is exactly
Phi Phi^T. The size of a branch for one user comes from the features of the user's pairs; the
weight of the local branch is its `share` of both sizes.

- ``trace``: of the centred kernel, the mean rate of convergence, tr K. All eigenvalues count (the
  paper drops the smallest).
- ``residual``: the instantaneous decrease of the loss, r^T K r, with the errors r.
- ``alignment``: with the centred labels y, free of the scale of the features,
  ||Phi^T y||^2 / ||Phi||_F^2.

Reference: jiang2024lgmix.
"""

from typing import Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from fedrec.compute.operations import contiguous_sum, repeat_rows
from fedrec.types import IntArray

Balance: TypeAlias = Literal["alignment", "residual", "trace"]


def share(local: Tensor, frozen: Tensor) -> Tensor:
    r"""Return the weight of the local branch, :math:`\lambda = A_l / (A_l + A_g)`.

    Args:
        local: float [...], the size of the local branch, not negative.
        frozen: float [...], of the global branch.

    Returns:
        float [...] in [0, 1]; 1/2 where both are equal, and where both are zero.
    """
    total = local + frozen
    even = torch.full_like(total, 0.5)
    return torch.where(total > 0, local / torch.where(total > 0, total, even), even)


def target(balance: Balance, labels: Tensor, error: Tensor, offsets: IntArray) -> Tensor:
    """Return what features are summed with, float [q]: centred labels, errors, or ones.

    Args:
        balance: Which size is wanted.
        labels: float [q].
        error: float [q], predicted probability minus label.
        offsets: int64 [u + 1], the pairs of each user.
    """
    if balance == "residual":
        return error
    if balance == "trace":
        return torch.ones_like(labels)
    count = torch.as_tensor(np.maximum(np.diff(offsets), 1)).to(labels.dtype)
    mean = contiguous_sum(labels, torch.as_tensor(offsets)) / count
    return labels - repeat_rows(mean, offsets)


def size(balance: Balance, along: Tensor, squares: Tensor, offsets: IntArray) -> Tensor:
    """Return the size of a branch for each user, float64 [u].

    Args:
        balance: Which size.
        along: float64 [u], the squared length of the features summed with the `target`.
        squares: float64 [u], the sum of the squared features.
        offsets: int64 [u + 1], the pairs of each user.
    """
    if balance == "residual":
        return along
    if balance == "trace":
        count = torch.as_tensor(np.maximum(np.diff(offsets), 1))
        return (squares - along / count).clamp_min(0.0)
    return torch.where(squares > 0, along / squares, torch.zeros_like(along))


def branch_sizes(balance: Balance, features: Tensor, aim: Tensor, offsets: IntArray) -> Tensor:
    """Return the size of a branch whose features are rows, float64 [u].

    Args:
        balance: Which size.
        features: float [q, h].
        aim: float [q], of `target`.
        offsets: int64 [u + 1], the pairs of each user.
    """
    at, rows = torch.as_tensor(offsets), features.double()
    along = contiguous_sum(aim.double().unsqueeze(1) * rows, at).square().sum(1)
    return size(balance, along, contiguous_sum(rows.square().sum(1), at), offsets)
