"""Nodes that drop out of a secure sum, and messages that are damaged on their way."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st

from clients.app import app as client_app
from fedrec.errors import EngineError
from fedrec.flower import records, sum_records
from fedrec.flower.sum_records import KeyReply, MaskReply, RevealReply, ShareReply
from fedrec.runs.log import read_log
from fedrec.secure_sum.vector import VectorLayout
from tests.faulty_grid import Damage
from tests.integration.stopped_runs import go_on, outcome
from tests.integration.test_faults import cut_off, lost, run_with, shared

SECURE: dict[str, Any] = {"name": "secure-sum", "quorum": 0.1, "retries": 0}
REPLIES: tuple[type[Any], ...] = (KeyReply, ShareReply, MaskReply, RevealReply)
STEPS = len(REPLIES)
EXCHANGES = (sum_records.KEYS, sum_records.SHARES, sum_records.MASKED, sum_records.REVEAL)


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


# Damage --------------------------------------------------------------------------------------


def flipped(step: int, name: str) -> Damage:
    """Damage a byte of each row of an array of a reply."""

    def damage(content: RecordDict) -> RecordDict:
        reply = records.decode(content, REPLIES[step - 1])
        (value,) = reply.groups.values()
        bytes_ = getattr(value, name).copy()
        bytes_[..., -1] ^= 4
        object.__setattr__(value, name, bytes_)
        return records.encode(reply)

    return damage


def changed(step: int, change: Callable[[Any], Any]) -> Damage:
    """Change a reply to another that can be read."""

    def damage(content: RecordDict) -> RecordDict:
        return records.encode(change(records.decode(content, REPLIES[step - 1])))

    return damage


def of_group(step: int, change: Callable[[Any], dict[str, Any]]) -> Damage:
    """Change what a reply holds of the group of all clients."""
    return changed(
        step, lambda reply: replace(reply, groups={0: replace(v := reply.groups[0], **change(v))})
    )


def of_layout(change: Callable[[VectorLayout], dict[str, Any]]) -> Damage:
    return changed(3, lambda reply: replace(reply, layout=replace(v := reply.layout, **change(v))))


def replayed(content: RecordDict, kept: list[RecordDict]) -> RecordDict:
    kept.append(content)
    return kept[0]


DAMAGES: Mapping[str, tuple[int, Damage, str]] = {
    **{f"{name} cut off": (k, cut_off, "holds no") for k, name in enumerate(EXCHANGES, 1)},
    **{f"{n} empty": (k, lambda _: RecordDict(), "holds no") for k, n in enumerate(EXCHANGES, 1)},
    "keys of fewer clients": (
        1,
        of_group(
            1,
            lambda public: {
                "keys": public.keys.take(public.keys.clients[1:]),
                "commitments": public.commitments[1:],
            },
        ),
        "keys of other clients",
    ),
    "keys of another attempt": (
        1,
        of_group(1, lambda public: {"session": replace(public.session, attempt=9)}),
        "attempt 9, expected",
    ),
    "a share less": (
        2,
        of_group(2, lambda v: {n: getattr(v, n)[1:] for n in ("senders", "receivers", "sealed")}),
        "shares for other clients than the neighbours of each",
    ),
    "a revealed share less": (
        4,
        of_group(4, lambda v: {n: getattr(v, n)[1:] for n in ("holders", "owners", "shares")}),
        "shares of other clients than the neighbours of each",
    ),
    "no group": (3, changed(3, lambda reply: replace(reply, groups={})), "of other groups"),
    "no layout": (3, changed(3, lambda reply: replace(reply, layout=None)), "without a layout"),
    "bytes of a plain update": (
        3,
        changed(3, lambda reply: replace(reply, trained=replace(reply.trained, uploaded=1))),
        "updates that are not masked",
    ),
    "another scale": (
        3,
        of_layout(lambda v: {"scale": {name: k - 1 for name, k in v.scale.items()}}),
        "another layout than those of other nodes",
    ),
    "no scale": (3, of_layout(lambda _: {"scale": {}}), "a vector without scales"),
    "no metrics": (3, of_layout(lambda _: {"metrics": ()}), "a vector without metrics"),
    "another shape": (
        3,
        of_layout(lambda _: {"tables": {"item": (30, 7)}}),
        "other parameters than clients send",
    ),
    "a number more": (
        3,
        of_layout(lambda v: {"extras": ("steps",)}),
        "another layout than those of other nodes",
    ),
    "a masked vector is damaged": (3, flipped(3, "words"), "a masked vector that was damaged"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_reply_that_is_damaged_counts_as_none(
    name: str, without_fault: dict[str, Any], without_node: dict[str, Any], tmp_path: Path
) -> None:
    step, damage, said = DAMAGES[name]
    came = run_with(tmp_path / "run", {(STEPS + step, 2): damage}, SECURE)
    assert shared(came) == shared(without_fault if step == STEPS else without_node)
    (line,) = lines(tmp_path / "run")
    assert "node 2" in line
    assert said in line


GARBLED: Mapping[str, tuple[int, str, str]] = {
    "a share that is sealed": (2, "sealed", r"cannot open the shares of client"),
    "a share that is revealed": (4, "shares", r"do not give its secret back"),
}


@pytest.mark.parametrize("name", GARBLED)
def test_a_garbled_share_fails_the_round_which_is_tried_again(
    name: str, without_fault: dict[str, Any], tmp_path: Path
) -> None:
    step, array, _ = GARBLED[name]
    faults = {(STEPS + step, node): flipped(step, array) for node in (1, 2, 3)}
    came = run_with(tmp_path / "run", faults, {**SECURE, "retries": 1})
    assert shared(came) == shared(without_fault)
    assert [record["attempts"] for record in came["log"]] == [1, 2, 1, 1]


@pytest.mark.parametrize("name", GARBLED)
def test_a_share_that_is_always_garbled_stops_the_run_with_a_line(
    name: str, tmp_path: Path
) -> None:
    step, array, said = GARBLED[name]
    numbers = range(step, 3 * STEPS + step)
    faults = {(number, node): flipped_if(step, array) for number in numbers for node in (1, 2, 3)}
    with pytest.raises(EngineError, match=rf"failed in 3 attempts .*{said}") as caught:
        run_with(tmp_path / "run", faults, {**SECURE, "retries": 2})
    assert "\n" not in str(caught.value)


def flipped_if(step: int, name: str) -> Damage:
    """Damage replies of an exchange, and of no other."""

    def damage(content: RecordDict) -> RecordDict | None:
        is_meant = f'["{REPLIES[step - 1].__name__}"' in str(content.config_records["rest"]["json"])
        return flipped(step, name)(content) if is_meant else content

    return damage


def test_replies_of_an_earlier_round_are_refused(
    without_node: dict[str, Any], tmp_path: Path
) -> None:
    for step in (1, 2, 3):
        kept = list[RecordDict]()

        def replay(content: RecordDict, kept: list[RecordDict] = kept) -> RecordDict:
            return replayed(content, kept)

        out = tmp_path / str(step)
        came = run_with(out, {(step, 2): replay, (STEPS + step, 2): replay}, SECURE)
        assert shared(came) == shared(without_node)
        assert "the answer to another request" in lines(out)[0]


def damaged(seed: int) -> Damage:
    """Change, cut out or add some bytes of an array or of the text of a reply."""

    def damage(content: RecordDict) -> RecordDict:
        rng = np.random.default_rng(seed)
        arrays = dict(content.array_records["arrays"])
        text = str(content.config_records["rest"]["json"]).encode()
        name = rng.choice([*sorted(arrays), ""])
        array = arrays.get(name)
        before = text if array is None else array.data
        at, cut, added = rng.integers(len(before)), *rng.integers(0, 3, 2)
        after = before[:at] + rng.bytes(added) + before[at + cut :]
        if array is None:
            text = after
        else:
            arrays[name] = Array(array.dtype, array.shape, array.stype, after)
        rest = ConfigRecord({"json": text.decode(errors="replace")})
        return RecordDict({"arrays": ArrayRecord(arrays), "rest": rest})

    return damage


@settings(max_examples=20, deadline=None)
@given(step=st.integers(1, STEPS), seed=st.integers(0, 2**32))
@pytest.mark.filterwarnings("ignore::Warning")  # of numpy's reader, about headers
def test_no_damage_gives_another_sum(
    tmp_path_factory: pytest.TempPathFactory,
    without_fault: dict[str, Any],
    without_node: dict[str, Any],
    step: int,
    seed: int,
) -> None:
    """A reply that is damaged counts as it was or as none, or the run stops with a line."""
    out = tmp_path_factory.mktemp("damaged") / "run"
    try:
        came = run_with(out, {(STEPS + step, 2): damaged(seed)}, SECURE)
    except EngineError as error:
        assert str(error).startswith("round 2: the secure sum failed in 1 attempts")
        assert "\n" not in str(error)
        return
    assert came["digest"] in (without_fault["digest"], without_node["digest"])
