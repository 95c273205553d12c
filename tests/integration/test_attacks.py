"""Runs with attackers: who counts, who ranks, and that nodes and interruptions change nothing."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fedrec
from fedrec.aggregation.update import UpdateBatch
from fedrec.config.experiment import load_experiment
from fedrec.data.prepare import split_of
from fedrec.errors import ConfigError, DataError
from fedrec.report.runs import load
from fedrec.runs.reader import RunFolder
from fedrec.transforms.attacks import ATTACKS
from fedrec.transforms.attacks.base import Attack
from fedrec.types import State
from tests.integration.stopped_runs import go_on, outcome
from tests.integration.test_run_serial import BASE, merged

SMALL: dict[str, Any] = merged(
    BASE,
    {
        "data": {**BASE["data"], "users": 24, "items": 40},
        "strategy": {"name": "fedavg"},
        "rounds": {"count": 3, "cohort_fraction": 0.6},
        "evaluate": {
            "every": 2,
            "metrics": ["ndcg@5", "er@5"],
            "targets": {"choose": "unpopular"},
        },
        "engine": {"name": "serial", "nodes": 2},
    },
)
OPTIONS: dict[str, dict[str, Any]] = {
    **{name: {"rows": 12} for name in ("random_shilling", "popular_shilling")},
    "fedrecattack": {"rows": 12, "public": 0.2},
}


def attack(name: str, **options: Any) -> list[dict[str, Any]]:
    return [{"name": name, **OPTIONS.get(name, {}), **options}]


def go(out: Path, **changes: Any) -> fedrec.RunResult:
    return fedrec.run(load_experiment(merged(SMALL, changes)), out=out)


class Idle(Attack):
    """Attackers that send what honest clients send."""

    def rewrite(self, state: State, pool: UpdateBatch, *_: Any) -> tuple[State, UpdateBatch]:
        return state, pool


@pytest.mark.parametrize("name", ATTACKS)
def test_the_number_of_nodes_changes_nothing(name: str, tmp_path: Path) -> None:
    digests = set()
    for nodes in (1, 3):
        engine = {"name": "serial", "nodes": nodes}
        result = go(tmp_path / str(nodes), transforms=attack(name), engine=engine).result
        digests.add((result["digest"], *result["metrics"]["test"].values()))
    assert len(digests) == 1


@pytest.mark.parametrize("strategy", ["fedadam", "median", "scaffold"])
def test_attackers_that_are_honest_change_nothing_but_who_ranks(
    strategy: str, tmp_path: Path
) -> None:
    """Their updates take another way to the same sum."""
    idle = {"name": "tests.integration.test_attacks:Idle", "share": 0.3}
    clean = go(tmp_path / "clean", strategy=strategy)
    attacked = go(tmp_path / "attacked", strategy=strategy, transforms=[idle])
    assert clean.result["digest"] == attacked.result["digest"]
    everybody, honest = (run.per_user().set_index("user") for run in (clean, attacked))
    assert len(everybody) == 24 and len(honest) == 17
    assert everybody.loc[honest.index, "test.ndcg@5"].equals(honest["test.ndcg@5"])
    assert clean.rounds()[0].loss != attacked.rounds()[0].loss
    up = [run.rounds()[0].bytes.up for run in (clean, attacked)]
    assert up[0] == up[1]


@pytest.mark.parametrize("name", ["popular_shilling", "pipattack"])
def test_whoever_attacks_is_in_no_ranking(name: str, tmp_path: Path) -> None:
    """At the end too, where clients train once more and rank twice; and popularity is honest."""
    personal = {"name": "finetune", "epochs": 1}
    run = go(tmp_path / "run", transforms=attack(name), personalization=personal)
    experiment, split = run.experiment, run.split
    attackers = experiment.attackers_of(split)
    honest = experiment.honest_part(split)
    raw = {*honest.user_ids.tolist()}
    assert run.result["attackers"] == len(attackers) > 0
    assert run.result["users"] == len(raw)
    with pytest.raises(DataError, match="is an attacker of this run"):
        run.recommend(split.user_ids[split.clients.take(attackers).values[0]])
    assert {*run.per_user()["user"]} == {*run.recommend_all(3)["user"]} == raw
    assert "before_end" in run.result["metrics"]["views"]
    clean = split_of(experiment.data, experiment.clients)
    added = ATTACKS[name].added
    assert honest.n_users == (clean.n_users if added else clean.n_users - len(attackers))
    targets = experiment.evaluate.targets_of(honest, experiment.seed)
    assert run.result["targets"]["items"] == split.item_ids[targets].tolist()
    if added:
        like = go(tmp_path / "clean", personalization=personal).result
        assert run.result["reference"] == like["reference"]
        assert run.result["targets"] == like["targets"]


def test_seeds_of_an_attack_are_one_line_of_a_report(tmp_path: Path) -> None:
    for seed in (0, 1):
        changes = {"transforms": attack("random_shilling"), "seed": seed, "rounds": {"count": 1}}
        go(tmp_path / str(seed), **changes)
    (group,) = load([tmp_path]).groups
    assert [run.seed for run in group.runs] == [0, 1]


def test_a_round_of_attackers_alone_has_no_loss(tmp_path: Path) -> None:
    """And a node that hosts nobody else ranks nobody."""
    changes = {
        "rounds": {"count": 12, "cohort_size": 1, "patience": None},
        "evaluate": {"every": 12},
    }
    del (base := dict(SMALL))["rounds"]
    run = fedrec.run(
        load_experiment(
            merged(
                {**base, "engine": {"name": "serial", "nodes": 24}},
                {**changes, "transforms": attack("sign_flip", share=0.5)},
            )
        ),
        out=tmp_path / "run",
    )
    losses = [record.loss for record in run.rounds()]
    assert {loss is None for loss in losses} == {True, False}
    assert all(record.clients == 1 for record in run.rounds())
    assert len(run.per_user()) == 12


@pytest.mark.parametrize("name", ["fedrecattack", "pipattack"])
def test_what_attackers_remember_is_in_the_checkpoint(name: str, tmp_path: Path) -> None:
    changes = {"transforms": attack(name, share=0.3), "rounds": {"count": 6}}
    whole = go(tmp_path / "whole", **changes)

    def watch(record: Any) -> None:
        if record.round == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fedrec.run(load_experiment(merged(SMALL, changes)), out=tmp_path / "cut", on_round=watch)
    resumed = go_on(tmp_path / "cut")
    assert resumed.per_user().equals(whole.per_user())  # some have no target to be shown
    left, expected = outcome(resumed.folder), outcome(whole.folder)
    assert {**left, "users": None} == {**expected, "users": None}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"transforms": attack("pipattack"), "evaluate": {"targets": None, "metrics": ["mrr"]}},
         ["PipAttack", "evaluate.targets", "unpopular"]),
        ({"transforms": attack("sign_flip"), "model": {"name": "popularity"}},
         ["SignFlip", "baseline"]),
        ({"transforms": attack("sign_flip", share=0.99)}, ["share: 0.99", "24 of 24", "lower it"]),
        ({"transforms": attack("popular_shilling", rows=60)}, ["PopularShilling", "rows: 60"]),
        ({"transforms": attack("fedrecattack", public=1e-9)}, ["public: 1e-09", "raise it"]),
        ({"transforms": attack("alie") + attack("ipm")}, ["one attack", "2"]),
    ],
)  # fmt: skip
def test_an_attack_that_does_not_fit(
    changes: dict[str, Any], named: list[str], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as error:
        go(tmp_path / "run", **changes)
    assert len(error.value.faults) == 1
    assert all(part in str(error.value) for part in named)
    assert not RunFolder(tmp_path / "run").rounds() if (tmp_path / "run").exists() else True


# What attacks do ----------------------------------------------------------------------------------

PLANTED: dict[str, Any] = {
    "data": {**BASE["data"], "users": 120, "items": 60, "taste_groups": 3},
    "model": BASE["model"],
    "train": {
        "backend": "torch",
        "optimizers": {"item": {"lr": 1.0}, "private": {"name": "adam", "lr": 0.05}},
    },
    "strategy": {"name": "fedavg", "server_optimizer": {"lr": 4.0}},
    "rounds": {"count": 40, "patience": None},
    "evaluate": {**SMALL["evaluate"], "every": 40, "metrics": ["ndcg@10", "er@10"]},
    "engine": {"name": "serial"},
    "seed": 1,
}
TARGETED = ("random_shilling", "popular_shilling", "pipattack", "fedrecattack")
STRONG: dict[str, dict[str, Any]] = {
    "scaling": {"factor": 8.0},
    "gaussian_attack": {"factor": 30.0},
    "alie": {"z": 3.0},
    "ipm": {"epsilon": 4.0},
}


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> fedrec.RunResult:
    return fedrec.run(PLANTED, out=tmp_path_factory.mktemp("clean") / "run")


@pytest.mark.slow
@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_does_what_it_is_for(name: str, clean: fedrec.RunResult, tmp_path: Path) -> None:
    """Under the plain mean, with 30 % attackers: of the same users, by the same targets."""
    transforms = attack(name, share=0.3, **STRONG.get(name, {}))
    run = fedrec.run({**PLANTED, "transforms": transforms}, out=tmp_path / "run")
    before, after = (each.per_user().set_index("user") for each in (clean, run))
    change = (after - before.loc[after.index]).mean(numeric_only=True)
    if name in TARGETED:
        assert change["test.er@10"] > 0.05
        assert np.abs(change["test.ndcg@10"]) < 0.05
    else:
        assert change["test.ndcg@10"] < -0.03
