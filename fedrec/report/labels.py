"""Labels of experiments: the settings in which they differ, and no others."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

NAMES = ("model.name", "personalization.name", "strategy.name")
FEDERATED = ("personalization", "strategy", "train", "rounds", "clients")
SECTIONS = ("model", *FEDERATED)
ABSENT = "none"


def differing(settings: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return the settings that differ, as text, the most interesting first.

    Args:
        settings: Of each experiment by dotted key.

    Returns:
        One row per experiment, one column per key; ``none`` where it is not set.
    """
    rows = [{key: _text(value) for key, value in each.items()} for each in settings]
    frame = pd.DataFrame(rows, dtype=object).fillna(ABSENT)
    frame = frame.loc[:, frame.nunique() > 1]
    keys = sorted(map(str, frame), key=_interest)
    return frame[keys]


def labels(settings: Sequence[Mapping[str, Any]], centralised: Sequence[bool]) -> list[str]:
    """Return a label for each experiment, which no other has unless no setting differs.

    A label names model, personalization and strategy where they differ between the federated
    experiments, and of the settings that are needed to tell all apart those whose value is not
    that of most experiments of the same names.

    Args:
        settings: Of each experiment by dotted key.
        centralised: Whether each is a centralised baseline, which has no strategy.
    """
    used = [
        {key: value for key, value in each.items() if not (alone and _section(key) in FEDERATED)}
        for each, alone in zip(settings, centralised, strict=True)
    ]
    frame = differing(used).apply(lambda values: values.map(_ends(values, r"[/\\:](?=\w)")))
    federated = differing(
        [each for each, alone in zip(used, centralised, strict=True) if not alone]
    )
    names = [key for key in NAMES if key in (frame if key == "model.name" else federated)]
    heads = [_head(names, row) for row in _rows(frame[names])]
    short = _ends([key.removesuffix(".name") for each in used for key in each], "[.]")
    columns = [pd.Series(heads, dtype=object)]
    for key in _telling(frame, names):
        usual = frame[key].groupby(heads).transform(_majority)
        said = f"{short[key.removesuffix('.name')]}=" + frame[key]
        columns.append(said.where(frame[key] != usual, ""))
    return [", ".join(filter(None, parts)) for parts in zip(*columns, strict=True)]


def _head(keys: Sequence[str], names: Sequence[str]) -> str:
    """Return the names, without those that are "none" unless all are."""
    words = [name for name in names if name != ABSENT]
    return " + ".join(words or [f"no {_section(key)}" for key in keys])


def _telling(frame: pd.DataFrame, names: Sequence[str]) -> list[str]:
    """Return a set of further settings that tells all rows apart, and of which none can go."""

    def distinct(keys: Sequence[str]) -> int:
        return len({*_rows(frame[[*names, *keys]])})

    chosen: list[str] = []
    for key in map(str, frame.drop(columns=[*names])):
        if distinct([*chosen, key]) > distinct(chosen):
            chosen.append(key)
    for key in tuple(chosen):
        fewer = [each for each in chosen if each != key]
        if distinct(fewer) == distinct(chosen):
            chosen = fewer
    return chosen


def _rows(frame: pd.DataFrame) -> list[tuple[str, ...]]:
    return [tuple(row) for row in frame.to_numpy()]


def _majority(values: "pd.Series[str]") -> str:
    """Return the value of more than half of the rows, which need not be said, or ""."""
    counts = values.value_counts()
    return str(counts.index[0]) if 2 * counts.iloc[0] > len(values) else ""


def _ends(texts: Iterable[str], separator: str) -> dict[str, str]:
    """Return the shortest end of each text, after a separator, that no other text has."""
    every = set(texts)
    ends = {}
    for text in every:
        starts = [match.end() for match in re.finditer(separator, text)]
        candidates = [text[start:] for start in reversed(starts)]
        unique = (e for e in candidates if not any(t.endswith(e) for t in every - {text}))
        ends[text] = next(unique, text)
    return ends


def _interest(key: str) -> tuple[int, bool]:
    section = _section(key)
    after = len(SECTIONS) + (section == "data")
    place = SECTIONS.index(section) if section in SECTIONS else after
    return place, not key.endswith(".name")


def _section(key: str) -> str:
    return key.partition(".")[0]


def _text(value: Any) -> str:
    """Return a value as it stands in YAML."""
    if value is None:
        return ABSENT
    return value if value and isinstance(value, str) else json.dumps(value, default=str)
