"""Published weights: found in torch's cache folder or downloaded into it, and verified."""

from __future__ import annotations

import hashlib
from pathlib import Path
from urllib.parse import urlparse

import torch

from mousebench.errors import MissingData, StoreError
from mousebench.fetching import offline
from mousebench.home import torch_checkpoints


def published_file(model: str, url: str, sha256: str, instead: str, name: str = "") -> Path:
    """Return the path of a published file after comparing it with its hash; downloads it if need be.

    Parameters
    ----------
    model : str
        The identifier that needs it.
    url : str
        Where it was published.
    sha256 : str
        The file's hash, or how it starts.
    instead : str
        The identifier of a model that needs no weights.
    name : str, optional
        The file's name; by default the last part of its address.

    Raises
    ------
    MissingData
        If the file is not there and cannot be downloaded.
    StoreError
        If it is not what was published.
    """
    path = torch_checkpoints() / (name or Path(urlparse(url).path).name)
    if not path.is_file():
        _download(model, url, sha256, path, f"put the file there, or score {instead!r}, which needs no weights")
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}") from error
    if not found.startswith(sha256):
        raise StoreError(
            f"{path} ({path.stat().st_size} bytes) is damaged: its sha256 does not start with {sha256}",
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
