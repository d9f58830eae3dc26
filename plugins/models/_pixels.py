"""The pixels model, and the grey levels that other controls start from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image


def grey_levels(images: np.ndarray, size: int) -> np.ndarray:
    """Return images as grey squares, squashed without crop by the bilinear filter of the nets' own preprocessing.

    Parameters
    ----------
    images : uint8 (image, height, width, 3)
    size : int

    Returns
    -------
    uint8 (image, y, x)
    """
    shape = (size, size)
    squares = [
        Image.fromarray(np.ascontiguousarray(image)).convert("L").resize(shape, Image.Resampling.BILINEAR)
        for image in images
    ]
    return np.stack([np.asarray(square) for square in squares])


class Pixels:
    """Grey levels of the image, squashed to a square.

    Parameters
    ----------
    size : int
        Width and height in pixels.
    """

    layers: Sequence[str] = ("pixels",)

    def __init__(self, size: int) -> None:
        self.size = size
        self.fingerprint: Mapping[str, str] = {
            "model": "pixels 2",
            "preprocess": f"grey, {size} x {size} without crop, bilinear",
        }

    def activations(self, images: np.ndarray, layers: Sequence[str]) -> dict[str, np.ndarray]:
        """Return uint8 (image, feature) grey levels."""
        return dict.fromkeys(layers, grey_levels(images, self.size).reshape(len(images), -1))
