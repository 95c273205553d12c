"""A node: what it trains it can train again, and a client that fails takes nobody with it."""

from collections.abc import Callable
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from clients.node import Node
from clients.shard_source import NodeData
from fedrec.aggregation.mix import values_of
from fedrec.aggregation.update import Aggregate, Down, Mix
from fedrec.config.experiment import Experiment
from fedrec.data.catalogue import Catalogue
from fedrec.errors import ClientFailure, ConfigError
from fedrec.flower.records import RoundRequest, Trained
from fedrec.training.initial_values import initial_local
from fedrec.types import IntArray, Shard
from tests.contracts.own_models import Fussy
from tests.planted import catalogue_of, rates, shard_of

SHARD = shard_of(
    12,
    train=[[0, 1, 4], [2, 3], [5], [1, 7, 8], [0, 9]],
    users_of_clients=[2, 1, 1, 1],
    valid=[[2], [4], [6], [0], [1]],
    test=[[3], [5], [7], [2], [4]],
)
EVERYBODY = SHARD.client_ids
Make = Callable[..., Node]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """A node in a new folder."""
    count = iter(range(100))

    def build(shard: Shard = SHARD, **sections: Any) -> Node:
        document = {
            "data": {"name": "synthetic"},
            "train": {"optimizers": rates(0.1), "backend": "torch"},
            "personalization": {"name": "plgc", "branch": "table", "persistence": 0.5},
            "evaluate": {"metrics": ["ndcg@3", "coverage@3"]},
            **sections,
        }
        out = tmp_path / f"run-{next(count)}"
        experiment = Experiment.model_validate(document)
        task = experiment.client_task(catalogue_of(shard.n_items))
        return Node(experiment, task, NodeData(shard, SHARD.n_clients), out, 0)

    return build


def request(
    round: int, committed: int | None = None, best: int = 0, clients: IntArray = EVERYBODY
) -> RoundRequest:
    last = round - 1 if committed is None else committed
    applied = ((last, 1),) if last else ()
    groups = np.zeros_like(clients)
    return RoundRequest("run", "", round, 1, applied, (), best, clients, groups)


def start(node: Node) -> Down:
    return Down(node.task.initial_globals(SHARD.n_items))


def raw(trained: Trained) -> Any:
    return raw_sum(trained.aggregates[0])


def raw_sum(aggregate: Aggregate) -> Any:
    reply: dict[str, Any] = {"clients": aggregate.clients, "metrics": dict(aggregate.metrics)}
    for part in ("ids", "sums", "row_weight"):
        reply[part] = {name: v.tobytes() for name, v in getattr(aggregate, part).items()}
    return reply


def state_of(node: Node, round: int) -> dict[str, bytes]:
    """The local parameters of all clients after a round, through the file of the evaluation."""
    node.evaluate(request(round, committed=round), start(node))
    arrays = load_file(next(node._evaluated._folder.glob(f"*@{round}.safetensors")))
    return {name: value.tobytes() for name, value in arrays.items()}


def test_a_round_that_is_repeated_has_the_same_bits(make: Make) -> None:
    node = make()
    first = node.train(request(1), start(node))
    again = node.train(request(1), start(node))
    assert raw(again) == raw(first)
    second = node.train(request(2), start(node))
    assert raw(second) != raw(first)


def test_a_round_that_was_not_taken_leaves_no_trace(make: Make) -> None:
    broken, plain = make(), make()
    broken.train(request(1, clients=EVERYBODY[:2]), start(broken))
    for node in (broken, plain):
        node.train(request(1), start(node))
    assert state_of(broken, 1) == state_of(plain, 1)


def test_a_process_that_starts_anew_goes_on_where_the_last_ended(
    make: Make, tmp_path: Path
) -> None:
    whole, cut = make(), make()
    for node in (whole, cut):
        node.train(request(1), start(node))
    out = cut._evaluated._folder.parent
    revived = Node(cut.experiment, cut.task, NodeData(SHARD, SHARD.n_clients), out, 0)
    answers = [n.train(request(2), start(n)) for n in (whole, revived)]
    assert raw(answers[0]) == raw(answers[1])


def test_clients_that_stay_at_home_keep_their_state(make: Make) -> None:
    node = make()
    node.train(request(1), start(node))
    node.train(request(2, clients=EVERYBODY[1:2]), start(node))
    alone = make()
    alone.train(request(1), start(alone))
    before, after = state_of(alone, 1), state_of(node, 2)
    width = len(before["user"]) // 5
    user = [slice(k * width, (k + 1) * width) for k in range(5)]
    assert [before["user"][at] == after["user"][at] for at in user] == [True] * 2 + [False] + [
        True
    ] * 2


@pytest.mark.parametrize("cuts", [[1], [2], [1, 3]])
def test_nodes_sum_up_to_one_node(make: Make, cuts: list[int]) -> None:
    whole = make()
    expected = [whole.train(request(r), start(whole)) for r in (1, 2)]
    nodes = [make(SHARD.take(part)) for part in np.split(np.arange(4), cuts)]
    for number in (1, 2):
        answers = [
            n.train(request(number, clients=n.shard.client_ids), start(n)).aggregates[0]
            for n in nodes
        ]
        assert raw_sum(reduce(whole.strategy.merge, answers)) == raw(expected[number - 1])


def test_clients_of_a_group_are_summed_apart(make: Make) -> None:
    """In one message; each group as if it had been asked for alone."""
    node, asked = make(), request(1)
    together = node.train(replace(asked, groups=np.array([2, 0, 2, 5])), start(node))
    assert list(together.aggregates) == [0, 2, 5]
    for group, members in {0: [1], 2: [0, 2], 5: [3]}.items():
        alone = make()
        expected = alone.train(request(1, clients=EVERYBODY[members]), start(alone))
        assert raw_sum(together.aggregates[group]) == raw(expected)
    assert state_of(node, 1) == state_of(trained_once(make()), 1)


def trained_once(node: Node) -> Node:
    node.train(request(1), start(node))
    return node


def test_clients_train_and_rank_with_values_of_their_own(make: Make) -> None:
    """As those do who are sent the same values alone."""
    node = make()
    table = start(node).shared["item"]
    bases = np.stack([table, table[::-1]])
    weights = np.array([[1, 0], [0, 1], [0.5, 0.5], [0, 1]], np.float32)
    down = Down({}, {"item": Mix(bases, weights)})
    groups = np.arange(4)
    together = node.train(replace(request(1), groups=groups), down)
    ranked = node.evaluate(request(1, committed=1), down)
    for client in range(4):
        alone, one = make(), EVERYBODY[[client]]
        own = Down({"item": values_of(down.own["item"], one)[0]})
        expected = alone.train(request(1, clients=one), own)
        assert raw_sum(together.aggregates[client]) == raw(expected)
        scores = alone.evaluate(request(1, committed=1, clients=one), own)
        for part, values in scores.values["mixed"].items():
            at = np.isin(ranked.users, scores.users)
            np.testing.assert_array_equal(ranked.values["mixed"][part][at], values)


def test_only_the_best_and_the_latest_evaluation_are_kept(make: Make) -> None:
    node = make()
    for number, best in ((1, 0), (2, 1), (3, 1), (4, 1)):
        node.train(request(number, number - 1), start(node))
        node.evaluate(request(number, number, best), start(node))
    names = sorted(path.name for path in node._evaluated._folder.iterdir())
    assert names == ["node-000@1.safetensors", "node-000@4.safetensors"]


# Clients that fail ---------------------------------------------------------------------------


def fussy(user: int, how: str) -> dict[str, Any]:
    """A model that fails for one user."""
    spec = Fussy().params(Catalogue.empty())["mark"]
    mark = initial_local(0, "mark", spec, np.array([user], np.int64))
    name = "tests.contracts.own_models:Fussy"
    return {"name": name, "embedding_dim": 4, "target": float(mark[0]), "how": how}


REASONS = {
    "raise": "RuntimeError: the model does not like this user",
    "nan": "model Fussy: score is not finite though its parameters are",
}


def without(ids: IntArray, client: int) -> IntArray:
    return np.asarray(ids[ids != client])


@pytest.mark.parametrize("how", REASONS)
@pytest.mark.parametrize(("user", "client"), [(0, 0), (1, 0), (3, 2)])
@pytest.mark.parametrize("form", ["none", "plgc"])
def test_the_others_train_on_with_the_same_bits(
    make: Make, how: str, user: int, client: int, form: str
) -> None:
    sections = {
        "model": fussy(user, how),
        "personalization": form,
        "rounds": {"max_failures": 1},
    }
    node, healthy = make(**sections), make(**sections)
    reply = node.train(request(1), start(node))
    expected = healthy.train(request(1, clients=without(EVERYBODY, client)), start(healthy))
    (failure,) = reply.failures
    assert failure.client == str(client)
    assert failure.reason.startswith(REASONS[how])
    assert expected.failures == ()
    assert raw(reply) == raw(expected)
    assert state_of(node, 1) == state_of(healthy, 1)


@pytest.mark.parametrize("how", REASONS)
def test_no_client_may_fail_unless_it_is_allowed(make: Make, how: str) -> None:
    node = make(model=fussy(3, how), personalization="none")
    with pytest.raises(ClientFailure) as caught:
        node.train(request(1), start(node))
    assert str(caught.value).startswith(f"round 1, client 2, train: {REASONS[how]}")


@pytest.mark.parametrize("how", REASONS)
def test_a_node_whose_only_client_fails_answers_without_sums(make: Make, how: str) -> None:
    sections = {"model": fussy(3, how), "rounds": {"max_failures": 1}, "personalization": "none"}
    node = make(**sections)
    reply = node.train(request(1, clients=EVERYBODY[2:3]), start(node))
    (failure,) = reply.failures
    assert failure.client == "2"
    assert failure.reason.startswith(REASONS[how])
    assert not reply.aggregates


def test_a_client_that_cannot_rank_is_named(make: Make) -> None:
    node = make(model={"name": "tests.contracts.own_models:BiasedMF"}, personalization="none")
    params = {**start(node).shared, "constant": np.zeros((7, 7), np.float32)}
    with pytest.raises(ClientFailure, match=r"^round 2, client 0, evaluate: RuntimeError: "):
        node.evaluate(request(2, 0), Down(params))


def test_a_baseline_has_no_node(make: Make) -> None:
    with pytest.raises(ConfigError, match="baseline has no clients"):
        make(model="popularity")
