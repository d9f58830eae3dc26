"""The metrics pls-brainscore and pls-nayebi against loops with scikit-learn, and what core makes of them."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest
import xarray as xr
from sklearn.cross_decomposition import PLSRegression
from sklearn.model_selection import ShuffleSplit
from worlds import driven, layers_of, means_of, net, notes_of, responses_of

from mousebench.assemblies import make_stimuli
from mousebench.comparison import Comparison, Named
from mousebench.errors import ContractViolation, UnknownIdentifier
from mousebench.resampling import image_counts
from mousebench.results import normalise, site_draws
from mousebench.scoring import score_model
from mousebench_plugins.metrics import _pls_brainscore, _pls_nayebi
from mousebench_plugins.metrics._pls_brainscore import PlsBrainScore, nan_median, shuffle_split
from mousebench_plugins.metrics._pls_nayebi import PlsNayebi, corrected, halving_splits

N = 32  # 28 train in Brain-Score's splits, 16 in those of Nayebi et al.


def brainscore(variant: str | None = None, **options: int) -> PlsBrainScore:
    return PlsBrainScore(variant, **{"n_splits": 2, "n_permutations": 1, "n_bootstraps": 6, **options})


def nayebi(**options: int) -> PlsNayebi:
    return PlsNayebi(**{"n_splits": 2, "n_halves": 3, "n_choosing": 1, "n_bootstraps": 6, **options})


MAKE = pytest.mark.parametrize("make", [brainscore, nayebi])


def fit(x: np.ndarray, y: np.ndarray, train: np.ndarray, test: np.ndarray) -> np.ndarray:
    return (
        PLSRegression(min(25, len(train) - 1), scale=False)
        .fit(x[train], y[train])
        .predict(x[test])
        .reshape(len(test), -1)
    )


def r_of(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.array([np.corrcoef(one, two)[0, 1] for one, two in zip(a.T, b.T, strict=True)])


def world(n_neuroids: int = 7, **options: object) -> tuple[dict[str, np.ndarray], xr.DataArray]:
    features = net(N, 2, width=50)
    return features, responses_of(driven(features["layer1"][:, :8], n_neuroids), **options)


# Brain-Score


@pytest.mark.parametrize("seed", [0, 4])
@pytest.mark.parametrize(("n", "size"), [(118, 0.9), (119, 0.9), (50, 0.5), (7, 0.5)])
def test_splits_are_those_of_shuffle_split(n: int, size: float, seed: int) -> None:
    expected = ShuffleSplit(10, train_size=size, random_state=1 + seed).split(np.zeros(n))
    for (train, test), (its_train, its_test) in zip(shuffle_split(n, 10, size, 1 + seed), expected, strict=True):
        assert np.array_equal(train, its_train)
        assert np.array_equal(test, its_test)
    assert [len(part) for part in shuffle_split(118, 10, 0.9, 1)[0]] == [106, 12]


def test_brainscore_is_the_slow_loop() -> None:
    features, target = world()
    found = brainscore().score(layers_of(features), target, 0)
    means = means_of(target, N)
    splits = list(ShuffleSplit(2, train_size=0.9, random_state=1).split(means))
    curve = np.array(
        [
            [np.median(r_of(fit(x, means, train, test), means[test])) for train, test in splits]
            for x in features.values()
        ]
    )
    np.testing.assert_allclose(found["layer_raw"], curve.mean(1), rtol=0, atol=1e-8)
    assert found["weight"].values.tolist() == [0, 1]  # the layer that drives the neurons is seen in the training images
    assert float(found["raw"]) == pytest.approx(curve[1].mean(), abs=1e-8)
    assert float(found["raw_error"]) == pytest.approx(curve[1].std() / np.sqrt(2), abs=1e-8)
    assert float(found["null_raw"]) == pytest.approx(
        float(found["raw"]), abs=1e-12
    )  # few neuroids: all are in the null


def test_brainscore_draws_weigh_the_held_out_images() -> None:
    features, target = world(1)
    found = brainscore(n_permutations=0).score(layers_of({"layer1": features["layer1"]}), target, 0)
    means, rows = means_of(target, N), []
    for train, test in ShuffleSplit(2, train_size=0.9, random_state=1).split(means):
        predicted = fit(features["layer1"], means, train, test)
        drawn = [np.repeat(np.arange(len(test)), count[test]) for count in image_counts(N, 0, 6).astype(int)]
        rows.append(
            [r_of(predicted[one], means[test][one])[0] if len(set(one.tolist())) > 1 else np.nan for one in drawn]
        )
    by_images = _pls_brainscore._mean(np.array(rows))
    # one neuroid, so that nothing changes with neuroids; an image trains as it tests
    expected = float(found["raw"]) + np.sqrt(2) * (by_images - np.nanmean(by_images))
    np.testing.assert_allclose(found["bootstrap"], expected, rtol=0, atol=1e-8)


def test_brainscore_ceiling_is_the_slow_loop() -> None:
    _, target = world(5, n_repetitions=6)
    cube = target.values.astype(float).reshape(N, 6, 5)
    medians = []
    for half, rest in ShuffleSplit(10, train_size=0.5, random_state=1).split(np.zeros(6)):
        r = r_of(cube[:, half].mean(1), cube[:, rest].mean(1))
        medians.append(np.median(2 * r / (1 + r)))
    found = brainscore().ceiling(target, 0)
    assert float(found["ceiling"]) == pytest.approx(np.mean(medians), abs=1e-12)
    assert found["bootstrap"].sizes == {"bootstrap": 6}


def test_brainscore_s_own_figure_comes_out() -> None:
    """Pixels on their public IT benchmark: r, reliability, and the score before and since December 2025."""
    raw, reliability = xr.DataArray(0.22545106), xr.DataArray(0.81579938)
    assert normalise(raw, reliability, brainscore().normalisation, [])[2] == pytest.approx(0.06230476, abs=1e-8)
    old = normalise(raw, reliability, brainscore("2024").normalisation, [])[2]
    assert old == pytest.approx((0.22545106 / 0.81579938) ** 2, abs=1e-12)
    notes: list[str] = []
    assert normalise(-raw, reliability, "squared", notes)[2] == pytest.approx(0.06230476, abs=1e-8)
    assert any("raw is negative" in note for note in notes)


@pytest.mark.parametrize("how", ["ratio", "squared", "squared-ratio"])
def test_draws_of_the_score_follow_those_of_raw_and_ceiling_to_first_order(how: str) -> None:
    step = 1e-5
    score = xr.Dataset({"raw": 0.3, "bootstrap": ("bootstrap", 0.3 + step * np.array([1.0, 0, 1]))})
    ceiling = xr.Dataset({"ceiling": 0.7, "bootstrap": ("bootstrap", 0.7 + step * np.array([0, 1.0, 1]))})
    _, scores = site_draws(score, ceiling, how, xr.DataArray(0.0), 0)
    pairs = zip(score["bootstrap"].values, ceiling["bootstrap"].values, strict=True)
    expected = [normalise(xr.DataArray(raw), xr.DataArray(top), how, [])[2] for raw, top in pairs]
    np.testing.assert_allclose(scores, expected, rtol=0, atol=10 * step**2)


def test_a_year_that_is_no_variant_is_an_error() -> None:
    with pytest.raises(UnknownIdentifier, match="no variant '2019'"):
        brainscore("2019")


def test_sites_do_not_see_each_other() -> None:
    features, target = world(9)
    sites = {"A": target.isel(neuroid=slice(0, 2)), "B": target}
    for made in (brainscore(), nayebi()):
        together = made.score_sites(layers_of(features), sites, 0)
        for name, one in sites.items():
            alone = made.score(layers_of(features), one, 0)
            for variable in ("raw", "layer_raw", "bootstrap"):
                assert np.array_equal(together[name][variable], alone[variable], equal_nan=True)


def test_medians_leave_out_what_does_not_exist() -> None:
    values = np.random.default_rng(0).normal(size=(6, 9))
    values[np.random.default_rng(1).random(values.shape) < 0.4] = np.nan
    values[3] = np.nan
    with np.errstate(all="ignore"):
        expected = [np.median(row[np.isfinite(row)]) if np.isfinite(row).any() else np.nan for row in values]
    np.testing.assert_array_equal(nan_median(values), expected)


# Nayebi et al.


def test_splits_of_seed_0_are_the_published_ones_and_no_seed_repeats_another_s() -> None:
    splits = halving_splits(118, 10, 0)
    for number, (train, test) in enumerate(splits):
        order = np.random.RandomState(number).permutation(118)
        assert np.array_equal(train, order[:59])
        assert np.array_equal(test, order[59:])
    assert not any(np.array_equal(one[0], other[0]) for one in splits for other in halving_splits(118, 10, 1))


def test_nayebi_is_the_slow_loop() -> None:
    animals = ["m2", "m1", "m2", "m1", "m1", "m2", "m3"]
    features, target = world(animals=animals, n_repetitions=5)
    found = nayebi(n_choosing=3).score(layers_of(features), target, 0)
    cube = target.values.astype(float).reshape(N, 5, 7)
    masks = _pls_nayebi.half_masks(5, 3, np.random.default_rng([0, _pls_nayebi._HALVES_STREAM]))
    best: dict[str, np.ndarray] = {}
    for name, x in features.items():
        raw, score = np.zeros((2, 3, 2, 7))
        for h, mask in enumerate(masks):
            t1, t2 = cube[:, mask].mean(1), cube[:, ~mask].mean(1)
            for s in range(2):
                order = np.random.RandomState(s).permutation(N)
                train, test = order[:16], order[16:]
                for animal in set(animals):
                    its = np.flatnonzero(np.array(animals) == animal)
                    m1, m2 = fit(x, t1[:, its], train, test), fit(x, t2[:, its], train, test)
                    top, model, data = (
                        r_of(a, b) for a, b in ((m1, t2[test][:, its]), (m1, m2), (t1[test][:, its], t2[test][:, its]))
                    )
                    product = (2 * model / (1 + model)) * (2 * data / (1 + data))
                    raw[h, s, its] = top
                    score[h, s, its] = np.where(product > 0, top / np.sqrt(np.abs(product)), np.nan)
        assert np.isfinite(score).any((0, 1)).all()
        best[name] = np.nanmean(score, axis=(0, 1))
        if name == str(found["best_layer"].values):
            np.testing.assert_allclose(found["raw"], raw.mean((0, 1)), rtol=0, atol=1e-8)
            np.testing.assert_allclose(found["score"], best[name], rtol=0, atol=1e-7)
    medians = [np.median(values) for values in best.values()]
    np.testing.assert_allclose(found["layer_score"], medians, rtol=0, atol=1e-7)
    assert str(found["best_layer"].values) == list(features)[int(np.argmax(medians))]


def test_the_correction_is_the_formula_and_has_no_number_where_the_product_is_negative() -> None:
    raw, model, data = np.array([0.3, 0.3, 0.3, 0.3, np.nan]), np.array([0.5, -0.5, -0.2, -1.0, 0.5]), np.full(5, 0.4)
    data[2] = -0.1
    score, negative = corrected(raw, model, data)
    expected = 0.3 / np.sqrt(1 / 1.5 * 0.8 / 1.4)
    both = 0.3 / np.sqrt((-0.4 / 0.8) * (-0.2 / 0.9))
    np.testing.assert_allclose(score, [expected, np.nan, both, np.nan, np.nan], rtol=1e-12)
    assert negative == 1


def test_negative_products_are_counted() -> None:
    rng = np.random.default_rng(0)
    target = responses_of(rng.normal(size=(N, 6)), noise=5.0, animals=["a"] * 6)
    found = nayebi().score(layers_of(net(N, 1)), target, 0)
    assert any("negative product" in note for note in notes_of(found))


def test_core_takes_the_published_score_and_its_draws() -> None:
    features, target = world(animals=["a"] * 4 + ["b"] * 3)
    made = nayebi()
    found, ceiling = made.score(layers_of(features), target, 0), made.ceiling(target, 0)
    raw, top, score = normalise(found["raw"], ceiling["ceiling"], made.normalisation, [], found["score"])
    assert raw == pytest.approx(float(np.median(found["raw"])))
    assert top == pytest.approx(float(np.nanmedian(ceiling["ceiling"])))
    assert score == pytest.approx(float(np.nanmedian(found["score"])))
    raws, scores = site_draws(found, ceiling, made.normalisation, target, 0)
    assert abs(raws.mean() - raw) < 1e-6
    assert abs(scores[np.isfinite(scores)].mean() - score) < 1e-6


def test_a_perfect_model_reaches_the_ceiling_but_not_a_score_of_1() -> None:
    """The numerator is of half of the trials, the denominator of all: with half reliability h it scores sqrt((1 + h) / 2)."""
    truth = driven(np.random.default_rng(0).normal(size=(120, 5)), 12)
    target = responses_of(truth, n_repetitions=20, noise=4.0, animals=["a"] * 12)
    layers = layers_of({"truth": truth})
    made = nayebi(n_splits=5, n_halves=6, n_bootstraps=2)
    found, ceiling = made.score(layers, target, 0), made.ceiling(target, 0)
    h = 1 / (1 + 16 / 10)
    assert float(found["raw"].median() / ceiling["ceiling"].median()) == pytest.approx(1, abs=0.1)
    assert float(found["score"].median()) == pytest.approx(np.sqrt((1 + h) / 2), abs=0.08)


def test_unknown_animals_are_one_with_a_note() -> None:
    features, target = world(6)
    one = nayebi().score(layers_of(features), target, 0)
    named = nayebi().score(layers_of(features), target.assign_coords(animal_id=("neuroid", ["a"] * 6)), 0)
    assert np.array_equal(one["raw"], named["raw"])
    assert any("animals are not known" in note for note in notes_of(one))
    assert not any("animals are not known" in note for note in notes_of(named))


# few of anything


@MAKE
@pytest.mark.parametrize("n_neuroids", [1, 2, 3, 4, 5])
def test_few_neuroids_and_one_layer_are_enough(make, n_neuroids: int) -> None:
    features, target = world(n_neuroids)
    found = make().score(layers_of({"layer1": features["layer1"]}), target, 0)
    assert np.isfinite(found["raw"].values).all()
    assert str(found["best_layer"].values) == "layer1"
    assert np.isfinite(make().ceiling(target, 0)["ceiling"].values).any()


@MAKE
def test_fewer_images_than_components_are_enough_and_too_few_an_error(make) -> None:
    features = net(24, 1)
    target = responses_of(driven(features["layer0"], 4))
    assert np.isfinite(make().score(layers_of(features), target, 0)["raw"].values).all()
    with pytest.raises(ContractViolation, match="5 stimuli are too few"):
        make().score(layers_of(net(5, 1)), responses_of(np.random.default_rng(0).normal(size=(5, 4))), 0)


@MAKE
def test_no_layers_explain_nothing(make) -> None:
    _, target = world(3)
    assert (make().score({}, target, 0)["raw"].values == 0).all()


@MAKE
def test_neuroids_that_cannot_be_used_are_counted_and_change_nothing(make) -> None:
    features, target = world(6)
    values = target.values.copy()
    values[target["stimulus_id"].values == 3, 0] = np.nan
    values[:, 1] = 2
    found = make().score(layers_of(features), target.copy(data=values), 0)
    alone = make().score(layers_of(features), target.isel(neuroid=slice(2, None)), 0)
    rest = found["raw"].values[2:] if found["raw"].ndim else found["raw"].values
    np.testing.assert_allclose(rest, alone["raw"].values, rtol=0, atol=1e-12)
    assert found.attrs["n_neuroids"] == 4
    assert sum("1 neuroid(s) left out" in note for note in notes_of(found)) == 2


def test_a_neuroid_that_lacks_a_stimulus_in_half_of_the_trials_is_left_out_and_counted() -> None:
    features, target = world(4)
    values = target.values.copy()
    values[(target["stimulus_id"].values == 3) & (target["repetition"].values > 0), 0] = np.nan
    found = nayebi().score(layers_of(features), target.copy(data=values), 0)
    assert np.isnan(found["raw"].values[0])
    assert np.isfinite(found["raw"].values[1:]).all()
    assert any("1 neuroid(s) left out: without any trial for some stimulus in half" in note for note in notes_of(found))
    rest = brainscore().ceiling(target.copy(data=values), 0)
    assert np.isfinite(float(rest["ceiling"]))


@MAKE
def test_a_site_without_neuroids_or_with_one_repetition_has_no_number_but_a_note(make) -> None:
    features, target = world(3, n_repetitions=1)
    assert any("a single repetition" in note for note in notes_of(make().ceiling(target, 0)))
    assert np.isnan(make().ceiling(target, 0)["ceiling"].values).all()
    constant = target.copy(data=np.ones_like(target.values))
    found = make().score(layers_of(features), constant, 0)
    assert np.isnan(found["raw"].values).all()
    assert any("constant" in note for note in notes_of(found))


@MAKE
def test_unreliable_sites_are_not_divided_by_nothing(make) -> None:
    means = driven(net(N, 1)["layer0"], 3)
    target = responses_of(
        np.concatenate([means, -means]), n_repetitions=1
    )  # two repetitions that contradict each other
    ids = {
        "stimulus_id": ("presentation", np.tile(np.arange(N), 2)),
        "repetition": ("presentation", np.repeat([0, 1], N)),
    }
    target = target.assign_coords(ids)
    found, ceiling = make().score(layers_of(net(N, 1)), target, 0), make().ceiling(target, 0)
    notes: list[str] = []
    raw, top, score = normalise(found["raw"], ceiling["ceiling"], make().normalisation, notes, found.get("score"))
    assert np.isfinite(raw)
    if make is brainscore:
        assert top < 0
        assert np.isnan(score)
        assert notes[0] == "the site has a ceiling below 0.1, by which nothing is divided"
    else:
        assert np.isnan(top)
        assert any("no reliability have no ceiling" in note for note in notes_of(ceiling))


# from stimuli to a result


class Features:
    """A model whose layers are random projections of pixels."""

    layers = ("first", "second")
    fingerprint: ClassVar = {"model": "unknown"}  # nothing is cached

    def activations(self, images: np.ndarray, layers: object) -> dict[str, np.ndarray]:
        pixels = images[..., 0].reshape(len(images), -1) / 128 - 1
        rng = np.random.default_rng(0)
        return {name: np.maximum(pixels @ rng.normal(size=(64, 30)), 0) for name in self.layers}


class Sites:
    """A benchmark of which one site has lost all of its responses, and one has a single neuroid."""

    version = 1
    metrics = ()
    sites = ("good", "lost", "single")

    def stimuli(self) -> xr.DataArray:
        return make_stimuli(np.random.default_rng(0).integers(0, 256, (N, 8, 8), dtype=np.uint8), np.arange(N))

    def target(self, name: str) -> xr.DataArray:
        pixels = self.stimuli().values.reshape(N, -1) / 128 - 1
        target = responses_of(driven(pixels[:, :6], 1 if name == "single" else 6, len(name)), 4, 0.5)
        return target.copy(data=np.full_like(target.values, np.nan)) if name == "lost" else target


@pytest.mark.parametrize("made", [brainscore(n_bootstraps=40), brainscore("2024"), nayebi(n_bootstraps=40)])
def test_a_result_has_scores_intervals_and_reasons_for_what_it_lacks(made: PlsBrainScore | PlsNayebi) -> None:
    comparison = Comparison(Named("made-up", Sites(), None), Named("metric", made, None), list(Sites.sites), 0)
    result = score_model(Named("features", Features(), None), comparison, device="cpu")
    good, lost, single = (result.isel(site=number) for number in range(3))
    for one in (good, single):
        for name in ("raw", "ceiling", "score"):
            assert np.isfinite(float(one[name])), name
    assert float(good["ci_low"]) < float(good["score"]) < float(good["ci_high"])
    for name in ("raw", "ceiling", "score", "ci_low", "ci_high", "null_p"):
        assert np.isnan(float(lost[name])), name
    assert "no score" in str(lost["notes"].values)
    raw, top, score = (float(good[name]) for name in ("raw", "ceiling", "score"))
    if isinstance(made, PlsNayebi):
        assert np.isnan(float(good["null_p"]))
        assert "no null" in str(good["notes"].values)
        assert float(good["explained"]) == pytest.approx(np.sign(score) * score**2)
        assert float(good["ratio_of_medians"]) == pytest.approx(raw / top)
        assert result["layer_score"].shape == (3, 2)
    else:
        assert 0 < float(good["null_p"]) <= 1
        assert score == pytest.approx(raw**2 / top if made.normalisation == "squared" else (raw / top) ** 2)
        assert float(good["explained"]) == pytest.approx(np.sign(raw) * score)
