"""Training that diverges stops with the rates that can be the cause; a normal run never does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import fedrec
from fedrec.config.experiment import Experiment
from fedrec.errors import FedRecError, NumericError, RunFolderError
from fedrec.report import markdown
from fedrec.runs.divergence import GROWTH, loss_fault


def experiment(**sections: Any) -> Experiment:
    return Experiment.model_validate(
        {
            "data": {"name": "synthetic", "users": 20, "items": 30, "taste_groups": 2},
            "rounds": {"count": 12},
            "engine": {"name": "serial"},
            **sections,
            "train": {"backend": "torch", **sections.get("train", {})},
        }
    )


@pytest.mark.parametrize(
    ("model", "rate"), [("mf", 1e6), ("pfedrec", 1e30), ("neumf", 1e30), ("sasrec", 1e6)]
)
def test_an_absurd_rate_stops_the_run_and_is_named(model: str, rate: float, tmp_path: Path) -> None:
    rates = {group: {"lr": rate} for group in ("item", "shared", "private")}
    with pytest.raises(NumericError, match=r"^round \d+: training diverged: ") as raised:
        fedrec.run(
            experiment(
                model=model,
                train={"optimizers": rates, "local_epochs": 2},
                strategy={"name": "fedavg", "average": "sum"},
            ),
            out=tmp_path / "run",
        )
    message = str(raised.value)
    assert f"train.optimizers.item.lr {rate:g}" in message
    assert "strategy.server_lr 1" in message
    assert "\n" not in message
    has = {"mf": "private", "pfedrec": "private", "sasrec": "shared"}
    lacks = {"mf": "shared", "pfedrec": "shared", "sasrec": "private"}
    assert model not in has or f"optimizers.{has[model]}.lr" in message
    assert model not in lacks or f"optimizers.{lacks[model]}.lr" not in message
    # What was reached is readable, and nothing goes on from there.
    done = fedrec.load(tmp_path / "run")
    assert done.result["status"] == "diverged"
    assert markdown([tmp_path / "run"])
    with pytest.raises(RunFolderError, match="its training diverged"):
        fedrec.resume(tmp_path / "run")


def test_a_client_that_diverges_may_fail_alone(tmp_path: Path) -> None:
    with pytest.raises(FedRecError, match=r"lower the rates: train.optimizers.item.lr 1e\+38"):
        fedrec.run(
            experiment(
                train={"optimizers": {"item": {"lr": 1e38}}},
                rounds={"count": 2, "max_failures": 1},
            ),
            out=tmp_path / "run",
        )


@pytest.mark.parametrize(
    ("model", "strategy"),
    [("mf", None), ("pfedrec", None), ("neumf", "fedavg"), ("sasrec", None)],
)
def test_library_defaults_do_not_diverge(model: str, strategy: str | None, tmp_path: Path) -> None:
    chosen = {} if strategy is None else {"strategy": strategy}
    done = fedrec.run(experiment(model=model, **chosen), out=tmp_path / "run")
    assert done.result["status"] == "completed"
    losses = [
        json.loads(line)["loss"]
        for line in (tmp_path / "run/rounds.jsonl").read_text().splitlines()
    ]
    assert losses[-1] < losses[0]


@given(
    first=st.floats(0, 1e6) | st.none(),
    factor=st.floats(0, GROWTH),
    negatives=st.integers(1, 1000),
)
def test_a_loss_below_a_thousand_times_the_first_is_sound(
    first: float | None, factor: float, negatives: int
) -> None:
    assert loss_fault(factor * (first or 0.0), first, negatives) is None


@given(loss=st.floats(0, 0.69 * 2 * GROWTH), first=st.floats(0, 1e-3))
def test_a_run_that_begins_near_0_may_rise_to_the_loss_of_an_untrained_model(
    loss: float, first: float
) -> None:
    assert loss_fault(loss, first, 1) is None


@given(first=st.floats(7.0, 1e6), factor=st.floats(1.01 * GROWTH, 1e9))
def test_a_loss_above_a_thousand_times_the_first_is_a_fault(first: float, factor: float) -> None:
    assert "times that at the start" in str(loss_fault(first * factor, first, 4))


@pytest.mark.parametrize("loss", [float("nan"), float("inf"), float("-inf")])
def test_a_loss_that_is_not_finite_is_a_fault(loss: float) -> None:
    assert loss_fault(loss, 1.0, 4) == "the training loss is not finite"
