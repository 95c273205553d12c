"""Start Ray or join one; all runs of a process share it, and the last one shuts it down."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc  # type: ignore[import-untyped]
import ray

from fedrec.errors import EngineError
from fedrec.flower.environment import engine_environment

__all__ = ["RaySession", "first_line"]

SECONDS_TO_CONNECT = 10.0
MIB = 2**20
STORE_BYTES = 2048 * MIB
SMALLEST_STORE_BYTES = 80 * MIB
SYSTEM_CONFIG = {
    "task_events_report_interval_ms": 0,  # kept for a dashboard that is not there
    "free_objects_batch_size": 1,  # else what many rounds have sent lies in the store for a second
}


class _Shared:
    """The Ray that fedrec has started or joined in this process, and how many runs use it."""

    lock = threading.Lock()
    stopped = threading.Event()
    runs = 0
    address: str | None = None
    forked = False

    @classmethod
    def after_fork(cls) -> None:
        """Note in a forked process that its Ray is its parent's; it cannot be used or left."""
        cls.lock, cls.runs, cls.forked = threading.Lock(), 0, ray.is_initialized()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_Shared.after_fork)


class RaySession:
    """The use that one run makes of Ray, until `close`.

    A Ray that the user has initialised is used and left running. One that fedrec has started or
    joined serves all runs of this process, and the last of them shuts it down or leaves it.

    On a Ray that fedrec has started, workers reserve no cores: two runs at the same time share
    the cores as two processes would, and neither waits for the other's workers to end.

    Args:
        address: Of a running Ray cluster; None starts Ray on this machine, or uses the one that
            is there.
        n_workers: How many actors the run will start.
        gpus_per_worker: Share of a GPU that each reserves.

    Attributes:
        cores_per_worker: What each actor has to reserve.

    Raises:
        EngineError: If Ray does not start, or could never place the actors.
    """

    def __init__(self, address: str | None, n_workers: int, gpus_per_worker: float) -> None:
        self._counted = False
        with _Shared.lock:
            if _Shared.forked:
                raise EngineError(
                    "this process was forked from one that uses Ray, which cannot be used from "
                    "here; start it by multiprocessing.get_context('spawn'), or use engine: serial"
                )
            if not ray.is_initialized():
                _Shared.stopped = threading.Event()
                _in_lasting_thread(lambda: _start(address, n_workers, gpus_per_worker))
                _Shared.runs, _Shared.address = 0, address
                self._counted = True
            else:
                self._counted = _Shared.runs > 0
                _check_address(address)
            _Shared.runs += self._counted
            self._local = self._counted and _Shared.address is None
            self.cores_per_worker = 0 if self._local else 1
        try:
            self._check_capacity(n_workers, gpus_per_worker)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the use of Ray; the last run shuts a Ray of fedrec's down. May be called twice."""
        with _Shared.lock:
            if not self._counted or _Shared.forked:
                return
            self._counted = False
            _Shared.runs -= 1
            if _Shared.runs == 0:
                ray.shutdown()
                _Shared.stopped.set()

    def usage(self) -> str:
        """Return which resources are free, and which actors hold others, as far as Ray tells."""
        total: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        free: dict[str, float] = ray.available_resources()  # type: ignore[no-untyped-call]
        parts = [
            f"{free.get(name, 0):g} of {total[name]:g} {plural} are free"
            for name, plural in (("CPU", "cores"), ("GPU", "GPUs"))
            if name in total
        ]
        holders = [
            f"{actor['ActorClassName']} (process {actor['Pid']})"
            for actor in _actors()
            if actor.get("State") == "ALIVE"
        ]
        if holders:
            parts.append(f"actors that run: {', '.join(sorted(holders))}")
        return "; ".join(parts)

    def _check_capacity(self, n_workers: int, gpus_per_worker: float) -> None:
        """Refuse what Ray could never place, however long it waits."""
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
        cores = sum(int(node.get("CPU", 0)) for node in nodes)
        gpus = sum(node.get("GPU", 0) for node in nodes)
        if cores < n_workers * self.cores_per_worker:
            raise EngineError(
                f"engine.workers: {n_workers}, but the Ray cluster has {cores:g} cores; "
                "lower workers or use a larger cluster"
            )
        places = [_workers_on_gpus(node.get("GPU", 0), gpus_per_worker) for node in nodes]
        if gpus_per_worker and sum(places) < n_workers:
            raise EngineError(
                f"engine.gpus_per_worker: {gpus_per_worker:g} for {n_workers} workers, but Ray "
                f"sees {gpus:g} GPUs; lower it, or lower workers"
            )


def first_line(error: BaseException) -> str:
    """Return the first line of what an exception says."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def _workers_on_gpus(gpus: float, share: float) -> int:
    """Return how many workers fit; a share below 1 is a share of one GPU, never of two."""
    if share <= 0:
        return 0
    return int(gpus) * int(1 / share + 1e-9) if share < 1 else int(gpus / share)


def _actors() -> list[dict[str, Any]]:
    """Return Ray's table of actors; the public way to it needs a dashboard."""
    try:
        return list(ray._private.state.actors().values())
    except Exception:  # private, and only for a message
        return []


def _in_lasting_thread(call: Callable[[], None]) -> None:
    """Call in a thread that lasts until `_Shared.stopped`, or in the main thread.

    The system ends Ray's daemons with the thread that has started them, which may be that of a run
    that ends before others.
    """
    if threading.current_thread() is threading.main_thread():
        call()
        return
    called, errors, stopped = threading.Event(), [], _Shared.stopped

    def work() -> None:
        try:
            call()
        except BaseException as error:
            errors.append(error)
            return
        finally:
            called.set()
        stopped.wait()

    threading.Thread(target=work, name="fedrec-ray", daemon=True).start()
    called.wait()
    if errors:
        raise errors[0]


def _start(address: str | None, n_workers: int, gpus_per_worker: float) -> None:
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        with engine_environment():
            if address is not None:
                _await_server(address)
                ray.init(address=address, **quiet)
            else:
                ray.init(
                    address="local",
                    num_cpus=n_workers,
                    num_gpus=None if gpus_per_worker else 0,
                    object_store_memory=_store_bytes(),
                    include_dashboard=False,
                    _system_config=SYSTEM_CONFIG,
                    **quiet,
                )
    except (ray.exceptions.RayError, OSError, ValueError, RuntimeError) as error:
        at = f" at {address}" if address else ""
        raise EngineError(
            f"Ray does not start{at}: {first_line(error)}; engine: serial works without it"
        ) from error


def _check_address(address: str | None) -> None:
    """Refuse an address that is not that of the Ray which this process uses already."""
    if address in (None, "auto", _Shared.address):
        return
    current = str(ray.get_runtime_context().gcs_address)
    if str(address).rpartition(":")[2] != current.rpartition(":")[2]:
        raise EngineError(
            f"engine.address: {address}, but this process uses the Ray at {current} already; "
            "leave the address out, or run in another process"
        )


def _await_server(address: str) -> None:
    """Fail at once where nobody listens, and soon where nobody answers; Ray tries for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return
    socket.create_connection((host, int(port)), timeout=SECONDS_TO_CONNECT).close()
    if os.environ.get("RAY_USE_TLS", "0") in ("1", "true"):
        return
    options = [("grpc.enable_http_proxy", 0)]
    with grpc.insecure_channel(f"{host}:{port}", options=options) as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=SECONDS_TO_CONNECT)
        except grpc.FutureTimeoutError:
            raise OSError(
                f"what listens there does not answer like Ray within {SECONDS_TO_CONNECT:g} s"
            ) from None


def _store_bytes() -> int:
    shared = Path("/dev/shm")
    free = shutil.disk_usage(shared).free if shared.is_dir() else STORE_BYTES
    return max(SMALLEST_STORE_BYTES, min(STORE_BYTES, free * 3 // 4))
