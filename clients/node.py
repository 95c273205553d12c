"""A node: it hosts clients, trains and evaluates them, and answers with what may leave."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from math import prod
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from clients.failures import failing_of, line_of
from clients.place import name_of_node
from clients.private_values import EvaluatedRounds, PrivateValues
from clients.shard_source import NodeData
from clients.state_store import StateStore
from clients.training import NodeTraining, order_of
from fedrec.aggregation.mix import clients_alike, packed
from fedrec.aggregation.update import Down
from fedrec.compute.context import RoundContext
from fedrec.config.experiment import Experiment
from fedrec.data.negatives import pool_excluded
from fedrec.errors import ClientFailure, FedRecError, NumericError, ProtocolError, not_finite
from fedrec.evaluation.evaluate import Evaluation, Ranked, evaluate, merge, ranking_together
from fedrec.evaluation.ranking import LEGACY_CANDIDATES, Part, legacy_candidates
from fedrec.evaluation.scorer import UserScorer
from fedrec.flower.records import PrivateState, RoundRequest, Trained
from fedrec.personalization.base import NoPersonalization
from fedrec.ragged import Ragged, offsets_of
from fedrec.runs.folder import BEFORE_END, LOCAL, STATE
from fedrec.seeds import Purpose, bits
from fedrec.training.blocks import bounded_slices, notes_of
from fedrec.training.clients import train_clients, training_together
from fedrec.training.draws import Layout
from fedrec.training.end import begin_end
from fedrec.training.numba_coverage import transforms_in_numba
from fedrec.training.task import ClientTask
from fedrec.types import IntArray, Params, Shard
from strategies.base import strategy_of
from strategies.selections.base import selection_of

T = TypeVar("T")

_RANKED_BYTES = 2**26
"""Private parameters of the clients whose users rank together; ranking holds them a few times."""


class Node:
    """Some clients with their data and their private state.

    Args:
        experiment: What is run.
        task: What each client computes.
        data: What the node knows of the data: its clients' and what all nodes know.
        out: The run folder; private state lies in ``state/`` and ``local/`` below it.
        number: of the node.
        keeps_received: Whether the node keeps what its clients receive, to recommend by itself.
    """

    def __init__(
        self,
        experiment: Experiment,
        task: ClientTask,
        data: NodeData,
        out: Path,
        number: int,
        keeps_received: bool = False,
    ) -> None:
        self.experiment = experiment
        self.strategy = strategy_of(experiment)
        self.task = task
        self._threads = experiment.engine.threads
        self.chunk = experiment.engine.clients_together(task.resources_used.device)
        self.together = training_together()
        self._ranking = ranking_together()
        compiled = task.executor() == "numba"
        if compiled:
            from fedrec.compute.numba_compiler import build

            build(task.dtype)  # now, as it takes a machine half a minute once
        self.in_kernel = tuple(each for each in experiment.transforms if each.sees_updates)
        covered = compiled and transforms_in_numba(self.in_kernel)
        self.summing = self.strategy.summing if covered else None
        if not compiled or not isinstance(task.personalization, NoPersonalization):
            # Who trains in machine code alone meets torch when ranking.
            torch.set_num_threads(self._threads)
        self.shard, self.n_clients, self.popularity = data.shard, data.n_clients, data.popularity
        self._slices, self._first_stage = data.slices, data.first_stage
        self._targets = np.zeros(0, np.int64) if data.targets is None else data.targets
        attack = experiment.attack
        none = np.zeros(0, np.int64)
        self.attackers = none if attack is None else attack.attackers(self.context(0))
        self._keeps_received = keeps_received
        name = name_of_node(number)
        self._evaluated = EvaluatedRounds(out / LOCAL, name)
        self.layout = Layout.of(self.task, self.shard)
        self.store = StateStore(
            out / STATE / name,
            self.task.stored_specs(),
            self.layout.owner_ids(),
            partial(self.task.initial_private, n_items=self.shard.n_items),
        )

    def context(self, round: int) -> RoundContext:
        """Return the context of a round as a node has it."""
        items, targets = self.task.catalogue, self._targets
        n, n_items = self.n_clients, self.shard.n_items
        return RoundContext(self.task.seed, round, n, n_items, targets=targets, catalogue=items)

    def state(self, begun: bool) -> PrivateState | None:
        """Return what there is of private state; None where clients have none.

        Args:
            begun: Whether the run has completed a round.

        Raises:
            RunFolderError: If a file of the state is damaged.
        """
        return self.store.verify(begun) if self.task.stored_specs() else None

    def examples(self) -> IntArray:
        """Return the train items of each client, int64 [c]; [0] unless the selection needs them."""
        needed = "examples" in selection_of(self.experiment).needs
        return self.shard.examples().astype(np.int64) if needed else np.zeros(0, np.int64)

    def check(self, request: RoundRequest) -> None:
        """Check that a request is about clients of this node.

        Raises:
            ProtocolError: If it is not.
        """
        clients, hosted = request.clients, self.shard.client_ids
        fits = clients.ndim == 1 and (np.diff(clients) > 0).all() and np.isin(clients, hosted).all()
        if not fits or request.groups.shape != clients.shape:
            raise ProtocolError(
                "the server asks for clients that this node does not host, not sorted, or without "
                "a group each; start rounds with fedrec's own server app"
            )

    def settle(self, request: RoundRequest, trains: bool) -> None:
        """Commit the private state that the server has applied, and drop what it has not.

        Args:
            request: Says what it has applied, and what it may still apply.
            trains: Whether it is a request to train; others drop nothing.

        Raises:
            ProtocolError: If the state is not of the server's run so far, or the request is old.
            RunFolderError: If the state lacks what was applied, or a file of it is damaged.
        """
        self.store.commit(request.applied)
        if trains:
            self.store.discard(request.pending, request.ticket)

    def train(self, request: RoundRequest, down: Down) -> Trained:
        """Train the clients of a request; stage their new private state.

        Args:
            request: Which round, which clients, and the group of each.
            down: What the clients receive, in the order of the request.

        Raises:
            ClientFailure: If a client fails and none may.
            NumericError: If a client's update is not finite and no client may fail.
        """
        began = time.perf_counter()
        self.settle(request, trains=True)
        training = NodeTraining(self, request, down)
        for group in np.unique(request.groups).tolist():
            clients = self.rows(request.clients[request.groups == group])
            attacks = self.attack(clients)
            training.train(group, clients[~attacks])
            training.train(group, clients[attacks], attack=True)
        return training.trained(time.perf_counter() - began)

    def evaluate(self, request: RoundRequest, down: Down) -> Evaluation:
        """Let the users of a request's clients rank the catalogue; keep their private parameters.

        Args:
            request: Which round, and which clients.
            down: What the clients receive, in the order of the request.

        Raises:
            ClientFailure: If a client fails.
        """
        self.settle(request, trains=False)
        if self._keeps_received:
            self._evaluated.write_received(packed(down), request)
        evaluations = []
        for number, rows in self._ranked_together(request):
            honest = rows[~self.attack(rows)]
            for alike, params in self._alike(request, down, honest) if len(honest) else ():
                rank = partial(self._rank, params)
                evaluations.append(self._named(request, "evaluate", rank, alike))
            at, names = self.layout.positions(rows), self.task.private()
            values = PrivateValues(self.task, self.shard.take(rows), self.store.get(at, names))
            self._evaluated.write(values, request, number)
        return replace(merge(evaluations), notes=notes_of([self._ranking]))

    def end(self, request: RoundRequest, down: Down) -> Evaluation:
        """Train the phases of the end, and let the users rank before and after them.

        Nothing but metric values leaves; the state of the rounds stays as it is.

        Args:
            request: The chosen round, and which clients.
            down: What the clients received in the chosen round, in the order of the request.

        Raises:
            ClientFailure: If a client fails.
            RunFolderError: If the private parameters of the round are missing or damaged.
        """
        task, evaluations, written = self.task.at_end(), [], 0
        held = self.private_bytes(task, task.stored_specs())
        for number, ranked in self._ranked_together(request):
            values = self._evaluated.read(self.task, self.shard.take(ranked), request, number)
            for rows, params in self._alike(request, down, ranked):
                finish = partial(self._finish, task, request, params, values)
                attack = self.attack(rows)
                for kind in (rows[~attack], rows[attack]):
                    for cut in bounded_slices(offsets_of(held[kind]), _RANKED_BYTES):
                        some = kind[cut][order_of(self.task, self.shard, kind[cut])]
                        evaluation, ended = self._named(request, "train", finish, some)
                        evaluations += [] if self.attack(some).any() else [evaluation]
                        self._evaluated.write(ended, request, written)
                        written += 1
        return replace(merge(evaluations), notes=notes_of([self.together, self._ranking]))

    def finish(self, request: RoundRequest) -> None:
        """Keep the values of the best round alone, once a run is at its end."""
        self._evaluated.keep_best(request.best)

    def _alike(
        self, request: RoundRequest, down: Down, rows: IntArray
    ) -> Iterator[tuple[IntArray, Params]]:
        """Yield those of some clients that receive the same values, with all that they receive."""
        places = np.searchsorted(request.clients, self.shard.client_ids[rows])
        for alike, params in clients_alike(down.take(places), len(rows)):
            yield rows[alike], params

    def attack(self, rows: IntArray) -> NDArray[np.bool_]:
        """Return which clients, int64 [c], rows of the shard, are attackers: bool [c]."""
        return np.isin(self.shard.client_ids[rows], self.attackers)

    def rows(self, clients: IntArray) -> IntArray:
        """Return the rows of some clients in the shard, int64 [c]."""
        return np.searchsorted(self.shard.client_ids, clients)

    def _finish(
        self,
        task: ClientTask,
        request: RoundRequest,
        params: Params,
        evaluated: PrivateValues,
        rows: IntArray,
    ) -> tuple[Evaluation, PrivateValues]:
        """Train some clients at the end; return the ranking before and after, and their values."""
        before = evaluated.take(
            np.searchsorted(evaluated.shard.client_ids, self.shard.client_ids[rows])
        )
        begun = begin_end(task, before.shard, params, before.private)
        _, private = train_clients(
            task,
            before.shard,
            params,
            begun,
            request.round,
            self.chunk,
            self.popularity,
            together=self.together,
        )
        after = PrivateValues(task, before.shard, {name: private[name] for name in task.private()})
        evaluation = self._evaluation(after, params)
        as_chosen = self._evaluation(before, params).values["mixed"]
        values: dict[Ranked, Any] = {**evaluation.values, BEFORE_END: as_chosen}
        return replace(evaluation, values=values), after

    def _ranked_together(self, request: RoundRequest) -> Iterator[tuple[int, IntArray]]:
        """Yield clients of a request, some at a time, with the number of their file."""
        everybody = self.rows(request.clients)
        offsets = offsets_of(self.private_bytes(self.task, self.task.private())[everybody])
        for number, cut in enumerate(bounded_slices(offsets, _RANKED_BYTES)):
            yield number, everybody[cut]

    def _named(
        self,
        request: RoundRequest,
        stage: str,
        call: Callable[[IntArray], T],
        rows: IntArray,
    ) -> T:
        """Return what a call makes of some clients; name the client that fails."""
        try:
            return call(rows)
        except FedRecError:
            raise
        except Exception as error:
            failing = failing_of(call, rows, error)
            row, cause = next(iter(failing.items()), (None, error))
            client = f"one of {len(rows)}" if row is None else str(self.shard.client_ids[row])
            raise ClientFailure(request.round, client, stage, line_of(cause)) from cause

    def private_bytes(self, task: ClientTask, names: Iterable[str]) -> IntArray:
        """Return the bytes of each client's values of some private parameters, int64 [c]."""
        total = np.zeros(self.shard.n_clients, np.int64)
        offsets = (self.layout if task is self.task else Layout.of(task, self.shard)).offsets
        for name in names:
            spec = task.stored_specs()[name]
            total += 4 * prod(spec.shape) * np.diff(offsets[spec.axis or ""])
        return total

    def _rank(self, params: Params, rows: IntArray) -> Evaluation:
        private = self.store.get(self.layout.positions(rows), self.task.private())
        return self._evaluation(PrivateValues(self.task, self.shard.take(rows), private), params)

    def _evaluation(self, values: PrivateValues, params: Params) -> Evaluation:
        """Let users rank with private values of theirs."""
        torch.set_num_threads(self._threads)
        task, shard = values.task, values.shard
        with task.computing():
            scorer = UserScorer(task, shard, params, values.private, self._first_stage)
            try:
                return evaluate(
                    shard,
                    scorer,
                    self.experiment.evaluate.parsed(),
                    self.experiment.evaluate.block,
                    self._candidates(shard) if task.protocol == "legacy" else None,
                    self._slices,
                    self._ranking,
                    self._targets,
                )
            except NumericError as error:
                made_of = (*scorer.params.values(), *scorer.local.values())
                model = f"model {type(task.model).__name__}"
                raise not_finite(f"{model}: {error}", made_of) from error

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
