"""Drawings of a report as SVG. matplotlib is imported and used without the user's settings."""

import base64
import contextlib
import io
import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from fedrec.report.runs import Group, Values


@contextlib.contextmanager
def _no_user_settings() -> Iterator[Path]:
    """Let matplotlib be imported without the settings of the user, and without a warning.

    It reads the first ``matplotlibrc`` of the working directory, ``$MATPLOTLIBRC`` and the home
    folder, and refuses to be imported with a ``$MPLBACKEND`` that it does not know. The folder
    that is given holds its defaults, so there it looks no further.
    """
    spec = find_spec("matplotlib")
    backend = os.environ.pop("MPLBACKEND", None)
    logger = logging.getLogger("matplotlib")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield Path(spec.origin).parent / "mpl-data" if spec and spec.origin else Path()
    finally:
        logger.setLevel(level)
        if backend is not None:
            os.environ["MPLBACKEND"] = backend


with _no_user_settings() as folder:
    with contextlib.chdir(folder):
        import matplotlib as mpl
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure as Canvas
    from matplotlib.ticker import LogLocator

    mpl.get_configdir()  # where it cannot be written, the only warning comes now
    mpl.get_cachedir()

Style = Mapping[str, Any]
COLOURS = ("#0072b2", "#d55e00", "#00875f", "#b0568e", "#b87a00", "#6b5bb5", "#5f6670", "#3a9bd0")
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)))
STYLES: tuple[Style, ...] = tuple(
    {"color": colour, "marker": marker, "linestyle": dashes}
    for colour, marker, dashes in zip(COLOURS, "os^DvPXh", DASHES * 2, strict=True)
)
GREYS: tuple[Style, ...] = tuple({"color": "#5b626d", "linestyle": dashes} for dashes in DASHES)
BASELINES = 3
MARKS_PER_LINE = 6
MAX_POINTS = 400
MANY_STEPS = 100.0  # an axis from 1 to so many has ticks between the powers of ten
SAME = 0.004  # of the height of a drawing: closer lines cover each other
FILE = Path(__file__).with_name("figures.mplstyle")


@dataclass(frozen=True, slots=True)
class Panel:
    """Methods that are drawn together.

    Args:
        title: Which they are; empty where all are drawn together.
        methods: Each with its style; the best centralised baselines come last, in grey.
    """

    title: str
    methods: tuple[tuple[Group, Style], ...]

    def legend(self) -> list[tuple[str, str]]:
        """Return the labels of the methods, each with an image of its line."""
        return [
            (group.label + (" (unfinished)" if not group.first.finished else ""), _swatch(style))
            for group, style in self.methods
        ]


@dataclass(frozen=True, slots=True)
class Figure:
    """A finished figure.

    Args:
        title: Its message.
        caption: What is drawn and how to read it.
        drawings: Title and image of each panel.
    """

    title: str
    caption: str
    drawings: tuple[tuple[str, str], ...]


def panels(section: Sequence[Group]) -> tuple[Panel, ...]:
    """Distribute methods over panels, so that each style occurs once in a panel.

    Args:
        section: The methods, the best on validation first.
    """
    central = [group for group in section if group.centralised]
    drawn = [group for group in section if not group.centralised] or central
    number = math.ceil(len(drawn) / len(STYLES))
    size = math.ceil(len(drawn) / number)
    made = []
    for start in range(0, len(drawn), size):
        members = drawn[start : start + size]
        grey = [group for group in central[:BASELINES] if group not in members]
        title = f"Methods {start + 1} to {start + len(members)} on validation"
        methods = [*zip(members, STYLES, strict=False), *zip(grey, GREYS, strict=False)]
        made.append(Panel(title if number > 1 else "", tuple(methods)))
    return tuple(made)


def draw(
    title: str,
    caption: str,
    parts: Sequence[Panel],
    line: Callable[[Group], Values],
    *,
    steps: bool = False,
    **settings: Any,
) -> Figure | None:
    """Draw one line per method, all panels at the same scale.

    Args:
        title: Of the figure.
        caption: Of the figure.
        parts: The panels. One without a line is left out.
        line: Returns y by x; one value alone of a centralised baseline is drawn across.
        steps: Whether a value holds from its x to the next.
        settings: Of the axes, as `matplotlib.axes.Axes.set` takes them.

    Returns:
        The figure, or None where no method has a line.
    """
    covered: list[str] = []

    def drawn(axes: Axes, part: Panel) -> bool:
        lines = [(group.label, style, line(group)) for group, style in part.methods]
        lines = [each for each in lines if len(each[2])]
        if not any(len(values) > 1 or "marker" in style for _, style, values in lines):
            return False
        for labels in plot(axes, lines, steps):
            covered.append(f"{part.title}: ".removeprefix(": ") + " = ".join(labels))
        return True

    drawings = _panelled(parts, drawn, settings)
    if covered:
        caption += f" Lines that cover each other: {'; '.join(covered)}."
    return Figure(title, caption, drawings) if drawings else None


def draw_points(
    title: str,
    caption: str,
    parts: Sequence[Panel],
    x: Callable[[Group], float],
    y: Callable[[Group], Values],
    **settings: Any,
) -> Figure | None:
    """Draw one point per method, with the standard deviation of y, over a logarithmic x.

    Args:
        title: Of the figure.
        caption: Of the figure.
        parts: The panels. One without a point is left out.
        x: Returns where the point stands; a method without a positive x has none, and a centralised
            baseline is drawn across.
        y: Returns the values of each seed.
        settings: Of the axes, as `matplotlib.axes.Axes.set` takes them, ``xlim`` among them.

    Returns:
        The figure, or None where no method has a point.
    """
    low, high = settings["xlim"] or (1.0, 1.0)
    steps = (1, 2, 5) if high < MANY_STEPS * low else (1,)

    def drawn(axes: Axes, part: Panel) -> bool:
        has_points = False
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=steps))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter("")
        axes.margins(y=0.15)
        for group, style in part.methods:
            at, values = x(group), y(group)
            if group.centralised and len(values):
                axes.axhline(values.mean(), color=style["color"], linestyle=style["linestyle"])
            elif at > 0 and len(values):
                spread = values.std() if len(values) > 1 else None
                axes.errorbar(at, values.mean(), spread, **style, capsize=3)
                has_points = True
        return has_points

    drawings = _panelled(parts, drawn, settings)
    return Figure(title, caption, drawings) if drawings else None


def _panelled(
    parts: Sequence[Panel], drawn: Callable[[Axes, Panel], bool], settings: Mapping[str, Any]
) -> tuple[tuple[str, str], ...]:
    """Return title and image of each panel that something was drawn in, at the same scale of y."""
    canvases = {}
    with mpl.rc_context(fname=FILE):
        for part in parts:
            canvas = Canvas()
            axes = canvas.subplots()
            if not drawn(axes, part):
                continue
            canvases[part.title] = canvas
            axes.set(**settings)
            if settings["xlabel"] == "round":
                axes.locator_params(axis="x", nbins=6, integer=True)
        limits = [canvas.axes[0].get_ylim() for canvas in canvases.values()]
        for canvas in canvases.values():
            canvas.axes[0].set_ylim(min(limits)[0], max(high for _, high in limits))
        return tuple((name, _image(canvas)) for name, canvas in canvases.items())


def plot(
    axes: Axes, lines: Sequence[tuple[str, Style, Values]], steps: bool = False
) -> list[list[str]]:
    """Draw lines so that each is seen: one that another covers is wider than the other.

    Args:
        axes: Where to.
        lines: Label, style, and y by x, of each.
        steps: Whether a value holds from its x to the next.

    Returns:
        The labels of each set of lines that cover each other.
    """
    unit = SAME * max(float(np.ptp(np.concatenate([values for *_, values in lines]))), 1e-12)
    sets: dict[object, list[str]] = {}
    for label, style, values in reversed(lines):
        place = tuple(values.index), tuple((values / unit).round())
        below = sets.setdefault(place, [])
        width = 2.0 + 3.0 * len(below)
        look: Style = {"linewidth": width, "zorder": 2 + 1 / width, "alpha": 0.55 if below else 1.0}
        below.insert(0, label)
        if len(values) == 1 and "marker" not in style:
            axes.axhline(values.iloc[0], **style, **look)
            continue
        thinned = values.iloc[:: math.ceil(len(values) / MAX_POINTS)]
        every = max(1, len(thinned) // MARKS_PER_LINE)
        drawstyle = "steps-post" if steps else "default"
        axes.plot(thinned, markevery=every, drawstyle=drawstyle, **style, **look)
    return [labels for labels in sets.values() if len(labels) > 1]


def _swatch(style: Style) -> str:
    """Return an image of a short line."""
    with mpl.rc_context(fname=FILE):
        canvas = Canvas(figsize=(0.5, 0.17))
        axes = canvas.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        axes.plot([0, 1, 2], [0, 0, 0], markevery=[1], linewidth=2, **style)
        return _image(canvas)


def _image(canvas: Canvas) -> str:
    """Return a drawing as the address of an image that holds it."""
    buffer = io.BytesIO()
    FigureCanvasSVG(canvas).print_figure(buffer, format="svg", metadata={"Date": None})
    return f"data:image/svg+xml;base64,{base64.b64encode(buffer.getvalue()).decode()}"
