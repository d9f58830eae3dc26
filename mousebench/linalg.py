"""Plain functions on arrays: Grams and RDMs, exact and without a feature map in memory.

A layer's features F (image, feature) enter only through G = F F' and s = F 1. With D features,
C = G - s s'/D is D times their covariance over features, and the correlation RDM is 1 - C_ij / sqrt(C_ii C_jj).
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

# a row whose variance is below this share of its mean square is constant: float32 features carry rounding of 1e-14
CONSTANT = 1e-12
_EPS = np.finfo(np.float64).eps


@np.errstate(invalid="ignore", over="ignore")  # features that are not finite are told by their Gram
def gram(chunks: Iterable[np.ndarray]) -> tuple[np.ndarray, np.ndarray, int]:
    """Reduce features that arrive in chunks.

    Parameters
    ----------
    chunks : iterable of (image, feature)
        Any partition of the features, in any order; those in float64 are read where they are.

    Returns
    -------
    gram : float64 (image, image)
    feature_sum : float64 (image)
    n_features : int
    """
    total, row_sum, width = None, None, 0
    buffer = np.empty((0, 0))  # one for all chunks of a shape: fresh memory for each would cost as much as the product
    for chunk in chunks:
        exact = chunk
        if chunk.dtype != np.float64:
            if buffer.shape != chunk.shape:
                buffer = np.empty(chunk.shape)
            np.copyto(buffer, chunk)
            exact = buffer
        product = exact @ exact.T  # numpy sees x x' and computes one triangle of it
        total = product if total is None else total + product
        row_sum = exact.sum(1) if row_sum is None else row_sum + exact.sum(1)
        width += chunk.shape[1]
    if total is None or row_sum is None:
        raise ValueError("no features to reduce")
    return total, row_sum, width


def correlation_rdm(gram: np.ndarray, feature_sum: np.ndarray, n_features: int) -> np.ndarray:
    """Return the correlation RDM, 1 - Pearson r over features.

    Parameters
    ----------
    gram : float64 (stimulus, stimulus_b)
    feature_sum : float64 (stimulus)
    n_features : int

    Returns
    -------
    float64 (stimulus, stimulus_b)
        Symmetric with a zero diagonal; NaN in the rows of a stimulus whose features do not vary.
    """
    covariance = gram - np.outer(feature_sum, feature_sum) / n_features
    variance = np.diag(covariance)
    varies = variance > CONSTANT * np.diag(gram)
    scale = np.sqrt(np.where(varies, variance, np.nan))
    # rounding can take r beyond 1 where hardly anything varies
    rdm = 1 - np.clip(covariance / scale[:, None] / scale[None, :], -1, 1)
    rdm = (rdm + rdm.T) / 2
    rdm[np.diag_indices_from(rdm)] = np.where(varies, 0.0, np.nan)
    return np.asarray(rdm)


def upper_triangle(rdm: np.ndarray) -> np.ndarray:
    """Return the pairs (stimulus < stimulus_b) of an RDM, row by row."""
    return np.asarray(rdm[np.triu_indices(len(rdm), 1)])


def pearson_columns(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return Pearson r of each column of a with the same column of b; NaN where one does not vary."""
    # a column that is constant differs from its mean by no more than the rounding of a sum
    floor_a, floor_b = (len(x) * np.square(len(x) * _EPS * np.abs(x).max(0)) for x in (a, b))
    a = a - a.mean(0)
    b = b - b.mean(0)
    aa, bb = (a * a).sum(0), (b * b).sum(0)
    scale = np.sqrt(aa) * np.sqrt(bb)
    varies = (aa > floor_a) & (bb > floor_b)
    return np.asarray(np.divide((a * b).sum(0), scale, out=np.full(scale.shape, np.nan), where=varies))
