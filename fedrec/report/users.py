"""The figures of a report about single users."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from fedrec.errors import FedRecError
from fedrec.report.drawing import Axes, Line, PercentFormatter, Style
from fedrec.report.facets import PER_PANEL, Facet, Figure, as_array, line_figure
from fedrec.report.runs import Group, Run, pretty_metric
from fedrec.types import FloatArray

__all__ = ["by_activity", "mixing_weights", "scores_of_users"]

BINS = 24
ACTIVITY_GROUPS = 5
MAX_LEVELS = 200


def mixing_weights(panels: Sequence[Facet], metric: str) -> Figure | None:
    """Draw the distribution over users of the weight of the local part."""
    edges = np.linspace(0.0, 1.0, BINS + 1)
    means = []

    def line(group: Group, label: str, style: Style) -> Line | None:
        weights = [array for run in group.runs for array in _weights(run)]
        if not weights:
            return None
        values = np.concatenate(weights)
        share = np.histogram(np.clip(values, 0, 1), edges)[0] / len(values)
        means.append(f"{group.label}: {values.mean():.3f}")
        return Line(label, style, edges, np.append(share, share[-1]), steps=True)

    def dress(axes: Axes) -> None:
        axes.set_xlim(0, 1)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("weight λ of the local part (0: all global, 1: all local)")
        axes.set_ylabel("share of users")
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))

    title = "How much each user relies on the local part"
    figure = line_figure("weights", title, "", panels, line, dress)
    if figure is None:
        return None
    caption = f"Users of all seeds at their best round.{figure.caption}"
    if len(means) <= PER_PANEL:
        caption += f" Mean: {'; '.join(means)}."
    return Figure(figure.key, title, caption, figure.panels)


def _weights(run: Run) -> Iterator[FloatArray]:
    for per in ("user", "client"):
        try:
            values = run.folder.local(per).get("lambda")
        except FedRecError:
            return
        if values is not None and values.size:
            yield values.reshape(-1)
            return


def scores_of_users(panels: Sequence[Facet], metric: str) -> Figure | None:
    """Draw the share of users above each level of the score."""

    def line(group: Group, label: str, style: Style) -> Line | None:
        values = [each.to_numpy(dtype=np.float64) for each in group.per_run(f"test.{metric}")]
        scores = np.sort(np.concatenate(values)) if values else np.zeros(0)
        scores = scores[np.isfinite(scores)]
        if not len(scores):
            return None
        levels = np.unique(scores[scores > 0])
        if len(levels) > MAX_LEVELS:
            levels = np.quantile(levels, np.linspace(0, 1, MAX_LEVELS))
        share = 1 - np.searchsorted(scores, levels, side="left") / len(scores)
        return Line(label, style, np.append(0.0, levels), np.append(share, 0.0), steps=True)

    def dress(axes: Axes) -> None:
        axes.set_xlim(0, 1.02)
        axes.set_ylim(bottom=0)
        axes.set_xlabel(f"test {pretty_metric(metric)} of a user")
        axes.set_ylabel("share of users above")
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))

    caption = (
        "For each level of the score, the share of users above it; a line starts at the share "
        "above zero. All seeds together."
    )
    title = "Who is served, and how well"
    return line_figure("users", title, caption, panels, line, dress)


def by_activity(panels: Sequence[Facet], metric: str) -> Figure | None:
    """Draw the mean score of users by the number of their train items."""
    counts = [g.per_user("n_train") for facet in panels for g in facet.groups]
    activity = next((each for each in counts if each is not None and len(each)), None)
    if activity is None:
        return None
    cuts = np.quantile(activity, np.linspace(0, 1, ACTIVITY_GROUPS + 1)[1:-1], method="higher")
    place = np.searchsorted(np.unique(cuts), activity.to_numpy(dtype=np.float64), side="right")
    parts = [activity[place == level] for level in np.unique(place)]
    names = [f"{part.min():.0f} to {part.max():.0f}" for part in parts]

    def line(group: Group, label: str, style: Style) -> Line | None:
        values = group.per_user(f"test.{metric}")
        if values is None:
            return None
        means = as_array([values.reindex(part.index).mean() for part in parts])
        return Line(label, style, np.arange(float(len(parts))), np.nan_to_num(means))

    def dress(axes: Axes) -> None:
        axes.set_xticks(range(len(names)), names)
        axes.margins(x=0.1)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("train items of the user (fifths of all users)")
        axes.set_ylabel(f"test {pretty_metric(metric)}")

    caption = "Users in five groups of about equal size, from the least to the most active."
    title = "Score by how active a user is"
    return line_figure("activity", title, caption, panels, line, dress)
