"""The tables of a report, as data frames with what a reader must know beside them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from rich.filesize import decimal
from scipy.special import stdtrit

from fedrec.report.labels import differing
from fedrec.report.runs import Group, Selection, pretty_metric

__all__ = [
    "Table",
    "all_results",
    "costs",
    "frame_of",
    "interval",
    "numbers",
    "paired",
    "results",
    "runs",
]

FEW = 3
LEVEL = 0.95
NO_VALUE = "–"


@dataclass(frozen=True, slots=True)
class Table:
    """A table as text.

    Args:
        title: What it shows.
        frame: Strings. The index says of each row whether it is ``federated``, a ``view`` (a
            further score of the row above), ``centralised``, ``legacy`` or ``unfinished``.
        words: How many of the first columns hold words; the others hold numbers.
        notes: What a reader must know.
    """

    title: str
    frame: pd.DataFrame
    words: int = 1
    notes: tuple[str, ...] = ()


def all_results(selection: Selection, baseline: str | None = None) -> list[Table]:
    """Return the results and the paired comparison of each section, and what was left out.

    Args:
        selection: All runs.
        baseline: As in `Selection.baseline`.
    """
    tables = []
    for section in selection.sections:
        tables.append(results(selection, section))
        chosen = selection.baseline(section, baseline)
        if chosen is not None and (compared := paired(section, chosen)) is not None:
            tables.append(compared)
    left_out = (f"left out: {reason}" for reason in selection.left_out)
    return [replace(tables[0], notes=(*tables[0].notes, *left_out)), *tables[1:]]


def results(selection: Selection, section: Sequence[Group]) -> Table:
    """Return the test metrics of each group at the round that validation chose.

    Rows of further views (PLGC's global and local score) follow their method.

    Args:
        selection: All runs, whose notes the table carries where they concern the section.
        section: Groups with the same data, split and protocol.
    """
    metrics, best = _metrics(section), section[0]
    chooser = pretty_metric(best.chooser)
    rows = []
    for group in section:
        row = {
            "kind": group.kind,
            "Method": group.title,
            "Seeds": _several([run.seed for run in group.runs]),
            "Best round": _several(group.values("best_round")),
            f"Validation {chooser}": spread(group.valid),
        }
        rows.append(row | {m: spread(group.values(f"metrics.test.{m}")) for m in metrics})
        for view in group.first.result["metrics"]["views"]:
            scores = {m: spread(group.values(f"metrics.views.{view}.{m}")) for m in metrics}
            rows.append({"kind": "view", "Method": f"↳ {view} score alone", **scores})
    frame = frame_of(rows).fillna("").rename(columns={m: pretty_metric(m) for m in metrics})
    notes = [
        f"sorted by {chooser} on validation; test values are those of the round with the best "
        f"{chooser} on validation",
        "mean ± sample standard deviation over seeds; one seed has no spread",
    ]
    if best.kind == "legacy":
        notes.append(
            "LEGACY protocol: training negatives leave out held-out items and few candidates are "
            "ranked. These rows only reproduce published numbers; do not compare them with others."
        )
    if any(group.centralised for group in section):
        notes.append("[centralised] rows saw the train data of all users in one place")
    if len(selection.sections) > 1:
        notes.append("tables with other data, split or protocol are not comparable with this one")
    notes += [f"{group.label}: {note}" for group in section for note in group.notes]
    title = f"Test metrics on {best.first.result['data']}, {best.protocol}"
    return Table(title, frame, 2, tuple(notes))


def paired(section: Sequence[Group], baseline: Group) -> Table | None:
    """Compare each finished group with a baseline, user by user.

    The unit is the user; seeds are averaged first, so the interval is about users, not seeds.

    Args:
        section: Groups with the same data, split and protocol.
        baseline: One of them.

    Returns:
        The table, or None where nothing can be compared.
    """
    metric, column = pretty_metric(baseline.chooser), f"test.{baseline.chooser}"
    reference = baseline.users.reindex(columns=["n_train", column]).dropna()
    rows, refused = [], []
    for group in section if baseline.first.finished else ():
        users = group.users.reindex(columns=reference.columns).dropna()
        if group is baseline or not group.first.finished:
            continue
        if len(users) <= 1:
            refused.append(f"{group.label}: not compared, its results of single users are missing")
        elif not users["n_train"].equals(reference["n_train"]):
            refused.append(f"{group.label}: not compared, its users or their train items differ")
        else:
            mean, low, high = interval((users - reference)[column].to_numpy(np.float64))
            row = {
                "kind": group.kind,
                "Method": group.title,
                metric: f"{users[column].mean():.4f}",
                "Difference": f"{mean:+.4f}",
                "95 % interval": f"[{low:+.4f}, {high:+.4f}]",
                "Result": "higher" if low > 0 else "lower" if high < 0 else "no clear difference",
            }
            rows.append(row)
    if not rows:
        return None
    notes = (
        f"paired over {len(reference):,} users, seeds averaged first: the interval covers the "
        "choice of users, not the spread over seeds; not corrected for several comparisons",
        *refused,
    )
    title = f"Test {metric} against {baseline.label} ({reference[column].mean():.4f})"
    return Table(title, frame_of(rows), 1, notes)


def interval(differences: np.ndarray) -> tuple[float, float, float]:
    """Return the mean of paired differences with its 95 % Student interval.

    Args:
        differences: float64 [n], n from 2.

    Returns:
        Mean, lower and upper end.
    """
    n = len(differences)
    mean = float(np.mean(differences))
    error = float(np.std(differences, ddof=1)) / n**0.5
    margin = float(stdtrit(n - 1, 0.5 + LEVEL / 2)) * error
    return mean, mean - margin, mean + margin


def numbers(selection: Selection) -> pd.DataFrame:
    """Return the results as numbers, for further analysis: one row per method.

    Returns:
        Means and sample standard deviations (``… sd``; empty for one seed) of all metrics, named
        as in ``per_user.parquet``: ``test.ndcg@10``; and the settings that differ.
    """
    groups = [group for section in selection.sections for group in section]
    rows = []
    for group in groups:
        row: dict[str, Any] = {
            "method": group.label,
            "kind": group.kind,
            "data": group.first.result["data"],
            "protocol": group.protocol,
            "seeds": " ".join(str(run.seed) for run in group.runs),
            "best_rounds": " ".join(f"{best:.0f}" for best in group.values("best_round")),
        }
        for metric in _metrics(groups):
            for part in (
                "valid",
                "test",
                *(f"views.{v}" for v in group.first.result["metrics"]["views"]),
            ):
                values = group.values(f"metrics.{part}.{metric}")
                column = f"{part.replace('views', 'test')}.{metric}"
                row |= {column: values.mean(), f"{column} sd": values.std()}
        rows.append(row | {"warnings": "; ".join(group.notes)})
    settings = differing([group.settings for group in groups])
    return pd.concat([pd.DataFrame(rows), settings], axis=1)


def costs(groups: Sequence[Group]) -> Table:
    """Return rounds, wall time, throughput and traffic of a run; means over seeds."""
    rows = []
    for group in groups:

        def mean(key: str, form: str = "{:,.0f}", group: Group = group) -> str:
            values = group.values(key)
            return form.format(values.mean()) if len(values) else NO_VALUE

        row = {"kind": group.kind, "Method": group.title}
        row["Engine"] = str(group.first.result.get("engine", {}).get("name", NO_VALUE))
        row |= {name.capitalize(): mean(f"engine.{name}") for name in ("workers", "nodes")}
        row["Rounds"] = mean("rounds")
        for stage in ("train", "evaluate", "total"):
            row[f"{stage.capitalize()} s"] = mean(f"seconds.{stage}", "{:,.1f}")
        row["Clients/s"] = mean("clients_per_second")
        for way in ("up", "down"):
            sent = group.values(f"bytes.{way}")
            row[way.capitalize()] = decimal(round(sent.mean())) if len(sent) else NO_VALUE
        rows.append(row)
    note = (
        "wall time; clients trained per second of training; what all clients send (up) "
        "and receive (down) to train, over the whole run"
    )
    return Table("Cost of one run", frame_of(rows), 2, (note,))


def runs(groups: Sequence[Group]) -> Table:
    """Return one row per run: folder, seed, status, digest, commit, when."""
    rows = []
    for group in groups:
        for run in group.runs:
            commit, _, dirty = (run.result.get("commit") or NO_VALUE).partition("+")
            row = {
                "kind": group.kind,
                "Folder": run.folder.path.resolve().name,
                "Method": group.title,
                "Seed": str(run.seed),
                "Status": run.result["status"].replace("_", " "),
                "Warnings": str(len(run.result.get("warnings", ())) or NO_VALUE),
                "Digest": (run.result.get("digest") or NO_VALUE)[:16],
                "Commit": commit[:12] + (f"+{dirty}" if dirty else ""),
            }
            for moment in ("started", "finished"):
                stamp = run.result.get(moment) or NO_VALUE
                row[moment.capitalize()] = stamp.replace("T", " ")[:19]
            rows.append(row)
    note = "the digest is of the shared parameters after the last round; equal means same bits"
    frame = frame_of(rows)
    return Table("Runs", frame, len(frame.columns), (note,))


def spread(values: pd.Series[float]) -> str:
    """Return mean and sample standard deviation: ``0.0789 ± 0.0023``; a dash for no value."""
    if not len(values):
        return NO_VALUE
    return f"{values.mean():.4f}" + (f" ± {values.std():.4f}" if len(values) > 1 else "")


def _metrics(groups: Iterable[Group]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for group in groups for name in group.first.metrics))


def frame_of(rows: Sequence[dict[str, str]]) -> pd.DataFrame:
    """Return rows as the frame of a `Table`; ``kind`` becomes the index."""
    return pd.DataFrame(rows, dtype=object).set_index("kind")


def _several(values: Iterable[float]) -> str:
    """Return a few whole numbers as they are, many as their range."""
    texts = [f"{value:.0f}" for value in values]
    if len(texts) > FEW:
        return f"{min(texts, key=int)} to {max(texts, key=int)} ({len(texts)})"
    return ", ".join(texts) or NO_VALUE
