"""Show a run while it runs: a bar on a terminal or in a notebook, plain lines elsewhere."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from importlib.util import find_spec
from typing import Any, Self, TypeAlias

from rich.console import Console
from rich.progress import BarColumn, SpinnerColumn, TextColumn
from rich.progress import Progress as Bar
from rich.table import Column

from fedrec.config.experiment import Experiment
from fedrec.errors import ConfigError
from fedrec.plugins import shown
from fedrec.runs.log import RoundRecord
from fedrec.runs.tally import Tally

LOG = logging.getLogger("fedrec")
# Is called with a line about what is being done.
OnLine: TypeAlias = Callable[[str], None]
# Is called with the record of each round.
OnRound: TypeAlias = Callable[[RoundRecord], None]


class Progress(logging.Handler):
    """Shows on stderr what the library logs and the rounds of one run, and hands both on.

    Clients per second are clients trained per second of training, over the rounds that this process
    has trained; evaluation is not counted. The result and the report count all rounds.

    Args:
        experiment: What is run.
        level: Which lines are shown, as in `logging`; up from `logging.WARNING`, no rounds are.
        on_round: Is called with the record of each round too.
        on_line: Is called with each line too.
        console: Where to show; None: stderr.

    Attributes:
        fleet: What is said of devices beside the scores.
    """

    def __init__(
        self,
        experiment: Experiment,
        level: int = logging.INFO,
        on_round: OnRound | None = None,
        on_line: OnLine | None = None,
        console: Console | None = None,
    ) -> None:
        super().__init__()
        self.fleet = ""
        for name, function in (("on_round", on_round), ("say", on_line)):
            if function is not None and not callable(function):
                raise ConfigError(f"{name}: expected a function, got {shown(function)}")
        self._lines, self._shows_rounds = level, level <= logging.INFO
        self._console = console or Console(stderr=True, soft_wrap=True)
        self._on_round, self._on_line = on_round, on_line
        self._metric = experiment.evaluate.chooser
        self._every, self._limits = experiment.evaluate.every, experiment.rounds
        self._tally = Tally(self._metric)
        self._followed = 0
        self._clients, self._seconds = 0, 0.0
        self._scores = ""
        self._began: tuple[int, float] | None = None
        self._bar = Bar(
            SpinnerColumn("line"),  # moves while a worker starts or a round is evaluated
            TextColumn(
                "{task.fields[counter]}",
                table_column=Column(min_width=len(self._counter(self._limits.count)), no_wrap=True),
            ),
            BarColumn(None, table_column=Column(ratio=1, max_width=36, no_wrap=True)),
            TextColumn("{task.description}", table_column=Column(ratio=4, no_wrap=True)),
            TextColumn("{task.fields[left]}", table_column=Column(no_wrap=True)),
            console=self._console,
            transient=True,
            expand=True,
            disable=not (self._shows_rounds and _can_draw(self._console)),
        )
        self._task = self._bar.add_task("starting", total=None, counter="", left="")

    def __enter__(self) -> Self:
        self._level_before = LOG.level
        if self._shows_rounds or self._on_line is not None:
            LOG.setLevel(logging.INFO)
        elif LOG.hasHandlers():  # the program that uses the library shows what is logged
            self._lines = logging.CRITICAL
        LOG.addHandler(self)
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
        LOG.removeHandler(self)
        LOG.setLevel(self._level_before)

    def emit(self, record: logging.LogRecord) -> None:
        """Show a line, above the bar where there is one."""
        text = "warning: " * (record.levelno == logging.WARNING) + record.getMessage()
        if record.levelno >= self._lines:
            self._print(text)
        if self._on_line is not None:
            self._on_line(text)

    def _print(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False)

    def encode(self, name: str, done: int, total: int) -> None:
        """Show how many items of a feature are encoded, where there is a bar."""
        text = "starting" if done == total else f"encoding features.{name}"
        counter = "" if done == total else f"{done:,}/{total:,} items"
        self._bar.update(
            self._task, total=total, completed=done % total, counter=counter, description=text
        )

    def follow(self, rounds: Sequence[RoundRecord]) -> None:
        """Know the rounds of a process before this one; the last may be shown again."""
        self._followed = rounds[-1].round
        for record in rounds[:-1]:
            self._tally.add(record)

    def show(self, record: RoundRecord | Mapping[str, Any]) -> None:
        """Show one round; without a bar, only a round with an evaluation."""
        record = RoundRecord.model_validate(record)
        self._tally.add(record)
        if record.round > self._followed:
            self._clients += record.clients
            self._seconds += record.seconds.train
        score = record.score("valid", self._metric)
        if score is not None:
            self._scores = f"valid {self._metric} {score:.4f}"
        self._bar.update(
            self._task,
            total=self._limits.count,
            completed=record.round,
            counter=self._counter(record.round),
            description=self._description(record),
            left=self._time_left(record.round),
        )
        if self._shows_rounds and record.evaluation is not None:
            if record.round == 0:  # the only one of a baseline, which trains no clients
                self._print(f"fitted  {self._scores}")
            elif self._bar.disable:
                self._print(f"{self._counter(record.round)}  {self._description(record)}")
        if self._on_round is not None:
            self._on_round(record)

    def _counter(self, number: int) -> str:
        return f"round {number}/{self._limits.count}"

    def _time_left(self, number: int) -> str:
        """Return the time to the last round; with patience, also to the first possible end."""
        now = time.monotonic()
        if self._began is None:  # the clock starts with the first round, not with the engine
            self._began = (number, now)
        done, rounds = number - self._began[0], self._limits.count - number
        if not done:
            return ""
        seconds = (now - self._began[1]) / done
        latest = f"{timedelta(seconds=round(seconds * rounds))} left"
        if self._limits.patience is None:
            return latest
        evaluations = self._limits.patience - self._tally.stale
        soonest = max(evaluations * self._every - number % self._every, 0)
        earliest = str(timedelta(seconds=round(seconds * min(soonest, rounds))))
        return latest if latest.startswith(earliest) else f"{earliest} to {latest}"

    def _description(self, record: RoundRecord) -> str:
        """Return what is known of a round, the most important first: the rest may be cut."""
        texts = [
            self._scores,
            f"virtual {_span(record.virtual.seconds)}" if record.virtual else "",
            f"{len(record.failures)} failed" if record.failures else "",
            f"{self._clients / self._seconds:,.0f} clients/s" if self._seconds else "",
            "" if record.loss is None else f"loss {record.loss:.4f}",
            self.fleet,
        ]
        return "  ".join(filter(None, texts))


def _span(seconds: float) -> str:
    """Return a time as text: ``17.3 s``, ``2:05:00``, ``3 days, 2:05:00``."""
    return f"{seconds:.1f} s" if seconds < 60 else str(timedelta(seconds=round(seconds)))


def _can_draw(console: Console) -> bool:
    """Return whether a bar can be redrawn: on a terminal, or in a notebook with widgets."""
    if console.is_jupyter:
        return find_spec("ipywidgets") is not None
    return console.is_terminal and not console.is_dumb_terminal
