"""The server app as Flower's runtime runs it: how it ended is written down for the launcher.

Flower tells its caller little more than "failed"; the file says what failed, and at once.
"""

from __future__ import annotations

import os
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedrec.flower.failures import Failure
from fedrec.flower.references import load_app

__all__ = ["REPORT_VARIABLE", "reported_server"]

REPORT_VARIABLE = "FEDREC_FLOWER_REPORT"


def reported_server(reference: str) -> ServerApp:
    """The app of that reference, wrapped.

    It writes ``started``, then ``completed`` or `Failure.to_json`, into the file that the
    environment variable names.

    Args:
        reference: ``module:attribute`` of the server app.
    """
    report = Path(os.environ[REPORT_VARIABLE])
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        _write(report, "started")
        try:
            load_app(reference, "ServerApp")(grid, context)
        except BaseException as error:
            _write(report, Failure.of(error).to_json())
            raise
        _write(report, "completed")

    return app


def _write(report: Path, text: str) -> None:
    aggregate = report.with_suffix(".partial")
    aggregate.write_text(text, encoding="utf-8")
    aggregate.replace(report)
