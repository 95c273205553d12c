"""The commands ``fedrec data``."""

from typing import Annotated

import typer

from fedrec.cli.output import say, write
from fedrec.errors import ConfigError, DataError, did_you_mean

SETS = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a setting by its dotted key."),
]
data_app = typer.Typer(help="List, fetch and check data sets.", no_args_is_help=True)


@data_app.command("list")
def _data_list() -> None:
    """List the data sets that can be fetched."""
    from fedrec.data import fetch

    for name, remote in fetch.CATALOGUE.items():
        folder = fetch.find(name)
        where = f"in {folder}" if folder else f"not fetched: fedrec data get {name}"
        write(f"{name}  {remote.about}  ({where})")


@data_app.command("get")
def _data_get(name: str) -> None:
    """Fetch a data set into the cache folder.

    NAME is one that fedrec data list shows, such as ml-100k.
    """
    from fedrec.data import fetch

    write(str(fetch.get(name, say)))


@data_app.command("check")
def _data_check(name: str, set_: SETS = None) -> None:
    """Check a fetched data set, or the data of an experiment with its filters and split.

    NAME is one that fedrec data list shows, such as ml-100k, a YAML file, or a file of
    interactions: --set data.columns.user=... says what it holds. Each problem is shown in a line
    of its own.
    """
    from fedrec.config.experiment import load_experiment
    from fedrec.data import fetch
    from fedrec.data.base import DataProblems
    from fedrec.data.device import reader_of
    from fedrec.data.prepare import split_of
    from fedrec.data.textfile import unpacked_name
    from fedrec.plugins import expand_path

    path = expand_path(name)
    if name in fetch.CATALOGUE and not path.is_file():
        if set_:
            raise ConfigError(f"--set needs a file, got {name}")
        write(str(fetch.check(name)))
        return
    ending = unpacked_name(path).suffix.lower()
    if ending not in (".yaml", ".yml") and not path.exists():
        hint = did_you_mean(name, fetch.CATALOGUE)
        raise DataError(f"'{name}' is no file, and no data set that can be fetched{hint}")
    source = path if ending in (".yaml", ".yml") else {"data": reader_of(path)}
    experiment = load_experiment(source, set_ or [])
    try:
        split_of(experiment.data, experiment.clients)
    except DataProblems as problems:
        if len(problems.lines) == 1:
            raise
        for line in problems.lines:
            say(line)
        raise DataError(f"{name}: the data has {len(problems.lines)} problems") from problems
    write(f"{fetch.summary(experiment.data.load())}: sound")
    unread = experiment.data.unread()
    if unread:
        write(
            f"columns that are not read: {', '.join(unread)}; data.columns.rating and "
            "data.columns.timestamp name those of ratings and times, as in "
            f"--set data.columns.rating={unread[0]}"
        )
