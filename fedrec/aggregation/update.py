"""What the server sends to clients, what they change, and the sums of that.

All are frozen; nothing mutates its arguments.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import numpy as np

from fedrec.ragged import Ragged
from fedrec.types import FloatArray, IntArray, Params

_ROWS = 256
"""Rows that are multiplied at once, so that they stay in the cache."""


@dataclass(frozen=True, slots=True)
class Mix:
    """A shared parameter of which clients have different values: weighted sums of base values.

    Args:
        bases: float32 [k, *shape], the base values of the parameter.
        weights: float32 [c, k], of each client; see `fedrec.aggregation.mix`.
    """

    bases: FloatArray
    weights: FloatArray

    def take(self, clients: IntArray) -> Mix:
        """Return the mix of some clients: int64 [c], rows of ``weights``."""
        return Mix(self.bases, self.weights[clients])


@dataclass(frozen=True, slots=True)
class Down:
    """What the server sends to some clients.

    Args:
        shared: What all of them receive: shared parameters, float32, by name, and under
            ``NAME/KIND`` what a client rule asks for beside each.
        own: The other shared parameters, of which clients receive different values.
    """

    shared: Params
    own: Mapping[str, Mix] = field(default_factory=dict)

    def take(self, clients: IntArray) -> Down:
        """Return what some of the clients receive: int64 [c], their places."""
        return Down(self.shared, {name: mix.take(clients) for name, mix in self.own.items()})


@dataclass(frozen=True, slots=True)
class RowBlock:
    """Changed rows of one item table, client after client, as they travel.

    Args:
        offsets: int64 [c + 1]; client ``k`` changed rows ``offsets[k]:offsets[k + 1]``.
        ids: int64 [n], the items, sorted within a client.
        values: float [n, ...], the change of each row; float16 or int8 where that is sent.
        scale: float16 [n], what the values of a row are multiplied by; None: 1. The product with
            an int8 is exact in float32.
        basis: float32 [r, d], what rows of r values are multiplied by, for rows of d. Both sides
            can make it from the seed, so its bytes are not counted. None: the values are the
            change.
        sparse: Whether values that are 0 are not sent.
    """

    offsets: IntArray
    ids: IntArray
    values: FloatArray
    scale: FloatArray | None = None
    basis: FloatArray | None = None
    sparse: bool = False

    def decoded(self) -> RowBlock:
        """Return the changes as plain values: float32; the block itself where they are plain.

        A row's bits do not depend on the other rows: the product with the basis is added up
        element by element, not by a matrix product, whose bits depend on the number of rows.
        """
        is_narrow = self.values.dtype.itemsize < np.dtype(np.float32).itemsize
        if not (is_narrow or self.sparse or self.scale is not None or self.basis is not None):
            return self
        values = self.values.astype(np.float32) if is_narrow else self.values
        if self.scale is not None:
            scale = self.scale.astype(np.float32).reshape(-1, *[1] * (values.ndim - 1))
            values = np.multiply(values, scale, out=values if is_narrow else None)
        if self.basis is not None:
            rows = _product(values.reshape(-1, values.shape[-1]), self.basis)
            values = rows.reshape(*values.shape[:-1], self.basis.shape[1])
        return RowBlock(self.offsets, self.ids, values)

    def take(self, clients: IntArray) -> RowBlock:
        """Return the rows of some clients, int64 [c], in the order given."""
        rows = Ragged(self.offsets, self.ids)
        at, chosen = rows.positions(clients), rows.take(clients)
        scale = None if self.scale is None else self.scale[at]
        return RowBlock(
            chosen.offsets, chosen.values, self.values[at], scale, self.basis, self.sparse
        )


def _product(values: FloatArray, basis: FloatArray) -> FloatArray:
    """Return the product of [n, r] and [r, d], float32 [n, d], added up in the order of r."""
    total = np.zeros((len(values), basis.shape[1]), np.float32)
    term = np.empty((_ROWS, basis.shape[1]), np.float32)
    for start in range(0, len(values), _ROWS):
        rows, into = values[start : start + _ROWS], total[start : start + _ROWS]
        for k, direction in enumerate(basis):
            into += np.multiply(rows[:, k : k + 1], direction, out=term[: len(rows)])
    return total


@dataclass(frozen=True, slots=True)
class RowSums:
    """Changed rows of one item table, summed over some clients: int64 fixed point.

    Args:
        ids: int64 [m], the rows that were touched, sorted.
        sums: int64 [m, ...].
        weight: int64 [m], summed weight of the clients that touched the row.
        uploaded: int64 [c], the bytes of each client's ids and values in its payload, see
            `fedrec.aggregation.codec`.
    """

    ids: IntArray
    sums: IntArray
    weight: IntArray
    uploaded: IntArray


@dataclass(frozen=True, slots=True)
class UpdateBatch:
    """The updates of some clients of one round, before they are reduced.

    Args:
        round: the round.
        client_ids: int64 [c].
        weight: float64 [c], number of train examples of each client.
        tables: per item table (and what a strategy uploads beside it), the changed rows.
        dense: per dense global parameter (likewise), float [c, ...], the change.
        metrics: per name, float64 [c] (``loss`` summed over the client's examples, ...).
        extras: per name, float64 [c], what a strategy wants summed with the clients' weights.
        summed: per item table that is not in ``tables``, its rows as they were summed in training.
        coded: per dense parameter that is not in ``dense`` because its values travel in another
            form, one row per client; the ids are 0.
    """

    round: int
    client_ids: IntArray
    weight: FloatArray
    tables: Mapping[str, RowBlock]
    dense: Mapping[str, FloatArray]
    metrics: Mapping[str, FloatArray] = field(default_factory=dict)
    extras: Mapping[str, FloatArray] = field(default_factory=dict)
    summed: Mapping[str, RowSums] = field(default_factory=dict)
    coded: Mapping[str, RowBlock] = field(default_factory=dict)

    def decoded(self) -> UpdateBatch:
        """Return the updates with plain values, see `RowBlock.decoded`."""
        coded = {name: block.decoded().values for name, block in self.coded.items()}
        tables = {name: block.decoded() for name, block in self.tables.items()}
        return replace(self, tables=tables, dense={**self.dense, **coded}, coded={})

    def take(self, clients: IntArray) -> UpdateBatch:
        """Return the updates of some clients: int64 [c], their places, in the order given."""

        def columns(values: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
            return {name: value[clients] for name, value in values.items()}

        def rows(blocks: Mapping[str, RowBlock]) -> dict[str, RowBlock]:
            return {name: block.take(clients) for name, block in blocks.items()}

        return UpdateBatch(
            self.round,
            self.client_ids[clients],
            self.weight[clients],
            rows(self.tables),
            columns(self.dense),
            columns(self.metrics),
            columns(self.extras),
            coded=rows(self.coded),
        )


@dataclass(frozen=True, slots=True)
class Aggregate:
    """A sum of updates that can be added to others in any order with the same bits.

    All sums are int64 fixed point: value = integer / 2**scale.

    Args:
        clients: int64 scalar as int: how many clients are in it.
        weight: int64, fixed point: the sum of the clients' weights.
        ids: per item table, int64 [n]: the rows that were touched, sorted.
        sums: per item table int64 [n, ...]; per dense parameter int64 [...].
        row_weight: per item table int64 [n], fixed point: summed weight of the clients that
            touched the row.
        scale: per name, the exponent of two.
        metrics: per name, the summed metric, fixed point with the scale of ``metrics``.
        extras: per name, fixed point, the sum of what the client rule asked for.
        each: the unreduced updates, for a strategy that needs each client's; then there are no
            sums.
    """

    clients: int
    weight: int
    ids: Mapping[str, IntArray]
    sums: Mapping[str, IntArray]
    row_weight: Mapping[str, IntArray]
    scale: Mapping[str, int]
    metrics: Mapping[str, int] = field(default_factory=dict)
    extras: Mapping[str, int] = field(default_factory=dict)
    each: UpdateBatch | None = None


Aggregates: TypeAlias = Mapping[int, Aggregate]
"""The updates of each group of a strategy that had clients in a round."""
