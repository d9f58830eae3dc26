"""Centred kernel alignment of linear kernels, from Grams.

The unbiased estimate of HSIC (Song et al., 2012) leaves the diagonals of the Grams out. It is an inner product of the
Grams after U-centring (Szekely and Rizzo, 2014), which takes row means from each alone; so debiased CKA is the cosine of
two vectors over stimulus pairs, one for each Gram, and permuting stimuli permutes the entries of one.
"""

from __future__ import annotations

import numpy as np

_EPS = np.finfo(np.float64).eps
_CHUNK = 64  # permutations at a time


def u_centred(grams: np.ndarray) -> np.ndarray:
    """Return the U-centred Gram of each layer, with length 1.

    Parameters
    ----------
    grams : float64 (..., stimulus, stimulus_b)
        F F' of features that need not be centred; at least 4 stimuli.

    Returns
    -------
    float64 (..., pair)
        Upper triangles, row by row. The inner product of two is their debiased CKA. NaN where all stimuli are alike.
    """
    n = grams.shape[-1]
    if n < 4:
        raise ValueError(f"unbiased HSIC needs at least 4 stimuli, not {n}")
    first, second = np.triu_indices(n, 1)
    mean = grams.mean(-1)  # of no effect but on rounding: centring twice is centring once
    kernel = grams - mean[..., :, None] - mean[..., None, :] + mean.mean(-1)[..., None, None]
    kernel[..., np.arange(n), np.arange(n)] = 0
    row = kernel.sum(-1)
    total = row.sum(-1)[..., None]
    pairs = kernel[..., first, second] - (row[..., first] + row[..., second]) / (n - 2) + total / ((n - 1) * (n - 2))
    length = np.linalg.norm(pairs, axis=-1, keepdims=True)
    floor = n * n * _EPS * np.abs(grams).max((-2, -1))[..., None]
    return np.asarray(pairs / np.where(length > floor, length, np.nan))


def debiased_cka(gram_x: np.ndarray, gram_y: np.ndarray) -> float:
    """Return the debiased linear CKA of two Grams (stimulus, stimulus_b): about 0 for unrelated features, however many."""
    return float(u_centred(gram_x) @ u_centred(gram_y))


def debiased_cka_permuted(x: np.ndarray, y: np.ndarray, permutations: np.ndarray) -> np.ndarray:
    """Return debiased CKA with the stimuli of y relabelled.

    Parameters
    ----------
    x : float64 (layer, pair)
        From `u_centred`.
    y : float64 (pair)
        From `u_centred`.
    permutations : int (permutation, stimulus)
        The Gram of y becomes ``gram[permutation][:, permutation]``.

    Returns
    -------
    float64 (layer, permutation)
    """
    n = permutations.shape[1]
    first, second = np.triu_indices(n, 1)
    square = np.zeros((n, n))
    square[first, second] = square[second, first] = y
    out = np.empty((len(x), len(permutations)))
    for start in range(0, len(permutations), _CHUNK):
        chunk = permutations[start : start + _CHUNK]
        out[:, start : start + len(chunk)] = x @ square[chunk[:, first], chunk[:, second]].T
    return out


def biased_cka(gram_x: np.ndarray, gram_y: np.ndarray) -> float:
    """Return the linear CKA of Kornblith et al. (2019), for reference: well above 0 for unrelated wide features."""
    centred = []
    for gram in (gram_x, gram_y):
        mean = gram.mean(0)
        centred.append(gram - mean - mean[:, None] + mean.mean())
    x, y = centred
    return float((x * y).sum() / np.sqrt((x * x).sum() * (y * y).sum()))
