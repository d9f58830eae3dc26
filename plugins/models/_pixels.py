"""The pixels model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image


class Pixels:
    """Grey levels of the image, squashed to a square.

    Parameters
    ----------
    size : int
        Width and height in pixels. 64 over the Allen screen is about the acuity of a mouse.
    """

    layers: Sequence[str] = ("pixels",)

    def __init__(self, size: int) -> None:
        self.size = size
        self.fingerprint: Mapping[str, str] = {
            "model": "pixels 1",
            "preprocess": f"grey, {size} x {size} without crop, box filter",
        }

    def activations(self, images: np.ndarray, layers: Sequence[str]) -> dict[str, np.ndarray]:
        """Return float64 (image, feature) grey levels in 0..255."""
        shape = (self.size, self.size)
        grey = [
            Image.fromarray(np.ascontiguousarray(image)).convert("L").resize(shape, Image.Resampling.BOX)
            for image in images
        ]
        features = np.stack([np.asarray(image, dtype=np.float64).ravel() for image in grey])
        return dict.fromkeys(layers, features)
