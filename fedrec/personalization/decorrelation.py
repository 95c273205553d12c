"""Terms that keep the dimensions of an item table from repeating one another.

All work on float [n, d], one user's touched rows, and give 0 for n < 2.
"""

from __future__ import annotations

import torch

__all__ = ["cross_view", "single_view"]


def _standardised(rows: torch.Tensor) -> torch.Tensor:
    """Columns of mean 0 and variance 1; a constant column stays 0."""
    centred = rows - rows.mean(0)
    variance = centred.square().mean(0)
    return centred / torch.where(variance > 0, variance, torch.ones_like(variance)).sqrt()


def single_view(rows: torch.Tensor) -> torch.Tensor:
    r"""Mean squared correlation between different dimensions.

    .. math:: \frac{1}{d(d-1)} \sum_{a \ne b} \mathrm{corr}_{ab}^2

    Args:
        rows: float [n, d].

    Returns:
        float [], 0 for n < 2 or d < 2.

    Reference: shi2023feddecorr, without its factor n.
    """
    n, d = rows.shape
    if n < 2 or d < 2:
        return rows.new_zeros(())
    unit = _standardised(rows)
    correlation = unit.T @ unit / n
    off = correlation - torch.diag_embed(torch.diagonal(correlation))
    return off.square().sum() / (d * (d - 1))


def cross_view(rows: torch.Tensor, frozen: torch.Tensor, gamma: float) -> torch.Tensor:
    r"""Each dimension agrees with itself in the frozen table and with no other.

    .. math:: C = Z^\top Z_g / n, \quad
              \frac{1}{d} \sum_a (1 - C_{aa})^2 + \frac{\gamma}{d} \sum_{a \ne b} C_{ab}^2

    Args:
        rows: float [n, d], the client's view.
        frozen: float [n, d], the same rows of the frozen table; no gradient.
        gamma: weight of the pairs of different dimensions.

    Returns:
        float [], 0 for n < 2.

    Reference: zbontar2021barlow.
    """
    n, d = rows.shape
    if n < 2:
        return rows.new_zeros(())
    correlation = _standardised(rows).T @ _standardised(frozen.detach()) / n
    diagonal = torch.diagonal(correlation)
    off = correlation - torch.diag_embed(diagonal)
    return (1 - diagonal).square().sum() / d + gamma * off.square().sum() / d
