"""What a node keeps on its machine between the rounds, and after them."""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import ClassVar

import numpy as np

from clients import open_node, private_values, state_store
from clients.open_node import keep_description, read_description
from clients.place import NodePlace
from clients.private_values import EvaluatedRounds, PrivateValues
from clients.state_store import StateStore
from fedrec.errors import FedRecError, ProtocolError, RunFolderError
from fedrec.flower.records import RoundRequest, RunDescription, Ticket
from fedrec.runs import own_file
from fedrec.runs.own_file import OwnFile
from fedrec.storage.files import json_values
from fedrec.testing.trial import Trial
from fedrec.training.draws import Layout
from strategies import FedDyn, Scaffold, Strategy
from tests.fuzz.files import Files, files_below, opened, write_files
from tests.fuzz.targets.base import Target

_APPLIED = "@applied"
_NODE = "node-000"
_MANY = 10**9
"""Rounds, more than a file that is read may say were staged."""


def _trial(strategy: Strategy) -> Trial:
    return Trial.of(strategy, "float32").take(np.arange(3))


class StateTarget(Target):
    """The private state of a node's clients, with values that are staged."""

    name = "state"
    decoders: ClassVar[Mapping[ModuleType, Sequence[str]]] = {state_store: ()}
    documented: ClassVar[tuple[type[FedRecError], ...]] = (RunFolderError, ProtocolError)

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        trial = _trial(Scaffold())
        self._layout, self._specs = Layout.of(trial.task, trial.shard), trial.task.stored_specs()
        self._values = trial.private
        self._initial = partial(trial.task.initial_private, n_items=trial.shard.n_items)

    def _store(self) -> StateStore:
        return StateStore(self.folder, self._specs, self._layout.owner_ids(), self._initial)

    def _stage(self, store: StateStore, ticket: Ticket, client: int) -> None:
        at, all_at = (self._layout.positions(np.array(c)) for c in ([client], [0, 1, 2]))
        places = {axis: np.searchsorted(all_at[axis], rows) for axis, rows in at.items()}
        values = {n: self._values[n][places[s.axis or ""]] + 1 for n, s in self._specs.items()}
        store.stage(ticket, at, values, str(client))

    def valid(self) -> Sequence[Files]:
        """Return the folder before the first round, after one, and with the next one staged."""
        seeds: list[Files] = []
        write_files(self.folder, {})
        store, applied = self._store(), list[Ticket]()
        for round in range(3):
            store.commit(applied)
            for client in range(round):
                self._stage(store, (round + 1, 1), client)
            asked = applied if round < 2 else [(3, 1)]
            files, text = files_below(self.folder), {_APPLIED: json.dumps(asked).encode()}
            seeds += [{**files, **text}, {**opened(files), **text}]
            applied = [(round + 1, 1)] if round else []
        return seeds

    def run(self, files: Files) -> None:
        """Commit what was applied; what was compared with its checksum stays as it was said."""
        write_files(self.folder, {name: c for name, c in files.items() if name != _APPLIED})
        try:
            pairs = json.loads(files.get(_APPLIED, b"[]"))
            applied = [(int(round), int(attempt)) for round, attempt in pairs]
        except (ValueError, TypeError, OverflowError, RecursionError):
            applied = []
        store, everybody = self._store(), self._layout.positions(np.arange(3))
        said = store.verify(begun=bool(applied)) if len(files) % 2 else None
        store.commit(applied)
        store.get(everybody)
        if said is not None and applied:
            after = store.verify(begun=True)
            assert after.checksum == said.checksum_with(applied)
        next_ticket = max([*applied, (_MANY, 0)])[0] + 1, 1
        store.discard((), next_ticket)
        self._stage(store, next_ticket, 0)
        self._store().commit([next_ticket])


class ValuesTarget(Target):
    """The private parameters of a round that users ranked with."""

    name = "values"
    decoders: ClassVar[Mapping[ModuleType, Sequence[str]]] = {
        private_values: ("take", "ids", "write", "read", "_path")
    }
    documented: ClassVar[tuple[type[FedRecError], ...]] = (RunFolderError,)

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._trial = _trial(FedDyn())
        self._request = RoundRequest("run", "start", 3, best=2)

    def valid(self) -> Sequence[Files]:
        """Return the values of a round."""
        write_files(self.folder, {})
        trial = self._trial
        private = {name: trial.private[name] for name in trial.task.private()}
        values = PrivateValues(trial.task, trial.shard, private)
        EvaluatedRounds(self.folder, _NODE).write(values, self._request, 0)
        files = files_below(self.folder)
        return [files, opened(files)]

    def run(self, files: Files) -> None:
        """Read values; those of any client can be taken."""
        write_files(self.folder, files)
        trial, rounds = self._trial, EvaluatedRounds(self.folder, _NODE)
        values = rounds.read(trial.task, trial.shard, self._request, 0)
        for name, like in values.take(np.arange(3)).private.items():
            assert like.shape == trial.private[name].shape, f"'{name}' has another shape"
            assert like.dtype == trial.private[name].dtype, f"'{name}' has another type"
        rounds.write(values, self._request, 0)


class NodeFileTarget(Target):
    """What a node keeps of what the server told it of a run."""

    name = "node-file"
    decoders: ClassVar[Mapping[ModuleType, Sequence[str]]] = {open_node: ("read_description",)}

    def valid(self) -> Sequence[Files]:
        """Return the file of a run."""
        place = NodePlace(0, 1, self.folder)
        keep_description(RunDescription("run", "start", '{"data": "synthetic"}'), place)
        return [files_below(place.folder)]

    def run(self, files: Files) -> None:
        """Read what is run, and the numbers of the clients."""
        place = NodePlace(0, 1, self.folder)
        write_files(place.folder, files)
        about = read_description("start", place)
        assert isinstance(about["experiment"], str)
        assert all(type(about[name]) is int for name in ("first_client", "n_clients"))


class OwnFileTarget(Target):
    """Where a device's own file lies."""

    name = "own-file"
    decoders: ClassVar[Mapping[ModuleType, Sequence[str]]] = {own_file: ("read",)}
    documented: ClassVar[tuple[type[FedRecError], ...]] = (RunFolderError,)

    def valid(self) -> Sequence[Files]:
        """Return what a device is started with."""
        write_files(self.folder, {})
        OwnFile({"name": "csv", "path": "ratings.csv"}, Path("bundle")).write(
            self.folder / "own.json"
        )
        return [files_below(self.folder)]

    def run(self, files: Files) -> None:
        """Read where it lies; what is read can be written, and read as the same."""
        write_files(self.folder, files)
        path = self.folder / "own.json"
        own = OwnFile.read(path)
        own.write(path)
        again = OwnFile.read(path)
        assert json_values([again.data, again.path]) == json_values([own.data, own.path])
