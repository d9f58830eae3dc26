"""Which of several models is better, and how sure that is: paired differences of results on the same resamples.

All models of a benchmark are scored on the same resamples of images and neurons, so that the difference of two scores is
taken draw by draw, and what the models share (hard images, odd neurons) drops out. The draws give the standard error of a
difference; interval and p come from Student's t with one degree of freedom less than there are images, as in rsatoolbox
(Schuett et al. 2023, eLife 12, e82566). Counting draws would end at p = 1 / 1001, which no correction for many pairs survives.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import xarray as xr
from scipy.special import stdtr, stdtrit

from mousebench.errors import UsageError
from mousebench.resampling import LEVEL, interval

ALPHA = 1 - LEVEL
_FLOAT32 = float(np.finfo(np.float32).eps)  # draws are stored in float32 and know nothing finer
_SAME = ("benchmark", "benchmark_version", "metric", "metric_version", "seed")


@dataclass(frozen=True)
class _Scores:
    """Scores of models on the sites that they share: (model, site), and their draws (model, site, bootstrap)."""

    models: list[str]
    sites: list[str]
    scores: np.ndarray
    draws: np.ndarray
    null_p: np.ndarray
    n_stimuli: int
    attrs: dict[str, Any]
    notes: list[str]

    @property
    def everywhere(self) -> np.ndarray:
        """The sites where all models have a score, bool (site)."""
        return np.asarray(np.isfinite(self.scores).all(0))


def difference(a: xr.Dataset, b: xr.Dataset) -> xr.Dataset:
    """Return the score of one model less that of another.

    Parameters
    ----------
    a, b : Dataset
        Results of two models, as ``mousebench.score`` returns them.

    Returns
    -------
    Dataset
        Along ``site``: difference, low, high (95 %), p (two-sided), p_corrected (Benjamini-Hochberg over sites); NaN where
        one of them has no score. Scalars mean_difference, mean_low, mean_high, mean_p: of the mean over sites where
        both have one. The attribute ``notes`` (JSON) says what was left out.

    Raises
    ------
    UsageError
        If they do not belong to the same benchmark, metric, version, seed, definition and data.
    """
    table = compare([a, b]).isel(model=0, model_b=1, drop=True)
    names = ["difference", "low", "high", "p", "p_corrected", "mean_difference", "mean_low", "mean_high", "mean_p"]
    return table[names]


def ranks(results: Sequence[xr.Dataset]) -> xr.Dataset:
    """Rank models by their mean score over the sites that they share, and say which cannot be told apart.

    A rank's interval is 1 + the number of models that are significantly better, to the number of models less those that
    are significantly worse, by Holm's correction over all pairs: all intervals hold at once with 95 % (Mogstad et al. 2024,
    Rev. Econ. Stud. 91, 476). Down the order, a new group starts with the first model that is significantly worse than the
    first of its group; models of neighbouring groups need not differ.

    Parameters
    ----------
    results : sequence of Dataset
        Of two models or more, as ``mousebench.score`` returns them.

    Returns
    -------
    Dataset
        Along ``model``, in the order given: rank (equal scores share the best), rank_low, rank_high, group (1 is the best),
        mean_score, mean_score_low, mean_score_high; along (model, model_b): mean_difference, mean_low, mean_high, mean_p,
        mean_p_corrected (Holm over pairs). Attributes benchmark, metric, their versions, seed, simulated, and notes (JSON:
        what was left out).

    Raises
    ------
    UsageError
        If they cannot be compared.
    """
    return _ranked(_comparable(results))


def compare(results: Sequence[xr.Dataset]) -> xr.Dataset:
    """Return all that can be said of the differences between models: their ranks, and each pair by site.

    Returns
    -------
    Dataset
        What ``ranks`` returns; along (model, site) score, null_p, null_p_corrected (Benjamini-Hochberg over sites); along
        model n_above_null, the sites where that is below .05; along (model, model_b, site) difference, low, high, p,
        p_corrected (Benjamini-Hochberg over sites).
    """
    data = _comparable(results)
    apart = _differences(data.scores, data.draws, data.n_stimuli)
    null_p = adjusted(data.null_p, "fdr_bh")
    pair = ("model", "model_b", "site")
    by_site: dict[str, Any] = {name: (pair, values) for name, values in apart.items()}
    return (
        _ranked(data)
        .assign_coords(site=data.sites)
        .assign(
            score=(("model", "site"), data.scores),
            null_p=(("model", "site"), data.null_p),
            null_p_corrected=(("model", "site"), null_p),
            n_above_null=("model", (null_p < ALPHA).sum(1)),
            p_corrected=(pair, adjusted(apart["p"], "fdr_bh")),
            **by_site,
        )
    )


def adjusted(p: np.ndarray, method: Literal["holm", "fdr_bh"] = "holm") -> np.ndarray:
    """Return p values corrected for their number, by Holm (family-wise) or Benjamini-Hochberg (false discoveries).

    Parameters
    ----------
    p : float64 (..., test)
        The tests of each row are a family. NaN counts as no test and stays.
    """
    order = np.argsort(p, axis=-1)  # NaN last
    n = np.isfinite(p).sum(-1, keepdims=True)
    rank = np.arange(1, p.shape[-1] + 1)
    ascending = np.take_along_axis(p, order, -1)
    if method == "holm":
        corrected = np.maximum.accumulate(ascending * (n - rank + 1), axis=-1)
    else:
        corrected = np.fmin.accumulate((ascending * (n / rank))[..., ::-1], axis=-1)[..., ::-1]
    out = np.empty(p.shape)
    np.put_along_axis(out, order, np.minimum(corrected, 1), -1)
    return out


def _ranked(data: _Scores) -> xr.Dataset:
    sites = data.everywhere
    notes = list(data.notes)
    if sites.any():
        means, draws = data.scores[:, sites].mean(1), data.draws[:, sites].mean(1)
    else:
        notes.append("no site where all models have a score: no means and no ranks")
        means, draws = np.full(len(data.models), np.nan), np.full(data.draws[:, 0].shape, np.nan)
    apart = {
        name: values[..., 0] for name, values in _differences(means[:, None], draws[:, None], data.n_stimuli).items()
    }
    upper = np.triu_indices(len(means), 1)
    corrected = np.full(apart["p"].shape, np.nan)
    corrected[upper] = adjusted(apart["p"][upper])
    corrected.T[upper] = corrected[upper]
    low, high = np.transpose([interval(row) for row in draws])
    rank_low, rank_high, group = _standing(means, corrected)
    pair = ("model", "model_b")
    return xr.Dataset(
        {
            "rank": ("model", 1.0 + (means > means[:, None]).sum(1) if sites.any() else means),
            "rank_low": ("model", rank_low),
            "rank_high": ("model", rank_high),
            "group": ("model", group),
            "mean_score": ("model", means),
            "mean_score_low": ("model", low),
            "mean_score_high": ("model", high),
            **{name if name.startswith("mean") else f"mean_{name}": (pair, value) for name, value in apart.items()},
            "mean_p_corrected": (pair, corrected),
        },
        coords={"model": data.models, "model_b": data.models},
        attrs={**data.attrs, "notes": json.dumps(notes)},
    )


def _standing(means: np.ndarray, p: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return rank_low, rank_high and group (model) from mean scores (model) and corrected p (model, model_b).

    All three are NaN for a model without any p.
    """
    better = (means[None] > means[:, None]) & (p < ALPHA)  # the second is better than the first
    known = np.isfinite(p).any(1)
    group = np.full(len(means), np.nan)
    leader, number = -1, 0
    for model in np.argsort(-means, kind="stable"):
        if not known[model]:
            continue
        if leader < 0 or p[leader, model] < ALPHA:
            leader, number = model, number + 1
        group[model] = number
    low, high = 1.0 + better.sum(1), float(len(means)) - better.sum(0)
    return np.where(known, low, np.nan), np.where(known, high, np.nan), group


def _differences(scores: np.ndarray, draws: np.ndarray, n_stimuli: int) -> dict[str, np.ndarray]:
    """Return difference, low, high, p, each (model, model_b, site), of scores (model, site), draws (model, site, bootstrap)."""
    n_models, n_sites = scores.shape
    apart = scores[:, None] - scores[None]
    error = np.full((n_models, n_models, n_sites), np.nan)
    for first in range(n_models):  # one at a time: all pairs' draws are a lot of memory
        error[first] = _standard_error(draws[first], draws)
    t = np.divide(apart, error, out=np.zeros(apart.shape), where=apart != 0)
    p = np.where(np.isfinite(error), 2 * stdtr(n_stimuli - 1, -np.abs(t)), np.nan)
    p[np.arange(n_models), np.arange(n_models)] = np.nan  # a model and itself are no test
    reach = stdtrit(n_stimuli - 1, (1 + LEVEL) / 2) * error
    return {
        "difference": apart,
        "low": apart - reach,
        "high": apart + reach,
        "p": np.where(np.isfinite(apart), p, np.nan),
    }


def _standard_error(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the standard deviation of the differences of draws (..., bootstrap); NaN where fewer than half have a number.

    It is not below what float32 leaves open, or two models that are equal but for rounding would differ significantly.
    """
    apart = a.astype(np.float64) - b
    there = np.isfinite(apart)
    n = there.sum(-1)
    enough = (n > 1) & (n >= there.shape[-1] / 2)
    mean = np.where(there, apart, 0).sum(-1) / np.maximum(n, 1)
    squares = (np.where(there, apart - mean[..., None], 0) ** 2).sum(-1)
    largest = np.where(there, np.maximum(np.abs(a), np.abs(b)), 0).max(-1)
    error = np.maximum(np.sqrt(squares / np.maximum(n - 1, 1)), _FLOAT32 * largest)
    return np.asarray(np.where(enough, error, np.nan))


def _comparable(results: Sequence[xr.Dataset]) -> _Scores:
    """Check that results may be compared, and return their scores on the sites that they share."""
    check_models([str(result.attrs["model"]) for result in results])
    for result in results[1:]:
        _check_same(results[0], result)
    notes: list[str] = []
    results = _on_the_same_data(_with_scores(results, notes), notes)
    sites = _shared_sites(results, notes)
    scores = np.array([_of_sites(result, "score", sites) for result in results], dtype=float)
    for site, lacks in zip(sites, ~np.isfinite(scores).T, strict=True):
        if lacks.any():
            who = [str(result.attrs["model"]) for result, lacking in zip(results, lacks, strict=True) if lacking]
            notes.append(
                f"{site}: no score for {'any model' if lacks.all() else ', '.join(who)}; the mean leaves the site out"
            )
    null_p = np.array([_of_sites(result, "null_p", sites) for result in results], dtype=float)
    return _Scores(
        [str(result.attrs["model"]) for result in results],
        sites,
        scores,
        _draws(results, sites, notes),
        null_p,
        int(results[0]["n_stimuli"].values[0]),
        {name: results[0].attrs[name] for name in (*_SAME, "simulated")},
        notes,
    )


def check_models(names: Sequence[str]) -> None:
    """Raise UsageError if there are fewer than two models, or one is there twice."""
    twice = [name for name, times in Counter(names).items() if times > 1]
    if twice:
        raise UsageError(f"model {twice[0]!r} is given twice", "give each model once")
    if len(names) < 2:
        raise UsageError("there is nothing to compare with one model or none", "give two models or more")


def _at(result: xr.Dataset, name: str) -> dict[str, Any]:
    return dict(zip(result["site"].values.tolist(), result[name].values, strict=True))


def _of_sites(result: xr.Dataset, name: str, sites: Sequence[str]) -> list[Any]:
    at = _at(result, name)
    return [at[site] for site in sites]


def _check_same(first: xr.Dataset, other: xr.Dataset) -> None:
    """Raise UsageError if two results differ in what makes a score, but for the model and the target."""
    who = f"{first.attrs['model']} and {other.attrs['model']} cannot be compared"
    for name in _SAME:
        a, b = first.attrs[name], other.attrs[name]
        if a != b:
            raise UsageError(f"{who}: {name.replace('_', ' ')} {a} and {b}", "score both in the same way")
    a, b = (json.loads(result.attrs["definition"]) for result in (first, other))
    for name in [*a, *b]:
        if a.get(name) != b.get(name):
            raise UsageError(
                f"{who}: the metric's definition says {name} {a.get(name)!r} and {b.get(name)!r}", "score both again"
            )
    a, b = (json.loads(result.attrs["provenance"]).get("stimuli") for result in (first, other))
    if a != b:
        raise UsageError(f"{who}: they saw different stimuli", "score both again")
    a, b = (result.sizes.get("bootstrap") for result in (first, other))
    if a and b and a != b:
        raise UsageError(f"{who}: {a} and {b} draws", "score both again")


def _with_scores(results: Sequence[xr.Dataset], notes: list[str]) -> list[xr.Dataset]:
    """Return the results that have a score at some site: one without would leave no site for the others."""
    kept = []
    for result in results:
        if np.isfinite(result["score"].values).any():
            kept.append(result)
        else:
            notes.append(f"{result.attrs['model']} is left out: it has no score at any site")
    if len(kept) < 2:
        raise UsageError(f"fewer than two models have a score: {'; '.join(notes)}", "their results say why")
    return kept


def _on_the_same_data(results: Sequence[xr.Dataset], notes: list[str]) -> list[xr.Dataset]:
    """Return the results that were scored on the same data; ``brain``, for one, is scored on what it leaves."""
    hashes = [_at(result, "target_sha256") for result in results]
    usual = {
        site: Counter(one[site] for one in hashes if site in one).most_common(1)[0][0] for one in hashes for site in one
    }
    kept = []
    for result, own in zip(results, hashes, strict=True):
        if any(usual[site] == digest for site, digest in own.items()):
            kept.append(result)
        else:
            notes.append(
                f"{result.attrs['model']} is left out: it was scored on other data than the others at all its sites"
            )
    if len(kept) < 2:
        names = " and ".join(str(result.attrs["model"]) for result in results)
        raise UsageError(
            f"{names} cannot be compared: they were scored on different data",
            "a model made of a benchmark's own data, such as 'brain', is scored on what it leaves",
        )
    return kept


def _shared_sites(results: Sequence[xr.Dataset], notes: list[str]) -> list[str]:
    """Return the sites that all results have, with the same target, in the order of the first."""
    hashes = [_at(result, "target_sha256") for result in results]
    sites = []
    for site in dict.fromkeys(site for own in hashes for site in own):
        lacking = [str(r.attrs["model"]) for r, own in zip(results, hashes, strict=True) if site not in own]
        if lacking:
            notes.append(f"{site} is left out: not scored for {', '.join(lacking)}")
        elif len({own[site] for own in hashes}) > 1:
            notes.append(f"{site} is left out: the models were scored on different data")
        else:
            sites.append(site)
    if not sites:
        raise UsageError("the models have no site in common", "score them on the same sites")
    return sites


def _draws(results: Sequence[xr.Dataset], sites: Sequence[str], notes: list[str]) -> np.ndarray:
    """Return the draws of scores, float32 (model, site, bootstrap); NaN for a model that has none."""
    size = max(result.sizes.get("bootstrap", 1) for result in results)
    draws = np.full((len(results), len(sites), size), np.nan, dtype=np.float32)
    for row, result in zip(draws, results, strict=True):
        if "score_draws" in result:
            row[:] = _of_sites(result, "score_draws", sites)
    without = [str(r.attrs["model"]) for r, row in zip(results, draws, strict=True) if not np.isfinite(row).any()]
    if without:
        notes.append(f"no interval, p or group where a model has no draws: {', '.join(without)}")
    return draws
