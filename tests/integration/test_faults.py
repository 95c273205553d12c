"""Replies that are lost, late, repeated or damaged: what the policy of the plan makes of them."""

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, RecordDict

from clients.app import app as client_app
from fedrec.aggregation.update import Aggregate
from fedrec.config.experiment import load_experiment
from fedrec.errors import EngineError, FedRecError, ProtocolError
from fedrec.flower import records
from fedrec.flower.grid import node_context
from fedrec.flower.records import Evaluated, Trained
from fedrec.runs.log import read_log
from fedrec.runs.prepare import prepare_run
from fedrec.runs.reader import RunFolder
from server.app import app as server_app
from tests.faulty_grid import Damage, FaultyGrid
from tests.integration.stopped_runs import SMALL, go, go_on, outcome
from tests.integration.test_run_serial import merged

NODES, ROUNDS = 3, 4
EXPERIMENT = merged(
    SMALL, {"engine": {"name": "serial", "nodes": NODES}, "rounds": {"count": ROUNDS}}
)
ALLOWED = ("item",)
PLAN = {"name": "synchronous", "deadline": 0.2}


def run_with(
    out: Path,
    faults: Mapping[tuple[int, int], Damage],
    plan: dict[str, Any] | None = None,
    rounds: dict[str, Any] | None = None,
    app: Any = client_app,
    nodes: int = NODES,
) -> dict[str, Any]:
    """Runs the real server and client apps over a grid with faults."""
    engine = {**EXPERIMENT["engine"], "nodes": nodes}
    changes = {"rounds": {**(rounds or {}), "plan": {**PLAN, **(plan or {})}}, "engine": engine}
    run = prepare_run(load_experiment(merged(EXPERIMENT, changes)), out)
    places = {"run-dir": str(out), "data": str(run.prepared), "device": "cpu"}
    grid = FaultyGrid(app, nodes, places, faults)
    config = {"run": run.id, "experiment": "config.yaml", "out": str(out)}
    server_app(grid, node_context(0, nodes, {**config, "split": str(run.prepared)}))
    return outcome(out)


def lost(_: RecordDict) -> None:
    """Never arrives: the node trained, and has staged what its clients learnt."""


def changed(change: Callable[[Trained], Trained]) -> Damage:
    def damage(content: RecordDict) -> RecordDict:
        return records.encode(change(records.decode(content, Trained)), ALLOWED)

    return damage


def of_sums(change: Callable[[Aggregate], dict[str, Any]]) -> Damage:
    def aggregates(trained: Trained) -> Trained:
        changed = {g: replace(sum, **change(sum)) for g, sum in trained.aggregates.items()}
        return replace(trained, aggregates=changed)

    return changed(aggregates)


def cut_off(content: RecordDict) -> RecordDict:
    content = deepcopy(content)
    arrays = dict(content.array_records["arrays"])
    name = max(arrays, key=lambda name: len(arrays[name].data))
    whole = arrays[name]
    arrays[name] = Array(whole.dtype, whole.shape, whole.stype, whole.data[:-9])
    content["arrays"] = ArrayRecord(arrays)
    return content


FAULTS: dict[str, tuple[Damage, str]] = {
    "lost": (lost, "is silent"),
    "cut off": (cut_off, "the message holds no Trained"),
    "empty": (lambda _: RecordDict(), "the message holds no Trained"),
    "another shape": (
        of_sums(lambda sum: {"sums": {"item": sum.sums["item"][:, :-1]}}),
        "'item' of the shape",
    ),
    "not a number": (changed(lambda t: replace(t, seconds=float("nan"))), "too large"),
    "rows that no item has": (
        of_sums(lambda sum: {"ids": {"item": sum.ids["item"] + 1000}}),
        "rows of 'item' that no item has",
    ),
    "a row twice": (
        of_sums(lambda sum: {"ids": {"item": np.sort(sum.ids["item"] // 2)}}),
        "not sorted, each once",
    ),
    "a client more": (of_sums(lambda sum: {"clients": sum.clients + 1}), "a sum of"),
    "another run": (changed(lambda t: replace(t, request="x/2/1")), "the answer to another"),
}


@pytest.fixture(scope="module")
def without_fault(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return run_with(tmp_path_factory.mktemp("well") / "run", {})


@pytest.fixture(scope="module")
def without_node(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What comes of a run in which a reply is lost in round 2 and is not asked for again."""
    return run_with(tmp_path_factory.mktemp("lost") / "run", {(2, 2): lost}, {"quorum": 0.3})


def shared(outcome: dict[str, Any]) -> dict[str, Any]:
    return {key: outcome[key] for key in ("digest", "metrics", "model", "users", "local")}


def test_a_grid_without_faults_gives_what_the_serial_engine_gives(
    without_fault: dict[str, Any], tmp_path: Path
) -> None:
    serial = go(tmp_path / "run", **{k: EXPERIMENT[k] for k in ("engine", "rounds")})
    assert outcome(serial.folder) == without_fault


@pytest.mark.parametrize("name", FAULTS)
def test_a_faulty_reply_leaves_no_trace_but_a_line_in_the_log(
    name: str, without_node: dict[str, Any], without_fault: dict[str, Any], tmp_path: Path
) -> None:
    damage, reason = FAULTS[name]
    came = run_with(tmp_path / "run", {(2, 2): damage}, {"quorum": 0.3})
    assert shared(came) == shared(without_node)
    assert came["digest"] != without_fault["digest"]
    (line,) = [each for record in read_log(tmp_path / "run/rounds.jsonl") for each in record.lost]
    assert line.client.startswith("node 1, ")
    assert reason in line.reason


@pytest.mark.parametrize("name", FAULTS)
def test_a_node_that_is_asked_again_gives_what_it_would_have_given(
    name: str, without_fault: dict[str, Any], tmp_path: Path
) -> None:
    damage, _ = FAULTS[name]
    came = run_with(tmp_path / "run", {(2, 2): damage, (4, 1): damage}, {"retries": 1})
    assert shared(came) == shared(without_fault)


@pytest.mark.parametrize("name", FAULTS)
def test_without_retries_a_run_stops_at_a_fault_and_goes_on_exactly(
    name: str, without_fault: dict[str, Any], tmp_path: Path
) -> None:
    damage, reason = FAULTS[name]
    with pytest.raises((EngineError, ProtocolError), match=rf"round 2: node 2.*{reason}"):
        run_with(tmp_path / "run", {(2, 2): damage})
    go_on(tmp_path / "run")
    assert shared(outcome(tmp_path / "run")) == shared(without_fault)


def test_an_earlier_reply_that_comes_again_is_refused(
    without_node: dict[str, Any], tmp_path: Path
) -> None:
    """A replay has the right node and run, and valid sums, but answers another request."""
    earlier = list[RecordDict]()

    def keep(content: RecordDict) -> RecordDict:
        earlier.append(deepcopy(content))
        return content

    faults = {(1, 2): keep, (2, 2): lambda _: earlier[0]}
    came = run_with(tmp_path / "run", faults, {"quorum": 0.3})
    assert shared(came) == shared(without_node)


def test_a_quorum_that_is_missed_stops_the_run_with_numbers(tmp_path: Path) -> None:
    faults = {(2, node): lost for node in (1, 2)}
    said = r"round 2: \d of 12 clients answered, and rounds\.plan\.quorum needs 11; .*is silent"
    with pytest.raises(EngineError, match=said):
        run_with(tmp_path / "run", faults, {"quorum": 0.9})


def test_a_node_that_never_answers_is_left_out_of_every_round(tmp_path: Path) -> None:
    faults = {(number, 3): lost for number in range(1, ROUNDS + 1)}
    run_with(tmp_path / "run", faults, {"quorum": 0.3})
    log = read_log(tmp_path / "run/rounds.jsonl")
    assert all(len(record.lost) == 1 and record.clients < 12 for record in log)


def test_sums_beyond_what_clients_may_change_are_refused(
    without_node: dict[str, Any], without_fault: dict[str, Any], tmp_path: Path
) -> None:
    """What honest clients send is far below the bound, and a thousand times as much is above."""
    larger = of_sums(lambda sum: {"sums": {"item": 1000 * sum.sums["item"]}})
    bound = {"largest_change": 1.0}
    well = run_with(tmp_path / "well", {}, rounds=bound)
    assert shared(well) == shared(without_fault)
    came = run_with(tmp_path / "run", {(2, 2): larger}, {"quorum": 0.3}, bound)
    assert shared(came) == shared(without_node)
    (line,) = [each for record in read_log(tmp_path / "run/rounds.jsonl") for each in record.lost]
    assert "larger than rounds.largest_change allows (1)" in line.reason


def test_the_first_to_answer_are_enough(tmp_path: Path) -> None:
    """Twice as many clients are asked; a node that never answers delays nothing."""
    faults = {(number, 3): lost for number in range(1, ROUNDS + 1)}
    run_with(tmp_path / "run", faults, {"quorum": 0.3, "over_selection": 1.0})
    log = read_log(tmp_path / "run/rounds.jsonl")
    assert [record.clients for record in log] == [14] * ROUNDS


def of_another_user(content: RecordDict) -> RecordDict:
    evaluated = records.decode(content, Evaluated)
    users = evaluated.evaluation.users + 1
    return records.encode(replace(evaluated, evaluation=replace(evaluated.evaluation, users=users)))


@pytest.mark.parametrize("damage", [lost, of_another_user, lambda _: RecordDict()])
def test_metrics_are_of_the_users_whose_nodes_answer_and_the_log_says_how_many_do_not(
    damage: Damage, without_fault: dict[str, Any], tmp_path: Path
) -> None:
    faults = {(-number, 3): damage for number in range(1, ROUNDS)}
    came = run_with(tmp_path / "run", faults, {"quorum": 0.5})
    assert came["digest"] == without_fault["digest"]
    missing = {each.missing_users for each in read_log(tmp_path / "run/rounds.jsonl")}
    (count,) = missing - {0}
    users = RunFolder(tmp_path / "run").per_user()
    everybody = RunFolder(tmp_path / "run").result["users"]
    assert len(users) == everybody - count


def test_an_evaluation_below_the_quorum_stops_the_run(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="round 2: node 3 is silent"):
        run_with(tmp_path / "run", {(-1, 3): lost})


def test_errors_of_a_plan_are_fedrec_errors(tmp_path: Path) -> None:
    with pytest.raises(FedRecError, match=r"rounds\.plan\.quorum"):
        run_with(tmp_path / "run", {}, {"quorum": 0})
