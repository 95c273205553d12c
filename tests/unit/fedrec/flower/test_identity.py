"""The one private name of Flower."""

from __future__ import annotations

import importlib

import pytest
from flwr.app import Message, RecordDict

from fedrec.errors import EngineError
from fedrec.flower import identity
from fedrec.flower.identity import flower_version, task_identity


def test_the_installed_flower_is_one_that_was_checked() -> None:
    major, minor = (int(part) for part in flower_version().split(".")[:2])
    assert (1, 41) <= (major, minor) < (1, 43)


def test_messages_carry_the_identity_and_the_former_one_comes_back() -> None:
    with task_identity(run_id=5, node_id=0):
        with task_identity(run_id=7, node_id=3):
            metadata = Message(RecordDict(), 2, "query").metadata
            assert (metadata.run_id, metadata.src_node_id) == (7, 3)
        metadata = Message(RecordDict(), 2, "query").metadata
        assert (metadata.run_id, metadata.src_node_id) == (5, 0)


def test_the_former_identity_comes_back_after_an_error() -> None:
    private = importlib.import_module(identity.MODULE).TaskIdentity
    former = private._node_id
    with pytest.raises(KeyError), task_identity(run_id=1, node_id=9):
        raise KeyError
    assert private._node_id == former


def test_runs_in_threads_share_it_and_the_last_to_end_gives_it_back() -> None:
    private = importlib.import_module(identity.MODULE).TaskIdentity
    former = private._node_id
    first, second = task_identity(1, 0), task_identity(1, 0)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert Message(RecordDict(), 2, "query").metadata.src_node_id == 0
    second.__exit__(None, None, None)
    assert private._node_id == former


def test_a_flower_without_the_name_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "FIELDS", ("_gone",))
    with (
        pytest.raises(EngineError, match=r"does not have .*TaskIdentity.*pip install 'flwr"),
        task_identity(run_id=1, node_id=0),
    ):
        pass
