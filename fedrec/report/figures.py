"""The figures of a report: all of them, and those by round."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from fedrec.report.drawing import Axes, FuncFormatter, Line, MaxNLocator, Style, draw, draw_lines
from fedrec.report.facets import Facet, Figure, as_array, line_figure
from fedrec.report.runs import Group, Run, pretty_metric
from fedrec.report.spectra import collapse
from fedrec.report.users import by_activity, mixing_weights, scores_of_users
from fedrec.runs.log import RoundRecord
from fedrec.types import FloatArray

__all__ = ["all_figures"]

FEW = 6
MEGA = 1e6
EXPLODED = 20.0
VIEWS = {"mixed": "the method's own score", "global": "global alone", "local": "local alone"}

Curve = Callable[[RoundRecord], float | None]


def all_figures(panels: Sequence[Facet]) -> tuple[Figure, ...]:
    """Draw every figure that the methods of a section have something to show for.

    Args:
        panels: As `facets` returns them.
    """
    metric = panels[0].groups[0].chooser
    painters = (
        partial(_learning, part="valid"),
        partial(_learning, part="test"),
        _views,
        _loss,
        _traffic,
        mixing_weights,
        scores_of_users,
        by_activity,
    )
    figures = [*(paint(panels, metric) for paint in painters), *collapse(panels)]
    return tuple(figure for figure in figures if figure is not None)


def _points(run: Run, curve: Curve) -> dict[int, float]:
    values = ((record.round, curve(record)) for record in run.rounds)
    return {round: value for round, value in values if value is not None}


def _by_round(group: Group, label: str, style: Style, curve: Curve, few: bool) -> Line | None:
    """Return the mean over seeds, in the rounds that all have, and the seeds if they are few."""
    points = [values for run in group.runs if (values := _points(run, curve))]
    if not points:
        return None
    rounds = sorted(set.intersection(*(set(each) for each in points)))
    if not rounds:
        return None
    mean = [float(np.mean([each[round] for each in points])) for round in rounds]
    seeds: tuple[tuple[FloatArray, FloatArray], ...] = ()
    rings: tuple[tuple[float, float], ...] = ()
    if few:
        if len(points) > 1:
            seeds = tuple((as_array(list(p)), as_array(list(p.values()))) for p in points)
        best = [
            (run.result.best_round, values) for run, values in zip(group.runs, points, strict=False)
        ]
        rings = tuple((float(b), values[b]) for b, values in best if b in values)
    return Line(label, style, as_array(rounds), as_array(mean), seeds, rings)


def _few(panels: Sequence[Facet]) -> bool:
    return sum(len(group.runs) for facet in panels for group in facet.groups) <= FEW


def _seeds_caption(panels: Sequence[Facet]) -> str:
    several = any(len(group.runs) > 1 for facet in panels for group in facet.groups)
    if not _few(panels):
        return "Lines are means over seeds." if several else ""
    thin = "Thin lines are seeds, thick lines their mean. " if several else ""
    return thin + "Rings mark the best round of each run on validation."


def _rounds_axis(axes: Axes) -> None:
    axes.set_xlabel("round")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))


def _learning(panels: Sequence[Facet], metric: str, part: str) -> Figure | None:
    words = {"valid": "validation", "test": "test"}[part]
    few = _few(panels)

    def line(group: Group, label: str, style: Style) -> Line | None:
        if group.centralised:
            level = as_array(group.values(part, metric))
            return Line(label, style, level[:0], level[:1]) if len(level) else None
        return _by_round(group, label, style, lambda r: r.score(part, metric), few)

    def dress(axes: Axes) -> None:
        axes.set_ylim(bottom=0)
        axes.set_ylabel(f"{words} {pretty_metric(metric)}")
        _rounds_axis(axes)

    name = f"{pretty_metric(metric)} on the {words} items"
    title = f"{name} chooses the round" if part == "valid" else f"{name} by round"
    caption = _seeds_caption(panels)
    if part == "test":
        caption += " Shown for inspection only: nothing was chosen on it."
    return line_figure(f"learning-{part}", title, caption.strip(), panels, line, dress)


def _views(panels: Sequence[Facet], metric: str) -> Figure | None:
    styles = {view: Style(number) for number, view in enumerate(VIEWS)}
    groups = {id(group): group for facet in panels for group in facet.groups}
    drawn = []
    for group in groups.values():
        curves = {v: partial(RoundRecord.score, part="valid", metric=metric, view=v) for v in VIEWS}
        made = [_by_round(group, VIEWS[v], styles[v], curves[v], False) for v in VIEWS]
        lines = [each for each in made if each is not None]
        if len(lines) > 1:
            drawn.append((group.label, lines))
    if not drawn:
        return None

    def paint(number: int, axes: Axes) -> None:
        draw_lines(axes, drawn[number][1])
        axes.set_ylim(bottom=0)
        axes.set_ylabel(f"validation {pretty_metric(metric)}")
        _rounds_axis(axes)

    title = "What the global and the local part score alone"
    caption = (
        "The method ranks by a mixture of the shared item table and the client's own; each is "
        "also ranked by alone."
    )
    titles = [label for label, _ in drawn]
    legend = tuple((VIEWS[view], style) for view, style in styles.items())
    key = f"{panels[0].prefix}views"
    return Figure(key, title, caption, draw(key, f"{title}.", titles, paint), legend)


def _loss(panels: Sequence[Facet], metric: str) -> Figure | None:
    few = _few(panels)

    def line(group: Group, label: str, style: Style) -> Line | None:
        made = _by_round(group, label, style, lambda record: record.loss, few)
        return made and Line(label, style, made.x, made.y, made.seeds)

    def dress(axes: Axes) -> None:
        levels = np.concatenate([np.asarray(line.get_ydata()) for line in axes.get_lines()])
        if levels.min() > 0 and levels.max() > EXPLODED * np.median(levels):
            axes.set_yscale("log")
        axes.set_ylabel("mean loss per train example")
        _rounds_axis(axes)

    caption = (
        "Measured by the clients while they train, on freshly drawn negatives; losses of "
        "different kinds do not compare."
    )
    return line_figure("loss", "Training loss", caption, panels, line, dress, same_height=False)


def _traffic(panels: Sequence[Facet], metric: str) -> Figure | None:
    def line(group: Group, label: str, style: Style) -> Line | None:
        run = group.first
        sent = np.cumsum([record.bytes.up + record.bytes.down for record in run.rounds]) / MEGA
        scores = [record.score("valid", metric) for record in run.rounds]
        points = [(s, v) for s, v in zip(sent, scores, strict=True) if v is not None]
        if not points or points[-1][0] == 0:
            return None
        x, y = zip(*points, strict=True)
        return Line(label, style, as_array(x), as_array(y))

    def dress(axes: Axes) -> None:
        axes.set_ylim(bottom=0)
        axes.set_xlim(left=0)
        axes.set_xlabel("sent up and down so far (MB)")
        axes.set_ylabel(f"validation {pretty_metric(metric)}")
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.4g}"))

    caption = "Bytes between the server and all clients, both ways, of the first seed."
    title = "What the score costs in traffic"
    return line_figure("traffic", title, caption, panels, line, dress)
