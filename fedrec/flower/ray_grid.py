"""The Ray engine: nodes on resident actors, one thread each."""

import logging
from collections.abc import Iterable, Mapping
from contextlib import suppress
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import ray
from flwr.app import ArrayRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from fedrec.errors import EngineError
from fedrec.flower.grid import EngineGrid, describe, node_context
from fedrec.flower.processes import Failure, code_hash, import_path
from fedrec.flower.ray_session import RaySession, first_line
from fedrec.storage.files import hold

INLINE_BYTES = 65_536
REPLACEMENTS = 3
SECONDS_UNTIL_SAID = 10.0
SECONDS_TO_CHECK = 2.0
LOG = logging.getLogger("fedrec")
DEATHS = (
    ray.exceptions.RayActorError,
    ray.exceptions.OutOfMemoryError,
    ray.exceptions.WorkerCrashedError,
    ray.exceptions.NodeDiedError,
    ray.exceptions.ObjectLostError,
)


@dataclass(slots=True)
class _Call:
    """A message on its way.

    Args:
        worker: Index of the worker of its node.
        message: Without its large records.
        references: Where these are stored, by name.
        reply: Reference of the reply.
        replaced: How often the worker had been replaced when it got the call.
    """

    worker: int
    message: Message
    references: Mapping[str, Any]
    reply: Any = None
    replaced: int = 0


class RayGrid(EngineGrid):
    """Runs the client app on Ray actors that live as long as the run.

    Node ``i`` stays with worker ``(i - 1) % workers``, so its context never travels. A large array
    record is put into the object store once, however many messages of an exchange hold it, and
    each worker reads it once.

    A worker that dies is replaced, up to `REPLACEMENTS` times, and the calls that it had not
    answered are sent again; the client app must keep what it needs on disk.

    Args:
        client_app: Reference of the client app, ``module:attribute``; the workers import it.
        n_nodes: How many nodes.
        n_workers: How many actors.
        run_config: The run's configuration, for every node.
        node_config: See `fedrec.flower.grid.node_context`.
        address: See `fedrec.flower.ray_session.RaySession`.
        gpus_per_worker: Share of a GPU that each actor reserves.
        cpus_per_worker: Cores that each actor reserves; None: see `RaySession`.
        start_timeout: Seconds that a worker may wait for its cores and start.

    Raises:
        EngineError: If Ray does not start, or could never place the workers.
    """

    def __init__(
        self,
        client_app: str,
        n_nodes: int,
        n_workers: int,
        run_config: Mapping[str, Any] | None = None,
        address: str | None = None,
        gpus_per_worker: float = 0.0,
        start_timeout: float = 300.0,
        cpus_per_worker: float | None = None,
        node_config: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(n_nodes)
        self._stored: dict[int, tuple[ArrayRecord, Any]] = {}
        self._start_timeout = start_timeout
        configs = dict(run_config or {}), dict(node_config or {})
        self._settings = (code_hash(), client_app, n_nodes, *configs)
        self._replaced = [0] * n_workers
        self._workers: list[Any] = []
        self._session = RaySession(address, n_workers, gpus_per_worker, cpus_per_worker)
        try:
            needs = self._session.needs
            remote: Any = ray.remote(num_cpus=needs["CPU"], num_gpus=needs["GPU"])
            self._actor = remote(_actor_class())
            self._workers += [self._actor.remote(import_path()) for _ in range(n_workers)]
            self._starting = [w.prepare.remote(self._settings) for w in self._workers]
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Stop the workers, in the middle of their work if need be, and end the use of Ray."""
        for worker in self._workers if ray.is_initialized() else ():
            with suppress(ray.exceptions.RayError):
                ray.kill(worker)
        self._workers = []
        self._session.close()

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        """See `EngineGrid.send_and_receive`.

        Raises:
            EngineError: If the client app fails with an error that is not fedrec's own, or a
                worker does not start or dies too often.
        """
        for worker, started in enumerate(self._starting):
            self._await_start(worker, started)
        self._starting = []
        self._session.check()
        calls = [self._sent(message) for message in messages]
        calls.sort(key=lambda call: call.message.metadata.dst_node_id)
        replies = [self._receive(call) for call in calls]
        self._stored.clear()
        return replies

    def _sent(self, message: Message) -> _Call:
        """Store the large records of a message, and send the rest to the worker of its node."""
        worker = (message.metadata.dst_node_id - 1) % len(self._workers)
        small, references = copy(message), {}
        small.content = RecordDict()
        for name, record in message.content.items():
            if isinstance(record, ArrayRecord) and record.count_bytes() >= INLINE_BYTES:
                if id(record) not in self._stored:
                    self._stored[id(record)] = record, ray.put(record)
                references[name] = self._stored[id(record)][1]
            else:
                small.content[name] = record
        call = _Call(worker, small, references)
        self._send(call)
        return call

    def _send(self, call: _Call) -> None:
        call.replaced = self._replaced[call.worker]
        call.reply = self._workers[call.worker].handle.remote(call.message, call.references)

    def _receive(self, call: _Call) -> Message:
        while True:
            try:
                reply: Message | Failure = ray.get(call.reply, timeout=SECONDS_TO_CHECK)
                break
            except ray.exceptions.GetTimeoutError:
                self._session.check()
            except ray.exceptions.RayError as error:
                self._send_again(call, error)
        if isinstance(reply, Failure):
            raise reply.error(describe(call.message))
        return reply

    def _send_again(self, call: _Call, error: Exception) -> None:
        """Repeat a call whose worker has died; the first such call replaces the worker."""
        worker = call.worker
        text = f"worker {worker} broke off ({describe(call.message)}): {first_line(error)}"
        if not isinstance(error, DEATHS):
            raise EngineError(text) from error
        self._session.check()
        if call.replaced == self._replaced[worker]:
            if call.replaced == REPLACEMENTS:
                raise EngineError(
                    f"{text}; it was replaced {call.replaced} times before; if memory ran out, "
                    "lower engine.chunk or engine.workers"
                ) from error
            LOG.warning("%s; it is replaced, and its clients are done again", text)
            with suppress(ray.exceptions.RayError):
                ray.kill(self._workers[worker])
            self._workers[worker] = self._actor.remote(import_path())
            self._replaced[worker] += 1
            self._await_start(worker, self._workers[worker].prepare.remote(self._settings))
        self._send(call)

    def _await_start(self, worker: int, started: Any) -> None:
        """Wait for a worker; after a while say what it waits for, at the time limit give up."""
        left = self._start_timeout
        while not ray.wait([started], timeout=min(SECONDS_TO_CHECK, left))[0]:
            self._session.check()
            before, left = left, left - SECONDS_TO_CHECK
            if left <= 0:
                raise EngineError(
                    f"worker {worker} did not start within engine.start_timeout "
                    f"({self._start_timeout:g} s): {self._session.usage()}; free them, lower "
                    "engine.workers, or use engine: serial"
                )
            if before > self._start_timeout - SECONDS_UNTIL_SAID >= left:
                LOG.warning("waiting for worker %d: %s", worker, self._session.usage())
        try:
            failure = ray.get(started)
        except ray.exceptions.RayError as error:
            raise EngineError(f"worker {worker} did not start: {first_line(error)}") from error
        if failure is not None:
            raise Failure(*failure).error(f"start of worker {worker}")


class Worker:
    """Holds the contexts of its nodes, so their private state never travels.

    Args:
        code: `code_hash` of what the run began with; the others are those of `RayGrid`.

    Raises:
        EngineError: If this machine has other code, or it was changed before a worker was replaced.
    """

    def __init__(
        self,
        code: str,
        client_app: str,
        n_nodes: int,
        run_config: Mapping[str, Any],
        node_config: Mapping[str, Any],
    ) -> None:
        if code_hash() != code:
            raise EngineError(
                f"the code of fedrec here is not that of the run ({code_hash()[:8]} and "
                f"{code[:8]}): if it was changed meanwhile, change it back, then run --resume; "
                "else install the same version of fedrec"
            )
        out = Path(str(run_config.get("out") or ""))
        self._lock = hold(out, shared=True) if (out / "rounds.jsonl").is_file() else None
        self._app: ClientApp = resolve_name(client_app)
        self._settings = (n_nodes, dict(run_config), dict(node_config))
        self._contexts: dict[int, Context] = {}
        self._records: dict[Any, Any] = {}

    def handle(self, message: Message, references: Mapping[str, Any]) -> Message | Failure:
        """Run the client app on one message.

        Args:
            message: The message without its large records.
            references: Name and reference of each; those of the last message are still there.

        Returns:
            The reply, or the exception of the client app.
        """
        node, last = message.metadata.dst_node_id, self._records
        if node not in self._contexts:
            self._contexts[node] = node_context(node, *self._settings)
        try:
            self._records = {ref: last.get(ref) or ray.get(ref) for ref in references.values()}
            for name, reference in references.items():
                message.content[name] = self._records[reference]
            return self._app(message, self._contexts[node])
        except Exception as error:  # the driver raises it
            return Failure.of(error)


def _actor_class() -> type:
    """Return the class of the actors; pickled by value, as they must set the path first."""

    class FedrecWorker:
        def __init__(self, path: list[str]) -> None:
            import os
            import sys

            for name in ("OMP", "MKL", "OPENBLAS", "NUMBA"):
                os.environ[f"{name}_NUM_THREADS"] = "1"
            sys.path[:] = path + [entry for entry in sys.path if entry not in path]
            self.worker: Any = None

        def prepare(self, settings: tuple[Any, ...]) -> tuple[str, str, str] | None:
            import traceback

            try:
                from fedrec.flower.ray_grid import Worker

                self.worker = Worker(*settings)
            except Exception as error:
                return type(error).__name__, str(error), traceback.format_exc()
            return None

        def handle(self, *request: Any) -> Any:
            return self.worker.handle(*request)

    return FedrecWorker
