"""How the kernels are compiled: strict arithmetic, kept in fedrec's cache folder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba as nb

from fedrec.data.cache import cache_folder

__all__ = ["compiled", "compiled_sums"]

nb.config.CACHE_DIR = str(cache_folder() / "numba")  # type: ignore[attr-defined]


def compiled(function: Callable[..., Any]) -> Any:
    """Machine code on first call; one thread, no reordering of arithmetic."""
    return nb.njit(cache=True, nogil=True)(function)


def compiled_sums(function: Callable[..., Any]) -> Any:
    """As `compiled`, but a sum along one row may be regrouped.

    It is regrouped in the same way for every row of that length, so bits do not depend on place.
    """
    return nb.njit(cache=True, nogil=True, fastmath={"reassoc", "nsz", "contract"})(function)
