import io
import logging
import re

import pytest
from rich.console import Console

from fedrec.config.experiment import Experiment, load_experiment
from fedrec.runs.log import RoundRecord, Seconds
from fedrec.runs.progress import Progress
from fedrec.types import FailedClient

LOG = logging.getLogger("fedrec")


@pytest.fixture
def experiment() -> Experiment:
    return load_experiment({"data": "synthetic", "rounds": {"count": 20}})


def record(number: int, score: float | None = None, failed: int = 0) -> RoundRecord:
    evaluation = None if score is None else {"mixed": {"valid": {"ndcg@10": score}}}
    return RoundRecord(
        round=number,
        clients=100,
        failures=tuple(FailedClient(client=str(k), reason="gone") for k in range(failed)),
        loss=0.5,
        seconds=Seconds(train=0.25 if number < 4 else 0.05, evaluate=7.0),
        evaluation=evaluation,
    )


def shown(
    experiment: Experiment,
    records: list[RoundRecord],
    terminal: bool = False,
    quiet: bool = False,
    width: int = 120,
) -> str:
    """What is drawn, without the codes that move the cursor."""
    file = io.StringIO()
    console = Console(
        file=file, width=width, force_terminal=terminal, color_system=None, soft_wrap=True
    )
    level = logging.ERROR if quiet else logging.INFO
    with Progress(experiment, level, console=console) as progress:
        logging.getLogger("fedrec").info("ray: [2 workers]")
        for each in records:
            progress.show(each)
    return re.sub("\x1b.*?[A-Za-z]", "", file.getvalue())


def test_without_a_terminal_each_evaluation_is_one_plain_line(experiment: Experiment) -> None:
    rounds = [record(1), record(2, 0.125), record(3), record(4, 0.25, failed=3)]
    assert shown(experiment, rounds).splitlines() == [
        "ray: [2 workers]",
        "round 2/20  valid ndcg@10 0.1250  400 clients/s  loss 0.5000",
        "round 4/20  valid ndcg@10 0.2500  3 failed  500 clients/s  loss 0.5000",
    ], "clients per second of training, over all rounds"


def test_the_rate_counts_only_what_this_process_trained(experiment: Experiment) -> None:
    console = Console(file=io.StringIO(), width=120)
    with Progress(experiment, console=console) as progress:
        progress.follow([record(1), record(2, 0.5)])
        for each in (record(2, 0.5), record(5, 0.75)):
            progress.show(each)
    assert isinstance(console.file, io.StringIO)
    first, second = console.file.getvalue().splitlines()
    assert "clients/s" not in first
    assert "2000 clients/s" in second.replace(",", "")


def test_on_a_terminal_a_bar_moves_from_the_start(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    assert "starting" in shown(experiment, [], terminal=True)
    text = shown(experiment, [record(5, 0.125), record(6)], terminal=True)
    for fragment in ("round 6/20", "valid ndcg@10 0.1250", "clients/s", "left", "ray: [2 workers]"):
        assert fragment in text


def test_the_time_left_knows_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """At 10 s a round, evaluated every second, stopped after 2 evaluations without a better one."""
    sections = {"rounds": {"count": 20, "patience": 2}, "evaluate": {"every": 2}}
    experiment = load_experiment({"data": "synthetic", **sections})
    monkeypatch.setenv("TERM", "xterm")
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr("fedrec.runs.progress.time.monotonic", lambda: next(clock))
    rounds = [record(1), record(2, 0.5), record(3), record(4, 0.4)]
    assert "0:00:20 to 0:02:40 left" in shown(experiment, rounds, terminal=True)


def test_quiet_shows_nothing(experiment: Experiment) -> None:
    for terminal in (True, False):
        assert shown(experiment, [record(5, 0.125)], terminal, quiet=True) == ""


def test_a_terminal_that_cannot_move_its_cursor_gets_lines(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "dumb")
    assert shown(experiment, [record(5)], terminal=True) == "ray: [2 workers]\n"


@pytest.mark.parametrize("width", [50, 60, 80, 120, 200])
def test_the_bar_fits_any_terminal_and_the_round_is_whole(
    experiment: Experiment, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    text = shown(experiment, [record(19, 0.125), record(20, 0.125)], terminal=True, width=width)
    lines = [line for line in re.split("[\r\n]", text) if "/20" in line]
    assert all("round 20/20" in line for line in lines)
    assert max(map(len, lines)) <= width
    assert ("valid ndcg@10 0.1250" in lines[-1]) == (width >= 60)
    assert "loss" in lines[-1] or width < 120


def test_a_baseline_has_no_round(experiment: Experiment) -> None:
    assert shown(experiment, [record(0, 0.125)]) == (
        "ray: [2 workers]\nfitted  valid ndcg@10 0.1250\n"
    )


@pytest.mark.parametrize("level", [logging.INFO, logging.WARNING, logging.ERROR])
def test_lines_are_shown_by_level_and_handed_on(experiment: Experiment, level: int) -> None:
    console, said = Console(file=io.StringIO(), width=120), list[str]()
    before = LOG.level
    with Progress(experiment, level, on_line=said.append, console=console):
        LOG.info("data")
        LOG.warning("no effect")
    LOG.warning("afterwards")
    assert said == ["data", "warning: no effect"]
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue().splitlines()
    assert shown == said[{logging.INFO: 0, logging.WARNING: 1, logging.ERROR: 2}[level] :]
    assert LOG.level == before


def test_a_bar_shows_how_far_an_encoding_is(experiment: Experiment) -> None:
    for terminal in (True, False):
        file = io.StringIO()
        console = Console(file=file, width=120, force_terminal=terminal, color_system=None)
        with Progress(experiment, console=console) as progress:
            for done in (0, 1200, 3706):
                progress.encode("text", done, 3706)
                progress._bar.refresh()
        assert ("1,200/3,706 items" in file.getvalue()) == terminal
        assert ("encoding features.text" in file.getvalue()) == terminal
        assert "3,706/3,706" not in file.getvalue()
