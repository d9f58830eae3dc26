"""Nets of all kinds against hooks that clone; batches, memory that runs short, nets that misbehave."""

from __future__ import annotations

import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from functools import partial
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torchvision import models, transforms

from mousebench import TorchModel, extraction
from mousebench.devices import choose_device, is_out_of_memory, memory_budget
from mousebench.errors import ContractViolation, MousebenchError, OutOfStep, PluginBroken, UsageError
from mousebench.extraction import BATCH, Plan
from mousebench.layer_names import blocks
from mousebench.linalg import correlation_rdm
from mousebench.lockstep import Lockstep
from mousebench.progress import Silent
from mousebench.reduction import Reductions

SMALL = transforms.Compose([transforms.Resize((16, 16)), transforms.ToTensor()])


def images(n: int, size: int = 16, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, size, size, 3), dtype=np.uint8)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """These nets are too small to share among threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Notes(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def reduce(net: nn.Module, n: int = 5, notes: Notes | None = None, **options: Any) -> Reductions:
    return TorchModel(net, SMALL, **options).reduce(images(n), device="cpu", progress=notes)


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make()


class Do(nn.Module):
    """A module that applies a function."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: Any) -> Any:
        return self.function(*inputs)


class Chain(nn.Module):
    """Modules one after the other, in no container."""

    def __init__(self, **parts: nn.Module) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, x: torch.Tensor) -> Any:
        for part in self.children():
            x = part(x)
        return x


def parts_of(value: Any, name: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(value, torch.Tensor):
        yield name, value
    elif isinstance(value, dict | tuple | list):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from parts_of(part, f"{name}.{key}")


def clones(net: nn.Module, batch: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return a clone of everything that comes out of every module call."""
    seen: list[tuple[str, int, str, torch.Tensor]] = []
    called: Counter[str] = Counter()

    def hook(path: str) -> Callable[..., None]:
        def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
            seen.extend((path, called[path], item, x.detach().clone()) for item, x in parts_of(output))
            called[path] += 1

        return keep

    every = {path or "(root)": part for path, part in net.named_modules()}
    handles = [
        part.register_forward_hook(hook(path))
        for path, part in every.items()
        if not isinstance(part, nn.Sequential | nn.ModuleList)
    ]
    net.eval()
    with torch.no_grad():
        net(batch)
    for handle in handles:
        handle.remove()
    return {
        f"{path}#{call}{item}" if item or called[path] > 1 else path: x
        for path, call, item, x in seen
        if x.is_floating_point() and x.ndim
    }


def check_against_clones(net: nn.Module, preprocess: Any = SMALL, n: int = 5, size: int = 16) -> Reductions:
    """Compare each layer with F F' and with np.corrcoef of what explicit hooks clone from one pass of all images."""
    some = images(n, size)
    model = TorchModel(net, preprocess)
    found = model.reduce(some, device="cpu")
    batch = model._prepare(some)
    whole, fewer = clones(net, batch), clones(net, batch[1:])
    features: dict[str, np.ndarray] = {}
    for name, x in whole.items():
        axes = [axis for axis in range(x.ndim) if x.shape[axis] == n and fewer[name].shape[axis] == n - 1]
        if len(axes) == 1:
            features[name] = x.movedim(axes[0], 0).reshape(n, -1).double().numpy()
    names = [layer.name for layer in found.layers]
    assert [name for name in features if name not in found.duplicates] == names
    assert set(whole) - set(features) == {name for name in found.skipped if name in whole}
    for name, original in found.duplicates.items():
        np.testing.assert_allclose(features[name], features[original], rtol=0, atol=1e-5)
    for layer in found.layers:
        f = features[layer.name]
        assert layer.n_features == f.shape[1]
        np.testing.assert_allclose(layer.gram, f @ f.T, rtol=0, atol=1e-5 * np.abs(f @ f.T).max(), err_msg=layer.name)
        sums = f.sum(1)
        np.testing.assert_allclose(layer.feature_sum, sums, rtol=0, atol=1e-5 * np.abs(f).sum(1).max())
        varies = f.std(1) > 1e-2 * np.abs(f).max()
        if varies.all() and f.shape[1] > 1:
            rdm = correlation_rdm(layer.gram, layer.feature_sum, layer.n_features)
            np.testing.assert_allclose(rdm, 1 - np.corrcoef(f), rtol=0, atol=1e-3, err_msg=layer.name)
    return found


def same(one: Reductions, other: Reductions, tolerance: float = 1e-12) -> None:
    assert [layer.name for layer in one.layers] == [layer.name for layer in other.layers]
    assert one.duplicates == other.duplicates
    for a, b in zip(one.layers, other.layers, strict=True):
        assert a.n_features == b.n_features
        np.testing.assert_allclose(a.gram, b.gram, rtol=0, atol=tolerance * np.abs(b.gram).max(), err_msg=a.name)
        scale = np.sqrt(np.abs(b.gram).max() * b.n_features)
        np.testing.assert_allclose(a.feature_sum, b.feature_sum, rtol=0, atol=tolerance * scale, err_msg=a.name)


# nets of all kinds


def small_vit() -> nn.Module:
    return models.VisionTransformer(32, 16, num_layers=2, num_heads=3, hidden_dim=48, mlp_dim=96, num_classes=10)


def small_swin() -> nn.Module:
    return models.SwinTransformer([4, 4], 12, [2, 2], [2, 4], [4, 4], num_classes=10)


TRANSFORMERS = {
    "vit": (small_vit, 32),
    "swin": (small_swin, 64),
    "vit_b_16": (lambda: models.vit_b_16(weights=None, image_size=32, num_classes=10), 32),
    "swin_t": (lambda: models.swin_t(weights=None, num_classes=10), 64),
    "swin_v2_t": (lambda: models.swin_v2_t(weights=None, num_classes=10), 64),
    "maxvit_t": (lambda: models.maxvit_t(weights=None, num_classes=10), 224),
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in ("vit", "swin") else pytest.mark.slow) for name in TRANSFORMERS]
)
def test_a_transformer_of_torchvision(name: str) -> None:
    make, size = TRANSFORMERS[name]
    net = seeded(make)
    if hasattr(net, "heads"):
        nn.init.normal_(net.heads.head.weight)  # zeros as it is made
    preprocess = transforms.Compose([transforms.Resize((size, size)), transforms.ToTensor()])
    found = check_against_clones(net, preprocess, 4, size)
    widths = {layer.name: layer.n_features for layer in found.layers}
    if name == "vit":
        assert widths["encoder.layers.encoder_layer_1.self_attention#0.0"] == 5 * 48  # 4 patches and the class token
        assert not found.skipped
    if name == "swin":
        assert widths["features.1.1.attn"] == 16 * 16 * 12
        assert not found.skipped


class Tokens(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(2).transpose(1, 2).reshape(len(x), 16, 48)


@pytest.mark.parametrize("batch_first", [True, False])
def test_torch_s_own_transformer_layers(batch_first: bool) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tokens = Tokens()
            layer = nn.TransformerEncoderLayer(48, 4, 64, batch_first=batch_first)
            self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
            self.attention = nn.MultiheadAttention(48, 4, batch_first=batch_first)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.tokens(x) if batch_first else self.tokens(x).transpose(0, 1)
            x = self.encoder(x)
            return self.attention(x, x, x)[0].mean(1 if batch_first else 0)

    found = check_against_clones(seeded(Net), n=7)
    names = [layer.name for layer in found.layers]
    # the fused form would call none of these
    for part in ("self_attn#0.0", "dropout1", "norm1", "linear1", "dropout", "linear2", "dropout2", "norm2"):
        name = f"encoder.layers.0.{part}"
        assert name in names or name in found.duplicates, name
    assert "attention#0.1" in names  # the weights of attention: (image, token, token)


def test_the_fused_attention_is_off_and_on_again() -> None:
    seen: list[bool] = []

    def look(x: torch.Tensor) -> torch.Tensor:
        seen.append(torch.backends.mha.get_fastpath_enabled())
        return x * 2

    assert torch.backends.mha.get_fastpath_enabled()
    reduce(Do(look))
    assert set(seen) == {False}
    assert torch.backends.mha.get_fastpath_enabled()


class Loop(nn.Module):
    def __init__(self, cell: type[nn.RNNCellBase]) -> None:
        super().__init__()
        self.tokens, self.cell = Tokens(), cell(48, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        state = None
        for token in self.tokens(x).unbind(1)[:4]:
            state = self.cell(token, state)
        return state[0] if isinstance(state, tuple) else state


def test_a_recurrent_loop_has_a_layer_a_time_step() -> None:
    found = check_against_clones(seeded(lambda: Loop(nn.GRUCell)))
    assert [layer.name for layer in found.layers] == ["tokens", "cell#0", "cell#1", "cell#2", "cell#3"]
    found = check_against_clones(seeded(lambda: Loop(nn.LSTMCell)))
    assert [layer.name for layer in found.layers][1:] == [f"cell#{step}.{item}" for step in range(4) for item in (0, 1)]


@pytest.mark.parametrize(("batch_first", "n"), [(True, 5), (False, 16)])  # 16 images and 16 time steps
def test_a_recurrent_module_has_hidden_states_with_images_on_the_second_axis(batch_first: bool, n: int) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tokens = Tokens()
            self.lstm = nn.LSTM(48, 6, num_layers=2, bidirectional=True, batch_first=batch_first)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.tokens(x)
            return self.lstm(x if batch_first else x.transpose(0, 1))[0].mean(1 if batch_first else 0)

    found = check_against_clones(seeded(Net), n=n)
    widths = {layer.name: layer.n_features for layer in found.layers}
    assert widths == {"tokens": 768, "lstm#0.0": 16 * 12, "lstm#0.1.0": 24, "lstm#0.1.1": 24, "(root)": 12}


def test_dicts_have_a_layer_an_item() -> None:
    def split(x: torch.Tensor) -> dict[str, Any]:
        return {"out": x.mean((2, 3)), "levels": [x, x * 2], "size": 3, "nothing": None, "inner": {"a": x + 1}}

    net = Chain(conv=nn.Conv2d(3, 4, 1), split=Do(split), take=Do(lambda found: found["out"] * 3))
    found = check_against_clones(seeded(lambda: net))
    names = ["conv", "split#0.out", "split#0.levels.1", "split#0.inner.a", "take"]
    assert [layer.name for layer in found.layers] == names
    assert dict(found.duplicates) == {"split#0.levels.0": "conv", "(root)": "take"}
    assert dict(found.skipped) == {"split#0.size": "its output is a int, not a float tensor"}
    model = TorchModel(net, SMALL, ["split#0.out", "split#0.levels.*"])
    assert list(model.layers) == ["split#0.out", "split#0.levels.0", "split#0.levels.1"]


def test_what_is_changed_in_place_is_seen_as_it_was() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
            self.relu, self.hard = nn.ReLU6(inplace=True), nn.Hardswish(inplace=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.relu(self.a(x))
            y = self.b(x)
            y += x
            y = self.hard(self.relu(y))
            y.mul_(2)
            return functional.relu_(y)

    found = check_against_clones(seeded(Net), n=70)
    assert [layer.name for layer in found.layers] == ["a", "relu#0", "b", "relu#1", "hard", "(root)"]


def test_a_net_with_its_own_input_size() -> None:
    net = seeded(lambda: nn.Sequential(nn.Conv2d(3, 2, 5, stride=3), nn.Flatten(), nn.Linear(2 * 9 * 11, 4)))
    preprocess = transforms.Compose([transforms.Resize((30, 36)), transforms.ToTensor()])
    assert [layer.n_features for layer in check_against_clones(net, preprocess).layers] == [198, 4]
    with pytest.raises(PluginBroken, match="mat1 and mat2 shapes cannot be multiplied"):
        TorchModel(net).reduce(images(3), device="cpu")


def test_scalars_for_an_image_are_layers_of_one_feature() -> None:
    found = check_against_clones(seeded(lambda: Chain(conv=nn.Conv2d(3, 4, 1), mean=Do(lambda x: x.mean((1, 2, 3))))))
    assert {layer.name: layer.n_features for layer in found.layers} == {"conv": 1024, "mean": 1}


def test_parameters_and_outputs_with_gradients_are_no_trouble() -> None:
    @torch.enable_grad()
    def weigh(x: torch.Tensor) -> torch.Tensor:
        return x * weight

    weight = torch.ones(1, requires_grad=True)
    found = reduce(Chain(conv=seeded(lambda: nn.Conv2d(3, 4, 1)), weigh=Do(weigh)))
    np.testing.assert_allclose(found.layers[0].gram, reduce(seeded(lambda: nn.Conv2d(3, 4, 1))).layers[0].gram)


# which layers


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet18", "conv1 bn1 relu maxpool layer1.0 layer1.1 layer2.0 layer2.1 layer3.0 layer3.1 layer4.0 layer4.1"),
        ("squeezenet1_1", " ".join(f"features.{k}" for k in range(13)) + " classifier.0 classifier.1 classifier.2"),
        ("mobilenet_v2", " ".join(f"features.{k}" for k in range(19)) + " classifier.0 classifier.1"),
    ],
)
def test_blocks_are_the_children_with_those_of_containers_in_their_place(name: str, expected: str) -> None:
    net = models.get_model(name, weights=None)
    found = list(blocks(net))
    assert found[: len(expected.split())] == expected.split()
    assert set(found) <= {path for path, _ in net.named_modules()}


def test_blocks_have_the_grams_that_they_have_among_all_layers() -> None:
    net = seeded(lambda: models.resnet18(weights=None, num_classes=10))
    preprocess = transforms.Compose([transforms.Resize((32, 32)), transforms.ToTensor()])
    every, chosen = (
        TorchModel(net, preprocess, layers).reduce(images(4, 32), device="cpu") for layers in (None, "blocks")
    )
    assert len(chosen.layers) + len(chosen.duplicates) == 14
    grams = {layer.name: layer.gram for layer in every.layers}
    for layer in chosen.layers:  # a block that equals its last child has the child's name among all layers
        original = layer.name if layer.name in grams else every.duplicates[layer.name]
        np.testing.assert_array_equal(layer.gram, grams[original])


def test_blocks_of_a_sequential_and_of_a_leaf() -> None:
    inner = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU())
    net = seeded(lambda: nn.Sequential(nn.Sequential(inner, nn.Flatten()), nn.Linear(1024, 2)))
    assert list(TorchModel(net, SMALL, "blocks").layers) == ["0.0", "0.1", "1"]
    assert list(TorchModel(Tokens(), SMALL, "blocks").layers) == ["(root)"]
    assert TorchModel(net, SMALL, "blocks").fingerprint["layers"] == '"blocks"'


def test_names_of_modules_that_never_run_are_refused() -> None:
    net = Chain(conv=nn.Conv2d(3, 4, 1))
    net.conv.unused = nn.Linear(3, 3)
    assert [layer.name for layer in reduce(net).layers] == ["conv"]
    with pytest.raises(ContractViolation, match=r"layer 'conv\.un\*': no module of that name runs"):
        reduce(net, layers=["conv", "conv.un*"])


def test_what_is_not_asked_for_is_not_noted() -> None:
    net = Chain(conv=nn.Conv2d(3, 4, 1), top=Do(lambda x: x.argmax(1)), back=Do(lambda x: x * 0.5))
    assert set(reduce(net).skipped) == {"top"}
    assert not reduce(net, layers=["conv", "back"]).skipped


# batches and memory


class Wide(nn.Module):
    """A net that gives the same bits in a batch of any size."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = Do(lambda x: x.repeat(1, 9, 1, 1).sin()), nn.Hardtanh(-0.3, 0.3), Do(lambda x: x * x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.c(self.b(self.a(x)))


@pytest.mark.parametrize("at_once", [1, 2, 3, 7, 29, 30, 59, 60, 61, 90, 117, 118, 1000])
@pytest.mark.parametrize("n", [1, 2, 31, 118])
def test_each_two_images_meet_in_a_group_that_fits(n: int, at_once: int) -> None:
    plan = Plan(n, n).limited(at_once)
    sizes = [len(batch) for batch in plan.batches]
    assert sum(sizes) == n
    assert max(sizes) - min(sizes) <= 1
    assert max(sizes) <= BATCH
    together = np.eye(n, dtype=bool)
    for group in plan.groups:
        members = np.concatenate(group)
        assert len(members) <= max(2, at_once)
        assert len(set(members)) == len(members)
        together[np.ix_(members, members)] = True
    assert together.all()
    steps = 0
    while plan is not None:
        plan, steps = plan.halved(), steps + 1
    assert steps <= 8


def test_few_groups_are_enough() -> None:
    assert len(Plan(118, 118).groups) == 1
    assert len(Plan(118, 118).limited(90).groups) == 3
    assert len(Plan(118, 118).limited(60).groups) == len(list(combinations(range(4), 2)))
    assert len(Plan(600, 600).limited(300).groups) <= 7


@pytest.mark.parametrize("make", [Wide, lambda: nn.Sequential(nn.Conv2d(3, 20, 3), nn.ReLU(), nn.Conv2d(20, 5, 3))])
def test_the_budget_changes_no_number(make: Callable[[], nn.Module]) -> None:
    net = seeded(make)
    sizes: list[int] = []
    net.register_forward_pre_hook(lambda _m, inputs: sizes.append(len(inputs[0])))
    whole = reduce(net, 118)
    assert sizes == [2, 3, 3, 30, 30, 29, 29]
    widest = max(layer.n_features for layer in whole.layers)
    for images_at_once, n_passes in ((60, 12), (90, 8)):
        sizes.clear()
        same(reduce(net, 118, memory_budget=2 * 4 * widest * images_at_once), whole)
        assert len(sizes) == 3 + n_passes


def test_batches_of_any_size_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    conv = seeded(lambda: nn.Sequential(nn.Conv2d(3, 20, 3), nn.ReLU(), nn.Conv2d(20, 5, 3)))
    double = seeded(lambda: nn.Sequential(nn.Conv2d(3, 20, 3), nn.ReLU(), nn.Conv2d(20, 5, 3))).double()
    for net, tolerance in ((Wide(), 1e-12), (double, 1e-12), (conv, 1e-6)):
        found = []
        for size in (1, 7, 118):
            monkeypatch.setattr(extraction, "Plan", partial(Plan, batch=size))
            found.append(reduce(net, 118))
        same(found[0], found[2], tolerance)
        same(found[1], found[2], tolerance)


OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
    RuntimeError("MPS backend out of memory (MPS allocated: 9.0 GB)"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: you tried 80 bytes"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"),
    MemoryError(),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY)
def test_memory_that_runs_short_halves_the_batch(error: Exception) -> None:
    assert is_out_of_memory(error)

    def limited(x: torch.Tensor) -> torch.Tensor:
        if len(x) > 8:
            raise error
        return x * 3

    notes = Notes()
    found = reduce(Chain(wide=Wide(), limited=Do(limited)), 40, notes)
    same(found, reduce(Chain(wide=Wide(), limited=Do(lambda x: x * 3)), 40))
    assert notes.notes == [f"out of memory with {n} images at once, going on with {n // 2}" for n in (40, 20)]


def test_memory_may_run_short_while_layers_are_reduced(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = reduce(Wide(), 40)
    honest = extraction.Collector.add

    def add(self: Any, call: Any, parts: Any, pool: Any) -> None:
        if sum(map(len, parts)) > 12:
            raise MemoryError
        honest(self, call, parts, pool)

    monkeypatch.setattr(extraction.Collector, "add", add)
    same(reduce(Wide(), 40), expected)


def test_activations_too_are_had_with_little_memory() -> None:
    def limited(x: torch.Tensor) -> torch.Tensor:
        if len(x) > 4:
            raise MemoryError
        return x * 3

    model = TorchModel(Chain(wide=Wide(), limited=Do(limited)), SMALL)
    found = model.activations(images(40), ["limited", "wide.b"])
    expected = TorchModel(Wide(), SMALL).activations(images(40), ["b", "c"])
    np.testing.assert_array_equal(found["wide.b"], expected["b"])
    np.testing.assert_array_equal(found["limited"], expected["c"] * 3)


def test_what_was_computed_before_memory_ran_short_is_given_back() -> None:
    refs: list[weakref.ref[torch.Tensor]] = []
    alive: list[int] = []

    def make(x: torch.Tensor) -> torch.Tensor:
        alive.append(sum(ref() is not None for ref in refs))
        x = x * 2
        refs.append(weakref.ref(x))
        return x

    def limited(x: torch.Tensor) -> torch.Tensor:
        if len(x) > 10:
            raise MemoryError
        return x * 3

    reduce(Chain(make=Do(make), limited=Do(limited)), 60)
    # three traced passes; two batches of 30 fail, two of 15, then six groups of two out of four
    assert alive[:5] == [0, 0, 0, 0, 1]
    assert alive[5:9] == [0, 1, 0, 1]


def test_no_memory_at_all_is_said() -> None:
    def greedy(x: torch.Tensor) -> torch.Tensor:
        raise MemoryError

    with pytest.raises(UsageError, match=r"the net needs more memory than cpu.* has, even for 2 images") as caught:
        reduce(Do(greedy))
    assert "smaller input" in caught.value.hint

    def picky(x: torch.Tensor) -> torch.Tensor:  # few images pass the trace, but not after it
        if len(passes := seen.append(len(x)) or seen) > 3:
            raise MemoryError(str(passes))
        return x * 2

    seen: list[int] = []
    with pytest.raises(UsageError, match="even for 2 images"):
        reduce(Do(picky), 40)


def test_other_errors_are_not_taken_for_short_memory() -> None:
    for error in (RuntimeError("shapes do not match"), ValueError("out of memory"), OSError("not enough memory")):
        assert not is_out_of_memory(error)


# in step


def test_one_layer_at_a_time_is_there() -> None:
    made: dict[str, list[weakref.ref[torch.Tensor]]] = {}
    net = seeded(lambda: nn.Sequential(*(nn.Conv2d(3, 3, 3, padding=1) for _ in range(5))))
    for path, part in net.named_children():
        part.register_forward_hook(lambda _m, _i, y, path=path: made.setdefault(path, []).append(weakref.ref(y)))
    few, all_images = torch.rand(3, 3, 8, 8), torch.rand(12, 3, 8, 8)
    hooked = dict(net.named_children())
    traced = Lockstep(net, hooked, torch.no_grad)
    traced.run([few], lambda step: None)
    assert traced.unchanged == {(str(k), 0) for k in range(5)}
    made.clear()
    there: list[Mapping[str, int]] = []

    def see(step: Any) -> None:
        there.append({path: sum(ref() is not None for ref in refs) for path, refs in made.items()})

    Lockstep(net, hooked, torch.no_grad, traced.unchanged).run(all_images.split(3), see)
    assert len(there) == 5
    for step, counts in enumerate(there):
        assert {path: count for path, count in counts.items() if count} == {str(step): 4}


def test_batches_pass_in_step_and_end_with_an_error() -> None:
    net = nn.Sequential(nn.ReLU(), nn.Tanh())
    seen: list[str] = []
    threads = threading.active_count()

    def interrupt(step: Any) -> None:
        seen.append(step.path)
        assert [len(x) for x in step.outputs] == [3, 3, 2]
        if step.path == "1":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Lockstep(net, dict(net.named_children()), nullcontext).run(torch.rand(8, 2).split(3), interrupt)
    assert seen == ["0", "1"]
    assert threading.active_count() == threads
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in net.modules())


def test_batches_that_take_other_ways_are_out_of_step() -> None:
    net = Chain(fork=nn.ModuleDict({"low": nn.Tanh(), "high": nn.ReLU()}))
    net.forward = lambda x: net.fork["high" if x.mean() > 0.5 else "low"](x)  # type: ignore[method-assign]
    hooked = {path: part for path, part in net.named_modules() if path.startswith("fork.")}
    with pytest.raises(OutOfStep, match=r"different layers for different images: fork\.high#0, fork\.low#0"):
        Lockstep(net, hooked, nullcontext).run([torch.zeros(2, 3), torch.ones(2, 3)], lambda step: None)


@pytest.mark.parametrize(
    ("n", "reason"),
    [
        (90, "layer 'join' gives image 0 other features among 30 images than among few"),
        (
            80,
            "RuntimeError: The size of tensor a (27) must match the size of tensor b (26) at non-singleton dimension 0",
        ),
    ],
)
def test_a_net_that_hands_things_over_on_itself_passes_in_one_batch(n: int, reason: str) -> None:
    class Stash(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.down, self.up = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
            self.keep, self.join = Do(self.put), Do(self.take)

        def put(self, x: torch.Tensor) -> torch.Tensor:
            self.kept = x
            return x.flip(1)

        def take(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.kept

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.join(self.up(self.keep(self.down(x))))

    notes = Notes()
    found = reduce(seeded(Stash), n, notes)
    assert notes.notes == [f"the net cannot pass batches in turn ({reason}); it gets all images in one"]
    same(found, check_against_clones(seeded(Stash), n=n), 1e-6)


# nets that misbehave


@pytest.mark.parametrize("n", [5, 70])
def test_a_net_whose_images_depend_on_each_other_is_refused(n: int) -> None:
    net = seeded(lambda: Chain(conv=nn.Conv2d(3, 4, 1), norm=nn.BatchNorm2d(4, track_running_stats=False)))
    with pytest.raises(
        ContractViolation, match=r"layer 'norm' gives image \d+ other features among \d+ images"
    ) as caught:
        TorchModel(net, transforms.ToTensor()).reduce(
            np.concatenate([images(n - 2), np.full((2, 16, 16, 3), 255, np.uint8)]), device="cpu"
        )
    assert "batch statistics" in caught.value.hint


@pytest.mark.parametrize("noise", [functional.dropout, lambda x: x + 1e-3 * torch.randn_like(x)])
def test_a_net_that_is_not_deterministic_is_refused(noise: Callable[[torch.Tensor], torch.Tensor]) -> None:
    net = seeded(lambda: Chain(conv=nn.Conv2d(3, 4, 1), noisy=Do(noise), after=nn.Tanh()))
    with pytest.raises(
        ContractViolation, match="not deterministic: layer 'noisy' is the first that differs when"
    ) as caught:
        reduce(net)
    assert "training=self.training" in caught.value.hint
    assert [layer.name for layer in reduce(net, layers=["conv"]).layers] == ["conv"]


@pytest.mark.parametrize(("wrong", "text"), [([33], "33"), ([0], "0"), ([35, 31], r"31 \(and on 1 more of 20\)")])
def test_the_image_on_which_a_net_fails_is_named(wrong: list[int], text: str) -> None:
    some = images(40) // 2
    some[wrong] += 128

    def strict(x: torch.Tensor) -> torch.Tensor:
        if x.max() > 0.6:
            raise ValueError("too  bright")
        return x * 2

    net = Chain(conv=nn.Identity(), strict=Do(strict)).train()
    with pytest.raises(PluginBroken, match=rf"^the net fails on image {text}: ValueError: too bright$"):
        TorchModel(net, SMALL).reduce(some, device="cpu")
    assert net.training
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in net.modules())
    with pytest.raises(PluginBroken, match=rf"^the net fails on image {text.split()[0]}"):
        TorchModel(net, SMALL).activations(some, ["strict"])


def test_an_error_of_ours_inside_a_net_stays_what_it_is() -> None:
    def refuse(x: torch.Tensor) -> torch.Tensor:
        raise ContractViolation("no weights", "fetch them")

    with pytest.raises(ContractViolation, match=r"^no weights$"):
        reduce(Do(refuse))


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_a_net_of_another_precision_gets_its_images_in_that(kind: torch.dtype) -> None:
    net = seeded(lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 196, 5)))
    full = reduce(net)
    found = reduce(net.to(kind))
    same(found, full, 1e-2 if kind != torch.float64 else 1e-6)
    assert next(net.parameters()).dtype == kind
    assert TorchModel(net, SMALL).activations(images(2), ["3"])["3"].dtype == (
        np.float64 if kind == torch.float64 else np.float32
    )


def test_a_precision_in_which_a_net_cannot_compute_is_said() -> None:
    def no(x: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("\"op\" not implemented for 'Half'")

    with pytest.raises(PluginBroken, match="not implemented for 'Half'") as caught:
        reduce(Chain(conv=nn.Conv2d(3, 4, 1).half(), no=Do(no)))
    assert "module.float() computes in float32" in caught.value.hint


def test_nets_without_weights_to_compute_with_are_refused() -> None:
    with pytest.raises(ContractViolation, match="on the meta device, where they have no values"):
        reduce(nn.Conv2d(3, 4, 1, device="meta"))
    with pytest.raises(ContractViolation, match="spread over several devices: cpu, meta"):
        reduce(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1, device="meta")))
    with pytest.raises(ContractViolation, match="the net has lazy modules"):
        TorchModel(nn.Sequential(nn.LazyConv2d(4, 1)), SMALL)


def test_a_layer_of_another_width_for_more_images_is_refused() -> None:
    net = Chain(odd=Do(lambda x: x.flatten(1)[:, : 10 + (len(x) > 3)]), after=Do(lambda x: x[:, :5]))
    with pytest.raises(
        MousebenchError, match=r"layer 'odd' gives .* shape \(5, 11\) for 5 images, not 10 features each"
    ):
        reduce(net)


# devices


def test_a_device_is_checked_by_kind_and_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("auto") == torch.device("cuda")
    assert choose_device("cuda:1") == torch.device("cuda:1")
    for name in ("cuda:2", "cuda:x", "xpu", "mps:-1"):
        with pytest.raises(UsageError, match=f"device '{name}' is not available here"):
            choose_device(name)


def test_the_budget_is_what_a_device_has_free(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 0 < memory_budget(torch.device("cpu")) <= 4 * 2**30
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10 * 2**30, 24 * 2**30))
    assert memory_budget(torch.device("cuda:0")) == 8 * 2**30
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: 12 * 2**30)
    monkeypatch.setattr(torch.mps, "driver_allocated_memory", lambda: 2 * 2**30)
    assert memory_budget(torch.device("mps")) == 8 * 2**30


def precisions() -> tuple[Any, ...]:
    backends = torch.backends
    new = [backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn, backends.mkldnn.matmul, backends.mkldnn.conv]
    return (
        *(owner.fp32_precision for owner in new),
        torch.get_float32_matmul_precision(),
        backends.cudnn.benchmark,
        backends.cudnn.deterministic,
    )


@pytest.mark.skipif(not hasattr(torch.backends.cudnn, "conv"), reason="torch before 2.9 has two flags only")
def test_products_are_exact_inside_and_as_they_were_after() -> None:
    seen: set[tuple[Any, ...]] = set()

    def look(x: torch.Tensor) -> torch.Tensor:
        seen.add((*precisions(), torch.backends.cuda.matmul.allow_tf32, torch.is_autocast_enabled("cpu")))
        return x @ x.transpose(2, 3)

    plain = reduce(Do(look))
    torch.set_float32_matmul_precision("medium")
    torch.backends.cudnn.benchmark = True
    try:
        before = precisions()
        with torch.autocast("cpu", torch.bfloat16):
            same(reduce(Do(look)), plain)
        assert precisions() == before
    finally:
        torch.set_float32_matmul_precision("highest")
        torch.backends.cudnn.benchmark = False
    assert seen == {("ieee",) * 5 + ("highest", False, True, False, False)}
