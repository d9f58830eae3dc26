"""one PLS1 for each neuroid, layer chosen in the training images.

``pls`` predicts the mean responses of every neuroid to held-out images from the layer that does best among the training
images. ``raw`` is Pearson r inside each held-out fold, never pooled over folds, averaged over 5 x 5 folds; the score of
a neuroid is r over the root of its reliability, that of a site the median over its neuroids.
"""

from __future__ import annotations

from mousebench import Spec, hookimpl


@hookimpl
def mousebench_metrics():
    """Declare the metric."""
    return [Spec("pls", load=load, description="one PLS1 for each neuroid, layer chosen in the training images")]


def load():
    """Return the metric."""
    from mousebench_plugins.metrics._pls import Pls

    return Pls()
