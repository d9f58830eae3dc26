"""Stored results as one labelled table, which every analysis starts from."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from mousebench import store
from mousebench.errors import MissingData, StoreError
from mousebench.specs import file_name

RANDOM = "-random"
Facts = Callable[[str], Mapping[str, Any]]
_NUMBERS = ("score", "raw", "ceiling", "null_p", "r2", "n_neuroids")


def collect(results: str | Path, benchmark: str, metric: str, facts: Facts | None = None) -> xr.Dataset:
    """Return all results of one benchmark and one metric.

    Parameters
    ----------
    results : path
        The folder that ``mousebench score`` writes to.
    benchmark, metric : str
    facts : callable, optional
        Gives what is known of a model's identifier (``parameters``, ``depth``, ``cluster``); by default the
        catalogue's metadata.

    Returns
    -------
    Dataset
        Along model and site: score, raw, ceiling, null_p, and r2 for metrics that have it, NaN where a model lacks a site; ``score_draws`` (model,
        site, bootstrap); ``n_layers`` (model). Coordinates of model: those of ``describe``. Attributes: benchmark,
        metric, their versions, seed, simulated, n_stimuli, and ``skipped``, the files that could not be used.

    Raises
    ------
    MissingData
        If there is no result.
    """
    folder = latest_version(Path(results) / file_name(benchmark))
    found, skipped = [], []
    for path in sorted((folder / file_name(metric)).glob("*.nc")) if folder else ():
        try:
            found.append(store.read(path))
        except StoreError as error:
            skipped.append(error.message)
    if not found:
        raise MissingData(
            f"there is no result of {metric!r} on {benchmark!r} in {results}",
            f"mousebench score --model M,... --benchmark {benchmark} --metric {metric} --results {results}",
        )
    return table(found, facts or catalogue_facts, skipped)


def latest_version(folder: Path) -> Path | None:
    """Return the folder ``v<n>`` of the highest n, None where there is none."""
    versions = [path for path in folder.glob("v*") if re.fullmatch(r"v\d+", path.name)]
    return max(versions, key=lambda path: int(path.name[1:]), default=None)


def table(results: Sequence[xr.Dataset], facts: Facts, skipped: Iterable[str] = ()) -> xr.Dataset:
    """Return results (each along site) of one benchmark, metric and seed as one Dataset along model and site.

    Results of another seed than most have, or with another number of draws, are left out and named in ``skipped``.
    """
    skipped = list(skipped)
    ways = [(int(one.attrs["seed"]), one.sizes.get("bootstrap", 0)) for one in results]
    usual = max(sorted(set(ways)), key=ways.count)
    kept = [one for one, way in zip(results, ways, strict=True) if way == usual]
    skipped += [
        f"{one.attrs['model']}: seed {way[0]}, {way[1]} draws; most have seed {usual[0]}, {usual[1]}"
        for one, way in zip(results, ways, strict=True)
        if way != usual
    ]
    kept.sort(key=lambda one: str(one.attrs["model"]))
    models = [str(one.attrs["model"]) for one in kept]
    sites = _in_order(kept)
    shape = (len(models), len(sites))
    columns: dict[str, Any] = {}
    for name in _NUMBERS:
        if any(name in one for one in kept):
            columns[name] = (("model", "site"), np.full(shape, np.nan))
    columns["score_draws"] = (("model", "site", "bootstrap"), np.full((*shape, usual[1]), np.nan, dtype=np.float32))
    columns["n_layers"] = ("model", np.zeros(len(models), dtype=int))
    for row, one in enumerate(kept):
        place = [sites.index(site) for site in one["site"].values.tolist()]
        for name in _NUMBERS:
            if name in one:
                columns[name][1][row, place] = one[name].values
        if usual[1]:
            columns["score_draws"][1][row, place] = one["score_draws"].values
        columns["n_layers"][1][row] = int(one["n_layers"].max())
    described = [describe(model, facts(model)) for model in models]
    coords: dict[str, Any] = {"model": models, "site": sites, "area": ("site", [area_of(site) for site in sites])}
    coords |= {name: ("model", np.array([one[name] for one in described])) for name in described[0]}
    first = kept[0].attrs
    attrs = {name: first[name] for name in ("benchmark", "benchmark_version", "metric", "metric_version", "seed")}
    known = {"simulated": int(first["simulated"]), "n_stimuli": int(kept[0]["n_stimuli"].max()), "skipped": skipped}
    return xr.Dataset(columns, coords, {**attrs, **known})


def _in_order(results: Sequence[xr.Dataset]) -> list[str]:
    """Return the sites of all results, in the order of the one that has most."""
    longest = max(results, key=lambda one: one.sizes["site"])
    names = longest["site"].values.tolist()
    rest = {site for one in results for site in one["site"].values.tolist()} - set(names)
    return [str(name) for name in [*names, *sorted(rest)]]


def describe(model: str, known: Mapping[str, Any]) -> dict[str, Any]:
    """Return what an identifier says of a model.

    Parameters
    ----------
    model : str
    known : mapping
        ``parameters``, ``depth``, ``cluster`` where they are known.

    Returns
    -------
    dict
        ``architecture``: the name without ``-random``, seed and weights of one's own; ``kind``: "network", "task" (an encoder that
        has a cluster) or "control"; ``trained``; ``twin_seed``: of an untrained net, -1 for others; ``task``; ``cluster``; ``latent``;
        ``local``: whether it has weights or layers that nobody reviewed; ``parameters``, ``depth``: NaN where unknown.
    """
    own = re.split(r"[+\[]", model, maxsplit=1)
    base, _, variant = own[0].partition("@")
    untrained = base.endswith(RANDOM)
    cluster = str(known.get("cluster", ""))
    kind = "task" if cluster else "network" if "parameters" in known else "control"
    seed = re.search(r"(?:^|-)(\d+)$", variant) if untrained else None
    way = variant[: seed.start()] if seed else variant  # other images, or other layers: no twin of the net as it is
    return {
        "architecture": base.removesuffix(RANDOM) + (f"@{way}" if way else ""),
        "kind": kind,
        "trained": not untrained and kind != "control",
        "twin_seed": (int(seed[1]) if seed else 0) if untrained else -1,
        "task": base.rpartition("/")[2] if kind == "task" else "",
        "cluster": cluster,
        "latent": variant.split("-")[0] == "latent",
        "local": len(own) > 1,
        "parameters": float(known.get("parameters", np.nan)),
        "depth": float(known.get("depth", np.nan)),
    }


def catalogue_facts(model: str) -> Mapping[str, Any]:
    """Return what the installed plugins say of a model, nothing of one that they do not know."""
    from mousebench.api import catalogue

    found, name = catalogue(), re.split(r"[+\[]", model, maxsplit=1)[0]
    return found.find("models", name).spec.metadata if found.has("models", name) else {}


def area_of(site: str) -> str:
    """Return the area of a site: ``VISp`` of ``VISp.L23``."""
    return site.partition(".")[0]


def only(scores: xr.Dataset, **wanted: Any) -> xr.Dataset:
    """Return the models whose coordinates have some values: ``only(scores, kind="network", trained=True)``."""
    keep = np.ones(scores.sizes["model"], dtype=bool)
    for name, value in wanted.items():
        keep &= scores[name].values == value
    return scores.isel(model=keep)


def site_mean(scores: xr.Dataset) -> xr.Dataset:
    """Return mean (model), low, high and draws (model, bootstrap) over the sites that all of these models have.

    Attributes: ``sites``, how many these are.
    """
    values = scores["score"].values
    there = np.isfinite(values).all(0)
    draws = scores["score_draws"].values[:, there].astype(float).mean(1)
    usable = draws.shape[1] > 0 and np.isfinite(draws).any()
    low, high = np.quantile(draws, [0.025, 0.975], axis=1) if usable else np.full((2, len(values)), np.nan)
    mean = values[:, there].mean(1) if there.any() else np.full(len(values), np.nan)
    columns = {"mean": ("model", mean), "low": ("model", low), "high": ("model", high)}
    return xr.Dataset(
        {**columns, "draws": (("model", "bootstrap"), draws)}, scores["model"].coords, {"sites": int(there.sum())}
    )
