"""What nodes say of themselves: what passes the checks of the server can begin a run."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
from flwr.app import Message, RecordDict

from fedrec.compute.context import RoundContext
from fedrec.config.experiment import Experiment
from fedrec.data.device import split_of_devices
from fedrec.errors import EngineError, FedRecError, ProtocolError, RunFolderError
from fedrec.flower import records
from fedrec.flower.grid import EngineGrid
from fedrec.flower.records import Enrolment, PrivateState, RollCall, RunDescription
from fedrec.runs import fleet as fleets
from fedrec.runs.fleet import Device, Fleet, read_fleet, write_fleet
from fedrec.testing.trial import small_split
from server import fleet as enrolling
from server import replies
from server.cohorts import Cohorts
from server.node_states import NodeStates, check_states
from server.replies import read_roll_call
from tests.fuzz.files import Files, files_below, write_files
from tests.fuzz.targets.base import Target
from tests.fuzz.targets.messages import files_of, message_of
from tests.fuzz.targets.replies import reply_of


class HostedTarget(Target):
    """Which clients the second of two nodes says it hosts, and what it has of their state."""

    name = "hosted"
    decoders: ClassVar[Mapping[ModuleType, Sequence[str]]] = {replies: ("read_roll_call",)}
    documented: ClassVar[tuple[type[FedRecError], ...]] = (ProtocolError, RunFolderError)

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        document = {"data": "synthetic", "rounds": {"selection": "activity", "cohort_size": 2}}
        self._experiment = Experiment.model_validate(document)
        self._first = RollCall(np.arange(3), "code", 2, examples=np.ones(3, np.int64))

    def valid(self) -> Sequence[Files]:
        """Return an answer with and without private state."""
        about: dict[str, Any] = {"partitions": 2, "partition": 1, "examples": np.ones(3, np.int64)}
        states = (None, PrivateState(((2, 1),), 5), PrivateState(((1, 1),), 3, (((2, 1), 2),)))
        answers = [RollCall(np.arange(3, 6), "code", state=each, **about) for each in states]
        return [files_of(records.encode(answer)) for answer in answers]

    def run(self, files: Files) -> None:
        """Read an answer, and begin a round with it if it completes the clients of the run."""
        answer = read_roll_call(reply_of(message_of(files), 2))
        if np.array_equal(answer.clients, np.arange(3, 6)):
            context = RoundContext(0, 0, 6, 9)
            roster = {1: self._first, 2: answer}
            Cohorts(self._experiment, roster, context).choose(2, context)
            if answer.state is not None:
                check_states("out", roster, {str(answer.partition): (((2, 1),), 5)})
            states = NodeStates(roster)
            states.next_attempt(answer.partition, 2)
            states.pending(answer.partition, 2)
            states.stored()


class _Answering(EngineGrid):
    """A grid whose only node answers what it is told."""

    def __init__(self, content: RecordDict) -> None:
        super().__init__(1)
        self._content = content

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        """Return the answer to each message."""
        return [Message(self._content, reply_to=message) for message in messages]


class EnrolledTarget(Target):
    """How many clients a device says it has."""

    name = "enrolled"
    decoders: ClassVar[Mapping[ModuleType, Sequence[str]]] = {enrolling: ("enrol", "_check")}
    documented: ClassVar[tuple[type[FedRecError], ...]] = (ProtocolError, EngineError)

    def valid(self) -> Sequence[Files]:
        """Return the answer of a device."""
        return [files_of(records.encode(Enrolment(3, "code", "items")))]

    def run(self, files: Files) -> None:
        """Number the clients, and keep who takes part."""
        grid, fleet = _Answering(message_of(files)), Fleet((Device(1, "key"),))
        description = RunDescription("run", "start", "{}")
        fleet = enrolling.enrol(grid, fleet, description, "code", "items")
        split_of_devices(small_split(), fleet.n_clients)
        write_files(self.folder, {})
        write_fleet(self.folder, fleet)
        assert read_fleet(self.folder) == fleet


class FleetTarget(Target):
    """Who takes part, in the run folder of a server of devices."""

    name = "fleet"
    decoders: ClassVar[Mapping[ModuleType, Sequence[str]]] = {fleets: ("read_fleet",)}
    documented: ClassVar[tuple[type[FedRecError], ...]] = (RunFolderError,)

    def valid(self) -> Sequence[Files]:
        """Return the devices before and after they were enrolled."""
        before = Fleet((Device(1, "a key"), Device(2**64 - 1, "another")), ("a note",))
        after = Fleet((Device(1, "a key", 2, 0), Device(5, "another", 1, 2)))
        seeds = []
        for each in (before, after):
            write_files(self.folder, {})
            write_fleet(self.folder, each)
            seeds.append(files_below(self.folder))
        return seeds

    def run(self, files: Files) -> None:
        """Read who takes part; what is read can be written, and read as the same."""
        write_files(self.folder, files)
        fleet = read_fleet(self.folder)
        assert fleet.n_clients >= 0
        write_fleet(self.folder, fleet)
        assert read_fleet(self.folder) == fleet
