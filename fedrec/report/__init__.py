"""Reports: run folders to tables and to one self-contained page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from fedrec.errors import MissingExtra, RunFolderError
from fedrec.storage.files import write_text

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["build", "markdown", "target", "terminal"]

ENDINGS = (".html", ".md", ".csv", ".tex")


def target(out: Path) -> Path:
    """Return the file that a report is written to.

    Args:
        out: A file that ends in ``.html``, ``.md``, ``.csv`` or ``.tex``, or a folder, which gets
            ``report.html``.

    Raises:
        RunFolderError: If the ending is another one.
    """
    if out.is_dir() or not out.suffix:
        return out / "report.html"
    if out.suffix.lower() not in ENDINGS:
        raise RunFolderError(
            f"--out {out}: cannot write '{out.suffix}'; expected {', '.join(ENDINGS)} or a folder"
        )
    return out


def build(runs: Sequence[Path], out: Path, baseline: str | None = None) -> Path:
    """Write a report, in the format that the ending of its file names.

    ``.html`` is one page that needs no other file and no network; ``.md`` and ``.tex`` hold its
    tables of results; ``.csv`` holds the results as numbers, one row per method.

    Args:
        runs: Run folders, or folders that hold some. Runs that differ only in the seed are
            grouped.
        out: As in `target`.
        baseline: The label or a run folder of what the others are compared with; None: see
            `fedrec.report.runs.Selection.baseline`.

    Returns:
        The file.

    Raises:
        MissingExtra: If a package that the format needs is not installed.
        RunFolderError: If no run can be read, the baseline is unknown, or the file cannot be
            written.
    """
    file = target(out)
    if not file.parent.is_dir() and file.parent.exists():
        raise RunFolderError(f"{file}: cannot be written (not a folder); choose another --out")
    text = _render(runs, file.suffix.lower(), baseline)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, text)
    except OSError as error:
        raise RunFolderError(
            f"{file}: cannot be written ({error.strerror}); choose another --out"
        ) from error
    return file


def markdown(runs: Sequence[Path], baseline: str | None = None) -> str:
    """Return the tables of results as Markdown; see `build`."""
    return _render(runs, ".md", baseline)


def terminal(runs: Sequence[Path], console: Console, baseline: str | None = None) -> None:
    """Show the tables of results on a console; see `build`."""
    with _extra("for reports"):
        from fedrec.report import formats, tables
        from fedrec.report.runs import load
    for table in tables.all_results(load(runs), baseline):
        formats.print_table(table, console)


def _render(runs: Sequence[Path], ending: str, baseline: str | None) -> str:
    with _extra(f"for a report in {ending[1:].upper()}"):
        from fedrec.report import formats, tables
        from fedrec.report.runs import load

        if ending == ".html":
            from fedrec.report import page

            return page.render(load(runs), baseline)
        if ending == ".csv":
            return tables.numbers(load(runs)).to_csv(index=False)
        as_text = formats.to_latex if ending == ".tex" else formats.to_markdown
        return "\n".join(map(as_text, tables.all_results(load(runs), baseline)))


@contextmanager
def _extra(purpose: str) -> Iterator[None]:
    """Name the extra to install where a package is missing."""
    try:
        yield
    except ImportError as error:
        package = (error.name or "").partition(".")[0]
        if not package or package == "fedrec":
            raise
        raise MissingExtra(f"{package}, {purpose},", "sim") from error
