"""Training that diverges stops with the rates that can be the cause; a normal run never does."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import fedrec
from fedrec.config.experiment import Experiment
from fedrec.data.catalogue import Catalogue
from fedrec.errors import FedRecError, NumericError, RunFolderError
from fedrec.models.base import Batch
from fedrec.models.mf import MatrixFactorization
from fedrec.models.module import ModelParams
from fedrec.report import markdown
from fedrec.runs.tally import GROWTH, likely_causes, loss_fault


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
                strategy={"name": "fedavg", "aggregation": {"average": "sum"}},
            ),
            out=tmp_path / "run",
        )
    message = str(raised.value)
    assert f"train.optimizers.item.lr {rate:g}" in message
    assert "strategy.server_optimizer.lr 1" in message
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


class Logarithm(MatrixFactorization):
    """Scores pairs or whole catalogues as NaN."""

    where: str = "pairs"

    def score(self, params: ModelParams, batch: Batch, vectors: torch.Tensor) -> torch.Tensor:
        return super().score(params, batch, vectors) * (math.nan if self.where == "pairs" else 1.0)

    def rank(self, params: ModelParams, batch: Batch, encoded: torch.Tensor) -> torch.Tensor:
        return super().rank(params, batch, encoded) * math.nan


@pytest.mark.parametrize("max_failures", [0, 1])
@pytest.mark.parametrize("where", ["pairs", "catalogue"])
def test_a_score_that_is_nan_is_told_of_the_model(
    where: str, max_failures: int, tmp_path: Path
) -> None:
    rounds = {"count": 2, "max_failures": max_failures}
    with pytest.raises(FedRecError, match=r"Logarithm: .* though its parameters are") as raised:
        fedrec.run(
            experiment(model=Logarithm(where=where), rounds=rounds, evaluate={"every": 1}),
            out=tmp_path / "run",
        )
    assert "lower" not in str(raised.value)


def test_a_client_that_diverges_may_fail_alone(tmp_path: Path) -> None:
    with pytest.raises(FedRecError, match=r"lower train.optimizers.item.lr 1e\+38"):
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
    first=st.floats(0, 1e6),
    factors=st.lists(st.floats(0, GROWTH), min_size=1, max_size=2),
    negatives=st.integers(1, 1000),
)
def test_a_loss_below_a_thousand_times_the_first_is_sound_for_two_rounds(
    first: float, factors: list[float], negatives: int
) -> None:
    assert loss_fault([first, *(factor * first for factor in factors)], negatives) is None


@given(losses=st.lists(st.floats(0, 9.9 * 2 * 0.69), min_size=1, max_size=9))
def test_a_run_that_begins_near_0_may_rise_to_the_loss_of_an_untrained_model(
    losses: list[float],
) -> None:
    assert loss_fault([1e-3, *losses], 1) is None


@given(first=st.floats(7.0, 1e6), factor=st.floats(1.01 * GROWTH, 1e9))
def test_a_loss_above_a_thousand_times_the_first_is_a_fault(first: float, factor: float) -> None:
    assert "times that at the start" in str(loss_fault([first, first * factor], 4))


@given(first=st.floats(7.0, 1e6), factors=st.lists(st.floats(10.1, 999), min_size=3, max_size=3))
def test_a_loss_above_ten_times_the_first_for_three_rounds_is_a_fault(
    first: float, factors: list[float]
) -> None:
    losses = [first, *(first * factor for factor in factors)]
    assert "more than 10 times for 3 rounds" in str(loss_fault(losses, 4))
    assert loss_fault(losses[:-1], 4) is None
    assert loss_fault([*losses[:-1], first], 4) is None


# Losses of rounds on ml-100k: matrix factorisation by plain FedAvg at a rate of 1e4 never
# recovers; by FedAdam at a server rate of 10, and PLGC at any decorrelation, it does.
@pytest.mark.parametrize(
    ("losses", "round"),
    [
        ([3.466, 4.239, 5.083, 186.7, 161.0, 61.57, 356.7, 64.2], 6),
        ([3.466, 6.103, 12.61, 438.4, 369.8, 175.5, 453.2], 6),
        ([3.466, 5.243, 4.293, 47.99, 6.761, 16.74, 13.56, 18.65, 13.91, 8.923], None),
        ([3.47, 3.174, 2.525, 1.827, 1.292, 0.9175, 0.6414, 0.4499, 0.3318, 0.2751], None),
    ],
)
def test_measured_losses(losses: list[float], round: int | None) -> None:
    faults = [loss_fault(losses[:n], 4) is not None for n in range(1, len(losses) + 1)]
    assert (faults.index(True) + 1 if any(faults) else None) == round


@pytest.mark.parametrize("loss", [float("nan"), float("inf"), float("-inf")])
def test_a_loss_that_is_not_finite_is_a_fault(loss: float) -> None:
    assert loss_fault([1.0, loss], 4) == "the training loss is not finite"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"strategy": {"name": "fedadam", "server_optimizer": {"lr": 1e6}}},
            "lower strategy.server_optimizer.lr 1e+06 (",
        ),
        (
            {"train": {"optimizers": {"item": {"lr": 1e6}}}},
            "lower train.optimizers.item.lr 1e+06 (",
        ),
        ({"model": {"name": "mf", "init_std": 1e6}}, "lower model.init_std 1e+06 (default 0.01);"),
        (
            {"strategy": {"name": "fedprox", "client_rule": {"mu": 1e6}}},
            "lower strategy.client_rule.mu 1e+06 (default 0.01);",
        ),
        ({"train": {"weight_decay": 1e6}}, "lower train.weight_decay 1e+06 (default 0.1);"),
        ({"personalization": {"name": "plgc", "tau": 1e6}}, "lower personalization.tau 1e+06 ("),
        ({}, "lower the rates: train.optimizers.item.lr"),
    ],
)
def test_what_is_above_its_default_is_the_first_suspect(changes: dict[str, Any], said: str) -> None:
    suspect = experiment(**changes)
    causes = likely_causes(suspect, suspect.client_task(Catalogue.empty()))
    assert causes.startswith(said), causes
    assert "train.optimizers.private.lr" in causes
