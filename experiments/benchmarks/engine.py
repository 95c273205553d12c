"""Training speed: the same work done by fedrec and by others, in one run."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from experiments.benchmarks.meter import GIB, Meter, Peak, metered
from experiments.benchmarks.report import about_run
from experiments.benchmarks.rounds import MeasuredRun, run_rounds
from experiments.benchmarks.timing import RoundTime, RoundTimes, deal, time_competitor
from experiments.benchmarks.workload import Workload, some_clients, workload
from fedrec.training.clients import train_clients
from fedrec.training.initial_values import initial_local

__all__ = ["EngineBench", "bench_engine"]

FLOWER_ACTORS_PER_CORE = (1, 2)
FLOWER_WARM = 3
ALONE = 500
LOADER = 300

LABELS = {
    "batched": "fedrec",
    "alone": "fedrec, one client per chunk",
    "loop": "PyTorch loop",
    "loop_loader": "PyTorch loop with DataLoader",
    "flower_ray": "Flower on Ray, one client per node",
}


@dataclass(frozen=True, slots=True)
class EngineBench:
    """What is measured.

    Args:
        data: ``ml-1m``, ``ml-100k`` or ``tiny``.
        personalization: ``none`` or ``plgc``.
        workers: Cores, for everybody alike.
        repeats: Measured rounds of each; medians count.
        clients: Of the data, or None for all.
        flower_clients: For Flower, which is slow; 0 leaves it out.
        dim: Length of the vectors.
        negatives: Per positive.
    """

    data: str = "ml-1m"
    personalization: str = "none"
    workers: int = 2
    repeats: int = 5
    clients: int | None = None
    flower_clients: int = 200
    dim: int = 32
    negatives: int = 4


def bench_engine(bench: EngineBench, say: Callable[[str], None] | None = None) -> dict[str, Any]:
    """Measure.

    Args:
        bench: What.
        say: Is called with a line about what is being done.

    Returns:
        JSON: ``ratios`` of clients per second, ``cpu_ratios`` of clients per second of CPU (the
        steadier ones where others use the machine too), ``rows`` with medians and raw values, and
        where it was measured.

    Raises:
        FedRecError: If the data is not to be had or a competitor fails.
    """
    speak = say or (lambda _: None)
    steps = count(1)
    total = len(LABELS) - (not bench.flower_clients)

    def begin(key: str) -> None:
        speak(f"{next(steps)} of {total}: {LABELS[key]}")

    work = workload(
        bench.data,
        bench.personalization,
        clients=bench.clients,
        dim=bench.dim,
        negatives=bench.negatives,
    )
    speak(work.about)
    rows: dict[str, dict[str, Any]] = {}
    with metered() as meter, TemporaryDirectory(prefix="fedrec-bench-") as name:
        folder = Path(name)
        begin("batched")
        measured = run_rounds(
            work, folder / "batched", meter, _engine(bench.workers), rounds=bench.repeats
        )
        rows["batched"] = _row("batched", measured.times, measured.peak)
        begin("alone")
        rows["alone"] = _row("alone", _alone(work, bench))
        for key, limit in (("loop", None), ("loop_loader", LOADER)):
            begin(key)
            rows[key] = _compete(key, _limited(work, limit), folder / key, meter, bench)
        if bench.flower_clients:
            begin("flower_ray")
            small = _limited(work, bench.flower_clients)
            rows["flower_ray"] = _flower(small, folder, meter, bench, speak)
    ours = rows["batched"]["clients_per_second"]
    cpu = rows["batched"]["clients_per_cpu_second"]
    return {
        "bench": "engine",
        "data": work.about,
        "personalization": bench.personalization,
        "executor": work.task.executor(),
        "workers": bench.workers,
        "repeats": bench.repeats,
        "dim": bench.dim,
        "negatives": bench.negatives,
        "ratios": {
            f"batched/{key}": ours / row["clients_per_second"]
            for key, row in rows.items()
            if key != "batched"
        },
        "cpu_ratios": {
            f"batched/{key}": cpu / row["clients_per_cpu_second"]
            for key, row in rows.items()
            if key != "batched" and cpu and row["clients_per_cpu_second"]
        },
        "rows": rows,
        "driver_share": _driver_share(measured),
        **about_run(),
    }


def _engine(workers: int) -> dict[str, Any]:
    return {"name": "serial" if workers == 1 else "ray", "workers": workers}


def _limited(work: Workload, count: int | None) -> Workload:
    if count is None or count >= work.split.n_clients:
        return work
    about = f"{work.about}; {count} of its clients"
    return Workload(about, work.experiment, some_clients(work.split, count))


def _row(key: str, times: RoundTimes, peak: Peak | None = None, **more: Any) -> dict[str, Any]:
    row = {"label": LABELS[key], **times.to_json(), **more}
    if peak is not None:
        row["pss_gib"] = peak.bytes / GIB
        row["pss_gib_of"] = {kind: size / GIB for kind, size in peak.of.items()}
    return row


def _compete(
    key: str, work: Workload, folder: Path, meter: Meter, bench: EngineBench
) -> dict[str, Any]:
    competitor = {
        "loop": "experiments.benchmarks.loop:LoopCompetitor",
        "loop_loader": "experiments.benchmarks.loop:LoaderCompetitor",
    }[key]
    work.write(folder)
    parts = deal(work.split.train.lengths, bench.workers)
    with meter.peak() as peak:
        times = time_competitor(competitor, folder, parts, bench.repeats)
    return _row(key, times, peak)


def _alone(work: Workload, bench: EngineBench) -> RoundTimes:
    """One call of the training function for each client, on one core; the rate times the cores."""
    few = _limited(work, ALONE)
    method, n = few.task, few.split.n_clients
    params = method.initial_globals(few.split.n_items)
    shards = [few.split.shard(np.array([client])) for client in range(n)]
    locals_ = [
        {name: initial_local(method.seed, name, spec, s.user_ids) for name, spec in specs.items()}
        for specs in (method.stored_specs(),)
        for s in shards
    ]
    times = []
    for number in range(bench.repeats + 1):
        began, cpu = time.perf_counter(), time.process_time()
        for shard, local in zip(shards, locals_, strict=True):
            train_clients(method, shard, params, local, number + 1, 1)
        took = time.perf_counter() - began
        times.append(RoundTime(took / bench.workers, time.process_time() - cpu))
    return RoundTimes(n, tuple(times[1:]))


def _flower(
    work: Workload, folder: Path, meter: Meter, bench: EngineBench, speak: Callable[[str], None]
) -> dict[str, Any]:
    """The best of some numbers of Flower's actors on the same cores."""
    nodes = work.split.n_clients
    runs: dict[str, MeasuredRun] = {}
    for per_core in FLOWER_ACTORS_PER_CORE:
        share = f"{1 / per_core:g}"
        speak(f"  client_resources: {share} of a core, {nodes} nodes")
        runs[share] = run_rounds(
            work,
            folder / f"flower-{per_core}",
            meter,
            {"name": "flower", "workers": per_core * bench.workers, "nodes": nodes},
            rounds=bench.repeats,
            warm=FLOWER_WARM,
        )
    best = max(runs, key=lambda share: runs[share].times.rate)
    tried = {share: each.times.to_json() for share, each in runs.items()}
    return _row("flower_ray", runs[best].times, runs[best].peak, num_cpus=best, tried=tried)


def _driver_share(measured: MeasuredRun) -> float | None:
    """The driver's share of the CPU time, Ray's daemons left out."""
    ours = measured.cpu["driver"] + measured.cpu["workers"]
    return measured.cpu["driver"] / ours if measured.cpu["workers"] > 0 else None
