"""How a figure of a report is drawn: one plot, one message, colours left to the page.

Figures are drawn in stand-in colours that become CSS variables, so that the same drawing serves
the light and the dark scheme. Text stays text.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

__all__ = ["DASHES", "GRID", "INK", "MUTED", "PANEL", "Key", "Plot", "colour", "draw"]

INK, MUTED, GRID, PANEL = "#010101", "#020202", "#030303", "#040404"
SERIES = 8
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)))
WIDTH, HEIGHT = 4.6, 3.0
STYLE = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 11.0,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.facecolor": PANEL,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.xmargin": 0.02,
    "axes.unicode_minus": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 10.0,
    "ytick.labelsize": 10.0,
    "xtick.major.size": 3.0,
    "ytick.major.size": 0.0,
    "figure.facecolor": PANEL,
    "savefig.facecolor": PANEL,
    "path.simplify": True,
}


@dataclass(frozen=True, slots=True)
class Key:
    """One entry of the legend, which the page sets as text beside the drawing.

    Args:
        label: What the line is.
        series: Number of its colour.
        dashes: Number of its dash pattern in `DASHES`.
    """

    label: str
    series: int
    dashes: int = 0

    @property
    def swatch(self) -> str:
        """A short piece of the line, as SVG."""
        pattern = DASHES[self.dashes]
        lengths = "none" if isinstance(pattern, str) else " ".join(str(2 * x) for x in pattern[1])
        return (
            '<svg class="swatch" viewBox="0 0 28 8" aria-hidden="true"><line x1="1" y1="4" '
            f'x2="27" y2="4" stroke="var(--c{self.series % SERIES})" stroke-width="3" '
            f'stroke-dasharray="{lengths}"/></svg>'
        )


@dataclass(frozen=True, slots=True)
class Plot:
    """A finished figure.

    Args:
        key: Names it within the page; letters, digits and hyphens.
        title: Its message.
        caption: What is drawn and how to read it.
        svg: The drawing, ready to stand in HTML.
        keys: Its legend.
    """

    key: str
    title: str
    caption: str
    svg: str
    keys: tuple[Key, ...] = ()


def colour(index: int) -> str:
    """The stand-in of a series' colour; a ninth series begins anew."""
    return f"#0500{index % SERIES:02x}"


def draw(key: str, title: str, caption: str, paint: Callable[[Axes], Sequence[Key]]) -> Plot:
    """Draw one figure.

    Args:
        key: As in `Plot`.
        title: As in `Plot`.
        caption: As in `Plot`.
        paint: Draws on the axes it is given and returns the legend.
    """
    settings: Any = {**STYLE, "svg.hashsalt": key}
    with mpl.rc_context(settings):
        figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
        axes = figure.subplots()
        keys = tuple(paint(axes))
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return Plot(key, title, caption, _inline(buffer.getvalue(), key, f"{title}. {caption}"), keys)


def _inline(svg: str, key: str, description: str) -> str:
    size = re.search(r'viewBox="([^"]+)"', svg)
    body = svg[svg.index(">", svg.index("<svg")) + 1 : svg.rindex("</svg>")]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", body, flags=re.DOTALL)
    body = body.replace("xlink:href", "href")
    body = re.sub(r'\bid="([^"]+)"', rf'id="{key}-\1"', body)
    body = re.sub(r'href="#([^"]+)"', rf'href="#{key}-\1"', body)
    body = re.sub(r"url\(#([^)]+)\)", rf"url(#{key}-\1)", body)
    body = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font-size: \1", body)
    for stand_in, variable in _variables().items():
        body = body.replace(stand_in, f"var(--{variable})")
    label = html.escape(description, quote=True)
    box = size.group(1) if size else f"0 0 {WIDTH * 72} {HEIGHT * 72}"
    return f'<svg viewBox="{box}" role="img" aria-label="{label}">{body.strip()}</svg>'


def _variables() -> dict[str, str]:
    named = {INK: "ink", MUTED: "muted", GRID: "grid", PANEL: "panel"}
    return named | {colour(index): f"c{index}" for index in range(SERIES)}
