"""``fedrec doctor``: what of this machine and this installation fits, and the way out if not."""

import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Literal, NamedTuple

from rich.markup import escape
from rich.table import Table

from fedrec.errors import EngineError, FedRecError, install_command
from fedrec.flower.processes import check_packages
from fedrec.runs.provenance import hardware
from fedrec.storage.files import cache_folder

GIB = 2**30
CORE = ("fedrec", "numpy", "torch", "flwr", "pydantic", "safetensors")
SIMULATION = ("ray", "pandas", "pyarrow", "scipy", "numba", "matplotlib", "jinja2")
TELEMETRY_OFF = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}
COLOURS = {"ok": "green", "warn": "yellow", "missing": "red"}


class Finding(NamedTuple):
    """One thing that was looked at.

    Args:
        what: What it is.
        state: ``ok``, ``warn`` or ``missing``.
        text: What is there.
        advice: What to do where it is not ok, or "".
        stops: Whether no run can start like this.
    """

    what: str
    state: Literal["ok", "warn", "missing"]
    text: str
    advice: str = ""
    stops: bool = False


def examine() -> list[Finding]:
    """Check everything. Changes nothing, except for a temporary file in the cache."""
    return [*_installation(), *_machine(), *_folders()]


def table(findings: Iterable[Finding]) -> Table:
    """Return the findings as a table for a terminal."""
    drawn = Table("", "what", "found", "what to do", box=None)
    for column in drawn.columns:
        column.overflow = "fold"
    for what, state, text, advice, _ in findings:
        drawn.add_row(f"[{COLOURS[state]}]{state}[/]", what, escape(text), escape(advice))
    return drawn


def _installation() -> Iterator[Finding]:
    yield Finding("python", "ok", f"{sys.version.split()[0]} at {sys.executable}")
    for name in (*CORE, *SIMULATION):
        try:
            yield Finding(name, "ok", metadata.version(name))
        except metadata.PackageNotFoundError:
            core = name in CORE
            advice = f"pip install {name}" if core else install_command("sim")
            yield Finding(name, "missing", "not installed", advice, stops=core)
    try:
        check_packages()
        yield Finding("packages", "ok", "clients, server and strategies lie beside fedrec")
    except EngineError as error:
        advice = "rename what shadows it, or start fedrec from another folder"
        yield Finding("packages", "missing", str(error), advice, stops=True)
    # What is off by default, and the user may have turned on.
    values = {key: os.environ.get(key, off) for key, off in TELEMETRY_OFF.items()}
    on = [f"{key}={value}" for key, value in values.items() if value != TELEMETRY_OFF[key]]
    yield _judged(
        "telemetry",
        f"on: {', '.join(on)}" if on else "off: Flower's and Ray's reports and update checks",
        "unset it to turn it off" if on else "",
    )


def _judged(what: str, text: str, advice: str) -> Finding:
    """Return a finding that is a warning where there is advice."""
    return Finding(what, "warn" if advice else "ok", text, advice)


def _machine() -> Iterator[Finding]:
    about = hardware()
    yield Finding("system", "ok", f"{about['system']}, {about['cpu']}")
    yield Finding("cores", "ok", f"{about['cores']}: as many workers by default")
    little = float(about["memory_gib"]) < 3
    advice = "a Ray worker takes 0.3 GiB: --set engine.workers=1" if little else ""
    yield _judged("memory", f"{about['memory_gib']} GiB", advice)
    try:
        import torch

        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        yield Finding("gpu", "ok", ", ".join(names) or "none: fedrec runs on the CPU")
    except ImportError:
        yield Finding("gpu", "missing", "torch is not installed", "pip install torch")


def _folders() -> Iterator[Finding]:
    try:
        folder = cache_folder()
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            yield Finding("cache", "ok", f"{folder} can be written")
        free = shutil.disk_usage(folder).free / GIB
        advice = "set FEDREC_CACHE to another disk" if free < 1 else ""
        yield _judged("disk", f"{free:.1f} GiB free", advice)
    except FedRecError as error:
        fault, _, advice = str(error).partition("; ")
        yield Finding("cache", "missing", fault, advice, stops=True)
    except OSError as error:
        advice = "set FEDREC_CACHE to a folder that can be written"
        yield Finding("cache", "missing", f"{folder}: {error.strerror}", advice, stops=True)
    data = os.environ.get("FEDREC_DATA")
    if data is None:
        yield Finding("data", "ok", "FEDREC_DATA is not set: data is fetched when first used")
    elif Path(data).is_dir():
        names = sorted(each.name for each in Path(data).iterdir() if each.is_dir())
        yield Finding("data", "ok", f"{data}: {', '.join(names) or 'empty'}")
    else:
        advice = "point FEDREC_DATA at a folder, or unset it"
        yield Finding("data", "missing", f"FEDREC_DATA: no folder {data}", advice)
