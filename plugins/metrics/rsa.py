"""Classical RSA with a single layer, chosen where it is not tested.

``rsa``: in each of six folds of images the layer whose RDM goes best with the site's among the training images is
scored on the held-out images: Pearson r of RDMs, Fisher-z mean over folds and repeats. A deep net has more layers to
choose from, but no advantage from that: the choice is not made on the pairs that are scored.
"""

from __future__ import annotations

from mousebench import Spec, hookimpl


@hookimpl
def mousebench_metrics():
    """Declare the metric."""
    return [Spec("rsa", load=load, description="RSA of the best layer, chosen in the training folds")]


def load():
    """Return the metric."""
    from mousebench_plugins.metrics._rsa import Rsa

    return Rsa()
