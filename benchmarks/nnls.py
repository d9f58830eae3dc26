"""1,000 random 6-fold NNLS fits x 21 sites x 50 layers, against scikit-learn's positive LinearRegression.

    python benchmarks/nnls.py

scikit-learn is timed on some splits and extrapolated (its time is proportional to their number); weights are asserted equal.
Then the null, a thousand unrelated targets for one fold, by the number of layers, against scipy.optimize.nnls on the same
Cholesky factor, a target at a time, in processor time.
"""

from __future__ import annotations

import time

import numpy as np
from _timing import best_of, machine
from scipy.linalg import cholesky, solve_triangular
from scipy.optimize import nnls
from sklearn.linear_model import LinearRegression
from threadpoolctl import threadpool_limits

from mousebench.nnls import Partition, Regressors, kfold, solve_nnls

N_STIMULI, N_LAYERS, N_SITES, N_SPLITS = 118, 50, 21, 1000
N_PAIRS = N_STIMULI * (N_STIMULI - 1) // 2
OURS, PEER = 100, 2  # splits that are timed
N_NULL, PEER_NULL = 1001, 60


def main() -> None:
    """Time both forms on the same splits, for two kinds of data."""
    print(machine())
    rng = np.random.default_rng(0)
    for name, layers, sites in (("as on real RDMs", *_drifting(rng)), ("dense", *_dense(rng))):
        _compare(name, layers, sites)
    print(f"null: {N_NULL} unrelated targets, one fold, one thread; scipy timed on {PEER_NULL} of them")
    for n_layers in (10, 50, 150, 464, 600):
        _compare_null(_drift(rng, n_layers, 0.97), rng)


def _drift(rng: np.random.Generator, n_layers: int, similarity: float) -> np.ndarray:
    layers = rng.normal(size=(N_PAIRS, n_layers))
    for depth in range(1, n_layers):
        layers[:, depth] = similarity * layers[:, depth - 1] + np.sqrt(1 - similarity**2) * layers[:, depth]
    return layers


def _drifting(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return layers that drift with depth and sites that three of them drive, at a correlation of about .4."""
    layers = _drift(rng, N_LAYERS, 0.9)
    weight = np.zeros((N_LAYERS, N_SITES))
    for site in range(N_SITES):
        weight[rng.choice(N_LAYERS, 3, replace=False), site] = 1
    return layers, layers @ weight + 5 * rng.normal(size=(N_PAIRS, N_SITES))


def _dense(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return layers that mix eight factors and sites that a third of them drive: many weights that are not 0."""
    layers = rng.normal(size=(N_PAIRS, 8)) @ rng.random((8, N_LAYERS)) + rng.normal(size=(N_PAIRS, N_LAYERS))
    weight = rng.random((N_LAYERS, N_SITES)) * (rng.random((N_LAYERS, N_SITES)) < 0.3)
    return layers, layers @ weight + 5 * rng.normal(size=(N_PAIRS, N_SITES))


def _compare(name: str, layers: np.ndarray, sites: np.ndarray) -> None:
    layers = (layers - layers.mean(0)) / layers.std(0)
    with threadpool_limits(1):
        ours, peer = _ours(layers, sites, 1)[0], _peer(layers, sites, 1)[0]
        largest = max(np.abs(a - b).max() for a, b in zip(ours, peer, strict=True))
        assert largest < 1e-9, largest
        active = np.mean([(weight > 0).sum(0).mean() for weight in ours])
        times = best_of(3, {"ours": lambda: _ours(layers, sites, OURS), "peer": lambda: _peer(layers, sites, PEER)})
    a_split, peer_split = times["ours"] / OURS, times["peer"] / PEER
    fits = 6 * N_SITES
    print(
        f"{name}: {active:.0f} of {N_LAYERS} weights above 0; {N_SPLITS * fits} fits, one thread each, weights agree to {largest:.0e}"
    )
    print(f"  ours          {a_split * N_SPLITS:7.1f} s ({a_split / fits * 1e6:.0f} us a fit, {OURS} splits timed)")
    print(
        f"  scikit-learn  {peer_split * N_SPLITS:7.1f} s ({peer_split / fits * 1e6:.0f} us a fit, {PEER} splits timed)"
    )
    print(f"  ratio {peer_split / a_split:.0f}")


def _compare_null(layers: np.ndarray, rng: np.random.Generator) -> None:
    """Time the fits of targets that have nothing to do with the layers: RDMs of noise, relabelled."""
    responses = rng.normal(size=(N_STIMULI, 30))
    rdm = 1 - np.corrcoef(responses)
    first, second = np.triu_indices(N_STIMULI, 1)
    labels = [rng.permutation(N_STIMULI) for _ in range(N_NULL)]
    targets = np.stack([rdm[label[first], label[second]] for label in labels], axis=1)
    layers, targets = layers - layers.mean(0), targets - targets.mean(0)
    gram, cross = layers.T @ layers, layers.T @ targets

    def peer() -> np.ndarray:
        upper = cholesky(gram)
        rotated = solve_triangular(upper, cross[:, :PEER_NULL], trans="T")
        return np.stack([nnls(upper, column)[0] for column in rotated.T], axis=1)

    with threadpool_limits(1):
        ours, theirs = solve_nnls(gram, cross), peer()
        largest = np.abs(ours[:, :PEER_NULL] - theirs).max()
        assert largest < 1e-9, largest
        times = best_of(3, {"ours": lambda: solve_nnls(gram, cross), "peer": peer}, time.process_time)
    a_fit, peer_fit = times["ours"] / N_NULL * 1e6, times["peer"] / PEER_NULL * 1e6
    active = (ours > 0).sum(0)
    print(
        f"  {layers.shape[1]:3d} layers, {active.mean():4.1f} (at most {active.max()}) weights above 0: ours {a_fit:6.1f} us a fit, "
        f"scipy {peer_fit:6.0f} us, ratio {peer_fit / a_fit:.0f}, weights agree to {largest:.0e}"
    )


def _ours(layers: np.ndarray, sites: np.ndarray, n_splits: int) -> list[list[np.ndarray]]:
    """Return for every split the weights (layer, site) of its folds."""
    out = []
    for split in range(n_splits):
        partition = Partition(kfold(N_STIMULI, 6, split))
        regressors = Regressors(layers, partition)
        out.append([weight for weight, _ in regressors.fits(regressors.moments(sites[partition.order]))])
    return out


def _peer(layers: np.ndarray, sites: np.ndarray, n_splits: int) -> list[list[np.ndarray]]:
    first, second = np.triu_indices(N_STIMULI, 1)
    out = []
    for split in range(n_splits):
        fold = kfold(N_STIMULI, 6, split)
        weights = []
        for number in range(6):
            train = (fold[first] != number) & (fold[second] != number)
            x = layers[train]
            fits = [LinearRegression(positive=True).fit(x, site) for site in sites[train].T]
            weights.append(np.stack([fit.coef_ for fit in fits], axis=1))
        out.append(weights)
    return out


if __name__ == "__main__":
    main()
