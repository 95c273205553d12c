"""Nodes that drop out of a secure sum, forget their part, or are asked twice."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Context, Message, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st

from clients.app import app as client_app
from fedrec.errors import EngineError
from fedrec.flower import records, sum_records
from fedrec.flower.sum_records import RevealReply
from fedrec.runs.log import read_log
from tests.faulty_grid import Damage
from tests.integration.stopped_runs import go_on, outcome
from tests.integration.test_faults import lost, run_with, shared

SECURE: dict[str, Any] = {"name": "secure-sum", "quorum": 0.1, "retries": 0}
EXCHANGES = (sum_records.KEYS, sum_records.SHARES, sum_records.MASKED, sum_records.REVEAL)
STEPS = len(EXCHANGES)


@pytest.fixture(scope="module")
def without_fault(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return run_with(tmp_path_factory.mktemp("well") / "run", {})


@pytest.fixture(scope="module")
def without_node(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What comes of a run with plain sums in which the second node is lost in round 2."""
    return run_with(tmp_path_factory.mktemp("lost") / "run", {(2, 2): lost}, {"quorum": 0.3})


def lines(folder: Path) -> list[str]:
    """Why nodes were lost, as the run log says."""
    log = read_log(folder / "rounds.jsonl")
    return [node.reason for record in log for node in record.lost]


# Nodes that drop out -------------------------------------------------------------------------


@pytest.mark.parametrize("step", range(1, STEPS + 1), ids=EXCHANGES)
def test_a_node_that_drops_out_leaves_the_sum_of_the_others(
    step: int, without_fault: dict[str, Any], without_node: dict[str, Any], tmp_path: Path
) -> None:
    """But the vector of one that drops out last has come, and its private state counts."""
    came = run_with(tmp_path / "run", {(STEPS + step, 2): lost}, SECURE)
    is_last = step == STEPS
    assert shared(came) == shared(without_fault if is_last else without_node)
    (line,) = lines(tmp_path / "run")
    assert "node 2 is silent" in line
    assert ("its clients are in the sum" in line) == is_last
    dropped = [record["dropped_out"] for record in came["log"]]
    assert [each > 0 for each in dropped] == [False, not is_last, False, False]


@pytest.mark.parametrize("step", range(1, STEPS + 1), ids=EXCHANGES)
def test_a_round_with_too_few_clients_is_tried_again_with_new_keys(
    step: int, without_fault: dict[str, Any], tmp_path: Path
) -> None:
    """Two of three nodes are lost: their clients train twice, and what they learnt counts once."""
    faults = {(STEPS + step, node): lost for node in (1, 2)}
    came = run_with(tmp_path / "run", faults, {**SECURE, "retries": 1})
    assert shared(came) == shared(without_fault)
    assert [record["attempts"] for record in came["log"]] == [1, 2, 1, 1]
    assert len(lines(tmp_path / "run")) == 2


@pytest.mark.parametrize("step", range(1, STEPS + 1), ids=EXCHANGES)
def test_a_run_stops_with_a_line_if_too_few_clients_are_left(
    step: int, without_fault: dict[str, Any], tmp_path: Path
) -> None:
    """And goes on exactly where it stopped."""
    faults = {(STEPS + step, node): lost for node in (1, 2)}
    said = (
        r"^round 2: the secure sum failed in 1 attempts \(rounds\.plan\.retries: 0\); "
        r"secure sum: .* are needed; .*; round 2: node 2 is silent"
    )
    with pytest.raises(EngineError, match=said):
        run_with(tmp_path / "run", faults, SECURE)
    go_on(tmp_path / "run")
    assert shared(outcome(tmp_path / "run")) == shared(without_fault)


def test_a_missed_quorum_stops_the_run_before_a_mask_is_removed(tmp_path: Path) -> None:
    asked = list[str]()

    def app(message: Message, context: Context) -> Message:
        asked.append(message.metadata.message_type)
        return client_app(message, context)

    said = r"\d of 12 clients answered, and rounds\.plan\.quorum needs 12; round 1: node 3 is"
    with pytest.raises(EngineError, match=said):
        run_with(tmp_path / "run", {(3, 3): lost}, {**SECURE, "quorum": 1.0}, app=app)
    assert "train.reveal" not in asked


N_NODES = 4


@settings(max_examples=12, deadline=None)
@given(st.lists(st.lists(st.integers(1, 9), min_size=N_NODES, max_size=N_NODES), max_size=2))
def test_any_pattern_of_nodes_that_drop_out(
    tmp_path_factory: pytest.TempPathFactory, pattern: list[list[int]]
) -> None:
    """In each of two rounds, each node drops out at a step, or, above the fourth, at none."""
    folder = tmp_path_factory.mktemp("pattern")
    rounds = {"count": 2}
    hosts = hosted(folder, rounds)
    secure, plain, received = dict[tuple[int, int], Damage](), dict(), [0] * N_NODES
    is_enough = True
    for round, steps in enumerate(pattern):
        for step in range(1, STEPS + 1):
            left = sum(hosts[round][node] for node in range(N_NODES) if steps[node] > step)
            is_enough &= left >= 7  # of 12, all of which are neighbours
        for node, step in enumerate(steps):
            if step <= STEPS:
                secure[received[node] + step, node + 1] = lost
            if step < STEPS:
                plain[round + 1, node + 1] = lost
            received[node] += min(step, STEPS)
    plan = {**SECURE, "quorum": 0.01}
    if not is_enough:
        with pytest.raises(EngineError, match="the secure sum failed in 1 attempts"):
            run_with(folder / "secure", secure, plan, rounds, nodes=N_NODES)
        return
    came = run_with(folder / "secure", secure, plan, rounds, nodes=N_NODES)
    expected = run_with(folder / "plain", plain, {"quorum": 0.01}, rounds, nodes=N_NODES)
    assert shared(came) == shared(expected)


def hosted(folder: Path, rounds: dict[str, Any]) -> list[list[int]]:
    """Return how many clients of each round each node hosts."""
    counts: list[list[int]] = []

    def app(message: Message, context: Context) -> Message:
        if message.metadata.message_type == "train":
            request = records.decode(message.content, records.RoundRequest)
            while len(counts) < request.round:
                counts.append([0] * N_NODES)
            counts[-1][message.metadata.dst_node_id - 1] = len(request.clients)
        return client_app(message, context)

    run_with(folder / "hosted", {}, {}, rounds, app=app, nodes=N_NODES)
    return counts


# Nodes that forget, and messages that come twice ---------------------------------------------


def changing(
    kind: str, round: int, node: int, change: Callable[[Message, Context], None]
) -> Callable[[Message, Context], Message]:
    """Return a client app of which a node meets something before it gets a message."""

    def app(message: Message, context: Context) -> Message:
        metadata = message.metadata
        is_meant = metadata.message_type == f"train.{kind}" and metadata.dst_node_id == node
        if is_meant and metadata.group_id == str(round):
            change(message, context)
        return client_app(message, context)

    return app


@pytest.mark.parametrize("step", range(2, STEPS + 1), ids=EXCHANGES[1:])
def test_a_node_that_was_started_anew_has_no_secrets_and_drops_out(
    step: int, without_fault: dict[str, Any], without_node: dict[str, Any], tmp_path: Path
) -> None:
    app = changing(EXCHANGES[step - 1], 2, 2, lambda _, context: context.state.clear())
    came = run_with(tmp_path / "run", {}, SECURE, app=app)
    assert shared(came) == shared(without_fault if step == STEPS else without_node)
    (line,) = lines(tmp_path / "run")
    assert "this node has no secrets of the round" in line


@pytest.mark.parametrize("kind", [sum_records.SHARES, sum_records.MASKED])
def test_a_request_that_comes_twice_is_answered_once(
    kind: str, without_node: dict[str, Any], tmp_path: Path
) -> None:
    """Two vectors of a client under one mask would give both away."""

    def twice(message: Message, context: Context) -> None:
        client_app(message, context)

    app = changing(kind, 2, 2, twice)
    came = run_with(tmp_path / "run", {}, SECURE, app=app)
    assert shared(came) == shared(without_node)
    assert "clients without secrets of this exchange" in lines(tmp_path / "run")[0]


def test_shares_are_not_revealed_in_two_ways(tmp_path: Path) -> None:
    """The same request again gets the same answer, another one none."""
    answers = list[Any]()

    def ask(message: Message, context: Context) -> None:
        asked = records.decode(message.content, sum_records.RevealRequest)
        answers.append(client_app(message, context).content)
        answers.append(client_app(message, context).content)
        (survivors,) = asked.groups.values()
        others = survivors.survived[:-1]
        gone = np.append(survivors.dropped, survivors.survived[-1])
        changed = type(survivors)(survivors.session, survivors.clients, others, gone)
        content = records.encode(sum_records.RevealRequest(asked.request, {0: changed}))
        error = client_app(Message(content, message.metadata.dst_node_id, "train.reveal"), context)
        answers.append(error.error.reason)

    run_with(tmp_path / "run", {}, SECURE, app=changing(sum_records.REVEAL, 2, 2, ask))
    first, second, refusal = answers
    assert records.decode(first, RevealReply).groups.keys() == {0}
    shares = [records.decode(each, RevealReply).groups[0].shares for each in (first, second)]
    assert np.array_equal(shares[0], shares[1])
    assert "other survivors than before" in refusal


def test_a_stop_within_a_round_is_gone_on_from_exactly(
    without_fault: dict[str, Any], tmp_path: Path
) -> None:
    def interrupt(_: RecordDict) -> RecordDict:
        raise KeyboardInterrupt

    for step in (3, 4):
        out = tmp_path / str(step)
        with pytest.raises(KeyboardInterrupt):
            run_with(out, {(STEPS + step, 2): interrupt}, SECURE)
        go_on(out)
        assert shared(outcome(out)) == shared(without_fault)
