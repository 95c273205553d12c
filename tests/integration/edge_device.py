"""A device's whole life in one process, without what only a simulation needs.

Run as ``python edge_device.py FOLDER``, with a device in FOLDER and what the server says of its run
in FOLDER/experiment.json. Prints what was imported of it, and what it recommends.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

BLOCKED = {"ray", "pandas", "numba", "pyarrow", "matplotlib", "scipy", "jinja2", "threadpoolctl"}


class Absent:
    """Finds what is installed, but for the modules that a device does not have."""

    find_distributions = PathFinder.find_distributions
    invalidate_caches = PathFinder.invalidate_caches

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: Any = None) -> Any:
        if name.partition(".")[0] in BLOCKED:
            return None
        return PathFinder.find_spec(name, path, target)


def main(folder: Path) -> None:
    finders: list[Any] = sys.meta_path
    finders[finders.index(PathFinder)] = Absent

    import numpy as np
    from flwr.app import Message

    from clients.app import app
    from clients.own_file import OwnFileSource
    from clients.place import NodePlace
    from fedrec.aggregation.update import Down
    from fedrec.config.experiment import received_experiment
    from fedrec.flower import records
    from fedrec.flower.grid import claim_identity, node_context
    from fedrec.runs.device_run import DeviceRun

    claim_identity()
    text = (folder / "experiment.json").read_text(encoding="utf-8")
    config = {"own-file": str(folder / "device.json"), "state-dir": str(folder / "runs")}
    context = node_context(1, 1)
    context.node_config.clear()
    context.node_config.update(config)
    run = "0" * 32

    def ask(kind: str, request: Any, params: Any = None) -> Any:
        content = records.encode(request)
        if params is not None:
            content[records.PARAMS] = records.Broadcast(Down(params), params).record(np.arange(n))
        return app(Message(content, 1, kind), context).content

    description = records.RunDescription(run, "start", text, nodes=1)
    n = records.decode(ask(records.ENROL, description), records.Enrolment).clients
    told = records.RunDescription(run, "start", text, nodes=1, n_clients=n)
    called = records.decode(ask(records.ROLL_CALL, told), records.RollCall)
    source = OwnFileSource(NodePlace.of(config).of_run(run), 0, n)
    task = received_experiment(text, folder).client_task(source.catalogue())
    params = task.initial_globals(source.catalogue().n_items)
    groups = np.zeros(n, np.int64)
    request = records.RoundRequest(run, "start", 1, clients=called.clients, groups=groups)
    trained = records.decode(ask(records.TRAIN, request, params), records.Trained)
    assert not trained.failures
    applied = replace(request, applied=(request.ticket,))
    ask(records.EVALUATE, applied, params)
    ask(records.FINISH, replace(applied, best=1))
    device = DeviceRun(folder)
    first = device.recommend(str(device.split.user_ids[0]), 3)
    imported = sorted(BLOCKED & {name.partition(".")[0] for name in sys.modules})
    sys.stdout.write(f"{len(first)} {imported}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
