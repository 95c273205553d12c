"""What a bench found, as a table and as a file."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.table import Table

from fedrec.runs.provenance import commit, hardware, versions

__all__ = ["about_run", "engine_table", "evaluate_table", "scale_table", "write"]


def about_run() -> dict[str, Any]:
    """Where and when something was measured: hardware, versions, commit, date."""
    return {
        "hardware": hardware(),
        "versions": versions(),
        "commit": commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def write(result: Mapping[str, Any], path: Path) -> None:
    """Write the whole result as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def engine_table(result: Mapping[str, Any]) -> Table:
    """Return the rows of `experiments.benchmarks.engine.bench_engine` as a table."""
    cores = result["workers"]
    title = f"{result['data']}; personalization {result['personalization']}; {cores} cores"
    rates = _table(title, "", "clients", "clients/s", "per CPU s", "fedrec is", "peak PSS GiB")
    for key, row in result["rows"].items():
        ratio = result["ratios"].get(f"batched/{key}")
        rates.add_row(
            row["label"],
            f"{row['clients']:,}",
            f"{row['clients_per_second']:,.0f}",
            _number(row["clients_per_cpu_second"], ",.0f"),
            "" if ratio is None else f"{ratio:.2f} x",
            _number(row.get("pss_gib"), ".2f"),
        )
    return rates


def evaluate_table(result: Mapping[str, Any]) -> Table:
    """The medians of `experiments.benchmarks.evaluate.bench_evaluate`."""
    table = _table(f"{result['data']}; all users rank all items", "", "ms", "evaluate is")
    table.add_row("evaluate", f"{1e3 * result['seconds']['evaluate']:.1f}", "")
    for key, label in (
        ("model", "evaluate without personalization"),
        ("mm", "the matrix product alone"),
        ("train", "one training round"),
    ):
        seconds, ratio = result["seconds"][key], result["ratios"][f"evaluate/{key}"]
        table.add_row(label, f"{1e3 * seconds:.1f}", f"{ratio:.2f} x")
    return table


def scale_table(result: Mapping[str, Any]) -> Table:
    """The cases of `experiments.benchmarks.scale.bench_scale`."""
    title = f"{result['items']:,} items, d = {result['dim']}"
    table = _table(title, "", "clients", "workers", "s/round", "PSS GiB", "prepare s", "start s")
    for case in result["cases"]:
        table.add_row(
            case["personalization"],
            f"{case['clients']:,}",
            str(case["workers"]),
            f"{case['seconds']:.3f}",
            f"{case['pss_gib']:.2f}",
            f"{case['prepare_seconds']:.1f}",
            f"{case['start_seconds']:.1f}",
        )
    return table


def _table(title: str, *headings: str) -> Table:
    table = Table(title=title, box=None, title_justify="left")
    for at, heading in enumerate(headings):
        table.add_column(heading, justify="right" if at else "left")
    return table


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
