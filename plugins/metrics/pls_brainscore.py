"""Brain-Score's PLS: one joint PLS2 of all neuroids of a site, scored as published.

``pls-brainscore`` fits scikit-learn's ``PLSRegression(25, scale=False)``, unconverged as it is, to all neuroids of a site together,
in 10 random splits of the stimuli (90 % train). ``raw`` is the median r over neuroids, averaged over splits, the ceiling the
split-half reliability, and the score raw^2 / ceiling (since December 2025). ``pls-brainscore@2024`` is the correction before that,
(raw / ceiling)^2. Both make a positive score of a negative r.
"""

from __future__ import annotations

from mousebench import Spec, hookimpl


@hookimpl
def mousebench_metrics():
    """Declare the metric."""
    return [
        Spec(
            "pls-brainscore",
            load=load,
            description="Brain-Score's joint PLS2 as published: r^2 / reliability (@2024: (r / reliability)^2)",
        )
    ]


def load(variant: str | None = None):
    """Return the metric; the variant is a year."""
    from mousebench_plugins.metrics._pls_brainscore import PlsBrainScore

    return PlsBrainScore(variant)
