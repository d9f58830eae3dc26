"""How well data agree with themselves: split halves of trials, for neuroids and for RDMs.

Splits are over repetitions, one shuffle a split shared by all stimuli and neuroids (Conwell et al. 2020, their code).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mousebench.linalg import CONSTANT, correlation_rdm, gram, pearson_columns, upper_triangle
from mousebench.threads import each

_TOGETHER = 10  # splits at a time, whose means are held


def spearman_brown(r: np.ndarray | float) -> np.ndarray:
    """Return 2 r / (1 + r), the reliability of all trials from that of half of them.

    Below r = -1/3 the formula runs away to minus infinity; it is cut at -1, so that no single split dominates a mean.
    """
    r = np.asarray(r, dtype=np.float64)
    floor = -1.0 / 3.0
    return np.asarray(2 * np.maximum(r, floor) / (1 + np.maximum(r, floor)))


def growth(half: float, quarter: float) -> float:
    """Return by how much twice the trials multiply r / (1 - r): by 2 in Spearman-Brown's formula, by up to 4 in matrices.

    The noise of a matrix of image pairs is made of products. Those of noise with signal fall as 1 over the number of trials,
    as Spearman and Brown have it; those of noise with noise fall as 1 over its square.

    Parameters
    ----------
    half, quarter : float
        The agreement of two halves of the trials, and of two quarters.
    """
    if not 0 < quarter < half < 1:
        return 2.0
    return float(np.clip(half / (1 - half) * (1 - quarter) / quarter, 2.0, 4.0))


def of_all_trials(half: float, growth: float) -> float:
    """Return the agreement of all trials with as many others from that of two halves; Spearman-Brown if growth is 2."""
    half = max(half, -1.0 / 3.0)
    return growth * half / (1 + (growth - 1) * half)


def half_masks(n_repetitions: int, n_splits: int, rng: np.random.Generator) -> np.ndarray:
    """Return bool (split, repetition): True where a repetition is in the first half."""
    if n_repetitions < 2:
        raise ValueError("at least two repetitions are needed to split them into halves")
    masks = np.zeros((n_splits, n_repetitions), dtype=bool)
    for mask in masks:
        mask[rng.permutation(n_repetitions)[: n_repetitions // 2]] = True
    return masks


def half_means(cube: np.ndarray, masks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the means of both halves of every split, float64 (split, stimulus, neuroid) each; see ``subset_means``."""
    first, second = subset_means(cube, masks, ~masks)
    return first, second


def subset_means(cube: np.ndarray, *subsets: np.ndarray) -> list[np.ndarray]:
    """Return the means of some of the trials.

    Parameters
    ----------
    cube : (stimulus, repetition, neuroid)
        NaN is a missing trial.
    *subsets : bool (split, repetition)
        Which repetitions count.

    Returns
    -------
    list of float64 (split, stimulus, neuroid)
        NaN where a subset has no trial of a stimulus.
    """
    there = ~np.isnan(cube)
    complete = bool(there.all())
    values = cube if complete else np.where(there, cube, 0)
    means = []
    for subset in subsets:
        weight = subset.astype(np.float64)
        total = np.einsum("pr,srn->psn", weight, values, optimize=True)
        if complete:
            means.append(total / weight.sum(1)[:, None, None])
            continue
        count = np.einsum("pr,srn->psn", weight, there.astype(np.float64), optimize=True)
        means.append(np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0))
    return means


def subset_agreement(
    cube: np.ndarray, first: np.ndarray, second: np.ndarray, agreement: Callable[[np.ndarray, np.ndarray], float]
) -> np.ndarray:
    """Return how the means of some trials go with those of others.

    Parameters
    ----------
    cube : (stimulus, repetition, neuroid)
    first, second : bool (split, repetition)
    agreement : callable
        Of two sets of means (stimulus, neuroid). A neuroid without a trial of some stimulus in one of them is left out.

    Returns
    -------
    float64 (split)
        NaN where no neuroid is left.
    """

    def one(means: tuple[np.ndarray, np.ndarray]) -> float:
        whole = ~np.isnan(means[0]).any(0) & ~np.isnan(means[1]).any(0)
        return agreement(means[0][:, whole], means[1][:, whole]) if whole.any() else np.nan

    found: list[float] = []
    for start in range(0, len(first), _TOGETHER):
        some = slice(start, start + _TOGETHER)
        found += each(one, zip(*subset_means(cube, first[some], second[some]), strict=True))
    return np.array(found)


def neuroid_reliability(
    cube: np.ndarray, rng: np.random.Generator, n_splits: int = 100, chunk: int = 128
) -> np.ndarray:
    """Return the Spearman-Brown corrected split-half reliability of every neuroid.

    Pearson r over stimuli between the means of two halves of the trials, corrected inside each split, averaged over
    splits (as the published code of Conwell et al. 2020).

    Parameters
    ----------
    cube : (stimulus, repetition, neuroid)
    rng : numpy Generator
    n_splits : int
    chunk : int
        Neuroids at a time; bounds the memory, does not change the numbers.

    Returns
    -------
    float64 (neuroid)
        NaN where a half does not vary in any split: such a neuroid has no reliability.
    """
    masks = half_masks(cube.shape[1], n_splits, rng)
    out = np.empty(cube.shape[2])
    for start in range(0, cube.shape[2], chunk):
        part = cube[:, :, start : start + chunk]
        r = _half_correlation_by_mask(part, masks) if np.isnan(part).any() else _half_correlation(part, masks)
        corrected = spearman_brown(r)
        valid = ~np.isnan(corrected)
        count = valid.sum(0)
        total = np.where(valid, corrected, 0).sum(0)
        out[start : start + chunk] = np.divide(total, count, out=np.full(count.shape, np.nan), where=count > 0)
    return out


def _half_correlation_by_mask(cube: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Return Pearson r of both halves' means, float64 (split, neuroid), where trials are missing."""
    first, second = half_means(cube, masks)
    return np.stack([pearson_columns(a, b) for a, b in zip(first, second, strict=True)])


def _half_correlation(cube: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Return Pearson r of both halves' means, float64 (split, neuroid), where no trial is missing.

    With trials centred over stimuli, sums need no centring: of a half's sum a and the sum t of all trials come
    aa, ab = at - aa and bb = tt - 2 at + aa, so that one matrix product and two sums do for a split.
    """
    n_stimuli, n_repetitions, n_neuroids = cube.shape
    trials = np.ascontiguousarray(cube.swapaxes(0, 1), dtype=np.float64)  # (repetition, stimulus, neuroid)
    energy = n_repetitions * (trials**2).sum((0, 1))
    trials -= trials.mean(1, keepdims=True)
    total = trials.sum(0)
    half = (masks.astype(np.float64) @ trials.reshape(n_repetitions, -1)).reshape(len(masks), n_stimuli, n_neuroids)
    at = np.einsum("psn,sn->pn", half, total)
    aa = np.einsum("psn,psn->pn", half, half)
    tt = (total**2).sum(0)
    bb = tt - 2 * at + aa
    varies = (aa > CONSTANT * energy) & (bb > CONSTANT * energy)
    scale = np.sqrt(np.where(varies, aa * bb, 1))
    return np.asarray(np.where(varies, (at - aa) / scale, np.nan))


def rdm_reliability(cube: np.ndarray, rng: np.random.Generator, n_splits: int = 20) -> np.ndarray:
    """Return the split-half correlation of the correlation RDM, half of the data against the other half.

    Pearson r over the upper triangles of the RDMs of two halves of the trials, not corrected (as the published code of Conwell et al. 2020).

    Returns
    -------
    float64 (split)
        NaN for a split in which a half has no RDM (a stimulus to which all neuroids answer alike). A neuroid without a
        trial of some stimulus in a half is left out of that split.
    """
    masks = half_masks(cube.shape[1], n_splits, rng)
    return subset_agreement(cube, masks, ~masks, rdm_agreement)


def rdm_agreement(first: np.ndarray, second: np.ndarray) -> float:
    """Return Pearson r of the correlation RDMs of two sets of means (stimulus, neuroid)."""
    a, b = (upper_triangle(correlation_rdm(*gram([means])))[:, None] for means in (first, second))
    return float(pearson_columns(a, b)[0])
