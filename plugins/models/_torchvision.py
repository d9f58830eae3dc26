"""Build torchvision's nets: untrained under a seed of their own, or from the weights file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import nn
from torchvision import models

from mousebench import TorchModel
from mousebench.checkpoints import fill, read_state_dict
from mousebench.errors import MissingDependency
from mousebench_plugins.models._preprocess import squash
from mousebench_plugins.models._torchvision_nets import NETS, Net
from mousebench_plugins.models._weights import published_file

_OLD_DENSE = re.compile(r"(denselayer\d+\.(?:norm|conv))\.(?=[12]\.)")


def untrained(name: str, seed: int = 0, *, crop: bool = False) -> TorchModel:
    """Return a net with the weights that its constructor draws under a seed; the same in every process."""
    net = NETS[name]
    weights = _weights(net)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = models.get_model(name, weights=None, **_options(net))
    if name.startswith("densenet"):
        module.register_load_state_dict_pre_hook(_rename_old_dense)
    own = weights.transforms()
    return TorchModel(module, own if crop else squash((net.pixels, net.pixels), own.mean, own.std))


def trained(name: str, *, crop: bool = False) -> TorchModel:
    """Return a net with its ImageNet weights, with the paper's preprocessing or the weights' own."""
    net = NETS[name]
    url = _weights(net).url
    # the end of the file's name is the start of its sha256
    path = published_file(name, url, Path(net.file).stem.rpartition("-")[2], f"{name}-random", net.file)
    model = untrained(name, crop=crop)
    fill(model.module, read_state_dict(path), path.name)
    return model


def _weights(net: Net) -> Any:
    """Return torchvision's entry for the weights of a net; to have it, no file is needed."""
    try:
        return models.get_model_weights(net.name)[net.weights]
    except (ValueError, KeyError) as error:
        raise MissingDependency(
            f"torchvision {torchvision.__version__} has no {net.name!r} with weights {net.weights}",
            "install a torchvision that has it, or score a net that this one has",
        ) from error


def _options(net: Net) -> dict[str, Any]:
    """Return what the constructor must be told so that the untrained net is the trained one but for its weights."""
    if net.name in ("googlenet", "inception_v3"):
        # the weights hold the heads that only training uses, and want inputs scaled their own way; told what draws
        # the weights, the constructor does not warn that this may change
        return {"aux_logits": True, "transform_input": True, "init_weights": True}
    return {"image_size": net.pixels} if net.name.startswith("vit_") else {}


def _rename_old_dense(_module: nn.Module, state: dict[str, Any], *_: Any) -> None:
    """Rename the tensors of a densenet as today's net calls them: the published files are of before."""
    for key in list(state):
        state[_OLD_DENSE.sub(r"\1", key)] = state.pop(key)
