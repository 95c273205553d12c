"""Terms that keep the dimensions of an item table from repeating one another.

All work on float [n, d], one user's touched rows, and give 0 for n < 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

__all__ = ["cross_view", "single_view"]


def _standardised(rows: torch.Tensor) -> torch.Tensor:
    """Columns of mean 0 and variance 1; a constant column stays 0."""
    centred = rows - rows.mean(0)
    variance = centred.square().mean(0)
    return centred / torch.where(variance > 0, variance, torch.ones_like(variance)).sqrt()


def single_view(rows: torch.Tensor, lengths: Sequence[int] | None = None) -> torch.Tensor:
    r"""Mean squared correlation between different dimensions, summed over users.

    .. math:: \sum_u \frac{1}{d(d-1)} \sum_{a \ne b} \mathrm{corr}_{ab}^2

    Args:
        rows: float [q, d], the rows of one user after the other.
        lengths: how many rows each user has; None: all belong to one.

    Returns:
        float []; a user with n < 2 adds 0, as does d < 2.

    Reference: shi2023feddecorr, without its factor n.
    """
    value: torch.Tensor = _SingleView.apply(rows, list(lengths or [len(rows)]))  # type: ignore[no-untyped-call]
    return value


class _SingleView(torch.autograd.Function):
    """With the gradient in closed form: as a graph it takes several times as long."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, lengths: list[int]) -> torch.Tensor:
        gradient = torch.zeros_like(rows)
        total = rows.new_zeros(())
        d, start = rows.shape[1], 0
        for n in lengths:
            if n >= 2 and d >= 2:
                one = rows[start : start + n].clone()
                centred = one - one.mean(0)
                variance = centred.square().mean(0)
                scale = torch.where(variance > 0, variance, torch.ones_like(variance)).rsqrt()
                z = centred * scale
                off = (z.T @ z).div_(n).fill_diagonal_(0.0)
                total = total + off.square().sum() / (d * (d - 1))
                dz = (z @ off).mul_(4.0 / (n * d * (d - 1)))
                dz -= z * (dz * z).mean(0)
                gradient[start : start + n] = dz.sub_(dz.mean(0)).mul_(scale)
            start += n
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return grad * gradient, None


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
