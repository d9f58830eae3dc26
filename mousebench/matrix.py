"""What the leaderboard should hold and what of it is there: the matrix of registry.yaml against the results folder.

No model is loaded and nothing is computed here. A result is stale where what it was made of has visibly changed: versions,
the files of the plugins, the metric's definition, stimuli and targets. What only loading a model can show, its weights,
``mousebench score`` finds.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from mousebench import store
from mousebench.api import named
from mousebench.catalogue import Catalogue, Entry, Plugin
from mousebench.comparison import Comparison, Named, choose_sites, together
from mousebench.errors import MissingData, MousebenchError, StoreError
from mousebench.registry import Matrix, Registry

SEED = 0  # of everything on the board


@dataclass(frozen=True)
class Cell:
    """One model, benchmark and metric that the registry asks for.

    Attributes
    ----------
    state : str
        "there", "missing" or "stale".
    reason : str
        Why it is stale.
    blocked : str
        What must be had before it can be computed, such as "weights"; "" if nothing must.
    """

    benchmark: str
    metric: str
    model: str
    sites: tuple[str, ...] | None
    state: str
    reason: str = ""
    blocked: str = ""


@dataclass(frozen=True)
class Unit:
    """One piece of work: a model on a benchmark, with all metrics that are to be computed.

    With ``force`` they are computed whatever ``score`` finds stored: it is known to be stale.
    """

    model: str
    benchmark: str
    metrics: tuple[str, ...]
    sites: tuple[str, ...] | None
    force: bool

    def __str__(self) -> str:
        return f"{self.model} on {self.benchmark}, {', '.join(self.metrics)}"


@dataclass
class Plan:
    """All cells of the matrix, and what keeps some of it from being looked at."""

    cells: list[Cell] = field(default_factory=list)
    problems: list[MousebenchError] = field(default_factory=list)

    def wrong(self) -> list[Cell]:
        """Return what a check finds: what is stale, and what is missing and could be computed."""
        return [cell for cell in self.cells if cell.state == "stale" or (cell.state == "missing" and not cell.blocked)]

    def units(self, *, verify: bool = False) -> list[Unit]:
        """Return the work to do, in the registry's order; with ``verify`` also for what is there already."""
        todo: dict[tuple[str, str, tuple[str, ...] | None, bool], list[str]] = {}
        for cell in self.cells:
            if not cell.blocked and (verify or cell.state != "there"):
                unit = (cell.model, cell.benchmark, cell.sites, cell.state == "stale")
                todo.setdefault(unit, []).append(cell.metric)
        return [
            Unit(model, benchmark, tuple(metrics), sites, force)
            for (model, benchmark, sites, force), metrics in todo.items()
        ]

    def not_there(self, unit: Unit) -> list[str]:
        """Return the metrics of a unit whose results are not there, or stale."""
        own = [cell for cell in self.cells if (cell.model, cell.benchmark) == (unit.model, unit.benchmark)]
        return [cell.metric for cell in own if cell.metric in unit.metrics and cell.state != "there"]


@dataclass(frozen=True)
class _Side:
    """A benchmark and its metrics as they are now; ``targets`` and ``stimuli`` are None where the data are not here."""

    benchmark: Named
    metrics: Sequence[Named]
    sites: Sequence[str]
    targets: Mapping[str, str] | None
    stimuli: str | None


def plan(registry: Registry, found: Catalogue, results: Path) -> Plan:
    """Compare the matrix with the results.

    Parameters
    ----------
    registry : Registry
    found : Catalogue
    results : Path
        The folder of results.
    """
    made = Plan()
    for row in registry.leaderboard:
        try:
            side = _side(row, found, made)
        except MousebenchError as error:
            made.problems.append(error)
            continue
        for model in models_of(row, registry, found):
            try:
                entry = found.find("models", model)
            except MousebenchError as error:
                made.problems.append(error)
                continue
            made.cells += _cells(model, entry, side, row, registry, results)
    return made


def models_of(row: Matrix, registry: Registry, found: Catalogue) -> list[str]:
    """Return the models and controls of a row of the matrix, each once; a family is none, its nets can be named."""
    if isinstance(row.models, str):
        names = [name for name in found.identifiers("models") if _accepted(found.entries["models"][name][0], registry)]
    else:
        names = list(row.models)
    return [name for name in dict.fromkeys([*names, *row.controls]) if name not in row.leave_out]


def _accepted(entry: Entry, registry: Registry) -> bool:
    plugin = entry.plugin
    return not entry.spec.family and registry.status(plugin.name, plugin.distribution) == "accepted"


def _side(row: Matrix, found: Catalogue, made: Plan) -> _Side:
    benchmark = named("benchmarks", row.benchmark, found)
    metrics = [named("metrics", name, found) for name in row.metrics]
    sites = choose_sites(benchmark, None if isinstance(row.sites, str) else row.sites)
    try:
        first = together([Comparison(benchmark, metric, sites, SEED) for metric in metrics])[0]
    except MissingData as error:
        made.problems.append(error)
        return _Side(benchmark, metrics, sites, None, None)
    return _Side(benchmark, metrics, sites, first.target_hashes, first.stimuli_hash)


def _cells(model: str, entry: Entry, side: _Side, row: Matrix, registry: Registry, results: Path) -> Iterator[Cell]:
    benchmark = side.benchmark
    blocked = entry.missing()
    sites = None if isinstance(row.sites, str) else tuple(side.sites)
    for metric in side.metrics:
        path = store.result_path(results, benchmark.identifier, benchmark.thing.version, metric.identifier, model)
        state, reason = "there", ""
        if not path.is_file():
            state = "missing"
        else:
            try:
                reason = _why_stale(store.header(path), model, entry.plugin, metric, side, registry)
            except StoreError as error:
                reason = error.message
            state = "stale" if reason else state
        yield Cell(
            benchmark.identifier,
            metric.identifier,
            model,
            sites,
            state,
            reason,
            blocked if reason or state == "missing" else "",
        )


def _why_stale(header: store.Header, model: str, plugin: Plugin, metric: Named, side: _Side, registry: Registry) -> str:
    """Return the first reason why a result would not come out the same, "" if none is visible."""
    attrs, origin = header.attrs, header.provenance
    wanted = {
        "format": store.FORMAT,
        "model": model,
        "benchmark": side.benchmark.identifier,
        "metric": metric.identifier,
        "seed": SEED,
        "benchmark_version": side.benchmark.thing.version,
        "metric_version": metric.thing.version,
    }
    for name, value in wanted.items():
        if attrs[name] != value:
            return f"{name.replace('_', ' ')} is {attrs[name]!r}, now {value!r}"
    for what, was, now in (("model", origin["model"], plugin), ("metric", origin["metric"], metric.plugin)):
        reason = _plugin_changed(was, now, registry)
        if reason:
            return f"{what}: {reason}"
    definition = getattr(metric.thing, "definition", None)
    if definition is not None and json.loads(json.dumps(definition)) != json.loads(attrs["definition"]):
        return "the metric's definition changed"
    return _data_changed(header, origin, side)


def _plugin_changed(was: Mapping[str, Any], now: Plugin | None, registry: Registry) -> str:
    if now is None:
        return ""
    if (was["name"], was["distribution"]) != (now.name, now.distribution):
        return f"made by plugin {was['name']!r} of {was['distribution']}, now {now.name!r} of {now.distribution}"
    if was["source"] != (now.source_hash() or ""):
        return f"the file of plugin {now.name!r} changed"
    reviewed = registry.plugins.get(now.name)
    # results of older versions of mousebench do not say the two things below: unknown is not changed
    if was.get("reviewed") is not None and reviewed and was["reviewed"] != reviewed.version:
        return f"version {was['reviewed']} of plugin {now.name!r}, now {reviewed.version}"
    own = was.get("class")
    if own and _file_hash(own["module"]) != own["sha256"]:
        return f"the file of {own['module']} changed"
    return ""


@lru_cache
def _file_hash(module: str) -> str:
    """Return the sha256 of a module's file without importing it, "" where there is none."""
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return ""
    file = Path(spec.origin) if spec and spec.origin else None
    return hashlib.sha256(file.read_bytes()).hexdigest() if file and file.is_file() else ""


def _data_changed(header: store.Header, origin: Mapping[str, Any], side: _Side) -> str:
    lacking = [site for site in side.sites if site not in header.targets]
    if lacking:
        return f"not scored on {len(lacking)} site(s): {', '.join(lacking[:3])}{' ...' if len(lacking) > 3 else ''}"
    if side.targets is None:
        return ""
    if origin["stimuli"] != side.stimuli:
        return "the stimuli changed"
    changed = [site for site in side.sites if header.targets[site] != side.targets[site]]
    return (
        f"the data of {len(changed)} site(s) changed: {', '.join(changed[:3])}{' ...' if len(changed) > 3 else ''}"
        if changed
        else ""
    )
