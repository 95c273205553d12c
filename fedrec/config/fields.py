"""Fields of an experiment that hold plug-ins."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import NoneType
from typing import Any, get_args

from pydantic import GetCoreSchemaHandler
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, core_schema

from fedrec.errors import ConfigError, Fault, did_you_mean
from fedrec.plugins import Plugin, as_mapping, lookup, name_of, shown, table

NAME = re.compile(r"[a-z_]\w*", re.ASCII)


@dataclass(frozen=True)
class PluginField:
    """Marks a field that holds a plug-in: read from a name and options, written as these.

    Where its annotation allows None, there may be none.

    Args:
        kind: The table of plug-ins, see `fedrec.plugins.table`.
        default: The name where none is given.
        options: Of the plug-in of that name, where nothing else is written.
    """

    kind: str
    default: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)

    def make(self) -> Any:
        """Return the default plug-in."""
        return lookup(self.kind, self.default).model_validate(self.options)

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        """Return how pydantic reads and writes the field; its annotation says the base classes."""
        bases = get_args(source) or (source,)
        return core_schema.no_info_plain_validator_function(
            lambda value: self._read(value, bases),
            serialization=core_schema.plain_serializer_function_ser_schema(self._write),
        )

    def _read(self, value: Any, bases: tuple[type[Any], ...]) -> Plugin | None:
        if value is None and NoneType in bases:
            return None
        options = as_mapping(value)
        if not isinstance(options, Mapping):
            advice = "; give a table as fedrec.data.Frame.of(table)" * (self.kind == "data")
            raise ValueError(f"expected a mapping with a 'name', got {shown(value)}{advice}")
        name = options.get("name", self.default)
        if not name:
            raise ValueError(f"the key 'name' is missing{did_you_mean('', table(self.kind))}")
        if not isinstance(name, str | type):
            raise ValueError(f"name: expected text, got {shown(name)}")
        plugin = lookup(self.kind, name)
        if not issubclass(plugin, bases):
            label = name if isinstance(name, str) else name.__qualname__
            kinds = (base for base in bases if base is not NoneType)
            expected = " or ".join(f"{base.__module__}.{base.__name__}" for base in kinds)
            message = f"{label} is not one of the {self.kind}; expected a subclass of {expected}"
            raise ValueError(message)
        if isinstance(value, Plugin):
            return value
        usual = self.options if plugin is lookup(self.kind, self.default or name) else {}
        written = {key: each for key, each in options.items() if key != "name"}
        return plugin.model_validate({**usual, **written})

    def _write(self, plugin: Plugin | None) -> dict[str, Any] | None:
        return (
            None
            if plugin is None
            else {"name": name_of(self.kind, plugin), **plugin.model_dump(mode="json")}
        )


def is_of_plugin(field: FieldInfo) -> bool:
    """Return whether a field of a section holds a plug-in."""
    return any(type(each) is PluginField for each in field.metadata)


@dataclass(frozen=True)
class PluginsField(PluginField):
    """Marks a field that maps names of the user's to plug-ins."""

    def _read(self, value: Any, bases: tuple[Any, ...]) -> Any:
        if not isinstance(value, Mapping):
            raise ValueError(f"expected a mapping of names to plug-ins, got {shown(value)}")
        plugins, faults = {}, []
        for name, each in value.items():
            if not isinstance(name, str) or not NAME.fullmatch(name):
                faults.append(Fault(shown(name), "expected a name of letters, digits and _"))
                continue
            try:
                plugins[name] = super()._read(each, get_args(bases[-1]) or bases[-1:])
            except ConfigError as error:
                faults += [Fault(f"{name}.{where}".rstrip("."), f) for where, f in error.faults]
            except ValueError as error:
                faults.append(Fault(name, str(error)))
        if faults:
            raise ConfigError(*faults)
        return plugins

    def _write(self, plugins: Any) -> dict[str, Any]:
        return {name: super(PluginsField, self)._write(each) for name, each in plugins.items()}


@dataclass(frozen=True)
class PluginListField(PluginField):
    """Marks a field that holds plug-ins in an order."""

    def _read(self, value: Any, bases: tuple[Any, ...]) -> Any:
        if not isinstance(value, list | tuple):
            raise ValueError(f"expected a list of plug-ins, got {shown(value)}")
        plugins, faults = [], []
        for place, each in enumerate(value):
            try:
                plugins.append(super()._read(each, get_args(bases[0]) or bases[:1]))
            except ConfigError as error:
                faults += [Fault(f"{place}.{where}".rstrip("."), f) for where, f in error.faults]
            except ValueError as error:
                faults.append(Fault(str(place), str(error)))
        if faults:
            raise ConfigError(*faults)
        return tuple(plugins)

    def _write(self, plugins: Any) -> Any:
        return [super(PluginListField, self)._write(each) for each in plugins]
