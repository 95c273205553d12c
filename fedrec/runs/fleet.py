"""The run folder of a server whose devices have the data."""

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter

from fedrec.config.experiment import Experiment
from fedrec.config.sources import sources_of, with_importable_plugins
from fedrec.errors import ConfigError
from fedrec.evaluation.evaluate import check_cutoffs
from fedrec.features.bundle import open_bundle, settings_of
from fedrec.runs.devices import ForDevices, for_devices
from fedrec.runs.folder import BUNDLE, CONFIG, HEADER, ROSTER, SOURCE, create
from fedrec.storage.files import reading, write_bytes, write_json, write_text

LOG = logging.getLogger("fedrec")
MOST_CLIENTS = 2**20
"""Of one device; what it says of itself takes no more memory on the server than they do."""


@dataclass(frozen=True, slots=True)
class Device:
    """A node with data of its own.

    Args:
        node: Its id, which Flower gives to its key.
        key: The name of its public key.
        clients: How many it has; None before it was enrolled.
        first_client: The number of the first; the others follow.
    """

    node: int
    key: str
    clients: Annotated[int, Field(ge=1, le=MOST_CLIENTS)] | None = None
    first_client: Annotated[int, Field(ge=0)] = 0


@dataclass(frozen=True, slots=True)
class Fleet:
    """The devices of a run, in the order of their keys.

    Args:
        devices: Each has a number, its place here.
        notes: What the result of the run says of them, a line each.
    """

    devices: tuple[Device, ...]
    notes: tuple[str, ...] = ()

    @property
    def n_clients(self) -> int:
        """Number of clients of all devices."""
        return sum(device.clients or 0 for device in self.devices)


def write_fleet(folder: Path, fleet: Fleet) -> None:
    """Write who takes part into a run folder."""
    devices = [asdict(device) for device in fleet.devices]
    write_json(folder / ROSTER, {"devices": devices, "notes": list(fleet.notes)})


def read_fleet(folder: Path) -> Fleet:
    """Return who takes part.

    Raises:
        RunFolderError: If the file is missing or damaged.
    """
    path = folder / ROSTER
    with reading(path):
        return TypeAdapter(Fleet).validate_json(path.read_bytes())


def check_fleet(experiment: Experiment, bundle: Path) -> ForDevices:
    """Check everything that can be checked without data.

    Args:
        experiment: What is to be run.
        bundle: The bundle that the devices carry.

    Raises:
        FedRecError: What is wrong, and what to do.
    """
    chosen, items = for_devices(with_importable_plugins(experiment)), open_bundle(bundle)
    if settings_of(experiment.data) != items.settings:
        raise ConfigError(
            f"{bundle}: was made of an experiment with another section data; make it anew with "
            "fedrec bundle, and give it to the devices"
        )
    check_cutoffs(chosen.experiment.evaluate.parsed(), items.items.n_items)
    if chosen.experiment.client_task(items.catalogue).executor() == "numba":
        backend = chosen.experiment.train.backend
        raise ConfigError(
            f"train.backend: {backend} means numba for this model, and devices have no numba; "
            "write torch"
        )
    return chosen


def prepare_fleet(
    chosen: ForDevices, bundle: Path, out: Path, devices: Sequence[Device], overwrite: bool
) -> None:
    """Make the run folder of an experiment on devices.

    Args:
        chosen: As from `check_fleet`.
        bundle: The bundle that the devices carry.
        out: The run folder.
        devices: In the order in which their clients are numbered.
        overwrite: Replace an existing run folder.

    Raises:
        RunFolderError: If it cannot be made.
    """
    experiment = chosen.experiment
    for note in chosen.notes:
        LOG.warning(note)
    create(out, overwrite)
    write_text(out / CONFIG, HEADER + experiment.with_paths(Path.absolute).to_yaml())
    for name, text in sources_of(experiment).items():
        (out / SOURCE / name).parent.mkdir(parents=True, exist_ok=True)
        write_text(out / SOURCE / name, text)
    write_bytes(out / BUNDLE, bundle.read_bytes())
    write_fleet(out, Fleet(tuple(devices), chosen.notes))
