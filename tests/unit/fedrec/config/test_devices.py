"""The option rounds.devices: a plug-in, or none."""

from pathlib import Path

import pytest

from fedrec.config.experiment import Experiment, load_experiment
from fedrec.devices import DeviceFile, SyntheticDevices
from fedrec.errors import ConfigError

DATA = {"name": "synthetic", "users": 12, "items": 20}


def experiment(devices: object) -> Experiment:
    return Experiment.model_validate({"data": DATA, "rounds": {"devices": devices}})


@pytest.mark.parametrize(
    "devices", [None, "synthetic", {"name": "file", "path": "own/devices.csv"}, SyntheticDevices()]
)
def test_it_is_written_as_it_is_read(devices: object, tmp_path: Path) -> None:
    path = tmp_path / "experiment.yaml"
    path.write_text(experiment(devices).to_yaml(), encoding="utf-8")
    assert load_experiment(path) == experiment(devices)
    assert Experiment.model_validate({"data": DATA}).rounds.devices is None


def test_what_is_no_description_of_devices_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"rounds\.devices: 'sinthetic' is not in the table"):
        experiment("sinthetic")
    with pytest.raises(
        ConfigError, match=r"expected a subclass of fedrec\.devices\.base\.Devices, got"
    ):
        experiment("strategies.selections:Uniform")
    with pytest.raises(ConfigError, match=r"rounds\.devices: .*got 3"):
        experiment(3)
    with pytest.raises(ConfigError, match="upload: expected 1 or more, got 0"):
        experiment({"name": "synthetic", "upload": 0})


def test_nodes_need_no_file_of_devices(tmp_path: Path) -> None:
    chosen = experiment({"name": "file", "path": str(tmp_path / "devices.csv")})
    assert chosen.paths() == []
    assert str(tmp_path) not in chosen.for_nodes()
    absolute = experiment({"name": "file", "path": "devices.csv"}).with_paths(Path.absolute)
    assert absolute.rounds.devices == DeviceFile(path=Path.cwd() / "devices.csv")
