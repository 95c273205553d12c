"""Gaussian noise on what a client sends."""

from dataclasses import replace
from math import prod
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from fedrec.aggregation.update import UpdateBatch
from fedrec.compute.context import RoundContext
from fedrec.transforms.base import Transform
from fedrec.types import FloatArray, IntArray


class Gaussian(Transform):
    r"""Adds independent :math:`\mathcal{N}(0, \sigma^2)` to every value that a client sends.

    It measures what noise costs. It gives no guarantee of privacy: rows that a client does not
    touch get no noise, so which items it touched stays visible. What a client rule sends beside a
    parameter gets none.

    Args:
        std: :math:`\sigma`.

    Reference: mcmahan2018learning, section 2, of which this is the noise.
    """

    reference: ClassVar[str] = "mcmahan2018learning"

    std: float = Field(ge=0)

    def without_effect(self, run: Any) -> list[str]:
        """Say that there is no noise."""
        return ["std: 0 has no effect: it is no noise; raise it"] * (self.std == 0)

    def on_update(self, batch: UpdateBatch, context: RoundContext) -> UpdateBatch:
        """Return the updates with noise."""
        if self.std == 0:
            return batch
        clients, ones = batch.client_ids, np.ones(len(batch.client_ids), np.int64)

        def noisy(name: str, values: FloatArray, rows: IntArray) -> FloatArray:
            if "/" in name:
                return values
            size = prod(values.shape[1:])
            noise = context.normal(f"gaussian {name}", clients, rows, size).reshape(values.shape)
            return np.asarray(values + np.float32(self.std) * noise, np.float32)

        tables = {
            name: replace(block, values=noisy(name, block.values, np.diff(block.offsets)))
            for name, block in batch.tables.items()
        }
        dense = {name: noisy(name, value, ones) for name, value in batch.dense.items()}
        return replace(batch, tables=tables, dense=dense)
