"""No local parameter leaves its client: every byte of every message is searched for them."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Context, Message, RecordDict
from flwr.common.serde import recorddict_to_proto
from safetensors.numpy import load_file

import clients.app
import server.app
from fedrec.config import Experiment
from fedrec.flower.serial import SerialGrid
from fedrec.running import prepare_run
from fedrec.training.method import Method

CANARY = 12345.678
LEAST = 8
"""Bytes of the shortest pattern: two floats do not occur by chance."""

FORMS: dict[str, dict[str, Any]] = {
    "none": {"name": "none"},
    "kernel": {"name": "plgc", "local": "kernel", "tau": 2.0},
    "table": {"name": "plgc", "local": "table", "persistence": 0.5, "decorrelation": 0.01},
}


class Tap(SerialGrid):
    """Keeps every message as the bytes that Flower would send, and all local state there was."""

    def __init__(self, out: Path, n_nodes: int) -> None:
        super().__init__(clients.app.app, n_nodes)
        self._out = out
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
            self._remember(np.load(path))
        for path in self._out.glob("state/*/staged.safetensors"):
            for name, value in load_file(path).items():
                if name.startswith("value."):
                    self._remember(value)

    def _remember(self, values: np.ndarray[Any, Any]) -> None:
        """All pairs of neighbours: within an owner's vector, or of owners of a number each."""
        flat = values.reshape(1 if values.ndim == 1 else len(values), -1)
        flat = flat[:, : flat.shape[1] // 2 * 2]
        pairs = flat.reshape(-1, 2)
        pairs = pairs[(pairs != 0).all(1) & (pairs[:, 0] != pairs[:, 1])]
        self.secrets |= {pair.tobytes() for pair in pairs.astype(np.float32)}
        self.secrets |= {pair.tobytes() for pair in pairs.astype(np.float64)}


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


@pytest.fixture(scope="module", params=FORMS)
def tapped(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A short run with three nodes: train and evaluate, with Adam's state on the clients."""
    experiment = Experiment.model_validate(
        {
            "data": {"name": "synthetic", "users": 24, "items": 30, "interactions_per_user": 8.0},
            "clients": {"by": "random", "count": 10},
            "model": {
                "name": "tests.contracts.own_models:Canary",
                "embedding_dim": 4,
                "init_std": 0.3,
            },
            "train": {"item_lr": 0.1},
            "personalization": FORMS[request.param],
            "rounds": {"count": 3},
            "evaluate": {"every": 1, "metrics": ["ndcg@5"]},
        }
    )
    prepared = prepare_run(experiment, tmp_path_factory.mktemp("tapped") / "run")
    run_config = {
        "experiment": str(prepared.out / "config.yaml"),
        "out": str(prepared.out),
        "split": str(prepared.split),
        "engine": "serial",
    }
    with Tap(prepared.out, 3) as grid:
        server.app.app(grid, Context(1, 0, {}, RecordDict(), dict(run_config)))
    return experiment, grid


def test_the_tap_is_on_the_wire(tapped: tuple[Experiment, Tap]) -> None:
    _, grid = tapped
    kinds = [kind for kind, *_ in grid.sent]
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {
        "query.roll_call": 6,
        "train": 18,
        "evaluate": 18,
    }
    assert len(grid.secrets) > 400
    # A value that must travel is found: the search would find a local one.
    globals_ = Method.of(tapped[0]).initial_globals(30)["item"]
    assert any(globals_[3].tobytes() in raw for _, _, raw in grid.sent)


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
    experiment, grid = tapped
    secret = set(Method.of(experiment).locals())
    assert {"canary", "user", "user/first"} <= secret
    allowed = set(Method.of(experiment).globals())
    for _, content, raw in grid.sent:
        for record in content.array_records.values():
            assert not {str(key) for key in record} & secret
            assert not {str(key).rpartition("/")[0] for key in record} & secret
        if "params" in content.array_records:
            assert set(content.array_records["params"]) == allowed
        for word in (b"canary", b"lambda", b"residual", b"user/first"):
            assert word not in raw
