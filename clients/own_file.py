"""The data of a device: its own users' file, as it was when the device was enrolled in a run."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from clients.place import NodePlace
from clients.shard_source import NodeData
from fedrec.config.experiment import Experiment
from fedrec.data.catalogue import Catalogue
from fedrec.data.device import device_file, device_split
from fedrec.data.prepare import open_split, save_split
from fedrec.errors import ConfigError, ProtocolError
from fedrec.features.bundle import Bundle, open_bundle, settings_of
from fedrec.runs.devices import check_for_devices
from fedrec.storage.files import reading, write_json
from fedrec.types import Split

SNAPSHOT = "data.safetensors"
_DATA, _BUNDLE = "data", "bundle"


def write_own_file(path: Path, data: dict[str, Any], bundle: Path) -> None:
    """Write where the data of a device lies, for ``own-file`` of the node's configuration.

    Args:
        path: The file; its folder is made.
        data: A section ``data`` that reads the device's file, see `device_file`.
        bundle: What the device carries of the run.

    Raises:
        ConfigError: If the section is wrong.
    """
    described = device_file(data).model_dump(mode="json")
    path.parent.mkdir(parents=True, exist_ok=True)
    section = {**described, "name": data["name"], "path": str(Path(data["path"]).absolute())}
    write_json(path, {_DATA: section, _BUNDLE: str(bundle.absolute())})


class OwnFile:
    """A device's own file: the third `clients.shard_source.ShardSource`.

    An app may go on writing to the file. A run trains on what was there when it enrolled the
    device; the next run sees what came since.

    Args:
        place: The device's, for one run.

    Raises:
        FedRecError: If the bundle is missing or damaged.
    """

    def __init__(self, place: NodePlace) -> None:
        assert place.own_file is not None
        with reading(place.own_file):
            about = json.loads(place.own_file.read_text(encoding="utf-8"))
            self._data, self._path = dict(about[_DATA]), Path(about[_BUNDLE])
        self._snapshot = place.folder / SNAPSHOT
        self.bundle: Bundle = open_bundle(self._path)

    def catalogue(self) -> Catalogue:
        """See `clients.shard_source.ShardSource.catalogue`."""
        return self.bundle.catalogue

    def split(self) -> Split:
        """Return the device's users with their items, as the file has them now."""
        data = device_file({**self.bundle.settings, **self._own()})
        return device_split(data.load(), self.bundle.catalogue.item_ids, data)

    def enrol(self, experiment: Experiment) -> int:
        """Keep what the file holds for a run; return how many clients that are.

        A run that goes on keeps what it began with.

        Raises:
            ConfigError: If the experiment needs the data of others, or the bundle was made of an
                experiment that splits otherwise.
            DataError: If nothing of the file can be trained on.
        """
        check_for_devices(experiment)
        asked = settings_of(experiment.data)
        if differs := [key for key, value in asked.items() if self.bundle.settings[key] != value]:
            raise ConfigError(
                f"data.{differs[0]}: is not what the bundle of this device says ({self._path}); "
                "give the device the bundle of this experiment"
            )
        if not self._snapshot.exists():
            save_split(self.split(), self._snapshot)
        return open_split(self._snapshot).n_clients

    def data(self, first_client: int = 0, n_clients: int | None = None) -> NodeData:
        """See `clients.shard_source.ShardSource.data`.

        Args:
            first_client: The number of the device's first client; the others follow.
            n_clients: Of the run; None: this device has all.

        Raises:
            ProtocolError: If the numbers are impossible.
            RunFolderError: If the device was not enrolled, or what it kept is damaged.
        """
        split = open_split(self._snapshot)
        own = np.arange(split.n_clients, dtype=np.int64)
        n_clients = split.n_clients if n_clients is None else n_clients
        if not 0 <= first_client <= n_clients - len(own):
            raise ProtocolError(
                f"the server numbers the {len(own)} clients of this device from {first_client}, "
                f"and says there are {n_clients}; start the run again with --resume"
            )
        shard = split.shard(own)
        numbers = {name: getattr(shard, name) + first_client for name in ("client_ids", "user_ids")}
        return NodeData(replace(shard, **numbers), n_clients)

    def _own(self) -> dict[str, Any]:
        """Return the part of the section that says how the device's file is read."""
        return {key: value for key, value in self._data.items() if key not in self.bundle.settings}
