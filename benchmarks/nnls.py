"""1,000 random 6-fold NNLS fits x 21 sites x 50 layers, against scikit-learn's positive LinearRegression.

    python benchmarks/nnls.py

scikit-learn is timed on some splits and extrapolated (its time is proportional to their number); weights are asserted equal.
"""

from __future__ import annotations

import numpy as np
from _timing import best_of, machine
from sklearn.linear_model import LinearRegression
from threadpoolctl import threadpool_limits

from mousebench.nnls import Partition, Regressors, kfold

N_STIMULI, N_LAYERS, N_SITES, N_SPLITS = 118, 50, 21, 1000
OURS, PEER = 200, 2  # splits that are timed


def main() -> None:
    """Time both forms on the same splits."""
    print(machine())
    rng = np.random.default_rng(0)
    n_pairs = N_STIMULI * (N_STIMULI - 1) // 2
    shared = rng.normal(size=(n_pairs, 8))
    layers = shared @ rng.random((8, N_LAYERS)) + rng.normal(size=(n_pairs, N_LAYERS))
    layers = (layers - layers.mean(0)) / layers.std(0)
    sites = layers @ (rng.random((N_LAYERS, N_SITES)) * (rng.random((N_LAYERS, N_SITES)) < 0.3)) + 5 * rng.normal(
        size=(n_pairs, N_SITES)
    )
    with threadpool_limits(1):
        largest = max(
            np.abs(a - b).max() for a, b in zip(_ours(layers, sites, 1)[0], _peer(layers, sites, 1)[0], strict=True)
        )
        assert largest < 1e-9, largest
        times = best_of(3, {"ours": lambda: _ours(layers, sites, OURS), "peer": lambda: _peer(layers, sites, PEER)})
    ours, peer = times["ours"] / OURS * N_SPLITS, times["peer"] / PEER * N_SPLITS
    fits = N_SPLITS * 6 * N_SITES
    print(
        f"ours          {ours:7.1f} s for {fits} fits ({times['ours'] / OURS / 126 * 1e6:.0f} us each), {OURS} splits timed"
    )
    print(
        f"scikit-learn  {peer:7.1f} s ({times['peer'] / PEER / 126 * 1e6:.0f} us each), extrapolated from {PEER} splits"
    )
    print(f"ratio {peer / ours:.0f}, weights agree to {largest:.1e}, one thread each")


def _ours(layers: np.ndarray, sites: np.ndarray, n_splits: int) -> list[list[np.ndarray]]:
    """Return for every split the weights (layer, site) of its folds; scores included in the time."""
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
