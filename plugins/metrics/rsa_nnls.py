"""RSA by non-negative least squares: all layer RDMs together predict a site's RDM.

Conwell et al. 2020 fit NNLS with a free intercept on the RDMs of all layers, cross-validated over six folds of images.

``rsa-nnls`` (default) trains on pairs with both images in the training folds and tests on pairs with both images in the
held-out fold: Pearson r in each fold, 0 for a constant prediction, Fisher-z mean over folds and repeats. A model that
knows nothing scores 0.

``rsa-nnls-published`` is the paper's algorithm to the letter: a pair is tested if either image is held out, predictions
of all folds are averaged pair by pair, pooled, and correlated once. Pooling makes the training mean of a fold low
exactly where its held-out pairs are high, so a model that knows nothing scores below 0; squared, as published, that
reads as explained variance (docs/method.md). The signed r is kept, its square and the intercept-only value beside it.
"""

from __future__ import annotations

from mousebench import Spec, hookimpl


@hookimpl
def mousebench_metrics():
    """Declare both metrics."""
    return [
        Spec("rsa-nnls", load=load, description="NNLS of layer RDMs on the site RDM, leak-free and signed (default)"),
        Spec(
            "rsa-nnls-published",
            load=load_published,
            description="the same as published in 2020: pooled, biased below 0",
        ),
    ]


def load():
    """Return the leak-free metric."""
    from mousebench_plugins.metrics._rsa_nnls import RsaNnls, leak_free

    return RsaNnls(leak_free, repeats=10)


def load_published():
    """Return the published metric."""
    from mousebench_plugins.metrics._rsa_nnls import RsaNnls, as_published

    return RsaNnls(as_published, repeats=1)
