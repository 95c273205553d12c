"""Values of one client's own, formed from base values where they are used.

A client whose weights are one 1 has that base value, bit for bit. Any other weighted sum is formed
in whole numbers, so that it has the same bits on every node: base values are rounded to 30 bits
below the largest of them, weights to 21 bits below their sum, which the rounded weights are then
scaled to have. Sums of products of such doubles are exact in any order: so a product of matrices
and the compiled loop over weights that are not 0 give the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from math import prod

import numpy as np

from fedrec.aggregation.update import Down, Mix
from fedrec.errors import ProtocolError
from fedrec.ragged import Ragged, offsets_of
from fedrec.types import FloatArray, IntArray, Params

BASES, WEIGHTS = "@bases", "@weights"
"""Ends of the names under which `packed` puts a mix."""
_BASE_BITS, _WEIGHT_BITS = 30, 21

_SPARSE_SHARE = 1 / 8
"""Share of weights that are not 0 below which a loop over these is faster than a product."""

_LOOP_COLUMNS, _PRODUCT_VALUES = 256, 2**19
"""Columns in one pass of the loop, and base values in one product, that stay in the cache."""

_TOGETHER_BYTES = 2**26
"""Values of clients that are formed at once where each is used alone."""


def values_of(mix: Mix, clients: IntArray) -> FloatArray:
    """Return the values of some clients, float32 [c, *shape].

    Args:
        mix: The base values and weights.
        clients: int64 [c], rows of the weights.
    """
    weights, c, size = _WholeWeights.of(mix, clients), len(clients), prod(mix.bases.shape[1:])
    width = _LOOP_COLUMNS if weights.sparse else max(_PRODUCT_VALUES // len(mix.bases), 1)
    blocks, everybody = -(-size // width), np.arange(c, dtype=np.int64)
    places = everybody * size + width * np.arange(blocks)[:, None]
    of_block = c * np.arange(blocks + 1)
    values = weights.formed(mix, width, np.tile(everybody, blocks), of_block, places.ravel())
    return values.reshape(c, *mix.bases.shape[1:])


def rows_of(mix: Mix, clients: IntArray, items: IntArray) -> FloatArray:
    """Return rows of the clients' values of an item table, float32 [n, ...].

    Args:
        mix: The base values and weights.
        clients: int64 [n], rows of the weights.
        items: int64 [n], the item of each row.
    """
    present, weight_row = np.unique(clients, return_inverse=True)
    by_item = np.argsort(items, kind="stable")
    n_items, *shape = mix.bases.shape[1:]
    of_item = np.searchsorted(items[by_item], np.arange(n_items + 1))
    weights, width = _WholeWeights.of(mix, present), prod(shape)
    values = weights.formed(mix, width, weight_row[by_item], of_item, width * by_item)
    return values.reshape(len(items), *shape)


@dataclass(frozen=True, slots=True)
class _WholeWeights:
    """Weights of some clients as whole numbers.

    Args:
        weights: float64 [c, k], whole numbers.
        unit: float64 [c], what their products with whole base values are multiplied by.
        base_scale: What base values are multiplied by to be whole.
        copied: int64 [c], the base value that the client has, unchanged; -1 for none.
    """

    weights: FloatArray
    unit: FloatArray
    base_scale: float
    copied: IntArray

    @classmethod
    def of(cls, mix: Mix, clients: IntArray) -> _WholeWeights:
        weights = mix.weights[clients].astype(np.float64)
        alone = ((weights != 0).sum(1) == 1) & (weights.max(1, initial=0) == 1)
        total = np.abs(weights).sum(1)
        # Powers of two scale without rounding.
        largest = np.maximum(mix.bases.max(initial=0), -mix.bases.min(initial=0))
        base_scale = float(2.0 ** (_BASE_BITS - _exponent(largest)))
        rounded = np.rint(weights * 2.0 ** (_WEIGHT_BITS - _exponent(total))[:, None])
        unit = total / np.maximum(np.abs(rounded).sum(1), 1) / base_scale
        return cls(rounded, unit, base_scale, np.where(alone, weights.argmax(1), -1))

    @property
    def sparse(self) -> bool:
        """Whether a loop over the weights that are not 0 is faster than a product."""
        few = bool(np.count_nonzero(self.weights) < _SPARSE_SHARE * self.weights.size)
        return few and find_spec("numba") is not None

    def formed(
        self, mix: Mix, width: int, clients: IntArray, of_block: IntArray, places: IntArray
    ) -> FloatArray:
        """Return columns of clients' values, float32 [v].

        Args:
            mix: The base values.
            width: Columns of a block; the last one may have fewer.
            clients: int64 [n], rows of the weights, those of a block after those of another.
            of_block: int64 [b + 1], which of them are each block's.
            places: int64 [n], where the columns of each begin in what is returned.
        """
        bases = mix.bases.reshape(len(mix.bases), -1)
        lengths = np.minimum(width, bases.shape[1] - width * np.arange(len(of_block) - 1))
        values = np.empty(int((lengths * np.diff(of_block)).sum()), np.float32)
        if self.sparse:
            from fedrec.aggregation.mix_numba import add_up

            owner, base_of = np.nonzero(self.weights)
            starts = offsets_of(np.bincount(owner, minlength=len(self.weights)))
            weights = starts, base_of, self.weights[owner, base_of]
            units = self.unit, self.copied
            add_up(bases, width, self.base_scale, weights, units, clients, of_block, places, values)
        else:
            buffer = np.empty((int(np.diff(of_block).max(initial=0)), len(bases)))
            for block in np.flatnonzero(np.diff(of_block)).tolist():
                at = slice(of_block[block], of_block[block + 1])
                columns = bases[:, block * width : block * width + width]
                values[places[at, None] + np.arange(columns.shape[1])] = self._sums(
                    clients[at], columns, buffer
                )
        return values

    def _sums(self, clients: IntArray, bases: FloatArray, rows: FloatArray) -> FloatArray:
        """Return sums of base values, float32 [k, w], for rows of the weights: float32 [c, w].

        ``rows``, float64, is memory for the weights, so that no block allocates its own.
        """
        rounded = np.rint(bases.astype(np.float64) * self.base_scale)
        rows = np.take(self.weights, clients, axis=0, out=rows[: len(clients)], mode="clip")
        sums = rows @ rounded
        sums *= self.unit[clients, None]
        copied = self.copied[clients]
        sums[copied >= 0] = bases[copied[copied >= 0]]
        return sums.astype(np.float32)


def _exponent(value: FloatArray) -> FloatArray:
    """Return the least whole number e with value < 2**e; 0 for 0."""
    return np.asarray(np.frexp(value)[1], np.float64)


def clients_alike(down: Down, n_clients: int) -> Iterator[tuple[IntArray, Params]]:
    """Yield clients that have the same values, int64 [c], with all that they receive.

    Args:
        down: What the clients receive.
        n_clients: How many they are.
    """
    if not down.own:
        yield np.arange(n_clients, dtype=np.int64), down.shared
        return
    weights = np.concatenate([mix.weights for mix in down.own.values()], axis=1)
    _, first, kind = np.unique(weights, axis=0, return_index=True, return_inverse=True)
    clients = Ragged(offsets_of(np.bincount(kind.ravel())), np.argsort(kind.ravel(), kind="stable"))
    size = sum(mix.bases[:1].nbytes for mix in down.own.values())
    step = max(_TOGETHER_BYTES // max(size, 1), 1)
    for start in range(0, len(first), step):
        some = first[start : start + step]
        own = {name: values_of(mix, some) for name, mix in down.own.items()}
        for at in range(len(some)):
            of_kind = {name: values[at] for name, values in own.items()}
            yield clients.row(start + at), {**down.shared, **of_kind}


def packed(down: Down) -> dict[str, FloatArray]:
    """Return what clients receive as arrays by name; `unpacked` inverts it."""
    arrays = dict(down.shared)
    for name, mix in down.own.items():
        arrays |= {name + BASES: mix.bases, name + WEIGHTS: mix.weights}
    return arrays


def unpacked(arrays: Mapping[str, FloatArray]) -> Down:
    """Return what clients receive from arrays by name, as from `packed`.

    Raises:
        ProtocolError: If base values and weights do not belong together.
    """
    ends = (BASES, WEIGHTS)
    shared = {name: value for name, value in arrays.items() if not name.endswith(ends)}
    names = dict.fromkeys(name.rpartition("@")[0] for name in arrays if name not in shared)
    own = {name: _mix_of(name, arrays) for name in names}
    if names.keys() & shared.keys() or len({len(mix.weights) for mix in own.values()}) > 1:
        raise ProtocolError("parameters are shared and clients' own, or of other clients")
    return Down(shared, own)


def _mix_of(name: str, arrays: Mapping[str, FloatArray]) -> Mix:
    """Return the mix of a parameter that `packed` put among arrays.

    Raises:
        ProtocolError: If it is none.
    """
    nothing = np.zeros(0, np.float32)
    bases, weights = (arrays.get(name + end, nothing) for end in (BASES, WEIGHTS))
    typed = bases.dtype == weights.dtype == np.float32
    if not typed or weights.ndim != 2 or weights.shape[1:] != bases.shape[:1] or bases.size == 0:
        raise ProtocolError(f"'{name}' has no base values with weights of each client")
    return Mix(bases, weights)
