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
_MOMENTS = 2**15  # draws x columns of which moments are held at a time


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
    """Return Pearson r of each column of a with the same column of b.

    Parameters
    ----------
    a, b : float64 (..., observation, column)
        Leading dimensions are broadcast: all numbers of components against one set of targets, say.

    Returns
    -------
    float64 (..., column)
        NaN where one of the two does not vary.
    """
    # a column that is constant differs from its mean by no more than the rounding of a sum
    floor_a, floor_b = (x.shape[-2] * np.square(x.shape[-2] * _EPS * np.abs(x).max(-2)) for x in (a, b))
    a = a - a.mean(-2, keepdims=True)
    b = b - b.mean(-2, keepdims=True)
    aa, bb = np.einsum("...on,...on->...n", a, a), np.einsum("...on,...on->...n", b, b)
    scale = np.sqrt(aa) * np.sqrt(bb)
    varies = (aa > floor_a) & (bb > floor_b)
    return np.asarray(
        np.divide(np.einsum("...on,...on->...n", a, b), scale, out=np.full(scale.shape, np.nan), where=varies)
    )


def weighted_pearson(a: np.ndarray, b: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return Pearson r of each column of a with the same column of b, observations weighted, for many sets of weights.

    With the counts of a bootstrap as weights it is Pearson r on the resampled rows.

    Parameters
    ----------
    a, b : float64 (observation, column)
    weights : float64 (draw, observation)
        0 or more.

    Returns
    -------
    float64 (draw, column)
        NaN where one of the two does not vary over the observations with weight.
    """
    total = weights.sum(1, keepdims=True)
    share = weights / np.where(total > 0, total, 1)
    out = np.empty((len(weights), a.shape[1]))
    # few enough columns that the moments of a chunk stay in the processor's cache
    step = max(1, _MOMENTS // max(1, len(weights)))
    for start in range(0, a.shape[1], step):
        columns = slice(start, start + step)
        x, y = _standardised(a[:, columns]), _standardised(b[:, columns])
        mean_x, mean_y = share @ x, share @ y
        var_x, var_y = share @ (x * x), share @ (y * y)
        # what is left of a second moment after the mean is taken off is rounding below this share of it
        floor_x, floor_y = var_x * (4 * len(x) * _EPS), var_y * (4 * len(x) * _EPS)
        var_x -= mean_x * mean_x
        var_y -= mean_y * mean_y
        varies = (var_x > floor_x) & (var_y > floor_y)
        mean_x *= mean_y
        covariance = share @ (x * y)
        covariance -= mean_x
        var_x *= var_y
        np.sqrt(var_x, out=var_x, where=varies)
        part = out[:, columns]
        part.fill(np.nan)
        np.divide(covariance, var_x, out=part, where=varies)
    return out


def _standardised(values: np.ndarray) -> np.ndarray:
    """Return columns of mean 0 and length 1; exactly 0 where a column is constant."""
    centred = values - values.mean(0)
    centred[:, np.abs(centred).max(0) <= len(values) * _EPS * np.abs(values).max(0)] = 0
    length = np.sqrt(np.einsum("on,on->n", centred, centred))
    return np.asarray(centred / np.where(length > 0, length, 1))
