"""Tables of a report, and how they are shown in a terminal and in Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from rich import box
from rich.table import Table as RichTable
from rich.text import Text

from fedrec.report.runs import Group, mean_sd, pretty_metric

__all__ = ["Row", "Table", "costs", "protocol_label", "provenance", "results", "spread"]

FEW = 3
WRAP = 30
STYLES = {"view": "dim", "centralised": "italic", "legacy": "bold red", "unfinished": "dim"}
NO_VALUE = "–"
KILO = 1000.0


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a table.

    Args:
        cells: Text, one per column.
        kind: ``method``, ``view`` (a further score of the method above), ``centralised``,
            ``legacy`` or ``unfinished``.
    """

    cells: tuple[str, ...]
    kind: str = "method"


@dataclass(frozen=True, slots=True)
class Table:
    """A table as text.

    Args:
        title: What it shows.
        columns: Heads.
        rows: Lines.
        notes: What a reader must know.
        words: How many of the first columns hold words; the others hold numbers.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    words: int = 1

    def to_markdown(self) -> str:
        """The table and its notes as GitHub Markdown."""
        rule = ["---"] * self.words + ["---:"] * (len(self.columns) - self.words)
        lines = [f"**{self.title}**", "", _line(self.columns), _line(rule)]
        lines += [_line(row.cells) for row in self.rows]
        lines += ["", *(f"- {note}" for note in self.notes)] if self.notes else []
        return "\n".join(lines) + "\n"

    def to_rich(self, width: int | None = None) -> RichTable:
        """The table for a terminal; the notes stand below it.

        Args:
            width: Of the terminal, in characters; None keeps all columns. Where they do not fit,
                columns of words that are the same in all rows become notes; then the last columns
                are left out, and a note says so.
        """
        shown = list(range(len(self.columns)))
        notes = list(self.notes)
        for column in range(1, self.words):
            cells = {row.cells[column] for row in self.rows} - {""}
            if width is not None and self._width(shown) > width and len(cells) == 1:
                shown.remove(column)
                notes.append(f"{self.columns[column]}: {cells.pop()}")
        words = sum(column < self.words for column in shown)
        left: list[str] = []
        while width is not None and len(shown) > words + 1 and self._width(shown) > width:
            left.insert(0, self.columns[shown.pop()])
        notes += [f"not shown for want of width: {', '.join(left)}"] if left else []
        table = RichTable(
            title=Text(self.title, style="bold"),
            title_justify="left",
            caption=Text("\n".join(f"- {note}" for note in notes)) if notes else None,
            caption_justify="left",
            box=box.SIMPLE_HEAD,
            pad_edge=False,
        )
        for index in shown:
            right = index >= self.words
            side: Literal["left", "right"] = "right" if right else "left"
            table.add_column(
                Text(self.columns[index]), justify=side, no_wrap=right, overflow="fold"
            )
        for row in self.rows:
            table.add_row(*(Text(row.cells[c]) for c in shown), style=STYLES.get(row.kind))
        return table

    def _width(self, columns: Sequence[int]) -> int:
        """Characters that some columns take, where columns of words may wrap."""
        widths = {
            c: max(len(text) for text in (self.columns[c], *(row.cells[c] for row in self.rows)))
            for c in columns
        }
        kept = [min(width, WRAP) if c < self.words else width for c, width in widths.items()]
        return sum(kept) + 3 * len(columns)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def spread(values: Sequence[float], digits: int = 4) -> str:
    """``0.0789 ± 0.0023``; without the spread for one value; a dash for none."""
    found = mean_sd(values)
    if found is None:
        return NO_VALUE
    mean, sd = found
    return f"{mean:.{digits}f}" + ("" if sd is None else f" ± {sd:.{digits}f}")


def protocol_label(group: Group) -> str:
    """How the numbers of a group were made; the legacy protocol is said aloud."""
    ranking = str(group.first.result.get("ranking") or "full")
    ranking = ranking if " " in ranking else f"{ranking} ranking"
    protocol = str(group.first.result.get("protocol") or "unknown")
    return f"{'LEGACY (leaks)' if group.legacy else protocol}, {ranking}"


def _kind(group: Group) -> str:
    if group.legacy:
        return "legacy"
    if not group.finished:
        return "unfinished"
    return "centralised" if group.centralised else "method"


def _several(values: Sequence[object]) -> str:
    """A few numbers as they are, many as their range."""
    known = [int(str(value)) for value in values if value is not None]
    if not known:
        return NO_VALUE
    if len(known) > FEW:
        return f"{min(known)} to {max(known)} ({len(known)})"
    return ", ".join(map(str, known))


def results(groups: Sequence[Group]) -> Table:
    """One row per group with its test metrics at the round that validation chose.

    Rows of further views (PLGC's global and local score) follow their method.
    """
    metrics = tuple(dict.fromkeys(name for group in groups for name in group.metric_names))
    chooser = groups[0].chooser
    rows = []
    for group in groups:
        rounds = [None if group.centralised else r.result.get("best_round") for r in group.runs]
        head = (
            group.label,
            group.data,
            _several([run.seed for run in group.runs]),
            protocol_label(group),
            _several(rounds),
            spread(group.values("valid", chooser)),
        )
        cells = tuple(spread(group.values("test", metric)) for metric in metrics)
        rows.append(Row(head + cells, _kind(group)))
        for view in group.view_names:
            cells = tuple(spread(group.values("test", metric, view)) for metric in metrics)
            rows.append(Row((f"↳ {view} score alone", *[""] * (len(head) - 1), *cells), "view"))
    words = ("Method", "Data", "Seeds", "Protocol")
    numbers = ("Best round", f"Valid {pretty_metric(chooser)}", *map(pretty_metric, metrics))
    return Table(
        "Test metrics at the round that validation chose",
        words + numbers,
        tuple(rows),
        _notes(groups),
        len(words),
    )


def _notes(groups: Sequence[Group]) -> tuple[str, ...]:
    notes = ["mean ± sample standard deviation over seeds; one seed has no spread"]
    if any(group.legacy for group in groups):
        notes.append(
            "LEGACY rows: training negatives leave out held-out items and few candidates are "
            "ranked. They only reproduce published numbers; do not compare them with other rows."
        )
    if any(group.centralised for group in groups):
        notes.append("[centralised] rows saw all users' train data in one place: baselines")
    if len({group.data_key for group in groups}) > 1:
        notes.append("rows with different data, split or protocol are not comparable")
    for group in groups:
        notes += [f"{group.label}: {note}" for note in group.notes]
    return tuple(notes)


def costs(groups: Sequence[Group]) -> Table:
    """Rounds, wall time, throughput and traffic of a run; means over seeds."""
    rows = []
    for group in groups:
        results = [run.result for run in group.runs]
        engine = results[0].get("engine") or {}
        seconds = [r.get("seconds") or {} for r in results]
        traffic = [r.get("bytes") or {} for r in results]
        rows.append(
            Row(
                (
                    group.label,
                    _engine(engine),
                    _mean([r.get("rounds") for r in results], "{:.0f}"),
                    *(
                        _mean([s.get(part) for s in seconds], "{:,.1f}")
                        for part in ("train", "evaluate", "total")
                    ),
                    _mean([r.get("clients_per_second") for r in results], "{:,.0f}"),
                    *(_size(_known([b.get(way) for b in traffic])) for way in ("up", "down")),
                ),
                _kind(group),
            )
        )
    columns = ("Method", "Engine", "Rounds", "Train s", "Evaluate s", "Total s", "Clients/s")
    notes = ("wall time; bytes of all messages between server and nodes, over the whole run",)
    return Table("Cost of one run", (*columns, "Up", "Down"), tuple(rows), notes, 2)


def _engine(engine: object) -> str:
    if not isinstance(engine, dict) or not engine:
        return NO_VALUE
    parts = [str(engine.get("name", "?"))]
    for name, word in (("workers", "worker"), ("nodes", "node")):
        if engine.get(name) is not None:
            parts.append(f"{engine[name]} {word}{'' if engine[name] == 1 else 's'}")
    return ", ".join(parts)


def _known(values: Sequence[float | None]) -> list[float]:
    return [float(value) for value in values if value is not None]


def _mean(values: Sequence[float | None], form: str) -> str:
    known = _known(values)
    return form.format(fmean(known)) if known else NO_VALUE


def _size(values: Sequence[float]) -> str:
    if not values:
        return NO_VALUE
    size = fmean(values)
    for unit in ("B", "kB", "MB", "GB"):
        if size < KILO:
            return f"{size:.3g} {unit}"
        size /= KILO
    return f"{size:,.3g} TB"


def provenance(groups: Sequence[Group]) -> Table:
    """One row per run: seed, status, rounds, digest, commit, when."""
    rows = []
    for group in groups:
        for run in group.runs:
            result = run.result
            cells = [run.folder.path.resolve().name, group.label, str(run.seed), run.status]
            cells += [str(result.get("digest") or NO_VALUE)[:16]]
            commit, _, dirty = str(result.get("commit") or NO_VALUE).partition("+")
            cells += [commit[:12] + (f"+{dirty}" if dirty else "")]
            cells += [_moment(result.get("started")), _moment(result.get("finished"))]
            rows.append(Row(tuple(cells), _kind(group)))
    columns = ("Folder", "Method", "Seed", "Status", "Digest", "Commit", "Started", "Finished")
    notes = ("the digest is of the global parameters after the last round; equal means same bits",)
    return Table("Runs", columns, tuple(rows), notes, len(columns))


def _moment(value: object) -> str:
    return str(value).replace("T", " ")[:19] if value else NO_VALUE
