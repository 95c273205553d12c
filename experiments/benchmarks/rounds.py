"""Measured rounds of fedrec itself: server app, client app, an engine, messages, state."""

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.benchmarks.meter import Kind, Meter, Peak
from experiments.benchmarks.timing import RoundTime, RoundTimes
from experiments.benchmarks.workload import Workload
from fedrec.config.engine import Engine
from fedrec.flower.launch import launch, resolve_engine
from fedrec.runs.log import RoundRecord

__all__ = ["MeasuredRun", "run_rounds"]


class _Enough(Exception):
    """Ends a run after the last round that is measured, before the evaluation."""


@dataclass(frozen=True, slots=True)
class _Reading:
    seconds: float
    cpu: Mapping[Kind, float]


@dataclass(frozen=True, slots=True)
class MeasuredRun:
    """What a run of some rounds showed.

    Args:
        times: the measured rounds.
        train: seconds of training of all rounds, the warm-up too.
        evaluate: seconds of evaluation, likewise.
        last: the record of the last round.
        peak: memory of all processes.
        cpu: seconds of CPU in the measured rounds, by kind of process.
        start: seconds from the launch to the end of the first round.
    """

    times: RoundTimes
    train: tuple[float, ...]
    evaluate: tuple[float, ...]
    last: RoundRecord
    peak: Peak
    cpu: Mapping[Kind, float]
    start: float


def run_rounds(
    work: Workload,
    folder: Path,
    meter: Meter,
    engine: Mapping[str, Any],
    *,
    rounds: int,
    warm: int = 1,
    evaluate: bool = False,
    on_round: Callable[[RoundRecord], None] | None = None,
) -> MeasuredRun:
    """Run some rounds of all clients.

    Args:
        work: What is trained.
        folder: A new folder for the run.
        meter: Of this process and its children.
        engine: The engine section: ``name``, ``workers``, ``nodes``, ``chunk``.
        rounds: Measured rounds.
        warm: Rounds before them.
        evaluate: Let all clients rank after every round.
        on_round: Is called with each record, between the rounds.

    Raises:
        FedRecError: What the run raised.
    """
    count = warm + rounds + 1
    experiment = work.experiment.model_copy(
        update={
            "rounds": work.experiment.rounds.model_copy(update={"count": count}),
            "evaluate": work.experiment.evaluate.model_copy(
                update={"every": 1 if evaluate else count}
            ),
            "engine": Engine.model_validate(engine),
        }
    )
    Workload(work.about, experiment, work.split).write(folder)
    resolved = resolve_engine(experiment.engine)
    nodes = min(resolved.nodes, work.split.n_clients)
    section = experiment.engine.model_copy(
        update={"nodes": nodes, "workers": min(resolved.workers, nodes)}
    )
    last: RoundRecord | None = None
    train: list[float] = []  # Not the records: a long run is not to grow by what measures it.
    ranked: list[float] = []
    began = time.perf_counter()
    first: list[float] = []
    readings: list[_Reading] = []  # as a record came, and as the round loop went on
    left: list[_Reading] = []

    def read() -> _Reading:
        cpu = meter.cpu()
        cpu["driver"] -= peak.cost
        return _Reading(time.perf_counter(), cpu)

    def observe(values: Mapping[str, Any]) -> None:
        nonlocal last
        first.append(time.perf_counter() - began)
        readings.append(read())
        last = RoundRecord.model_validate(values)
        train.append(last.seconds.train)
        ranked.append(last.seconds.evaluate)
        if on_round is not None:
            on_round(last)
        left.append(read())
        if len(train) >= warm + rounds:
            raise _Enough

    config = {
        "experiment": str(folder / "config.yaml"),
        "out": str(folder),
        "split": str(folder / "split"),
        "engine": resolved.name,
        "workers": str(section.workers),
    }
    places = {"run-dir": str(folder), "data": config["split"]}
    with meter.peak() as peak, suppress(_Enough):
        launch(section, config, observe, node_config=places)
    assert last is not None
    spans = list(zip(left[warm - 1 :], readings[warm:], strict=False))
    wall = sum(after.seconds - before.seconds for before, after in spans)
    spent: dict[Kind, float] = {
        kind: sum(after.cpu[kind] - before.cpu[kind] for before, after in spans)
        for kind in readings[0].cpu
    }
    # Flower's records come late and several at once, so the CPU time is shared out evenly.
    busy = sum(spent.values()) / wall if wall > 0 else 0.0
    times = RoundTimes(
        work.split.n_clients, tuple(RoundTime(took, busy * took) for took in train[warm:])
    )
    return MeasuredRun(times, tuple(train), tuple(ranked), last, peak, spent, first[0])
