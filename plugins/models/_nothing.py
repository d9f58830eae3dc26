"""Models that know nothing of the images: white noise, and no features at all."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

N_FEATURES = 1000


class Noise:
    """White noise: independent Gaussian features of every image.

    The generator is seeded by the seed and the image's content, so that an image has the same features in any order and
    batch, and the same image shown as two stimuli has them twice.

    Parameters
    ----------
    seed : int
    """

    layers: Sequence[str] = tuple(f"noise-{number}" for number in range(10))

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.fingerprint: Mapping[str, str] = {
            "model": "noise 1",
            "seed": str(seed),
            "features": f"{N_FEATURES} a layer, standard normal, seeded by the image's content",
        }

    def activations(self, images: np.ndarray, layers: Sequence[str]) -> dict[str, np.ndarray]:
        """Return float64 (image, feature)."""
        drawn = np.stack([self._features(image) for image in images], axis=1)
        return {layer: drawn[self.layers.index(layer)] for layer in layers}

    def _features(self, image: np.ndarray) -> np.ndarray:
        """Return float64 (layer, feature) of one image."""
        digest = hashlib.sha256(str(image.shape).encode() + image.tobytes()).digest()
        rng = np.random.default_rng([self.seed, *digest])
        return rng.standard_normal((len(self.layers), N_FEATURES))


class InterceptOnly:
    """The model that knows nothing: no layers, so that every prediction is a constant."""

    layers: Sequence[str] = ()
    intercept_only = True
    fingerprint: Mapping[str, str] = {"model": "intercept-only 1"}

    def activations(self, images: np.ndarray, layers: Sequence[str]) -> dict[str, np.ndarray]:
        """Return nothing."""
        return {}
