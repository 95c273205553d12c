"""How the methods of a report are distributed over the panels of its figures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from fedrec.report.drawing import Axes, Line, Panel, Style, draw, draw_lines
from fedrec.report.labels import NAMES, labels
from fedrec.report.runs import Group
from fedrec.types import FloatArray

__all__ = ["Facet", "Figure", "as_array", "facets", "line_figure"]

PER_PANEL = 8
BASELINES_PER_PANEL = 3
MAX_STYLES = 16


@dataclass(frozen=True, slots=True)
class Facet:
    """Methods that are drawn in one panel.

    Args:
        title: What they have in common; empty where all are drawn together.
        groups: The methods, then the centralised baselines to compare with.
        labels: Of each, distinct within the panel.
        styles: Of each.
        prefix: Of the keys of the figures; letters, digits and hyphens.
    """

    title: str
    groups: tuple[Group, ...]
    labels: tuple[str, ...]
    styles: tuple[Style, ...]
    prefix: str = ""

    def entries(self) -> Iterator[tuple[Group, str, Style]]:
        """Return each method with its label and its style."""
        return zip(self.groups, self.labels, self.styles, strict=True)

    def legend(self) -> Iterator[tuple[str, Style]]:
        """Return the labels with their styles."""
        return zip(self.labels, self.styles, strict=True)


@dataclass(frozen=True, slots=True)
class Figure:
    """A finished figure.

    Args:
        key: Names it within the page; letters, digits and hyphens.
        title: Its message.
        caption: What is drawn and how to read it.
        panels: The drawings.
        legend: Its own legend, where it does not use that of all figures.
    """

    key: str
    title: str
    caption: str
    panels: tuple[Panel, ...]
    legend: tuple[tuple[str, Style], ...] = ()


def facets(section: Sequence[Group], prefix: str = "") -> tuple[Facet, ...]:
    """Distribute the methods of a section over panels, so that each holds few.

    Few methods share one panel. Many are divided by model, personalization and strategy, as far
    as needed; the best centralised baselines are drawn in each panel, in grey.

    Args:
        section: The methods.
        prefix: Tells the figures of this section from those of others on the page.
    """
    federated = [group for group in section if not group.centralised]
    baselines = [group for group in section if group.centralised]
    if len(section) <= PER_PANEL or not federated:
        names = [_finished_or_not(group.label, group) for group in section]
        return (Facet("", tuple(section), tuple(names), _styles(section, names, {}), prefix),)
    numbers: dict[str, int] = {}
    divided = []
    for title, members in _divided(federated, "", list(NAMES)):
        groups = [*members, *baselines[:BASELINES_PER_PANEL]]
        short = labels([g.settings for g in groups], [g.centralised for g in groups])
        names = [_finished_or_not(s or g.label, g) for s, g in zip(short, groups, strict=True)]
        # The same label has the same style in each panel, unless there are too many for that.
        if len({*numbers, *names}) > MAX_STYLES:
            numbers = {}
        styles = _styles(groups, names, numbers)
        divided.append(Facet(title, tuple(groups), tuple(names), styles, prefix))
    return tuple(divided)


def _finished_or_not(label: str, group: Group) -> str:
    return label if group.finished else f"{label} (unfinished)"


def _styles(
    groups: Sequence[Group], names: Sequence[str], numbers: dict[str, int]
) -> tuple[Style, ...]:
    """Return a style for each method: its number by name, which is noted, or grey."""
    grey = iter(range(1, len(groups) + 1))
    return tuple(
        Style(None, next(grey))
        if group.centralised
        else Style(numbers.setdefault(name, len(numbers)))
        for group, name in zip(groups, names, strict=True)
    )


def _divided(
    groups: Sequence[Group], title: str, keys: list[str]
) -> Iterator[tuple[str, Sequence[Group]]]:
    if len(groups) <= PER_PANEL:
        yield title, groups
    elif not keys:
        for start in range(0, len(groups), PER_PANEL):
            chunk = groups[start : start + PER_PANEL]
            yield f"{title} {start + 1} to {start + len(chunk)}".strip(), chunk
    else:
        values: dict[str, list[Group]] = {}
        for group in groups:
            values.setdefault(str(group.settings.get(keys[0])), []).append(group)
        for value, members in values.items():
            name = f"no {keys[0].partition('.')[0]}" if value == "none" else value
            more = f"{title} + {name}" if title else name
            yield from _divided(members, more if len(values) > 1 else title, keys[1:])


def line_figure(
    key: str,
    title: str,
    caption: str,
    panels: Sequence[Facet],
    line: Callable[[Group, str, Style], Line | None],
    dress: Callable[[Axes], None],
    *,
    same_height: bool = True,
) -> Figure | None:
    """Draw one line per method; panels without a line are left out."""
    drawn = []
    for facet in panels:
        lines = [made for entry in facet.entries() if (made := line(*entry)) is not None]
        if any(len(each.x) for each in lines):
            drawn.append((facet.title, lines))
    if not drawn:
        return None
    covered: list[str] = []

    def paint(number: int, axes: Axes) -> None:
        panel, lines = drawn[number]
        for each in draw_lines(axes, lines):
            covered.append((f"{panel}: " if panel else "") + " = ".join(each))
        dress(axes)

    key = panels[0].prefix + key
    titles = [panel for panel, _ in drawn]
    done = draw(key, f"{title}. {caption}", titles, paint, same_height=same_height)
    if covered:
        caption += f" Lines that cover each other: {'; '.join(covered)}."
    return Figure(key, title, caption, done)


def as_array(values: Sequence[float] | FloatArray) -> FloatArray:
    """Return float64 [n]."""
    return np.asarray(values, dtype=np.float64)
