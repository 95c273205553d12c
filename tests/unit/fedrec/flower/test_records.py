"""What is encoded comes back, and nothing local can be encoded."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_equal

from fedrec.errors import ProtocolError
from fedrec.evaluation.evaluate import Evaluation
from fedrec.flower import records
from fedrec.flower.identity import task_identity
from fedrec.flower.records import RollCall, RoundRequest, Trained
from fedrec.types import Aggregate, FailedClient, FloatArray

words = st.text(min_size=1, max_size=20)
numbers = st.integers(0, 2**31)
ids = st.sets(st.integers(0, 2**40), max_size=6).map(lambda s: np.array(sorted(s), np.int64))
requests = st.builds(
    RoundRequest, run=words, out=words, split=words, round=numbers, committed=numbers, best=numbers
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


@settings(deadline=None)
@given(requests, st.none() | ids)
def test_requests(request: RoundRequest, clients: FloatArray | None) -> None:
    found, chosen = records.decode_request(wire(records.encode_request(request, clients=clients)))
    assert found == request
    assert_equal(chosen, clients)


@settings(deadline=None)
@given(ids, words, numbers)
def test_roll_calls(clients: FloatArray, code: str, partitions: int) -> None:
    roll_call = RollCall(clients, code, partitions)
    found = records.decode_roll_call(wire(records.encode_roll_call(roll_call)))
    assert (found.code, found.partitions) == (code, partitions)
    assert_equal(found.clients, clients)
    assert found.clients.dtype == np.int64


@settings(deadline=None)
@given(
    st.none() | aggregates(),
    st.lists(st.builds(FailedClient, client=words, reason=words), max_size=3),
)
def test_training_replies(aggregate: Aggregate | None, failures: list[FailedClient]) -> None:
    trained = Trained(aggregate, tuple(failures))
    found = records.decode_trained(wire(records.encode_trained(trained, GLOBAL)))
    assert found.failures == trained.failures
    if aggregate is None:
        assert found.aggregate is None
        return
    assert found.aggregate is not None
    for name in Aggregate.__dataclass_fields__:
        assert_equal(getattr(found.aggregate, name), getattr(aggregate, name))
    for part in (found.aggregate.ids, found.aggregate.sums, found.aggregate.row_weight):
        assert all(value.dtype == np.int64 for value in part.values())
    assert found.aggregate.sums["constant"].shape == ()


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
    )
    found = records.decode_evaluation(wire(records.encode_evaluation(evaluation)))
    assert_equal(found.users, evaluation.users)
    assert_equal(found.values, evaluation.values)
    assert_equal(found.exposure, evaluation.exposure)


@pytest.mark.parametrize("shape", [(), (3,), (4, 2), (0, 2)])
@pytest.mark.parametrize("kind", [np.float32, np.float64, np.int64])
def test_parameters_keep_shape_type_and_bits(shape: tuple[int, ...], kind: type) -> None:
    value: FloatArray = np.arange(int(np.prod(shape)), dtype=kind).reshape(shape)
    content = RecordDict({"params": records.encode_params({"head": value}, GLOBAL)})
    found = records.decode_params(wire(content))["head"]
    assert (found.shape, found.dtype) == (value.shape, value.dtype)
    assert found.tobytes() == value.tobytes()


def test_a_view_that_is_not_contiguous_arrives_whole() -> None:
    value = np.arange(12.0).reshape(3, 4).T
    content = RecordDict({"params": records.encode_params({"head": value}, GLOBAL)})
    assert_equal(records.decode_params(wire(content))["head"], value)


@pytest.mark.parametrize("name", ["user", "lambda", "user/first", "item/sums"])
def test_a_local_name_cannot_go_down(name: str) -> None:
    with pytest.raises(ProtocolError, match=rf"'{name}' may not leave its client.*constant, head"):
        records.encode_params({"item": np.ones((1, 1)), name: np.ones(1)}, GLOBAL)


@pytest.mark.parametrize("name", ["user", "lambda", "user/first"])
def test_a_local_name_cannot_go_up(name: str) -> None:
    aggregate = Aggregate(1, 1, {}, {name: np.ones(1, np.int64)}, {}, {name: 32})
    with pytest.raises(ProtocolError, match=f"'{name}' may not leave its client"):
        records.encode_trained(Trained(aggregate), GLOBAL)
    hidden = replace(aggregate, sums={}, scale={}, row_weight={name: np.ones(1, np.int64)})
    with pytest.raises(ProtocolError, match=f"'{name}' may not leave its client"):
        records.encode_trained(Trained(hidden), GLOBAL)


def test_a_message_without_a_request_says_so() -> None:
    with pytest.raises(ProtocolError, match="no request of fedrec; start rounds with fedrec's own"):
        records.decode_request(RecordDict())


def test_bytes_are_those_of_the_content() -> None:
    small = records.encode_request(RoundRequest("a", "b", "c"))
    params = records.encode_params({"item": np.zeros((100, 10), np.float32)}, GLOBAL)
    large = records.encode_request(RoundRequest("a", "b", "c"), params)
    with task_identity(1, 0):
        counts = [records.byte_count(Message(c, 1, records.TRAIN)) for c in (small, large)]
    assert 4000 <= counts[1] - counts[0] <= 4400


@pytest.mark.parametrize("key", ["request", "clients", "params", "sums", "about", "values"])
def test_a_message_that_lacks_what_it_must_hold_is_named(key: str) -> None:
    """As from a device with another version; a record of another kind is none either."""
    decode = {
        "request": records.decode_request,
        "clients": records.decode_roll_call,
        "params": records.decode_params,
        "sums": records.decode_trained,
        "about": records.decode_trained,
        "values": records.decode_evaluation,
    }[key]
    about = (
        {"about": ConfigRecord({"group": 0, "uploaded": 0, "seconds": 1.0})}
        if key == "sums"
        else {}
    )
    with pytest.raises(ProtocolError, match=f"holds no .*{key}"):
        decode(RecordDict({**about, key: MetricRecord({"x": 1})}))


@settings(max_examples=20, deadline=None)
@given(aggregates())
def test_what_was_read_is_gone_without_the_garbage_collector(aggregate: Aggregate) -> None:
    """A circle of references would hold the arrays of many rounds."""
    params = records.encode_params({"item": np.zeros((9, 2), np.float32)}, GLOBAL)
    values = {"mixed": {"valid": np.ones((4, 2)), "test": np.ones((4, 2))}}
    evaluation = Evaluation(np.arange(4), values, {5: np.arange(3)})  # type: ignore[arg-type]
    contents = [
        records.encode_request(RoundRequest("a", "b", "c"), params, np.arange(5)),
        records.encode_roll_call(RollCall(np.arange(5), "code", 2)),
        records.encode_trained(Trained(aggregate), GLOBAL),
        records.encode_evaluation(evaluation),
    ]
    del params
    gc.collect()
    gc.disable()
    try:
        there = [weakref.ref(record) for content in contents for record in content.values()]
        assert all(each() is not None for each in there)
        with task_identity(1, 0):
            for content in contents:
                records.byte_count(Message(content, 1, records.TRAIN))
        records.decode_request(contents[0])
        records.decode_params(contents[0])
        records.decode_roll_call(contents[1])
        records.decode_trained(contents[2])
        records.decode_evaluation(contents[3])
        del content, contents
        assert [each() for each in there] == [None] * len(there)
    finally:
        gc.enable()
