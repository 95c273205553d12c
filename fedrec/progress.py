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
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bar

from fedrec.config import Experiment
from fedrec.runlog import RoundRecord

__all__ = ["Progress"]


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
                BarColumn(),
                TextColumn("{task.description}"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
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
        if self._bar is not None:
            if self._task is None:  # the clock starts with the first round, not with the engine
                self._task = self._bar.add_task("", total=self._rounds)
            self._bar.update(
                self._task, completed=record.round, description=self._description(record)
            )
        elif record.evaluation is not None:
            self.say(f"round {record.round}/{self._rounds}  {self._description(record)}")

    def _description(self, record: RoundRecord) -> str:
        parts = []
        if not math.isnan(self._score):
            parts.append(f"valid {self._metric} {self._score:.4f}")
        if record.loss is not None:
            parts.append(f"loss {record.loss:.4f}")
        if record.clients and record.seconds.train:
            parts.append(f"{record.clients / record.seconds.train:,.0f} clients/s")
        if record.failures:
            parts.append(f"{len(record.failures)} failed")
        return "  ".join(parts)
