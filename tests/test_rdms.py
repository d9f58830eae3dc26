from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from mousebench.assemblies import make_rdm, make_responses
from mousebench.errors import ContractViolation
from mousebench.linalg import gram, upper_triangle
from mousebench.rdms import layer_rdm, layer_rdms, target_rdm, usable_neuroids


def layer(features: np.ndarray) -> xr.Dataset:
    product, row_sum, width = gram([features])
    return xr.Dataset(
        {"gram": (("stimulus", "stimulus_b"), product), "feature_sum": ("stimulus", row_sum)},
        attrs={"n_features": width},
    )


def net(*widths: int, n_stimuli: int = 20, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {f"layer{k}": rng.normal(size=(n_stimuli, width)) for k, width in enumerate(widths)}


def layers_of(features: dict[str, np.ndarray]) -> dict[str, xr.Dataset]:
    return {name: layer(values) for name, values in features.items()}


def responses(values: np.ndarray, n_repetitions: int = 3, noise: float = 0.0) -> xr.DataArray:
    n_stimuli, n_neuroids = values.shape
    trials = np.repeat(values, n_repetitions, axis=0)
    trials = trials + noise * np.random.default_rng(9).normal(size=trials.shape)
    return make_responses(
        trials,
        np.repeat(np.arange(n_stimuli), n_repetitions),
        np.tile(np.arange(n_repetitions), n_stimuli),
        {"neuroid_id": np.arange(n_neuroids)},
    )


def test_layer_rdms_are_standardised_upper_triangles() -> None:
    features = net(30, 500, 7)
    found = layer_rdms(layers_of(features))
    assert found.names == ["layer0", "layer1", "layer2"]
    assert found.notes == []
    for name, column, sd in zip(found.names, found.pairs.T, found.sd, strict=True):
        expected = upper_triangle(1 - np.corrcoef(features[name]))
        np.testing.assert_allclose(column, (expected - expected.mean()) / expected.std(), rtol=0, atol=1e-11)
        assert sd == pytest.approx(expected.std(), rel=1e-11)


def test_layer_rdm_is_one_minus_pearson_r() -> None:
    features = net(300)["layer0"]
    np.testing.assert_allclose(layer_rdm(layer(features)), 1 - np.corrcoef(features), rtol=0, atol=1e-12)


def test_layers_without_an_rdm_are_left_out_with_a_note() -> None:
    features = net(30, 30, 30, 30)
    features["layer1"][4] = 0  # a dead image: nothing to correlate
    features["layer2"][:] = features["layer2"][0]  # all images alike: a constant RDM
    found = layer_rdms(layers_of(features))
    assert found.names == ["layer0", "layer3"]
    assert found.pairs.shape == (190, 2)
    assert [note.split()[1] for note in found.notes] == ["layer1", "layer2"]
    assert all("constant" in note for note in found.notes)


def test_layers_that_rescale_an_earlier_one_are_used_once() -> None:
    features = net(30, 40)
    features["scaled"] = features["layer0"] * 3 + 1
    features["rotated"] = features["layer1"][:, ::-1]
    found = layer_rdms(layers_of(features))
    assert found.names == ["layer0", "layer1"]
    assert found.sd.shape == (2,)
    assert found.notes == ["2 of 4 layers have the same RDM as an earlier one, used once"]


def test_layers_that_are_only_close_are_kept() -> None:
    features = net(30)
    features["close"] = features["layer0"] + 1e-3 * net(30, seed=1)["layer0"]
    assert len(layer_rdms(layers_of(features)).names) == 2


def test_no_layer_left_is_an_error() -> None:
    with pytest.raises(ContractViolation, match="no layer is left to score: all are constant"):
        layer_rdms(layers_of({"a": np.ones((10, 4)), "b": np.zeros((10, 4))}))


def test_the_rdm_of_responses_is_that_of_their_means() -> None:
    target = responses(np.random.default_rng(0).normal(size=(15, 40)), noise=0.5)
    means = target.values.reshape(15, 3, 40).mean(1, dtype=np.float64)
    found = target_rdm(target)
    np.testing.assert_allclose(found.values, 1 - np.corrcoef(means), rtol=0, atol=1e-12)
    assert found.n_neuroids == 40
    assert found.notes == []


def test_an_rdm_target_is_taken_as_it_is() -> None:
    values = 1 - np.corrcoef(np.random.default_rng(0).normal(size=(6, 30)))
    np.fill_diagonal(values, 0)
    values = (values + values.T) / 2
    counted, uncounted = make_rdm(values, range(6), n_neuroids=12), make_rdm(values, range(6))
    assert np.array_equal(target_rdm(counted).values, values)
    assert target_rdm(counted).n_neuroids == 12
    assert target_rdm(uncounted).n_neuroids is None


def test_neuroids_that_cannot_be_used_are_counted_and_left_out() -> None:
    values = np.random.default_rng(0).normal(size=(10, 8))
    values[:, 1] = 0.1
    values[3, 5] = np.nan
    found = target_rdm(responses(values))
    good = np.delete(values, [1, 5], axis=1).astype(np.float32).astype(np.float64)
    np.testing.assert_allclose(found.values, 1 - np.corrcoef(good), rtol=0, atol=1e-12)
    assert found.n_neuroids == 6
    assert found.notes == [
        "1 neuroid(s) left out: without any trial for some stimulus",
        "1 neuroid(s) left out: constant",
    ]


@pytest.mark.parametrize("value", [0.0, 0.1, 1 / 3, -7.7, 1e6 / 7])
@pytest.mark.parametrize("n_stimuli", [7, 118])
def test_a_constant_neuroid_is_constant_whatever_its_trial_counts(value: float, n_stimuli: int) -> None:
    rng = np.random.default_rng(1)
    values = np.column_stack([rng.normal(size=n_stimuli), np.full(n_stimuli, value), rng.normal(size=n_stimuli)])
    target = responses(values, n_repetitions=7)
    target = target.where(np.random.default_rng(0).random(target.shape) < 0.8)  # ragged: sums round differently
    found = target_rdm(target)
    assert found.n_neuroids == 2


def test_neuroids_that_vary_little_are_usable() -> None:
    means = 1000 + 1e-4 * np.random.default_rng(0).normal(size=(20, 3))
    assert usable_neuroids(means)[0].all()


@pytest.mark.parametrize("n_neuroids", [1, 2])
def test_fewer_than_two_usable_neuroids_give_no_rdm(n_neuroids: int) -> None:
    values = np.random.default_rng(0).normal(size=(10, n_neuroids))
    values[:, 0] = 1
    found = target_rdm(responses(values))
    assert found.values is None
    assert found.n_neuroids == n_neuroids - 1
    assert found.notes[-1] == f"{n_neuroids - 1} neuroid(s): an RDM needs two"


def test_a_stimulus_to_which_all_neuroids_answer_alike_gives_no_rdm() -> None:
    values = np.random.default_rng(0).normal(size=(10, 5))
    values[[2, 7]] = 0.5
    found = target_rdm(responses(values))
    assert found.values is None
    assert found.n_neuroids == 5
    assert "alike to 2 of the stimuli" in found.notes[-1]
