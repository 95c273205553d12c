"""The model on the pairs of a step: flat, or written for one client and computed for many."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from fedrec.compute.batch import Tensors, pad_rows, padded_places
from fedrec.compute.operations import gather, repeat_rows
from fedrec.errors import ConfigError
from fedrec.models.base import Execution, History, Pairs
from fedrec.training.plan import Owners, Step
from fedrec.training.task import ClientTask
from fedrec.types import IntArray, Ragged, offsets_of

Call: TypeAlias = Callable[[Tensors, Pairs], Tensor]
"""From the parameters and pairs of one client, [l], to float [l, ...]."""


@dataclass(frozen=True, slots=True)
class Rows:
    """What is computed: pairs, or users, client after client, with parameters by name.

    Args:
        counts: int64 [c], rows of each client, at least 1.
        users: int64 [q], the user row; those of a client are neighbours.
        items: int64 [q].
        of_rows: float [q, *shape], one per row.
        of_clients: float [c, *shape], one per client.
        shared: float [*shape], the same for all.
        repeated: float [c, *shape], one per client, which the model gets once per row.
        context: int64 [q], see `fedrec.models.base.Pairs`.
        history: One row per user row, for a model with a window: rows of ``source``.
        source: float [n, d], the vectors that histories are made of.
    """

    counts: IntArray
    users: Tensor
    items: Tensor
    of_rows: Tensors
    of_clients: Tensors
    shared: Tensors = field(default_factory=dict)
    repeated: Tensors = field(default_factory=dict)
    context: Tensor | None = None
    history: Ragged | None = None
    source: Tensor | None = None


def compute(call: Call, rows: Rows, execution: Execution, most: int | None = None) -> Tensor:
    """Compute rows with the parameters of their clients.

    Args:
        call: The computation of one client; ``flat``, of all.
        rows: The rows, and all parameters.
        execution: Whether all at once, clients side by side, or one by one.
        most: Rows that ``vmap`` computes at once, if one client has not more; None: no bound.

    Returns:
        float [q, ...].

    Raises:
        ConfigError: If ``call`` does what `torch.func.vmap` cannot.
    """
    n_clients, offsets = len(rows.counts), offsets_of(rows.counts)
    if execution == "flat":
        of_clients = {**rows.of_clients, **rows.repeated}
        params = {name: repeat_rows(value, offsets) for name, value in of_clients.items()}
        for name, value in rows.shared.items():
            params[name] = value.expand(len(rows.users), *value.shape)
        return call({**rows.of_rows, **params}, Pairs(rows.users, rows.items))
    if n_clients == 0:
        return torch.zeros(0, dtype=torch.get_default_dtype())
    together, results = execution == "vmap", []
    size = n_clients if together else 1
    if together and most is not None:
        size = max(most // int(rows.counts.max()), 1)
    for start in range(0, n_clients, size):
        group = slice(start, min(start + size, n_clients))
        at = slice(int(offsets[group.start]), int(offsets[group.stop]))
        results.append(_group(call, rows, group, at, together))
    return results[0] if len(results) == 1 else torch.cat(results)


def _group(call: Call, rows: Rows, group: slice, at: slice, together: bool) -> Tensor:
    """Compute neighbouring clients side by side, or one client; float [q, ...]."""
    padded, place = padded_places(rows.counts[group])
    of_rows = {name: pad_rows(value[at], padded, place) for name, value in rows.of_rows.items()}
    of_rows |= {
        name: value[group].unsqueeze(1).expand(-1, padded.shape[1], *value.shape[1:])
        for name, value in rows.repeated.items()
    }
    of_clients = {name: value[group] for name, value in rows.of_clients.items()}
    users = rows.users[at][padded]
    where = {"users": users - users[:, :1], "items": rows.items[at][padded]}
    if rows.context is not None:
        where["context"] = rows.context[at][padded]
        where["vectors"], where["lengths"] = _histories(rows, users)

    def of_client(of_rows: Tensors, of_clients: Tensors, where: Tensors) -> Tensor:
        history = History(where["vectors"], where["lengths"]) if "vectors" in where else None
        pairs = Pairs(where["users"], where["items"], where.get("context"), history)
        return call({**rows.shared, **of_rows, **of_clients}, pairs)

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
    return results.flatten(0, 1).index_select(0, place)


def _histories(rows: Rows, users: Tensor) -> tuple[Tensor, Tensor]:
    """Return the histories of clients' users, from each client's first to its last.

    Args:
        rows: Of a model with a window.
        users: int64 [b, l], the user rows of each client, ascending.

    Returns:
        float [b, u, h, d], zero after the end of a history, and lengths, int64 [b, u].
    """
    history, source = rows.history, rows.source
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


@dataclass(frozen=True, slots=True)
class Forward:
    """The model as a function of the item vectors (see `fedrec.personalization.base.Forward`).

    Args:
        task: Model and personalization.
        step: The pairs, and whose they are.
        values: Per item table, float [q, *shape], a row per pair; per dense shared parameter,
            float [c, *shape], one per client of the step; per private parameter,
            float [n, *shape], one per owner of the step.
    """

    task: ClientTask
    step: Step
    values: Mapping[str, Tensor]

    def score(self, rows: Tensor) -> Tensor:
        """Score the pairs with given item vectors: float [q, d] -> float [q]."""
        return self._of(self.task.model.score, rows, None, self.step.pairs.context)

    def features(self, rows: Tensor) -> Tensor:
        """Return the input of the model's last linear layer: float [q, d] -> float [q, h]."""
        return self._of(self.task.model.features, rows, None, self.step.pairs.context)

    def trained_scores(self, rows: Tensor) -> Tensor:
        """Score what the step trains on: float [q, d] -> float [r]."""
        return self._of(self.task.model.score, rows, self.step.scored, self.step.context)

    def of_pairs(self, names: Iterable[str], at: Tensor | None = None) -> dict[str, Tensor]:
        """Return private parameters once per pair, float [q, *shape].

        Args:
            names: Of the parameters.
            at: int64 [r], which pairs; None: each once.
        """
        owners, specs = self.step.owners, self.task.specs()
        values = {n: _spread(self.values[n], owners[str(specs[n].axis)]) for n in names}
        return values if at is None else {name: gather(v, at) for name, v in values.items()}

    def _of(self, call: Call, rows: Tensor, at: Tensor | None, context: Tensor | None) -> Tensor:
        task, pairs = self.task, self.step.pairs
        users, clients = self.step.owners["user"], self.step.owners["client"]
        tables = {**{name: self.values[name] for name in task.tables()}, "item": rows}
        of_users, by_pair, repeated = task.of_model("user"), task.of_model("positive"), list[str]()
        # Of clients with one user each, what is the user's is the client's.
        if len(users.present) == len(clients.present):
            repeated = of_users
        else:
            by_pair += of_users
        user, item, client = pairs.users, pairs.items, clients.index
        if at is not None:
            tables = {name: gather(value, at) for name, value in tables.items()}
            user, item, client = user[at], item[at], client[at.numpy()]
        computed = Rows(
            np.bincount(client),
            user,
            item,
            tables | self.of_pairs(by_pair, at),
            {name: self.values[name] for name in (*task.dense(), *task.of_model("client"))},
            repeated={name: self.values[name] for name in repeated},
            context=context,
            history=pairs.history,
            source=rows,
        )
        return compute(call, computed, task.model.execution)


def _spread(values: Tensor, owners: Owners) -> Tensor:
    """Return each owner's value once per pair; 0 where a pair has no owner."""
    if owners.offsets is not None:
        return repeat_rows(values, owners.offsets)
    none = values.new_zeros((1, *values.shape[1:]))
    return gather(torch.cat([values, none]), torch.from_numpy(owners.index))
