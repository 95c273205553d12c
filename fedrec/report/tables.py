"""The tables of a report, with what a reader must know beside them, and their text."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import pandas as pd
from rich import box
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table as RichTable
from rich.text import Text
from scipy.special import stdtrit

from fedrec.report.labels import differing
from fedrec.report.runs import Group, Selection, Values, pretty_metric

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
}
WRAP = 30
STYLES = {"view": "dim", "centralised": "italic", "legacy": "bold red", "unfinished": "dim"}


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
            mean, low, high = interval((users - reference)[column])
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
        for metric, (part, name) in product(_metrics(groups), parts.items()):
            values = group.values(f"metrics.{part}.{metric}")
            row |= {f"{name}.{metric}": values.mean(), f"{name}.{metric} sd": values.std()}
        rows.append(row | {"warnings": "; ".join(group.notes)})
    settings = differing([group.first.settings for group in groups])
    return pd.concat([pd.DataFrame(rows), settings], axis=1)


def costs(groups: Sequence[Group]) -> Table:
    """Return rounds, wall time, throughput and traffic of a run; means over seeds."""
    rows = []
    for group in groups:
        row = {"kind": group.kind, "Method": group.title}
        row["Engine"] = str(group.first.result.get("engine", {}).get("name", NO_VALUE))
        for key, column in COSTS.items():
            values = group.values(key)
            row[column] = _amount(key, float(values.mean())) if len(values) else NO_VALUE
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


def _amount(key: str, value: float) -> str:
    if key.startswith("bytes."):
        return decimal(round(value))
    return f"{value:,.1f}" if key.startswith("seconds.") else f"{value:,.0f}"


def spread(values: Values) -> str:
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


def to_markdown(table: Table) -> str:
    """Return a table and its notes as GitHub Markdown."""
    columns = list(table.frame.columns)
    rule = ["---"] * table.words + ["---:"] * (len(columns) - table.words)
    rows = [f"| {' | '.join(row)} |" for row in table.frame.map(_escaped).to_numpy()]
    rows[:0] = [f"| {' | '.join(map(_escaped, columns))} |", f"| {' | '.join(rule)} |"]
    notes = ["", *(f"- {_escaped(note)}" for note in table.notes)] if table.notes else []
    return "\n".join([f"**{_escaped(table.title)}**", "", *rows, *notes]) + "\n"


def _escaped(text: str) -> str:
    text = " ".join(text.split())
    for sign in "\\|*_`<":
        text = text.replace(sign, f"\\{sign}")
    return text


def to_latex(table: Table) -> str:
    """Return a table as LaTeX for the package booktabs, its notes as comments."""
    frame = table.frame.map(lambda cell: " ".join(cell.split()))
    title = table.title
    for sign in "&%$#_{}":
        title = title.replace(sign, f"\\{sign}")
    numbers = len(frame.columns) - table.words
    # The default of longtable is one of pandas' options, which a user may have set.
    text = frame.to_latex(
        index=False,
        escape=True,
        longtable=False,
        caption=title,
        column_format="l" * table.words + "r" * numbers,
    )
    for sign, command in (("±", r"$\pm$"), ("–", "--"), ("↳", r"\quad")):
        text = text.replace(sign, command)
    return "".join(f"% {' '.join(note.split())}\n" for note in table.notes) + text


def print_table(table: Table, console: Console) -> None:
    """Print a table and its notes; columns that are too many for the width are named instead."""
    unlimited = console.options.update(width=100_000)
    for shown in range(len(table.frame.columns), table.words, -1):
        drawn = _drawn(table, shown)
        if console.measure(drawn, options=unlimited).minimum <= console.width:
            break
    console.print(drawn)


def _drawn(table: Table, shown: int) -> RichTable:
    notes, columns = [*table.notes], list(table.frame.columns)
    if columns[shown:]:
        notes.append(f"the terminal is too narrow for: {', '.join(columns[shown:])}")
    rich = RichTable(
        title=Text(table.title, style="bold"),
        title_justify="left",
        caption=Text("\n".join(f"- {note}" for note in notes)),
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    for index, column in enumerate(columns[:shown]):
        if index < table.words:
            widest = max(len(column), *table.frame[column].map(len))
            rich.add_column(Text(column), overflow="fold", min_width=min(WRAP, widest))
        else:
            rich.add_column(Text(column), justify="right", no_wrap=True)
    for kind, *cells in table.frame.itertuples():
        rich.add_row(*map(Text, cells[:shown]), style=STYLES.get(kind))
    return rich
