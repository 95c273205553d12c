"""The tables of a report, with what a reader must know beside them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import pandas as pd
from rich.filesize import decimal
from scipy.special import stdtrit

from fedrec.evaluation.slices import sliced
from fedrec.report.labels import differing
from fedrec.report.runs import Group, Selection, Values, pretty_metric
from fedrec.runs.folder import BEFORE_END

FEW = 3
LEVEL = 0.95
NO_VALUE = "–"
COSTS = {
    "engine.workers": "Workers",
    "engine.nodes": "Nodes",
    "rounds": "Rounds",
    "seconds.train": "Train s",
    "seconds.evaluate": "Evaluate s",
    "seconds.total": "Total s",
    "clients_per_second": "Clients/s",
    "bytes.up": "Up",
    "bytes.down": "Down",
    "bytes_per_client.up": "Up per client",
    "bytes_per_client.down": "Down per client",
}
VIRTUAL = {
    "virtual.to_best_round": "Virtual h to best round",
    "virtual.seconds": "Virtual h",
}
SLICES = {
    "head": "head items among warm items",
    "tail": "tail items among warm items",
    "cold": "cold items among themselves",
    "cold_among_all": "cold items among all items",
}


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
        if (ended := changed_at_end(section)) is not None:
            tables.append(ended)
        tables += all_slices(section, chosen)
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
            rows.append({"kind": "view", "Method": _of_view(view), **scores})
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


def _of_view(view: str) -> str:
    """Return what a row of another view than the method's own is called."""
    return "↳ before the end" if view == BEFORE_END else f"↳ {view} score alone"


def changed_at_end(section: Sequence[Group]) -> Table | None:
    """Compare the end of each finished group with its chosen round, user by user.

    Args:
        section: Groups with the same data, split and protocol.

    Returns:
        The table, or None where no group trains at the end.
    """
    label, rows = section[0].first.metrics[0], []
    metric, columns = pretty_metric(label), [f"test.{label}", f"test.{BEFORE_END}.{label}"]
    for group in section:
        users = group.users.reindex(columns=columns).dropna()
        if len(users) > 1 and group.first.finished:
            row = {
                "kind": group.kind,
                "Method": group.title,
                "Before": f"{users.iloc[:, 1].mean():.4f}",
            }
            rows.append(row | _difference(metric, users.iloc[:, 0], users.iloc[:, 1]))
    notes = ("paired over users, seeds averaged first, as where methods are compared",)
    return (
        Table(f"Test {metric} at the end against the chosen round", frame_of(rows), 1, notes)
        if rows
        else None
    )


def _difference(metric: str, values: Values, reference: Values) -> dict[str, Any]:
    """Return the columns that compare values of users with others of theirs."""
    mean, low, high = interval(values - reference)
    return {
        metric: f"{values.mean():.4f}",
        "Difference": f"{mean:+.4f}",
        "95 % interval": f"[{low:+.4f}, {high:+.4f}]",
        "Result": "higher" if low > 0 else "lower" if high < 0 else "no clear difference",
    }


def all_slices(section: Sequence[Group], baseline: Group | None) -> list[Table]:
    """Return the results and the paired comparison of each slice that was measured.

    Args:
        section: Groups with the same data, split and protocol.
        baseline: What the others are compared with; None: nothing.
    """
    tables: list[Table | None] = []
    for name in dict.fromkeys(name for group in section for name in group.first.slices):
        members = [group for group in section if name in group.first.slices]
        tables.append(slice_results(members, name))
        if baseline in members:
            tables.append(paired(members, baseline, name))
    return [table for table in tables if table is not None]


def slice_results(section: Sequence[Group], name: str) -> Table:
    """Return the test metrics of a slice, with the level of chance in the last row.

    Args:
        section: Groups with the same data, split and protocol, that have the slice.
        name: The slice.
    """
    metrics, first = _metrics(section, name), section[0]
    title, label = pretty_metric(first.first.metrics[0]), sliced(first.first.metrics[0], name)
    level = first.values(f"reference.chance.test.{label}").mean()
    rows = []
    for group in section:
        views = {f"views.{view}": view for view in group.first.result["metrics"]["views"]}
        for part, view in {"test": "", **views}.items():
            values = group.values(f"metrics.{part}.{label}")
            row = {"kind": "view" if view else group.kind, "Method": _of_view(view)}
            if not view:
                row["Method"] = group.title
                row[f"Validation {title}"] = spread(group.values(f"metrics.valid.{label}"))
            row |= {m: spread(group.values(f"metrics.{part}.{m}")) for m in metrics}
            rows.append(row | {"× chance": f"{values.mean() / level:.2f}"})
    chance = {m: first.values(f"reference.chance.test.{m}") for m in metrics}
    rows.append(
        {"kind": "view", "Method": "chance", **{m: spread(v[:1]) for m, v in chance.items()}}
    )
    titles = {m: pretty_metric(m.removesuffix(f"[{name}]")) for m in metrics}
    frame = frame_of(rows).fillna("").rename(columns=titles)
    sizes, users = first.first.result["slices"][name], first.first.result["users"]
    notes = [
        f"{sizes['items']:,} items; the means are over the {sizes['users']['test']:,} of "
        f"{users:,} users that have some held out for the test; on average these rank "
        f"{sizes['ranked']['test']:,.0f} items",
        f"× chance: {title} over its expectation under random scores; equal scores count against "
        "the held-out item, so a method that tells no items apart stays below chance",
    ]
    if name in ("cold", "cold_among_all"):
        notes.append(
            "a method that knows nothing of cold items may give all users nearly the same order of "
            "them, drawn once per seed: compare several seeds"
        )
    about = f"{first.first.result['data']}, {first.protocol.rpartition(', ')[0]}"
    return Table(f"Test metrics of {SLICES[name]} on {about}", frame, 1, tuple(notes))


def paired(section: Sequence[Group], baseline: Group, name: str = "") -> Table | None:
    """Compare each finished group with a baseline, user by user.

    The unit is the user; seeds are averaged first, so the interval is about users, not seeds.

    Args:
        section: Groups with the same data, split and protocol.
        baseline: One of them.
        name: A slice that all of them have; "": the metric without a slice.

    Returns:
        The table, or None where nothing can be compared.
    """
    label = baseline.first.metrics[0]
    metric, column = pretty_metric(label), f"test.{sliced(label, name)}"
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
            row = {"kind": group.kind, "Method": group.title}
            rows.append(row | _difference(metric, users[column], reference[column]))
    if not rows:
        return None
    notes = (
        f"paired over {len(reference):,} users, seeds averaged first: the interval covers the "
        "choice of users, not the spread over seeds; not corrected for several comparisons",
        *refused,
    )
    about = f" of {SLICES[name]}" if name else ""
    title = f"Test {metric}{about} against {baseline.label} ({reference[column].mean():.4f})"
    return Table(title, frame_of(rows), 1, notes)


def interval(differences: Values) -> tuple[float, float, float]:
    """Return the mean of paired differences with its 95 % Student interval.

    Args:
        differences: Two at least.

    Returns:
        Mean, lower and upper end.
    """
    n, mean, deviation = len(differences), float(differences.mean()), float(differences.std())
    margin = float(stdtrit(n - 1, 0.5 + LEVEL / 2)) * deviation / n**0.5
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
        views = group.first.result["metrics"]["views"]
        parts = {"valid": "valid", "test": "test", **{f"views.{v}": f"test.{v}" for v in views}}
        slices = dict.fromkeys(name for each in groups for name in each.first.slices)
        labels = [label for name in ("", *slices) for label in _metrics(groups, name)]
        for metric, (part, name) in product(labels, parts.items()):
            values = group.values(f"metrics.{part}.{metric}")
            row |= {f"{name}.{metric}": values.mean(), f"{name}.{metric} sd": values.std()}
        rows.append(row | {"warnings": "; ".join(group.notes)})
    settings = differing([group.first.settings for group in groups])
    return pd.concat([pd.DataFrame(rows), settings], axis=1)


def costs(groups: Sequence[Group]) -> Table:
    """Return rounds, wall time, throughput and traffic of a run; means over seeds.

    Virtual time is shown where a run has a virtual clock.
    """
    has_clock = any(len(group.values("virtual.seconds")) for group in groups)
    columns, rows = {**COSTS, **(VIRTUAL if has_clock else {})}, []
    for group in groups:
        row = {"kind": group.kind, "Method": group.title}
        row["Engine"] = str(group.first.result.get("engine", {}).get("name", NO_VALUE))
        for key, column in columns.items():
            values = group.values(key)
            row[column] = _amount(key, float(values.mean())) if len(values) else NO_VALUE
        rows.append(row)
    note = (
        "wall time; clients trained per second of training; what all clients send (up) "
        "and receive (down) to train, over the whole run, and each per round it takes part in"
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


def _amount(key: str, value: float) -> str:
    if key.startswith("bytes"):
        return decimal(round(value))
    if key.startswith("virtual"):
        return f"{value / 3600:,.2f}"
    return f"{value:,.1f}" if key.startswith("seconds.") else f"{value:,.0f}"


def spread(values: Values) -> str:
    """Return mean and sample standard deviation: ``0.0789 ± 0.0023``; a dash for no value."""
    if not len(values):
        return NO_VALUE
    return f"{values.mean():.4f}" + (f" ± {values.std():.4f}" if len(values) > 1 else "")


def _metrics(groups: Iterable[Group], name: str = "") -> tuple[str, ...]:
    """Return the labels of all metrics in a slice."""
    if not name:
        return tuple(dict.fromkeys(label for group in groups for label in group.first.metrics))
    labels = (label for group in groups for label in group.first.result["metrics"]["test"])
    return tuple(dict.fromkeys(label for label in labels if label.endswith(f"[{name}]")))


def frame_of(rows: Sequence[dict[str, str]]) -> pd.DataFrame:
    """Return rows as the frame of a `Table`; ``kind`` becomes the index."""
    return pd.DataFrame(rows, dtype=object).set_index("kind")


def _several(values: Iterable[float]) -> str:
    """Return a few whole numbers as they are, many as their range."""
    texts = [f"{value:.0f}" for value in values]
    if len(texts) > FEW:
        return f"{min(texts, key=int)} to {max(texts, key=int)} ({len(texts)})"
    return ", ".join(texts) or NO_VALUE
