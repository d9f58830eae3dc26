"""Resamples and intervals: by repeating rows, by explicit formulas, and by repeating the experiment."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import xarray as xr
from worlds import driven, layers_of, responses_of

from mousebench import results
from mousebench.assemblies import load, make_stimuli, save
from mousebench.comparison import Comparison, Named
from mousebench.reliability import rdm_reliability
from mousebench.resampling import (
    image_counts,
    independent_scale,
    interval,
    n_animals,
    neuroid_counts,
    two_factor,
    two_sided_p,
    weighted_median,
)
from mousebench.results import join_sites, mean_draws, site_draws, with_mean_score
from mousebench.scoring import score_model
from mousebench_plugins.metrics._cka import Cka
from mousebench_plugins.metrics._pls import Pls
from mousebench_plugins.metrics._ridge import Ridge
from mousebench_plugins.metrics._rsa import Rsa
from mousebench_plugins.metrics._rsa_nnls import RsaNnls, as_published, leak_free


def site(n_neuroids: int, animals: list[str] | None = None) -> xr.DataArray:
    return responses_of(np.zeros((4, n_neuroids)), 2, animals=animals)


# counts


def test_image_counts_are_resamples_of_the_images() -> None:
    counts = image_counts(30, 5, 400)
    assert counts.shape == (400, 30)
    assert (counts.sum(1) == 30).all()
    assert (counts == counts.round()).all()
    # with replacement: an image is left out of a share of (1 - 1/n)^n of them; 12000 draws, sd of the share below .005
    assert (counts == 0).mean() == pytest.approx((1 - 1 / 30) ** 30, abs=0.02)
    assert np.array_equal(counts, image_counts(30, 5, 400))
    assert not np.array_equal(counts, image_counts(30, 6, 400))


def test_neuroid_counts_are_resamples_of_the_neuroids_of_a_site() -> None:
    counts = neuroid_counts(site(9), 5, 300)
    assert counts.shape == (300, 9)
    assert (counts.sum(1) == 9).all()
    assert np.array_equal(counts, neuroid_counts(site(9), 5, 300))
    assert not np.array_equal(counts, neuroid_counts(site(9), 6, 300))
    other = site(9).assign_coords(neuroid_id=("neuroid", [f"m{number}" for number in range(9)]))
    assert not np.array_equal(counts, neuroid_counts(other, 5, 300))
    assert n_animals(site(9)) is None


def test_animals_are_drawn_first_then_neuroids_within_them() -> None:
    animals = np.array(["a", "b", "b", "b", "b", "c", "c", "a"])
    target = site(8, animals.tolist())
    counts = neuroid_counts(target, 0, 600)
    assert n_animals(target) == 3
    sizes = {"a": 2, "b": 4, "c": 2}
    times = {name: counts[:, animals == name].sum(1) / size for name, size in sizes.items()}
    for drawn in times.values():  # an animal comes whole times, each time with as many neuroids as it has
        assert (drawn == drawn.round()).all()
    assert (sum(times.values()) == 3).all()
    gone = times["b"] == 0
    assert gone.mean() == pytest.approx((2 / 3) ** 3, abs=0.08)
    assert not counts[gone][:, animals == "b"].any()
    within = counts[times["b"] == 1][:, animals == "b"]
    assert (within == 0).mean() == pytest.approx((3 / 4) ** 4, abs=0.06)


def test_one_animal_is_as_none_known() -> None:
    one = neuroid_counts(site(6, ["a"] * 6), 0, 50)
    assert np.array_equal(one, neuroid_counts(site(6), 0, 50))
    assert n_animals(site(6, ["a"] * 6)) == 1


# draws


@pytest.mark.parametrize("n_neuroids", [1, 2, 7, 8])
def test_weighted_median_is_the_median_of_repeated_values(n_neuroids: int) -> None:
    rng = np.random.default_rng(n_neuroids)
    values = rng.normal(size=n_neuroids).round(1)  # with ties
    values[rng.permutation(n_neuroids)[: n_neuroids // 3]] = np.nan
    counts = rng.integers(0, 4, (200, n_neuroids)).astype(float)
    there = np.isfinite(values)
    for found, count in zip(weighted_median(values, counts), counts[:, there].astype(int), strict=True):
        repeated = np.repeat(values[there], count)
        assert found == pytest.approx(np.median(repeated), abs=1e-15) if repeated.size else np.isnan(found)


def test_weighted_median_of_nothing_is_nan() -> None:
    assert np.isnan(weighted_median(np.full(3, np.nan), np.ones((4, 3)))).all()


def test_two_factor_adds_changes_about_the_estimate() -> None:
    rng = np.random.default_rng(0)
    images, neuroids = 0.2 + rng.normal(size=50), -3 + rng.normal(size=50)
    draws = two_factor(0.7, images, neuroids)
    assert draws.mean() == pytest.approx(0.7, abs=1e-12)
    np.testing.assert_allclose(draws - 0.7, (images - images.mean()) + (neuroids - neuroids.mean()), atol=1e-12)
    scaled = two_factor(0.7, images, image_scale=2.0)
    np.testing.assert_allclose(scaled, 0.7 + 2 * (images - images.mean()), atol=1e-12)
    images[3] = np.nan
    draws = two_factor(0.7, images, neuroids)
    assert np.flatnonzero(np.isnan(draws)).tolist() == [3]
    there = np.delete(images, 3)
    np.testing.assert_allclose(np.delete(two_factor(0.7, images), 3), 0.7 + there - there.mean(), atol=1e-12)
    assert np.isnan(two_factor(0.7, np.full(4, np.nan), np.ones(4))).all()


def test_interval_is_percentiles_of_the_numbers() -> None:
    draws = np.random.default_rng(0).permutation(np.arange(1001.0))
    assert interval(draws) == pytest.approx((25, 975))
    assert interval(draws, 0.8) == pytest.approx((100, 900))
    half = np.where(np.arange(1001) < 500, np.nan, draws)
    assert interval(half) == pytest.approx(tuple(np.quantile(half[500:], [0.025, 0.975])))
    fewer = np.where(np.arange(1001) < 501, np.nan, draws)
    assert np.isnan(interval(fewer)).all()
    assert np.isnan(interval(np.array([np.nan]))).all()


def test_two_sided_p_is_how_often_draws_stray_as_far_as_zero() -> None:
    draws = 2 + np.arange(-10.0, 11)  # about 2; 17 of 21 are 2 or more away from it
    assert two_sided_p(2.0, draws) == pytest.approx((1 + 18) / 22)
    assert two_sided_p(-2.0, draws - 4) == pytest.approx((1 + 18) / 22)
    assert two_sided_p(20.0, draws) == pytest.approx(1 / 22)
    assert two_sided_p(0.0, draws) == 1
    assert two_sided_p(2.0, np.append(draws, np.nan)) == pytest.approx(19 / 22)
    assert np.isnan(two_sided_p(float("nan"), draws))
    assert np.isnan(two_sided_p(1.0, np.full(3, np.nan)))


def test_a_split_in_which_no_neuroid_is_whole_has_no_reliability() -> None:
    cube = np.random.default_rng(0).normal(size=(6, 2, 3))
    cube[[0, 1, 2], 0, [0, 1, 2]] = np.nan  # each lacks a trial: a half has none of that stimulus
    assert np.isnan(rdm_reliability(cube, np.random.default_rng(0), 3)).all()


# draws of a score


def scalar(raw: float, draws: np.ndarray | None = None) -> xr.Dataset:
    return xr.Dataset({"raw": raw, **({} if draws is None else {"bootstrap": ("bootstrap", draws)})})


def test_draws_of_a_ratio_are_its_first_order_change() -> None:
    rng = np.random.default_rng(0)
    raw, top = 0.3, 0.8
    raws, tops = raw + 0.01 * rng.normal(size=100), top + 0.01 * rng.normal(size=100)
    ceiling = xr.Dataset({"ceiling": top, "bootstrap": ("bootstrap", tops)})
    found_raw, found = site_draws(scalar(raw, raws), ceiling, "ratio", site(3), 0)
    assert np.array_equal(found_raw, raws)
    np.testing.assert_allclose(found, raw / top + (raws - raw) / top - raw / top**2 * (tops - top), atol=1e-12)
    assert np.abs(found - raws / tops).max() < 3e-3  # the ratio itself, but for what is of second order
    squared = site_draws(scalar(raw, raws), ceiling, "squared", site(3), 0)[1]
    expected = raw**2 / top + 2 * raw / top * (raws - raw) - raw**2 / top**2 * (tops - top)
    np.testing.assert_allclose(squared, expected, atol=1e-12)


def test_a_ceiling_without_draws_is_taken_as_known() -> None:
    raws = np.linspace(0.2, 0.4, 11)
    found = site_draws(scalar(0.3, raws), xr.Dataset({"ceiling": 0.5}), "ratio", site(3), 0)[1]
    np.testing.assert_allclose(found, raws / 0.5, atol=1e-12)


def test_no_interval_of_a_score_where_the_ceiling_is_below_the_floor() -> None:
    raws = np.linspace(0.02, 0.04, 11)
    for ceiling in (0.09, np.nan):
        raw, normalised = site_draws(scalar(0.03, raws), xr.Dataset({"ceiling": ceiling}), "ratio", site(3), 0)
        assert np.array_equal(raw, raws)
        assert np.isnan(normalised).all()
        assert np.isnan(interval(normalised)).all()


def test_a_metric_without_draws_has_none() -> None:
    raw, normalised = site_draws(scalar(0.3), xr.Dataset({"ceiling": 0.5}), "ratio", site(3), 0)
    assert np.isnan(raw).all()
    assert np.isnan(normalised).all()


def test_draws_of_a_median_over_neuroids() -> None:
    """Images move the median of ratios, neuroids are drawn again: both written down once more with numpy."""
    rng = np.random.default_rng(0)
    n_draws, n_neuroids, scale = 60, 7, 2**0.5
    raw, top = rng.uniform(0.1, 0.5, n_neuroids), rng.uniform(0.4, 0.9, n_neuroids)
    top[1], raw[2] = 0.05, np.nan  # one of too low a ceiling, one without a number
    raws = raw + 0.02 * rng.normal(size=(n_draws, n_neuroids))
    tops = top + 0.02 * rng.normal(size=(n_draws, n_neuroids))
    score = xr.Dataset(
        {"raw": ("neuroid", raw), "bootstrap": (("neuroid", "bootstrap"), raws.T)}, attrs={"image_scale": scale}
    )
    ceiling = xr.Dataset({"ceiling": ("neuroid", top), "bootstrap": (("bootstrap", "neuroid"), tops)})
    target = site(n_neuroids, ["a", "a", "a", "b", "b", "b", "b"])
    found_raw, found = site_draws(score, ceiling, "ratio", target, 3)
    counts = neuroid_counts(target, 3, n_draws).astype(int)
    for use, values, draws, have in (
        ([0, 1, 3, 4, 5, 6], raw, raws, found_raw),
        ([0, 3, 4, 5, 6], raw / top, raw / top + (raws - raw) / top - raw / top**2 * (tops - top), found),
    ):
        images = np.median(draws[:, use], axis=1)
        repeated = [np.repeat(values[use], count[use]) for count in counts]
        neuroids = np.array([np.median(one) if one.size else np.nan for one in repeated])
        shared = []
        halving = np.random.default_rng(0)
        for _ in range(20):
            order = halving.permutation(len(use))
            parts = [
                np.median(draws[:, use][:, part], axis=1) for part in (order[: len(use) // 2], order[len(use) // 2 :])
            ]
            shared.append(np.cov(*parts)[0, 1])
        share = max(np.mean(shared), 0) / images.var(ddof=1)
        assert share < 1
        wider = scale * np.sqrt(share + (1 - share) / len(use))
        expected = np.median(values[use]) + wider * (images - images.mean()) + neuroids - np.nanmean(neuroids)
        np.testing.assert_allclose(have, expected, rtol=0, atol=1e-12)


def test_what_images_do_to_all_neuroids_counts_and_to_one_alone_does_not() -> None:
    """Planted: a change that all neuroids share, and one of each."""
    rng = np.random.default_rng(0)
    shared, own = rng.normal(size=(4000, 1)), rng.normal(size=(4000, 40))
    scale = 2**0.5
    assert independent_scale(shared + 0 * own, scale) == pytest.approx(scale, abs=1e-6)
    alone = np.median(own, axis=1).var()
    for much in (0.5, 2.0, 5.0):
        share = 1 / (1 + much**2 * alone)
        expected = scale * (share + (1 - share) / 40) ** 0.5
        assert independent_scale(shared + much * own, scale) == pytest.approx(expected, rel=0.03)
    assert independent_scale(own, scale) == pytest.approx(scale * (1 / 40) ** 0.5, rel=0.3)  # nothing is shared
    assert independent_scale(own[:, :1], scale) == scale  # one neuroid has nothing to spread
    assert independent_scale(np.zeros((50, 3)), scale) == scale


def of_sites(scores: list[float], draws: np.ndarray | None) -> xr.Dataset:
    variables: dict[str, object] = {"score": ("site", np.array(scores))}
    if draws is not None:
        variables["score_draws"] = (("site", "bootstrap"), draws.astype(np.float32))
    return xr.Dataset(variables)


def test_the_mean_over_sites_has_the_interval_of_the_mean_of_draws() -> None:
    draws = np.random.default_rng(0).normal(size=(3, 200))
    result = with_mean_score(of_sites([0.1, np.nan, 0.4], draws))
    low, high = np.quantile(draws[[0, 2]].mean(0), [0.025, 0.975])
    assert result.attrs["mean_score"] == pytest.approx(0.25)
    assert (result.attrs["mean_score_low"], result.attrs["mean_score_high"]) == pytest.approx((low, high), abs=1e-6)


def test_a_mean_of_no_scores_is_nan() -> None:
    result = with_mean_score(of_sites([np.nan, np.nan], np.zeros((2, 20))))
    assert np.isnan([result.attrs[name] for name in ("mean_score", "mean_score_low", "mean_score_high")]).all()
    assert np.isnan(with_mean_score(of_sites([0.2, 0.3], None)).attrs["mean_score_low"])


def test_a_mean_has_no_interval_if_a_site_of_it_has_none() -> None:
    """The interval of the other sites would lie about another mean."""
    draws = np.random.default_rng(0).normal(size=(2, 200)) / 100
    some = with_mean_score(of_sites([0.0, 0.0], np.where(np.arange(200) == 7, np.nan, draws)))
    kept = np.delete(draws.mean(0), 7)
    assert some.attrs["mean_score_low"] == pytest.approx(np.quantile(kept, 0.025), abs=1e-6)
    draws[1] = np.nan
    result = with_mean_score(of_sites([0.0, 0.8], draws))
    assert result.attrs["mean_score"] == pytest.approx(0.4)
    assert np.isnan(result.attrs["mean_score_low"])
    assert np.isnan(mean_draws(result)).all()


# one row of a result, from what a metric gives


def row_of(score: xr.Dataset, ceiling: xr.Dataset, target: xr.DataArray, seed: int = 0) -> dict[str, object]:
    comparison = SimpleNamespace(
        ceilings={"S": ceiling},
        targets={"S": target},
        target_hashes={"S": "0"},
        whole={},
        seed=seed,
        stimuli=xr.DataArray(np.zeros(4), dims="stimulus"),
        metric=SimpleNamespace(thing=SimpleNamespace(normalisation="ratio")),
    )
    return results._site_row("S", score, site_draws(score, ceiling, "ratio", target, seed), comparison)


def test_score_and_interval_of_a_metric_per_neuroid() -> None:
    rng = np.random.default_rng(0)
    raw, top = np.array([0.1, 0.3, np.nan, 0.2, 0.4]), np.array([0.5, 0.6, 0.7, 0.05, np.nan])
    null = np.linspace(-0.2, 0.35, 23)
    score = xr.Dataset(
        {
            "raw": ("neuroid", raw),
            "bootstrap": (("bootstrap", "neuroid"), raw + 0.01 * rng.normal(size=(400, 5))),
            "null": ("permutation", null),
            "null_raw": 0.3,
        }
    )
    ceiling = xr.Dataset({"ceiling": ("neuroid", top)})
    row = row_of(score, ceiling, site(5))
    assert row["raw"] == pytest.approx(0.25)
    assert row["ceiling"] == pytest.approx(0.55)
    assert row["score"] == pytest.approx(np.median([0.1 / 0.5, 0.3 / 0.6]))
    assert row["ratio_of_medians"] == pytest.approx(0.25 / 0.55)
    assert row["null_p"] == pytest.approx((1 + (null >= 0.3).sum()) / 24)  # as the neuroids that the null is made of
    assert row["null_mean"] == pytest.approx(null.mean())
    assert row["ci_low"] < row["score"] < row["ci_high"]
    assert row["raw_low"] < row["raw"] < row["raw_high"]
    without = row_of(score.drop_vars("null_raw").assign(raw=("neuroid", np.full(5, 0.1))), ceiling, site(5))
    assert without["null_p"] == pytest.approx((1 + (null >= 0.1).sum()) / 24)


def test_a_site_below_the_floor_has_an_interval_of_raw_alone() -> None:
    score = scalar(0.03, np.linspace(0.02, 0.04, 21))
    row = row_of(score, xr.Dataset({"ceiling": 0.09}), site(3))
    assert np.isnan([row["score"], row["ci_low"], row["ci_high"]]).all()
    assert (row["raw_low"], row["raw_high"]) == pytest.approx((0.0205, 0.0395))
    assert "below 0.1" in str(row["notes"])


# does it say what it should


def world(seed: int) -> xr.Dataset:
    """Return a score of ridge in a small world: new images, neurons and noise for each seed, the same law."""
    rng = np.random.default_rng([seed, 1])
    features = rng.normal(size=(40, 3))
    means = driven(features, 20, seed)
    target = responses_of(means, 4, 2.0, seed)
    metric = Ridge(repeats=1, n_permutations=0, n_bootstraps=200)
    score, ceiling = metric.score(layers_of({"only": features}), target, 0), metric.ceiling(target, 0)
    raw, normalised = site_draws(score, ceiling, "ratio", target, 0)
    low, high = interval(raw)
    return xr.Dataset({"raw": float(np.median(score["raw"])), "low": low, "high": high, "draws": normalised.std()})


def test_most_intervals_hold_the_mean_of_repeated_experiments() -> None:
    worlds = [world(seed) for seed in range(20)]
    mean = np.mean([float(one["raw"]) for one in worlds])
    assert sum(float(one["low"]) <= mean <= float(one["high"]) for one in worlds) >= 15
    # 4 sd wide would be exact; wider where, as here, the maps hardly change with the training images
    width = np.mean([float(one["high"] - one["low"]) for one in worlds])
    spread = np.std([float(one["raw"]) for one in worlds], ddof=1)
    assert 3 < width / spread < 12


def test_noise_models_score_zero_on_average() -> None:
    raws: dict[str, list[float]] = {"rsa": [], "ridge": []}
    for seed in range(20):
        rng = np.random.default_rng([seed, 2])
        target = responses_of(rng.normal(size=(36, 20)), 2, 0.5, seed)
        layers = layers_of({f"noise{k}": rng.normal(size=(36, 10)) for k in range(3)})
        raws["rsa"].append(float(Rsa(repeats=2, n_permutations=0, n_bootstraps=2).score(layers, target, 0)["raw"]))
        found = Ridge(repeats=1, n_permutations=0, n_bootstraps=2).score(layers, target, 0)
        raws["ridge"].append(float(found["raw"].mean()))
    # 2 repeats x 6 folds x 15 pairs, 1 x 5 folds x 7 images x 20 neuroids: sd of a world's raw is about .07 and .06
    for name, values in raws.items():
        assert abs(np.mean(values)) < 0.03, (name, np.mean(values), np.std(values))


# from stimuli to a result


class Features:
    """A model whose layers are random projections of pixels."""

    layers = ("first", "second")

    def __init__(self) -> None:
        self.fingerprint = {"model": "unknown"}  # nothing is cached

    def activations(self, images: np.ndarray, layers: object) -> dict[str, np.ndarray]:
        pixels = images[..., 0].reshape(len(images), -1) / 128 - 1
        rng = np.random.default_rng(0)
        return {name: np.maximum(pixels @ rng.normal(size=(64, 30)), 0) for name in self.layers}


class Sites:
    """A benchmark of which one site has lost all of its responses, and one has a single neuroid."""

    version = 1
    metrics = ()
    sites = ("good", "lost", "other", "single")

    def stimuli(self) -> xr.DataArray:
        return make_stimuli(np.random.default_rng(0).integers(0, 256, (24, 8, 8), dtype=np.uint8), np.arange(24))

    def target(self, name: str) -> xr.DataArray:
        pixels = self.stimuli().values.reshape(24, -1) / 128 - 1
        target = responses_of(driven(pixels, 1 if name == "single" else 9, len(name)), 4, 0.5)
        return target.copy(data=np.full_like(target.values, np.nan)) if name == "lost" else target


FEW = {"n_permutations": 3, "n_bootstraps": 40}
METRICS = {
    "rsa": lambda: Rsa(repeats=1, **FEW),
    "rsa-nnls": lambda: RsaNnls(leak_free, repeats=1, **FEW),
    "rsa-nnls-published": lambda: RsaNnls(as_published, repeats=1, **FEW),
    "cka": lambda: Cka(repeats=1, **FEW),
    "pls": lambda: Pls(repeats=1, n_components=3, **FEW),
    "ridge": lambda: Ridge(repeats=1, **FEW),
}


def result_of(metric: str, sites: list[str]) -> xr.Dataset:
    comparison = Comparison(Named("made-up", Sites(), None), Named(metric, METRICS[metric](), None), sites, 0)
    return score_model(Named("features", Features(), None), comparison, device="cpu")


@pytest.mark.parametrize("metric", METRICS)
def test_a_site_that_lost_its_responses_has_no_score_and_others_go_on(metric: str, tmp_path: Path) -> None:
    result = result_of(metric, list(Sites.sites))
    row = {name: result.isel(site=number) for number, name in enumerate(Sites.sites)}
    for name in ("raw", "ceiling", "score", "ci_low", "ci_high", "raw_low", "raw_high", "null_p"):
        assert np.isnan(float(row["lost"][name])), name
    assert "no score" in str(row["lost"]["notes"].values)
    for name in ("good", "other"):
        assert float(row[name]["ci_low"]) < float(row[name]["score"]) < float(row[name]["ci_high"])
        assert 0 < float(row[name]["null_p"]) <= 1
    needs_two = metric.startswith("rsa")
    assert np.isnan(float(row["single"]["score"])) == needs_two
    there = [float(row[name]["score"]) for name in Sites.sites if np.isfinite(float(row[name]["score"]))]
    assert result.attrs["mean_score"] == pytest.approx(np.mean(there))
    assert result.attrs["mean_score_low"] < result.attrs["mean_score"] < result.attrs["mean_score_high"]
    # no site knows of the others
    again = result_of(metric, ["other", "lost"])
    for name in ("raw", "ceiling", "score", "ci_low", "ci_high", "null_p", "raw_low"):
        assert float(again[name][0]) == float(row["other"][name])
    save(result, tmp_path / "result.nc")
    assert load(tmp_path / "result.nc").attrs["mean_score_low"] == result.attrs["mean_score_low"]


@pytest.mark.parametrize("metric", METRICS)
def test_sites_scored_in_two_runs_make_the_result_of_one(metric: str) -> None:
    """Also where one of the runs has no layers' weights, null and draws for want of responses."""
    order = list(Sites.sites)
    whole = result_of(metric, order)
    for some in (["lost"], ["good", "other"]):
        rest = [name for name in order if name not in some]
        joined = join_sites(result_of(metric, rest), result_of(metric, some), order)
        assert set(joined.data_vars) == set(whole.data_vars)
        for name in whole.data_vars:
            np.testing.assert_array_equal(joined[name].values, whole[name].values, err_msg=str(name))
        for name in ("mean_score", "mean_score_low", "mean_score_high"):
            assert joined.attrs[name] == whole.attrs[name]
