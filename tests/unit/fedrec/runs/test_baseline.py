"""A baseline is tuned on validation alone, and its run folder says how."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fedrec
from fedrec.baselines.base import Baseline
from fedrec.config.experiment import Experiment
from fedrec.data.catalogue import Catalogue
from fedrec.errors import ConfigError
from fedrec.types import Split

METRIC = "ndcg@5"


def experiment(model: Any, **data: Any) -> Experiment:
    return Experiment.model_validate(
        {
            "data": {"name": "synthetic", "users": 40, "items": 30, "taste_groups": 2, **data},
            "model": model,
            "evaluate": {"metrics": [METRIC, "mrr"]},
        }
    )


def test_the_best_setting_on_validation_is_reported_and_kept(tmp_path: Path) -> None:
    done = fedrec.run(experiment({"name": "itemknn", "shrink": 10.0}), out=tmp_path / "run")
    tuning = done.result["tuning"]
    assert tuning["tuned"] == ["neighbours"]
    assert {tried["shrink"] for tried in tuning["tried"]} == {10.0}
    best = max(tuning["tried"], key=lambda tried: tried["valid"])
    assert tuning["settings"]["neighbours"] == best["neighbours"]
    assert done.result["metrics"]["valid"][METRIC] == pytest.approx(best["valid"])
    # The folder holds the choice, so that it recommends without tuning again.
    chosen = done.experiment.model
    assert chosen.model_dump()["neighbours"] == best["neighbours"]
    again = fedrec.run(done.experiment, out=tmp_path / "again")
    assert again.result["metrics"] == done.result["metrics"]
    assert again.result["tuning"]["tuned"] == []


@pytest.mark.parametrize(
    ("model", "data", "why"),
    [
        ({"name": "ease", "tune": False}, {}, "model.tune is false"),
        ("ease", {"split": {"name": "ratio", "valid": 0}}, "the split has no validation items"),
    ],
)
def test_what_is_not_tuned_says_so(
    model: Any, data: dict[str, Any], why: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    done = fedrec.run(experiment(model, **data), out=tmp_path / "run")
    assert done.result["tuning"]["untuned"] == why
    assert f"ease: is untuned, because {why}" in caplog.text


@pytest.mark.parametrize("name", ["popularity", "random"])
def test_a_baseline_without_settings_has_nothing_to_tune(name: str, tmp_path: Path) -> None:
    assert "tuning" not in fedrec.run(experiment(name), out=tmp_path / "run").result


class Odd(Baseline):
    """A baseline of somebody's own, with a mistake."""

    gives: str = "narrow"

    def fit(self, split: Split, seed: int, catalogue: Catalogue | None = None) -> Any:
        wide = split.n_items + {"narrow": -1, "wide": 5}.get(self.gives, 0)
        return None if self.gives == "nothing" else lambda users: np.zeros((len(users), wide))


@pytest.mark.parametrize(
    ("gives", "said"),
    [
        ("nothing", "fit returned NoneType, expected a function"),
        ("narrow", r"scores have shape \(40, 29\), expected \(40, 30\)"),
        ("wide", r"scores have shape \(40, 35\), expected \(40, 30\)"),
    ],
)
def test_a_baseline_with_a_mistake_is_named(gives: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=said):
        fedrec.run(experiment(Odd(gives=gives)), out=tmp_path / "run")
