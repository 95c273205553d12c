"""The serial engine, and what all engines of fedrec's own share."""

import importlib
from collections.abc import Iterator
from importlib.metadata import version

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg
from hypothesis import given
from hypothesis import strategies as st

from fedrec.errors import EngineError
from fedrec.flower import grid as grid_module
from fedrec.flower.grid import IDENTITY, RUN_ID, SERVER_NODE, SerialGrid, claim_identity

app = ClientApp()


@app.query()
def echo(message: Message, context: Context) -> Message:
    return Message(message.content, reply_to=message)


@app.query("count")
def count(message: Message, context: Context) -> Message:
    record = context.state.config_records.get("calls")
    calls = int(str(record["n"])) + 1 if record else 1
    context.state["calls"] = ConfigRecord({"n": calls})
    about = ConfigRecord({"n": calls, **context.node_config, **context.run_config})
    return Message(RecordDict({"about": about}), reply_to=message)


@app.train()
def fail(message: Message, context: Context) -> Message:
    raise ZeroDivisionError("the toy divided by zero")


def ask(node: int, action: str = "query", round_number: int | None = None) -> Message:
    group = None if round_number is None else str(round_number)
    return Message(RecordDict(), node, action, group_id=group)


@given(st.permutations(range(1, 8)))
def test_replies_come_in_the_order_of_the_nodes(order: list[int]) -> None:
    with SerialGrid(app, 7) as grid:
        replies = grid.send_and_receive(ask(node) for node in order)
    assert [reply.metadata.src_node_id for reply in replies] == list(range(1, 8))


def test_nothing_is_copied() -> None:
    record = ArrayRecord([np.arange(3)])
    with SerialGrid(app) as grid:
        (reply,) = grid.send_and_receive([Message(RecordDict({"a": record}), 1, "query")])
    assert reply.content["a"] is record


def test_messages_are_taken_one_by_one() -> None:
    order: list[str] = []
    spy = ClientApp()

    @spy.query()
    def note(message: Message, context: Context) -> Message:
        order.append(f"answered {message.metadata.dst_node_id}")
        return Message(RecordDict(), reply_to=message)

    def messages() -> Iterator[Message]:
        for node in (1, 2):
            order.append(f"built {node}")
            yield ask(node)

    with SerialGrid(spy, 2) as grid:
        grid.send_and_receive(messages())
    assert order == ["built 1", "answered 1", "built 2", "answered 2"]


def test_each_node_has_its_own_context_that_lasts() -> None:
    with SerialGrid(app, 2, {"word": "hello"}) as grid:
        grid.send_and_receive([ask(1, "query.count")])
        replies = grid.send_and_receive(ask(node, "query.count") for node in (1, 2))
    about = [dict(reply.content["about"]) for reply in replies]
    common = {"num-partitions": 2, "word": "hello"}
    assert about == [
        {"n": 2, "partition-id": 0, **common},
        {"n": 1, "partition-id": 1, **common},
    ]


def test_an_error_of_the_client_app_arrives_as_it_is_and_says_where() -> None:
    with SerialGrid(app, 2) as grid, pytest.raises(ZeroDivisionError, match="the toy") as caught:
        grid.send_and_receive([ask(2, "train", round_number=7)])
    assert caught.value.__notes__ == ["(node 2, train, round 7)"]
    assert caught.traceback[-1].name == "fail"


def test_flowers_view_of_the_grid() -> None:
    with SerialGrid(app, 3) as grid:
        assert list(grid.get_node_ids()) == [1, 2, 3]
        assert [node.node_id for node in grid.get_nodes()] == [1, 2, 3]
        with pytest.raises(EngineError, match="engine: flower"):
            grid.push_messages([ask(1)])
        with pytest.raises(EngineError, match="engine: flower"):
            _ = grid.run


def test_messages_come_from_the_server_of_the_run() -> None:
    with SerialGrid(app):
        metadata = ask(2).metadata
    assert (metadata.run_id, metadata.src_node_id) == (RUN_ID, SERVER_NODE)


def test_an_identity_that_flower_has_given_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    identity = importlib.import_module(IDENTITY).TaskIdentity
    for name, value in (("_task_id", 3), ("_run_id", 5), ("_node_id", 7)):
        monkeypatch.setattr(identity, name, value)
    claim_identity()
    assert (ask(2).metadata.run_id, ask(2).metadata.src_node_id) == (5, 7)


def test_a_flower_without_the_private_name_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grid_module, "IDENTITY", "flwr.app")
    with pytest.raises(EngineError, match=r"does not have .*TaskIdentity.*pip install 'flwr"):
        SerialGrid(app)


def test_the_installed_flower_is_one_that_was_checked() -> None:
    major, minor = (int(part) for part in version("flwr").split(".")[:2])
    assert (1, 41) <= (major, minor) < (1, 43)


def test_a_strategy_of_flowers_runs_unchanged() -> None:
    """FedAvg with one weight per node is the weighted mean."""
    from flwr.app import MetricRecord

    mean = ClientApp()

    @mean.train()
    def train(message: Message, context: Context) -> Message:
        node = int(context.node_config["partition-id"])
        arrays = ArrayRecord([np.full(4, float(node))])
        metrics = MetricRecord({"num-examples": node + 1})
        return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)

    with SerialGrid(mean, 3) as grid:
        strategy = FedAvg(fraction_evaluate=0.0)
        result = strategy.start(grid, ArrayRecord([np.zeros(4)]), num_rounds=1)
    np.testing.assert_allclose(result.arrays.to_numpy_ndarrays()[0], (0 * 1 + 1 * 2 + 2 * 3) / 6)
