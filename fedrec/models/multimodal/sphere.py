"""Vectors of length 1: made so, and joined along the sphere."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

Draw = Literal["arcsine", "uniform", "middle"]

_BITS = 12

LARGEST_COSINE = 1 - 1e-6
"""Below 1 also in float32: at an angle of 0 the curve would be 0 / 0."""


def unit(vectors: Tensor) -> Tensor:
    """Return vectors of length 1, float [..., d]; 0 stays 0, with a finite gradient."""
    return vectors * torch.rsqrt(vectors.square().sum(-1, keepdim=True) + 1e-12)


def bezier(points: Sequence[Tensor], present: Sequence[Tensor], share: Tensor) -> Tensor:
    r"""Return the point of a spherical Bézier curve, by de Casteljau's repeated joins.

    Two points are joined at :math:`[\sin(p \omega) a + \sin((1 - p) \omega) b] / \sin \omega` with
    their angle :math:`\omega`, which has length 1 again. A point that is missing leaves the other
    as it is.

    Args:
        points: float [..., d] of length 1, one per modality; 0 where it is missing.
        present: float [..., 1], per modality, 1 or 0.
        share: float [..., 1], p.

    Returns:
        float [..., d], 0 where all are missing.
    """
    if len(points) == 1:
        return points[0]
    pairs = range(len(points) - 1)
    joined = [_joined(points[k], points[k + 1], present[k] * present[k + 1], share) for k in pairs]
    return bezier(joined, [torch.maximum(present[k], present[k + 1]) for k in pairs], share)


class CurvePoint(nn.Module):
    """Draws the p of `bezier` for each item in training; outside training it is 1/2.

    A number is made of the bits that dropout keeps, so the draws are those of the run.

    Args:
        draw: ``uniform``, or ``arcsine``: the Beta distribution with both parameters 1/2, which
            prefers the ends of the curve; ``middle`` is 1/2 always.
    """

    weights: Tensor

    def __init__(self, draw: Draw) -> None:
        super().__init__()
        self.draw, self.bits = draw, nn.Dropout(0.5)
        # Dropout gives 0 or 2 in training, and 1 otherwise, which is their mean.
        self.register_buffer("weights", 0.5 ** torch.arange(2, 2 + _BITS))

    def forward(self, like: Tensor) -> Tensor:
        """float [..., 1], a draw of the same shape."""
        bits = torch.ones_like(like).expand(*like.shape[:-1], _BITS)
        if self.draw == "middle":
            return torch.full_like(like, 0.5)
        share = (self.bits(bits) * self.weights).sum(-1, keepdim=True) + 0.5 ** (1 + _BITS)
        return share if self.draw == "uniform" else torch.sin(0.5 * math.pi * share).square()


def _joined(a: Tensor, b: Tensor, both: Tensor, share: Tensor) -> Tensor:
    cosine = (a * b).sum(-1, keepdim=True).clamp(-LARGEST_COSINE, LARGEST_COSINE)
    angle = torch.arccos(cosine)
    curve = (torch.sin(share * angle) * a + torch.sin((1 - share) * angle) * b) / torch.sin(angle)
    return both * curve + (1 - both) * (a + b)
