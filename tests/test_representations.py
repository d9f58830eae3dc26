from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn
from torchvision import transforms

from mousebench import TorchModel, assemblies, representations
from mousebench.errors import ContractViolation, MissingDependency, PluginBroken
from mousebench.linalg import gram
from mousebench.progress import Silent
from mousebench.representations import Layers, cache_path, get, images_of, representation_key

SMALL = transforms.Compose([transforms.Resize((16, 16)), transforms.ToTensor()])


class Notes(Silent):
    """Progress that remembers what was said."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.open = 0

    def start(self, description: str, total: float | None = None, unit: str = "") -> None:
        self.open += 1

    def finish(self) -> None:
        self.open -= 1

    def note(self, text: str) -> None:
        self.said.append(text)


def stimuli(n: int = 6, seed: int = 0, first_id: int = 0) -> xr.DataArray:
    values = np.random.default_rng(seed).integers(0, 256, (n, 12, 14), dtype=np.uint8)
    return assemblies.make_stimuli(values, np.arange(n) + first_id)


def conv_net(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(784, 5))


def key_of(model, some: xr.DataArray | None = None, source: str = "plugin") -> str | None:
    return representation_key(model.fingerprint, assemblies.content_hash(stimuli() if some is None else some), source)


class Counted:
    """A TorchModel whose forward passes are counted."""

    def __init__(self, seed: int = 0, preprocess=SMALL) -> None:
        self.passes = 0
        module = conv_net(seed)
        self.model = TorchModel(module, preprocess)
        module.register_forward_hook(self._count)

    def _count(self, *_: object) -> None:
        self.passes += 1

    def get(self, some: xr.DataArray | None = None, source: str = "plugin", progress: Notes | None = None) -> Layers:
        some = stimuli() if some is None else some
        return get(self.model, some, name="net", key=key_of(self.model, some, source), device="cpu", progress=progress)


class Arrays:
    """A model that is no TorchModel."""

    fingerprint: Mapping[str, str] = {"what": "arrays"}

    def __init__(self, activations: Mapping[str, object], layers: Sequence[str] | None = None) -> None:
        self.layers = list(activations) if layers is None else layers
        self.given = activations

    def activations(self, images: np.ndarray, layers: Sequence[str]) -> Mapping[str, object]:
        return self.given


def features(n: int = 6, width: int = 9, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, width))


def get_arrays(model, n: int = 6, progress: Notes | None = None) -> Layers:
    return get(model, stimuli(n), name="arrays", key=None, progress=progress)


# the cache


def test_a_second_time_the_net_does_not_run() -> None:
    counted = Counted()
    first = counted.get()
    passes = counted.passes
    assert passes > 0
    again = counted.get()
    assert counted.passes == passes
    assert again.dataset.identical(first.dataset)
    assert again.key == first.key == key_of(counted.model)
    assert (again.notes, again.extraction) == (first.notes, first.extraction)
    assert Counted().get().dataset.identical(first.dataset)


def test_the_key_changes_with_all_that_changes_the_numbers() -> None:
    model, same = Counted().model, Counted().model
    other_size = transforms.Compose([transforms.Resize((18, 18)), transforms.ToTensor()])
    relabelled = stimuli(first_id=1)
    changed = stimuli()
    changed.values[0, 0, 0] ^= 1
    keys = [
        key_of(model),
        key_of(Counted(1).model),
        key_of(Counted(0, other_size).model),
        key_of(TorchModel(conv_net(), SMALL, ["0"])),
        key_of(TorchModel(nn.Sequential(*conv_net(), nn.Tanh()), SMALL)),
        key_of(model, changed),
        key_of(model, relabelled),
        key_of(model, stimuli().isel(stimulus=slice(None, None, -1))),
        key_of(model, source="another plugin"),
    ]
    assert None not in keys
    assert len(set(keys)) == len(keys)
    assert key_of(same) == keys[0]


def test_other_weights_are_computed_not_read() -> None:
    first, other = Counted(0).get(), Counted(1)
    assert not other.get().dataset["gram"].equals(first.dataset["gram"])
    assert other.passes > 0


def test_a_net_trained_on_is_not_read_from_the_cache() -> None:
    counted = Counted()
    before = counted.get()
    with torch.no_grad():
        counted.model.module[0].weight.mul_(2)
    after = counted.get()
    assert after.key != before.key
    assert not np.allclose(after["0"]["gram"], before["0"]["gram"])


def test_what_cannot_be_described_is_not_cached(home: Path) -> None:
    progress = Notes()
    model = Counted().model
    unknown = type("Unknown", (), {"fingerprint": {**model.fingerprint, "preprocess": "unknown"}})()
    assert key_of(unknown) is None
    get(model, stimuli(), name="net", key=None, device="cpu", progress=progress)
    assert not list(home.rglob("*.nc"))
    assert progress.said == ["net: not cached, a part of the model has no source or description that could be hashed"]


@pytest.mark.parametrize("damage", ["truncated", "empty", "bits", "text"])
def test_a_damaged_file_is_computed_again_with_a_note(damage: str) -> None:
    counted = Counted()
    first = counted.get()
    path = cache_path("net", first.key)
    whole = path.read_bytes()
    middle = whole.find(first.dataset["gram"].values.tobytes()[:64])
    assert middle > 0
    path.write_bytes(
        {
            "truncated": whole[: len(whole) // 2],
            "empty": b"",
            "bits": whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1 :],
            "text": b"not netCDF",
        }[damage]
    )
    passes, progress = counted.passes, Notes()
    again = counted.get(progress=progress)
    assert counted.passes > passes
    assert again.dataset.identical(first.dataset)
    assert len(progress.said) == 1
    assert progress.said[0].startswith("computing again: ")
    assert str(path) in progress.said[0]
    passes = counted.passes
    counted.get()
    assert counted.passes == passes


def test_a_file_of_another_key_is_not_believed() -> None:
    counted, other = Counted(0), Counted(1)
    path = cache_path("net", counted.get().key)
    foreign = cache_path("net", key_of(other.model))
    foreign.parent.mkdir(parents=True)
    foreign.write_bytes(path.read_bytes())
    other.get()
    assert other.passes > 0


def test_a_home_that_cannot_be_written_costs_the_cache_only(home: Path) -> None:
    home.parent.mkdir(exist_ok=True)
    home.write_text("a file where a folder should be")
    counted, progress = Counted(), Notes()
    found = counted.get(progress=progress)
    assert list(found) == ["0", "1", "3"]
    assert len(progress.said) == 1
    assert progress.said[0].startswith("net: not cached: cannot write ")


def test_nothing_is_cached_of_a_model_that_fails(home: Path) -> None:
    model = TorchModel(nn.Linear(7, 3), SMALL)
    with pytest.raises(PluginBroken, match="the net fails on 2 images"):
        get(model, stimuli(), name="net", key=key_of(model), device="cpu")
    assert not [path for path in home.rglob("*") if path.is_file()]


# what is given


def test_layers_are_a_mapping_in_order_of_execution() -> None:
    found = Counted().get()
    assert isinstance(found, Mapping)
    assert list(found) == ["0", "1", "3"]
    assert len(found) == 3
    assert "1" in found
    assert "2" not in found
    with pytest.raises(KeyError):
        found["2"]
    for name, one in found.items():
        assert set(one.data_vars) == {"gram", "feature_sum"}
        assert one["gram"].dims == ("stimulus", "stimulus_b")
        assert one["feature_sum"].dims == ("stimulus",)
        assert one["gram"].dtype == one["feature_sum"].dtype == np.float64
        assert one["stimulus_id"].values.tolist() == one["stimulus_id_b"].values.tolist() == list(range(6))
        assert one.attrs["n_features"] == {"0": 784, "1": 784, "3": 5}[name]
    assert json.loads(found.dataset.attrs["duplicates"]) == {"2": "1"}
    assert found.extraction["torch"] == torch.__version__.partition("+")[0]
    assert found.extraction["device"].startswith("cpu")


def test_grams_are_those_of_the_activations() -> None:
    counted = Counted()
    found = counted.get()
    activations = counted.model.activations(images_of(stimuli()), ["0", "3"])
    for name, values in activations.items():
        product, row_sum, width = gram([values])
        np.testing.assert_allclose(found[name]["gram"], product, rtol=0, atol=1e-6 * product.max())
        np.testing.assert_allclose(found[name]["feature_sum"], row_sum, rtol=0, atol=1e-5)
        assert found[name].attrs["n_features"] == width


def test_grey_stimuli_are_three_equal_channels() -> None:
    grey = stimuli()
    found = images_of(grey)
    assert found.shape == (6, 12, 14, 3)
    assert found.dtype == np.uint8
    for channel in range(3):
        assert np.array_equal(found[..., channel], grey.values)
    colour = assemblies.make_stimuli(np.ascontiguousarray(found), np.arange(6))
    assert np.array_equal(images_of(colour), found)
    one, other = (get(TorchModel(conv_net(), SMALL), s, name="n", key=None, device="cpu") for s in (grey, colour))
    assert np.array_equal(one["0"]["gram"], other["0"]["gram"])


def test_torch_layers_that_are_not_finite_are_left_out_with_a_note() -> None:
    module = conv_net()
    with torch.no_grad():
        module[3].bias[0] = np.nan
    found = get(TorchModel(module, SMALL), stimuli(), name="net", key=None, device="cpu")
    assert list(found) == ["0", "1"]
    assert found.notes == ["layer 3 left out: holds NaN or infinite values"]
    with torch.no_grad():
        module[0].bias.fill_(np.nan)
    with pytest.raises(ContractViolation, match="no layer is left to score") as caught:
        get(TorchModel(module, SMALL), stimuli(), name="net", key=None, device="cpu")
    assert "0: holds NaN or infinite values" in caught.value.hint


# models that are no TorchModel


def test_arrays_are_reduced() -> None:
    wide = features(width=9001).astype(np.float32)
    found = get_arrays(Arrays({"b": wide, "a": features()}))
    assert list(found) == ["b", "a"]
    expected = wide.astype(np.float64)
    np.testing.assert_allclose(found["b"]["gram"], expected @ expected.T, rtol=1e-12, atol=1e-9)
    np.testing.assert_allclose(found["b"]["feature_sum"], expected.sum(1), rtol=1e-12, atol=1e-9)
    assert found["b"].attrs["n_features"] == 9001


@pytest.mark.parametrize("kind", [np.int64, np.uint8, np.float16, np.float32])
def test_numbers_of_any_kind_are_taken(kind) -> None:
    values = np.random.default_rng(0).integers(0, 200, (6, 30)).astype(kind)
    found = get_arrays(Arrays({"a": values}))
    exact = values.astype(np.float64)
    assert np.array_equal(found["a"]["gram"], exact @ exact.T)


def test_tensors_and_lists_are_taken() -> None:
    found = get_arrays(Arrays({"tensor": torch.ones(6, 3), "list": [[0.0, 1.0]] * 6}))
    assert list(found) == ["tensor", "list"]


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        (features(5), r"float64 activations of shape \(5, 9\) for 6 images; float \(6, features\) is expected"),
        (features()[:, 0], r"shape \(6,\)"),
        (features().reshape(6, 3, 3), r"shape \(6, 3, 3\)"),
        (np.zeros((6, 0)), r"shape \(6, 0\)"),
        (np.full((6, 2), "a"), "<U1 activations"),
        (features() + 1j, "complex128 activations"),
        (np.ones((6, 3), dtype=bool), "bool activations"),
        (None, "object activations"),
    ],
)
def test_what_are_no_activations_is_refused(values, shown: str) -> None:
    with pytest.raises(ContractViolation, match=f"layer 'a' gives .*{shown}"):
        get_arrays(Arrays({"a": values}))


def test_a_missing_layer_is_refused() -> None:
    with pytest.raises(ContractViolation, match="gives no activations for its layer 'b'"):
        get_arrays(Arrays({"a": features()}, layers=["a", "b"]))


def test_a_model_without_layers_is_refused() -> None:
    with pytest.raises(ContractViolation, match="the model has no layers"):
        get_arrays(Arrays({}))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_arrays_that_are_not_finite_are_left_out_with_a_note(bad: float) -> None:
    values = features()
    values[2, 3] = bad
    found = get_arrays(Arrays({"a": values, "b": features()}))
    assert list(found) == ["b"]
    assert found.notes == ["layer a left out: holds NaN or infinite values for image 2"]
    with pytest.raises(ContractViolation, match="no layer is left to score"):
        get_arrays(Arrays({"a": values}))


def test_equal_arrays_are_there_once() -> None:
    found = get_arrays(Arrays({"a": features(), "b": features(seed=1), "c": features()}))
    assert list(found) == ["a", "b"]
    assert json.loads(found.dataset.attrs["duplicates"]) == {"c": "a"}


def test_a_layer_listed_twice_is_refused() -> None:
    with pytest.raises(ContractViolation, match="the model lists its layer 'a' more than once"):
        get_arrays(Arrays({"a": features(), "b": features()}, layers=["a", "b", "a"]))


class Lazy(Mapping[str, np.ndarray]):
    """Activations that are computed when they are asked for."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names
        self.asked: list[str] = []

    def __getitem__(self, name: str) -> np.ndarray:
        self.asked.append(name)
        return features(seed=self.names.index(name))

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


def test_lazy_activations_are_asked_for_once_in_order() -> None:
    lazy = Lazy(["c", "a", "b"])
    get_arrays(Arrays(lazy, layers=["a", "b", "c"]))
    assert lazy.asked == ["a", "b", "c"]


def test_lazy_activations_without_contains_are_asked_for_once_too() -> None:
    class Plain(Lazy):
        __contains__ = Mapping.__contains__  # which asks for the value

    lazy = Plain(["a", "b"])
    get_arrays(Arrays(lazy))
    assert lazy.asked == ["a", "b"]


def test_a_model_that_fails_is_broken_and_its_own_errors_pass() -> None:
    class Failing(Arrays):
        def activations(self, images: np.ndarray, layers: Sequence[str]) -> Mapping[str, object]:
            raise self.given["error"]

    progress = Notes()
    with pytest.raises(PluginBroken, match=r"the model's activations fail: ValueError: no such thing$"):
        get_arrays(Failing({"error": ValueError("no\n  such thing")}), progress=progress)
    with pytest.raises(MissingDependency, match="needs jax"):
        get_arrays(Failing({"error": MissingDependency("needs jax")}), progress=progress)
    assert progress.open == 0


def test_images_and_layers_are_handed_over_as_the_contract_says() -> None:
    class Looking(Arrays):
        def activations(self, images: np.ndarray, layers: Sequence[str]) -> Mapping[str, object]:
            self.seen = images.shape, images.dtype, list(layers)
            return self.given

    model = Looking({"a": features(), "b": features(seed=1)})
    get_arrays(model)
    assert model.seen == ((6, 12, 14, 3), np.uint8, ["a", "b"])


def test_arrays_are_cached_as_nets_are(home: Path) -> None:
    class Counting(Arrays):
        asked = 0

        def activations(self, images: np.ndarray, layers: Sequence[str]) -> Mapping[str, object]:
            self.asked += 1
            return self.given

    model = Counting({"a": features()})
    for _ in range(2):
        get(model, stimuli(), name="arrays", key=key_of(model))
    assert model.asked == 1
    (path,) = home.rglob("*.nc")
    assert path == representations.cache_path("arrays", key_of(model))
