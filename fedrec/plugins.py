"""Sections of the configuration, plug-ins, and the tables in which plug-ins are found by name.

A section is a frozen value that explains what is wrong with it. A *table* maps names to classes of
plug-ins. The tables of this library are literal mappings in their packages; those of
``strategies`` and of other distributions are found by entry point, so the library imports neither.
A name with a colon, ``package.module:Class``, is an import reference and needs no table; its module
may lie beside the experiment or in the working folder.
"""

import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping, ValuesView
from functools import cache
from importlib.metadata import entry_points
from inspect import isabstract
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self, TypeAlias, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from fedrec.errors import ConfigError, Fault, did_you_mean
from fedrec.imports import find_reference, load_reference

CORE_TABLES = {
    "data": ("fedrec.data:DATASETS",),
    "features": ("fedrec.features:ENCODERS",),
    "models": ("fedrec.models:MODELS", "fedrec.baselines:BASELINES"),
    "personalization": ("fedrec.personalization:PERSONALIZATIONS",),
    "metrics": ("fedrec.evaluation.metrics:METRICS",),
    "transforms": ("fedrec.transforms:TRANSFORMS",),
    "devices": ("fedrec.devices:DEVICES",),
}
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

S = TypeVar("S", bound="Section")

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

    def without_effect(self, run: Any) -> list[str]:
        """Return one line for each setting that changes nothing in an experiment, with the reason.

        Args:
            run: The `fedrec.runs.open_run.OpenRun` of the experiment: it has the ``experiment``,
                the ``split`` and, unless it is centralised, the ``task``.
        """
        return []

    def all_without_effect(self, run: Any, but: Collection[str] = ()) -> list[str]:
        """Return the lines of `without_effect` and those of the sections below, but for some."""
        lines = self.without_effect(run)
        for name in (each for each in type(self).model_fields if each not in but):
            value = getattr(self, name)
            below = dict(enumerate(value)) if isinstance(value, tuple) else value
            below = below if isinstance(below, Mapping) else {"": value}
            for key, section in below.items():
                if isinstance(section, Section):
                    of_section = section.all_without_effect(run)
                    lines += (f"{name}.{key}".rstrip(".") + f".{line}" for line in of_section)
        return lines

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


def with_paths(section: S, change: Callable[[Path], Path]) -> S:
    """Return a section in which every path is changed, at any depth.

    A text in a field ``path`` is one too, as a plug-in may declare it so.
    """

    def changed(name: str, value: Any) -> Any:
        if isinstance(value, Path):
            return change(value)
        if isinstance(value, str) and value and name == "path":
            return str(change(Path(value)))
        if isinstance(value, Section):
            return with_paths(value, change)
        if isinstance(value, tuple | list):
            return type(value)(changed("", each) for each in value)
        if isinstance(value, Mapping):
            return {key: changed(str(key), each) for key, each in value.items()}
        return value

    return section.model_copy(update={name: changed(name, value) for name, value in section})


class Plugin(Section):
    """Base of everything that stands in a table; its fields are its configuration.

    Attributes:
        reference: key in ``references.bib`` of the paper it comes from, or "".
        defaults: of a model or a strategy: per section of the experiment, the values that train
            it well. They fill in what the user did not write.
    """

    reference: ClassVar[str] = ""
    defaults: ClassVar[Defaults] = {}

    def modules(self) -> tuple[str, ...]:
        """Return the modules, beside that of its class, whose source belongs to a run."""
        return ()


def plugins_in(section: Section) -> Iterator[Plugin]:
    """Yield the plug-ins in the fields of a section, and in theirs."""
    for _, value in section:
        below = value.values() if isinstance(value, Mapping) else value
        for each in below if isinstance(below, tuple | ValuesView) else (value,):
            if isinstance(each, Plugin):
                yield each
            if isinstance(each, Section):
                yield from plugins_in(each)


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


@cache
def table(kind: str) -> Mapping[str, type[Plugin]]:
    """Return all plug-ins of a kind: fedrec's own and those of installed distributions.

    Args:
        kind: ``data``, ``features``, ``models``, ``personalization``, ``metrics``,
            ``transforms``, ``devices``, or of the strategies: ``strategies``, ``client_rules``,
            ``aggregations``, ``server_optimizers``, ``selections``, ``plans``.

    Raises:
        ConfigError: If two distributions bring the same name.
    """
    brought = sorted({entry.value for entry in entry_points(group=f"fedrec.{kind}")})
    merged: dict[str, type[Plugin]] = {}
    for source in (*CORE_TABLES.get(kind, ()), *brought):
        for name, plugin in load_reference(source).items():
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
    plugin = find_reference(name) if isinstance(name, str) else name
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
