"""The figures of a report."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from fedrec.errors import FedRecError
from fedrec.evaluation.collapse import Spectrum, learned_spectrum
from fedrec.report.drawing import Figure, Panel, draw, draw_points
from fedrec.report.runs import Group, Run, Values, pretty_metric
from fedrec.report.tables import Table, frame_of
from fedrec.runs.folder import BEFORE_END
from fedrec.runs.result import RunResult

KILO, MEGA = 1e3, 1e6
MARGIN = 2.0
BINS = 24
FIFTHS = 5
COLLAPSED = 2.0
FLOOR = 1e-3
NOTHING: Values = pd.Series(dtype=float)


def all_figures(
    panels: Sequence[Panel], spectra: Mapping[str, Spectrum | Exception]
) -> list[Figure]:
    """Draw every figure that the methods of a section have something to show for.

    Args:
        panels: As `fedrec.report.drawing.panels` returns them.
        spectra: As `spectra` returns them.
    """
    groups = [group for panel in panels for group, _ in panel.methods]
    metric = groups[0].chooser
    pretty = pretty_metric(metric)
    figures = [
        *_scores(panels, groups, metric),
        draw(
            "Training loss",
            "Measured by the clients while they train, on freshly drawn negatives; losses of "
            "different kinds do not compare.",
            panels,
            partial(_by_round, column="loss"),
            xlabel="round",
            ylabel="mean loss per train example",
        ),
        draw(
            "What the score costs in traffic",
            "Bytes between the server and all clients, both ways, of the first seed.",
            panels,
            partial(_by_traffic, column=f"valid.{metric}"),
            xlabel="sent up and down so far (MB)",
            ylabel=f"validation {pretty}",
            xlim=(0, None),
            ylim=(0, None),
        ),
        *_by_message(panels, groups, metric),
        draw(
            "How much each user relies on the local part",
            "Users of all seeds at their best round.",
            panels,
            _mixing_weights,
            steps=True,
            xlabel="weight λ of the local part (0: all global, 1: all local)",
            ylabel="% of the users",
            xlim=(0, 1),
            ylim=(0, None),
        ),
        _by_activity(panels, groups, metric),
        draw(
            "How many dimensions the item table uses",
            "Singular values of the item table at the best round minus its initial values, the "
            "mean row subtracted (first seed). A line that falls at once has collapsed: all that "
            "was learned lies in few dimensions.",
            panels,
            lambda group: _singular_values(spectra.get(group.label)),
            xlabel="dimension, from the strongest",
            ylabel="singular value (largest = 1)",
            yscale="log",
            ylim=(FLOOR * 0.8, 1.3),
        ),
    ]
    return [figure for figure in figures if figure is not None]


def _by_round(group: Group, column: str) -> Values:
    """Return the mean over seeds, in the rounds that all have; a baseline has one value."""
    if group.centralised:
        return group.values(f"metrics.{column}").iloc[:1]
    curves = [run.log[column].dropna() for run in group.runs if column in run.log]
    return pd.concat(curves or [NOTHING], axis=1, join="inner").mean(axis=1)


def _scores(panels: Sequence[Panel], groups: Sequence[Group], metric: str) -> list[Figure | None]:
    if all(group.centralised for group in groups):
        return []
    pretty = pretty_metric(metric)
    views = [view for group in groups for view in group.first.result["metrics"]["views"]]
    views = [view for view in views if view != BEFORE_END]  # of one round alone
    titles = {
        f"valid.{metric}": f"{pretty} on the validation items chooses the round",
        f"test.{metric}": f"{pretty} on the test items, shown for inspection only",
        **{f"valid.{v}.{metric}": f"{pretty} of the {v} score alone, on validation" for v in views},
    }
    caption = "Lines are means over seeds. Centralised baselines have no rounds."
    axes: dict[str, Any] = {"xlabel": "round", "ylabel": pretty, "ylim": (0, None)}
    return [
        draw(title, caption, panels, partial(_by_round, column=column), **axes)
        for column, title in titles.items()
    ]


def _by_traffic(group: Group, column: str) -> Values:
    log = group.first.log
    if column not in log:
        return NOTHING
    sent = (log["bytes.up"] + log["bytes.down"]).cumsum() / MEGA
    return log[column].set_axis(sent).dropna() if sent.any() else NOTHING


def _by_message(
    panels: Sequence[Panel], groups: Sequence[Group], metric: str
) -> list[Figure | None]:
    """Draw the test score against what a client sends and receives, and against what it sends."""
    pretty = pretty_metric(metric)
    caption = (
        "Mean over seeds and clients of the bytes of a round in which a client takes part; the "
        "score is that of the round that validation chose, with its standard deviation over seeds. "
        "Centralised baselines are drawn across."
    )
    figures = []
    for ways, title in (
        (("up", "down"), "What the score costs each client"),
        (("up",), "What the score costs each client to send"),
    ):
        sizes = [_kilobytes(group, ways) for group in groups]
        sent = [size for size in sizes if size > 0]
        figures.append(
            draw_points(
                title,
                caption,
                panels,
                partial(_kilobytes, ways=ways),
                lambda group: group.values(f"metrics.test.{metric}"),
                xlabel=f"{' and '.join(ways)} per client and round (kB)",
                ylabel=f"test {pretty}",
                xlim=(min(sent) / MARGIN, max(sent) * MARGIN) if sent else None,
                ylim=(0, None),
            )
        )
    return figures


def _kilobytes(group: Group, ways: Sequence[str]) -> float:
    """Return what a client sends (``up``) and receives (``down``) in a round; NaN if not known."""
    return float(sum(group.values(f"bytes_per_client.{way}").mean() for way in ways)) / KILO


def _mixing_weights(group: Group) -> Values:
    weights = [weight for run in group.runs for weight in _weights(run)]
    if not weights:
        return NOTHING
    counts, edges = np.histogram(np.clip(weights, 0, 1), BINS, (0, 1))
    return pd.Series([*counts, counts[-1]], edges) * (100 / len(weights))


def _weights(run: Run) -> list[float]:
    """Return the weight of the local part of each user, or of each client."""
    try:
        arrays = [run.folder.local(axis).get("lambda") for axis in ("user", "client")]
    except FedRecError:  # it stands in the notes of the run
        return []
    return next((each.reshape(-1).tolist() for each in arrays if each is not None), [])


def _by_activity(panels: Sequence[Panel], groups: Sequence[Group], metric: str) -> Figure | None:
    activity = next((g.users["n_train"] for g in groups if "n_train" in g.users), NOTHING)
    if activity.empty:
        return None
    fifths = pd.qcut(activity, FIFTHS, duplicates="drop")
    ranges = activity.groupby(fifths, observed=False).agg(["min", "max"])

    def line(group: Group) -> Values:
        scores = group.users.get(f"test.{metric}", NOTHING)
        return scores.groupby(fifths, observed=False).mean().set_axis(range(len(ranges))).dropna()

    return draw(
        "Score by how active a user is",
        "Users in five groups of about equal size, from the least to the most active.",
        panels,
        line,
        xlabel="train items of the user (fifths of all users)",
        ylabel=f"test {pretty_metric(metric)}",
        xticks=range(len(ranges)),
        xticklabels=[f"{low:.0f} to {high:.0f}" for low, high in ranges.to_numpy()],
        ylim=(0, None),
    )


def spectra(section: Sequence[Group]) -> dict[str, Spectrum | Exception]:
    """Return the spectrum of what training added to the item table of each first seed, by label.

    Where a run came to its end and its table or its plug-in cannot be read, the error stands in
    the place of the spectrum.
    """
    values: dict[str, Spectrum | Exception] = {}
    for group in (group for group in section if not group.centralised and group.first.finished):
        try:
            table = group.first.folder.model().get("item")
            result = RunResult(group.first.folder.path)
            task = result.experiment.client_task(result.catalogue)
            if table is not None and table.ndim == 2:
                initial = task.initial_globals(len(table))["item"]
                values[group.label] = learned_spectrum(table, initial)
        except (FedRecError, ValueError) as error:
            values[group.label] = error
    return values


def _singular_values(spectrum: Spectrum | Exception | None) -> Values:
    if not isinstance(spectrum, Spectrum) or not spectrum.participation_ratio:
        return NOTHING
    values = pd.Series(spectrum.singular_values / spectrum.singular_values.max())
    return values.set_axis(values.index + 1).clip(lower=FLOOR)


def collapse(section: Sequence[Group], spectra: Mapping[str, Spectrum | Exception]) -> Table | None:
    """Return how many dimensions each item table uses, and which tables have collapsed."""
    rows = []
    notes = [
        "of the item table minus its initial values (first seed). Participation ratio: the number "
        "of directions that carry the variance; effective rank: counts weak directions too. "
        f"A participation ratio below {COLLAPSED:g} is called collapsed."
    ]
    for group in (group for group in section if group.label in spectra):
        spectrum, row = spectra[group.label], {"kind": group.kind, "Method": group.title}
        if isinstance(spectrum, Exception):
            notes.append(f"{group.label}: {spectrum}")
            rows.append(row | {"Collapsed": "not known"})
            continue
        dimensions = len(spectrum.singular_values)
        few = spectrum.participation_ratio < COLLAPSED < dimensions / 2
        row |= {
            "Participation ratio": f"{spectrum.participation_ratio:.1f}",
            "Effective rank": f"{spectrum.effective_rank:.1f}",
            "Dimensions": str(dimensions),
            "Collapsed": "yes" if few else "no",
        }
        rows.append(row)
    if not rows:
        return None
    frame = frame_of(rows).fillna("–")
    names = "; ".join(frame["Method"][frame["Collapsed"] == "yes"])
    title = f"Collapsed: {names}" if names else "No item table has collapsed"
    return Table(title, frame, 1, tuple(notes))
