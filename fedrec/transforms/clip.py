"""Clipping: the norm of what a client sends is bounded."""

from dataclasses import replace
from math import prod
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from fedrec.aggregation.update import UpdateBatch
from fedrec.compute.context import RoundContext
from fedrec.errors import ConfigError
from fedrec.transforms.base import Transform
from fedrec.transforms.encoding import slices_of
from fedrec.types import FloatArray


class Clip(Transform):
    r"""Shortens what is longer than a bound: :math:`\Delta \min(1, C / \lVert \Delta \rVert)`.

    Args:
        norm: C.
        per: ``update``: the norm is that of all that a client sends; or ``row``: of each item's
            row by itself, and of each dense parameter.

    Reference: mcmahan2018learning, section 2.
    """

    reference: ClassVar[str] = "mcmahan2018learning"

    norm: float = Field(gt=0)
    per: Literal["update", "row"] = "update"

    def without_effect(self, run: Any) -> list[str]:
        """Refuse what a client rule sends beside the changes: it would not be bounded."""
        if beside := run.task.client_rule.up:
            raise ConfigError(
                f"transforms: clip does not bound the {' and '.join(beside)} that the client rule "
                "sends beside each parameter; take another rule, or leave clip out"
            )
        return []

    def on_update(self, batch: UpdateBatch, context: RoundContext) -> UpdateBatch:
        """Return the clipped updates."""
        n = len(batch.client_ids)
        tables = {name: block for name, block in batch.tables.items() if "/" not in name}
        dense = {name: value for name, value in batch.dense.items() if "/" not in name}
        owners = {
            **{name: np.repeat(np.arange(n), np.diff(b.offsets)) for name, b in tables.items()},
            **dict.fromkeys(dense, np.arange(n)),
        }
        values = {**{name: block.values for name, block in tables.items()}, **dense}
        squares = {name: _squares(value) for name, value in values.items()}
        if self.per == "update":
            total = np.zeros(n)
            for name, each in squares.items():
                total += np.bincount(owners[name], each, n)  # in the order of the rows
            squares = {name: total[owner] for name, owner in owners.items()}
        clipped = {name: _shortened(v, squares[name], self.norm) for name, v in values.items()}
        blocks = {name: replace(block, values=clipped[name]) for name, block in tables.items()}
        return replace(
            batch,
            tables={**batch.tables, **blocks},
            dense={**batch.dense, **{name: clipped[name] for name in dense}},
        )


def _squares(values: FloatArray) -> FloatArray:
    """Return the squared norm of each row, float64 [n].

    Every fourth square is added up, then the four sums: the order in which
    `fedrec.training.executors.numba.transforms` adds them.
    """
    rows = values.reshape(len(values), prod(values.shape[1:]))
    squares = np.empty(len(rows))
    for some in slices_of(rows):
        # Column by column, because numpy adds up short rows one by one.
        columns = np.ascontiguousarray(rows[some].T).astype(np.float64)
        columns *= columns
        sums = np.zeros((4, columns.shape[1]))
        for at in range(0, len(columns), 4):
            four = columns[at : at + 4]
            sums[: len(four)] += four
        squares[some] = (sums[0] + sums[2]) + (sums[1] + sums[3])
    return squares


def _shortened(values: FloatArray, squares: FloatArray, norm: float) -> FloatArray:
    """Return rows with a norm, given by its square, of at most a bound."""
    long = np.flatnonzero(squares > norm**2)
    if not len(long):
        return values
    factor = np.ones(len(values), np.float32)
    factor[long] = norm / np.sqrt(squares[long])
    return np.asarray(values * factor.reshape(-1, *[1] * (values.ndim - 1)), values.dtype)
