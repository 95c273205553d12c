"""The studies: all strategies get as many trials, each a valid experiment; Holm's procedure."""

import pandas as pd
import pytest

from experiments.studies.attacks import holm
from experiments.studies.presets import FOLDER, trials_of
from experiments.studies.tables import markdown
from fedrec.config.experiment import load_experiment

NAMES = sorted(path.stem for path in FOLDER.iterdir())


@pytest.mark.parametrize("name", NAMES)
def test_a_strategy_gets_six_different_trials(name: str) -> None:
    trials = [load_experiment(FOLDER / f"{name}.yaml", trial) for trial in trials_of(name)]
    assert len({trial.to_yaml() for trial in trials}) == 6


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
