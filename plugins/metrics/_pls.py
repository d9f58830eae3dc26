"""The metric ``pls``: one PLS1 for each neuroid."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mousebench.linalg import pearson_columns
from mousebench.regression import FoldBasis, pls1, pls1_curve
from mousebench_plugins.metrics._per_neuroid import N_FOLDS, Fold, PerNeuroid, Site

N_COMPONENTS = 25
_CHUNK = 256  # neuroids at a time: their curves of predictions are held


class Pls(PerNeuroid):
    """Partial least squares of each neuroid on the principal components of a layer.

    Parameters
    ----------
    n_components : int
    **options
        Those of PerNeuroid.
    """

    def __init__(self, *, n_components: int = N_COMPONENTS, **options: int) -> None:
        super().__init__(**options)
        self.n_components = n_components

    @property
    def fit_words(self) -> str:
        """What is fitted."""
        return f"PLS1 of each neuroid, {self.n_components} components, features centred in the fold and not scaled"

    def predict(self, basis: FoldBasis, y: np.ndarray) -> np.ndarray:
        """Return predictions (test stimulus, neuroid)."""
        return pls1(basis, y, self.n_components)

    def extra(
        self, bases: Mapping[str, np.ndarray], folds: list[Fold], name: str, site: Site
    ) -> dict[str, tuple[str, np.ndarray]]:
        """Return ``component_raw`` (component): the score with fewer components, first partition."""
        first = folds[:N_FOLDS]
        curve = np.zeros((self.n_components, site.means.shape[1]))
        for fold in first:
            layer = bases[fold.chosen[name]]
            basis = FoldBasis(layer[fold.train], layer[fold.test])
            for start in range(0, site.means.shape[1], _CHUNK):
                y = site.means[:, start : start + _CHUNK]
                predicted = pls1_curve(basis, y[fold.train], self.n_components)
                curve[:, start : start + _CHUNK] += np.nan_to_num(pearson_columns(predicted, y[fold.test]))
        return {"component_raw": ("component", np.median(curve / len(first), axis=1))}
