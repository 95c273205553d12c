"""Import what the configuration names as ``package.module:Name``.

Its module may lie beside the experiment or in the working folder.
"""

import filecmp
import importlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.machinery import PathFinder
from importlib.util import find_spec
from operator import attrgetter
from pathlib import Path
from typing import Any

from fedrec.errors import ConfigError, FedRecError

FOLDERS: ContextVar[tuple[Sequence[Path], Sequence[Path]]] = ContextVar(
    "FOLDERS", default=((Path(),), ())
)
"""Where modules of plug-ins are looked for, and folders with copies of such modules."""


@contextmanager
def searching(folders: Sequence[Path], copies: Sequence[Path] = ()) -> Iterator[None]:
    """Let `find_reference` find modules in folders, by default in the working folder.

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


def find_reference(reference: str) -> Any:
    """Return what ``package.module:Name`` names, also of a module beside the experiment.

    Raises:
        ConfigError: As `load_reference`, and if another module hides its file.
    """
    _find_beside(reference, *FOLDERS.get())
    return load_reference(reference)


def load_reference(reference: str) -> Any:
    """Return what ``package.module:Name`` names.

    Raises:
        ConfigError: If it has another form, or cannot be imported.
    """
    module, _, attribute = reference.partition(":")
    stem = module.removesuffix(".py").strip("./").replace("/", ".")
    if not module or not attribute or stem != module:
        example = f", such as {stem}:{attribute}" if stem and attribute else ""
        raise ConfigError(f"'{reference}': expected package.module:Class{example}")
    try:
        loaded = importlib.import_module(module)
    except FedRecError:
        raise
    except (Exception, SystemExit) as error:  # the module may be the user's, and what it raises
        why = str(error).partition("\n")[0]
        if not isinstance(error, ImportError):
            why = f"{type(error).__name__}: {why}"
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
