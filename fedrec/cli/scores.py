"""The scores of a run, or of several that differ in the seed."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text


def spread(values: Sequence[float | None]) -> dict[str, Any]:
    """Return mean and sample standard deviation (None for fewer than two values).

    Args:
        values: One per seed; None where a run has no such value.

    Example:
        >>> spread([1.0, 3.0])
        {'mean': 2.0, 'sd': 1.4142135623730951, 'values': [1.0, 3.0]}
    """
    numbers = [value for value in values if value is not None]
    return {
        "mean": statistics.fmean(numbers) if numbers else None,
        "sd": statistics.stdev(numbers) if len(numbers) > 1 else None,
        "values": list(values),
    }


def summarize(results: Sequence[Mapping[str, Any]], folders: Sequence[Path]) -> dict[str, Any]:
    """Return mean and spread over the seeds of what stands in each ``result.json``."""
    metrics = [result["metrics"] for result in results]
    parts = [
        {"valid": m["valid"], "test": m["test"], **{f"test.{k}": v for k, v in m["views"].items()}}
        for m in metrics
    ]
    return {
        "seeds": [result["seed"] for result in results],
        "folders": [str(folder) for folder in folders],
        "digests": [result["digest"] for result in results],
        "protocol": results[0]["protocol"],
        "best_round": spread([result["best_round"] for result in results]),
        "metrics": {part: _spreads([each.get(part, {}) for each in parts]) for part in parts[0]},
        "seconds": _spreads([result["seconds"] for result in results]),
    }


def result_table(result: Mapping[str, Any], folder: Path) -> Group:
    """Return the scores of one run, with its name above and what to do next below."""
    label = "" if result["protocol"] == "clean" else f", protocol {result['protocol']}"
    centralised = result.get("centralised")
    when = "centralised" if centralised else f"round {result['best_round']}"
    speed = result.get("clients_per_second")
    rate = f"{speed:,.0f} clients/s, " if speed and not centralised else ""
    return Group(
        Text(f"{result['name']}, seed {result['seed']}, {when}{label}"),
        _table(summarize([result], [folder])["metrics"]),
        Text(f"{result['seconds']['total']:.1f} s, {rate}look closer: fedrec report {folder}"),
    )


def summary_table(summary: Mapping[str, Any], folder: Path) -> Group:
    """Return the scores of several runs, mean ± standard deviation over the seeds."""
    seeds = ", ".join(map(str, summary["seeds"]))
    return Group(
        Text(f"mean ± sd over seeds {seeds}"),
        _table(summary["metrics"]),
        Text(f"{folder / 'summary.json'}; compare: fedrec report {folder}"),
    )


def _spreads(tables: Sequence[Mapping[str, float | None]]) -> dict[str, Any]:
    labels = dict.fromkeys(label for table in tables for label in table)
    return {label: spread([table.get(label) for table in tables]) for label in labels}


def _table(metrics: Mapping[str, Mapping[str, Any]]) -> Table:
    table = Table("metric", box=None)
    for part in metrics:
        table.add_column(escape(part.replace(".", ", ")), justify="right")
    for label in metrics["test"] or metrics["valid"]:
        table.add_row(escape(label), *(_cell(part.get(label)) for part in metrics.values()))
    return table


def _cell(value: Mapping[str, Any] | None) -> str:
    if value is None or value["mean"] is None:
        return ""
    return f"{value['mean']:.4f}" + ("" if value["sd"] is None else f" ± {value['sd']:.4f}")
