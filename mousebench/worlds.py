"""Small simulated worlds with a known answer: images, a net that sees them, neurons, trials.

An image is a vector of latent variables. All layers of the net see some of them, and each layer some of its own, so that
the layers are alike, as those of one net are. The neurons of a site are driven by one layer, the planted one, and by
latent variables that no layer sees; what is left is noise of trials. The net is fixed; a sample draws images, neurons and
trials, which is what the expectation of a score and its interval are about.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import xarray as xr

from mousebench.assemblies import make_rdm, make_responses, make_stimuli
from mousebench.linalg import correlation_rdm, gram
from mousebench.reliability import rdm_reliability

SITE = "world"
_SHARED, _OWN, _UNSEEN = 8, 6, 8  # latent variables
_WIDTH = 60  # features of a layer
_UNSEEN_SHARE = 0.25  # of the variance of the expected responses: what no layer can explain
_NOISE = 2.0  # sd of a trial, in sd of the expected responses
_NOISE_SPREAD = 0.3  # of its logarithm, over neurons


@dataclass(frozen=True)
class Sample:
    """Images, neurons and trials drawn from a world; a benchmark of one site.

    Attributes
    ----------
    features : mapping of layer to float64 (stimulus, feature)
    trials : float64 (stimulus, repetition, neuroid)
    planted : str
        The layer that drives the neurons; "" where none does.
    kind : str
        What the target is: "responses" or "rdm".
    """

    features: Mapping[str, np.ndarray]
    trials: np.ndarray
    planted: str = ""
    kind: str = "responses"
    version: int = 1
    sites: Sequence[str] = (SITE,)
    metrics: Sequence[str] = field(default_factory=list)
    simulated: bool = True

    @cached_property
    def layers(self) -> dict[str, xr.Dataset]:
        """The layers as metrics see them."""
        return as_layers(self.features)

    @property
    def means(self) -> np.ndarray:
        """Mean responses, float64 (stimulus, neuroid)."""
        return np.asarray(self.trials.astype(np.float32).mean(1, dtype=np.float64))

    def stimuli(self) -> xr.DataArray:
        """Return images that nobody looks at, one pixel each."""
        n_stimuli = len(self.trials)
        return make_stimuli(np.zeros((n_stimuli, 1, 1), dtype=np.uint8), np.arange(n_stimuli))

    def target(self, site: str) -> xr.DataArray:
        """Return the trials, or the RDM of the means for a metric that takes nothing else."""
        n_stimuli, n_repetitions, n_neuroids = self.trials.shape
        if self.kind == "rdm":
            half = rdm_reliability(self.trials, np.random.default_rng(0))
            return make_rdm(
                correlation_rdm(*gram([self.means])), np.arange(n_stimuli), reliability=float(np.nanmean(half))
            )
        return make_responses(
            self.trials.reshape(-1, n_neuroids),
            np.repeat(np.arange(n_stimuli), n_repetitions),
            np.tile(np.arange(n_repetitions), n_stimuli),
            {"neuroid_id": [f"{site}-{number}" for number in range(n_neuroids)], "site": [site] * n_neuroids},
        )


@dataclass(frozen=True)
class World:
    """A net and the neurons that one of its layers drives.

    Parameters
    ----------
    seed : int
        Of the net and of all samples.
    n_stimuli, n_layers, n_neuroids, n_repetitions : int
    """

    seed: int = 0
    n_stimuli: int = 60
    n_layers: int = 4
    n_neuroids: int = 24
    n_repetitions: int = 8

    @property
    def planted(self) -> str:
        """The layer that drives the neurons: neither the first nor the last."""
        return f"layer-{self.n_layers // 2}"

    def sample(self, number: int) -> Sample:
        """Return a sample whose neurons are driven by the planted layer."""
        rng = self._rng("related", number)
        latents = self._latents(rng)
        features = self._net(latents)
        return Sample(features, self._trials(features[self.planted], rng), self.planted)

    def unrelated(self, number: int) -> Sample:
        """Return a sample in which no layer knows anything of what drives the neurons.

        The layers of even numbers are white noise, those of odd numbers a net that sees other latent variables.
        """
        rng = self._rng("unrelated", number)
        seen, driving = self._latents(rng), self._latents(rng)
        trials = self._trials(self._net(driving)[self.planted], rng)
        features = self._net(seen)
        if number % 2 == 0:
            features = {name: rng.standard_normal(values.shape) for name, values in features.items()}
        return Sample(features, trials)

    def degraded(self, number: int) -> tuple[Sample, dict[str, dict[float, dict[str, np.ndarray]]]]:
        """Return a sample, and models that know ever less of the layer that drives its neurons.

        Returns
        -------
        sample : Sample
        models : dict of path to dict of grade to features by layer
            Along "noise" the layer drowns in noise, along "truncated" it sees ever fewer of its latent variables,
            along "rescaled" nothing is lost, but the variances of its directions are changed. Grades ascend.
            Beside the layer every model has two of white noise.
        """
        rng = self._rng("degraded", number)
        latents = self._latents(rng)
        whole = self._net(latents)[self.planted]
        trials = self._trials(whole, rng)
        white = {f"white-{k}": rng.standard_normal(whole.shape) for k in range(2)}
        noise = whole.std() * rng.standard_normal(whole.shape)
        n_seen = _SHARED + _OWN
        paths = {
            "noise": {level: whole + level * noise for level in (0.0, 0.5, 1.0, 1.5, 2.0, 3.0)},
            "truncated": {
                float(lost): self._net(self._without(latents, lost))[self.planted]
                for lost in range(0, n_seen - 2, n_seen // 6)
            },
            "rescaled": {power: _rescaled(whole, power) for power in (0.0, 0.25, 0.5, 0.75)},
        }
        models = {
            path: {grade: {"driver": values, **white} for grade, values in grades.items()}
            for path, grades in paths.items()
        }
        return Sample(models["noise"][0.0], trials, "driver"), models

    def _rng(self, stream: str, *numbers: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, *stream.encode(), *numbers])

    def _latents(self, rng: np.random.Generator) -> np.ndarray:
        """Return latent variables (stimulus, latent): shared ones, those of each layer, those that no layer sees."""
        return rng.standard_normal((self.n_stimuli, _SHARED + self.n_layers * _OWN + _UNSEEN))

    def _net(self, latents: np.ndarray) -> dict[str, np.ndarray]:
        """Return features (stimulus, feature) of all layers; the same function of the images in all samples."""
        layers = {}
        for k in range(self.n_layers):
            weights = self._rng("net", k).standard_normal((_SHARED + _OWN, _WIDTH)) / np.sqrt(_SHARED + _OWN)
            layers[f"layer-{k}"] = np.tanh(1.5 * latents[:, self._seen(k)] @ weights)
        return layers

    def _seen(self, layer: int) -> np.ndarray:
        first = _SHARED + layer * _OWN
        return np.concatenate([np.arange(_SHARED), np.arange(first, first + _OWN)])

    def _without(self, latents: np.ndarray, lost: int) -> np.ndarray:
        """Return latent variables without some of those that the planted layer sees."""
        rest = latents.copy()
        order = self._rng("order").permutation(self._seen(self.n_layers // 2))
        rest[:, order[:lost]] = 0
        return rest

    def _trials(self, driver: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return trials (stimulus, repetition, neuroid) of neurons that a layer drives."""
        unseen = rng.standard_normal((len(driver), _UNSEEN))
        parts = [
            _standard(values @ rng.standard_normal((values.shape[1], self.n_neuroids))) for values in (driver, unseen)
        ]
        expected = np.sqrt(1 - _UNSEEN_SHARE) * parts[0] + np.sqrt(_UNSEEN_SHARE) * parts[1]
        sd = _NOISE * np.exp(_NOISE_SPREAD * rng.standard_normal(self.n_neuroids))
        shape = (len(driver), self.n_repetitions, self.n_neuroids)
        return np.asarray(expected[:, None] + sd * rng.standard_normal(shape))


def as_layers(features: Mapping[str, np.ndarray]) -> dict[str, xr.Dataset]:
    """Return layers from their features (stimulus, feature)."""
    layers = {}
    for name, values in features.items():
        product, row_sum, width = gram([values])
        layers[name] = xr.Dataset(
            {"gram": (("stimulus", "stimulus_b"), product), "feature_sum": ("stimulus", row_sum)},
            attrs={"n_features": width},
        )
    return layers


def as_rdm(sample: Sample) -> Sample:
    """Return the same sample with an RDM as its target."""
    return replace(sample, kind="rdm")


def _standard(values: np.ndarray) -> np.ndarray:
    return np.asarray((values - values.mean(0)) / values.std(0))


def _rescaled(features: np.ndarray, power: float) -> np.ndarray:
    """Return features whose directions have their singular values to the power of 1 - power."""
    u, s, v = np.linalg.svd(features - features.mean(0), full_matrices=False)
    kept = s > 1e-10 * s[0]
    return np.asarray((u[:, kept] * s[kept] ** (1 - power)) @ v[kept])
