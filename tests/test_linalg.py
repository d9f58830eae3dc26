from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mousebench.linalg import correlation_rdm, gram, pearson_columns, upper_triangle, weighted_pearson


def features(n_images: int, width: int, seed: int = 0) -> np.ndarray:
    """Return features as nets give them: correlated images, a common offset, half of them cut off at 0."""
    rng = np.random.default_rng(seed)
    common = rng.normal(size=(3, width))
    values = rng.normal(size=(n_images, 3)) @ common + rng.normal(size=(n_images, width)) + 2
    return np.where(rng.random(width) < 0.5, np.maximum(values, 0), values)


def rdm_of(values: np.ndarray) -> np.ndarray:
    return correlation_rdm(*gram([values]))


@pytest.mark.parametrize("width", [2, 3, 117, 1000, 50_000])
def test_the_rdm_is_one_minus_pearson_r(width: int) -> None:
    values = features(40, width)
    np.testing.assert_allclose(rdm_of(values), 1 - np.corrcoef(values), rtol=0, atol=1e-12)


def test_float32_features_give_the_rdm_of_their_float64_values() -> None:
    values = features(20, 5000).astype(np.float32)
    np.testing.assert_allclose(rdm_of(values), 1 - np.corrcoef(values.astype(np.float64)), rtol=0, atol=1e-12)


def test_a_large_offset_costs_only_its_share_of_digits() -> None:
    values = features(20, 500)
    np.testing.assert_allclose(rdm_of(values + 1000), rdm_of(values), rtol=0, atol=1e-8)


def test_rsatoolbox_has_the_same_rdm() -> None:
    rsatoolbox = pytest.importorskip("rsatoolbox")
    values = features(25, 300)
    theirs = rsatoolbox.rdm.calc_rdm(rsatoolbox.data.Dataset(values), method="correlation").get_matrices()[0]
    np.testing.assert_allclose(rdm_of(values), theirs, rtol=0, atol=1e-4)


def test_gram_and_sums_are_the_plain_ones() -> None:
    values = features(12, 777)
    product, row_sum, width = gram([values])
    np.testing.assert_allclose(product, values @ values.T, rtol=1e-13)
    np.testing.assert_allclose(row_sum, values.sum(1), rtol=1e-13)
    assert width == 777
    assert product.dtype == row_sum.dtype == np.float64


@settings(max_examples=30, deadline=None)
@given(cuts=st.lists(st.integers(1, 299), max_size=6, unique=True), seed=st.integers(0, 2**31))
def test_chunks_and_the_order_of_features_do_not_matter(cuts: list[int], seed: int) -> None:
    values = features(10, 300)
    shuffled = values[:, np.random.default_rng(seed).permutation(300)]
    whole, parts = gram([values]), gram(np.split(shuffled, sorted(cuts), axis=1))
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)
    np.testing.assert_allclose(correlation_rdm(*whole), correlation_rdm(*parts), rtol=0, atol=1e-12)


def test_chunks_may_be_a_generator_of_integers() -> None:
    values = np.arange(24).reshape(4, 6) ** 2 % 17
    product, _, width = gram(values[:, [k]] for k in range(6))
    assert product.dtype == np.float64
    assert np.array_equal(product, values @ values.T)
    assert width == 6


def test_uint8_features_do_not_overflow() -> None:
    values = np.full((2, 3), 255, dtype=np.uint8)
    assert np.array_equal(gram([values])[0], np.full((2, 2), 3 * 255.0**2))


def test_a_rotation_of_the_features_keeps_the_gram() -> None:
    values = features(15, 60)
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(60, 60)))[0]
    np.testing.assert_allclose(gram([values @ rotation])[0], gram([values])[0], rtol=1e-11)


def test_a_rotation_that_keeps_the_mean_keeps_the_rdm() -> None:
    # Pearson r takes the mean over features away: only rotations around (1, 1, ...) leave it as it is
    rng = np.random.default_rng(2)
    values = features(15, 60)
    basis = np.linalg.qr(np.column_stack([np.ones(60), rng.normal(size=(60, 59))]))[0]
    turn = np.eye(60)
    turn[1:, 1:] = np.linalg.qr(rng.normal(size=(59, 59)))[0]
    np.testing.assert_allclose(rdm_of(values @ basis @ turn @ basis.T), rdm_of(values), rtol=0, atol=1e-12)


def test_each_image_may_be_rescaled_and_shifted() -> None:
    rng = np.random.default_rng(3)
    values = features(15, 200)
    other = values * rng.uniform(0.1, 10, (15, 1)) + rng.normal(size=(15, 1))
    np.testing.assert_allclose(rdm_of(other), rdm_of(values), rtol=0, atol=1e-12)


def test_images_permuted_permute_the_rdm() -> None:
    values = features(15, 200)
    order = np.random.default_rng(4).permutation(15)
    np.testing.assert_allclose(rdm_of(values[order]), rdm_of(values)[np.ix_(order, order)], rtol=0, atol=1e-12)


@pytest.mark.parametrize("level", [0.0, 1.0, 0.1, 0.3, 1.7, -3e7 / 7])
def test_an_image_whose_features_do_not_vary_has_no_distances(level: float) -> None:
    values = features(8, 4999)
    values[3] = np.float32(level)
    rdm = rdm_of(values)
    rest = np.delete(np.arange(8), 3)
    assert np.isnan(rdm[3]).all()
    assert np.isnan(rdm[:, 3]).all()
    np.testing.assert_allclose(rdm[np.ix_(rest, rest)], 1 - np.corrcoef(values[rest]), rtol=0, atol=1e-12)


def test_a_single_feature_gives_no_rdm() -> None:
    assert np.isnan(rdm_of(features(5, 1))).all()


def test_no_features_are_refused() -> None:
    with pytest.raises(ValueError, match="no features to reduce"):
        gram([])


@settings(max_examples=60, deadline=None)
@given(
    n_images=st.integers(2, 12),
    width=st.integers(2, 40),
    scale=st.floats(1e-6, 1e6),
    offset=st.floats(-10, 10),
    seed=st.integers(0, 2**31),
)
def test_an_rdm_is_symmetric_zero_on_the_diagonal_and_in_range(
    n_images: int, width: int, scale: float, offset: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    rdm = rdm_of(scale * (rng.normal(size=(n_images, width)) + offset))
    assert np.array_equal(rdm, rdm.T)
    assert (np.diag(rdm) == 0).all()
    assert rdm.min() >= -1e-9
    assert rdm.max() <= 2 + 1e-9


def test_upper_triangle_goes_row_by_row() -> None:
    rdm = np.arange(16.0).reshape(4, 4)
    assert upper_triangle(rdm).tolist() == [1, 2, 3, 6, 7, 11]


def test_pearson_columns_is_scipy_s_pearsonr() -> None:
    rng = np.random.default_rng(5)
    a = rng.normal(size=(30, 6)) * [1, 1e-8, 1e8, 1, 1, 1] + [0, 0, 0, 100, 0, 0]
    b = a + rng.normal(size=(30, 6)) * a.std(0)
    expected = [stats.pearsonr(x, y).statistic for x, y in zip(a.T, b.T, strict=True)]
    np.testing.assert_allclose(pearson_columns(a, b), expected, rtol=0, atol=1e-12)


def test_pearson_of_a_column_that_does_not_vary_is_nan() -> None:
    a = np.column_stack([np.full(5, 2.0), np.arange(5.0), np.arange(5.0)])
    b = np.column_stack([np.arange(5.0), np.zeros(5), -np.arange(5.0)])
    r = pearson_columns(a, b)
    assert np.isnan(r[:2]).all()
    assert r[2] == pytest.approx(-1, abs=1e-12)


def test_pearson_columns_takes_leading_dimensions() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(3, 12, 5)), rng.normal(size=(12, 5))
    a[1, :, 2] = 0.1
    found = pearson_columns(a, b)
    assert found.shape == (3, 5)
    for entry in range(3):
        np.testing.assert_array_equal(found[entry], pearson_columns(a[entry], b))
    assert np.isnan(found[1, 2])
    assert np.isnan(found).sum() == 1


# weighted Pearson r


def counts(n: int, draws: int, seed: int = 0) -> np.ndarray:
    """Return how often each of n observations is in each draw of a bootstrap."""
    return np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=draws).astype(float)


@pytest.mark.parametrize("offset", [0, 1e4])
def test_weighted_pearson_with_counts_is_pearson_of_repeated_rows(offset: float) -> None:
    rng = np.random.default_rng(1)
    a = rng.normal(size=(24, 7)) + offset
    b = a + rng.normal(size=(24, 7)) - 3 * offset
    weights = counts(24, 50)
    found = weighted_pearson(a, b, weights)
    assert found.shape == (50, 7)
    for draw in range(50):
        rows = np.repeat(np.arange(24), weights[draw].astype(int))
        for column in range(7):
            expected = np.corrcoef(a[rows, column], b[rows, column])[0, 1]
            # an offset costs its share of digits, in corrcoef too
            assert found[draw, column] == pytest.approx(expected, abs=1e-12 * max(1, offset))


def test_weighted_pearson_with_equal_weights_is_pearson() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(24, 300)), rng.normal(size=(24, 300))
    found = weighted_pearson(a, b, np.full((2, 24), 0.3))
    np.testing.assert_allclose(found, np.broadcast_to(pearson_columns(a, b), found.shape), rtol=0, atol=1e-13)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), scale=st.floats(1e-100, 1e100), factor=st.floats(1e-3, 1e3))
def test_weighted_pearson_does_not_depend_on_units(seed: int, scale: float, factor: float) -> None:
    rng = np.random.default_rng(seed)
    a, b, weights = rng.normal(size=(10, 4)), rng.normal(size=(10, 4)), rng.random((5, 10))
    expected = weighted_pearson(a, b, weights)
    np.testing.assert_allclose(weighted_pearson(-scale * a, b, factor * weights), -expected, rtol=0, atol=1e-11)


def test_the_chunks_of_weighted_pearson_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    a, b, weights = rng.normal(size=(24, 50)), rng.normal(size=(24, 50)), counts(24, 20)
    expected = weighted_pearson(a, b, weights)
    for size in (1, 60, 20 * 49):
        monkeypatch.setattr("mousebench.linalg._MOMENTS", size)
        np.testing.assert_allclose(weighted_pearson(a, b, weights), expected, rtol=0, atol=1e-13)


def test_weighted_pearson_is_nan_where_nothing_varies() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(10, 4)) + 5, rng.normal(size=(10, 4))
    a[:, 1] = 0.1  # never varies
    a[:5, 2] = 0.7  # does not vary over the first five
    b[:, 3] = np.nan
    weights = np.array([np.ones(10), np.r_[2.0, 1, 0, 3, 1, np.zeros(5)], np.r_[0, 7.0, np.zeros(8)], np.zeros(10)])
    found = weighted_pearson(a, b, weights)
    expected = [[False, True, False, True], [False, True, True, True], [True] * 4, [True] * 4]
    assert np.array_equal(np.isnan(found), expected)
