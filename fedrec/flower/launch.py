"""Run the apps on the engine that an experiment names."""

from collections.abc import Mapping
from importlib.util import find_spec
from pkgutil import resolve_name

from fedrec.config.experiment import Engine
from fedrec.errors import MissingExtra
from fedrec.flower.processes import Observer, cores

# By reference: the library imports no outer package.
SERVER = "server.app:app"
CLIENT = "clients.app:app"


class ResolvedEngine(Engine):
    """An engine without any ``auto``; the serial one has one worker."""

    workers: int
    nodes: int


def resolve_engine(engine: Engine) -> ResolvedEngine:
    """Decide what ``auto`` means on this machine.

    With the address of a cluster, ``auto`` still means this machine's cores: give ``workers`` for
    the cluster's.

    Raises:
        MissingExtra: If Ray is asked for, or Flower's simulation, which needs it, without it
            being installed.
    """
    has_ray = find_spec("ray") is not None
    name = engine.name if engine.name != "auto" else ("ray" if has_ray else "serial")
    if name != "serial" and not has_ray:
        part = "the Ray engine" if name == "ray" else "Flower's simulation runtime"
        raise MissingExtra(part, "sim")
    workers = engine.workers if engine.workers != "auto" else cores()
    workers = 1 if name == "serial" else workers
    nodes = engine.nodes if engine.nodes != "auto" else workers
    return ResolvedEngine(**{**dict(engine), "name": name, "workers": workers, "nodes": nodes})


def launch(
    engine: Engine,
    run_config: Mapping[str, str],
    observer: Observer | None = None,
    *,
    server: str = SERVER,
    client: str = CLIENT,
) -> None:
    """Run the server app and the client app on an engine, to the end.

    Args:
        engine: The section of the experiment.
        run_config: ``experiment`` (path of a YAML), ``out`` (the run folder), ``split`` (path of
            the prepared arrays), ``features`` (path of those of the items, or ""); all absolute.
        observer: Is called with the record of each round.
        server: Reference of the server app, ``module:attribute``.
        client: Reference of the client app.

    Raises:
        EngineError: If the engine cannot start or breaks off.
        MissingExtra: See `resolve_engine`.
    """
    resolved = resolve_engine(engine)
    if resolved.name == "flower":
        from fedrec.flower.simulation import run_on_flower

        run_on_flower(server, client, run_config, resolved, observer)
        return
    from fedrec.flower.grid import SERVER_NODE, EngineGrid, SerialGrid, node_context

    grid: EngineGrid
    if resolved.name == "ray":
        from fedrec.flower.ray_grid import RayGrid

        grid = RayGrid(
            client,
            resolved.nodes,
            resolved.workers,
            run_config,
            address=engine.address,
            gpus_per_worker=engine.gpus_per_worker,
            start_timeout=engine.start_timeout,
        )
    else:
        grid = SerialGrid(resolve_name(client), resolved.nodes, run_config)
    with grid:
        grid.observer = observer
        resolve_name(server)(grid, node_context(SERVER_NODE, resolved.nodes, run_config))
