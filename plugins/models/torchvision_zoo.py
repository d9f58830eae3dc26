"""torchvision's classification nets, each with ImageNet weights and untrained.

``NAME`` has the weights of the paper (``IMAGENET1K_V1``) and the paper's preprocessing, ``NAME@crop`` the weights' own
transform; ``NAME-random`` is the same net untrained, seed 0, ``NAME-random@3`` seed 3.
"""

from __future__ import annotations

from functools import partial

from mousebench import Spec, hookimpl

NETS = ("alexnet", "resnet18", "squeezenet1_0")


@hookimpl
def mousebench_models():
    """Declare every net, trained and untrained."""
    for name in NETS:
        yield Spec(
            name, load=partial(load, name), description="torchvision, ImageNet weights; @crop: their own transform"
        )
        yield Spec(
            f"{name}-random", load=partial(load_random, name), description="torchvision, untrained, seed 0; @K: seed K"
        )


def load(name: str, variant: str | None = None):
    """Return a net with its ImageNet weights.

    Raises
    ------
    MissingData
        If the weights file is not on this machine and cannot be downloaded.
    """
    from mousebench.errors import UnknownIdentifier
    from mousebench_plugins.models._torchvision import trained

    if variant not in (None, "crop"):
        raise UnknownIdentifier(f"model {name!r} has no variant {variant!r}", "its one variant is 'crop'")
    return trained(name, crop=variant == "crop")


def load_random(name: str, variant: str | None = None):
    """Return an untrained net; the variant is its seed."""
    from mousebench.errors import UnknownIdentifier
    from mousebench_plugins.models._torchvision import untrained

    seed = "0" if variant is None else variant
    if not seed.isdecimal() or seed != str(int(seed)):
        raise UnknownIdentifier(
            f"model '{name}-random' has no variant {variant!r}", "its variants are seeds: 0, 1, 2 ..."
        )
    return untrained(name, int(seed))
