"""PLS and ridge against scikit-learn, ikpls, himalaya and brute force; what must not matter, and shortcuts that are wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from ikpls.numpy import PLS
from sklearn.cross_decomposition import PLSRegression
from sklearn.linear_model import Ridge, RidgeCV
from sklearn.model_selection import KFold, LeaveOneOut
from threadpoolctl import threadpool_limits

from mousebench.linalg import gram, pearson_columns
from mousebench.regression import FoldBasis, pls1, pls1_curve, pls2, ridge, ridge_loo_residuals, sample_basis

N_STIMULI, N_TRAIN, N_COMPONENTS = 118, 94, 25
INDEX = np.arange(1.0, N_STIMULI + 1)
SPECTRA = {"j^-.5": INDEX**-0.5, "j^-1": 1 / INDEX, "j^-2": INDEX**-2, "exp(-j/8)": np.exp(-INDEX / 8)}
ALPHAS = np.logspace(-3, 6, 10)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Small products, as metrics do them: a second thread costs more than it gives."""
    with threadpool_limits(1):
        yield


class Case:
    """A layer with a given singular spectrum, an offset and more features than stimuli; neurons that it partly drives."""

    def __init__(self, spectrum: str = "j^-1", n_neurons: int = 6, n_features: int = 300, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        left = np.linalg.qr(rng.normal(size=(N_STIMULI, N_STIMULI)))[0]
        right = np.linalg.qr(rng.normal(size=(n_features, N_STIMULI)))[0]
        self.x = 100 * (left * SPECTRA[spectrum]) @ right.T + rng.normal(size=n_features)
        driven = self.x @ rng.normal(size=(n_features, n_neurons))
        self.y = driven / driven.std(0) + rng.normal(size=(N_STIMULI, n_neurons)) + 3
        order = rng.permutation(N_STIMULI)
        self.train, self.test = order[:N_TRAIN], order[N_TRAIN:]

    def basis(self, rows: np.ndarray | None = None) -> FoldBasis:
        """Return the fold of a rotation of the features that is lossless, by default that of their Gram."""
        rows = sample_basis(gram([self.x])[0]) if rows is None else rows
        return FoldBasis(rows[self.train], rows[self.test])

    @property
    def y_train(self) -> np.ndarray:
        return self.y[self.train]

    def sklearn_curve(self, neuron: int) -> np.ndarray:
        """Return scikit-learn's predictions (component, test stimulus) from all features."""
        fit = PLSRegression(N_COMPONENTS, scale=False).fit(self.x[self.train], self.y_train[:, neuron])
        scores = (self.x[self.test] - self.x[self.train].mean(0)) @ fit.x_rotations_
        return np.cumsum(scores * fit.y_loadings_[0], axis=1).T + self.y_train[:, neuron].mean()


def agree(found: np.ndarray, expected: np.ndarray, tolerance: float) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)


# the basis


@pytest.mark.parametrize("n_features", [1, 5, 116, 117, 118, 2000])
def test_the_basis_has_the_centred_features_gram_and_no_more_columns_than_needed(n_features: int) -> None:
    x = np.random.default_rng(0).normal(size=(N_STIMULI, n_features)) + 5
    z = sample_basis(gram([x])[0])
    assert z.shape == (N_STIMULI, min(n_features, N_STIMULI - 1))
    centred = x - x.mean(0)
    agree(z @ z.T, centred @ centred.T, 1e-12 * n_features * N_STIMULI)
    assert (np.diff((z**2).sum(0)) <= 0).all()


def test_a_large_offset_does_not_pass_for_a_component() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(N_STIMULI, 3)) @ rng.normal(size=(3, 5000)) + 1000
    assert sample_basis(gram([x])[0]).shape == (N_STIMULI, 3)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e6])
def test_a_layer_that_answers_alike_to_all_stimuli_has_no_components(value: float) -> None:
    x = np.full((20, 700), value)
    assert sample_basis(gram([x])[0]).shape == (20, 0)


def test_the_chunks_in_which_features_came_do_not_matter() -> None:
    case = Case()
    whole = pls1(case.basis(), case.y_train, N_COMPONENTS)
    for cuts in ([1], [7, 150, 299]):
        chunked = sample_basis(gram(np.split(case.x, cuts, axis=1))[0])
        agree(pls1(case.basis(chunked), case.y_train, N_COMPONENTS), whole, 1e-10)


# PLS1


@pytest.mark.parametrize("spectrum", SPECTRA)
def test_pls1_is_scikit_learn_s_for_every_neuron_and_number_of_components(spectrum: str) -> None:
    case = Case(spectrum)
    found = pls1_curve(case.basis(), case.y_train, N_COMPONENTS)
    expected = np.stack([case.sklearn_curve(neuron) for neuron in range(case.y.shape[1])], axis=-1)
    assert found.shape == (N_COMPONENTS, N_STIMULI - N_TRAIN, case.y.shape[1])
    agree(found, expected, 1e-8)


@pytest.mark.parametrize("n_components", [1, 2, 10, 25])
def test_pls1_is_scikit_learn_s_predict(n_components: int) -> None:
    case = Case("j^-.5", n_neurons=2)
    found = pls1(case.basis(), case.y_train, n_components)
    for neuron in range(2):
        fit = PLSRegression(n_components, scale=False).fit(case.x[case.train], case.y_train[:, neuron])
        agree(found[:, neuron], fit.predict(case.x[case.test]).ravel(), 1e-8)


@pytest.mark.parametrize("spectrum", SPECTRA)
def test_pls1_is_ikpls_s(spectrum: str) -> None:
    case = Case(spectrum)
    z = sample_basis(gram([case.x])[0])
    found = pls1_curve(case.basis(z), case.y_train, N_COMPONENTS)
    for neuron in range(case.y.shape[1]):
        peer = PLS(scale_X=False, scale_Y=False)
        peer.fit(z[case.train], case.y_train[:, [neuron]], N_COMPONENTS)
        agree(found[:, :, neuron], peer.predict(z[case.test])[..., 0], 1e-10)


def test_the_last_of_the_curve_is_the_prediction_and_chunks_of_neurons_do_not_matter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    case = Case(n_neurons=10)
    basis, y = case.basis(), case.y_train
    curve = pls1_curve(basis, y, N_COMPONENTS)
    agree(pls1(basis, y, N_COMPONENTS), curve[-1], 1e-12)
    monkeypatch.setattr("mousebench.regression._CHUNK", 3)
    agree(pls1_curve(basis, y, N_COMPONENTS), curve, 1e-12)


@pytest.mark.parametrize("n_features", [1, 4, 10])
def test_beyond_the_rank_the_curve_stays_at_least_squares(n_features: int) -> None:
    rng = np.random.default_rng(n_features)
    x, y = rng.normal(size=(40, n_features)), rng.normal(size=(40, 5))
    basis = FoldBasis(x[:30], x[30:])
    assert basis.rank == n_features
    curve = pls1_curve(basis, y[:30], N_COMPONENTS)
    design = np.column_stack([np.ones(40), x])
    least_squares = design[30:] @ np.linalg.lstsq(design[:30], y[:30])[0]
    for entry in curve[n_features - 1 :]:
        agree(entry, least_squares, 1e-11)
        assert np.array_equal(entry, curve[-1])
    agree(pls1(basis, y[:30], N_COMPONENTS), least_squares, 1e-11)
    agree(pls2(basis, y[:30], N_COMPONENTS), least_squares, 1e-11)


def test_with_fewer_stimuli_than_components_the_training_responses_are_met() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(12, 50)), rng.normal(size=(12, 3))
    basis = FoldBasis(x, x)
    assert basis.rank == 11
    agree(pls1(basis, y, N_COMPONENTS), y, 1e-11)
    agree(pls2(basis, y, N_COMPONENTS), y, 1e-11)


@pytest.mark.parametrize("spectrum", SPECTRA)
def test_neurons_that_few_components_fit_are_left_as_they_are(spectrum: str) -> None:
    basis = Case(spectrum).basis()
    planted = np.array([[1.0, 1.0], [2.0, 0.0]])
    y = basis.u[:, :2] @ planted + 7
    expected = basis.to_test[:2].T @ planted + 7
    curve = pls1_curve(basis, y, 90)
    agree(curve[1:], np.broadcast_to(expected, curve[1:].shape), 1e-9)
    for n_components in (2, 3, 5, 25, 90):
        agree(pls2(basis, y, n_components), expected, 1e-9)


FITS: dict[str, Callable[[FoldBasis, np.ndarray], np.ndarray]] = {
    "pls1": lambda basis, y: pls1(basis, y, N_COMPONENTS),
    "pls1_curve": lambda basis, y: pls1_curve(basis, y, N_COMPONENTS),
    "pls2": lambda basis, y: pls2(basis, y, N_COMPONENTS),
    "ridge": lambda basis, y: ridge(basis, y, ALPHAS).prediction,
}
ALONE = [name for name in FITS if name != "pls2"]  # a neuron's fit does not depend on the others


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("value", [0.0, 0.1, -1e5])
def test_a_constant_neuron_is_predicted_to_be_constant(fit: str, value: float) -> None:
    case = Case()
    y = case.y_train.copy()
    y[:, 2] = value
    found = FITS[fit](case.basis(), y)
    assert np.ptp(found[..., 2], axis=-1).max() <= 1e-15 * abs(value)
    assert np.isnan(pearson_columns(found, case.y[case.test])[..., 2]).all()
    assert np.isfinite(pearson_columns(found, case.y[case.test])[..., [0, 1, 3, 4, 5]]).all()


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("layer", ["no columns", "constant", "constant in training"])
def test_a_layer_without_variance_in_training_predicts_the_mean(fit: str, layer: str) -> None:
    case = Case()
    rows = np.full((N_STIMULI, 3), 0.1)
    if layer == "no columns":
        rows = rows[:, :0]
    elif layer == "constant in training":
        rows[case.test] = np.random.default_rng(0).normal(size=(len(case.test), 3))
    basis = case.basis(rows)
    assert basis.rank == 0
    found = FITS[fit](basis, case.y_train)
    agree(found, np.broadcast_to(case.y_train.mean(0), found.shape), 1e-14)


@pytest.mark.parametrize("fit", ALONE)
def test_a_neuron_with_a_missing_response_is_nan_and_harms_no_other(fit: str) -> None:
    case = Case()
    y = case.y_train.copy()
    y[5, 2] = np.nan
    found, expected = FITS[fit](case.basis(), y), FITS[fit](case.basis(), case.y_train)
    assert np.isnan(found[..., 2]).all()
    agree(np.delete(found, 2, -1), np.delete(expected, 2, -1), 1e-12)


@pytest.mark.parametrize("fit", FITS)
def test_noise_free_linear_neurons_are_predicted_perfectly(fit: str) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(N_STIMULI, 20))
    y = x @ rng.normal(size=(20, 5)) + 1
    case = Case()
    basis = FoldBasis(x[case.train], x[case.test])
    found = (
        ridge(basis, y[case.train], np.array([1e-9])).prediction if fit == "ridge" else FITS[fit](basis, y[case.train])
    )
    agree(pearson_columns(found, y[case.test])[... if fit != "pls1_curve" else -1], np.ones(5), 1e-10)


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("seed", range(3))
def test_order_of_neurons_order_of_stimuli_and_rotation_of_features_do_not_matter(fit: str, seed: int) -> None:
    case = Case("j^-.5", n_neurons=8, seed=seed)
    rng = np.random.default_rng(seed)
    expected = FITS[fit](case.basis(), case.y_train)
    neurons = rng.permutation(8)
    agree(FITS[fit](case.basis(), case.y_train[:, neurons]), expected[..., neurons], 1e-10)
    rotation = np.linalg.qr(rng.normal(size=(300, 300)))[0]
    agree(FITS[fit](case.basis(case.x @ rotation), case.y_train), expected, 1e-10)
    z = sample_basis(gram([case.x])[0])
    order = rng.permutation(N_TRAIN)
    shuffled = FoldBasis(z[case.train][order], z[case.test])
    agree(FITS[fit](shuffled, case.y_train[order]), expected, 1e-10)
    tests = rng.permutation(len(case.test))
    agree(FITS[fit](FoldBasis(z[case.train], z[case.test][tests]), case.y_train), expected[..., tests, :], 1e-10)
    # all stimuli relabelled before the Gram
    relabelled = rng.permutation(N_STIMULI)
    place = np.argsort(relabelled)
    z = sample_basis(gram([case.x[relabelled]])[0])
    agree(FITS[fit](FoldBasis(z[place][case.train], z[place][case.test]), case.y_train), expected, 1e-10)


@pytest.mark.parametrize("spectrum", ["j^-1", "j^-2", "exp(-j/8)"])
def test_conjugate_gradients_would_be_wrong_where_pls1_is_right(spectrum: str) -> None:
    """The short recurrence is PLS1 in exact arithmetic only."""
    case = Case(spectrum)
    z = sample_basis(gram([case.x])[0])
    x, x_test = z[case.train] - z[case.train].mean(0), z[case.test] - z[case.train].mean(0)
    y = case.y_train[:, 0] - case.y_train[:, 0].mean()
    weight, residual = np.zeros(x.shape[1]), y.copy()
    gradient = direction = x.T @ residual
    for _ in range(N_COMPONENTS):
        step = (gradient @ gradient) / ((x @ direction) @ (x @ direction))
        weight, residual = weight + step * direction, residual - step * (x @ direction)
        new = x.T @ residual
        gradient, direction = new, new + (new @ new) / (gradient @ gradient) * direction
    short = x_test @ weight + case.y_train[:, 0].mean()
    expected = case.sklearn_curve(0)[-1]
    assert np.abs(short - expected).max() > 0.01
    agree(pls1(case.basis(), case.y_train, N_COMPONENTS)[:, 0], expected, 1e-8)


def test_centring_outside_the_fold_would_not_be_the_same() -> None:
    case = Case()
    z = sample_basis(gram([case.x])[0])
    inside = FoldBasis(z[case.train], z[case.test])
    outside = FoldBasis(np.vstack([z[case.train], -z[case.train]]), z[case.test])  # forces the mean 0 of all stimuli
    y = case.y_train - case.y_train.mean(0)
    assert np.abs(pls1(inside, y, 5) - pls1(outside, np.vstack([y, -y]), 5)).max() > 0.01


# PLS2


def test_pls2_is_scikit_learn_s_once_that_has_converged() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 15)), rng.normal(size=(40, 7))
    y += x[:, :7]
    basis = FoldBasis(x[:30], x[30:])
    for n_components in (1, 2, 5):
        fit = PLSRegression(n_components, scale=False, tol=1e-26, max_iter=1_000_000).fit(x[:30], y[:30])
        agree(pls2(basis, y[:30], n_components), fit.predict(x[30:]), 1e-10)


def test_pls2_of_many_neurons_scores_as_scikit_learn_s_with_a_tight_tolerance() -> None:
    case = Case("j^-.5", n_neurons=150)
    z = sample_basis(gram([case.x])[0])
    found = pls2(case.basis(z), case.y_train, N_COMPONENTS)
    fit = PLSRegression(N_COMPONENTS, scale=False, tol=1e-14, max_iter=100_000).fit(z[case.train], case.y_train)
    truth = case.y[case.test]
    agree(pearson_columns(found, truth), pearson_columns(fit.predict(z[case.test]), truth), 1e-5)


def test_pls2_couples_the_neurons_and_pls1_does_not() -> None:
    case = Case("j^-.5", n_neurons=20)
    basis, y = case.basis(), case.y_train
    agree(pls1(basis, y, 5)[:, :3], pls1(basis, y[:, :3], 5), 1e-12)
    assert np.abs(pls2(basis, y, 5)[:, :3] - pls2(basis, y[:, :3], 5)).max() > 0.01
    agree(pls2(basis, y[:, :1], 5), pls1(basis, y[:, :1], 5), 1e-10)


# ridge


@pytest.mark.parametrize("n_features", [1, 5, 27, 28, 29, 30, 60])
@pytest.mark.parametrize("alpha", [1e-3, 1.0, 1e3])
def test_leave_one_out_residuals_are_those_of_refits(n_features: int, alpha: float) -> None:
    rng = np.random.default_rng(n_features)
    n = 30
    x = rng.normal(size=(n, n_features)) + 2
    y = x[:, :3].sum(1, keepdims=True) + rng.normal(size=(n, 4)) - 1
    expected = np.empty((n, 4))
    for left_out, (rest, _) in enumerate(LeaveOneOut().split(x)):
        fit = Ridge(alpha, solver="svd").fit(x[rest], y[rest])
        expected[left_out] = y[left_out] - fit.predict(x[[left_out]])[0]
    agree(ridge_loo_residuals(FoldBasis(x, x), y, alpha), expected, 1e-10)
    z = sample_basis(gram([x])[0])
    agree(ridge_loo_residuals(FoldBasis(z, z), y, alpha), expected, 1e-10)
    agree(ridge(FoldBasis(z, z), y, np.array([alpha])).sse[0], (expected**2).sum(0), 1e-8)


@pytest.mark.parametrize("n_features", [40, 93, 94, 300])
def test_ridge_chooses_scikit_learn_s_penalties_and_predicts_as_it_does(n_features: int) -> None:
    rng = np.random.default_rng(n_features)
    x = rng.normal(size=(N_STIMULI, n_features)) / np.sqrt(np.arange(1, n_features + 1))
    noise = np.logspace(-1, 1, 60)  # so that the penalties spread
    y = x @ rng.normal(size=(n_features, 60)) + noise * rng.normal(size=(N_STIMULI, 60)) + 3
    train, test = slice(0, N_TRAIN), slice(N_TRAIN, None)
    found = ridge(FoldBasis(x[train], x[test]), y[train], ALPHAS)
    peer = RidgeCV(ALPHAS, alpha_per_target=True).fit(x[train], y[train])
    assert np.array_equal(ALPHAS[found.chosen], peer.alpha_)
    assert len(set(found.chosen)) > 3
    agree(found.prediction, peer.predict(x[test]), 1e-9)
    assert np.array_equal(found.chosen, found.sse.argmin(0))


def test_chunks_of_neurons_do_not_matter_to_ridge(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(n_neurons=10)
    expected = ridge(case.basis(), case.y_train, ALPHAS)
    monkeypatch.setattr("mousebench.regression._RIDGE_CHUNK", 3)
    found = ridge(case.basis(), case.y_train, ALPHAS)
    agree(found.prediction, expected.prediction, 1e-12)
    assert np.array_equal(found.chosen, expected.chosen)


def test_himalaya_chooses_the_same_penalties() -> None:
    himalaya = pytest.importorskip("himalaya.kernel_ridge", reason="himalaya is optional")
    case = Case("j^-.5", n_neurons=20)
    z = sample_basis(gram([case.x])[0])[case.train]
    found = ridge(FoldBasis(z, z), case.y_train, ALPHAS)
    peer = himalaya.KernelRidgeCV(ALPHAS, kernel="precomputed", fit_intercept=True, cv=KFold(N_TRAIN))
    peer.fit(z @ z.T, case.y_train)
    agree(peer.best_alphas_ / ALPHAS[found.chosen], np.ones(20), 1e-12)


def test_a_kernel_centred_over_all_stimuli_would_leak_the_one_left_out() -> None:
    """Without an intercept of its own in each fold, leave-one-out on centred data takes the smallest penalty."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 200))
    y = x @ rng.normal(size=(200, 30)) + 30 * rng.normal(size=(40, 30))
    alphas = np.logspace(-6, 6, 13)
    kernel, centred = x - x.mean(0), y - y.mean(0)
    kernel = kernel @ kernel.T
    leaky, brute = np.zeros((13, 30)), np.zeros((13, 30))
    for number, alpha in enumerate(alphas):
        hat = kernel @ np.linalg.inv(kernel + alpha * np.eye(40))
        leaky[number] = (((centred - hat @ centred) / (1 - np.diag(hat))[:, None]) ** 2).sum(0)
        for left_out, (rest, _) in enumerate(LeaveOneOut().split(x)):
            fit = Ridge(alpha, solver="cholesky").fit(x[rest], y[rest])
            brute[number] += (y[left_out] - fit.predict(x[[left_out]])[0]) ** 2
    assert (leaky.argmin(0) == 0).all()
    assert np.median(brute.argmin(0)) > 7
    assert np.array_equal(ridge(FoldBasis(x, x), y, alphas).chosen, brute.argmin(0))
