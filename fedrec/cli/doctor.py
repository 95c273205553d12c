"""``fedrec doctor``: what of this machine and this installation fits, and the way out if not."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from rich.markup import escape
from rich.table import Table

from fedrec.errors import EngineError, FedRecError, install_command
from fedrec.flower.packages import check_packages
from fedrec.runs.provenance import hardware
from fedrec.storage.cache import cache_folder

__all__ = ["Finding", "examine", "table"]

GIB = 2**30
CORE = ("numpy", "torch", "flwr", "pydantic", "safetensors")
SIMULATION = ("ray", "pandas", "pyarrow", "scipy", "numba", "matplotlib", "jinja2")
TELEMETRY = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Args:
        what: What it is.
        state: ``ok``, ``warn`` or ``missing``.
        found: What was found.
        advice: What to do where it is not ok, or "".
        stops: Whether no run can start like this.
    """

    what: str
    state: Literal["ok", "warn", "missing"]
    found: str
    advice: str = ""
    stops: bool = False


def examine() -> tuple[Finding, ...]:
    """Check everything. Changes nothing, except for a temporary file in the cache."""
    return (
        _version("fedrec"),
        _python(),
        *(_version(name) for name in CORE),
        *(_version(name, extra="sim") for name in SIMULATION),
        *_machine(),
        _gpu(),
        *_cache(),
        _data(),
        _packages(),
        _telemetry(),
    )


def table(findings: Sequence[Finding]) -> Table:
    """Return the findings as a table for a terminal."""
    drawn = Table(box=None)
    for heading in ("", "what", "found", "what to do"):
        drawn.add_column(heading, overflow="fold")
    style = {"ok": "green", "warn": "yellow", "missing": "red"}
    for each in findings:
        state = f"[{style[each.state]}]{each.state}[/]"
        drawn.add_row(state, each.what, escape(each.found), escape(each.advice))
    return drawn


def _version(name: str, extra: str = "") -> Finding:
    try:
        return Finding(name, "ok", metadata.version(name))
    except metadata.PackageNotFoundError:
        advice = install_command(extra) if extra else f"pip install {name}"
        return Finding(name, "missing", "not installed", advice, stops=not extra)


def _python() -> Finding:
    return Finding("python", "ok", f"{sys.version.split()[0]} at {sys.executable}")


def _machine() -> list[Finding]:
    about = hardware()
    memory = about.get("memory_gib")
    findings = [
        Finding("system", "ok", f"{about['system']}, {about['cpu']}"),
        Finding("cores", "ok", f"{about['cores']}: as many workers by default"),
    ]
    if isinstance(memory, float) and memory < 3:
        advice = "a Ray worker takes 0.3 GiB: --set engine.workers=1"
        findings.append(Finding("memory", "warn", f"{memory} GiB", advice))
    elif memory is not None:
        findings.append(Finding("memory", "ok", f"{memory} GiB"))
    return findings


def _gpu() -> Finding:
    try:
        import torch
    except ImportError:
        return Finding("gpu", "missing", "torch is not installed", "pip install torch")
    if not torch.cuda.is_available():
        return Finding("gpu", "ok", "none: fedrec runs on the CPU")
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return Finding("gpu", "ok", ", ".join(names))


def _cache() -> list[Finding]:
    try:
        folder = cache_folder()
    except FedRecError as error:
        fault, _, advice = str(error).partition("; ")
        return [Finding("cache", "missing", fault, advice, stops=True)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        advice = "set FEDREC_CACHE to a folder that can be written"
        return [Finding("cache", "missing", f"{folder}: {error.strerror}", advice, stops=True)]
    free = shutil.disk_usage(folder).free / GIB
    advice = "set FEDREC_CACHE to another disk" if free < 1 else ""
    return [
        Finding("cache", "ok", f"{folder} can be written"),
        Finding("disk", "warn" if advice else "ok", f"{free:.1f} GiB free", advice),
    ]


def _data() -> Finding:
    given = os.environ.get("FEDREC_DATA")
    if given is None:
        return Finding("data", "ok", "FEDREC_DATA is not set: data is fetched when first used")
    if not Path(given).is_dir():
        advice = "point FEDREC_DATA at a folder, or unset it"
        return Finding("data", "missing", f"FEDREC_DATA: no folder {given}", advice)
    names = sorted(each.name for each in Path(given).iterdir() if each.is_dir())
    return Finding("data", "ok", f"{given}: {', '.join(names) or 'empty'}")


def _packages() -> Finding:
    try:
        check_packages()
    except EngineError as error:
        advice = "rename what shadows it, or start fedrec from another folder"
        return Finding("packages", "missing", str(error), advice, stops=True)
    return Finding("packages", "ok", "clients, server and strategies lie beside fedrec")


def _telemetry() -> Finding:
    """Off by default; the user may have turned it on."""
    on = [f"{key}={os.environ[key]}" for key, off in TELEMETRY.items() if _differs(key, off)]
    if on:
        return Finding("telemetry", "warn", "on: " + ", ".join(on), "unset it to turn it off")
    return Finding("telemetry", "ok", "off: Flower's and Ray's reports and update checks")


def _differs(key: str, off: str) -> bool:
    return os.environ.get(key, off) != off
