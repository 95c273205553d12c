"""The command ``fedrec``: a thin front door, everything it does can be called from Python too.

Flower, Ray and torch are imported within the commands, so that help and version come at once.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
import typer.core

from fedrec.errors import ConfigError, DataError, FedRecError, MissingExtra, RunFolderError

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["app", "main"]

WIDTH_OF_A_FILE = 200
EXTRA_OF = {
    "jinja2": "sim",
    "matplotlib": "sim",
    "numba": "sim",
    "pandas": "sim",
    "pyarrow": "sim",
    "ray": "sim",
    "scipy": "sim",
}

# The base of all that is wrong with options and arguments; typer passes on one of its leaves.
CLICK_EXCEPTION: type[Exception] = typer.BadParameter.__mro__[2]

app = typer.Typer(
    help="Simulate, benchmark and deploy federated recommenders.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
data_app = typer.Typer(help="Data sets: list them, fetch one, check one.")
app.add_typer(data_app, name="data")


def main() -> None:
    """Run the command line; an error of the user's is one line on stderr and exit code 2."""
    try:
        sys.exit(app(standalone_mode=False))
    except FedRecError as error:
        _fail(str(error))
    except CLICK_EXCEPTION as error:
        _fail(_usage(error))
    except OSError as error:
        if error.filename is None:
            raise
        _fail(f"{error.filename}: {error.strerror}")
    except ModuleNotFoundError as error:
        part = (error.name or "").partition(".")[0]
        if part not in EXTRA_OF:
            raise
        _fail(str(MissingExtra(part, EXTRA_OF[part])))


def _fail(message: str) -> None:
    typer.echo("error: " + " ".join(message.split()), err=True)
    sys.exit(2)


def _usage(error: Any) -> str:
    """What click has to say of options and arguments, each sentence once, in our manner."""
    sentences = dict.fromkeys(re.split(r"(?<=[.?]) ", error.format_message()))
    message = " ".join(sentences).rstrip(".")
    way_out = f"; see {error.ctx.command_path} --help" if getattr(error, "ctx", None) else ""
    return message[:1].lower() + message[1:] + way_out


class _Plain(typer.core.TyperCommand):
    """A command whose help is plain text; typer escapes brackets for a renderer not in use."""

    def get_help(self, ctx: Any) -> str:
        return super().get_help(ctx).replace("\\[", "[")


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"fedrec {metadata.version('fedrec')}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _options(
    ctx: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Simulate, benchmark and deploy federated recommenders."""
    _help_alone(ctx)


@data_app.callback(invoke_without_command=True)
def _data(ctx: typer.Context) -> None:
    """Data sets: list them, fetch one, check one."""
    _help_alone(ctx)


def _help_alone(ctx: typer.Context) -> None:
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help())


@app.command("run", cls=_Plain)
def _run(
    config: Annotated[Path | None, typer.Argument(help="The experiment, a YAML file.")] = None,
    engine: Annotated[
        Literal["auto", "serial", "ray", "flower"] | None,
        typer.Option(help="What runs it; no choice changes the result."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The run folder. Default: runs/CONFIG-seedN.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a run folder that exists.")
    ] = False,
    seed: Annotated[
        list[int] | None, typer.Option(help="The seed; several: one run each, and a summary.")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Override a setting: dotted.key=value.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Say nothing but errors.")] = False,
    resume: Annotated[
        Path | None,
        typer.Option(help="Continue the run in this folder; without CONFIG, which it holds."),
    ] = None,
    accept_other_code: Annotated[
        bool, typer.Option("--accept-other-code", help="Resume although fedrec's code changed.")
    ] = False,
) -> None:
    """Run an experiment, or continue a run.

    CONFIG is its YAML file, such as experiments/ml-100k/plgc-mf.yaml.
    """
    sets = [*(set_ or []), *([f"engine.name={engine}"] if engine else [])]
    if resume is not None:
        given = {"CONFIG": config, "--out": out, "--overwrite": overwrite, "--seed": seed}
        named = ", ".join(name for name, value in given.items() if value)
        if named:
            raise ConfigError(f"--resume: excludes {named}; the folder says what is run")
        _resume(resume, sets, accept_other_code, quiet)
        return
    if config is None:
        raise ConfigError(
            "missing argument 'CONFIG', or --resume with a run folder; see fedrec run --help"
        )
    if accept_other_code:
        raise ConfigError("--accept-other-code: expected --resume with it")
    _start(config, sets, out, overwrite, seed, quiet)


def _start(
    config: Path,
    sets: list[str],
    out: Path | None,
    overwrite: bool,
    seed: list[int] | None,
    quiet: bool,
) -> None:
    from fedrec.cli.progress import Progress
    from fedrec.config.experiment import load_experiment
    from fedrec.runs.folder import check_free, is_run_folder
    from fedrec.runs.run import find_config, run
    from fedrec.runs.summary import result_table, summarize, summary_table

    path = find_config(config)
    each = [[*sets, f"seed={number}"] for number in seed or []] or [sets]
    experiments = [load_experiment(path, one) for one in each]
    seeds = [experiment.seed for experiment in experiments]
    if len(set(seeds)) < len(seeds):
        raise ConfigError(f"--seed: got {seeds}, expected each seed once")
    several = len(seeds) > 1
    base = out or Path("runs") / (config.stem if several else f"{config.stem}-seed{seeds[0]}")
    folders = [base / f"seed{number}" if several else base for number in seeds]
    if several and is_run_folder(base):
        raise RunFolderError(
            f"{base}: holds a run; several seeds need a folder of their own, choose another --out"
        )
    for folder in folders:  # all, before the first run starts
        check_free(folder, overwrite)

    results = []
    for experiment, folder in zip(experiments, folders, strict=True):
        try:
            with _heard(quiet), Progress(experiment, quiet=quiet) as progress:
                progress.say(f"{folder}: seed {experiment.seed}")
                done = run(
                    experiment,
                    out=folder,
                    overwrite=overwrite,
                    on_round=progress.show,
                    say=progress.say,
                )
        except KeyboardInterrupt:
            _say(_stopped(folder))
            raise typer.Exit(130) from None
        results.append(done.result)
        if not quiet:
            _print(result_table(done.result, folder))
    if several:
        summary = summarize(results, folders, base / "summary.json")
        if not quiet:
            _print(summary_table(summary, base))


def _resume(folder: Path, sets: list[str], accept_other_code: bool, quiet: bool) -> None:
    from fedrec.cli.progress import Progress
    from fedrec.runs.reader import RunFolder
    from fedrec.runs.resume import experiment_of, prepare_resume
    from fedrec.runs.run import carry_out
    from fedrec.runs.summary import result_table

    experiment = experiment_of(folder, sets)
    try:
        with _heard(quiet), Progress(experiment, quiet=quiet) as progress:
            prepared = prepare_resume(
                folder, sets, accept_other_code=accept_other_code, say=progress.say
            )
            if prepared is not None:
                carry_out(prepared, progress.show)
    except KeyboardInterrupt:
        _say(_stopped(folder))
        raise typer.Exit(130) from None
    if not quiet:
        _print(result_table(RunFolder(folder).result(), folder))


@app.command("report", cls=_Plain)
def _report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, or folders of them.")],
    out: Annotated[
        Path | None,
        typer.Option(
            help="Write a self-contained page (.html, or a folder), tables (.md, .tex) or numbers "
            "(.csv); - shows the tables here."
        ),
    ] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print tables in Markdown.")] = False,
    baseline: Annotated[
        str | None,
        typer.Option(
            help="What the others are compared with: its label or run folder. "
            "Default: the best without personalization."
        ),
    ] = None,
) -> None:
    """Show and compare runs.

    RUNS are run folders, or folders that hold some.
    """
    from fedrec import report

    to_file = out is not None and str(out) != "-"
    if out is not None and to_file:
        _say(f"wrote {report.build(runs, out, baseline)}")
    if markdown:
        typer.echo(report.markdown(runs, baseline))
    elif not to_file:
        report.terminal(runs, _console(), baseline)


@app.command("recommend", cls=_Plain)
def _recommend(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    user: Annotated[str, typer.Option(help="The user, by the id that the data gives it.")],
    k: Annotated[int, typer.Option(min=1, help="How many items.")] = 10,
) -> None:
    """Recommend items to a user.

    Those with the highest score that it has not yet met, by the run in the folder RUN.
    """
    from rich.markup import escape
    from rich.table import Table

    from fedrec.runs.result import load

    found = load(run).recommend(user, k)
    table = Table(title=escape(f"for user {user}"), box=None, title_justify="left")
    titled = any(each.title for each in found)
    for heading in ("rank", "item", *(["title"] if titled else []), "score"):
        table.add_column(heading, justify="left" if heading == "title" else "right")
    for rank, each in enumerate(found, start=1):
        title = [escape(each.title or "")] if titled else []
        table.add_row(str(rank), escape(each.item), *title, f"{each.score:.4f}")
    _print(table)


@app.command("doctor")
def _doctor() -> None:
    """Look over this machine and this installation.

    Exits with 2 if a run could not start.
    """
    from fedrec.cli import doctor

    findings = doctor.examine()
    _print(doctor.table(findings))
    if any(each.stops for each in findings):
        raise typer.Exit(2)


@data_app.command("list")
def _data_list() -> None:
    """List the data sets that can be fetched."""
    from fedrec.data import fetch

    for name, about, folder in fetch.catalogue():
        where = f"in {folder}" if folder else f"not here yet: fedrec data get {name}"
        typer.echo(f"{name}  {about}  ({where})")


@data_app.command("get", cls=_Plain)
def _data_get(name: Annotated[str, typer.Argument(help="Such as ml-100k.")]) -> None:
    """Fetch a data set into the cache folder.

    NAME is one that fedrec data list shows, such as ml-100k.
    """
    from fedrec.data import fetch

    typer.echo(str(fetch.get(name, _say)))


@data_app.command("check", cls=_Plain)
def _data_check(
    name: Annotated[str, typer.Argument(help="Such as ml-100k, or an experiment's YAML file.")],
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Override a setting: dotted.key=value.")
    ] = None,
) -> None:
    """Check a data set that was fetched, or the data of an experiment with its filters and split.

    NAME is one that fedrec data list shows, such as ml-100k, or a YAML file. Each problem is shown
    in a line of its own.
    """
    from fedrec.config.experiment import load_experiment
    from fedrec.data import fetch
    from fedrec.data.prepare import split_of
    from fedrec.data.problems import DataProblems

    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        if set_:
            raise ConfigError(f"--set needs the YAML file of an experiment, got {name}")
        typer.echo(str(fetch.check(name)))
        return
    experiment = load_experiment(path, set_ or [])
    try:
        split_of(experiment.data, experiment.clients)
    except DataProblems as problems:
        if len(problems.lines) == 1:
            raise
        for line in problems.lines:
            _say(line)
        raise DataError(f"{name}: the data has {len(problems.lines)} problems") from problems
    typer.echo(f"{fetch.summary(experiment.data.load())}: sound")


class _Spoken(logging.Handler):
    """Says what the library logs; through `_say`, which a running bar can move aside."""

    def emit(self, record: logging.LogRecord) -> None:
        _say(self.format(record))


@contextmanager
def _heard(quiet: bool) -> Iterator[None]:
    """While it lasts, what the library logs is said."""
    logger, spoken = logging.getLogger("fedrec"), _Spoken()
    level = logger.level
    if not quiet:
        logger.addHandler(spoken)
        logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(spoken)
        logger.setLevel(level)


def _say(text: str) -> None:
    typer.echo(text, err=True)


def _stopped(folder: Path) -> str:
    from fedrec.runs.folder import is_run_folder

    if is_run_folder(folder):
        return (
            f"stopped; continue: fedrec run --resume {folder}; the rounds so far are readable: "
            f"fedrec report {folder}"
        )
    return "stopped before the first round"


def _console() -> Console:
    from rich.console import Console

    narrow = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(width=None if narrow else WIDTH_OF_A_FILE)


def _print(*tables: object) -> None:
    console = _console()
    for table in tables:
        console.print(table)
