"""Joint PLS as scikit-learn computes it: NIPALS that stops early, without the neurons.

scikit-learn finds the weights of a component by a power iteration, which starts from the responses of one neuron and stops once
the weights change by less than ``tol`` in the square. Published scores were made with its default of 1e-6, where it has not
converged; to give those scores is to stop where it stops. All that the iteration sees of the neurons is Y Y' and the one it
starts from, so a step costs the same for eight and for eight thousand of them. `regression.pls2` is what it would converge to.

In the basis U of the training rows X = U S V', with the X weights V w and P what takes the components so far away, one step is
w <- S P U'YY'U P S w over its length, and the first w is S P U'y over its length, with y the first neuron that is not fitted.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mousebench.regression import FoldBasis, Responses

TOLERANCE = 1e-6  # both are scikit-learn's defaults
MAX_STEPS = 500
_CACHED = 2**18  # numbers of the matrices that go through the steps together: they stay in the processor's cache
_FITTED = (
    10 * np.finfo(np.float64).eps
)  # scikit-learn's bound, in the unit of the responses: below it a neuron is fitted


def nipals(
    basis: FoldBasis,
    responses: Sequence[Responses],
    n_components: int,
    tolerance: float = TOLERANCE,
    max_steps: int = MAX_STEPS,
) -> list[np.ndarray]:
    """Predict the test stimuli by joint PLS as scikit-learn's ``PLSRegression(n_components, scale=False)`` does.

    The order of the neurons matters, as it does there. What differs: no more components than ``basis.rank`` are used (there,
    components of rounding are fitted on, or the call is refused), and a neuron that is constant but for rounding starts no
    iteration.

    Parameters
    ----------
    basis : FoldBasis
    responses : sequence of Responses
        Sets of neurons, each fitted on its own: sites, animals, halves of trials. They go through the steps together.
    n_components : int
    tolerance : float
        ``tol`` of scikit-learn.
    max_steps : int
        ``max_iter`` of scikit-learn.

    Returns
    -------
    list of float64 (test stimulus, neuroid)
    """
    n_real = min(n_components, basis.rank)
    together = max(1, _CACHED // max(1, basis.rank) ** 2)
    out: list[np.ndarray] = []
    for begin in range(0, len(responses), together):
        some = responses[begin : begin + together]
        scores = _scores(basis, some, n_real, tolerance, max_steps)
        out += [one.predicted(basis, its) for one, its in zip(some, scores, strict=True)]
    return out


def _scores(
    basis: FoldBasis, responses: Sequence[Responses], n_real: int, tolerance: float, max_steps: int
) -> np.ndarray:
    """Return the orthonormal X scores (set, component, rank) in the basis U; 0 from where nothing is left to fit."""
    found = [one.within(basis) for one in responses]
    unfitted, floor = np.array([product for product, _ in found]), np.array([floor for _, floor in found])
    scores = np.zeros((len(responses), n_real, basis.rank))
    at = np.full(len(responses), -1)
    first = np.zeros((len(responses), len(basis.u)))  # what is left of the neurons that the iterations start from
    for component in range(n_real):
        for number in np.flatnonzero(np.abs(first).max(1) < _FITTED).tolist():
            at[number], first[number] = _next(responses[number].centred, basis.u @ scores[number].T, at[number])
        weight = _power(basis.s[:, None] * unfitted * basis.s, _times(first, basis.u) * basis.s, tolerance, max_steps)
        score = weight * basis.s
        left = np.trace(unfitted, axis1=1, axis2=2) > floor
        earlier = scores[:, :component]
        for _ in range(2):  # once would leave a small one askew
            score -= ((earlier @ score[:, :, None]).transpose(0, 2, 1) @ earlier)[:, 0]
            score = _unit(score)
        score[~left] = 0
        explained = (unfitted @ score[:, :, None])[:, :, 0]
        rest = explained - np.einsum("br,br->b", score, explained)[:, None] * score
        unfitted -= score[:, :, None] * explained[:, None, :]
        unfitted -= rest[:, :, None] * score[:, None, :]
        scores[:, component] = score
        fitted = _times(score, basis.u.T)
        first -= np.einsum("bn,bn->b", fitted, first)[:, None] * fitted
    return scores


def _next(centred: np.ndarray, fitted: np.ndarray, at: int) -> tuple[int, np.ndarray]:
    """Return the place of the first neuron after ``at`` that is not fitted, and what is left of it; 0 if all are."""
    for place in range(at + 1, centred.shape[1]):
        rest = centred[:, place] - fitted @ (fitted.T @ centred[:, place])
        if np.abs(rest).max() >= _FITTED:
            return place, np.asarray(rest)
    return centred.shape[1], np.zeros(len(centred))


def _power(product: np.ndarray, start: np.ndarray, tolerance: float, max_steps: int) -> np.ndarray:
    """Return what repeated products (set, rank, rank) make of the starts (set, rank) until they hardly turn; length 1, or 0."""
    weight = _unit(start)
    place, current, going = np.arange(len(weight)), weight.copy(), np.ones(len(weight), dtype=bool)
    for _ in range(max_steps - 1):
        new = _unit((product @ current[:, :, None])[:, :, 0])
        change = new - current
        current = new
        stop = going & (np.einsum("br,br->b", change, change) < tolerance)
        weight[place[stop]] = current[stop]
        going &= ~stop
        if not going.any():
            return weight
        if going.sum() < 0.75 * len(going):  # sets that have stopped stay in the product until a copy is worth while
            place, current, product = place[going], current[going], product[going]
            going = going[going]
    weight[place[going]] = current[going]
    return weight


def _times(vectors: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Return each of the vectors (set, ...) times a matrix, one by one: the bits do not depend on the other sets."""
    return np.asarray((vectors[:, None, :] @ matrix)[:, 0])


def _unit(vectors: np.ndarray) -> np.ndarray:
    """Return vectors (set, rank) of length 1; 0 stays 0."""
    length = np.sqrt(np.einsum("br,br->b", vectors, vectors))
    length[length == 0] = 1
    return np.asarray(vectors / length[:, None])
