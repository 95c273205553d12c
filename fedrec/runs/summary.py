"""What one run, or several that differ in the seed, came to."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from fedrec.storage.files import write_json

__all__ = ["result_table", "spread", "summarize", "summary_table"]


def spread(values: Sequence[float | None]) -> dict[str, Any]:
    """Mean and sample standard deviation.

    Args:
        values: One per seed; None where a run has no such value.

    Returns:
        ``mean``, ``sd`` (None for fewer than two values), ``values`` as they came.

    Example:
        >>> spread([1.0, 3.0])
        {'mean': 2.0, 'sd': 1.4142135623730951, 'values': [1.0, 3.0]}
    """
    known = [value for value in values if value is not None]
    return {
        "mean": statistics.fmean(known) if known else None,
        "sd": statistics.stdev(known) if len(known) > 1 else None,
        "values": list(values),
    }


def summarize(
    results: Sequence[Mapping[str, Any]], folders: Sequence[Path], path: Path
) -> dict[str, Any]:
    """Mean and spread of runs over seeds, written as JSON.

    Args:
        results: The content of each ``result.json``.
        folders: The run folder of each.
        path: The file to write.
    """
    summary = {
        "seeds": [result.get("seed") for result in results],
        "folders": [str(folder) for folder in folders],
        "digests": [result.get("digest") for result in results],
        "protocol": results[0].get("protocol"),
        "best_round": spread([result.get("best_round") for result in results]),
        "metrics": {part: _over_seeds(results, (part,)) for part in ("valid", "test")}
        | {"views": {v: _over_seeds(results, ("views", v)) for v in _views(results)}},
        "seconds": _over_seeds(results, (), section="seconds"),
    }
    write_json(path, summary)
    return summary


def result_table(result: Mapping[str, Any], folder: Path) -> Group:
    """The scores of one run, with its name above and what to do next below."""
    metrics = result.get("metrics", {})
    views = dict(metrics.get("views", {}))
    table = _table(views)
    for label in metrics.get("test", {}) or metrics.get("valid", {}):
        cells = [metrics.get("valid", {}).get(label), metrics.get("test", {}).get(label)]
        cells += [view.get(label) for view in views.values()]
        table.add_row(escape(label), *(_number(cell) for cell in cells))
    return Group(Text(_title(result)), table, Text(_caption(result, folder)))


def summary_table(summary: Mapping[str, Any], folder: Path) -> Group:
    """The scores of several runs, mean ± standard deviation over the seeds."""
    metrics = summary["metrics"]
    views = metrics["views"]
    seeds = ", ".join(str(seed) for seed in summary["seeds"])
    table = _table(views)
    for label in metrics["test"]:
        cells = [metrics["valid"].get(label), metrics["test"][label]]
        cells += [view.get(label) for view in views.values()]
        table.add_row(escape(label), *(_mean_sd(cell) for cell in cells))
    next_step = f"{folder / 'summary.json'}; compare: fedrec report {folder}"
    return Group(Text(f"mean ± sd over seeds {seeds}"), table, Text(next_step))


def _table(views: Mapping[str, Any]) -> Table:
    table = Table(box=None)
    table.add_column("metric")
    for heading in ("valid", "test", *(f"test, {view}" for view in views)):
        table.add_column(escape(heading), justify="right")
    return table


def _title(result: Mapping[str, Any]) -> str:
    name = result.get("name") or "run"
    protocol = result.get("protocol")
    label = "" if protocol == "clean" else f", protocol {protocol}"
    when = "centralised" if result.get("centralised") else f"round {result.get('best_round')}"
    return f"{name}, seed {result.get('seed')}, {when}{label}"


def _caption(result: Mapping[str, Any], folder: Path) -> str:
    seconds = result.get("seconds", {}).get("total")
    took = f"{seconds:.1f} s, " if seconds is not None else ""
    speed = result.get("clients_per_second")
    rate = f"{speed:,.0f} clients/s, " if speed and not result.get("centralised") else ""
    return f"{took}{rate}look closer: fedrec report {folder}"


def _over_seeds(
    results: Sequence[Mapping[str, Any]], keys: Sequence[str], section: str = "metrics"
) -> dict[str, Any]:
    tables = [_below(result.get(section, {}), keys) for result in results]
    return {label: spread([t.get(label) for t in tables]) for label in _union(tables)}


def _views(results: Sequence[Mapping[str, Any]]) -> list[str]:
    return _union([_below(result.get("metrics", {}), ("views",)) for result in results])


def _below(value: Mapping[str, Any], keys: Sequence[str]) -> Mapping[str, Any]:
    for key in keys:
        value = value.get(key) or {}
    return value


def _union(tables: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(label for table in tables for label in table))


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _mean_sd(value: Mapping[str, Any] | None) -> str:
    if value is None or value["mean"] is None:
        return ""
    return _number(value["mean"]) + ("" if value["sd"] is None else f" ± {value['sd']:.4f}")
