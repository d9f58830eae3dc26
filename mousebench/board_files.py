"""The leaderboard as files: LEADERBOARD.md to read, leaderboard.csv and leaderboard.json to compute with."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

from mousebench.board import Board, Leaderboard, Row

FORMAT = 1
SIMULATED = "Simulated data. These scores say whether the methods work, and nothing of a mouse."
READ = (
    "Score is raw / ceiling, the mean over sites, with its 95 % interval; null is what raw becomes when the images' labels are "
    "shuffled. Models that cannot be told apart from the first of their group share a rank; 'may be' says where the model may "
    "stand (95 %, all models at once)."
)
_COLUMNS = ("benchmark", "benchmark_version", "metric", "metric_version", "simulated")
_NUMBERS = ("score", "low", "high", "raw", "null", "ceiling")


def texts(leaderboard: Leaderboard) -> dict[str, str]:
    """Return the files by name."""
    return {
        "LEADERBOARD.md": markdown(leaderboard),
        "leaderboard.csv": as_csv(leaderboard),
        "leaderboard.json": json.dumps(as_json(leaderboard), ensure_ascii=False, allow_nan=False) + "\n",
    }


# numbers as text -------------------------------------------------------------------------------------------------------


def number(value: float, digits: int = 3) -> str:
    """Return a number with a fixed number of digits, a dash where there is none; zero has no sign."""
    if not math.isfinite(value):
        return "-"
    text = f"{value:.{digits}f}"
    return text.lstrip("-") if float(text) == 0 else text


def ranks(row: Row) -> tuple[str, str]:
    """Return the rank, and the ranks where the model may stand, "" where there are none."""
    rank = "" if row.rank is None else str(row.rank)
    if row.rank_low is None or row.rank_high is None:
        return rank, ""
    return rank, str(row.rank_low) if row.rank_low == row.rank_high else f"{row.rank_low} to {row.rank_high}"


def parameters(row: Row) -> str:
    """Return the number of parameters in millions."""
    count = row.metadata.get("parameters")
    return f"{count / 1e6:.1f} M" if isinstance(count, int | float) else ""


def interval(row: Row) -> str:
    """Return the interval of the score."""
    return f"{number(row.low)} to {number(row.high)}" if math.isfinite(row.low) else ""


# markdown --------------------------------------------------------------------------------------------------------------


def markdown(leaderboard: Leaderboard) -> str:
    """Return LEADERBOARD.md."""
    parts = [
        "# Leaderboard",
        "Written by `mousebench leaderboard` from results and registry.yaml; edits are lost.",
        READ,
    ]
    if not leaderboard.boards:
        parts.append("There are no results yet.")
    for board in leaderboard.boards:
        parts += _section(board)
    if leaderboard.left_out:
        parts += ["## Results that are on no board", "\n".join(_left_out(leaderboard))]
    return "\n\n".join(parts) + "\n"


def _section(board: Board) -> Iterable[str]:
    yield f"## {_plain(board.benchmark)}, {_plain(board.metric)}"
    if board.simulated:
        yield f"> **{SIMULATED}**"
    yield (
        f"{_plain(board.benchmark)} version {board.benchmark_version}, {_plain(board.metric)} version {board.metric_version}, "
        f"{len(board.sites)} sites, {len(board.models)} models."
    )
    yield _table(board, board.models) if board.models else "No model yet."
    if board.controls:
        yield "Controls, which a score is read beside:"
        yield _table(board, board.controls)
    if board.notes:
        yield "\n".join(f"- {_plain(note)}" for note in board.notes)


def _table(board: Board, rows: Sequence[Row]) -> str:
    ranked = any(row.rank is not None for row in rows)
    twins = any(row.untrained for row in rows)
    head = ["model", "score", "95 %", "raw", "null", "ceiling", "sites above null", "layers", "parameters"]
    head = (["rank", "may be"] if ranked else []) + head + (["untrained"] if twins else [])
    lines = [head, ["---" if name == "model" else "---:" for name in head]]
    for row in rows:
        cells = [_plain(row.model), f"**{number(row.score)}**", interval(row)]
        cells += [number(value) for value in (row.raw, row.null, row.ceiling)]
        cells += [f"{row.significant} of {len(board.sites)}", _count(row.n_layers), parameters(row)]
        lines.append([*(ranks(row) if ranked else ()), *cells, *([_twin(board, row)] if twins else [])])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _count(value: int | None) -> str:
    return "" if value is None else str(value)


def _twin(board: Board, row: Row) -> str:
    twin = board.row(row.untrained)
    return number(twin.score) if twin else ""


def _left_out(leaderboard: Leaderboard, most: int = 5) -> Iterable[str]:
    for reason, files in leaderboard.left_out.items():
        shown = ", ".join(_plain(file) for file in files[:most])
        more = f" and {len(files) - most} more" if len(files) > most else ""
        yield f"- {_plain(reason)}: {shown}{more}"


def _plain(text: str) -> str:
    """Return text that Markdown shows as it is, on one line."""
    text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*\[\]|~!#]|(?<![a-z0-9])_|_(?![a-z0-9]))", r"\\\1", text)


# csv and json ----------------------------------------------------------------------------------------------------------


def as_csv(leaderboard: Leaderboard) -> str:
    """Return leaderboard.csv: a line for each model on each board."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    own = ("kind", "rank", "rank_low", "rank_high", "group", *_NUMBERS, "sites_above_null", "n_sites", "n_layers")
    writer.writerow([*_COLUMNS, "model", *own, "parameters", "depth", "training", "untrained"])
    for board in leaderboard.boards:
        about = [getattr(board, name) for name in _COLUMNS[:-1]] + [int(board.simulated)]
        for row in board.rows:
            standing = [row.kind, row.rank, row.rank_low, row.rank_high, row.group]
            numbers = [rounded(getattr(row, name)) for name in _NUMBERS]
            counts = [row.significant, len(board.sites), row.n_layers]
            told = [row.metadata.get(name) for name in ("parameters", "depth", "training")]
            writer.writerow([*about, row.model, *standing, *numbers, *counts, *told, row.untrained])
    return text.getvalue()


def as_json(leaderboard: Leaderboard) -> dict[str, Any]:
    """Return leaderboard.json, with the numbers of every site."""
    return {
        "format": FORMAT,
        "boards": [_board_json(board) for board in leaderboard.boards],
        "left_out": [{"reason": reason, "files": files} for reason, files in leaderboard.left_out.items()],
    }


def _board_json(board: Board) -> dict[str, Any]:
    return {
        **{name: getattr(board, name) for name in _COLUMNS},
        "sites": board.sites,
        "models": [_row_json(row) for row in board.rows],
        "definition": board.definition,
        "notes": board.notes,
    }


def _row_json(row: Row) -> dict[str, Any]:
    names = ("score", "ci_low", "ci_high", "raw", "null_mean", "null_p", "ceiling")
    return {
        **{name: getattr(row, name) for name in ("model", "kind", "rank", "rank_low", "rank_high", "group")},
        "score": rounded(row.score),
        "ci": None if rounded(row.low) is None else [rounded(row.low), rounded(row.high)],
        **{name: rounded(getattr(row, name)) for name in ("raw", "null", "ceiling")},
        "sites_above_null": row.significant,
        "n_layers": row.n_layers,
        "untrained": row.untrained or None,
        "metadata": dict(row.metadata),
        "status": row.status,
        "citation": row.citation,
        "notes": row.notes,
        "result": row.file,
        "by_site": {name: [rounded(value) for value in row.sites[name]] for name in names},
    }


def rounded(value: float) -> float | None:
    """Return six digits of a number, None where there is none: what differs further behind is another machine's rounding."""
    return float(f"{value:.6g}") + 0.0 if math.isfinite(value) else None
