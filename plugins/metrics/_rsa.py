"""The metric ``rsa``: the best single layer, chosen in the training folds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from mousebench.nnls import Moments, Partition, Regressors
from mousebench.progress import Progress
from mousebench.rdms import LayerRdms
from mousebench_plugins.metrics._rdm_metric import (
    Held,
    Outcome,
    RdmMetric,
    constant_outcomes,
    fisher_mean,
    permuted_pairs,
)


def best_layer(
    rdms: LayerRdms,
    sites: Mapping[str, np.ndarray],
    labels: np.ndarray,
    partitions: Sequence[Partition],
    progress: Progress,
) -> dict[str, Outcome]:
    """Choose the layer that goes best with the site on the training pairs; its r on the pairs of the held-out fold.

    Parameters
    ----------
    rdms : LayerRdms
    sites : mapping of site to float64 (stimulus, stimulus_b)
    labels : int (stimulus, 1 + permutation)
    partitions : sequence of Partition
    progress : Progress

    Returns
    -------
    dict of site to Outcome
        ``weight`` is the share of folds in which a layer was chosen.
    """
    if not rdms.names:
        return constant_outcomes(sites, labels)
    pairs = permuted_pairs(labels)
    r: dict[str, list[np.ndarray]] = {site: [] for site in sites}
    held: dict[str, list[Held]] = {site: [] for site in sites}
    share = {site: np.zeros(len(rdms.names)) for site in sites}
    for partition in partitions:
        regressors = Regressors(rdms.pairs, partition)
        order = pairs[partition.order]
        for site, rdm in sites.items():
            moments = regressors.moments(rdm.ravel()[order])
            for fold, train in enumerate(partition.train_blocks):
                block = partition.within(fold)
                if block is None:
                    continue
                chosen = _correlations(regressors, moments, train).argmax(0)
                inside = np.arange(len(train)) == block
                r[site].append(_correlations(regressors, moments, inside)[chosen, np.arange(len(chosen))])
                share[site][chosen[0]] += 1
                rows = partition.blocks[block][2]
                held[site].append(Held(partition.order[rows], regressors.pairs[rows, chosen[0]]))
            progress.advance(1)
    return {
        site: Outcome(fisher_mean(np.stack(r[site])), share[site] / len(r[site]), held[site], {"intercept_only": 0.0})
        for site in sites
    }


def _correlations(regressors: Regressors, moments: Moments, blocks: np.ndarray) -> np.ndarray:
    """Return Pearson r (layer, target) over the pairs of some blocks, bool (block); 0 where one does not vary."""
    n = regressors.n[blocks].sum()
    sum_x = regressors.sum_x[blocks].sum(0)
    sum_xx = np.einsum("bkk->k", regressors.sum_xx[blocks])
    sum_y, sum_yy = moments.sum_y[blocks].sum(0), moments.sum_yy[blocks].sum(0)
    var_x, var_y = sum_xx - sum_x**2 / n, sum_yy - sum_y**2 / n
    varies = (var_x > 1e-12 * sum_xx)[:, None] & (var_y > 1e-12 * sum_yy)
    scale = np.sqrt(np.where(varies, np.maximum(var_x, 0)[:, None] * np.maximum(var_y, 0), 1))
    covariance = moments.sum_xy[blocks].sum(0) - np.outer(sum_x, sum_y) / n
    return np.where(varies, np.clip(covariance / scale, -1, 1), 0.0)


class Rsa(RdmMetric):
    """Classical RSA of the best layer, leak-free; parameters as those of RdmMetric."""

    version = 2

    def __init__(self, *, repeats: int = 10, **options: int) -> None:
        super().__init__(best_layer, repeats=repeats, **options)

    @property
    def definition(self) -> dict[str, object]:
        """All that fixes the number."""
        return {
            "layer": "the highest Pearson r with the site RDM over pairs with both images in the training folds",
            "test_pairs": "both images in the held-out fold",
            "raw": "tanh of the mean of arctanh(r) over folds and repeats",
            "weight": "share of folds in which a layer was chosen",
            **super().definition,
        }
