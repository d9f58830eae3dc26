"""PLS of Nayebi et al. 2023: one joint PLS2 of all neuroids of an animal, noise-corrected on both sides.

``pls-nayebi`` fits scikit-learn's ``PLSRegression(25, scale=False)`` to half of the trials of all neuroids of an animal, in 10 random
halves of the stimuli, and again to the other half. A neuroid's score is r of the prediction with the other half of its trials,
over the root of two reliabilities: that of the prediction and that of the neuroid. The best layer counts. ``raw`` is r before that.
"""

from __future__ import annotations

from mousebench import Spec, hookimpl


@hookimpl
def mousebench_metrics():
    """Declare the metric."""
    return [
        Spec(
            "pls-nayebi",
            load=load,
            description="Nayebi et al.'s joint PLS2 of each animal as published: noise-corrected, best layer",
        )
    ]


def load():
    """Return the metric."""
    from mousebench_plugins.metrics._pls_nayebi import PlsNayebi

    return PlsNayebi()
