"""How much a score would change with other images and other neurons: the resamples that intervals are made of.

A resample is a number of times that each image, or each neuroid, is in it. The resamples follow from the seed and from
the data alone, so that two models are judged on the same ones and their difference can be taken draw by draw.

What was fitted stays fitted: the draws reweight held-out images and neurons. A score changes with images and with neurons
nearly independently; the two changes are added. (Resampling both at once would count their interaction three times, Schuett
et al. 2023, eLife 12, e82566, the sum of the two twice; ``influence`` takes one of the two off.)
"""

from __future__ import annotations

import zlib

import numpy as np
import xarray as xr

N_DRAWS = 1000
LEVEL = 0.95
_IMAGE_STREAM = 3
_NEUROID_STREAM = 4
_HALVINGS = 20


def image_counts(n_stimuli: int, seed: int, n_draws: int = N_DRAWS) -> np.ndarray:
    """Return how often each stimulus is in each resample, float64 (bootstrap, stimulus); the same for all sites."""
    rng = np.random.default_rng([seed, _IMAGE_STREAM])
    return rng.multinomial(n_stimuli, np.full(n_stimuli, 1 / n_stimuli), size=n_draws).astype(np.float64)


def neuroid_counts(target: xr.DataArray, seed: int, n_draws: int = N_DRAWS) -> np.ndarray:
    """Return how often each neuroid of a site is in each resample, float64 (bootstrap, neuroid).

    Where animals are known and there are several, animals are drawn first, then neuroids within each animal drawn:
    neurons of one animal are more alike than those of two.

    Parameters
    ----------
    target : DataArray
        Responses (presentation, neuroid), with ``neuroid_id`` and perhaps ``animal_id``.
    seed : int
    n_draws : int
    """
    ids = target["neuroid_id"].values.astype(str)
    rng = np.random.default_rng([seed, _NEUROID_STREAM, zlib.crc32("\n".join(ids.tolist()).encode())])
    of_animal = animals(target)
    n_animals = int(of_animal.max()) + 1
    times = rng.multinomial(n_animals, np.full(n_animals, 1 / n_animals), size=n_draws)
    counts = np.zeros((n_draws, len(ids)))
    for animal in range(n_animals):
        members = np.flatnonzero(of_animal == animal)
        share = np.full(len(members), 1 / len(members))
        counts[:, members] = rng.multinomial(times[:, animal] * len(members), share)
    return counts


def n_animals(target: xr.DataArray) -> int | None:
    """Return the number of animals of a site; None where animals are not known."""
    return int(animals(target).max()) + 1 if "animal_id" in target.coords else None


def animals(target: xr.DataArray) -> np.ndarray:
    """Return the number of the animal of each neuroid, int (neuroid); all 0 where animals are not known."""
    if "animal_id" not in target.coords:
        return np.zeros(target.sizes["neuroid"], dtype=int)
    return np.asarray(np.unique(target["animal_id"].values.astype(str), return_inverse=True)[1])


def independent_scale(draws: np.ndarray, image_scale: float) -> float:
    """Return the factor on the changes of a median over neuroids with images, beside its changes with neuroids.

    What an image does to one neuroid alone, which is mostly noise of trials, has moved the values of the neuroids already, and is
    part of how these spread: resampled neuroids count it, but for the share of one neuroid that a resample of few lacks. What it
    does to all neuroids is what the medians of two random halves of them have in common, draw by draw.

    Parameters
    ----------
    draws : float64 (bootstrap, neuroid)
        The values on resampled images.
    image_scale : float
        Factor on what images do, as an image trains as it tests.
    """
    variance = float(np.median(draws, axis=1).var(ddof=1))
    if not variance > 0:
        return image_scale
    shared = min(_shared_variance(draws) / variance, 1.0)
    return float(image_scale * np.sqrt(shared + (1 - shared) / draws.shape[1]))


def _shared_variance(draws: np.ndarray) -> float:
    """Return the covariance over draws of the medians of two random halves of the neuroids, mean over halvings, at least 0."""
    n = draws.shape[1]
    if n < 2:
        return 0.0
    rng = np.random.default_rng(0)  # the same for all models, so that their scales differ by what they are
    found = []
    for _ in range(_HALVINGS):
        order = rng.permutation(n)
        halves = [np.median(draws[:, some], axis=1) for some in (order[: n // 2], order[n // 2 :])]
        found.append(np.cov(*halves)[0, 1])
    return max(float(np.mean(found)), 0.0)


def two_factor(
    estimate: float, images: np.ndarray, neuroids: np.ndarray | None = None, image_scale: float = 1.0
) -> np.ndarray:
    """Return draws about an estimate, the changes with images and with neuroids added.

    The draws of each factor are taken about their own mean: a resample holds fewer different images or neurons than the
    data, which lowers the score of all draws alike.

    Parameters
    ----------
    estimate : float
    images, neuroids : float64 (bootstrap)
        The score on resampled images and on resampled neuroids.
    image_scale : float
        Factor on the changes with images.
    """
    draws = estimate + image_scale * _about_mean(images)
    return np.asarray(draws if neuroids is None else draws + _about_mean(neuroids))


def about(estimate: float, changes: np.ndarray) -> np.ndarray:
    """Return draws (bootstrap) about a correlation, from changes of it to first order; none leaves -1 .. 1."""
    room = 1 - estimate**2
    if not room > 0:  # nothing moves a perfect correlation
        return np.full(changes.shape, estimate)
    return np.asarray(np.tanh(np.arctanh(estimate) + changes / room))


def _about_mean(draws: np.ndarray) -> np.ndarray:
    there = np.isfinite(draws)
    return np.asarray(draws - draws[there].mean()) if there.any() else draws


def weighted_median(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return the median of resampled values.

    Parameters
    ----------
    values : float64 (neuroid)
        NaN is left out.
    counts : float64 (bootstrap, neuroid)
        How often each is in a resample.

    Returns
    -------
    float64 (bootstrap)
        As ``numpy.median`` of the values repeated; NaN for a resample without values.
    """
    there = np.isfinite(values)
    order = np.argsort(values[there])
    ordered = values[there][order]
    reached = np.cumsum(counts[:, there][:, order], axis=1)
    total = reached[:, -1] if reached.shape[1] else np.zeros(len(counts))
    out = np.full(len(counts), np.nan)
    for draw in np.flatnonzero(total > 0):
        # ranks from 1: the middle one, or the mean of the two in the middle
        middle = np.searchsorted(reached[draw], [(total[draw] + 1) // 2, total[draw] // 2 + 1])
        out[draw] = ordered[middle].mean()
    return out


def interval(draws: np.ndarray, level: float = LEVEL) -> tuple[float, float]:
    """Return the percentile interval of draws; NaN where fewer than half of them have a number."""
    there = draws[np.isfinite(draws)]
    if there.size == 0 or there.size < draws.size / 2:
        return float("nan"), float("nan")
    low, high = np.quantile(there, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def two_sided_p(difference: float, draws: np.ndarray) -> float:
    """Return how often draws about a difference stray as far from it as it is from 0: a two-sided p.

    Parameters
    ----------
    difference : float
    draws : float64 (bootstrap)
        Centred on the difference.
    """
    there = draws[np.isfinite(draws)]
    if there.size == 0 or not np.isfinite(difference):
        return float("nan")
    far = np.abs(there - there.mean()) >= abs(difference)
    return float((1 + far.sum()) / (1 + there.size))
