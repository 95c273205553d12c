"""The data of a device: its own users' file, as it was when the device was enrolled in a run."""

from dataclasses import replace

import numpy as np

from clients.place import NodePlace
from clients.shard_source import NodeData
from fedrec.config.experiment import Experiment
from fedrec.data.catalogue import Catalogue
from fedrec.data.prepare import open_split, save_split
from fedrec.errors import ConfigError, ProtocolError, RunFolderError
from fedrec.features.bundle import settings_of
from fedrec.runs.devices import check_for_devices
from fedrec.runs.folder import SNAPSHOT
from fedrec.runs.own_file import OwnFile


class OwnFileSource:
    """A device's own file: the third `clients.shard_source.ShardSource`.

    An app may go on writing to the file. A run trains on what was there when it enrolled the
    device; the next run sees what came since.

    Args:
        place: The device's, for one run.
        first_client: The number of the device's first client; the others follow.
        n_clients: Of the run; None: this device has all.
    """

    def __init__(
        self, place: NodePlace, first_client: int = 0, n_clients: int | None = None
    ) -> None:
        assert place.own_file is not None
        self._file = OwnFile.read(place.own_file)
        self._snapshot = place.folder / SNAPSHOT
        self._first_client, self._n_clients = first_client, n_clients

    def catalogue(self) -> Catalogue:
        """See `clients.shard_source.ShardSource.catalogue`."""
        return self._file.bundle.catalogue

    def enrol(self, experiment: Experiment) -> int:
        """Keep what the file holds for a run; return how many clients that are.

        A run that goes on keeps what it began with.

        Raises:
            ConfigError: If the experiment needs the data of others, or the bundle was made of an
                experiment that splits otherwise.
            DataError: If nothing of the file can be trained on.
        """
        check_for_devices(experiment)
        asked, bundle = settings_of(experiment.data), self._file.bundle
        if differs := [key for key, value in asked.items() if bundle.settings[key] != value]:
            raise ConfigError(
                f"data.{differs[0]}: is not what the bundle of this device says "
                f"({self._file.path}); give the device the bundle of this experiment"
            )
        if not self._snapshot.exists():
            save_split(self._file.split(), self._snapshot)
        return open_split(self._snapshot).n_clients

    def data(self) -> NodeData:
        """See `clients.shard_source.ShardSource.data`.

        Raises:
            ProtocolError: If the numbers of the clients are impossible.
            RunFolderError: If the device was not enrolled, or what it kept is damaged.
        """
        if not self._snapshot.exists():
            raise RunFolderError(
                f"{self._snapshot.parent}: this device has lost its private state, or was never "
                "enrolled in this run; put its --state back, or start a new run"
            )
        split, first = open_split(self._snapshot), self._first_client
        own = np.arange(split.n_clients, dtype=np.int64)
        n_clients = split.n_clients if self._n_clients is None else self._n_clients
        if not 0 <= first <= n_clients - len(own):
            raise ProtocolError(
                f"the server numbers the {len(own)} clients of this device from {first}, and says "
                f"there are {n_clients}; start the run again with --resume"
            )
        shard = split.shard(own)
        numbers = {name: getattr(shard, name) + first for name in ("client_ids", "user_ids")}
        return NodeData(replace(shard, **numbers), n_clients)
