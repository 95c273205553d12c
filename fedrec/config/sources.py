"""The source code of plug-ins that do not come with fedrec."""

import ast
import builtins
import hashlib
import importlib.util
import json
import linecache
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from pathlib import Path
from traceback import walk_tb
from types import FunctionType, ModuleType
from typing import Any

from fedrec.config.experiment import Experiment
from fedrec.errors import ConfigError
from fedrec.plugins import OURS, Plugin, Section, plugins_in
from fedrec.storage.files import cache_folder, write_text

CONSTANTS = (int, float, str, bool, type(None))


def sources_of(experiment: Experiment) -> dict[str, str]:
    """Return the source of the modules that define the plug-ins, and of what these import.

    Of an installed distribution only the package itself counts; of loose files all in their
    folder that are imported.

    Returns:
        The text by path, relative to the folder that Python imports from; empty where all plug-ins
        are fedrec's own.
    """
    plugins = [*plugins_in(experiment), *experiment.evaluate.parsed()]
    classes = [base for plugin in plugins for base in type(plugin).__mro__]
    waiting = [base.__module__ for base in classes if issubclass(base, Plugin)]
    waiting += (module for plugin in plugins for module in plugin.modules())
    installed = {Path(sysconfig.get_path(kind)) for kind in ("purelib", "platlib")}
    texts: dict[str, str] = {}
    while waiting:
        name = waiting.pop()
        file = str(getattr(sys.modules.get(name), "__file__", ""))
        root, path = _root(name), Path(file).resolve()
        if root is None or (place := path.relative_to(root).as_posix()) in texts:
            continue
        text = texts[place] = path.read_text(encoding="utf-8")
        for other in (name.rpartition(".")[0], *_imported(text, name)):
            same_package = other.partition(".")[0] == name.partition(".")[0]
            if _root(other) == root and (same_package or root not in installed):
                waiting.append(other)
    return dict(sorted(texts.items()))


def source_hashes(experiment: Experiment) -> dict[str, str]:
    """Return the SHA-256 of each text of `sources_of`."""
    sources = sources_of(experiment)
    return {name: hashlib.sha256(text.encode()).hexdigest() for name, text in sources.items()}


def code_with_sources(code: str, experiment: Experiment) -> str:
    """Return a hash of the hash of fedrec's code and of the source of other plug-ins."""
    hashes = source_hashes(experiment)
    text = json.dumps([code, hashes], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest() if hashes else code


def place_in_plugin(error: BaseException) -> str | None:
    """Return file, line and function of the user's plug-in in which an error arose.

    None where no module that defines a plug-in, other than fedrec's own, was on the way.
    """
    kinds = [Plugin]
    for kind in kinds:
        kinds += kind.__subclasses__()
    modules = {kind.__module__ for kind in kinds if kind.__module__.partition(".")[0] not in OURS}
    for frame, line in reversed(list(walk_tb(error.__traceback__))):
        if frame.f_globals.get("__name__") in modules:
            return f"{frame.f_code.co_filename}:{line}, in {frame.f_code.co_name}"
    return None


def with_importable_plugins(experiment: Experiment) -> Experiment:
    """Return the experiment with plug-ins that other processes can import.

    A class that a script or a notebook defines gets a module of its own, made of its source and
    of what it uses of the script's imports and constants.

    Raises:
        ConfigError: If a class is defined inside a function, or one of a script uses something
            else that the script defines.
    """
    converted: Experiment = _converted(experiment, "")
    return converted


def _converted(value: Any, field: str) -> Any:
    """Return a value in which every plug-in, at any depth, is one that others can import."""
    if isinstance(value, Section):
        inner = {name: _converted(each, f"{field}.{name}") for name, each in value}
        changed = {name: each for name, each in inner.items() if each is not getattr(value, name)}
        value = value.model_copy(update=changed) if changed else value
        where = field.removeprefix(".")
        return _with_importable_class(value, where) if isinstance(value, Plugin) else value
    if isinstance(value, Mapping) and any(isinstance(each, Plugin) for each in value.values()):
        return {name: _converted(each, f"{field}.{name}") for name, each in value.items()}
    if isinstance(value, tuple) and any(isinstance(each, Plugin) for each in value):
        return tuple(_converted(each, f"{field}.{at}") for at, each in enumerate(value))
    return value


def _with_importable_class(plugin: Plugin, field: str) -> Plugin:
    kind = type(plugin)
    if "<locals>" in kind.__qualname__:
        raise ConfigError(
            f"{field}: class {kind.__name__} is defined inside a function, where no other process "
            "finds it; move it to the top level of the file"
        )
    is_of_script = kind.__module__ == "__main__"
    return _importable(kind, field)(**dict(plugin)) if is_of_script else plugin


def _importable(plugin: type[Plugin], field: str) -> type[Plugin]:
    """Return the class, imported from a module that holds its source."""
    name = plugin.__name__
    for text in _texts(plugin):
        body = ast.parse(text).body
        definition = next((n for n in body if isinstance(n, ast.ClassDef) and n.name == name), None)
        if definition is not None:
            break
    else:
        raise ConfigError(f"{field}: the source of class {name} is not found; {_advice(name)}")
    main = vars(sys.modules["__main__"])
    names = {n.id for n in ast.walk(definition) if isinstance(n, ast.Name)} - {name}
    used = sorted(n for n in names if n in main and not hasattr(builtins, n))
    first = min([definition.lineno, *(each.lineno for each in definition.decorator_list)])
    source = "".join(
        [
            "from __future__ import annotations\n\n" * ("from __future__ import annot" in text),
            *(_binding(each, main[each], name, field) + "\n" for each in used),
            "\n\n",
            *text.splitlines(keepends=True)[first - 1 : definition.end_lineno],
        ]
    )
    module = f"fedrec_script_{hashlib.sha256(source.encode()).hexdigest()[:12]}"
    folder = cache_folder() / "scripts"
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / f"{module}.py", source)
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
    importlib.invalidate_caches()
    importable: type[Plugin] = getattr(importlib.import_module(module), name)
    return importable


def _binding(used: str, value: Any, plugin: str, field: str) -> str:
    """Return the line that gives a name of the script its value in another module."""
    if isinstance(value, ModuleType):
        return f"import {value.__name__} as {used}"
    if type(value) in CONSTANTS:
        return f"{used} = {value!r}"
    module = str(getattr(value, "__module__", None))
    home = str(getattr(value, "__qualname__", None) or getattr(value, "_name", None))
    if module != "__main__" and getattr(sys.modules.get(module), home, None) is value:
        return f"from {module} import {home} as {used}"
    raise ConfigError(
        f"{field}: class {plugin} uses '{used}', which the script or notebook defines too; "
        f"{_advice(plugin)}"
    )


def _advice(name: str) -> str:
    return f"move the class with all it uses into a file, such as own.py, and give own:{name}"


def _texts(plugin: type) -> Iterator[str]:
    """Yield the texts in which a class may be defined: cells of a notebook, the script."""
    methods = [value for value in vars(plugin).values() if isinstance(value, FunctionType)]
    main = getattr(sys.modules["__main__"], "__file__", None) or ""
    for file in dict.fromkeys([*(method.__code__.co_filename for method in methods), main]):
        yield "".join(linecache.getlines(file))


def _root(module: str) -> Path | None:
    """Return the folder from which a loaded module was imported.

    None for what has no file, and for what is fedrec's own.
    """
    file = getattr(sys.modules.get(module), "__file__", None) or ""
    if module.partition(".")[0] in OURS or not (file.endswith(".py") and Path(file).is_file()):
        return None
    depth = module.count(".") + (Path(file).name == "__init__.py")
    return Path(file).resolve().parents[depth]


def _imported(text: str, module: str) -> Iterator[str]:
    """Yield the modules that a module may import."""
    package = sys.modules[module].__package__ or ""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (package or not node.level):
            base = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            yield from (base, *(f"{base}.{alias.name}" for alias in node.names))
