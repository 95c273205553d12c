"""The devices of a run: which node each is, and the numbers of its clients.

The server of devices has no interactions. It learns from each device how many clients it has, and
numbers them: device after device in the order of their keys, on each one after the other. The
numbers stand in the run folder and stay, also when a device comes back after it was away.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

from flwr.app import Message
from flwr.serverapp import Grid

from fedrec.config.experiment import load_experiment
from fedrec.config.sources import code_with_sources
from fedrec.data.device import split_of_devices
from fedrec.data.prepare import save_split
from fedrec.errors import EngineError, printable
from fedrec.features.bundle import open_bundle
from fedrec.flower import records
from fedrec.flower.processes import code_hash
from fedrec.runs.fleet import MOST_CLIENTS, Device, Fleet, read_fleet, write_fleet
from fedrec.runs.folder import BUNDLE, CONFIG, SPLIT
from fedrec.runs.log import name_of_run, read_checkpoint
from fedrec.runs.open_run import OpenRun, open_run
from server.roster import exchange

LOG = logging.getLogger("fedrec")
PAUSE = 1.0
"""Seconds between two looks at who is there."""


def descriptions(
    fleet: Fleet, description: records.RunDescription
) -> dict[int, records.RunDescription]:
    """Return by node id what each device is told of the run."""
    described = replace(description, nodes=len(fleet.devices), n_clients=fleet.n_clients)
    return {
        each.node: replace(described, number=number, first_client=each.first_client)
        for number, each in enumerate(fleet.devices)
    }


def open_fleet(grid: Grid, folder: Path) -> tuple[OpenRun, Fleet]:
    """Enrol the devices of a run, and open it.

    Args:
        grid: The nodes.
        folder: The run folder, as from `fedrec.runs.fleet.prepare_fleet`.

    Raises:
        EngineError: If a device cannot take part, or runs other code or knows other items.
        FedRecError: If the folder is of another run.
    """
    start, checkpoint = uuid4().hex, read_checkpoint(folder)
    experiment, bundle = load_experiment(folder / CONFIG), open_bundle(folder / BUNDLE)
    name = name_of_run(checkpoint, start)
    description = records.RunDescription(name, start, experiment.for_nodes())
    code = code_with_sources(code_hash(), experiment)
    fleet = read_fleet(folder)
    await_devices(grid, fleet.devices)
    if any(device.clients is None for device in fleet.devices):
        fleet = enrol(grid, fleet, description, code, bundle.catalogue.hash)
        save_split(split_of_devices(bundle.items, fleet.n_clients), folder / SPLIT)
        write_fleet(folder, fleet)
    LOG.info(f"{len(fleet.devices)} devices with {fleet.n_clients} clients take part")
    features = folder / BUNDLE if experiment.features else None
    run = open_run(start, folder, folder / SPLIT, features)
    if checkpoint is not None:
        checkpoint.origin.check_config(str(folder), experiment)
        checkpoint.origin.check(run, accept_other_code=False)
    return replace(run, notes=fleet.notes), fleet


def await_devices(grid: Grid, devices: Sequence[Device]) -> None:
    """Wait until all devices are there; say which are not."""
    away_before: list[str] = []
    while True:
        here = set(grid.get_node_ids())
        away = [device.key for device in devices if device.node not in here]
        if not away:
            return
        if away != away_before:
            LOG.info(f"waiting for {len(away)} of {len(devices)} devices: {', '.join(away[:5])}")
        away_before = away
        time.sleep(PAUSE)


def enrol(
    grid: Grid,
    fleet: Fleet,
    description: records.RunDescription,
    code: str,
    catalogue: str,
) -> Fleet:
    """Ask each device how many clients it has, and number them.

    Args:
        grid: The nodes.
        fleet: The devices.
        description: What is run.
        code: Hash of the code that every device must run.
        catalogue: Hash of the items that every device must know.

    Raises:
        EngineError: Names the device, and what does not fit.
    """
    content = records.encode(description)
    calls = [Message(content, device.node, records.ENROL) for device in fleet.devices]
    replies = exchange(grid, calls, "enrolment")
    answers = {
        reply.metadata.src_node_id: records.decode(reply.content, records.Enrolment)
        for reply in replies
    }
    devices, first = list[Device](), 0
    for device in fleet.devices:
        answer = answers[device.node]
        _check(device, answer, {"code": code, "catalogue": catalogue})
        devices.append(replace(device, clients=answer.clients, first_client=first))
        first += answer.clients
    return replace(fleet, devices=tuple(devices))


def finish(grid: Grid, fleet: Fleet, request: records.RoundRequest) -> None:
    """Tell each device which round was the best, so that it recommends with what that left.

    A device that is away keeps the latest round as well, and recommends with it.
    """
    content = records.encode(request)
    calls = [Message(content, device.node, records.FINISH) for device in fleet.devices]
    replies = list(grid.send_and_receive(calls))
    failed = len(calls) - sum(not reply.has_error() for reply in replies)
    if failed:
        LOG.warning(
            f"{failed} of {len(calls)} devices do not know that round {request.best} is the best"
        )


_WAYS_OUT = {
    "code": "install the same version of fedrec and of plug-ins on both",
    "catalogue": "give the device the bundle of this run",
}


def _check(device: Device, answer: records.Enrolment, expected: Mapping[str, str]) -> None:
    if not 1 <= answer.clients <= MOST_CLIENTS:
        raise EngineError(
            f"enrolment: device {device.key} has {answer.clients} clients, expected 1 to "
            f"{MOST_CLIENTS}; unregister it"
        )
    for fact, ours in expected.items():
        theirs = getattr(answer, fact)
        if theirs != ours:
            raise EngineError(
                f"enrolment: device {device.key} has another {fact} than the server "
                f"({printable(theirs[:8])} and {ours:.8}); {_WAYS_OUT[fact]}"
            )
