"""The Ray engine: nodes on resident actors, one thread each."""

from __future__ import annotations

import logging
import sys
import time
from collections import OrderedDict, deque
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from flwr.app import Array, Message

from fedrec.errors import EngineError, MissingExtra
from fedrec.flower.failures import Failure
from fedrec.flower.grid import EngineGrid, describe
from fedrec.flower.message_arrays import MessageArray, join_arrays, split_arrays
from fedrec.flower.packages import code_hash

try:
    import ray
except ImportError as error:
    raise MissingExtra("the Ray engine", "sim") from error

from fedrec.flower.ray_session import RaySession, first_line

__all__ = ["RayGrid"]

INLINE_BYTES = 65_536
STORED_CONTENTS = 64
CALLS_AHEAD = 4
REPLACEMENTS = 3
OUT_OF_MEMORY = 1
SECONDS_UNTIL_SAID = 10.0
LESS_MEMORY = "lower engine.chunk or engine.workers"
LOG = logging.getLogger("fedrec")
DEATHS = (
    ray.exceptions.RayActorError,
    ray.exceptions.OutOfMemoryError,
    ray.exceptions.WorkerCrashedError,
    ray.exceptions.NodeDiedError,
    ray.exceptions.ObjectLostError,
)
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")


class _Call(NamedTuple):
    """A message on its way.

    Args:
        where: What is being done, for errors.
        node: The node that it is for.
        body: The message without its arrays.
        arrays: Its arrays, or references to them.
        reply: Reference of the reply.
        replaced: How often the worker had been replaced when it got the call.
        starved: How often the worker ran out of memory over it.
    """

    where: str
    node: int
    body: bytes
    arrays: list[MessageArray]
    reply: Any = None
    replaced: int = 0
    starved: int = 0


class RayGrid(EngineGrid):
    """Runs the client app on Ray actors that live as long as the run.

    Node ``i`` stays with worker ``(i - 1) % workers``, so its context never travels. Within an
    exchange, arrays of equal content are put into the object store once, however many nodes they
    go to, and each worker reads them once.

    A worker that dies is replaced, up to `REPLACEMENTS` times, and the calls that it had not
    answered are sent again; the client app must keep what it needs on disk.

    Args:
        client_app: Reference of the client app, ``module:attribute``; the workers import it.
        n_nodes: How many nodes.
        n_workers: How many actors.
        run_config: The run's configuration, for every node.
        address: See `fedrec.flower.ray_session.RaySession`.
        gpus_per_worker: Share of a GPU that each actor reserves.
        start_timeout: Seconds that a worker may wait for its cores and start.

    Attributes:
        puts: How many arrays have been put into the object store.

    Raises:
        EngineError: If Ray does not start, or could never place the workers.
    """

    _workers: list[Any]

    def __init__(
        self,
        client_app: str,
        n_nodes: int,
        n_workers: int,
        run_config: Mapping[str, Any] | None = None,
        address: str | None = None,
        gpus_per_worker: float = 0.0,
        start_timeout: float = 300.0,
    ) -> None:
        super().__init__(n_nodes)
        self.puts = 0
        self._exchange = 0
        self._code = code_hash()
        self._stored: OrderedDict[bytes, Any] = OrderedDict()
        self._start_timeout = start_timeout
        self._session = RaySession(address, n_workers, gpus_per_worker)
        self._needs = {"num_cpus": self._session.cores_per_worker, "num_gpus": gpus_per_worker}
        try:
            remote: Any = ray.remote
            self._actor = remote(**self._needs)(_actor_class())
            self._settings = (client_app, n_nodes, dict(run_config or {}))
            self._replaced = [0] * n_workers
            self._workers = [self._new_worker() for _ in range(n_workers)]
            self._starting: list[Any] = [w.prepare.remote(self._settings) for w in self._workers]
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Stop the workers, in the middle of their work if need be, and end the use of Ray."""
        self._stored.clear()
        if ray.is_initialized():
            for worker in self.__dict__.get("_workers", ()):
                with suppress(ray.exceptions.RayError):
                    ray.kill(worker)
        self._workers = []
        self._session.close()

    def worker_of(self, node: int) -> int:
        """Return the index of the worker that runs a node."""
        return (node - 1) % len(self._workers)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        """See `EngineGrid.send_and_receive`.

        Raises:
            EngineError: If the client app fails with an error that is not fedrec's own, or a
                worker does not start or dies too often.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        for worker, started in enumerate(self._starting):
            self._await_start(worker, started)
        self._starting = []
        self._exchange += 1
        self._stored.clear()
        waiting: dict[int, deque[_Call]] = {}
        replies: list[tuple[int, Message]] = []
        for message in messages:
            self.check_destination(message)
            node = message.metadata.dst_node_id
            queue = waiting.setdefault(self.worker_of(node), deque())
            if len(queue) >= CALLS_AHEAD:
                replies += self._receive(queue.popleft(), deadline)
            body, arrays = split_arrays(message)
            stored = [self._store(array) for array in arrays]
            queue.append(self._send(_Call(describe(message), node, body, stored)))
        for call in sorted((c for queue in waiting.values() for c in queue), key=lambda c: c.node):
            replies += self._receive(call, deadline)
        self._stored.clear()
        return [reply for _, reply in sorted(replies, key=lambda pair: pair[0])]

    def _send(self, call: _Call) -> _Call:
        """Send a call to the present worker of its node."""
        worker = self.worker_of(call.node)
        handle = self._workers[worker].handle
        reply = handle.remote(self._exchange, call.node, call.body, call.arrays)
        return call._replace(reply=reply, replaced=self._replaced[worker])

    def _store(self, array: MessageArray) -> MessageArray:
        if len(array.data) < INLINE_BYTES:
            return array
        if array.data not in self._stored:
            self._stored[array.data] = ray.put(array.data)
            self.puts += 1
            if len(self._stored) > STORED_CONTENTS:
                self._stored.popitem(last=False)
        self._stored.move_to_end(array.data)
        return array._replace(data=self._stored[array.data])

    def _receive(self, call: _Call, deadline: float | None) -> list[tuple[int, Message]]:
        while True:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            try:
                reply = ray.get(call.reply, timeout=left)
                break
            except ray.exceptions.GetTimeoutError:
                return []
            except DEATHS as error:
                call = self._send_again(call, error)
            except ray.exceptions.RayError as error:
                raise EngineError(self._broke_off(call, error)) from error
        if isinstance(reply, Failure):
            raise reply.error(call.where)
        body, arrays = reply
        copies = [Array(*array._replace(data=bytes(array.data))) for array in arrays]
        return [(call.node, join_arrays(body, copies))]

    def _send_again(self, call: _Call, error: Exception) -> _Call:
        """Repeat a call whose worker has died; the first such call replaces the worker."""
        worker, text = self.worker_of(call.node), self._broke_off(call, error)
        starved = call.starved + isinstance(error, ray.exceptions.OutOfMemoryError)
        if starved > OUT_OF_MEMORY:
            raise EngineError(f"{text}; memory ran out {starved} times; {LESS_MEMORY}") from error
        if call.replaced == self._replaced[worker]:
            if call.replaced == REPLACEMENTS:
                raise EngineError(
                    f"{text}; it was replaced {call.replaced} times before; if memory ran out, "
                    f"{LESS_MEMORY}"
                ) from error
            LOG.warning("%s; it is replaced, and its clients are done again", text)
            with suppress(ray.exceptions.RayError):
                ray.kill(self._workers[worker])
            self._workers[worker] = self._new_worker()
            self._replaced[worker] += 1
            started = self._workers[worker].prepare.remote(self._settings, self._code)
            self._await_start(worker, started)
        return self._send(call._replace(starved=starved))

    def _new_worker(self) -> Any:
        path = [str(Path(entry or ".").resolve()) for entry in sys.path]
        return self._actor.remote(path, THREADS)

    def _await_start(self, worker: int, started: Any) -> None:
        """Wait for a worker; after a while say what it waits for, at the time limit give up."""
        first = min(SECONDS_UNTIL_SAID, self._start_timeout)
        for seconds in (first, self._start_timeout - first):
            try:
                failure = ray.get(started, timeout=seconds)
                break
            except ray.exceptions.GetTimeoutError:
                asks = ", ".join(
                    f"{n:g} {name[4:-1].upper()}" for name, n in self._needs.items() if n
                )
                text = f"it asks for {asks}; Ray: {self._session.usage()}" if asks else "it starts"
                if seconds == first:
                    LOG.warning("waiting for worker %d: %s", worker, text)
            except ray.exceptions.RayError as error:
                raise EngineError(f"worker {worker} did not start: {first_line(error)}") from error
        else:
            raise EngineError(
                f"worker {worker} did not start within engine.start_timeout "
                f"({self._start_timeout:g} s): {text}; free them, lower engine.workers, or use "
                "engine: serial"
            )
        if failure is not None:
            raise Failure(*failure).error(f"start of worker {worker}")

    def _broke_off(self, call: _Call, error: Exception) -> str:
        return f"worker {self.worker_of(call.node)} broke off ({call.where}): {first_line(error)}"


def _actor_class() -> type:
    class FedrecWorker:
        """Pickled by value, because fedrec may only be importable once the path is set."""

        def __init__(self, path: list[str], threads: tuple[str, ...]) -> None:
            import os
            import sys

            os.environ.update(dict.fromkeys(threads, "1"))
            sys.path[:] = path + [entry for entry in sys.path if entry not in path]
            self.worker: Any = None

        def prepare(
            self, settings: tuple[Any, ...], code: str | None = None
        ) -> tuple[str, str, str] | None:
            import traceback

            try:
                from fedrec.flower.ray_worker import Worker, check_code

                check_code(code)
                self.worker = Worker(*settings)
            except Exception as error:
                return type(error).__name__, str(error), traceback.format_exc()
            return None

        def handle(self, *request: Any) -> Any:
            return self.worker.handle(*request)

    return FedrecWorker
