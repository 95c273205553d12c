"""What a node keeps in the run folder: private parameters of the best round and of the latest."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np

from fedrec.errors import RunFolderError
from fedrec.flower.records import RoundRequest
from fedrec.runs.folder import RECEIVED, label_of_end
from fedrec.storage.files import RESTORE, read_arrays, write_arrays
from fedrec.training.draws import Layout
from fedrec.training.task import ClientTask
from fedrec.types import FloatArray, IntArray, Params, Shard


@dataclass(frozen=True, slots=True)
class PrivateValues:
    """The private parameters of some clients.

    Args:
        task: What they train.
        shard: The clients.
        private: By name, in their order.
    """

    task: ClientTask
    shard: Shard
    private: Params

    def take(self, clients: IntArray) -> Self:
        """Return those of some clients, int64 [c], rows of the shard."""
        at, specs = Layout.of(self.task, self.shard).positions(clients), self.task.specs()
        private = {n: value[at[specs[n].axis or ""]] for n, value in self.private.items()}
        return replace(self, shard=self.shard.take(clients), private=private)

    def ids(self) -> dict[str, IntArray]:
        """Return the ids of owners: of users, of clients and, where they have values, positives."""
        owners = Layout.of(self.task, self.shard).owner_ids()
        ids = {"user": self.shard.user_ids, "client": self.shard.client_ids}
        if "positive" in owners:
            ids["positive"] = owners["positive"]
        return {f"ids.{axis}": values for axis, values in ids.items()}


class EvaluatedRounds:
    """The files of a node; each cut of its clients has its own.

    Args:
        folder: ``local`` of the run folder.
        node: The name of the node.
    """

    def __init__(self, folder: Path, node: str) -> None:
        self._folder, self._node = folder, node

    def write(self, values: PrivateValues, request: RoundRequest, number: int) -> None:
        """Write the values of a round beside those of the best; drop those of other rounds.

        Args:
            values: Of some clients.
            request: Names the round and the best one.
            number: Of the cut.
        """
        label = label_of_end(request.round) if request.end else str(request.round)
        about = {f"per.{name}": str(spec.axis) for name, spec in values.task.stored_specs().items()}
        content: dict[str, FloatArray] = {**values.private, **values.ids()}
        write_arrays(self._path(request, number, label), content, {**about, "round": label})
        for old in self._folder.glob(self._path(request, number, "*").name):
            if old.stem.rpartition("@")[2] not in (label, str(request.best)) and not request.end:
                old.unlink()

    def write_received(self, received: Params, request: RoundRequest) -> None:
        """Write what the clients of a device received, beside that of the best round.

        Args:
            received: By name, as from `fedrec.aggregation.mix.packed`.
            request: Names the round and the best one.
        """
        kept = {f"{RECEIVED}@{round}.safetensors" for round in (request.round, request.best)}
        name = f"{RECEIVED}@{request.round}.safetensors"
        write_arrays(self._folder / name, received, {"round": str(request.round)})
        for old in self._folder.glob(f"{RECEIVED}@*.safetensors"):
            if old.name not in kept:
                old.unlink()

    def keep_best(self, best: int) -> None:
        """Drop the values of all rounds but the best, and those after the end."""
        for old in self._folder.glob("*@*.safetensors"):
            if old.stem.rpartition("@")[2] not in (str(best), label_of_end(best)):
                old.unlink()

    def read(
        self, task: ClientTask, shard: Shard, request: RoundRequest, number: int
    ) -> PrivateValues:
        """Return the values of a round.

        Args:
            task: What was trained.
            shard: The clients.
            request: Names the round.
            number: Of the cut.

        Raises:
            RunFolderError: If they are missing, damaged or of other clients.
        """
        path = self._path(request, number, str(request.round))
        arrays, _ = read_arrays(path)
        for name, ids in PrivateValues(task, shard, {}).ids().items():
            if not np.array_equal(arrays.get(name, ()), ids):
                raise RunFolderError(f"{path}: is of other clients than this node has; {RESTORE}")
        owners, private = Layout.of(task, shard).owner_ids(), {}
        for name in task.private():
            spec, values = task.stored_specs()[name], arrays.get(name, np.zeros(0))
            shape = len(owners[spec.axis or ""]), *spec.shape
            if values.shape != shape or values.dtype != spec.dtype:
                raise RunFolderError(f"{path}: has no values of '{name}' of this run; {RESTORE}")
            private[name] = values
        return PrivateValues(task, shard, private)

    def _path(self, request: RoundRequest, number: int, label: str) -> Path:
        name = self._node + (f"p{number}" if number else "")
        return self._folder / f"{name}@{label}.safetensors"
