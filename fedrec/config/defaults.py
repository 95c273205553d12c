"""What a model and a strategy bring as defaults, below what the user wrote."""

from collections.abc import Mapping
from typing import Any

from fedrec.errors import ConfigError
from fedrec.plugins import Plugin, as_mapping, lookup

__all__ = ["with_plugin_defaults"]

COHORT = {"cohort_size", "cohort_fraction"}


def with_plugin_defaults(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return an experiment with the defaults of its strategy and of its model filled in.

    What is written wins over `Plugin.defaults` of the strategy, and that over the model's. The
    strategy's options are filled in only where the strategy is the one that the model names.

    Args:
        document: The experiment as it is written: sections are mappings, names or values.
    """
    chosen = dict(document)
    model = _class_of("models", chosen.get("model", "mf"), "mf")
    usual = model.defaults.get("strategy", {})
    if not model.defaults:
        return chosen
    written = chosen.get("strategy", {})
    strategy = _class_of("strategies", written, usual.get("name", ""))
    if strategy is _class_of("strategies", usual):
        chosen["strategy"] = _merged(usual, written)
    for plugin in (strategy, model):
        for section, defaults in plugin.defaults.items():
            if section != "strategy":
                chosen[section] = _merged(defaults, chosen.get(section, {}))
    return chosen


def _class_of(kind: str, value: Any, default: str = "") -> type[Plugin]:
    """Return the class that a section names; `Plugin` if there is none, which its field reports."""
    value = as_mapping(value)
    name = value.get("name", default) if isinstance(value, Mapping) else None
    try:
        return lookup(kind, name) if isinstance(name, str | type) else Plugin
    except ConfigError:
        return Plugin


def _merged(below: Mapping[str, Any], above: Any) -> Any:
    """Return values above others, at any depth; what is no mapping stays."""
    written = as_mapping(above)
    if not isinstance(written, Mapping):
        return above
    replaced = COHORT if COHORT & set(written) else set()
    merged = {key: value for key, value in below.items() if key not in replaced}
    for key, value in written.items():
        inner = merged.get(key)
        merged[key] = _merged(inner, value) if isinstance(inner, Mapping) else value
    return merged
