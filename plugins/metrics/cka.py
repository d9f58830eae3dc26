"""Debiased linear CKA of a single layer, chosen where it is not tested.

``cka``: the layer of highest CKA with the mean responses of a site among the training images is scored on the held-out
images. HSIC is the unbiased estimate (Song et al. 2012): unrelated features score 0 however many there are.
"""

from __future__ import annotations

from mousebench import Spec, hookimpl


@hookimpl
def mousebench_metrics():
    """Declare the metric."""
    return [Spec("cka", load=load, description="debiased linear CKA of the best layer, chosen in the training folds")]


def load():
    """Return the metric."""
    from mousebench_plugins.metrics._cka import Cka

    return Cka()
