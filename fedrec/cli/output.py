"""What the commands share: how they print, and how they take paths."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
import typer.core

if TYPE_CHECKING:
    from rich.console import Console

__all__ = [
    "PATH",
    "PlainCommand",
    "console",
    "expand",
    "logged",
    "print_table",
    "say",
    "show_help",
    "write",
]

WIDTH_OF_A_FILE = 200


class PlainCommand(typer.core.TyperCommand):
    """A command whose help is plain text; typer escapes brackets for a renderer not in use."""

    def get_help(self, ctx: Any) -> str:
        """Return the help, without backslashes before brackets."""
        return super().get_help(ctx).replace("\\[", "[")


def expand(text: str) -> Path:
    """Return the path that the user wrote, with ``~`` expanded."""
    from fedrec.plugins import expand_path

    return expand_path(text)


PATH: dict[str, Any] = {"parser": expand, "metavar": "PATH"}
"""Options of typer for a path."""


def show_help(ctx: typer.Context) -> None:
    """Print the help of a command that was called without a subcommand."""
    if ctx.invoked_subcommand is None:
        write(ctx.get_help())


class _LogHandler(logging.Handler):
    """Prints what the library logs, above a bar where there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        prefix = "warning: " if record.levelno == logging.WARNING else ""
        say(prefix + self.format(record))


@contextmanager
def logged(quiet: bool) -> Iterator[None]:
    """Print what the library logs; with ``quiet``, errors alone."""
    logger, handler = logging.getLogger("fedrec"), _LogHandler()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.ERROR if quiet else logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def say(text: str) -> None:
    """Print a line on stderr."""
    sys.stderr.write(text + "\n")


def write(text: str) -> None:
    """Print a line on stdout."""
    sys.stdout.write(text + "\n")


def console() -> Console:
    """Return the console for tables on stdout."""
    from rich.console import Console

    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else WIDTH_OF_A_FILE
    return Console(width=width)


def print_table(table: object) -> None:
    """Print a table on stdout."""
    console().print(table)
