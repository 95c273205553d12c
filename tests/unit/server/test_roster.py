"""The roster: every client has one node, and a node that is wrong is named."""

from collections.abc import Callable, Iterable

import numpy as np
import pytest
from flwr.app import Context, Error, Message
from flwr.clientapp import ClientApp
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.errors import EngineError
from fedrec.flower import records
from fedrec.flower.grid import SerialGrid
from fedrec.flower.processes import code_hash
from server.roster import Roster, call_roll, deal, exchange

DESCRIPTION = records.RunDescription("run", "start", "{}")
Hosts = list[list[int]]


def ours(node: int) -> str:
    return code_hash()


def items(node: int) -> str:
    return "items"


def app_of(
    hosts: Hosts,
    partitions: int,
    code: Callable[[int], str] = ours,
    catalogue: Callable[[int], str] = items,
    weights: Callable[[int], str] = lambda node: "",
) -> ClientApp:
    """Nodes that say what they are told to say."""
    app = ClientApp()

    @app.query("roll_call")
    def roll_call(message: Message, context: Context) -> Message:
        node = int(context.node_config["partition-id"])
        clients = np.array(hosts[node], np.int64)
        known = catalogue(node), weights(node)
        answer = records.RollCall(clients, code(node), partitions, node, None, *known)
        return Message(records.encode(answer), reply_to=message)

    return app


def call(
    hosts: Hosts,
    n_clients: int,
    partitions: int = 0,
    code: Callable[[int], str] = ours,
    catalogue: Callable[[int], str] = items,
    weights: Callable[[int], str] = lambda node: "",
) -> Roster:
    app = app_of(hosts, partitions or len(hosts), code, catalogue, weights)
    with SerialGrid(app, len(hosts)) as grid:
        return call_roll(grid, DESCRIPTION, n_clients, code_hash(), "items", patience=0.1)


def test_nodes_stand_in_the_order_of_their_clients() -> None:
    roster = call([[3, 4], [], [0, 1, 2]], 5)
    hosted = {node: answer.clients.tolist() for node, answer in roster.items()}
    assert list(hosted.items()) == [(3, [0, 1, 2]), (1, [3, 4]), (2, [])]


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_a_cohort_is_dealt_whole_and_to_its_hosts(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 20))
    owner = np.array(data.draw(st.lists(st.integers(0, 3), min_size=n, max_size=n)))
    roster = {5 + k: records.RollCall(np.flatnonzero(owner == k), "code", 4, k) for k in range(4)}
    cohort = np.array(sorted(data.draw(st.sets(st.integers(0, n - 1)))), np.int64)
    dealt = deal(roster, cohort)
    assert all(len(clients) for _, clients in dealt)
    assert all((owner[clients] == node - 5).all() for node, clients in dealt)
    together = np.concatenate([np.zeros(0, np.int64), *[clients for _, clients in dealt]])
    assert np.array_equal(np.sort(together), cohort)


@pytest.mark.parametrize(
    ("hosts", "n", "said"),
    [
        ([[0, 1], [1, 2]], 3, "host 4 clients, 3 of them different, but the run has 3"),
        ([[0], [2]], 3, "host 2 clients, 2 of them different, but the run has 3"),
        ([[0, 1, 2, 3]], 3, "host 4 clients"),
    ],
)
def test_every_client_is_hosted_once(hosts: Hosts, n: int, said: str) -> None:
    with pytest.raises(EngineError, match=said):
        call(hosts, n)


def test_other_code_is_named() -> None:
    with pytest.raises(EngineError, match=r"node 2 runs other code .*\(deadbeef and "):
        call([[0], [1]], 2, code=lambda node: "deadbeef" * 8 if node else code_hash())


def test_features_of_another_catalogue_are_named() -> None:
    with pytest.raises(EngineError, match=r"node 2 has the features of another catalogue .*oth"):
        call([[0], [1]], 2, catalogue=lambda node: "other" if node == 1 else "items")


def test_other_frozen_weights_are_named() -> None:
    with pytest.raises(EngineError, match=r"node 2 has a model with other frozen weights .*oth"):
        call([[0], [1]], 2, weights=lambda node: "other" if node == 1 else "")


def test_nodes_that_do_not_come() -> None:
    with pytest.raises(EngineError, match="1 of 2 nodes came within 0 s"):
        call([[0]], 1, 2)


class Late(SerialGrid):
    """The second node comes when the server has looked twice."""

    looked = 0

    def get_node_ids(self) -> list[int]:
        self.looked += 1
        return [1, 2] if self.looked > 2 else [1]


def test_nodes_on_their_way_are_waited_for() -> None:
    with Late(app_of([[0], [1]], 2), 2) as grid:
        assert call_roll(grid, DESCRIPTION, 2, code_hash(), "items", patience=5.0).keys() == {1, 2}


class Deaf(SerialGrid):
    """The last node never answers."""

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        return super().send_and_receive(messages)[:-1]


def test_silent_nodes_are_counted() -> None:
    with (
        Deaf(app_of([[0], [1]], 2), 2) as grid,
        pytest.raises(EngineError, match="round 3: 1 of 2 nodes are silent"),
    ):
        asked = [Message(records.encode(DESCRIPTION), n, records.ROLL_CALL) for n in (1, 2)]
        exchange(grid, asked, "round 3")


def test_an_error_reply_is_named() -> None:
    app = ClientApp()

    @app.query("roll_call")
    def roll_call(message: Message, context: Context) -> Message:
        return Message(Error(code=1, reason="out of memory"), reply_to=message)

    with (
        SerialGrid(app, 1) as grid,
        pytest.raises(EngineError, match="roll call: node 1 failed: out of memory"),
    ):
        call_roll(grid, DESCRIPTION, 1, code_hash(), "items")
