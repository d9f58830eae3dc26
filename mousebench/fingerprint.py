"""Say what a torch net is, the same in every process: its weights, its code and settings, its preprocessing.

What cannot be told is "unknown", and such a model is not cached: a stale representation is worse than a slow one.
"""

from __future__ import annotations

import hashlib
import inspect
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

_BARE_MODULE = frozenset(vars(nn.Module()))


def hash_weights(module: nn.Module) -> str:
    """Return the sha256 of all parameters and buffers, with their names and types."""
    digest = hashlib.sha256()
    for kind in (module.named_parameters(), module.named_buffers()):
        for name, tensor in kind:
            flat = tensor.detach().cpu().contiguous()
            digest.update(f"{name} {tuple(flat.shape)} {flat.dtype}\n".encode())
            digest.update(flat.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def hash_architecture(module: nn.Module) -> str:
    """Hash how the net is put together: its parts with their settings, and the source of its own classes and functions.

    torch's own source is in torch's version.
    """
    digest = hashlib.sha256(str(module).encode())
    for path, part in module.named_modules():
        settings = _settings(part)
        if settings is None:
            return "unknown"
        digest.update(f"{path}\n".encode() + settings)
    for cls in sorted({type(part) for part in module.modules()}, key=lambda c: (c.__module__, c.__qualname__)):
        if cls.__module__.partition(".")[0] == "torch":
            continue
        source = _source_of(cls)
        if source is None:
            return "unknown"
        digest.update(f"{cls.__module__}.{cls.__qualname__}\n".encode() + source)
    return digest.hexdigest()


def _source_of(thing: Any) -> bytes | None:
    """Return the file that defines a class or function, its own source where there is no file, else None."""
    file = getattr(sys.modules.get(thing.__module__), "__file__", None)
    if file and Path(file).is_file():
        return Path(file).read_bytes()
    try:
        return inspect.getsource(thing).encode()
    except (OSError, TypeError):
        return None


def _settings(thing: Any) -> bytes | None:
    """Return the plain attributes of an object as bytes, None where one cannot be told; a repr seldom shows all."""
    told = [(name, _told(value)) for name, value in sorted(vars(thing).items()) if name not in _BARE_MODULE]
    return None if any(value is None for _, value in told) else repr(told).encode()


def _told(value: Any) -> str | None:
    """Return what a value is, the same in every process, or None."""
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().numpy()
    if isinstance(value, np.ndarray) and value.dtype != object:
        return f"{value.dtype} {value.shape} {hashlib.sha256(np.ascontiguousarray(value).data).hexdigest()}"
    if isinstance(value, nn.Module):
        parts = hash_architecture(value), hash_weights(value)
        return None if "unknown" in parts else repr(parts)
    if inspect.isbuiltin(value) or (inspect.isfunction(value) and str(value.__module__).startswith("torch.")):
        return f"{value.__module__}.{value.__qualname__}"
    if inspect.isfunction(value):
        text = describe(value)
        return None if text == "unknown" else text
    text = repr(value)
    return None if " at 0x" in text else text


def describe(preprocess: Any) -> str:
    """Say what preprocessing does, from its steps, their settings and their source; "unknown" where one cannot be told."""
    kind = type(preprocess)
    torchvision = kind.__module__.startswith("torchvision.transforms.")
    steps: list[Any] = []
    if torchvision and kind.__name__ in ("Compose", "Lambda"):
        steps = preprocess.transforms if kind.__name__ == "Compose" else [preprocess.lambd]
    if steps:
        parts = [describe(step) for step in steps]
        return "unknown" if "unknown" in parts else f"{kind.__name__}({', '.join(parts)})"
    text = repr(preprocess)
    if torchvision:  # a Lambda deeper inside does not show what it does
        return "unknown" if " at 0x" in text or "Lambda(" in text else text
    function = inspect.isfunction(preprocess)
    if (preprocess if function else kind).__module__ == "__main__":
        return "unknown"
    source = _source_of(preprocess if function else kind)
    if function:
        cells = [cell.cell_contents for cell in preprocess.__closure__ or ()]
        defaults = [*(preprocess.__defaults__ or ()), *(preprocess.__kwdefaults__ or {}).items()]
        told = [_told(value) for value in defaults + cells]
        held = None if None in told else repr(told).encode()
    elif isinstance(preprocess, nn.Module):
        held = (_told(preprocess) or "").encode() or None
    else:
        held = (
            _settings(preprocess) if hasattr(preprocess, "__dict__") and not isinstance(preprocess, partial) else None
        )
    if source is None or held is None:
        return "unknown"
    name = preprocess.__qualname__ if function else kind.__qualname__
    return f"{name} {hashlib.sha256(source + held).hexdigest()}"
