"""The HTML report: one page that needs no other file, no script and no network."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import yaml
from markupsafe import Markup

from fedrec.errors import RunFolderError
from fedrec.report.citations import cited
from fedrec.report.compare import paired
from fedrec.report.figures import all_figures
from fedrec.report.runs import Group, pretty_metric
from fedrec.report.table import costs, provenance, results, spread
from fedrec.storage.files import write_text

__all__ = ["headline", "render", "write"]

FILE = "report.html"


@dataclass(frozen=True, slots=True)
class Tile:
    """A number of the head of the page.

    Args:
        value: The number.
        label: What it is.
    """

    value: str
    label: str


def write(groups: Sequence[Group], out: Path) -> Path:
    """Write the page.

    Args:
        groups: As `fedrec.report.runs.load` gives them.
        out: The file, or a folder that gets ``report.html``.

    Raises:
        RunFolderError: If it cannot be written.
    """
    target = out / FILE if out.is_dir() or not out.suffix else out
    page = render(groups)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_text(target, page)
    except OSError as error:
        raise RunFolderError(
            f"{target}: cannot be written ({error.strerror}); choose another --out"
        ) from error
    return target


def render(groups: Sequence[Group], bibliography: str | None = None) -> str:
    """The page as text.

    Args:
        groups: As `fedrec.report.runs.load` gives them.
        bibliography: BibTeX text; None for the one that ships with fedrec.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("fedrec.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    keys = [key for g in groups for run in g.runs for key in run.result.get("citations") or ()]
    chosen = headline(groups)
    figures = [(plot, Markup(plot.svg)) for plot in all_figures(groups)]
    return environment.get_template("page.html.j2").render(
        title=_title(groups, chosen),
        chosen=chosen,
        tiles=_tiles(chosen) if chosen else (),
        legacy=any(group.legacy for group in groups),
        labels=_labels(groups),
        tables=[table for table in (results(groups), paired(groups)) if table],
        figures=figures,
        costs=costs(groups),
        provenance=provenance(groups),
        configs=[(group.label, _yaml(group)) for group in groups],
        machines=_machines(groups),
        references=cited(keys, bibliography),
    )


def headline(groups: Sequence[Group]) -> Group | None:
    """The group at the head of the page: the best on validation of the federated, finished ones.

    Groups under the legacy protocol, and those with other data than the first group, are never
    chosen.
    """
    candidates = [
        group
        for group in groups
        if group.finished
        and not group.legacy
        and not group.centralised
        and group.data_key == groups[0].data_key
        and group.values("valid", group.chooser)
    ]

    def on_validation(group: Group) -> float:
        values = group.values("valid", groups[0].chooser)
        return sum(values) / len(values) if values else 0.0

    return max(candidates, key=on_validation, default=None)


def _title(groups: Sequence[Group], chosen: Group | None) -> str:
    if chosen is not None:
        score = spread(chosen.values("test", chosen.chooser))
        return f"{chosen.label} on {chosen.data}: {pretty_metric(chosen.chooser)} {score}"
    names = ", ".join(dict.fromkeys(group.label for group in groups))
    if all(group.legacy for group in groups):
        return f"Legacy protocol only: {names}"
    return f"{names} on {groups[0].data}"


def _tiles(group: Group) -> tuple[Tile, ...]:
    tiles = [
        Tile(spread(group.values("test", metric)), f"test {pretty_metric(metric)}")
        for metric in group.metric_names[:2]
    ]
    table = costs([group])
    cells = dict(zip(table.columns, table.rows[0].cells, strict=True))
    tiles += [
        Tile(f"{group.clients():,}", "clients in a round"),
        Tile(cells["Rounds"], "rounds"),
        Tile(f"{cells['Total s']} s", "wall time of a run"),
        Tile(cells["Clients/s"], "clients a second"),
        Tile(cells["Up"], "sent up"),
        Tile(cells["Down"], "sent down"),
    ]
    return tuple(tiles)


def _labels(groups: Sequence[Group]) -> tuple[tuple[str, str], ...]:
    first = groups[0]
    protocols = dict.fromkeys(str(group.first.result.get("protocol")) for group in groups)
    rankings = dict.fromkeys(str(group.first.result.get("ranking") or "full") for group in groups)
    split = first.first.config.get("data", {}).get("split", {})
    labels = [
        ("Protocol", _protocols(list(protocols))),
        ("Ranking", f"{', '.join(rankings)}; train and validation items are masked"),
        ("Split", f"{split.get('name', '?')}, seed {split.get('seed', '?')}".replace("_", " ")),
        ("Ties of score", "broken against the held-out item"),
        (
            "Choice of round",
            f"best {pretty_metric(first.chooser)} on validation; test is reported at that round",
        ),
        ("Spread", "sample standard deviation over seeds"),
    ]
    if split.get("name") in ("leave_one_out", "temporal"):
        labels.insert(4, ("Ties of time", "broken by a hash of split seed, user and item"))
    return tuple(labels)


def _protocols(names: list[str]) -> str:
    words = {
        "clean": "clean: training negatives come from all items but the user's train items",
        "legacy": "LEGACY: negatives leave out held-out items, few candidates are ranked",
    }
    return "; ".join(words.get(name, name) for name in names)


def _yaml(group: Group) -> str:
    config = dict(group.first.config)
    seeds = ", ".join(str(run.seed) for run in group.runs)
    config.pop("seed", None)
    return f"# seeds {seeds}\n" + yaml.safe_dump(config, sort_keys=False, allow_unicode=True)


def _machines(groups: Sequence[Group]) -> tuple[tuple[tuple[str, str], ...], ...]:
    """What each run ran on, each different machine or set of versions once."""
    found: dict[str, tuple[tuple[str, str], ...]] = {}
    for group in groups:
        for run in group.runs:
            facts = {
                key: run.result[key] for key in ("hardware", "versions") if run.result.get(key)
            }
            pairs = tuple(pair for key, value in facts.items() for pair in _pairs(key, value))
            if pairs:
                found.setdefault(json.dumps(facts, sort_keys=True), pairs)
    return tuple(found.values())


def _pairs(key: str, value: Any) -> list[tuple[str, str]]:
    if isinstance(value, dict):
        return [(str(name), str(item)) for name, item in value.items()]
    return [(key, str(value))]
