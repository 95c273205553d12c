"""The Ray engine: nodes on resident actors, one thread each."""

from __future__ import annotations

import logging
import shutil
import socket
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
from fedrec.flower.pieces import Piece, assemble, take_apart
from fedrec.flower.siblings import code_hash
from fedrec.flower.telemetry import be_quiet

try:
    import ray
except ImportError as error:
    raise MissingExtra("the Ray engine", "sim") from error

__all__ = ["RayGrid", "ray_version"]

INLINE_BYTES = 65_536
REMEMBERED_CONTENTS = 64
CALLS_AHEAD = 4
REPLACEMENTS = 3
STARVED = 1
SECONDS_TO_CONNECT = 10.0
SECONDS_TO_REPLACE = 120.0
MIB = 2**20
STORE_BYTES = 2048 * MIB
SMALLEST_STORE_BYTES = 80 * MIB
LEAN = {
    "task_events_report_interval_ms": 0,  # kept for a dashboard that is not there
    "free_objects_batch_size": 1,  # else what many rounds have sent lies in the store for a second
}
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
        node: For whom it is.
        body: The message without its arrays.
        pieces: Its arrays, or references to them.
        ref: Of the reply.
        life: How often the worker had been replaced when it got the call.
        starved: How often the worker ran out of memory meanwhile.
    """

    where: str
    node: int
    body: bytes
    pieces: list[Piece]
    ref: Any = None
    life: int = 0
    starved: int = 0


def ray_version() -> str:
    """The installed version of Ray."""
    return str(ray.__version__)


class RayGrid(EngineGrid):
    """Runs the client app on Ray actors that live as long as the run.

    Node ``i`` stays with worker ``(i - 1) % workers``, so its context never travels. Within an
    exchange, arrays of equal content are put into the object store once, however many nodes they
    go to, and each worker reads them once.

    A worker that dies is replaced, up to `REPLACEMENTS` times, and what it had not answered is
    done again; the client app must keep what it needs on disk.

    A Ray that is already initialised is used and left running.

    Args:
        client_app: Reference of the client app, ``module:attribute``; the workers import it.
        n_nodes: How many nodes.
        n_workers: How many actors.
        run_config: The run's configuration, for every node.
        extra: Further entries of every node's configuration.
        address: Of a running Ray cluster; None starts Ray on this machine.
        gpus_per_worker: Share of a GPU that each actor reserves.

    Attributes:
        puts: How many arrays have been put into the object store.

    Raises:
        EngineError: If Ray does not start, or has fewer cores or GPUs than asked for.
    """

    _workers: list[Any]

    def __init__(
        self,
        client_app: str,
        n_nodes: int,
        n_workers: int,
        run_config: Mapping[str, Any] | None = None,
        extra: Mapping[str, Any] | None = None,
        address: str | None = None,
        gpus_per_worker: float = 0.0,
    ) -> None:
        super().__init__(n_nodes)
        self.puts = 0
        self._exchange = 0
        self._code = code_hash()
        self._refs: OrderedDict[bytes, Any] = OrderedDict()
        self._owns_ray = not ray.is_initialized()
        try:
            if self._owns_ray:
                _start(address, n_workers, gpus_per_worker)
            _check_resources(n_workers, gpus_per_worker)
            self._actor: Any = ray.remote(num_cpus=1, num_gpus=gpus_per_worker)(_actor_class())
            self._settings = (client_app, n_nodes, dict(run_config or {}), dict(extra or {}))
            self._replaced = [0] * n_workers
            self._workers = [self._new_worker() for _ in range(n_workers)]
            self._ready: list[Any] = [w.prepare.remote(self._settings) for w in self._workers]
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Stop the workers, in the middle of their work if need be, and Ray if it is ours."""
        self._refs.clear()
        if not ray.is_initialized():
            return
        for worker in self.__dict__.get("_workers", ()):
            with suppress(ray.exceptions.RayError):
                ray.kill(worker)
        if self._owns_ray:
            ray.shutdown()

    def worker_of(self, node: int) -> int:
        """The index of the worker that runs a node."""
        return (node - 1) % len(self._workers)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        """See `EngineGrid.send_and_receive`.

        Raises:
            EngineError: If the client app fails with an error that is not fedrec's own, or a
                worker dies too often.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        self._await_ready()
        self._exchange += 1
        self._refs.clear()
        waiting: dict[int, deque[_Call]] = {}
        replies: list[tuple[int, Message]] = []
        for message in messages:
            self.check_destination(message)
            node = message.metadata.dst_node_id
            queue = waiting.setdefault(self.worker_of(node), deque())
            if len(queue) >= CALLS_AHEAD:
                replies += self._receive(queue.popleft(), deadline)
            queue.append(self._send(message))
        for call in sorted((call for queue in waiting.values() for call in queue), key=_node):
            replies += self._receive(call, deadline)
        self._refs.clear()
        return [reply for _, reply in sorted(replies, key=lambda pair: pair[0])]

    def _send(self, message: Message) -> _Call:
        body, pieces = take_apart(message)
        stored = [self._store(piece) for piece in pieces]
        return self._hand(_Call(describe(message), message.metadata.dst_node_id, body, stored))

    def _hand(self, call: _Call) -> _Call:
        """Give a call to the worker of its node as that is now."""
        worker = self.worker_of(call.node)
        ref = self._workers[worker].handle.remote(self._exchange, call.node, call.body, call.pieces)
        return call._replace(ref=ref, life=self._replaced[worker])

    def _store(self, piece: Piece) -> Piece:
        if len(piece.data) < INLINE_BYTES:
            return piece
        if piece.data not in self._refs:
            self._refs[piece.data] = ray.put(piece.data)
            self.puts += 1
            if len(self._refs) > REMEMBERED_CONTENTS:
                self._refs.popitem(last=False)
        self._refs.move_to_end(piece.data)
        return piece._replace(data=self._refs[piece.data])

    def _receive(self, call: _Call, deadline: float | None) -> list[tuple[int, Message]]:
        while True:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            try:
                reply = ray.get(call.ref, timeout=left)
                break
            except ray.exceptions.GetTimeoutError:
                return []
            except DEATHS as error:
                call = self._again(call, error)
            except ray.exceptions.RayError as error:
                raise EngineError(self._broke_off(call, error)) from error
        if isinstance(reply, Failure):
            raise reply.error(call.where)
        body, pieces = reply
        arrays = [Array(*piece._replace(data=bytes(piece.data))) for piece in pieces]
        return [(call.node, assemble(body, arrays))]

    def _again(self, call: _Call, error: Exception) -> _Call:
        """Do a call again whose worker has died; whoever asks first replaces the worker."""
        worker, said = self.worker_of(call.node), self._broke_off(call, error)
        starved = call.starved + isinstance(error, ray.exceptions.OutOfMemoryError)
        if starved > STARVED:
            raise EngineError(f"{said}; memory ran out {starved} times; {LESS_MEMORY}") from error
        if call.life == self._replaced[worker]:
            if call.life == REPLACEMENTS:
                raise EngineError(
                    f"{said}; it was replaced {call.life} times before; if memory ran out, "
                    f"{LESS_MEMORY}"
                ) from error
            LOG.warning("%s; it is replaced, and its clients are done again", said)
            self._replace(worker)
        return self._hand(call._replace(starved=starved))

    def _replace(self, worker: int) -> None:
        with suppress(ray.exceptions.RayError):
            ray.kill(self._workers[worker])
        self._workers[worker] = self._new_worker()
        self._replaced[worker] += 1
        ready = self._workers[worker].prepare.remote(self._settings, self._code)
        self._await_start(worker, ready, SECONDS_TO_REPLACE)

    def _new_worker(self) -> Any:
        return self._actor.remote(_python_path(), THREADS)

    def _await_ready(self) -> None:
        for worker, ref in enumerate(self._ready):
            self._await_start(worker, ref)
        self._ready = []

    def _await_start(self, worker: int, ref: Any, seconds: float | None = None) -> None:
        try:
            failure = ray.get(ref, timeout=seconds)
        except ray.exceptions.RayError as error:
            raise EngineError(f"worker {worker} did not start: {_first_line(error)}") from error
        if failure is not None:
            raise Failure(*failure).error(f"start of worker {worker}")

    def _broke_off(self, call: _Call, error: Exception) -> str:
        return f"worker {self.worker_of(call.node)} broke off ({call.where}): {_first_line(error)}"


def _actor_class() -> type:
    class Boot:
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

    return Boot


def _start(address: str | None, n_workers: int, gpus_per_worker: float) -> None:
    be_quiet()
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if address is not None:
            _knock(address)
            ray.init(address=address, **quiet)
        else:
            ray.init(
                address="local",
                num_cpus=n_workers,
                num_gpus=None if gpus_per_worker else 0,
                object_store_memory=_store_bytes(),
                include_dashboard=False,
                _system_config=LEAN,
                **quiet,
            )
    except (ray.exceptions.RayError, OSError, ValueError, RuntimeError) as error:
        at = f" at {address}" if address else ""
        raise EngineError(
            f"Ray does not start{at}: {_first_line(error)}; engine: serial works without it"
        ) from error


def _knock(address: str) -> None:
    """Fail at once where nobody listens; Ray would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=SECONDS_TO_CONNECT).close()


def _store_bytes() -> int:
    shared = Path("/dev/shm")
    free = shutil.disk_usage(shared).free if shared.is_dir() else STORE_BYTES
    return max(SMALLEST_STORE_BYTES, min(STORE_BYTES, free * 3 // 4))


def _check_resources(n_workers: int, gpus_per_worker: float) -> None:
    have: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    cores, gpus = have.get("CPU", 0), have.get("GPU", 0)
    if cores < n_workers:
        raise EngineError(
            f"engine.workers: {n_workers}, but the Ray cluster has {cores:g} cores; "
            "lower workers or use a larger cluster"
        )
    if gpus < n_workers * gpus_per_worker:
        raise EngineError(
            f"engine.gpus_per_worker: {gpus_per_worker:g} for {n_workers} workers, but Ray sees "
            f"{gpus:g} GPUs; lower it, or lower workers"
        )


def _python_path() -> list[str]:
    return [str(Path(entry or ".").resolve()) for entry in sys.path]


def _node(call: _Call) -> int:
    return call.node


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
