"""Scores of item vectors in blocks, one for each modality, weighted by what an item has."""

import torch
from torch import Tensor

from fedrec.models.multimodal.base import above_zero, masked_softmax, positive_weights


def score_blocks(users: Tensor, vectors: Tensor, logits: Tensor, present: Tensor) -> Tensor:
    r"""Return :math:`\sum_m a_m\, p^m \cdot x^m` with the weights a of `masked_softmax`.

    Args:
        users: float [q, m d].
        vectors: float [q, m d].
        logits: float [q, m], or [m].
        present: float [q, m].

    Returns:
        float [q].
    """
    products = as_blocks(users * vectors, present.shape[-1]).sum(-1)
    return (masked_softmax(logits, present) * products).sum(-1)


def rank_blocks(users: Tensor, encoded: Tensor, logits: Tensor, present: Tensor) -> Tensor:
    """Return the scores of all pairs, as `score_blocks` does, by two matrix products.

    Args:
        users: float [b, m d].
        encoded: float [n_items, m d].
        logits: float [b, m], or [m].
        present: float [n_items, m].

    Returns:
        float [b, n_items].
    """
    weights = positive_weights(logits)
    weighted = as_blocks(users, present.shape[-1]) * weights.unsqueeze(-1)
    return (weighted.flatten(-2) @ encoded.T) / above_zero(weights @ present.T)


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Return the inner products of rows: float [..., d] -> float [...].

    Faster than `fedrec.compute.operations.row_dot`, but its bits may depend on the other rows.
    """
    products: Tensor = torch.linalg.vecdot(a, b)
    return products


def as_blocks(vectors: Tensor, count: int) -> Tensor:
    """Return vectors cut into blocks: float [..., m d] -> float [..., m, d]."""
    return vectors.reshape(*vectors.shape[:-1], count, -1)
