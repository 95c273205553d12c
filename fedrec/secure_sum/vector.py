"""A sum of updates as one vector that shows no row ids, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedrec.aggregation.update import Aggregate
from fedrec.errors import ConfigError, NumericError, ProtocolError
from fedrec.types import IntArray


class _Parts(NamedTuple):
    """Views into a vector: rows and weights of each table, dense parameters, and numbers."""

    tables: Mapping[str, tuple[IntArray, IntArray]]
    dense: Mapping[str, IntArray]
    numbers: IntArray


@dataclass(frozen=True, slots=True)
class VectorLayout:
    """Where the sums of an `Aggregate` stand in a vector: the same for all who add vectors up.

    All rows of each table come first, with a weight for each row, 0 where nobody has touched it;
    then the dense parameters; then clients, weight, metrics and extras.

    Args:
        tables: The shape of each table, by name.
        dense: The shape of each dense parameter.
        scale: Per name, the exponent of two.
        metrics: Names of the metrics.
        extras: Names of the extras.
    """

    tables: Mapping[str, tuple[int, ...]]
    dense: Mapping[str, tuple[int, ...]]
    scale: Mapping[str, int]
    metrics: tuple[str, ...] = ()
    extras: tuple[str, ...] = ()

    @classmethod
    def of(cls, aggregate: Aggregate, shapes: Mapping[str, tuple[int, ...]]) -> VectorLayout:
        """Return the layout for sums like one of them.

        Args:
            aggregate: A sum, of any clients.
            shapes: Of each parameter that is summed.

        Raises:
            ConfigError: If there are updates of single clients and no sum.
        """
        _check_summed(aggregate)
        tables = {name: shapes[name] for name in aggregate.ids}
        dense = {name: shapes[name] for name in aggregate.sums if name not in tables}
        metrics, extras = tuple(sorted(aggregate.metrics)), tuple(sorted(aggregate.extras))
        return cls(tables, dense, dict(aggregate.scale), metrics, extras)

    @property
    def size(self) -> int:
        """Number of values of a vector."""
        values = sum(map(prod, [*self.tables.values(), *self.dense.values()]))
        n_rows = sum(shape[0] for shape in self.tables.values())
        return values + n_rows + self._n_numbers

    @property
    def _n_numbers(self) -> int:
        return 2 + len(self.metrics) + len(self.extras)

    def pack(self, aggregate: Aggregate, cohort: int) -> NDArray[np.uint64]:
        """Return a sum as a vector, uint64 [size].

        Args:
            aggregate: The sum of one client or several.
            cohort: The number of clients whose sums may be added up, these among them.

        Raises:
            ConfigError: If there are updates of single clients and no sum.
            NumericError: If the sum over the cohort may overflow (each client has an equal part of
                the range), or a touched row has no weight: names the parameter.
            ProtocolError: If the sum has something else than the layout.
        """
        _check_summed(aggregate)
        self._check_names(aggregate)
        vector = np.zeros(self.size, np.int64)
        parts, limit = self._parts(vector), (aggregate.clients << 63) // max(cohort, 1)
        for name, (rows, weight) in parts.tables.items():
            ids, sums = aggregate.ids[name], aggregate.sums[name]
            in_range = bool((np.diff(ids, prepend=-1) > 0).all() and (ids < len(rows)).all())
            _require(in_range, f"rows of '{name}' that are not sorted, each once, in range")
            _require(sums.shape == (len(ids), *rows.shape[1:]), f"'{name}' of another shape")
            if not (aggregate.row_weight[name] > 0).all():
                raise NumericError(
                    f"the update of '{name}' has rows without weight, which a secure sum takes for "
                    "rows that nobody has touched; weights are too small for fixed point"
                )
            _check_headroom(name, sums, limit)
            _check_headroom(f"weight of {name}", aggregate.row_weight[name], limit)
            rows[ids], weight[ids] = sums, aggregate.row_weight[name]
        for name, values in parts.dense.items():
            sums = aggregate.sums[name]
            _require(sums.shape == values.shape, f"'{name}' of another shape")
            _check_headroom(name, sums, limit)
            values[...] = sums
        for place, (name, number) in enumerate(self._numbers(aggregate)):
            _check_headroom(name, np.array([number], object), limit)
            parts.numbers[place] = number
        return vector.view(np.uint64)

    def unpack(self, vector: NDArray[np.uint64]) -> Aggregate:
        """Return the sum that a vector stands for.

        Args:
            vector: uint64 [size], a sum of vectors modulo 2**64.

        Raises:
            ProtocolError: If it is the vector of no sum.
        """
        _require(vector.shape == (self.size,), f"{vector.size} values, expected {self.size}")
        parts = self._parts(vector.view(np.int64))
        ids, sums, row_weight = dict[str, IntArray](), dict[str, IntArray](), dict[str, IntArray]()
        for name, (rows, weight) in parts.tables.items():
            ids[name] = np.flatnonzero(weight)
            untouched = rows[weight == 0]
            _require(not (weight < 0).any(), f"weights of '{name}' below 0")
            _require(not untouched.any(), f"changes of rows of '{name}' that nobody has touched")
            sums[name], row_weight[name] = rows[ids[name]], weight[ids[name]]
        sums |= {name: values.copy() for name, values in parts.dense.items()}
        clients, weight_of_all, *rest = parts.numbers.tolist()
        _require(clients > 0 and weight_of_all >= 0, "no clients, or a weight below 0")
        n = len(self.metrics)
        return Aggregate(
            clients,
            weight_of_all,
            ids,
            sums,
            row_weight,
            dict(self.scale),
            dict(zip(self.metrics, rest[:n], strict=True)),
            dict(zip(self.extras, rest[n:], strict=True)),
        )

    def _parts(self, vector: IntArray) -> _Parts:
        """Return the parts of a vector, in an order that does not depend on that of the names."""
        start = 0

        def following(*shape: int) -> IntArray:
            nonlocal start
            end = start + prod(shape)
            values, start = vector[start:end].reshape(shape), end
            return values

        tables = {
            name: (following(*self.tables[name]), following(self.tables[name][0]))
            for name in sorted(self.tables)
        }
        dense = {name: following(*self.dense[name]) for name in sorted(self.dense)}
        return _Parts(tables, dense, following(self._n_numbers))

    def _numbers(self, aggregate: Aggregate) -> list[tuple[str, int]]:
        """Return the numbers of a sum that belong to no parameter."""
        return [
            ("clients", aggregate.clients),
            ("weight", aggregate.weight),
            *((name, aggregate.metrics[name]) for name in self.metrics),
            *((name, aggregate.extras[name]) for name in self.extras),
        ]

    def _check_names(self, aggregate: Aggregate) -> None:
        for what, came, expected in (
            ("tables", aggregate.ids, self.tables),
            ("tables", aggregate.row_weight, self.tables),
            ("parameters", aggregate.sums, {*self.tables, *self.dense}),
            ("metrics", aggregate.metrics, self.metrics),
            ("extras", aggregate.extras, self.extras),
        ):
            names = ", ".join(sorted({*came} ^ {*expected}))
            _require(not names, f"other {what} than the layout: {names}")
        _require(dict(aggregate.scale) == dict(self.scale), "another scale than the layout")


def _check_summed(aggregate: Aggregate) -> None:
    if aggregate.each is not None:
        raise ConfigError(
            "secure sum: the strategy needs the update of every client; choose one that works on "
            "sums, or rounds without a secure sum"
        )


def _check_headroom(name: str, values: IntArray, limit: int) -> None:
    """Check that values are below what their clients may use of the range of 63 bits.

    The error may reach the server, so it tells no value.
    """
    largest = max((abs(int(end)) for end in (values.max(), values.min())) if values.size else [0])
    if largest >= limit:
        raise NumericError(
            f"the secure sum of '{name}' may overflow: a value is not below {limit}, as it must be "
            "with as many clients in a round; lower the rates of train.optimizers, or choose fewer "
            "clients"
        )


def _require(fits: bool, came: str) -> None:
    if not fits:
        raise ProtocolError(
            f"secure sum: a sum of updates has {came}; install the same version of fedrec on "
            "server and nodes, and repeat the round"
        )
