"""Influences by finite differences and by loops; their variances by repeating the experiment."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from worlds import weighted_rdm

from mousebench.influence import (
    NeuroidPull,
    by_stimulus,
    cosine_pull,
    gram_neuroid_pull,
    image_changes,
    neuroid_changes,
    rdm_neuroid_pull,
    widening,
)
from mousebench.linalg import weighted_pearson
from mousebench.reliability import growth, of_all_trials, spearman_brown
from mousebench.resampling import about, image_counts

EPS = 1e-5


def centred(seed: int, n: int = 45) -> np.ndarray:
    values = np.random.default_rng(seed).normal(size=n)
    return values - values.mean()


def test_the_pull_is_the_slope_of_pearson_on_weights_and_values() -> None:
    x, y = centred(0), centred(1) + 0.5 * centred(0)
    pull = cosine_pull(x, y)
    assert pull.weight.sum() == pytest.approx(0, abs=1e-12)
    for p in (0, 17, 44):
        weights = np.ones((2, 45))
        weights[:, p] += [EPS, -EPS]
        r = weighted_pearson(x[:, None], y[:, None], weights)[:, 0]
        assert pull.weight[p] == pytest.approx((r[0] - r[1]) / (2 * EPS), abs=1e-8)
        step = np.zeros(45)
        step[p] = EPS
        r = [np.corrcoef(x, y + s * step)[0, 1] for s in (1, -1)]
        assert pull.second[p] - pull.second.mean() == pytest.approx((r[0] - r[1]) / (2 * EPS), abs=1e-8)
        r = [np.corrcoef(x + s * step, y)[0, 1] for s in (1, -1)]
        assert pull.first[p] == pytest.approx((r[0] - r[1]) / (2 * EPS), abs=1e-8)


def test_a_constant_prediction_pulls_nothing() -> None:
    pull = cosine_pull(np.zeros(6), centred(0, 6))
    assert not pull.weight.any()
    assert not pull.second.any()
    # it says 0, which is below the mean over folds
    assert cosine_pull(np.zeros(6), centred(0, 6), 0.3).weight.sum() == pytest.approx(-0.3)


def test_neuroid_pulls_are_those_of_all_pairs_and_neuroids() -> None:
    rng = np.random.default_rng(0)
    n, n_neuroids = 9, 7
    means, value = 2 + rng.normal(size=(n, n_neuroids)), rng.normal(size=36)
    first, second = np.triu_indices(n, 1)
    z = (means - means.mean(1, keepdims=True)) / means.std(1, keepdims=True)
    r = np.corrcoef(means)[first, second]
    rdm = -(z[first] * z[second] - r[:, None] * (z[first] ** 2 + z[second] ** 2) / 2) / n_neuroids
    y = means - means.mean(0)
    gram = y[first] * y[second] - (y[first] * y[second]).mean(1, keepdims=True)
    for found, change in ((rdm_neuroid_pull(means, value), rdm), (gram_neuroid_pull(means, value), gram)):
        h = value[:, None] * change
        by_image = np.stack([by_stimulus(column, n) for column in h.T], axis=1)
        np.testing.assert_allclose(found.by_image, by_image, rtol=0, atol=1e-12)
        np.testing.assert_allclose(found.squares, (h**2).sum(0), rtol=0, atol=1e-10)
    step = EPS * (np.arange(n_neuroids) == 3)
    moved = [value @ weighted_rdm(means, 1 + sign * step) for sign in (1, -1)]
    pull = rdm_neuroid_pull(means, value).by_image.sum(0) / 2
    assert pull[3] == pytest.approx((moved[0] - moved[1]) / (2 * EPS), abs=1e-8)


@pytest.mark.parametrize("own", [0.0, 0.3, 2.0])
def test_changes_with_images_have_the_variance_of_repeated_experiments(own: float) -> None:
    """Means over pairs of a_i + a_j + e_ij: variance 4 own^2 / n + 1 / n_pairs; product weights would have three times the 1."""
    n, n_worlds = 30, 400
    first, second = np.triu_indices(n, 1)
    counts = image_counts(n, 0, 500)
    rng = np.random.default_rng(1)
    variances = []
    for _ in range(n_worlds):
        a = own * rng.normal(size=n)
        h = a[first] + a[second] + rng.normal(size=len(first))
        weight = (h - h.mean()) / len(h)
        variances.append(image_changes(weight, counts).var() / widening(by_stimulus(weight, n)) ** 2)
    truth = 4 * own**2 / n + 1 / len(first)
    # sd of the mean of 400 estimates below 3 %, of the counts of 500 draws about 3 %
    # where images have no part of their own, cutting estimates that are too small leaves the others
    assert (0.9 if own else 1.0) < np.mean(variances) / truth < (1.1 if own else 1.2)


def test_changes_with_images_and_neuroids_together_have_the_variance_of_repeated_experiments() -> None:
    """The noise of responses moves both; counted once, as it should be."""
    n, n_neuroids, n_worlds = 20, 12, 300
    rng = np.random.default_rng(0)
    first, second = np.triu_indices(n, 1)
    images, neuroids = image_counts(n, 0, 300), image_counts(n_neuroids, 1, 300)
    estimates, found, naive = [], [], []
    for _ in range(n_worlds):
        # each image has a value, each neuroid a gain, each response noise
        cells = 0.1 * rng.normal(size=(n, 1)) + 0.2 * rng.normal(size=n_neuroids) + rng.normal(size=(n, n_neuroids))
        h = (cells[first] + cells[second]) / 2 / len(first) / n_neuroids
        total = h.sum(1)
        estimates.append(h.sum())
        apart = h - total[:, None] / n_neuroids  # the mean over neuroids belongs to the image
        apart = apart - apart.mean(0) + h.mean(0) - h.mean()  # but the means of neuroids are theirs
        by_image = np.stack([by_stimulus(column, n) for column in apart.T], axis=1)
        pull = NeuroidPull(by_image, (apart**2).sum(0))
        by_images = image_changes(total - total.mean(), images)
        by_neuroids = neuroid_changes(pull, neuroids, np.zeros(n_neuroids, dtype=int))
        of_neuroid = by_image.sum(0) / 2
        wider = widening(by_stimulus(total, n)), widening(of_neuroid)
        found.append(by_images.var() / wider[0] ** 2 + by_neuroids.var() / wider[1] ** 2)
        naive.append(by_images.var() / wider[0] ** 2 + np.square(of_neuroid - of_neuroid.mean()).sum())
    truth = np.var(estimates)  # sd of it: 8 %
    assert np.mean(found) == pytest.approx(truth, rel=0.25)
    assert np.mean(naive) > 1.25 * np.mean(found)


def test_intervals_widen_where_few_pulls_are_large() -> None:
    even = np.where(np.arange(1000) % 2, 1.0, -1.0)
    assert widening(even) == 1
    normal = np.random.default_rng(0).normal(size=1000)
    assert widening(normal) == pytest.approx(stats.t.ppf(0.975, 1000) / stats.norm.ppf(0.975), abs=1e-3)
    one = np.zeros(30)
    one[3] = 1
    assert widening(one) == pytest.approx(stats.t.ppf(0.975, 4) / stats.norm.ppf(0.975))


def test_animals_count_where_they_differ() -> None:
    rng = np.random.default_rng(0)
    animals = np.repeat(np.arange(10), 6)
    counts = image_counts(60, 0, 300)
    none = np.zeros(60)
    alike = NeuroidPull(np.tile(rng.normal(size=60), (5, 1)), none)
    apart = NeuroidPull(np.tile(rng.normal(size=10)[animals], (5, 1)), none)
    for pull, ratio in ((alike, (0.99, 1.5)), (apart, (2.0, 3.0))):  # all alike inside: 6 times the variance
        with_animals = neuroid_changes(pull, counts, animals).std()
        without = neuroid_changes(pull, counts, np.zeros(60, dtype=int)).std()
        assert ratio[0] < with_animals / without < ratio[1]


def test_draws_about_a_correlation_stay_correlations() -> None:
    changes = np.linspace(-3, 3, 13)
    for estimate in (-0.99, 0.0, 0.95):
        draws = about(estimate, changes)
        assert (np.abs(draws) <= 1).all()
        assert draws[6] == pytest.approx(estimate, abs=1e-12)
        slope = (about(estimate, np.array([EPS])) - about(estimate, np.array([-EPS]))) / (2 * EPS)
        assert slope[0] == pytest.approx(1, abs=1e-6)
    assert (about(1.0, changes) == 1).all()


def test_growth_two_is_spearman_brown() -> None:
    for half in (-0.8, -0.2, 0.0, 0.4, 1.0):
        assert of_all_trials(half, 2.0) == pytest.approx(float(spearman_brown(half)), abs=1e-12)
    # r / (1 - r) of 1/9 and 1/4 grow by 9/4
    assert growth(0.2, 0.1) == pytest.approx(9 / 4)
    assert growth(0.2, 0.001) == 4
    assert growth(0.2, 0.19) == growth(0.2, np.nan) == growth(-0.2, 0.1) == growth(1.0, 1.0) == 2
