"""A world in which the answers are known: tasks, architectures and sites whose relations are planted.

Every cluster of tasks has a bank of features, and so has what all images share at low level. A site's neurons mix the low-level
bank with the banks of clusters, by weights that depend on its area. A task's layers go from the low-level bank to that of its
cluster; a trained architecture's from the low-level bank to a mixture of all banks, the more of it the better the architecture;
an untrained one's never leave the low-level bank. With ``effect=False`` areas have no weights but those that all clusters share,
and training teaches nothing: whatever is found is a mistake.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr

from mousebench.assemblies import make_responses, make_stimuli

CLUSTERS = ("2D", "3D", "Semantic", "Geometric", "Other")
SITES = (
    "VISp.L23",
    "VISp.L4",
    "VISp.L5",
    "VISl.L23",
    "VISl.L4",
    "VISl.L5",
    "VISal.L23",
    "VISal.L4",
    "VISpm.L23",
    "VISpm.L4",
)
# what drives the areas beside the low-level bank: clusters change places between VISp and VISl
WEIGHTS: Mapping[str, Mapping[str, float]] = {
    "VISp": {"2D": 1.0, "Semantic": 0.2, "3D": 0.4},
    "VISl": {"2D": 0.2, "Semantic": 1.0, "3D": 0.4},
    "VISal": {"2D": 0.4, "Semantic": 0.6, "3D": 0.8},
    "VISpm": {"2D": 0.4, "Semantic": 0.6, "3D": 0.6},
    "VISam": {"2D": 0.4, "Semantic": 0.8, "3D": 0.6},
    "VISrl": {"2D": 0.6, "Semantic": 0.2, "3D": 0.8},
}
_WIDTH = 12  # features of a bank
_LAYERS = 5


@dataclass
class PlantedModel:
    """Features that are made up; a Model.

    Attributes
    ----------
    features : dict of layer to float64 (stimulus, feature)
    """

    features: dict[str, np.ndarray]

    @property
    def layers(self) -> Sequence[str]:
        """The layers, the first first."""
        return list(self.features)

    @property
    def fingerprint(self) -> Mapping[str, str]:
        """A hash of the features."""
        parts = [part for layer, values in self.features.items() for part in (layer.encode(), values.tobytes())]
        return {"features": hashlib.sha256(b"".join(parts)).hexdigest()}

    def activations(self, images: np.ndarray, layers: Sequence[str]) -> Mapping[str, np.ndarray]:
        """Return the features of images that are those of the world: an image's first pixels hold its number."""
        number = images[:, 0, 0, 0].astype(int)
        return {layer: self.features[layer][number] for layer in layers}


@dataclass
class PlantedWorld:
    """A benchmark whose sites are driven by banks of features, and the models that hold these; a Benchmark.

    Parameters
    ----------
    seed : int
    effect : bool
        False: nothing is planted.
    tasks : mapping of task to cluster
    architectures : sequence of str
    n_stimuli, n_neuroids, repetitions : int
    noise : float
        Standard deviation of a trial in units of a neuroid's.
    twins : int
        Seeds of each untrained net.
    """

    seed: int
    effect: bool = True
    tasks: Mapping[str, str] = field(default_factory=dict)
    architectures: Sequence[str] = ()
    n_stimuli: int = 118
    n_neuroids: int = 60
    repetitions: int = 10
    noise: float = 2.0
    twins: int = 3
    sites: Sequence[str] = SITES
    version: int = 1
    simulated: bool = True
    metrics: Sequence[str] = ("rsa-nnls", "rsa-nnls-published", "rsa", "pls", "ridge", "cka")

    def __post_init__(self) -> None:
        rng = np.random.default_rng([self.seed, 0])
        self.banks = {name: rng.normal(size=(self.n_stimuli, _WIDTH)) for name in ("low", "private", *CLUSTERS)}
        self.quality = dict(zip(self.architectures, np.linspace(1, 0.1, len(self.architectures)).tolist(), strict=True))

    def stimuli(self) -> xr.DataArray:
        """Return images whose first pixel is their number, uint8 (stimulus, y, x)."""
        rng = np.random.default_rng([self.seed, 1])
        images = rng.integers(256, size=(self.n_stimuli, 8, 8), dtype=np.uint8)
        images[:, 0, 0] = np.arange(self.n_stimuli)
        return make_stimuli(images, range(self.n_stimuli), simulated=1, seed=self.seed)

    def weights(self, site: str) -> Mapping[str, float]:
        """Return the weights of the clusters' banks at a site; with no effect all clusters have the same in all areas."""
        return WEIGHTS[site.partition(".")[0]] if self.effect else dict.fromkeys(CLUSTERS, 0.5)

    def target(self, site: str) -> xr.DataArray:
        """Return trials of a site's neurons (presentation, neuroid)."""
        rng = np.random.default_rng([self.seed, 2, self.sites.index(site)])
        drive = [(1.0, self.banks["low"]), *((w, self.banks[name]) for name, w in self.weights(site).items())]
        columns = np.concatenate([weight * bank for weight, bank in drive], axis=1)
        means = columns @ rng.normal(size=(columns.shape[1], self.n_neuroids))
        means = means / means.std(0)
        trials = np.repeat(means, self.repetitions, axis=0)
        trials = trials + self.noise * rng.normal(size=trials.shape)
        area, _, layer = site.partition(".")
        labels: dict[str, Any] = {
            "neuroid_id": [f"{site}-{number}" for number in range(self.n_neuroids)],
            "site": [site] * self.n_neuroids,
            "area": [area] * self.n_neuroids,
            "layer": [layer] * self.n_neuroids,
        }
        numbers = np.arange(self.n_stimuli)
        return make_responses(
            trials, np.repeat(numbers, self.repetitions), np.tile(np.arange(self.repetitions), len(numbers)), labels
        )

    def models(self) -> dict[str, PlantedModel]:
        """Return all models by identifier: tasks, their latent spaces, architectures and their untrained twins."""
        found = {}
        for number, (task, cluster) in enumerate(self.tasks.items()):
            rng = np.random.default_rng([self.seed, 3, number])
            own = self._own(rng, self.banks[cluster])
            path = self._path(rng, own)
            found[f"taskonomy/{task}"] = PlantedModel(path)
            found[f"taskonomy/{task}@latent"] = PlantedModel({"latent": own})
        everything = np.concatenate([self.banks[name] for name in ("2D", "Semantic", "3D")], axis=1)
        for number, name in enumerate(self.architectures):
            rng = np.random.default_rng([self.seed, 4, number])
            learned = self._own(rng, 2 * self.quality[name] * everything, noise=1.0)
            nothing = self._own(rng, np.zeros_like(everything), noise=1.0)
            found[name] = PlantedModel(self._path(rng, learned if self.effect else nothing))
            for seed in range(self.twins):
                draw = np.random.default_rng([self.seed, 5, number, seed])
                twin = self._path(draw, self._own(draw, np.zeros_like(everything), noise=1.0))
                variant = f"@{seed}" if seed else ""
                found[f"{name}-random{variant}"] = PlantedModel(twin)
        return found

    def _own(self, rng: np.random.Generator, bank: np.ndarray, noise: float = 0.6) -> np.ndarray:
        """Return features that mix a bank, and some of their own, (stimulus, feature)."""
        mixed = bank @ rng.normal(size=(bank.shape[1], 40)) / bank.shape[1] ** 0.5
        return np.asarray(mixed + noise * rng.normal(size=mixed.shape))

    def _path(self, rng: np.random.Generator, end: np.ndarray) -> dict[str, np.ndarray]:
        """Return layers that go from the low-level bank to the last one."""
        start = self._own(rng, self.banks["low"], noise=0.3)
        shares = np.linspace(0, 1, _LAYERS)
        return {f"layer{k}": (1 - share) * start + share * end for k, share in enumerate(shares)}
