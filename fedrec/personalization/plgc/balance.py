"""How much of the local branch a user gets: weights from the neural tangent kernel.

For a linear last layer with input features Phi [n, h] the tangent kernel of that layer is exactly
Phi Phi^T. Each function below sizes one branch up by its kernel on a user's touched rows; the
weight of the local branch is its `share` of both sizes.
"""

from __future__ import annotations

import torch

__all__ = ["alignment", "residual", "share", "trace"]


def share(local: torch.Tensor, frozen: torch.Tensor) -> torch.Tensor:
    r"""The weight of the local branch, :math:`\lambda = A_l / (A_l + A_g)`.

    Args:
        local: float [...], the size of the local branch, not negative.
        frozen: float [...], of the global branch.

    Returns:
        float [...] in [0, 1]; 1/2 where both are equal, and where both are zero.
    """
    total = local + frozen
    half = torch.full_like(total, 0.5)
    return torch.where(total > 0, local / torch.where(total > 0, total, half), half)


def trace(features: torch.Tensor) -> torch.Tensor:
    r"""The trace of the centred kernel, the mean rate of convergence: :math:`\mathrm{tr}\,K`.

    All eigenvalues count (the paper drops the smallest).

    Args:
        features: float [n, h].

    Returns:
        float [].

    Reference: jiang2024lgmix.
    """
    return (features - features.mean(0)).square().sum()


def residual(features: torch.Tensor, error: torch.Tensor) -> torch.Tensor:
    r"""The instantaneous decrease of the loss, :math:`r^\top K r`.

    Args:
        features: float [n, h].
        error: float [n], predicted probability minus label.

    Returns:
        float [].
    """
    return (features.T @ error).square().sum()


def alignment(features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    r"""The alignment with the labels, free of the scale of the features.

    .. math:: A = \lVert \Phi^\top y \rVert^2 / \lVert \Phi \rVert_F^2

    Args:
        features: float [n, h].
        labels: float [n]; centred here.

    Returns:
        float [], 0 for features of zero.
    """
    size = features.square().sum()
    value = (features.T @ (labels - labels.mean())).square().sum()
    return torch.where(size > 0, value / size, torch.zeros_like(size))
