from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np
import pytest
import xarray as xr
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import KFold

from mousebench.assemblies import align, make_rdm, make_responses
from mousebench.errors import ContractViolation
from mousebench.linalg import gram, upper_triangle
from mousebench_plugins.metrics import rsa_nnls
from mousebench_plugins.metrics._rdm_metric import permuted_labels, permuted_pairs
from mousebench_plugins.metrics._rsa_nnls import RsaNnls, as_published, leak_free

PROCEDURES = pytest.mark.parametrize("procedure", [leak_free, as_published])


def layer(features: np.ndarray) -> xr.Dataset:
    product, row_sum, width = gram([features])
    return xr.Dataset(
        {"gram": (("stimulus", "stimulus_b"), product), "feature_sum": ("stimulus", row_sum)},
        attrs={"n_features": width},
    )


def layers_of(features: Mapping[str, np.ndarray]) -> dict[str, xr.Dataset]:
    return {name: layer(values) for name, values in features.items()}


def layer_with_rdm(rdm: np.ndarray) -> xr.Dataset:
    """Return a layer that has just this RDM: its images have mean 0 and length 1."""
    return xr.Dataset(
        {"gram": (("stimulus", "stimulus_b"), 1 - rdm), "feature_sum": ("stimulus", np.zeros(len(rdm)))},
        attrs={"n_features": 1},
    )


def net(n_stimuli: int, n_layers: int = 6, seed: int = 0) -> dict[str, np.ndarray]:
    """Return features of layers that are alike, as those of one net are."""
    rng = np.random.default_rng([seed, 7])
    common = rng.normal(size=(n_stimuli, 4))
    return {
        f"layer{k}": common @ rng.normal(size=(4, 60)) + 3 * rng.normal(size=(n_stimuli, 60)) for k in range(n_layers)
    }


def noise_net(n_stimuli: int, n_layers: int, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng([seed, 8])
    return {f"noise{k}": rng.normal(size=(n_stimuli, 40)) for k in range(n_layers)}


def rdm_of(features: np.ndarray) -> np.ndarray:
    rdm = 1 - np.corrcoef(features)
    np.fill_diagonal(rdm, 0)
    return (rdm + rdm.T) / 2


def site_rdm(n_stimuli: int, drive: np.ndarray | None = None, noise: float = 1.0, seed: int = 0) -> np.ndarray:
    """Return the RDM of a site: a drive, if there is one, in noise that some images share more than others."""
    rng = np.random.default_rng([seed, 9])
    responses = rng.gamma(1, size=(n_stimuli, 1)) * rng.normal(size=80) + rng.normal(size=(n_stimuli, 80))
    if drive is not None:
        responses = noise * responses + drive @ rng.normal(size=(drive.shape[1], 80))
    return rdm_of(responses)


def responses_of(means: np.ndarray, n_repetitions: int = 6, noise: float = 1.0, seed: int = 0) -> xr.DataArray:
    rng = np.random.default_rng([seed, 10])
    n_stimuli, n_neuroids = means.shape
    trials = np.repeat(means, n_repetitions, axis=0) + noise * rng.normal(size=(n_stimuli * n_repetitions, n_neuroids))
    return make_responses(
        trials,
        np.repeat(np.arange(n_stimuli), n_repetitions),
        np.tile(np.arange(n_repetitions), n_stimuli),
        {"neuroid_id": np.arange(n_neuroids)},
    )


def metric(procedure, repeats: int = 1, n_permutations: int = 0) -> RsaNnls:
    return RsaNnls(procedure, repeats=repeats, n_permutations=n_permutations)


def score(procedure, layers, rdm: np.ndarray, repeats: int = 1, n_permutations: int = 0, seed: int = 0) -> xr.Dataset:
    target = make_rdm(rdm, np.arange(len(rdm)))
    return metric(procedure, repeats, n_permutations).score(layers, target, seed)


def notes_of(result: xr.Dataset) -> list[str]:
    return json.loads(result.attrs["notes"])


# the slow way: both procedures written down with scikit-learn


class Folds:
    """All that the slow ways share: pairs, and the fits of each fold."""

    def __init__(self, x: np.ndarray, y: np.ndarray, n_stimuli: int, random_state: int) -> None:
        i, j = np.triu_indices(n_stimuli, 1)
        self.parts = []
        for _, held_out in KFold(6, shuffle=True, random_state=random_state).split(np.zeros((n_stimuli, 1))):
            one, both = np.isin(i, held_out) | np.isin(j, held_out), np.isin(i, held_out) & np.isin(j, held_out)
            model = LinearRegression(positive=True).fit(x[~one], y[~one])
            self.parts.append((one, both, model.predict(x), model.coef_, y[~one].mean()))


def slow_published(x: np.ndarray, y: np.ndarray, n_stimuli: int, repeats: int, seed: int) -> dict[str, float]:
    total, nothing, count, weights = np.zeros(len(y)), np.zeros(len(y)), np.zeros(len(y)), []
    for repeat in range(repeats):
        for test, _, predicted, coef, mean in Folds(x, y, n_stimuli, seed + repeat).parts:
            total[test] += predicted[test]
            nothing[test] += mean
            count[test] += 1
            weights.append(coef)
    r = np.corrcoef(total / count, y)[0, 1]
    intercept = np.corrcoef(nothing / count, y)[0, 1]
    return {"raw": r, "r2": r**2, "intercept_only": intercept, "weight": np.mean(weights, axis=0)}


def slow_leak_free(x: np.ndarray, y: np.ndarray, n_stimuli: int, repeats: int, seed: int) -> dict[str, float]:
    z, cv_r2, weights = [], [], []
    for repeat in range(repeats):
        sse = sst = 0.0
        for _, test, predicted, coef, mean in Folds(x, y, n_stimuli, seed + repeat).parts:
            constant = np.ptp(predicted[test]) < 1e-12
            z.append(0.0 if constant else np.arctanh(np.corrcoef(predicted[test], y[test])[0, 1]))
            sse += ((y[test] - predicted[test]) ** 2).sum()
            sst += ((y[test] - mean) ** 2).sum()
            weights.append(coef)
        cv_r2.append(1 - sse / sst)
    return {
        "raw": np.tanh(np.mean(z)),
        "cv_r2": np.mean(cv_r2),
        "intercept_only": 0.0,
        "weight": np.mean(weights, axis=0),
    }


SLOW = {leak_free: slow_leak_free, as_published: slow_published}


@PROCEDURES
@pytest.mark.parametrize(
    ("n_stimuli", "repeats", "seed"), [(118, 1, 0), (118, 3, 5), (119, 1, 0), (119, 3, 1), (31, 3, 2), (18, 1, 3)]
)
def test_scores_are_those_of_the_slow_way(procedure, n_stimuli: int, repeats: int, seed: int) -> None:
    features = net(n_stimuli, seed=seed)
    rdm = site_rdm(n_stimuli, features["layer2"], seed=seed)
    columns = [upper_triangle(1 - np.corrcoef(values)) for values in features.values()]
    x, y = np.column_stack(columns), upper_triangle(rdm)
    found = score(procedure, layers_of(features), rdm, repeats, seed=seed)
    expected = SLOW[procedure](x, y, n_stimuli, repeats, seed)
    weight = expected.pop("weight")
    for name, value in expected.items():
        assert float(found[name]) == pytest.approx(value, abs=1e-8), name
    # ours are for RDMs of standard deviation 1
    np.testing.assert_allclose(found["weight"].values, weight * x.std(0), rtol=0, atol=1e-8)
    assert weight.any()


@PROCEDURES
def test_permuted_scores_are_those_of_the_slow_way(procedure) -> None:
    features = net(30)
    rdm = site_rdm(30, features["layer2"])
    x = np.column_stack([upper_triangle(1 - np.corrcoef(values)) for values in features.values()])
    found = score(procedure, layers_of(features), rdm, n_permutations=4, seed=3)
    pairs = permuted_pairs(permuted_labels(30, 4, 3))
    for number in range(4):
        y = rdm.ravel()[pairs[:, number + 1]]
        assert found["null"].values[number] == pytest.approx(SLOW[procedure](x, y, 30, 1, 3)["raw"], abs=1e-8)


def test_permutations_relabel_stimuli() -> None:
    pairs = permuted_pairs(permuted_labels(10, 5, 0))
    rdm = site_rdm(10)
    np.testing.assert_array_equal(rdm.ravel()[pairs[:, 0]], upper_triangle(rdm))
    for column in pairs.T[1:]:
        assert not np.array_equal(column, pairs[:, 0])
        labels = np.array([column[0] // 10, *column[:9] % 10])
        assert sorted(labels) == list(range(10))
        np.testing.assert_array_equal(rdm.ravel()[column], upper_triangle(rdm[np.ix_(labels, labels)]))


def test_similarity_on_both_sides_is_dissimilarity_on_both_sides() -> None:
    # with an intercept and weights that are not negative the two are the same; mixed they are not
    features = net(60)
    rdm = site_rdm(60, features["layer2"])
    similarities = np.column_stack([upper_triangle(np.corrcoef(values)) for values in features.values()])
    for procedure, slow in SLOW.items():
        found = float(score(procedure, layers_of(features), rdm, 2, seed=4)["raw"])
        assert found == pytest.approx(slow(similarities, 1 - upper_triangle(rdm), 60, 2, 4)["raw"], abs=1e-9)
        mixed = slow(1 - similarities, 1 - upper_triangle(rdm), 60, 2, 4)["raw"]
        assert mixed < 0.05 < 0.2 < found


# models that know nothing


def test_an_intercept_only_model_scores_zero_and_below_zero_as_published() -> None:
    published = []
    for seed in range(8):
        rdm = site_rdm(118, seed=seed)
        # the less alike the images are to the site, the more alike they are to this layer
        opposite = layer_with_rdm(np.where(np.eye(118) > 0, 0, 1 - 0.5 * rdm))
        found = score(leak_free, {"opposite": opposite}, rdm, 10)
        assert float(found["raw"]) == 0
        assert float(found["cv_r2"]) == pytest.approx(0, abs=0.02)
        assert str(found["best_layer"].values) == ""
        assert notes_of(found)[0] == "all weights are 0: no layer's RDM goes with the site's"
        pooled = score(as_published, {"opposite": opposite}, rdm, 10)
        assert float(pooled["raw"]) == pytest.approx(float(pooled["intercept_only"]), abs=1e-9)
        published.append(float(pooled["raw"]))
    assert max(published) < -0.1


def test_a_noise_model_scores_zero_and_below_zero_as_published() -> None:
    sites = {f"site{k}": make_rdm(site_rdm(118, seed=k), np.arange(118)) for k in range(10)}
    strict, pooled = [], []
    for draw in range(4):
        layers = layers_of(noise_net(118, 5, draw))
        strict += [float(one["raw"]) for one in metric(leak_free, 10).score_sites(layers, sites, 0).values()]
        pooled += [float(one["raw"]) for one in metric(as_published, 10).score_sites(layers, sites, 0).values()]
    assert abs(np.mean(strict)) < 0.02
    assert np.mean(pooled) < -0.1


def test_the_null_is_centred_and_p_is_uniform_under_noise() -> None:
    layers = layers_of(noise_net(36, 3, 0))
    sites = {f"site{k}": make_rdm(site_rdm(36, seed=k), np.arange(36)) for k in range(60)}
    results = metric(leak_free, 2, n_permutations=39).score_sites(layers, sites, 0)
    null = np.stack([one["null"].values for one in results.values()])
    assert abs(null.mean()) < 0.02
    p = np.array([(1 + (one["null"].values >= float(one["raw"])).sum()) / 40 for one in results.values()])
    assert 0.35 < p.mean() < 0.65
    assert (p <= 0.1).mean() < 0.25
    assert (p >= 0.9).mean() < 0.25


@PROCEDURES
def test_planted_truth_stands_out_of_its_null(procedure) -> None:
    features = net(60)
    found = score(procedure, layers_of(features), site_rdm(60, features["layer2"]), n_permutations=99)
    assert (found["null"].values < float(found["raw"])).all()
    assert found.sizes["permutation"] == 99


# known answers


@PROCEDURES
def test_the_planted_layer_is_found(procedure) -> None:
    for planted in ("layer0", "layer3", "layer5"):
        features = net(80)
        found = score(procedure, layers_of(features), site_rdm(80, features[planted], noise=0.5))
        assert str(found["best_layer"].values) == planted
        assert str(found["layer"].values[found["weight"].values.argmax()]) == planted
        assert str(found["layer"].values[found["layer_raw"].values.argmax()]) == planted


@PROCEDURES
def test_a_site_made_of_layers_is_predicted_perfectly(procedure) -> None:
    features = net(60)
    rdm = 0.3 * rdm_of(features["layer1"]) + 0.7 * rdm_of(features["layer4"])
    found = score(procedure, layers_of(features), rdm, 2)
    weight = dict(zip(found["layer"].values.tolist(), found["weight"].values.tolist(), strict=True))
    assert float(found["raw"]) == pytest.approx(1, abs=1e-10)
    sd = {name: upper_triangle(rdm_of(values)).std() for name, values in features.items()}
    assert weight.pop("layer1") == pytest.approx(0.3 * sd["layer1"], abs=1e-9)
    assert weight.pop("layer4") == pytest.approx(0.7 * sd["layer4"], abs=1e-9)
    assert max(weight.values()) < 1e-9


def test_layer_raw_is_pearson_r_of_the_rdms() -> None:
    features = net(40)
    rdm = site_rdm(40, features["layer2"])
    found = score(leak_free, layers_of(features), rdm)
    for name, values in features.items():
        expected = np.corrcoef(upper_triangle(rdm_of(values)), upper_triangle(rdm))[0, 1]
        assert float(found["layer_raw"][found["layer"] == name].item()) == pytest.approx(expected, abs=1e-10)


@PROCEDURES
def test_one_layer_is_enough(procedure) -> None:
    features = net(60, 1)
    found = score(procedure, layers_of(features), site_rdm(60, features["layer0"]))
    assert float(found["raw"]) > 0.2
    assert str(found["best_layer"].values) == "layer0"
    assert found.attrs["n_layers"] == 1


@PROCEDURES
def test_a_site_whose_distances_are_all_equal_scores_zero(procedure) -> None:
    found = score(procedure, layers_of(net(40)), 0.9 * (1 - np.eye(40)), n_permutations=3)
    assert float(found["raw"]) == 0
    assert not found["null"].values.any()


# invariances


@PROCEDURES
def test_features_may_be_rotated_and_neuroids_reordered(procedure) -> None:
    features = net(40)
    target = responses_of(np.random.default_rng(0).normal(size=(40, 30)) + features["layer2"][:, :30])
    rng = np.random.default_rng(1)
    turned = {name: 2 * values[:, rng.permutation(values.shape[1])] + 1 for name, values in features.items()}
    found = metric(procedure, 2).score(layers_of(features), target, 0)
    again = metric(procedure, 2).score(layers_of(turned), target.isel(neuroid=rng.permutation(30)), 0)
    for name in ("raw", "weight", "layer_raw"):
        np.testing.assert_allclose(again[name].values, found[name].values, rtol=0, atol=1e-10)


@PROCEDURES
def test_trials_in_any_order_give_the_same_score_once_aligned(procedure) -> None:
    features = net(40)
    target = responses_of(features["layer2"][:, :30])
    shuffled = target.isel(presentation=np.random.default_rng(0).permutation(target.sizes["presentation"]))
    one, other = (metric(procedure).score(layers_of(features), align(t, np.arange(40)), 0) for t in (target, shuffled))
    assert one.identical(other)


def test_an_rdm_in_any_order_gives_the_same_score_once_aligned() -> None:
    features = net(40)
    target = make_rdm(site_rdm(40, features["layer2"]), [f"{k}" for k in range(40)])
    order = np.random.default_rng(0).permutation(40)
    shuffled = target.isel(stimulus=order, stimulus_b=order)
    ids = target["stimulus_id"].values
    scored = [metric(leak_free).score(layers_of(features), align(t, ids), 0) for t in (target, shuffled)]
    assert scored[0].identical(scored[1])


def test_stimuli_permuted_on_both_sides_change_folds_only() -> None:
    features = net(60)
    order = np.random.default_rng(0).permutation(60)
    target = responses_of(features["layer2"][:, :30], noise=2)
    moved = align(target, order)
    one = metric(leak_free).score(layers_of(features), target, 0)
    other = metric(leak_free).score(layers_of({n: v[order] for n, v in features.items()}), moved, 0)
    np.testing.assert_allclose(other["layer_raw"].values, one["layer_raw"].values, rtol=0, atol=1e-10)
    assert float(other["raw"]) == pytest.approx(float(one["raw"]), abs=0.05)
    ceilings = [float(metric(leak_free).ceiling(t, 0)["ceiling"]) for t in (target, moved)]
    assert ceilings[0] == pytest.approx(ceilings[1], abs=1e-10)


@PROCEDURES
def test_one_site_alone_scores_as_among_others(procedure) -> None:
    features = net(40)
    sites = {f"site{k}": responses_of(features[f"layer{k}"][:, :20], seed=k) for k in range(4)}
    sites["few"] = responses_of(np.ones((40, 1)))
    one = metric(procedure, 2, n_permutations=5)
    together = one.score_sites(layers_of(features), sites, 1)
    assert list(together) == list(sites)
    for site, target in sites.items():
        assert one.score(layers_of(features), target, 1).identical(together[site])


@PROCEDURES
def test_the_seed_fixes_folds_and_permutations(procedure) -> None:
    layers = layers_of(net(40))
    rdm = site_rdm(40, net(40)["layer2"])
    first, again, other = (score(procedure, layers, rdm, n_permutations=3, seed=seed) for seed in (0, 0, 1))
    assert first.identical(again)
    assert float(first["raw"]) != float(other["raw"])
    assert not np.isin(first["null"].values, other["null"].values).any()


def test_repeats_use_the_seeds_that_follow() -> None:
    layers = layers_of(net(40))
    rdm = site_rdm(40, net(40)["layer2"])
    singles = [float(score(leak_free, layers, rdm, seed=seed)["raw"]) for seed in (5, 6, 7)]
    together = float(score(leak_free, layers, rdm, 3, seed=5)["raw"])
    assert together == pytest.approx(np.tanh(np.arctanh(singles).mean()), abs=1e-12)


# what is left out, and what is refused


def test_layers_left_out_are_named_in_the_notes() -> None:
    features = net(40, 3)
    features["constant"] = np.ones((40, 5))
    features["copy"] = 2 * features["layer1"]
    found = score(leak_free, layers_of(features), site_rdm(40))
    assert found["layer"].values.tolist() == ["layer0", "layer1", "layer2"]
    assert found.attrs["n_layers"] == 3
    notes = notes_of(found)
    assert any("layer constant left out" in note for note in notes)
    assert any("1 of 4 layers have an RDM that correlates above 0.999" in note for note in notes)


@PROCEDURES
def test_copies_of_layers_leave_the_score_as_it_is(procedure) -> None:
    features = net(40, 3)
    rdm = site_rdm(40, features["layer1"])
    one = score(procedure, layers_of(features), rdm)
    other = score(procedure, layers_of({**features, "copy": -features["layer1"]}), rdm)
    assert float(one["raw"]) == float(other["raw"])


def test_only_constant_layers_are_refused() -> None:
    with pytest.raises(ContractViolation, match="no layer is left to score: all are constant"):
        score(leak_free, layers_of({"a": np.ones((40, 4))}), site_rdm(40))


@PROCEDURES
@pytest.mark.parametrize("n_stimuli", [3, 17])
def test_too_few_stimuli_are_refused(procedure, n_stimuli: int) -> None:
    with pytest.raises(ContractViolation, match=f"{n_stimuli} stimuli are too few: .* need 18"):
        score(procedure, layers_of(net(n_stimuli)), site_rdm(n_stimuli))


@pytest.mark.parametrize(("n_neuroids", "note"), [(1, "1 neuroid(s): an RDM needs two"), (0, "0 neuroid(s)")])
def test_a_site_without_neuroids_enough_has_no_score(n_neuroids: int, note: str) -> None:
    means = np.column_stack([np.ones(40), np.random.default_rng(0).normal(size=(40, n_neuroids))])
    target = responses_of(means, noise=0)
    found = metric(leak_free).score(layers_of(net(40)), target, 0)
    assert np.isnan(float(found["raw"]))
    assert found.attrs["n_neuroids"] == n_neuroids
    assert any(note in one for one in notes_of(found))
    ceiling = metric(leak_free).ceiling(target, 0)
    assert np.isnan(float(ceiling["ceiling"]))
    assert notes_of(ceiling) == ["no ceiling: half of the trials give no RDM"]


def test_two_neuroids_give_a_score() -> None:
    # two neuroids make an RDM of zeros and twos
    found = metric(leak_free).score(layers_of(net(40)), responses_of(np.random.default_rng(0).normal(size=(40, 2))), 0)
    assert np.isfinite(float(found["raw"]))
    assert found.attrs["n_neuroids"] == 2


def test_neuroids_that_cannot_be_used_are_counted() -> None:
    means = np.random.default_rng(0).normal(size=(40, 12))
    means[7, 3] = np.nan
    target = responses_of(means)
    target.values[:, 5] = 0.1
    good = target.isel(neuroid=[k for k in range(12) if k not in (3, 5)])
    layers = layers_of(net(40))
    found, expected = (metric(leak_free).score(layers, t, 0) for t in (target, good))
    assert float(found["raw"]) == float(expected["raw"])
    assert found.attrs["n_neuroids"] == 10
    assert len(notes_of(found)) == 2
    ceilings = [float(metric(leak_free).ceiling(t, 0)["ceiling"]) for t in (target, good)]
    assert ceilings[0] == ceilings[1] > 0


def test_ragged_trials_give_the_score_of_their_means() -> None:
    target = responses_of(net(40)["layer1"][:, :25], 20)
    target.values[np.random.default_rng(0).random(target.shape) < 0.1] = np.nan
    rows = [target.values[target["stimulus_id"].values == k].astype(np.float64) for k in range(40)]
    layers = layers_of(net(40))
    found = metric(leak_free).score(layers, target, 0)
    expected = score(leak_free, layers, rdm_of(np.stack([np.nanmean(row, 0) for row in rows])))
    assert float(found["raw"]) == pytest.approx(float(expected["raw"]), abs=1e-10)
    ceiling = metric(leak_free).ceiling(target, 0)
    assert 0.3 < float(ceiling["ceiling"]) < 1


# the ceiling


def test_the_ceiling_is_what_the_noise_free_rdm_reaches() -> None:
    found, reached = [], []
    truth = np.random.default_rng(3).normal(size=(60, 8)) @ np.random.default_rng(4).normal(size=(8, 60))
    for noise in (1, 4, 10, 16):
        ceilings, correlations = [], []
        for seed in range(4):
            target = responses_of(truth, 20, noise, seed)
            means = target.values.reshape(60, 20, 60).mean(1, dtype=np.float64)
            correlations.append(np.corrcoef(upper_triangle(rdm_of(truth)), upper_triangle(rdm_of(means)))[0, 1])
            ceilings.append(float(metric(leak_free).ceiling(target, seed)["ceiling"]))
        found.append(np.mean(ceilings))
        reached.append(np.mean(correlations))
    assert reached[0] > 0.95 > 0.8 > reached[-1]
    np.testing.assert_allclose(found, reached, rtol=0, atol=0.05)


def test_the_ceiling_of_an_rdm_comes_from_its_reliability() -> None:
    for r in (0.1, 0.5, 0.93):
        found = metric(leak_free).ceiling(make_rdm(site_rdm(20), np.arange(20), reliability=r), 0)
        assert float(found["ceiling"]) == pytest.approx(np.sqrt(2 * r / (1 + r)), abs=1e-12)
        assert float(found["reliability"]) == pytest.approx(2 * r / (1 + r), abs=1e-12)
        assert notes_of(found) == []


@pytest.mark.parametrize(
    ("attrs", "note"),
    [
        ({}, "no ceiling: the RDM comes without a reliability"),
        ({"reliability": np.nan}, "no ceiling: the RDM comes without a reliability"),
        ({"reliability": 0.0}, "no ceiling: the reliability of the site RDM is 0.000"),
        ({"reliability": -0.2}, "no ceiling: the reliability of the site RDM is -0.500"),
    ],
)
def test_an_rdm_without_reliability_has_no_ceiling(attrs: dict[str, float], note: str) -> None:
    found = metric(leak_free).ceiling(make_rdm(site_rdm(20), np.arange(20), **attrs), 0)
    assert np.isnan(float(found["ceiling"]))
    assert notes_of(found) == [note]


def test_responses_of_one_repetition_have_no_ceiling() -> None:
    found = metric(leak_free).ceiling(responses_of(np.random.default_rng(0).normal(size=(20, 9)), 1), 0)
    assert np.isnan(float(found["ceiling"]))
    assert notes_of(found) == ["no ceiling: half of the trials give no RDM"]


def test_the_ceiling_follows_its_seed() -> None:
    target = responses_of(np.random.default_rng(0).normal(size=(20, 9)), noise=2)
    first, again, other = (float(metric(leak_free).ceiling(target, seed)["ceiling"]) for seed in (0, 0, 1))
    assert first == again != other


# as plugins


def test_the_plugins_are_as_the_contract_says() -> None:
    strict, published = rsa_nnls.load(), rsa_nnls.load_published()
    assert (strict.repeats, published.repeats) == (10, 1)
    for one in (strict, published):
        assert set(one.accepts) == {"responses", "rdm"}
        assert one.normalisation == "ratio"
        assert one.n_permutations >= 1000
        definition = json.loads(json.dumps(one.definition))
        assert definition["folds"] == 6
        assert definition["repeats"] == one.repeats
        assert "random_state=seed + r" in definition["partition"]
    assert strict.definition != published.definition


def test_the_published_score_comes_with_its_square_and_its_null() -> None:
    found = score(as_published, layers_of(net(40)), site_rdm(40, net(40)["layer2"]), n_permutations=2)
    assert float(found["r2"]) == pytest.approx(float(found["raw"]) ** 2, abs=1e-15)
    assert float(found["intercept_only"]) < 0
    assert "r2" not in score(leak_free, layers_of(net(40)), site_rdm(40))
