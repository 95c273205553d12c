"""A node: it hosts clients, trains and evaluates them, and answers with what may leave."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from clients.placement import hosted_clients, training_costs
from clients.state_store import StateStore
from fedrec.aggregation.payload import upload_bytes
from fedrec.config.experiment import Experiment, load_experiment
from fedrec.data.negatives import pool_excluded
from fedrec.data.prepare import open_split
from fedrec.errors import ClientFailure, FedRecError, NumericError
from fedrec.evaluation.cutoffs import LEGACY_CANDIDATES
from fedrec.evaluation.evaluate import Evaluation, Part, evaluate
from fedrec.evaluation.ranking import legacy_candidates
from fedrec.evaluation.scorer import UserScorer
from fedrec.flower.records import RoundRequest, Trained
from fedrec.personalization.none import NoPersonalization
from fedrec.runs.divergence import likely_causes
from fedrec.seeds import Purpose, bits
from fedrec.storage.files import write_arrays
from fedrec.training.clients import resolve_executor, train_clients
from fedrec.training.layout import Layout, capacity
from fedrec.training.parts import parts
from fedrec.types import (
    Aggregate,
    FailedClient,
    FloatArray,
    IntArray,
    Params,
    Ragged,
    Shard,
    UpdateBatch,
    offsets_of,
)
from strategies.base import Strategy

__all__ = ["Node", "open_node"]


_PART_BYTES = 2**23
"""Updates that are held at once, before they are summed: few enough to stay in the cache; but not
less than `_PART_TABLES` times the tables, or merging the sums would cost more than making them."""

_PART_TABLES = 4

_SUMMED_BYTES = 2**29
"""`_PART_BYTES` where rows are summed on the way: held only if it turns out they have no sum."""


@lru_cache(maxsize=256)
def open_node(run: str, out: str, split: str, partition: int, partitions: int) -> Node:
    """The node of a run, opened once per process.

    All that changes lies on disk, so a node may be opened in several processes, one at a time.

    Args:
        run: id of the run.
        out: the run folder, with ``config.yaml``.
        split: the folder of the prepared data.
        partition: number of the node.
        partitions: number of nodes.
    """
    prepared = open_split(Path(split))
    experiment = load_experiment(Path(out) / "config.yaml")
    costs = training_costs(experiment.client_task(), prepared)
    ids = hosted_clients(costs, partition, partitions)
    popularity = np.bincount(prepared.train.values, minlength=prepared.n_items) + 1
    return Node(
        experiment,
        prepared.shard(ids),
        Path(out),
        partition,
        popularity,
    )


class Node:
    """Some clients with their data and their local state.

    Args:
        experiment: What is run.
        shard: The hosted clients.
        out: The run folder; local state lies in ``state/`` and ``local/`` below it.
        number: of the node.
        popularity: int64 [n_items], weights for popularity sampling.
    """

    def __init__(
        self,
        experiment: Experiment,
        shard: Shard,
        out: Path,
        number: int,
        popularity: IntArray,
    ) -> None:
        assert isinstance(experiment.strategy, Strategy)
        self.experiment = experiment
        self.strategy = experiment.strategy
        self.task = experiment.client_task()
        compiled = resolve_executor(self.task) == "numba"
        self._summing = self.strategy.summing if compiled else None
        if not compiled or not isinstance(self.task.personalization, NoPersonalization):
            torch.set_num_threads(1)  # Who trains in machine code alone meets torch when ranking.
        self.shard = shard
        self._local = out / "local"
        self._name = f"node-{number:03d}"
        by_popularity = experiment.train.negative_sampling == "popularity"
        self._popularity = popularity if by_popularity else None
        self._row_capacity = np.diff(
            capacity(shard, self.task.train, self.task.personalization.random_rows)
        )
        self._layout = Layout.of(self.task, shard)
        self._owner_ids = self._layout.owner_ids()
        self._store = StateStore(
            out / "state" / self._name, self.task.locals(), self._owner_ids, experiment.seed
        )

    def train(self, request: RoundRequest, params: Params, client_ids: IntArray) -> Trained:
        """Train some of the clients and reduce their updates; their new state is staged.

        Args:
            request: Which round.
            params: The global parameters.
            client_ids: int64 [c], sorted.

        Raises:
            ClientFailure: If a client fails and none may.
        """
        began = time.perf_counter()
        self._store.settle(request.committed, request.round)
        rows = np.searchsorted(self.shard.client_ids, client_ids)
        aggregate: Aggregate | None = None
        uploaded = 0
        failures: list[FailedClient] = []
        kept: list[IntArray] = []
        states: list[dict[str, FloatArray]] = []
        state_change = 0
        for part_of_rows in self._parts(rows):
            part, local, good, sent = self._train(request, params, part_of_rows, failures)
            if part is None:
                continue
            uploaded += sent
            aggregate = part if aggregate is None else self.strategy.merge(aggregate, part)
            kept.append(good)
            states.append(local)
        if kept:
            values = {name: np.concatenate([state[name] for state in states]) for name in states[0]}
            at = self._layout.positions(np.concatenate(kept))
            state_change = self._store.stage(request.round, at, values, request.group)
        seconds = time.perf_counter() - began
        return Trained(aggregate, tuple(failures), request.group, uploaded, seconds, state_change)

    def state(self, committed: int) -> tuple[int, int] | None:
        """Return the round and the checksum of the private state; None where there is none.

        Args:
            committed: The last round that the server applied.

        Raises:
            RunFolderError: If a file of the state is damaged.
        """
        return self._store.verify(committed) if self.task.locals() else None

    def _parts(self, rows: IntArray) -> list[IntArray]:
        """The clients in parts (see `_PART_BYTES`)."""
        specs = self.task.globals()
        row = sum(4 * int(np.prod(specs[name].shape)) for name in self.task.tables())
        dense = sum(4 * int(np.prod(specs[name].shape)) for name in self.task.dense())
        size = _PART_BYTES if self._summing is None else _SUMMED_BYTES
        budget = max(size, _PART_TABLES * self.shard.n_items * row)
        held = offsets_of(self._row_capacity[rows] * row + dense)
        return [rows[cut] for cut in parts(held, budget)]

    def _train(
        self, request: RoundRequest, params: Params, rows: IntArray, failures: list[FailedClient]
    ) -> tuple[Aggregate | None, dict[str, FloatArray], IntArray, int]:
        """Train some clients; those that fail are added to ``failures`` and left out.

        Returns:
            The reduced updates, the private state, the rows of the clients that succeeded, and the
            bytes that they upload.
        """
        while len(rows):
            try:
                update, local = self._attempt(request, params, rows)
            except Exception as error:
                found = self._who_fails(request, params, rows, error)
            else:
                part, found = self._reduce(update, rows)
                if part is not None:
                    return part, local, rows, upload_bytes(update)
            for row, cause in found.items():
                client = str(self.shard.client_ids[row])
                if self.experiment.rounds.max_failures == 0:
                    if isinstance(cause, NumericError):
                        raise NumericError(f"client {client}: {cause}") from cause
                    raise ClientFailure(request.round, client, "train", _line(cause)) from cause
                reason = _line(cause)
                if isinstance(cause, NumericError):
                    reason += f"; {likely_causes(self.experiment)}"
                failures.append(FailedClient(client=client, reason=reason))
            rows = rows[~np.isin(rows, list(found))]
        return None, {}, rows, 0

    def _reduce(
        self, update: UpdateBatch, rows: IntArray
    ) -> tuple[Aggregate | None, dict[int, Exception]]:
        """The reduced updates, or the clients whose update cannot be: those not finite."""
        broken = ~np.isfinite(update.metrics["loss"])
        if self.strategy.needs == "each":
            broken |= _not_finite(update)
        if not broken.any():
            try:
                return self.strategy.reduce(update), {}
            except NumericError:
                # A sum tells that something is wrong, not with whom.
                broken = _not_finite(update)
                if not broken.any():
                    raise
        return None, {int(row): NumericError("the update is not finite") for row in rows[broken]}

    def _attempt(
        self, request: RoundRequest, params: Params, rows: IntArray
    ) -> tuple[UpdateBatch, dict[str, FloatArray]]:
        return train_clients(
            self.task,
            self.shard.take(rows),
            params,
            self._store.get(self._layout.positions(rows)),
            request.round,
            self.experiment.engine.chunk,
            self._popularity,
            self._summing,
        )

    def _who_fails(
        self, request: RoundRequest, params: Params, rows: IntArray, error: Exception
    ) -> dict[int, Exception]:
        """The clients that fail on their own, with the cause."""
        if len(rows) == 1:
            return {int(rows[0]): error}
        found: dict[int, Exception] = {}
        for row in rows:
            try:
                self._attempt(request, params, np.array([row]))
            except Exception as cause:
                found[int(row)] = cause
        if not found:
            raise error
        return found

    def evaluate(self, request: RoundRequest, params: Params, client_ids: IntArray) -> Evaluation:
        """Let the users of some clients rank the catalogue; keep their local parameters.

        Args:
            request: Which round.
            params: The global parameters after the round.
            client_ids: int64 [c], sorted.

        Raises:
            ClientFailure: If a client fails.
        """
        self._store.settle(request.committed)
        rows = np.searchsorted(self.shard.client_ids, client_ids)
        try:
            found = self._rank(params, rows)
        except FedRecError:
            raise
        except Exception as error:
            client, cause = self._who_cannot_rank(params, rows, error)
            raise ClientFailure(request.round, client, "evaluate", _line(cause)) from cause
        at = self._layout.positions(rows)
        self._keep(request, self.shard.take(rows), self._store.get(at), at)
        return found

    def _rank(self, params: Params, rows: IntArray) -> Evaluation:
        torch.set_num_threads(1)
        shard = self.shard.take(rows)
        return evaluate(
            shard,
            UserScorer(self.task, shard, params, self._store.get(self._layout.positions(rows))),
            self.experiment.evaluate.parsed(),
            self.experiment.evaluate.block,
            self._candidates(shard) if self.task.protocol == "legacy" else None,
        )

    def _who_cannot_rank(
        self, params: Params, rows: IntArray, error: Exception
    ) -> tuple[str, Exception]:
        """The first client that fails on its own, with the cause."""
        for row in rows:
            try:
                self._rank(params, np.array([row]))
            except Exception as cause:
                return str(self.shard.client_ids[row]), cause
        return f"one of {len(rows)}", error

    def _candidates(self, shard: Shard) -> dict[Part, Ragged]:
        """The 99 sampled candidates of each part that the published protocol ranks."""
        known = pool_excluded(shard, "legacy")
        parts: tuple[Part, ...] = ("valid", "test")
        found: dict[Part, Ragged] = {}
        for number, part in enumerate(parts):
            owner = np.repeat(shard.user_ids, LEGACY_CANDIDATES)
            draw = np.tile(np.arange(LEGACY_CANDIDATES), shard.n_users)
            hashed = bits(
                self.task.seed, Purpose.LEGACY_CANDIDATES, number, owner, draw
            ) >> np.uint64(32)
            found[part] = legacy_candidates(
                hashed.astype(np.uint32), known, shard.n_items, LEGACY_CANDIDATES
            )
        return found

    def _keep(
        self, request: RoundRequest, shard: Shard, local: Params, at: Mapping[str, IntArray]
    ) -> None:
        """Write the local parameters of this round beside those of the best; drop the others."""
        self._local.mkdir(exist_ok=True)
        content = {name: value for name, value in local.items() if "/" not in name}
        content["ids.user"] = shard.user_ids
        content["ids.client"] = shard.client_ids
        if "positive" in at:
            content["ids.positive"] = self._owner_ids["positive"][at["positive"]]
        about = {f"per.{n}": str(s.axis) for n, s in self.task.locals().items()}
        about["round"] = str(request.round)
        # Each group of a strategy is a message of its own, and so a file of its own.
        name = f"{self._name}g{request.group}" if request.group else self._name
        path = self._local / f"{name}@{request.round}.safetensors"
        write_arrays(path, content, about)
        for old in self._local.glob(f"{name}@*.safetensors"):
            if old.stem.rpartition("@")[2] not in (str(request.round), str(request.best)):
                old.unlink()


def _not_finite(update: UpdateBatch) -> NDArray[np.bool_]:
    """bool [c]: whether a client's update or loss holds a value that is not finite."""
    n = len(update.client_ids)
    broken = ~np.isfinite(update.metrics["loss"])
    for block in update.tables.values():
        rows = ~np.isfinite(block.values.reshape(len(block.ids), -1)).all(1)
        broken |= np.bincount(np.repeat(np.arange(n), np.diff(block.offsets)), rows, n) > 0
    for change in update.dense.values():
        broken |= ~np.isfinite(change.reshape(n, -1)).all(1)
    return broken


def _line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if isinstance(error, FedRecError) else f"{type(error).__name__}: {text}"
