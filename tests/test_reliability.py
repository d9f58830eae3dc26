from __future__ import annotations

import numpy as np
import pytest

from mousebench.reliability import half_masks, half_means, neuroid_reliability, rdm_reliability, spearman_brown


def cube_of(n_stimuli: int = 20, n_repetitions: int = 9, n_neuroids: int = 7, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    signal = rng.normal(size=(n_stimuli, 1, n_neuroids)) * np.linspace(0, 1.5, n_neuroids)
    return (signal + rng.normal(size=(n_stimuli, n_repetitions, n_neuroids))).astype(np.float32)


def slow_half_mean(trials: np.ndarray) -> float:
    trials = trials[~np.isnan(trials)].astype(np.float64)
    return float(trials.mean()) if len(trials) else np.nan


def slow_neuroid_reliability(cube: np.ndarray, seed: int, n_splits: int) -> np.ndarray:
    """Correct inside the split, one shuffle a split shared by all images, in loops."""
    rng = np.random.default_rng(seed)
    n_stimuli, n_repetitions, n_neuroids = cube.shape
    shuffles = [rng.permutation(n_repetitions) for _ in range(n_splits)]
    out = []
    for neuroid in range(n_neuroids):
        corrected = []
        for shuffle in shuffles:
            first, second = shuffle[: n_repetitions // 2], shuffle[n_repetitions // 2 :]
            a = [slow_half_mean(cube[stimulus, first, neuroid]) for stimulus in range(n_stimuli)]
            b = [slow_half_mean(cube[stimulus, second, neuroid]) for stimulus in range(n_stimuli)]
            if np.std(a) > 0 and np.std(b) > 0:
                r = max(np.corrcoef(a, b)[0, 1], -1 / 3)
                corrected.append(2 * r / (1 + r))
        out.append(np.mean(corrected) if corrected else np.nan)
    return np.array(out)


def test_neuroid_reliability_is_the_slow_loop_s() -> None:
    cube = cube_of()
    fast = neuroid_reliability(cube, np.random.default_rng(3), n_splits=11)
    np.testing.assert_allclose(fast, slow_neuroid_reliability(cube, 3, 11), rtol=0, atol=1e-12)


def test_neuroid_reliability_with_missing_trials_is_the_slow_loop_s() -> None:
    cube = cube_of(seed=1)
    cube[np.random.default_rng(2).random(cube.shape) < 0.2] = np.nan
    cube[4, 6:] = np.nan  # one image was shown less often than the others
    fast = neuroid_reliability(cube, np.random.default_rng(3), n_splits=11)
    assert np.isfinite(fast).all()
    np.testing.assert_allclose(fast, slow_neuroid_reliability(cube, 3, 11), rtol=0, atol=1e-12)


@pytest.mark.parametrize("chunk", [1, 3, 7, 1000])
def test_neuroids_at_a_time_do_not_change_reliability(chunk: int) -> None:
    cube = cube_of()
    whole = neuroid_reliability(cube, np.random.default_rng(0), n_splits=5, chunk=128)
    np.testing.assert_allclose(
        neuroid_reliability(cube, np.random.default_rng(0), n_splits=5, chunk=chunk), whole, rtol=0, atol=1e-13
    )


def test_a_neuroid_that_never_varies_has_no_reliability_and_keeps_its_place() -> None:
    cube = cube_of()
    expected = neuroid_reliability(cube, np.random.default_rng(0), n_splits=5)
    cube[:, :, 2] = 0.25
    found = neuroid_reliability(cube, np.random.default_rng(0), n_splits=5)
    assert np.isnan(found[2])
    np.testing.assert_allclose(np.delete(found, 2), np.delete(expected, 2), rtol=0, atol=1e-13)


def test_a_neuroid_without_trials_has_no_reliability() -> None:
    cube = cube_of()
    cube[:, :, 0] = np.nan
    found = neuroid_reliability(cube, np.random.default_rng(0), n_splits=5)
    assert np.isnan(found[0])
    assert np.isfinite(found[1:]).all()


def test_perfect_neuroids_have_reliability_one() -> None:
    cube = np.repeat(np.random.default_rng(0).normal(size=(15, 1, 3)), 6, axis=1)
    np.testing.assert_allclose(neuroid_reliability(cube, np.random.default_rng(0)), 1, rtol=0, atol=1e-12)


def test_reliability_recovers_signal_to_noise() -> None:
    # n trials of unit noise on a signal of variance v: the mean has reliability v / (v + 1 / n)
    rng = np.random.default_rng(4)
    variance, n_repetitions = 0.05, 40
    signal = rng.normal(size=(118, 1, 200)) * np.sqrt(variance)
    cube = signal + rng.normal(size=(118, n_repetitions, 200))
    expected = variance / (variance + 1 / n_repetitions)
    assert neuroid_reliability(cube, np.random.default_rng(0), n_splits=20).mean() == pytest.approx(expected, abs=0.02)


def test_pure_noise_has_reliability_near_zero() -> None:
    # 2 r / (1 + r) is concave: the mean over splits lies 2 var(r) = 2 / (n - 1) below 0
    cube = np.random.default_rng(5).normal(size=(118, 20, 1500))
    found = neuroid_reliability(cube, np.random.default_rng(0), n_splits=20)
    assert found.mean() == pytest.approx(-2 / 117, abs=0.012)


def test_rdm_reliability_is_the_slow_loop_s() -> None:
    cube = cube_of(n_neuroids=12)
    cube[3, :2] = np.nan
    rng = np.random.default_rng(6)
    expected = []
    for _ in range(8):
        shuffle = rng.permutation(cube.shape[1])
        halves = [np.nanmean(cube[:, half].astype(np.float64), axis=1) for half in (shuffle[:4], shuffle[4:])]
        pairs = [(1 - np.corrcoef(half))[np.triu_indices(len(half), 1)] for half in halves]
        expected.append(np.corrcoef(*pairs)[0, 1])
    found = rdm_reliability(cube, np.random.default_rng(6), n_splits=8)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_rdm_reliability_does_not_depend_on_the_order_of_neuroids() -> None:
    cube = cube_of(n_neuroids=12)
    one, other = (rdm_reliability(c, np.random.default_rng(0), 5) for c in (cube, cube[:, :, ::-1]))
    np.testing.assert_allclose(one, other, rtol=0, atol=1e-12)


def test_a_half_without_an_rdm_gives_nan() -> None:
    cube = cube_of(n_neuroids=4)
    cube[5] = 1  # all neuroids answer alike to this image
    assert np.isnan(rdm_reliability(cube, np.random.default_rng(0), 3)).all()


def test_half_means_are_plain_means_of_the_halves() -> None:
    cube = cube_of()
    masks = half_masks(cube.shape[1], 3, np.random.default_rng(0))
    first, second = half_means(cube, masks)
    for split, mask in enumerate(masks):
        np.testing.assert_allclose(first[split], cube[:, mask].mean(1, dtype=np.float64), rtol=0, atol=1e-13)
        np.testing.assert_allclose(second[split], cube[:, ~mask].mean(1, dtype=np.float64), rtol=0, atol=1e-13)


def test_a_half_without_trials_of_an_image_is_nan() -> None:
    cube = cube_of(n_repetitions=4)
    cube[0, :2, 1] = np.nan
    first, second = half_means(cube, np.array([[True, True, False, False]]))
    assert np.argwhere(np.isnan(first)).tolist() == [[0, 0, 1]]
    assert np.isfinite(second).all()


@pytest.mark.parametrize(("n_repetitions", "n_first"), [(2, 1), (3, 1), (50, 25)])
def test_halves_are_halves(n_repetitions: int, n_first: int) -> None:
    masks = half_masks(n_repetitions, 40, np.random.default_rng(0))
    assert masks.shape == (40, n_repetitions)
    assert (masks.sum(1) == n_first).all()
    assert masks.any(0).all()
    assert len(np.unique(masks, axis=0)) > 1


def test_one_repetition_cannot_be_split() -> None:
    with pytest.raises(ValueError, match="at least two repetitions"):
        half_masks(1, 3, np.random.default_rng(0))


def test_spearman_brown_inverts_half_the_trials() -> None:
    r = np.array([0, 0.2, 0.5, 1])
    np.testing.assert_allclose(spearman_brown(r), 2 * r / (1 + r), rtol=1e-15)
    assert float(spearman_brown(0.5)) == pytest.approx(2 / 3)


@pytest.mark.parametrize("r", [-1.0, -0.999999, -0.5, -1 / 3])
def test_spearman_brown_does_not_run_away(r: float) -> None:
    assert float(spearman_brown(r)) == pytest.approx(-1)


def test_spearman_brown_keeps_order_and_nan() -> None:
    corrected = spearman_brown(np.linspace(-1 / 3, 1, 50))
    assert (np.diff(corrected) > 0).all()
    assert np.isnan(spearman_brown(np.array([np.nan, 0.5]))).tolist() == [True, False]
