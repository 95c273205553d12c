"""The figures of a report."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from fedrec.errors import RunFolderError
from fedrec.report.compare import per_run, per_user
from fedrec.report.drawing import DASHES, PANEL, Key, Plot, colour, draw
from fedrec.report.runs import Group, Run, pretty_metric
from fedrec.runs.log import RoundRecord
from fedrec.types import FloatArray

__all__ = ["all_figures", "effective_rank", "singular_values"]

WORDS = {"valid": "Validation", "test": "Test"}
BINS = 24
ACTIVITY_GROUPS = 5
MEGA = 1e6

Curve = Callable[[RoundRecord], float | None]


def all_figures(groups: Sequence[Group]) -> tuple[Plot, ...]:
    """Every figure that the runs have something to show for."""
    return tuple(_figures(groups))


def _figures(groups: Sequence[Group]) -> Iterator[Plot]:
    metric = groups[0].chooser
    for part in ("valid", "test"):
        if _has(groups, _score(part, metric)):
            yield _learning(groups, part, metric)
    for index, group in enumerate(groups):
        if _has([group], _score("valid", metric, "global")):
            yield _views(group, index, metric)
    if _has(groups, lambda record: record.loss):
        yield _loss(groups)
    if _has(groups, lambda record: record.bytes.up + record.bytes.down or None):
        yield _traffic(groups)
    yield from filter(
        None, (_weights(groups), _spectrum(groups), _users(groups, metric), _activity(groups))
    )


def _score(part: str, metric: str, view: str = "mixed") -> Curve:
    return lambda record: record.score(part, metric, view)


def _points(run: Run, curve: Curve) -> dict[int, float]:
    values = ((record.round, curve(record)) for record in run.rounds)
    return {round: value for round, value in values if value is not None}


def _has(groups: Sequence[Group], curve: Curve) -> bool:
    return any(_points(run, curve) for group in groups for run in group.runs)


def _lines(axes: Axes, group: Group, curve: Curve, key: Key) -> list[Key]:
    """Each seed as a thin line, their mean, over the rounds that all have, as a thick one."""
    points = [found for run in group.runs if (found := _points(run, curve))]
    if not points:
        return []
    if len(points) > 1:
        for each in points:
            shade = colour(key.series)
            axes.plot(list(each), list(each.values()), color=shade, lw=0.8, alpha=0.4)
    shared = sorted(set.intersection(*(set(each) for each in points)))
    mean = [float(np.mean([each[round] for each in points])) for round in shared]
    marker = "o" if len(shared) == 1 else None
    dashes = DASHES[key.dashes]
    axes.plot(shared, mean, color=colour(key.series), lw=2.0, ls=dashes, marker=marker)
    return [key]


def _best(axes: Axes, group: Group, curve: Curve, series: int) -> None:
    for run in group.runs:
        best = int(run.result.get("best_round") or 0)
        value = _points(run, curve).get(best)
        if value is not None:
            axes.plot([best], [value], "o", ms=7, mfc=colour(series), mec=PANEL, zorder=5)


def _rounds_axis(axes: Axes) -> None:
    axes.set_xlabel("round")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))


def _learning(groups: Sequence[Group], part: str, metric: str) -> Plot:
    curve = _score(part, metric)

    def paint(axes: Axes) -> list[Key]:
        keys: list[Key] = []
        for index, group in enumerate(groups):
            if group.centralised:
                for value in group.values(part, metric)[:1]:
                    axes.axhline(value, color=colour(index), lw=1.5, ls=DASHES[2])
                    keys.append(Key(group.label, index, 2))
                continue
            keys += _lines(axes, group, curve, Key(group.label, index, _dashes(group)))
            _best(axes, group, curve, index)
        axes.set_ylim(bottom=0)
        axes.set_ylabel(f"{WORDS[part].lower()} {pretty_metric(metric)}")
        _rounds_axis(axes)
        return keys

    name = f"{WORDS[part]} {pretty_metric(metric)}"
    title = f"{name} chooses the round" if part == "valid" else f"{name} by round"
    caption = "Dots mark each run's best round on validation. " + _how_many(groups)
    if part == "test":
        caption += " Shown for inspection only: nothing was chosen on it."
    return draw(f"learning-{part}", title, caption, paint)


def _dashes(group: Group) -> int:
    return 3 if group.legacy else int(not group.finished)


def _how_many(groups: Sequence[Group]) -> str:
    if any(len(group.runs) > 1 for group in groups):
        return "Thin lines are seeds, thick lines their mean."
    return "One line per run."


def _views(group: Group, index: int, metric: str) -> Plot:
    def paint(axes: Axes) -> list[Key]:
        keys: list[Key] = []
        for offset, view in enumerate(("mixed", "global", "local")):
            curve = _score("valid", metric, view)
            keys += _lines(axes, group, curve, Key(f"{view} score", index + offset, offset))
        _best(axes, group, _score("valid", metric), index)
        axes.set_ylim(bottom=0)
        axes.set_ylabel(f"validation {pretty_metric(metric)}")
        _rounds_axis(axes)
        return keys

    return draw(
        f"views-{index}",
        f"{group.label}: what the global and the local part score alone",
        "Mixed is the method's own score; global uses the shared item table alone, local the "
        "client's part alone.",
        paint,
    )


def _loss(groups: Sequence[Group]) -> Plot:
    def paint(axes: Axes) -> list[Key]:
        keys: list[Key] = []
        for index, group in enumerate(groups):
            keys += _lines(axes, group, lambda record: record.loss, Key(group.label, index))
        axes.set_ylabel("mean loss per train example")
        _rounds_axis(axes)
        return keys

    caption = (
        "Measured by the clients while they train, on freshly drawn negatives; losses of "
        "different kinds do not compare."
    )
    return draw("loss", "Training loss", caption, paint)


def _traffic(groups: Sequence[Group]) -> Plot:
    def paint(axes: Axes) -> list[Key]:
        keys: list[Key] = []
        for index, group in enumerate(groups):
            run = group.first
            rounds = [record.round for record in run.rounds]
            for dashes, way in enumerate(("up", "down")):
                moved = np.cumsum([getattr(r.bytes, way) for r in run.rounds]) / MEGA
                if len(moved) and moved[-1] > 0:
                    axes.plot(rounds, moved, color=colour(index), lw=2.0, ls=DASHES[dashes])
                    if len(groups) == 1:
                        keys.append(Key(way, index, dashes))
                    elif way == "up":
                        keys.append(Key(group.label, index))
        axes.set_ylim(bottom=0)
        axes.set_ylabel("cumulative traffic (MB)")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.4g}"))
        _rounds_axis(axes)
        return keys

    caption = (
        "Bytes of the messages between the nodes and the server; a node answers once for all of "
        "its clients. Solid: up, dashed: down; first seed of each method."
    )
    return draw("traffic", "Bytes sent up and down", caption, paint)


def _weights(groups: Sequence[Group]) -> Plot | None:
    found = {}
    for index, group in enumerate(groups):
        arrays = [a for run in group.runs if (a := run.folder.local().get("lambda")) is not None]
        if arrays:
            found[index] = np.concatenate([array.reshape(-1) for array in arrays])
    if not found:
        return None

    def paint(axes: Axes) -> list[Key]:
        keys: list[Key] = []
        edges = np.linspace(0.0, 1.0, BINS + 1)
        for order, (index, values) in enumerate(found.items()):
            share = np.histogram(np.clip(values, 0, 1), edges)[0] / len(values)
            label = f"{groups[index].label}: mean {values.mean():.3f}, sd {values.std():.3f}"
            axes.stairs(share, edges, fill=True, color=colour(index), alpha=0.3)
            dashes = order % len(DASHES)
            axes.stairs(share, edges, color=colour(index), lw=2.0, ls=DASHES[dashes])
            keys.append(Key(label, index, dashes))
            axes.axvline(float(values.mean()), color=colour(index), lw=1.2, ls=DASHES[1])
        axes.set_xlim(0, 1)
        axes.set_xlabel("weight λ of the local part (0: all global, 1: all local)")
        axes.set_ylabel("share of users")
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        return keys

    caption = "Users of all seeds at their best round; the dashed line is the mean."
    return draw("weights", "How much each user relies on the local part", caption, paint)


def singular_values(table: FloatArray) -> FloatArray:
    """Singular values of a table with its mean row taken away.

    Args:
        table: float [n_items, d].

    Returns:
        float64 [min(n_items, d)], falling.
    """
    centred = np.asarray(table, dtype=np.float64)
    centred = centred - centred.mean(axis=0)
    values: FloatArray = np.linalg.svd(centred, compute_uv=False)
    return values


def effective_rank(values: FloatArray) -> float:
    """Exp of the entropy of the normalised singular values; 0 for a table of zeros.

    Args:
        values: float [d], not negative.

    Reference: Roy and Vetterli (2007), The effective rank.
    """
    total = float(np.sum(values))
    if total <= 0:
        return 0.0
    share = values[values > 0] / total
    return float(np.exp(-np.sum(share * np.log(share))))


def _spectrum(groups: Sequence[Group]) -> Plot | None:
    found: dict[int, FloatArray] = {}
    for index, group in enumerate(groups):
        if group.centralised:
            continue
        try:
            table = group.first.folder.model().get("item")
        except RunFolderError:
            continue
        if table is not None and table.ndim == 2:
            found[index] = singular_values(table)
    if not found:
        return None

    def paint(axes: Axes) -> list[Key]:
        keys: list[Key] = []
        for index, values in found.items():
            label = f"{groups[index].label}: effective rank {effective_rank(values):.1f}"
            label += f" of {len(values)}"
            scaled = values / max(float(values[0]), np.finfo(float).tiny)
            axes.plot(range(1, len(values) + 1), scaled, color=colour(index), lw=2.0)
            keys.append(Key(label, index))
        axes.set_ylim(0, 1.02)
        axes.set_xlabel("dimension, by size")
        axes.set_ylabel("singular value (largest = 1)")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        return keys

    ranks = [effective_rank(values) for values in found.values()]
    size = f"{ranks[0]:.1f}" if len(ranks) == 1 else f"{min(ranks):.1f} to {max(ranks):.1f}"
    caption = (
        "Singular values of the item table at the best round, its mean row taken away (first "
        "seed). The effective rank is the exponential of their entropy: a curve that falls early "
        "means few dimensions are used."
    )
    return draw("spectrum", f"The item table has effective rank {size}", caption, paint)


def _users(groups: Sequence[Group], metric: str) -> Plot | None:
    found = {}
    for index, group in enumerate(groups):
        parts = per_run(group, f"test.{metric}")
        if parts:
            values = np.concatenate([part.to_numpy(dtype=np.float64) for part in parts])
            found[index] = np.sort(values[np.isfinite(values)])
    found = {index: values for index, values in found.items() if len(values)}
    if not found:
        return None

    def paint(axes: Axes) -> list[Key]:
        keys: list[Key] = []
        for index, values in found.items():
            levels = np.unique(values[values > 0])
            share = 1 - np.searchsorted(values, levels, side="left") / len(values)
            x = np.concatenate([[0.0], levels, levels[-1:]])
            y = np.concatenate([share[:1], share, [0.0]])
            label = f"{groups[index].label}: {np.mean(values > 0):.0%} above zero"
            axes.plot(x, y, color=colour(index), lw=2.0, drawstyle="steps-pre")
            keys.append(Key(label, index))
        axes.set_xlim(0, 1.02)
        axes.set_ylim(bottom=0)
        axes.set_xlabel(f"a user's test {pretty_metric(metric)}")
        axes.set_ylabel("share of users at or above")
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        return keys

    caption = (
        "For each level of the score, the share of users that reaches it; a line starts at the "
        "share above zero. All seeds together."
    )
    return draw("users", "Who is served, and how well", caption, paint)


def _activity(groups: Sequence[Group]) -> Plot | None:
    metric = groups[0].chooser
    activity = per_user(groups[0], "n_train")
    if activity is None or not len(activity):
        return None
    cuts = np.quantile(activity, np.linspace(0, 1, ACTIVITY_GROUPS + 1)[1:-1], method="higher")
    cuts = np.unique(cuts)
    place = np.searchsorted(cuts, activity.to_numpy(dtype=np.float64), side="right")
    names = []
    for level in range(len(cuts) + 1):
        inside = activity[place == level]
        names.append(f"{inside.min():.0f} to {inside.max():.0f}" if len(inside) else "none")

    def paint(axes: Axes) -> list[Key]:
        keys: list[Key] = []
        for index, group in enumerate(groups):
            values = per_user(group, f"test.{metric}")
            if values is None or group.data_key != groups[0].data_key:
                continue
            joined = values.reindex(activity.index).to_numpy(dtype=np.float64)
            levels = range(len(names))
            means = [
                float(np.nanmean(part)) if np.any(np.isfinite(part := joined[place == g])) else 0.0
                for g in levels
            ]
            axes.plot(levels, means, "o-", color=colour(index), lw=2.0, ms=6)
            keys.append(Key(group.label, index))
        axes.set_xticks(range(len(names)), names)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("train items of the user (fifths of all users)")
        axes.set_ylabel(f"mean test {pretty_metric(metric)}")
        return keys

    caption = "Users in five groups of about equal size, from the least to the most active."
    title = "Score by how active a user is"
    return draw("activity", title, caption, paint)
