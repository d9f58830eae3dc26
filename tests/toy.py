"""A plugin for tests: small, fast, says when it is called, and changes where the environment (TOY_...) says so."""

from __future__ import annotations

import json
import os
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import xarray as xr

from mousebench import Spec, hookimpl
from mousebench.assemblies import make_rdm, make_responses, make_stimuli
from mousebench.linalg import correlation_rdm, gram
from mousebench_plugins.metrics._rsa_nnls import RsaNnls, as_published, leak_free

N, REPEATS, NEUROIDS = 24, 4, 12


def knob(name: str, default: str = "") -> str:
    return os.environ.get(f"TOY_{name}", default)


def log(text: str) -> None:
    if knob("LOG"):
        with Path(knob("LOG")).open("a") as file:
            file.write(text + "\n")


class Toy:
    version = 1
    sites = ("A", "B", "C")
    metrics = ("quick", "quick-published", "each")

    def __init__(self, variant: str | None = None) -> None:
        self.variant = variant

    def stimuli(self) -> xr.DataArray:
        if self.variant == "no-stimuli":
            raise ValueError("the disk is made of cheese")
        images = np.random.default_rng(int(knob("IMAGES", "0"))).integers(0, 256, (N, 8, 8), dtype=np.uint8)
        if self.variant == "same-images":
            images[:] = images[0]
        ids = np.arange(N)
        if self.variant == "same-ids":
            ids[5] = 4
            return xr.DataArray(images, dims=("stimulus", "y", "x"), coords={"stimulus_id": ("stimulus", ids)})
        return make_stimuli(images, ids)

    def expected(self, site: str) -> np.ndarray:
        pixels = np.random.default_rng(0).integers(0, 256, (N, 64)) / 128 - 1
        seed = int(knob(f"TARGET_{site}", str(ord(site))))
        return pixels @ np.random.default_rng(seed).standard_normal((64, NEUROIDS))

    def target(self, site: str) -> xr.DataArray:
        log(f"target {site}")
        if self.variant == "no-target":
            raise KeyError("site")
        clean = np.repeat(self.expected(site), REPEATS, axis=0)
        noisy = clean + 2 * np.random.default_rng([1, ord(site)]).standard_normal(clean.shape)
        if self.variant == "noise":
            noisy = np.random.default_rng([2, ord(site)]).standard_normal(clean.shape)
        ids = np.repeat(np.arange(N), REPEATS)
        if self.variant == "other-ids":
            ids = ids + 1
        return make_responses(
            noisy,
            ids,
            np.tile(np.arange(REPEATS), N),
            {"neuroid_id": [f"{site}{number}" for number in range(NEUROIDS)], "site": [site] * NEUROIDS},
        )


class ToyRdm(Toy):
    metrics = ("quick", "quick-published")

    def target(self, site: str) -> xr.DataArray:
        rdm = correlation_rdm(*gram([self.expected(site)]))
        order = np.arange(N) if self.variant == "ordered" else np.random.default_rng(3).permutation(N)
        return make_rdm(rdm[np.ix_(order, order)], order, reliability=0.8)


class Projections:
    layers = ("first", "second")

    def __init__(self, name: str) -> None:
        self.name = name
        self.seed = int(knob("WEIGHTS", "1")) + sum(map(ord, name))
        self.fingerprint = {"model": name, "weights": str(self.seed)}

    def activations(self, images, layers):
        log(f"activations {self.name}")
        if knob("STOP") == self.name:
            raise KeyboardInterrupt
        if knob("SLEEP") == self.name:
            time.sleep(60)
        pixels = images[..., 0].reshape(len(images), -1) / 128 - 1
        rng = np.random.default_rng(self.seed)
        first = np.maximum(pixels @ rng.standard_normal((64, 40)), 0)
        return {"first": first, "second": first @ rng.standard_normal((40, 20))}


class Bad(Projections):
    """A model that breaks one rule."""

    def __init__(self, variant: str) -> None:
        super().__init__("toy-a")
        self.variant = variant
        self.fingerprint = {"model": "bad", "variant": variant}
        if variant == "no-layers":
            self.layers = ()
        if variant == "unknown-key":
            self.fingerprint = {"model": "unknown"}

    def activations(self, images, layers):
        good = super().activations(images, layers)
        first, second = good["first"], good["second"]
        return {
            "nan": lambda: {"first": first, "second": np.where(second > 3, np.nan, second)},
            "all-nan": lambda: dict.fromkeys(layers, first * np.nan),
            "inf": lambda: {"first": first, "second": np.where(second > 3, np.inf, second)},
            "constant": lambda: {"first": first, "second": np.ones_like(second)},
            "all-constant": lambda: dict.fromkeys(layers, np.ones_like(first)),
            "three-dims": lambda: dict.fromkeys(layers, first[:, :, None]),
            "no-features": lambda: dict.fromkeys(layers, first[:, :0]),
            "too-few": lambda: dict.fromkeys(layers, first[:-1]),
            "text": lambda: dict.fromkeys(layers, first.astype(str)),
            "one-layer": lambda: {"first": first},
            "unknown-key": lambda: good,
            "raises": lambda: {}["weights"],
            "prints": lambda: (print("the model says hello"), good)[1],  # noqa: T201
        }[self.variant]()


def load_bad(variant: str):
    if variant == "exit":
        sys.exit(0)
    if variant == "cannot-load":
        raise OSError("no such weights")
    if variant == "string":
        return "a model"
    return Bad(variant)


class Quick(RsaNnls):
    """The real metric with few permutations, which counts its calls."""

    def __init__(self, procedure=leak_free) -> None:
        super().__init__(procedure, repeats=int(knob("REPEATS", "2")), n_permutations=20)

    def score_sites(self, layers, targets, seed, progress=None):
        log(f"score {','.join(targets)}")
        if knob("BARRIER"):  # go on when as many processes are here as it says
            folder = Path(knob("BARRIER"))
            (folder / str(os.getpid())).touch()
            for _ in range(600):
                if len(list(folder.iterdir())) >= 2:
                    break
                time.sleep(0.05)
        return super().score_sites(layers, targets, seed, progress)


class Each:
    """A metric per neuroid: the correlation of each with the mean of all layers' features; one has no number."""

    version = 1
    accepts = frozenset({"responses"})
    normalisation = "ratio"

    def __init__(self, variant: str | None = None) -> None:
        self.variant = variant
        if variant == "squared":
            self.normalisation = "squared"

    def score(self, layers, target, seed):
        if self.variant == "raises":
            raise ZeroDivisionError("nothing to divide by")
        if self.variant == "no-raw":
            return xr.Dataset({"score": 1.0})
        if self.variant == "wrong-dims":
            return xr.Dataset({"raw": ("fold", np.ones(3))})
        raw = np.linspace(-0.2, 0.8, target.sizes["neuroid"])
        raw[-1] = np.nan
        bootstrap = raw[:, None] + np.linspace(-0.1, 0.1, 41)
        return xr.Dataset(
            {"raw": ("neuroid", raw), "bootstrap": (("neuroid", "bootstrap"), bootstrap)},
            coords={"neuroid_id": ("neuroid", target["neuroid_id"].values)},
            attrs={"definition": json.dumps({"kind": "toy"}), "notes": json.dumps(["per neuroid"])},
        )

    def ceiling(self, target, seed):
        if self.variant == "no-ceiling":
            raise ZeroDivisionError("nothing to divide by")
        low = 0.05 if self.variant == "low" else 0.5
        values = np.full(target.sizes["neuroid"], low)
        values[0] = 0.01
        return xr.Dataset({"ceiling": ("neuroid", values)})


@hookimpl
def mousebench_models():
    yield Spec("toy-a", load=partial(Projections, "toy-a"), description="random projections")
    yield Spec("toy-b", load=partial(Projections, "toy-b"))
    yield Spec("toy-bad", load=load_bad)


@hookimpl
def mousebench_benchmarks():
    yield Spec("toy", load=Toy)
    yield Spec("toy-rdm", load=ToyRdm)


@hookimpl
def mousebench_metrics():
    yield Spec("quick", load=Quick)
    yield Spec("quick-published", load=partial(Quick, as_published))
    yield Spec("each", load=Each)
