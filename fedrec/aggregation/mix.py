"""Values of one client's own, formed from base values where they are used.

A client whose weights are one 1 has that base value, bit for bit. Any other weighted sum is formed
in whole numbers, so that it has the same bits on every node: base values are rounded to 30 bits
below the largest of them, weights to 21 bits below their sum. A product of matrices of such
doubles is exact in any order.
"""

from collections.abc import Iterator, Mapping

import numpy as np

from fedrec.types import Down, FloatArray, IntArray, Mix, Params

BASES, WEIGHTS = "@bases", "@weights"
"""Ends of the names under which `packed` puts a mix."""
_BASE_BITS, _WEIGHT_BITS = 30, 21


def values_of(mix: Mix, clients: IntArray) -> FloatArray:
    """Return the values of some clients, float32 [c, *shape].

    Args:
        mix: The base values and weights.
        clients: int64 [c], rows of the weights.
    """
    return _formed(mix, mix.bases, clients)


def rows_of(mix: Mix, clients: IntArray, items: IntArray) -> FloatArray:
    """Return rows of the clients' values of an item table, float32 [n, ...].

    Args:
        mix: The base values and weights.
        clients: int64 [n], rows of the weights.
        items: int64 [n], the item of each row.
    """
    rows = np.empty((len(items), *mix.bases.shape[2:]), np.float32)
    by_item = np.argsort(items, kind="stable")
    present, starts = np.unique(items[by_item], return_index=True)
    for item, places in zip(present.tolist(), np.split(by_item, starts[1:]), strict=True):
        rows[places] = _formed(mix, mix.bases[:, item], clients[places])
    return rows


def _formed(mix: Mix, bases: FloatArray, clients: IntArray) -> FloatArray:
    """Return the weighted sums of some base values, float32 [c, ...]; of all of them the scale."""
    weights = mix.weights[clients].astype(np.float64)
    total = np.abs(weights).sum(1)
    copied = ((weights != 0).sum(1) == 1) & (weights.max(1, initial=0) == 1)
    # Powers of two scale without rounding.
    base_scale = 2.0 ** (_BASE_BITS - _exponent(np.abs(mix.bases).max(initial=0)))
    weight_scale = 2.0 ** (_WEIGHT_BITS - _exponent(total))[:, None]
    flat = np.rint(bases.reshape(len(bases), -1).astype(np.float64) * base_scale)
    sums = np.rint(weights * weight_scale) @ flat / (weight_scale * base_scale)
    values = sums.astype(np.float32).reshape(len(clients), *bases.shape[1:])
    values[copied] = bases[weights[copied].argmax(1)]
    return values


def _exponent(value: FloatArray) -> FloatArray:
    """Return the least whole number e with value < 2**e; 0 for 0."""
    return np.asarray(np.frexp(value)[1], np.float64)


def clients_alike(down: Down, n_clients: int) -> Iterator[tuple[IntArray, Params]]:
    """Yield clients that have the same values, int64 [c], with all that they receive.

    Args:
        down: What the clients receive.
        n_clients: How many they are.
    """
    everybody = np.arange(n_clients, dtype=np.int64)
    if not down.own:
        yield everybody, down.shared
        return
    weights = np.concatenate([mix.weights for mix in down.own.values()], axis=1)
    _, kind = np.unique(weights, axis=0, return_inverse=True)
    for number in range(int(kind.max(initial=-1)) + 1):
        clients = np.flatnonzero(kind.ravel() == number)
        own = {name: values_of(mix, clients[:1])[0] for name, mix in down.own.items()}
        yield clients, {**down.shared, **own}


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
