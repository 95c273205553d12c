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

import numpy as np

from fedrec.ragged import Ragged, offsets_of
from fedrec.types import Down, FloatArray, IntArray, Mix, Params

BASES, WEIGHTS = "@bases", "@weights"
"""Ends of the names under which `packed` puts a mix."""
_BASE_BITS, _WEIGHT_BITS = 30, 21

_SPARSE_SHARE = 1 / 8
"""Share of weights that are not 0 below which a loop over these is faster than a product."""

_BLOCK_VALUES = 2**19
"""Base values in one product: few enough to stay in the cache."""

_TOGETHER_BYTES = 2**26
"""Values of clients that are formed at once where each is used alone."""


def values_of(mix: Mix, clients: IntArray) -> FloatArray:
    """Return the values of some clients, float32 [c, *shape].

    Args:
        mix: The base values and weights.
        clients: int64 [c], rows of the weights.
    """
    weights, c, k = _WholeWeights.of(mix, clients), len(clients), len(mix.bases)
    if weights.sparse and mix.bases.ndim > 2:
        m = mix.bases.shape[1]
        places = np.arange(c * m, dtype=np.int64).reshape(c, m).T.ravel()
        rows = weights.rows(mix.bases, np.tile(np.arange(c), m), c * np.arange(m + 1), places)
        return rows.reshape(c, *mix.bases.shape[1:])
    bases, everybody = mix.bases.reshape(k, -1), np.arange(c)
    values = np.empty((c, bases.shape[1]), np.float32)
    step = max(_BLOCK_VALUES // max(k, 1), 1)
    for start in range(0, bases.shape[1], step):
        columns = slice(start, start + step)
        values[:, columns] = weights.product(everybody, bases[:, columns])
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
    of_item = np.searchsorted(items[by_item], np.arange(mix.bases.shape[1] + 1))
    rows = _WholeWeights.of(mix, present).rows(mix.bases, weight_row[by_item], of_item, by_item)
    return rows.reshape(len(items), *mix.bases.shape[2:])


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
        whole = np.rint(weights * 2.0 ** (_WEIGHT_BITS - _exponent(total))[:, None])
        unit = total / np.maximum(np.abs(whole).sum(1), 1) / base_scale
        return cls(whole, unit, base_scale, np.where(alone, weights.argmax(1), -1))

    @property
    def sparse(self) -> bool:
        """Whether a loop over the weights that are not 0 is faster than a product."""
        few = np.count_nonzero(self.weights) < _SPARSE_SHARE * self.weights.size
        return few and find_spec("numba") is not None

    def rows(
        self, bases: FloatArray, clients: IntArray, of_item: IntArray, places: IntArray
    ) -> FloatArray:
        """Return rows of tables, float32 [n, w].

        Args:
            bases: float32 [k, m, ...], the base values.
            clients: int64 [n], rows of the weights, those of an item after those of another.
            of_item: int64 [m + 1], which of them are each item's.
            places: int64 [n], where their rows stand.
        """
        bases = bases.reshape(*bases.shape[:2], -1)
        rows = np.empty((len(clients), bases.shape[2]), np.float32)
        if not self.sparse:
            for item in np.flatnonzero(np.diff(of_item)).tolist():
                some = slice(of_item[item], of_item[item + 1])
                rows[places[some]] = self.product(clients[some], bases[:, item])
            return rows
        from fedrec.aggregation.mix_numba import add_up

        owner, base_of = np.nonzero(self.weights)
        starts = offsets_of(np.bincount(owner, minlength=len(self.weights)))
        weights = self.weights[owner, base_of]
        where = clients, of_item, places
        add_up(bases, self.base_scale, starts, base_of, weights, self.unit, *where, rows)
        copies = np.flatnonzero(self.copied[clients] >= 0)
        items = Ragged(of_item, clients).owners()[copies]
        rows[places[copies]] = bases[self.copied[clients[copies]], items]
        return rows

    def product(self, clients: IntArray, bases: FloatArray) -> FloatArray:
        """Return sums of base values, float32 [k, w], for rows of the weights: float32 [c, w]."""
        whole = np.rint(bases.astype(np.float64) * self.base_scale)
        sums = (self.weights[clients] @ whole * self.unit[clients, None]).astype(np.float32)
        copied = self.copied[clients]
        sums[copied >= 0] = bases[copied[copied >= 0]]
        return sums


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
    """Return what clients receive from arrays by name, as from `packed`."""
    names = [name.removesuffix(BASES) for name in arrays if name.endswith(BASES)]
    own = {name: Mix(arrays[name + BASES], arrays[name + WEIGHTS]) for name in names}
    ends = (BASES, WEIGHTS)
    return Down({n: value for n, value in arrays.items() if not n.endswith(ends)}, own)
