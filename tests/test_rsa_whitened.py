from __future__ import annotations

import json

import numpy as np
import pytest
from rsatoolbox.rdm import RDMs, compare
from worlds import driven, folds_of, layers_of, means_of, net, responses_of

from mousebench.linalg import correlation_rdm, gram, upper_triangle
from mousebench_plugins.metrics._rdm_metric import permuted_labels
from mousebench_plugins.metrics._rsa_whitened import WhitenedRsa, whitened

N = 30


def covariance(n: int) -> np.ndarray:
    """Return V (pair, pair) from the contrasts of the pairs, as it is defined."""
    first, second = np.triu_indices(n, 1)
    contrast = np.zeros((len(first), n))
    contrast[np.arange(len(first)), first], contrast[np.arange(len(first)), second] = 1, -1
    return (contrast @ contrast.T) ** 2


def rsatoolbox_r(a: np.ndarray, b: np.ndarray) -> float:
    return float(compare(RDMs(a[None]), RDMs(b[None]), "corr_cov")[0, 0])


def test_whitening_is_the_root_of_the_inverse_covariance() -> None:
    rng = np.random.default_rng(0)
    pairs = rng.normal(size=(7 * 6 // 2, 3))
    left = pairs - pairs.mean(0)
    expected = left.T @ np.linalg.solve(covariance(7), left)
    white = whitened(pairs)
    np.testing.assert_allclose(white.T @ white, expected, atol=1e-12)


def test_whitened_r_is_that_of_rsatoolbox() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.random((2, 12 * 11 // 2))
    ours = WhitenedRsa().agreement(a[:, None], b[:, None])[0]
    assert ours == pytest.approx(rsatoolbox_r(a, b), abs=1e-10)


def test_the_score_and_its_null_are_those_of_a_loop_with_rsatoolbox() -> None:
    features = net(N, n_layers=3)
    target = responses_of(driven(features["layer1"], 12), noise=2.0)
    found = WhitenedRsa(repeats=1, n_permutations=1, n_bootstraps=20).score(layers_of(features), target, seed=3)
    site = correlation_rdm(*gram([means_of(target, N)]))
    rdms = [1 - np.corrcoef(values) for values in features.values()]
    labels = permuted_labels(N, 1, 3)
    expected = []
    for column in labels.T:
        own, r = site[np.ix_(column, column)], []
        for train, test in folds_of(N, 6, 1, 3):
            agreement = [
                [
                    rsatoolbox_r(upper_triangle(m[np.ix_(some, some)]), upper_triangle(own[np.ix_(some, some)]))
                    for m in rdms
                ]
                for some in (train, test)
            ]
            r.append(agreement[1][int(np.argmax(agreement[0]))])
        expected.append(np.tanh(np.mean(np.arctanh(r))))
    assert float(found["raw"]) == pytest.approx(expected[0], abs=1e-8)
    assert float(found["null"][0]) == pytest.approx(expected[1], abs=1e-8)
    assert str(found["best_layer"].item()) == "layer1"


def test_a_constant_layer_and_an_rdm_without_trials() -> None:
    features = {**net(N, n_layers=2), "constant": np.ones((N, 5))}
    target = responses_of(driven(features["layer0"], 12), noise=1.0)
    metric = WhitenedRsa(repeats=1, n_permutations=5, n_bootstraps=20)
    found = metric.score(layers_of(features), target, seed=0)
    assert "constant" not in found["layer"].values
    ceiling = metric.ceiling(target, seed=0)
    assert 0.3 < float(ceiling["ceiling"]) <= 1
    from mousebench.assemblies import make_rdm

    rdm = make_rdm(correlation_rdm(*gram([means_of(target, N)])), range(N), distance="correlation", reliability=0.8)
    none = metric.ceiling(rdm, seed=0)
    assert np.isnan(float(none["ceiling"]))
    assert "whitened" in json.loads(none.attrs["notes"])[0]
