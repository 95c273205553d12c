"""One computation per client, or per group of clients of about the same size.

A model that is not ``flat`` is written for one client. Everything around it is flat and ragged; so
its pairs are cut into clients here, computed client by client (``loop``) or filled up to equal
length and computed side by side (``vmap``), and laid flat again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from fedrec.compute.batch import Tensors
from fedrec.compute.operations import gather
from fedrec.errors import ConfigError
from fedrec.models.base import History, Pairs
from fedrec.types import IntArray, Ragged

__all__ = ["Call", "Rows", "Values", "by_client", "filled_length"]

Tensor: TypeAlias = "torch.Tensor"
Call: TypeAlias = Callable[[Tensors, Pairs], Tensor]
"""From the parameters and pairs of one client, [l], to float [l, ...]."""


@dataclass(frozen=True, slots=True)
class Rows:
    """What is to be computed, in any order: pairs, or users.

    Args:
        users: int64 [q], the user row.
        items: int64 [q].
        clients: int64 [q], the client row.
        context: int64 [q], see `fedrec.models.base.Pairs`.
        history: one row per user row, for a model with a window: rows of `Values.history`.
    """

    users: Tensor
    items: Tensor
    clients: Tensor
    context: Tensor | None = None
    history: Ragged | None = None


@dataclass(frozen=True, slots=True)
class Values:
    """Parameters, by name.

    Args:
        rows: a source, float [n, *shape], and for each row of `Rows` its place there, int64 [q].
        clients: float [c, *shape], one per client row.
        shared: float [*shape], the same for all.
        history: float [n, d], the vectors that histories are made of.
    """

    rows: Mapping[str, tuple[Tensor, Tensor]]
    clients: Mapping[str, Tensor]
    shared: Mapping[str, Tensor] = field(default_factory=dict)
    history: Tensor | None = None


@dataclass(frozen=True, slots=True)
class _Group:
    """Clients that are computed together.

    Args:
        clients: int64 [b].
        at: int64 [b, l], their rows, filled up with each client's last.
        first: int64 [b], the first user row of each client.
        users: number of user rows of each client.
        items: longest history of them.
    """

    clients: IntArray
    at: IntArray
    first: IntArray
    users: int
    items: int


def filled_length(n: int) -> int:
    """The length that n rows are filled up to: four lengths per power of two, from 8 on.

    So at most a fifth of the filled rows is idle, and a client's length depends on it alone.

    Example:
        >>> [filled_length(n) for n in (0, 3, 8, 9, 11, 100, 129)]
        [0, 3, 8, 10, 12, 112, 160]
    """
    step = 1 << max((n - 1).bit_length() - 3, 0) if n > 8 else 1
    return -(-n // step) * step


def by_client(
    call: Call, values: Values, rows: Rows, together: bool, most: int | None = None
) -> Tensor:
    """Compute rows with the parameters of their clients.

    Args:
        call: The computation of one client.
        values: All parameters.
        rows: The rows.
        together: Whether clients are computed side by side (``vmap``), or one by one.
        most: Rows that are computed at once, if one client has not more; None: no bound.

    Returns:
        float [q, ...].

    Raises:
        ConfigError: If ``call`` does what `torch.func.vmap` cannot.
    """
    place = np.zeros(len(rows.users), np.int64)
    results, base = [], 0
    for group, filled in _groups(rows, together, most):
        found = _compute(call, values, rows, group, together)
        results.append(found.flatten(0, 1))
        place[group.at[filled]] = base + np.flatnonzero(filled)
        base += filled.size
    if not results:
        return torch.zeros(0, dtype=torch.get_default_dtype())
    return gather(torch.cat(results), torch.from_numpy(place))


def _groups(
    rows: Rows, together: bool, most: int | None
) -> Iterator[tuple[_Group, NDArray[np.bool_]]]:
    """The groups, and bool [b, l] of each: which of its rows are not filled up."""
    client, user = rows.clients.numpy(), rows.users.numpy()
    order = np.argsort(client, kind="stable")
    present, starts, counts = np.unique(client[order], return_index=True, return_counts=True)
    if len(present) == 0:
        return
    first = np.minimum.reduceat(user[order], starts)
    users = np.maximum.reduceat(user[order], starts) - first + 1
    items = np.zeros_like(users)
    if rows.history is not None:
        items = np.maximum.reduceat(rows.history.lengths[user[order]], starts)
    lengths = counts
    group_of = np.arange(len(present))
    if together:
        lengths = np.array([filled_length(int(n)) for n in counts])
        items = np.array([filled_length(int(n)) for n in items])
        _, group_of = np.unique(np.stack([lengths, users, items]), axis=1, return_inverse=True)
    for number in range(int(group_of.max()) + 1):
        alike = np.flatnonzero(group_of == number)
        one = alike[0]
        within = np.arange(int(lengths[one]))
        size = len(alike) if most is None else max(most // len(within), 1)
        for start in range(0, len(alike), size):
            mine = alike[start : start + size]
            left = counts[mine][:, None]
            at = order[starts[mine][:, None] + np.minimum(within, left - 1)]
            group = _Group(present[mine], at, first[mine], int(users[one]), int(items[one]))
            yield group, within < left


def _compute(call: Call, values: Values, rows: Rows, group: _Group, together: bool) -> Tensor:
    """float [b, l, ...]."""
    at, clients = torch.from_numpy(group.at), torch.from_numpy(group.clients)
    own = {name: gather(source, index[at]) for name, (source, index) in values.rows.items()}
    own_dense = {name: gather(value, clients) for name, value in values.clients.items()}
    where = {
        "users": rows.users[at] - torch.from_numpy(group.first).unsqueeze(1),
        "items": rows.items[at],
    }
    if rows.context is not None and rows.history is not None and values.history is not None:
        where["context"] = rows.context[at]
        where |= _histories(values.history, rows.history, group)

    def of_client(own: Tensors, dense: Tensors, where: Tensors) -> Tensor:
        history = History(where["vectors"], where["lengths"]) if "vectors" in where else None
        pairs = Pairs(where["users"], where["items"], where.get("context"), history)
        return call({**values.shared, **own, **dense}, pairs)

    if not together:
        alone = ({n: v[0] for n, v in each.items()} for each in (own, own_dense, where))
        return of_client(*alone).unsqueeze(0)
    try:
        found: Tensor = torch.func.vmap(of_client)(own, own_dense, where)
    except RuntimeError as error:
        if "vmap" not in str(error):
            raise
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(
            f"model: torch.func.vmap cannot compute it ({reason}); declare execution = 'loop'"
        ) from error
    return found


def _histories(source: Tensor, history: Ragged, group: _Group) -> dict[str, Tensor]:
    """``vectors`` float [b, u, h, d], zero after the end, and ``lengths`` int64 [b, u]."""
    user = np.minimum(group.first[:, None] + np.arange(group.users), len(history) - 1)
    lengths = np.minimum(history.lengths[user], group.items)[..., None]
    within = np.arange(group.items)
    at = history.offsets[user][..., None] + np.clip(within, 0, np.maximum(lengths - 1, 0))
    at = history.values[np.minimum(at, max(len(history.values) - 1, 0))]
    inside = torch.from_numpy(within < lengths).unsqueeze(-1)
    vectors = gather(source, torch.from_numpy(at)) * inside.to(source.dtype)
    return {"vectors": vectors, "lengths": torch.from_numpy(lengths[..., 0])}
