"""What is encoded comes back, and nothing local can be encoded."""

import gc
import weakref
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_equal

from fedrec.aggregation.codec import payload_bytes
from fedrec.aggregation.reduce import keep_each
from fedrec.aggregation.update import Aggregate, Down, Mix, RowBlock, UpdateBatch
from fedrec.errors import ProtocolError
from fedrec.evaluation.evaluate import Evaluation
from fedrec.flower import records
from fedrec.flower.grid import claim_identity
from fedrec.flower.records import Evaluated, PrivateState, RollCall, RoundRequest, Trained
from fedrec.testing.trial import as_bytes
from fedrec.types import FailedClient, FloatArray

words = st.text(min_size=1, max_size=20)
numbers = st.integers(0, 2**31)
ids = st.sets(st.integers(0, 2**40), max_size=6).map(lambda s: np.array(sorted(s), np.int64))
tickets = st.tuples(numbers, numbers)
checksums = st.integers(0, 2**64 - 1)
requests = st.builds(
    RoundRequest,
    run=words,
    start=words,
    round=numbers,
    attempt=numbers,
    applied=st.lists(tickets, max_size=3).map(tuple),
    pending=st.lists(tickets, max_size=3).map(tuple),
    best=numbers,
)
states = st.builds(
    PrivateState,
    st.lists(tickets, max_size=3).map(tuple),
    checksums,
    st.lists(st.tuples(tickets, checksums), max_size=3).map(tuple),
)


def wire(content: RecordDict) -> RecordDict:
    """To bytes and back, as a process border does."""
    return recorddict_from_proto(recorddict_to_proto(content))


@st.composite
def aggregates(draw: st.DrawFn) -> Aggregate:
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    rows = draw(ids)
    big = 2**62
    return Aggregate(
        clients=draw(st.integers(1, 10**6)),
        weight=draw(st.integers(0, 2**62)),
        ids={"item": rows, "bias": rows},
        sums={
            "item": rng.integers(-big, big, (len(rows), 3)),
            "bias": rng.integers(-big, big, len(rows)),
            "head": rng.integers(-big, big, (2, 2)),
            "constant": np.asarray(rng.integers(-big, big)),
        },
        row_weight={
            "item": rng.integers(0, big, len(rows)),
            "bias": rng.integers(0, big, len(rows)),
        },
        scale={"item": 32, "bias": 32, "head": 32, "constant": 20},
        metrics={"loss": -(2**40), "examples": 7},
    )


GLOBAL = ("item", "bias", "head", "constant")
groups = st.dictionaries(st.integers(0, 2**31 - 1), aggregates(), max_size=2)


@settings(deadline=None)
@given(requests, ids)
def test_requests(request: RoundRequest, clients: FloatArray) -> None:
    content = records.encode(replace(request, clients=clients, groups=clients % 3))
    decoded = records.decode(wire(content), RoundRequest)
    assert decoded == request
    assert_equal((decoded.clients, decoded.groups), (clients, clients % 3))


@settings(deadline=None)
@given(ids, words, numbers, st.none() | states)
def test_roll_calls(clients: FloatArray, code: str, number: int, state: Any) -> None:
    roll_call = RollCall(clients, code, number, number // 2, state)
    decoded = records.decode(wire(records.encode(roll_call)), RollCall)
    for name in RollCall.__dataclass_fields__:
        assert_equal(getattr(decoded, name), getattr(roll_call, name))
    assert decoded.clients.dtype == np.int64


@settings(deadline=None)
@given(
    groups,
    st.lists(st.builds(FailedClient, client=words, reason=words), max_size=3),
)
def test_training_replies(sums: dict[int, Aggregate], failures: list[FailedClient]) -> None:
    trained = Trained(sums, tuple(failures))
    decoded = records.decode(wire(records.encode(trained, GLOBAL)), Trained)
    assert decoded.failures == trained.failures
    assert list(decoded.aggregates) == list(sums)
    for group, aggregate in decoded.aggregates.items():
        for name in Aggregate.__dataclass_fields__:
            assert_equal(getattr(aggregate, name), getattr(sums[group], name))
        for part in (aggregate.ids, aggregate.sums, aggregate.row_weight):
            assert all(value.dtype == np.int64 for value in part.values())
        assert aggregate.sums["constant"].shape == ()


FORMS: dict[str, dict[str, Any]] = {
    "float32": {"values": np.linspace(-1, 1, 6, dtype=np.float32).reshape(3, 2)},
    "float16": {"values": np.linspace(-1, 1, 6, dtype=np.float16).reshape(3, 2)},
    "int8": {
        "values": np.arange(6, dtype=np.int8).reshape(3, 2),
        "scale": np.array([0.5, 2, 0.1], np.float16),
    },
    "low rank": {"values": np.ones((3, 1), np.float32), "basis": np.ones((1, 2), np.float32)},
    "sparse": {"values": np.eye(3, 9, dtype=np.float32), "sparse": True},
}


@pytest.mark.parametrize("form", FORMS)
def test_updates_of_clients_travel_as_their_payloads(form: str) -> None:
    table = RowBlock(np.array([0, 2, 2, 3]), np.array([1, 4, 0]), **FORMS[form])
    body = RowBlock(np.arange(4), np.zeros(3, np.int64), **FORMS[form])
    batch = UpdateBatch(
        5,
        np.array([2, 3, 7]),
        np.ones(3),
        {"item": table},
        {"constant": np.array([1, 2, -0.0], np.float32)},
        {"loss": np.arange(3.0)},
        {"drift": np.arange(3.0)},
        coded={"head": body},
    )
    content = records.encode(Trained({0: keep_each(batch)}), GLOBAL)
    payload = content.array_records["arrays"]["Trained:aggregates:0:each:content"].numpy()
    assert payload.nbytes == payload_bytes(batch).sum()
    aggregate = records.decode(wire(content), Trained).aggregates[0]
    assert aggregate is not None
    assert as_bytes(aggregate.each) == as_bytes(batch.decoded())
    with pytest.raises(ProtocolError, match="'head' may not leave its client"):
        records.encode(Trained({0: keep_each(batch)}), ("item", "constant"))


@settings(deadline=None)
@given(st.integers(0, 99), st.integers(1, 5))
def test_evaluations(seed: int, users: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.random((users, 2))
    values[0, 0] = np.nan
    evaluation = Evaluation(
        users=np.arange(users) * 3,
        values={
            "mixed": {"valid": values, "test": values + 1},
            "local": {"valid": values - 1, "test": values * 2},
        },
        exposure={10: rng.integers(0, 9, 7), 5: rng.integers(0, 9, 7)},
        slices=("tail", "cold_among_all"),
        cold_listed={5: rng.integers(0, 9, 2)},
    )
    content = wire(records.encode(Evaluated("start/3/1", evaluation)))
    evaluated = records.decode(content, Evaluated)
    assert evaluated.request == "start/3/1"
    decoded = evaluated.evaluation
    assert_equal(decoded.users, evaluation.users)
    assert_equal(decoded.values, evaluation.values)
    assert_equal(decoded.exposure, evaluation.exposure)
    assert decoded.slices == evaluation.slices
    assert_equal(decoded.cold_listed, evaluation.cold_listed)


@pytest.mark.parametrize("shape", [(), (3,), (4, 2), (0, 2)])
@pytest.mark.parametrize("kind", [np.float32, np.float64, np.int64])
def test_parameters_keep_shape_type_and_bits(shape: tuple[int, ...], kind: type) -> None:
    value: FloatArray = np.arange(int(np.prod(shape)), dtype=kind).reshape(shape)
    content = RecordDict({"params": records.encode_params({"head": value}, GLOBAL)})
    decoded = records.decode_down(wire(content)).shared["head"]
    assert (decoded.shape, decoded.dtype) == (value.shape, value.dtype)
    assert decoded.tobytes() == value.tobytes()


def test_a_view_that_is_not_contiguous_arrives_whole() -> None:
    value = np.arange(12.0).reshape(3, 4).T
    content = RecordDict({"params": records.encode_params({"head": value}, GLOBAL)})
    assert_equal(records.decode_down(wire(content)).shared["head"], value)


@settings(deadline=None)
@given(data=st.data())
def test_clients_receive_their_own_values(data: st.DataObject) -> None:
    """Of what is shared every bit; of what is a client's own its weights, and the base values."""
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    n, k = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 3))
    own = {
        "item": Mix(rng.random((k, 4, 2), np.float32), rng.random((n, k), np.float32)),
        "constant": Mix(rng.random(2, np.float32), rng.random((n, 2), np.float32)),
    }
    down = Down({"head": rng.random(3, np.float32)}, own)
    places = np.array(sorted(data.draw(st.sets(st.integers(0, n - 1)))), np.int64)
    record = records.Broadcast(down, GLOBAL).record(places)
    received = records.decode_down(wire(RecordDict({records.PARAMS: record})))
    assert as_bytes(received) == as_bytes(down.take(places))


@pytest.mark.parametrize("name", ["user", "lambda", "user/first", "item/sums"])
def test_a_local_name_cannot_go_down(name: str) -> None:
    params = {"item": np.ones((1, 1))}
    own = {name: Mix(np.ones((1, 1)), np.ones((1, 1)))}
    for send in (
        lambda: records.encode_params({**params, name: np.ones(1)}, GLOBAL),
        lambda: records.Broadcast(Down(params, own), GLOBAL),
    ):
        with pytest.raises(
            ProtocolError, match=rf"'{name}' may not leave its client.*constant, head"
        ):
            send()


@pytest.mark.parametrize("name", ["user", "lambda", "user/first"])
def test_a_local_name_cannot_go_up(name: str) -> None:
    aggregate = Aggregate(1, 1, {}, {name: np.ones(1, np.int64)}, {}, {name: 32})
    with pytest.raises(ProtocolError, match=f"'{name}' may not leave its client"):
        records.encode(Trained({0: aggregate}), GLOBAL)
    hidden = replace(aggregate, sums={}, scale={}, row_weight={name: np.ones(1, np.int64)})
    with pytest.raises(ProtocolError, match=f"'{name}' may not leave its client"):
        records.encode(Trained({7: hidden}), GLOBAL)


def test_bytes_are_those_of_the_content() -> None:
    request = records.encode(RoundRequest("a", "b"))
    with_table = records.encode(RoundRequest("a", "b"))
    with_table[records.PARAMS] = records.encode_params(
        {"item": np.zeros((100, 10), np.float32)}, GLOBAL
    )
    claim_identity()
    contents = (request, with_table)
    counts = [records.byte_count(Message(c, 1, records.TRAIN)) for c in contents]
    assert 4000 <= counts[1] - counts[0] <= 4400


GOOD = records.encode(RoundRequest("a", "b", clients=np.arange(3)))


@pytest.mark.parametrize(
    "content",
    [
        RecordDict(),
        RecordDict({"arrays": GOOD["arrays"]}),
        RecordDict({"arrays": GOOD["arrays"], "rest": MetricRecord({"json": 1})}),
        RecordDict({"arrays": ArrayRecord(), "rest": GOOD["rest"]}),
        RecordDict({"arrays": GOOD["arrays"], "rest": ConfigRecord({"json": "{"})}),
        RecordDict({"arrays": GOOD["arrays"], "rest": ConfigRecord({"json": '{"kind": "Path"}'})}),
        records.encode(RollCall(np.arange(3), "code", 2)),
    ],
)
def test_a_message_that_is_not_what_it_must_be_is_named(content: RecordDict) -> None:
    """As from a device with another version, or from a server app that is not fedrec's."""
    with pytest.raises(
        ProtocolError, match=r"no RoundRequest of fedrec; .* own server app, .*same"
    ):
        records.decode(content, RoundRequest)
    with pytest.raises(ProtocolError, match="holds no shared parameters"):
        records.decode_down(content)


def test_what_was_read_is_gone_without_the_garbage_collector() -> None:
    """A circle of references would hold the arrays of many rounds."""
    claim_identity()
    rows = np.arange(3)
    aggregate = Aggregate(1, 1, {"item": rows}, {"item": rows}, {"item": rows}, {"item": 32})
    content = records.encode(Trained({0: aggregate}), GLOBAL)
    content[records.PARAMS] = records.encode_params({"item": np.zeros((9, 2))}, GLOBAL)
    there = [weakref.ref(record) for record in content.values()]
    gc.disable()
    try:
        records.byte_count(Message(content, 1, records.TRAIN))
        records.decode(content, Trained)
        records.decode_down(content)
        del content
        assert [each() for each in there] == [None] * len(there)
    finally:
        gc.enable()


@pytest.mark.parametrize(
    "value",
    [np.eye(3, dtype=np.float32), np.array(2.5), np.zeros((0, 4)), np.array([True]), np.eye(2).T],
)
def test_an_array_travels_as_flower_encodes_it(value: FloatArray) -> None:
    (encoded,) = records.encode_params({"item": value}, ["item"]).values()
    expected = Array(np.asarray(value, order="C"))
    assert (encoded.dtype, encoded.shape, encoded.stype) == (
        expected.dtype,
        expected.shape,
        expected.stype,
    )
    assert encoded.data == expected.data
