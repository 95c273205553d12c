"""The model on the pairs of a step: flat, or written for one client and computed for many."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from fedrec.compute.batch import Histories, Tensors, pad_rows, padded_places
from fedrec.compute.device import to_array
from fedrec.compute.operations import gather, repeat_rows
from fedrec.errors import ConfigError
from fedrec.models.base import Batch, Execution, History
from fedrec.models.module import ModelParams, Network
from fedrec.models.side_by_side import side_by_side
from fedrec.ragged import offsets_of
from fedrec.training.plan import Owners, Step
from fedrec.training.task import ClientTask
from fedrec.types import FloatArray, IntArray

_ENCODED = 4096
"""Items whose vectors are computed together."""

Call: TypeAlias = Callable[[ModelParams, Batch, Tensor], Tensor]
"""From the parameters, pairs and item vectors of one client, [l], to float [l, ...]."""


@dataclass(frozen=True, slots=True)
class Rows:
    """What is computed: pairs, or users, client after client, with parameters by name.

    Args:
        sizes: int64 [c], rows of each client, at least 1.
        users: int64 [q], the user row; those of a client are neighbours.
        items: int64 [q].
        of_rows: float [q, *shape], one per row.
        of_clients: float [c, *shape], one per client.
        shared: float [*shape], the same for all.
        repeated: float [c, *shape], one per client, which the model gets once per row.
        features: float [n_items, *shape], of which the model gets the rows of ``items``.
        vectors: float [q, d], the item vectors.
        labels: float [q], see `fedrec.models.base.Batch`; so are ``counts`` and ``context``.
        history: Of the user rows, for a model with a window: places of ``source``.
        source: float [n, d], the vectors that histories are made of.
        network: What the model built.
        keys: int64 [c], what dropout depends on; None when ranking.
    """

    sizes: IntArray
    users: Tensor
    items: Tensor
    of_rows: Tensors
    of_clients: Tensors
    shared: Tensors = field(default_factory=dict)
    repeated: Tensors = field(default_factory=dict)
    features: Tensors = field(default_factory=dict)
    vectors: Tensor | None = None
    labels: Tensor | None = None
    counts: Tensor | None = None
    context: Tensor | None = None
    history: Histories | None = None
    source: Tensor | None = None
    network: Network | None = None
    keys: Tensor | None = None


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
    n_clients, offsets = len(rows.sizes), offsets_of(rows.sizes)
    if execution == "flat":
        of_clients = {**rows.of_clients, **rows.repeated}
        params = {name: repeat_rows(value, offsets) for name, value in of_clients.items()}
        for name, value in rows.shared.items():
            params[name] = value.expand(len(rows.users), *value.shape)
        batch = Batch(rows.users, rows.items, rows.labels, rows.counts)
        vectors = (
            rows.users.new_zeros((len(rows.users), 0)) if rows.vectors is None else rows.vectors
        )
        params |= {name: rows_of(table, rows.items) for name, table in rows.features.items()}
        return call(ModelParams({**rows.of_rows, **params}), batch, vectors)
    if n_clients == 0:
        return torch.zeros(0, dtype=torch.get_default_dtype())
    together, results = execution == "vmap", []
    size = n_clients if together else 1
    if together and most is not None:
        size = max(most // int(rows.sizes.max()), 1)
    for start in range(0, n_clients, size):
        group = slice(start, min(start + size, n_clients))
        at = slice(int(offsets[group.start]), int(offsets[group.stop]))
        results.append(_group(call, rows, group, at, together))
    return results[0] if len(results) == 1 else torch.cat(results)


def _group(call: Call, rows: Rows, group: slice, at: slice, together: bool) -> Tensor:
    """Compute neighbouring clients side by side, or one client; float [q, ...]."""
    padded, place = padded_places(rows.sizes[group])
    of_rows = {name: pad_rows(value[at], padded, place) for name, value in rows.of_rows.items()}
    of_rows |= {
        name: value[group].unsqueeze(1).expand(-1, padded.shape[1], *value.shape[1:])
        for name, value in rows.repeated.items()
    }
    of_clients = {name: value[group] for name, value in rows.of_clients.items()}
    users, items = rows_of(rows.users[at], padded), rows_of(rows.items[at], padded)
    where = {"users": users - users[:, :1], "items": items}
    of_rows |= {name: rows_of(table, items) for name, table in rows.features.items()}
    for name in ("labels", "counts", "context"):
        column = getattr(rows, name)
        if column is not None:
            where[name] = rows_of(column[at], padded)
    if rows.labels is not None:
        within = torch.arange(padded.shape[1])
        where["real"] = within < torch.as_tensor(rows.sizes[group]).unsqueeze(1)
    if rows.vectors is not None:
        where["vectors"] = pad_rows(rows.vectors[at], padded, place)
    if rows.keys is not None:
        where["key"] = rows.keys[group]
    histories = {} if rows.context is None else _histories(rows, users)

    def of_client(of_rows: Tensors, of_clients: Tensors, where: Tensors, past: Tensors) -> Tensor:
        given = dict(where)
        vectors, key = given.pop("vectors", None), given.pop("key", None)
        batch = Batch(**given, history=History(**past) if past else None)
        values = {**rows.shared, **of_rows, **of_clients}
        with ModelParams(values, rows.network, key) as params:
            return call(params, batch, batch.items if vectors is None else vectors)

    inputs = of_rows, of_clients, where, histories
    if not together:
        # Copies: what a product gives may depend on where its operands begin in memory.
        of_clients = {name: value.clone() for name, value in of_clients.items()}
        inputs = of_rows, of_clients, where, histories
        return of_client(*({k: v[0] for k, v in named.items()} for named in inputs))
    try:
        results = side_by_side(of_client, *inputs)
    except ConfigError as error:
        raise ConfigError(f"model: {error}") from error
    return results.flatten(0, 1).index_select(0, place)


def rows_of(table: Tensor, index: Tensor) -> Tensor:
    """Return ``table[index]``, [*index.shape, ...]; several times as fast, without a gradient."""
    rows = table.index_select(0, index.flatten())
    return rows.reshape(*index.shape, *table.shape[1:])


def _histories(rows: Rows, users: Tensor) -> dict[str, Tensor]:
    """Return the histories of clients' users, from each client's first to its last.

    Args:
        rows: Of a model with a window.
        users: int64 [b, l], the user rows of each client, ascending.

    Returns:
        The fields of `fedrec.models.base.History`, each with one more dimension, [b, u, ...].
    """
    history, source = rows.history, rows.source
    assert history is not None and source is not None
    offsets = history.rows.offsets
    width = int((users[:, -1] - users[:, 0]).max()) + 1
    of_clients = np.minimum(to_array(users[:, :1]) + np.arange(width), len(history.rows) - 1)
    lengths = history.rows.lengths[of_clients]
    within = np.arange(int(lengths.max(initial=0)))
    inside = within < lengths[..., None]
    at = np.where(inside, offsets[of_clients][..., None] + within, 0)

    def laid_out(column: FloatArray | IntArray) -> Tensor:
        places = column[at] if len(column) else at
        return torch.as_tensor(np.where(inside, places, 0))

    vectors = gather(source, laid_out(history.rows.values))
    columns = {"items": history.items, "times": history.times, "ratings": history.ratings}
    return {
        "vectors": vectors * torch.as_tensor(inside).unsqueeze(-1),
        "lengths": torch.as_tensor(lengths),
        **{name: laid_out(column) for name, column in columns.items() if column is not None},
    }


def _with_item_vectors(task: ClientTask, call: Call) -> Call:
    """Return a computation that makes the item vectors itself."""

    def direct(params: ModelParams, batch: Batch, vectors: Tensor) -> Tensor:
        return call(params, batch, task.model.item_vectors(params, batch.items))

    return direct


def encode(task: ClientTask, rows: Rows) -> Tensor:
    """Return the item vectors of rows with the parameters of their clients, float [q, d]."""

    def call(params: ModelParams, batch: Batch, vectors: Tensor) -> Tensor:
        return task.model.item_vectors(params, batch.items)

    return compute(call, rows, task.model.execution)


def encode_catalogue(task: ClientTask, params: Tensors) -> Tensor:
    """Return the vectors of all items, float [n_items, d]; no gradient.

    Args:
        task: The model.
        params: The shared parameters, or in the place of dense ones those of a client.
    """
    if not task.encodes:
        return params["item"]
    n_items, blocks = task.catalogue.n_items, []
    tables = {**{name: params[name] for name in task.tables()}, **task.frozen_tables}
    n_items = len(next(iter(tables.values()))) if tables else n_items
    with torch.no_grad():
        for start in range(0, n_items, _ENCODED):
            items = torch.arange(start, min(start + _ENCODED, n_items))
            values = {name: table[items] for name, table in tables.items()}
            for name in (*task.dense(), *task.own_encoder):
                dense = params[name]
                is_row = task.model.execution == "flat"
                values[name] = dense.expand(len(items), *dense.shape) if is_row else dense
            with ModelParams(values, task.network) as given:
                blocks.append(task.model.item_vectors(given, items))
    return torch.cat(blocks)


@dataclass(frozen=True, slots=True)
class Forward:
    """The model as a function of the item vectors (see `fedrec.personalization.base.Forward`).

    Args:
        task: Model and personalization.
        step: The pairs, and whose they are.
        values: Per item table, float [q, *shape], a row per pair; per dense shared parameter,
            float [c, *shape], one per client of the step; per private parameter,
            float [n, *shape], one per owner of the step.
        keys: int64 [c], what the dropout of each client of the step depends on.
    """

    task: ClientTask
    step: Step
    values: Mapping[str, Tensor]
    keys: Tensor | None = None

    def mixed(self) -> Tensor:
        """Return what the personalization mixes, float [q, d]: item vectors, or table rows."""
        task = self.task
        return self._encoded(self.values) if task.mixes_vectors else self.values["item"]

    def score(self, rows: Tensor) -> Tensor:
        """Score the pairs with given vectors: float [q, d] -> float [q]."""
        return self._of(self.task.model.score, rows)

    def features(self, rows: Tensor) -> Tensor:
        """Return the input of the model's last linear layer: float [q, d] -> float [q, h]."""
        model = self.task.model
        return self._of(model.features, rows) if model.overrides("features") else rows

    @property
    def is_direct(self) -> bool:
        """Return whether one computation may make the item vectors of pairs and their scores.

        That is where nobody asks for the vectors and no item occurs twice.
        """
        owners = self.step.owners
        one_user_each = len(owners["user"].present) == len(owners["client"].present)
        return self.task.encodes and one_user_each and self.step.scored is None

    def trained_on(self, rows: Tensor | None) -> Tensor:
        """Return the score, or the model's own loss, of what the step trains on, float [r].

        Args:
            rows: float [q, d], what the personalization made of `mixed`; None: nothing, see
                `is_direct`.
        """
        model = self.task.model
        call = model.loss if model.overrides("loss") else model.score
        return self._of(call, rows, trained=True)

    def of_pairs(self, names: Iterable[str], at: Tensor | None = None) -> dict[str, Tensor]:
        """Return private parameters once per pair, float [q, *shape].

        Args:
            names: Of the parameters.
            at: int64 [r], which pairs; None: each once.
        """
        owners, specs = self.step.owners, self.task.specs()
        values = {n: spread(self.values[n], owners[str(specs[n].axis)]) for n in names}
        return values if at is None else {name: gather(v, at) for name, v in values.items()}

    def _of(self, call: Call, rows: Tensor | None, trained: bool = False) -> Tensor:
        """Compute the pairs; ``trained``: what the step trains on, in its order.

        Args:
            call: Of the model.
            rows: float [q, d], what the personalization made of `mixed`; None: as in `trained_on`.
            trained: Whether pairs are repeated as the step trains on them.
        """
        task, step = self.task, self.step
        vectors = rows
        if rows is None:
            call = _with_item_vectors(task, call)
        elif task.encodes and not task.mixes_vectors:
            vectors = self._encoded({**self.values, "item": rows})
        at = step.scored if trained else None
        computed = self._rows(at, vectors)
        # A score must not see what it is to predict.
        sees_labels = trained and task.model.overrides("loss")
        pairs = replace(
            computed,
            labels=step.is_positive if sees_labels else None,
            counts=step.n_negative if sees_labels else None,
            context=step.context if trained else step.pairs.context,
            history=step.pairs.history,
            source=vectors,
        )
        return self._computed(lambda: compute(call, pairs, task.model.execution))

    def _computed(self, call: Callable[[], Tensor]) -> Tensor:
        """Return what the model makes in the precision of the task, as float32."""
        with self.task.resources_used.autocast():
            result = call()
        return result.float() if result.dtype in (torch.bfloat16, torch.float16) else result

    def _encoded(self, values: Mapping[str, Tensor]) -> Tensor:
        """Return the item vectors of the pairs, float [q, d], each item of a client once."""
        task = self.task
        if not task.encodes:
            return values["item"]
        rows = replace(self, values=values)._rows(None, None)
        if len(self.step.owners["user"].present) == len(self.step.owners["client"].present):
            return self._computed(lambda: encode(task, rows))
        # Users of one client may share items.
        client = self.step.owners["client"].index
        width = int(rows.items.max()) + 1
        keys = client * width + to_array(rows.items)
        _, first, of_pairs = np.unique(keys, return_index=True, return_inverse=True)
        at = torch.as_tensor(first)
        distinct = Rows(
            np.bincount(client[first]),
            rows.users[at],
            rows.items[at],
            {name: gather(value, at) for name, value in rows.of_rows.items()},
            rows.of_clients,
            features=rows.features,
            network=rows.network,
            keys=rows.keys,
        )
        vectors = self._computed(lambda: encode(task, distinct))
        return gather(vectors, torch.as_tensor(of_pairs))

    def _rows(self, at: Tensor | None, vectors: Tensor | None) -> Rows:
        """Return the pairs with their parameters; int64 [r], which pairs, None: each once."""
        task, pairs = self.task, self.step.pairs
        users, clients = self.step.owners["user"], self.step.owners["client"]
        tables = {name: self.values[name] for name in task.tables()}
        of_users, by_pair, repeated = task.of_model("user"), task.of_model("positive"), list[str]()
        # Of clients with one user each, what is the user's is the client's.
        if len(users.present) == len(clients.present):
            repeated = of_users
        else:
            by_pair += of_users
        user, item, client = pairs.users, pairs.items, clients.index
        if at is not None:
            tables = {name: gather(value, at) for name, value in tables.items()}
            user, item, client = user[at], item[at], client[to_array(at)]
            vectors = None if vectors is None else gather(vectors, at)
        return Rows(
            np.bincount(client),
            user,
            item,
            tables | self.of_pairs(by_pair, at),
            {name: self.values[name] for name in (*task.dense(), *task.of_model("client"))},
            repeated={name: self.values[name] for name in repeated},
            features=task.frozen_tables,
            vectors=vectors,
            network=task.network,
            keys=self.keys,
        )


def spread(values: Tensor, owners: Owners) -> Tensor:
    """Return each owner's value once per pair; 0 where a pair has no owner."""
    if owners.offsets is not None:
        return repeat_rows(values, owners.offsets)
    none = values.new_zeros((1, *values.shape[1:]))
    return gather(torch.cat([values, none]), torch.as_tensor(owners.index))
