from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torchvision import models, transforms

from mousebench import TorchModel
from mousebench.devices import choose_device
from mousebench.errors import ContractViolation, PluginBroken, UsageError
from mousebench.reduction import Reductions
from mousebench.torch_model import paper_preprocess
from mousebench_plugins.models._torchvision import untrained

SMALL = transforms.Compose([transforms.Resize((16, 16)), transforms.ToTensor()])


def images(n: int = 5, size: int = 20, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, size, size, 3), dtype=np.uint8)


def reduce(module: nn.Module, n: int = 5, **options) -> Reductions:
    return TorchModel(module, SMALL, **options).reduce(images(n), device="cpu")


def names(module: nn.Module, n: int = 5, **options) -> list[str]:
    return [layer.name for layer in reduce(module, n, **options).layers]


def seeded(make: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def captured(module: nn.Module, batch: torch.Tensor) -> dict[tuple[str, int], torch.Tensor]:
    """Return a clone of every tensor output, by path and call: the slow way."""
    seen: dict[tuple[str, int], torch.Tensor] = {}
    called: Counter[str] = Counter()

    def keep(path: str) -> Callable[..., None]:
        def hook(_module, _inputs, output) -> None:
            seen[path or "(root)", called[path]] = output.detach().clone()
            called[path] += 1

        return hook

    handles = [
        part.register_forward_hook(keep(path))
        for path, part in module.named_modules()
        if not isinstance(part, nn.Sequential | nn.ModuleList)
    ]
    module.eval()
    with torch.no_grad():
        module(batch)
    for handle in handles:
        handle.remove()
    return seen


def check_against_the_slow_way(module: nn.Module, preprocess, some: np.ndarray, rtol: float = 1e-6) -> Reductions:
    model = TorchModel(module, preprocess)
    found = model.reduce(some, device="cpu")
    seen = captured(module, model._prepare(some))
    n_calls = Counter(path for path, _ in seen)
    # what equals an earlier layer in every element is there once
    distinct: dict[tuple, str] = {}
    for (path, call), output in seen.items():
        name = f"{path}#{call}" if n_calls[path] > 1 else path
        flat = output.reshape(len(some), -1).double().numpy()
        distinct.setdefault((flat.shape, flat.tobytes()), name)
    assert [layer.name for layer in found.layers] == list(distinct.values())
    assert len(found.duplicates) == len(seen) - len(distinct)
    for layer, (shape, raw) in zip(found.layers, distinct, strict=True):
        features = np.frombuffer(raw).reshape(shape)
        gram = features @ features.T
        assert layer.n_features == shape[1]
        np.testing.assert_allclose(layer.gram, gram, rtol=0, atol=rtol * np.abs(gram).max(), err_msg=layer.name)
        scale = np.abs(features).sum(1).max()
        np.testing.assert_allclose(layer.feature_sum, features.sum(1), rtol=0, atol=rtol * scale)
    return found


class Net(nn.Module):
    """A net of which most traps are part: shared and in-place ReLU, a functional +=, dropout, an identity."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.bn = nn.BatchNorm2d(6)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(6, 6, 3, padding=1)
        self.block = nn.Sequential(nn.Conv2d(6, 6, 1), nn.ReLU6(inplace=True))
        self.dropout = nn.Dropout(0.5)
        self.identity = nn.Identity()
        self.fc = nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu(self.bn(self.conv(x)))
        y = self.conv2(x)
        y += x
        y = self.relu(y)
        y = self.identity(self.dropout(self.block(y)))
        return self.fc(self.relu(y.mean((2, 3))))


def net(seed: int = 0) -> nn.Module:
    return seeded(Net, seed)


# layers are what an independent hook sees


def test_every_layer_has_the_gram_of_its_features() -> None:
    found = check_against_the_slow_way(net(), SMALL, images())
    assert [layer.name for layer in found.layers] == [
        "conv",
        "bn",
        "relu#0",
        "conv2",
        "relu#1",
        "block.0",
        "block.1",
        "relu#2",
        "fc",
    ]


@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1"])
def test_every_layer_of_a_torchvision_net_has_the_gram_of_its_features(name: str) -> None:
    check_against_the_slow_way(untrained(name, 0).module, paper_preprocess(96), images(4, 64), rtol=1e-5)


def test_grams_are_exact_for_the_features_that_the_net_gives() -> None:
    class Spread(nn.Module):  # wider than a stripe, and no convolution that could round in another way
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cat([x.flatten(1) * k for k in range(1, 101)], 1)

    model = TorchModel(Spread(), SMALL)
    (layer,) = model.reduce(images(), device="cpu").layers
    features = model.activations(images(), ["(root)"])["(root)"].astype(np.float64)
    assert features.shape == (5, 76800)
    np.testing.assert_allclose(layer.gram, features @ features.T, rtol=1e-12)
    np.testing.assert_allclose(layer.feature_sum, features.sum(1), rtol=1e-12)


def test_activations_are_what_reduce_sums() -> None:
    model = TorchModel(net(), SMALL)
    found = model.reduce(images(), device="cpu")
    wanted = [layer.name for layer in reversed(found.layers)]
    activations = model.activations(images(), wanted)
    assert list(activations) == wanted
    for layer in found.layers:
        features = activations[layer.name].astype(np.float64)
        assert features.shape == (5, layer.n_features)
        tolerance = {"rtol": 0, "atol": 1e-12 * np.abs(layer.gram).max()}
        np.testing.assert_allclose(layer.gram, features @ features.T, **tolerance)


def test_what_a_later_module_overwrites_is_seen_before() -> None:
    module = seeded(lambda: nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(inplace=True)))
    with torch.no_grad():
        module[1].bias.fill_(-0.3)
    activations = TorchModel(module, SMALL).activations(images(), ["1", "2"])
    assert activations["1"].min() < 0
    np.testing.assert_array_equal(activations["2"], np.maximum(activations["1"], 0))
    found = {layer.name: layer for layer in reduce(module).layers}
    assert not np.allclose(found["1"].gram, found["2"].gram)


def test_a_functional_residual_does_not_reach_the_layer_that_it_adds_to() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.conv(x)
            y += 10
            return y

    found = {layer.name: layer for layer in reduce(seeded(Residual)).layers}
    assert list(found) == ["conv", "(root)"]
    difference = found["(root)"].feature_sum - found["conv"].feature_sum
    np.testing.assert_allclose(difference, 10 * 3 * 16 * 16, rtol=1e-4)


# calls, items, axes


def test_calls_of_one_module_are_numbered() -> None:
    class Thrice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(768, 768)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(self.fc(self.fc(x.flatten(1)))) * 2

    assert names(seeded(Thrice)) == ["fc#0", "fc#1", "fc#2", "(root)"]


class Recurrent(nn.Module):
    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        self.lstm = nn.LSTM(48, 7, batch_first=batch_first)
        self.batch_first = batch_first

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        sequence = x.flatten(2).transpose(1, 2).reshape(len(x), 16, 48)
        output, _ = self.lstm(sequence if self.batch_first else sequence.transpose(0, 1))
        return output.mean(1 if self.batch_first else 0)


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("n_images", [5, 16, 2, 3])
def test_tuples_give_a_layer_an_item_with_the_axis_of_images_first(batch_first: bool, n_images: int) -> None:
    # 16 images and 16 time steps: the axis is found by what grows, not by its length
    module = seeded(lambda: Recurrent(batch_first))
    found = {layer.name: layer for layer in reduce(module, n_images).layers}
    assert list(found) == ["lstm#0.0", "lstm#0.1.0", "lstm#0.1.1", "(root)"]
    assert [layer.n_features for layer in found.values()] == [16 * 7, 7, 7, 7]
    seen: list[torch.Tensor] = []
    handle = module.lstm.register_forward_hook(lambda _m, _i, output: seen.append(output[0].detach().clone()))
    with torch.no_grad():
        module(torch.stack([SMALL(transforms.ToPILImage()(image)) for image in images(n_images)]))
    handle.remove()
    features = (seen[0] if batch_first else seen[0].transpose(0, 1)).reshape(n_images, -1).double().numpy()
    np.testing.assert_allclose(found["lstm#0.0"].gram, features @ features.T, rtol=1e-5)


class Odd(nn.Module):
    def __init__(self, change: Callable[[torch.Tensor], object]) -> None:
        super().__init__()
        self.fc = nn.Linear(768, 5)
        self.odd = _Apply(change)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.fc(x.flatten(1))
        self.odd(x)
        return x + 1


class _Apply(nn.Module):
    def __init__(self, change: Callable[[torch.Tensor], object]) -> None:
        super().__init__()
        self.change = change

    def forward(self, x: torch.Tensor) -> object:
        return self.change(x)


@pytest.mark.parametrize(
    ("change", "name", "reason"),
    [
        (lambda x: None, "odd", "its output is a NoneType, not a float tensor"),
        (lambda x: (), "odd", "its output is an empty tuple, not a float tensor"),
        (lambda x: {}, "odd", "its output is an empty dict, not a float tensor"),
        (lambda x: x.argmax(1), "odd", "its output is a int64 tensor of shape (3,), not a float tensor"),
        (lambda x: x.sum(), "odd", "its output is a float32 tensor of shape (), not a float tensor"),
        (lambda x: x[:, :0], "odd", "its output is a float32 tensor of shape (3, 0), which holds nothing"),
        (
            lambda x: x.to_sparse(),
            "odd",
            "its output is a float32 sparse_coo tensor of shape (3, 5) whose elements do not lie side by side",
        ),
        (lambda x: x.sum(0), "odd", "no axis of a float32 tensor of shape (5,) counts the images"),
        (lambda x: x @ x.T, "odd", "more than one axis of a float32 tensor of shape (3, 3) counts the images"),
        (lambda x: x.reshape(-1), "odd", "no axis of a float32 tensor of shape (15,) counts the images"),
    ],
)
def test_outputs_that_are_no_layers_are_skipped_with_the_reason(change, name: str, reason: str) -> None:
    found = reduce(seeded(lambda: Odd(change)))
    assert [layer.name for layer in found.layers] == ["fc", "(root)"]
    assert dict(found.skipped) == {name: reason}


def test_a_net_without_layers_is_refused() -> None:
    with pytest.raises(ContractViolation, match="the net has no layer to score") as caught:
        reduce(_Apply(lambda x: {"a": x.argmax(1)}))
    assert "(root)#0.a: its output is a int64 tensor" in caught.value.hint


def test_a_fixed_axis_as_long_as_the_batch_is_not_taken_for_it() -> None:
    for n in (2, 3, 5):
        found = reduce(seeded(lambda n=n: nn.Sequential(nn.Conv2d(3, n, 1), nn.Flatten(2))), n)
        features = TorchModel(nn.Flatten(), SMALL).reduce(images(n), device="cpu").layers[0]
        assert [layer.name for layer in found.layers] == ["0"]
        assert found.layers[0].n_features == n * 256
        assert features.gram.shape == (n, n)


@pytest.mark.parametrize("n_images", [1, 2])
def test_few_images_are_enough(n_images: int) -> None:
    whole = reduce(net(), 5)
    few = reduce(net(), n_images)
    assert [layer.name for layer in few.layers] == [layer.name for layer in whole.layers]
    for one, other in zip(few.layers, whole.layers, strict=True):
        np.testing.assert_allclose(one.gram, other.gram[:n_images, :n_images], rtol=1e-4)


# equal and constant layers


def test_equal_layers_are_there_once() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Dropout(), nn.Identity(), nn.AdaptiveAvgPool2d(16), nn.Flatten())
    found = reduce(nn.ModuleDict({"features": module})["features"])
    assert [layer.name for layer in found.layers] == ["0"]
    assert dict(found.duplicates) == {"1": "0", "2": "0", "3": "0", "4": "0"}


def test_a_root_that_gives_its_last_child_s_output_is_there_once() -> None:
    class Root(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(768, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(x.flatten(1))

    assert dict(reduce(Root()).duplicates) == {"(root)": "fc"}


def test_equal_elements_in_another_memory_layout_are_equal() -> None:
    class Copy(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            other = (
                torch.contiguous_format if x.is_contiguous(memory_format=torch.channels_last) else torch.channels_last
            )
            return x.clone(memory_format=other)

    found = reduce(nn.Sequential(nn.Conv2d(3, 40, 3), Copy(), Copy()))
    assert [layer.name for layer in found.layers] == ["0"]


def test_layers_that_differ_in_the_last_image_only_are_both_there() -> None:
    class LastImage(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = x.clone()
            if len(x) == 5:
                x[4] += 1e-3
            return x

    assert names(nn.Sequential(nn.Conv2d(3, 4, 3), LastImage())) == ["0", "1"]


def test_constant_layers_are_reduced_as_any_other() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Hardtanh(50, 51), nn.Flatten(), nn.Linear(1024, 3))
    found = {layer.name: layer for layer in reduce(module).layers}
    assert list(found) == ["0", "1", "3"]
    np.testing.assert_allclose(found["1"].feature_sum, 50 * 1024)


@pytest.mark.parametrize("factor", [np.nan, np.inf])
def test_layers_that_are_not_finite_are_reduced_without_a_warning(factor: float) -> None:
    found = reduce(nn.Sequential(nn.Conv2d(3, 4, 1), _Apply(lambda x: x * factor), _Apply(lambda x: x.abs())))
    finite = [layer.name for layer in found.layers if np.isfinite(layer.gram).all()]
    assert finite == ["0"]
    assert {layer.name for layer in found.layers} >= {"0", "1"}


# the net is left as it was


def test_the_net_is_left_as_it_was() -> None:
    module = net()
    module.train()
    module.bn.eval()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    gradient = [parameter.requires_grad for parameter in module.parameters()]
    model = TorchModel(module, SMALL)
    model.reduce(images(), device="cpu")
    model.activations(images(), ["fc"])
    _ = model.layers, model.fingerprint
    assert module.training
    assert module.dropout.training
    assert not module.bn.training
    assert not any(part._forward_hooks for part in module.modules())
    assert [parameter.requires_grad for parameter in module.parameters()] == gradient
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_a_net_that_fails_is_left_as_it_was_too() -> None:
    def fail(x: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("no\nsuch   thing")

    module = nn.Sequential(nn.Conv2d(3, 4, 1), _Apply(fail))
    module.train()
    with pytest.raises(PluginBroken, match=r"^the net fails on 2 images: RuntimeError: no such thing$"):
        reduce(module)
    assert module.training
    assert not any(part._forward_hooks for part in module.modules())


def test_a_net_is_run_in_eval_mode_without_gradients() -> None:
    seen = []

    def look(x: torch.Tensor) -> torch.Tensor:
        seen.append((module.training, torch.is_grad_enabled()))
        return x * 2

    module = nn.Sequential(nn.Conv2d(3, 4, 1), _Apply(look)).train()
    reduce(module)
    assert set(seen) == {(False, False)}


def test_a_net_that_uses_inference_mode_is_no_trouble() -> None:
    class Inference(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(768, 4)
            self.dropout = nn.Dropout()

        @torch.inference_mode()
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.dropout(self.fc(x.flatten(1)))

    assert names(Inference()) == ["fc"]


def test_a_net_that_needs_contiguous_images_gets_them() -> None:
    assert names(_Apply(lambda x: x.view(len(x), -1) * 2)) == ["(root)"]


def test_a_net_whose_layers_depend_on_the_batch_is_refused() -> None:
    class Fickle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(768, 2), nn.Linear(768, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            (self.a if len(x) == self.when else self.b)(x.flatten(1))
            return x * 2

    module = Fickle()
    module.when = 3
    with pytest.raises(ContractViolation, match="different layers for 2 and for 3 images"):
        reduce(module)
    module.when = 5
    with pytest.raises(ContractViolation, match="layer 'b' did not run for all images"):
        reduce(module)


# which layers


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        (["fc", "conv"], ["conv", "fc"]),
        (["relu"], ["relu#0", "relu#1", "relu#2"]),
        (["relu#1", "fc"], ["relu#1", "fc"]),
        (["conv*"], ["conv", "conv2"]),
        (["*elu"], ["relu#0", "relu#1", "relu#2"]),
        (["block.*"], ["block.0", "block.1"]),
        (["block"], ["block"]),
        (["(root)"], ["(root)"]),
        (["dropout", "identity"], ["dropout"]),
    ],
)
def test_layers_are_chosen_by_name_call_or_glob(layers: list[str], expected: list[str]) -> None:
    assert names(net(), layers=layers) == expected
    model = TorchModel(net(), SMALL, layers)
    assert [name for name in model.layers if name != "identity"] == expected


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (["conv3"], "layer 'conv3': no such module; closest: 'conv"),
        (["block.7", "fc"], "layer 'block.7': no such module; closest: 'block."),
        (["zzz*"], r"layer 'zzz\*': no such module$"),
    ],
)
def test_unknown_layers_are_refused_with_the_closest(layers: list[str], message: str) -> None:
    with pytest.raises(ContractViolation, match=message):
        TorchModel(net(), SMALL, layers)


@pytest.mark.parametrize("layers", [["relu#3"], ["fc", "relu#3"]])
def test_unknown_calls_are_refused(layers: list[str]) -> None:
    with pytest.raises(ContractViolation, match="layer 'relu#3': no such module; closest: 'relu#"):
        reduce(net(), layers=layers)


def test_activations_of_an_unknown_layer_are_refused() -> None:
    with pytest.raises(ContractViolation, match="layer 'bn2': no such module; closest: 'bn'"):
        TorchModel(net(), SMALL).activations(images(), ["bn2"])


def test_layers_are_named_before_equal_ones_are_dropped() -> None:
    assert list(TorchModel(net(), SMALL).layers) == [
        "conv",
        "bn",
        "relu#0",
        "conv2",
        "relu#1",
        "block.0",
        "block.1",
        "dropout",
        "identity",
        "relu#2",
        "fc",
        "(root)",
    ]


def test_what_is_no_module_or_no_list_is_refused() -> None:
    with pytest.raises(ContractViolation, match=r"is not a torch\.nn\.Module"):
        TorchModel(lambda x: x)
    with pytest.raises(ContractViolation, match="layers is the string 'fc'; a list of names"):
        TorchModel(net(), layers="fc")
    with pytest.raises(ContractViolation, match="layers is an empty list"):
        TorchModel(net(), layers=[])


# preprocessing


@pytest.mark.parametrize(
    ("preprocess", "error", "message"),
    [
        (np.asarray, ContractViolation, "gives a ndarray for image 0; a float .channel, height, width. tensor"),
        (transforms.PILToTensor(), ContractViolation, r"gives a uint8 tensor of shape \(3, 20, 20\) for image 0"),
        (lambda im: SMALL(im)[None], ContractViolation, r"float32 tensor of shape \(1, 3, 16, 16\) for image 0"),
        (lambda im: 1 / 0, PluginBroken, "preprocessing fails on image 0: ZeroDivisionError"),
    ],
)
def test_preprocessing_must_give_an_image(preprocess, error, message: str) -> None:
    with pytest.raises(error, match=message):
        TorchModel(net(), preprocess).reduce(images(), device="cpu")


def test_preprocessing_must_give_images_of_one_shape() -> None:
    sizes = iter([16, 16, 17])

    def fickle(image):
        return transforms.ToTensor()(image.resize((16, next(sizes))))

    with pytest.raises(ContractViolation, match=r"shape \(3, 17, 16\) for image 2 and .*\(3, 16, 16\) for image 0"):
        TorchModel(net(), fickle).reduce(images(), device="cpu")


def test_the_paper_s_preprocessing_squashes_and_normalises() -> None:
    tensor = paper_preprocess()(transforms.ToPILImage()(np.full((918, 1174, 3), 51, dtype=np.uint8)))
    assert tensor.shape == (3, 224, 224)
    mean, sd = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    np.testing.assert_allclose(tensor[:, 100, 100], (0.2 - mean) / sd, rtol=1e-5)
    assert tensor.std((1, 2)).max() < 1e-5


def test_unknown_devices_are_refused() -> None:
    with pytest.raises(UsageError, match="device 'tpu' is not available here"):
        choose_device("tpu")
    assert choose_device("cpu") == torch.device("cpu")


# invariances


def test_images_permuted_permute_the_grams() -> None:
    order = np.random.default_rng(0).permutation(7)
    model = TorchModel(net(), SMALL)
    found, moved = (model.reduce(some, device="cpu") for some in (images(7), images(7)[order]))
    for one, other in zip(found.layers, moved.layers, strict=True):
        assert one.name == other.name
        expected = one.gram[np.ix_(order, order)]
        np.testing.assert_allclose(other.gram, expected, rtol=0, atol=1e-6 * np.abs(expected).max())


def test_two_runs_give_the_same_numbers() -> None:
    for one, other in zip(reduce(net()).layers, reduce(net()).layers, strict=True):
        assert np.array_equal(one.gram, other.gram)


# fingerprints


def weights_of(model: TorchModel) -> str:
    return model.fingerprint["weights"]


def test_an_untrained_net_depends_on_its_seed_alone() -> None:
    torch.manual_seed(99)
    torch.rand(7)
    state = torch.random.get_rng_state()
    first = weights_of(untrained("squeezenet1_1", 3))
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.rand(1000)
    assert weights_of(untrained("squeezenet1_1", 3)) == first
    assert weights_of(untrained("squeezenet1_1", 4)) != first


@pytest.mark.slow
def test_a_fresh_process_makes_the_same_net_with_the_same_fingerprint() -> None:
    code = (
        "import json, torch; torch.rand(5)\n"
        "from mousebench_plugins.models._torchvision import untrained\n"
        "print(json.dumps(dict(untrained('squeezenet1_1', 3).fingerprint)))"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert json.loads(output) == dict(untrained("squeezenet1_1", 3).fingerprint)


def fingerprint(module: nn.Module | None = None, preprocess=SMALL, layers=None) -> dict[str, str]:
    return dict(TorchModel(net() if module is None else module, preprocess, layers).fingerprint)


def test_the_same_net_has_the_same_fingerprint() -> None:
    assert fingerprint() == fingerprint()
    assert "unknown" not in fingerprint().values()


def test_one_weight_or_buffer_changes_the_fingerprint() -> None:
    for name in ("fc.bias", "bn.running_mean"):
        module = net()
        module.state_dict()[name][0] += 1e-3
        assert fingerprint(module)["weights"] != fingerprint()["weights"]


def test_a_net_trained_on_has_another_fingerprint() -> None:
    model = TorchModel(net(), SMALL)
    before = dict(model.fingerprint)
    with torch.no_grad():
        model.module.fc.bias.add_(1)
    assert dict(model.fingerprint) != before


def test_layers_change_the_fingerprint() -> None:
    assert len({fingerprint(layers=layers)["layers"] for layers in (None, ["fc"], ["conv", "fc"])}) == 3


class Scale(nn.Module):
    """A module with a setting that its repr does not show."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.factor


class Resize:
    """Preprocessing with a repr that says too little."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __repr__(self) -> str:
        return "Resize()"

    def __call__(self, image):
        return transforms.ToTensor()(image.resize((self.size, self.size)))


def make_resize(size: int):
    def resize(image):
        return transforms.ToTensor()(image.resize((size, size)))

    return resize


def test_settings_change_the_fingerprint() -> None:
    one, other = (fingerprint(nn.Sequential(nn.Conv2d(3, 3, 1), Scale(k)))["architecture"] for k in (2.0, 3.0))
    assert one != other
    assert (
        fingerprint(nn.Sequential(Scale(2.0)))["architecture"] == fingerprint(nn.Sequential(Scale(2.0)))["architecture"]
    )
    straight, strided = (fingerprint(nn.Conv2d(3, 3, 1, stride=k))["architecture"] for k in (1, 2))
    assert straight != strided


@pytest.mark.parametrize(
    "make",
    [
        paper_preprocess,
        Resize,
        make_resize,
        Scale,
        lambda size: transforms.Compose([transforms.Resize(size), transforms.ToTensor()]),
        lambda size: transforms.Compose([Resize(size), transforms.Lambda(functional.relu)]),
        lambda size: transforms.Compose([transforms.Lambda(make_resize(size)), transforms.Lambda(functional.relu)]),
    ],
)
def test_preprocessing_is_described_by_all_that_it_does(make) -> None:
    first, again, other = (fingerprint(preprocess=make(size))["preprocess"] for size in (16, 16, 32))
    assert first == again != other
    assert "unknown" not in first


def test_the_weights_own_transform_is_described() -> None:
    described = fingerprint(preprocess=models.ResNet18_Weights.IMAGENET1K_V1.transforms())["preprocess"]
    assert "crop_size=[224]" in described


@pytest.mark.parametrize("wrap", ["{}", "transforms.Compose([transforms.ToTensor(), transforms.Lambda({})])"])
def test_preprocessing_without_a_source_that_lasts_is_unknown(wrap: str) -> None:
    # as typed into an interpreter
    scope = {"transforms": transforms, "__name__": "__main__"}
    preprocess = eval(wrap.format("lambda image: image"), scope)
    assert fingerprint(preprocess=preprocess)["preprocess"] == "unknown"


def test_a_class_without_source_is_unknown() -> None:
    scope: dict[str, type[nn.Module]] = {}
    exec("import torch\nclass Typed(torch.nn.Module):\n    def forward(self, x): return x\n", scope)
    scope["Typed"].__module__ = "nowhere"
    assert fingerprint(scope["Typed"]())["architecture"] == "unknown"


def test_the_form_for_accelerators_gives_the_same_gram_and_sums() -> None:
    from mousebench.collector import one_blas_thread_each, reduce_on_device, reduce_tensors

    features = torch.randn(7, 100_001, generator=torch.Generator().manual_seed(0)) + 1
    with one_blas_thread_each() as pool:
        gram, row_sum = reduce_tensors(features.split(3), pool)
    other_gram, other_sum = reduce_on_device(features.split(3))
    exact = features.numpy().astype(np.float64)
    for one, other, truth in ((gram, other_gram, exact @ exact.T), (row_sum, other_sum, exact.sum(1))):
        np.testing.assert_allclose(one, truth, rtol=1e-12, atol=1e-9)
        np.testing.assert_allclose(other, truth, rtol=1e-12, atol=1e-9)
