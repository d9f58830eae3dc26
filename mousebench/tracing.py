"""Learn from a few images what the layers of a net are, before all images pass."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from mousebench.errors import ContractViolation, NotDeterministic
from mousebench.layer_names import (
    Selection,
    is_selected,
    items,
    layer_name,
    no_such_layer,
    shape,
    some_of,
    unmatched,
    why_no_layer,
)
from mousebench.lockstep import CallKey, Lockstep, Step

N_FEW = 3
_SAMPLE = 4096  # features of an image that are remembered, to know it again
_ROUNDING = (
    1e-5  # relative difference of features between two passes of the same images; libraries may round differently
)

_Key = tuple[str, int, str]  # module path, number of the call, item of its output
_Seen = tuple[int, int, bytes, np.ndarray]  # axis, width, digest, sample


@dataclass(frozen=True, eq=False)
class Call:
    """One tensor that one call of one module gives: a layer.

    Attributes
    ----------
    path, call, item : where it comes from
    name : str
        What the layer is called.
    axis : int
        Which of its axes counts images.
    width : int
        Features an image.
    digest : bytes
        Of all elements for the few images.
    sample : float (image, feature)
        Some features of the few images.
    """

    path: str
    call: int
    item: str
    name: str
    axis: int
    width: int
    digest: bytes
    sample: np.ndarray


@dataclass(frozen=True)
class Trace:
    """What a net does with a few images.

    Attributes
    ----------
    calls : tuple of Call
        The layers, in order of execution.
    skipped : mapping of name to reason
        What is no layer.
    late : collection of (path, call)
        Calls whose output stays as it is until the next module begins.
    """

    calls: tuple[Call, ...]
    skipped: Mapping[str, str]
    late: Collection[CallKey]

    def layers_of(self, step: Step) -> Iterator[tuple[Call, list[Any]]]:
        """Yield the layers of a step, each with what all batches give for it; None where one gives nothing."""
        gives = [dict(items(output)) for output in step.outputs]
        for call in self._by_key.get((step.path, step.call), ()):
            yield call, [given.get(call.item) for given in gives]

    @cached_property
    def _by_key(self) -> Mapping[CallKey, list[Call]]:
        found: dict[CallKey, list[Call]] = {}
        for call in self.calls:
            found.setdefault((call.path, call.call), []).append(call)
        return found


def trace(few: torch.Tensor, lockstep: Callable[[], Lockstep], selection: Selection) -> Trace:
    """Pass two images, three, and the three again: see what grows with them, and whether it is the same again.

    Parameters
    ----------
    few : float (image, channel, height, width)
        Three images, as the net wants them.
    lockstep : callable
        Gives the net with fresh hooks.
    selection : None, "blocks" or tuple of str
        Which layers are asked for.

    Raises
    ------
    NetFailed
        If the net's code raises.
    ContractViolation
        If the net runs other layers for another number of images, is not deterministic, or has no layer.
    """
    shapes: dict[_Key, tuple[int, ...]] = {}
    reasons: dict[_Key, str] = {}
    found: dict[_Key, _Seen] = {}

    def see_two(step: Step) -> None:
        shapes.update({key: tuple(x.shape) for key, x in _tensors(step) if not why_no_layer(x)})

    def see_three(step: Step) -> None:
        for key, x in _tensors(step):
            reason = why_no_layer(x)
            if reason:
                reasons[key] = reason
                continue
            before = shapes.pop(key, ())
            if not before:
                raise _other_layers(key)
            axes = [axis for axis in range(x.ndim) if x.shape[axis] == N_FEW and before[axis : axis + 1] == (2,)]
            if len(axes) == 1:
                found[key] = axes[0], x.numel() // N_FEW, _digest(x, axes[0]), _samples(x, axes[0])
            else:
                reasons[key] = f"{'no' if not axes else 'more than one'} axis of {shape(x)} counts the images"

    lockstep().run([few[:2]], see_two)
    three = lockstep()
    three.run([few], see_three)
    if shapes:
        raise _other_layers(next(iter(shapes)))
    calls, skipped = _named(found, reasons, selection)
    result = Trace(calls, skipped, frozenset(three.unchanged))

    def see_again(step: Step) -> None:
        for call, (x,) in result.layers_of(step):
            if not _is_same(call, x):
                raise NotDeterministic(
                    f"the net is not deterministic: layer {call.name!r} is the first that differs when the same images pass again",
                    "dropout or noise that stays on in eval mode? functional.dropout needs training=self.training",
                )

    lockstep().run([few], see_again)
    return result


def _tensors(step: Step) -> Iterator[tuple[_Key, Any]]:
    for item, value in items(step.outputs[0]):
        yield (step.path, step.call, item), value


def _named(
    found: Mapping[_Key, _Seen], reasons: Mapping[_Key, str], selection: Selection
) -> tuple[tuple[Call, ...], dict[str, str]]:
    """Return the layers that are asked for, and what is none with the reason, both by name."""
    n_calls = Counter(path for path, _ in {(path, call) for path, call, _ in [*found, *reasons]})
    names = {key: layer_name(*key, n_calls[key[0]]) for key in [*found, *reasons]}
    for pattern in unmatched(selection, ((name, key[0]) for key, name in names.items())):
        if "#" in pattern:
            raise no_such_layer(pattern, list(names.values()))
        raise ContractViolation(f"layer {pattern!r}: no module of that name runs when the net is given images")
    wanted = {key: name for key, name in names.items() if is_selected(name, key[0], selection)}
    calls = tuple(
        Call(path, call, item, wanted[path, call, item], *seen)
        for (path, call, item), seen in found.items()
        if (path, call, item) in wanted
    )
    skipped = {wanted[key]: reason for key, reason in reasons.items() if key in wanted}
    if not calls:
        raise ContractViolation("the net has no layer to score", some_of(skipped))
    return calls, skipped


def _other_layers(key: _Key) -> ContractViolation:
    name = layer_name(*key, 2)
    return ContractViolation(f"the net runs different layers for 2 and for 3 images (first: {name})")


def _digest(tensor: torch.Tensor, axis: int) -> bytes:
    """Return a hash of all elements, image by image."""
    flat = as_float(tensor.detach().movedim(axis, 0)).cpu().contiguous()
    return hashlib.blake2b(flat.numpy().data, digest_size=16).digest()


def as_float(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor in float32, in float64 if that is what it is."""
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()


def sample(tensor: torch.Tensor, axis: int, image: int) -> np.ndarray:
    """Return some features of one image, the same ones each time."""
    features = tensor.detach().select(axis, image)
    if features.ndim == 0:
        features = features[None]
    places = np.unravel_index(np.arange(0, features.numel(), -(-features.numel() // _SAMPLE)), features.shape)
    some = features[tuple(torch.from_numpy(place).to(features.device) for place in places)]
    return np.asarray(as_float(some).reshape(-1).cpu().numpy())


def _samples(tensor: torch.Tensor, axis: int) -> np.ndarray:
    return np.stack([sample(tensor, axis, image) for image in range(N_FEW)])


def _is_same(call: Call, tensor: Any) -> bool:
    """Say whether the few images have the features that they had."""
    if why_no_layer(tensor) or tensor.ndim <= call.axis or tensor.shape[call.axis] != N_FEW:
        return False
    return alike(_samples(tensor, call.axis), call.sample, _ROUNDING)


def alike(a: np.ndarray, b: np.ndarray, tolerance: float) -> bool:
    """Say whether two samples differ by rounding only; those that are not finite are alike."""
    if a.shape != b.shape:
        return False
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return True
    a, b = a.astype(np.float64), b.astype(np.float64)
    # features that are nothing but rounding around 0 never agree: they count as alike below tolerance / 1000
    return bool(np.linalg.norm(a - b) <= tolerance * (np.linalg.norm(b) + 1e-3 * np.sqrt(b.size)))
