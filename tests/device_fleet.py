"""Devices in one process: each node of a serial grid has a file of its own users."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clients.app import app as client_app
from fedrec.config.experiment import Experiment
from fedrec.data.device import items_alone
from fedrec.features.bundle import write_bundle
from fedrec.flower.grid import SERVER_NODE, SerialGrid, node_context
from fedrec.runs.fleet import Device, check_fleet, prepare_fleet
from fedrec.runs.own_file import OwnFile
from fedrec.types import IntArray, Interactions
from server.app import app as server_app


def csv_lines(data: Interactions, rows: IntArray) -> str:
    """Return some interactions as a text file."""
    lines = ["user,item,rating,time"]
    for row in rows.tolist():
        values = [data.user_ids[data.users[row]], data.item_ids[data.items[row]]]
        values += ["1" if data.ratings is None else f"{data.ratings[row]:g}"]
        values += ["0" if data.timestamps is None else repr(float(data.timestamps[row]))]
        lines.append(",".join(map(str, values)))
    return "\n".join(lines) + "\n"


COLUMNS = {"user": "user", "item": "item", "rating": "rating", "timestamp": "time"}


class Devices(SerialGrid):
    """Devices that run in this process, each with a folder: its file, bundle and state."""

    def __init__(self, folders: Sequence[Path]) -> None:
        super().__init__(client_app, len(folders))
        for node, folder in zip(self.nodes, folders, strict=True):
            own = {"own-file": str(folder / "device.json"), "state-dir": str(folder / "runs")}
            self._contexts[node].node_config.clear()
            self._contexts[node].node_config.update(own)


def make_devices(
    experiment: Experiment, data: Interactions, owners: Mapping[int, Sequence[int]], root: Path
) -> list[Path]:
    """Write a folder for each device with the rows of its users, and the bundle beside them."""
    root.mkdir(parents=True, exist_ok=True)
    write_bundle(root / "bundle", items_alone(data.item_ids), experiment.data, {})
    folders = []
    for number, users in owners.items():
        folder = root / f"device-{number}"
        folder.mkdir()
        rows = np.flatnonzero(np.isin(data.users, users))
        (folder / "log.csv").write_text(csv_lines(data, rows))
        section: dict[str, Any] = {"name": "csv", "path": folder / "log.csv", "columns": COLUMNS}
        OwnFile.of(section, root / "bundle").write(folder / "device.json")
        folders.append(folder)
    return folders


def prepare(experiment: Experiment, folders: Sequence[Path], out: Path) -> None:
    """Make the run folder of an experiment on devices."""
    keys = [Device(node, folder.name) for node, folder in enumerate(folders, start=1)]
    bundle = folders[0].parent / "bundle"
    prepare_fleet(check_fleet(experiment, bundle), bundle, out, keys, overwrite=False)


def serve(experiment: Experiment, folders: Sequence[Path], out: Path) -> None:
    """Run an experiment on devices, or continue it."""
    if not out.exists():
        prepare(experiment, folders, out)
    with Devices(folders) as grid:
        server_app(grid, node_context(SERVER_NODE, len(folders), {"fleet": str(out)}))
