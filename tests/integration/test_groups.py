"""A strategy whose clients are in groups, from the messages to the recommendations."""

from collections import Counter
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
from fedrec.flower.records import RollCall, RoundRequest, decode, decode_params
from fedrec.runs.prepare import prepare_run
from fedrec.runs.reader import RunFolder
from fedrec.runs.result import of_group
from fedrec.types import IntArray
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
    assert len(np.unique(models[0]["group"])) == 3
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
    tables = [of_group(model, g)["item"] for g in np.unique(model["group"]).tolist()]
    assert all(table.shape == model["item"].shape for table in tables)
    assert len({table.tobytes() for table in tables}) == 3


class Counting(SerialGrid):
    """Keeps what was sent: kind, round, node, group, clients, item table; and who is where."""

    def __init__(self, n_nodes: int) -> None:
        super().__init__(clients.app.app, n_nodes)
        self.sent: list[tuple[str, int, int, int, Any, bytes]] = []
        self.hosted: dict[int, IntArray] = {}

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        asked = list(messages)
        for message in asked:
            kind, node = message.metadata.message_type, message.metadata.dst_node_id
            if kind == "query.roll_call":
                continue
            request = decode(message.content, RoundRequest)
            table = decode_params(message.content)["item"].tobytes()
            about = (kind, request.round, node, request.group, request.clients)
            self.sent.append((*about, table))
        replies = super().send_and_receive(asked)
        for reply in replies:
            if reply.metadata.message_type == "query.roll_call":
                clients = decode(reply.content, RollCall).clients
                self.hosted[reply.metadata.src_node_id] = clients
        return replies


def test_a_node_gets_one_message_for_each_group_of_its_clients(tmp_path: Path) -> None:
    prepared = prepare_run(experiment(3, {"by": "user"}), tmp_path / "run")
    config = {
        "experiment": str(prepared.folder / "config.yaml"),
        "out": str(prepared.folder),
        "split": str(prepared.prepared),
        "engine": "serial",
    }
    with Counting(3) as grid:
        server.app.app(grid, Context(1, 0, {}, RecordDict(), dict(config)))
    group = RunFolder(prepared.folder).model()["group"]
    for number in range(1, ROUNDS + 1):
        trained = [each for each in grid.sent if each[:2] == ("train", number)]
        per_node = Counter(node for _, _, node, *_ in trained)
        groups = {(node, of) for _, _, node, of, *_ in trained}
        assert len(groups) == len(trained)
        assert set(per_node) == {1, 2, 3}
        if number <= WARMUP:
            assert groups == {(1, 0), (2, 0), (3, 0)}
        else:
            # All of a group, on whatever node, are sent the same; each group its own.
            tables = {of: {e[5] for e in trained if e[3] == of} for of in set(group.tolist())}
            assert all(len(each) <= 1 for each in tables.values())
            assert max(per_node.values()) > 1
        meant = np.concatenate([each[4] for each in trained])
        assert len(np.unique(meant)) == len(meant) == 32
        for _, _, node, of, clients_meant, _ in trained:
            assert np.isin(clients_meant, grid.hosted[node]).all()
            if number > WARMUP:
                assert (group[clients_meant] == of).all()
    ranked = [each for each in grid.sent if each[:2] == ("evaluate", ROUNDS)]
    present = {(n, int(g)) for n, clients in grid.hosted.items() for g in np.unique(group[clients])}
    assert {(node, of) for _, _, node, of, *_ in ranked} == present
    files = {path.name for path in (prepared.folder / "local").iterdir()}
    assert files == {
        f"node-{node - 1:03d}{f'g{of}' if of else ''}@{ROUNDS}.safetensors" for node, of in present
    }
    users = [load_file(prepared.folder / "local" / name)["ids.user"] for name in files]
    assert np.array_equal(np.sort(np.concatenate(users)), np.arange(40))
