"""Joint PLS as scikit-learn stops it, against scikit-learn on the features."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.cross_decomposition import PLSRegression

from mousebench.linalg import gram, pearson_columns
from mousebench.nipals import nipals
from mousebench.regression import FoldBasis, Responses, pls2, sample_basis

N, N_TRAIN = 40, 30
TEST = slice(N_TRAIN, None)


def case(
    n_features: int, n_neurons: int, seed: int = 0, noise: float = 1.0
) -> tuple[np.ndarray, np.ndarray, FoldBasis]:
    """Return features with a spectrum that falls as 1/j, the neurons that they drive, and the basis of the fold."""
    rng = np.random.default_rng([seed, n_features, n_neurons])
    x = rng.normal(size=(N, n_features)) / np.arange(1, n_features + 1) + 2
    y = x @ rng.normal(size=(n_features, n_neurons))
    y = y / y.std(0) + noise * rng.normal(size=y.shape) + 1
    rows = sample_basis(gram([x])[0])
    return x, y, FoldBasis(rows[:N_TRAIN], rows[TEST])


def ours(basis: FoldBasis, y: np.ndarray, n_components: int, **options: float) -> np.ndarray:
    return nipals(basis, [Responses.of(y[:N_TRAIN])], n_components, **options)[0]


def peer(x: np.ndarray, y: np.ndarray, n_components: int, **options: float) -> np.ndarray:
    fit = PLSRegression(n_components, scale=False, **options).fit(x[:N_TRAIN], y[:N_TRAIN])
    return fit.predict(x[TEST]).reshape(N - N_TRAIN, -1)


@pytest.mark.parametrize(
    ("n_features", "n_neurons", "n_components"),
    [(200, 1, 12), (200, 2, 25), (200, 7, 25), (200, 29, 25), (200, 300, 25), (200, 300, 1), (8, 5, 8), (8, 60, 3)],
)
def test_predictions_are_scikit_learn_s(n_features: int, n_neurons: int, n_components: int) -> None:
    x, y, basis = case(n_features, n_neurons)
    found, expected = ours(basis, y, n_components), peer(x, y, n_components)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-8)
    np.testing.assert_allclose(pearson_columns(found, y[TEST]), pearson_columns(expected, y[TEST]), rtol=0, atol=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_the_neurons_matters_as_it_does_there(seed: int) -> None:
    x, y, basis = case(200, 20, seed)
    order = np.random.default_rng(seed).permutation(20)
    found = ours(basis, y[:, order], 20)
    np.testing.assert_allclose(found, peer(x, y[:, order], 20), rtol=0, atol=1e-8)
    assert np.abs(found - ours(basis, y, 20)[:, order]).max() > 1e-4


@pytest.mark.parametrize(("tol", "max_iter"), [(1e-2, 500), (1e-12, 500), (1e-6, 4)])
@pytest.mark.filterwarnings("ignore:Maximum number of iterations reached")
def test_tolerance_and_number_of_steps_are_those_of_scikit_learn(tol: float, max_iter: int) -> None:
    x, y, basis = case(200, 12)
    found = ours(basis, y, 10, tolerance=tol, max_steps=max_iter)
    np.testing.assert_allclose(found, peer(x, y, 10, tol=tol, max_iter=max_iter), rtol=0, atol=1e-8)


def test_with_a_tight_tolerance_it_is_the_exact_pls2() -> None:
    _, y, basis = case(200, 12)
    found = ours(basis, y, 6, tolerance=1e-26, max_steps=100_000)
    np.testing.assert_allclose(found, pls2(basis, y[:N_TRAIN], 6), rtol=0, atol=1e-10)


def test_constant_neurons_start_nothing_and_are_predicted_to_be_constant() -> None:
    x, y, basis = case(200, 6)
    y[:, 0], y[:N_TRAIN, 1] = 0.1, 3.0
    found = ours(basis, y, 10)
    np.testing.assert_allclose(found, peer(x, y, 10), rtol=0, atol=1e-8)
    assert np.ptp(found[:, :2], axis=0).max() < 1e-12
    np.testing.assert_allclose(found[:, 2:], ours(basis, y[:, 2:], 10), rtol=0, atol=1e-12)
    nothing = ours(basis, np.full((N, 3), 0.1), 10)
    np.testing.assert_allclose(nothing, 0.1, rtol=0, atol=1e-15)


def test_the_next_neuron_starts_once_the_first_is_fitted() -> None:
    # the first feature and the first neuron are orthogonal to all others: one component is all of that neuron
    x, y, _ = case(50, 5)
    sign = np.where(np.arange(N_TRAIN) < N_TRAIN // 2, 1.0, -1.0)
    x[N_TRAIN // 2 : N_TRAIN], y[N_TRAIN // 2 : N_TRAIN] = x[: N_TRAIN // 2], y[: N_TRAIN // 2]
    x[:N_TRAIN, 0], y[:N_TRAIN, 0] = 8 * sign, sign / 8
    basis = FoldBasis(x[:N_TRAIN], x[TEST])
    other = FoldBasis(np.delete(x, 0, 1)[:N_TRAIN], np.delete(x, 0, 1)[TEST])
    found = ours(basis, y, 4)
    np.testing.assert_allclose(found, peer(x, y, 4), rtol=0, atol=1e-8)
    np.testing.assert_allclose(found[:, 1:], ours(other, y[:, 1:], 3), rtol=0, atol=1e-8)


@pytest.mark.parametrize("n_features", [1, 3])
def test_no_more_components_than_the_layer_has_dimensions(n_features: int) -> None:
    x, y, basis = case(n_features, 9)
    found = ours(basis, y, 25)
    np.testing.assert_allclose(found, peer(x, y, n_features), rtol=0, atol=1e-8)
    design = np.column_stack([np.ones(N), x])
    least_squares = design[TEST] @ np.linalg.lstsq(design[:N_TRAIN], y[:N_TRAIN])[0]
    np.testing.assert_allclose(found, least_squares, rtol=0, atol=1e-8)


def test_what_is_linear_is_predicted_perfectly_and_then_it_stops() -> None:
    _, y, basis = case(12, 30, noise=0.0)
    np.testing.assert_allclose(ours(basis, y, 25), y[TEST], rtol=0, atol=1e-8)


def test_a_layer_without_variance_in_training_predicts_the_mean() -> None:
    _, y, _ = case(8, 4)
    basis = FoldBasis(np.zeros((N_TRAIN, 3)), np.ones((N - N_TRAIN, 3)))
    np.testing.assert_allclose(ours(basis, y, 25), np.tile(y[:N_TRAIN].mean(0), (N - N_TRAIN, 1)), rtol=0, atol=1e-14)


def test_sets_do_not_see_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    _, y, basis = case(200, 30)
    sets = [Responses.of(y[:N_TRAIN, some]) for some in (slice(0, 1), slice(1, 4), slice(4, 30), slice(0, 30))]
    alone = [nipals(basis, [one], 20)[0] for one in sets]
    for together in (nipals(basis, sets, 20), nipals(basis, sets[::-1], 20)[::-1]):
        for found, expected in zip(together, alone, strict=True):
            assert np.array_equal(found, expected)
    monkeypatch.setattr("mousebench.nipals._CACHED", 1)
    for found, expected in zip(nipals(basis, sets, 20), alone, strict=True):
        assert np.array_equal(found, expected)
    assert nipals(basis, [], 20) == []
