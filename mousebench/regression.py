"""Linear maps from a layer to neurons: PLS and ridge, all neurons of a fold at once, exact.

A layer enters through its Gram alone: its principal-component scores hold all that PLS and ridge can see of it. What the
neurons share, one singular value decomposition of the training rows, is made once for a fold (`FoldBasis`). No
function here sees the responses to the test stimuli, so none can leak them.

With n training stimuli, X the centred training rows and X = U S V', a fitted vector is U c, and the same map takes the
test rows to X_test V S^-1 c. The methods differ in how they find the coefficients c of each neuron.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.linalg import eigh

_RANK = 1e-13  # a direction that holds a smaller share of the whole is rounding
_EXHAUSTED = 1e-13  # a neuron of which a smaller share is left unfitted is fitted
_EPS = np.finfo(np.float64).eps
_CHUNK = 128  # neurons at a time in PLS1: their scores (128 x 25 x 100 float64) stay in the processor's cache
_RIDGE_CHUNK = 512


def sample_basis(gram: np.ndarray) -> np.ndarray:
    """Rotate the features of a layer to at most n - 1 columns, losing nothing that PLS or ridge can use.

    Principal-component scores of all features, not scaled. The rotation needs no mean or scale of its own to be
    applied to new rows, so using all stimuli for it leaks nothing; centring happens in each fold.

    Parameters
    ----------
    gram : float64 (stimulus, stimulus_b)
        F F' of the features F (stimulus, feature).

    Returns
    -------
    float64 (stimulus, component)
        Z, largest component first: Z Z' is the Gram of the centred features. No components for a layer that answers
        alike to all stimuli.
    """
    mean = gram.mean(0)
    centred = gram - mean - mean[:, None] + mean.mean()
    value, vector = np.linalg.eigh((centred + centred.T) / 2)
    # the rounding in a Gram is a share of the Gram before centring
    keep = np.flatnonzero(value > _RANK * np.trace(gram))[::-1]
    return np.asarray(vector[:, keep] * np.sqrt(value[keep]))


class FoldBasis:
    """What all neurons share in one training fold.

    Parameters
    ----------
    train : float64 (train stimulus, component)
        Rows of `sample_basis`, or any features.
    test : float64 (test stimulus, component)
        Any other rows of the same layer.

    Attributes
    ----------
    u : float64 (train stimulus, rank)
        Orthonormal and centred: the left singular vectors of the training rows about their mean.
    s : float64 (rank)
        Singular values, descending.
    to_test : float64 (rank, test stimulus)
        Takes the coefficients c of a fitted vector U c to its predictions: c' to_test.
    """

    def __init__(self, train: np.ndarray, test: np.ndarray) -> None:
        mean = train.mean(0)
        u, s, vt = np.linalg.svd(train - mean, full_matrices=False)
        keep = s > _RANK * np.linalg.norm(train)
        self.u, self.s = np.ascontiguousarray(u[:, keep]), s[keep]
        self.to_test = (vt[keep] / self.s[:, None]) @ (test - mean).T

    @cached_property
    def unreached(self) -> np.ndarray:
        """Orthonormal (train stimulus, n - 1 - rank): the centred directions in which the training rows do not vary."""
        reached = np.column_stack([np.ones(len(self.u)), self.u])
        return np.linalg.qr(reached, mode="complete")[0][:, self.rank + 1 :]

    @property
    def rank(self) -> int:
        """Dimensions of the training rows: no method can use more components than that."""
        return len(self.s)


@dataclass(frozen=True)
class Responses:
    """What a joint fit sees of the responses in training: the same whatever the layer, so it is made once for a fold.

    Attributes
    ----------
    mean : float64 (neuroid)
    centred : float64 (train stimulus, neuroid)
        Exactly 0 for a neuron that is constant in training.
    gram : float64 (train stimulus, train stimulus)
        Y Y' of the centred responses, whose size does not depend on the number of neurons.
    """

    mean: np.ndarray
    centred: np.ndarray
    gram: np.ndarray

    @classmethod
    def of(cls, y: np.ndarray) -> Responses:
        """Make it of the responses (train stimulus, neuroid)."""
        mean, centred = _centre(y)
        return cls(mean, centred, centred @ centred.T)

    def within(self, basis: FoldBasis) -> tuple[np.ndarray, float]:
        """Return U' Y Y' U (rank, rank), and the trace below which there is rounding alone."""
        if basis.rank == len(self.gram) - 1:  # U spans all that is centred: nothing is lost in the Gram
            product = basis.u.T @ self.gram @ basis.u
            product = (product + product.T) / 2
        else:
            inside = basis.u.T @ self.centred
            product = inside @ inside.T
        return product, float(len(self.gram) * _EPS * np.trace(product))

    def predicted(self, basis: FoldBasis, scores: np.ndarray) -> np.ndarray:
        """Return what orthonormal X scores (component, rank), given in the basis U, predict, (test stimulus, neuroid)."""
        return np.asarray((scores @ basis.to_test).T @ ((scores @ basis.u.T) @ self.centred) + self.mean)


def pls1(basis: FoldBasis, y: np.ndarray, n_components: int) -> np.ndarray:
    """Predict the test stimuli by one PLS1 for each neuron.

    Parameters
    ----------
    basis : FoldBasis
    y : float64 (train stimulus, neuroid)
        Responses to the training stimuli. A neuron with a NaN gets NaN.
    n_components : int
        ``min(n_components, basis.rank)`` are used.

    Returns
    -------
    float64 (test stimulus, neuroid)
        A neuron that is constant in training is predicted to be so.
    """
    out = np.empty((basis.to_test.shape[1], y.shape[1]))
    for neurons, mean, scores, loadings in _pls1_scores(basis, y, n_components):
        fitted = np.einsum("nc,ncr->nr", loadings, scores)
        out[:, neurons] = (fitted @ basis.to_test).T + mean
    return out


def pls1_curve(basis: FoldBasis, y: np.ndarray, n_components: int) -> np.ndarray:
    """Predict the test stimuli by PLS1 with every number of components up to the one asked for.

    Parameters
    ----------
    basis, y, n_components
        As in `pls1`.

    Returns
    -------
    float64 (component, test stimulus, neuroid)
        Entry a is PLS1 with a + 1 components. From ``basis.rank`` components on the curve stays at its last value.
    """
    n_test = basis.to_test.shape[1]
    out = np.empty((n_components, n_test, y.shape[1]))
    for neurons, mean, scores, loadings in _pls1_scores(basis, y, n_components):
        n_real = loadings.shape[1]
        steps = (scores.reshape(len(mean) * n_real, basis.rank) @ basis.to_test).reshape(len(mean), n_real, n_test)
        steps *= loadings[:, :, None]
        level = np.repeat(mean[None], n_test, axis=0)
        for component in range(n_components):
            if component < n_real:
                level = level + steps[:, component].T
            out[component, :, neurons] = level
    return out


def _pls1_scores(
    basis: FoldBasis, y: np.ndarray, n_components: int
) -> Iterator[tuple[slice, np.ndarray, np.ndarray, np.ndarray]]:
    """Yield neurons, mean (neuroid), X scores (neuroid, component, rank) and Y loadings (neuroid, component).

    The scores are orthonormal and given in the basis U, where X X' is diagonal, so that a component costs no product
    with X. Each neuron's new score is made orthogonal to all its earlier ones: the recurrence of conjugate gradients,
    which needs the last alone, is the same in exact arithmetic and wrong by orders of magnitude in floating point.
    """
    n_real = min(n_components, basis.rank)
    variance = basis.s**2
    for start in range(0, y.shape[1], _CHUNK):
        neurons = slice(start, min(start + _CHUNK, y.shape[1]))
        mean, centred = _centre(y[:, neurons])
        residual = np.ascontiguousarray(centred.T) @ basis.u
        floor = _EXHAUSTED * np.linalg.norm(residual, axis=1)
        scores = np.zeros((len(mean), n_real, basis.rank))
        loadings = np.zeros((len(mean), n_real))
        for component in range(n_real):
            score = residual * variance
            earlier = scores[:, :component]
            score -= ((earlier @ score[:, :, None]).transpose(0, 2, 1) @ earlier)[:, 0]
            length = np.linalg.norm(score, axis=1)
            # a neuron that is fitted stops: what is left of it is rounding, and so would its next score be
            stop = (np.linalg.norm(residual, axis=1) <= floor) | (length == 0)
            scores[:, component] = score / np.where(stop, np.inf, length)[:, None]
            loadings[:, component] = (scores[:, component] * residual).sum(1)
            residual -= loadings[:, component, None] * scores[:, component]
        yield neurons, mean, scores, loadings


def pls2(basis: FoldBasis, y: np.ndarray, n_components: int) -> np.ndarray:
    """Predict the test stimuli by one PLS2 for all neurons together.

    Each component's X weights are the first eigenvector of X'Y Y'X, which is what the power iteration of NIPALS
    converges to. It is found directly, on matrices whose size does not depend on the number of neurons, so the order
    of the neurons does not matter. scikit-learn stops its iteration once the weights change by less than ``tol``, 1e-6 in the
    square, and starts it from one of the neurons: its predictions are some 1e-2 away from what it would converge to,
    and depend on the order of the neurons. With tol=1e-26 it agrees to rounding.

    Parameters
    ----------
    basis : FoldBasis
    y : float64 (train stimulus, neuroid)
        Finite: every neuron takes part in every prediction.
    n_components : int
        ``min(n_components, basis.rank, rank of y)`` are used.

    Returns
    -------
    float64 (test stimulus, neuroid)
    """
    train = Responses.of(y)
    unfitted, floor = train.within(basis)
    scores = np.empty((0, basis.rank))
    for _ in range(min(n_components, basis.rank)):
        if np.trace(unfitted) <= floor:
            break
        # both sides of Y Y' lack what the components so far explain, so X, S in the basis U, need not
        product = basis.s[:, None] * unfitted * basis.s
        weight = eigh(product, subset_by_index=[basis.rank - 1] * 2, check_finite=False)[1][:, 0]
        score = basis.s * weight
        for _ in range(2):  # once would leave a small one askew
            score -= scores.T @ (scores @ score)
            score /= np.linalg.norm(score)
        explained = unfitted @ score
        unfitted = unfitted - np.outer(score, explained)
        unfitted -= np.outer(explained - (score @ explained) * score, score)
        scores = np.vstack([scores, score])
    return train.predicted(basis, scores)


@dataclass(frozen=True)
class RidgeFit:
    """Ridge regressions of all neurons of a fold, each with its own penalty.

    Attributes
    ----------
    prediction : float64 (test stimulus, neuroid)
    chosen : int (neuroid)
        The index of the penalty with the least leave-one-out error.
    sse : float64 (alpha, neuroid)
        Sum of the squared leave-one-out residuals of the training stimuli.
    """

    prediction: np.ndarray
    chosen: np.ndarray
    sse: np.ndarray


def ridge(basis: FoldBasis, y: np.ndarray, alphas: np.ndarray) -> RidgeFit:
    """Predict the test stimuli by ridge with intercept, the penalty of each neuron chosen by leave-one-out.

    Parameters
    ----------
    basis : FoldBasis
    y : float64 (train stimulus, neuroid)
        Responses to the training stimuli. A neuron with a NaN gets NaN.
    alphas : float64 (alpha)
        Penalties > 0 on the squared weights of the features; the intercept is free. The first of equals is chosen.

    Returns
    -------
    RidgeFit
    """
    n_test, n_neuroids = basis.to_test.shape[1], y.shape[1]
    prediction, sse = np.empty((n_test, n_neuroids)), np.empty((len(alphas), n_neuroids))
    keep = _kept(basis, alphas)
    for start in range(0, n_neuroids, _RIDGE_CHUNK):
        neurons = slice(start, start + _RIDGE_CHUNK)
        mean, centred = _centre(y[:, neurons])
        coefficients = basis.u.T @ centred
        for number, residuals in enumerate(_loo_residuals(basis, centred, coefficients, alphas)):
            sse[number, neurons] = np.einsum("sn,sn->n", residuals, residuals)
        best = sse[:, neurons].argmin(0)
        prediction[:, neurons] = basis.to_test.T @ (keep[best].T * coefficients) + mean
    return RidgeFit(prediction, sse.argmin(0), sse)


def ridge_loo_residuals(basis: FoldBasis, y: np.ndarray, alpha: float) -> np.ndarray:
    """Return what ridge with intercept, fitted without a training stimulus, leaves of the response to it.

    Parameters
    ----------
    basis : FoldBasis
    y : float64 (train stimulus, neuroid)
    alpha : float
        As in `ridge`.

    Returns
    -------
    float64 (train stimulus, neuroid)
        Response minus prediction.
    """
    _, centred = _centre(y)
    return next(_loo_residuals(basis, centred, basis.u.T @ centred, np.array([alpha])))


def _kept(basis: FoldBasis, alphas: np.ndarray) -> np.ndarray:
    """Return the share (alpha, rank) of each direction that ridge keeps."""
    variance = basis.s**2
    return np.asarray(variance / (variance + np.asarray(alphas, dtype=np.float64)[:, None]))


def _loo_residuals(
    basis: FoldBasis, centred: np.ndarray, coefficients: np.ndarray, alphas: np.ndarray
) -> Iterator[np.ndarray]:
    """Yield the leave-one-out residuals (train stimulus, neuroid) for each penalty.

    Residual over 1 - leverage, where the hat matrix includes the intercept: H = U diag(keep) U' + 1 1'/n. I - H is
    summed from what is not kept, never as a difference from 1, so that it is as exact for small penalties; that
    includes the directions that X does not reach (none if the rank is n - 1), lost whatever the penalty.
    """
    squares = basis.u**2
    always_lost = (basis.unreached**2).sum(1)
    outside = basis.unreached @ (basis.unreached.T @ centred)
    for alpha in alphas:
        lost = alpha / (basis.s**2 + alpha)
        residuals = basis.u @ (lost[:, None] * coefficients)
        residuals += outside
        residuals /= (always_lost + squares @ lost)[:, None]
        yield residuals


def _centre(y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean of each column and the rest, exactly 0 where a column is constant."""
    mean = y.mean(0)
    centred = y - mean
    constant = np.maximum(centred.max(0), -centred.min(0)) <= len(y) * _EPS * np.abs(mean)
    centred[:, constant] = 0
    return mean, centred
