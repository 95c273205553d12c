"""The Ray engine: nodes on resident actors, one thread each."""

import logging
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, suppress
from copy import copy
from dataclasses import astuple, dataclass
from pkgutil import resolve_name
from typing import Any

import ray
from flwr.app import ArrayRecord, Message, RecordDict

from fedrec.errors import EngineError
from fedrec.flower import shipped_code
from fedrec.flower.grid import EngineGrid, describe
from fedrec.flower.machine_code import chosen_machine_code, difference, machine_code
from fedrec.flower.placement import Placement
from fedrec.flower.processes import Failure, code_files, import_path
from fedrec.flower.ray_session import RaySession, first_line
from fedrec.flower.ray_worker import decisive_versions
from fedrec.flower.records import TRAIN
from fedrec.flower.remote import DriverSide, Sight, marking

# The actor travels by value: it runs before fedrec can be imported.
ray.cloudpickle.register_pickle_by_value(shipped_code)  # type: ignore[no-untyped-call]

INLINE_BYTES = 65_536
REPLACEMENTS = 3
SECONDS_UNTIL_SAID = 10.0
SECONDS_TO_CHECK = 2.0
SECONDS_TO_LEAVE = 5.0
THREADS = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "MKL", "OPENBLAS", "NUMBA")}
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
        message: The message.
        small: The message without its large records.
        references: Where these are stored, by name.
        reply: Reference of the reply.
        replaced: How often the worker had been replaced when it got the call.
        seconds: How long the client app worked.
    """

    worker: int
    message: Message
    small: Message
    references: Mapping[str, Any]
    reply: Any = None
    replaced: int = 0
    seconds: float = 0.0

    @property
    def node(self) -> int:
        """The node that it is for."""
        return self.message.metadata.dst_node_id


class RayGrid(EngineGrid):
    """Runs the client app on Ray actors that live as long as the run.

    Node ``i`` begins on worker ``(i - 1) % workers`` and stays there, so its context does not
    travel. If there are more nodes than workers, and some workers are slower, a node may go to
    another one between two exchanges. A large array record is put into the object store once,
    however many messages of an exchange hold it, and each worker reads it once.

    A worker that dies is replaced, up to `REPLACEMENTS` times, and the calls that it had not
    answered are sent again; the client app must keep what it needs on disk.

    A worker on a machine without the code of the run, its folder or its data gets them through
    Ray, see `fedrec.flower.remote`.

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
        sources: Files of plug-ins that are not fedrec's own: text by path, relative to the folder
            that Python imports from.
        remote: References of the two sides of nodes elsewhere, see `fedrec.flower.remote`:
            of the driver's and the worker's.

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
        sources: Mapping[str, str] | None = None,
        remote: tuple[str, str] = ("", ""),
    ) -> None:
        super().__init__(n_nodes)
        self._stored: dict[int, tuple[ArrayRecord, Any]] = {}
        self._start_timeout = start_timeout
        self._replaced, self._sights = [0] * n_workers, [Sight()] * n_workers
        self._workers: list[Any] = []
        self._placement = Placement(n_nodes, n_workers)
        self._remote: DriverSide | None = None
        self._of_remote = remote[0], n_nodes, dict(node_config or {})
        self._opened: dict[int, tuple[int, int]] = {}
        self._said: set[str] = set()
        self._data: dict[str, Any] = {}
        self._marking = ExitStack()
        self._session = RaySession(address, n_workers, gpus_per_worker, cpus_per_worker)
        try:
            needs = self._session.needs
            spread: Any = ray.remote(
                num_cpus=needs["CPU"], num_gpus=needs["GPU"], scheduling_strategy="SPREAD"
            )
            about = {"path": import_path(), "variables": {**THREADS, **chosen_machine_code()}}
            self._actor = spread(type("FedrecWorker", (shipped_code.Starter,), about))
            marks = astuple(self._marking.enter_context(marking(node_config or {})))
            configs = dict(run_config or {}), dict(node_config or {})
            settings = client_app, remote[1], n_nodes, *configs, marks, decisive_versions()
            # In a list, a reference is not resolved before the call, which only ours needs.
            self._settings = settings, [ray.put(_code(sources or {}))]
            self._workers += [self._actor.remote() for _ in range(n_workers)]
            self._starting = [w.prepare.remote(*self._settings) for w in self._workers]
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Stop the workers, in the middle of their work if need be, and end the use of Ray."""
        workers = self._workers if ray.is_initialized() else []
        elsewhere = [w for w, sight in zip(workers, self._sights, strict=False) if sight.lacks]
        leaving = [worker.leave.remote() for worker in elsewhere]
        if leaving:
            ray.wait(leaving, num_returns=len(leaving), timeout=SECONDS_TO_LEAVE)
        for worker in workers:
            with suppress(ray.exceptions.RayError):
                ray.kill(worker)
        self._workers = []
        self._marking.close()
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
        for call in calls:
            if self._remote is not None and not self._sights[call.worker].run:
                self._remote.settle(call.message)
        calls.sort(key=lambda call: call.node)
        replies = [self._receive(call) for call in calls]
        self._stored.clear()
        # Between the exchanges of a secure sum a node has secrets in its worker, so it stays there.
        trained = (call for call in calls if call.message.metadata.message_type == TRAIN)
        self._placement.measure({call.node: call.seconds for call in trained})
        return replies

    def _sent(self, message: Message) -> _Call:
        """Store the large records of a message, and send the rest to the worker of its node."""
        worker = self._placement.worker(message.metadata.dst_node_id)
        small, references = copy(message), {}
        small.content = RecordDict()
        for name, record in message.content.items():
            if isinstance(record, ArrayRecord) and record.count_bytes() >= INLINE_BYTES:
                if id(record) not in self._stored:
                    self._stored[id(record)] = record, ray.put(record)
                references[name] = self._stored[id(record)][1]
            else:
                small.content[name] = record
        call = _Call(worker, message, small, references)
        self._send(call)
        return call

    def _send(self, call: _Call) -> None:
        call.replaced = self._replaced[call.worker]
        request = call.small, call.references, self._opening(call)
        call.reply = self._workers[call.worker].handle.remote(*request)

    def _opening(self, call: _Call) -> tuple[Any, dict[str, Any]] | None:
        """Return what a node needs on a worker that lacks files and has not opened it yet."""
        worker, sight = (call.worker, call.replaced), self._sights[call.worker]
        if (sight.run and sight.data) or self._opened.get(call.node) == worker:
            return None
        if self._remote is None:
            name, *arguments = self._of_remote
            self._remote = resolve_name(name)(*arguments)
        opening = self._remote.opening(call.message, sight)
        for key, value in opening.data.items():
            if key not in self._data:
                self._data[key] = ray.put(value)
        self._opened[call.node] = worker
        return opening.files, {key: self._data[key] for key in opening.data}

    def _receive(self, call: _Call) -> Message:
        while True:
            try:
                reply: Message | Failure
                reply, written, call.seconds = ray.get(call.reply, timeout=SECONDS_TO_CHECK)
                break
            except ray.exceptions.GetTimeoutError:
                self._session.check()
            except ray.exceptions.RayError as error:
                self._send_again(call, error)
        if isinstance(reply, Failure):
            raise reply.error(describe(call.message))
        if self._remote is not None and written is not None:
            self._remote.take(call.message, written)
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
            self._workers[worker] = self._actor.remote()
            self._replaced[worker] += 1
            self._await_start(worker, self._workers[worker].prepare.remote(*self._settings))
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
            about, failure = ray.get(started)
        except ray.exceptions.RayError as error:
            raise EngineError(f"worker {worker} did not start: {first_line(error)}") from error
        if failure is not None:
            raise Failure(*failure).error(f"start of worker {worker}")
        self._sights[worker], host, code = about
        if lacks := self._sights[worker].lacks:
            what = " and ".join(f"the {part}" for part in lacks)
            self._say(logging.INFO, f"{host} lacks {what} of this machine: sent to its workers")
        if other := difference(machine_code(), code):
            self._say(logging.WARNING, f"{host} {other}")

    def _say(self, level: int, line: str) -> None:
        """Say something about a machine, once."""
        if line not in self._said:
            self._said.add(line)
            LOG.log(level, line)


def _code(sources: Mapping[str, str]) -> dict[str, bytes]:
    """Return the code of a run: fedrec's, that of other plug-ins, and what is known of both."""
    files = {**code_files(), **{name: text.encode() for name, text in sources.items()}}
    packages = {name.partition("/")[0].removesuffix(".py") for name in files}
    return {**files, **shipped_code.installed_files(packages)}
