"""Sections of the configuration, plug-ins, and the tables in which plug-ins are found by name.

A section is a frozen value that explains what is wrong with it. A *table* maps names to classes of
plug-ins. The tables of this library are literal mappings in their packages; those of
``strategies`` and of other distributions are found by entry point, so the library imports neither.
A name with a colon, ``package.module:Class``, is an import reference and needs no table; its module
may lie beside the experiment or in the working folder.
"""

import filecmp
import importlib
import os
import re
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from importlib.machinery import PathFinder
from importlib.metadata import entry_points
from importlib.util import find_spec
from inspect import isabstract
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self, TypeAlias, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from fedrec.errors import ConfigError, Fault, FedRecError, did_you_mean

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
OURS = ("fedrec", "strategies", "clients", "server")
"""The packages that come with fedrec."""
MAX_SHOWN = 60
EXPECTED = {
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "finite_number": "a finite number",
    "float_parsing": "a number",
    "float_type": "a number",
    "greater_than": "more than {gt}",
    "greater_than_equal": "{ge} or more",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "int_parsing_size": "a whole number of fewer digits",
    "int_type": "a whole number",
    "less_than": "less than {lt}",
    "less_than_equal": "{le} or less",
    "literal_error": "{expected}",
    "model_type": "a mapping of keys to values",
    "path_type": "a path",
    "string_too_short": "{min_length} character or more",
    "string_type": "text",
    "tuple_type": "a list",
}
"""What pydantic's types of errors expect; in braces, what it tells about the field."""

VARIABLE = re.compile(r"\$\{(\w+)\}")
NAMED = re.compile(r"([a-z_]\w*): ")

Count: TypeAlias = Annotated[int, Field(ge=1)]
"""A whole number from 1."""

Defaults: TypeAlias = Mapping[str, Mapping[str, Any]]
"""Per section of an experiment, values by key."""


def shown(value: object) -> str:
    """Return a value as the user would write it in YAML, cut where it is long."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    is_integer = isinstance(value, float) and value.is_integer() and abs(value) < 1e15
    text = f"{value:.0f}" if is_integer else " ".join(repr(value).split())
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"


def expand_path(path: str | Path) -> Path:
    """Return a path with ``~``, ``~user`` and ``${VARIABLE}`` replaced by what they stand for.

    Raises:
        ConfigError: If there is no such home folder, the variable is not set, or it is no path.
    """
    try:
        return Path(VARIABLE.sub(lambda name: os.environ[name[1]], str(Path(path)))).expanduser()
    except KeyError as error:
        raise ConfigError(
            f"{path}: the environment variable {error.args[0]} is not set; set it, or write the "
            "path in full"
        ) from None
    except TypeError:
        raise ConfigError(f"expected a path, got {shown(path)}") from None
    except RuntimeError:
        raise ConfigError(f"{path}: there is no such home folder; write the path in full") from None


class Section(BaseModel):
    """A section of the configuration: frozen, and an unknown key is an error.

    Where it has a field ``name``, a text stands for a section with that name.

    Raises:
        ConfigError: With all faults of the values, one line each.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    renamed: ClassVar[Mapping[str, str]] = {}
    """Keys of earlier versions, and the dotted key to write instead."""

    def __init__(self, /, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise _explained(error, type(self)) from None

    @classmethod
    def model_validate(cls, obj: Any, **options: Any) -> Self:
        """Return the section that a mapping of keys to values describes.

        Raises:
            ConfigError: With all faults of the values, one line each.
        """
        if isinstance(obj, Mapping):
            return cls(**_with_text_keys(obj))
        try:
            return super().model_validate(obj, **options)
        except ValidationError as error:
            raise _explained(error, cls) from None

    def without_effect(self, experiment: Any, split: Any) -> list[str]:
        """Return one line for each setting that changes nothing in an experiment, with the reason.

        Args:
            experiment: The `fedrec.config.experiment.Experiment` that the section belongs to.
            split: Its data, a `fedrec.types.Split`.
        """
        return []

    def all_without_effect(
        self, experiment: Any, split: Any, but: Collection[str] = ()
    ) -> list[str]:
        """Return the lines of `without_effect` and those of the sections below, but for some."""
        below = ((name, getattr(self, name)) for name in type(self).model_fields if name not in but)
        return self.without_effect(experiment, split) + [
            f"{name}.{line}"
            for name, section in below
            if isinstance(section, Section)
            for line in section.all_without_effect(experiment, split)
        ]

    def unused(self, why: str, *names: str) -> list[str]:
        """Return a line for each of some fields that is not at its default.

        Args:
            why: The reason why the fields have no effect.
            names: The fields.
        """
        fields = type(self).model_fields
        return [
            f"{name}: {getattr(self, name)} has no effect: {why}"
            for name in names
            if getattr(self, name) != fields[name].get_default(call_default_factory=True)
        ]

    def __setattr__(self, name: str, value: Any) -> None:
        if not name.startswith("_"):
            raise ConfigError(
                f"{name}: a frozen {type(self).__name__} cannot be changed; make a copy, as with "
                f"load_experiment(experiment, {{'{name}': value}})"
            )
        super().__setattr__(name, value)

    @field_validator("*", mode="before")
    @classmethod
    def _read_field(cls, value: Any, info: ValidationInfo) -> Any:
        kind: Any = cls.model_fields[str(info.field_name)].annotation
        if isinstance(kind, type) and issubclass(kind, Section):
            is_name = isinstance(value, str) and "name" in kind.model_fields
            value = {"name": value} if is_name else value
            return _with_text_keys(value) if isinstance(value, Mapping) else value
        if isinstance(value, bool) and not _accepts(kind, bool):  # pydantic takes true for 1
            raise ValueError(f"expected a number or a word, got {shown(value)}")
        is_path = isinstance(value, str | Path) and _accepts(kind, Path)
        return expand_path(value) if is_path else value


class Plugin(Section):
    """Base of everything that stands in a table; its fields are its configuration.

    Attributes:
        reference: key in ``references.bib`` of the paper it comes from, or "".
        defaults: of a model or a strategy: per section of the experiment, the values that train
            it well. They fill in what the user did not write.
    """

    reference: ClassVar[str] = ""
    defaults: ClassVar[Defaults] = {}


def as_mapping(value: Any) -> Any:
    """Return what the user wrote of a section as a mapping; a plug-in's ``name`` is its class."""
    if isinstance(value, str | type):
        return {"name": value}
    if not isinstance(value, Section):
        return value
    written = [field for field in type(value).model_fields if field in value.model_fields_set]
    name = {"name": type(value)} if isinstance(value, Plugin) else {}
    return {**name, **{field: getattr(value, field) for field in written}}


def _with_text_keys(values: Mapping[Any, Any]) -> Mapping[str, Any]:
    keys = [shown(key) for key in values if not isinstance(key, str)]
    if keys:
        raise ConfigError(*(Fault(key, "unknown key: expected text") for key in keys))
    return values


def _accepts(annotation: Any, kind: type) -> bool:
    return annotation in (kind, Any) or any(_accepts(each, kind) for each in get_args(annotation))


def _explained(error: ValidationError, section: type[Section]) -> ConfigError:
    """Return the faults that pydantic found, each field once.

    A validator of ours may begin its message with ``field: `` to name a field of its section.
    """
    expected: dict[tuple[str, str], list[str]] = {}
    for each in error.errors():
        # Below a field are numbers of a list, and pydantic's names for members of a union.
        place = [str(key) for at, key in enumerate(each["loc"]) if at == 0 or isinstance(key, int)]
        inner = each.get("ctx", {}).get("error")
        ours = [(*fault, "") for fault in getattr(inner, "faults", ())]
        for field, text, came in ours or [_fault(each, section)]:
            where = ".".join(filter(None, [*place, field]))
            expected.setdefault((where, came), []).append(text)
    faults = []
    for (where, came), texts in expected.items():
        others = [text.removeprefix("expected ") for text in texts[1:]]
        faults.append(Fault(where, " or ".join([texts[0], *others]) + came))
    return ConfigError(*faults)


def _fault(error: Mapping[str, Any], section: type[Section]) -> tuple[str, str, str]:
    """Return the field within the place, what is wrong with it, and what came."""
    kind, value, message = error["type"], error["input"], error["msg"]
    if kind == "extra_forbidden":
        key = str(error["loc"][-1])
        if key in section.renamed:
            return "", f"this key has a new name; write {section.renamed[key]}", ""
        return "", f"unknown key{did_you_mean(key, section.model_fields)}", ""
    if kind == "missing":
        return "", "is missing", ""
    if kind in EXPECTED:
        about = {n: v if isinstance(v, str) else shown(v) for n, v in error.get("ctx", {}).items()}
        return "", f"expected {EXPECTED[kind].format(**about)}", f", got {shown(value)}"
    message = message.removeprefix("Value error, ").replace("Input should be", "expected")
    named = NAMED.match(message)
    field, text = (named[1], message[named.end() :]) if named else ("", message)
    tells = ", got " in text or (isinstance(value, str) and repr(value) in text)
    is_scalar = isinstance(value, str | int | float | bool | None)
    return field, text, f", got {shown(value)}" if is_scalar and not tells else ""


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
