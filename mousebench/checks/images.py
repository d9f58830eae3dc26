"""The images that models are checked with, and what comes of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from mousebench import representations
from mousebench.assemblies import make_stimuli
from mousebench.representations import Layers

N_IMAGES = 8
_SHAPE = (96, 128)  # not square, so that height and width cannot be mistaken for one another
_COARSE = 8  # pixels: images have coarse structure as well as fine


def make_images() -> xr.DataArray:
    """Return test images, uint8 (stimulus, y, x, channel): coloured blotches with noise, each with its own contrast."""
    rng = np.random.default_rng(0)
    height, width = _SHAPE
    blotches = rng.uniform(-1, 1, (N_IMAGES, height // _COARSE, width // _COARSE, 3))
    blotches = blotches.repeat(_COARSE, axis=1).repeat(_COARSE, axis=2)
    contrast = np.linspace(0.4, 1.0, N_IMAGES)[:, None, None, None]
    values = 128 + 127 * contrast * (0.7 * blotches + 0.3 * rng.uniform(-1, 1, blotches.shape))
    return make_stimuli(values.astype(np.uint8), [f"image-{number}" for number in range(N_IMAGES)])


def layers_of(model: Any, images: xr.DataArray) -> Layers:
    """Return the layers of a model for some images, computed on the CPU and not cached."""
    return representations.get(model, images, name="check", key=None, device="cpu")
