"""The feature banks of sim-ns: what may drive a site. Functions of any images, seen with the acuity of a mouse."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
from scipy import fft
from threadpoolctl import threadpool_limits

Features = Callable[[np.ndarray], np.ndarray]
Function = TypeVar("Function", bound=Callable[..., Any])

# products are small here: threads gain little, and where other programs run as well they wait for one another. It also
# makes the last bits independent of the number of cores.
one_thread: Callable[[Function], Function] = threadpool_limits.wrap(limits=1, user_api="blas")

ACUITY_SHAPE = (48, 61)  # about 0.5 cycles a degree, what a mouse resolves of a screen 120 degrees wide
_FLOOR = 1e-3  # of the full range of grey: keeps the features of a blank image finite
_N_ORIENTATIONS = 4
_PADDING = 12
_IMAGES_A_CHUNK = 8


def feature_banks() -> dict[str, Features]:
    """Return the feature banks by name, each uint8 (image, height, width[, 3]) -> float64 (image, feature)."""
    return {
        "luminance": luminance,
        "edges-fine": edges_fine,
        "edges-coarse": edges_coarse,
        "texture": texture,
        "global": global_statistics,
    }


def luminance(images: np.ndarray) -> np.ndarray:
    """Return the luminance of a coarse grid of blurred patches, float64 (image, feature)."""
    return _flat(_pooled(acuity(images), (8, 10)))


def edges_fine(images: np.ndarray) -> np.ndarray:
    """Return where and how fine edges are oriented, relative to their mean over the image, (image, feature)."""
    return _local_energy(images, wavelength=3.5, grid=(7, 9))


def edges_coarse(images: np.ndarray) -> np.ndarray:
    """Return where and how coarse edges are oriented, relative to their mean over the image, (image, feature)."""
    return _local_energy(images, wavelength=14.0, grid=(5, 6))


def texture(images: np.ndarray) -> np.ndarray:
    """Return products of Gabor energies of different orientation and scale over those of independent ones.

    What remains when the energies themselves are divided out: how structure goes together locally.

    Returns
    -------
    float64 (image, feature)
    """
    maps = np.concatenate([gabor_energy(images, 3.5), gabor_energy(images, 7.0)], axis=1)
    grid = (2, 3)
    mean = _pooled(maps, grid) + _FLOOR
    products = [_pooled(maps[:, a, None] * maps[:, a:], grid) for a in range(maps.shape[1])]
    a, b = np.triu_indices(maps.shape[1])
    return _flat(np.log((np.concatenate(products, axis=1) + _FLOOR**2) / (mean[:, a] * mean[:, b])))


def global_statistics(images: np.ndarray) -> np.ndarray:
    """Return statistics of the whole image: brightness, contrast, skewness, spectrum, orientations, (image, feature)."""
    seen = acuity(images)
    mean = seen.mean((1, 2))
    deviation = seen - mean[:, None, None]
    sd = seen.std((1, 2)) + _FLOOR
    skewness = (deviation**3).mean((1, 2)) / sd**3
    energy = np.stack([gabor_energy(images, wavelength).mean((2, 3)) for wavelength in (3.5, 7.0, 14.0, 28.0)], axis=1)
    energy = energy + _FLOOR
    spectrum = energy.mean(2) / sd[:, None]
    orientation = energy / energy.mean(2, keepdims=True)
    return np.column_stack([mean, np.log(sd), skewness, np.log(spectrum), _flat(np.log(orientation))])


def acuity(images: np.ndarray) -> np.ndarray:
    """Return images as a mouse resolves them.

    Parameters
    ----------
    images : uint8 (image, height, width) or (image, height, width, 3)

    Returns
    -------
    float64 (image, y, x)
        Grey, 0..1, ACUITY_SHAPE pixels, each the mean over its area.
    """
    seen = np.empty((len(images), *ACUITY_SHAPE))
    for start in range(0, len(images), _IMAGES_A_CHUNK):  # a set of full-size colour images is large in float64
        chunk = images[start : start + _IMAGES_A_CHUNK]
        grey = chunk.mean(-1) if chunk.ndim == 4 else chunk
        seen[start : start + _IMAGES_A_CHUNK] = _pooled(grey / 255, ACUITY_SHAPE)
    return seen


def gabor_energy(images: np.ndarray, wavelength: float) -> np.ndarray:
    """Return the amplitude of Gabor quadrature pairs.

    Parameters
    ----------
    images : uint8 (image, height, width[, 3])
    wavelength : float
        In pixels of ACUITY_SHAPE.

    Returns
    -------
    float64 (image, orientation, y, x)
    """
    seen = acuity(images)
    margin = ((0, 0), (_PADDING, _PADDING), (_PADDING, _PADDING))
    spectrum = fft.fft2(np.pad(seen, margin, mode="reflect"))
    inner = (..., slice(_PADDING, -_PADDING), slice(_PADDING, -_PADDING))
    maps = [np.abs(fft.ifft2(spectrum * band))[inner] for band in _gabor_bands(spectrum.shape[1:], wavelength)]
    return np.stack(maps, axis=1)


@lru_cache
def _gabor_bands(shape: tuple[int, int], wavelength: float) -> np.ndarray:
    """Return the transfer functions of one-sided Gabor filters an octave wide, float64 (orientation, y, x)."""
    fy, fx = fft.fftfreq(shape[0])[:, None], fft.fftfreq(shape[1])
    angles = np.pi * np.arange(_N_ORIENTATIONS) / _N_ORIENTATIONS
    width = 0.35 / wavelength
    return np.stack(
        [
            2
            * np.exp(
                -((fy - np.sin(angle) / wavelength) ** 2 + (fx - np.cos(angle) / wavelength) ** 2) / (2 * width**2)
            )
            for angle in angles
        ]
    )


def _local_energy(images: np.ndarray, wavelength: float, grid: tuple[int, int]) -> np.ndarray:
    """Return Gabor energy pooled on a grid over its mean over the image, (image, feature): free of contrast."""
    pooled = _pooled(gabor_energy(images, wavelength), grid)
    return _flat(np.log((pooled + _FLOOR) / (pooled.mean((1, 2, 3), keepdims=True) + _FLOOR)))


def _pooled(maps: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Return the means over the areas of a grid, (..., y, x) -> (..., *grid)."""
    # two large products: many small ones make the threads of the BLAS wait for one another
    rows = np.tensordot(maps, _areas(grid[1], maps.shape[-1]), axes=(-1, 1))
    return np.asarray(np.tensordot(rows, _areas(grid[0], maps.shape[-2]), axes=(-2, 1)).swapaxes(-1, -2))


@lru_cache
def _areas(n_out: int, n_in: int) -> np.ndarray:
    """Return the matrix (out, in) that averages n_in pixels over n_out equal lengths, with shares at the borders."""
    edges = np.linspace(0, n_in, n_out + 1)
    pixel = np.arange(n_in)
    overlap = np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel)
    return np.asarray(np.maximum(overlap, 0) * n_out / n_in)


def _flat(maps: np.ndarray) -> np.ndarray:
    return maps.reshape(len(maps), -1)


@dataclass(frozen=True)
class StandardBank:
    """A feature bank whose features have mean 0 and variance 1 over the scenes it was fixed on.

    Parameters
    ----------
    name : str
    mean, scale : float64 (feature)
    """

    name: str
    mean: np.ndarray
    scale: np.ndarray

    @classmethod
    @one_thread
    def fixed_on(cls, name: str, scenes: np.ndarray) -> StandardBank:
        """Return the bank standardised over scenes, uint8 (stimulus, y, x)."""
        features = feature_banks()[name](scenes)
        scale = features.std(0)
        return cls(name, features.mean(0), np.where(scale > 0, scale, 1.0))

    @one_thread
    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Return float64 (image, feature) of uint8 (image, height, width[, 3])."""
        return np.asarray((feature_banks()[self.name](images) - self.mean) / self.scale)
