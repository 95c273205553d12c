"""Read and write the fields of an experiment that hold a plug-in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BeforeValidator, PlainSerializer

from fedrec.errors import did_you_mean
from fedrec.plugins import Plugin, lookup, name_of, table
from fedrec.plugins.faults import shown

__all__ = ["dump_plugin", "resolve_plugin"]


def resolve_plugin(kind: str, default: str = "", *bases: type[Plugin]) -> BeforeValidator:
    """Return the validator that makes a plug-in of its name and its options.

    Args:
        kind: The table of plug-ins, see `fedrec.plugins.table`.
        default: The name where none is given.
        bases: The plug-in must be an instance of one of these.
    """

    def resolve(value: Any) -> Plugin:
        if isinstance(value, Plugin):
            check(type(value), type(value).__qualname__)
            return value
        if isinstance(value, str):
            value = {"name": value}
        if not isinstance(value, Mapping):
            advice = "; give a table as fedrec.data.Frame.of(table)" if kind == "data" else ""
            raise ValueError(f"expected a mapping with a 'name', got {shown(value)}{advice}")
        name = value.get("name", default)
        if not name:
            raise ValueError(f"the key 'name' is missing{did_you_mean('', table(kind))}")
        if not isinstance(name, str):
            raise ValueError(f"name: expected text, got {shown(name)}")
        plugin = lookup(kind, name)
        check(plugin, name)
        return plugin.model_validate({key: item for key, item in value.items() if key != "name"})

    def check(plugin: type[Plugin], name: str) -> None:
        if bases and not issubclass(plugin, bases):
            expected = " or ".join(f"{base.__module__}.{base.__name__}" for base in bases)
            raise ValueError(f"{name} is not one of the {kind}; expected a subclass of {expected}")

    return BeforeValidator(resolve)


def dump_plugin(kind: str) -> PlainSerializer:
    """Return the serializer that writes a plug-in as its name and its options.

    Args:
        kind: The table of plug-ins.
    """

    def dump(plugin: Plugin) -> dict[str, Any]:
        return {"name": name_of(kind, plugin), **plugin.model_dump(mode="json")}

    return PlainSerializer(dump)
