"""Drawings of a report as SVG, in stand-in colours that become CSS variables of the page.

The same drawing serves the light and the dark scheme, and text stays text. matplotlib is imported
and used with its own defaults only: a user's settings never change a report.
"""

from __future__ import annotations

import contextlib
import html
import io
import logging
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from fedrec.types import FloatArray


@contextlib.contextmanager
def _own_settings() -> Iterator[None]:
    """Import matplotlib without the settings of the user.

    It reads the first ``matplotlibrc`` of the working directory, ``$MATPLOTLIBRC`` and the home
    folder, and refuses to be imported with a ``$MPLBACKEND`` that it does not know. Its own folder
    holds its defaults, so there it looks no further.
    """
    spec = find_spec("matplotlib")
    backend = os.environ.pop("MPLBACKEND", None)
    logger = logging.getLogger("matplotlib")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        if spec is not None and spec.origin is not None:
            with contextlib.chdir(Path(spec.origin).parent / "mpl-data"):
                yield
        else:
            yield
    finally:
        logger.setLevel(level)
        if backend is not None:
            os.environ["MPLBACKEND"] = backend


with _own_settings():
    import matplotlib as mpl
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

__all__ = [
    "INK",
    "MUTED",
    "PANEL",
    "Axes",
    "Figure",
    "FuncFormatter",
    "Line",
    "MaxNLocator",
    "Panel",
    "PercentFormatter",
    "Style",
    "draw",
    "draw_lines",
    "swatch",
]

INK, MUTED, GRID, PANEL = "#010101", "#020202", "#030303", "#040404"
COLOURS = 8
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)))
SHAPES = {  # of the markers in the legend, around (18, 6)
    "o": "M14 6a4 4 0 1 0 8 0a4 4 0 1 0 -8 0Z",
    "s": "M14.5 2.5h7v7h-7Z",
    "^": "M18 1.5 22.5 10H13.5Z",
    "D": "M18 1 23 6 18 11 13 6Z",
    "v": "M18 10.5 22.5 2H13.5Z",
    "P": "M16 1.5h4v2.5h2.5v4H20v2.5h-4V8h-2.5V4H16Z",
    "X": "M14 3.5 15.5 2 18 4.5 20.5 2 22 3.5 19.5 6 22 8.5 20.5 10 18 7.5 15.5 10 14 8.5 16.5 6Z",
}
MARKERS = tuple(SHAPES)
MARKS_PER_LINE = 6
MAX_POINTS = 400
SAME = 0.004  # of the height of a drawing: closer lines cover each other
WIDTH, HEIGHT = 4.6, 3.0
STYLE = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 11.0,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.facecolor": PANEL,
    "axes.labelcolor": INK,
    "axes.labelpad": 7.0,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.xmargin": 0.02,
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
}


@dataclass(frozen=True, slots=True)
class Style:
    """How a method is drawn: colour, dashes and marker all differ from those of its neighbours.

    Args:
        number: Of the method among those drawn together; None: in grey, as a baseline.
        dash: Number of its dashes; None: by ``number``.
    """

    number: int | None
    dash: int | None = None

    @property
    def colour(self) -> str:
        """The stand-in of the colour."""
        return MUTED if self.number is None else f"#0500{self.number % COLOURS:02x}"

    @property
    def dashes(self) -> Any:
        """The dashes, as matplotlib takes them."""
        dash = (
            (self.number or 0) + (self.number or 0) // COLOURS if self.dash is None else self.dash
        )
        return DASHES[dash % len(DASHES)]

    @property
    def marker(self) -> str | None:
        """The marker."""
        return None if self.number is None else MARKERS[self.number % len(MARKERS)]


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a drawing.

    Args:
        label: Of the method.
        style: Of the method.
        x: float [n]; empty for a level, drawn across the whole drawing.
        y: float [n], or [1] for a level.
        seeds: Further lines, drawn thin.
        rings: Points to mark.
        steps: Whether y holds from x to the next x.
    """

    label: str
    style: Style
    x: FloatArray
    y: FloatArray
    seeds: tuple[tuple[FloatArray, FloatArray], ...] = ()
    rings: tuple[tuple[float, float], ...] = field(default=())
    steps: bool = False


@dataclass(frozen=True, slots=True)
class Panel:
    """One drawing.

    Args:
        title: Which methods it shows; empty where it shows all.
        svg: The drawing, ready to stand in HTML.
    """

    title: str
    svg: str


def draw_lines(axes: Axes, lines: Sequence[Line]) -> list[tuple[str, ...]]:
    """Draw lines so that each is seen: one that another covers is wider than the other.

    Args:
        axes: Where to.
        lines: What.

    Returns:
        The labels of each set of lines that cover each other.
    """
    sets = _coinciding([line for line in lines if len(line.x)])
    width = {id(line): 2.0 + 3.0 * (len(s) - 1 - at) for s in sets for at, line in enumerate(s)}
    for index, line in enumerate(lines):
        look: dict[str, Any] = {"color": line.style.colour, "ls": line.style.dashes}
        if not len(line.x):
            axes.axhline(float(line.y[0]), lw=1.6, **look)
            continue
        for x, y in line.seeds:
            axes.plot(x, y, color=line.style.colour, lw=0.8, alpha=0.35)
        keep = slice(None, None, -(-len(line.x) // MAX_POINTS))
        x, y = line.x[keep], line.y[keep]
        step = max(1, len(x) // MARKS_PER_LINE)
        look |= {"marker": line.style.marker, "markevery": (index % step, step), "ms": 5.0}
        look |= {"mec": PANEL, "mew": 0.6, "drawstyle": "steps-post" if line.steps else "default"}
        wide = width[id(line)]
        axes.plot(x, y, lw=wide, alpha=1.0 if wide <= 2 else 0.55, zorder=2 + 1 / wide, **look)
        for x_best, y_best in line.rings:
            edge = line.style.colour
            axes.plot([x_best], [y_best], "o", ms=9, mfc="none", mec=edge, mew=1.4, zorder=5)
    return [tuple(line.label for line in each) for each in sets if len(each) > 1]


def _coinciding(lines: Sequence[Line]) -> list[list[Line]]:
    """Return the lines in sets of those that cover each other."""
    levels = np.concatenate([line.y for line in lines]) if lines else np.zeros(1)
    near = SAME * max(float(np.ptp(levels)), 1e-12)
    sets: list[list[Line]] = []
    for line in lines:
        for members in sets:
            other = members[0]
            if np.array_equal(other.x, line.x) and np.abs(other.y - line.y).max() <= near:
                members.append(line)
                break
        else:
            sets.append([line])
    return sets


def draw(
    key: str,
    description: str,
    titles: Sequence[str],
    paint: Callable[[int, Axes], None],
    *,
    same_height: bool = True,
    heights: Sequence[float] | None = None,
    margin: float = 0.175,
) -> tuple[Panel, ...]:
    """Draw the panels of a figure.

    Args:
        key: Names the figure within the page; letters, digits and hyphens.
        description: The figure in words, for those who do not see it.
        titles: One per panel.
        paint: Draws a panel, by its number, on the axes that it is given.
        same_height: Whether all panels have the same scale of y.
        heights: Of each panel, in inches.
        margin: Share of the width to the left of the axes, for names and numbers.
    """
    defaults = {k: v for k, v in mpl.rcParamsDefault.items() if not k.startswith("backend")}
    settings: Any = {**defaults, **STYLE, "svg.hashsalt": key}
    panels = []
    with mpl.rc_context(settings):
        every = []
        for number in range(len(titles)):
            height = HEIGHT if heights is None else heights[number]
            figure = Figure(figsize=(WIDTH, height))
            # A layout engine would draw everything twice.
            figure.subplots_adjust(margin, 0.58 / height, 0.98, 1 - 0.1 / height)
            every.append((figure, figure.subplots()))
            paint(number, every[-1][1])
        if same_height:
            limits = [axes.get_ylim() for _, axes in every]
            for _, axes in every:
                axes.set_ylim(min(low for low, _ in limits), max(high for _, high in limits))
        for number, ((figure, _), title) in enumerate(zip(every, titles, strict=True)):
            buffer = io.StringIO()
            FigureCanvasSVG(figure).print_figure(buffer, format="svg", metadata={"Date": None})
            name = f"{key}-{number}"
            words = f"{description} {title}".strip()
            panels.append(Panel(title, _inline(buffer.getvalue(), name, words)))
    return tuple(panels)


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
    return named | {Style(number).colour: f"c{number}" for number in range(COLOURS)}


def swatch(style: Style) -> str:
    """Return a short line in a style, as SVG for the legend."""
    colour = f"var(--{_variables()[style.colour]})"
    lengths = "none" if style.dashes == "-" else " ".join(str(2 * x) for x in style.dashes[1])
    line = f'stroke="{colour}" stroke-width="2.5" stroke-dasharray="{lengths}"'
    shape = f'<path d="{SHAPES[style.marker]}" fill="{colour}"/>' if style.marker else ""
    return (
        '<svg class="swatch" viewBox="0 0 36 12" aria-hidden="true">'
        f'<line x1="1" y1="6" x2="35" y2="6" {line}/>{shape}</svg>'
    )
