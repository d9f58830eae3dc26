"""Put weights from a file into a torch net: safetensors, or what ``torch.save`` wrote of a state dict.

Nothing is unpickled but tensors: a file that holds anything else is refused, since loading it would run its code.
"""

from __future__ import annotations

import pickle
import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from torch.nn.modules.utils import consume_prefix_in_state_dict_if_present

from mousebench.errors import MissingData, StoreError

_WRAPPERS = ("state_dict", "model", "model_state_dict")  # what training scripts file a state dict under
_PREFIXES = ("module.", "_orig_mod.")  # of nets that were wrapped for many devices, or compiled
_TORCH = (b"PK\x03\x04", b"\x80\x02")  # a zip archive; before torch 1.6 a pickle of protocol 2
_SHOWN = 3


def read_state_dict(path: Path) -> OrderedDict[str, torch.Tensor]:
    """Return the tensors of a weights file by name.

    A state dict wrapped as ``{"state_dict": ...}`` or ``{"model": ...}`` is unwrapped, and the prefix that
    ``DataParallel`` puts before every name is taken off.

    Parameters
    ----------
    path : Path
        safetensors, or a torch file; which of them is told from the content.

    Raises
    ------
    MissingData
        If there is no such file.
    StoreError
        If it is damaged, holds objects that are no tensors, or is no state dict.
    """
    if not path.is_file():
        raise MissingData(f"there is no weights file {str(path)!r}", "--weights takes a safetensors or torch file")
    with path.open("rb") as file:
        head = file.read(9)
    if head.startswith(_TORCH):
        content = _read_torch(path)
    elif head[8:] == b"{":  # after the length of a JSON header, the header
        content = _read_safetensors(path)
    else:
        raise StoreError(f"{_size(path)} is neither a safetensors nor a torch file")
    state = OrderedDict(_unwrapped(content, path.name))
    if hasattr(content, "_metadata"):  # versions of the modules, which tell them how to read older files
        state._metadata = content._metadata  # type: ignore[attr-defined]
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in state):
            consume_prefix_in_state_dict_if_present(state, prefix)
    return state


def _read_safetensors(path: Path) -> Any:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise _damaged(path, error) from error


def _read_torch(path: Path) -> Any:
    # torch's own words are not passed on: they advise to load without weights_only
    try:
        with path.open("rb") as file:  # opened here, so that the ending of its name says nothing to torch
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # what is cut off fails in many ways
        code = re.search(r"GLOBAL (\S+)", str(error)) if isinstance(error, pickle.UnpicklingError) else None
        what = code[1] if code else "TorchScript program" if "TorchScript" in str(error) else None
        if what is None:
            raise _damaged(path, error) from error
        raise StoreError(
            f"{path.name} is refused: beside tensors it holds a {what}, and to load that would be to run its code",
            "save the state dict alone: torch.save(net.state_dict(), FILE)",
        ) from error


def _damaged(path: Path, error: Exception) -> StoreError:
    return StoreError(f"{_size(path)} is damaged or cut off ({type(error).__name__})", "copy or download it again")


def _size(path: Path) -> str:
    return f"{path.name} ({path.stat().st_size} bytes)"


def _unwrapped(content: Any, name: str) -> Mapping[str, torch.Tensor]:
    while isinstance(content, Mapping):
        inner = next((content[key] for key in _WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        content = inner
    if not isinstance(content, Mapping) or not content:
        raise StoreError(f"{name} holds {'nothing' if content == {} else f'a {type(content).__name__}'}, no state dict")
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, torch.Tensor):
            raise StoreError(
                f"{name} is no state dict: {key!r} is a {type(value).__name__}, no tensor",
                f"a state dict may be wrapped under one of: {', '.join(_WRAPPERS)}",
            )
    return content


def fill(module: nn.Module, state: Mapping[str, torch.Tensor], source: str) -> None:
    """Load a state dict into a net, all of it or an error.

    Parameters
    ----------
    module : torch.nn.Module
        Changed in place; of no use after an error.
    state : mapping of name to Tensor
    source : str
        Where it comes from, for the error.

    Raises
    ------
    StoreError
        If tensors are missing, left over, or of another shape; counts them and names the first few of each. Batch
        norm's counters of batches may be missing: nothing is computed with them.
    """
    own = module.state_dict()
    shapes = {name: (value.shape, own[name].shape) for name, value in state.items() if name in own}
    misshapen = {name: f"{name} {_x(a)}, not {_x(b)}" for name, (a, b) in shapes.items() if a != b}
    fitting = OrderedDict((name, value) for name, value in state.items() if name not in misshapen)
    # a net whose versions are told apart (mnasnet) is taken to be of today's where the file does not say
    versions = getattr(state, "_metadata", {"": own._metadata[""]})  # type: ignore[attr-defined]
    fitting._metadata = versions  # type: ignore[attr-defined]
    outcome = module.load_state_dict(fitting, strict=False)
    missing = [
        name for name in outcome.missing_keys if name not in misshapen and not name.endswith("num_batches_tracked")
    ]
    troubles = {
        "missing": missing,
        "not of this net": outcome.unexpected_keys,
        "of another shape": list(misshapen.values()),
    }
    if any(troubles.values()):
        said = "; ".join(f"{len(names)} {what}: {_first(names)}" for what, names in troubles.items() if names)
        raise StoreError(
            f"{source} does not fit {type(module).__name__}, which has {len(own)} tensors: {said}",
            "is it of another architecture, or of another number of classes?",
        )


def _x(shape: torch.Size) -> str:
    return "x".join(map(str, shape)) or "scalar"


def _first(names: Sequence[str]) -> str:
    return ", ".join([*names[:_SHOWN], "..."] if len(names) > _SHOWN else names)
