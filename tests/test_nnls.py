from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import nnls
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import KFold

from mousebench.nnls import Partition, Regressors, kfold, solve_nnls


def standardised(pairs: np.ndarray) -> np.ndarray:
    return (pairs - pairs.mean(0)) / pairs.std(0)


class Case:
    """Random regressors and targets over the pairs of some images, in the order of the upper triangle."""

    def __init__(self, n_stimuli: int = 30, n_layers: int = 5, n_targets: int = 3, n_folds: int = 6, seed: int = 0):
        rng = np.random.default_rng(seed)
        self.first, self.second = np.triu_indices(n_stimuli, 1)
        n_pairs = len(self.first)
        common = rng.normal(size=(n_pairs, 1))
        self.x = standardised(rng.normal(size=(n_pairs, n_layers)) + common)
        # some weights are negative, so that some of the fits lie on the boundary
        self.y = self.x @ rng.normal(size=(n_layers, n_targets)) + rng.normal(size=(n_pairs, n_targets)) + 0.7
        self.fold = kfold(n_stimuli, n_folds, seed)
        self.partition = Partition(self.fold)
        self.regressors = Regressors(self.x, self.partition)
        self.moments = self.regressors.moments(self.y[self.partition.order])

    def train(self, fold: int) -> np.ndarray:
        return (self.fold[self.first] != fold) & (self.fold[self.second] != fold)

    def within(self, fold: int) -> np.ndarray:
        return (self.fold[self.first] == fold) & (self.fold[self.second] == fold)

    def sklearn(self, fold: int, target: int) -> LinearRegression:
        train = self.train(fold)
        return LinearRegression(positive=True).fit(self.x[train], self.y[train, target])


# folds


@pytest.mark.parametrize("n_stimuli", [6, 18, 31, 117, 118, 119, 1000])
@pytest.mark.parametrize("n_folds", [2, 6])
def test_folds_are_scikit_learn_s(n_stimuli: int, n_folds: int) -> None:
    for seed in (0, 1, 12345):
        expected = np.empty(n_stimuli, dtype=int)
        splits = KFold(n_folds, shuffle=True, random_state=seed).split(np.zeros((n_stimuli, 1)))
        for number, (_, test) in enumerate(splits):
            expected[test] = number
        assert np.array_equal(kfold(n_stimuli, n_folds, seed), expected)


def test_the_118_scenes_fall_into_folds_of_20_and_19() -> None:
    assert np.bincount(kfold(118, 6, 0)).tolist() == [20, 20, 20, 20, 19, 19]


def test_folds_leave_the_global_random_state_alone() -> None:
    np.random.seed(3)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    kfold(118, 6, 0)
    assert np.array_equal(np.random.get_state()[1], before)  # noqa: NPY002


# pairs and blocks


def test_every_pair_is_in_the_block_of_its_folds() -> None:
    case = Case()
    first, second = (part[case.partition.order] for part in (case.first, case.second))
    seen = []
    for a, b, rows in case.partition.blocks:
        assert a <= b
        for i, j in zip(case.fold[first[rows]], case.fold[second[rows]], strict=True):
            assert {i, j} == {a, b}
        seen.extend(case.partition.order[rows])
    assert sorted(seen) == list(range(len(case.first)))


def test_training_pairs_hold_no_image_of_the_fold() -> None:
    partition = Case(118).partition
    sizes = np.array([rows.stop - rows.start for _, _, rows in partition.blocks])
    # as published: 4753 or 4851 training pairs, 4 * 190 + 2 * 171 pairs inside the held-out folds
    assert sorted({int(sizes[partition.train_blocks[fold]].sum()) for fold in range(6)}) == [4753, 4851]
    assert sum(sizes[partition.within(fold)] for fold in range(6)) == 1102


# fits


@pytest.mark.parametrize("n_layers", [1, 2, 5, 30])
def test_weights_and_intercept_are_scikit_learn_s(n_layers: int) -> None:
    case = Case(40, n_layers)
    on_the_boundary = 0
    for factor, (weight, intercept) in zip(case.regressors.factors, case.regressors.fits(case.moments), strict=True):
        for target in range(3):
            expected = case.sklearn(factor.fold, target)
            np.testing.assert_allclose(weight[:, target], expected.coef_, rtol=0, atol=1e-9)
            assert intercept[target] == pytest.approx(expected.intercept_, abs=1e-9)
            on_the_boundary += int((expected.coef_ == 0).sum())
    assert on_the_boundary > 0


def test_scores_within_folds_are_those_of_explicit_predictions() -> None:
    case = Case(40)
    found = case.regressors.score_within(case.moments)
    for target in range(3):
        sse = sst = 0.0
        for fold in range(6):
            model, test = case.sklearn(fold, target), case.within(fold)
            predicted, truth = model.predict(case.x[test]), case.y[test, target]
            assert found.r[fold, target] == pytest.approx(np.corrcoef(predicted, truth)[0, 1], abs=1e-10)
            sse += ((truth - predicted) ** 2).sum()
            sst += ((truth - case.y[case.train(fold), target].mean()) ** 2).sum()
        assert found.cv_r2[target] == pytest.approx(1 - sse / sst, abs=1e-10)
        mean_weight = np.mean([case.sklearn(fold, target).coef_ for fold in range(6)], axis=0)
        np.testing.assert_allclose(found.weight[:, target], mean_weight, rtol=0, atol=1e-9)


def test_predictions_are_those_of_the_folds_that_hold_out_an_image() -> None:
    case = Case()
    total, count = case.regressors.predict(case.regressors.fits(case.moments))
    expected, times = np.zeros(case.y.shape), np.zeros(len(case.y))
    for fold in range(6):
        test = ~case.train(fold)
        times[test] += 1
        for target in range(3):
            expected[test, target] += case.sklearn(fold, target).predict(case.x[test])
    order = case.partition.order
    np.testing.assert_allclose(total, expected[order], rtol=0, atol=1e-9)
    assert np.array_equal(count, times[order])
    assert set(count) == {1.0, 2.0}


def test_intercept_only_predicts_the_training_mean() -> None:
    case = Case()
    for fold, (weight, intercept) in enumerate(case.regressors.fits(case.moments, intercept_only=True)):
        assert not weight.any()
        np.testing.assert_allclose(intercept, case.y[case.train(fold)].mean(0), rtol=0, atol=1e-12)


def test_targets_fitted_together_are_fitted_as_each_alone() -> None:
    case = Case()
    together = case.regressors.score_within(case.moments)
    for target in range(3):
        alone = case.regressors.score_within(case.regressors.moments(case.y[case.partition.order][:, [target]]))
        np.testing.assert_allclose(alone.r[:, 0], together.r[:, target], rtol=0, atol=1e-12)
        np.testing.assert_allclose(alone.weight[:, 0], together.weight[:, target], rtol=0, atol=1e-12)


def test_noise_free_targets_are_predicted_perfectly() -> None:
    case = Case(n_layers=4)
    planted = np.array([0.5, 0.0, 2.0, 1.0])
    y = (case.x @ planted - 3)[case.partition.order][:, None]
    found = case.regressors.score_within(case.regressors.moments(y))
    np.testing.assert_allclose(found.r, 1, rtol=0, atol=1e-10)
    np.testing.assert_allclose(found.cv_r2, 1, rtol=0, atol=1e-10)
    np.testing.assert_allclose(found.weight[:, 0], planted, rtol=0, atol=1e-9)


def test_anticorrelated_layers_get_no_weight_and_score_zero() -> None:
    case = Case(n_layers=1)
    found = case.regressors.score_within(case.regressors.moments(-case.x[case.partition.order]))
    assert (found.weight == 0).all()
    assert (found.r == 0).all()
    assert (found.cv_r2 < 0.01).all()


def test_a_constant_target_scores_zero_without_a_warning() -> None:
    case = Case()
    y = np.full((len(case.y), 1), 0.3)
    assert (case.regressors.score_within(case.regressors.moments(y)).r == 0).all()


@pytest.mark.parametrize("n_copies", [1, 3])
def test_copies_among_the_layers_leave_the_predictions_as_they_are(n_copies: int) -> None:
    case = Case(n_layers=4)
    doubled = Regressors(np.hstack([case.x] + [case.x[:, :2]] * n_copies), case.partition)
    expected, _ = case.regressors.predict(case.regressors.fits(case.moments))
    found, _ = doubled.predict(doubled.fits(doubled.moments(case.y[case.partition.order])))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_a_layer_that_is_a_mixture_of_others_leaves_the_predictions_as_they_are() -> None:
    case = Case(n_layers=4)
    mixture = standardised(case.x[:, :1] + 2 * case.x[:, 1:2])
    wider = Regressors(np.hstack([case.x, mixture]), case.partition)
    y = np.abs(case.x) @ np.ones((4, 1)) + case.x @ np.ones((4, 1))
    total, _ = wider.predict(wider.fits(wider.moments(y[case.partition.order])))
    narrow, _ = case.regressors.predict(case.regressors.fits(case.regressors.moments(y[case.partition.order])))
    np.testing.assert_allclose(total, narrow, rtol=0, atol=1e-6)


def test_more_layers_than_training_pairs_fit_as_well_as_scikit_learn() -> None:
    case = Case(12, n_layers=60, n_folds=3)
    assert case.train(0).sum() < 60
    for factor, (weight, intercept) in zip(case.regressors.factors, case.regressors.fits(case.moments), strict=True):
        assert np.isfinite(weight).all()
        assert (weight >= 0).all()
        train = case.train(factor.fold)
        for target in range(3):
            ours = case.x[train] @ weight[:, target] + intercept[target] - case.y[train, target]
            theirs = case.sklearn(factor.fold, target).predict(case.x[train]) - case.y[train, target]
            assert (ours**2).sum() == pytest.approx((theirs**2).sum(), abs=1e-6)


def test_a_fold_of_one_image_has_no_pairs_and_no_score() -> None:
    fold = np.array([0, 0, 0, 0, 1, 1, 1, 2])
    partition = Partition(fold)
    assert [partition.within(number) is None for number in range(3)] == [False, False, True]
    rng = np.random.default_rng(0)
    regressors = Regressors(standardised(rng.normal(size=(28, 2))), partition)
    found = regressors.score_within(regressors.moments(rng.normal(size=(28, 1))))
    assert found.r.shape == (2, 1)
    assert np.isfinite(found.r).all()


# the solver


def drifting(n_layers: int, similarity: float, n_rows: int = 700, seed: int = 0) -> np.ndarray:
    """Return columns that drift with depth, as the RDMs of a net's layers do."""
    rng = np.random.default_rng(seed)
    columns = rng.normal(size=(n_rows, n_layers))
    for depth in range(1, n_layers):
        columns[:, depth] = similarity * columns[:, depth - 1] + np.sqrt(1 - similarity**2) * columns[:, depth]
    return standardised(columns)


def by_scipy(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.column_stack([nnls(x, column)[0] for column in y.T])


@pytest.mark.parametrize("n_layers", [1, 2, 8])
def test_solve_nnls_is_scipy_s_on_the_full_data(n_layers: int) -> None:
    rng = np.random.default_rng(n_layers)
    x, y = rng.normal(size=(50, n_layers)), rng.normal(size=(50, 12))
    found = solve_nnls(x.T @ x, x.T @ y)
    expected = by_scipy(x, y)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
    assert (expected == 0).any()
    assert (expected > 0).any()


@pytest.mark.parametrize("wrong", [0.0, 0.2, 1.0])
def test_weights_do_not_depend_on_the_guess_from_which_they_are_sought(wrong: float) -> None:
    rng = np.random.default_rng(3)
    x = rng.normal(size=(200, 20)) + rng.normal(size=(200, 1))
    y = x @ rng.normal(size=(20, 40)) + rng.normal(size=(200, 40))
    expected = np.stack([nnls(x, column)[0] for column in y.T], axis=1)
    near = (expected > 0) ^ (rng.random(expected.shape) < wrong)
    np.testing.assert_allclose(solve_nnls(x.T @ x, x.T @ y, near), expected, atol=1e-10)


def test_solve_nnls_without_a_positive_correlation_gives_zeros() -> None:
    rng = np.random.default_rng(0)
    x = np.abs(rng.normal(size=(30, 4)))
    y = -np.abs(rng.normal(size=(30, 2)))
    assert (solve_nnls(x.T @ x, x.T @ y) == 0).all()


@pytest.mark.parametrize(("n_layers", "similarity"), [(2, 0.5), (50, 0.0), (50, 0.9), (150, 0.97), (300, 0.99)])
def test_many_weak_targets_in_lockstep_have_scipy_s_weights(
    n_layers: int, similarity: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = drifting(n_layers, similarity)
    y = np.random.default_rng(1).normal(size=(len(x), 100))
    monkeypatch.setattr("mousebench.nnls._MANY", 0)
    monkeypatch.setattr("mousebench.nnls.nnls", None)  # not one is left to scipy
    found = solve_nnls(x.T @ x, x.T @ y)
    monkeypatch.undo()
    expected = by_scipy(x, y)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)
    assert ((expected > 0) == (found > 0)).all()
    assert (expected > 0).any()


def test_targets_that_many_layers_drive_are_solved_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    x = drifting(50, 0.8)
    rng = np.random.default_rng(2)
    y = x @ (rng.random((50, 110)) * np.linspace(0, 1, 110)) + rng.normal(size=(len(x), 110))
    expected = by_scipy(x, y)
    for most in (64, 10, 1):  # beyond it scipy takes over
        monkeypatch.setattr("mousebench.nnls._MAX_ACTIVE", most)
        found = solve_nnls(x.T @ x, x.T @ y)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)
    assert (expected > 0).sum(0).min() < 20
    assert (expected > 0).sum(0).max() > 40


def test_chunks_of_targets_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    x = drifting(60, 0.9)
    y = np.random.default_rng(3).normal(size=(len(x), 130))
    expected = solve_nnls(x.T @ x, x.T @ y)
    monkeypatch.setattr("mousebench.nnls._CHUNK", 50)
    np.testing.assert_allclose(solve_nnls(x.T @ x, x.T @ y), expected, rtol=0, atol=1e-13)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    n_layers=st.integers(2, 40),
    similarity=st.sampled_from([0, 0.9, 0.9999, 1 - 1e-9]),
    signal=st.sampled_from([0, 0.1, 1]),
)
def test_no_layer_could_lower_the_error(seed: int, n_layers: int, similarity: float, signal: float) -> None:
    """The conditions of Karush, Kuhn and Tucker hold, for nearly equal layers too."""
    x = drifting(n_layers, similarity, 200, seed)
    rng = np.random.default_rng(seed)
    y = signal * x @ rng.random((n_layers, 30)) + rng.normal(size=(200, 30))
    gram = x.T @ x + 200e-10 * np.eye(n_layers)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mousebench.nnls._MANY", 0)
        weight = solve_nnls(gram, x.T @ y)
    gradient = x.T @ y - gram @ weight
    scale = 1e-9 * np.abs(x.T @ y).max()
    assert (weight >= 0).all()
    assert gradient.max() <= scale
    assert np.abs(gradient[weight > 0]).max(initial=0) <= scale
