"""A plugin for tests of the checks: one good model, metric and benchmark, and one bad one for each check to find."""

from __future__ import annotations

import itertools
import os
from functools import partial
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import nn

from mousebench import Spec, TorchModel, hookimpl
from mousebench.assemblies import average, make_rdm, make_responses, make_stimuli
from mousebench.errors import MissingData
from mousebench.linalg import pearson_columns
from mousebench.nnls import kfold
from mousebench.rdms import usable_neuroids
from mousebench.regression import sample_basis

# that torch and numpy are imported here is the mistake that "declares lightly" is to find
COUNT = itertools.count(1)


class Plain:
    """A model without torch; each variant breaks one rule."""

    layers: Any = ("means", "corners")

    def __init__(self, variant: str = "good") -> None:
        self.variant = variant
        self.seed = int.from_bytes(os.urandom(4), "little") if variant == "other-process" else 1
        if variant == "no-layer-names":
            self.layers = ("", "means")
        if variant == "wrong-layer":
            self.layers = ("means", "corner")
        if variant == "one-by-one":
            self.layers = ("means", "corners", "edges")

    @property
    def fingerprint(self) -> dict[str, Any]:
        told = {
            "number": {"variant": "good", "size": 3},
            "changes": {"count": str(next(COUNT))},
            "unknown": {"preprocess": "unknown"},
            "empty": {},
        }
        return told.get(
            self.variant, {"variant": self.variant, "seed": str(self.seed if self.variant != "other-process" else 1)}
        )

    def activations(self, images: np.ndarray, layers: Any) -> dict[str, np.ndarray]:
        small = images.reshape(len(images), 12, 8, 16, 8, 3).mean((2, 4)).reshape(len(images), -1) / 128 - 1
        means = np.maximum(small @ np.random.default_rng(self.seed).standard_normal((small.shape[1], 40)), 0)
        if self.variant == "nan":
            means = np.where(means > 0.9 * means.max(), np.nan, means)
        if self.variant == "random":
            means = means + np.random.default_rng(next(COUNT)).standard_normal(means.shape)
        if self.variant == "batch-statistics":
            means = means - means.mean(0)
        if self.variant == "position":
            means = means + np.arange(len(means))[:, None]
        return {"means": means, "corners": small[:, :30]}


class Stubborn(nn.Module):
    """A net of one convolution whose second part stays in training mode, or draws noise, or looks at its batch."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.conv = nn.Conv2d(3, 4, 9, stride=8)
        self.part = part

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.part(self.conv(images))


class AlwaysTraining(nn.BatchNorm2d):
    def train(self, mode: bool = True) -> AlwaysTraining:
        return super().train(True)


class Noise(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.dropout(x, 0.5, training=True)


class SameFingerprint(TorchModel):
    """A TorchModel that does not look at its weights."""

    fingerprint = {"net": "mine"}  # noqa: RUF012


def net(part: type[nn.Module], *arguments: Any) -> TorchModel:
    return TorchModel(Stubborn(part(*arguments)))


def same_fingerprint() -> TorchModel:
    return SameFingerprint(Stubborn(nn.ReLU()))


def wrong_selection() -> TorchModel:
    return TorchModel(Stubborn(nn.ReLU()), layers=["conv1"])


def does_not_load() -> None:
    raise OSError("no such weights")


class OfData:
    """A model made of a benchmark's data."""

    layers, fingerprint = (), {}
    activations = None

    def take_from(self, benchmark: Any, identifier: str) -> Any:
        raise MissingData("not here")


class Ridge:
    """A metric per neuroid: ridge from the first layer; each variant breaks one rule."""

    version: Any = 1
    accepts: Any = frozenset({"responses"})
    normalisation = "ratio"

    def __init__(self, variant: str = "good") -> None:
        self.variant = variant
        if variant == "no-version":
            self.version = "1"
        if variant == "text-accepts":
            self.accepts = "responses"
        if variant == "odd-normalisation":
            self.normalisation = "cubed"

    def score(self, layers: Any, target: xr.DataArray, seed: int) -> xr.Dataset:
        means = average(target)["mean"].values
        usable, _ = usable_neuroids(means)
        if self.variant == "keeps-all":
            means, usable = np.nan_to_num(means), np.ones_like(usable)
        raw = np.full(len(usable), np.nan)
        if not layers:
            raw[:] = 0.3 if self.variant == "constant-scores" else 0
            return xr.Dataset({"raw": ("neuroid", raw)})
        if self.variant == "no-raw":
            return xr.Dataset({"score": 1.0})
        raw[usable] = self._cross_validated(next(iter(layers.values())), means[:, usable], seed)
        if self.variant == "unseeded":
            raw += 0.01 * next(COUNT)
        if self.variant == "by-position":
            raw = np.mean(raw[: len(raw) // 2])
            return xr.Dataset({"raw": raw}, attrs={"n_neuroids": int(usable.sum())})
        if self.variant == "says-nothing":
            return xr.Dataset({"raw": np.nanmedian(raw)})
        return xr.Dataset({"raw": ("neuroid", raw)})

    def _cross_validated(self, layer: xr.Dataset, y: np.ndarray, seed: int) -> np.ndarray:
        """Return r of each neuroid; "pooled" correlates the predictions of all folds at once, which goes below 0."""
        x = sample_basis(layer["gram"].values)[:, :12]
        if self.variant == "leaks":
            solution = np.linalg.lstsq(x, y - y.mean(0), rcond=None)[0]
            return pearson_columns(x @ solution, y)
        fold = kfold(len(y), 18 if self.variant == "pooled" else 4, seed)
        predicted, r = np.empty_like(y), []
        for number in range(fold.max() + 1):
            test = fold == number
            a, mean = x[~test], y[~test].mean(0)
            penalty = 1e6 if self.variant == "pooled" else 0.1
            weights = np.linalg.solve(a.T @ a + penalty * np.eye(a.shape[1]), a.T @ (y[~test] - mean))
            predicted[test] = x[test] @ weights + mean
            r.append(pearson_columns(predicted[test], y[test]))
        if self.variant == "pooled":
            return pearson_columns(predicted, y)
        return np.mean(r, axis=0)

    def ceiling(self, target: xr.DataArray, seed: int) -> xr.Dataset:
        top = {"ceiling-of-2": 2.0, "low-ceiling": 0.4}.get(self.variant, 0.95)
        if self.variant in ("by-position", "says-nothing"):
            return xr.Dataset({"ceiling": top})
        dim = "fold" if self.variant == "other-dims" else "neuroid"
        return xr.Dataset({"ceiling": (dim, np.full(target.sizes["neuroid"], top))})


class Bench:
    """A benchmark of twelve images; each variant breaks one rule."""

    version: Any = 1
    sites: Any = ("A", "B")
    metrics: Any = ("rsa",)

    def __init__(self, variant: str = "good") -> None:
        self.variant = variant
        if variant == "no-sites":
            self.sites = ()
        if variant == "text-version":
            self.version = "one"
        if variant == "unknown-metric":
            self.metrics = ("rsaa",)
        if variant == "rdm":
            self.metrics = ("ridge",)

    def stimuli(self) -> xr.DataArray:
        if self.variant == "network":
            import socket

            socket.create_connection(("127.0.0.1", 9))
        if self.variant in ("missing", "missing-without-hint"):
            raise MissingData("no data", "mousebench fetch bench" if self.variant == "missing" else "ask a friend")
        rng = np.random.default_rng(next(COUNT) if self.variant == "other-images" else 0)
        images = make_stimuli(rng.integers(0, 256, (12, 8, 8), dtype=np.uint8), range(12))
        return images.astype(float) if self.variant == "float" else images

    def target(self, site: str) -> xr.DataArray:
        if self.variant == "half" and site == "B":
            raise MissingData("no data of B", "mousebench fetch bench --site B")
        repetitions = 1 if self.variant == "once" else 3
        rng = np.random.default_rng(next(COUNT) if self.variant == "other-data" else 0)
        if self.variant in ("rdm", "rdm-without-reliability"):
            rdm = rng.uniform(size=(12, 12))
            rdm = (rdm + rdm.T) * (1 - np.eye(12))
            return make_rdm(rdm, range(12), **({"reliability": 0.5} if self.variant == "rdm" else {}))
        ids = np.arange(11 if self.variant == "missing-ids" else 12)
        return make_responses(
            rng.standard_normal((len(ids) * repetitions, 5)),
            np.repeat(ids, repetitions),
            np.tile(np.arange(repetitions), len(ids)),
            {"neuroid_id": range(5)},
        )


PLAIN = (
    "good nan random batch-statistics position no-layer-names wrong-layer number changes unknown empty other-process"
)
RIDGE = (
    "good no-version text-accepts odd-normalisation keeps-all constant-scores no-raw unseeded by-position says-nothing leaks "
    "pooled ceiling-of-2 low-ceiling other-dims"
)
BENCH = (
    "good no-sites text-version unknown-metric rdm network missing missing-without-hint other-images float half once other-data "
    "rdm-without-reliability missing-ids"
)


@hookimpl
def mousebench_models():
    yield from (Spec(f"m-{variant}", load=partial(Plain, variant)) for variant in PLAIN.split())
    yield Spec("m-lambda", load=lambda: Plain())
    yield Spec("m-no-load", load=does_not_load)
    yield Spec("m-of-data", load=OfData)
    yield Spec("n-good", load=partial(net, nn.ReLU))
    yield Spec("n-training", load=partial(net, AlwaysTraining, 4))
    yield Spec("n-noise", load=partial(net, Noise))
    yield Spec("n-same-fingerprint", load=same_fingerprint)
    yield Spec("n-wrong-layer", load=wrong_selection)


@hookimpl
def mousebench_metrics():
    yield from (Spec(f"x-{variant}", load=partial(Ridge, variant)) for variant in RIDGE.split())


@hookimpl
def mousebench_benchmarks():
    yield from (Spec(f"b-{variant}", load=partial(Bench, variant)) for variant in BENCH.split())
