"""Terms that keep the dimensions of an item table from repeating one another.

All work on the rows of users, one user after the other, and give 0 for a user with one row.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedrec.compute.batch import Tiles, blocks_of
from fedrec.compute.operations import MM_INNER, contiguous_sum
from fedrec.types import IntArray


def single_view(rows: Tensor, offsets: IntArray | None = None) -> Tensor:
    r"""Return the mean squared correlation between different dimensions, summed over users.

    .. math:: \sum_u \frac{1}{d(d-1)} \sum_{a \ne b} \mathrm{corr}_{ab}^2

    Args:
        rows: float [q, d], the rows of one user after the other.
        offsets: int64 [u + 1], the rows of each user; None: all belong to one.

    Returns:
        float []; a user with n < 2 adds 0, as does d < 2.

    Reference: shi2023feddecorr, without its factor n.
    """
    every = np.array([0, len(rows)], np.int64) if offsets is None else offsets
    value: Tensor = _Decorrelation.apply(rows, None, 0.0, every)  # type: ignore[no-untyped-call]
    return value


def cross_view(
    rows: Tensor, frozen: Tensor, gamma: float, offsets: IntArray | None = None
) -> Tensor:
    r"""Return how far dimensions are from agreeing with themselves in a frozen table alone.

    .. math:: C = Z^\top Z_g / n, \quad
              \frac{1}{d} \sum_a (1 - C_{aa})^2 + \frac{\gamma}{d} \sum_{a \ne b} C_{ab}^2

    Args:
        rows: float [q, d], the client's view.
        frozen: float [q, d], the same rows of the frozen table; no gradient.
        gamma: Weight of the pairs of different dimensions.
        offsets: int64 [u + 1], the rows of each user; None: all belong to one.

    Returns:
        float [], summed over users; 0 for n < 2.

    Reference: zbontar2021barlow.
    """
    every = np.array([0, len(rows)], np.int64) if offsets is None else offsets
    value: Tensor = _Decorrelation.apply(rows, frozen, gamma, every)  # type: ignore[no-untyped-call]
    return value


class _Decorrelation(torch.autograd.Function):
    """Both views, with the gradient in closed form: as a graph it takes several times as long."""

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, frozen: Tensor | None, gamma: float, offsets: IntArray
    ) -> Tensor:
        users, d = _Users(offsets), rows.shape[1]
        z, scale = users.standardised(rows)
        other = z if frozen is None else users.standardised(frozen)[0]
        tiles = users.filled(z), users.filled(other)
        count = users.count.to(rows.dtype)
        c = users.products(*tiles)[:, :d, :d] / count.reshape(-1, 1, 1)
        diagonal = torch.diagonal(c, dim1=1, dim2=2)
        others = c - torch.diag_embed(diagonal)
        usable = (torch.as_tensor(np.diff(offsets)) >= 2).to(rows.dtype)
        if frozen is None:
            usable = usable * float(d >= 2)
            weight = 1.0 / max(d * (d - 1), 1)
            value = others.square().sum((1, 2)) * weight
            slope = 4.0 * weight * others
        else:
            value = ((1 - diagonal).square().sum(1) + gamma * others.square().sum((1, 2))) / d
            slope = (2.0 * gamma / d) * others + torch.diag_embed(-2.0 / d * (1 - diagonal))
        slope = slope * (usable / count).reshape(-1, 1, 1)
        gradient = users.times(tiles[1], slope.transpose(1, 2))
        gradient = gradient - z * users.repeat(users.mean(gradient * z))
        gradient = (gradient - users.repeat(users.mean(gradient))) * users.repeat(scale)
        ctx.save_for_backward(gradient)
        return (value * usable).sum()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return grad * gradient, None, None, None


class _Users:
    """Rows of users, one user after the other."""

    def __init__(self, offsets: IntArray) -> None:
        self.offsets, self.tiles = torch.as_tensor(offsets), Tiles.of(offsets)
        self.lengths = self.offsets.diff()
        self.count = self.lengths.clamp_min(1)
        self.owners = torch.as_tensor(self.tiles.owners)

    def mean(self, rows: Tensor) -> Tensor:
        return contiguous_sum(rows, self.offsets) / self.count.to(rows.dtype).unsqueeze(1)

    def repeat(self, values: Tensor) -> Tensor:
        return values.repeat_interleave(self.lengths, dim=0)

    def standardised(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return columns of mean 0 and variance 1, and 1 / deviation; a constant column stays 0."""
        centred = rows - self.repeat(self.mean(rows))
        variance = self.mean(centred.square())
        scale = 1.0 / torch.where(variance > 0, variance, torch.ones_like(variance)).sqrt()
        return centred * self.repeat(scale), scale

    def filled(self, rows: Tensor) -> Tensor:
        """Return the rows in tiles, filled up to a width whose products round alike anywhere."""
        return self.tiles.fill(rows, -(-rows.shape[1] // MM_INNER) * MM_INNER)

    def products(self, a: Tensor, b: Tensor) -> Tensor:
        """Return a^T b of each user, float [u, d, d]."""
        total = a.new_zeros((len(self.count), a.shape[2], b.shape[2]))
        for block in blocks_of(len(a)):
            total.index_add_(0, self.owners[block], torch.bmm(a[block].transpose(1, 2), b[block]))
        return total

    def times(self, tiled: Tensor, matrices: Tensor) -> Tensor:
        """Return the rows, each times its user's matrix, float [q, d]."""
        d, width = matrices.shape[1], tiled.shape[2]
        square = matrices.new_zeros((len(matrices), width, width))
        square[:, :d, :d] = matrices
        result = torch.empty_like(tiled)
        for block in blocks_of(len(tiled)):
            result[block] = torch.bmm(tiled[block], square[self.owners[block]])
        return self.tiles.rows(result)[:, :d]
