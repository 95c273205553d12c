"""Nodes without the driver's files: the same bits, nobody else's rows, and nothing lost."""

import pickle
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Context, Message, RecordDict
from flwr.common.serde import recorddict_to_proto
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load

import clients.app
import fedrec
import server.app
from clients.remote import RemoteApp, RemoteNodes
from clients.sent_data import to_send
from fedrec.flower.grid import EngineGrid, node_context
from fedrec.flower.remote import Sight
from fedrec.runs.folder import STATE
from fedrec.runs.prepare import prepare_run
from fedrec.runs.result import RunResult
from tests.unit.clients.test_wire_canary import leaks, pairs_of

N_NODES = 3
DIES, MOVES = 1, 2
DOCUMENT: dict[str, Any] = {
    "data": {"name": "synthetic", "users": 24, "items": 30, "interactions_per_user": 8.0},
    "model": {"name": "mf", "embedding_dim": 4},
    "train": {"backend": "torch"},
    "personalization": {"name": "plgc", "branch": "table"},
    "rounds": {"count": 4, "cohort_fraction": 0.7},
    "evaluate": {"every": 2, "metrics": ["ndcg@5"]},
    "engine": {"name": "serial", "nodes": N_NODES},
}
FORMS: dict[str, dict[str, Any]] = {
    "plgc": {},
    "end": {"personalization": {"name": "finetune"}},
    "popularity": {"train": {"backend": "torch", "negative_sampling": "popularity"}},
    "rerank": {"evaluate": {"rerank": {"n": 7, "first_stage": "itemknn"}, "metrics": ["ndcg@5"]}},
    "slices": {"evaluate": {"slices": ["head", "tail"], "metrics": ["ndcg@5"]}},
    "scaffold": {"strategy": "scaffold", "personalization": "none"},
}


class Elsewhere(EngineGrid):
    """Nodes on two workers without the driver's files.

    Args:
        config: As on the driver.
        folder: For what the workers keep.
        fates: What happens to the node of each call: nothing, `DIES` or `MOVES`.
    """

    def __init__(self, config: dict[str, Any], folder: Path, fates: Iterator[int]) -> None:
        super().__init__(N_NODES)
        self._config, self._folder, self._fates = config, folder, fates
        self._driver = RemoteNodes(N_NODES, config)
        self._workers = [RemoteApp(clients.app.app, folder / name) for name in ("a", "b")]
        self._places = dict.fromkeys(self.nodes, 0)
        self._contexts: dict[int, Context] = {}
        self.sent: list[bytes] = []
        self.staged: list[dict[str, bytes]] = []

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        asked, replies = list(messages), []
        for message in asked:
            node, fate = message.metadata.dst_node_id, next(self._fates, 0)
            if fate == MOVES:  # where it may have been before
                self._places[node] = 1 - self._places[node]
                self._contexts.pop(node, None)
            self._open(message)
            self._driver.settle(message)
            if fate == DIES:  # it has answered, but nobody has heard of it
                self._answer(message)
                self._contexts.pop(node)
                self._open(message)
            reply, written = self._answer(message)
            self._driver.take(message, written)
            replies.append(reply)
            self.staged.append(dict(written.staged))
        for message in [*asked, *replies]:
            self.sent.append(recorddict_to_proto(message.content).SerializeToString())
        return replies

    def _open(self, message: Message) -> None:
        node = message.metadata.dst_node_id
        if node not in self._contexts:
            opening = self._driver.opening(message, Sight(False, False))
            context = node_context(node, N_NODES, None, self._config)
            self._contexts[node] = self._workers[self._places[node]].open(context, opening)

    def _answer(self, message: Message) -> Any:
        node = message.metadata.dst_node_id
        return self._workers[self._places[node]](message, self._contexts[node])


def run(folder: Path, fates: Iterable[int], **changes: Any) -> tuple[RunResult, Elsewhere]:
    prepared = prepare_run({**DOCUMENT, **changes}, folder / "run", overwrite=True)
    config = {"run-dir": str(prepared.folder), "data": str(prepared.prepared), "device": "cpu"}
    run_config = {
        "run": prepared.id,
        "experiment": str(prepared.folder / "config.yaml"),
        "out": str(prepared.folder),
        "split": str(prepared.prepared),
        "engine": "serial",
    }
    with Elsewhere(config, folder / "elsewhere", iter(fates)) as grid:
        server.app.app(grid, Context(1, 0, {}, RecordDict(), dict(run_config)))
    return RunResult(prepared.folder), grid


def alone(folder: Path, **changes: Any) -> RunResult:
    return fedrec.run({**DOCUMENT, **changes}, out=folder / "alone", overwrite=True)


def files_of(result: RunResult) -> dict[str, bytes]:
    """All files of nodes, but for what the server told them, which names the start."""
    folder = result.folder
    paths = [*folder.glob("local/*"), *folder.glob(f"{STATE}/*/*")]
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in paths
        if path.name != "run.json"
    }


@pytest.mark.parametrize("form", FORMS)
def test_a_run_elsewhere_leaves_behind_what_a_run_here_does(form: str, tmp_path: Path) -> None:
    expected, (result, _) = alone(tmp_path, **FORMS[form]), run(tmp_path, [], **FORMS[form])
    assert result.result["digest"] == expected.result["digest"]
    assert files_of(result) == files_of(expected)
    assert result.result["metrics"] == expected.result["metrics"]


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    return alone(tmp_path_factory.mktemp("expected"))


@settings(max_examples=8, deadline=None)
@given(fates=st.lists(st.sampled_from([0, DIES, MOVES]), min_size=15, max_size=21))
def test_nodes_that_die_or_move_at_any_time_take_nothing_with_them(
    fates: list[int], expected: RunResult, tmp_path_factory: pytest.TempPathFactory
) -> None:
    result, _ = run(tmp_path_factory.mktemp("died"), fates)
    assert result.result["digest"] == expected.result["digest"]
    assert files_of(result) == files_of(expected)


@pytest.mark.parametrize("form", ["plgc", "scaffold"])
def test_private_values_go_beside_the_messages_and_never_in_one(form: str, tmp_path: Path) -> None:
    _, grid = run(tmp_path, [0, DIES] * 9, **FORMS[form])
    everything = b"\0".join(grid.sent)
    staged = [value for each in grid.staged for file in each.values() for value in values_of(file)]
    secrets = {bytes(pair) for value in staged for pair in pairs_of(value)}
    assert len(secrets) > 100
    assert not leaks(everything, secrets)
    assert str(tmp_path).encode() not in everything


def values_of(file: bytes) -> list[np.ndarray[Any, Any]]:
    """The private values of a file of staged ones; what starts as what is shared is no secret."""
    values = {name: value for name, value in load(file).items() if name.startswith("value.")}
    return [v for name, v in values.items() if v.dtype == np.float32 and "control" not in name]


@pytest.mark.parametrize("form", ["plgc", "rerank", "slices", "popularity"])
def test_a_node_is_sent_the_rows_of_its_own_clients_only(form: str, tmp_path: Path) -> None:
    opened = prepare_run({**DOCUMENT, **FORMS[form]}, tmp_path / "run")
    sent = [to_send(opened, node, N_NODES) for node in range(N_NODES)]
    shared = {next(iter(each)) for each in sent}
    assert len(shared) == 1
    assert len({[*each][1] for each in sent}) == N_NODES
    rows = opened.split.train
    long = {user for user in range(len(rows)) if len(rows.row(user)) > 3}  # no chance hit
    assert len(long) > 12
    for parts in sent:
        own = {*[*parts.values()][1]["shard"].user_ids.tolist()}
        raw = pickle.dumps(parts)
        assert {user for user in long if rows.row(user).tobytes() in raw} == own & long
