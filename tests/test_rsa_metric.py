"""The metric rsa, and the intervals of the RDM metrics, against loops written down with numpy and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from worlds import driven, folds_of, layers_of, means_of, net, notes_of, responses_of, weighted_rdm

from mousebench.assemblies import make_rdm
from mousebench.errors import ContractViolation
from mousebench.progress import Silent
from mousebench.reliability import rdm_reliability, spearman_brown
from mousebench_plugins.metrics._rdm_metric import RdmMetric, make_partitions, permuted_labels
from mousebench_plugins.metrics._rsa import Rsa
from mousebench_plugins.metrics._rsa_nnls import RsaNnls, as_published, leak_free

N = 36
FIRST, SECOND = np.triu_indices(N, 1)


def rdm_of(features: np.ndarray) -> np.ndarray:
    return 1 - np.corrcoef(features)


def metric(repeats: int = 2, n_permutations: int = 0, n_bootstraps: int = 5) -> Rsa:
    return Rsa(repeats=repeats, n_permutations=n_permutations, n_bootstraps=n_bootstraps)


def pearson(a: np.ndarray, b: np.ndarray) -> float:
    return 0.0 if np.ptp(a) < 1e-12 or np.ptp(b) < 1e-12 else float(np.corrcoef(a, b)[0, 1])


def slow(features: dict[str, np.ndarray], rdm: np.ndarray, repeats: int, seed: int) -> tuple[float, list[str]]:
    """Return the score, and the layer that each fold chose."""
    site, layers = rdm[FIRST, SECOND], {name: rdm_of(values)[FIRST, SECOND] for name, values in features.items()}
    z, chosen = [], []
    for train, test in folds_of(N, 6, repeats, seed):
        both_train, both_test = (np.isin(FIRST, part) & np.isin(SECOND, part) for part in (train, test))
        best = max(layers, key=lambda name: pearson(layers[name][both_train], site[both_train]))
        z.append(np.arctanh(pearson(layers[best][both_test], site[both_test])))
        chosen.append(best)
    return float(np.tanh(np.mean(z))), chosen


def held_of(made: RdmMetric, features: dict[str, np.ndarray], rdm: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the held-out pairs of each fold and what is predicted of them, by the metric's own procedure."""
    labels, partitions = permuted_labels(N, 0, 0), list(make_partitions(N, made.repeats, 0))
    outcome = made.procedure(made.columns(layers_of(features)), {"": rdm}, labels, partitions, Silent())[""]
    return [(held.pair, held.predicted) for held in outcome.held]


@pytest.mark.parametrize(("drive", "seed"), [("layer2", 0), ("layer0", 5), (None, 1)])
def test_rsa_is_the_slow_loop_also_with_labels_permuted(drive: str | None, seed: int) -> None:
    features = net(N)
    means = driven(features[drive], 30) if drive else np.random.default_rng(2).normal(size=(N, 30))
    target = responses_of(means)
    found = metric(2, 4).score(layers_of(features), target, seed)
    rdm = rdm_of(means_of(target, N))
    raw, chosen = slow(features, rdm, 2, seed)
    assert float(found["raw"]) == pytest.approx(raw, abs=1e-10)
    share = [chosen.count(name) / len(chosen) for name in features]
    np.testing.assert_allclose(found["weight"].values, share, atol=1e-12)
    assert str(found["best_layer"].values) == list(features)[int(np.argmax(share))]
    for number, labels in enumerate(permuted_labels(N, 4, seed).T[1:]):
        expected = slow(features, rdm[np.ix_(labels, labels)], 2, seed)[0]
        assert float(found["null"][number]) == pytest.approx(expected, abs=1e-10)
    alone = [np.corrcoef(rdm_of(values)[FIRST, SECOND], rdm[FIRST, SECOND])[0, 1] for values in features.values()]
    np.testing.assert_allclose(found["layer_raw"].values, alone, atol=1e-10)


def test_the_planted_layer_is_chosen_and_the_null_is_about_zero() -> None:
    features = net(N, 5)
    found = metric(3, 60).score(layers_of(features), responses_of(driven(features["layer3"], 200)), 0)
    assert str(found["best_layer"].values) == "layer3"
    assert float(found["weight"].sel(layer=found["layer"] == "layer3").item()) > 0.9
    assert float(found["raw"]) > 0.3
    assert abs(found["null"].values.mean()) < 0.05
    assert (found["null"].values < float(found["raw"])).all()


def test_a_site_that_is_a_layer_scores_one() -> None:
    features = net(N)
    found = metric().score(layers_of(features), make_rdm(_clean(rdm_of(features["layer1"])), np.arange(N)), 0)
    assert float(found["raw"]) == pytest.approx(1, abs=1e-10)
    assert found["weight"].values.tolist() == [0, 1, 0, 0]


def _clean(rdm: np.ndarray) -> np.ndarray:
    rdm = (rdm + rdm.T) / 2
    np.fill_diagonal(rdm, 0)
    return rdm


def test_a_site_of_equal_distances_scores_zero() -> None:
    found = metric(n_permutations=3).score(layers_of(net(N)), make_rdm(0.9 * (1 - np.eye(N)), np.arange(N)), 0)
    assert float(found["raw"]) == 0
    assert not found["null"].values.any()


def test_a_layer_that_opposes_the_site_scores_below_zero() -> None:
    features = net(N, 1)
    rdm = _clean(2 - rdm_of(features["layer0"]))
    assert float(metric().score(layers_of(features), make_rdm(rdm, np.arange(N)), 0)["raw"]) < -0.9


def test_one_layer_copies_and_none() -> None:
    features = net(N, 1)
    target = responses_of(driven(features["layer0"], 20))
    one = metric().score(layers_of(features), target, 0)
    copies = metric().score(layers_of({"a": features["layer0"], "b": 2 * features["layer0"]}), target, 0)
    assert float(one["raw"]) == pytest.approx(slow(features, rdm_of(means_of(target, N)), 2, 0)[0], abs=1e-10)
    assert float(copies["raw"]) == pytest.approx(float(one["raw"]), abs=1e-12)
    assert copies["layer"].values.tolist() == ["a"]
    assert any("the same RDM" in note for note in notes_of(copies))
    none = metric(n_permutations=3).score({}, target, 0)
    assert float(none["raw"]) == 0
    assert not none["null"].values.any()


def test_new_responses_to_held_out_images_leave_a_folds_prediction_as_it_is() -> None:
    features = net(N)
    means = driven(features["layer2"], 30) + driven(features["layer0"], 30, 1)
    test = folds_of(N, 6, 1, 0)[4][1]
    changed = means.copy()
    changed[test] = driven(features["layer3"], 30)[test] * 5
    one, other = (held_of(metric(1), features, rdm_of(values)) for values in (means, changed))
    assert np.isin(FIRST[one[4][0]], test).all()
    assert np.array_equal(one[4][1], other[4][1])
    same = [np.array_equal(a[1], b[1]) for a, b in zip(one, other, strict=True)]
    assert not all(same)  # other folds train on them


def test_a_site_alone_has_the_same_bits_as_among_others() -> None:
    features = layers_of(net(N))
    targets = {str(k): responses_of(driven(net(N)["layer1"], 10 + k, k), seed=k) for k in range(3)}
    together = metric(2, 3, 20).score_sites(features, targets, 0)
    for name, target in targets.items():
        assert together[name].identical(metric(2, 3, 20).score(features, target, 0))


# intervals of the family

FAMILY = pytest.mark.parametrize(
    "make",
    [
        lambda n: Rsa(repeats=2, n_permutations=0, n_bootstraps=n),
        lambda n: RsaNnls(leak_free, repeats=2, n_permutations=0, n_bootstraps=n),
        lambda n: RsaNnls(as_published, repeats=1, n_permutations=0, n_bootstraps=n),
    ],
    ids=["rsa", "rsa-nnls", "rsa-nnls-published"],
)


@FAMILY
def test_draws_follow_the_score_of_images_and_neuroids_drawn_again(make) -> None:
    """To first order: the counts of a resample nearly 1, the score changes as the draws do before they are scaled."""
    features, eps = net(N), 1e-4
    target = responses_of(driven(features["layer2"], 25))
    means, made = means_of(target, N), make(2)
    rdm = rdm_of(means)[FIRST, SECOND]
    held = held_of(made, features, rdm_of(means))
    raw = float(made.score(layers_of(features), target, 0)["raw"])
    value = np.zeros(len(rdm))
    for pair, predicted in held:
        pull = made.pull(predicted, rdm[pair], raw)
        value[pair] += pull.second / len(held)
        # influences about the mean over folds sum to how far the fold is from it
        assert pull.weight.sum() == pytest.approx(pearson(predicted, rdm[pair]) - raw, abs=1e-12)
    found = made.neuroid_pull(means, value).by_image.sum(0) / 2
    for k in (0, 7):
        step = eps * (np.arange(25) == k)
        again = [weighted_rdm(means, 1 + sign * step) for sign in (1, -1)]
        r = [np.mean([pearson(p, column[pair]) for pair, p in held]) for column in again]
        assert found[k] == pytest.approx((r[0] - r[1]) / (2 * eps), abs=1e-8)


@FAMILY
def test_draws_are_the_same_resamples_for_two_models(make) -> None:
    """The difference of two models that hardly differ is far surer than each of them."""
    features = net(N)
    target = responses_of(driven(features["layer2"], 25), noise=2.0)
    near = {
        name: values + 0.02 * np.random.default_rng(5).normal(size=values.shape) for name, values in features.items()
    }
    one, other = (make(300).score(layers_of(some), target, 0)["bootstrap"].values for some in (features, near))
    assert (one - other).std() < 0.3 * one.std()
    assert np.corrcoef(one, other)[0, 1] > 0.95


@FAMILY
def test_an_rdm_without_neurons_has_draws_of_images_alone(make) -> None:
    features = net(N)
    rdm = _clean(rdm_of(driven(features["layer2"], 25) + np.random.default_rng(0).normal(size=(N, 25))))
    score = make(50).score(layers_of(features), make_rdm(rdm, np.arange(N), reliability=0.5), 0)
    draws = score["bootstrap"].values
    assert np.median(draws) == pytest.approx(float(score["raw"]), abs=draws.std())
    assert draws.std() > 0
    assert any("images, not that of neurons" in note for note in notes_of(score))


def test_the_ceiling_is_the_root_of_the_reliability_and_its_draws_lie_about_it() -> None:
    target = responses_of(driven(net(N)["layer0"], 25), 3, 1.5)  # too few trials for quarters
    found = metric(n_bootstraps=400).ceiling(target, 0)
    half = rdm_reliability(target.values.reshape(N, 3, 25), np.random.default_rng([0, 2]), 20)
    value = float(found["ceiling"])
    assert value == pytest.approx(np.sqrt(spearman_brown(half.mean())), abs=1e-9)
    draws = found["bootstrap"].values
    assert draws.mean() == pytest.approx(value, abs=draws.std() / 4)
    assert 0.005 < draws.std() < 0.2


def test_one_animal_is_noted() -> None:
    features = net(N)
    target = responses_of(driven(features["layer2"], 6), animals=["a"] * 6)
    assert any("one animal" in note for note in notes_of(metric().score(layers_of(features), target, 0)))
    two = target.assign_coords(animal_id=("neuroid", ["a", "b"] * 3))
    assert not any("one animal" in note for note in notes_of(metric().score(layers_of(features), two, 0)))


# ten layers


def test_raw_10_layers_is_nnls_on_ten_layers_evenly_spaced() -> None:
    features = net(N, 14)
    target = responses_of(driven(features["layer5"], 40))
    made = RsaNnls(leak_free, repeats=2, n_permutations=0, n_bootstraps=2)
    found = made.score(layers_of(features), target, 0)
    spaced = [f"layer{round(k * 13 / 9)}" for k in range(10)]
    expected = made.score(layers_of({name: features[name] for name in spaced}), target, 0)
    assert float(found["raw_10_layers"]) == pytest.approx(float(expected["raw"]), abs=1e-12)
    assert float(found["raw_10_layers"]) != float(found["raw"])
    few = made.score(layers_of(net(N, 3)), target, 0)
    assert float(few["raw_10_layers"]) == float(few["raw"])
    published = RsaNnls(as_published, repeats=1, n_permutations=0, n_bootstraps=2)
    assert "raw_10_layers" not in published.score(layers_of(features), target, 0)


# what cannot be scored


@FAMILY
def test_a_site_without_responses_has_no_number_and_others_go_on(make) -> None:
    features = layers_of(net(N))
    good = responses_of(driven(net(N)["layer0"], 8))
    missing = good.copy(data=np.full_like(good.values, np.nan))
    constant = good.copy(data=np.ones_like(good.values))
    one = good.isel(neuroid=[0])
    made = make(10)
    found = made.score_sites(features, {"good": good, "missing": missing, "constant": constant, "one": one}, 0)
    assert np.isfinite(float(found["good"]["raw"]))
    for name, target in (("missing", missing), ("constant", constant), ("one", one)):
        assert np.isnan(float(found[name]["raw"]))
        assert notes_of(found[name])
        assert made.score(features, target, 0).identical(found[name])
        ceiling = made.ceiling(target, 0)
        assert np.isnan(float(ceiling["ceiling"]))
        assert any("no ceiling" in note for note in notes_of(ceiling))


@FAMILY
def test_two_neuroids_and_missing_trials_are_no_error(make) -> None:
    target = responses_of(driven(net(N)["layer0"], 2))
    assert np.isfinite(float(make(10).score(layers_of(net(N)), target, 0)["raw"]))
    make(10).ceiling(target, 0)
    sparse = responses_of(driven(net(N)["layer0"], 6), 2)
    values = sparse.values.copy()
    for neuroid in range(6):
        values[2 * neuroid, neuroid] = np.nan
    sparse = sparse.copy(data=values)
    assert np.isfinite(float(make(10).score(layers_of(net(N)), sparse, 0)["raw"]))
    assert np.isnan(float(make(10).ceiling(sparse, 0)["ceiling"]))


def test_layers_that_are_all_constant_are_an_error() -> None:
    with pytest.raises(ContractViolation, match="all are constant"):
        metric().score(layers_of({"a": np.ones((N, 5))}), responses_of(driven(net(N)["layer0"], 8)), 0)


@pytest.mark.parametrize("n_stimuli", [6, 17])
def test_too_few_stimuli_are_an_error(n_stimuli: int) -> None:
    target = responses_of(np.random.default_rng(0).normal(size=(n_stimuli, 8)))
    with pytest.raises(ContractViolation, match=f"{n_stimuli} stimuli are too few"):
        metric().score(layers_of(net(n_stimuli)), target, 0)


def test_eighteen_stimuli_are_enough() -> None:
    target: xr.DataArray = responses_of(driven(net(18)["layer0"], 8))
    made = metric(n_permutations=2, n_bootstraps=20)
    assert np.isfinite(float(made.score(layers_of(net(18)), target, 0)["raw"]))
    assert np.isfinite(float(made.ceiling(target, 0)["reliability"]))
