"""brain: one half of a benchmark's recordings as the model of the other half, the upper anchor.

``brain``: half of the repetitions of every stimulus, averaged, are the model, one site a layer; the other half is the
target. ``brain@animals``: half of the animals are the model, the neurons of the others the target.
"""

from __future__ import annotations

from mousebench import Spec, hookimpl


@hookimpl
def mousebench_models():
    """Declare the model."""
    return [Spec("brain", load=load, description="control: half of the trials as the model of the others; @animals")]


def load(variant: str | None = None):
    """Return the model; the variant "animals" parts animals instead of trials."""
    from mousebench.errors import UnknownIdentifier
    from mousebench_plugins.models._brain import Brain

    if variant not in (None, "animals"):
        raise UnknownIdentifier(f"model 'brain' has no variant {variant!r}", "its one variant is 'animals'")
    return Brain("trials" if variant is None else "animals")
