"""Reports: run folders to tables and to one self-contained page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from fedrec.errors import MissingExtra
from fedrec.report.runs import load
from fedrec.report.table import results

__all__ = ["build", "markdown", "terminal"]


def build(runs: Sequence[Path], out: Path) -> Path:
    """Write one HTML page that needs no other file and no network.

    Args:
        runs: Run folders, or folders that hold some. Runs that differ only in the seed are
            grouped; the order is kept.
        out: The file, or a folder that gets ``report.html``.

    Returns:
        The file.

    Raises:
        MissingExtra: If matplotlib, jinja2, pandas, pyarrow or scipy is not installed.
        RunFolderError: If a run cannot be read or the page cannot be written.
    """
    try:
        from fedrec.report.page import write
    except ImportError as error:
        part = (error.name or "").partition(".")[0]
        if part not in ("fedrec", ""):
            raise MissingExtra(f"{part}, for the HTML report,", "sim") from error
        raise
    return write(load(runs), out)


def markdown(runs: Sequence[Path]) -> str:
    """The table of results as Markdown.

    Args:
        runs: As `build`.
    """
    return results(load(runs)).to_markdown()


def terminal(runs: Sequence[Path], console: Console) -> None:
    """Show the table of results.

    Args:
        runs: As `build`.
        console: Where to.
    """
    console.print(results(load(runs)).to_rich(console.width))
