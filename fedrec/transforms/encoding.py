"""What transforms share that change the form in which values travel."""

from abc import abstractmethod
from dataclasses import replace
from math import prod

import numpy as np
from numpy.typing import NDArray

from fedrec.aggregation.update import RowBlock, UpdateBatch
from fedrec.compute.context import RoundContext
from fedrec.transforms.base import Transform
from fedrec.types import IntArray


class Encoding(Transform):
    """Base of transforms that encode what clients send.

    What a client rule sends beside a parameter travels in full: the client remembers it so.
    """

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

        def encoded(name: str, block: RowBlock) -> RowBlock:
            if "/" in name:
                return block
            single = block.values.astype(np.float32, copy=False)
            return self.encoded(name, replace(block, values=single), clients, context)

        none, one_each = np.zeros(len(clients), np.int64), np.arange(len(clients) + 1)
        dense = dict(batch.coded)
        dense |= {name: RowBlock(one_each, none, value) for name, value in batch.dense.items()}
        tables, coded = (
            {name: encoded(name, block) for name, block in blocks.items()}
            for blocks in (batch.tables, dense)
        )
        return replace(batch, tables=tables, dense={}, coded=coded)


def numbers16(
    name: str, block: RowBlock, clients: IntArray, context: RoundContext
) -> NDArray[np.uint16]:
    """Return a random number of 16 bits for each value of some clients, uint16 [n, size of a row].

    Rows of a client draw one after the other, each from words of its own.
    """
    size = prod(block.values.shape[1:])
    words = context.words(name, clients, np.diff(block.offsets), -(-size // 4))
    return words.astype("<u8", copy=False).view("<u2")[:, :size]
