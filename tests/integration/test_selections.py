"""Runs whose cohorts are chosen otherwise: on any number of nodes, after a stop, and when empty."""

import logging
from pathlib import Path
from typing import Any

import pytest

from fedrec.errors import ConfigError
from fedrec.runs.log import read_log
from strategies.selections import SELECTIONS
from strategies.selections.base import REPORTED
from tests.integration.stopped_runs import go, go_on, outcome, stopped

OTHERS = sorted(set(SELECTIONS) - {"uniform"})


def rounds(selection: Any, **more: Any) -> dict[str, Any]:
    return {"count": 6, "cohort_fraction": None, "cohort_size": 5, "selection": selection, **more}


def nodes(n: int) -> dict[str, Any]:
    return {"name": "serial", "nodes": n}


@pytest.mark.parametrize("name", OTHERS)
def test_cohorts_are_the_same_on_any_nodes_and_after_a_stop(name: str, tmp_path: Path) -> None:
    chosen = rounds(name)
    expected = outcome(go(tmp_path / "one", rounds=chosen, engine=nodes(1)).folder)
    on_nodes = outcome(go(tmp_path / "four", rounds=chosen, engine=nodes(4)).folder)
    assert on_nodes["digest"] == expected["digest"]
    folder = stopped(tmp_path / "stopped", 4, rounds=chosen, engine=nodes(1))
    assert outcome(go_on(folder).folder) == expected
    other = go(tmp_path / "uniform", rounds=rounds("uniform"), engine=nodes(1)).result
    assert other["digest"] != expected["digest"]


def test_a_round_without_clients_changes_nothing_and_is_evaluated(tmp_path: Path) -> None:
    chosen = {"rounds": rounds("poisson", count=8, cohort_size=1), "evaluate": {"every": 1}}
    folder = go(tmp_path / "run", **chosen).folder
    log = read_log(folder / "rounds.jsonl")
    empty = [each.round for each in log if each.clients == 0]
    later = [round for round in empty if round > 1]
    assert later and len(empty) < len(log)
    for record in (log[round - 1] for round in empty):
        assert (record.loss, record.bytes.up, record.bytes.down) == (None, 0, 0)
        assert record.evaluation is not None
    for round in later:
        assert log[round - 1].evaluation == log[round - 2].evaluation
    ended = stopped(tmp_path / "stopped", later[0], **chosen)
    assert outcome(go_on(ended).folder) == outcome(folder)


@pytest.mark.parametrize("name", SELECTIONS)
def test_what_clients_report_is_said_once(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "fedrec"):
        go(tmp_path / "run", rounds=rounds(name, count=2))
    said = [line for line in caplog.messages if line.startswith("rounds.selection: clients report")]
    expected = [REPORTED[need] for need in SELECTIONS[name].needs]
    assert [line.partition("report ")[2] for line in said] == expected


@pytest.mark.parametrize(
    ("selection", "said"),
    [
        ("lost", r"rounds\.selection: 'lost' is not in the table of selections .*'loss'"),
        ({"name": "loss", "candidates": 4}, r"candidates: 4, expected from 5.*to 24, all clients"),
        ({"name": "loss", "candidates": 25}, r"candidates: 25, expected from 5.*to 24"),
        ({"name": "activity", "alpha": -1}, r"rounds\.selection\.alpha: expected 0 or more"),
        (
            {"name": "fedrec.models.mf:MatrixFactorization"},
            r"rounds\.selection: MatrixFactorization is not a selection",
        ),
    ],
)
def test_a_bad_selection_is_one_line(selection: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=said) as error:
        go(tmp_path / "run", rounds=rounds(selection))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", OTHERS)
def test_a_selection_of_all_clients_has_no_effect(name: str, tmp_path: Path) -> None:
    result = go(tmp_path / "run", rounds=rounds(name, count=1, cohort_size="all")).result
    said = f"rounds.selection.name: {name} has no effect: all clients take part"
    assert any(line.startswith(said) for line in result["warnings"])
