"""How the kernels are compiled: strict arithmetic, kept in fedrec's cache folder."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numba as nb

from fedrec.compute.kernel_sources import kernel_sources
from fedrec.storage.cache import cache_folder

__all__ = ["CACHE", "compiled", "compiled_sums", "inlined"]


def _hash_of_sources() -> str:
    """Hash the sources: numba looks only at the file of the function that is called."""
    digest = hashlib.sha256()
    for path in kernel_sources():
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


CACHE = cache_folder()
"""Where this process keeps machine code, whatever the environment says later."""

nb.config.CACHE_DIR = str(CACHE / "numba" / _hash_of_sources())  # type: ignore[attr-defined]


def compiled(function: Callable[..., Any]) -> Any:
    """Machine code on first call; one thread, no reordering of arithmetic.

    A division by zero is IEEE's: looking out for it would keep loops from being vectorised.
    """
    return nb.njit(cache=True, nogil=True, error_model="numpy")(function)


def compiled_sums(function: Callable[..., Any]) -> Any:
    """As `compiled`, but a sum along one row may be regrouped.

    It is regrouped in the same way for every row of that length, so bits do not depend on place.
    """
    regrouped = {"reassoc", "nsz", "contract"}
    return nb.njit(cache=True, nogil=True, error_model="numpy", fastmath=regrouped)(function)


def inlined(function: Callable[..., Any]) -> Any:
    """Part of the one function that calls it, which saves compiling it twice."""
    return nb.njit(cache=True, nogil=True, error_model="numpy", inline="always")(function)
