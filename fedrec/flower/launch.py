"""Run the apps on the engine that an experiment names."""

from collections.abc import Mapping
from importlib.util import find_spec
from pkgutil import resolve_name

from fedrec.compute.device import check_device, sees_gpu
from fedrec.config.engine import Engine
from fedrec.errors import ConfigError, MissingExtra
from fedrec.flower.processes import CLIENT, SERVER, Observer, cores

# By reference: the library imports no outer package.
REMOTE = ("clients.remote:RemoteNodes", "clients.remote:RemoteApp")


class ResolvedEngine(Engine):
    """An engine without any ``auto`` but for ``chunk``; the serial one has one worker."""

    workers: int
    nodes: int


def resolve_engine(engine: Engine, moves: bool = True) -> ResolvedEngine:
    """Decide what ``auto`` means on this machine.

    With the address of a cluster, ``auto`` still means this machine's cores: give ``workers`` for
    the cluster's.

    Args:
        engine: The section of the experiment.
        moves: Whether what is trained can be on a GPU at all.

    Raises:
        ConfigError: If a GPU is asked for that is not there, or that no worker would have.
        MissingExtra: If Ray is asked for, or Flower's simulation, which needs it, without it
            being installed.
    """
    has_ray = find_spec("ray") is not None
    # One process can have a GPU without reserving it.
    alone = engine.device.startswith("cuda") and engine.gpus_per_worker == 0
    name = engine.name
    if name == "auto":
        name = "ray" if has_ray and not alone else "serial"
    if name != "serial" and not has_ray:
        part = "the Ray engine" if name == "ray" else "Flower's simulation runtime"
        raise MissingExtra(part, "sim")
    workers = engine.workers if engine.workers != "auto" else cores()
    workers = 1 if name == "serial" else workers
    nodes = engine.nodes if engine.nodes != "auto" else workers
    device = _device(engine, name == "serial") if moves else "cpu"
    chosen: dict[str, str | float] = {
        "name": name,
        "workers": workers,
        "nodes": nodes,
        "device": device,
    }
    if device == "cpu":  # no GPU is reserved for nothing
        chosen["gpus_per_worker"] = 0.0
    return ResolvedEngine(**{**dict(engine), **chosen})


def _device(engine: Engine, is_serial: bool) -> str:
    """Return the device of each worker; of a cluster's, this process may see no GPU."""
    if is_serial:
        check_device(engine.device)
        return ("cuda" if sees_gpu() else "cpu") if engine.device == "auto" else engine.device
    if engine.device.startswith("cuda") and engine.gpus_per_worker == 0:
        raise ConfigError(
            f"engine.gpus_per_worker: 0, but engine.device is {engine.device}; give each worker a "
            "share of a GPU, such as 0.5, or use engine: serial"
        )
    if engine.device.startswith("cuda:"):
        raise ConfigError(
            f"engine.device: {engine.device}, but Ray chooses the GPU of each worker; write cuda, "
            "or use engine: serial"
        )
    if engine.device == "auto":
        return "cuda" if engine.gpus_per_worker > 0 else "cpu"
    return engine.device


def own_device(engine: Engine) -> str:
    """Return the device of a node that this library has not started."""
    if engine.device != "auto":
        return engine.device
    reserves = engine.name not in ("ray", "flower") or engine.gpus_per_worker > 0
    return "cuda" if reserves and sees_gpu() else "cpu"


def launch(
    engine: Engine,
    run_config: Mapping[str, str],
    observer: Observer | None = None,
    *,
    node_config: Mapping[str, str] | None = None,
    sources: Mapping[str, str] | None = None,
    server: str = SERVER,
    client: str = CLIENT,
) -> None:
    """Run the server app and the client app on an engine, to the end.

    Args:
        engine: The section of the experiment.
        run_config: ``experiment`` (path of a YAML), ``out`` (the run folder), ``split`` (path of
            the prepared arrays), ``features`` (path of those of the items, or ""); all absolute.
        observer: Is called with the record of each round.
        node_config: What the configuration of every node holds besides its number: ``run-dir``,
            ``data`` and ``features`` of this machine, ``device``.
        sources: Files of plug-ins that are not fedrec's own, for workers on other machines: text
            by path, relative to the folder that Python imports from.
        server: Reference of the server app, ``module:attribute``.
        client: Reference of the client app.

    Raises:
        EngineError: If the engine cannot start or breaks off.
        MissingExtra: See `resolve_engine`.
    """
    resolved = resolve_engine(engine)
    if resolved.name == "flower":
        from fedrec.flower.simulation import run_on_flower

        run_on_flower(server, client, run_config, resolved, observer, node_config or {})
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
            gpus_per_worker=resolved.gpus_per_worker,
            cpus_per_worker=engine.cpus_per_worker,
            start_timeout=engine.start_timeout,
            node_config=node_config,
            sources=sources,
            remote=REMOTE,
        )
    else:
        grid = SerialGrid(resolve_name(client), resolved.nodes, run_config, node_config)
    with grid:
        grid.observer = observer
        resolve_name(server)(grid, node_context(SERVER_NODE, resolved.nodes, run_config))
