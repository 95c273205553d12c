"""A model written for one client, computed for many: one by one, or side by side.

Rows stand client after client. They are cut into clients and computed client by client (``loop``),
or filled up to equal length and computed by `torch.func.vmap` (``vmap``).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from fedrec.compute.batch import Tensors
from fedrec.compute.operations import gather
from fedrec.compute.tiles import pad_rows, padded_places, unpad_rows
from fedrec.errors import ConfigError
from fedrec.models.base import History, Pairs
from fedrec.types import IntArray, Ragged, offsets_of

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
    n_clients = len(rows.counts)
    if n_clients == 0:
        return torch.zeros(0, dtype=torch.get_default_dtype())
    size = 1 if not together else n_clients
    if together and most is not None:
        size = max(most // int(rows.counts.max()), 1)
    offsets = offsets_of(rows.counts)
    results = []
    for start in range(0, n_clients, size):
        group = slice(start, min(start + size, n_clients))
        at = slice(int(offsets[group.start]), int(offsets[group.stop]))
        results.append(_group(call, values, rows, group, at, together))
    return results[0] if len(results) == 1 else torch.cat(results)


def _group(
    call: Call, values: Values, rows: Rows, group: slice, at: slice, together: bool
) -> Tensor:
    """Compute neighbouring clients side by side, or one client; float [q, ...]."""
    padded, place = padded_places(rows.counts[group])
    of_rows = {name: pad_rows(value[at], padded, place) for name, value in values.rows.items()}
    of_rows |= {
        name: value[group].unsqueeze(1).expand(-1, padded.shape[1], *value.shape[1:])
        for name, value in values.repeated.items()
    }
    of_clients = {name: value[group] for name, value in values.clients.items()}
    users = rows.users[at][padded]
    where = {"users": users - users[:, :1], "items": rows.items[at][padded]}
    if rows.context is not None:
        where["context"] = rows.context[at][padded]
        where["vectors"], where["lengths"] = _histories(values, rows, users)

    def of_client(of_rows: Tensors, of_clients: Tensors, where: Tensors) -> Tensor:
        history = History(where["vectors"], where["lengths"]) if "vectors" in where else None
        pairs = Pairs(where["users"], where["items"], where.get("context"), history)
        return call({**values.shared, **of_rows, **of_clients}, pairs)

    if not together:
        # Copies: what a product gives may depend on where its operands begin in memory.
        of_clients = {name: value.clone() for name, value in of_clients.items()}
        inputs = ({k: v[0] for k, v in named.items()} for named in (of_rows, of_clients, where))
        return of_client(*inputs)
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


def _histories(values: Values, rows: Rows, users: Tensor) -> tuple[Tensor, Tensor]:
    """Return the histories of clients' users, from each client's first to its last.

    Args:
        values: The parameters.
        rows: Of a model with a window.
        users: int64 [b, l], the user rows of each client, ascending.

    Returns:
        float [b, u, h, d], zero after the end of a history, and lengths, int64 [b, u].
    """
    history, source = rows.history, values.history
    assert history is not None and source is not None
    width = int((users[:, -1] - users[:, 0]).max()) + 1
    of_clients = np.minimum(users[:, :1].numpy() + np.arange(width), len(history) - 1)
    lengths = history.lengths[of_clients]
    within = np.arange(int(lengths.max(initial=0)))
    inside = within < lengths[..., None]
    at = np.where(inside, history.offsets[of_clients][..., None] + within, 0)
    places = history.values[at] if len(history.values) else at
    vectors = gather(source, torch.from_numpy(places))
    return vectors * torch.from_numpy(inside).unsqueeze(-1), torch.from_numpy(lengths)
