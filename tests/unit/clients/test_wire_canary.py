"""No local parameter leaves its client: every byte of every message is searched for them."""

import re
import struct
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Context, Message, RecordDict
from flwr.common.serde import recorddict_to_proto
from safetensors.numpy import load_file

import clients.app
import server.app
from clients.node import Node
from clients.shard_source import NodeData
from fedrec.aggregation.fixed_point import from_fixed, to_fixed
from fedrec.aggregation.update import Down
from fedrec.compute.context import RoundContext
from fedrec.config.experiment import Experiment
from fedrec.flower.grid import SerialGrid
from fedrec.flower.records import RoundRequest, Trained, decode, encode
from fedrec.flower.sum_records import MaskReply
from fedrec.personalization.base import NoPersonalization
from fedrec.runs.open_run import OpenRun
from fedrec.runs.prepare import prepare_run
from fedrec.training.draws import capacity
from fedrec.training.task import ClientTask
from fedrec.types import Shard
from tests.planted import catalogue_of, rates, shard_of

CANARY = 12345.678
LEAST = 8
"""Bytes of the shortest pattern: two floats do not occur by chance."""

FORMS: dict[str, dict[str, Any]] = {
    "none": {},
    "kernel": {"personalization": {"name": "plgc", "branch": "similarity", "tau": 2.0}},
    "table": {
        "personalization": {
            "name": "plgc",
            "branch": "table",
            "persistence": 0.5,
            "decorrelation": 0.01,
        }
    },
    "ditto": {"personalization": {"name": "ditto", "pull": 0.5}},
    "interpolation": {"personalization": {"name": "interpolation"}},
    "fedrep": {"personalization": {"name": "fedrep", "heads": ["user", "head"]}},
    "additive": {"personalization": {"name": "additive", "repulsion": 0.1}},
    "scaffold": {"strategy": {"name": "scaffold"}},
    "median": {"strategy": {"name": "median"}},
    "secure sum": {"rounds": {"plan": {"name": "secure-sum"}}},
}
ROUNDS, NODES = 3, 3
INTEGERS = np.int32, np.int64
SECURE = ("train.keys", "train.shares", "train.masked", "train.reveal")


class Tap(SerialGrid):
    """Keeps every message as the bytes that Flower would send, and all local state there was."""

    def __init__(self, run: OpenRun, n_nodes: int, shared: Iterable[np.ndarray[Any, Any]]) -> None:
        places = {"run-dir": str(run.folder), "data": str(run.prepared)}
        super().__init__(clients.app.app, n_nodes, node_config=places)
        self._out = run.folder
        self.places = [str(run.folder.parent), str(run.prepared.parent)]
        # Copies and heads begin as what is shared does, which is sent.
        self._public = {bytes(pair) for value in shared for pair in pairs_of(value)}
        self.sent: list[tuple[str, RecordDict, bytes]] = []
        self.secrets: set[bytes] = set()

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        asked = list(messages)
        replies = super().send_and_receive(asked)
        for message in [*asked, *replies]:
            raw = recorddict_to_proto(message.content).SerializeToString()
            self.sent.append((message.metadata.message_type, message.content, raw))
        self._collect()
        return replies

    def _collect(self) -> None:
        for path in self._out.glob("state/*/*.npy"):
            self._remember(np.load(path), path.stem)
        for path in self._out.glob("state/*/staged@*.safetensors"):
            for name, value in load_file(path).items():
                if name.startswith("value."):
                    self._remember(value, name)

    def _remember(self, values: np.ndarray[Any, Any], name: str) -> None:
        """All pairs of neighbours: within an owner's vector, or of owners of a number each.

        As floats and as the fixed point of sums, but for control variates (see below). Which items
        a client touched is no secret: an update names its rows.
        """
        if values.dtype == np.int32:
            return
        pairs = pairs_of(values)
        public = [bytes(pair) in self._public for pair in pairs.astype(np.float32)]
        pairs = pairs[~np.array(public, bool)]
        self.secrets |= {pair.tobytes() for pair in pairs.astype(np.float32)}
        self.secrets |= {pair.tobytes() for pair in pairs.astype(np.float64)}
        if not name.endswith("control"):
            self.secrets |= {pair.tobytes() for pair in to_fixed(pairs, name)}


def pairs_of(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Neighbours that differ, [n, 2]: within an owner's vector, or of owners of a number each."""
    flat = values.reshape(1 if values.ndim == 1 else len(values), -1)
    flat = flat[:, : flat.shape[1] // 2 * 2]
    pairs = flat.reshape(-1, 2)
    differ: np.ndarray[Any, Any] = pairs[(pairs != 0).all(1) & (pairs[:, 0] != pairs[:, 1])]
    return differ


def patterns_of_canary() -> list[bytes]:
    single = np.float32(CANARY)
    return [
        struct.pack("<f", single),
        struct.pack(">f", single),
        struct.pack("<d", float(single)),
        struct.pack("<d", CANARY),
        b"12345.678",
        b"12345.67",
    ]


def tap(form: str, out: Path, n_nodes: int) -> tuple[Experiment, Tap]:
    """A short run: train and evaluate, with Adam's state on the clients."""
    experiment = Experiment.model_validate(
        {
            "data": {"name": "synthetic", "users": 24, "items": 30, "interactions_per_user": 8.0},
            "clients": {"by": "random", "count": 10},
            "model": {
                "name": "tests.contracts.own_models:CanaryWithHead",
                "embedding_dim": 4,
                "init_std": 0.3,
            },
            "train": {"optimizers": rates(0.1)},
            **FORMS[form],
            "rounds": {"count": ROUNDS, **FORMS[form].get("rounds", {})},
            "evaluate": {"every": 1, "metrics": ["ndcg@5"]},
        }
    )
    prepared = prepare_run(experiment, out)
    run_config = {
        "experiment": str(prepared.folder / "config.yaml"),
        "out": str(prepared.folder),
        "split": str(prepared.prepared),
        "engine": "serial",
    }
    plain = experiment.model_copy(update={"personalization": NoPersonalization()})
    shared = plain.client_task().initial_globals(30).values()
    with Tap(prepared, n_nodes, shared) as grid:
        server.app.app(grid, Context(1, 0, {}, RecordDict(), dict(run_config)))
    return experiment, grid


@pytest.fixture(scope="module", params=FORMS)
def tapped(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return tap(request.param, tmp_path_factory.mktemp("tapped") / "run", NODES)


def test_the_tap_is_on_the_wire(tapped: tuple[Experiment, Tap]) -> None:
    _, grid = tapped
    kinds = [kind for kind, *_ in grid.sent]
    is_secure = "train" not in kinds
    both_ways = 2 * NODES * ROUNDS
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {
        "query.roll_call": 2 * NODES,
        **dict.fromkeys(SECURE if is_secure else ("train",), both_ways),
        "evaluate": both_ways,
    }
    assert len(grid.secrets) > 400
    # A value that must travel is found: the search would find a local one.
    globals_ = tapped[0].client_task().initial_globals(30)["item"]
    assert any(globals_[3].tobytes() in raw for _, _, raw in grid.sent)


def test_no_message_says_where_anything_lies(tapped: tuple[Experiment, Tap]) -> None:
    _, grid = tapped
    everything = b"\0".join(raw for _, _, raw in grid.sent)
    assert [place for place in grid.places if place.encode() in everything] == []


def test_no_local_value_is_in_any_message(tapped: tuple[Experiment, Tap]) -> None:
    _, grid = tapped
    everything = b"\0".join(raw for _, _, raw in grid.sent)
    assert not leaks(everything, grid.secrets)
    for secret in sorted(grid.secrets)[::100]:
        assert leaks(everything + b"?" + secret + everything, grid.secrets) >= {secret}
    for pattern in patterns_of_canary():
        assert pattern not in everything


def leaks(content: bytes, secrets: set[bytes]) -> set[bytes]:
    """The secrets that stand in it."""
    met = windows(content, LEAST) & {secret[:LEAST] for secret in secrets}
    return {secret for secret in secrets if secret[:LEAST] in met and secret in content}


def windows(content: bytes, width: int) -> set[bytes]:
    """All runs of that many bytes."""
    view = np.lib.stride_tricks.sliding_window_view(np.frombuffer(content, np.uint8), width)
    return {row.tobytes() for row in np.unique(np.ascontiguousarray(view).view(f"V{width}"))}


def test_no_local_name_is_in_any_message(tapped: tuple[Experiment, Tap]) -> None:
    """Of SCAFFOLD's control variates the name travels, the local values do not (see below)."""
    experiment, grid = tapped
    task = experiment.client_task()
    allowed, shared = set(task.travels()), set(task.shared_specs())
    secret = set(task.stored_specs()) - allowed
    assert {"canary", "user", "user/first"} <= secret
    for kind, content, raw in grid.sent:
        for record in content.array_records.values():
            assert not {str(key) for key in record} & secret
            assert not {str(key).rpartition("/")[0] for key in record} & secret
            assert not {place for key in record for place in str(key).split(":")} & secret
        for rest in content.config_records.values():
            assert not set(re.findall('"([^"]*)"', str(rest["json"]))) & secret
        if "params" in content.array_records:
            expected = allowed if kind.startswith("train") else shared
            assert set(content.array_records["params"]) == expected
            if kind == "query.roll_call":  # the experiment names settings too
                continue
            for word in (
                b"canary",
                b"lambda",
                b"residual",
                b"user/first",
                b"touched",
                b"copy.",
                b"alpha",
            ):
                assert word not in raw


def test_of_a_secure_sum_no_update_of_a_client_is_in_any_message(tmp_path: Path) -> None:
    """Each client is a node of its own: what it would send without masks is what it must not.

    Neither its values, nor its weights, nor which rows it touched, nor how many bytes that is.
    """
    clients = 10
    _, plain = tap("none", tmp_path / "plain", clients)
    _, secure = tap("secure sum", tmp_path / "secure", clients)
    everything = b"\0".join(raw for _, _, raw in secure.sent)
    masked = b"\0".join(raw for kind, _, raw in secure.sent if kind in SECURE)
    contents = [content for kind, content, _ in plain.sent if kind == "train"]
    updates = [decode(each, Trained) for each in contents if "params" not in each]
    assert len(updates) == ROUNDS * clients
    values, rows = set[bytes](), set[bytes]()
    for trained in updates:
        aggregate = trained.aggregates[0]
        assert aggregate.clients == 1
        for sums in aggregate.sums.values():
            pairs = pairs_of(sums)
            # Short numbers may be bytes of others by chance.
            pairs = pairs[(np.abs(pairs) >= 2**16).all(1)]
            values |= {pair.astype(kind).tobytes() for pair in pairs for kind in INTEGERS}
        for ids in aggregate.ids.values():
            rows |= {ids.astype(kind).tobytes() for kind in INTEGERS}
    assert len(values) > 1000
    assert min(map(len, rows)) >= 4 * 8
    assert not leaks(everything, values)
    assert not {ids for ids in rows if ids in masked}
    # What must not be found would be.
    unmasked = b"\0".join(raw for _, _, raw in plain.sent)
    assert len(leaks(unmasked, values)) > 500
    assert {ids for ids in rows if ids in unmasked}
    replies = [
        decode(c, MaskReply) for k, c, _ in secure.sent if k == SECURE[2] and "params" not in c
    ]
    assert len(replies) == ROUNDS * clients
    for reply in replies:
        assert not reply.trained.aggregates
        assert reply.trained.uploaded == 0
        assert not len(reply.trained.losses)
    assert len({reply.groups[0].words.size for reply in replies}) == 1


@pytest.mark.parametrize("count", [1, 3])
def test_of_control_variates_only_summed_differences_are_sent(count: int, tmp_path: Path) -> None:
    """What SCAFFOLD sends: over the clients of a node, the sum of c_u new minus c_u old.

    The sum of one client is that client's own difference, so a server that hears a client alone
    can add up its c_u. That is the method's; c_u itself is not sent.
    """
    shard = shard_of(8, [[0, 1, 4], [1, 2], [0, 3, 5]])
    document = {
        "data": {"name": "synthetic"},
        "model": {"name": "mf", "embedding_dim": 4, "init_std": 0.3},
        "train": {"optimizers": rates(0.1), "local_epochs": 2, "negatives": 2},
        "strategy": {"name": "scaffold"},
    }
    experiment = Experiment.model_validate(document)
    task = experiment.client_task(catalogue_of(8))
    node = Node(experiment, task, NodeData(shard, 3), tmp_path, 0)
    strategy = node.strategy
    params = task.initial_globals(8)
    cohort = np.arange(count, dtype=np.int64)
    context = RoundContext(0, 0, 3, 8, cohort)
    state = strategy.init(params, context)
    before = np.zeros((3, 8, 4))
    for number in (1, 2, 3):
        context = replace(context, round=number)
        sent = strategy.broadcast(state, params, cohort, context)
        last = ((number - 1, 1),) if number > 1 else ()
        groups = np.zeros_like(cohort)
        asked = RoundRequest("run", "", number, 1, last, clients=cohort, groups=groups)
        trained = node.train(asked, sent)
        node.evaluate(replace(asked, applied=((number, 1),)), Down(params))
        after = own_controls(tmp_path, task, shard)
        raw = recorddict_to_proto(encode(trained, task.travels())).SerializeToString()
        aggregate = trained.aggregates[0]
        summed = np.zeros((8, 4))
        summed[aggregate.ids["item/control"]] = from_fixed(aggregate.sums["item/control"])
        difference = after - before
        np.testing.assert_allclose(summed, difference.sum(0), atol=1e-6)
        for client in cohort:
            for row in after[client][(before[client] != 0).all(1) & (after[client] != 0).all(1)]:
                for kind in (row.astype(np.float32), row, to_fixed(row, "c_u")):
                    assert kind.tobytes() not in raw
        before = after
        assert aggregate.each is None
        state, params = strategy.apply(state, params, trained.aggregates, context)


def own_controls(out: Path, task: ClientTask, shard: Shard) -> np.ndarray[Any, Any]:
    """float64 [clients, items, d]: what every client remembers, 0 where nothing."""
    places = capacity(shard, task)
    items = np.load(out / "state/node-000/seen.items.npy")
    values = np.load(out / "state/node-000/item.client_control.npy")
    controls = np.zeros((shard.n_clients, shard.n_items, values.shape[1]))
    owner = np.repeat(np.arange(shard.n_clients), np.diff(places))
    controls[owner[items >= 0], items[items >= 0]] = values[items >= 0]
    return controls
