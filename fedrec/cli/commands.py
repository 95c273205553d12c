"""The command ``fedrec``. Everything it does can be called from Python too.

Flower, Ray and torch are imported within the commands, so that help and version come at once.
"""

from __future__ import annotations

import logging
import re
import signal
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import typer

import fedrec
from fedrec.cli import device_commands
from fedrec.cli.data_commands import SETS, data_app
from fedrec.cli.output import Stream, console, open_streams, print_table, say, write
from fedrec.errors import ConfigError, FedRecError, MissingExtra

if TYPE_CHECKING:
    from fedrec.runs.result import RunResult

SIMULATION = {"jinja2", "matplotlib", "numba", "pandas", "pyarrow", "ray", "scipy"}
SEEDS = re.compile(r"(\d+)(?:-(\d+))?")
MAX_SEEDS = 1000
INTERRUPTED = 130

# The base of all that is wrong with options and arguments; typer passes on one of its leaves.
CLICK_EXCEPTION: type[Exception] = typer.BadParameter.__mro__[2]


def main() -> None:
    """Run the command line.

    What the user can mend is one line on stderr for each fault, and exit code 2.
    """
    open_streams()
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        code = app(_repeat_seeds(sys.argv[1:]), standalone_mode=False)
        sys.stdout.flush()
        if isinstance(sys.stdout, Stream) and sys.stdout.error is not None:
            _fail(f"standard output cannot be written: {sys.stdout.error.strerror}")
        if code == INTERRUPTED:  # typer's word for Ctrl-C
            say("stopped")
        sys.exit(code)
    except FedRecError as error:
        _fail(*map(str, getattr(error, "faults", [error])))
    except CLICK_EXCEPTION as error:
        _fail(_usage(error))
    except typer.Abort:
        sys.exit(INTERRUPTED)
    except OSError as error:
        if error.filename is None:
            raise
        _fail(f"{error.filename}: {error.strerror}")
    except MemoryError as error:
        _fail(f"out of memory ({error}); use less data, a smaller model or smaller chunks")
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in SIMULATION:
            raise
        _fail(str(MissingExtra(package, "sim")))
    except Exception as error:
        from fedrec.config.sources import place_in_plugin

        place = place_in_plugin(error)
        if place is None:
            raise
        _fail(f"{place}: {type(error).__name__}: {error}")


def _interrupt(*_: object) -> NoReturn:
    """End at SIGTERM as at Ctrl-C, which a process in the background may ignore."""
    raise KeyboardInterrupt


def _fail(*messages: str) -> None:
    for message in messages:
        say("error: " + " ".join(message.split()))
    sys.exit(2)


def _usage(error: Any) -> str:
    """Return what click says of options and arguments, each sentence once, in our manner."""
    message = error.format_message()
    if not message:  # no command was given, and the help was shown
        sys.exit(0)
    message = " ".join(dict.fromkeys(re.split(r"(?<=[.?]) ", message))).rstrip(".")
    advice = f"; see {error.ctx.command_path} --help" if getattr(error, "ctx", None) else ""
    return message[:1].lower() + message[1:] + advice


def _repeat_seeds(arguments: Sequence[str]) -> list[str]:
    """Let ``--seed 0 1 2`` mean ``--seed 0 --seed 1 --seed 2``."""
    repeated: list[str] = []
    for argument in chain.from_iterable(re.split(r"(?<=^--seed)=", a) for a in arguments):
        follows = repeated[-2:-1] == ["--seed"] and SEEDS.fullmatch(repeated[-1])
        repeated += ["--seed", argument] if follows and SEEDS.fullmatch(argument) else [argument]
    return repeated


def _seeds(texts: Sequence[str]) -> list[int]:
    """Return the seeds of ``--seed``: numbers, and ranges such as 0-4."""
    seeds: list[int] = []
    for text in texts:
        match = SEEDS.fullmatch(text)
        several = range(int(match[1]), int(match[2] or match[1]) + 1) if match else range(0)
        if not 1 <= len(several) <= MAX_SEEDS:
            raise ConfigError(
                f"--seed: expected a number from 0, or a range such as 0-4 of at most {MAX_SEEDS}, "
                f"got '{text}'"
            )
        seeds += several
    return seeds


def _expand(text: str) -> Path:
    """Return the path that the user wrote, with ``~`` expanded."""
    from fedrec.plugins import expand_path

    return expand_path(text)


PATH: dict[str, Any] = {"parser": _expand, "metavar": "PATH"}
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True)
app.add_typer(data_app, name="data")


def _version(asked: bool) -> None:
    if asked:
        write(f"fedrec {fedrec.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Simulate, benchmark and deploy federated recommenders."""


@app.command("run")
def _run(
    config: Annotated[Path | None, typer.Argument(**PATH | {"metavar": "[CONFIG]"})] = None,
    engine: Annotated[
        Literal["auto", "serial", "ray", "flower"] | None,
        typer.Option(
            metavar="NAME",
            help="auto, serial, ray or flower: where the clients run; the result is the same.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="The run folder. Default: in runs/, by CONFIG, --set and seed.", **PATH),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an existing run folder.")
    ] = False,
    seed: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SEED...", help="One or more seeds, such as 0 1 2 or 0-4: a run for each."
        ),
    ] = None,
    set_: SETS = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing but errors.")] = False,
    resume: Annotated[
        Path | None,
        typer.Option(help="Continue the run in this folder; give no CONFIG.", **PATH),
    ] = None,
    accept_other_code: Annotated[
        bool, typer.Option("--accept-other-code", help="Resume although fedrec's code changed.")
    ] = False,
) -> None:
    """Run an experiment, or continue a run.

    CONFIG is a YAML file, such as experiments/ml-100k/plgc-mf.yaml.
    """
    given = {"CONFIG": config, "--out": out, "--overwrite": overwrite, "--seed": seed}
    excluded = ", ".join(name for name, value in given.items() if value)
    if resume is not None and excluded:
        raise ConfigError(f"--resume: excludes {excluded}; the folder says what is run")
    if resume is None and config is None:
        raise ConfigError(
            "missing argument 'CONFIG', or --resume with a run folder; see fedrec run --help"
        )
    if resume is None and accept_other_code:
        raise ConfigError("--accept-other-code: expected --resume with it")
    sets = [*(set_ or []), *([f"engine.name={engine}"] if engine else [])]
    seeds = _seeds(seed or [])

    from fedrec.config.yaml import read_document, with_overrides
    from fedrec.flower.processes import check_packages, start_ahead

    check_packages()  # reading an experiment imports plug-ins from them
    if config is not None and config.is_file():
        start_ahead(with_overrides(read_document(config), sets))

    from fedrec.runs.prepare import find_config
    from fedrec.runs.progress import Progress
    from fedrec.runs.run import planned, resume_all, run_all

    display = partial(Progress, level=logging.ERROR if quiet else logging.INFO)
    if resume is not None:
        _follow(resume_all(resume, sets, accept_other_code, display), resume, quiet)
    elif config is not None:
        folders = planned(find_config(config), sets, seeds, out, len(seeds) > 1)
        first = next(iter(folders))
        base = first.parent if len(seeds) > 1 else first
        _follow(run_all(folders, overwrite, display), base, quiet)


def _follow(runs: Iterator[RunResult], folder: Path, quiet: bool) -> None:
    """Show the scores of runs as they end, and say how those that are stopped can continue."""
    from fedrec.cli.scores import result_table, summarize, summary_table
    from fedrec.runs.folder import SEEDS, is_run_folder
    from fedrec.storage.files import write_json

    finished: dict[Path, dict[str, Any]] = {}
    try:
        for run in runs:
            place = folder if is_run_folder(folder) else folder / run.folder.name
            finished[place] = run.result
            if not quiet:
                print_table(result_table(run.result, place))
    except KeyboardInterrupt:
        begun = is_run_folder(folder) or (folder / SEEDS).exists()
        say(
            f"stopped; continue: fedrec run --resume {folder}; see its rounds: "
            f"fedrec report {folder}"
            if begun
            else "stopped before the first round"
        )
        raise typer.Abort from None
    if folder not in finished:
        summary = summarize(list(finished.values()), list(finished))
        write_json(folder / "summary.json", summary)
        if not quiet:
            print_table(summary_table(summary, folder))


@app.command("report")
def _report(
    runs: Annotated[list[Path], typer.Argument(**PATH | {"metavar": "RUNS..."})],
    out: Annotated[
        Path | None,
        typer.Option(
            help="Write a self-contained page (.html, or a folder), tables (.md, .tex) or numbers "
            "(.csv); - shows the tables here.",
            **PATH,
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

    if out is not None and str(out) != "-":
        say(f"wrote {report.build(runs, out, baseline)}")
    elif not markdown:
        report.terminal(runs, console(), baseline)
    if markdown:
        write(report.markdown(runs, baseline))


@app.command("recommend")
def _recommend(
    run: Annotated[Path, typer.Argument(**PATH | {"metavar": "RUN"})],
    user: Annotated[str, typer.Option(help="The user's id in the data.")],
    k: Annotated[int, typer.Option(min=1, help="Number of items.")] = 10,
) -> None:
    """Recommend items to a user.

    RUN is a run folder, or on a device the folder of its state, see fedrec join: it needs no
    server then. The model ranks the items that the user has not interacted with.
    """
    from rich.table import Table
    from rich.text import Text

    from fedrec.runs.device_run import DeviceRun, is_device

    if is_device(run):
        ranked = DeviceRun(run).recommend(user, k)
    else:
        from fedrec.runs.result import load

        ranked = load(run).recommend(user, k)
    table = Table("rank", "item", "", "score", title=Text(f"for user {user}"), box=None)
    for rank, each in enumerate(ranked, start=1):
        table.add_row(str(rank), Text(each.item), Text(each.title or ""), f"{each.score:.4f}")
    print_table(table)


for _command in ("certificates", "bundle", "serve", "join"):
    app.command(_command)(getattr(device_commands, _command))


@app.command("check")
def _check(
    plugin: Annotated[str, typer.Argument(metavar="PLUGIN")],
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="One of the plug-in's settings."),
    ] = None,
) -> None:
    """Check that a plug-in keeps what fedrec relies on, such as equal results in any chunks.

    PLUGIN is module:Class, file.py:Class or a name such as mf: a model, personalization, strategy,
    part of a strategy, data set, metric or baseline. Where several tables have a name, the table
    can be said: aggregations/median. Exits with 1 if a check failed.
    """
    from fedrec.testing import check, load_plugin

    failed = False
    for verdict, contract, why in check(load_plugin(plugin, set_ or [])):
        write(f"{verdict:<15} {contract}" + f": {why}" * bool(why))
        failed = failed or verdict == "failed"
    raise typer.Exit(int(failed))


@app.command("doctor")
def _doctor() -> None:
    """Check this machine and this installation.

    Exits with 2 if a run could not start.
    """
    from fedrec.cli import doctor

    findings = doctor.examine()
    print_table(doctor.table(findings))
    if any(each.stops for each in findings):
        raise typer.Exit(2)
