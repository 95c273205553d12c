"""What transforms share that change the form in which values travel."""

from abc import abstractmethod
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fedrec.compute.context import RoundContext
from fedrec.transforms.base import Transform
from fedrec.types import IntArray, RowBlock, UpdateBatch


class Encoding(Transform):
    """Base of transforms that encode what clients send, with what client rules send beside it."""

    @abstractmethod
    def encoded(
        self, name: str, block: RowBlock, clients: IntArray, context: RoundContext
    ) -> RowBlock:
        """Return rows in another form.

        Args:
            name: Of the parameter.
            block: Rows of some clients, float32; of a dense parameter one row per client.
            clients: int64 [c], their ids.
            context: The round.
        """

    def on_update(self, batch: UpdateBatch, context: RoundContext) -> UpdateBatch:
        """Return the encoded updates."""
        clients = batch.client_ids
        none, one_each = np.zeros(len(clients), np.int64), np.arange(len(clients) + 1)
        dense = dict(batch.coded)
        dense |= {name: RowBlock(one_each, none, value) for name, value in batch.dense.items()}
        tables, coded = (
            {name: self.encoded(name, block, clients, context) for name, block in blocks.items()}
            for blocks in (batch.tables, dense)
        )
        return replace(batch, tables=tables, dense={}, coded=coded)


def uniform16(
    name: str, block: RowBlock, clients: IntArray, context: RoundContext
) -> NDArray[np.float32]:
    """Return a random number in (0, 1) for each value of some clients, float32 of their shape.

    They are multiples of 2**-17, so that adding one to a whole number below 128 is exact.
    """
    size = int(np.prod(block.values.shape[1:]))
    words = [
        context.words(name, client, -(-rows * size // 4)).view(np.uint16)[: rows * size]
        for client, rows in zip(clients.tolist(), np.diff(block.offsets).tolist(), strict=True)
    ]
    numbers = np.concatenate(words) if words else np.zeros(0, np.uint16)
    uniform = (numbers.astype(np.float32) + np.float32(0.5)) * np.float32(2.0**-16)
    return uniform.reshape(block.values.shape)
