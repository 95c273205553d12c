"""What a run shows while it runs: a bar on a terminal, plain lines elsewhere, or nothing."""

from __future__ import annotations

import math
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bar

from fedrec.config.experiment import Experiment
from fedrec.runs.log import RoundRecord

__all__ = ["Progress"]

DESCRIPTION = 55
BAR = range(4, 40)


class Progress:
    """Shows the rounds of one run on stderr.

    Args:
        experiment: What is run.
        quiet: Show nothing.
        console: Where to; None: stderr.
    """

    def __init__(
        self, experiment: Experiment, quiet: bool = False, console: Console | None = None
    ) -> None:
        self._console = console or Console(stderr=True, quiet=quiet, soft_wrap=True)
        self._metric = experiment.evaluate.metrics[0]
        self._rounds = experiment.rounds.count
        self._score = math.nan
        self._bar: Bar | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        if self._console.is_terminal and not self._console.quiet:
            self._bar = Bar(
                TextColumn("round"),
                MofNCompleteColumn(),
                BarColumn(self._bar_width()),
                TextColumn("{task.description}"),
                TimeRemainingColumn(),
                TextColumn("left"),
                console=self._console,
                transient=True,
            )
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def say(self, text: str) -> None:
        """A line above the bar."""
        self._console.print(text, markup=False, highlight=False)

    def show(self, record: RoundRecord) -> None:
        """Show one round; where there is no terminal, only a round with an evaluation."""
        score = record.score("valid", self._metric)
        if score is not None:
            self._score = score
        if record.round == 0:  # the only one of a baseline, which trains no clients
            self.say(f"fitted  valid {self._metric} {self._score:.4f}")
        elif self._bar is not None:
            if self._task is None:  # the clock starts with the first round, not with the engine
                self._task = self._bar.add_task("", total=self._rounds)
            self._bar.update(
                self._task,
                completed=record.round,
                description=self._description(record, self._room() - self._bar_width()),
            )
        elif record.evaluation is not None:
            self.say(f"round {record.round}/{self._rounds}  {self._description(record)}")

    def _room(self) -> int:
        """Characters that round, time and the gaps leave on a line."""
        counter = 2 * len(str(self._rounds)) + 1
        return self._console.width - len("round   0:00:00 left  ") - counter

    def _bar_width(self) -> int:
        return min(max(self._room() - DESCRIPTION, BAR.start), BAR.stop)

    def _description(self, record: RoundRecord, room: float = math.inf) -> str:
        """What fits of the parts; the most important is found room first."""
        speed = record.clients / record.seconds.train if record.seconds.train else 0
        parts = {
            "score": "" if math.isnan(self._score) else f"valid {self._metric} {self._score:.4f}",
            "loss": "" if record.loss is None else f"loss {record.loss:.4f}",
            "speed": f"{speed:,.0f} clients/s" if speed else "",
            "failed": f"{len(record.failures)} failed" if record.failures else "",
        }
        shown = set()
        for name in ("score", "failed", "speed", "loss"):
            if parts[name] and len(parts[name]) <= room:
                shown.add(name)
                room -= len(parts[name]) + 2
        return "  ".join(text for name, text in parts.items() if name in shown)
