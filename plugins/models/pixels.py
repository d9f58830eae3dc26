"""pixels: the image itself, the least that a model of vision must beat.

``pixels`` is what the nets see, 224 x 224. ``pixels@64`` holds no detail above .27 cycles a degree across the Allen screen
(120 degrees); mice see up to about .5 (Prusky, West and Douglas 2000).
"""

from __future__ import annotations

from mousebench import Spec, hookimpl


@hookimpl
def mousebench_models():
    """Declare the model."""
    return [Spec("pixels", load=load, description="control: the grey levels of the image, 224 x 224; @64: 64 x 64")]


def load(variant: str | None = None):
    """Return the model; the variant is a coarser size."""
    from mousebench.errors import UnknownIdentifier
    from mousebench_plugins.models._pixels import Pixels

    if variant not in (None, "64"):
        raise UnknownIdentifier(f"model 'pixels' has no variant {variant!r}", "its one variant is '64'")
    return Pixels(224 if variant is None else 64)
