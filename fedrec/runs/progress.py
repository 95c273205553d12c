"""Show a run while it runs: a bar on a terminal or in a notebook, plain lines elsewhere."""

from __future__ import annotations

import time
from importlib.util import find_spec
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, SpinnerColumn, TaskID, TextColumn
from rich.progress import Progress as Bar
from rich.table import Column

from fedrec.config.experiment import Experiment
from fedrec.runs.log import RoundRecord

__all__ = ["Progress"]


class Progress:
    """Shows the rounds of one run on stderr.

    Clients per second are clients trained per second of training, over the rounds shown so far;
    evaluation is not counted. The result and the report count them in the same way.

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
        self._every = experiment.evaluate.every
        self._limits = experiment.rounds
        self._score: float | None = None
        self._best: float | None = None
        self._evaluations_without_better = 0
        self._clients, self._seconds = 0, 0.0
        self._began: tuple[int, float] | None = None
        self._bar: Bar | None = None
        self._task = TaskID(0)

    def __enter__(self) -> Self:
        if self._console.quiet or not _can_draw(self._console):
            return self
        counter = f"round {self._limits.count}/{self._limits.count}"
        self._bar = Bar(
            SpinnerColumn("line"),  # moves while a worker starts or a round is evaluated
            TextColumn("{task.fields[counter]}", table_column=_column(min_width=len(counter))),
            BarColumn(None, table_column=_column(ratio=1, max_width=36)),
            TextColumn("{task.description}", table_column=_column(ratio=4)),
            TextColumn("{task.fields[left]}", table_column=_column()),
            console=self._console,
            transient=True,
            expand=True,
        )
        self._task = self._bar.add_task("starting", total=None, counter="", left="")
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
        """Print a line, above the bar where there is one."""
        self._console.print(text, markup=False, highlight=False)

    def show(self, record: RoundRecord) -> None:
        """Show one round; without a bar, only a round with an evaluation."""
        self._clients += record.clients
        self._seconds += record.seconds.train
        self._note(record.score("valid", self._metric))
        if record.round == 0:  # the only one of a baseline, which trains no clients
            self.say(f"fitted  {self._scores()}")
        elif self._bar is not None:
            self._bar.update(
                self._task,
                total=self._limits.count,
                completed=record.round,
                counter=f"round {record.round}/{self._limits.count}",
                description=self._description(record),
                left=self._time_left(record.round),
            )
        elif record.evaluation is not None:
            self.say(f"round {record.round}/{self._limits.count}  {self._description(record)}")

    def _note(self, score: float | None) -> None:
        """Remember a validation score and for how many evaluations none was better."""
        if score is None:
            return
        self._score = score
        better = self._best is None or score > self._best
        self._best = score if better else self._best
        self._evaluations_without_better = 0 if better else self._evaluations_without_better + 1

    def _time_left(self, number: int) -> str:
        """Return the time to the last round; with patience, also to the first possible end."""
        now = time.monotonic()
        if self._began is None:  # the clock starts with the first round, not with the engine
            self._began = (number, now)
        done = number - self._began[0]
        if not done:
            return ""
        rounds = self._limits.count - number
        seconds = (now - self._began[1]) / done
        latest = f"{_minutes(seconds * rounds)} left"
        if self._limits.patience is None:
            return latest
        evaluations = self._limits.patience - self._evaluations_without_better
        soonest = max(evaluations, 0) * self._every - number % self._every
        earliest = _minutes(seconds * min(max(soonest, 0), rounds))
        return latest if latest.startswith(earliest) else f"{earliest} to {latest}"

    def _scores(self) -> str:
        return "" if self._score is None else f"valid {self._metric} {self._score:.4f}"

    def _description(self, record: RoundRecord) -> str:
        """Return what is known of a round, the most important first: the rest may be cut."""
        texts = [
            self._scores(),
            f"{len(record.failures)} failed" if record.failures else "",
            f"{self._clients / self._seconds:,.0f} clients/s" if self._seconds else "",
            "" if record.loss is None else f"loss {record.loss:.4f}",
        ]
        return "  ".join(filter(None, texts))


def _can_draw(console: Console) -> bool:
    """Return whether a bar can be redrawn: on a terminal, or in a notebook with widgets."""
    if console.is_jupyter:
        return find_spec("ipywidgets") is not None
    return console.is_terminal and not console.is_dumb_terminal


def _column(**options: int) -> Column:
    return Column(
        no_wrap=True,
        overflow="ellipsis",
        min_width=options.get("min_width"),
        max_width=options.get("max_width"),
        ratio=options.get("ratio"),
    )


def _minutes(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
