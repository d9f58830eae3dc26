"""Results and registry.yaml make the leaderboard: which result is on it, in which order, and why others are not.

A pure function of these files: no model, no data, no plugin is needed, and the same files give the same board.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import xarray as xr

from mousebench import paired, store
from mousebench.errors import StoreError, UsageError
from mousebench.names import result_name
from mousebench.registry import Matrix, Registry, Reviewed
from mousebench.results import with_mean_score
from mousebench.specs import is_identifier

SEED = 0
_SITE = ("score", "ci_low", "ci_high", "raw", "null_mean", "null_p", "ceiling", "n_stimuli", "n_neuroids", "n_layers")


@dataclass(frozen=True)
class Row:
    """One model on a board.

    Attributes
    ----------
    model, kind : str
        ``kind`` is "model" or "control"; controls have no rank.
    rank : int or None
        1 + the number of models in better groups, so that models of a group share it.
    rank_low, rank_high, group : int or None
        ``paired.ranks``.
    score, low, high, raw, null, ceiling : float
        Means over the sites that have a score; ``low`` to ``high`` is the 95 % interval of score.
    significant : int
        Sites above their null, Benjamini-Hochberg over sites at .05.
    sites : mapping of name to list
        What there is of every site: score, interval, raw, null, p, ceiling, numbers, best layer, notes.
    layers : list of str
    curves : mapping of name to float64 (site, layer)
        ``layer_raw`` and ``weight``, where the metric gives them.
    provenance : mapping
    notes : list of str
    file : str
        Path of the result below the folder of results.
    untrained : str
        The same net untrained, if it is on the board as well.
    """

    model: str
    kind: str
    score: float
    low: float
    high: float
    raw: float
    null: float
    ceiling: float
    significant: int
    sites: Mapping[str, list[Any]]
    layers: list[str]
    curves: Mapping[str, np.ndarray]
    provenance: Mapping[str, Any]
    notes: list[str]
    file: str
    status: str
    citation: str
    rank: int | None = None
    rank_low: int | None = None
    rank_high: int | None = None
    group: int | None = None
    untrained: str = ""

    @property
    def n_layers(self) -> int | None:
        """The most layers that were used at any site, None where that is not known."""
        most = max(self.sites["n_layers"], default=-1)
        return most if most >= 0 else None

    @property
    def metadata(self) -> Mapping[str, Any]:
        """What its plugin told of the model when it was scored: parameters, depth, training ..."""
        found: Mapping[str, Any] = self.provenance["model"].get("metadata", {})
        return found


@dataclass(frozen=True)
class Board:
    """All models on one benchmark and metric, the best first, then the controls."""

    benchmark: str
    benchmark_version: int
    metric: str
    metric_version: int
    simulated: bool
    sites: list[str]
    definition: Mapping[str, Any]
    benchmark_citation: str
    metric_citation: str
    rows: list[Row]
    notes: list[str]

    @property
    def models(self) -> list[Row]:
        """The rows that are ranked."""
        return [row for row in self.rows if row.kind == "model"]

    @property
    def controls(self) -> list[Row]:
        """The rows that the others are read beside."""
        return [row for row in self.rows if row.kind == "control"]

    def row(self, model: str) -> Row | None:
        """Return the row of a model, None if it is not on the board."""
        return next((row for row in self.rows if row.model == model), None)


@dataclass(frozen=True)
class Leaderboard:
    """All boards, and the results that are on none, by the reason why."""

    boards: list[Board]
    left_out: Mapping[str, list[str]]
    citations: Mapping[str, str]


class _LeftOut(Exception):
    """The result is on no board."""


@dataclass
class _Pile:
    """The results of one cell of the matrix that may be on its board."""

    row: Matrix
    metric: str
    results: dict[str, xr.Dataset] = field(default_factory=dict)  # by file


def make(results: Path, registry: Registry) -> Leaderboard:
    """Make the leaderboard.

    Parameters
    ----------
    results : Path
        The folder of results.
    registry : Registry
    """
    left_out: dict[str, list[str]] = {}
    piles = {(row.benchmark, metric): _Pile(row, metric) for row in registry.leaderboard for metric in row.metrics}
    for path in sorted(results.rglob("*.nc")):
        name = path.relative_to(results).as_posix()
        try:
            pile = _pile_of(name, piles, registry)
            pile.results[name] = _admitted(path, pile, registry)
        except (_LeftOut, StoreError) as reason:
            left_out.setdefault(str(reason).replace(str(path), "it"), []).append(name)
    whole = _sites_by_benchmark(piles.values())
    boards = []
    for pile in piles.values():
        _leave_out_odd_ones(pile, whole.get(pile.row.benchmark, []), left_out)
        if pile.results:
            boards.append(_board(pile, registry))
    return Leaderboard(boards, dict(sorted(left_out.items())), registry.citations)


# which results are on a board --------------------------------------------------------------------------------------------


def _pile_of(name: str, piles: Mapping[tuple[str, str], _Pile], registry: Registry) -> _Pile:
    """Return where a result belongs by its path; raise _LeftOut if that is nowhere."""
    parts = [unquote(part) for part in name.split("/")]
    if len(parts) != 4:
        raise _LeftOut("it does not lie where a result belongs, BENCHMARK/vVERSION/METRIC/MODEL.nc")
    benchmark, version, metric = parts[:3]
    pile = piles.get((benchmark, metric))
    if pile is None:
        raise _LeftOut(f"the registry's leaderboard does not ask for {metric} on {benchmark}")
    now = _version(registry, "benchmarks", benchmark)
    if version != f"v{now}":
        raise _LeftOut(f"{benchmark} has version {now}, the result is of {version}")
    return pile


def _version(registry: Registry, kind: str, identifier: str) -> int:
    reviewed = registry.provider(kind, identifier)
    if reviewed is None:
        raise _LeftOut(f"{kind[:-1]} {identifier} is not in registry.yaml")
    return reviewed.version


def _admitted(path: Path, pile: _Pile, registry: Registry) -> xr.Dataset:
    """Return a result that may be on the board; raise _LeftOut or StoreError if it may not."""
    head = store.header(path)
    attrs, origin = head.attrs, head.provenance
    if attrs["format"] != store.FORMAT:
        raise _LeftOut(f"it has format {attrs['format']}, this version reads {store.FORMAT}")
    model = str(attrs["model"])
    if origin["plugin"] == "local" or not is_identifier(model):
        raise _LeftOut("it is of a local model, which nobody reviewed")
    there = (attrs["benchmark"], attrs["metric"], path.stem)
    if there != (pile.row.benchmark, pile.metric, result_name(model)):
        raise _LeftOut(f"it holds {model} on {attrs['benchmark']}, {attrs['metric']}, which its path does not say")
    if attrs["seed"] != SEED:
        raise _LeftOut(f"it has seed {attrs['seed']}, the board has {SEED}")
    version = _version(registry, "metrics", pile.metric)
    if attrs["metric_version"] != version:
        raise _LeftOut(f"{pile.metric} has version {version}, the result is of version {attrs['metric_version']}")
    for kind, identifier in (("models", model), ("benchmarks", pile.row.benchmark), ("metrics", pile.metric)):
        _check_owner(origin[kind[:-1]], registry.provider(kind, identifier), kind, identifier)
    _check_asked_for(model, pile.row, registry)
    return store.read(path)


def _check_owner(made_by: Mapping[str, Any], reviewed: Reviewed | None, kind: str, identifier: str) -> None:
    """Raise _LeftOut unless a model, benchmark or metric comes from the plugin that registry.yaml accepts for it."""
    what = f"{kind[:-1]} {identifier}"
    if reviewed is None:
        raise _LeftOut(f"{what} is not in registry.yaml")
    if (made_by["name"], made_by["distribution"]) != (reviewed.name, reviewed.distribution):
        raise _LeftOut(
            f"{what} was made by plugin {made_by['name']} of {made_by['distribution']}, "
            f"registry.yaml gives it to {reviewed.name} of {reviewed.distribution}"
        )
    if reviewed.status != "accepted":
        raise _LeftOut(f"plugin {reviewed.name} is not accepted but {reviewed.status}")
    if made_by.get("reviewed") not in (None, reviewed.version):
        raise _LeftOut(f"plugin {reviewed.name} has version {reviewed.version}, the result is of {made_by['reviewed']}")


def _check_asked_for(model: str, row: Matrix, registry: Registry) -> None:
    if model in row.leave_out:
        raise _LeftOut(f"registry.yaml leaves {model} out of {row.benchmark}")
    if model in row.controls:
        return
    # variants are on the board by name only; the nets of a family cannot be listed, so those that were scored are
    asked = "@" not in model if isinstance(row.models, str) else model in row.models
    if not asked:
        raise _LeftOut(f"registry.yaml does not ask for it on {row.benchmark}")


def _sites_by_benchmark(piles: Any) -> dict[str, list[str]]:
    """Return all sites of each benchmark, as its results have them."""
    found: dict[str, list[str]] = {}
    for pile in piles:
        for result in pile.results.values():
            known = found.setdefault(pile.row.benchmark, [])
            sites = result["site"].values.tolist()
            found[pile.row.benchmark] = sites if len(sites) > len(known) else known
    return found


def _leave_out_odd_ones(pile: _Pile, whole: Sequence[str], left_out: dict[str, list[str]]) -> None:
    """Keep the results that can be compared: of all sites, of the definition and stimuli that most have."""
    wanted = list(whole) if isinstance(pile.row.sites, str) else list(pile.row.sites)
    made_so = {name: _made_so(result) for name, result in pile.results.items()}
    usual = max(sorted(set(made_so.values())), key=Counter(made_so.values()).__getitem__, default="")
    for name in list(pile.results):
        have = set(pile.results[name]["site"].values.tolist())
        lacking = [site for site in wanted if site not in have]
        if lacking:
            reason = f"it lacks {len(lacking)} of {len(wanted)} sites"
        elif made_so[name] != usual:
            reason = "it has another definition of the metric, or other stimuli, than most others"
        else:
            pile.results[name] = with_mean_score(store.only_sites(pile.results[name], wanted))
            continue
        del pile.results[name]
        left_out.setdefault(reason, []).append(name)


def _made_so(result: xr.Dataset) -> str:
    definition = json.loads(result.attrs["definition"])
    return json.dumps([definition, json.loads(result.attrs["provenance"])["stimuli"]], sort_keys=True)


# the board ------------------------------------------------------------------------------------------------------------


def _board(pile: _Pile, registry: Registry) -> Board:
    rows = [_row(name, result, pile.row, registry) for name, result in pile.results.items()]
    ranked, notes = _ranked([row for row in rows if row.kind == "model"], pile)
    rows = sorted(ranked, key=_order) + sorted((row for row in rows if row.kind == "control"), key=_order)
    names = {row.model for row in rows}
    rows = [replace(row, untrained=name if (name := f"{row.model}-random") in names else "") for row in rows]
    first = next(iter(pile.results.values()))
    attrs = first.attrs
    return Board(
        benchmark=pile.row.benchmark,
        benchmark_version=int(attrs["benchmark_version"]),
        metric=pile.metric,
        metric_version=int(attrs["metric_version"]),
        simulated=any(result.attrs["simulated"] for result in pile.results.values()),
        sites=first["site"].values.tolist(),
        definition=json.loads(attrs["definition"]),
        benchmark_citation=_citation(registry, "benchmarks", pile.row.benchmark),
        metric_citation=_citation(registry, "metrics", pile.metric),
        rows=rows,
        notes=notes,
    )


def _order(row: Row) -> tuple[float, str]:
    return (math.inf if math.isnan(row.score) else -row.score, row.model)


def _citation(registry: Registry, kind: str, identifier: str) -> str:
    reviewed = registry.provider(kind, identifier)
    return (reviewed and reviewed.citation(kind, identifier)) or ""


def _row(name: str, result: xr.Dataset, row: Matrix, registry: Registry) -> Row:
    attrs, model = result.attrs, str(result.attrs["model"])
    there = np.isfinite(result["score"].values)

    def mean(column: str) -> float:
        values = result[column].values[there]
        return float(values.mean()) if values.size else math.nan

    p = paired.adjusted(result["null_p"].values, "fdr_bh")
    reviewed = registry.provider("models", model)
    curves = {curve: result[curve].values for curve in ("layer_raw", "weight") if curve in result}
    return Row(
        model=model,
        kind="control" if model in row.controls else "model",
        score=float(attrs["mean_score"]),
        low=float(attrs["mean_score_low"]),
        high=float(attrs["mean_score_high"]),
        raw=mean("raw"),
        null=mean("null_mean"),
        ceiling=mean("ceiling"),
        significant=int((p < paired.ALPHA).sum()),
        sites=_by_site(result),
        layers=[str(layer) for layer in result["layer"].values] if curves else [],
        curves=curves,
        provenance=json.loads(attrs["provenance"]),
        notes=json.loads(attrs["notes"]),
        file=name,
        status=reviewed.status if reviewed else "",
        citation=_citation(registry, "models", model),
    )


def _by_site(result: xr.Dataset) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {name: result[name].values.tolist() for name in _SITE}
    columns["site"] = result["site"].values.tolist()
    columns["best_layer"] = [str(layer) for layer in result["best_layer"].values]
    columns["notes"] = [json.loads(notes) for notes in result["notes"].values.tolist()]
    return columns


def _ranked(rows: list[Row], pile: _Pile) -> tuple[list[Row], list[str]]:
    """Return the rows with their ranks, and what is to be said of these."""
    if len(rows) < 2:
        return rows, []
    try:
        table = paired.ranks([pile.results[row.file] for row in rows])
    except UsageError as error:
        return rows, [f"no ranks: {error.message}"]
    standing = {
        model: [_whole(table[name].values[number]) for name in ("rank_low", "rank_high", "group")]
        for number, model in enumerate(table["model"].values.tolist())
    }
    sizes = Counter(group for _, _, group in standing.values() if group is not None)
    ranked = []
    for row in rows:
        low, high, group = standing.get(row.model, [None, None, None])
        rank = None if group is None else 1 + sum(size for other, size in sizes.items() if other < group)
        ranked.append(replace(row, rank=rank, rank_low=low, rank_high=high, group=group))
    return ranked, json.loads(table.attrs["notes"])


def _whole(value: float) -> int | None:
    return int(value) if math.isfinite(value) else None
