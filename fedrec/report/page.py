"""The HTML report: one page that needs no other file, no script and no network."""

import json
from collections.abc import Sequence
from typing import Any

import jinja2

from fedrec.config.yaml import dump_yaml
from fedrec.report.citations import bibliography
from fedrec.report.drawing import panels
from fedrec.report.figures import all_figures, collapse, spectra
from fedrec.report.labels import differing
from fedrec.report.runs import Group, Selection, pretty_metric
from fedrec.report.tables import all_slices, costs, paired, results, runs, spread

MAX_BASELINES = 40


def render(selection: Selection, baseline: str | None = None) -> str:
    """Return the page as text.

    Args:
        selection: The runs, as `fedrec.report.runs.load` returns them.
        baseline: As in `Selection.baseline`.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("fedrec.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"pretty_metric": pretty_metric, "spread": spread, "yaml": dump_yaml}
    groups = [group for section in selection.sections for group in section]
    settings = differing([group.first.settings for group in groups])
    results_of_runs = [run.result for group in groups for run in group.runs]
    machines = [{**r.get("hardware", {}), **r.get("versions", {})} for r in results_of_runs]
    best = headline(selection)
    return environment.get_template("page.html.j2").render(
        groups=groups,
        best=best,
        cost=costs([best]).frame.iloc[0] if best else None,
        warned=[group.label for group in groups if "warning" in group.marks],
        left_out=selection.left_out,
        sections=[_section(selection, section, baseline) for section in selection.sections],
        hints={
            group.title: "; ".join(f"{key} = {value}" for key, value in row.items())
            for group, row in zip(groups, settings.to_dict("records"), strict=True)
        },
        costs=costs(groups),
        runs=runs(groups),
        machines={json.dumps(facts): facts for facts in machines if facts}.values(),
        cited=dict.fromkeys(key for r in results_of_runs for key in r.get("citations", ())),
        bibliography=bibliography(),
    )


def _section(selection: Selection, section: Sequence[Group], named: str | None) -> dict[str, Any]:
    """Return the tables and figures of groups that can be compared with each other."""
    baseline = selection.baseline(section, named)
    finished = [group for group in section if group.first.finished]
    tables = {group.label: paired(section, group) for group in finished[:MAX_BASELINES]}
    spectra_of = spectra(section)
    drawn = panels(section)
    return {
        "best": section[0],
        "results": results(selection, section),
        "compared": baseline and paired(section, baseline),
        "slices": all_slices(section, baseline),
        "others": {label: table for label, table in tables.items() if table is not None},
        "baseline": baseline,
        "panels": drawn,
        "figures": all_figures(drawn, spectra_of),
        "collapse": collapse(section, spectra_of),
    }


def headline(selection: Selection) -> Group | None:
    """Return the best on validation of the federated, finished groups under a clean protocol.

    None where there is none, or where the report has several data sets, splits or protocols.
    """
    sections = [s for s in selection.sections if s[0].kind != "legacy"]
    if len(sections) != 1:
        return None
    return next((g for g in sections[0] if g.kind == "federated" and len(g.valid)), None)
