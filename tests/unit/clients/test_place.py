"""A node is told by who starts it where things are, and by nobody else."""

import json
from pathlib import Path

import pytest

from clients.node import keep_opening, open_node
from clients.place import STATE_VARIABLE, NodePlace
from fedrec.config.experiment import Experiment
from fedrec.errors import ConfigError, ProtocolError
from fedrec.flower.records import Opening
from fedrec.runs.prepare import prepare_run

NUMBERED = {"partition-id": 1, "num-partitions": 3}


def test_a_configuration_is_read() -> None:
    config = {**NUMBERED, "state-dir": "/s", "data": "/d", "features": "", "device": "cpu"}
    assert NodePlace.of(config) == NodePlace(1, 3, Path("/s"), Path("/d"), None, "cpu")


def test_the_environment_says_where_state_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(STATE_VARIABLE, raising=False)
    with pytest.raises(ProtocolError, match=r"lacks 'state-dir'; .* set FEDREC_STATE_DIR"):
        NodePlace.of(NUMBERED)
    monkeypatch.setenv(STATE_VARIABLE, "/s")
    assert NodePlace.of(NUMBERED) == NodePlace(1, 3, Path("/s"))


@pytest.mark.parametrize("missing", NUMBERED)
def test_a_node_without_its_number_is_refused(missing: str) -> None:
    config = {**NUMBERED, "state-dir": "/s"}
    del config[missing]
    with pytest.raises(ProtocolError, match=f"lacks '{missing}'"):
        NodePlace.of(config)


def experiment(tmp_path: Path) -> Experiment:
    lines = [f"{user},{item}" for user in range(6) for item in range(user, user + 5)]
    (tmp_path / "ratings.csv").write_text("user,item\n" + "\n".join(lines) + "\n")
    data = {"name": "csv", "path": str(tmp_path / "ratings.csv")}
    return Experiment.model_validate({"data": data, "evaluate": {"metrics": ["mrr"]}})


def test_nodes_are_told_no_folder(tmp_path: Path) -> None:
    told = experiment(tmp_path).for_nodes()
    assert str(tmp_path) not in told
    assert json.loads(told)["data"]["path"] == "ratings.csv"


def test_a_node_knows_the_runs_of_which_it_was_told(tmp_path: Path) -> None:
    run = prepare_run(experiment(tmp_path), tmp_path / "run")
    place = NodePlace(1, 3, tmp_path / "node", run.prepared)
    with pytest.raises(ProtocolError, match="has not told this node what run other is"):
        open_node("other", place)
    keep_opening(Opening("other", run.experiment.for_nodes()), place)
    node = open_node("other", place)
    assert node.experiment.data.path == Path("ratings.csv")  # type: ignore[attr-defined]
    assert node.shard.n_clients == 2


def test_a_node_without_data_opens_no_file_that_a_server_names(tmp_path: Path) -> None:
    place = NodePlace(0, 1, tmp_path / "node")
    keep_opening(Opening("files", experiment(tmp_path).for_nodes()), place)
    with pytest.raises(ConfigError, match=r"the file ratings.csv, .* --node-config 'data="):
        open_node("files", place)


def test_a_node_without_data_prepares_what_has_a_name(tmp_path: Path) -> None:
    named = {"name": "synthetic", "users": 12, "items": 30, "interactions_per_user": 6.0}
    told = Experiment.model_validate({"data": named}).for_nodes()
    place = NodePlace(0, 2, tmp_path / "node")
    keep_opening(Opening("named", told), place)
    assert open_node("named", place).shard.n_clients == 6
