from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from fedrec.cli.progress import Progress
from fedrec.config.experiment import Experiment, load_experiment
from fedrec.runs.log import RoundRecord, Seconds
from fedrec.types import FailedClient


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
        seconds=Seconds(train=0.25),
        evaluation=evaluation,
    )


def shown(experiment: Experiment, records: list[RoundRecord], **options: bool) -> str:
    file = io.StringIO()
    console = Console(
        file=file,
        width=120,
        force_terminal=options.get("terminal", False),
        quiet=options.get("quiet", False),
    )
    with Progress(experiment, console=console) as progress:
        progress.say("ray: [2 workers]")
        for each in records:
            progress.show(each)
    return file.getvalue()


def test_without_a_terminal_each_evaluation_is_one_plain_line(experiment: Experiment) -> None:
    rounds = [record(1), record(2, 0.125), record(3), record(4, 0.25, failed=3)]
    assert shown(experiment, rounds).splitlines() == [
        "ray: [2 workers]",
        "round 2/20  valid ndcg@10 0.1250  loss 0.5000  400 clients/s",
        "round 4/20  valid ndcg@10 0.2500  loss 0.5000  400 clients/s  3 failed",
    ]


def test_on_a_terminal_a_bar_shows_round_score_speed_and_time(experiment: Experiment) -> None:
    text = shown(experiment, [record(5, 0.125), record(6)], terminal=True)
    for part in ("6/20", "valid ndcg@10 0.1250", "400 clients/s", "left", "ray: [2 workers]"):
        assert part in text


def test_quiet_shows_nothing(experiment: Experiment) -> None:
    assert shown(experiment, [record(5, 0.125)], quiet=True) == ""
    assert shown(experiment, [record(5, 0.125)], quiet=True, terminal=True) == ""


def test_a_run_without_rounds_shows_no_bar(experiment: Experiment) -> None:
    assert shown(experiment, []) == "ray: [2 workers]\n"


@pytest.mark.parametrize("width", [32, 40, 60, 80, 120, 200])
def test_the_bar_fits_any_terminal_and_the_round_is_whole(
    experiment: Experiment, width: int
) -> None:
    file = io.StringIO()
    console = Console(file=file, width=width, force_terminal=True, color_system=None)
    with Progress(experiment, console=console) as progress:
        progress.show(record(20, 0.125))
    text = re.sub("\x1b.*?[A-Za-z]", "", file.getvalue())
    lines = [line for line in re.split("[\r\n]", text) if "left" in line]
    assert all(re.match(r"round +\d+/20 ", line) for line in lines)
    assert max(map(len, lines)) <= width
    assert ("valid ndcg@10 0.1250" in lines[-1]) == (width >= 60)
    assert "loss" in lines[-1] or width < 120


def test_a_baseline_has_no_round(experiment: Experiment) -> None:
    assert shown(experiment, [record(0, 0.125)]) == (
        "ray: [2 workers]\nfitted  valid ndcg@10 0.1250\n"
    )
