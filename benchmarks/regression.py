"""PLS, ridge and Pearson r of 8,000 neurons, against scikit-learn, ikpls, himalaya and scipy; how the time grows.

    python benchmarks/regression.py

One BLAS thread for all, seconds of processor time. A peer that takes neurons one by one is timed on some of them and extrapolated; what both compute is
asserted to be equal in the same run. Our times include the decomposition of the fold.
"""

from __future__ import annotations

import os
import time
import tracemalloc
from collections.abc import Callable

import numpy as np
from _timing import best_of, machine
from himalaya.kernel_ridge import KernelRidgeCV
from ikpls.numpy import PLS
from scipy.stats import pearsonr
from sklearn.cross_decomposition import PLSRegression
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import KFold, ShuffleSplit
from threadpoolctl import threadpool_limits

from mousebench.linalg import gram, pearson_columns, weighted_pearson
from mousebench.nipals import nipals
from mousebench.regression import FoldBasis, Responses, pls1, pls1_curve, pls2, ridge, sample_basis

N_STIMULI, N_NEURONS, N_FEATURES, N_COMPONENTS, N_SPLITS = 118, 8000, 1000, 25, 10
N_WIDE = 5960
N_PEER = 100  # neurons that are timed one by one
ALPHAS = np.logspace(0, 6, 20)


def data(n_stimuli: int, n_features: int, n_neurons: int) -> tuple[np.ndarray, np.ndarray]:
    """Return features with singular values that fall as 1/j and the neurons that they drive, half of it noise."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n_stimuli, n_features)) @ (
        rng.normal(size=(n_features, 200)) @ (rng.normal(size=(200, n_features)) / np.arange(1, 201)[:, None])
    )
    x = x / x.std() + 1
    drive = x @ rng.normal(size=(n_features, n_neurons))
    return x, drive / drive.std(0) + rng.normal(size=(n_stimuli, n_neurons))


def main() -> None:
    """Time everything, one after the other."""
    print(f"{machine()}; load {os.getloadavg()[0]:.1f} at the start")
    with threadpool_limits(1):
        x, y = data(N_STIMULI, N_FEATURES, N_NEURONS)
        _pls1(x, y)
        _pls2(x, y)
        _ridge()
        _pearson(x, y)
        _weighted()
        _growth()
    print(f"load {os.getloadavg()[0]:.1f} at the end")


def _splits() -> list[tuple[np.ndarray, np.ndarray]]:
    return list(ShuffleSplit(N_SPLITS, train_size=0.9, random_state=1).split(np.zeros(N_STIMULI)))


def _all_splits(
    x: np.ndarray, y: np.ndarray, fit: Callable[[FoldBasis, np.ndarray, int], np.ndarray]
) -> list[np.ndarray]:
    """Predict the test stimuli of every split from the features on."""
    rows = sample_basis(gram([x])[0])
    return [fit(FoldBasis(rows[train], rows[test]), y[train], N_COMPONENTS) for train, test in _splits()]


def _pls1(x: np.ndarray, y: np.ndarray) -> None:
    train, test = _splits()[0]
    rows = sample_basis(gram([x])[0])

    def by_sklearn(features: np.ndarray) -> np.ndarray:
        columns = []
        for neuron in range(N_PEER):
            fit = PLSRegression(N_COMPONENTS, scale=False).fit(features[train], y[train, neuron])
            columns.append(fit.predict(features[test]).ravel())
        return np.stack(columns, axis=1)

    def by_ikpls() -> np.ndarray:
        columns = []
        for neuron in range(N_PEER):
            fit = PLS(scale_X=False, scale_Y=False)
            fit.fit(rows[train], y[train, neuron : neuron + 1], N_COMPONENTS)
            columns.append(fit.predict(rows[test], N_COMPONENTS).ravel())
        return np.stack(columns, axis=1)

    ours = _all_splits(x, y, pls1)[0][:, :N_PEER]
    to_sklearn, to_ikpls = np.abs(ours - by_sklearn(x)).max(), np.abs(ours - by_ikpls()).max()
    assert to_sklearn < 1e-8, to_sklearn
    assert to_ikpls < 1e-10, to_ikpls
    times = best_of(
        3,
        {
            "ours": lambda: _all_splits(x, y, pls1),
            "curve": lambda: _all_splits(x, y, pls1_curve),
            "sklearn": lambda: by_sklearn(x),
            "rotated": lambda: by_sklearn(rows),
            "ikpls": by_ikpls,
        },
        time.process_time,
    )
    scale = N_SPLITS * N_NEURONS / N_PEER
    print(
        f"PLS1, {N_NEURONS} neurons x {N_SPLITS} splits x {N_COMPONENTS} components, {N_FEATURES} features, {N_STIMULI} stimuli"
    )
    print(f"  ours, {N_COMPONENTS} components      {times['ours']:8.2f} s")
    print(f"  ours, 1 to {N_COMPONENTS} components {times['curve']:8.2f} s")
    for name, label, agreement in (
        ("sklearn", "scikit-learn", f", agrees to {to_sklearn:.0e}"),
        ("rotated", "scikit-learn on our rotation", ""),
        ("ikpls", "ikpls on our rotation", f", agrees to {to_ikpls:.0e}"),
    ):
        seconds = times[name] * scale
        print(
            f"  {label} {seconds:8.1f} s (from {N_PEER} neurons), ratio {seconds / times['ours']:.0f}, "
            f"to all components {seconds / times['curve']:.0f}{agreement}"
        )


def _pls2(x: np.ndarray, y: np.ndarray) -> None:
    train, test = _splits()[0]
    rows = sample_basis(gram([x])[0])

    def by_sklearn(tolerance: float, max_iter: int = 500) -> np.ndarray:
        fit = PLSRegression(N_COMPONENTS, scale=False, tol=tolerance, max_iter=max_iter).fit(x[train], y[train])
        return np.asarray(fit.predict(x[test]))

    def by_ikpls() -> np.ndarray:
        fit = PLS(scale_X=False, scale_Y=False)
        fit.fit(rows[train], y[train], N_COMPONENTS)
        return np.asarray(fit.predict(rows[test], N_COMPONENTS))

    ours = _all_splits(x, y, pls2)[0]
    loose, tight, peer = by_sklearn(1e-6), by_sklearn(1e-12, 100_000), by_ikpls()
    r = pearson_columns(ours, y[test])
    apart = {
        name: np.abs(pearson_columns(found, y[test]) - r).max()
        for name, found in (("1e-6", loose), ("1e-12", tight), ("ikpls", peer))
    }
    assert apart["1e-12"] < 1e-4, apart
    assert apart["ikpls"] < 1e-8, apart

    def stopped(basis: FoldBasis, responses: np.ndarray, n_components: int) -> np.ndarray:
        return nipals(basis, [Responses.of(responses)], n_components)[0]

    as_sklearn = np.abs(_all_splits(x, y, stopped)[0] - loose).max()
    assert as_sklearn < 1e-8, as_sklearn
    times = best_of(
        3,
        {
            "ours": lambda: _all_splits(x, y, pls2),
            "nipals": lambda: _all_splits(x, y, stopped),
            "sklearn": lambda: by_sklearn(1e-6),
            "ikpls": by_ikpls,
        },
        time.process_time,
    )
    print(f"PLS2, {N_NEURONS} neurons together x {N_SPLITS} splits x {N_COMPONENTS} components, {N_FEATURES} features")
    print(f"  ours {times['ours']:8.2f} s")
    seconds = times["sklearn"] * N_SPLITS
    print(
        f"  scikit-learn, tol 1e-6, {seconds:8.2f} s (from 1 split), ratio {seconds / times['ours']:.0f}; r of single neurons "
        f"differ by up to {apart['1e-6']:.0e}, at tol 1e-12 by {apart['1e-12']:.0e}"
    )
    print(
        f"  ours, stopped where scikit-learn stops {times['nipals']:8.2f} s, ratio {seconds / times['nipals']:.0f}; "
        f"predictions differ by {as_sklearn:.0e}"
    )
    seconds = times["ikpls"] * N_SPLITS
    print(
        f"  ikpls on our rotation {seconds:8.2f} s (from 1 split), ratio {seconds / times['ours']:.1f}; r differ by up to {apart['ikpls']:.0e}"
    )


def _ridge() -> None:
    x, y = data(N_STIMULI, N_WIDE, N_NEURONS)

    def ours() -> np.ndarray:
        rows = sample_basis(gram([x])[0])
        return ALPHAS[ridge(FoldBasis(rows, rows), y, ALPHAS).chosen]

    def by_sklearn() -> np.ndarray:
        return np.asarray(RidgeCV(ALPHAS, alpha_per_target=True).fit(x, y).alpha_)

    def by_himalaya() -> np.ndarray:
        peer = KernelRidgeCV(ALPHAS, kernel="precomputed", fit_intercept=True, cv=KFold(N_STIMULI))
        return np.asarray(peer.fit(x @ x.T, y).best_alphas_)

    chosen = ours()
    assert np.array_equal(chosen, by_sklearn())
    same = np.isclose(chosen, by_himalaya(), rtol=1e-9).mean()
    assert same > 0.999, same
    times = best_of(3, {"ours": ours, "sklearn": by_sklearn, "himalaya": by_himalaya}, time.process_time)
    print(
        f"ridge, {len(ALPHAS)} penalties, leave-one-out, one for each of {N_NEURONS} neurons, {N_WIDE} features; "
        f"{len(np.unique(chosen))} different ones are chosen"
    )
    print(f"  ours {times['ours']:8.2f} s")
    print(
        f"  scikit-learn RidgeCV {times['sklearn']:8.2f} s, ratio {times['sklearn'] / times['ours']:.0f}, penalties identical"
    )
    print(
        f"  himalaya KernelRidgeCV {times['himalaya']:8.2f} s, ratio {times['himalaya'] / times['ours']:.1f}, "
        f"penalties the same for {same:.2%}"
    )


def _pearson(x: np.ndarray, y: np.ndarray) -> None:
    train, test = _splits()[0]
    rows = sample_basis(gram([x])[0])
    predicted, truth = pls1(FoldBasis(rows[train], rows[test]), y[train], N_COMPONENTS), y[test]
    n_peer = 1000

    def peer() -> np.ndarray:
        return np.array([pearsonr(predicted[:, neuron], truth[:, neuron])[0] for neuron in range(n_peer)])

    apart = np.abs(pearson_columns(predicted, truth)[:n_peer] - peer()).max()
    assert apart < 1e-12, apart
    times = best_of(5, {"ours": lambda: pearson_columns(predicted, truth), "peer": peer}, time.process_time)
    seconds = times["peer"] * N_NEURONS / n_peer
    print(f"Pearson r of {N_NEURONS} neurons over {len(test)} stimuli: ours {times['ours'] * 1e3:.2f} ms")
    print(
        f"  scipy.stats.pearsonr {seconds:.2f} s (from {n_peer} neurons), ratio {seconds / times['ours']:.0f}, agrees to {apart:.0e}"
    )


def _weighted(n_draws: int = 1000, n_test: int = 24, n_folds: int = 25) -> None:
    rng = np.random.default_rng(0)
    predicted = rng.normal(size=(n_test, N_NEURONS))
    truth = predicted + rng.normal(size=(n_test, N_NEURONS))
    counts = rng.multinomial(n_test, np.full(n_test, 1 / n_test), size=n_draws)
    draws = [np.repeat(np.arange(n_test), count) for count in counts]
    n_peer = 20

    def peer() -> np.ndarray:
        return np.stack([pearson_columns(predicted[rows], truth[rows]) for rows in draws[:n_peer]])

    weights = counts.astype(np.float64)
    tracemalloc.start()
    weighted_pearson(predicted, truth, weights)
    memory = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    apart = np.abs(weighted_pearson(predicted, truth, weights)[:n_peer] - peer()).max()
    assert apart < 1e-12, apart
    times = best_of(3, {"ours": lambda: weighted_pearson(predicted, truth, weights), "peer": peer}, time.process_time)
    seconds = times["peer"] * n_folds * n_draws / n_peer
    print(
        f"bootstrap of Pearson r, {n_draws} draws x {N_NEURONS} neurons x {n_test} test stimuli x {n_folds} folds: "
        f"ours {times['ours'] * n_folds:.1f} s (from 1 fold), at most {memory / 1e6:.0f} MB, {n_draws * N_NEURONS * 8 / 1e6:.0f} of them the result"
    )
    print(
        f"  rows repeated, all neurons at once {seconds:.1f} s (from {n_peer} draws), ratio {seconds / (times['ours'] * n_folds):.1f}, "
        f"agrees to {apart:.0e}"
    )


def _growth() -> None:
    """Fit the exponents of time: log seconds on log size."""
    fits: dict[str, Callable[[FoldBasis, np.ndarray], object]] = {
        "PLS1": lambda basis, y: pls1(basis, y, N_COMPONENTS),
        "PLS2": lambda basis, y: pls2(basis, y, N_COMPONENTS),
        "ridge": lambda basis, y: ridge(basis, y, ALPHAS),
    }

    def one(fit: Callable[[FoldBasis, np.ndarray], object], x: np.ndarray, y: np.ndarray, n_layers: int) -> None:
        n_train = len(x) * 4 // 5
        for _ in range(n_layers):
            rows = sample_basis(x @ x.T)
            fit(FoldBasis(rows[:n_train], rows[n_train:]), y[:n_train])

    # (stimuli, neurons, layers), all sizes of one row at the others' default
    sizes = {
        "neurons": ([1000, 2000, 4000, 8000, 16000], lambda size: (N_STIMULI, size, 1)),
        "layers": ([1, 2, 4, 8], lambda size: (N_STIMULI, 2000, size)),
        "stimuli": ([59, 118, 236, 472], lambda size: (size, 2000, 1)),
    }
    print("exponents of time, log-log over the sizes given; Gram to predictions of one fold")
    for what, (values, shape) in sizes.items():
        found = []
        for name, fit in fits.items():
            seconds = []
            for value in values:
                n_stimuli, n_neurons, n_layers = shape(value)
                x, y = data(n_stimuli, N_FEATURES, n_neurons)

                def call(x: np.ndarray = x, y: np.ndarray = y, n: int = n_layers, fit: object = fit) -> None:
                    one(fit, x, y, n)  # type: ignore[arg-type]

                seconds.append(best_of(3, {"": call}, time.process_time)[""])
            slope = np.polyfit(np.log(values), np.log(seconds), 1)[0]
            found.append(f"{name} {slope:.2f} ({seconds[0] * 1e3:.0f} to {seconds[-1] * 1e3:.0f} ms)")
        print(f"  {what} {values[0]} to {values[-1]}: {', '.join(found)}")


if __name__ == "__main__":
    main()
