"""Which files of fedrec hold functions that numba compiles."""

from __future__ import annotations

from functools import cache
from pathlib import Path

__all__ = ["kernel_sources"]


@cache
def kernel_sources() -> tuple[Path, ...]:
    """Return the files of fedrec that import the compiler, sorted."""
    package = Path(__file__).parents[1]
    marked = b"import fedrec.compute.numba_compiler", b"from fedrec.compute.numba_compiler"
    files = sorted(package.rglob("*.py"))
    return tuple(path for path in files if any(mark in path.read_bytes() for mark in marked))
