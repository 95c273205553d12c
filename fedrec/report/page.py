"""The HTML report: one page that needs no other file, no script and no network."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import jinja2
from markupsafe import Markup

from fedrec.config.yaml import dump_yaml
from fedrec.report.citations import cited
from fedrec.report.compare import paired
from fedrec.report.drawing import swatch
from fedrec.report.facets import facets
from fedrec.report.figures import all_figures
from fedrec.report.runs import Group, Selection, pretty_metric
from fedrec.report.tables import costs, protocol, results, runs, spread

__all__ = ["headline", "render"]

MAX_BASELINES = 40


def render(
    selection: Selection, baseline: str | None = None, bibliography: str | None = None
) -> str:
    """Return the page as text.

    Args:
        selection: The runs, as `fedrec.report.runs.load` returns them.
        baseline: As in `Selection.baseline`.
        bibliography: BibTeX text; None for the one that ships with fedrec.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("fedrec.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    groups = [group for section in selection.sections for group in section]
    keys = [key for group in groups for run in group.runs for key in run.result.citations]
    chosen = headline(selection)
    return environment.get_template("page.html.j2").render(
        title=_title(selection, chosen),
        chosen=chosen,
        tiles=_tiles(chosen) if chosen else (),
        legacy=any(group.legacy for group in groups),
        warned=[g.label for g in groups if any(run.result.warnings for run in g.runs)],
        left_out=selection.left_out,
        sections=[
            _section(selection, section, baseline, f"s{number}-")
            for number, section in enumerate(selection.sections)
        ],
        facts=_facts(groups),
        costs=costs(groups),
        runs=runs(groups),
        configs=[(group.title, _yaml(group)) for group in groups],
        machines=_machines(groups),
        references=cited(keys, bibliography),
        swatch=lambda style: Markup(swatch(style)),
        svg=Markup,
    )


def _section(
    selection: Selection, section: Sequence[Group], named: str | None, prefix: str
) -> dict[str, Any]:
    """Return the tables and figures of groups that can be compared with each other."""
    baseline = selection.baseline(section, named)
    others: list[Group] = []
    if baseline is not None:
        others = [g for g in section if g is not baseline and g.finished][:MAX_BASELINES]
    tables = [(group, paired(section, group)) for group in others]
    panels = facets(section, prefix)
    return {
        "name": f"{section[0].first.result.data}, {protocol(section[0])}",
        "results": results(selection, section),
        "compared": paired(section, baseline) if baseline is not None else None,
        "others": [(group.label, table) for group, table in tables if table is not None],
        "facets": panels,
        "figures": all_figures(panels),
    }


def headline(selection: Selection) -> Group | None:
    """Return the best on validation of the federated, finished groups under a clean protocol.

    None where there is none, or where the report has several data sets, splits or protocols.
    """
    sections = [s for s in selection.sections if not s[0].legacy]
    if len(sections) != 1:
        return None
    return next(
        (g for g in sections[0] if g.kind == "federated" and g.values("valid", g.chooser)), None
    )


def _title(selection: Selection, chosen: Group | None) -> str:
    if chosen is not None:
        score = spread(chosen.values("test", chosen.chooser))
        data = chosen.first.result.data
        return f"{chosen.label} on {data}: {pretty_metric(chosen.chooser)} {score}"
    groups = selection.groups
    methods = groups[0].label if len(groups) == 1 else f"{len(groups)} methods"
    data = ", ".join(dict.fromkeys(group.first.result.data for group in groups))
    legacy = "Legacy protocol only: " if all(group.legacy for group in groups) else ""
    return f"{legacy}{methods} on {data}"


def _tiles(group: Group) -> tuple[tuple[str, str], ...]:
    """Return the numbers at the head of the page, each with what it is."""
    cost = costs([group]).frame.iloc[0]
    clients = max((r.clients for run in group.runs for r in run.rounds), default=0)
    return (
        *(
            (spread(group.values("test", metric)), f"{pretty_metric(metric)} on the test items")
            for metric in group.metric_names[:2]
        ),
        (f"{clients:,}", "clients in a round"),
        (cost["Rounds"], "rounds"),
        (f"{cost['Total s']} s", "wall time of a run"),
        (cost["Clients/s"], "clients trained per second"),
        (cost["Up"], "sent to the server"),
        (cost["Down"], "sent to the clients"),
    )


def _facts(groups: Sequence[Group]) -> list[tuple[str, str]]:
    """Return how the numbers were made, where that is the same for all or says how it differs."""

    def every(values: Sequence[str]) -> str:
        return "; ".join(dict.fromkeys(values))

    splits = [g.first.config.get("data", {}).get("split") or {} for g in groups]
    names = [f"{s.get('name', '?')}, seed {s.get('seed', '?')}".replace("_", " ") for s in splits]
    words = {
        "clean": "clean: training negatives come from all items but the user's train items",
        "legacy": "LEGACY: negatives leave out held-out items, few candidates are ranked",
    }
    protocols = [group.first.result.protocol for group in groups]
    choosers = every([pretty_metric(group.chooser) for group in groups])
    facts = [
        ("Protocol", every([words.get(name, name) for name in protocols])),
        (
            "Ranking",
            f"{every([g.first.result.ranking for g in groups])}; train and validation "
            "items are masked",
        ),
        ("Split", every(names)),
        ("Ties of score", "broken against the held-out item"),
        ("Choice of round", f"best {choosers} on validation; test is reported at that round"),
        ("Spread", "sample standard deviation over seeds"),
    ]
    if any(split.get("name") in ("leave_one_out", "temporal") for split in splits):
        facts.insert(3, ("Ties of time", "broken by a hash of split seed, user and item"))
    return facts


def _yaml(group: Group) -> str:
    config = {key: value for key, value in group.first.config.items() if key != "seed"}
    seeds = ", ".join(str(run.seed) for run in group.runs)
    return f"# seeds {seeds}\n" + dump_yaml(config)


def _machines(groups: Sequence[Group]) -> list[list[tuple[str, str]]]:
    """Return what the runs ran on, each different machine or set of versions once."""
    machines = {}
    for result in (run.result for group in groups for run in group.runs):
        hardware = result.hardware
        facts = dict(hardware if not isinstance(hardware, str) else {"hardware": hardware})
        pairs = [(str(k), str(v)) for k, v in {**facts, **result.versions}.items()]
        if pairs:
            machines[json.dumps(pairs)] = pairs
    return list(machines.values())
