"""A model as core uses it: a torch module made into one, and every layer reduced to its Gram. numpy only, until a net comes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from mousebench.errors import ContractViolation, MousebenchError, PluginBroken, did_you_mean
from mousebench.interfaces import Model
from mousebench.linalg import gram
from mousebench.progress import Progress
from mousebench.reduction import Reduction, Reductions


def as_model(model: Any) -> Model:
    """Return a torch module as a TorchModel, a Model as it is.

    Raises
    ------
    ContractViolation
        If it is neither.
    """
    # the class is asked first: to ask a TorchModel itself for its layers is to run the net
    if all(hasattr(type(model), name) or hasattr(model, name) for name in ("layers", "fingerprint", "activations")):
        found: Model = model
        return found
    from torch import nn

    if isinstance(model, nn.Module):
        from mousebench.torch_model import TorchModel

        return TorchModel(model)
    raise ContractViolation(
        f"{type(model).__name__} is neither a torch.nn.Module nor a Model",
        "a Model has layers, fingerprint and activations(images, layers)",
    )


def in_colour(values: np.ndarray) -> np.ndarray:
    """Return uint8 (image, height, width, 3) from images in grey or in colour."""
    return values if values.ndim == 4 else np.broadcast_to(values[..., None], (*values.shape, 3))


def reduce(model: Model, images: np.ndarray, device: str, progress: Progress) -> Reductions:
    """Return every layer of a model reduced to its Gram; the model does it as it goes, or its activations are.

    Raises
    ------
    ContractViolation, PluginBroken
        As ``get``.
    """
    stream = getattr(model, "reduce", None)
    if stream is not None:
        reductions: Reductions = stream(images, device=device, progress=progress)
        return reductions
    layers = list(model.layers)
    if not layers:
        raise ContractViolation("the model has no layers")
    for layer, count in Counter(layers).items():
        if count > 1:
            raise ContractViolation(f"the model lists its layer {layer!r} more than once")
    progress.start("layers", len(layers))
    try:
        activations: Mapping[str, Any] = model.activations(images, layers)
        found = []
        for layer in layers:
            found.append(_reduce_array(layer, activations, len(images)))
            progress.advance(1)
    except MousebenchError:
        raise
    except (Exception, SystemExit) as error:
        text = " ".join(str(error).split())
        raise PluginBroken(
            f"the model's activations fail: {type(error).__name__}: {text}", "--debug shows where"
        ) from error
    finally:
        progress.finish()
    return _without_duplicates(found)


def _reduce_array(layer: str, activations: Mapping[str, Any], n_images: int) -> Reduction:
    try:
        features = np.asarray(activations[layer])
    except KeyError as error:
        guess = did_you_mean(layer, map(str, activations))
        raise ContractViolation(f"the model gives no activations for its layer {layer!r}{guess}") from error
    if features.ndim != 2 or len(features) != n_images or features.shape[1] == 0 or features.dtype.kind not in "fiu":
        raise ContractViolation(
            f"layer {layer!r} gives {features.dtype} activations of shape {features.shape} for {n_images} images; "
            f"float ({n_images}, features) is expected"
        )
    step = 4096
    return Reduction(layer, *gram(features[:, start : start + step] for start in range(0, features.shape[1], step)))


def _without_duplicates(found: list[Reduction]) -> Reductions:
    kept: list[Reduction] = []
    duplicates: dict[str, str] = {}
    seen: dict[tuple[int, bytes, bytes], str] = {}
    for layer in found:
        original = seen.setdefault((layer.n_features, layer.feature_sum.tobytes(), layer.gram.tobytes()), layer.name)
        if original == layer.name:
            kept.append(layer)
        else:
            duplicates[layer.name] = original
    return Reductions(kept, duplicates)
