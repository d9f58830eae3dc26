"""Make a result of what a metric gives: normalise, label, note where it comes from. The only place that divides by a ceiling."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from mousebench.comparison import Comparison, Named
from mousebench.provenance import class_file, describe_plugin, environment
from mousebench.registry import reviewed_version
from mousebench.representations import Layers
from mousebench.resampling import independent_scale, interval, neuroid_counts, two_factor, weighted_median
from mousebench.store import FORMAT, only_sites

CEILING_FLOOR = 0.1  # below this ceiling a ratio says more of the noise than of the model
_PER_SITE = ("raw", "ceiling", "null", "null_raw", "bootstrap", "best_layer", "weight", "layer_raw")
_STACKED = (
    ("null", "permutation"),
    ("weight", "layer"),
    ("layer_raw", "layer"),
    ("layer_score", "layer"),
    ("component_raw", "component"),
)


def assemble(
    model: Named, layers: Layers, comparison: Comparison, scores: Mapping[str, xr.Dataset], key: str | None
) -> xr.Dataset:
    """Put the sites together, normalise, and write down where it all comes from.

    Returns
    -------
    Dataset
        Along ``site``: raw, ceiling, score, explained, ci_low, ci_high, raw_low, raw_high, null_mean, null_p, n_stimuli, n_neuroids,
        n_layers, best_layer, notes (JSON), target_sha256, and whatever else the metric gives; attributes model,
        benchmark, metric, their versions, seed, mean_score, simulated, notes and provenance (JSON).
    """
    draws = {
        site: site_draws(
            scores[site],
            comparison.ceilings[site],
            comparison.metric.thing.normalisation,
            comparison.targets[site],
            comparison.seed,
        )
        for site in comparison.sites
    }
    rows = [_site_row(site, scores[site], draws[site], comparison) for site in comparison.sites]
    columns = {name: ("site", np.array([row.get(name, np.nan) for row in rows])) for name in _names(rows)}
    result = xr.Dataset(columns, coords={"site": ("site", np.array(comparison.sites, dtype=str))})
    for name, dim in _STACKED:
        result = result.merge(_stacked(name, dim, scores, comparison.sites))
    result = result.merge(_stacked_draws(draws))
    result = result.merge(_by_neuroid(scores, comparison))
    definition = next(iter(scores.values())).attrs.get("definition", "{}")
    return result.assign_attrs(
        {
            "format": FORMAT,
            "key": key or "",
            "model": model.identifier,
            "benchmark": comparison.benchmark.identifier,
            "benchmark_version": comparison.benchmark.thing.version,
            "metric": comparison.metric.identifier,
            "metric_version": comparison.metric.thing.version,
            "seed": comparison.seed,
            "simulated": int(comparison.simulated),
            "definition": definition,
            "notes": json.dumps(_result_notes(layers, scores, comparison)),
            "provenance": json.dumps(_provenance(model, layers, comparison), sort_keys=True),
        }
    ).pipe(with_mean_score)


def with_mean_score(result: xr.Dataset) -> xr.Dataset:
    """Return the result with the mean of its sites' scores and its interval; NaN if no site has one."""
    scores = result["score"].values
    there = np.isfinite(scores)
    mean = float(scores[there].mean()) if there.any() else float("nan")
    low, high = interval(mean_draws(result)) if there.any() else (mean, mean)
    return result.assign_attrs(mean_score=mean, mean_score_low=low, mean_score_high=high)


def mean_draws(result: xr.Dataset) -> np.ndarray:
    """Return draws (bootstrap) of the mean over the sites that have a score; images are the same in all sites.

    NaN where one of these sites has none: the others' draws would lie about another mean.
    """
    if "score_draws" not in result:
        return np.array([np.nan])
    draws = result["score_draws"].values[np.isfinite(result["score"].values)].astype(float)
    return np.asarray(draws.mean(0)) if len(draws) else np.array([np.nan])


def _names(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row))


def _site_row(
    site: str, score: xr.Dataset, draws: tuple[np.ndarray, np.ndarray], comparison: Comparison
) -> dict[str, Any]:
    """Return everything of one site that is one number or one text."""
    ceiling = comparison.ceilings[site]
    told = (comparison.targets[site], score, ceiling)
    notes = [note for one in told for note in json.loads(one.attrs.get("notes", "[]"))]
    normalisation = comparison.metric.thing.normalisation
    raw, top, normalised = normalise(score["raw"], ceiling["ceiling"], normalisation, notes, score.get("score"))
    null = score["null"].values if "null" in score else np.empty(0)
    if np.isnan(raw):
        notes.append("no score: the metric gives no number here")
    raw_draws, score_draws = draws
    low, high = interval(score_draws)
    raw_low, raw_high = interval(raw_draws)
    extras = {str(n): v.item() for n, v in score.data_vars.items() if n not in _PER_SITE and v.ndim == 0}
    best = score["best_layer"].item() if "best_layer" in score else ""
    return {
        "raw": raw,
        "ceiling": top,
        "score": normalised,
        # a squared score is a share of variance already, and has lost its sign
        "explained": np.sign(raw) * normalised if "squared" in normalisation else np.sign(normalised) * normalised**2,
        "ci_low": low,
        "ci_high": high,
        "raw_low": raw_low,
        "raw_high": raw_high,
        "null_mean": null.mean() if null.size else np.nan,
        "null_p": null_p(score, raw),
        "n_stimuli": comparison.stimuli.sizes["stimulus"],
        "n_neuroids": float(score.attrs.get("n_neuroids", score["raw"].size if score["raw"].ndim else np.nan)),
        "n_layers": int(score.attrs.get("n_layers", -1)),
        "best_layer": str(best),
        "notes": json.dumps(notes),
        "target_sha256": comparison.target_hashes[site],
        **({"whole_sha256": comparison.whole[site]} if comparison.whole else {}),
        **({"ratio_of_medians": raw / top} if score["raw"].ndim else {}),
        **extras,
    }


def normalise(
    raw: xr.DataArray,
    ceiling: xr.DataArray,
    normalisation: str,
    notes: list[str],
    published: xr.DataArray | None = None,
) -> tuple[float, float, float]:
    """Return raw, ceiling and score of a site; the only division by a ceiling.

    For a metric per neuroid the score is taken neuroid by neuroid, and each of the three is the median over neuroids
    that have it. Where the ceiling is below CEILING_FLOOR there is no score; ``notes`` says so. A metric of the
    normalisation "published" gives its score itself.
    """
    top = np.broadcast_to(np.asarray(ceiling.values, dtype=float), raw.shape)
    values = np.asarray(raw.values, dtype=float)
    if normalisation == "published":
        given = values * np.nan if published is None else np.asarray(published.values, dtype=float)
        return _median(values), _median(top), _median(given)
    enough = top >= CEILING_FLOOR
    score = _normalised(values, np.where(enough, top, np.nan), normalisation)[0]
    below = int((np.isfinite(top) & ~enough).sum())
    if below:
        which = f"{below} of {top.size} neuroids have" if top.ndim else "the site has"
        notes.append(f"{which} a ceiling below {CEILING_FLOOR}, by which nothing is divided")
    if "squared" in normalisation and _median(values) < 0:
        notes.append("raw is negative; its square is not, so that the score is above 0, as published")
    return _median(values), _median(top), _median(score)


def _normalised(raw: np.ndarray, top: np.ndarray, normalisation: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the score, and what it changes by for a change of 1 in raw and in the ceiling; the formulas."""
    if normalisation == "squared":
        return raw**2 / top, 2 * raw / top, -((raw / top) ** 2)
    if normalisation == "squared-ratio":
        return (raw / top) ** 2, 2 * raw / top**2, -2 * raw**2 / top**3
    return raw / top, 1 / top, -raw / top**2


def null_p(score: xr.Dataset, raw: float) -> float:
    """Return how often the null reaches raw, or the ``null_raw`` that it goes with; NaN without a null."""
    null = score["null"].values if "null" in score else np.empty(0)
    tested = float(score["null_raw"]) if "null_raw" in score else raw
    if not null.size or not np.isfinite(tested):
        return float("nan")
    return float((1 + (null >= tested).sum()) / (1 + null.size))


def _median(values: np.ndarray) -> float:
    there = values[np.isfinite(values)]
    return float(np.median(there)) if there.size else float("nan")


def site_draws(
    score: xr.Dataset, ceiling: xr.Dataset, normalisation: str, target: xr.DataArray, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return draws of raw and of score, float64 (bootstrap) each; NaN where there are none.

    A change of the ceiling changes the score as well, to first order: a ratio of draws would run away where a ceiling is
    small. The metric resamples images; for a metric per neuroid the neuroids are resampled here.

    Parameters
    ----------
    score, ceiling : Dataset
        What the metric gives; ``bootstrap`` along bootstrap, and along neuroid if raw is.
    normalisation : str
    target : DataArray
    seed : int
    """
    if "bootstrap" not in score:
        return np.array([np.nan]), np.array([np.nan])
    raw, draws = score["raw"].values.astype(float), _draws_first(score)
    top = np.broadcast_to(np.asarray(ceiling["ceiling"].values, dtype=float), raw.shape)
    top = np.where(top >= CEILING_FLOOR, top, np.nan)
    tops = _draws_first(ceiling) if "bootstrap" in ceiling else top
    normalised, slope, top_slope = _normalised(raw, top, normalisation)
    scores = normalised + slope * (draws - raw) + top_slope * (tops - top)
    if normalisation == "published":
        normalised = score["score"].values.astype(float)
        scores = _draws_first(score, "score_bootstrap")
    if not raw.ndim:
        return draws, scores
    counts = neuroid_counts(target, seed, len(draws))
    scale = float(score.attrs.get("image_scale", 1.0))
    return _about_median(raw, draws, counts, scale), _about_median(normalised, scores, counts, scale)


def _draws_first(dataset: xr.Dataset, name: str = "bootstrap") -> np.ndarray:
    return np.asarray(dataset[name].transpose("bootstrap", ...).values, dtype=float)


def _about_median(values: np.ndarray, draws: np.ndarray, counts: np.ndarray, scale: float) -> np.ndarray:
    """Return draws of the median over neuroids, from (neuroid), (bootstrap, neuroid) and counts (bootstrap, neuroid)."""
    there = np.isfinite(values) & np.isfinite(draws).all(0)
    if not there.any():
        return np.full(len(draws), np.nan)
    by_neuroids = weighted_median(np.where(there, values, np.nan), counts)
    scale = independent_scale(draws[:, there], scale)
    return two_factor(_median(values), np.median(draws[:, there], axis=1), by_neuroids, scale)


def _stacked(name: str, dim: str, scores: Mapping[str, xr.Dataset], sites: Sequence[str]) -> xr.Dataset:
    """Return a variable of all sites that have it, along site; NaN for the others."""
    parts = {site: scores[site][name] for site in sites if name in scores[site] and scores[site][name].dims == (dim,)}
    if not parts:
        return xr.Dataset()
    first = next(iter(parts.values()))
    empty = np.full(first.shape, np.nan)
    coords = {dim: first[dim].values} if dim in first.coords else {}
    values = np.stack([parts[site].values if site in parts else empty for site in sites])
    return xr.Dataset({name: (("site", dim), values)}, coords=coords)


def _stacked_draws(draws: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> xr.Dataset:
    """Return ``raw_draws`` and ``score_draws`` float32 (site, bootstrap); nothing where no site has any."""
    size = max(len(raw) for raw, _ in draws.values())
    if size == 1:
        return xr.Dataset()
    nothing = np.full(size, np.nan)
    rows = [(raw, score) if len(raw) == size else (nothing, nothing) for raw, score in draws.values()]
    both = np.array(rows, dtype=np.float32)
    return xr.Dataset(
        {"raw_draws": (("site", "bootstrap"), both[:, 0]), "score_draws": (("site", "bootstrap"), both[:, 1])}
    )


def _by_neuroid(scores: Mapping[str, xr.Dataset], comparison: Comparison) -> xr.Dataset:
    """Return raw and ceiling of every neuroid of every site, for metrics that give them."""
    parts = [
        xr.Dataset(
            {
                "raw_by_neuroid": ("neuroid", scores[site]["raw"].values),
                "ceiling_by_neuroid": ("neuroid", comparison.ceilings[site]["ceiling"].values),
            },
            coords={
                "neuroid_id": ("neuroid", scores[site]["neuroid_id"].values.astype(str)),
                "neuroid_site": ("neuroid", np.full(scores[site]["raw"].size, site)),
            },
        )
        for site in comparison.sites
        if scores[site]["raw"].ndim
    ]
    return xr.concat(parts, "neuroid") if parts else xr.Dataset()


def _result_notes(layers: Layers, scores: Mapping[str, xr.Dataset], comparison: Comparison) -> list[str]:
    notes = list(layers.notes)
    if comparison.simulated:
        notes.append("simulated data: the score says nothing of a mouse")
    if not any("bootstrap" in score for score in scores.values()):
        notes.append("no intervals: the metric draws no bootstrap")
    return notes


def _provenance(model: Named, layers: Layers, comparison: Comparison) -> dict[str, Any]:
    return {
        **environment(),
        "model": {**_described(model), "fingerprint": model.fingerprint},
        "benchmark": _described(comparison.benchmark),
        "metric": _described(comparison.metric),
        "plugin": describe_plugin(model.plugin)["name"],
        "extraction": layers.extraction,
        "representation": layers.key,
        "stimuli": comparison.stimuli_hash,
        "seed": comparison.seed,
    }


def _described(named: Named) -> dict[str, Any]:
    """Return plugin and code of something, what the plugin tells of it, and the version under which it was reviewed."""
    plugin = describe_plugin(named.plugin)
    return {**plugin, **named.about, "class": class_file(named.thing), "reviewed": reviewed_version(named.plugin)}


def join_sites(old: xr.Dataset, new: xr.Dataset, order: Sequence[str]) -> xr.Dataset:
    """Return one result of the sites of two of the same key, the new one's first where both have a site."""
    rest = only_sites(old, [site for site in old["site"].values.tolist() if site not in new["site"].values])
    joined = _concatenated([new, rest], "site", "site", order)
    if "neuroid" in new.dims:
        joined = joined.merge(_concatenated([new, rest], "neuroid", "neuroid_site", order))
    return joined.pipe(with_mean_score)


def _concatenated(parts: Sequence[xr.Dataset], dim: str, by: str, order: Sequence[str]) -> xr.Dataset:
    """Return what the parts hold along a dimension, sorted by the order of their sites."""
    other = {"site": ["neuroid"], "neuroid": [str(name) for name in parts[0].dims if name != "neuroid"]}[dim]
    joined = xr.concat(
        [part.drop_dims(other, errors="ignore") for part in parts],
        dim,
        data_vars="minimal",
        coords="minimal",
        compat="override",
        join="outer",
        combine_attrs="override",
    )
    rank = {site: number for number, site in enumerate(order)}
    return joined.isel({dim: np.argsort([rank[site] for site in joined[by].values.tolist()], kind="stable")})
