"""The studies: all strategies get as many trials, each a valid experiment; Holm's procedure."""

from pathlib import Path

import pandas as pd
import pytest

from experiments.studies.attacks import holm
from experiments.studies.presets import FOLDER, trials_of
from experiments.studies.tables import markdown
from experiments.tune import one
from fedrec.config.experiment import load_experiment

NAMES = sorted(path.stem for path in FOLDER.iterdir())


@pytest.mark.parametrize("name", NAMES)
def test_a_strategy_gets_six_different_trials(name: str) -> None:
    trials = [load_experiment(FOLDER / f"{name}.yaml", trial) for trial in trials_of(name)]
    assert len({trial.to_yaml() for trial in trials}) == 6


def test_a_trial_is_found_where_it_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Variables in a setting are expanded in the experiment, and not in the name of its folder."""
    monkeypatch.setenv("PLACE", str(tmp_path))
    lines = [f"{user},{item}" for user in range(6) for item in range(user, user + 5)]
    (tmp_path / "ratings.csv").write_text("user,item\n" + "\n".join(lines) + "\n")
    config = tmp_path / "short.yaml"
    config.write_text("{data: synthetic, rounds: {count: 1}, evaluate: {metrics: [ndcg@2]}}")
    trial = ("data={name: csv, path: '${PLACE}/ratings.csv'}",)
    out = tmp_path / "out"
    results = [one(str(config), trial, 0, str(out)) for _ in range(2)]
    assert results[0] == results[1]
    assert [path.parent.parent for path in out.rglob("result.json")] == [out]


def test_holm_rejects_until_the_first_that_stays() -> None:
    """The bounds are .05 / 4, .05 / 3, .05 / 2 and .05; behind one that stays, all stay."""
    p = pd.Series({"a": 0.03, "b": 0.01, "c": 0.018, "d": 0.02})
    assert holm(p).to_dict() == {"a": False, "b": True, "c": False, "d": False}
    assert holm(p / 10).all()


def test_a_table_is_markdown() -> None:
    frame = pd.DataFrame({"name": ["a", "b"], "value": [1, None]})
    assert markdown(frame).splitlines() == [
        "| name | value |",
        "| --- | --- |",
        "| a | 1.0 |",
        "| b |  |",
    ]
