"""The source code of plug-ins that do not come with fedrec."""

from __future__ import annotations

import ast
import builtins
import hashlib
import importlib
import json
import linecache
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from fedrec.config.experiment import Experiment
from fedrec.errors import ConfigError
from fedrec.plugins import Plugin
from fedrec.storage.cache import cache_folder
from fedrec.storage.files import write_text

__all__ = [
    "changed_sources",
    "code_with_sources",
    "source_hashes",
    "sources_of",
    "with_importable_plugins",
]

OURS = ("fedrec", "strategies", "clients", "server")
FIELDS = ("data", "model", "personalization", "strategy")
CONSTANTS = (int, float, str, bool, type(None))


def sources_of(experiment: Experiment) -> dict[str, str]:
    """Return the source of the modules that define the plug-ins, and of what these import.

    Of an installed distribution only the package itself counts; of loose files all in their
    folder that are imported.

    Args:
        experiment: The experiment.

    Returns:
        The text by path, relative to the folder that Python imports from; empty where all plug-ins
        are fedrec's own.
    """
    plugins: list[Plugin] = [getattr(experiment, name) for name in FIELDS]
    plugins += [metric for metric in experiment.evaluate.parsed() if isinstance(metric, Plugin)]
    waiting = [
        base.__module__
        for plugin in plugins
        for base in type(plugin).__mro__
        if issubclass(base, Plugin) and base.__module__.partition(".")[0] not in OURS
    ]
    found: dict[str, str] = {}
    seen: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in seen or name.partition(".")[0] in OURS or (root := _root(name)) is None:
            continue
        seen.add(name)
        path = Path(str(sys.modules[name].__file__))
        text = path.read_text(encoding="utf-8")
        found[path.relative_to(root).as_posix()] = text
        installed = root in {Path(sysconfig.get_path(kind)) for kind in ("purelib", "platlib")}
        for other in [name.rpartition(".")[0], *_imported(text, name)]:
            same_package = other.partition(".")[0] == name.partition(".")[0]
            if other and _root(other) == root and (same_package or not installed):
                waiting.append(other)
    return dict(sorted(found.items()))


def source_hashes(experiment: Experiment) -> dict[str, str]:
    """Return the SHA-256 of each text of `sources_of`."""
    sources = sources_of(experiment)
    return {name: hashlib.sha256(text.encode()).hexdigest() for name, text in sources.items()}


def code_with_sources(code: str, experiment: Experiment) -> str:
    """Return a hash of fedrec's code and of the source of other plug-ins.

    Args:
        code: The hash of fedrec's code.
        experiment: The experiment.
    """
    hashes = source_hashes(experiment)
    text = json.dumps([code, hashes], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest() if hashes else code


def with_importable_plugins(experiment: Experiment) -> Experiment:
    """Return the experiment with plug-ins that other processes can import.

    A class that a script or a notebook defines gets a module of its own, made of its source and
    of what it uses of the script's imports and constants.

    Args:
        experiment: The experiment.

    Raises:
        ConfigError: If such a class uses something else that the script defines.
    """
    changed = {}
    for field in FIELDS:
        plugin = getattr(experiment, field)
        if isinstance(plugin, Plugin) and type(plugin).__module__ == "__main__":
            values = {name: getattr(plugin, name) for name in type(plugin).model_fields}
            changed[field] = _importable(type(plugin), field).model_validate(values)
    return experiment.model_copy(update=changed) if changed else experiment


def _importable(plugin: type[Plugin], field: str) -> type[Plugin]:
    name = plugin.__name__
    for text in _texts(plugin):
        tree = ast.parse(text)
        definition = next(
            (n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == name), None
        )
        if definition is not None:
            break
    else:
        raise ConfigError(f"{field}: the source of class {name} is not found; {_advice(name)}")
    first = min([definition.lineno, *(each.lineno for each in definition.decorator_list)])
    body = "".join(text.splitlines(keepends=True)[first - 1 : definition.end_lineno])
    main = vars(sys.modules["__main__"])
    names = {n.id for n in ast.walk(definition) if isinstance(n, ast.Name)} - {name}
    lines = [
        _binding(used, main[used], name, field)
        for used in sorted(names)
        if used in main and not hasattr(builtins, used)
    ]
    future = "from __future__ import annotations\n\n" * ("from __future__ import annot" in text)
    source = future + "\n".join(lines) + "\n\n\n" + body
    module = f"fedrec_script_{hashlib.sha256(source.encode()).hexdigest()[:12]}"
    folder = cache_folder() / "scripts"
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / f"{module}.py", source)
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
    importlib.invalidate_caches()
    found: type[Plugin] = getattr(importlib.import_module(module), name)
    return found


def _binding(used: str, value: Any, plugin: str, field: str) -> str:
    """Return the line that gives a name of the script its value in another module."""
    if isinstance(value, ModuleType) and value.__name__ != "__main__":
        return f"import {value.__name__} as {used}"
    if type(value) in CONSTANTS:
        return f"{used} = {value!r}"
    module = getattr(value, "__module__", None)
    home = getattr(value, "__qualname__", None) or getattr(value, "_name", None)
    known = sys.modules.get(str(module))
    if module != "__main__" and known is not None and getattr(known, str(home), None) is value:
        return f"from {module} import {home} as {used}"
    raise ConfigError(
        f"{field}: class {plugin} uses '{used}', which the script or notebook defines too; "
        f"{_advice(plugin)}"
    )


def _advice(name: str) -> str:
    return f"move the class with all it uses into a file, such as own.py, and give own:{name}"


def _texts(plugin: type) -> Iterator[str]:
    """Yield the texts in which a class may be defined: cells of a notebook, the script."""
    functions: list[Any] = [
        value for value in vars(plugin).values() if isinstance(value, FunctionType)
    ]
    functions += [v.fget for v in vars(plugin).values() if isinstance(v, property) and v.fget]
    files = [function.__code__.co_filename for function in functions]
    main = getattr(sys.modules["__main__"], "__file__", None)
    for file in dict.fromkeys([*files, *([main] if main else [])]):
        yield "".join(linecache.getlines(file))


def _root(module: str) -> Path | None:
    """Return the folder from which a loaded module was imported; None for what has no file."""
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None or not file.endswith(".py") or not Path(file).is_file():
        return None
    depth = module.count(".") + (Path(file).name == "__init__.py")
    return Path(file).resolve().parents[depth]


def _imported(text: str, module: str) -> Iterator[str]:
    """Yield the modules that a module may import."""
    is_package = str(getattr(sys.modules[module], "__file__", "")).endswith("__init__.py")
    package = module if is_package else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join(
                [*(above if node.level else []), *([node.module] if node.module else [])]
            )
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def changed_sources(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Return the files whose hashes differ, sorted."""
    return sorted(name for name in {*before, *now} if before.get(name) != now.get(name))
