"""A node is told by who starts it where things are, and by nobody else."""

import json
from pathlib import Path
from typing import Any

import pytest

from clients.open_node import keep_description, open_node
from clients.place import STATE_VARIABLE, NodePlace
from fedrec.config.experiment import Experiment
from fedrec.errors import ConfigError, ProtocolError
from fedrec.flower.records import RunDescription
from fedrec.runs.prepare import prepare_run
from tests.contracts.own_data import OwnFiles

NUMBERED: dict[str, Any] = {"partition-id": 1, "num-partitions": 3}
RUN = "0123456789abcdef" * 2


def test_a_configuration_is_read(tmp_path: Path) -> None:
    (tmp_path / "data").touch()
    config = {**NUMBERED, "data": str(tmp_path / "data"), "features": "", "device": "cpu"}
    place = NodePlace.of({**config, "state-dir": "/s"})
    assert place == NodePlace(1, 3, Path("/s"), tmp_path / "data", None, "cpu", shared=True)
    assert place.of_run(RUN).state == Path("/s") / RUN
    assert NodePlace.of({**config, "run-dir": "/r"}).of_run("any").state == Path("/r")


def test_the_environment_says_where_state_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(STATE_VARIABLE, raising=False)
    with pytest.raises(ProtocolError, match="no folder for private state; set FEDREC_STATE_DIR"):
        NodePlace.of(NUMBERED)
    monkeypatch.setenv(STATE_VARIABLE, "~/s")
    assert NodePlace.of(NUMBERED) == NodePlace(1, 3, Path.home() / "s", shared=True)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"num-partitions": 3}, "partition-id: expected a whole number, got ''"),
        ({"partition-id": 1}, "num-partitions: expected a whole number, got ''"),
        ({**NUMBERED, "partition-id": "a"}, "partition-id: expected a whole number, got 'a'"),
        ({**NUMBERED, "partition-id": 3}, "partition-id: 3, but there are 3 nodes"),
        ({**NUMBERED, "data": "/nowhere"}, "data: there is no file /nowhere"),
        ({**NUMBERED, "features": "/nowhere"}, "features: there is no file /nowhere"),
    ],
)
def test_what_a_node_cannot_be_is_refused(config: dict[str, Any], said: str) -> None:
    with pytest.raises(ProtocolError, match=f"^the node's configuration: {said}"):
        NodePlace.of({"state-dir": "/s", **config})


@pytest.mark.parametrize("name", ["../../etc", "run", "", RUN + "/", RUN.upper()])
def test_a_server_names_no_folder(name: str) -> None:
    with pytest.raises(ProtocolError, match="is no name of a run of fedrec"):
        NodePlace(0, 1, Path("/s"), shared=True).of_run(name)


def experiment(tmp_path: Path, file: str = "ratings.csv") -> Experiment:
    lines = [f"{user},{item}" for user in range(6) for item in range(user, user + 5)]
    (tmp_path / file).write_text("user,item\n" + "\n".join(lines) + "\n")
    data = {"name": "csv", "path": str(tmp_path / file)}
    return Experiment.model_validate({"data": data, "evaluate": {"metrics": ["mrr"]}})


@pytest.mark.parametrize(
    ("file", "told"), [("ratings.csv", "ratings.csv"), ("~r$ {x}.csv", "_r___x_.csv")]
)
def test_nodes_are_told_no_folder(file: str, told: str, tmp_path: Path) -> None:
    text = experiment(tmp_path, file).for_nodes()
    assert str(tmp_path) not in text
    assert json.loads(text)["data"]["path"] == told


def test_paths_of_plug_ins_are_found_at_any_depth() -> None:
    data = OwnFiles(path="/a/b", others=(Path("/a/c"),), by_name={"x": Path("/a/d")})
    text = Experiment(data=data).for_nodes()
    assert "/a" not in text
    absolute = Experiment(data=data).with_paths(lambda path: Path("/z") / path.name).data
    assert absolute == OwnFiles(path="/z/b", others=(Path("/z/c"),), by_name={"x": Path("/z/d")})


def test_a_node_knows_the_runs_of_which_it_was_told(tmp_path: Path) -> None:
    run = prepare_run(experiment(tmp_path), tmp_path / "run")
    place = NodePlace(1, 3, tmp_path / "node", run.prepared)
    with pytest.raises(ProtocolError, match="has not told this node what run it is about"):
        open_node("other", place)
    keep_description(RunDescription(RUN, "other", run.experiment.for_nodes()), place)
    node = open_node("other", place)
    assert node.shard.n_clients == 2
    assert node.experiment.paths() == [Path("ratings.csv")]


def test_a_node_without_data_opens_no_file_that_a_server_names(tmp_path: Path) -> None:
    place = NodePlace(0, 1, tmp_path / "node")
    keep_description(RunDescription(RUN, "files", experiment(tmp_path).for_nodes()), place)
    with pytest.raises(ConfigError, match=r"needs the file ratings.csv, .* --node-config 'data="):
        open_node("files", place)
    keep_description(RunDescription(RUN, "own", Experiment(data=OwnFiles()).for_nodes()), place)
    with pytest.raises(ConfigError, match="needs OwnFiles, and this node has no data"):
        open_node("own", place)
    keep_description(RunDescription(RUN, "cut off", "{"), place)
    with pytest.raises(ConfigError, match="what the server sent is no JSON"):
        open_node("cut off", place)


def test_a_node_without_data_prepares_what_has_a_name(tmp_path: Path) -> None:
    named = {"name": "synthetic", "users": 12, "items": 30, "interactions_per_user": 6.0}
    description = Experiment.model_validate({"data": named}).for_nodes()
    place = NodePlace(0, 2, tmp_path / "node")
    keep_description(RunDescription(RUN, "named", description), place)
    assert open_node("named", place).shard.n_clients == 6
