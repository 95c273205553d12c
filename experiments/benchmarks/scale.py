"""Time and memory of a round as the number of clients grows."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from experiments.benchmarks.meter import GIB, Meter, metered
from experiments.benchmarks.report import about_run
from experiments.benchmarks.rounds import run_rounds
from experiments.benchmarks.workload import synthetic_workload

__all__ = ["ScaleBench", "bench_scale"]


@dataclass(frozen=True, slots=True)
class ScaleBench:
    """What is measured.

    Args:
        sizes: Numbers of clients, rising.
        items: Size of the catalogue.
        personalizations: ``none``, ``plgc``.
        workers: Numbers of workers; 1 is the serial engine, more are Ray's.
        repeats: Measured rounds of each; medians count.
        per_user: Mean interactions of a user.
        dim: Length of the vectors.
        evaluate: Also let all clients rank after each round; time and memory then count it in.
    """

    sizes: tuple[int, ...] = (1_000, 10_000, 100_000)
    items: int = 50_000
    personalizations: tuple[str, ...] = ("none", "plgc")
    workers: tuple[int, ...] = (1, 2)
    repeats: int = 3
    per_user: float = 30.0
    dim: int = 32
    evaluate: bool = False


def bench_scale(bench: ScaleBench, say: Callable[[str], None] | None = None) -> dict[str, Any]:
    """Measure.

    Args:
        bench: What.
        say: Is called with a line about what is being done.

    Returns:
        JSON: ``exponent``, the slope of log seconds over log clients, and ``pss_gib``, the peak,
        both the worst of all cases; ``speedup_2_workers``, the least at the largest size; None
        where the sizes or workers do not allow it. All of it by case in ``cases``.
    """
    speak = say or (lambda _: None)
    cases: list[dict[str, Any]] = []
    with metered() as meter, TemporaryDirectory(prefix="fedrec-bench-") as name:
        for personalization in bench.personalizations:
            for clients in bench.sizes:
                speak(f"{personalization}: {clients:,} clients")
                folder = Path(name) / f"{personalization}-{clients}"
                cases += _cases(bench, personalization, clients, folder, meter)
    exponents = {
        f"{personalization}, {workers} workers": exponent
        for personalization in bench.personalizations
        for workers in bench.workers
        if (exponent := _exponent(_of(cases, personalization, workers))) is not None
    }
    speedups = {p: _speedup(cases, p) for p in bench.personalizations}
    measured = [each for each in speedups.values() if each is not None]
    return {
        "bench": "scale",
        "items": bench.items,
        "dim": bench.dim,
        "interactions_per_user": bench.per_user,
        "evaluated": bench.evaluate,
        "exponent": max(exponents.values(), default=None),
        "pss_gib": max(case["pss_gib"] for case in cases),
        "speedup_2_workers": min(measured, default=None),
        "exponents": exponents,
        "cpu_exponents": {
            f"{personalization}, {workers} workers": _exponent(
                _of(cases, personalization, workers), "cpu_seconds"
            )
            for personalization in bench.personalizations
            for workers in bench.workers
        },
        "speedups_2_workers": speedups,
        "cases": cases,
        **about_run(),
    }


def _cases(
    bench: ScaleBench, personalization: str, clients: int, folder: Path, meter: Meter
) -> list[dict[str, Any]]:
    began = time.perf_counter()
    work = synthetic_workload(
        clients, bench.items, personalization, per_user=bench.per_user, dim=bench.dim
    )
    prepared = time.perf_counter() - began
    cases = []
    for workers in bench.workers:
        measured = run_rounds(
            work,
            folder / f"workers-{workers}",
            meter,
            {"name": "serial" if workers == 1 else "ray", "workers": workers},
            rounds=bench.repeats,
            evaluate=bench.evaluate,
        )
        ranked = measured.evaluate if bench.evaluate else (0.0,) * len(measured.train)
        times = [sum(pair) for pair in zip(measured.train[1:], ranked[1:], strict=True)]
        cases.append(
            {
                "personalization": personalization,
                "clients": clients,
                "pairs": len(work.split.train.values),
                "workers": workers,
                "seconds": float(np.median(times)),
                "raw_seconds": times,
                "clients_per_second": clients / float(np.median(times)),
                "pss_gib": measured.peak.bytes / GIB,
                "pss_gib_of": {kind: size / GIB for kind, size in measured.peak.of.items()},
                "cpu_seconds": sum(measured.cpu.values()) / bench.repeats,
                "cpu_seconds_of": {k: v / bench.repeats for k, v in measured.cpu.items()},
                "bytes_up": measured.last.bytes.up,
                "bytes_down": measured.last.bytes.down,
                "prepare_seconds": prepared,
                "start_seconds": measured.start,
            }
        )
    return cases


def _of(
    cases: Sequence[dict[str, Any]], personalization: str, workers: int
) -> list[dict[str, Any]]:
    wanted = (personalization, workers)
    return [case for case in cases if (case["personalization"], case["workers"]) == wanted]


def _exponent(cases: Sequence[dict[str, Any]], of: str = "seconds") -> float | None:
    """The slope between the smallest and the largest size; None if there are not two."""
    if len(cases) < 2 or min(case[of] for case in cases) <= 0:
        return None
    first, last = cases[0], cases[-1]
    growth = np.log(last[of] / first[of])
    return float(growth / np.log(last["clients"] / first["clients"]))


def _speedup(cases: Sequence[dict[str, Any]], personalization: str) -> float | None:
    """One worker's time over two workers', at the largest size."""
    one, two = _of(cases, personalization, 1), _of(cases, personalization, 2)
    return one[-1]["seconds"] / two[-1]["seconds"] if one and two else None
