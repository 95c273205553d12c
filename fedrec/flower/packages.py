"""Check that ``server``, ``clients`` and ``strategies`` are fedrec's own, and compare source code.

These names are common: a folder ``server/`` of the user's can stand before ours on the path.
"""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from fedrec.errors import EngineError

__all__ = ["OUTER_PACKAGES", "check_packages", "code_hash"]

OUTER_PACKAGES = ("clients", "server", "strategies")


def check_packages() -> None:
    """Make sure that the outer packages are those that belong to this fedrec.

    Raises:
        EngineError: If one is missing, or something else of that name comes first on the path.
    """
    for name in OUTER_PACKAGES:
        _folder(name)


@cache
def code_hash() -> str:
    """Return the sha256 of the sources of all packages, to compare server, workers and devices.

    Raises:
        EngineError: As `check_packages`.
    """
    digest = hashlib.sha256()
    for name in ("fedrec", *OUTER_PACKAGES):
        folder = _folder(name)
        sources = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*.py")}
        for relative, path in sorted(sources.items()):
            content = path.read_bytes().replace(b"\r\n", b"\n")
            digest.update(f"{name}/{relative}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def _folder(name: str) -> Path:
    expected = Path(__file__).resolve().parents[2] / name
    try:
        spec = find_spec(name)
    except ValueError:  # a module without a specification, such as one made by hand
        spec = None
    if spec is None:
        raise EngineError(
            f"'{name}' cannot be imported; it belongs beside fedrec, as {expected}; "
            "run: pip install --force-reinstall fedrec, or pip install -e . in a checkout"
        )
    folders = [Path(place).resolve() for place in spec.submodule_search_locations or ()]
    if expected not in folders:
        other = folders[0] if folders else Path(spec.origin or name)
        raise EngineError(
            f"{other} shadows fedrec's own '{name}' ({expected}): rename it, or run from another "
            "folder"
        )
    return expected
