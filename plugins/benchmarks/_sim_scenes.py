"""The scenes of sim-ns: dead leaves, occluding shapes whose radii follow a power law, with spectra of natural scenes."""

from __future__ import annotations

import zlib

import numpy as np
from scipy import fft, ndimage

N_SCENES = 118
SCENE_SHAPE = (192, 246)  # the Allen scenes, 918 x 1174, at about a fifth


def make_scenes(seed: int, n_scenes: int = N_SCENES) -> np.ndarray:
    """Return naturalistic scenes.

    Dead leaves with texture and shading inside the leaves and light over the whole; leaf size, contrast, texture and
    orientation differ from scene to scene.

    Parameters
    ----------
    seed : int
    n_scenes : int

    Returns
    -------
    uint8 (stimulus, y, x)
    """
    rng = np.random.default_rng([seed, zlib.crc32(b"scenes")])
    textures = _noise_fields(rng, 16, exponent=1.0)
    warps = _noise_fields(rng, 16, exponent=2.0)
    return np.stack([_scene(rng, textures, warps) for _ in range(n_scenes)])


def _noise_fields(rng: np.random.Generator, n: int, exponent: float) -> np.ndarray:
    """Return float64 (field, y, x) of unit variance whose amplitude spectrum falls as f^-exponent."""
    height, width = SCENE_SHAPE
    frequency = np.hypot(fft.fftfreq(height)[:, None], fft.rfftfreq(width))
    frequency[0, 0] = np.inf
    shape = (n, *frequency.shape)
    spectrum = (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)) / frequency**exponent
    fields = fft.irfft2(spectrum, s=SCENE_SHAPE)
    return np.asarray(fields / fields.std((1, 2), keepdims=True))


def _scene(rng: np.random.Generator, textures: np.ndarray, warps: np.ndarray) -> np.ndarray:
    """Return one scene, uint8 (y, x)."""
    leaf, centre, radius = _leaves(rng)
    first, second = rng.choice(len(warps), 2, replace=False)
    leaf = _warped(leaf, rng.uniform(0, 14) * warps[[first, second]])
    n = len(radius)
    y, x = np.indices(SCENE_SHAPE)
    slope = rng.uniform(0.2, 0.6) * rng.standard_normal((2, n)) / radius
    field = rng.choice(len(textures), 2, replace=False)
    offset = rng.integers(0, SCENE_SHAPE)
    texture = np.roll(textures[field], offset, axis=(1, 2))
    roughness = np.exp(rng.normal(-0.8, 0.5) + 0.6 * rng.standard_normal(n))
    image = rng.standard_normal(n)[leaf] + roughness[leaf] * texture[0]
    image += slope[0, leaf] * (y - centre[0, leaf]) + slope[1, leaf] * (x - centre[1, leaf])
    return _lit(rng, image)


def _leaves(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Drop leaves on a ground, each hiding what lies below it.

    Returns
    -------
    leaf : int (y, x)
        The leaf on top, 0 = the ground.
    centre : float64 (2, leaf)
    radius : float64 (leaf)
    """
    height, width = SCENE_SHAPE
    smallest, largest = np.exp(rng.uniform(np.log(1.6), np.log(9))), rng.uniform(40, 110)
    mean_area = 2 * np.pi * np.log(largest / smallest) * smallest**2
    n = int(np.clip(rng.uniform(1, 3) * 1.44 * height * width / mean_area, 20, 900))
    # the inverse of the distribution function of a density r^-3 between smallest and largest
    radius = (smallest**-2 - rng.random(n) * (smallest**-2 - largest**-2)) ** -0.5
    centre = rng.uniform(-0.1, 1.1, (2, n)) * np.array([[height], [width]])
    angle = rng.uniform(0, np.pi) + rng.choice([0.25, 0.6, 3.0]) * rng.standard_normal(n)
    stretch = np.exp(rng.uniform(0.3, 2.2) * rng.random(n) / 2)
    angular = rng.random(n) < 0.25
    leaf = np.zeros(SCENE_SHAPE, dtype=np.int64)
    for k in range(n):
        _drop(leaf, k + 1, centre[:, k], radius[k], stretch[k], angle[k], bool(angular[k]))
    ground = np.array([[height / 2], [width / 2]])
    return leaf, np.hstack([ground, centre]), np.hstack([height, radius])


def _drop(
    leaf: np.ndarray, label: int, centre: np.ndarray, radius: float, stretch: float, angle: float, angular: bool
) -> None:
    """Write the label where an ellipse or a rectangle covers the map."""
    reach = radius * stretch * (np.sqrt(2) if angular else 1)
    (top, left), (bottom, right) = (
        np.maximum(centre - reach, 0).astype(int),
        np.maximum(centre + reach + 2, 0).astype(int),
    )
    window = leaf[top:bottom, left:right]
    y = np.arange(top, top + window.shape[0])[:, None] - centre[0]
    x = np.arange(left, left + window.shape[1]) - centre[1]
    along = (np.cos(angle) * x + np.sin(angle) * y) / (radius * stretch)
    across = (np.cos(angle) * y - np.sin(angle) * x) * stretch / radius
    inside = np.maximum(np.abs(along), np.abs(across)) < 1 if angular else along**2 + across**2 < 1
    window[inside] = label


def _warped(leaf: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Return the map with its outlines bent by a shift field (2, y, x) in pixels."""
    y, x = np.rint(np.indices(SCENE_SHAPE) + shift).astype(int)
    return np.asarray(leaf[np.clip(y, 0, SCENE_SHAPE[0] - 1), np.clip(x, 0, SCENE_SHAPE[1] - 1)])


def _lit(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Return the scene under a gradient of light, blurred by the optics, in 256 grey levels."""
    y, x = np.indices(SCENE_SHAPE) / np.array(SCENE_SHAPE)[:, None, None] - 0.5
    angle = rng.uniform(0, 2 * np.pi)
    image = image + rng.uniform(0.4, 2.8) * (np.cos(angle) * y + np.sin(angle) * x)
    image = ndimage.gaussian_filter(image, rng.uniform(0.3, 0.6))
    image = (image - image.mean()) / image.std()
    contrast, brightness = np.exp(rng.normal(0.2, 0.3)), rng.normal(-0.2, 0.35)
    return np.asarray(np.rint(255 / (1 + np.exp(-contrast * image - brightness))), dtype=np.uint8)
