"""Any model that timm lists, as ``timm/NAME``; needs the extra ``mousebench[timm]``.

Weights, input size and normalisation are timm's for that name and tag, the images are squashed to the input size as in the
paper; ``timm/NAME@crop`` has timm's own evaluation transform. ``timm/NAME-random`` is the net untrained, seed 0,
``timm/NAME-random@3`` seed 3.
"""

from __future__ import annotations

from collections.abc import Iterable

from mousebench import Spec, hookimpl
from mousebench.specs import seed_of
from mousebench_plugins.models._variants import is_crop

_UNTRAINED = "-random"


@hookimpl
def mousebench_models() -> Iterable[Spec]:
    """Declare the family."""
    return [
        Spec(
            "timm",
            load=load,
            description="any model that timm lists, as timm/resnet50.a1_in1k; NAME-random: untrained, @crop: timm's transform",
            architecture=load_architecture,
            missing=missing,
            family=True,
        )
    ]


def missing() -> str:
    """Say whether timm is not installed; whether the weights of a net are there is known only by its name."""
    from importlib.util import find_spec

    return "weights" if find_spec("timm") else "package timm"


def load(name: str, variant: str | None = None):
    """Return a net as timm trained it, or untrained.

    Raises
    ------
    MissingDependency
        If timm is not installed.
    UnknownIdentifier
        If timm has no such model, or that model no such variant.
    MissingData
        If its weights are not on this machine and cannot be downloaded.
    """
    return _build(name, variant, pretrained=True)


def load_architecture(name: str, variant: str | None = None):
    """Return the same net and preprocessing untrained, for weights from elsewhere."""
    return _build(name, variant, pretrained=False)


def _build(name: str, variant: str | None, *, pretrained: bool):
    from mousebench_plugins.models._timm import trained, untrained

    if name.endswith(_UNTRAINED):
        return untrained(name.removesuffix(_UNTRAINED), seed_of(f"timm/{name}", variant))
    crop = is_crop(f"timm/{name}", variant)
    return trained(name, crop=crop) if pretrained else untrained(name, crop=crop)
