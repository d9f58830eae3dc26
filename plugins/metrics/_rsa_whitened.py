"""The variant ``rsa@whitened``: RDMs compared as their entries vary, not as if these were independent.

Two dissimilarities that share an image vary together. With noise of one variance in all images the covariance of the pairs
is V = 4 I + A, where A links the pairs that share an image (Diedrichsen et al. 2020, arXiv:2007.02789).
Whitened Pearson r is that of V^-1/2 x and V^-1/2 y, their means taken out before. On pairs without their mean V has two
eigenvalues: n on effects of single images, 2 on all the rest. That is rsatoolbox's ``corr_cov``.
"""

from __future__ import annotations

import json
from functools import partial

import numpy as np
import xarray as xr

from mousebench.assemblies import check_target
from mousebench.influence import Pull, cosine_pull
from mousebench.linalg import correlation_rdm, gram, pearson_columns, upper_triangle
from mousebench_plugins.metrics._cka import best_layer
from mousebench_plugins.metrics._rdm_metric import RdmMetric

_CHUNK = 128  # permutations at a time: bounds the memory
_CONSTANT = 1e-12


def whitened(pairs: np.ndarray) -> np.ndarray:
    """Return V^-1/2 of pairs (pair, column) without their mean."""
    n = int((1 + np.sqrt(1 + 8 * len(pairs))) // 2)
    first, second = np.triu_indices(n, 1)
    left = pairs - pairs.mean(0)
    rows = np.zeros((n, pairs.shape[1]))
    np.add.at(rows, first, left)
    np.add.at(rows, second, left)
    single = (rows[first] + rows[second]) / (n - 2)
    return np.asarray(single / np.sqrt(n) + (left - single) / np.sqrt(2))


def _whitened_layers(pairs: np.ndarray, place: np.ndarray, some: np.ndarray) -> np.ndarray:
    """Return V^-1 of the pairs of some images by layer, scaled to a whitened length of 1, (layer, pair)."""
    chosen = pairs[place[np.ix_(some, some)][np.triu_indices(len(some), 1)]]
    once = whitened(chosen)
    length = np.linalg.norm(once, axis=0)
    constant = length <= _CONSTANT * np.linalg.norm(chosen, axis=0)
    return np.asarray(np.where(constant, 0, whitened(once) / np.where(constant, 1, length)).T)


def _whitened_r(x: np.ndarray, rdm: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return whitened r (layer, relabelling) of layers with a site's RDM under many relabellings.

    Parameters
    ----------
    x : float64 (layer, pair)
        ``_whitened_layers``.
    rdm : float64 (stimulus, stimulus_b)
    labels : int (some stimulus, relabelling)
    """
    n = len(labels)
    first, second = np.triu_indices(n, 1)
    out = np.zeros((len(x), labels.shape[1]))
    for start in range(0, labels.shape[1], _CHUNK):
        some = labels[:, start : start + _CHUNK]
        y = rdm[some[first], some[second]]
        y = y - y.mean(0)
        rows = np.zeros((n, y.shape[1]))
        np.add.at(rows, first, y)
        np.add.at(rows, second, y)
        energy = (y * y).sum(0)
        single = (rows * rows).sum(0) / (n - 2)  # what effects of single images have of the energy
        length = (energy - single) / 2 + single / n
        varies = energy > _CONSTANT * rdm.shape[0] ** 2 * np.square(rdm).mean()
        out[:, start : start + _CHUNK] = x @ y / np.sqrt(np.where(varies, length, np.inf))
    return out


class WhitenedRsa(RdmMetric):
    """RSA of the best layer by whitened r; parameters as those of RdmMetric."""

    version = 1

    def __init__(self, *, repeats: int = 10, **options: int) -> None:
        super().__init__(partial(best_layer, _whitened_layers, _whitened_r), repeats=repeats, **options)

    @property
    def definition(self) -> dict[str, object]:
        """All that fixes the number."""
        return {
            "agreement": "Pearson r of RDMs whitened for noise of one variance in all images (rsatoolbox corr_cov)",
            "layer": "the highest agreement with the site RDM over pairs with both images in the training folds",
            "test_pairs": "both images in the held-out fold",
            "raw": "tanh of the mean of arctanh(r) over folds and repeats",
            "weight": "share of folds in which a layer was chosen",
            **super().definition,
        }

    def agreement(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Return whitened r (column) of columns (pair, column)."""
        return pearson_columns(whitened(a), whitened(b))

    def pull(self, x: np.ndarray, y: np.ndarray, about: float | None = None) -> Pull:
        """Return how whitened r moves; V^-1/2 is its own transpose."""
        x, y = whitened(np.column_stack([x, y])).T
        found = cosine_pull(x, y, about)
        first, second = whitened(np.column_stack([found.first, found.second])).T
        return Pull(found.weight, first, second)

    def reliability(self, first: np.ndarray, second: np.ndarray) -> float:
        """Return whitened r of the RDMs of two sets of means (stimulus, neuroid)."""
        if first.shape[1] < 2:
            return float("nan")
        pairs = self.halves(first, second)
        return float(self.agreement(pairs[:, :1], pairs[:, 1:])[0]) if np.isfinite(pairs).all() else float("nan")

    def halves(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Return the pairs (pair, 2) of the RDMs of two halves."""
        return np.column_stack([upper_triangle(correlation_rdm(*gram([half]))) for half in (first, second)])

    def ceiling(self, target: xr.DataArray, seed: int) -> xr.Dataset:
        """Return the ceiling; an RDM without trials has none, for its published reliability is that of the RDM as it is."""
        if check_target(target) == "rdm":
            note = "no ceiling: the reliability that comes with the RDM is not that of the whitened one"
            return xr.Dataset({"ceiling": np.nan}, attrs={"notes": json.dumps([note])})
        return super().ceiling(target, seed)
