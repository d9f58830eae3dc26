"""What the pages show: rows of a board as texts, places and colours. Templates hold no arithmetic."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from mousebench.board import Board, Leaderboard, Row
from mousebench.board_files import interval, number, parameters, ranks
from mousebench.site import plots
from mousebench.specs import is_identifier

_INK, _PAPER = "#000000", "#ffffff"
_BLUE, _ORANGE, _GREY = (8, 69, 135), (176, 74, 0), (60, 72, 88)
_KINDS = {"trained": "trained", "untrained": "untrained", "control": "controls"}
_LAYERS = ("L23", "L4", "L5", "L6")


def page_of(*names: str) -> str:
    """Return the page of a model, benchmark or board; different names have different pages, that need no quoting."""
    safe = [name.replace("/", "--").replace("@", "__") if is_identifier(name) else _hex(name) for name in names]
    return f"{'---'.join(safe)}.html"


def _hex(name: str) -> str:
    return f"x-{name.encode().hex()[:80]}"


def kind_of(row: Row) -> str:
    """Return control, trained or untrained."""
    untrained = row.metadata.get("training") == "none" or row.model.partition("@")[0].endswith("-random")
    return "control" if row.kind == "control" else "untrained" if untrained else "trained"


# a board --------------------------------------------------------------------------------------------------------------


def of_board(board: Board) -> dict[str, Any]:
    """Return what the page of a board shows."""
    pairs = [(row, twin) for row in board.rows if (twin := board.row(row.untrained)) is not None]
    sized = [row for row in board.rows if "parameters" in row.metadata]
    scale = _scale(board.models or board.rows)
    parts = [("", board.models), ("Controls", board.controls)]
    return {
        "board": board,
        "summary": (
            f"{_counted(board)} on {board.benchmark} (version {board.benchmark_version}), {len(board.sites)} sites, "
            f"by {board.metric} (version {board.metric_version})."
        ),
        "kinds": [(kind, name) for kind, name in _KINDS.items() if kind in {kind_of(row) for row in board.rows}],
        "ranked": any(row.rank is not None for row in board.rows),
        "twins": bool(pairs),
        "sized": bool(sized),
        "parts": [{"name": name, "rows": _lines(board, rows, scale)} for name, rows in parts],
        "pairs": [_pair(*pair) for pair in pairs],
        "sizes": [_size(row) for row in sized],
        "twin_plot": plots.twins(pairs) if pairs else "",
        "size_plots": _size_plots(sized),
    }


def _counted(board: Board) -> str:
    """Return how many models there are, and of which kind if all are of one."""
    kinds = {kind_of(row) for row in board.models}
    which = f" ({'all ' if len(board.models) > 1 else ''}{kinds.pop()})" if len(kinds) == 1 else ""
    return f"{len(board.models)} model{'' if len(board.models) == 1 else 's'}{which}"


def _size_plots(rows: Sequence[Row]) -> list[Markup]:
    """Return score over parameters and over depth, each if it is known of some model."""
    kinds = [(row, kind_of(row)) for row in rows]
    return [plots.sizes(kinds, name) for name in ("parameters", "depth") if any(name in row.metadata for row in rows)]


def _lines(board: Board, rows: Sequence[Row], scale: tuple[float, float]) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    groups = [row.group for row in rows]
    for place, row in enumerate(rows):
        rank, may_be = ranks(row)
        twin = board.row(row.untrained)
        size = _size(row)
        lines.append(
            {
                **size,
                "page": page_of(row.model),
                "kind": kind_of(row),
                "first": place > 0 and groups[place] != groups[place - 1],
                "order": place if rank else "",
                "rank": rank or "-",
                "may_be": may_be,
                "interval": interval(row),
                "bar": _bar(row, scale),
                "untrained": number(twin.score) if twin else "",
                "raw": number(row.raw),
                "null": number(row.null),
                "ceiling": number(row.ceiling),
                "sites": f"{row.significant} of {len(board.sites)}",
                "layers": "" if row.n_layers is None else row.n_layers,
            }
        )
    return lines


def _size(row: Row) -> dict[str, Any]:
    known = row.metadata
    return {
        "model": row.model,
        "score": number(row.score),
        "parameters": parameters(row),
        "parameters_number": known.get("parameters", ""),
        "depth": known.get("depth", ""),
    }


def _pair(row: Row, twin: Row) -> dict[str, str]:
    return {
        "model": row.model,
        "trained": number(row.score),
        "untrained": number(twin.score),
        "difference": number(row.score - twin.score),
    }


def _scale(rows: Sequence[Row]) -> tuple[float, float]:
    """Return the range of the bars: all intervals, and 0."""
    ends = [value for row in rows for value in (row.low, row.high, row.score) if math.isfinite(value)]
    low, high = min([0.0, *ends]), max([0.0, *ends])
    return low, high if high > low else low + 1.0


def _bar(row: Row, scale: tuple[float, float]) -> dict[str, Any] | None:
    """Return where the parts of an interval's bar are, in percent of its width; a control may be beyond it."""
    values = {"zero": 0.0, "low": row.low, "high": row.high, "at": row.score}
    if not all(map(math.isfinite, values.values())):
        return None
    low, high = scale
    place = {name: 100 * (min(max(value, low), high) - low) / (high - low) for name, value in values.items()}
    return {"beyond": row.score > high, **{name: number(percent, 1) for name, percent in place.items()}}


# grids of sites -------------------------------------------------------------------------------------------------------


def grid(sites: Sequence[str], values: Sequence[float], *, digits: int = 2, grey: bool = False) -> dict[str, Any]:
    """Return areas by layers with a number and a colour in each cell; sites without a layer share one column."""
    at = dict(zip(sites, values, strict=True))
    areas = list(dict.fromkeys(site.partition(".")[0] for site in sites))
    found = {site.partition(".")[2] for site in sites}
    layers = [layer for layer in _LAYERS if layer in found] + sorted(found - set(_LAYERS))
    top = max((abs(value) for value in values if math.isfinite(value)), default=1.0) or 1.0
    lines = []
    for area in areas:
        names = [f"{area}.{layer}" if layer else area for layer in layers]
        lines.append(
            {
                "area": area,
                "cells": [_cell(name, at[name], top, digits, grey) if name in at else None for name in names],
            }
        )
    return {"columns": [layer or "all layers" for layer in layers], "lines": lines}


def _cell(site: str, value: float, top: float, digits: int, grey: bool) -> dict[str, str]:
    background, ink = shade(value / top, grey=grey)
    text = number(value, digits)
    return {"text": text, "title": f"{site}: {text}", "background": background, "ink": ink}


def shade(share: float, *, grey: bool = False) -> tuple[str, str]:
    """Return background and ink of a share of the largest value; what is below 0 is orange. Contrast is at least 4.5."""
    if not math.isfinite(share):
        return "#f5f7fa", _INK
    deep = _GREY if grey else _BLUE if share >= 0 else _ORANGE
    part = min(abs(share), 1.0)
    mixed = [round(255 + (end - 255) * part) for end in deep]
    background = "#" + "".join(f"{value:02x}" for value in mixed)
    return background, max((_INK, _PAPER), key=lambda ink: contrast(background, ink))


def contrast(a: str, b: str) -> float:
    """Return the contrast ratio of two colours, as WCAG 2 defines it."""
    light, dark = sorted((_luminance(a), _luminance(b)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def _luminance(colour: str) -> float:
    parts = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


# a model --------------------------------------------------------------------------------------------------------------


def of_model(
    model: str,
    rows: Sequence[tuple[Board, Row]],
    addresses: Mapping[tuple[str, str], str],
    citations: Mapping[str, str],
) -> dict[str, Any]:
    """Return what the page of a model shows."""
    first = rows[0][1]
    about = first.provenance["model"]
    told = [(name.replace("_", " "), _text(value)) for name, value in first.metadata.items()]
    return {
        "model": model,
        "description": about.get("description", ""),
        "simulated": all(board.simulated for board, _ in rows),
        "facts": [
            ("kind", ", ".join(dict.fromkeys(kind_of(row) for _, row in rows))),  # a control on some boards only
            *told,
            ("plugin", f"{about['name']}, from {about['distribution']} {about['version']}"),
            ("status", first.status),
            ("cite", citations.get(first.citation, first.citation)),
        ],
        "twins": _twins(model, rows),
        "parts": [_part(board, row, addresses[board.benchmark, board.metric]) for board, row in rows],
    }


def _text(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def _twins(model: str, rows: Sequence[tuple[Board, Row]]) -> list[dict[str, str]]:
    trained = model.removesuffix("-random")
    found = []
    if any(row.untrained for _, row in rows):
        found.append({"page": page_of(f"{model}-random"), "text": "the same net untrained"})
    if trained != model and any(board.row(trained) for board, _ in rows):
        found.append({"page": page_of(trained), "text": "the same net trained"})
    return found


def _part(board: Board, row: Row, page: str) -> dict[str, Any]:
    rank, may_be = ranks(row)
    names, layers = _layers(row)
    worth_drawing = len(row.layers) > 1 and names
    return {
        "benchmark": board.benchmark,
        "metric": board.metric,
        "page": page,
        "simulated": board.simulated,
        "score": number(row.score),
        "interval": interval(row),
        "rank": rank,
        "may_be": may_be,
        "n_models": len(board.models),
        "raw": number(row.raw),
        "null": number(row.null),
        "ceiling": number(row.ceiling),
        "sites": f"{row.significant} of {len(board.sites)}",
        "grid": grid(board.sites, row.sites["score"]),
        "lines": [_site_line(row, place) for place in range(len(board.sites))],
        "curve": plots.curves(row, board.sites) if worth_drawing else "",
        "curve_caption": _caption(row),
        "curve_names": names,
        "layers": layers,
        "notes": [*row.notes, *_site_notes(row)],
        "commands": _commands(board, row),
        "provenance": _provenance(row),
    }


def _caption(row: Row) -> str:
    parts = []
    if "layer_raw" in row.curves:
        parts.append(
            "Above, raw of each layer alone, in order of execution: the mean over sites, and over the sites of each area"
        )
    if "weight" in row.curves:
        parts.append(
            "the mean weight that the metric gives the layer"
            if not parts
            else "below, the mean weight that the metric gives it"
        )
    return "; ".join(parts) + "."


def _layers(row: Row) -> tuple[list[str], list[dict[str, Any]]]:
    """Return the names of the curves and, for each layer, their means over sites."""
    names = {"layer_raw": "raw alone", "weight": "weight"}
    means = [plots.mean_over_sites(row.curves[name]) for name in names if name in row.curves]
    lines = [
        {"name": layer, "numbers": [number(float(mean[place])) for mean in means]}
        for place, layer in enumerate(row.layers)
    ]
    return [label for name, label in names.items() if name in row.curves], lines


def _site_line(row: Row, place: int) -> dict[str, Any]:
    names = (("score", 3), ("ci_low", 3), ("ci_high", 3), ("raw", 3), ("null_mean", 3), ("null_p", 4), ("ceiling", 3))
    numbers = [number(row.sites[name][place], digits) for name, digits in names]
    return {
        "site": row.sites["site"][place],
        "numbers": [*numbers, number(row.sites["n_neuroids"][place], 0)],
        "best_layer": row.sites["best_layer"][place],
    }


def _site_notes(row: Row) -> list[str]:
    """Return the notes of sites, those of all sites without their names."""
    sites: dict[str, list[str]] = {}
    for site, notes in zip(row.sites["site"], row.sites["notes"], strict=True):
        for note in notes:
            sites.setdefault(note, []).append(site)
    everywhere = len(row.sites["site"])
    return [note if len(where) == everywhere else f"{', '.join(where)}: {note}" for note, where in sites.items()]


def _commands(board: Board, row: Row) -> list[str]:
    score = ["mousebench", "score", "--model", row.model, "--benchmark", board.benchmark, "--metric", board.metric]
    fetch = [] if board.simulated else [["mousebench", "fetch", board.benchmark]]
    return [shlex.join(line) for line in [*fetch, score, ["mousebench", "reproduce", f"results/{row.file}"]]]


def _provenance(row: Row) -> list[tuple[str, str]]:
    origin = row.provenance
    told = [("mousebench", str(origin["mousebench"])), ("commit", origin["git"]), ("python", origin["python"])]
    told += [("platform", origin["platform"]), ("packages", _pairs(origin["packages"]))]
    told += [("computed on", _pairs(origin["extraction"])), ("seed", str(origin["seed"]))]
    told += [(f"model, {name}", str(value)) for name, value in origin["model"]["fingerprint"].items()]
    told += [(f"{kind} plugin", str(origin[kind]["source"])) for kind in ("model", "benchmark", "metric")]
    return [(name, text) for name, text in [*told, ("stimuli", str(origin["stimuli"]))] if text]


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


# a benchmark, and notes -----------------------------------------------------------------------------------------------


def of_benchmark(
    benchmark: str,
    boards: Sequence[Board],
    addresses: Mapping[tuple[str, str], str],
    citations: Mapping[str, str],
) -> dict[str, Any]:
    """Return what the page of a benchmark shows."""
    board = boards[0]
    row = board.rows[0]
    neurons = row.sites["n_neuroids"]
    known = any(math.isfinite(count) for count in neurons)
    about = row.provenance["benchmark"]
    citation = citations.get(board.benchmark_citation, board.benchmark_citation)
    return {
        "benchmark": benchmark,
        "description": about.get("description", ""),
        "simulated": board.simulated,
        "facts": [
            ("version", str(board.benchmark_version)),
            ("sites", str(len(board.sites))),
            ("stimuli", str(max(row.sites["n_stimuli"]))),
            ("neurons", f"{sum(filter(math.isfinite, neurons)):.0f}" if known else "none: the data are RDMs"),
            ("plugin", f"{about['name']}, from {about['distribution']} {about['version']}"),
            ("cite", citation),
        ],
        "neurons": grid(board.sites, neurons, digits=0, grey=True) if known else None,
        "parts": [_recipe(one, addresses, citations) for one in boards],
        "commands": [
            *([] if board.simulated else [f"mousebench fetch {shlex.quote(benchmark)}"]),
            shlex.join(["mousebench", "score", "--model", "pixels,resnet18-random", "--benchmark", benchmark]),
        ],
    }


def _recipe(board: Board, addresses: Mapping[tuple[str, str], str], citations: Mapping[str, str]) -> dict[str, Any]:
    row = board.rows[0]
    return {
        "metric": board.metric,
        "page": addresses[board.benchmark, board.metric],
        "version": board.metric_version,
        "citation": citations.get(board.metric_citation, board.metric_citation),
        "ceilings": grid(board.sites, row.sites["ceiling"], grey=True),
        "definition": [(name.replace("_", " "), _plain(value)) for name, value in board.definition.items()],
        "notes": _shared_notes(board.rows),
    }


def _shared_notes(rows: Sequence[Row]) -> list[str]:
    """Return the notes that all models share: those of the benchmark, not of one model's layers."""
    first, *others = (_site_notes(row) for row in rows)
    return [note for note in first if all(note in notes for notes in others)]


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def of_notes(made: Leaderboard) -> dict[str, Any]:
    """Return what the page of notes shows."""
    used = {row.citation for board in made.boards for row in board.rows}
    used |= {key for board in made.boards for key in (board.benchmark_citation, board.metric_citation)}
    return {
        "left_out": made.left_out,
        "citations": [(key, text) for key, text in sorted(made.citations.items()) if key in used],
    }
