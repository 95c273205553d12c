"""How kernels are compiled: strict arithmetic, kept in fedrec's cache folder."""

import hashlib
from collections.abc import Callable
from functools import cache
from importlib import metadata
from pathlib import Path
from platform import python_version
from typing import Any

from fedrec.storage.files import cache_folder


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
    mark = b"from fedrec.compute.numba_compiler import"
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
