"""The variant that the zoos of nets share: ``NAME@crop``."""

from __future__ import annotations

from mousebench.errors import UnknownIdentifier


def is_crop(model: str, variant: str | None) -> bool:
    """Say whether the variant of a model is the one with the weights' own transform.

    Raises
    ------
    UnknownIdentifier
        If it is any other.
    """
    if variant not in (None, "crop"):
        raise UnknownIdentifier(f"model {model!r} has no variant {variant!r}", "its one variant is 'crop'")
    return variant == "crop"
