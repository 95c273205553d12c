"""A message taken apart and put together again is the message."""

from __future__ import annotations

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from fedrec.flower.identity import task_identity
from fedrec.flower.message_arrays import MessageArray, join_arrays, split_arrays


@given(
    st.dictionaries(
        st.text(max_size=5),
        arrays(st.sampled_from([np.float32, np.int64]), array_shapes(min_dims=0, min_side=0)),
        max_size=4,
    ),
    st.lists(st.integers(-(2**62), 2**62), max_size=5),
)
def test_round_trip(content: dict[str, np.ndarray], ids: list[int]) -> None:
    record = ArrayRecord({name: Array(np.asarray(value)) for name, value in content.items()})
    with task_identity(run_id=3, node_id=0):
        content_sent = RecordDict(
            {"a": record, "b": record, "c": ConfigRecord({"ids": ids}), "m": MetricRecord()}
        )
        message = Message(content_sent, 2, "train.cohort", group_id="7")
    body, split = split_arrays(message)
    again = join_arrays(body, [Array(*array) for array in split])
    assert len(split) == len(content)  # the record that stands there twice is taken once
    assert vars(again.metadata) == vars(message.metadata)
    assert again.content["c"] == message.content["c"]
    assert again.content["a"] is again.content["b"]
    for name, value in content.items():
        found = again.content.array_records["a"][name]
        assert found.data == record[name].data
        np.testing.assert_array_equal(found.numpy(), value)


def test_the_body_holds_no_array() -> None:
    with task_identity(run_id=3, node_id=0):
        table = ArrayRecord([np.zeros(100_000)])
        body, split = split_arrays(Message(RecordDict({"a": table}), 1, "train"))
    assert len(body) < 2_000
    assert split == [MessageArray("float64", (100_000,), "numpy.ndarray", table["0"].data)]
    assert split[0].data is table["0"].data
