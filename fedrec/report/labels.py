"""Labels of experiments: the settings in which they differ, and no others."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

__all__ = ["flatten", "labels", "values_differ"]

NAMES = ("model.name", "personalization.name", "strategy.name")
SECTIONS = ("model", "personalization", "strategy", "train", "rounds", "clients")
FEDERATED = ("personalization", "strategy", "train", "rounds", "clients")
MAX_SEARCHED = 3
MAX_LENGTH = 24
ABSENT = "none"


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Return the settings of a configuration by dotted key."""
    if not isinstance(value, Mapping):
        return {prefix: value}
    settings: dict[str, Any] = {}
    for key, item in value.items():
        settings |= flatten(item, f"{prefix}.{key}" if prefix else str(key))
    return settings


def values_differ(key: str, configs: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether a setting has more than one value among some configurations."""
    return len({_text(config.get(key)) for config in configs}) > 1


def labels(configs: Sequence[Mapping[str, Any]], centralised: Sequence[bool]) -> tuple[str, ...]:
    """Return a label for each experiment, unique and as short as that allows.

    A label names model, personalization and strategy where they differ. Experiments that share
    those also name the smallest set of further settings that tells them apart, those of the model
    before those of the training, those of the data last, where their value is not that of most.

    Args:
        configs: Flat settings, as `flatten` returns them.
        centralised: Whether each is a centralised baseline, which has no strategy.

    Returns:
        One label each. Two experiments get the same one only where no setting differs.
    """
    shown = [
        {key: value for key, value in config.items() if not (alone and _section(key) in FEDERATED)}
        for config, alone in zip(configs, centralised, strict=True)
    ]
    names = [key for key in NAMES if values_differ(key, shown)]
    by_names: dict[tuple[str, ...], list[int]] = {}
    for index, config in enumerate(shown):
        by_names.setdefault(tuple(_text(config.get(key)) for key in names), []).append(index)
    texts = [""] * len(shown)
    for members in by_names.values():
        same = [shown[index] for index in members]
        more = _telling(same) if len(members) > 1 else ()
        usual = {key: _majority(key, same) for key in more}
        for index in members:
            own = [key for key in more if _text(shown[index].get(key)) != usual[key]]
            texts[index] = _label(shown[index], names, own, shown)
    return tuple(texts)


def _label(
    config: Mapping[str, Any],
    names: Sequence[str],
    more: Sequence[str],
    configs: Sequence[Mapping[str, Any]],
) -> str:
    # "none" is left out beside other names: a model without personalization is just the model.
    present = [key for key in names if config.get(key) is not None]
    beside = [key for key in present if config[key] != ABSENT]
    words = [_value(key, config, configs) for key in beside]
    if not words:
        words = [f"no {_section(key)}" for key in present]
    head = [" + ".join(words)] if words else []
    return ", ".join([*head, *(_setting(key, config, configs) for key in more)])


def _setting(key: str, config: Mapping[str, Any], configs: Sequence[Mapping[str, Any]]) -> str:
    """Return one setting as text, its key and value abbreviated where that stays unambiguous."""
    every = {name.removesuffix(".name") for each in configs for name in each}
    words = key.removesuffix(".name").split(".")
    for length in range(1, len(words) + 1):
        end = ".".join(words[-length:])
        if sum(name == end or name.endswith(f".{end}") for name in every) == 1:
            break
    return f"{end}={_value(key, config, configs)}"


def _telling(configs: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Return the smallest set of settings that tells configurations apart, in order of interest."""
    keys = dict.fromkeys(key for config in configs for key in config)
    differing = sorted((key for key in keys if values_differ(key, configs)), key=_rank)

    def distinct(chosen: Sequence[str]) -> int:
        return len({tuple(_text(config.get(key)) for key in chosen) for config in configs})

    most = distinct(differing)
    for size in range(1, MAX_SEARCHED + 1):
        for chosen in combinations(differing, size):
            if distinct(chosen) == most:
                return chosen
    picked: list[str] = []
    while distinct(picked) < most:
        picked.append(max(differing, key=lambda key: distinct([*picked, key])))
    return tuple(sorted(picked, key=_rank))


def _majority(key: str, configs: Sequence[Mapping[str, Any]]) -> str | None:
    """Return the value that most of the configurations share: it need not be said."""
    [(value, count)] = Counter(_text(config.get(key)) for config in configs).most_common(1)
    return value if 2 * count > len(configs) else None


def _section(key: str) -> str:
    return key.partition(".")[0]


def _rank(key: str) -> tuple[int, bool, int]:
    section = _section(key)
    last = len(SECTIONS) + (section == "data")
    place = SECTIONS.index(section) if section in SECTIONS else last
    return place, not key.endswith(".name"), key.count(".")


def _value(key: str, config: Mapping[str, Any], configs: Sequence[Mapping[str, Any]]) -> str:
    """Return a value as text; of a long path or reference its end, where no other has the same."""
    text = _text(config.get(key))
    others = {_text(each.get(key)) for each in configs} - {text}
    if len(text) > MAX_LENGTH or ":" in text:
        starts = [match.end() for match in re.finditer(r"[/\\:]", text)]
        for start in reversed(starts):
            if not any(other.endswith(text[start:]) for other in others):
                return text[start:]
    return text


def _text(value: Any) -> str:
    if value is None:
        return ABSENT
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    if isinstance(value, list):
        return "[" + ", ".join(map(_text, value)) + "]"
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)
