"""Small federations for tests: shards, methods and local state, made by hand or at random."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
from hypothesis import strategies as st
from torch import Tensor

from fedrec.aggregation.update import Down, UpdateBatch
from fedrec.data.catalogue import Catalogue
from fedrec.errors import ConfigError
from fedrec.models.base import Model
from fedrec.models.mf import MatrixFactorization
from fedrec.models.module import ModelParams, Network
from fedrec.personalization.base import NoPersonalization, Personalization
from fedrec.ragged import Ragged, offsets_of
from fedrec.testing.trial import Trial
from fedrec.training.client_rule import ClientRule
from fedrec.training.clients import train_clients
from fedrec.training.draws import capacity
from fedrec.training.settings import Train
from fedrec.training.task import ClientTask
from fedrec.types import FloatArray, IntArray, Params, Shard

__all__ = [
    "catalogue_of",
    "federations",
    "in_numba",
    "initial_state",
    "method_of",
    "one_user_each",
    "places",
    "ragged",
    "rates",
    "shard_of",
    "split_state",
    "train",
    "with_module",
]


def rates(lr: float, private: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The optimizers of a task: one rate for all that is shared, and the private optimizer."""
    optimizers: dict[str, Any] = {"item": {"lr": lr}, "shared": {"lr": lr}}
    return optimizers if private is None else {**optimizers, "private": private}


def ragged(rows: Sequence[Sequence[int]]) -> Ragged:
    """Rows as given, sorted within."""
    lengths = np.array([len(row) for row in rows], np.int64)
    values = np.array([item for row in rows for item in sorted(row)], np.int64)
    return Ragged(offsets_of(lengths), values)


def shard_of(
    n_items: int,
    train: Sequence[Sequence[int]],
    users_of_clients: Sequence[int] | None = None,
    first_user: int = 0,
    valid: Sequence[Sequence[int]] | None = None,
    test: Sequence[Sequence[int]] | None = None,
) -> Shard:
    """A shard: one user per client, or ``users_of_clients`` users in each."""
    sizes = np.array(users_of_clients or [1] * len(train), np.int64)
    nothing: list[list[int]] = [[] for _ in train]
    return Shard(
        n_items=n_items,
        client_ids=np.arange(len(sizes), dtype=np.int64) + first_user,
        client_offsets=offsets_of(sizes),
        user_ids=np.arange(len(train), dtype=np.int64) + first_user,
        train=ragged(train),
        valid=ragged(valid or nothing),
        test=ragged(test or nothing),
    )


def catalogue_of(n_items: int) -> Catalogue:
    """Items whose raw ids are their indices, and of which nothing else is known."""
    return Catalogue(np.arange(n_items).astype(np.str_).astype(object))


def method_of(
    train: Mapping[str, Any] | None = None,
    personalization: Personalization | None = None,
    model: Model | None = None,
    dtype: str = "float32",
    seed: int = 0,
    client_rule: ClientRule | None = None,
    catalogue: Catalogue | None = None,
) -> ClientTask:
    """A method: matrix factorisation, d = 4, values of order 1, reference kernel, unless told."""
    return ClientTask(
        model or MatrixFactorization(embedding_dim=4, init_std=0.5),
        personalization or NoPersonalization(),
        Train.model_validate({"backend": "torch"} | dict(train or {})),
        seed,
        "clean",
        dtype,
        client_rule or ClientRule(),
        catalogue=catalogue or Catalogue.empty(),
    )


def in_numba(personalization: Personalization) -> bool:
    """Whether the numba kernel covers a personalization."""
    try:
        return method_of({"backend": "numba"}, personalization).executor() == "numba"
    except ConfigError:
        return False


def with_module(model: Model, values: Mapping[str, Tensor]) -> ModelParams:
    """Values of a model's parameters, with the module that it builds for an empty catalogue."""
    catalogue = Catalogue.empty()
    module = model.build(catalogue)
    assert module is not None
    module = module.to(next(iter(values.values())).dtype)
    return ModelParams(values, Network(module, catalogue, ""))


def one_user_each(shard: Shard) -> Shard:
    """The same users, each a client of its own."""
    offsets = np.arange(shard.n_users + 1, dtype=np.int64)
    return replace(shard, client_ids=offsets[:-1], client_offsets=offsets)


def initial_state(task: ClientTask, shard: Shard) -> tuple[Params, Params]:
    """Global and local parameters before the first round."""
    trial = Trial.before(task, shard)
    return trial.params, trial.private


def places(task: ClientTask, shard: Shard) -> Ragged:
    """Where each client's ``seen_item`` values lie."""
    offsets = capacity(shard, task)
    return Ragged(offsets, np.arange(offsets[-1], dtype=np.int64))


def split_state(task: ClientTask, shard: Shard, local: Params, clients: IntArray) -> Params:
    """The local parameters of some clients."""
    return Trial(task, shard, {}, local, Down({})).take(clients).private


def train(
    task: ClientTask, shard: Shard, rounds: int = 1, chunk: int = 64
) -> tuple[Params, list[UpdateBatch], dict[str, FloatArray]]:
    """Train with plain sums of updates as the server's step."""
    params, local = initial_state(task, shard)
    updates = []
    current = dict(params)
    state = dict(local)
    for number in range(1, rounds + 1):
        update, state = train_clients(task, shard, current, state, number, chunk)
        updates.append(update)
        for name, block in update.tables.items():
            table = current[name].astype(np.float64)
            np.add.at(table, block.ids, block.values)
            current[name] = table.astype(np.float32)
        for name, change in update.dense.items():
            current[name] = (current[name] + change.sum(0)).astype(np.float32)
    return current, updates, state


@st.composite
def federations(draw: st.DrawFn, several: bool = False) -> Shard:
    """Random ragged clients: a few items, users of very unequal activity."""
    n_items = draw(st.integers(6, 30))
    n_users = draw(st.integers(1, 9))
    rows = [
        sorted(draw(st.sets(st.integers(0, n_items - 1), min_size=1, max_size=n_items - 2)))
        for _ in range(n_users)
    ]
    sizes = [1] * n_users
    if several:
        cuts = sorted(draw(st.sets(st.integers(1, max(n_users - 1, 1)), max_size=n_users - 1)))
        bounds = [0, *[c for c in cuts if c < n_users], n_users]
        sizes = [b - a for a, b in pairwise(bounds)]
    shard = shard_of(n_items, rows, sizes)
    return replace(shard, user_ids=shard.user_ids + draw(st.integers(0, 1000)))
