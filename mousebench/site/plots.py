"""Plots of the site, as SVG that goes into a page; the same numbers give the same bytes."""

from __future__ import annotations

import hashlib
import io
import json
import math
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup, escape

from mousebench.assemblies import replacing
from mousebench.board import Row
from mousebench.errors import MissingDependency, StoreError
from mousebench.home import home
from mousebench.provenance import installed_version

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = {"trained": "#0072B2", "untrained": "#C4500A", "control": "#55606E"}  # told apart by their marks too
MARKS = {"trained": "o", "untrained": "s", "control": "^"}
_AREAS = ("#0072B2", "#C4500A", "#00805B", "#9A3E7F", "#7A6A00", "#3C4858")
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: it can be found, and the reader's font is used
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#55606E",
    "axes.labelcolor": "#1C2430",
    "xtick.color": "#3C4858",
    "ytick.color": "#3C4858",
    "legend.frameon": False,
    "legend.fontsize": 9,
}


def twins(pairs: Sequence[tuple[Row, Row]]) -> Markup:
    """Return trained over untrained scores, with intervals, about the line where both are equal."""
    data = [[row.model, row.score, row.low, row.high] for pair in pairs for row in pair]

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        ends = [value for pair in pairs for row in pair for value in (row.low, row.high, row.score)]
        finite = [value for value in ends if math.isfinite(value)]
        low, high = min([0.0, *finite]), max([0.1, *finite])
        axes.plot([low, high], [low, high], color="#9AA6B5", linewidth=1, zorder=1)
        for row, twin in pairs:
            style: dict[str, Any] = {"color": COLOURS["trained"], "ecolor": "#A9CBE2", "elinewidth": 1, "markersize": 5}
            axes.errorbar(twin.score, row.score, xerr=_reach(twin), yerr=_reach(row), fmt="o", **style)
        best = sorted(pairs, key=lambda pair: abs(pair[0].score - pair[1].score), reverse=True)[:4]
        for row, twin in best:
            axes.annotate(row.model, (twin.score, row.score), xytext=(6, 4), textcoords="offset points", fontsize=8)
        axes.set_xlabel("score untrained")
        axes.set_ylabel("score trained")
        axes.set_aspect("equal")
        figure.subplots_adjust(0.1, 0.1, 0.98, 0.98)

    return _svg("twins", (6.2, 5.2), draw, f"Trained against untrained scores of {len(pairs)} architectures", data)


def _reach(row: Row) -> list[list[float]]:
    low, high = row.score - row.low, row.high - row.score
    return [[max(low, 0.0) if math.isfinite(low) else 0.0], [max(high, 0.0) if math.isfinite(high) else 0.0]]


def sizes(rows: Sequence[tuple[Row, str]], name: str) -> Markup:
    """Return score over one of the numbers that tell how large a net is, "parameters" or "depth"."""
    data = [[kind, row.score, row.metadata.get(name)] for row, kind in rows]

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        for kind, colour in COLOURS.items():
            known = [(row.metadata[name], row.score) for row, one in rows if one == kind and name in row.metadata]
            if known:
                x, y = np.array(known, dtype=float).T
                style: dict[str, Any] = {"marker": MARKS[kind], "color": colour, "alpha": 0.8, "s": 26, "linewidth": 0}
                axes.scatter(x, y, label=kind, **style)
        if name == "parameters":
            from matplotlib.ticker import LogLocator, NullFormatter

            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.xaxis.set_major_formatter(lambda count, _: f"{count / 1e6:g} M")
            axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel(name)
        axes.set_ylabel("score")
        axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=3, borderaxespad=0.0, handletextpad=0.2)
        figure.subplots_adjust(0.14, 0.14, 0.98, 0.92)

    return _svg(f"sizes {name}", (4.5, 3.6), draw, f"Score over {name} of {len(rows)} models", data)


def mean_over_sites(curve: np.ndarray) -> np.ndarray:
    """Return the mean (layer) of what is there of a curve (site, layer); NaN where nothing is."""
    there = np.isfinite(curve)
    count = there.sum(0)
    total = np.where(there, curve, 0.0).sum(0)
    return np.asarray(np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0))


def curves(row: Row, sites: Sequence[str]) -> Markup:
    """Return the curves of a model along its layers: each layer alone, and the weight it gets."""
    names = [name for name in ("layer_raw", "weight") if name in row.curves]
    size = (6.2, 4.6 if len(names) > 1 else 3.4)

    def draw(figure: Figure) -> None:
        panels = figure.subplots(len(names), 1, sharex=True, squeeze=False, height_ratios=[2, 1][: len(names)])[:, 0]
        x = np.arange(1, len(row.layers) + 1)
        for axes, name in zip(panels, names, strict=True):
            if name == "weight":
                axes.bar(x, mean_over_sites(row.curves[name]), color=COLOURS["trained"], width=0.8)
                axes.set_ylabel("weight")
                continue
            for colour, (area, places) in zip(_AREAS, _areas(sites).items(), strict=False):
                axes.plot(
                    x, mean_over_sites(row.curves[name][places]), color=colour, linewidth=1, alpha=0.75, label=area
                )
            axes.plot(x, mean_over_sites(row.curves[name]), color="#14202E", linewidth=2.2, label="all sites")
            axes.axhline(0, color="#C3CBD5", linewidth=1, zorder=0)
            axes.set_ylabel("raw of the layer alone")
            axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=4, borderaxespad=0.0, handlelength=1.2)
        panels[-1].set_xlabel("layer, in order of execution")
        panels[-1].xaxis.get_major_locator().set_params(integer=True)
        panels[-1].set_xlim(0.3, len(row.layers) + 0.7)
        figure.subplots_adjust(0.12, 0.5 / size[1], 0.98, 1 - 0.5 / size[1], hspace=0.12)

    data = [row.layers, list(sites), *(row.curves[name].tolist() for name in names)]
    return _svg(f"curves {row.model}", size, draw, f"Curves along the layers of {row.model}", data)


def _areas(sites: Sequence[str]) -> dict[str, list[int]]:
    areas: dict[str, list[int]] = {}
    for place, site in enumerate(sites):
        areas.setdefault(site.partition(".")[0], []).append(place)
    return areas


def _svg(name: str, size: tuple[float, float], draw: Callable[[Any], None], title: str, data: Sequence[Any]) -> Markup:
    """Return a figure as an svg element with a title that is read out, as wide as its place.

    Drawing takes most of the time that a site takes; what was drawn before, from the same data by the same code, is kept.
    """
    version = installed_version("matplotlib")
    if version == "unknown":
        raise MissingDependency("the site needs matplotlib", "pip install 'mousebench[plots]'")
    code = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    key = hashlib.sha256(json.dumps([version, code, name, size, title, data]).encode()).hexdigest()
    kept = home() / "plots" / f"{key}.svg"
    if kept.is_file():
        return Markup(kept.read_text(encoding="utf-8"))
    svg = _drawn(name, size, draw, title)
    with suppress(StoreError), replacing(kept) as temporary:  # a folder that cannot be written costs time
        temporary.write_text(svg, encoding="utf-8")
    return Markup(svg)


def _drawn(name: str, size: tuple[float, float], draw: Callable[[Any], None], title: str) -> str:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    text = io.StringIO()
    with mpl.rc_context({**_STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=size)
        draw(figure)
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    svg = text.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    start = re.sub(r' (width|height)="[^"]*"', "", svg[: svg.index(">")])
    return f'{start} role="img" aria-label="{escape(title)}"{svg[svg.index(">") :]}'
