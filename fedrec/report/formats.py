"""Tables as text: for a terminal, as Markdown, as LaTeX."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from rich import box
from rich.table import Table as RichTable
from rich.text import Text

from fedrec.report.tables import Table

__all__ = ["to_latex", "to_markdown", "to_rich"]

WRAP = 30
STYLES = {"view": "dim", "centralised": "italic", "legacy": "bold red", "unfinished": "dim"}


def to_markdown(table: Table) -> str:
    """Return a table and its notes as GitHub Markdown."""
    columns = list(table.frame.columns)
    rule = ["---"] * table.words + ["---:"] * (len(columns) - table.words)
    cells = [columns, rule, *table.frame.to_numpy().tolist()]
    rows = ["| " + " | ".join(_escaped(cell) for cell in line) + " |" for line in cells]
    notes = ["", *(f"- {_escaped(note)}" for note in table.notes)] if table.notes else []
    return "\n".join([f"**{_escaped(table.title)}**", "", *rows, *notes]) + "\n"


def _escaped(text: str) -> str:
    text = " ".join(str(text).split())
    for sign in "\\|*_`<":
        text = text.replace(sign, f"\\{sign}")
    return text


def to_latex(table: Table) -> str:
    """Return a table as LaTeX for the package booktabs, its notes as comments."""
    # The default of to_latex is set by pandas' options, so each argument is given.
    text = table.frame.map(_plain).to_latex(
        index=False,
        escape=True,
        longtable=False,
        caption=_escape_latex(table.title),
        column_format="l" * table.words + "r" * (len(table.frame.columns) - table.words),
    )
    for sign, command in (("±", r"$\pm$"), ("–", "--"), ("↳", r"\quad")):
        text = text.replace(sign, command)
    return "".join(f"% {' '.join(note.split())}\n" for note in table.notes) + text


def _plain(cell: str) -> str:
    return " ".join(cell.split())


def _escape_latex(text: str) -> str:
    for sign in "&%$#_{}":
        text = text.replace(sign, f"\\{sign}")
    return text


def to_rich(table: Table, width: int | None = None) -> RichTable:
    """Return a table for a terminal, its notes below it.

    Args:
        table: The table.
        width: Of the terminal, in characters; None keeps all columns. Where they do not fit, the
            last columns are left out, and a note says so.
    """
    frame, notes = table.frame, list(table.notes)
    shown = list(range(len(frame.columns)))
    while width is not None and len(shown) > table.words + 1 and _width(table, shown) > width:
        shown.pop()
    left = list(frame.columns[len(shown) :])
    if left:
        notes.append(f"the terminal is too narrow for: {', '.join(left)}")
    rich = RichTable(
        title=Text(table.title, style="bold"),
        title_justify="left",
        caption=Text("\n".join(f"- {note}" for note in notes)) if notes else None,
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    for index in shown:
        number = index >= table.words
        side: Literal["left", "right"] = "right" if number else "left"
        rich.add_column(Text(frame.columns[index]), justify=side, no_wrap=number, overflow="fold")
    for kind, cells in zip(table.kinds, frame.to_numpy().tolist(), strict=True):
        rich.add_row(*(Text(cells[index]) for index in shown), style=STYLES.get(kind))
    return rich


def _width(table: Table, columns: Sequence[int]) -> int:
    """Return the characters that some columns take, where columns of words may wrap."""
    total = 0
    for index in columns:
        name = table.frame.columns[index]
        longest = max(len(name), *table.frame[name].map(len))
        total += (min(longest, WRAP) if index < table.words else longest) + 3
    return total
