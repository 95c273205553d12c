"""Rounds with a secure sum: whole runs that are bit-equal to those with plain sums."""

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.config.experiment import load_experiment
from fedrec.errors import ConfigError
from fedrec.runs.log import read_log
from tests.integration.stopped_runs import SMALL, go, go_on, outcome, stopped
from tests.integration.test_run_serial import PLGC, fussy, merged

SECURE: dict[str, Any] = {"name": "secure-sum"}
OF_PLAN = ("bytes", "attempts", "dropped_out")
"""What the run log says otherwise, or not at all, with another plan."""


def same(secure: dict[str, Any], plain: dict[str, Any]) -> None:
    """All that runs leave behind is the same, but for what the log says of the plan."""
    for key in plain:
        if key != "log":
            assert secure[key] == plain[key], key
    logs = [
        [{k: v for k, v in record.items() if k not in OF_PLAN} for record in each["log"]]
        for each in (secure, plain)
    ]
    assert logs[0] == logs[1]


def both(
    out: Path,
    plan: dict[str, Any] | None = None,
    nodes: int = 3,
    plain_nodes: int = 1,
    **changes: Any,
) -> None:
    """Run an experiment with plain sums and with a secure sum, and compare."""
    rounds, engine = changes.pop("rounds", {}), {"name": "serial", "nodes": plain_nodes}
    plain = go(out / "plain", engine=engine, rounds=rounds, **changes)
    engine, rounds = {"name": "serial", "nodes": nodes}, {**rounds, "plan": plan or SECURE}
    secure = go(out / "secure", engine=engine, rounds=rounds, **changes)
    same(outcome(secure.folder), outcome(plain.folder))


# The same results ----------------------------------------------------------------------------

METHODS: dict[str, dict[str, Any]] = {
    "mf with fedavg": {"personalization": {"name": "none"}, "strategy": {"name": "fedavg"}},
    "plgc with fedadam": {"personalization": PLGC, "strategy": {"name": "fedadam"}},
    "plgc's table": {
        "personalization": {"name": "plgc", "branch": "table", "persistence": 0.5},
        "strategy": {"name": "fedavg"},
    },
    "by examples": {
        "strategy": {
            "name": "fedavg",
            "aggregation": {"average": "cohort", "weighting": "examples"},
        }
    },
    "control variates": {"strategy": {"name": "scaffold"}},
    "extras": {"strategy": {"name": "qfedavg"}},
    # Its executor gives the same bits on as many nodes only.
    "dense parameters": {"model": {"name": "neumf", "embedding_dim": 4}, "plain_nodes": 3},
    "clip, top k and int8": {
        "transforms": [{"name": "clip", "norm": 0.05}, {"name": "top_k", "share": 0.5}, "int8"]
    },
    "float16": {"transforms": ["float16"]},
    "noise": {"transforms": [{"name": "clip", "norm": 0.05}, {"name": "gaussian", "std": 0.01}]},
    "noise on the sum": {"transforms": ["tests.contracts.sums:NoiseOnSum"]},
    "groups": {"strategy": {"name": "tests.contracts.sums:OddAndEven"}},
    "a bound on changes": {"rounds": {"largest_change": 1.0}},
    "by activity": {"rounds": {"selection": {"name": "activity"}}},
    "drawn one by one": {"rounds": {"selection": {"name": "poisson"}}},
    "several users": {"clients": {"by": "random", "count": 10}},
}


@pytest.mark.parametrize("name", METHODS)
def test_a_secure_sum_changes_no_bit_of_a_run(name: str, tmp_path: Path) -> None:
    both(tmp_path, **METHODS[name])


@settings(max_examples=8, deadline=None)
@given(st.data())
def test_no_setting_of_the_sum_changes_a_bit(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Cohorts, nodes, neighbours and thresholds; each run has secrets of its own."""
    plan = {
        **SECURE,
        "threshold": data.draw(st.sampled_from([0.5, 0.6, 0.8]), "threshold"),
        "degree": data.draw(st.sampled_from(["auto", 2, 3, 5]), "degree"),
    }
    size = data.draw(st.integers(3, 24), "cohort")
    both(
        tmp_path_factory.mktemp("settings"),
        plan,
        nodes=data.draw(st.integers(1, 6), "nodes"),
        rounds={"count": 2, "cohort_fraction": size / 24},
        seed=data.draw(st.integers(0, 9), "seed"),
    )


def test_clients_that_fail_are_left_out_as_without_a_secure_sum(tmp_path: Path) -> None:
    """A client that fails to train has shared its secrets: the others give back its masks."""
    both(
        tmp_path,
        model=fussy(3, "nan"),
        personalization={"name": "none"},
        rounds={"max_failures": 5},
    )
    log = read_log(tmp_path / "secure/rounds.jsonl")
    assert any(record.failures for record in log)
    for record in log:
        assert record.model_extra == {"attempts": 1, "dropped_out": len(record.failures)}


def test_bytes_are_those_of_clients_and_do_not_depend_on_nodes(tmp_path: Path) -> None:
    """Keys, shares of secrets, the masked vector, and what removes the masks."""
    counted = []
    for nodes in (1, 4):
        engine = {"name": "serial", "nodes": nodes}
        run = go(tmp_path / str(nodes), engine=engine, rounds={"plan": SECURE, "count": 1})
        counted.append(read_log(run.folder / "rounds.jsonl")[0].bytes)
    assert counted[0] == counted[1]
    clients, items, dim = 12, 30, 8
    others, vector = clients - 1, items * (dim + 1) + 4 + 1
    up = 96 + (4 + 60) * others + 8 * vector + 32 + (4 + 16) * clients
    down = 4 * items * dim + (4 + 64) * others + (4 + 60) * others + 4 * clients
    assert counted[0].up == clients * up
    assert counted[0].down == clients * down


# Refused before the first round --------------------------------------------------------------

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "each update": ({"strategy": {"name": "median"}}, "strategy median needs the update of each"),
    "groups of each": ({"strategy": {"name": "clustered"}}, "needs the update of each client"),
    "each node": (
        {
            "strategy": {
                "name": "flower",
                "of": "flwr.serverapp.strategy:FedAvg",
                "unit": "node",
            }
        },
        "needs the update of each node",
    ),
    "attackers": (
        {"transforms": [{"name": "sign_flip", "share": 0.2}]},
        "rewrites the updates of attackers",
    ),
    "losses": ({"rounds": {"selection": {"name": "loss"}}}, "needs the loss of each client"),
    "two clients": ({"rounds": {"cohort_fraction": 0.1}}, "2 of at least 3 clients"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_secure_sum_cannot_do_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    changes, said = REFUSED[name]
    rounds = {**changes.get("rounds", {}), "plan": SECURE}
    with pytest.raises(ConfigError, match=rf"^rounds\.plan: secure-sum: .*{said}") as caught:
        go(tmp_path / "run", **{**changes, "rounds": rounds})
    assert "plan: synchronous" in str(caught.value)
    assert not (tmp_path / "run/rounds.jsonl").exists()


def test_a_group_of_two_clients_is_refused(tmp_path: Path) -> None:
    strategy = {"name": "tests.contracts.sums:OddAndEven"}
    rounds = {"plan": SECURE, "cohort_fraction": 4 / 24, "count": 9}
    with pytest.raises(ConfigError, match=r"group \d of the strategy has \d of at least 3"):
        go(tmp_path / "run", strategy=strategy, rounds=rounds)


@pytest.mark.parametrize("options", [{"threshold": 0.4}, {"threshold": 1}, {"degree": 1}])
def test_settings_that_would_give_secrets_away_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"rounds\.plan\.(threshold|degree)"):
        load_experiment(merged(SMALL, {"rounds": {"plan": {**SECURE, **options}}}))


def test_a_degree_beyond_the_cohort_is_said_to_have_no_effect(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "fedrec")
    go(tmp_path / "run", rounds={"plan": {**SECURE, "degree": 12}, "count": 1})
    assert "degree: 12 has no effect: a round has 12 clients" in caplog.text
    assert "secure-sum: of the updates of a round the server learns the sum" in caplog.text


# Other engines, and runs that are stopped ----------------------------------------------------


def test_a_run_that_is_stopped_goes_on_with_fresh_keys_and_the_same_bits(tmp_path: Path) -> None:
    stopped(tmp_path / "run", after=2, rounds={"plan": SECURE})
    go_on(tmp_path / "run")
    same(outcome(tmp_path / "run"), outcome(go(tmp_path / "plain").folder))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ray", "flower"])
def test_a_secure_sum_over_other_engines(name: str, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="needs the extra 'sim'")
    engine = {"name": name, "workers": 2, "nodes": 3}
    run = go(tmp_path / "secure", engine=engine, rounds={"plan": SECURE})
    same(outcome(run.folder), outcome(go(tmp_path / "plain").folder))


@pytest.mark.slow
def test_a_worker_that_dies_within_a_round_takes_its_secrets_with_it(
    tmp_path: Path,
) -> None:
    """Its clients have no secrets then; the round is tried again, with the same result."""
    pytest.importorskip("ray", reason="needs the extra 'sim'")
    mark = tmp_path / "died"
    dies = {"name": "tests.contracts.sums:DiesOnce", "mark": str(mark), "spared": os.getpid()}
    engine = {"name": "ray", "workers": 2, "nodes": 4}
    run = go(tmp_path / "secure", engine=engine, rounds={"plan": SECURE}, transforms=[dies])
    log = read_log(run.folder / "rounds.jsonl")
    assert mark.exists()
    assert [(each.model_extra or {})["attempts"] for each in log] == [2, 1, 1, 1]
    assert any("no secrets of the round" in node.reason for node in log[0].lost)
    plain = go(tmp_path / "plain")
    for key in ("digest", "metrics"):
        assert run.result[key] == plain.result[key]
