"""A model written for one client, computed for many: one by one, or side by side.

Rows stand client after client. They are cut into clients and computed client by client (``loop``),
or filled up to equal length and computed by `torch.func.vmap` (``vmap``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import torch

from fedrec.compute.batch import Tensors
from fedrec.compute.operations import gather
from fedrec.compute.segments import pad_rows, padded_places, unpad_rows
from fedrec.errors import ConfigError
from fedrec.models.base import History, Pairs
from fedrec.types import IntArray, Ragged, offsets_of

__all__ = ["Call", "Rows", "Values", "by_client"]

Tensor: TypeAlias = "torch.Tensor"
Call: TypeAlias = Callable[[Tensors, Pairs], Tensor]
"""From the parameters and pairs of one client, [l], to float [l, ...]."""


@dataclass(frozen=True, slots=True)
class Rows:
    """What is computed: pairs, or users, client after client.

    Args:
        counts: int64 [c], rows of each client, at least 1.
        users: int64 [q], the user row; those of a client are neighbours.
        items: int64 [q].
        context: int64 [q], see `fedrec.models.base.Pairs`.
        history: One row per user row, for a model with a window: rows of `Values.history`.
    """

    counts: IntArray
    users: Tensor
    items: Tensor
    context: Tensor | None = None
    history: Ragged | None = None


@dataclass(frozen=True, slots=True)
class Values:
    """Parameters, by name.

    Args:
        rows: float [q, *shape], one per row.
        clients: float [c, *shape], one per client.
        shared: float [*shape], the same for all.
        history: float [n, d], the vectors that histories are made of.
        repeated: float [c, *shape], one per client, which the model gets once per row.
    """

    rows: Tensors
    clients: Tensors
    shared: Tensors = field(default_factory=dict)
    history: Tensor | None = None
    repeated: Tensors = field(default_factory=dict)


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
    if len(rows.counts) == 0:
        return torch.zeros(0, dtype=torch.get_default_dtype())
    offsets = offsets_of(rows.counts)
    if not together:
        return torch.cat([_alone(call, values, rows, k, offsets) for k in range(len(rows.counts))])
    size = len(rows.counts)
    if most is not None:
        size = max(most // int(rows.counts.max()), 1)
    groups = [
        _together(call, values, rows, slice(start, min(start + size, len(rows.counts))), offsets)
        for start in range(0, len(rows.counts), size)
    ]
    return groups[0] if len(groups) == 1 else torch.cat(groups)


def _alone(call: Call, values: Values, rows: Rows, client: int, offsets: IntArray) -> Tensor:
    """Compute one client; float [l, ...]."""
    part = slice(int(offsets[client]), int(offsets[client + 1]))
    n = part.stop - part.start
    # Copies: what a product gives may depend on where its operands begin in memory.
    params = {name: value[part].clone() for name, value in values.rows.items()}
    params |= {n: v[client].clone() for n, v in values.clients.items()}
    params |= {k: v[client].expand(n, *v.shape[1:]) for k, v in values.repeated.items()}
    first = int(rows.users[part.start])
    pairs = Pairs(rows.users[part] - first, rows.items[part])
    if rows.context is not None and rows.history is not None and values.history is not None:
        users = np.arange(first, int(rows.users[part.stop - 1]) + 1)
        places, lengths = _histories(rows.history, users[None])
        history = _vectors(values.history, places, lengths)[0]
        pairs = Pairs(pairs.users, pairs.items, rows.context[part], History(history, lengths[0]))
    return call({**values.shared, **params}, pairs)


def _together(call: Call, values: Values, rows: Rows, group: slice, offsets: IntArray) -> Tensor:
    """Compute neighbouring clients side by side; float [q, ...]."""
    part = slice(int(offsets[group.start]), int(offsets[group.stop]))
    at, place = padded_places(rows.counts[group])
    of_rows = {name: pad_rows(value[part], at, place) for name, value in values.rows.items()}
    of_rows |= {
        name: v[group].unsqueeze(1).expand(-1, at.shape[1], *v.shape[1:])
        for name, v in values.repeated.items()
    }
    of_clients = {name: value[group] for name, value in values.clients.items()}
    users = rows.users[part][at]
    first = users[:, :1]
    where = {"users": users - first, "items": rows.items[part][at]}
    if rows.context is not None and rows.history is not None and values.history is not None:
        width = int((users[:, -1:] - first).max()) + 1
        every = np.minimum(first.numpy() + np.arange(width), len(rows.history) - 1)
        places, lengths = _histories(rows.history, every)
        where["context"] = rows.context[part][at]
        where["vectors"] = _vectors(values.history, places, lengths)
        where["lengths"] = lengths

    def of_client(of_rows: Tensors, of_clients: Tensors, where: Tensors) -> Tensor:
        history = History(where["vectors"], where["lengths"]) if "vectors" in where else None
        pairs = Pairs(where["users"], where["items"], where.get("context"), history)
        return call({**values.shared, **of_rows, **of_clients}, pairs)

    try:
        results: Tensor = torch.func.vmap(of_client)(of_rows, of_clients, where)
    except RuntimeError as error:
        if "vmap" not in str(error):
            raise
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(
            f"model: torch.func.vmap cannot compute it ({reason}); declare execution = 'loop'"
        ) from error
    return unpad_rows(results, place)


def _histories(history: Ragged, users: IntArray) -> tuple[Tensor, Tensor]:
    """Return the places of some users' histories, int64 [b, u, h], and their lengths [b, u]."""
    lengths = history.lengths[users]
    within = np.arange(int(lengths.max(initial=0)))
    at = history.offsets[users][..., None] + np.minimum(
        within, np.maximum(lengths[..., None] - 1, 0)
    )
    at = history.values[np.minimum(at, max(len(history.values) - 1, 0))]
    return torch.from_numpy(at), torch.from_numpy(lengths)


def _vectors(source: Tensor, places: Tensor, lengths: Tensor) -> Tensor:
    """Return the vectors of histories, float [b, u, h, d], zero after the end."""
    inside = torch.arange(places.shape[-1]) < lengths.unsqueeze(-1)
    return gather(source, places) * inside.unsqueeze(-1).to(source.dtype)
