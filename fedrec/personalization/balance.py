"""How much of the local branch a user gets: weights from the neural tangent kernel.

For a linear last layer with input features Phi [n, h] the tangent kernel of that layer is exactly
Phi Phi^T. Each function compares the kernels of the local and the global branch on the touched rows
of one user. All give 1/2 where both branches are equal, and where both are zero.
"""

from __future__ import annotations

import torch

__all__ = ["alignment", "residual", "trace"]


def _share(local: torch.Tensor, frozen: torch.Tensor) -> torch.Tensor:
    total = local + frozen
    return torch.where(total > 0, local / total, torch.full_like(total, 0.5))


def trace(local: torch.Tensor, frozen: torch.Tensor) -> torch.Tensor:
    r"""Share of the traces of the centred kernels, the mean rates of convergence.

    .. math:: \lambda = \frac{\mathrm{tr} K_l}{\mathrm{tr} K_l + \mathrm{tr} K_g}

    All eigenvalues count (the paper drops the smallest).

    Args:
        local: float [n, h], features of the local branch.
        frozen: float [n, g], features of the global branch.

    Returns:
        float [].

    Reference: jiang2024lgmix.
    """
    return _share((local - local.mean(0)).square().sum(), (frozen - frozen.mean(0)).square().sum())


def residual(local: torch.Tensor, frozen: torch.Tensor, error: torch.Tensor) -> torch.Tensor:
    r"""Share of the instantaneous decrease of the loss, :math:`r^\top K r`.

    Args:
        local: float [n, h].
        frozen: float [n, g].
        error: float [n], predicted probability minus label.

    Returns:
        float [].
    """
    return _share((local.T @ error).square().sum(), (frozen.T @ error).square().sum())


def alignment(local: torch.Tensor, frozen: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    r"""Share of the alignment with the labels, free of the scale of the features.

    .. math:: A = \lVert \Phi^\top y \rVert^2 / \lVert \Phi \rVert_F^2, \quad
              \lambda = A_l / (A_l + A_g)

    Args:
        local: float [n, h].
        frozen: float [n, g].
        labels: float [n]; centred here.

    Returns:
        float [].
    """
    y = labels - labels.mean()
    return _share(_aligned(local, y), _aligned(frozen, y))


def _aligned(features: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    size = features.square().sum()
    value = (features.T @ y).square().sum()
    return torch.where(size > 0, value / size, torch.zeros_like(size))
