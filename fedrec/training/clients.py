"""Training and ranking for the clients of a node: chunk by chunk, from and to plain arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal

import numpy as np
import torch

from fedrec.errors import ConfigError, MissingExtra
from fedrec.models.base import Pairs
from fedrec.personalization.base import Anchor, View
from fedrec.training.batch import plan_work, positives_of_clients
from fedrec.training.kernel import Outcome, train_chunk
from fedrec.training.method import Method, has_machine_code
from fedrec.types import FloatArray, IntArray, Params, RowBlock, Shard, UpdateBatch

__all__ = ["kernel_of", "train_clients", "user_scorer"]


def kernel_of(method: Method) -> Literal["compiled", "reference"]:
    """Which kernel trains a method.

    Raises:
        ConfigError: If machine code is asked for and there is none for the method.
        MissingExtra: If there is, but numba is not installed.
    """
    asked = method.train.kernel
    if asked == "reference" or (asked == "auto" and not has_machine_code(method)):
        return "reference"
    if not has_machine_code(method):
        raise ConfigError(
            "train.kernel: there is no machine code for this model and personalization; "
            "write 'auto' or 'reference'"
        )
    if find_spec("numba") is None:
        raise MissingExtra("numba, which train.kernel: reference does without,", "sim")
    return "compiled"


def train_clients(
    method: Method,
    shard: Shard,
    params: Params,
    local: Params,
    round: int,
    chunk: int = 64,
    popularity: IntArray | None = None,
) -> tuple[UpdateBatch, dict[str, FloatArray]]:
    """Train clients for a round.

    Args:
        method: model, personalization, optimisers.
        shard: the clients that train.
        params: the global parameters, float32.
        local: the local parameters of these clients, in their order (see `train_chunk`).
        round: the round.
        chunk: clients in one computation; changes no bit.
        popularity: int64 [n_items], weights for popularity sampling.

    Returns:
        The updates, and the new local parameters in the same order.
    """
    if kernel_of(method) == "compiled":
        from fedrec.training.compiled import train_compiled

        return train_compiled(method, shard, params, local, round, popularity)
    tensors = _tensors(params, method.dtype)
    directions = method.personalization.directions(tensors["item"])
    size = chunk if method.model.batching == "csr" else 1
    positive_offsets = positives_of_clients(shard).offsets
    outcomes, offsets, items = [], [np.zeros(1, np.int64)], []
    for start in range(0, shard.n_clients, size):
        rows = np.arange(start, min(start + size, shard.n_clients), dtype=np.int64)
        part = shard.take(rows)
        work = plan_work(
            part,
            method.train,
            method.seed,
            round,
            method.protocol,
            popularity,
            method.personalization.random_rows,
        )
        anchor = _anchor(method, part, tensors["item"], directions)
        mine = {
            name: torch.from_numpy(np.array(local[name][bounds])).to(tensors["item"].dtype)
            for name, bounds in _bounds(method, shard, positive_offsets, rows).items()
        }
        outcomes.append(train_chunk(method, work, anchor, tensors, mine))
        offsets.append(work.slot_offsets[1:] + offsets[-1][-1])
        items.append(work.slot_items)
    return _merge(method, shard, round, outcomes, np.concatenate(offsets), items)


def _merge(
    method: Method,
    shard: Shard,
    round: int,
    outcomes: list[Outcome],
    offsets: IntArray,
    items: list[IntArray],
) -> tuple[UpdateBatch, dict[str, FloatArray]]:
    ids = np.concatenate(items) if items else np.zeros(0, np.int64)
    tables = {
        name: RowBlock(offsets, ids, _joined([out.tables[name] for out in outcomes]))
        for name in method.tables()
    }
    dense = {name: _joined([out.dense[name] for out in outcomes]) for name in method.dense()}
    after = {name: _joined([out.local[name] for out in outcomes]) for name in method.locals()}
    weight = np.bincount(
        shard.client_of_user(), weights=shard.train.lengths, minlength=shard.n_clients
    )
    loss = _joined([out.loss for out in outcomes])
    metrics = {"loss": loss, "examples": weight}
    return UpdateBatch(round, shard.client_ids, weight, tables, dense, metrics), after


def user_scorer(
    method: Method, shard: Shard, params: Params, local: Params
) -> Callable[[IntArray], dict[View, torch.Tensor]]:
    """A function that scores the whole catalogue for some users, with their own parameters.

    Args:
        method: model and personalization.
        shard: the clients.
        params: the global parameters.
        local: the local parameters of these clients, in their order.

    Returns:
        From user rows of the shard, int64 [b], to float [b, n_items] per view.
    """
    tensors = _tensors(params, method.dtype)
    dtype = tensors["item"].dtype
    values = {name: torch.from_numpy(np.array(v)).to(dtype) for name, v in local.items()}
    directions = method.personalization.directions(tensors["item"])
    anchor = _anchor(method, shard, tensors["item"], directions)
    state = method.personalization.state(tensors["item"].shape[1])

    def of_block(users: IntArray) -> dict[View, torch.Tensor]:
        ranking = _Ranking(method, tensors, values, anchor.clients, users)
        at = torch.from_numpy(users)
        mine = {n: values[n] if s.per == "row" else values[n][at] for n, s in state.items()}
        return method.personalization.rank(anchor, mine, ranking)

    def of_users(users: IntArray) -> dict[View, torch.Tensor]:
        if method.model.batching == "csr":
            return of_block(users)
        cuts = np.flatnonzero(np.diff(anchor.clients[users])) + 1
        blocks = [of_block(part) for part in np.split(users, cuts)]
        return {view: torch.cat([block[view] for block in blocks]) for view in blocks[0]}

    return of_users


@dataclass(frozen=True, slots=True)
class _Ranking:
    """The model for a block of users (see `fedrec.personalization.base.Ranking`)."""

    method: Method
    params: Mapping[str, torch.Tensor]
    local: Mapping[str, torch.Tensor]
    clients: IntArray
    users: IntArray

    def _of_users(self) -> dict[str, torch.Tensor]:
        """Every parameter without a row per item, as `Model.score_catalogue` wants it."""
        flat = self.method.model.batching == "csr"
        user = torch.from_numpy(self.users)
        client = torch.from_numpy(self.clients[self.users])
        found = {}
        for name, spec in self.method.model.params().items():
            if spec.role == "global":
                whole = self.params[name]
                found[name] = whole.expand(len(user), *whole.shape) if flat else whole
            elif spec.role == "local":
                value = self.local[name]
                if spec.per == "user":
                    found[name] = value[user]
                else:
                    found[name] = value[client] if flat else value[int(client[0])]
        return found

    def catalogue(self) -> torch.Tensor:
        tables = {name: self.params[name] for name in self.method.tables()}
        scores = self.method.model.score_catalogue(self._of_users(), tables)
        # A model that has nothing of the user's own scores one row, the same for all.
        return scores.expand(len(self.users), -1)

    def pairs(self, block_users: IntArray, items: IntArray, rows: torch.Tensor) -> torch.Tensor:
        flat = self.method.model.batching == "csr"
        user, item = torch.from_numpy(block_users), torch.from_numpy(items)
        specs = self.method.model.params()
        params = {n: self.params[n][item] for n in self.method.tables()}
        for name, value in self._of_users().items():
            params[name] = value[user] if flat or specs[name].per == "user" else value
        return self.method.model.score(params | {"item": rows}, Pairs(user, item))


def _tensors(params: Params, dtype: str) -> dict[str, torch.Tensor]:
    kind = torch.float64 if dtype == "float64" else torch.float32
    return {name: torch.from_numpy(np.array(value)).to(kind) for name, value in params.items()}


def _anchor(
    method: Method, shard: Shard, table: torch.Tensor, directions: torch.Tensor | None
) -> Anchor:
    return Anchor(
        table=table,
        directions=directions,
        history=method.personalization.history(shard, method.seed),
        positives=positives_of_clients(shard),
        clients=shard.client_of_user(),
    )


def _bounds(
    method: Method, shard: Shard, positive_offsets: IntArray, rows: IntArray
) -> dict[str, slice]:
    """Where in each local array consecutive clients stand."""
    first, last = int(rows[0]), int(rows[-1]) + 1
    where = {
        "user": slice(int(shard.client_offsets[first]), int(shard.client_offsets[last])),
        "client": slice(first, last),
        "row": slice(int(positive_offsets[first]), int(positive_offsets[last])),
    }
    return {name: where[spec.per or "client"] for name, spec in method.locals().items()}


def _joined(parts: list[torch.Tensor]) -> FloatArray:
    return np.asarray(torch.cat(parts).numpy()) if parts else np.zeros(0, np.float32)
