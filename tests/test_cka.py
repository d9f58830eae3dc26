from __future__ import annotations

import numpy as np
import pytest

from mousebench.cka import biased_cka, debiased_cka, debiased_cka_permuted, u_centred


def features(n: int, width: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, width)) + 3


def hsic(x: np.ndarray, y: np.ndarray) -> float:
    """Return the unbiased estimate, equation 5 of Song et al. (2012), as it is printed."""
    n = len(x)
    k, m = x - np.diag(np.diag(x)), y - np.diag(np.diag(y))
    one = np.ones(n)
    rest = (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2)) - 2 / (n - 2) * (one @ k @ m @ one)
    return float((np.trace(k @ m) + rest) / (n * (n - 3)))


def formula(x: np.ndarray, y: np.ndarray) -> float:
    return hsic(x, y) / np.sqrt(hsic(x, x) * hsic(y, y))


@pytest.mark.parametrize("n", [4, 5, 30, 118])
@pytest.mark.parametrize("width", [1, 50])
def test_debiased_cka_is_the_formula_s(n: int, width: int) -> None:
    x = features(n, width, 0)
    for y in (x, x + features(n, width, 1), features(n, 7, 2)):
        gram_x, gram_y = x @ x.T, y @ y.T
        assert debiased_cka(gram_x, gram_y) == pytest.approx(formula(gram_x, gram_y), abs=1e-10)


def test_unrelated_wide_features_are_at_0_when_debiased_and_high_when_not() -> None:
    values = []
    for seed in range(10):
        x, y = features(50, 500, seed), features(50, 500, 1000 + seed)
        values.append([debiased_cka(x @ x.T, y @ y.T), biased_cka(x @ x.T, y @ y.T)])
    debiased, biased = np.mean(values, axis=0)
    assert abs(debiased) < 0.03  # 3 standard errors of 10 pairs
    assert biased > 0.8


def test_biased_cka_is_that_of_the_features() -> None:
    x, y = features(30, 10, 0), features(30, 20, 1)
    a, b = x - x.mean(0), y - y.mean(0)
    expected = (np.linalg.norm(a.T @ b) / np.linalg.norm(a.T @ a) ** 0.5 / np.linalg.norm(b.T @ b) ** 0.5) ** 2
    assert biased_cka(x @ x.T, y @ y.T) == pytest.approx(expected, abs=1e-12)


def test_all_layers_and_permutations_at_once_are_as_one_by_one() -> None:
    rng = np.random.default_rng(0)
    layers = np.stack([x @ x.T for x in (features(20, width, width) for width in (3, 30, 100))])
    target = features(20, 30, 30)[:, :5]
    gram_y = target @ target.T
    permutations = np.stack([np.arange(20), *(rng.permutation(20) for _ in range(150))])
    found = debiased_cka_permuted(u_centred(layers), u_centred(gram_y), permutations)
    assert found.shape == (3, 151)
    for layer in range(3):
        for column in range(151):
            relabelled = gram_y[permutations[column]][:, permutations[column]]
            assert found[layer, column] == pytest.approx(formula(layers[layer], relabelled), abs=1e-10)


def test_scale_offset_rotation_and_a_common_order_do_not_matter() -> None:
    rng = np.random.default_rng(0)
    x, y = features(25, 12, 0), features(25, 12, 0)[:, :4] + features(25, 4, 1)
    expected = debiased_cka(x @ x.T, y @ y.T)
    rotation = np.linalg.qr(rng.normal(size=(12, 12)))[0]
    order = rng.permutation(25)
    for other_x, other_y in ((7 * x, y), (x + 100, y), (x @ rotation, y), (x[order], y[order])):
        assert debiased_cka(other_x @ other_x.T, other_y @ other_y.T) == pytest.approx(expected, abs=1e-10)
    assert debiased_cka(x @ x.T, x @ x.T) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e6])
def test_features_that_are_alike_for_all_stimuli_have_no_cka(value: float) -> None:
    x, constant = features(10, 5, 0), np.full((10, 300), value)
    assert np.isnan(debiased_cka(x @ x.T, constant @ constant.T))


def test_three_stimuli_are_too_few() -> None:
    with pytest.raises(ValueError, match="at least 4 stimuli"):
        u_centred(np.eye(3))
