"""What a model and a strategy bring as defaults, below what the user wrote."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedrec.errors import ConfigError
from fedrec.plugins import Plugin, Section, lookup, name_of

__all__ = ["with_plugin_defaults"]

COHORT = {"cohort_size", "cohort_fraction"}


def with_plugin_defaults(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return an experiment with the defaults of its strategy and of its model filled in.

    What is written wins over `Plugin.defaults` of the strategy, and that over the model's. The
    strategy's options are filled in only where the strategy is the one that the model names.

    Args:
        document: The experiment as it is written: sections are mappings, names or values.
    """
    model = _plugin_class("models", document.get("model", "mf"))
    if model is None or not model.defaults:
        return dict(document)
    chosen = dict(document)
    usual = model.defaults.get("strategy", {})
    written = _written(chosen.get("strategy", {}), "strategies")
    if isinstance(written, Mapping) and written.get("name", usual.get("name")) == usual.get("name"):
        chosen["strategy"] = _merged(usual, written)
    strategy = _plugin_class("strategies", chosen.get("strategy"))
    for plugin in (strategy, model):
        for section, defaults in (plugin.defaults if plugin else {}).items():
            if section != "strategy":
                written = _written(chosen.get(section, {}))
                if isinstance(written, Mapping):
                    chosen[section] = _merged(defaults, written)
    return chosen


def _plugin_class(kind: str, value: Any) -> type[Plugin] | None:
    """The class that a section names; None if there is none, which its field reports."""
    if isinstance(value, Plugin):
        return type(value)
    usual = "mf" if kind == "models" else None
    name = value.get("name", usual) if isinstance(value, Mapping) else value
    try:
        return lookup(kind, name) if isinstance(name, str) else None
    except ConfigError:
        return None


def _written(value: Any, kind: str = "") -> Any:
    """What the user wrote of a section, as a mapping where it is one."""
    if isinstance(value, Section):
        name = {"name": name_of(kind, value)} if isinstance(value, Plugin) else {}
        return {**name, **value.model_dump(exclude_unset=True)}
    return {"name": value} if isinstance(value, str) else value


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    skipped = COHORT if COHORT & set(above) else set()
    merged = {key: value for key, value in below.items() if key not in skipped}
    for key, value in above.items():
        inner, value = merged.get(key), _written(value) if isinstance(value, Section) else value
        both = isinstance(inner, Mapping) and isinstance(value, Mapping)
        merged[key] = _merged(inner, value) if both else value  # type: ignore[arg-type]
    return merged
