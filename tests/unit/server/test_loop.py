"""The round loop: who is asked, when it stops, and that failures are a decision."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fedrec.aggregation.update import Aggregate, RowBlock, UpdateBatch
from fedrec.config.experiment import Experiment
from fedrec.data.catalogue import Catalogue
from fedrec.data.prepare import split_of
from fedrec.errors import ClientFailure, EngineError
from fedrec.evaluation.evaluate import Evaluation
from fedrec.flower import records
from fedrec.flower.grid import SerialGrid
from fedrec.runs.log import Bytes, read_log
from fedrec.runs.open_run import OpenRun
from fedrec.runs.recorder import Recorder
from fedrec.types import FailedClient, FloatArray
from server.loop import RoundLoop
from strategies import FedAvg
from strategies.selections.uniform import cohort

N_CLIENTS, N_NODES, N_ITEMS = 6, 3, 20
HOSTED = np.array_split(np.arange(N_CLIENTS), N_NODES)


class Toy:
    """Nodes whose clients all add 1 to item 0, fail when told, and have the scores they are told.

    Args:
        scores: Validation score of all users, evaluation by evaluation.
        failing: Per round, the clients that fail.
    """

    def __init__(self, scores: list[float], failing: dict[int, list[int]] | None = None) -> None:
        self.scores = scores
        self.failing = failing or {}
        self.requests: list[tuple[str, int, records.RoundRequest, list[int]]] = []
        self.app = ClientApp()
        self.app.train()(self.train)
        self.app.evaluate()(self.evaluate)

    def _note(self, kind: str, message: Message) -> tuple[records.RoundRequest, list[int]]:
        request = records.decode(message.content, records.RoundRequest)
        clients = request.clients.tolist()
        self.requests.append((kind, message.metadata.dst_node_id, request, clients))
        return request, clients

    def train(self, message: Message, context: Context) -> Message:
        request, clients = self._note("train", message)
        failed = set(self.failing.get(request.round, []))
        well = np.array([c for c in clients if c not in failed], np.int64)
        failures = tuple(
            FailedClient(client=str(c), reason="no power") for c in clients if c in failed
        )
        aggregates: dict[int, Aggregate] = {}
        if len(well):
            n = len(well)
            block = RowBlock(np.arange(n + 1), np.zeros(n, np.int64), np.ones((n, 1), np.float32))
            metrics = {"loss": np.full(n, 0.5), "examples": np.ones(n)}
            update = UpdateBatch(request.round, well, np.ones(n), {"item": block}, {}, metrics)
            aggregates[0] = FedAvg(aggregation={"average": "sum"}).reduce(update)
        trained = records.Trained(aggregates, failures, uploaded=8 * len(well), request=request.id)
        content = records.encode(trained, ["item"])
        return Message(content, reply_to=message)

    def evaluate(self, message: Message, context: Context) -> Message:
        request, _ = self._note("evaluate", message)
        users = HOSTED[int(context.node_config["partition-id"])]
        turn = sum(kind == "evaluate" for kind, *_ in self.requests)
        score = self.scores[min((turn - 1) // N_NODES, len(self.scores) - 1)]
        values: FloatArray = np.full((len(users), 1), score)
        evaluation = Evaluation(users, {"mixed": {"valid": values, "test": values / 2}}, {})
        evaluated = records.Evaluated(request.id, evaluation)
        return Message(records.encode(evaluated), reply_to=message)


def run(toy: Toy, out: Path, count: int = 6, every: int = 1, **rounds: Any) -> RoundLoop:
    experiment = Experiment.model_validate(
        {
            "data": {"name": "synthetic", "users": N_CLIENTS, "items": N_ITEMS, "taste_groups": 2},
            "strategy": {"name": "fedavg", "aggregation": {"average": "sum"}},
            "rounds": {"count": count, "patience": None, **rounds},
            "evaluate": {"metrics": ["mrr"], "every": every},
        }
    )
    split = split_of(experiment.data, experiment.clients)
    nodes = enumerate(HOSTED)
    loop = RoundLoop(
        experiment,
        {"item": np.zeros((N_ITEMS, 1), np.float32)},
        ["item"],
        ["item"],
        {k + 1: records.RollCall(ids, "code", N_NODES, k) for k, ids in nodes},
        records.RoundRequest("run", "start"),
        Recorder(OpenRun(out, experiment, out, split), {"name": "serial"}),
        Catalogue.of(split),
        split,
        np.arange(N_CLIENTS),
        split.clients,
    )
    try:
        with SerialGrid(toy.app, N_NODES) as grid:
            loop.run(grid)
    finally:
        loop.recorder.close()
    return loop


def result(out: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((out / "result.json").read_text())
    return document


def test_each_node_is_asked_once_for_its_part_of_the_cohort(tmp_path: Path) -> None:
    toy = Toy([0.1])
    run(toy, tmp_path, cohort_fraction=0.5, count=4)
    for number in range(1, 5):
        chosen = cohort(0, number, N_CLIENTS, 3)
        asked = {
            node: ids
            for kind, node, o, ids in toy.requests
            if kind == "train" and o.round == number
        }
        expected = {k + 1: np.intersect1d(h, chosen).tolist() for k, h in enumerate(HOSTED)}
        assert asked == {node: ids for node, ids in expected.items() if ids}


def test_orders_say_which_round_was_taken_and_which_is_best(tmp_path: Path) -> None:
    toy = Toy([0.1, 0.3, 0.2])
    run(toy, tmp_path, count=4)
    trained = [o for kind, node, o, _ in toy.requests if kind == "train" and node == 1]
    evaluated = [o for kind, node, o, _ in toy.requests if kind == "evaluate" and node == 1]
    assert [(o.round, o.applied) for o in trained] == [(1, ()), (2, ()), (3, ()), (4, ())]
    assert [o.round for o in evaluated] == [1, 2, 3, 4]
    assert [o.best for o in evaluated] == [0, 1, 2, 2]


def test_the_parameters_are_the_sum_of_all_rounds(tmp_path: Path) -> None:
    loop = run(Toy([0.1]), tmp_path, count=5)
    assert loop.model.params["item"][:2, 0].tolist() == [5.0 * N_CLIENTS, 0.0]


@pytest.mark.parametrize(
    ("scores", "patience", "rounds", "best", "status"),
    [
        ([0.1, 0.3, 0.2, 0.25, 0.9], 2, 4, 2, "early_stop"),
        ([0.1, 0.3, 0.2, 0.4, 0.1, 0.1], 2, 6, 4, "early_stop"),
        ([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], 1, 6, 6, "completed"),
        ([0.2, 0.2, 0.2], 2, 3, 1, "early_stop"),
        ([0.3, 0.1], None, 6, 1, "completed"),
    ],
)
def test_patience(
    scores: list[float], patience: int | None, rounds: int, best: int, status: str, tmp_path: Path
) -> None:
    run(Toy(scores), tmp_path, patience=patience)
    outcome = result(tmp_path)
    assert (outcome["rounds"], outcome["best_round"], outcome["status"]) == (rounds, best, status)
    assert outcome["metrics"]["valid"]["mrr"] == pytest.approx(scores[best - 1])
    assert outcome["metrics"]["test"]["mrr"] == pytest.approx(scores[best - 1] / 2)


def test_the_last_round_is_always_evaluated(tmp_path: Path) -> None:
    run(Toy([0.1]), tmp_path, count=5, every=2)
    evaluated = [r.round for r in read_log(tmp_path / "rounds.jsonl") if r.evaluation]
    assert evaluated == [2, 4, 5]


def test_a_failure_stops_the_run_with_round_client_and_stage(tmp_path: Path) -> None:
    said = r"round 2, client 4, train: no power; rounds\.max_failures is 0"
    with pytest.raises(ClientFailure, match=said):
        run(Toy([0.1], {2: [4]}), tmp_path)
    assert [r.round for r in read_log(tmp_path / "rounds.jsonl")] == [1]


def test_more_failures_than_allowed_are_counted_over_all_nodes(tmp_path: Path) -> None:
    said = r"client 0 \(and 2 more\), train: no power; rounds\.max_failures is 2"
    with pytest.raises(ClientFailure, match=said):
        run(Toy([0.1], {1: [0, 3, 5]}), tmp_path, max_failures=2)


def test_failures_that_are_allowed_are_named_and_leave_no_trace(tmp_path: Path) -> None:
    loop = run(Toy([0.1], {2: [2, 3]}), tmp_path, max_failures=2, count=3)
    log = read_log(tmp_path / "rounds.jsonl")
    assert [record.clients for record in log] == [6, 4, 6]
    assert [[f.client for f in record.failures] for record in log] == [[], ["2", "3"], []]
    assert loop.model.params["item"][0, 0] == 16.0


def test_a_round_in_which_all_fail_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="round 1: no client of the cohort succeeded"):
        run(Toy([0.1], {1: list(range(6))}), tmp_path, max_failures=6)


def test_loss_bytes_and_clients_are_recorded(tmp_path: Path) -> None:
    run(Toy([0.1]), tmp_path, count=2)
    for record in read_log(tmp_path / "rounds.jsonl"):
        assert record.loss == pytest.approx(0.5)
        assert record.clients == N_CLIENTS
        assert record.bytes == Bytes(up=8 * N_CLIENTS, down=4 * N_ITEMS * N_CLIENTS)
        assert record.simulation.down > N_NODES * 2 * N_ITEMS * 4
    log = read_log(tmp_path / "rounds.jsonl")
    for name in ("bytes", "simulation"):
        sums = {
            way: sum(getattr(getattr(record, name), way) for record in log)
            for way in ("up", "down")
        }
        assert result(tmp_path)[name] == sums
