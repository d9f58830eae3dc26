"""Results as tables on stdout, for a person to read."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from mousebench.runs import Done


def print_result(item: Done) -> None:
    """Print one result: a row a site, the mean, the notes."""
    result = item.result
    if result is None:
        return
    attrs = result.attrs
    simulated = ", SIMULATED DATA" if attrs["simulated"] else ""
    title = f"{attrs['model']} on {attrs['benchmark']} (version {attrs['benchmark_version']}{simulated}), {attrs['metric']}, seed {attrs['seed']}"
    rows = [_cells(result.isel(site=number)) for number in range(result.sizes["site"])]
    about = _interval(attrs["mean_score_low"], attrs["mean_score_high"])
    rows.append({"site": "mean", "score": _number(attrs["mean_score"]), "95 %": about})
    columns = [name for name in rows[0] if any(row.get(name) for row in rows)]
    table = _table(title, *columns)
    for row in rows:
        if row is rows[-1]:
            table.add_section()
        table.add_row(*(row.get(name, "") for name in columns))
    _console().print(table)
    for note in json.loads(attrs["notes"]) + _site_notes(result):
        print(f"note: {note}")
    print()


def _cells(site: Any) -> dict[str, str]:
    """Return the columns of one site; a column that is empty for all sites is not shown."""

    def value(name: str, digits: int = 3) -> str:
        return _number(site[name].item(), digits) if name in site else ""

    neurons = site["n_neuroids"].item()
    intercept = site["intercept_only"].item() if "intercept_only" in site else 0
    return {
        "site": str(site["site"].item()),
        "score": value("score"),
        "95 %": _interval(site["ci_low"].item(), site["ci_high"].item()),
        "raw": value("raw"),
        "r2": value("r2"),
        "ceiling": value("ceiling"),
        "null": value("null_mean"),
        "p": value("null_p", 4),
        "intercept only": _number(intercept) if intercept else "",
        "neurons": "" if neurons != neurons else f"{neurons:.0f}",
        "best layer": str(site["best_layer"].item()),
    }


def _interval(low: float, high: float) -> str:
    return "" if low != low else f"{_number(low)} .. {_number(high)}"


def _number(value: float, digits: int = 3) -> str:
    return "-" if value != value else f"{value:.{digits}f}"


def _site_notes(result: Any) -> list[str]:
    """Return the notes of sites, those of all sites once."""
    sites: dict[str, list[str]] = {}
    for site, notes in zip(result["site"].values.tolist(), result["notes"].values.tolist(), strict=True):
        for note in json.loads(notes):
            sites.setdefault(note, []).append(site)
    everywhere = result.sizes["site"]
    return [note if len(where) == everywhere else f"{', '.join(where)}: {note}" for note, where in sites.items()]


def print_summary(finished: Sequence[Done]) -> None:
    """Print the means of several results."""
    first = finished[0].result
    if first is None:
        return
    simulated = " (SIMULATED DATA)" if first.attrs["simulated"] else ""
    table = _table(
        f"mean over sites, {first.attrs['benchmark']}{simulated}", "model", "metric", "mean score", "sites with p < .05"
    )
    for item in finished:
        result = item.result
        if result is not None:
            p = result["null_p"].values
            table.add_row(
                item.model, item.metric, _number(result.attrs["mean_score"]), f"{(p < 0.05).sum()} of {len(p)}"
            )
    _console().print(table)


def print_comparison(table: Any) -> None:
    """Print what ``paired.compare`` found: two models by site, more than two by rank and then in pairs."""
    attrs = table.attrs
    simulated = ", SIMULATED DATA" if attrs["simulated"] else ""
    where = f"{attrs['benchmark']} (version {attrs['benchmark_version']}{simulated}), {attrs['metric']}, seed {attrs['seed']}"
    if table.sizes["model"] == 2:
        _print_two(table, where)
    else:
        _print_ranks(table, where)
    for note in json.loads(attrs["notes"]):
        print(f"note: {note}")


def _print_two(table: Any, where: str) -> None:
    a, b = table["model"].values.tolist()
    pair = table.isel(model=0, model_b=1)
    shown = _table(f"{a} less {b} on {where}", "site", a, b, "difference", "95 %", "p", "corrected p")
    for site in table["site"].values:
        at, both = table.sel(site=site), pair.sel(site=site)
        shown.add_row(str(site), *map(_number, at["score"].values), *_difference(both, ""))
    shown.add_section()
    shown.add_row("mean", *map(_number, table["mean_score"].values), *_difference(pair, "mean_")[:-1], "")
    _console().print(shown)


def _print_ranks(table: Any, where: str) -> None:
    n_sites = table.sizes["site"]
    ordered = table.sortby("rank")
    ordered = ordered.sel(model_b=ordered["model"].values)
    columns = ("rank", "95 %", "group", "model", "mean score", "95 %", "sites above null")
    shown = _table(f"ranks on {where}", *columns)
    for model in ordered["model"].values:
        row = ordered.sel(model=model)
        low, high = row["rank_low"].item(), row["rank_high"].item()
        shown.add_row(
            _number(row["rank"].item(), 0),
            "" if low != low else f"{low:.0f} .. {high:.0f}",
            _number(row["group"].item(), 0),
            str(model),
            _number(row["mean_score"].item()),
            _interval(row["mean_score_low"].item(), row["mean_score_high"].item()),
            f"{row['n_above_null'].item()} of {n_sites}",
        )
    _console().print(shown)
    print()
    pairs = _table(
        "differences of the mean over sites", "model", "less model", "difference", "95 %", "p", "corrected p"
    )
    names = ordered["model"].values.tolist()
    for number, a in enumerate(names):
        for b in names[number + 1 :]:
            pairs.add_row(a, b, *_difference(ordered.sel(model=a, model_b=b), "mean_"))
    _console().print(pairs)


def _difference(pair: Any, prefix: str) -> tuple[str, str, str, str]:
    """Return the difference of two models, its interval, p and corrected p."""

    def value(name: str) -> float:
        return float(pair[prefix + name].item())

    return (
        _number(value("difference")),
        _interval(value("low"), value("high")),
        _small(value("p")),
        _small(value("p_corrected")),
    )


def _small(p: float) -> str:
    return "< .0001" if p < 0.0001 else _number(p, 4)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for column in columns:
        words = column in ("site", "model", "less model", "metric", "best layer")
        table.add_column(column, justify="left" if words else "right", no_wrap=True)
    return table


def _console() -> Any:
    # a pipe has no width: do not cut what goes into a file
    return Console(width=None if sys.stdout.isatty() else 160, highlight=False, markup=False, emoji=False)
