"""Where a result comes from: versions, commit and hardware."""

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from fedrec.flower.processes import cores

__all__ = ["commit", "hardware", "versions"]

DISTRIBUTIONS = ("fedrec", "flwr", "ray", "torch", "numpy", "numba", "scipy", "pandas", "pydantic")
PACKAGES = ("fedrec", "clients", "server", "strategies")
ROOT = Path(__file__).resolve().parents[2]


def versions() -> dict[str, str]:
    """Return the versions of Python and of the installed packages that decide a result."""
    installed = {"python": platform.python_version()}
    for name in DISTRIBUTIONS:
        try:
            installed[name] = version(name)
        except PackageNotFoundError:
            continue
    return installed


def commit(root: Path = ROOT) -> str | None:
    """Return the git commit of the checkout that fedrec runs from.

    Args:
        root: The folder that holds the package.

    Returns:
        40 hex digits, with ``+dirty`` where the code differs from it; None where fedrec does not
        lie at the top of a git checkout (an installed package inside someone's repository does
        not).
    """
    top = _git(root, "rev-parse", "--show-toplevel")
    head = _git(root, "rev-parse", "--verify", "HEAD")
    if not top or not head or Path(top).resolve() != root.resolve():
        return None
    return f"{head}+dirty" if _git(root, "status", "--porcelain", "--", *PACKAGES) else head


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
    """Return ``cpu``, ``cores`` that this process may use, ``memory_gib`` and ``system``."""
    return {
        "cpu": _cpu(),
        "cores": cores(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
    }


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            if key.strip() in ("model name", "Model", "cpu model"):
                return value.strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
