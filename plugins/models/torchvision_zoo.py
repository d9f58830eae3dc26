"""torchvision's classification nets, each with ImageNet weights and untrained.

``NAME`` has the weights of the paper (``IMAGENET1K_V1``) where the paper scored it, torchvision's default ones otherwise,
and the paper's preprocessing, a square resize to the net's input size without crop; ``NAME@crop`` the weights' own
transform; ``NAME-random`` is the same net untrained, seed 0, ``NAME-random@3`` seed 3.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from mousebench import Spec, hookimpl
from mousebench.specs import seed_of
from mousebench_plugins.models._torchvision_nets import NETS, Net
from mousebench_plugins.models._variants import is_crop


@hookimpl
def mousebench_models() -> Iterable[Spec]:
    """Declare every net, trained and untrained."""
    for name, net in NETS.items():
        known = {
            "parameters": net.parameters,
            "depth": net.depth,
            "layers": net.layers,
            "input_size": f"{net.pixels} x {net.pixels}",
        }
        yield Spec(
            name,
            load=partial(load, name),
            description="torchvision, ImageNet weights; @crop: their own transform",
            metadata={**known, "weights_name": net.weights, "training": _training(net)},
            architecture=partial(load_architecture, name),
            missing=partial(missing, net.file),
        )
        yield Spec(
            f"{name}-random",
            load=partial(load_random, name),
            description="torchvision, untrained, seed 0; @K: seed K",
            metadata={**known, "training": "none"},
        )


def _training(net: Net) -> str:
    imagenet = "ImageNet-1k classification"
    return f"hashtags of Instagram images (SWAG), then {imagenet}" if "SWAG" in net.weights else imagenet


def missing(file: str) -> str:
    """Say whether a weights file is not on this machine yet."""
    from mousebench.home import torch_checkpoints

    return "" if (torch_checkpoints() / file).is_file() else "weights"


def load(name: str, variant: str | None = None):
    """Return a net with its ImageNet weights.

    Raises
    ------
    MissingData
        If the weights file is not on this machine and cannot be downloaded.
    """
    from mousebench_plugins.models._torchvision import trained

    return trained(name, crop=is_crop(name, variant))


def load_architecture(name: str, variant: str | None = None):
    """Return the same net and preprocessing untrained, for weights from elsewhere."""
    from mousebench_plugins.models._torchvision import untrained

    return untrained(name, crop=is_crop(name, variant))


def load_random(name: str, variant: str | None = None):
    """Return an untrained net; the variant is its seed."""
    from mousebench_plugins.models._torchvision import untrained

    return untrained(name, seed_of(f"{name}-random", variant))
