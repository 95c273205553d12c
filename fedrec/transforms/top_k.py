"""Top-k sparsification with error feedback."""

from collections.abc import Mapping
from dataclasses import replace
from math import prod
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fedrec.aggregation.update import RowBlock, UpdateBatch
from fedrec.compute.context import RoundContext
from fedrec.ragged import Ragged
from fedrec.transforms.base import Transform
from fedrec.types import FloatArray, Params, ParamSpec


class TopK(Transform):
    r"""A client sends its largest values alone, and adds what it did not send to the next update.

    Of each parameter a client sends the share of values with the largest absolute value, of equal
    ones the first. What it remembers of an item table are rows of its train items; what it does
    not send of other rows, which it met as negatives, is lost. It names all rows that it touched,
    also those of which it sends no value, so means over the clients that touched a row stay as
    they were. What a client rule sends beside a parameter is sent in full.

    Args:
        share: Of values that are sent, at least one.
        error_feedback: Whether what is not sent is remembered.

    Reference: stich2018sparsified, Algorithm 1.
    """

    reference: ClassVar[str] = "stich2018sparsified"
    stage: ClassVar[Literal[0, 1, 2]] = 1

    share: float = Field(0.1, gt=0, le=1)
    error_feedback: bool = True

    def without_effect(self, run: Any) -> list[str]:
        """Say that all values are sent."""
        return ["share: 1 has no effect: all values are sent; lower it"] * (self.share == 1)

    @property
    def remembers(self) -> bool:
        """Whether there is error feedback."""
        return self.error_feedback

    def memory(self, specs: Mapping[str, ParamSpec]) -> Mapping[str, ParamSpec]:
        """Return what is not sent yet of each shared parameter."""
        return {
            name: ParamSpec(
                "private",
                "positive" if spec.axis == "item" else "client",
                spec.shape,
                trainable=False,
            )
            for name, spec in specs.items()
            if self.error_feedback
        }

    def remembering(
        self, batch: UpdateBatch, memory: Params, positives: Ragged, context: RoundContext
    ) -> tuple[UpdateBatch, Params]:
        """Return what is sent, and what is not sent yet."""
        tables, dense, coded, after = dict(batch.tables), {}, dict(batch.coded), dict(memory)
        one_each = np.arange(len(batch.client_ids) + 1)
        for name, block in batch.tables.items():
            if "/" in name:
                continue
            values = block.values
            if name in memory:
                rows = Ragged(block.offsets, block.ids)
                at = rows.find(positives.owners(), positives.values)
                place = np.flatnonzero(at >= 0)
                values = values.copy()
                values[at[place]] += memory[name][place]
            is_sent = self._largest(values, block.offsets)
            sent = np.where(is_sent, values, np.float32(0))
            tables[name] = replace(block, values=sent, sparse=True)
            if name in memory:
                rest = memory[name].copy()
                rest[place] = values[at[place]] - sent[at[place]]
                after[name] = rest
        for name, value in batch.dense.items():
            if "/" in name:
                dense[name] = value
                continue
            total = value + memory[name] if name in memory else value
            sent = np.where(self._largest(total, one_each), total, np.float32(0))
            ids = np.zeros(len(batch.client_ids), np.int64)
            coded[name] = RowBlock(one_each, ids, sent, sparse=True)
            if name in memory:
                after[name] = total - sent
        return replace(batch, tables=tables, dense=dense, coded=coded), after

    def _largest(self, values: FloatArray, offsets: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which values are sent, bool of their shape; rows lie client after client.

        Absolute values have the order of their bits, in which what is not a number is the largest:
        it is sent, and refused where it arrives.
        """
        single = values.reshape(len(values), prod(values.shape[1:])).astype(np.float32, copy=False)
        size = np.abs(single).view(np.int32)
        chosen = np.ones(size.shape, np.bool_)
        for start, stop in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
            of_client = size[start:stop].ravel()
            n = max(1, round(self.share * len(of_client)))
            if n >= len(of_client):
                continue
            least = np.partition(of_client, len(of_client) - n)[len(of_client) - n]
            is_sent = of_client >= least
            excess = int(np.count_nonzero(is_sent)) - n
            if excess:
                is_sent[np.flatnonzero(of_client == least)[-excess:]] = False
            chosen[start:stop] = is_sent.reshape(-1, size.shape[1])
        return chosen.reshape(values.shape)
