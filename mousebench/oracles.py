"""What metrics are held against: the same scores by the slowest and plainest way, from features, with scikit-learn.

Nothing is shared with the metrics but the definition: features instead of Grams, refits instead of updates, loops over
folds, neurons and layers instead of products. scikit-learn is asked for when an oracle is used, and need not be installed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

Fold = tuple[np.ndarray, np.ndarray]  # training and test stimuli


@dataclass(frozen=True)
class Case:
    """What there is to score.

    Attributes
    ----------
    features : mapping of layer to float64 (stimulus, feature)
    means : float64 (stimulus, neuroid)
    seed, repeats : int
    """

    features: Mapping[str, np.ndarray]
    means: np.ndarray
    seed: int
    repeats: int

    def folds(self, n_folds: int) -> Iterator[Fold]:
        """Yield the folds of all partitions, by scikit-learn."""
        from sklearn.model_selection import KFold

        for repeat in range(self.repeats):
            yield from KFold(n_folds, shuffle=True, random_state=self.seed + repeat).split(self.means)

    @property
    def n_stimuli(self) -> int:
        """How many stimuli there are."""
        return len(self.means)


def _rdm(values: np.ndarray) -> np.ndarray:
    return np.asarray(1 - np.corrcoef(values))


def _r(a: np.ndarray, b: np.ndarray) -> float:
    """Return Pearson r, 0 where one of the two is constant."""
    if np.ptp(a) < 1e-12 or np.ptp(b) < 1e-12:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])


def _fisher(values: list[float]) -> float:
    return float(np.tanh(np.mean(np.arctanh(values))))


def _pairs(case: Case) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return the images of each pair, the layer RDMs (pair, layer) and the site RDM (pair)."""
    first, second = np.triu_indices(case.n_stimuli, 1)
    x = np.column_stack([_rdm(values)[first, second] for values in case.features.values()])
    return first, second, x, _rdm(case.means)[first, second]


def rsa_nnls(case: Case) -> float:
    """LinearRegression(positive=True) on pairs inside the training folds, r on pairs inside the held-out fold."""
    from sklearn.linear_model import LinearRegression

    first, second, x, y = _pairs(case)
    found = []
    for train, test in case.folds(6):
        inside, held = (np.isin(first, some) & np.isin(second, some) for some in (train, test))
        fit = LinearRegression(positive=True).fit(x[inside], y[inside])
        found.append(_r(fit.predict(x[held]), y[held]))
    return _fisher(found)


def rsa_nnls_published(case: Case) -> float:
    """LinearRegression(positive=True), tested on pairs with either image held out, averaged, pooled, correlated once."""
    from sklearn.linear_model import LinearRegression

    first, second, x, y = _pairs(case)
    total, count = np.zeros(len(y)), np.zeros(len(y))
    for _, test in case.folds(6):
        held = np.isin(first, test) | np.isin(second, test)
        total[held] += LinearRegression(positive=True).fit(x[~held], y[~held]).predict(x[held])
        count[held] += 1
    return _r(total / count, y)


def rsa(case: Case) -> float:
    """numpy.corrcoef of RDMs: the layer by the pairs inside the training folds, r by those inside the held-out fold."""
    first, second, x, y = _pairs(case)
    found = []
    for train, test in case.folds(6):
        inside, held = (np.isin(first, some) & np.isin(second, some) for some in (train, test))
        chosen = max(range(x.shape[1]), key=lambda k: _r(x[inside, k], y[inside]))
        found.append(_r(x[held, chosen], y[held]))
    return _fisher(found)


def cka(case: Case) -> float:
    """Debiased CKA from traces and sums of Grams (Song et al. 2012, equation 5), layer chosen in the training folds."""

    def hsic(a: np.ndarray, b: np.ndarray) -> float:
        n = len(a)
        k, l_ = (x @ x.T * (1 - np.eye(n)) for x in (a - a.mean(0), b - b.mean(0)))
        cross = k.sum() * l_.sum() / ((n - 1) * (n - 2)) - 2 * (k @ l_).sum() / (n - 2)
        return float((np.trace(k @ l_) + cross) / (n * (n - 3)))

    def of(features: np.ndarray, images: np.ndarray) -> float:
        a, b = features[images], case.means[images]
        return float(hsic(a, b) / np.sqrt(hsic(a, a) * hsic(b, b)))

    found = []
    for train, test in case.folds(6):
        chosen = max(case.features, key=lambda layer: of(case.features[layer], train))
        found.append(of(case.features[chosen], test))
    return _fisher(found)


def _penalties(x: np.ndarray, relative: np.ndarray) -> np.ndarray:
    """Return penalties in units of the mean variance of the directions that vary."""
    s = np.linalg.svd(x - x.mean(0), compute_uv=False)
    return np.asarray(relative * np.mean(s[s > 1e-10 * s[0]] ** 2))


def _leave_one_out(x: np.ndarray, y: np.ndarray) -> float:
    """Return the median R2 over neurons of ridge refitted without each image, with the best of seven penalties."""
    sse = []
    for alpha in _penalties(x, np.logspace(-3, 3, 7)):
        residuals = np.empty_like(y)
        for out in range(len(x)):
            rest = np.arange(len(x)) != out
            mean_x, mean_y = x[rest].mean(0), y[rest].mean(0)
            a = x[rest] - mean_x
            weights = np.linalg.solve(a @ a.T + alpha * np.eye(len(a)), y[rest] - mean_y)
            residuals[out] = y[out] - mean_y - (x[out] - mean_x) @ a.T @ weights
        sse.append(np.square(residuals).sum(0))
    nothing = np.array([y[out] - np.delete(y, out, axis=0).mean(0) for out in range(len(y))])
    return float(np.median(1 - np.min(sse, axis=0) / np.square(nothing).sum(0)))


def _per_neuroid(case: Case, predict: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]) -> np.ndarray:
    """Return the mean r of each neuron over folds, its layer chosen by refits among the training images."""
    total, count = np.zeros(case.means.shape[1]), 0
    for train, test in case.folds(5):
        y = case.means[train]
        quality = {layer: _leave_one_out(x[train], y) for layer, x in case.features.items()}
        x = case.features[max(quality, key=lambda layer: quality[layer])]
        predicted = predict(x[train], y, x[test])
        total += [_r(a, b) for a, b in zip(predicted.T, case.means[test].T, strict=True)]
        count += 1
    return total / count


def pls(case: Case) -> np.ndarray:
    """PLSRegression(25, scale=False) neuron by neuron."""
    from sklearn.cross_decomposition import PLSRegression

    def predict(x: np.ndarray, y: np.ndarray, test: np.ndarray) -> np.ndarray:
        fits = [PLSRegression(25, scale=False).fit(x, one) for one in y.T]
        return np.column_stack([fit.predict(test).ravel() for fit in fits])

    return _per_neuroid(case, predict)


def ridge(case: Case) -> np.ndarray:
    """RidgeCV with leave-one-out, twenty penalties, one chosen for each neuron."""
    from sklearn.linear_model import RidgeCV

    def predict(x: np.ndarray, y: np.ndarray, test: np.ndarray) -> np.ndarray:
        alphas = _penalties(x, np.logspace(-4, 4, 20))
        return np.asarray(RidgeCV(alphas, alpha_per_target=True).fit(x, y).predict(test)).reshape(len(test), -1)

    return _per_neuroid(case, predict)


def pls_brainscore(case: Case) -> float:
    """ShuffleSplit and one PLSRegression(25, scale=False) of all neurons; median r over neurons, mean over ten splits."""
    from sklearn.cross_decomposition import PLSRegression
    from sklearn.model_selection import ShuffleSplit

    medians = []
    for train, test in ShuffleSplit(10, train_size=0.9, random_state=1 + case.seed).split(case.means):
        y = case.means[train]
        quality = {layer: _leave_one_out(x[train], y) for layer, x in case.features.items()}
        x = case.features[max(quality, key=lambda layer: quality[layer])]
        predicted = PLSRegression(25, scale=False).fit(x[train], y).predict(x[test])
        medians.append(np.median([_r(a, b) for a, b in zip(predicted.T, case.means[test].T, strict=True)]))
    return float(np.mean(medians))


# by the identifier of the metric; raw, a number or one for each neuron
ORACLES: Mapping[str, Callable[[Case], float | np.ndarray]] = {
    "rsa-nnls": rsa_nnls,
    "rsa-nnls-published": rsa_nnls_published,
    "rsa": rsa,
    "cka": cka,
    "pls": pls,
    "ridge": ridge,
    "pls-brainscore": pls_brainscore,
}
