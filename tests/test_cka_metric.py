"""The metric cka against a loop over folds with ``mousebench.cka.debiased_cka`` on the Grams of the images in a fold."""

from __future__ import annotations

import numpy as np
import pytest
from worlds import driven, folds_of, layers_of, means_of, net, notes_of, responses_of

from mousebench.cka import debiased_cka
from mousebench.errors import ContractViolation
from mousebench.reliability import half_masks, spearman_brown
from mousebench_plugins.metrics._cka import Cka
from mousebench_plugins.metrics._rdm_metric import permuted_labels

N = 36
FIRST, SECOND = np.triu_indices(N, 1)


def metric(repeats: int = 2, n_permutations: int = 0, n_bootstraps: int = 5) -> Cka:
    return Cka(repeats=repeats, n_permutations=n_permutations, n_bootstraps=n_bootstraps)


def gram_of(values: np.ndarray) -> np.ndarray:
    return values @ values.T


def slow(
    features: dict[str, np.ndarray], means: np.ndarray, repeats: int, seed: int
) -> tuple[float, list[tuple[str, np.ndarray]]]:
    """Return the score, and the layer and the images of each fold."""
    z, chosen = [], []
    for train, test in folds_of(N, 6, repeats, seed):
        among = {name: debiased_cka(gram_of(x[train]), gram_of(means[train])) for name, x in features.items()}
        best = max(among, key=lambda name: among[name])
        z.append(np.arctanh(debiased_cka(gram_of(features[best][test]), gram_of(means[test]))))
        chosen.append((best, test))
    return float(np.tanh(np.mean(z))), chosen


@pytest.mark.parametrize(("drive", "seed"), [("layer2", 0), ("layer0", 5), (None, 1)])
def test_cka_is_the_slow_loop_also_with_labels_permuted(drive: str | None, seed: int) -> None:
    features = net(N)
    means = driven(features[drive], 30) if drive else np.random.default_rng(2).normal(size=(N, 30))
    target = responses_of(means)
    found = metric(2, 4).score(layers_of(features), target, seed)
    means = means_of(target, N)
    raw, chosen = slow(features, means, 2, seed)
    assert float(found["raw"]) == pytest.approx(raw, abs=1e-10)
    names = [name for name, _ in chosen]
    np.testing.assert_allclose(found["weight"].values, [names.count(name) / 12 for name in features], atol=1e-12)
    for number, labels in enumerate(permuted_labels(N, 4, seed).T[1:]):
        assert float(found["null"][number]) == pytest.approx(slow(features, means[labels], 2, seed)[0], abs=1e-10)
    alone = [debiased_cka(gram_of(values), gram_of(means)) for values in features.values()]
    np.testing.assert_allclose(found["layer_raw"].values, alone, atol=1e-10)


def test_many_permutations_are_those_of_few() -> None:
    """They are computed so many at a time."""
    layers, target = layers_of(net(N)), responses_of(driven(net(N)["layer1"], 10))
    many, few = (metric(1, n).score(layers, target, 0)["null"].values for n in (300, 7))
    np.testing.assert_allclose(many[:7], few, rtol=0, atol=1e-12)
    assert abs(many.mean()) < 0.05


def test_the_planted_layer_is_chosen_and_a_site_that_is_a_layer_scores_one() -> None:
    features = net(N, 5)
    found = metric(3).score(layers_of(features), responses_of(driven(features["layer3"], 200)), 0)
    assert str(found["best_layer"].values) == "layer3"
    assert float(found["raw"]) > 0.3
    same = metric(1).score(layers_of(features), responses_of(features["layer3"], noise=0.0), 0)
    assert float(same["raw"]) == pytest.approx(1, abs=1e-5)  # responses are float32


def test_large_means_of_features_and_of_neuroids_do_not_matter() -> None:
    features, means = net(N), driven(net(N)["layer2"], 10)
    shifted = {name: 1000 + values for name, values in features.items()}
    one = metric(1).score(layers_of(features), responses_of(means, noise=0.0), 0)
    other = metric(1).score(layers_of(shifted), responses_of(means + 64, noise=0.0), 0)
    assert float(other["raw"]) == pytest.approx(float(one["raw"]), abs=1e-4)  # float32 beside 64


def test_one_layer_copies_none_and_constant_ones() -> None:
    features = net(N, 1)
    target = responses_of(driven(features["layer0"], 20))
    one = metric().score(layers_of(features), target, 0)
    copies = metric().score(
        layers_of({"a": features["layer0"], "b": 2 * features["layer0"], "c": np.ones((N, 3))}), target, 0
    )
    assert float(one["raw"]) == pytest.approx(slow(features, means_of(target, N), 2, 0)[0], abs=1e-10)
    assert float(copies["raw"]) == pytest.approx(float(one["raw"]), abs=1e-12)
    assert copies["layer"].values.tolist() == ["a"]
    assert any("the same Gram" in note for note in notes_of(copies))
    assert any("layer c left out" in note for note in notes_of(copies))
    none = metric(n_permutations=3).score({}, target, 0)
    assert float(none["raw"]) == 0
    assert not none["null"].values.any()
    with pytest.raises(ContractViolation, match="all are constant"):
        metric().score(layers_of({"c": np.ones((N, 3))}), target, 0)


def test_a_layer_that_answers_to_one_image_is_no_error() -> None:
    """It is constant in all folds but one."""
    features = net(N)
    features["rare"] = np.zeros((N, 3))
    features["rare"][7] = 1
    found = metric(1, 3, 20).score(layers_of(features), responses_of(driven(features["layer0"], 20)), 0)
    assert np.isfinite(float(found["raw"]))
    alone = metric(1, 3, 20).score(layers_of({"rare": features["rare"]}), responses_of(driven(net(N)["layer0"], 9)), 0)
    assert np.isfinite(float(alone["raw"]))


def test_a_site_alone_has_the_same_bits_as_among_others() -> None:
    features = layers_of(net(N))
    targets = {str(k): responses_of(driven(net(N)["layer1"], 10 + k, k), seed=k) for k in range(3)}
    together = metric(2, 3, 20).score_sites(features, targets, 0)
    for name, target in targets.items():
        assert together[name].identical(metric(2, 3, 20).score(features, target, 0))


def test_draws_follow_the_score_of_neuroids_drawn_again() -> None:
    """To first order: with counts of nearly 1, as the pull says."""
    features, eps = net(N), 1e-4
    target = responses_of(driven(features["layer2"], 25))
    means = means_of(target, N)
    raw, chosen = slow(features, means, 2, 0)
    made, y = metric(2, 0, 2), gram_of(means)[FIRST, SECOND]
    value = np.zeros(len(y))
    for name, test in chosen:
        pair = np.flatnonzero(np.isin(FIRST, test) & np.isin(SECOND, test))
        value[pair] += made.pull(gram_of(features[name])[FIRST, SECOND][pair], y[pair], raw).second / len(chosen)
    found = made.neuroid_pull(means, value).by_image.sum(0) / 2
    for k in (0, 7):
        r = []
        for step in (eps, -eps):
            scale = np.ones(25)
            scale[k] = np.sqrt(1 + step)
            again = gram_of(means * scale)
            r.append(np.mean([debiased_cka(gram_of(features[name][t]), again[np.ix_(t, t)]) for name, t in chosen]))
        # the neuroids' mean change is taken off: all of them together change nothing
        assert found[k] - found.mean() == pytest.approx((r[0] - r[1]) / (2 * eps), abs=1e-6)


def test_the_ceiling_is_the_root_of_the_reliability_of_the_gram() -> None:
    target = responses_of(driven(net(N)["layer0"], 25), 3, 1.5)  # too few trials for quarters
    found = metric(n_bootstraps=200).ceiling(target, 0)
    cube = target.values.astype(np.float64).reshape(N, 3, 25)
    half = [
        debiased_cka(gram_of(cube[:, mask].mean(1)), gram_of(cube[:, ~mask].mean(1)))
        for mask in half_masks(3, 20, np.random.default_rng([0, 2]))
    ]
    assert float(found["reliability"]) == pytest.approx(spearman_brown(np.mean(half)), abs=1e-6)
    assert float(found["ceiling"]) == pytest.approx(np.sqrt(float(found["reliability"])), abs=1e-12)
    assert found["bootstrap"].values.mean() == pytest.approx(float(found["ceiling"]), abs=0.02)
    assert 0 < found["bootstrap"].values.std() < 0.3


def test_a_perfect_model_reaches_the_ceiling() -> None:
    """Of noisy responses with infinitely many neurons the ceiling is what the noise-free Gram scores."""
    raws, tops = [], []
    for seed in range(6):
        means = driven(np.random.default_rng(seed).normal(size=(N, 3)), 150, seed)
        target = responses_of(means, 4, 3.0, seed)
        raws.append(float(metric(2).score(layers_of({"truth": means}), target, 0)["raw"]))
        tops.append(float(metric().ceiling(target, 0)["ceiling"]))
    assert np.mean(raws) == pytest.approx(np.mean(tops), abs=0.05)


def test_a_site_without_responses_has_no_number_and_others_go_on() -> None:
    features = layers_of(net(N))
    good = responses_of(driven(net(N)["layer0"], 8))
    missing = good.copy(data=np.full_like(good.values, np.nan))
    constant = good.copy(data=np.ones_like(good.values))
    made = metric(1, 2, 10)
    found = made.score_sites(features, {"missing": missing, "good": good, "constant": constant}, 0)
    assert found["good"].identical(made.score(features, good, 0))
    for name, target in (("missing", missing), ("constant", constant)):
        assert np.isnan(float(found[name]["raw"]))
        assert any("no neuroid is left" in note for note in notes_of(found[name]))
        assert made.score(features, target, 0).identical(found[name])
        assert np.isnan(float(made.ceiling(target, 0)["ceiling"]))


@pytest.mark.parametrize("n_neuroids", [1, 2, 5])
def test_few_neuroids_have_a_score_and_a_ceiling(n_neuroids: int) -> None:
    target = responses_of(driven(net(N)["layer0"], n_neuroids), 4, 0.3)
    assert np.isfinite(float(metric(1, 2, 10).score(layers_of(net(N)), target, 0)["raw"]))
    assert 0.7 < float(metric(1, 2, 10).ceiling(target, 0)["ceiling"]) < 1


@pytest.mark.parametrize("n_stimuli", [6, 17, 18, 23])
def test_too_few_stimuli_are_an_error(n_stimuli: int) -> None:
    """Debiased CKA needs four images in a fold."""
    target = responses_of(np.random.default_rng(0).normal(size=(n_stimuli, 8)))
    with pytest.raises(ContractViolation, match=f"{n_stimuli} stimuli are too few"):
        metric().score(layers_of(net(n_stimuli)), target, 0)


def test_four_images_in_a_fold_are_enough() -> None:
    target = responses_of(driven(net(24)["layer0"], 8))
    assert np.isfinite(float(metric(1, 2, 20).score(layers_of(net(24)), target, 0)["raw"]))
