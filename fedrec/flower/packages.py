"""Check that ``server``, ``clients`` and ``strategies`` are fedrec's own, and compare source code.

These names are common: a folder ``server/`` of the user's can stand before ours on the path.
"""

import hashlib
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from fedrec.errors import EngineError

OUTER_PACKAGES = ("clients", "server", "strategies")
ROOT = Path(__file__).resolve().parents[2]


def check_packages() -> None:
    """Make sure that the outer packages are those that belong to this fedrec.

    Raises:
        EngineError: If one is missing, or something else of that name comes first on the path.
    """
    for name in OUTER_PACKAGES:
        spec, expected = find_spec(name), ROOT / name
        if spec is None:
            raise EngineError(
                f"'{name}' cannot be imported; it belongs beside fedrec, as {expected}; "
                "run: pip install --force-reinstall fedrec, or pip install -e . in a checkout"
            )
        folders = [Path(place).resolve() for place in spec.submodule_search_locations or ()]
        if expected not in folders:
            other = folders[0] if folders else spec.origin
            raise EngineError(
                f"{other} shadows fedrec's own '{name}' ({expected}): rename it, or run from "
                "another folder"
            )


@cache
def code_hash() -> str:
    """Return the sha256 of the sources of all packages, to compare server, workers and devices.

    Raises:
        EngineError: As `check_packages`.
    """
    check_packages()
    digest = hashlib.sha256()
    for name in ("fedrec", *OUTER_PACKAGES):
        for path in sorted((ROOT / name).rglob("*.py"), key=Path.as_posix):
            content = path.read_bytes().replace(b"\r\n", b"\n")
            place = path.relative_to(ROOT).as_posix()
            digest.update(f"{place}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()
