"""How kernels are compiled: strict arithmetic, kept in fedrec's cache folder."""

import hashlib
import math
import os
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from importlib import metadata
from pathlib import Path
from platform import python_version
from typing import Any

from fedrec.errors import EngineError
from fedrec.storage.files import cache_folder, hold

KERNEL = "fedrec.training.executors.numba.executor"
"""The module whose ``fill`` trains one client with the kernel, which compiles all of it."""


@cache
def kernel_folder() -> Path:
    """Return where this process keeps machine code, whatever the environment says later.

    The folder is named after the processor, the versions, and the files that import the compiler:
    numba looks only at the file of the function that is called, and compiles anew when that is
    newer, whatever its content.
    """
    from llvmlite import binding

    names = [binding.get_host_cpu_name(), binding.get_host_cpu_features().flatten()]
    names += [python_version(), metadata.version("numba"), metadata.version("llvmlite")]
    mark = b"from fedrec.compute.numba_compiler import compiled"
    for path in sorted(Path(__file__).parents[1].rglob("*.py")):
        if mark in path.read_bytes():
            names.append(f"{path} {path.stat().st_mtime_ns} {path.stat().st_size}")
    key = hashlib.sha256("\n".join(names).encode()).hexdigest()[:24]
    return cache_folder() / "numba" / key


@cache
def _numba() -> Any:
    """Return numba, told where to keep machine code."""
    import numba

    numba.config.CACHE_DIR = str(kernel_folder())  # type: ignore[attr-defined]
    return numba


def compiled(function: Callable[..., Any], **options: Any) -> Any:
    """Compile on first call; one thread, no reordering of arithmetic.

    A division by zero is IEEE's: looking out for it would keep loops from being vectorised.
    """
    return _numba().njit(cache=True, nogil=True, error_model="numpy", **options)(function)


def compiled_sums(function: Callable[..., Any]) -> Any:
    """Compile as `compiled` does, but a sum along one row may be regrouped.

    It is regrouped in the same way for every row of that length, so bits do not depend on place.
    """
    return compiled(function, fastmath={"reassoc", "nsz", "contract"})


def inlined(function: Callable[..., Any]) -> Any:
    """Make it part of the one function that calls it, which saves compiling it twice."""
    return compiled(function, inline="always")


def is_built(dtype: str = "float32") -> bool:
    """Whether the kernel for a type, ``float32`` or ``float64``, lies in this machine's cache."""
    return (kernel_folder() / dtype).exists()


@cache
def build(dtype: str = "float32") -> None:
    """See to it that the kernel for a type lies in the cache; one process builds, others wait.

    It is built in a process of its own. In the process that compiles it, a function may already
    stand by itself, optimised without its callers; the linker then takes that one, and sums round
    differently from those of a process that loads the finished kernel. So nobody trains with what
    it has compiled itself.

    Raises:
        EngineError: If it cannot be built.
    """
    folder = kernel_folder()
    mark, lock = folder / dtype, folder / "lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.touch()
        handle = hold(lock, seconds=math.inf)
        try:
            failure = "" if mark.exists() else _compile(dtype)
            if not failure:
                mark.touch()
        finally:
            if handle is not None:
                os.close(handle)
    except OSError as error:
        failure = str(error)
    if failure:
        raise EngineError(
            f"the training kernel cannot be compiled ({failure}); set FEDREC_CACHE to a folder "
            "that can be written to, or train.backend: torch"
        )


def _compile(dtype: str) -> str:
    """Compile in a process of its own; return the last line that it complains with."""
    path = os.pathsep.join(entry or "." for entry in sys.path)
    done = subprocess.run(
        [sys.executable, "-P", "-c", f"from {KERNEL} import fill; fill({dtype!r})"],
        env={**os.environ, "PYTHONPATH": path, "FEDREC_CACHE": str(kernel_folder().parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [f"exit code {done.returncode}", *filter(str.strip, done.stderr.splitlines())]
    return lines[-1] if done.returncode else ""
