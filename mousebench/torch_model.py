"""Turn a torch module into a Model: every layer reduced to its Gram while the images pass through the net.

The extraction rule (Conwell et al. 2020, their code): every call of every module but ``nn.Sequential`` and
``nn.ModuleList`` is a layer, in order of execution; a layer that equals an earlier one in every element is dropped.
Activations are consumed inside the forward hook, so a later in-place operation cannot change them, and no feature
map outlives its layer.
"""

from __future__ import annotations

import contextlib
import difflib
import fnmatch
import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any

# torch reads this at its first allocation. Layers of all images are hundreds of MB; with ordinary pages the kernel
# spends as long handing them out as the net spends computing (resnet18, 118 images, 2 cores: 4.3 s against 2.4 s).
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

import numpy as np
import torch
from PIL import Image
from torch import nn
from torchvision import transforms

from mousebench.collector import Call, Collector, one_blas_thread_each
from mousebench.errors import ContractViolation, PluginBroken, UsageError
from mousebench.fingerprint import describe, hash_architecture, hash_weights
from mousebench.progress import Progress, Silent
from mousebench.reduction import Reductions

EXTRACTION = 1  # raised when the same net and images would give other numbers
ROOT = "(root)"
MEMORY_BUDGET = 6 * 2**30
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_CONTAINERS = (nn.Sequential, nn.ModuleList)
_LIVE = 4  # copies of the widest layer alive at once: input, output, what the convolution rearranges


def paper_preprocess(size: int = 224) -> Callable[[Image.Image], torch.Tensor]:
    """Return the paper's preprocessing: a square squash without crop, ImageNet normalisation."""
    squash: Callable[[Image.Image], torch.Tensor] = transforms.Compose(
        [
            transforms.Resize((size, size), antialias=True),
            transforms.ToTensor(),
            transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )
    return squash


_Key = tuple[str, int, str]  # module path, number of the call, item of its output


@dataclass(frozen=True)
class _Trace:
    """What a net does with a few images."""

    calls: tuple[Call, ...]
    skipped: Mapping[str, str]
    memory_format: torch.memory_format


class TorchModel:
    """A torch module as a mousebench Model.

    Parameters
    ----------
    module : torch.nn.Module
        Put into eval mode while it runs, and back afterwards.
    preprocess : callable, optional
        A PIL image (RGB) in, a (channel, height, width) tensor out; None is ``paper_preprocess()``.
    layers : sequence of str, optional
        Names of layers or modules, or globs over them; None is every module call but containers.
    memory_budget : int
        Bytes that the activations may take; where one forward pass over all images would take more, the images go
        through in pairs of blocks. It bounds the memory, the numbers agree to float32 rounding.

    Raises
    ------
    ContractViolation
        If ``module`` is no module, a layer does not exist, or preprocessing gives no tensors of one shape.
    """

    def __init__(
        self,
        module: nn.Module,
        preprocess: Callable[[Image.Image], torch.Tensor] | None = None,
        layers: Sequence[str] | None = None,
        *,
        memory_budget: int = MEMORY_BUDGET,
    ) -> None:
        if not isinstance(module, nn.Module):
            raise ContractViolation(f"{module!r} is not a torch.nn.Module")
        if isinstance(layers, str):
            raise ContractViolation(f"layers is the string {layers!r}; a list of names is expected")
        self.module = module
        self.preprocess = paper_preprocess() if preprocess is None else preprocess
        self.selection = None if layers is None else tuple(layers)
        self.memory_budget = memory_budget
        self._modules = self._hooked_modules()

    def _hooked_modules(self) -> dict[str, nn.Module]:
        """Return path -> module of all modules to hook; containers only where they are asked for by name."""
        every = {path or ROOT: module for path, module in self.module.named_modules()}
        leaves = {path: module for path, module in every.items() if not isinstance(module, _CONTAINERS)}
        if self.selection is None:
            return leaves
        chosen: dict[str, nn.Module] = {}
        for pattern in self.selection:
            path = pattern.partition("#")[0]
            named = {name: every[name] for name in every if name == path}
            named = named or {name: leaves[name] for name in leaves if fnmatch.fnmatchcase(name, path)}
            if not named:
                raise _no_such_layer(pattern, every)
            chosen.update(named)
        return {path: module for path, module in every.items() if path in chosen}

    @cached_property
    def layers(self) -> Sequence[str]:
        """Names of all layers in order of execution, before equal ones are dropped."""
        noise = np.random.default_rng(0).integers(0, 256, (3, 256, 256, 3), dtype=np.uint8)
        return tuple(call.name for call in self._trace(noise, torch.device("cpu")).calls)

    @property  # not kept: a net may be trained on between two scores
    def fingerprint(self) -> Mapping[str, str]:
        """All that changes the numbers; a part that cannot be resolved is "unknown", and is then not cached."""
        return {
            "weights": hash_weights(self.module),
            "architecture": hash_architecture(self.module),
            "preprocess": describe(self.preprocess),
            "layers": "all" if self.selection is None else json.dumps(self.selection),
            "extraction": str(EXTRACTION),
        }

    def activations(self, images: np.ndarray, layers: Sequence[str]) -> Mapping[str, np.ndarray]:
        """Return float32 (image, feature) of some layers; all in memory at once, which ``reduce`` avoids."""
        wanted = set(layers)
        found: dict[str, np.ndarray] = {}

        def keep(call: Call, features: torch.Tensor) -> None:
            if call.name in wanted:
                flat = features.detach().movedim(call.axis, 0).reshape(len(images), -1)
                found[call.name] = flat.to("cpu", torch.float32, copy=True).numpy()

        device = torch.device("cpu")
        trace = self._trace(images, device)
        for name in layers:
            if name not in {call.name for call in trace.calls}:
                raise _no_such_layer(name, [call.name for call in trace.calls])
        self._forward(self._prepare(images), trace, keep, device)
        return {name: found[name] for name in layers}

    def reduce(self, images: np.ndarray, *, device: str = "auto", progress: Progress | None = None) -> Reductions:
        """Reduce every layer to its Gram and sums in one forward pass over the images.

        Parameters
        ----------
        images : uint8 (image, height, width, 3)
        device : {"auto", "cpu", "cuda", "mps"}
        progress : Progress, optional

        Returns
        -------
        Reductions
            Layers in order of execution, equal ones once.

        Raises
        ------
        ContractViolation
            If preprocessing or the net does not give what a model must.
        PluginBroken
            If the net's own code fails.
        """
        where = choose_device(device)
        trace = self._trace(images, where)
        blocks = self._blocks(trace, len(images))
        pairs = [tuple(blocks)] if len(blocks) < 3 else list(combinations(blocks, 2))
        progress = progress or Silent()
        progress.start("layers", len(trace.calls) * len(pairs))
        batch = self._prepare(images)
        collector = Collector(len(images), progress)
        with one_blas_thread_each() as pool:
            for pair in pairs:
                index = np.concatenate(pair)
                collector.begin(index)
                self._forward(batch[index], trace, lambda call, x: collector.add(call, x, pool), where)
        progress.finish()
        return collector.result(trace.calls, trace.skipped, device_name(where))

    def _blocks(self, trace: _Trace, n_images: int) -> list[np.ndarray]:
        """Split the images so that any two blocks fit the budget; one block where all fit."""
        widest = max(call.width for call in trace.calls)
        fit = max(2, int(self.memory_budget / (_LIVE * 4 * widest)))
        if fit >= n_images:
            return [np.arange(n_images)]
        return np.array_split(np.arange(n_images), -(-n_images // (fit // 2)))

    def _prepare(self, images: np.ndarray) -> torch.Tensor:
        """Return the float input (image, channel, height, width)."""
        tensors: list[torch.Tensor] = []
        for number, image in enumerate(images):
            try:
                tensor = self.preprocess(Image.fromarray(np.ascontiguousarray(image)))
            except (Exception, SystemExit) as error:
                raise PluginBroken(f"preprocessing fails on image {number}: {type(error).__name__}: {error}") from error
            if not isinstance(tensor, torch.Tensor) or tensor.ndim != 3 or not tensor.is_floating_point():
                raise ContractViolation(
                    f"preprocessing gives {_shape(tensor)} for image {number}; a float (channel, height, width) tensor is expected"
                )
            if tensors and tensor.shape != tensors[0].shape:
                raise ContractViolation(
                    f"preprocessing gives {_shape(tensor)} for image {number} and {_shape(tensors[0])} for image 0"
                )
            tensors.append(tensor)
        return torch.stack(tensors)

    def _trace(self, images: np.ndarray, device: torch.device) -> _Trace:
        """Pass two and three images, and see which axis of which output grows with them.

        On a CPU, convolutions run up to twice as fast with channels last; a net whose code does not allow that (it
        calls ``view`` on what it thinks contiguous) fails here and gets its images the other way.
        """
        few = self._prepare(images[np.arange(3) % len(images)])
        if device.type == "cpu":
            with contextlib.suppress(PluginBroken):
                return self._try_trace(few, device, torch.channels_last)
        return self._try_trace(few, device, torch.contiguous_format)

    def _try_trace(self, few: torch.Tensor, device: torch.device, memory_format: torch.memory_format) -> _Trace:
        shapes: dict[_Key, tuple[int, ...]] = {}
        seen: dict[_Key, tuple[list[int], int, bytes, str]] = {}
        skipped: dict[str, str] = {}

        def see_two(path: str, call: int, output: Any) -> None:
            shapes.update({(path, call, item): tuple(x.shape) for item, x in _tensors(output) if _is_layer(x)})

        def see_three(path: str, call: int, output: Any) -> None:
            for item, x in _tensors(output):
                if not _is_layer(x):
                    skipped[_layer_name(path, call, item, 2)] = f"its output is {_shape(x)}, not a float tensor"
                    continue
                before = shapes.get((path, call, item), ())
                axes = [axis for axis in range(x.ndim) if x.shape[axis] == 3 and before[axis : axis + 1] == (2,)]
                width, digest = _digest(x, axes[0]) if len(axes) == 1 else (0, b"")
                seen[path, call, item] = axes, width, digest, _shape(x)

        self._run(few[:2], see_two, device, memory_format)
        self._run(few, see_three, device, memory_format)
        if shapes.keys() != seen.keys():
            odd = sorted(map(str, shapes.keys() ^ seen.keys()))[0]
            raise ContractViolation(f"the net runs different layers for 2 and for 3 images (first: {odd})")
        n_calls = Counter(path for path, call in {(path, call) for path, call, _ in seen})
        names = {key: _layer_name(*key, n_calls[key[0]]) for key in seen}
        for pattern in self.selection or ():
            if "#" in pattern and not any(_name_matches(name, pattern) for name in (*names.values(), *skipped)):
                raise _no_such_layer(pattern, names.values())
        calls = []
        for key, (axes, width, digest, shape) in seen.items():
            name = names[key]
            if len(axes) != 1:
                skipped[name] = f"{'no' if not axes else 'more than one'} axis of {shape} counts the images"
            elif self._selected(name, key[0]):
                calls.append(Call(*key, name, axes[0], width, digest))
        if not calls:
            raise ContractViolation("the net has no layer to score", concat_notes(skipped))
        return _Trace(tuple(calls), skipped, memory_format)

    def _selected(self, name: str, path: str) -> bool:
        if self.selection is None:
            return True
        return any(path == p or fnmatch.fnmatchcase(path, p) or _name_matches(name, p) for p in self.selection)

    def _forward(
        self,
        batch: torch.Tensor,
        trace: _Trace,
        consume: Callable[[Call, torch.Tensor], None],
        device: torch.device,
    ) -> None:
        """Pass images through the net and hand each layer's (image, feature) to ``consume`` as it appears."""
        expected = {(call.path, call.call, call.item): call for call in trace.calls}

        def see(path: str, call: int, output: Any) -> None:
            for item, tensor in _tensors(output):
                layer = expected.pop((path, call, item), None)
                if layer is None:
                    continue
                if tensor.ndim <= layer.axis or tensor.shape[layer.axis] != len(batch):
                    raise ContractViolation(f"layer {layer.name!r} gives {_shape(tensor)} for {len(batch)} images")
                consume(layer, tensor)

        self._run(batch, see, device, trace.memory_format)
        if expected:
            missing = next(iter(expected.values())).name
            raise ContractViolation(f"layer {missing!r} did not run for all images")

    def _run(
        self,
        batch: torch.Tensor,
        see: Callable[[str, int, Any], None],
        device: torch.device,
        memory_format: torch.memory_format,
    ) -> None:
        """Run the net once, hooked, in eval mode, without gradients, TF32 off; leave it as it was."""
        called: Counter[str] = Counter()

        def hook(path: str) -> Callable[..., None]:
            def on_call(_module: nn.Module, _inputs: Any, output: Any) -> None:
                called[path] += 1
                see(path, called[path] - 1, output)

            return on_call

        with _as_it_was(self.module, device), torch.no_grad(), _full_float32():
            handles = [module.register_forward_hook(hook(path)) for path, module in self._modules.items()]
            try:
                self.module(batch.to(device).contiguous(memory_format=memory_format))
            except ContractViolation:
                raise
            except (Exception, SystemExit) as error:
                text = " ".join(str(error).split())
                raise PluginBroken(f"the net fails on {len(batch)} images: {type(error).__name__}: {text}") from error
            finally:
                for handle in handles:
                    handle.remove()


def _tensors(output: Any, item: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (item, value) for everything in a module's output; items of nested tuples are joined by dots."""
    if isinstance(output, tuple | list):
        for number, part in enumerate(output):
            yield from _tensors(part, f"{item}.{number}" if item else str(number))
    else:
        yield item, output


def _is_layer(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.is_floating_point() and value.ndim > 0


def _digest(tensor: torch.Tensor, axis: int) -> tuple[int, bytes]:
    """Return the number of features and a hash of all elements, image by image."""
    flat = tensor.detach().movedim(axis, 0).reshape(tensor.shape[axis], -1).float().cpu().contiguous()
    return flat.shape[1], hashlib.blake2b(flat.numpy().data, digest_size=16).digest()


def _layer_name(path: str, call: int, item: str, n_calls: int) -> str:
    """Return ``path``, ``path#call`` where a module is called more than once, ``path#call.item`` for tuples."""
    if item:
        return f"{path}#{call}.{item}"
    return f"{path}#{call}" if n_calls > 1 else path


def _name_matches(name: str, pattern: str) -> bool:
    return name == pattern or fnmatch.fnmatchcase(name, pattern)


def _no_such_layer(name: str, known: Any) -> ContractViolation:
    close = difflib.get_close_matches(name, list(known), n=1)
    guess = f"; closest: {close[0]!r}" if close else ""
    return ContractViolation(
        f"layer {name!r}: no such module{guess}", "layers are dotted module paths, as in named_modules()"
    )


def concat_notes(notes: Mapping[str, str]) -> str:
    """Return the first few of layer -> reason as one line."""
    return "; ".join(f"{layer}: {reason}" for layer, reason in list(notes.items())[:3])


def _shape(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"a {str(value.dtype).removeprefix('torch.')} tensor of shape {tuple(value.shape)}"
    return f"a {type(value).__name__}"


def choose_device(name: str) -> torch.device:
    """Return the device of a name; "auto" is cuda where there is one, else cpu."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not available.get(name.partition(":")[0], False):
        raise UsageError(
            f"device {name!r} is not available here",
            f"one of: auto, {', '.join(d for d, there in available.items() if there)}",
        )
    return torch.device(name)


def device_name(device: torch.device) -> str:
    """Return what computes, for the record."""
    if device.type == "cuda":
        return f"cuda, {torch.cuda.get_device_name(device)}"
    return f"{device.type}, {torch.get_num_threads()} threads" if device.type == "cpu" else device.type


@contextlib.contextmanager
def _as_it_was(module: nn.Module, device: torch.device) -> Iterator[None]:
    """Put a module on a device and in eval mode; afterwards put both back."""
    training = {part: part.training for part in module.modules()}
    home = next((tensor.device for tensor in [*module.parameters(), *module.buffers()]), device)
    module.eval()
    if home != device:
        module.to(device)
    try:
        yield
    finally:
        if home != device:
            module.to(home)
        for part, mode in training.items():
            part.training = mode


@contextlib.contextmanager
def _full_float32() -> Iterator[None]:
    """Switch off TF32, which rounds products to 10 bits."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = False
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before
