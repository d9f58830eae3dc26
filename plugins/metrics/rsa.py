"""Classical RSA with a single layer, chosen where it is not tested.

``rsa``: in each of six folds of images the layer whose RDM goes best with the site's among the training images is
scored on the held-out images: Pearson r of RDMs, Fisher-z mean over folds and repeats. A deep net has more layers to
choose from, but no advantage from that: the choice is not made on the pairs that are scored. ``rsa@whitened`` compares RDMs by
whitened r, which allows for dissimilarities that share an image and so vary together.
"""

from __future__ import annotations

from mousebench import Spec, hookimpl


@hookimpl
def mousebench_metrics():
    """Declare the metric."""
    text = "RSA of the best layer, chosen in the training folds; @whitened: by whitened r"
    return [Spec("rsa", load=load, description=text)]


def load(variant: str | None = None):
    """Return the metric.

    Raises
    ------
    UnknownIdentifier
        For another variant than ``whitened``.
    """
    if variant == "whitened":
        from mousebench_plugins.metrics._rsa_whitened import WhitenedRsa

        return WhitenedRsa()
    if variant is not None:
        from mousebench.errors import UnknownIdentifier

        raise UnknownIdentifier(f"metric 'rsa' has no variant {variant!r}", "its variant is 'whitened'")
    from mousebench_plugins.metrics._rsa import Rsa

    return Rsa()
