"""The figures of a report that show whether an item table has collapsed."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np

from fedrec.config.experiment import load_experiment
from fedrec.errors import FedRecError
from fedrec.evaluation.collapse import Spectrum, learned_spectrum
from fedrec.report.drawing import MUTED, PANEL, Axes, Line, MaxNLocator, Style, draw
from fedrec.report.facets import Facet, Figure, line_figure
from fedrec.report.runs import Group

__all__ = ["collapse"]

COLLAPSED = 2.0
FLOOR = 1e-3
LABEL_WIDTH = 24


def _spectrum(group: Group) -> Spectrum | None:
    """Return the spectrum of what training added to the item table of the first seed, if known."""
    run = group.first
    try:
        table = run.folder.model().get("item")
        if table is None or table.ndim != 2 or not np.isfinite(table).all():
            return None
        task = load_experiment(dict(run.config)).client_task()
        return learned_spectrum(table, task.initial_globals(len(table))["item"])
    except (FedRecError, KeyError, ValueError):  # no table, or a plug-in that is not here
        return None


def collapse(panels: Sequence[Facet]) -> tuple[Figure | None, Figure | None]:
    """Draw the singular values and the rank of what each item table has learned."""
    groups = {id(g): g for facet in panels for g in facet.groups if not g.centralised}
    spectra = {key: s for key, group in groups.items() if (s := _spectrum(group)) is not None}
    return _singular_values(panels, spectra), _ranks(panels, spectra)


def _singular_values(panels: Sequence[Facet], spectra: Mapping[int, Spectrum]) -> Figure | None:
    def line(group: Group, label: str, style: Style) -> Line | None:
        spectrum = spectra.get(id(group))
        if spectrum is None or not spectrum.singular_values.max(initial=0) > 0:
            return None
        values = spectrum.singular_values / spectrum.singular_values[0]
        return Line(label, style, np.arange(1.0, len(values) + 1), np.maximum(values, FLOOR))

    def dress(axes: Axes) -> None:
        axes.set_yscale("log")
        axes.set_ylim(FLOOR * 0.8, 1.3)
        axes.set_xlabel("dimension, from the strongest")
        axes.set_ylabel("singular value (largest = 1)")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))

    caption = (
        "Singular values of the item table at the best round minus its initial values, the mean "
        "row subtracted (first seed). A line that falls at once has collapsed: all that was "
        "learned lies in few dimensions."
    )
    title = "How many dimensions the item table uses"
    return line_figure("spectrum", title, caption, panels, line, dress)


def _ranks(panels: Sequence[Facet], spectra: Mapping[int, Spectrum]) -> Figure | None:
    drawn = []
    collapsed = []
    for facet in panels:
        rows = [
            (label, style, spectrum)
            for group, label, style in facet.entries()
            if (spectrum := spectra.get(id(group))) is not None
        ]
        if rows:
            drawn.append((facet.title, rows))
        for label, _, spectrum in rows:
            if spectrum.participation_ratio < COLLAPSED < len(spectrum.singular_values) / 2:
                collapsed.append(f"{facet.title}: {label}" if facet.title else label)
    if not drawn:
        return None

    def paint(number: int, axes: Axes) -> None:
        rows = drawn[number][1]
        for at, (_, style, spectrum) in enumerate(rows):
            ends = [spectrum.participation_ratio, spectrum.effective_rank]
            axes.plot(ends, [at, at], color=style.colour, lw=2.0, solid_capstyle="butt")
            axes.plot(ends[:1], [at], "o", color=style.colour, ms=7)
            axes.plot(ends[1:], [at], "o", mfc=PANEL, mec=style.colour, mew=1.6, ms=7)
        dimensions = max(len(spectrum.singular_values) for *_, spectrum in rows)
        axes.axvline(dimensions, color=MUTED, lw=1.0, ls=(0, (2, 2)))
        axes.set_xlim(0, dimensions * 1.03)
        names = [textwrap.fill(label, LABEL_WIDTH) for label, *_ in rows]
        axes.set_yticks(range(len(rows)), names)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlabel("dimensions")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))

    heights = [1.1 + 0.38 * max(2, len(rows)) for _, rows in drawn]
    title = f"Collapsed: {'; '.join(collapsed)}" if collapsed else "No item table has collapsed"
    caption = (
        "Of the item table minus its initial values (first seed). Filled: participation ratio, "
        "the number of directions that carry the variance; hollow: effective rank, which counts "
        "weak directions too; dashed: all dimensions. A participation ratio below "
        f"{COLLAPSED:g} is called collapsed."
    )
    titles = [panel for panel, _ in drawn]
    described = f"{title}. {caption}"
    longest = max(len(label) for _, rows in drawn for label, *_ in rows)
    margin = 0.05 + 0.019 * min(longest, LABEL_WIDTH)
    key = f"{panels[0].prefix}ranks"
    done = draw(key, described, titles, paint, same_height=False, heights=heights, margin=margin)
    return Figure(key, title, caption, done)
