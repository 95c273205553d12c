"""The bytes that a run reports are those of its clients, wherever they are simulated."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from flwr.app import ArrayRecord, Message

import fedrec
from fedrec.flower import records
from fedrec.flower.grid import SerialGrid

CLIENTS, ITEMS, DIM, ROUNDS = 18, 40, 4, 2

METHODS: dict[str, dict[str, Any]] = {
    "sums in machine code": {"model": "mf", "personalization": "plgc"},
    "transformed in machine code": {"transforms": [{"name": "clip", "norm": 0.1}, "int8"]},
    "sums in torch": {"model": "mf", "train": {"backend": "torch"}},
    "every update": {"strategy": "krum"},
    "dense parameters": {"model": "neumf"},
    "control variates": {"strategy": "scaffold"},
}


def run(out: Path, nodes: int, method: dict[str, Any]) -> dict[str, Any]:
    model = method.get("model", "mf")
    config: dict[str, Any] = {
        "data": {"name": "synthetic", "users": CLIENTS, "items": ITEMS, "taste_groups": 2},
        **method,
        "model": {"name": model, "embedding_dim": DIM},
        "rounds": {"count": ROUNDS},
        "engine": {"name": "serial", "nodes": nodes},
    }
    return fedrec.run(fedrec.Experiment.model_validate(config), out=out).result


@pytest.mark.parametrize("method", METHODS)
def test_they_do_not_depend_on_the_number_of_nodes(method: str, tmp_path: Path) -> None:
    results = {n: run(tmp_path / str(n), n, METHODS[method]) for n in (1, 4, 16)}
    bytes_of = {n: result["bytes"] for n, result in results.items()}
    assert bytes_of[1] == bytes_of[4] == bytes_of[16]
    assert min(bytes_of[1].values()) > 0
    assert results[1]["metrics"] == results[4]["metrics"] == results[16]["metrics"]
    simulated = [result["simulation"]["down"] for result in results.values()]
    assert simulated == sorted(simulated)
    assert simulated[0] < simulated[-1]


@pytest.mark.parametrize("model", ["mf", "neumf"])
@pytest.mark.parametrize("nodes", [1, 4, CLIENTS])
def test_they_are_the_payloads_on_the_wire(
    nodes: int, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Krum needs every update, so with one client per node a reply is the client's own message."""
    sent = {"up": 0, "down": 0}
    send = SerialGrid.send_and_receive

    def counted(
        grid: SerialGrid, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        listed = list(messages)
        replies = send(grid, listed, timeout=timeout)
        for message, reply in zip(listed, replies, strict=True):
            if message.metadata.message_type == records.TRAIN:
                sent["down"] += sum(nbytes(message.content["params"]).values())
                sent["up"] += nbytes(reply.content["arrays"])["Trained:aggregates:0:each:content"]
        return replies

    monkeypatch.setattr(SerialGrid, "send_and_receive", counted)
    result = run(tmp_path / "run", nodes, {**METHODS["every update"], "model": model})
    assert result["bytes"]["up"] == sent["up"] > 0
    if nodes == CLIENTS:
        assert result["bytes"]["down"] == sent["down"]


def nbytes(record: object) -> dict[str, int]:
    """The bytes of each array, without Flower's framing."""
    assert isinstance(record, ArrayRecord)
    return {name: array.numpy().nbytes for name, array in record.items()}
