"""The tables of a report, as data frames with what a reader must know beside them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from fedrec.report.labels import values_differ
from fedrec.report.runs import Group, Selection, pretty_metric

__all__ = ["NO_VALUE", "Table", "costs", "numbers", "results", "runs", "spread"]

FEW = 3
NO_VALUE = "–"
KILO = 1000.0


@dataclass(frozen=True, slots=True)
class Table:
    """A table as text.

    Args:
        title: What it shows.
        frame: Strings, one row per line, the row's name in the first column.
        kinds: Per row ``federated``, ``view`` (a further score of the row above),
            ``centralised``, ``legacy`` or ``unfinished``.
        words: How many of the first columns hold words; the others hold numbers.
        notes: What a reader must know.
        hints: Per row a longer description of its name.
    """

    title: str
    frame: pd.DataFrame
    kinds: tuple[str, ...]
    words: int = 1
    notes: tuple[str, ...] = ()
    hints: tuple[str, ...] = ()


def spread(values: Sequence[float], digits: int = 4) -> str:
    """Return mean and sample standard deviation: ``0.0789 ± 0.0023``; a dash for no value."""
    if not values:
        return NO_VALUE
    mean = f"{np.mean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {np.std(values, ddof=1):.{digits}f}"


def _metrics(groups: Iterable[Group]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for group in groups for name in group.metric_names))


def results(selection: Selection, section: Sequence[Group]) -> Table:
    """Return the test metrics of each group at the round that validation chose.

    Rows of further views (PLGC's global and local score) follow their method.

    Args:
        selection: All runs, whose notes the table carries where they concern the section.
        section: Groups with the same data, split and protocol.
    """
    metrics, chooser = _metrics(section), section[0].chooser
    valid = f"Validation {pretty_metric(chooser)}"
    rows, kinds, hints = [], [], []
    for group in section:
        row = {
            "Method": group.title,
            "Seeds": _several([run.seed for run in group.runs]),
            "Best round": _several([run.result.best_round for run in group.runs]),
            valid: spread(group.values("valid", chooser)),
        }
        row |= {pretty_metric(m): spread(group.values("test", m)) for m in metrics}
        rows.append(row)
        for view in group.first.result.metrics.views:
            scores = {pretty_metric(m): spread(group.values("test", m, view)) for m in metrics}
            rows.append({"Method": f"↳ {view} score alone", **scores})
        views = len(group.first.result.metrics.views)
        kinds += [group.kind, *["view"] * views]
        hints += [hint(group, selection.groups), *[""] * views]
    first = section[0].first
    where = f"{first.result.data}, {protocol(section[0])}"
    return Table(
        f"Test metrics on {where}",
        pd.DataFrame(rows).fillna(""),
        tuple(kinds),
        2,
        _notes(selection, section),
        tuple(hints),
    )


def protocol(group: Group) -> str:
    """Return how the numbers of a group were made; the legacy protocol is said aloud."""
    result = group.first.result
    ranking = result.ranking if " " in result.ranking else f"{result.ranking} ranking"
    split = str(group.settings.get("data.split.name", "")).replace("_", " ")
    words = "LEGACY protocol (leaks)" if group.legacy else f"{result.protocol} protocol"
    return ", ".join(filter(None, [split, words, ranking]))


def hint(group: Group, groups: Sequence[Group]) -> str:
    """Return every setting in which a group differs from others."""
    configs = [each.settings for each in groups]
    keys = [key for key in group.settings if values_differ(key, configs)]
    return "; ".join(f"{key} = {group.settings[key]}" for key in keys)


def _several(values: Sequence[int | None]) -> str:
    """Return a few numbers as they are, many as their range."""
    numbers = [value for value in values if value is not None]
    if len(numbers) > FEW:
        return f"{min(numbers)} to {max(numbers)} ({len(numbers)})"
    return ", ".join(map(str, numbers)) or NO_VALUE


def _notes(selection: Selection, section: Sequence[Group]) -> tuple[str, ...]:
    chooser = pretty_metric(section[0].chooser)
    notes = [
        f"sorted by {chooser} on validation; test values are those of the round with the best "
        f"{chooser} on validation",
        "mean ± sample standard deviation over seeds; one seed has no spread",
    ]
    if section[0].legacy:
        notes.append(
            "LEGACY protocol: training negatives leave out held-out items and few candidates are "
            "ranked. These rows only reproduce published numbers; do not compare them with others."
        )
    if any(group.centralised for group in section):
        notes.append("[centralised] rows saw the train data of all users in one place")
    if len(selection.sections) > 1:
        notes.append("tables with other data, split or protocol are not comparable with this one")
    return (*notes, *(f"{group.label}: {note}" for group in section for note in group.notes))


def numbers(selection: Selection) -> pd.DataFrame:
    """Return the results as numbers, for further analysis: one row per method and view.

    Returns:
        Means and sample standard deviations (``… sd``; empty for one seed) of validation and
        test metrics, under their names in the configuration, and the settings that differ.
    """
    rows = []
    configs = [group.settings for group in selection.groups]
    keys = list(dict.fromkeys(key for config in configs for key in config))
    differing = [key for key in keys if values_differ(key, configs)]
    for group in (group for section in selection.sections for group in section):
        for view in ("mixed", *group.first.result.metrics.views):
            row: dict[str, Any] = {
                "method": group.label,
                "kind": group.kind,
                "view": view,
                "data": group.first.result.data,
                "protocol": protocol(group),
                "seeds": " ".join(str(run.seed) for run in group.runs),
                "best_rounds": " ".join(str(run.result.best_round or "") for run in group.runs),
            }
            parts = ("valid", "test") if view == "mixed" else ("test",)
            for part in parts:
                for metric in _metrics(selection.groups):
                    values = group.values(part, metric, view)
                    row[f"{part} {metric}"] = np.mean(values) if values else None
                    sd = np.std(values, ddof=1) if len(values) > 1 else None
                    row[f"{part} {metric} sd"] = sd
            row["warnings"] = "; ".join(group.notes)
            rows.append(row | {key: group.settings.get(key) for key in differing})
    return pd.DataFrame(rows)


def costs(groups: Sequence[Group]) -> Table:
    """Return rounds, wall time, throughput and traffic of a run; means over seeds."""
    rows = []
    for group in groups:
        each = [run.result for run in group.runs]
        row = {
            "Method": group.title,
            "Engine": _engine(each[0].engine),
            "Rounds": _mean([r.rounds for r in each], "{:.0f}"),
        }
        for part in ("train", "evaluate", "total"):
            row[f"{part.capitalize()} s"] = _mean([r.seconds.get(part) for r in each], "{:,.1f}")
        row["Clients/s"] = _mean([r.clients_per_second for r in each], "{:,.0f}")
        for way in ("up", "down"):
            row[way.capitalize()] = _size([r.bytes.get(way) for r in each])
        rows.append(row)
    notes = (
        "wall time; clients trained per second of training; what all clients send (up) "
        "and receive (down) to train, over the whole run",
    )
    kinds = tuple(group.kind for group in groups)
    return Table("Cost of one run", pd.DataFrame(rows), kinds, 2, notes)


def _engine(engine: Mapping[str, Any]) -> str:
    words = [str(engine["name"])] if "name" in engine else []
    for name, word in (("workers", "worker"), ("nodes", "node")):
        if engine.get(name) is not None:
            words.append(f"{engine[name]} {word}{'' if engine[name] == 1 else 's'}")
    return ", ".join(words) or NO_VALUE


def _mean(values: Sequence[float | None], form: str) -> str:
    numbers = [float(value) for value in values if value is not None]
    return form.format(np.mean(numbers)) if numbers else NO_VALUE


def _size(values: Sequence[float | None]) -> str:
    numbers = [float(value) for value in values if value is not None]
    if not numbers:
        return NO_VALUE
    size = float(np.mean(numbers))
    for unit in ("B", "kB", "MB", "GB"):
        if size < KILO:
            return f"{size:.3g} {unit}"
        size /= KILO
    return f"{size:,.3g} TB"


def runs(groups: Sequence[Group]) -> Table:
    """Return one row per run: folder, seed, status, digest, commit, when."""
    rows, kinds = [], []
    for group in groups:
        for run in group.runs:
            result = run.result
            commit, _, dirty = (result.commit or NO_VALUE).partition("+")
            row = {
                "Folder": run.folder.path.resolve().name,
                "Method": group.title,
                "Seed": str(run.seed),
                "Status": result.status.replace("_", " "),
                "Warnings": str(len(result.warnings)) if result.warnings else NO_VALUE,
                "Digest": (result.digest or NO_VALUE)[:16],
                "Commit": commit[:12] + (f"+{dirty}" if dirty else ""),
                "Started": _moment(result.started),
                "Finished": _moment(result.finished),
            }
            rows.append(row)
            kinds.append(group.kind)
    note = "the digest is of the shared parameters after the last round; equal means same bits"
    frame = pd.DataFrame(rows)
    return Table("Runs", frame, tuple(kinds), len(frame.columns), (note,))


def _moment(value: str | None) -> str:
    return value.replace("T", " ")[:19] if value else NO_VALUE
