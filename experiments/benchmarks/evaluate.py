"""Ranking speed: all users rank all items, beside a matrix product and a training round."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from experiments.benchmarks.competitor import open_task
from experiments.benchmarks.meter import metered
from experiments.benchmarks.report import about_run
from experiments.benchmarks.rounds import run_rounds
from experiments.benchmarks.workload import workload
from fedrec.evaluation.evaluate import evaluate
from fedrec.evaluation.scorer import UserScorer
from fedrec.personalization.base import NoPersonalization
from fedrec.runs.log import RoundRecord
from fedrec.training.task import ClientTask

__all__ = ["bench_evaluate"]

PRODUCT = 1 << 26
"""Scores of one product: 256 MiB, more than all of ml-1m."""


def bench_evaluate(
    data: str = "ml-1m",
    personalization: str = "none",
    *,
    repeats: int = 5,
    clients: int | None = None,
    dim: int = 32,
    say: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Measure on one core, all in turn, after each round of a serial run.

    ``evaluate``: masking, ranks and every metric of the default for every user. ``model``: the
    same of the model without its personalization. ``mm``: a float32 ``torch.mm`` of the users'
    vectors and the table, in as few products as `PRODUCT` allows. ``train``: a round of all
    clients, by the clock; the others are CPU seconds.

    Args:
        data: ``ml-1m``, ``ml-100k``, ``gowalla`` or ``tiny``.
        personalization: ``none`` or ``plgc``.
        repeats: Measured rounds; medians count.
        clients: Of the data, or None for all.
        dim: Length of the vectors.
        say: Is called with a line about what is being done.

    Returns:
        JSON: ``ratios``, medians in ``seconds``, raw values, where it was measured.
    """
    work = workload(data, personalization, clients=clients, dim=dim)
    (say or (lambda _: None))(work.about)
    raw: dict[str, list[float]] = {"evaluate": [], "model": [], "mm": []}
    with metered() as meter, TemporaryDirectory(prefix="fedrec-bench-") as name:
        folder = Path(name)
        work.write(folder / "work")
        everyone = np.arange(work.split.n_clients, dtype=np.int64)
        everything = open_task(folder / "work", everyone)
        users = torch.from_numpy(everything.local["user"])
        table = torch.from_numpy(np.asarray(everything.params["item"])).T
        settings = work.experiment.evaluate

        model = replace(everything.task, personalization=NoPersonalization())

        def rank(task: ClientTask) -> None:
            score = UserScorer(task, everything.shard, everything.params, everything.local)
            evaluate(everything.shard, score, settings.parsed(), settings.block)

        def multiply() -> None:
            for rows in torch.split(users, max(PRODUCT // table.shape[1], 1)):
                torch.mm(rows, table)

        def measure(record: RoundRecord) -> None:
            torch.set_num_threads(1)
            for key, work_of in (
                ("mm", multiply),
                ("evaluate", lambda: rank(everything.task)),
                ("model", lambda: rank(model)),
            ):
                began = time.thread_time()
                work_of()
                raw[key].append(time.thread_time() - began)

        measured = run_rounds(
            work, folder / "run", meter, {"name": "serial"}, rounds=repeats, on_round=measure
        )
    counted = {key: values[1:] for key, values in raw.items()}
    counted["train"] = [lap.seconds for lap in measured.times.times]
    seconds = {key: median(values) for key, values in counted.items()}
    return {
        "bench": "evaluate",
        "data": work.about,
        "personalization": personalization,
        "repeats": repeats,
        "dim": dim,
        "metrics": list(settings.metrics),
        "ratios": {
            f"evaluate/{key}": seconds["evaluate"] / seconds[key]
            for key in ("model", "mm", "train")
        },
        "seconds": seconds,
        "raw_seconds": counted,
        "pss_gib": measured.peak.bytes / 2**30,
        **about_run(),
    }
