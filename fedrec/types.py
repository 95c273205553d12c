"""The values that travel through fedrec. All are frozen; nothing mutates its arguments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedrec.ragged import FloatArray as FloatArray
from fedrec.ragged import IntArray as IntArray
from fedrec.ragged import Ragged

TextArray: TypeAlias = NDArray[Any]
"""Texts as objects: an array of fixed width would give each the room of the longest."""
Axis: TypeAlias = Literal["item", "user", "client", "positive", "seen_item"]
"""Of what there is one value of a parameter."""
Params: TypeAlias = Mapping[str, FloatArray]
"""Named arrays, one entry per parameter."""


@dataclass(frozen=True, slots=True)
class Interactions:
    """Who interacted with what.

    Args:
        users: int64 [n], index into ``user_ids``.
        items: int64 [n], index into ``item_ids``.
        ratings: float64 [n], or None where the data has none.
        timestamps: float64 [n], in the data's unit, or None.
        user_ids: text [n_users], the raw ids, sorted (as numbers where all are numbers), so that
            indices do not depend on the order of the file.
        item_ids: text [n_items], likewise.
        user_columns: further columns (age, ...), each text [n_users].
        item_columns: further columns (title, ...), each text [n_items].
        name: what the data set is called in tables.
    """

    users: IntArray
    items: IntArray
    ratings: FloatArray | None
    timestamps: FloatArray | None
    user_ids: TextArray
    item_ids: TextArray
    user_columns: Mapping[str, TextArray] = field(default_factory=dict)
    item_columns: Mapping[str, TextArray] = field(default_factory=dict)
    name: str = "data"

    def __len__(self) -> int:
        return len(self.users)


@dataclass(frozen=True, slots=True)
class Split:
    """What each user trains on, is validated on and is tested on, and who holds which user.

    Args:
        n_items: size of the catalogue.
        train: one row per user: its train items, sorted.
        valid: likewise, its validation items. May be empty.
        test: likewise, its test items. May be empty.
        clients: one row per client: the users it holds, sorted. Total and disjoint.
        timestamps: float64 [train nnz], parallel to ``train.values``, or None.
        ratings: float64 [train nnz], likewise.
        user_ids, item_ids, user_columns, item_columns, name: see `Interactions`. What
            ``user_columns`` say of a user is private to its client.
        n_cold: how many items, the last ones, are cold: they are in nobody's train items and never
            drawn while training, see `fedrec.data.base.SplitBy`.
    """

    n_items: int
    train: Ragged
    valid: Ragged
    test: Ragged
    clients: Ragged
    timestamps: FloatArray | None
    ratings: FloatArray | None
    user_ids: TextArray
    item_ids: TextArray
    user_columns: Mapping[str, TextArray] = field(default_factory=dict)
    item_columns: Mapping[str, TextArray] = field(default_factory=dict)
    name: str = "data"
    n_cold: int = 0

    @property
    def n_users(self) -> int:
        """Number of users."""
        return len(self.train)

    @property
    def n_clients(self) -> int:
        """Number of clients."""
        return len(self.clients)

    @property
    def n_drawn(self) -> int:
        """Number of items, the first ones, that may be drawn while training: all but cold ones."""
        return self.n_items - self.n_cold

    def train_counts(self) -> IntArray:
        """Return how many users have each item among their train items, int64 [n_items]."""
        return np.bincount(self.train.values, minlength=self.n_items)

    def shard(self, client_ids: IntArray) -> Shard:
        """Return what some clients see.

        Args:
            client_ids: int64 [c], sorted.
        """
        clients = self.clients.take(client_ids)
        rows = _rows_of(self, clients.values)
        ids, offsets = client_ids, clients.offsets
        return Shard(self.n_items, ids, offsets, clients.values, **rows, n_cold=self.n_cold)


@dataclass(frozen=True, slots=True)
class Shard:
    """What some clients see: their users' items. User rows are in client order.

    Args:
        n_items: size of the catalogue.
        client_ids: int64 [c].
        client_offsets: int64 [c + 1]; client ``k`` holds user rows
            ``client_offsets[k]:client_offsets[k + 1]``.
        user_ids: int64 [u], the user of each user row (an index, not the raw id).
        train: one row per user row: its train items, sorted; so are ``valid`` and ``test``.
        timestamps: float64 [train nnz] or None; so are ``ratings``.
        n_cold: how many items, the last ones, are never drawn while training.
    """

    n_items: int
    client_ids: IntArray
    client_offsets: IntArray
    user_ids: IntArray
    train: Ragged
    valid: Ragged
    test: Ragged
    timestamps: FloatArray | None = None
    ratings: FloatArray | None = None
    n_cold: int = 0

    @property
    def n_users(self) -> int:
        """Number of user rows."""
        return len(self.user_ids)

    @property
    def n_drawn(self) -> int:
        """Number of items, the first ones, that may be drawn while training."""
        return self.n_items - self.n_cold

    @property
    def n_clients(self) -> int:
        """Number of clients."""
        return len(self.client_ids)

    def take(self, clients: IntArray) -> Shard:
        """Return some of the clients.

        Args:
            clients: int64 [c], rows of ``client_ids``, in the order wanted.
        """
        held = Ragged(self.client_offsets, self.user_ids)
        chosen, rows = held.take(clients), _rows_of(self, held.positions(clients))
        ids = self.client_ids[clients]
        return Shard(self.n_items, ids, chosen.offsets, chosen.values, **rows, n_cold=self.n_cold)

    def examples(self) -> FloatArray:
        """Return the number of train items of each client, float64 [c]."""
        return np.bincount(self.client_of_user(), self.train.lengths, self.n_clients)

    def client_of_user(self) -> IntArray:
        """int64 [u], the client row (not the id) of each user row."""
        return np.repeat(np.arange(self.n_clients, dtype=np.int64), np.diff(self.client_offsets))


def _rows_of(source: Split | Shard, users: IntArray) -> dict[str, Any]:
    """Return the items of some user rows, in the order given."""
    at = source.train.positions(users)
    columns = {"timestamps": source.timestamps, "ratings": source.ratings}
    return {
        **{part: getattr(source, part).take(users) for part in ("train", "valid", "test")},
        **{name: None if values is None else values[at] for name, values in columns.items()},
    }


@dataclass(frozen=True, slots=True)
class ParamSpec:
    """What a parameter is, and whether it may leave the client.

    Which combinations there are is checked where declarations are collected, see
    `fedrec.training.task.check_specs`.

    Args:
        scope: ``shared`` (sent, trained and aggregated), ``private`` (never leaves the client) or
            ``frozen`` (known to all, never trained).
        axis: Of what there is one. Shared: ``item``, a table with a row per item, or None, one
            dense parameter. Private: ``user``, ``client``, ``positive`` (one per item of the
            client's train positives; 0 for other items) or ``seen_item`` (what a client rule
            remembers of the items that the client met in a round). Frozen: ``item``, the feature
            of the catalogue that has the parameter's name, or with ``NAME.present`` of shape (),
            1 for the items that have the feature NAME and 0 for others.
        shape: Of one row; of the whole where the axis is None.
        init_std: Standard deviation of the normal initial values; 0 for a constant.
        init_value: The constant that is added.
        trainable: Whether the private optimizer steps it (a weight that is set otherwise is not).
        dtype: Of the values as they are stored; an ``int32`` is never trained.
        values: float32 of the shape, the initial values, in place of the two above.
    """

    scope: Literal["shared", "private", "frozen"]
    axis: Axis | None
    shape: tuple[int, ...]
    _: KW_ONLY
    init_std: float = 0.0
    init_value: float = 0.0
    trainable: bool = True
    dtype: Literal["float32", "int32"] = "float32"
    values: FloatArray | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class State:
    """What a strategy remembers from round to round.

    Args:
        arrays: By name; of truth values, integers or floats.
        values: By name; values of JSON.
    """

    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def joined(cls, parts: Mapping[str, State]) -> State:
        """Return one state of several, each below its name; `part` takes one out again."""
        arrays = {f"{p}/{n}": v for p, part in parts.items() for n, v in part.arrays.items()}
        return cls(arrays, {p: dict(part.values) for p, part in parts.items() if part.values})

    def part(self, name: str) -> State:
        """Return the state that `joined` put below a name; empty if there was none."""
        return State(self.below(f"{name}/"), self.values.get(name, {}))

    def below(self, prefix: str) -> dict[str, NDArray[Any]]:
        """Return the arrays whose names begin with a prefix, by the rest of their names."""
        names = [name for name in self.arrays if name.startswith(prefix)]
        return {name.removeprefix(prefix): self.arrays[name] for name in names}


@dataclass(frozen=True, slots=True)
class FailedClient:
    """A client (an id, or a description of a group) that failed in a round, and why, in a line."""

    # In a record that keeps further keys, pydantic would set them here, where none can be.
    __pydantic_config__: ClassVar[Mapping[str, str]] = {"extra": "forbid"}

    client: str
    reason: str
