"""A V1-like bank of Gabor filters, in degrees of the mouse's visual field.

Scenes of 1174 x 918 pixels fill the Allen screen, 120 x 95 degrees, at the same number of pixels a degree both ways (they
are warped for the flat screen), so that a square of 224 x 224 is finer along y than along x. Filters are round in
degrees. Their frequencies are those of the Allen static gratings, .02 to .32 cycles a degree (de Vries et al. 2020): all
below the acuity of a mouse, about .5 (Prusky, West and Douglas 2000), and below what the square holds, .93.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from threadpoolctl import threadpool_limits

from mousebench_plugins.models._pixels import grey_levels

SIZE = 224
STEP = 8  # pixels between the places where filters look: 4.3 x 3.4 degrees
SCREEN = (120.0, 95.0)  # degrees, x and y
FREQUENCIES = (0.02, 0.04, 0.08, 0.16, 0.32)  # cycles a degree
N_ORIENTATIONS = 8
PERIODS = 3 * np.sqrt(np.log(2) / 2) / np.pi  # s.d. of the envelope in periods, .56: a bandwidth of one octave
SATURATION = 0.1  # contrast at which normalisation sets in
GREY = 127.5

LAYERS = ("simple", "complex", "normalised")


class Gabor:
    """Energy model of primary visual cortex: simple cells, complex cells, divisive normalisation.

    ``simple``: half-rectified filters of four phases; ``complex``: the root of the energy of a quadrature pair (Adelson
    and Bergen 1985), 1 for a grating of full contrast that fits; ``normalised``: complex over the root of the summed
    energy of all filters at the same place (Heeger 1992).
    """

    layers: Sequence[str] = LAYERS

    def __init__(self) -> None:
        self.fingerprint: Mapping[str, str] = {
            "model": "gabor 1",
            "preprocess": f"grey, {SIZE} x {SIZE} without crop, bilinear",
            "filters": f"{FREQUENCIES} cycles a degree x {N_ORIENTATIONS} orientations, every {STEP} pixels",
        }

    def activations(self, images: np.ndarray, layers: Sequence[str]) -> dict[str, np.ndarray]:
        """Return float32 (image, feature); the numbers of an image do not depend on the others."""
        bank = filter_bank()
        # one thread and one image at a time: the same bits in any batch on any number of cores
        with threadpool_limits(1, user_api="blas"):
            cells = [cell_responses(responses(image, bank)) for image in grey_levels(images, SIZE)]
        return {layer: np.stack([cell[layer] for cell in cells]) for layer in layers}


@dataclass(frozen=True)
class Bank:
    """Filters as products of a part along x and a part along y.

    Attributes
    ----------
    along_x, along_y : complex128 (filter, place, pixel)
        Waves by frequency, then orientation (the direction in which the grating's luminance changes, from the x axis to
        the y axis, 0 to 180 degrees); then the envelope of each frequency, without a wave.
    leak : complex128 (frequency, orientation, y, x)
        What a wave answers to uniform light, over what its envelope does.
    """

    along_x: np.ndarray
    along_y: np.ndarray
    leak: np.ndarray


def filter_bank() -> Bank:
    """Return the filters."""
    waves = [
        (frequency * np.cos(angle), frequency * np.sin(angle), PERIODS / frequency)
        for frequency in FREQUENCIES
        for angle in np.arange(N_ORIENTATIONS) * np.pi / N_ORIENTATIONS
    ]
    waves += [(0.0, 0.0, PERIODS / frequency) for frequency in FREQUENCIES]
    along_x = np.stack([_profile(fx, width, SCREEN[0]) for fx, _, width in waves])
    along_y = np.stack([_profile(fy, width, SCREEN[1]) for _, fy, width in waves])
    answers, mean = _by_frequency(along_y.sum(2)[:, :, None] * along_x.sum(2)[:, None, :])
    return Bank(along_x, along_y, answers / mean)


def _profile(frequency: float, width: float, extent: float) -> np.ndarray:
    """Return complex128 (place, pixel): a Gabor function along one axis of the screen.

    Beyond its border the image goes on as in a mirror; an edge that is not there has no energy.
    """
    pixel = extent / SIZE
    place = (np.arange(STEP // 2, SIZE, STEP) - 0.5) * pixel
    at = (np.arange(-SIZE, 2 * SIZE) * pixel)[None] - place[:, None]
    envelope = np.exp(-((at / width) ** 2) / 2)
    kernel = envelope / envelope.sum(1, keepdims=True) * np.exp(2j * np.pi * frequency * at)
    left, centre, right = np.split(kernel, 3, axis=1)
    return np.asarray(centre + left[:, ::-1] + right[:, ::-1])


def _by_frequency(answers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Split (filter, y, x) into waves (frequency, orientation, y, x) and envelopes (frequency, 1, y, x)."""
    n = len(FREQUENCIES)
    return answers[:-n].reshape(n, N_ORIENTATIONS, *answers.shape[1:]), answers[-n:, None]


def responses(image: np.ndarray, bank: Bank) -> np.ndarray:
    """Return what the quadrature pairs answer.

    Parameters
    ----------
    image : (y, x)
        Grey levels, 0..255.
    bank : Bank

    Returns
    -------
    complex128 (frequency, orientation, y, x)
        Even filter + i odd filter; 0 for any uniform image.
    """
    n_filters, n_places, _ = bank.along_x.shape
    contrast = image / GREY - 1
    rows = (contrast @ bank.along_x.reshape(-1, SIZE).T).reshape(SIZE, n_filters, n_places)
    waves, mean = _by_frequency(bank.along_y @ rows.swapaxes(0, 1))
    return np.asarray(2 * (waves - bank.leak * mean))


def cell_responses(pairs: np.ndarray) -> dict[str, np.ndarray]:
    """Return layer to float32 (feature) of one image from its quadrature pairs, complex (frequency, orientation, y, x)."""
    phases = np.stack([pairs.real, pairs.imag, -pairs.real, -pairs.imag])
    energy = pairs.real**2 + pairs.imag**2
    pool = energy.sum((0, 1))
    cells = {
        "simple": np.maximum(phases, 0),
        "complex": np.sqrt(energy),
        "normalised": np.sqrt(energy / (SATURATION**2 + pool)),
    }
    return {layer: values.astype(np.float32).ravel() for layer, values in cells.items()}
