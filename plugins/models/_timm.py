"""Build timm's nets: untrained under a seed of their own, or with weights that timm itself finds or downloads."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from mousebench import TorchModel
from mousebench.catalogue import cause_of
from mousebench.errors import MissingData, MissingDependency, UnknownIdentifier, did_you_mean
from mousebench.fetching import offline
from mousebench.home import torch_checkpoints
from mousebench_plugins.models._preprocess import squash


def untrained(name: str, seed: int = 0, *, crop: bool = False) -> TorchModel:
    """Return a net with the weights that its constructor draws under a seed; the same in every process."""
    timm = _timm()
    _check_known(timm, name)
    return _as_model(timm, _create(timm, name, seed, pretrained=False), crop)


def trained(name: str, *, crop: bool = False) -> TorchModel:
    """Return a net with its weights, with the paper's preprocessing or timm's own for evaluation."""
    timm = _timm()
    _check_known(timm, name)
    hint = f"score 'timm/{name}-random', which needs no weights, or load it once where there is a network"
    config = timm.get_pretrained_cfg(name)
    if config is None or not config.has_weights:
        raise MissingData(f"timm {timm.__version__} knows of no weights for {name!r}", hint)
    if offline() and not config.hf_hub_id and not (torch_checkpoints() / config.url.rpartition("/")[2]).is_file():
        raise MissingData(f"the weights of 'timm/{name}' are missing: {config.url} (offline)", hint)
    try:
        with _hub():
            module = _create(timm, name, 0, pretrained=True)
    except Exception as error:  # no network, no such file on the hub, a damaged file: many kinds
        raise MissingData(f"the weights of 'timm/{name}' cannot be loaded: {cause_of(error)}", hint) from error
    return _as_model(timm, module, crop)


def _timm() -> Any:
    try:
        import timm
        import timm.data
    except ImportError as error:
        raise MissingDependency(
            f"models of timm need the package timm: {error}", "pip install 'mousebench[timm]'"
        ) from error
    return timm


def _check_known(timm: Any, name: str) -> None:
    known = {*timm.list_models(), *timm.list_models(pretrained=True)}  # plain names, and those with a tag
    if name not in known:
        guess = did_you_mean(f"timm/{name}", sorted(f"timm/{other}" for other in known), 3)
        raise UnknownIdentifier(
            f"timm {timm.__version__} has no model {name!r}{guess}", "timm.list_models() shows all, in Python"
        )


def _create(timm: Any, name: str, seed: int, *, pretrained: bool) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module: nn.Module = timm.create_model(name, pretrained=pretrained)
        return module


def _as_model(timm: Any, module: nn.Module, crop: bool) -> TorchModel:
    config = timm.data.resolve_data_config({}, model=module)
    if crop:
        return TorchModel(module, timm.data.create_transform(**config))
    return TorchModel(module, squash(tuple(config["input_size"][1:]), config["mean"], config["std"]))


@contextlib.contextmanager
def _hub() -> Iterator[None]:
    """Keep timm's loading from the network where --offline is set, and from unpickling anything but tensors."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE, os.environ.get("TORCH_FORCE_WEIGHTS_ONLY_LOAD")
    constants.HF_HUB_OFFLINE = before[0] or offline()
    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before[0]
        if before[1] is None:
            del os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"]
        else:
            os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = before[1]
