"""The metrics pls and ridge against loops over folds and neuroids with scikit-learn."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import pytest
import xarray as xr
from sklearn.cross_decomposition import PLSRegression
from sklearn.linear_model import RidgeCV
from worlds import driven, folds_of, layers_of, means_of, net, notes_of, responses_of

from mousebench.errors import ContractViolation
from mousebench.regression import FoldBasis
from mousebench.reliability import half_masks, spearman_brown
from mousebench.resampling import image_counts
from mousebench_plugins.metrics import _per_neuroid
from mousebench_plugins.metrics._per_neuroid import PerNeuroid, loo_r2, permuted_labels
from mousebench_plugins.metrics._pls import Pls
from mousebench_plugins.metrics._ridge import ALPHAS, Ridge

N = 35

Fit = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def pls(**options: int) -> Pls:
    return Pls(n_components=4, **{"repeats": 2, "n_permutations": 2, "n_bootstraps": 6, **options})


def ridge(**options: int) -> Ridge:
    return Ridge(**{"repeats": 2, "n_permutations": 2, "n_bootstraps": 6, **options})


def by_pls(x: np.ndarray, y: np.ndarray, test: np.ndarray) -> np.ndarray:
    return np.column_stack([PLSRegression(4, scale=False).fit(x, one).predict(test).ravel() for one in y.T])


def penalties(x: np.ndarray, relative: np.ndarray) -> np.ndarray:
    """Return penalties in units of the mean of the squared singular values that are not 0."""
    s = np.linalg.svd(x - x.mean(0), compute_uv=False)
    return relative * np.mean(s[s > 1e-10 * s[0]] ** 2)


def by_ridge(x: np.ndarray, y: np.ndarray, test: np.ndarray) -> np.ndarray:
    return RidgeCV(penalties(x, ALPHAS), alpha_per_target=True).fit(x, y).predict(test).reshape(len(test), -1)


METRICS = pytest.mark.parametrize(("make", "fit"), [(pls, by_pls), (ridge, by_ridge)], ids=["pls", "ridge"])
MAKE = pytest.mark.parametrize("make", [pls, ridge])


def slow_r2(x: np.ndarray, y: np.ndarray) -> float:
    """Return the leave-one-out R2 of the best penalty, by leaving one out."""
    sse = []
    for alpha in penalties(x, np.logspace(-3, 3, 7)):
        residuals = []
        for out in range(len(x)):
            rest = np.arange(len(x)) != out
            a = x[rest] - x[rest].mean(0)
            weight = a.T @ np.linalg.solve(a @ a.T + alpha * np.eye(len(a)), y[rest] - y[rest].mean())
            residuals.append(y[out] - y[rest].mean() - (x[out] - x[rest].mean(0)) @ weight)
        sse.append(np.square(residuals).sum())
    nothing = [y[out] - np.delete(y, out).mean() for out in range(len(y))]
    return 1 - min(sse) / np.square(nothing).sum()


def r_of(predicted: np.ndarray, y: np.ndarray) -> float:
    return 0.0 if np.ptp(predicted) < 1e-12 or np.ptp(y) < 1e-12 else float(np.corrcoef(predicted, y)[0, 1])


def slow(
    features: dict[str, np.ndarray], means: np.ndarray, fit: Fit, chosen: list[str], repeats: int = 2
) -> np.ndarray:
    """Return r (fold, neuroid) with the layers that the folds chose."""
    folds = folds_of(N, 5, repeats, 0)
    return np.array(
        [
            [
                r_of(predicted, y)
                for predicted, y in zip(
                    fit(features[name][train], means[train], features[name][test]).T, means[test].T, strict=True
                )
            ]
            for (train, test), name in zip(folds, chosen, strict=True)
        ]
    )


def spy(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """Return a list that will hold what every fold chose, by site."""
    chosen: list[dict[str, str]] = []
    real = _per_neuroid.Fold

    def fold(train: np.ndarray, test: np.ndarray, by_site: dict[str, str]) -> object:
        chosen.append(by_site)
        return real(train, test, by_site)

    monkeypatch.setattr(_per_neuroid, "Fold", fold)
    return chosen


def mixed(features: dict[str, np.ndarray], n_neuroids: int = 6) -> np.ndarray:
    """Return responses that two layers drive, so that folds may differ in their choice."""
    return driven(features["layer1"][:, :8], n_neuroids) + driven(features["layer2"][:, :8], n_neuroids, 1)


# the score


def test_the_quality_of_a_layer_is_leave_one_out_r2() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(28, 10)), rng.normal(size=(28, 4))
    y[:, :2] += 2 * x[:, :2]
    found = loo_r2(FoldBasis(x, x[:3]), y)
    np.testing.assert_allclose(found, [slow_r2(x, one) for one in y.T], rtol=0, atol=1e-10)


def test_a_neuroid_that_is_constant_in_training_says_nothing_of_a_layer() -> None:
    x = np.random.default_rng(0).normal(size=(28, 10))
    y = np.stack([np.zeros(28), np.full(28, 0.1), np.full(28, 1e9 / 3)], axis=1)
    assert loo_r2(FoldBasis(x, x[:3]), y).tolist() == [0, 0, 0]


@METRICS
def test_raw_is_the_slow_loop(make, fit: Fit, monkeypatch: pytest.MonkeyPatch) -> None:
    features = net(N, 3, width=45)
    target = responses_of(mixed(features))
    chosen = spy(monkeypatch)
    found = make().score(layers_of(features), target, 0)
    means = means_of(target, N)
    names = [one[""] for one in chosen]
    # the choice, by leaving one out
    for (train, _), name in list(zip(folds_of(N, 5, 2, 0), names, strict=True))[:3]:
        quality = {layer: np.median([slow_r2(x[train], y[train]) for y in means.T]) for layer, x in features.items()}
        assert name == max(quality, key=lambda layer: quality[layer])
    np.testing.assert_allclose(found["weight"].values, [names.count(layer) / 10 for layer in features], atol=1e-12)
    r = slow(features, means, fit, names)
    np.testing.assert_allclose(found["raw"].values, r.mean(0), rtol=0, atol=1e-8)
    assert float(found["null_raw"]) == pytest.approx(np.median(r[:5].mean(0)), abs=1e-8)  # of the first partition
    for number, labels in enumerate(permuted_labels(N, 2, 0).T[1:]):
        again = np.median(slow(features, means[labels], fit, names)[:5].mean(0))
        assert float(found["null"][number]) == pytest.approx(again, abs=1e-8)
    curve = [np.mean([np.median(one) for one in slow(features, means, fit, [name] * 5, 1)]) for name in features]
    np.testing.assert_allclose(found["layer_raw"].values, curve, rtol=0, atol=1e-8)


@METRICS
def test_draws_weigh_the_held_out_images(make, fit: Fit, monkeypatch: pytest.MonkeyPatch) -> None:
    features = net(N, 3, width=45)
    target = responses_of(mixed(features, 3))
    chosen = spy(monkeypatch)
    found = make(repeats=1).score(layers_of(features), target, 0)
    means, folds = means_of(target, N), folds_of(N, 5, 1, 0)
    for draw, count in enumerate(image_counts(N, 0, 6).astype(int)):
        r = []
        for (train, test), one in zip(folds, chosen, strict=True):
            x = features[one[""]]
            drawn = np.repeat(np.arange(len(test)), count[test])
            predicted = fit(x[train], means[train], x[test])
            r.append([r_of(p, y) for p, y in zip(predicted[drawn].T, means[test][drawn].T, strict=True)])
        # held as float32
        np.testing.assert_allclose(found["bootstrap"].values[draw], np.mean(r, axis=0), rtol=0, atol=1e-6)


def test_component_raw_ends_at_the_score_of_the_first_partition() -> None:
    features = layers_of(net(N, 2))
    target = responses_of(mixed(net(N, 3), 7))
    found = pls(repeats=1).score(features, target, 0)
    assert found["component_raw"].shape == (4,)
    assert float(found["component_raw"][-1]) == pytest.approx(float(np.median(found["raw"])), abs=1e-10)
    fewer = Pls(n_components=2, repeats=1, n_permutations=0, n_bootstraps=2).score(features, target, 0)
    np.testing.assert_allclose(found["component_raw"][:2], fewer["component_raw"], rtol=0, atol=1e-10)


@MAKE
def test_the_layer_of_a_fold_is_chosen_by_its_training_images_alone(make, monkeypatch: pytest.MonkeyPatch) -> None:
    features = net(N, 4)
    means = mixed(features, 8)
    test = folds_of(N, 5, 1, 0)[2][1]
    changed = means.copy()
    changed[test] = 50 * driven(features["layer3"], 8)[test]
    chosen, predicted = [], []
    for values in (means, changed):
        made, seen = make(repeats=1, n_permutations=0), spy(monkeypatch)
        held: list[np.ndarray] = []
        real = made._fold

        def fold(*arguments, real=real, held=held, **options):
            out = real(*arguments, **options)
            held.append(out[1][""])
            return out

        monkeypatch.setattr(made, "_fold", fold)
        made.score(layers_of(features), responses_of(values, noise=0.0), 0)
        chosen.append([one[""] for one in seen])
        predicted.append(held)
    assert chosen[0][2] == chosen[1][2]
    assert np.array_equal(predicted[0][2], predicted[1][2])
    assert chosen[0] != chosen[1]  # other folds train on what was changed


@MAKE
def test_the_planted_layer_is_chosen_and_the_null_is_about_zero(make) -> None:
    features = net(N, 4, width=10)
    target = responses_of(driven(features["layer2"], 30))
    found = make(n_permutations=40).score(layers_of(features), target, 0)
    assert str(found["best_layer"].values) == "layer2"
    assert float(found["weight"].sel(layer="layer2")) > 0.9
    assert float(found["raw"].median()) > 0.6
    assert abs(found["null"].values.mean()) < 0.05
    assert (found["null"].values < float(found["null_raw"])).all()


@MAKE
def test_choice_and_null_are_made_of_some_neuroids_of_a_large_site(make, monkeypatch: pytest.MonkeyPatch) -> None:
    features, means = net(N, 2), mixed(net(N, 3), 12)
    monkeypatch.setattr(_per_neuroid, "MAX_NULL", 5)
    found = make(repeats=1).score(layers_of(features), responses_of(means), 0)
    some = np.sort(np.random.default_rng([0, 5]).permutation(12)[:5])
    assert float(found["null_raw"]) == pytest.approx(float(np.median(found["raw"].values[some])), abs=1e-12)
    assert found["raw"].size == 12


# few of anything


@MAKE
@pytest.mark.parametrize("n_neuroids", [1, 2, 3, 4, 5])
def test_few_neuroids_are_enough(make, n_neuroids: int) -> None:
    target = responses_of(mixed(net(N, 3), n_neuroids))
    found = make(repeats=1).score(layers_of(net(N, 2)), target, 0)
    assert np.isfinite(found["raw"].values).all()
    assert np.isfinite(found["null"].values).all()
    assert np.isfinite(make().ceiling(target, 0)["ceiling"].values).any()


@METRICS
def test_one_layer_and_identical_layers(make, fit: Fit) -> None:
    features = net(N, 1)
    target = responses_of(driven(features["layer0"][:, :5], 4))
    one = make(repeats=1).score(layers_of(features), target, 0)
    expected = slow(features, means_of(target, N), fit, ["layer0"] * 5, 1).mean(0)
    np.testing.assert_allclose(one["raw"].values, expected, rtol=0, atol=1e-8)
    same = make(repeats=1).score(layers_of({"a": features["layer0"], "b": features["layer0"]}), target, 0)
    assert np.array_equal(same["raw"].values, one["raw"].values)
    assert same["weight"].values.tolist() == [1, 0]


@MAKE
def test_no_layers_explain_nothing(make) -> None:
    target = with_gaps(responses_of(mixed(net(N, 3), 5)))
    found = make().score({}, target, 0)
    assert np.isnan(found["raw"].values[:2]).all()
    assert found["raw"].values[2:].tolist() == [0, 0, 0]
    assert found["neuroid_id"].values.tolist() == target["neuroid_id"].values.tolist()


@MAKE
@pytest.mark.parametrize("n_stimuli", [15, 17])
def test_fewer_images_than_components_are_enough(make, n_stimuli: int) -> None:
    features = net(n_stimuli, 2)
    target = responses_of(driven(features["layer0"], 4))
    made = Pls(repeats=1, n_permutations=2, n_bootstraps=20) if make is pls else make(n_bootstraps=20)
    found = made.score(layers_of(features), target, 0)
    assert np.isfinite(found["raw"].values).all()
    assert made.ceiling(target, 0)["ceiling"].sizes == {"neuroid": 4}
    if make is pls:
        curve = found["component_raw"].values
        assert np.array_equal(curve[n_stimuli:], np.repeat(curve[n_stimuli - 1], 25 - n_stimuli))


@METRICS
def test_a_layer_of_low_rank_is_enough(make, fit: Fit) -> None:
    features = {"narrow": np.random.default_rng(0).normal(size=(N, 4))}
    target = responses_of(driven(features["narrow"], 5))
    found = make(repeats=1).score(layers_of(features), target, 0)
    expected = slow(features, means_of(target, N), fit, ["narrow"] * 5, 1).mean(0)
    np.testing.assert_allclose(found["raw"].values, expected, rtol=0, atol=1e-8)
    two = {"two": np.random.default_rng(0).normal(size=(N, 2))}
    assert np.isfinite(make(repeats=1).score(layers_of(two), target, 0)["raw"].values).all()


@MAKE
def test_a_layer_that_answers_to_one_image_is_no_error(make) -> None:
    """It is constant in the training images of one fold."""
    features = net(N, 2)
    features["rare"] = np.zeros((N, 3))
    features["rare"][7] = 1
    target = responses_of(driven(features["layer0"], 4))
    found = make().score(layers_of(features), target, 0)
    assert np.isfinite(found["raw"].values).all()
    alone = make().score(layers_of({"rare": features["rare"]}), target, 0)
    assert np.isfinite(alone["raw"].values).all()
    assert np.isfinite(alone["null"].values).all()


@MAKE
def test_constant_layers_are_left_out_with_a_note(make) -> None:
    features = {**net(N, 1), "flat": np.full((N, 4), 3.0)}
    target = responses_of(driven(features["layer0"], 3))
    found = make().score(layers_of(features), target, 0)
    assert found["layer"].values.tolist() == ["layer0"]
    assert any("layer flat left out" in note for note in notes_of(found))
    with pytest.raises(ContractViolation, match="all are constant"):
        make().score(layers_of({"flat": features["flat"]}), target, 0)


@MAKE
@pytest.mark.parametrize("n_stimuli", [4, 14])
def test_too_few_stimuli_are_an_error(make, n_stimuli: int) -> None:
    target = responses_of(np.random.default_rng(0).normal(size=(n_stimuli, 4)))
    with pytest.raises(ContractViolation, match=f"{n_stimuli} stimuli are too few"):
        make().score(layers_of(net(n_stimuli, 2)), target, 0)


# neuroids that cannot be used, and sites


def with_gaps(target: xr.DataArray) -> xr.DataArray:
    """Return the responses with the first neuroid without any trial of a stimulus, and the second constant."""
    values = target.values.copy()
    values[target["stimulus_id"].values == 3, 0] = np.nan
    values[:, 1] = 2
    return target.copy(data=values)


@MAKE
def test_neuroids_that_cannot_be_used_stay_nan_and_are_counted(make) -> None:
    features = layers_of(net(N, 2))
    target = responses_of(mixed(net(N, 3), 6))
    found = make().score(features, with_gaps(target), 0)
    alone = make().score(features, target.isel(neuroid=slice(2, None)), 0)
    assert np.isnan(found["raw"].values[:2]).all()
    np.testing.assert_allclose(found["raw"].values[2:], alone["raw"].values, rtol=0, atol=1e-12)
    assert np.isnan(found["bootstrap"].values[:, :2]).all()
    assert np.isfinite(found["bootstrap"].values[:, 2:]).all()
    assert found.attrs["n_neuroids"] == 4
    notes = " ".join(notes_of(found))
    assert "1 neuroid(s) left out: without any trial" in notes
    assert "1 neuroid(s) left out: constant" in notes
    ceiling = make().ceiling(with_gaps(target), 0)["ceiling"].values
    np.testing.assert_allclose(ceiling[2:], make().ceiling(target.isel(neuroid=slice(2, None)), 0)["ceiling"].values)
    assert np.isnan(ceiling[:2]).all()


@MAKE
def test_a_site_without_responses_has_no_number_and_others_go_on(make) -> None:
    features = layers_of(net(N, 2))
    good = responses_of(mixed(net(N, 3), 4))
    missing = good.copy(data=np.full_like(good.values, np.nan))
    found = make().score_sites(features, {"missing": missing, "good": good}, 0)
    assert found["good"].identical(make().score(features, good, 0))
    assert found["missing"].identical(make().score(features, missing, 0))
    assert np.isnan(found["missing"]["raw"].values).all()
    assert any("no neuroid is left" in note for note in notes_of(found["missing"]))
    ceiling = make().ceiling(missing, 0)
    assert np.isnan(ceiling["ceiling"].values).all()
    assert "no ceiling: no neuroid is left" in notes_of(ceiling)
    empty = make().score({}, missing, 0)
    assert np.isnan(empty["raw"].values).all()


@MAKE
def test_a_site_alone_has_the_same_bits_as_among_others(make) -> None:
    features = layers_of(net(N, 3))
    targets = {str(k): responses_of(mixed(net(N, 3, k), 5 + 13 * k), seed=k) for k in range(3)}
    together = make().score_sites(features, targets, 0)
    for name, target in targets.items():
        assert together[name].identical(make().score(features, target, 0))


@MAKE
def test_a_neuroid_that_answers_to_one_image_is_no_error(make) -> None:
    means = mixed(net(N, 3), 3)
    means[:, 0] = 0
    means[4, 0] = 1
    target = responses_of(means, noise=0.0)
    made: PerNeuroid = make(n_bootstraps=30)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = made.score(layers_of(net(N, 2)), target, 0)
        ceiling = made.ceiling(target, 0)
    assert np.isfinite(found["raw"].values).all()
    assert ceiling["ceiling"].values[0] == pytest.approx(1)


# the ceiling


def test_the_ceiling_is_the_root_of_split_half_reliability() -> None:
    target = responses_of(mixed(net(N, 3), 5), 4, 2.0)
    found = ridge(n_bootstraps=10).ceiling(target, 0)
    cube = target.values.astype(np.float64).reshape(N, 4, 5)
    masks = half_masks(4, _per_neuroid.N_SPLITS, np.random.default_rng([0, 2]))
    halves = [(cube[:, mask].mean(1), cube[:, ~mask].mean(1)) for mask in masks]
    r = np.array([[np.corrcoef(x, y)[0, 1] for x, y in zip(a.T, b.T, strict=True)] for a, b in halves])
    reliability = spearman_brown(r).mean(0)
    assert (reliability > 0).all()
    root = np.sqrt(reliability)
    np.testing.assert_allclose(found["ceiling"].values, root, rtol=0, atol=1e-6)
    mask = half_masks(4, 1, np.random.default_rng([0, 2]))[0]
    a, b = cube[:, mask].mean(1), cube[:, ~mask].mean(1)
    again = np.array(
        [
            [np.corrcoef(np.repeat(x, count), np.repeat(y, count))[0, 1] for x, y in zip(a.T, b.T, strict=True)]
            for count in image_counts(N, 0, 10).astype(int)
        ]
    )
    corrected = spearman_brown(again)
    expected = root + (corrected - corrected.mean(0)) / (2 * root)
    np.testing.assert_allclose(found["bootstrap"].values, expected, rtol=0, atol=1e-5)


def test_a_neuroid_of_no_reliability_has_no_ceiling_and_is_counted() -> None:
    means = mixed(net(N, 3), 3)
    means[:, 1] = 0
    trials = responses_of(means, 2, 0.5)
    values = trials.values.copy()
    values[1::2, 1] = -values[::2, 1]  # its trials oppose each other
    values[::2, 1] += 0.01 * np.arange(N)
    found = ridge().ceiling(trials.copy(data=values), 0)
    assert np.isnan(found["ceiling"].values).tolist() == [False, True, False]
    assert any(note.startswith("1 neuroid(s) of no reliability") for note in notes_of(found))


def test_a_single_repetition_gives_no_ceiling() -> None:
    found = ridge().ceiling(responses_of(mixed(net(N, 3), 3), 1), 0)
    assert np.isnan(found["ceiling"].values).all()
    assert notes_of(found) == ["no ceiling: a single repetition"]


def test_missing_trials_of_a_half_are_no_error() -> None:
    target = responses_of(mixed(net(N, 3), 3), 2, 0.3)
    values = target.values.copy()
    values[0, 0] = np.nan
    found = ridge().ceiling(target.copy(data=values), 0)
    assert np.isfinite(found["ceiling"].values[1:]).all()
    assert np.isfinite(ridge().score(layers_of(net(N, 2)), target.copy(data=values), 0)["raw"].values).all()
