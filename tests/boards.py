"""Result files that are made up, for tests of the leaderboard: written in the form of real ones, without scoring anything."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from mousebench import store
from mousebench.assemblies import content_hash
from mousebench.results import with_mean_score

SITES = tuple(f"{area}.{layer}" for area in ("VISp", "VISl", "VISal") for layer in ("L23", "L4", "L5"))
REGISTRY = """
schema: 1
plugins:
  nets:
    distribution: my-dist
    status: accepted
    version: 1
    models: {model_ids}
  drafts: {{distribution: my-dist, status: draft, version: 1, models: {{draft-net: someone2020}}}}
  bench: {{distribution: my-dist, status: accepted, version: 2, benchmarks: {{bench: someone2020, toy-sim: someone2020}}}}
  metrics: {{distribution: my-dist, status: accepted, version: 3, metrics: {{quick: someone2020, other: someone2020}}}}
citations: {{someone2020: "Someone (2020). <b>Nets</b> & mice."}}
leaderboard:
  - {{benchmark: bench, metrics: {metrics}, sites: all, models: all-accepted, controls: [pixels, noise], except: [odd]}}
"""
NETS = ("net-a", "net-b", "net-c", "odd", "pixels", "noise")


def registry(path: Path, nets: Sequence[str] = NETS, metrics: Sequence[str] = ("quick", "other")) -> Path:
    """Write a registry; NAME stands for NAME-random too."""
    models = json.dumps(dict.fromkeys(nets, "someone2020"))
    path.write_text(REGISTRY.format(model_ids=models, metrics=json.dumps(list(metrics))), encoding="utf-8")
    return path


def result(
    model: str,
    quality: float = 0.3,
    *,
    metric: str = "quick",
    benchmark: str = "bench",
    sites: Sequence[str] = SITES,
    n_layers: int = 5,
    n_draws: int = 200,
    plugin: str = "nets",
    distribution: str = "my-dist",
    metadata: dict[str, Any] | None = None,
    layer_names: Sequence[str] | None = None,
    **attrs: Any,
) -> xr.Dataset:
    """Return a result whose sites score about ``quality``; models that are alike share resamples as real ones do."""
    number, n_sites = sum(map(ord, model)), len(sites)
    rng, shared = np.random.default_rng(number), np.random.default_rng(7)
    ceiling = np.linspace(0.95, 0.6, n_sites)
    score = quality + np.linspace(-0.1, 0.1, n_sites) + 0.01 * rng.standard_normal(n_sites)
    draws = (
        score[:, None]
        + 0.03 * shared.standard_normal((n_sites, n_draws))
        + 0.01 * rng.standard_normal((n_sites, n_draws))
    )
    layers = list(layer_names or (f"layer{place}.0" for place in range(n_layers)))
    curve = np.abs(np.sin(np.arange(len(layers)) / 3 + number)) * quality
    per_site = {
        "raw": score * ceiling,
        "ceiling": ceiling,
        "score": score,
        "explained": np.sign(score) * score**2,
        "ci_low": np.percentile(draws, 2.5, axis=1),
        "ci_high": np.percentile(draws, 97.5, axis=1),
        "raw_low": np.percentile(draws, 2.5, axis=1) * ceiling,
        "raw_high": np.percentile(draws, 97.5, axis=1) * ceiling,
        "null_mean": np.full(n_sites, 0.001),
        "null_p": np.where(score > 0.05, 0.001, 0.4),
        "n_stimuli": np.full(n_sites, 118),
        "n_neuroids": np.linspace(40, 900, n_sites).round(),
        "n_layers": np.full(n_sites, len(layers)),
        "best_layer": np.array([layers[int(curve.argmax())]] * n_sites),
        "notes": np.array(['["a note of every site"]'] * n_sites),
        "target_sha256": np.array([f"{site:x<64}" for site in sites]),
    }
    told = {"name": plugin, "distribution": distribution, "version": "1.0", "source": "f" * 64}
    provenance = {
        "mousebench": "0.1.0",
        "git": "abc",
        "python": "3.11",
        "platform": "Linux",
        "packages": {"numpy": "2"},
        "model": {
            **told,
            "fingerprint": {"weights": "e" * 64},
            "description": f"what {model} is",
            "metadata": {"parameters": 10**6 * (1 + number % 60), "depth": 8 + number % 40, **(metadata or {})},
            "class": {},
            "reviewed": 1,
        },
        "benchmark": {
            **told,
            "name": "bench",
            "description": "a benchmark",
            "metadata": {},
            "class": {},
            "reviewed": 2,
        },
        "metric": {**told, "name": "metrics", "description": "a metric", "metadata": {}, "class": {}, "reviewed": 3},
        "plugin": plugin if distribution != "local" else "local",
        "extraction": {"device": "cpu"},
        "stimuli": "d" * 64,
        "seed": 0,
    }
    made = xr.Dataset(
        {
            **{name: ("site", values) for name, values in per_site.items()},
            "layer_raw": (("site", "layer"), np.tile(curve, (n_sites, 1))),
            "weight": (("site", "layer"), np.tile(curve / max(curve.sum(), 1e-9), (n_sites, 1))),
            "score_draws": (("site", "bootstrap"), draws.astype(np.float32)),
            "raw_draws": (("site", "bootstrap"), (draws * ceiling[:, None]).astype(np.float32)),
        },
        coords={"site": ("site", np.array(sites)), "layer": ("layer", np.array(layers))},
        attrs={
            "format": store.FORMAT,
            "key": "k",
            "model": model,
            "benchmark": benchmark,
            "benchmark_version": 2,
            "metric": metric,
            "metric_version": 3,
            "seed": 0,
            "simulated": 0,
            "definition": json.dumps({"folds": 6, "kind": metric}),
            "notes": "[]",
            "provenance": json.dumps(provenance),
            **attrs,
        },
    )
    return made.pipe(with_mean_score)


_WRITTEN: dict[str, bytes] = {}  # many tests want the same few results


def put(results: Path, made: xr.Dataset, *, version: int | None = None, name: str = "") -> Path:
    """Store a result where it belongs, or under another version or file name."""
    attrs = made.attrs
    at = store.result_path(results, attrs["benchmark"], version or attrs["benchmark_version"], attrs["metric"], "net-a")
    path = at.with_name(f"{name or store.result_name(attrs['model'])}.nc")
    content = content_hash(made)
    if content in _WRITTEN:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_WRITTEN[content])
    else:
        store.write(made, path)
        _WRITTEN[content] = path.read_bytes()
    return path


def zoo(results: Path, n_models: int, metrics: Sequence[str] = ("quick", "other"), **settings: Any) -> list[str]:
    """Store results of half as many architectures, trained and untrained, and of two controls; return the architectures."""
    nets = [f"net{number:03d}" for number in range(n_models // 2)]
    for metric in metrics:
        for number, net in enumerate(nets):
            quality = 0.35 - 0.2 * number / len(nets)
            put(results, result(net, quality, metric=metric, metadata={"training": "images"}, **settings))
            put(
                results,
                result(f"{net}-random", quality - 0.06, metric=metric, metadata={"training": "none"}, **settings),
            )
        put(results, result("pixels", 0.1, metric=metric, n_layers=1))
        put(results, result("noise", 0.0, metric=metric))
    return nets
