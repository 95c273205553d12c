"""Dropout that a run's seed decides, in place of torch's."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn


class Draws:
    """Where the dropout of a module finds the key of the client that is computed.

    Args:
        key: int64 scalar, of a client's step; None: nothing is dropped.
    """

    def __init__(self) -> None:
        self.key: Tensor | None = None


class DrawnDropout(nn.Module):
    """Dropout whose draws depend on seed, round, client and step alone, and on where it stands.

    Args:
        p: Share of the values that are set to 0.
        number: Tells the layers of a module apart.
        draws: Where the key of the client lies.
    """

    def __init__(self, p: float, number: int, draws: Draws) -> None:
        super().__init__()
        self.p, self.number, self.draws = p, number, draws

    def forward(self, x: Tensor) -> Tensor:
        """Return values of which some are 0 and the others larger, float [...]."""
        if self.draws.key is None or self.p == 0:
            return x
        keep = uniform(self.draws.key + self.number, x.shape) >= self.p
        return x * keep / (1 - self.p)


def uniform(key: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return uniform draws from 0 below 1 that depend on a key and a place alone, float [*shape].

    A place counts from the front, so a larger array begins with the values of a smaller one. The
    finalizer is that of SplitMix64.

    Args:
        key: int64 scalar.
        shape: Of the result.

    Reference: steele2014fast.
    """
    hashed = _mixed(key)
    for size in shape:
        steps = torch.arange(1, size + 1, device=hashed.device) * -0x61C8864680B583EB
        hashed = _mixed(hashed.unsqueeze(-1) + steps)
    return ((hashed >> 40) & 0xFFFFFF) * 2.0**-24


def _mixed(x: Tensor) -> Tensor:
    x = (x ^ ((x >> 30) & 0x3FFFFFFFF)) * -0x40A7B892E31B1A47
    x = (x ^ ((x >> 27) & 0x1FFFFFFFFF)) * -0x6B2FB644ECCEEE15
    return x ^ ((x >> 31) & 0x1FFFFFFFF)


def with_drawn_dropout(module: nn.Module, draws: Draws) -> nn.Module:
    """Replace every `torch.nn.Dropout` of a module, and return it."""
    numbers: Iterator[int] = iter(range(2**20))
    if type(module) is nn.Dropout:
        return DrawnDropout(module.p, next(numbers), draws)
    for parent in list(module.modules()):
        for name, child in list(parent._modules.items()):  # also of one module in two places
            if type(child) is nn.Dropout:
                setattr(parent, name, DrawnDropout(child.p, next(numbers), draws))
    return module
