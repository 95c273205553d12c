"""Tables of a report as text: Markdown, LaTeX, and in a terminal."""

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from fedrec.report.tables import Table

WRAP = 30
STYLES = {"view": "dim", "centralised": "italic", "legacy": "bold red", "unfinished": "dim"}


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
