from pathlib import Path
from typing import Any

import pytest

from fedrec.config.experiment import Experiment, load_experiment
from fedrec.data.prepare import open_split, prepare
from fedrec.runs.prepare import choose_engine, training_seconds
from fedrec.types import Split

DATA = {"name": "synthetic", "users": 60, "items": 80, "taste_groups": 2}


@pytest.fixture
def split(tmp_path: Path) -> Split:
    base = load_experiment({"data": DATA})
    return open_split(prepare(base.data, base.clients))


def experiment(**sections: Any) -> Experiment:
    return load_experiment({"data": DATA, "train": {"backend": "torch"}, **sections})


def test_ray_is_chosen_where_it_saves_more_than_its_start(
    split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedrec.flower.launch.cores", lambda: 2)
    for rounds, name in ((10, "serial"), (10**6, "ray")):
        chosen, reason = choose_engine(experiment(rounds={"count": rounds}), split, "flat")
        assert (chosen.name, "one core" in reason) == (name, True)
    monkeypatch.setattr("fedrec.flower.launch.cores", lambda: 1)
    assert choose_engine(experiment(rounds={"count": 10**6}), split, "flat")[0].name == "serial"


@pytest.mark.parametrize(
    ("engine", "name"),
    [({"workers": 2}, "ray"), ({"address": "auto"}, "ray"), ("serial", "serial"), ("ray", "ray")],
)
def test_what_is_set_counts(split: Split, engine: Any, name: str) -> None:
    assert choose_engine(experiment(engine=engine), split, "flat")[0].name == name


def test_work_grows_with_rows_and_rounds(split: Split) -> None:
    base = training_seconds(experiment(rounds={"count": 100, "cohort_size": "all"}), split, "flat")
    longer = experiment(rounds={"count": 200, "cohort_size": "all"})
    assert training_seconds(longer, split, "flat") == pytest.approx(2 * base)
    smaller = experiment(rounds={"count": 100, "cohort_fraction": 0.5})
    assert training_seconds(smaller, split, "flat") == pytest.approx(base / 2)


def test_what_runs_is_described(split: Split) -> None:
    engine, line = choose_engine(experiment(engine="serial"), split, "flat")
    assert line == "engine serial (as configured), executor flat"
    assert (engine.name, engine.workers, engine.nodes) == ("serial", 1, 1)
