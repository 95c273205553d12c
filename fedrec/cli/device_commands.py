"""The commands for devices: certificates, bundle, serve, join."""

from pathlib import Path
from typing import Annotated, Any

import typer

from fedrec.cli.data_commands import SETS
from fedrec.cli.output import print_table, say, write
from fedrec.errors import ConfigError


def _expand(text: str) -> Path:
    from fedrec.plugins import expand_path

    return expand_path(text)


PATH: dict[str, Any] = {"parser": _expand, "metavar": "PATH"}
PORT = 8443
DEPLOYMENT = Annotated[
    Path, typer.Option(help="The folder of certificates and keys of the server.", **PATH)
]


def certificates(
    folder: Annotated[Path, typer.Argument(**PATH | {"metavar": "FOLDER"})],
    nodes: Annotated[int, typer.Option(min=1, help="How many nodes have a key, in all.")],
    host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="A name or address of the server; more than one is fine."
        ),
    ] = None,
    days: Annotated[int, typer.Option(min=1, help="How long they are valid.")] = 30,
) -> None:
    """Make the keys and certificates of a trial.

    FOLDER gets an authority (ca.crt, ca.key), the server's certificate (server.crt, server.key)
    and a key for each node (nodes/node-000 and node-000.pub, ...). What is there already stays.
    Give each device ca.crt and its own key; ca.key, server.key and the .pub files stay.
    """
    from fedrec.flower.certificates import AUTHORITY, NODES, make_certificates

    hosts = list(dict.fromkeys(["localhost", "127.0.0.1", *(host or [])]))
    written = make_certificates(folder, hosts, nodes, days)
    say(f"{folder}: wrote {len(written)} files; valid for {', '.join(hosts)}")
    say(f"for each device: {folder / AUTHORITY}, and its key of {folder / NODES}")


def bundle(
    config: Annotated[Path, typer.Argument(**PATH | {"metavar": "CONFIG"})],
    out: Annotated[Path, typer.Option(help="The file to write.", **PATH)],
    items: Annotated[
        Path | None,
        typer.Option(
            help="A file with a row for each item, its raw id first. Default: data.items.", **PATH
        ),
    ] = None,
    set_: SETS = None,
) -> None:
    """Make what each device carries of an experiment: the items, and how data is split.

    CONFIG is a YAML file. Its data need not be here.
    """
    from fedrec.config.experiment import load_experiment
    from fedrec.data.items import ItemFile
    from fedrec.features.bundle import items_in, write_bundle
    from fedrec.runs.devices import for_devices
    from fedrec.runs.prepare import find_config

    experiment = load_experiment(find_config(config), set_ or [])
    for_devices(experiment)
    file = getattr(experiment.data, "items", None) if items is None else ItemFile(path=items)
    if not isinstance(file, ItemFile):
        raise ConfigError("--items: is missing, and the experiment has no data.items")
    made = write_bundle(out, items_in(file), experiment.data, experiment.features, say_progress)
    write(f"{out}: {made.items.n_items:,} items, catalogue {made.catalogue.hash:.8}")


def say_progress(name: str, done: int, total: int) -> None:
    """Say when a feature is encoded."""
    if done == total:
        say(f"features.{name}: {total:,} items encoded")


def serve(
    config: Annotated[Path | None, typer.Argument(**PATH | {"metavar": "[CONFIG]"})] = None,
    bundle: Annotated[
        Path | None, typer.Option(help="What the devices carry, see fedrec bundle.", **PATH)
    ] = None,
    deployment: DEPLOYMENT = Path("deployment"),
    out: Annotated[
        Path | None,
        typer.Option(help="The run folder. Default: in runs/, by CONFIG, --set and seed.", **PATH),
    ] = None,
    host: Annotated[
        str, typer.Option(help="The address to listen at; 0.0.0.0: at all.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = PORT,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an existing run folder.")
    ] = False,
    set_: SETS = None,
    resume: Annotated[
        Path | None,
        typer.Option(help="Continue the run in this folder; give no CONFIG.", **PATH),
    ] = None,
) -> None:
    """Run an experiment on devices that have the data.

    CONFIG is a YAML file. The devices are those with a key in the deployment, see fedrec
    certificates; all take part. Each runs fedrec join. A run that breaks off goes on by itself;
    one whose server was ended, with --resume.
    """
    from fedrec.config.experiment import load_experiment
    from fedrec.flower.superlink import SuperLink
    from fedrec.runs.fleet import Device, check_fleet, prepare_fleet
    from fedrec.runs.folder import CONFIG, check_free, default_folder, is_run_folder
    from fedrec.runs.prepare import find_config
    from fedrec.runs.progress import Progress
    from fedrec.runs.reader import RunFolder
    from fedrec.runs.serve import serve

    if resume is None and (config is None or bundle is None):
        raise ConfigError("expected CONFIG and --bundle, or --resume with a run folder")
    given = {"CONFIG": config, "--bundle": bundle, "--out": out, "--set": set_}
    excluded = ", ".join(name for name, value in given.items() if value)
    if resume is not None and excluded:
        raise ConfigError(f"--resume: excludes {excluded}; the folder says what is run")
    source = (resume or Path()) / CONFIG if config is None else find_config(config)
    if resume is not None:
        RunFolder(resume)  # refuses what is no run folder
    experiment = load_experiment(source, set_ or [])
    folder = resume or out or default_folder(source, set_ or [], experiment.seed)
    folder = folder.absolute()
    chosen = None
    if bundle is not None:
        check_free(folder, overwrite)
        chosen = check_fleet(experiment, bundle)
    try:
        with Progress(experiment) as progress, SuperLink(deployment, host, port) as superlink:
            nodes = superlink.register()
            if bundle is not None and chosen is not None:
                devices = [Device(each.node, each.key) for each in nodes]
                prepare_fleet(chosen, bundle, folder, devices, overwrite)
            say(f"listening at {host}:{port} for {len(nodes)} devices; run folder {folder}")
            serve(superlink, folder, progress)
    except KeyboardInterrupt:
        begun = is_run_folder(folder)
        say(f"stopped; continue: fedrec serve --resume {folder}" if begun else "stopped")
        raise typer.Abort from None
    from fedrec.cli.scores import result_table

    print_table(result_table(RunFolder(folder).result, folder))


def join(
    data: Annotated[Path, typer.Option(help="The file of this device's users.", **PATH)],
    server: Annotated[str, typer.Option(metavar="HOST:PORT", help="Where fedrec serve listens.")],
    ca: Annotated[Path, typer.Option(help="Who has signed the server's certificate.", **PATH)],
    key: Annotated[Path, typer.Option(help="The private key of this device.", **PATH)],
    bundle: Annotated[Path, typer.Option(help="What the device carries of the run.", **PATH)],
    state: Annotated[
        Path, typer.Option(help="The folder of private state; keep it between runs.", **PATH)
    ],
    set_: SETS = None,
) -> None:
    """Let this device take part in runs with the data of its own users.

    The data is csv, Parquet, SQLite or .inter, by its ending; --set data.columns.user=... says
    what it holds. It stays here, as does what the device learns for its users. Ends at Ctrl-C.
    """
    from fedrec.config.yaml import with_overrides
    from fedrec.data.device import reader_of
    from fedrec.flower.supernode import SuperNode
    from fedrec.runs.folder import OWN_FILE
    from fedrec.runs.own_file import OwnFile

    section = with_overrides({"data": reader_of(data)}, set_ or [])["data"]
    own = OwnFile.of(section, bundle)
    split = own.split()  # what is wrong with it is said now
    own_file = state / OWN_FILE
    own.write(own_file)
    supernode = SuperNode(server, ca, key, own_file, state)
    say(
        f"{data}: {split.n_users} users, {len(split.train.values)} train interactions; joining "
        f"{server}, log {supernode.log}"
    )
    try:
        supernode.run(say)
    except KeyboardInterrupt:
        say(f"left {server}; the state stays in {state}")
        raise typer.Abort from None
