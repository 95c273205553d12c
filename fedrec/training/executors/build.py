"""The compiled kernel is built in a process of its own, and only ever loaded where it is used.

In the process that compiles it, a function of the kernel may already stand by itself, optimised
without its callers; the linker then takes that one, and sums round differently from those of a
process that loads the finished kernel. So nobody trains with what it has compiled itself.
"""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import sys
from functools import cache
from importlib import metadata
from pathlib import Path

import numpy as np

from fedrec.compute.kernel_sources import kernel_sources
from fedrec.errors import EngineError
from fedrec.storage.cache import cache_folder
from fedrec.storage.lock import await_idle, hold

__all__ = ["build", "fill", "is_built"]

_PATIENCE = 1.0
"""Seconds between two looks at whether another process has built it."""


def is_built(dtype: str = "float32") -> bool:
    """Whether the kernel for a type lies in the cache of this machine.

    Args:
        dtype: ``float32`` or ``float64``.
    """
    return _mark(dtype).exists()


def build(dtype: str = "float32") -> None:
    """See to it that the kernel for a type lies in the cache; one process builds, others wait.

    Args:
        dtype: ``float32`` or ``float64``.

    Raises:
        EngineError: If it cannot be built.
    """
    if failure := _built(dtype):
        raise EngineError(
            f"the training kernel cannot be compiled ({failure}); set FEDREC_CACHE to a folder "
            "that can be written to, or train.backend: torch"
        )


@cache
def _built(dtype: str) -> str:
    """Why the kernel cannot be built; empty if it lies in the cache. Tried once in a process."""
    mark = _mark(dtype)
    lock = mark.parent / "lock"
    try:
        mark.parent.mkdir(parents=True, exist_ok=True)
        lock.touch()
        while not mark.exists():
            try:
                handle = hold(lock)
            except BlockingIOError:
                await_idle(lock, _PATIENCE)
                continue
            try:
                if not mark.exists() and (failure := _compile(dtype)):
                    return failure
                mark.touch()
            finally:
                if handle is not None:
                    os.close(handle)
    except OSError as error:
        return str(error)
    return ""


def _compile(dtype: str) -> str:
    """Compile in a process of its own; the last line that it complains with."""
    call = f"from fedrec.training.executors.build import fill; fill({dtype!r})"
    path = os.pathsep.join(entry or "." for entry in sys.path)
    done = subprocess.run(
        [sys.executable, "-c", call],
        env={**os.environ, "PYTHONPATH": path, "FEDREC_CACHE": str(_cache())},
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    if done.returncode == 0:
        return ""
    return lines[-1] if lines else f"exit code {done.returncode}"


def fill(dtype: str) -> None:
    """Compile the kernel for a type by training one client with it; in a process for that alone.

    Args:
        dtype: ``float32`` or ``float64``.
    """
    from fedrec.models.mf import MatrixFactorization
    from fedrec.personalization.none import NoPersonalization
    from fedrec.training.executors.compiled import train_compiled
    from fedrec.training.settings import Train
    from fedrec.training.task import ClientTask, initial_local
    from fedrec.types import Ragged, Shard

    one = np.zeros(1, np.int64)
    item, nothing = Ragged(np.array([0, 1]), one), Ragged(np.array([0, 0]), one[:0])
    shard = Shard(4, one, item.offsets, one, item, nothing, nothing)
    task = ClientTask(
        MatrixFactorization(embedding_dim=2), NoPersonalization(), Train(), 0, dtype=dtype
    )
    local = {name: initial_local(0, name, spec, one) for name, spec in task.locals().items()}
    train_compiled(task, shard, task.initial_globals(4), local, 1, prebuilt=False)


def _mark(dtype: str) -> Path:
    """A file that says: built, from these sources, by these versions, for this processor."""
    parts = [metadata.version("numba"), metadata.version("llvmlite"), platform.machine(), dtype]
    parts += [platform.python_version(), str(Path(__file__).parent), _processor()]
    for path in kernel_sources():
        # Numba compiles anew when a file is newer, whatever its content.
        parts.append(f"{path.name} {path.stat().st_mtime_ns} {path.stat().st_size}")
    key = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:24]
    return _cache() / "numba" / f"built-{key}"


def _cache() -> Path:
    """The cache that numba uses here: the one that was named when it was loaded."""
    loaded = sys.modules.get("fedrec.compute.numba_compiler")
    return Path(loaded.CACHE) if loaded is not None else cache_folder()


@cache
def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return platform.processor()
    kept = {
        line.split(":")[0].strip(): line
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines()
        if line.startswith(("model name", "flags", "Features"))
    }
    return "\n".join(kept.values())
