"""A run as its processes know it: read from its folder by the server, sent to nodes."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from uuid import uuid4
from weakref import WeakValueDictionary

import numpy as np

from fedrec.baselines.base import Baseline
from fedrec.compute.context import RoundContext
from fedrec.compute.device import Resources, check_device, gpu_bytes
from fedrec.config.engine import Engine
from fedrec.config.experiment import Experiment, load_experiment, received_experiment
from fedrec.data.catalogue import Catalogue
from fedrec.data.prepare import open_split, prepare
from fedrec.devices.fleet import Fleet
from fedrec.devices.timing import Timing
from fedrec.devices.work import work_of
from fedrec.errors import ConfigError
from fedrec.features.prepare import open_catalogue, prepare_features
from fedrec.flower.launch import own_device
from fedrec.runs.folder import CONFIG, HEADER
from fedrec.runs.transformed import with_transforms
from fedrec.storage.files import write_text
from fedrec.training.task import ClientTask
from fedrec.types import IntArray, Split


@dataclass(frozen=True, eq=False)
class OpenRun:
    """A run as its processes know it.

    Args:
        folder: The run folder.
        experiment: What is run.
        prepared: The file of the prepared data.
        split: The data, mapped into memory.
        engine: What it runs on, without any ``auto``; None where that is not known, and where
            fedrec does not run the nodes itself.
        features: The file of the features of the items; None where there are none.
        id: Of this start of the run; the next start has another.
        device: What this process computes on.
        notes: What else the result says, a line each.
    """

    folder: Path
    experiment: Experiment
    prepared: Path
    split: Split
    engine: Engine | None = None
    features: Path | None = None
    id: str = field(default_factory=lambda: uuid4().hex)
    device: str = "cpu"
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _OPEN[self.id] = self

    @property
    def centralised(self) -> bool:
        """Whether one place sees all the data, as for a baseline."""
        return isinstance(self.experiment.model, Baseline)

    @property
    def sees_interactions(self) -> bool:
        """Whether the data is here; a server of devices knows only how many users they have."""
        return len(self.split.train.values) > 0

    @cached_property
    def attackers(self) -> IntArray:
        """The clients that attack, int64, sorted."""
        return self.experiment.attackers_of(self.split)

    @cached_property
    def honest(self) -> Split:
        """The data of the clients that do not attack, with numbers of their own: who ranks."""
        return self.experiment.honest_part(self.split)

    @cached_property
    def ranking_users(self) -> IntArray:
        """The users of the clients that do not attack, int64, sorted."""
        everybody = np.arange(self.split.n_users)
        attacking = self.split.clients.take(self.attackers).values
        return np.asarray(np.setdiff1d(everybody, attacking), np.int64)

    @cached_property
    def targets(self) -> IntArray:
        """The items of ``evaluate.targets``, int64, sorted."""
        return self.experiment.evaluate.targets_of(self.honest, self.experiment.seed)

    @cached_property
    def catalogue(self) -> Catalogue:
        """What every process knows of the items; features are mapped into memory."""
        return open_catalogue(self.split, self.features)

    @cached_property
    def task(self) -> ClientTask:
        """What each client computes."""
        return task_on_device(self.experiment, self.catalogue, self.device)

    @cached_property
    def fleet(self) -> Fleet | None:
        """The devices of all clients; None where no virtual clock runs.

        Raises:
            FedRecError: If ``rounds.devices`` cannot say what they are.
        """
        experiment, split = self.experiment, self.split
        if experiment.rounds.devices is None:
            return None
        context = RoundContext(experiment.seed, 0, split.n_clients, split.n_items)
        return experiment.rounds.devices.checked_fleet(context)

    @cached_property
    def timing(self) -> Timing | None:
        """When replies arrive on the virtual clock; None where none runs."""
        if self.fleet is None:
            return None
        everybody = self.split.shard(np.arange(self.split.n_clients, dtype=np.int64))
        return Timing(self.fleet, work_of(self.task, everybody))

    @cached_property
    def executor(self) -> str | None:
        """What trains the clients; None for a baseline."""
        return None if self.centralised else self.task.executor()

    def write_config(self) -> None:
        """Write the experiment into the run folder."""
        located = self.experiment.with_paths(Path.absolute)
        write_text(self.folder / CONFIG, HEADER + located.to_yaml())


def task_on_device(experiment: Experiment, catalogue: Catalogue, device: str) -> ClientTask:
    """Return what each client of an experiment computes on a device.

    Raises:
        ConfigError: If torch does not see the device, or the parameters of the model do not fit.
    """
    engine = experiment.engine
    check_device(device)
    memory = engine.memory
    if memory is None and device != "cpu":
        memory = int(gpu_bytes(device) * min(engine.gpus_per_worker or 1, 1) / 4)
    resources = Resources(device, engine.precision, memory)
    return experiment.client_task(catalogue, resources)


# The runs of this process by id: what starts a run has read already what its nodes ask for.
_OPEN: WeakValueDictionary[str, OpenRun] = WeakValueDictionary()


def open_run(id: str, folder: Path, prepared: Path, features: Path | None = None) -> OpenRun:
    """Return a run; it is read from its folder if this process does not know it yet."""
    run = _OPEN.get(id)
    if run is None:
        experiment = load_experiment(folder / CONFIG)
        run = OpenRun(folder, experiment, prepared, open_split(prepared), None, features, id)
    return run


def open_received(
    start: str, text: str, folder: Path, data: Path | None, features: Path | None, device: str
) -> OpenRun:
    """Return a run that a server has sent, as a node has it.

    Args:
        start: Which start of the run it is.
        text: The experiment, see `Experiment.for_nodes`; not read if this process knows the run.
        folder: The node's.
        data: Its file of the prepared data; None: it is prepared here, as the experiment says.
        features: Its file of the features of the items; None: likewise.
        device: What it computes on; "" for a node that finds out itself.

    Raises:
        ConfigError: If the experiment names a file, and the node has none of its own.
    """
    if (run := _OPEN.get(start)) is not None:
        return run
    experiment = received_experiment(text, folder)
    if data is None:
        data, features = _prepared_by_name(experiment)
    device = device or own_device(experiment.engine)
    split = open_split(data)
    return OpenRun(folder, experiment, data, split, None, features, start, device)


def _prepared_by_name(experiment: Experiment) -> tuple[Path, Path | None]:
    """Prepare data and features of an experiment that names no file of anybody's."""
    sources = [experiment.data, *experiment.features.values()]
    needed = [f"the file {path}" for path in experiment.paths()]
    needed += [type(each).__name__ for each in sources if type(each).__module__[:7] != "fedrec."]
    if needed:
        raise ConfigError(
            f"the experiment needs {needed[0]}, and this node has no data; start it with "
            "--node-config 'data=\"FILE\"', the prepared data on its own machine"
        )
    prepared = prepare(experiment.data, experiment.clients)
    prepared, _ = with_transforms(experiment, prepared, open_split(prepared))
    return prepared, prepare_features(experiment.features, prepared)
