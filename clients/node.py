"""A node: it hosts clients, trains and evaluates them, and answers with what may leave."""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import lru_cache, partial
from math import prod
from pathlib import Path

import numpy as np
import torch

from clients.state_store import StateStore
from fedrec.aggregation.reduce import upload_bytes
from fedrec.aggregation.returned import checked_sum, merged
from fedrec.config.experiment import Experiment
from fedrec.config.sources import place_in_plugin
from fedrec.data.negatives import pool_excluded, popularity_weights
from fedrec.errors import ClientFailure, FedRecError, NumericError, not_finite
from fedrec.evaluation.evaluate import Evaluation, evaluate, merge, ranking_together
from fedrec.evaluation.ranking import LEGACY_CANDIDATES, Part, legacy_candidates
from fedrec.evaluation.rerank import FirstStage
from fedrec.evaluation.scorer import UserScorer
from fedrec.evaluation.slices import Slices
from fedrec.flower.records import RoundRequest, Trained
from fedrec.personalization.base import NoPersonalization
from fedrec.runs.prepare import OpenRun, open_run
from fedrec.runs.tally import likely_causes
from fedrec.seeds import Purpose, bits
from fedrec.storage.files import write_arrays
from fedrec.training.blocks import bounded_slices, notes_of
from fedrec.training.clients import train_clients, training_together
from fedrec.training.draws import Layout, capacity
from fedrec.training.task import ClientTask
from fedrec.types import (
    Aggregate,
    FailedClient,
    FloatArray,
    IntArray,
    Params,
    Ragged,
    Shard,
    Split,
    offsets_of,
)
from strategies.base import strategy_of

_HELD_BYTES = 2**23
"""Updates that are held at once, before they are summed: few enough to stay in the cache; but not
less than `_HELD_TABLES` times the tables, or merging the sums would cost more than making them."""

_HELD_TABLES = 4

_SUMMED_BYTES = 2**29
"""`_HELD_BYTES` where rows are summed on the way: held only if it turns out they have no sum."""

_RANKED_BYTES = 2**26
"""Private parameters of the clients whose users rank together; ranking holds them a few times."""


class Node:
    """Some clients with their data and their private state.

    Args:
        experiment: What is run.
        task: What each client computes.
        shard: The hosted clients.
        out: The run folder; private state lies in ``state/`` and ``local/`` below it.
        number: of the node.
        popularity: int64 [n_items], weights for popularity sampling.
        slices: What the evaluation measures apart.
        first_stage: Whose candidates are ranked; None: the whole catalogue.
    """

    def __init__(
        self,
        experiment: Experiment,
        task: ClientTask,
        shard: Shard,
        out: Path,
        number: int,
        popularity: IntArray,
        slices: Slices | None = None,
        first_stage: FirstStage | None = None,
    ) -> None:
        self.experiment = experiment
        self.strategy = strategy_of(experiment)
        self.task = task
        self._threads = experiment.engine.threads
        self._chunk = experiment.engine.clients_together(task.uses.device)
        self._training = training_together()
        self._ranking = ranking_together()
        compiled = task.executor() == "numba"
        self._summing = self.strategy.summing if compiled else None
        if not compiled or not isinstance(task.personalization, NoPersonalization):
            torch.set_num_threads(
                self._threads
            )  # Who trains in machine code alone meets torch when ranking.
        self.shard = shard
        self._local = out / "local"
        self._name = f"node-{number:03d}"
        by_popularity = experiment.train.negative_sampling == "popularity"
        self._popularity = popularity if by_popularity else None
        self._slices, self._first_stage = slices, first_stage
        self._layout = Layout.of(self.task, shard)
        self._owner_ids = self._layout.owner_ids()
        self._store = StateStore(
            out / "state" / self._name,
            self.task.locals(),
            self._owner_ids,
            partial(self.task.initial_private, n_items=shard.n_items),
        )

    def state(self, committed: int) -> tuple[int, int] | None:
        """Return the round and the checksum of the private state; None where there is none.

        Args:
            committed: The last round that the server applied.

        Raises:
            RunFolderError: If a file of the state is damaged.
        """
        return self._store.verify(committed) if self.task.locals() else None

    def train(self, request: RoundRequest, params: Params) -> Trained:
        """Train the clients of a request and reduce their updates; their new state is staged.

        Args:
            request: Which round, and which clients.
            params: The shared parameters, and what the strategy sends beside them.

        Raises:
            ClientFailure: If a client fails and none may.
            NumericError: If a client's update is not finite and no client may fail.
        """
        began = time.perf_counter()
        self._store.settle(request.committed, request.round, f"{request.group}.*")
        clients: IntArray = np.searchsorted(self.shard.client_ids, request.clients)
        if self.task.executor() == "vmap":  # Clients of a chunk are filled up to equal length.
            clients = clients[np.argsort(-self.shard.examples()[clients], kind="stable")]
        aggregate: Aggregate | None = None
        uploaded = state_change = 0
        failures: list[FailedClient] = []

        def attempt(rows: IntArray) -> tuple[Aggregate, dict[str, FloatArray], int]:
            update, private = train_clients(
                self.task,
                self.shard.take(rows),
                params,
                self._store.get(self._layout.positions(rows)),
                request.round,
                self._chunk,
                self._popularity,
                self._summing,
                self._training,
            )
            reduced = checked_sum(self.strategy, "reduce", len(rows), update)
            return reduced, private, upload_bytes(update)

        for number, rows in enumerate(self._cuts(clients)):
            while len(rows):
                try:
                    reduced, private, size = attempt(rows)
                except Exception as error:
                    failing = _failing(attempt, rows, error)
                    if not failing:
                        raise
                    failures += [self._failure(request, row, why) for row, why in failing.items()]
                    rows = rows[~np.isin(rows, list(failing))]
                else:
                    aggregate = merged(self.strategy, aggregate, reduced)
                    uploaded += size
                    at, group = self._layout.positions(rows), f"{request.group}.{number}"
                    state_change += self._store.stage(request.round, at, private, group)
                    break
        seconds = time.perf_counter() - began
        notes = notes_of([self._training])
        return Trained(
            aggregate, tuple(failures), request.group, uploaded, seconds, state_change, notes
        )

    def evaluate(self, request: RoundRequest, params: Params) -> Evaluation:
        """Let the users of a request's clients rank the catalogue; keep their private parameters.

        Args:
            request: Which round, and which clients.
            params: The shared parameters after the round.

        Raises:
            ClientFailure: If a client fails.
        """
        self._store.settle(request.committed)
        everybody: IntArray = np.searchsorted(self.shard.client_ids, request.clients)
        offsets = offsets_of(self._private_bytes(self.task.private())[everybody])
        evaluations = []
        for number, cut in enumerate(bounded_slices(offsets, _RANKED_BYTES)):
            evaluations.append(self._ranked(request, params, everybody[cut]))
            self._keep(request, everybody[cut], number)
        return replace(merge(evaluations), notes=notes_of([self._ranking]))

    def _ranked(self, request: RoundRequest, params: Params, rows: IntArray) -> Evaluation:
        """Return what some clients' users rank; name the client that fails."""
        try:
            return self._rank(params, rows)
        except FedRecError:
            raise
        except Exception as error:
            failing = _failing(lambda some: self._rank(params, some), rows, error)
            row, cause = next(iter(failing.items()), (None, error))
            client = f"one of {len(rows)}" if row is None else str(self.shard.client_ids[row])
            raise ClientFailure(request.round, client, "evaluate", _line(cause)) from cause

    def _cuts(self, rows: IntArray) -> list[IntArray]:
        """Cut clients so that little is held at once (see `_HELD_BYTES`)."""
        task = self.task
        row, dense = (4 * task.size(*names) for names in (task.tables(), task.dense()))
        memory = task.resources.memory
        if memory is None:
            size = _HELD_BYTES if self._summing is None else _SUMMED_BYTES
            budget = max(size, _HELD_TABLES * self.shard.n_items * row)
        else:
            budget = memory // 2
        held = np.diff(capacity(self.shard, task)) * row + dense
        held += self._private_bytes(task.locals())
        return [rows[cut] for cut in bounded_slices(offsets_of(held[rows]), budget)]

    def _private_bytes(self, names: Iterable[str]) -> IntArray:
        """Return the bytes of each client's values of some private parameters, int64 [c]."""
        total = np.zeros(self.shard.n_clients, np.int64)
        for name in names:
            spec = self.task.locals()[name]
            total += 4 * prod(spec.shape) * np.diff(self._layout.offsets[spec.axis or ""])
        return total

    def _failure(self, request: RoundRequest, row: int, cause: Exception) -> FailedClient:
        """Return the failure of a client, or raise it if none may fail."""
        client, reason = str(self.shard.client_ids[row]), _line(cause)
        if self.experiment.rounds.max_failures == 0:
            if isinstance(cause, NumericError):
                raise NumericError(f"client {client}: {cause}") from cause
            raise ClientFailure(request.round, client, "train", reason) from cause
        if isinstance(cause, NumericError):
            reason += f"; {likely_causes(self.experiment, self.task)}"
        return FailedClient(client=client, reason=reason)

    def _rank(self, params: Params, rows: IntArray) -> Evaluation:
        torch.set_num_threads(self._threads)
        shard, at = self.shard.take(rows), self._layout.positions(rows)
        private = self._store.get(at, self.task.private())
        with self.task.computing():
            scorer = UserScorer(self.task, shard, params, private, self._first_stage)
            try:
                return evaluate(
                    shard,
                    scorer,
                    self.experiment.evaluate.parsed(),
                    self.experiment.evaluate.block,
                    self._candidates(shard) if self.task.protocol == "legacy" else None,
                    self._slices,
                    self._ranking,
                )
            except NumericError as error:
                values = (*scorer.params.values(), *scorer.local.values())
                model = f"model {type(self.task.model).__name__}"
                raise not_finite(f"{model}: {error}", values) from error

    def _candidates(self, shard: Shard) -> Mapping[Part, Ragged]:
        """Return the 99 sampled candidates of each part that the published protocol ranks."""
        excluded = pool_excluded(shard, "legacy")
        users = np.repeat(shard.user_ids, LEGACY_CANDIDATES)
        draws = np.tile(np.arange(LEGACY_CANDIDATES), shard.n_users)

        def drawn(number: int) -> Ragged:
            hashed = bits(self.task.seed, Purpose.LEGACY_CANDIDATES, number, users, draws)
            upper = (hashed >> np.uint64(32)).astype(np.uint32)
            return legacy_candidates(upper, excluded, shard.n_items, LEGACY_CANDIDATES)

        return {"valid": drawn(0), "test": drawn(1)}

    def _keep(self, request: RoundRequest, rows: IntArray, number: int) -> None:
        """Write the private parameters of this round beside those of the best; drop the others.

        Each group of a strategy, and each cut of its clients, has a file of its own.
        """
        at = self._layout.positions(rows)
        shard = self.shard.take(rows)
        content = self._store.get(at, self.task.private())
        content |= {"ids.user": shard.user_ids, "ids.client": shard.client_ids}
        if "positive" in at:
            content["ids.positive"] = self._owner_ids["positive"][at["positive"]]
        about = {f"per.{name}": str(spec.axis) for name, spec in self.task.locals().items()}
        name = f"{self._name}g{request.group}" if request.group else self._name
        name += f"p{number}" if number else ""
        path = self._local / f"{name}@{request.round}.safetensors"
        write_arrays(path, content, {**about, "round": str(request.round)})
        for old in self._local.glob(f"{name}@*.safetensors"):
            if old.stem.rpartition("@")[2] not in (str(request.round), str(request.best)):
                old.unlink()


@lru_cache(maxsize=256)
def open_node(
    run: str, out: str, split: str, features: str, partition: int, partitions: int, device: str
) -> Node:
    """Return the node of a run, opened once per process.

    All that changes lies on disk, so a node may be opened in several processes, one at a time.
    Arguments are those of `fedrec.flower.records.RoundRequest`, which node of how many it is, and
    its device; "" for a node that finds out itself.

    Raises:
        ConfigError: If torch does not see the device.
    """
    opened, costs, popularity, slices, first_stage = _opened(run, out, split, features, device)
    shard = opened.split.shard(hosted_clients(costs, partition, partitions))
    experiment, task, folder = opened.experiment, opened.task, opened.folder
    return Node(experiment, task, shard, folder, partition, popularity, slices, first_stage)


@lru_cache(maxsize=1)
def _opened(
    run: str, out: str, split: str, features: str, device: str
) -> tuple[OpenRun, FloatArray, IntArray, Slices | None, FirstStage | None]:
    """Return what all nodes of a run share: it, costs of clients, and as `Node` has it."""
    catalogue = Path(features) if features else None
    opened = open_run(run, Path(out), Path(split), catalogue, device)
    costs = training_costs(opened.task, opened.split)
    data, evaluate = opened.split, opened.experiment.evaluate
    weights, slices = popularity_weights(data), evaluate.slices_of(data)
    return opened, costs, weights, slices, evaluate.first_stage_of(data)


def hosted_clients(costs: FloatArray, partition: int, partitions: int) -> IntArray:
    """Return the clients that a node hosts, consecutive ones; all nodes host each client once.

    Args:
        costs: float [n_clients], what each costs to train, in any unit: nodes get equal sums, as
            far as whole clients allow, so that they finish together.
        partition: number of the node.
        partitions: number of nodes, at most n_clients.

    Returns:
        int64, sorted, at least one.
    """
    ends = np.cumsum(costs, dtype=np.float64)
    # A client belongs where its middle falls.
    middle = ends - np.asarray(costs) / 2
    wanted = ends[-1] * np.arange(1, partitions) / partitions
    cuts = np.searchsorted(middle, wanted)
    # Nobody stays without a client, neither in front nor at the end.
    numbers = np.arange(1, partitions)
    cuts = np.maximum.accumulate(np.maximum(cuts - numbers, 0)) + numbers
    cuts = np.minimum(cuts, len(ends) - partitions + numbers)
    bounds = [0, *cuts.tolist(), len(ends)]
    return np.arange(bounds[partition], bounds[partition + 1], dtype=np.int64)


def training_costs(task: ClientTask, split: Split) -> FloatArray:
    """Return what each client costs to train: touched rows and a bit for itself, [n_clients]."""
    n = split.train.lengths[split.clients.values]
    rows = n * (1 + task.train.negatives) * sum(len(phase.views) for phase in task.epochs.values())
    of_user = 8.0 + rows * task.personalization.row_cost(n)
    return np.bincount(split.clients.owners(), of_user, split.n_clients)


def _failing(
    call: Callable[[IntArray], object], rows: IntArray, error: Exception
) -> dict[int, Exception]:
    """Return those of some clients that a call fails for on their own, found by halves."""
    if len(rows) == 1:
        return {int(rows[0]): error}
    failing: dict[int, Exception] = {}
    for some in np.array_split(rows, 2):
        try:
            call(some)
        except Exception as cause:
            failing |= _failing(call, some, cause)
    return failing


def _line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, FedRecError):
        return text
    place = place_in_plugin(error)
    return f"{type(error).__name__}: {text}" + (f" ({place})" if place else "")
