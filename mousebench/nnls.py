"""Non-negative least squares of RDMs on RDMs, cross-validated over folds of images.

A pair of images belongs to the block of their two folds. The Gram of a training set is a sum of blocks, so the pairs
are visited once for a partition, whatever the number of folds, sites and permutations that share it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.linalg import LinAlgError, cholesky, solve_triangular
from scipy.optimize import nnls
from scipy.sparse import csr_array

_JITTER = 1e-10  # share of the mean diagonal, added where layers are linearly dependent
_FLAT = 1e-12  # a gradient below this share of the largest covariance is rounding
_MAX_ACTIVE = 64  # layers that a target may have in lockstep
_MANY = 5000  # layers x targets from which lockstep is faster than one target at a time
_ROUNDS = 10  # exchanges of layers before a target goes another way
_CHUNK = 1024  # targets at a time


def kfold(n_stimuli: int, n_folds: int, random_state: int) -> np.ndarray:
    """Return the fold (stimulus) of each stimulus.

    The partition of scikit-learn's ``KFold(n_folds, shuffle=True, random_state=random_state)``.
    """
    order = np.arange(n_stimuli)
    np.random.RandomState(random_state).shuffle(order)
    fold = np.empty(n_stimuli, dtype=int)
    for number, part in enumerate(np.array_split(order, n_folds)):
        fold[part] = number
    return fold


class Partition:
    """One partition of the images into folds, and the blocks of image pairs that follow from it.

    Parameters
    ----------
    fold : int (stimulus)

    Attributes
    ----------
    order : int (pair)
        Pairs (upper triangle, row by row) sorted by block.
    blocks : list of (fold, fold, slice)
        The rows of the sorted pairs of every block.
    train_blocks : bool (fold, block)
        The blocks of pairs with neither image in a fold: what that fold is trained on.
    """

    def __init__(self, fold: np.ndarray) -> None:
        self.fold = fold
        self.n_folds = int(fold.max()) + 1
        first, second = np.triu_indices(len(fold), 1)
        low, high = np.minimum(fold[first], fold[second]), np.maximum(fold[first], fold[second])
        code = low * self.n_folds + high
        self.order = np.argsort(code, kind="stable")
        codes, starts = np.unique(code[self.order], return_index=True)
        rows = [slice(start, end) for start, end in pairwise([*starts.tolist(), len(code)])]
        self.blocks = [(*divmod(one, self.n_folds), part) for one, part in zip(codes.tolist(), rows, strict=True)]
        folds = np.array([[a, b] for a, b, _ in self.blocks])
        self.train_blocks = (folds[None] != np.arange(self.n_folds)[:, None, None]).all(2)

    def within(self, fold: int) -> int | None:
        """Return the block of pairs with both images in the fold; None if the fold has a single image."""
        return next((number for number, (a, b, _) in enumerate(self.blocks) if a == b == fold), None)


@dataclass(frozen=True)
class Factor:
    """What the fits of one fold share: the centred Gram of the training pairs."""

    fold: int
    train: np.ndarray
    n: float
    mean_x: np.ndarray
    gram: np.ndarray


class Regressors:
    """Model RDMs under one partition; fits and scores any number of target RDMs.

    Parameters
    ----------
    pairs : float64 (pair, layer)
        Standardised columns; without any, every prediction is the mean of its training pairs.
    partition : Partition
    """

    def __init__(self, pairs: np.ndarray, partition: Partition) -> None:
        self.partition = partition
        # a column of ones makes the counts and sums part of the products
        self._design = np.column_stack([pairs, np.ones(len(pairs))])[partition.order]
        self.pairs = self._design[:, :-1]
        products = np.stack([x.T @ x for x in self._parts(self._design)])
        self.n, self.sum_x, self.sum_xx = products[:, -1, -1], products[:, :-1, -1], products[:, :-1, :-1]
        self.factors = list(self._factors(products))

    def _factors(self, products: np.ndarray) -> Iterator[Factor]:
        for fold, train in enumerate(self.partition.train_blocks):
            total = _sum_blocks(train, products)
            n, mean_x = total[-1, -1], total[:-1, -1] / total[-1, -1]
            centred = total[:-1, :-1] - n * np.outer(mean_x, mean_x)
            yield Factor(fold, train, float(n), mean_x, definite(centred))

    def moments(self, y: np.ndarray) -> Moments:
        """Reduce target RDMs to their sums over blocks.

        Parameters
        ----------
        y : float64 (pair, target)
            Sorted by block: ``upper_triangle(rdm)[partition.order]``.
        """
        blocks = zip(self._parts(self._design), self._parts(y), strict=True)
        products = np.stack([x.T @ part for x, part in blocks])
        sum_yy = np.stack([np.einsum("pt,pt->t", part, part) for part in self._parts(y)])
        return Moments(sum_y=products[:, -1], sum_yy=sum_yy, sum_xy=products[:, :-1])

    def _parts(self, rows: np.ndarray) -> list[np.ndarray]:
        return [rows[block] for _, _, block in self.partition.blocks]

    def fit(self, factor: Factor, moments: Moments, near: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Fit all targets on the training pairs of one fold; ``near`` as in `solve_nnls`.

        Returns
        -------
        weight : float64 (layer, target)
            Non-negative.
        intercept : float64 (target)
            Free, may be negative.
        """
        mean_y = _sum_blocks(factor.train, moments.sum_y) / factor.n
        cross = _sum_blocks(factor.train, moments.sum_xy) - factor.n * np.outer(factor.mean_x, mean_y)
        weight = solve_nnls(factor.gram, cross, near)
        return weight, mean_y - factor.mean_x @ weight

    def score_within(self, moments: Moments, near: np.ndarray | None = None) -> WithinScores:
        """Score predictions on the pairs with both images in the held-out fold; ``near`` as in `solve_nnls`.

        Returns
        -------
        WithinScores
        """
        n_layers, n_targets = self.pairs.shape[1], moments.sum_y.shape[1]
        r, sse, sst, weights = [], np.zeros(n_targets), np.zeros(n_targets), np.zeros((n_layers, n_targets))
        fold_weight = []
        for factor in self.factors:
            block = self.partition.within(factor.fold)
            weight, intercept = self.fit(factor, moments, near)
            weights = weights + weight
            fold_weight.append(weight[:, 0])
            if block is None:
                continue
            n, sum_y, sum_yy = self.n[block], moments.sum_y[block], moments.sum_yy[block]
            sum_p = self.sum_x[block] @ weight
            sum_pp = (weight * (self.sum_xx[block] @ weight)).sum(0)
            sum_py = (weight * moments.sum_xy[block]).sum(0)
            r.append(_pearson(n, sum_p, sum_pp, sum_py, sum_y, sum_yy))
            mean_y = moments.sum_y[factor.train].sum(0) / factor.n
            sse = sse + sum_yy - 2 * (sum_py + intercept * sum_y) + sum_pp + 2 * intercept * sum_p + n * intercept**2
            sst = sst + sum_yy - 2 * mean_y * sum_y + n * mean_y**2
        return WithinScores(np.stack(r), 1 - sse / sst, weights / len(self.factors), np.stack(fold_weight))

    def fits(self, moments: Moments, *, intercept_only: bool = False) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return weight (layer, target) and intercept (target) of every fold.

        Parameters
        ----------
        moments : Moments
        intercept_only : bool
            All weights 0: the model that knows nothing.
        """
        if not intercept_only:
            return [self.fit(factor, moments) for factor in self.factors]
        nothing = np.zeros((self.pairs.shape[1], moments.sum_y.shape[1]))
        return [(nothing, moments.sum_y[factor.train].sum(0) / factor.n) for factor in self.factors]

    def predict(self, fits: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
        """Predict every pair from the fits of the folds that hold one of its images.

        Returns
        -------
        total : float64 (pair, target)
            Sum of the predictions, pairs sorted by block.
        count : float64 (pair)
            1 for a pair inside a fold, 2 for one across two folds.
        """
        total = np.zeros((len(self.pairs), len(fits[0][1])))
        count = np.zeros(len(self.pairs))
        for factor, (weight, intercept) in zip(self.factors, fits, strict=True):
            for (_, _, rows), train in zip(self.partition.blocks, factor.train, strict=True):
                if not train:
                    total[rows] += self.pairs[rows] @ weight + intercept
                    count[rows] += 1
        return total, count


@dataclass(frozen=True)
class Moments:
    """Sums of target RDMs over the pairs of each block.

    Attributes
    ----------
    sum_y, sum_yy : float64 (block, target)
    sum_xy : float64 (block, layer, target)
    """

    sum_y: np.ndarray
    sum_yy: np.ndarray
    sum_xy: np.ndarray


@dataclass(frozen=True)
class WithinScores:
    """Leak-free scores of one partition.

    Attributes
    ----------
    r : float64 (fold, target)
        Pearson r over the pairs of the held-out fold; 0 where the prediction is constant.
    cv_r2 : float64 (target)
        1 - SSE / SST over all folds, SST about the mean of the training pairs.
    weight : float64 (layer, target)
        Mean over folds.
    fold_weight : float64 (fold, layer)
        Those of the first target.
    """

    r: np.ndarray
    cv_r2: np.ndarray
    weight: np.ndarray
    fold_weight: np.ndarray


def _sum_blocks(train: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return the sum of (block, ...) over the blocks of a training set, bool (block), as one product."""
    total = train.astype(np.float64) @ values.reshape(len(values), -1)
    return np.asarray(total.reshape(values.shape[1:]))


def solve_nnls(gram: np.ndarray, cross: np.ndarray, near: np.ndarray | None = None) -> np.ndarray:
    """Minimise |y - x w| over w >= 0 for many y.

    Many targets are solved in lockstep (`_lockstep`). Where they are few, and for those that keep many layers,
    ``scipy.optimize.nnls`` on the Cholesky factor is faster. The two differ by rounding.

    Parameters
    ----------
    gram : float64 (layer, layer)
        x'x, positive definite.
    cross : float64 (layer, target)
        x'y.
    near : bool (layer, target), optional
        Which layers have a weight in a problem much like this one: where they are few, that is a faster way (`_pivot`).

    Returns
    -------
    float64 (layer, target)
    """
    if not len(gram):
        return np.zeros(cross.shape)
    if len(gram) == 1:
        return np.asarray(np.maximum(cross / gram, 0))
    weight = np.zeros(cross.shape)
    rest = np.flatnonzero((cross > 0).any(0))  # without one positive correlation all weights are 0
    if near is not None:
        weight[:, rest], done = _pivot(gram, cross[:, rest], near[:, rest])
        rest = rest[~done]
    if rest.size * len(gram) >= _MANY:
        parts = [rest[start : start + _CHUNK] for start in range(0, rest.size, _CHUNK)]
        solved = []
        for part in parts:
            weight[:, part], done = _lockstep(gram, cross[:, part])
            solved.append(done)
        rest = rest[~np.concatenate(solved)]
    if rest.size:
        upper = cholesky(gram, check_finite=False)
        rotated = solve_triangular(upper, cross[:, rest], trans="T", check_finite=False)
        for target, column in zip(rest, rotated.T, strict=True):
            weight[:, target] = nnls(upper, column)[0]
    return weight


def _pivot(gram: np.ndarray, cross: np.ndarray, near: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Exchange all layers that are on the wrong side together, from a guess on (Portugal, Judice and Vicente 1994).

    Returns
    -------
    weight : float64 (layer, target)
    solved : bool (target)
        False for a target that still has one on the wrong side after ``_ROUNDS``; its weights are 0.
    """
    goal, used = cross.T, near.T.copy()
    flat = _FLAT * np.abs(goal).max(1, initial=0)
    weight, live = np.zeros(goal.shape), np.arange(len(goal))
    for _ in range(_ROUNDS):
        has = used[live]
        # a layer without a weight is an equation of its own, 1 w = 0
        systems = np.where(has[:, :, None] & has[:, None, :], gram, np.eye(len(gram)))
        found = np.linalg.solve(systems, np.where(has, goal[live], 0)[:, :, None])[:, :, 0]
        wrong = np.where(has, found <= 0, goal[live] - found @ gram > flat[live, None])
        right = ~wrong.any(1)
        weight[live[right]] = found[right]
        used[live] ^= wrong
        live = live[~right]
        if not live.size:
            break
    return weight.T, ~np.isin(np.arange(len(goal)), live)


def _lockstep(gram: np.ndarray, cross: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Take all targets through the active-set method of Lawson and Hanson (1974) together.

    A round gives each unfinished target the layer with the steepest gradient and solves for the layers that it then
    has, a stack of small systems; layers whose weights would turn negative leave. The weak targets of a null keep two to
    twenty layers however many there are, so the work per target hardly grows with the number of layers.

    Parameters
    ----------
    gram, cross
        As in `solve_nnls`.

    Returns
    -------
    weight : float64 (layer, target)
    solved : bool (target)
        False for a target that wants more than ``_MAX_ACTIVE`` layers, or goes round in circles by rounding.
    """
    n_layers, n_targets = cross.shape
    n_slots = min(n_layers, _MAX_ACTIVE)
    goal = np.ascontiguousarray(cross.T)
    flat = _FLAT * np.abs(goal).max(1)
    # each target has slots; a used one holds a layer and its weight
    layer = np.zeros((n_targets, n_slots), dtype=np.intp)
    used = np.zeros((n_targets, n_slots), dtype=bool)
    value = np.zeros((n_targets, n_slots))
    solved = np.zeros(n_targets, dtype=bool)
    live = np.arange(n_targets)
    width = 0  # slots in use by any target
    for _ in range(3 * n_slots):
        gradient = goal[live] - _sparse(layer[live, :width], value[live, :width], used[live, :width], n_layers) @ gram
        target, slot = used[live].nonzero()
        gradient[target, layer[live[target], slot]] = -np.inf
        steepest = gradient.argmax(1)
        goes_on = gradient.max(1) > flat[live]
        solved[live[~goes_on]] = True
        goes_on &= ~used[live].all(1)
        live, steepest = live[goes_on], steepest[goes_on]
        if not live.size:
            break
        slot = used[live].argmin(1)
        layer[live, slot], used[live, slot], value[live, slot] = steepest, True, 0
        width = max(width, int(slot.max()) + 1)
        moving = live
        while moving.size:
            has, old = used[moving, :width], value[moving, :width]
            new = _solve_subsets(gram, goal[moving], layer[moving, :width], has)
            negative = has & (new <= 0)
            # go towards the solution until the first weight is 0; its layer leaves, and the others are solved again
            share = np.where(negative, 0.0, np.inf)
            np.divide(old, old - new, out=share, where=negative & (old > 0))
            step = np.minimum(share.min(1, keepdims=True), 1)
            leaves = negative & (share <= step)
            value[moving, :width] = np.where(leaves, 0, np.where(step < 1, old + step * (new - old), new))
            used[moving, :width] = has & ~leaves
            moving = moving[leaves.any(1)]
    return _sparse(layer, value, used, n_layers).toarray().T, solved


def _sparse(layer: np.ndarray, value: np.ndarray, used: np.ndarray, n_layers: int) -> csr_array:
    """Return weights (target, layer) from slots (target, slot)."""
    starts = np.concatenate([[0], used.sum(1).cumsum()])
    return csr_array((value[used], layer[used], starts), shape=(len(layer), n_layers))


def _solve_subsets(gram: np.ndarray, goal: np.ndarray, layer: np.ndarray, used: np.ndarray) -> np.ndarray:
    """Return the least-squares weights (target, slot) of the layers that each target has; 0 in unused slots."""
    both = used[:, :, None] & used[:, None, :]
    # an unused slot is an equation of its own, 1 w = 0
    systems = np.where(both, gram[layer[:, :, None], layer[:, None, :]], np.eye(layer.shape[1]))
    right = np.where(used, np.take_along_axis(goal, layer, 1), 0)
    return np.asarray(np.linalg.solve(systems, right[:, :, None])[:, :, 0])


def definite(gram: np.ndarray) -> np.ndarray:
    """Return a Gram that has an inverse; dependent columns get a little ridge, which leaves the fit as it is."""
    if not len(gram):
        return gram
    scale = np.trace(gram) / len(gram)
    try:
        if np.diag(cholesky(gram, check_finite=False)).min() ** 2 > _JITTER * scale:
            return gram
    except LinAlgError:
        pass
    return np.asarray(gram + _JITTER * scale * np.eye(len(gram)))


def _pearson(
    n: float, sum_p: np.ndarray, sum_pp: np.ndarray, sum_py: np.ndarray, sum_y: np.ndarray, sum_yy: np.ndarray
) -> np.ndarray:
    """Return Pearson r from sums; 0 where the prediction or the target is constant."""
    var_p, var_y = sum_pp - sum_p**2 / n, sum_yy - sum_y**2 / n
    varies = (var_p > 1e-12 * sum_pp) & (var_y > 1e-12 * sum_yy)
    scale = np.sqrt(np.where(varies, var_p, 1.0)) * np.sqrt(np.where(varies, var_y, 1.0))
    return np.where(varies, np.clip((sum_py - sum_p * sum_y / n) / scale, -1, 1), 0.0)
