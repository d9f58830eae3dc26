"""Draw the figures of a report: one function a kind, from the data in report.json alone."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np

from mousebench.errors import MissingDependency

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

# distinguishable for readers with the common colour deficiencies (Okabe and Ito 2008), dark enough on white
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#333333")
_SETTINGS: Any = {
    "svg.hashsalt": "mousebench",  # the same figure has the same bytes
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
}


def draw(kind: str, data: dict[str, Any]) -> tuple[bytes, bytes]:
    """Return a figure as SVG and as PNG.

    Raises
    ------
    MissingDependency
        If matplotlib is not installed.
    """
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure as Canvas
    except ImportError as error:
        raise MissingDependency("figures need matplotlib", 'pip install "mousebench[plots]"') from error
    with mpl.rc_context(_SETTINGS):
        canvas = Canvas(layout="constrained")
        _KINDS[kind](canvas, data)
        svg, png = BytesIO(), BytesIO()
        canvas.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
        canvas.set_layout_engine("none")  # laid out once: to find room for labels takes longer than to draw
        canvas.savefig(png, format="png", dpi=150, metadata={"Software": None})
    return svg.getvalue(), png.getvalue()


def points(canvas: Canvas, data: dict[str, Any]) -> None:
    """Draw values with intervals, a row a label: ``labels``, ``series`` (name, value, low, high), ``x``."""
    labels, series = data["labels"], data["series"]
    canvas.set_size_inches(7, 1.1 + 0.19 * max(len(labels), 4))
    axes = canvas.subplots()
    place = np.arange(len(labels))
    for number, one in enumerate(series):
        colour = COLOURS[number % len(COLOURS)]
        value = _floats(one["value"])
        low, high = (_floats(one.get(side) or [None] * len(labels)) for side in ("low", "high"))
        y = place + (0.16 * (number - (len(series) - 1) / 2))
        axes.hlines(y, low, high, color=colour, linewidth=1.2)
        axes.plot(value, y, "os^Dv"[number % 5], color=colour, markersize=4, label=one["name"])
    axes.set_yticks(place, labels)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.axvline(0, color="#999999", linewidth=0.8)
    axes.set_xlabel(data["x"])
    if len(series) > 1:
        axes.legend(frameon=False, loc="best")


def scatter(canvas: Canvas, data: dict[str, Any]) -> None:
    """Draw panels of one value against several: ``panels`` (x, name, log), ``y``, ``y_name``, ``labels``."""
    panels = data["panels"]
    canvas.set_size_inches(3.5 * len(panels), 3.2)
    for axes, panel in zip(np.atleast_1d(canvas.subplots(1, len(panels), sharey=True)), panels, strict=True):
        x, y = _floats(panel["x"]), _floats(data["y"])
        axes.plot(x, y, "o", color=COLOURS[0], markersize=4)
        if panel.get("log"):
            axes.set_xscale("log")
        _name_extremes(axes, x, y, data["labels"])
        axes.set_xlabel(panel["name"])
    canvas.axes[0].set_ylabel(data["y_name"])


def _name_extremes(axes: Axes, x: np.ndarray, y: np.ndarray, labels: list[str]) -> None:
    """Name the highest, the lowest and the ends, not all: thirty names would hide each other."""
    there = np.flatnonzero(np.isfinite(x) & np.isfinite(y))
    if there.size:
        for k in {there[y[there].argmax()], there[y[there].argmin()], there[x[there].argmax()]}:
            axes.annotate(labels[k], (x[k], y[k]), textcoords="offset points", xytext=(3, 3), fontsize=7)


def heat(canvas: Canvas, data: dict[str, Any]) -> None:
    """Draw a matrix with its numbers: ``rows``, ``columns``, ``values``, ``name``; symmetric about 0."""
    values = np.array([_floats(row) for row in data["values"]]).reshape(len(data["rows"]), len(data["columns"]))
    canvas.set_size_inches(2.4 + 0.62 * len(data["columns"]), 1.2 + 0.32 * len(data["rows"]))
    axes = canvas.subplots()
    limit = np.nanmax(np.abs(values)) if np.isfinite(values).any() else 1.0
    image = axes.imshow(values, cmap="RdBu_r", vmin=-(limit or 1), vmax=limit or 1, aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            dark = abs(value) > 0.6 * limit
            text = f"{value:.2f}" if limit >= 0.05 else f"{value:.3f}"
            axes.text(column, row, text, ha="center", va="center", fontsize=7, color="white" if dark else "black")
    axes.set_xticks(np.arange(len(data["columns"])), data["columns"], rotation=45, ha="right")
    axes.set_yticks(np.arange(len(data["rows"])), data["rows"])
    axes.spines[:].set_visible(False)
    canvas.colorbar(image, ax=axes, shrink=0.8, label=data["name"])


def lines(canvas: Canvas, data: dict[str, Any]) -> None:
    """Draw series over x: ``x``, ``x_name``, ``y_name``, ``series`` (name, y, low, high), ``log``."""
    canvas.set_size_inches(6, 3.4)
    axes = canvas.subplots()
    x = _floats(data["x"])
    for number, one in enumerate(data["series"]):
        colour = COLOURS[number % len(COLOURS)]
        axes.plot(x, _floats(one["y"]), "-" + "os^Dv"[number % 5], color=colour, markersize=4, label=one["name"])
        if one.get("low"):
            axes.fill_between(x, _floats(one["low"]), _floats(one["high"]), color=colour, alpha=0.2, linewidth=0)
    if data.get("log"):
        axes.set_xscale("log")
        axes.set_xticks(x, [f"{value:g}" for value in x])
        axes.minorticks_off()
    axes.axhline(0, color="#999999", linewidth=0.8)
    axes.set_xlabel(data["x_name"])
    axes.set_ylabel(data["y_name"])
    if len(data["series"]) > 1:
        axes.legend(frameon=False, loc="best")


def _floats(values: list[float | None]) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in values], dtype=float)


_KINDS = {"points": points, "scatter": scatter, "heat": heat, "lines": lines}
