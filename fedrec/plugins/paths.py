"""Paths as users write them."""

from __future__ import annotations

from pathlib import Path

from fedrec.errors import ConfigError

__all__ = ["expand_path"]


def expand_path(path: str | Path) -> Path:
    """Return a path with ``~`` and ``~user`` replaced by the home folder.

    Raises:
        ConfigError: If there is no such home folder.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ConfigError(f"{path}: there is no such home folder; write the path in full") from None
