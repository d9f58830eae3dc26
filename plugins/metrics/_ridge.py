"""The metric ``ridge``: one ridge regression for each neuroid, its penalty chosen by leave-one-out."""

from __future__ import annotations

import numpy as np

from mousebench.regression import FoldBasis, ridge
from mousebench_plugins.metrics._per_neuroid import PerNeuroid, alpha_grid

ALPHAS = np.logspace(-4, 4, 20)


class Ridge(PerNeuroid):
    """Ridge of each neuroid on a layer; parameters as those of PerNeuroid."""

    fit_words = (
        "ridge with intercept of each neuroid, penalty of least leave-one-out error among the training images, "
        "20 from 1e-4 to 1e4 times the mean variance of the layer's directions"
    )

    def predict(self, basis: FoldBasis, y: np.ndarray) -> np.ndarray:
        """Return predictions (test stimulus, neuroid)."""
        return ridge(basis, y, alpha_grid(basis, ALPHAS)).prediction
