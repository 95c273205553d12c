"""Candidates against the clock: one process per core, all starting each round together."""

import multiprocessing
import os
import time
import traceback
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from queue import Empty
from statistics import median
from typing import Any

import numpy as np

from experiments.benchmarks.competitor import Competitor, open_task
from fedrec.errors import EngineError
from fedrec.types import IntArray

__all__ = ["THREADS", "RoundTime", "RoundTimes", "deal", "time_competitor"]

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
PAUSE = 1.0


@dataclass(frozen=True, slots=True)
class RoundTime:
    """One round.

    Args:
        seconds: wall time, until the last process was done.
        cpu: seconds of CPU of all processes.
    """

    seconds: float
    cpu: float


@dataclass(frozen=True, slots=True)
class RoundTimes:
    """The measured rounds of one competitor.

    Args:
        clients: trained in each round.
        times: the rounds, without the warm-up.
    """

    clients: int
    times: tuple[RoundTime, ...]

    @property
    def seconds(self) -> float:
        """Median wall time of a round."""
        return median(lap.seconds for lap in self.times)

    @property
    def rate(self) -> float:
        """Clients per second, by the median."""
        return self.clients / self.seconds

    @property
    def cpu_rate(self) -> float | None:
        """Clients per second of CPU, by the median; None where CPU time cannot be read."""
        cpu = median(lap.cpu for lap in self.times)
        return self.clients / cpu if cpu > 0 else None

    def to_json(self) -> dict[str, Any]:
        """Medians and raw values."""
        return {
            "clients": self.clients,
            "seconds": self.seconds,
            "clients_per_second": self.rate,
            "clients_per_cpu_second": self.cpu_rate,
            "raw_seconds": [lap.seconds for lap in self.times],
            "raw_cpu_seconds": [lap.cpu for lap in self.times],
        }


def deal(lengths: IntArray, parts: int) -> tuple[IntArray, ...]:
    """Clients dealt out so that the parts finish together: by length, there and back.

    Args:
        lengths: int64 [c], positives of each client.
        parts: How many parts.

    Returns:
        Sorted client ids of each part; all together each client once.
    """
    order = np.argsort(-lengths, kind="stable")
    turn = np.arange(len(order)) % (2 * parts)
    part = np.minimum(turn, 2 * parts - 1 - turn)
    return tuple(np.sort(order[part == number]).astype(np.int64) for number in range(parts))


def time_competitor(
    competitor: str, folder: Path, parts: Sequence[IntArray], rounds: int
) -> RoundTimes:
    """Let a competitor train, one process for each part, one thread each.

    Args:
        competitor: ``module:class``, a `Competitor`.
        folder: What `experiments.benchmarks.workload.Workload.write` wrote.
        parts: The clients of each process.
        rounds: Measured rounds; one more comes before them.

    Raises:
        EngineError: If a process fails.
    """
    context = multiprocessing.get_context("spawn")
    barrier, queue = context.Barrier(len(parts)), context.Queue()
    processes = [
        context.Process(
            target=_run, args=(competitor, str(folder), part, rounds, barrier, queue), daemon=True
        )
        for part in parts
    ]
    former = {name: os.environ.get(name) for name in THREADS}
    os.environ.update(dict.fromkeys(THREADS, "1"))
    try:
        for process in processes:
            process.start()
        reports = list(_collect(processes, queue))
    finally:
        for name, value in former.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
        for process in processes:
            process.terminate()
            process.join()
    times = []
    for number in range(rounds):
        begins, ends, cpus = zip(*(times[number] for times in reports), strict=True)
        times.append(RoundTime(max(ends) - min(begins), sum(cpus)))
    return RoundTimes(sum(len(part) for part in parts), tuple(times))


Times = list[tuple[float, float, float]]


def _collect(processes: Sequence[Any], queue: Any) -> Iterable[Times]:
    waiting = len(processes)
    while waiting:
        try:
            times, error = queue.get(timeout=PAUSE)
        except Empty:
            dead = [process for process in processes if process.exitcode not in (None, 0)]
            if dead:
                raise EngineError(
                    f"a process of the bench broke off with exit code {dead[0].exitcode}; "
                    "lower --clients if the memory is short"
                ) from None
            continue
        if error:
            failure = EngineError(f"a competitor failed: {error.strip().splitlines()[-1]}")
            failure.add_note(error)
            raise failure
        waiting -= 1
        yield times


def _run(
    competitor: str, folder: str, part: IntArray, rounds: int, barrier: Any, queue: Any
) -> None:
    try:
        import torch

        torch.set_num_threads(1)
        module, _, name = competitor.partition(":")
        opened: Competitor = getattr(import_module(module), name)(open_task(Path(folder), part))
        opened.round(1)
        times: Times = []
        for number in range(2, rounds + 2):
            barrier.wait()
            began, cpu = time.perf_counter(), time.process_time()
            opened.round(number)
            times.append((began, time.perf_counter(), time.process_time() - cpu))
        queue.put((times, ""))
    except BaseException:
        barrier.abort()
        queue.put(([], traceback.format_exc()))
