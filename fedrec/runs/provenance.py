"""Where a result comes from: versions, commit and hardware."""

import os
import platform
import re
import subprocess
from contextlib import suppress
from importlib import metadata
from pathlib import Path

import psutil

from fedrec.flower.processes import OUTER_PACKAGES, ROOT, cores

DISTRIBUTIONS = ("fedrec", "flwr", "ray", "torch", "numpy", "numba", "scipy", "pandas", "pydantic")
CPU = re.compile(r"^(?:model name|Model|cpu model)\s*:\s*(.+)", re.MULTILINE)


def versions() -> dict[str, str]:
    """Return the versions of Python and of the installed packages that decide a result."""
    installed = {n: each.version for n in DISTRIBUTIONS for each in metadata.distributions(name=n)}
    return {"python": platform.python_version(), **installed}


def commit(root: Path = ROOT) -> str | None:
    """Return the git commit of the checkout that fedrec runs from.

    Args:
        root: The folder that holds the package.

    Returns:
        40 hex digits, with ``+dirty`` where the code differs from it; None where fedrec does not
        lie at the top of a git checkout.
    """
    head = _git(root, "rev-parse", "--verify", "HEAD") if (root / ".git").exists() else ""
    is_dirty = head and _git(root, "status", "--porcelain", "--", "fedrec", *OUTER_PACKAGES)
    return f"{head}+dirty" if is_dirty else head or None


def _git(root: Path, *arguments: str) -> str:
    """Return what git prints; nothing if it fails or is not installed."""
    command = ("git", "-C", str(root), *arguments)
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    with suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(
            command, capture_output=True, text=True, timeout=20, env=environment, check=True
        ).stdout.strip()
    return ""


def hardware() -> dict[str, str | int | float]:
    """Return ``cpu``, ``cores`` that this process may use, ``memory_gib`` and ``system``."""
    cpu = None
    with suppress(OSError):
        cpu = CPU.search(Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    return {
        "cpu": cpu[1].strip() if cpu else platform.processor() or platform.machine(),
        "cores": cores(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
    }
