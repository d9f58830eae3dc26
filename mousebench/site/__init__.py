"""The leaderboard as a folder of static pages: no server, no network, the same bytes from the same board."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from importlib.resources import files
from itertools import groupby
from typing import Any

import jinja2

from mousebench.board import Board, Leaderboard, Row
from mousebench.site import views
from mousebench.site.views import page_of


def pages(made: Leaderboard) -> Iterator[tuple[str, str]]:
    """Yield path and text of every file of the site.

    Raises
    ------
    MissingDependency
        If matplotlib is not installed.
    """
    for name in ("site.css", "site.js"):
        yield name, files("mousebench").joinpath("templates", "site", name).read_text(encoding="utf-8")
    addresses = _addresses(made.boards)
    shared = {"navigation": _navigation(made.boards, addresses), "root": ""}
    for board in made.boards:
        page = addresses[board.benchmark, board.metric]
        title = f"{board.benchmark}: {board.metric}"
        yield page, _render("board.html", **shared, here=page, title=title, **views.of_board(board))
    notes = views.of_notes(made)
    yield "notes.html", _render("notes.html", **shared, here="notes.html", title="Notes", **notes)
    if not made.boards:
        yield "index.html", _render("notes.html", **shared, here="index.html", title="Leaderboard", **notes)
    below = {**shared, "root": "../", "here": ""}
    for model, rows in _by_model(made.boards).items():
        content = views.of_model(model, rows, addresses, made.citations)
        yield f"models/{page_of(model)}", _render("model.html", **below, title=model, **content)
    for benchmark, boards in _by_benchmark(made.boards).items():
        content = views.of_benchmark(benchmark, boards, addresses, made.citations)
        yield f"benchmarks/{page_of(benchmark)}", _render("benchmark.html", **below, title=benchmark, **content)


def _addresses(boards: Sequence[Board]) -> dict[tuple[str, str], str]:
    """Return the page of each board; the first is what a visitor sees first."""
    pages = {(board.benchmark, board.metric): f"{page_of(board.benchmark, board.metric)}" for board in boards}
    return {**pages, **({next(iter(pages)): "index.html"} if pages else {})}


def _navigation(boards: Sequence[Board], addresses: dict[tuple[str, str], str]) -> list[dict[str, Any]]:
    return [
        {
            "benchmark": benchmark,
            "page": f"benchmarks/{page_of(benchmark)}",
            "boards": [{"metric": board.metric, "page": addresses[board.benchmark, board.metric]} for board in some],
        }
        for benchmark, some in _by_benchmark(boards).items()
    ]


def _by_benchmark(boards: Sequence[Board]) -> dict[str, list[Board]]:
    ordered = sorted(boards, key=lambda board: [one.benchmark for one in boards].index(board.benchmark))
    return {benchmark: list(some) for benchmark, some in groupby(ordered, lambda board: board.benchmark)}


def _by_model(boards: Sequence[Board]) -> dict[str, list[tuple[Board, Row]]]:
    found: dict[str, list[tuple[Board, Row]]] = {}
    for board in boards:
        for row in board.rows:
            found.setdefault(row.model, []).append((board, row))
    return dict(sorted(found.items()))


def _render(template: str, **content: Any) -> str:
    return _templates().get_template(template).render(content)


@cache
def _templates() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("mousebench", "templates/site"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
