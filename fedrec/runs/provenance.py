"""Where a result comes from: versions, commit and hardware."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from fedrec.flower.launch import cores

__all__ = ["commit", "hardware", "versions"]

DISTRIBUTIONS = ("fedrec", "flwr", "ray", "torch", "numpy", "numba", "scipy", "pandas", "pydantic")
ROOMS = ("fedrec", "clients", "server", "strategies")
ROOT = Path(__file__).resolve().parent.parent


def versions() -> dict[str, str]:
    """Versions of Python and of the installed packages that decide a result, by name."""
    found = {"python": platform.python_version()}
    for name in DISTRIBUTIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def commit(root: Path = ROOT) -> str | None:
    """The git commit of the checkout that fedrec runs from.

    Args:
        root: The folder that holds the package.

    Returns:
        40 hex digits, with ``+dirty`` where the code differs from it; None where fedrec does not
        lie at the top of a git checkout (an installed package inside someone's repository does
        not).
    """
    top = _git(root, "rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != root.resolve():
        return None
    head = _git(root, "rev-parse", "--verify", "HEAD")
    if not head:
        return None
    changed = _git(root, "status", "--porcelain", "--", *ROOMS)
    return f"{head}+dirty" if changed else head


def _git(root: Path, *arguments: str) -> str | None:
    command = ("git", "-C", str(root), *arguments)
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=20, env=environment, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def hardware() -> dict[str, str | int | float]:
    """The machine: ``cpu``, ``cores`` that this process may use, ``memory_gib``, ``system``."""
    found: dict[str, str | int | float] = {
        "cpu": _cpu(),
        "cores": cores(),
        "system": f"{platform.system()} {platform.machine()}",
    }
    memory = _memory_gib()
    if memory is not None:
        found["memory_gib"] = memory
    return found


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            if key.strip() in ("model name", "Model", "cpu model"):
                return value.strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, OSError, ValueError):
        return None
