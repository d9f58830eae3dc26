"""One figure of a validation, what it is asked to be, and how a metric is made to give it."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xarray as xr
from scipy import stats

from mousebench.comparison import Comparison, Named
from mousebench.resampling import interval
from mousebench.results import normalise, null_p, site_draws
from mousebench.scoring import compare

# recipes that define their score as published: what they give is shown, and not judged
PUBLISHED = frozenset({"rsa-nnls-published", "pls-brainscore", "pls-nayebi"})
SLOW = frozenset({"pls-brainscore", "pls-nayebi"})  # of these, joint fits of many neurons that are made anew very often
NO_DRAWS = 2  # where an interval is not asked for
N_HALVES = 4
_MONTE_CARLO = 0.95


@dataclass(frozen=True)
class Check:
    """One number that says something of a metric.

    Attributes
    ----------
    metric, section, name, what : str
        ``what`` says how the number is made.
    value : float
    around : (float, float)
        Its 95 % Monte Carlo interval, from the number of worlds; NaN for what is no estimate.
    low, high : float or None
        What it has to lie between; None: it is shown, and not judged.
    n : int
        Worlds, sites or models that it is made of.
    """

    metric: str
    section: str
    name: str
    what: str
    value: float
    around: tuple[float, float] = (float("nan"), float("nan"))
    low: float | None = None
    high: float | None = None
    n: int = 1

    @property
    def verdict(self) -> str:
        """Yes, no, unclear where it lies outside by less than its Monte Carlo error, or "" for what is not judged."""
        if self.low is None or self.high is None or not np.isfinite(self.value):
            return ""
        if self.low <= self.value <= self.high:
            return "yes"
        reached = self.around[0] <= self.high and self.around[1] >= self.low  # NaN reaches nothing
        return "unclear" if reached else "no"


@dataclass(frozen=True)
class Measured:
    """What a metric and the code of results say of one site."""

    raw: float
    score: float
    p: float
    best_layer: str
    raw_interval: tuple[float, float]
    score_interval: tuple[float, float]


# what a metric gives --------------------------------------------------------------------------------------------------


def asked_for(metric: Named, n_permutations: int, n_bootstraps: int) -> Named:
    """Return the metric with as many permutations and resamples as are needed, if it can be told.

    One that fits anew for ``n_halves`` halvings of the trials gets few of these as well: their number changes the noise of
    a score, not what it is about.
    """
    thing = copy.copy(metric.thing)
    for name, value in (("n_permutations", n_permutations), ("n_bootstraps", n_bootstraps), ("n_halves", N_HALVES)):
        if hasattr(thing, name):
            setattr(thing, name, value)
    return Named(metric.identifier, thing, metric.plugin)


def measure(
    metric: Named,
    sample: Any,
    layers: Mapping[str, xr.Dataset],
    seed: int,
    *,
    n_permutations: int = 0,
    n_bootstraps: int = NO_DRAWS,
    ceiling_draws: bool = True,
) -> dict[str, Measured]:
    """Score a model on all sites of a benchmark, which a sample is one of.

    Without ``ceiling_draws`` the interval of the score takes the ceiling as known, which saves time where only that of
    raw is asked for.
    """
    comparison = Comparison(
        Named("simulated", sample, None), asked_for(metric, n_permutations, n_bootstraps), list(sample.sites), seed
    )
    scores = compare(layers, comparison)
    if not ceiling_draws:
        few = asked_for(metric, n_permutations, NO_DRAWS)
        comparison.__dict__["ceilings"] = {
            site: ceiling.drop_vars("bootstrap", errors="ignore")
            for site, ceiling in Comparison(comparison.benchmark, few, comparison.sites, seed).ceilings.items()
        }
    return {
        site: _measured(score, comparison.ceilings[site], comparison.targets[site], comparison)
        for site, score in scores.items()
    }


def _measured(score: xr.Dataset, ceiling: xr.Dataset, target: xr.DataArray, comparison: Comparison) -> Measured:
    kind = comparison.metric.thing.normalisation
    given = {"published": score["score"]} if kind == "published" else {}
    raw, _, normalised = normalise(score["raw"], ceiling["ceiling"], kind, [], **given)
    raw_draws, score_draws = site_draws(score, ceiling, kind, target, comparison.seed)
    best = str(score["best_layer"].item()) if "best_layer" in score else ""
    return Measured(raw, normalised, null_p(score, raw), best, interval(raw_draws), interval(score_draws))


# Monte Carlo error ----------------------------------------------------------------------------------------------------


def mean_check(metric: Named, section: str, name: str, what: str, values: np.ndarray, *bounds: float) -> Check:
    """Return a check of a mean over worlds; not judged without bounds, or for a published recipe."""
    there = values[np.isfinite(values)]
    if not there.size:
        return Check(metric.identifier, section, name, what, float("nan"), n=0)
    value = float(there.mean())
    half = (
        float(stats.norm.ppf((1 + _MONTE_CARLO) / 2) * there.std(ddof=1) / np.sqrt(there.size)) if there.size > 1 else 0
    )
    return judged(
        Check(metric.identifier, section, name, what, value, (value - half, value + half), n=there.size), bounds
    )


def share_check(metric: Named, section: str, name: str, what: str, hits: np.ndarray, *bounds: float) -> Check:
    """Return a check of a share of worlds; its Monte Carlo interval is Wilson's."""
    if not len(hits):
        return Check(metric.identifier, section, name, what, float("nan"), n=0)
    found = stats.binomtest(int(hits.sum()), len(hits)).proportion_ci(_MONTE_CARLO, method="wilson")
    around = (float(found.low), float(found.high))
    return judged(Check(metric.identifier, section, name, what, float(hits.mean()), around, n=len(hits)), bounds)


def judged(check: Check, bounds: Sequence[float]) -> Check:
    """Return the check with what is asked of it: nothing without bounds, nothing of a published recipe."""
    if not bounds or check.metric in PUBLISHED:
        return check
    return replace(check, low=bounds[0], high=bounds[1])


def named_right(best: Sequence[str], wanted: Sequence[str]) -> np.ndarray:
    """Return where the best layer is the one wanted, bool; nothing for a metric that never names one."""
    return np.array([a == b for a, b in zip(best, wanted, strict=True)] if any(best) else [], dtype=bool)
