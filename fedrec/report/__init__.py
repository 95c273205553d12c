"""Reports: run folders to tables and to one self-contained page."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedrec.errors import MissingExtra, RunFolderError
from fedrec.plugins import expand_path
from fedrec.storage.files import write_text

__all__ = ["build", "markdown", "target", "terminal"]

MARKS = {
    ".html": "Made by fedrec",
    ".md": "**Test metrics on ",
    ".csv": "method,kind,data,protocol,",
    ".tex": "{Test metrics on ",
}
"""By ending, what every report holds, so that no other file is replaced by one."""


def target(out: str | Path) -> Path:
    """Return the file that a report is written to.

    Args:
        out: A file that ends in ``.html``, ``.md``, ``.csv`` or ``.tex``, or a folder, which gets
            ``report.html``.

    Raises:
        RunFolderError: If the ending is another one.
    """
    out = expand_path(out)
    if out.is_dir() or not out.suffix:
        return out / "report.html"
    if out.suffix.lower() not in MARKS:
        raise RunFolderError(
            f"--out {out}: cannot write '{out.suffix}'; expected {', '.join(MARKS)} or a folder"
        )
    return out


def build(runs: Sequence[str | Path], out: str | Path, baseline: str | None = None) -> Path:
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
    text = _render(runs, file.suffix.lower(), baseline)
    try:
        if file.exists() and MARKS[file.suffix.lower()].encode() not in file.read_bytes():
            raise RunFolderError(f"{file}: exists and is no report; choose another --out")
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, text)
    except OSError as error:
        raise RunFolderError(
            f"{file}: cannot be written ({error.strerror}); choose another --out"
        ) from error
    return file


def markdown(runs: Sequence[str | Path], baseline: str | None = None) -> str:
    """Return the tables of results as Markdown; see `build`."""
    return _render(runs, ".md", baseline)


def terminal(runs: Sequence[str | Path], console: Any, baseline: str | None = None) -> None:
    """Show the tables of results on a `rich.console.Console`; see `build`."""
    _render(runs, "", baseline, console)


def _render(
    runs: Sequence[str | Path], ending: str, baseline: str | None, console: Any = None
) -> str:
    """Return a report as text, or print it on a console, which has no ending.

    Raises:
        MissingExtra: Where a package is missing.
    """
    try:
        from fedrec.report import tables, text
        from fedrec.report.runs import load

        selection = load(runs)
        if ending == ".html":
            from fedrec.report import page

            return page.render(selection, baseline)
        if ending == ".csv":
            return tables.numbers(selection).to_csv(index=False)
        results = tables.all_results(selection, baseline)
        if console is not None:
            for table in results:
                text.print_table(table, console)
        as_text = text.to_latex if ending == ".tex" else text.to_markdown
        return "\n".join(map(as_text, results))
    except ImportError as error:
        package = (error.name or "").partition(".")[0]
        if not package or package == "fedrec":
            raise
        purpose = f"for a report in {ending[1:].upper()}" if ending else "for reports"
        raise MissingExtra(f"{package}, {purpose},", "sim") from error
