"""A strategy whose clients are in groups, from the messages to the recommendations."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Context, Message, RecordDict
from safetensors.numpy import load_file

import clients.app
import fedrec
import server.app
from fedrec.config.experiment import Experiment, load_experiment
from fedrec.data.prepare import split_of
from fedrec.flower.grid import SerialGrid
from fedrec.flower.records import RollCall, RoundRequest, Trained, decode, decode_down
from fedrec.runs.prepare import prepare_run
from fedrec.runs.reader import RunFolder
from fedrec.types import FloatArray, IntArray
from tests.planted import rates

WARMUP, ROUNDS = 2, 5
DOCUMENT: dict[str, Any] = {
    "data": {
        "name": "synthetic",
        "users": 40,
        "items": 50,
        "taste_groups": 2,
        "rank": 2,
        "interactions_per_user": 12.0,
    },
    "model": {"name": "mf", "embedding_dim": 8, "init_std": 0.1},
    "train": {"optimizers": rates(0.3), "backend": "torch"},
    "personalization": {"name": "plgc", "branch": "table", "persistence": 0.5},
    "strategy": {
        "name": "clustered",
        "clusters": 3,
        "warmup": WARMUP,
        "share": 0.0,
        "server_lr": 3,
    },
    "rounds": {"count": ROUNDS, "cohort_fraction": 0.8},
    "evaluate": {"every": ROUNDS, "metrics": ["ndcg@5", "hit_rate@5"]},
}


def experiment(nodes: int, by: dict[str, Any]) -> Experiment:
    engine = {"name": "serial", "nodes": nodes}
    return load_experiment({**DOCUMENT, "clients": by, "engine": engine})


@pytest.fixture(scope="module", params=["user", "random"])
def runs(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[fedrec.RunResult, fedrec.RunResult]:
    """The same run on one node and on three; one user per client, or several."""
    by = {"by": "user"} if request.param == "user" else {"by": "random", "count": 15}
    out = tmp_path_factory.mktemp("groups")
    one, three = (fedrec.run(experiment(n, by), out=out / str(n)) for n in (1, 3))
    return one, three


def test_any_nodes_give_the_same_bits(runs: tuple[fedrec.RunResult, fedrec.RunResult]) -> None:
    one, three = runs
    assert one.result["digest"] == three.result["digest"]
    assert one.result["metrics"] == three.result["metrics"]
    models = [RunFolder(done.folder).model() for done in runs]
    assert len(np.unique(models[0]["item@weights"], axis=0)) == 3
    assert {n: v.tobytes() for n, v in models[0].items()} == {
        n: v.tobytes() for n, v in models[1].items()
    }
    for user in ("0", "17", "39"):
        assert one.recommend(user, 7) == three.recommend(user, 7)


def test_the_list_of_the_run_folder_is_the_list_that_was_measured(
    runs: tuple[fedrec.RunResult, fedrec.RunResult],
) -> None:
    for done in runs:
        split = split_of(done.experiment.data, done.experiment.clients)
        table = RunFolder(done.folder).per_user().set_index("user")
        for row in range(split.n_users):
            user, wanted = str(split.user_ids[row]), split.test.row(row).tolist()
            top = [each.item for each in done.recommend(user, 5)]
            hit = float(any(str(split.item_ids[item]) in top for item in wanted))
            assert table.loc[user, "test.hit_rate@5"] == hit


def test_the_groups_have_parameters_of_their_own(
    runs: tuple[fedrec.RunResult, fedrec.RunResult],
) -> None:
    model = RunFolder(runs[0].folder).model()
    assert model["item@bases"].shape == (3, 50, 8)
    assert len({table.tobytes() for table in model["item@bases"]}) == 3
    weights = model["item@weights"]
    assert ((weights == 1).sum(1) == 1).all() and (weights.sum(1) == 1).all()


class Counting(SerialGrid):
    """Keeps what was sent and answered: the requests, with the base tables; and who is where."""

    def __init__(self, n_nodes: int, state: Path, data: Path) -> None:
        places = {"state-dir": str(state), "data": str(data)}
        super().__init__(clients.app.app, n_nodes, node_config=places)
        self.sent: list[tuple[str, int, RoundRequest, FloatArray]] = []
        self.trained: list[tuple[int, Trained]] = []
        self.hosted: dict[int, IntArray] = {}

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        asked = list(messages)
        for message in asked:
            kind, node = message.metadata.message_type, message.metadata.dst_node_id
            if kind == "query.roll_call":
                continue
            request, down = decode(message.content, RoundRequest), decode_down(message.content)
            bases = down.own["item"].bases if down.own else down.shared["item"][None]
            self.sent.append((kind, node, request, bases))
        replies = super().send_and_receive(asked)
        for reply in replies:
            node, kind = reply.metadata.src_node_id, reply.metadata.message_type
            if kind == "query.roll_call":
                self.hosted[node] = decode(reply.content, RollCall).clients
            if kind == "train":
                self.trained.append((node, decode(reply.content, Trained)))
        return replies


def test_a_node_gets_one_message_and_sends_a_sum_for_each_group(tmp_path: Path) -> None:
    prepared = prepare_run(experiment(3, {"by": "user"}), tmp_path / "run")
    config = {
        "experiment": str(prepared.folder / "config.yaml"),
        "out": str(prepared.folder),
        "split": str(prepared.prepared),
        "engine": "serial",
    }
    with Counting(3, tmp_path / "nodes", prepared.prepared) as grid:
        server.app.app(grid, Context(1, 0, {}, RecordDict(), dict(config)))
    group = RunFolder(prepared.folder).model()["item@weights"].argmax(1)
    asked = [(node, request, bases) for kind, node, request, bases in grid.sent if kind == "train"]
    assert len(asked) == len(grid.trained) == 3 * ROUNDS
    for (node, request, bases), (answering, trained) in zip(asked, grid.trained, strict=True):
        assert node == answering
        assert np.isin(request.clients, grid.hosted[node]).all()
        grouped = request.round > WARMUP
        expected = group[request.clients] if grouped else np.zeros_like(request.clients)
        assert request.groups.tolist() == expected.tolist()
        assert list(trained.aggregates) == np.unique(expected).tolist()
        # A table for each group, once, however many clients have it.
        assert bases.shape == (3 if grouped else 1, 50, 8)
    for number in range(1, ROUNDS + 1):
        in_round = [(request, bases) for _, request, bases in asked if request.round == number]
        meant = np.concatenate([request.clients for request, _ in in_round])
        assert len(np.unique(meant)) == len(meant) == 32
        assert len({bases.tobytes() for _, bases in in_round}) == 1
    ranked = [(node, r) for kind, node, r, _ in grid.sent if kind == "evaluate"]
    assert [node for node, request in ranked if request.round == ROUNDS] == [1, 2, 3]
    (kept,) = (tmp_path / "nodes").iterdir()  # the folder of this run
    files = {path.name for path in (kept / "local").iterdir()}
    assert files == {f"node-{number:03d}@{ROUNDS}.safetensors" for number in range(3)}
    users = [load_file(kept / "local" / name)["ids.user"] for name in files]
    assert np.array_equal(np.sort(np.concatenate(users)), np.arange(40))
