"""A message that was damaged or made up is read as what it must be, or refused in one line."""

import json
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from fedrec.aggregation.update import Down, Mix, RowBlock, UpdateBatch
from fedrec.errors import ProtocolError
from fedrec.evaluation.evaluate import Evaluation
from fedrec.flower import records
from fedrec.flower.grid import claim_identity
from fedrec.flower.records import Evaluated, PrivateState, RollCall, RoundRequest, Trained
from fedrec.flower.sum_records import (
    KeyReply,
    MaskReply,
    MaskRequest,
    RevealReply,
    RevealRequest,
    ShareReply,
    ShareRequest,
)
from fedrec.secure_sum.messages import (
    MaskedSum,
    NeighbourKeys,
    PublicKeys,
    RevealedShares,
    SealedShares,
    Survivors,
)
from fedrec.types import FailedClient
from server.replies import Expected, read_trained
from strategies import FedAvg, Krum
from tests.secure_sums import Nodes, layout_of, secure_words, sums_of
from tests.secure_sums import updates as secure_updates

ALLOWED = ["item", "item/control", "head"]
HEAD = np.zeros(2, np.float32)
REQUEST = RoundRequest("a", "b", 3, 2, ((2, 1),), ((3, 1),), 1, np.arange(5), np.zeros(5, np.int64))
ATTACKERS = np.array([1, 2])
SHAPES = {"item": (10, 4), "item/control": (10, 4), "head": (2,)}
EXPECTED = Expected(SHAPES, ["item", "item/control"], ["loss", "examples"])


def updates(*clients: int, kind: str = "f4", sparse: bool = False) -> UpdateBatch:
    values = np.arange(28).reshape(7, 4) % 5
    scale = np.ones(7, np.float16) if kind == "i1" else None
    ids = np.array([1, 4, 9, 0, 2, 3, 8])
    block = RowBlock(np.array([0, 3, 7]), ids, values.astype(kind), scale, None, sparse)
    control = replace(block, values=values.astype("f4"), scale=None, sparse=False)
    tables, dense = {"item": block, "item/control": control}, {"head": np.ones((2, 2), "f4")}
    numbers = {"loss": np.ones(2), "examples": np.ones(2)}
    return UpdateBatch(3, np.array(clients), np.ones(2), tables, dense, numbers, {"x": np.ones(2)})


FAILED = (FailedClient(client="4", reason="r"),)
SUM = FedAvg().reduce(updates(0, 3))
VALUES: Any = {"mixed": {"valid": np.ones((3, 1)), "test": np.ones((3, 2))}}
EVALUATION = Evaluation(np.arange(3), VALUES, {10: np.arange(10)}, ("warm",), {10: np.arange(2)})
SUMS, NODES = sums_of(secure_updates(6)), Nodes([[0, 1, 2], [3], [4, 5]])
secure_words(NODES, SUMS, [range(6), range(6), [0, 2, 3, 4, 5], [0, 2, 3, 4, 5]])
SUMMED: dict[Any, Any] = {type(each): each for each in NODES.sent}
OF_SUMS: list[tuple[Any, Any, Any]] = [
    (KeyReply, REQUEST.id, PublicKeys),
    (ShareRequest, REQUEST, NeighbourKeys),
    (ShareReply, REQUEST.id, SealedShares),
    (RevealRequest, REQUEST, Survivors),
    (RevealReply, REQUEST.id, RevealedShares),
]
SENT: list[Any] = [
    Trained({0: SUM}, FAILED, 99, 1.5, 7, ("note",), updates(1, 2), request=REQUEST.id),
    Trained(
        {0: Krum().reduce(updates(0, 3))},
        FAILED,
        attackers=updates(1, 2, kind="i1"),
        request=REQUEST.id,
    ),
    Trained({0: SUM}, FAILED, attackers=updates(1, 2, kind="f2", sparse=True), request=REQUEST.id),
    Trained({0: SUM}, clients=np.array([0, 3]), losses=np.ones(2)),
    REQUEST,
    RollCall(np.arange(4), "code", 2, 1, PrivateState(((3, 1),), 5, (((4, 2), 7),))),
    Evaluated("b/3/2", EVALUATION),
    *(kind(about, {0: SUMMED[of]}) for kind, about, of in OF_SUMS),
    MaskRequest(REQUEST, {0: SUMMED[SealedShares]}, {0: 6}),
    MaskReply(REQUEST.id, Trained({}, FAILED), {0: SUMMED[MaskedSum]}, layout_of(SUMS)),
]
ENCODED = [(type(each), records.encode(each, ALLOWED)) for each in SENT]
DOWN = Down({"head": HEAD}, {"item": Mix(np.ones((2, 10, 4), "f4"), np.ones((6, 2), "f4"))})
NAMES = sorted({name for _, content in ENCODED for name in content["arrays"]})

NUMBERS = st.integers(-3, 12) | st.sampled_from([2**31, 2**63, 2**64, 2**80, -(2**70), 0.5])
LEAVES = st.none() | st.booleans() | NUMBERS | st.floats() | st.text(max_size=3)
JSON = st.recursive(
    LEAVES | st.sampled_from(NAMES),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)
DTYPES = st.sampled_from(["<i4", "<i8", "<f4", "<f8", "|u1", "|b1", "<c8", "<U2", "<M8[s]"])


def places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Yield each part of a tree, as the container and the key in it."""
    keys = tree if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ()
    for key in keys:
        yield tree, key
        yield from places(tree[key])


def damaged_tree(data: st.DataObject, tree: Any) -> Any:
    container, key = data.draw(st.sampled_from([*places(tree)]), "place")
    if data.draw(st.booleans(), "is left out"):
        del container[key]
    else:
        others = st.sampled_from([c[k] for c, k in places(tree)])
        container[key] = deepcopy(data.draw(JSON | others, "instead"))
    return tree


def damaged_bytes(data: st.DataObject, content: bytes) -> bytes:
    at = data.draw(st.integers(0, len(content)), "at")
    cut = data.draw(st.integers(0, 9), "bytes that are cut out")
    return content[:at] + data.draw(st.binary(max_size=9), "bytes instead") + content[at + cut :]


def damaged_array(data: st.DataObject, array: Array) -> Array:
    if data.draw(st.booleans(), "another array"):
        shape = data.draw(st.lists(st.integers(0, 11), max_size=3), "shape")
        return Array(np.zeros(shape, data.draw(DTYPES, "dtype")))
    return Array(array.dtype, array.shape, array.stype, damaged_bytes(data, array.data))


def damaged(data: st.DataObject, content: RecordDict) -> RecordDict:
    arrays = dict(content.array_records["arrays"])
    text = str(content.config_records["rest"]["json"])
    if bool(arrays) and data.draw(st.booleans(), "damage an array"):
        name = data.draw(st.sampled_from(sorted(arrays)), "name")
        arrays[name] = damaged_array(data, arrays[name])
    elif data.draw(st.booleans(), "damage the text"):
        text = damaged_bytes(data, text.encode()).decode(errors="replace")
    else:
        text = json.dumps(damaged_tree(data, json.loads(text)))
    return RecordDict({"arrays": ArrayRecord(arrays), "rest": ConfigRecord({"json": text})})


@given(data=st.data())
@pytest.mark.filterwarnings("ignore::Warning")  # of numpy's reader, about headers
def test_a_damaged_message_is_refused_or_read_as_what_it_must_be(data: st.DataObject) -> None:
    kind, content = data.draw(st.sampled_from(ENCODED), "message")
    try:
        assert isinstance(records.decode(damaged(data, content), kind), kind)
    except ProtocolError as error:
        assert "\n" not in str(error)


@given(data=st.data())
@pytest.mark.filterwarnings("ignore::Warning")
def test_a_damaged_reply_is_refused_or_one_to_the_request(data: st.DataObject) -> None:
    claim_identity()
    sent = [content for kind, content in ENCODED if kind is Trained][:3]
    content = damaged(data, data.draw(st.sampled_from(sent), "reply"))
    reply = Message(content, reply_to=Message(RecordDict(), 5, records.TRAIN))
    try:
        trained = read_trained(reply, REQUEST, ATTACKERS, EXPECTED)
    except ProtocolError as error:
        assert "\n" not in str(error)
        return
    for aggregate in trained.aggregates.values():
        for name, ids in aggregate.ids.items():
            assert (np.diff(ids) > 0).all() and set(ids.tolist()) <= set(range(10))
            assert aggregate.sums[name].shape == (len(ids), 4)
    counted = sum(aggregate.clients for aggregate in trained.aggregates.values())
    attackers = 0 if trained.attackers is None else len(trained.attackers.client_ids)
    assert counted + attackers + len(trained.failures) == len(REQUEST.clients)


@given(data=st.data())
@pytest.mark.filterwarnings("ignore::Warning")
def test_damaged_parameters_are_refused_or_read(data: st.DataObject) -> None:
    undamaged = records.Broadcast(DOWN, ALLOWED).record(np.arange(6))
    name = data.draw(st.sampled_from(sorted(undamaged)), "name")
    arrays = {**dict(undamaged), name: damaged_array(data, undamaged[name])}
    try:
        assert isinstance(records.decode_down(RecordDict({"params": ArrayRecord(arrays)})), Down)
    except ProtocolError as error:
        assert "\n" not in str(error)
