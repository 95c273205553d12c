"""Find plug-ins by name.

A *table* maps names to classes of plug-ins. The tables of this library are literal mappings in
their packages; those of ``strategies`` and of other distributions are found by entry point, so the
library imports neither. A name with a colon, ``package.module:Class``, is an import reference and
needs no table; its module may lie beside the experiment or in the working folder.
"""

import filecmp
import importlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from importlib.machinery import PathFinder
from importlib.metadata import entry_points
from importlib.util import find_spec
from inspect import isabstract
from operator import attrgetter
from pathlib import Path
from typing import Any

from fedrec.errors import ConfigError, FedRecError, did_you_mean
from fedrec.plugins.section import Plugin

__all__ = ["CORE_TABLES", "lookup", "name_of", "searching", "table"]

CORE_TABLES = {
    "data": ("fedrec.data:DATASETS",),
    "models": ("fedrec.models:MODELS", "fedrec.baselines:BASELINES"),
    "personalization": ("fedrec.personalization:PERSONALIZATIONS",),
    "metrics": ("fedrec.evaluation.metrics:METRICS",),
}

FOLDERS: ContextVar[tuple[Sequence[Path], Sequence[Path]]] = ContextVar(
    "FOLDERS", default=((Path(),), ())
)
"""Where modules of plug-ins are looked for, and folders with copies of such modules."""


@contextmanager
def searching(folders: Sequence[Path], copies: Sequence[Path] = ()) -> Iterator[None]:
    """Let `lookup` find the modules of plug-ins in folders, by default in the working folder.

    A folder in which a module is found is put at the end of ``sys.path``, which engines hand on to
    their workers.

    Args:
        folders: Where to look, in this order.
        copies: Folders with copies of modules, for those that are found nowhere else.
    """
    token = FOLDERS.set((folders, copies))
    try:
        yield
    finally:
        FOLDERS.reset(token)


@cache
def table(kind: str) -> Mapping[str, type[Plugin]]:
    """Return all plug-ins of a kind: fedrec's own and those of installed distributions.

    Args:
        kind: ``data``, ``models``, ``personalization``, ``metrics`` or ``strategies``.

    Raises:
        ConfigError: If two distributions bring the same name.
    """
    brought = sorted({entry.value for entry in entry_points(group=f"fedrec.{kind}")})
    merged: dict[str, type[Plugin]] = {}
    for source in (*CORE_TABLES.get(kind, ()), *brought):
        for name, plugin in _load(source).items():
            if merged.setdefault(name, plugin) is not plugin:
                raise ConfigError(f"{kind}: '{name}' is brought by two packages, one is {source}")
    return merged


def lookup(kind: str, name: str | type) -> type[Plugin]:
    """Return the plug-in class of that name.

    Args:
        kind: See `table`.
        name: A name of the table, ``package.module:Class``, or the class itself.

    Raises:
        ConfigError: If there is none, another module hides its file, or a method is missing.
    """
    if isinstance(name, str) and ":" not in name:
        names = table(kind)
        if name not in names:
            raise ConfigError(f"'{name}' is not in the table of {kind}{did_you_mean(name, names)}")
        return names[name]
    if isinstance(name, str):
        _find_beside(name, *FOLDERS.get())
    plugin = _load(name) if isinstance(name, str) else name
    if not (isinstance(plugin, type) and issubclass(plugin, Plugin)):
        raise ConfigError(f"{name} is not a plug-in class of fedrec, expected one of the {kind}")
    if isabstract(plugin):
        missing = ", ".join(sorted(plugin.__abstractmethods__))
        raise ConfigError(f"{plugin.__qualname__} is incomplete: it does not define {missing}")
    return plugin


def name_of(kind: str, plugin: Plugin) -> str:
    """Return the name under which `lookup` finds the class of a plug-in."""
    names = {known: name for name, known in table(kind).items()}
    return names.get(type(plugin), f"{type(plugin).__module__}:{type(plugin).__qualname__}")


def _load(reference: str) -> Any:
    module, _, attribute = reference.partition(":")
    if not module or not attribute:
        raise ConfigError(f"'{reference}': expected package.module:Class")
    try:
        loaded = importlib.import_module(module)
    except FedRecError:
        raise
    except Exception as error:  # the module may be the user's, and so is what it raises
        why = str(error) if isinstance(error, ImportError) else f"{type(error).__name__}: {error}"
        if isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}."):
            why += "; put its file beside the YAML or into the working folder, or install it"
        raise ConfigError(f"{reference} cannot be imported: {why}") from error
    try:
        return attrgetter(attribute)(loaded)
    except AttributeError:
        places = [getattr(loaded, "__file__", None), *getattr(loaded, "__path__", ())]
        file = next(filter(None, places), "built in")
        raise ConfigError(f"module '{module}' has no '{attribute}' ({file})") from None


def _find_beside(reference: str, folders: Sequence[Path], copies: Sequence[Path]) -> None:
    """Let the module of a reference be found in one of some folders, if it is found nowhere else.

    Raises:
        ConfigError: If another module of that name hides the one in the first such folder.
    """
    top = reference.partition(":")[0].partition(".")[0]
    if not top.isidentifier():
        return
    # Python prefers any file to a folder without __init__.py, wherever it lies.
    origin = _origin(top)
    searched = [str(each.resolve()) for each in (*folders, *(copies if origin is None else ()))]
    beside = PathFinder.find_spec(top, searched)
    if beside is None:
        return
    file = Path(beside.origin or next(iter(beside.submodule_search_locations or ())))
    if origin is None:
        folder = file.parent.parent if file.name == "__init__.py" else file.parent
        if str(folder) not in sys.path:
            sys.path.append(str(folder))
            importlib.invalidate_caches()
    elif not (Path(origin).is_file() and file.is_file() and filecmp.cmp(origin, file, False)):
        raise ConfigError(f"{reference}: {file} is hidden by {origin}; rename the file")


def _origin(module: str) -> str | None:
    """Return the file of a top-level module as Python finds it now; None for a mere folder."""
    try:
        spec = find_spec(module)
    except ValueError:  # a module without a specification, such as one made by hand
        return getattr(sys.modules[module], "__file__", None) or "a module in memory"
    return None if spec is None else spec.origin
