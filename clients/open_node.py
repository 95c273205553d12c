"""What a node keeps of what a server said of a run, and how each of its processes opens it."""

from dataclasses import replace
from functools import lru_cache
from typing import Any

from pydantic_core import from_json

from clients.node import Node
from clients.own_file import OwnFileSource
from clients.place import NodePlace
from clients.sent_data import SentData
from clients.shard_source import PreparedSplit, ShardSource
from fedrec.config.experiment import Experiment, received_experiment
from fedrec.errors import ProtocolError
from fedrec.flower.launch import own_device
from fedrec.flower.records import RunDescription
from fedrec.runs.devices import check_for_devices
from fedrec.runs.folder import DESCRIPTION
from fedrec.runs.open_run import OpenRun, open_received, task_on_device
from fedrec.storage.files import write_json
from fedrec.training.task import ClientTask

_START, _EXPERIMENT = "start", "experiment"
_NUMBERS = ("number", "first_client", "n_clients")


def keep_description(description: RunDescription, place: NodePlace) -> None:
    """Keep what the server said of a run, for the other processes that the node will have."""
    about = {_START: description.start, _EXPERIMENT: description.experiment}
    numbers = {name: getattr(description, name) for name in _NUMBERS}
    place.folder.mkdir(parents=True, exist_ok=True)
    write_json(place.folder / DESCRIPTION, about | numbers)


def read_description(start: str, place: NodePlace) -> dict[str, Any]:
    """Return what `keep_description` has kept.

    Args:
        start: Which start of the run it is about.
        place: The node's, for this run.

    Raises:
        ProtocolError: If the server has not called the roll of this run.
    """
    try:
        about = dict(from_json((place.folder / DESCRIPTION).read_bytes()))
        known = about[_START] == start and isinstance(about[_EXPERIMENT], str)
        known = known and all(type(about[name]) is int for name in _NUMBERS)
    except (OSError, ValueError, KeyError, TypeError):  # it is not there, or damaged
        known = False
    if not known:
        raise ProtocolError(
            f"{place.folder}: the server has not told this node what run it is about; start the "
            "run again with --resume"
        )
    return about


def enrol(description: RunDescription, place: NodePlace) -> tuple[Experiment, OwnFileSource, int]:
    """Let a device take part in a run; return what is run, its data, and how many clients it has.

    Raises:
        ProtocolError: If this node is no device.
        FedRecError: If the device cannot take part, and why.
    """
    if place.own_file is None:
        raise ProtocolError(
            "the server waits for devices with their own data, and this node has none; start it "
            "with fedrec join"
        )
    experiment = received_experiment(description.experiment, place.state)
    source = OwnFileSource(place)
    return experiment, source, source.enrol(experiment)


@lru_cache(maxsize=256)
def open_node(start: str, place: NodePlace) -> Node:
    """Return the node of a run, opened once per process.

    All that changes lies on disk, so a node may be opened in several processes, one at a time.

    Args:
        start: Which start of the run it is.
        place: The node's, for this run.

    Raises:
        ConfigError: If torch does not see the device.
        ProtocolError: If the server has not called the roll of this run.
    """
    about = read_description(start, place)
    if place.own_file is not None:
        return _device(about, place)
    source: ShardSource
    if place.sent:
        source = SentData(place.sent)
        of_all = replace(place, partition=0, sent=place.sent[:1])
        experiment, task = _received(start, about[_EXPERIMENT], of_all)
    else:
        run = _opened(start, about[_EXPERIMENT], replace(place, partition=0))
        source = PreparedSplit(run, place.partition, place.partitions)
        experiment, task = run.experiment, run.task
    return Node(experiment, task, source.data(), place.state, place.partition)


def _device(about: dict[str, Any], place: NodePlace) -> Node:
    experiment = received_experiment(about[_EXPERIMENT], place.state)
    check_for_devices(experiment)
    source = OwnFileSource(place, about["first_client"], about["n_clients"])
    device = place.device or own_device(experiment.engine)
    task = task_on_device(experiment, source.catalogue(), device)
    return Node(experiment, task, source.data(), place.state, place.partition, keeps_received=True)


@lru_cache(maxsize=1)
def _opened(start: str, experiment: str, place: NodePlace) -> OpenRun:
    """Return a run with its data, which all nodes of this process share."""
    files = place.state, place.data, place.features
    return open_received(start, experiment, *files, place.device)


@lru_cache(maxsize=1)
def _received(start: str, text: str, place: NodePlace) -> tuple[Experiment, ClientTask]:
    """Return the experiment of a run whose data was sent, and its task, for all nodes here."""
    experiment, items = received_experiment(text, place.state), SentData(place.sent).catalogue()
    return experiment, task_on_device(
        experiment, items, place.device or own_device(experiment.engine)
    )
