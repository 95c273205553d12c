"""Find plug-ins by name.

A *table* maps names to classes of plug-ins. The tables of this library are literal mappings in
their packages; those of ``strategies`` and of other distributions are found by entry point, so the
library imports neither. A name with a colon, ``package.module:Class``, is an import reference and
needs no table.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fedrec.errors import ConfigError, FedRecError, did_you_mean
from fedrec.plugins.section import Plugin

__all__ = ["CORE_TABLES", "find_beside", "find_references", "lookup", "name_of", "table"]

REFERENCE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(@.*)?")

CORE_TABLES = {
    "data": ("fedrec.data:DATASETS",),
    "models": ("fedrec.models:MODELS", "fedrec.baselines:BASELINES"),
    "personalization": ("fedrec.personalization:PERSONALIZATIONS",),
    "metrics": ("fedrec.evaluation.metrics:METRICS",),
}


@cache
def table(kind: str) -> Mapping[str, type[Plugin]]:
    """Return all plug-ins of a kind: fedrec's own and those of installed distributions.

    Args:
        kind: ``data``, ``models``, ``personalization``, ``metrics`` or ``strategies``.

    Raises:
        ConfigError: If two distributions bring the same name.
    """
    sources = [*CORE_TABLES.get(kind, ())]
    sources += sorted({entry.value for entry in entry_points(group=f"fedrec.{kind}")})
    merged: dict[str, type[Plugin]] = {}
    for source in sources:
        for name, plugin in _load(source).items():
            if name in merged and merged[name] is not plugin:
                raise ConfigError(f"{kind}: '{name}' is brought by two packages, one is {source}")
            merged[name] = plugin
    return merged


def lookup(kind: str, name: str) -> type[Plugin]:
    """Return the plug-in class of that name.

    Args:
        kind: See `table`.
        name: A name of the table, or ``package.module:Class``.

    Raises:
        ConfigError: If there is none.
    """
    if ":" in name:
        found = _load(name)
        if not (isinstance(found, type) and issubclass(found, Plugin)):
            raise ConfigError(
                f"{name} is not a plug-in class of fedrec, expected one of the {kind}"
            )
        return found
    known = table(kind)
    if name not in known:
        raise ConfigError(f"'{name}' is not in the table of {kind}{did_you_mean(name, known)}")
    return known[name]


def find_references(values: Any, folders: Sequence[Path], copies: Sequence[Path] = ()) -> None:
    """Call `find_beside` for each reference ``package.module:Class`` in some values.

    Args:
        values: An experiment or a part of one; references are found at any depth.
        folders: Where to look, in this order.
        copies: Folders with copies of modules, for those that are found nowhere else.
    """
    seen: set[int] = set()
    stack = [values]
    while stack:
        value = stack.pop()
        if isinstance(value, str) and REFERENCE.fullmatch(value):
            find_beside(value, folders, copies)
        elif isinstance(value, Mapping | list | tuple) and id(value) not in seen:
            seen.add(id(value))
            stack += value.values() if isinstance(value, Mapping) else value


def find_beside(reference: str, folders: Sequence[Path], copies: Sequence[Path] = ()) -> None:
    """Let the module of a plug-in be found in a folder, if it is found nowhere else.

    The folder is put at the end of ``sys.path``, which engines hand on to their workers.

    Args:
        reference: ``package.module:Class``; a name of a table needs nothing.
        folders: Where to look, in this order.
        copies: Folders with copies of modules, for those that are found nowhere else.

    Raises:
        ConfigError: If another module of that name hides the one in the first such folder.
    """
    module, colon, _ = reference.partition(":")
    top = module.partition(".")[0]
    if not colon or not top.isidentifier():
        return
    other = _location(top)
    searched = [*folders, *(copies if other is None else ())]
    places = [folder / name for folder in searched for name in (f"{top}.py", top)]
    place = next(filter(Path.exists, places), None)
    if place is None:
        return
    if other is None:
        sys.path.append(str(place.parent.resolve()))
        importlib.invalidate_caches()
    elif not _is_same(other, place) and not _is_same(other, place / "__init__.py"):
        raise ConfigError(f"{reference}: {place} is hidden by {other}; rename the file")


def name_of(kind: str, plugin: Plugin) -> str:
    """Return the name under which `lookup` finds the class of a plug-in."""
    for name, known in table(kind).items():
        if type(plugin) is known:
            return name
    return f"{type(plugin).__module__}:{type(plugin).__qualname__}"


def _load(reference: str) -> Any:
    module, _, attribute = reference.partition(":")
    if not module or not attribute:
        raise ConfigError(f"'{reference}': expected package.module:Class")
    try:
        found = importlib.import_module(module)
    except FedRecError:
        raise
    except Exception as error:  # the module may be the user's, and so is what it raises
        why = str(error) if isinstance(error, ImportError) else f"{type(error).__name__}: {error}"
        absent = isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(
            f"{error.name}."
        )
        way_out = (
            "; put its file beside the YAML or into the working folder, or install it"
            if absent
            else ""
        )
        raise ConfigError(f"{reference} cannot be imported: {why}{way_out}") from error
    if not hasattr(found, attribute):
        raise ConfigError(
            f"module '{module}' has no '{attribute}' ({getattr(found, '__file__', 'built in')})"
        )
    return getattr(found, attribute)


def _is_same(other: Path | str, place: Path) -> bool:
    """Return whether two files are one, or copies of each other."""
    if other == place.resolve():
        return True
    both = isinstance(other, Path) and other.is_file() and place.is_file()
    return both and Path(other).read_bytes() == place.read_bytes()


def _location(module: str) -> Path | str | None:
    """Return the file of a top-level module, as Python finds it now."""
    try:
        spec = find_spec(module)
    except ValueError:  # a module without a specification, such as one made by hand
        return getattr(sys.modules[module], "__file__", None) or "a module in memory"
    if spec is None:
        return None
    if spec.has_location and spec.origin:
        return Path(spec.origin).resolve()
    folders = list(spec.submodule_search_locations or ())
    return Path(folders[0]).resolve() if folders else f"Python's own module '{module}'"
