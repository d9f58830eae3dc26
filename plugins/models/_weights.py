"""Published weights: found in torch's cache folder or downloaded into it, verified, read without running anything in them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from torch import nn

from mousebench.errors import MissingData, StoreError
from mousebench.fetching import offline

_SHOWN = 3


def published_file(model: str, url: str, sha256: str, instead: str) -> Path:
    """Return the path of a published file after comparing it with its hash; downloads it if need be.

    Parameters
    ----------
    model : str
        The identifier that needs it.
    url : str
        Where it was published; its last part is the file's name.
    sha256 : str
        The file's hash, or how it starts.
    instead : str
        The identifier of a model that needs no weights.

    Raises
    ------
    MissingData
        If the file is not there and cannot be downloaded.
    StoreError
        If it is not what was published.
    """
    path = Path(torch.hub.get_dir(), "checkpoints", Path(urlparse(url).path).name)
    if not path.is_file():
        _download(model, url, sha256, path, f"put the file there, or score {instead!r}, which needs no weights")
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}") from error
    if not found.startswith(sha256):
        raise StoreError(
            f"{path} ({path.stat().st_size} bytes) is damaged: its sha256 is {found}",
            "delete it, it is downloaded again",
        )
    return path


def _download(model: str, url: str, sha256: str, path: Path, hint: str) -> None:
    missing = f"the weights of {model!r} are missing: {path.name}, looked for in {path.parent}"
    if offline():
        raise MissingData(f"{missing} (--offline is set)", hint)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), hash_prefix=sha256, progress=False)
    except Exception as error:  # no network, a proxy, a full disk, a cut connection: many kinds, one remedy
        raise MissingData(f"{missing}; downloading {url} fails: {error}", hint) from error


def read_state_dict(path: Path) -> Mapping[str, torch.Tensor]:
    """Return the tensors that a torch file holds under ``state_dict``, by name.

    Raises
    ------
    StoreError
        If it cannot be read, or holds anything else but plain values.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch's own words are not passed on: they advise to load without weights_only
        raise StoreError(
            f"{path.name} is refused: it is damaged, or holds more than tensors ({type(error).__name__})",
            "only tensors and plain values are read, nothing in a file is ever run",
        ) from error
    state = content.get("state_dict") if isinstance(content, Mapping) else None
    if not isinstance(state, Mapping):
        raise StoreError(f"{path.name} holds no state dict")
    for key, value in state.items():
        if not isinstance(value, torch.Tensor):
            raise StoreError(f"{path.name} holds no state dict: {key!r} is a {type(value).__name__}, no tensor")
    return state


def fill(net: nn.Module, state: Mapping[str, Any], source: str) -> None:
    """Load a state dict into a net, all of it or an error.

    Raises
    ------
    StoreError
        If tensors are missing, left over or of another shape; names the first few of each.
    """
    own = net.state_dict()
    misshapen = [
        f"{key} {_x(value)}, not {_x(own[key])}"
        for key, value in state.items()
        if key in own and value.shape != own[key].shape
    ]
    if misshapen:  # torch raises here, at great length
        raise StoreError(f"{source} does not fit: {_first(misshapen, 'of another shape')}")
    # torch says what is missing: it knows the counters that files of its early days lack
    missing, unexpected = net.load_state_dict(state, strict=False)
    if missing or unexpected:
        said = [_first(missing, "missing")] * bool(missing) + [_first(unexpected, "not of this net")] * bool(unexpected)
        raise StoreError(f"{source} does not fit: {'; '.join(said)}")


def _x(tensor: torch.Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"


def _first(names: Sequence[str], what: str) -> str:
    return f"{len(names)} {what}: {', '.join([*names[:_SHOWN], *['...'][: len(names) - _SHOWN]])}"
