"""Gaussian noise on what a client sends."""

from dataclasses import replace
from typing import ClassVar

import numpy as np
from pydantic import Field

from fedrec.compute.context import RoundContext
from fedrec.transforms.base import Transform
from fedrec.types import FloatArray, UpdateBatch


class Gaussian(Transform):
    r"""Adds independent :math:`\mathcal{N}(0, \sigma^2)` to every value that a client sends.

    It measures what noise costs. It gives no guarantee of privacy: rows that a client does not
    touch get no noise, so which items it touched stays visible.

    Args:
        std: :math:`\sigma`.

    Reference: mcmahan2018learning, section 2, of which this is the noise.
    """

    reference: ClassVar[str] = "mcmahan2018learning"

    std: float = Field(ge=0)

    def on_update(self, batch: UpdateBatch, context: RoundContext) -> UpdateBatch:
        """Return the updates with noise."""
        if self.std == 0:
            return batch
        tables = {
            name: replace(
                block, values=self._noisy(name, block.values, block.offsets, batch, context)
            )
            for name, block in batch.tables.items()
        }
        one_each = np.arange(len(batch.client_ids) + 1)
        dense = {
            name: self._noisy(name, value, one_each, batch, context)
            for name, value in batch.dense.items()
        }
        return replace(batch, tables=tables, dense=dense)

    def _noisy(
        self,
        name: str,
        values: FloatArray,
        offsets: FloatArray,
        batch: UpdateBatch,
        context: RoundContext,
    ) -> FloatArray:
        """Return rows with noise; those of client k lie between its offsets."""
        size = int(np.prod(values.shape[1:]))
        noise = np.concatenate(
            [
                context.normal(f"gaussian {name}", client, count * size)
                for client, count in zip(
                    batch.client_ids.tolist(), np.diff(offsets).tolist(), strict=True
                )
            ]
        )
        return np.asarray(values + np.float32(self.std) * noise.reshape(values.shape), np.float32)
