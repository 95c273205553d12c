"""Are ``server``, ``clients`` and ``strategies`` ours, and is everybody's code the same?

Those names are common: a folder ``server/`` of the user's can stand before ours on the path.
"""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from fedrec.errors import EngineError

__all__ = ["check_siblings", "code_hash"]

SIBLINGS = ("clients", "server", "strategies")


def check_siblings() -> None:
    """Make sure that the outer rooms are those that belong to this fedrec.

    Raises:
        EngineError: If one is missing, or something else of that name comes first on the path.
    """
    for name in SIBLINGS:
        _folder(name)


@cache
def code_hash() -> str:
    """The sha256 of fedrec's sources and its siblings', to compare workers and devices by.

    Raises:
        EngineError: As `check_siblings`.
    """
    digest = hashlib.sha256()
    for name in ("fedrec", *SIBLINGS):
        folder = _folder(name)
        for path in sorted(
            folder.rglob("*.py"), key=lambda path: path.relative_to(folder).as_posix()
        ):
            content = path.read_bytes().replace(b"\r\n", b"\n")
            title = f"{name}/{path.relative_to(folder).as_posix()}"
            digest.update(f"{title}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def _folder(name: str) -> Path:
    ours = Path(__file__).resolve().parents[2]
    expected = ours / name
    try:
        spec = find_spec(name)
    except ValueError:  # a module without a specification, such as one made by hand
        spec = None
    if spec is None:
        raise EngineError(
            f"'{name}' cannot be imported; it belongs beside fedrec, as {expected}; "
            "run: pip install --force-reinstall fedrec, or pip install -e . in a checkout"
        )
    found = [Path(place).resolve() for place in spec.submodule_search_locations or ()]
    if expected not in found:
        other = found[0] if found else Path(spec.origin or name)
        raise EngineError(
            f"{other} shadows fedrec's own '{name}' ({expected}): rename it, or run from another "
            "folder"
        )
    return expected
