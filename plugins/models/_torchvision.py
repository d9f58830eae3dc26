"""Build torchvision nets: untrained under a seed of their own, or from the weights file."""

from __future__ import annotations

import hashlib
from pathlib import Path
from urllib.parse import urlparse

import torch
from torchvision import models

from mousebench import TorchModel
from mousebench.errors import MissingData, StoreError
from mousebench.fetching import offline


def untrained(name: str, seed: int) -> TorchModel:
    """Return a net with the weights that its constructor draws under a seed; the same in every process."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return TorchModel(models.get_model(name, weights=None))


def trained(name: str, *, crop: bool) -> TorchModel:
    """Return a net with its ImageNet weights, with the paper's preprocessing or the weights' own."""
    weights = models.get_model_weights(name)["IMAGENET1K_V1"]
    net = models.get_model(name, weights=None)
    net.load_state_dict(_state_dict(name, weights.url))
    return TorchModel(net, preprocess=weights.transforms() if crop else None)


def _state_dict(name: str, url: str) -> dict[str, torch.Tensor]:
    file = Path(urlparse(url).path).name
    path = Path(torch.hub.get_dir(), "checkpoints", file)
    if not path.is_file():
        _download(name, url, path)
    # the end of the file's name is the start of its sha256
    expected = path.stem.rpartition("-")[2]
    if not hashlib.sha256(path.read_bytes()).hexdigest().startswith(expected):
        raise StoreError(
            f"{path} is damaged: its sha256 does not start with {expected}", "delete it, it is downloaded again"
        )
    state: dict[str, torch.Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return state


def _download(name: str, url: str, path: Path) -> None:
    hint = f"put the file there, or score '{name}-random', which needs no weights"
    if offline():
        raise MissingData(
            f"the weights of {name!r} are missing: {path.name}, looked for in {path.parent} (--offline is set)", hint
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), hash_prefix=path.stem.rpartition("-")[2], progress=False)
    except Exception as error:  # no network, a proxy, a full disk: many kinds, one remedy
        raise MissingData(
            f"the weights of {name!r} are missing: {path.name}, looked for in {path.parent}; downloading {url} fails: {error}",
            hint,
        ) from error
