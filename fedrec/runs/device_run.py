"""What a device recommends to its users, by itself: offline, from its own state."""

import json
from functools import cached_property
from pathlib import Path

import numpy as np

from fedrec.baselines.base import Scorer
from fedrec.config.experiment import Experiment, received_experiment
from fedrec.data.prepare import open_split
from fedrec.errors import RunFolderError
from fedrec.runs.folder import (
    DESCRIPTION,
    LOCAL,
    OWN_FILE,
    RECEIVED,
    RUNS,
    SNAPSHOT,
    STATE,
    label_of_end,
)
from fedrec.runs.own_file import OwnFile
from fedrec.runs.reader import merged_values
from fedrec.runs.recommend import (
    AXES,
    Recommendation,
    best_items,
    index_of,
    recommendations,
    trained_scorer,
)
from fedrec.storage.files import read_arrays, reading
from fedrec.types import Split


def is_device(state: Path) -> bool:
    """Return whether a folder is the state of a device."""
    return (state / OWN_FILE).is_file()


class DeviceRun:
    """The latest run of a device that has left a model.

    Args:
        state: The folder of the device's state, see ``fedrec join``.

    Raises:
        RunFolderError: If there is none.
    """

    def __init__(self, state: Path) -> None:
        self._own = OwnFile.read(state / OWN_FILE)
        received = (state / RUNS).glob(f"*/{LOCAL}/{RECEIVED}@*.safetensors")
        latest = max(received, key=lambda path: path.stat().st_mtime_ns, default=None)
        if latest is None:
            raise RunFolderError(
                f"{state}: no run has left a model yet; a device can recommend after the first "
                "evaluation of a run in which it took part"
            )
        self.folder = latest.parents[1]
        self._received, self._round = latest, int(latest.stem.rpartition("@")[2])

    @cached_property
    def experiment(self) -> Experiment:
        """What was run."""
        path = self._node / DESCRIPTION
        with reading(path):
            text = json.loads(path.read_text(encoding="utf-8"))["experiment"]
        return received_experiment(text, self.folder)

    @cached_property
    def split(self) -> Split:
        """The device's users, with the columns of the items."""
        return open_split(self._node / SNAPSHOT)

    @property
    def _node(self) -> Path:
        [node] = (self.folder / STATE).glob("node-*")
        return node

    @cached_property
    def _scorer(self) -> Scorer:
        files = sorted((self.folder / LOCAL).glob("node-*.safetensors"))
        ended = label_of_end(self._round)
        at_end = any(path.stem.endswith(f"@{ended}") for path in files)
        task = self.experiment.client_task(self._own.bundle.catalogue)
        local = {
            axis: merged_values(files, axis, ended if at_end else str(self._round)) for axis in AXES
        }
        shared, _ = read_arrays(self._received)
        chosen = task.at_end() if at_end else task
        return trained_scorer(chosen, self.split, shared, local, str(self.folder))

    def recommend(self, user: str | float, k: int = 10) -> list[Recommendation]:
        """Return the best items for a user of this device, all that it has left out.

        Args:
            user: The raw id.
            k: How many.

        Returns:
            Best first; fewer than k where the catalogue has no more.

        Raises:
            DataError: If the user is not one of the device's.
        """
        at = np.array([index_of(self.split, user)])
        ranked = best_items(self.split, self._scorer, at, k, all_known=True)
        return recommendations(self._own.bundle.items, ranked)
