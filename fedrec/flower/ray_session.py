"""Start Ray or join one; all runs of a process share it, and the last one shuts it down."""

import logging
import os
import shutil
import socket
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc  # type: ignore[import-untyped]
import ray

from fedrec.errors import EngineError
from fedrec.flower.processes import cores, engine_environment

SECONDS_TO_CONNECT = 10.0
MIB = 2**20
STORE_BYTES = 2048 * MIB
SMALLEST_STORE_BYTES = 80 * MIB
SYSTEM_CONFIG = {
    "task_events_report_interval_ms": 0,  # kept for a dashboard that is not there
    "free_objects_batch_size": 1,  # else what many rounds have sent lies in the store for a second
}
RESOURCES = {"CPU": ("engine.workers", "cores"), "GPU": ("engine.gpus_per_worker", "GPUs")}


class RaySession:
    """The use that one run makes of Ray, until `close`.

    A Ray that the user has initialised is used and left running. One that fedrec has started or
    joined serves all runs of this process, and the last of them shuts it down or leaves it.

    On a Ray that fedrec has started, workers reserve no cores unless they are to: two runs at the
    same time share the cores as two processes would, and neither waits for the other's workers to
    end.

    Args:
        address: Of a running Ray cluster; None starts Ray on this machine, or uses the one that
            is there.
        n_workers: How many actors the run will start.
        gpus_per_worker: Share of a GPU that each reserves.
        cpus_per_worker: Cores that each reserves; None: one, but none on a Ray of fedrec's.

    Attributes:
        needs: What each actor has to reserve, by Ray's name of the resource.

    Raises:
        EngineError: If Ray does not start, or could never place the actors.
    """

    # Of the Ray that fedrec has started or joined in this process.
    _lock = threading.Lock()
    _runs = 0
    _address: str | None = None
    _started: Future[None] | None = None
    _forked = False
    # The system ends Ray's daemons with the thread that has started them, so not that of a run.
    _starter = ThreadPoolExecutor(1, "fedrec-ray")

    def __init__(
        self,
        address: str | None,
        n_workers: int,
        gpus_per_worker: float,
        cpus_per_worker: float | None = None,
    ) -> None:
        shared = RaySession
        with shared._lock:
            shared._begin(address)
            started = shared._started
            self._counted = started is not None
            shared._runs += self._counted
        try:
            if started is not None:
                started.result()
            _check_address(address, shared._address)
            started_here = self._counted and shared._address is None
            cores_each = 0.0 if started_here else 1.0
            cores_each = cores_each if cpus_per_worker is None else cpus_per_worker
            self.needs = {"CPU": cores_each, "GPU": gpus_per_worker}
            self._check_capacity(n_workers)
        except BaseException:
            self.close()
            raise

    @classmethod
    def start_ahead(cls) -> None:
        """Begin to start Ray on this machine, for the first run of this process."""
        with cls._lock:
            cls._begin(None)

    @classmethod
    def _begin(cls, address: str | None) -> None:
        if cls._forked:
            raise EngineError(
                "this process was forked from one that uses Ray, which cannot be used from "
                "here; start it by multiprocessing.get_context('spawn'), or use engine: serial"
            )
        if cls._started is None and not ray.is_initialized():
            cls._started, cls._address = cls._starter.submit(_start, address), address

    @classmethod
    def after_fork(cls) -> None:
        """Note in a forked process that its Ray is its parent's; it cannot be used or left."""
        cls._lock, cls._forked = threading.Lock(), ray.is_initialized()

    def close(self) -> None:
        """End the use of Ray; the last run shuts a Ray of fedrec's down. May be called twice."""
        shared = RaySession
        with shared._lock:
            if self._counted and not shared._forked:
                self._counted = False
                shared._runs -= 1
                # A start that an interrupt did not wait for goes on, for the next run or the exit.
                if shared._runs == 0 and shared._started is not None and shared._started.done():
                    shared._started = None
                    ray.shutdown()

    def check(self) -> None:
        """Make sure that Ray is there; a minute after its head is gone, Ray ends this process.

        Raises:
            EngineError: If its head does not answer, or its daemon on this machine has ended.
        """
        context = ray.get_runtime_context()
        address, node = str(context.gcs_address), context.get_node_id()
        daemon = "head"
        try:
            host, _, port = address.rpartition(":")
            _connect(host, port)
            daemon = "daemon on this machine (raylet)"
            nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
            own_node = next(each for each in nodes if each["NodeID"] == node)
            _connect(own_node["NodeManagerAddress"], own_node["NodeManagerPort"])
        except OSError as error:
            raise EngineError(
                f"Ray's {daemon} at {address} is gone ({error.strerror}); start it again, then run "
                "--resume"
            ) from error

    def usage(self) -> str:
        """Return what a worker asks for, what is free, and which actors hold the rest."""
        asks = ", ".join(f"{amount:g} {name}" for name, amount in self.needs.items() if amount)
        total: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        free: dict[str, float] = ray.available_resources()  # type: ignore[no-untyped-call]
        lines = [
            f"{free.get(name, 0):g} of {total[name]:g} {plural} are free"
            for name, (_, plural) in RESOURCES.items()
            if name in total
        ]
        with suppress(Exception):  # private, as the public way needs a dashboard
            actors = ray._private.state.actors().values()
            alive = [actor for actor in actors if actor["State"] == "ALIVE"]
            names = sorted(f"{actor['ActorClassName']} (process {actor['Pid']})" for actor in alive)
            lines += [f"actors that run: {', '.join(names)}"] if names else []
        return f"it asks for {asks}; Ray: {'; '.join(lines)}" if asks else "it starts"

    def _check_capacity(self, n_workers: int) -> None:
        """Refuse what Ray could never place, however long it waits."""
        total: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        for name, (setting, plural) in RESOURCES.items():
            needed = self.needs[name] * n_workers
            if needed > total.get(name, 0):
                raise EngineError(
                    f"{setting}: {n_workers} workers need {needed:g} {plural}, but Ray has "
                    f"{total.get(name, 0):g}; lower it, or use a larger cluster"
                )


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=RaySession.after_fork)


def first_line(error: BaseException) -> str:
    """Return the first line of what an exception says."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def _start(address: str | None) -> None:
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        shared = Path("/dev/shm")
        free = shutil.disk_usage(shared).free if shared.is_dir() else STORE_BYTES
        options |= {
            "num_cpus": cores(),
            "object_store_memory": max(SMALLEST_STORE_BYTES, min(STORE_BYTES, free * 3 // 4)),
            "include_dashboard": False,
            "_system_config": SYSTEM_CONFIG,
        }
    try:
        with engine_environment():
            if address is not None:
                _await_server(address)
            ray.init(address=address or "local", **options)
    except (ray.exceptions.RayError, OSError, ValueError, RuntimeError) as error:
        at = f" at {address}" if address else ""
        raise EngineError(
            f"Ray does not start{at}: {first_line(error)}; engine: serial works without it"
        ) from error


def _check_address(address: str | None, joined: str | None) -> None:
    """Refuse an address that is not that of the Ray which this process uses already."""
    current = str(ray.get_runtime_context().gcs_address)
    others = bool(address) and address not in ("auto", joined)
    if others and str(address).rpartition(":")[2] != current.rpartition(":")[2]:
        raise EngineError(
            f"engine.address: {address}, but this process uses the Ray at {current} already; "
            "leave the address out, or run in another process"
        )


def _connect(host: str, port: str | int) -> None:
    socket.create_connection((host, int(port)), timeout=SECONDS_TO_CONNECT).close()


def _await_server(address: str) -> None:
    """Fail at once where nobody listens, and soon where nobody answers; Ray tries for minutes."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or os.environ.get("RAY_USE_TLS", "0") in ("1", "true"):
        return
    _connect(host, port)
    options = [("grpc.enable_http_proxy", 0)]
    with grpc.insecure_channel(f"{host}:{port}", options=options) as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=SECONDS_TO_CONNECT)
        except grpc.FutureTimeoutError:
            raise OSError(
                f"nothing there answers like Ray within {SECONDS_TO_CONNECT:g} s"
            ) from None
