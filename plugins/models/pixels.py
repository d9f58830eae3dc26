"""pixels: the image itself, the least that a model of vision must beat."""

from __future__ import annotations

from mousebench import Spec, hookimpl


@hookimpl
def mousebench_models():
    """Declare the model."""
    return [Spec("pixels", load=load, description="control: the grey levels of the image, 64 x 64")]


def load():
    """Return the model."""
    from mousebench_plugins.models._pixels import Pixels

    return Pixels(64)
