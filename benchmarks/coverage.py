"""How often 95 % intervals hold what they should: many worlds of one law, each with new images, neurons and trials.

    python benchmarks/coverage.py --metrics rsa cka --images 60 --neurons 40 --signal .5 --worlds 200

The truth is the mean of the statistic over the worlds. ``width`` is the mean half-width of the intervals over 1.96 standard
deviations of the statistic over worlds: 1 is honest, 2 is twice too wide.
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np
import xarray as xr

from mousebench.assemblies import make_responses
from mousebench.linalg import correlation_rdm, gram
from mousebench.resampling import interval
from mousebench.results import site_draws
from mousebench_plugins.metrics._cka import Cka
from mousebench_plugins.metrics._pls import Pls
from mousebench_plugins.metrics._ridge import Ridge
from mousebench_plugins.metrics._rsa import Rsa
from mousebench_plugins.metrics._rsa_nnls import RsaNnls, leak_free

N_LATENT, WIDTH, N_LAYERS, N_TRIALS = 40, 80, 4, 8
METRICS = {
    "rsa": lambda **few: Rsa(**few),
    "rsa-nnls": lambda **few: RsaNnls(leak_free, repeats=10, **few),
    "cka": lambda **few: Cka(**few),
    "pls": lambda **few: Pls(**few),
    "ridge": lambda **few: Ridge(**few),
}


class Law:
    """What all worlds share: how images answer to features, and what sites are driven by.

    Parameters
    ----------
    images : str
        ``smooth``: latents of variance 1 / k; ``clusters``: ten kinds of images; ``flat``: latents of one variance.
    related : float
        Share of a site's drive that the layers could see.
    n_neurons, n_sites : int
    signal : float
        Variance of a neuron's expected responses over that of a trial.
    """

    def __init__(self, images: str, related: float, n_neurons: int, n_sites: int, signal: float) -> None:
        rng = np.random.default_rng(12345)
        self.images, self.related, self.n_neurons, self.signal = images, related, n_neurons, signal
        self.scale = np.ones(N_LATENT) if images == "flat" else 1 / np.sqrt(np.arange(1, N_LATENT + 1))
        self.centres = rng.normal(size=(10, N_LATENT)) * self.scale
        # two models of which the first layers are the same
        shared = [rng.normal(size=(N_LATENT, WIDTH)) for _ in range(N_LAYERS // 2)]
        own = [rng.normal(size=(N_LATENT, WIDTH)) * (rng.random((N_LATENT, 1)) < 0.5) for _ in range(N_LAYERS)]
        self.models = {"a": shared + own[: N_LAYERS // 2], "b": shared + own[N_LAYERS // 2 :]}
        self.banks = [rng.normal(size=(2 * N_LATENT, WIDTH)) for _ in range(n_sites)]

    def world(self, n_images: int, seed: int) -> tuple[dict[str, dict[str, xr.Dataset]], dict[str, xr.DataArray]]:
        """Return the layers of both models and the responses of all sites."""
        rng = np.random.default_rng([seed, 99])
        latents = rng.normal(size=(n_images, N_LATENT)) * self.scale
        if self.images == "clusters":
            latents = self.centres[rng.integers(0, 10, n_images)] + 0.5 * latents
        other = rng.normal(size=(n_images, N_LATENT)) * self.scale  # what no layer sees
        both = np.hstack([np.sqrt(self.related) * latents, np.sqrt(1 - self.related) * other])
        layers = {name: _layers([latents @ one for one in parts]) for name, parts in self.models.items()}
        sites = {f"s{k}": self._responses(both @ bank, rng) for k, bank in enumerate(self.banks)}
        return layers, sites

    def _responses(self, drive: np.ndarray, rng: np.random.Generator) -> xr.DataArray:
        bank = np.maximum(drive, 0)
        weights = rng.normal(size=(WIDTH, self.n_neurons)) * (rng.random((WIDTH, self.n_neurons)) < 0.2)
        weights[rng.integers(0, WIDTH, self.n_neurons), np.arange(self.n_neurons)] += 1
        means = (bank @ weights) / np.sqrt(np.square(weights).sum(0)) / drive.std()
        gain = np.exp(0.5 * rng.normal(size=self.n_neurons))
        noise = np.sqrt((1 - self.signal) / self.signal) * 0.6
        n_images = len(drive)
        trials = np.repeat(means, N_TRIALS, axis=0)
        trials = (trials + noise * rng.normal(size=trials.shape)) * gain
        ids = np.repeat(np.arange(n_images), N_TRIALS)
        numbers = np.tile(np.arange(N_TRIALS), n_images)
        return make_responses(trials, ids, numbers, {"neuroid_id": [f"n{k}" for k in range(self.n_neurons)]})


def _layers(features: list[np.ndarray]) -> dict[str, xr.Dataset]:
    made = {}
    for number, drive in enumerate(features):
        product, row_sum, width = gram([np.maximum(drive, 0)])
        made[f"l{number}"] = xr.Dataset(
            {"gram": (("stimulus", "stimulus_b"), product), "feature_sum": ("stimulus", row_sum)},
            attrs={"n_features": width},
        )
    return made


def as_rdm(target: xr.DataArray, n_images: int) -> xr.DataArray:
    """Return the RDM of a site as a target without neurons."""
    from mousebench.assemblies import make_rdm

    means = target.values.reshape(n_images, N_TRIALS, -1).mean(1)
    return make_rdm(correlation_rdm(*gram([means])), np.arange(n_images), {"reliability": 0.8})


def statistics(
    metric: object, models: dict, sites: dict, rdm: bool, n_images: int
) -> dict[str, tuple[float, np.ndarray]]:
    """Return (estimate, draws) of raw, score, the mean over sites of both, and the difference of two models."""
    if rdm:
        sites = {name: as_rdm(target, n_images) for name, target in sites.items()}
    ceilings = {name: metric.ceiling(target, 0) for name, target in sites.items()}
    made: dict[str, dict[str, list]] = {}
    for model, layers in models.items():
        scores = metric.score_sites(layers, sites, 0)
        made[model] = {"raw": [], "score": []}
        for name, target in sites.items():
            raw_draws, score_draws = site_draws(scores[name], ceilings[name], metric.normalisation, target, 0)
            raw, top = np.broadcast_arrays(scores[name]["raw"].values, ceilings[name]["ceiling"].values)
            ratio = np.where(top >= 0.1, raw / top, np.nan)
            made[model]["raw"].append((np.nanmedian(raw), raw_draws))
            made[model]["score"].append((np.nanmedian(ratio) if np.isfinite(ratio).any() else np.nan, score_draws))
    found = {}
    for what in ("raw", "score"):
        first = made["a"][what]
        found[what] = first[0]
        if len(sites) > 1:
            found[f"mean {what}"] = _mean(first)
        if "b" in made:
            second = made["b"][what]
            found[f"difference {what}"] = (first[0][0] - second[0][0], first[0][1] - second[0][1])
            if len(sites) > 1:
                (one, draws), (two, others) = _mean(first), _mean(second)
                found[f"mean difference {what}"] = (one - two, draws - others)
    return found


def _mean(parts: list) -> tuple[float, np.ndarray]:
    return float(np.mean([one for one, _ in parts])), np.mean([draws for _, draws in parts], axis=0)


def coverage(estimates: np.ndarray, intervals: np.ndarray) -> dict[str, float]:
    """Return what intervals (world, 2) are worth."""
    truth, spread = estimates.mean(), estimates.std(ddof=1)
    half = (intervals[:, 1] - intervals[:, 0]) / 2
    inside = (intervals[:, 0] <= truth) & (truth <= intervals[:, 1])
    return {
        "truth": round(float(truth), 4),
        "sd": round(float(spread), 4),
        "width": round(float(np.sqrt(np.square(half).mean()) / 1.96 / spread), 3),
        "coverage": round(float(inside.mean()), 3),
        "nan": int(np.isnan(intervals).any(1).sum()),
    }


def main() -> None:
    """Simulate."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--metrics", nargs="+", default=["rsa"], choices=METRICS)
    parser.add_argument("--images", type=int, default=60)
    parser.add_argument("--neurons", type=int, default=40)
    parser.add_argument("--sites", type=int, default=1)
    parser.add_argument("--signal", type=float, default=0.3)
    parser.add_argument("--related", type=float, default=0.5)
    parser.add_argument("--law", default="smooth", choices=["smooth", "clusters", "flat"])
    parser.add_argument("--rdm", action="store_true", help="give the sites' RDMs alone")
    parser.add_argument("--pair", action="store_true", help="a second model, and the difference")
    parser.add_argument("--worlds", type=int, default=200)
    parser.add_argument("--draws", type=int, default=400)
    options = parser.parse_args()
    law = Law(options.law, options.related, options.neurons, options.sites, options.signal)
    metrics = {name: METRICS[name](n_permutations=0, n_bootstraps=options.draws) for name in options.metrics}
    found: dict[tuple[str, str], list] = {}
    seconds = dict.fromkeys(metrics, 0.0)
    for seed in range(options.worlds):
        models, sites = law.world(options.images, seed)
        if not options.pair:
            models = {"a": models["a"]}
        for name, metric in metrics.items():
            start = time.perf_counter()
            for what, (estimate, draws) in statistics(metric, models, sites, options.rdm, options.images).items():
                found.setdefault((name, what), []).append((estimate, *interval(draws)))
            seconds[name] += time.perf_counter() - start
    told = vars(options)
    print(json.dumps({k: v for k, v in told.items() if k not in ("metrics", "draws")}))
    for (name, what), rows in found.items():
        values = np.array(rows)
        row = coverage(values[:, 0], values[:, 1:])
        print(f"{name:9s} {what:22s}", "  ".join(f"{k} {v:7.4g}" for k, v in row.items()))
    print({name: round(took / options.worlds, 3) for name, took in seconds.items()}, "s a world", flush=True)


if __name__ == "__main__":
    main()
