"""Checks of a metric on sim-ns: whether it finds what drives each site, and whether the truth itself scores 1."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import xarray as xr

from mousebench.catalogue import Catalogue
from mousebench.comparison import Named
from mousebench.progress import Progress
from mousebench.representations import images_of
from mousebench.verdicts import SLOW, Check, judged, measure, named_right
from mousebench.worlds import as_layers

BENCHMARK, TRUTH, FEATURES = "sim-ns", "sim-truth", "sim-features"
MAX_NEUROIDS = 40  # of a site
SLOW_SITES = 3  # of a metric that is slow, and not judged


class Fewer:
    """A benchmark with at most so many neurons a site, drawn once.

    Parameters
    ----------
    benchmark : Benchmark
    """

    def __init__(self, benchmark: Any) -> None:
        self.benchmark = benchmark
        self.version: int = benchmark.version
        self.sites: Sequence[str] = benchmark.sites
        self.metrics: Sequence[str] = benchmark.metrics
        self._targets: dict[str, xr.DataArray] = {}
        self.kept: dict[str, np.ndarray] = {}

    def stimuli(self) -> xr.DataArray:
        """Return the stimuli."""
        found: xr.DataArray = self.benchmark.stimuli()
        return found

    def target(self, site: str) -> xr.DataArray:
        """Return the responses of some neurons of a site; which ones, ``kept`` says from then on."""
        if site not in self._targets:
            whole = self.benchmark.target(site)
            order = np.random.default_rng(list(site.encode())).permutation(whole.sizes["neuroid"])
            self.kept[site] = np.sort(order[:MAX_NEUROIDS])
            self._targets[site] = whole.isel(neuroid=self.kept[site])
        return self._targets[site]

    def only(self, sites: Sequence[str]) -> Fewer:
        """Return the same benchmark with some of its sites."""
        part = copy.copy(self)
        part.sites = sites
        return part


class Anchors:
    """sim-ns, what drives its sites, and its neurons without noise; made once for all metrics.

    Parameters
    ----------
    found : Catalogue
    progress : Progress
    """

    def __init__(self, found: Catalogue, progress: Progress) -> None:
        self.found, self.progress = found, progress

    @cached_property
    def benchmark(self) -> Fewer:
        """The benchmark, all targets read."""
        fewer = Fewer(self.found.load("benchmarks", BENCHMARK))
        self.progress.start(f"targets of {BENCHMARK}", len(fewer.sites))
        for site in fewer.sites:
            fewer.target(site)
            self.progress.advance(1)
        self.progress.finish()
        return fewer

    @cached_property
    def drivers(self) -> dict[str, str]:
        """Which layer of sim-features drives which site."""
        truth = self.benchmark.benchmark.truth()
        return dict(zip(truth["site"].values.tolist(), truth["driver"].values.tolist(), strict=True))

    @cached_property
    def truth(self) -> dict[str, xr.Dataset]:
        """The expected responses of the neurons that are scored, a layer a site."""
        kept = self.benchmark.kept
        return as_layers({site: values[:, kept[site]] for site, values in self._activations(TRUTH).items()})

    @cached_property
    def features(self) -> dict[str, xr.Dataset]:
        """The banks of features, a layer each."""
        return as_layers(self._activations(FEATURES))

    def _activations(self, model: str) -> dict[str, np.ndarray]:
        thing = self.found.load("models", model)
        return dict(thing.activations(images_of(self.benchmark.stimuli()), thing.layers))

    def checks(self, metric: Named, seed: int) -> list[Check]:
        """Return the checks; none for a metric that does not take responses, or where sim-ns is not installed."""
        there = self.found.has("benchmarks", BENCHMARK) and all(self.found.has("models", m) for m in (TRUTH, FEATURES))
        if not there or "responses" not in metric.thing.accepts:
            return []
        sites = self.benchmark.sites[:SLOW_SITES] if metric.identifier in SLOW else self.benchmark.sites
        benchmark, layers = self.benchmark.only(sites), {site: self.truth[site] for site in sites}
        self.progress.start(f"{metric.identifier}: {TRUTH} and {FEATURES} on {BENCHMARK}", 2)
        truth = measure(metric, benchmark, layers, seed, ceiling_draws=False)
        self.progress.advance(1)
        banks = measure(metric, benchmark, self.features, seed, ceiling_draws=False)
        self.progress.finish()
        scores = np.array([one.score for one in truth.values()])
        scores = scores[np.isfinite(scores)]
        own = named_right([one.best_layer for one in truth.values()], list(truth))
        driver = named_right([one.best_layer for one in banks.values()], [self.drivers[site] for site in banks])

        def check(name: str, what: str, value: float, n: int, *bounds: float) -> Check:
            return judged(Check(metric.identifier, "truth", name, what, value, n=n), bounds)

        nothing = float("nan")
        any_score = scores if scores.size else np.array([nothing])
        return [
            check("true model", "mean score over sites", float(any_score.mean()), scores.size, 0.95, 1.05),
            check("lowest site", "score of the true model", float(any_score.min()), scores.size),
            check("highest site", "score of the true model", float(any_score.max()), scores.size),
            check("own layer first", "share of sites", float(own.mean()) if own.size else nothing, len(own), 0.9, 1.0),
            check(
                "driver first",
                "share of sites",
                float(driver.mean()) if driver.size else nothing,
                len(driver),
                0.9,
                1.0,
            ),
        ]
