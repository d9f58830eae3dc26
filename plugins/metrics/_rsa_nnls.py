"""The two RSA-NNLS metrics; see ``rsa_nnls`` for what they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import xarray as xr

from mousebench.linalg import pearson_columns
from mousebench.nnls import Partition, Regressors, WithinScores
from mousebench.progress import Progress, Silent
from mousebench.rdms import ALIKE, COPY, LayerRdms
from mousebench.threads import each
from mousebench_plugins.metrics._rdm_metric import (
    Held,
    Outcome,
    Procedure,
    RdmMetric,
    fisher_mean,
    make_partitions,
    permuted_labels,
    permuted_pairs,
)

N_QUANTILES = 10


def leak_free(
    rdms: LayerRdms,
    sites: Mapping[str, np.ndarray],
    labels: np.ndarray,
    partitions: Sequence[Partition],
    progress: Progress,
) -> dict[str, Outcome]:
    """Train on pairs inside the training folds, test on pairs inside the held-out fold; Fisher-z mean.

    Parameters
    ----------
    rdms : LayerRdms
    sites : mapping of site to float64 (stimulus, stimulus_b)
    labels : int (stimulus, 1 + permutation)
    partitions : sequence of Partition
    progress : Progress
    """
    pairs = permuted_pairs(labels)
    r: dict[str, list[np.ndarray]] = {site: [] for site in sites}
    held: dict[str, list[Held]] = {site: [] for site in sites}
    cv_r2 = dict.fromkeys(sites, 0.0)
    weight = dict.fromkeys(sites, np.zeros(len(rdms.names)))
    for partition in partitions:
        regressors = Regressors(rdms.pairs, partition)
        order = pairs[partition.order]

        def one(rdm: np.ndarray, regressors: Regressors = regressors, order: np.ndarray = order) -> WithinScores:
            return regressors.score_within(regressors.moments(rdm.ravel()[order]))

        for site, within in zip(sites, each(one, sites.values()), strict=True):
            r[site].append(within.r)
            cv_r2[site] += float(within.cv_r2[0])
            weight[site] = weight[site] + within.weight[:, 0]
            held[site] += _held_within(regressors, within.fold_weight)
            progress.advance(1)
    n = len(partitions)
    # a constant prediction has r = 0 in every fold, by definition
    return {
        site: Outcome(
            fisher_mean(np.concatenate(r[site])),
            weight[site] / n,
            held[site],
            {"cv_r2": cv_r2[site] / n, "intercept_only": 0.0},
        )
        for site in sites
    }


def _held_within(regressors: Regressors, fold_weight: np.ndarray) -> Iterator[Held]:
    """Yield the predictions of the pairs inside each held-out fold; r does not see the intercept, which is left out."""
    partition = regressors.partition
    for factor, weight in zip(regressors.factors, fold_weight, strict=True):
        block = partition.within(factor.fold)
        if block is not None:
            rows = partition.blocks[block][2]
            yield Held(partition.order[rows], regressors.pairs[rows] @ weight)


def as_published(
    rdms: LayerRdms,
    sites: Mapping[str, np.ndarray],
    labels: np.ndarray,
    partitions: Sequence[Partition],
    progress: Progress,
) -> dict[str, Outcome]:
    """Average the predictions of all folds pair by pair, then correlate once over all pairs; as ``leak_free``."""
    pairs = permuted_pairs(labels)
    shared = [Regressors(rdms.pairs, partition) for partition in partitions]
    outcomes = {}
    for site, rdm in sites.items():
        y = rdm.ravel()[pairs]
        predicted, nothing, count = np.zeros_like(y), np.zeros((len(y), 1)), np.zeros((len(y), 1))
        weight = np.zeros(len(rdms.names))
        for regressors in shared:
            order = regressors.partition.order
            moments = regressors.moments(y[order])
            fits = regressors.fits(moments)
            fitted, n_predictions = regressors.predict(fits)
            predicted[order] += fitted
            nothing[order] += regressors.predict(regressors.fits(moments, intercept_only=True))[0][:, :1]
            count[order] += n_predictions[:, None]
            weight += sum(fold_weight[:, 0] for fold_weight, _ in fits) / (len(fits) * len(shared))
            progress.advance(1)
        # predictions that are constant have no r: they explain nothing
        raw = np.nan_to_num(pearson_columns(predicted / count, y))
        intercept = float(np.nan_to_num(pearson_columns(nothing / count, y[:, :1]))[0])
        held = [Held(np.arange(len(y)), predicted[:, 0] / count[:, 0])]
        outcomes[site] = Outcome(raw, weight, held, {"r2": float(raw[0] ** 2), "intercept_only": intercept})
    return outcomes


class RsaNnls(RdmMetric):
    """NNLS of layer RDMs on site RDMs; parameters as those of RdmMetric, ``procedure`` one of the two above."""

    def __init__(self, procedure: Procedure, *, repeats: int, **options: int) -> None:
        # published: every layer is a regressor
        super().__init__(procedure, repeats=repeats, alike=ALIKE if procedure is leak_free else COPY, **options)

    @property
    def definition(self) -> dict[str, object]:
        """All that fixes the number."""
        if self.procedure is leak_free:
            tested = "both images in the held-out fold"
            raw = "tanh of the mean of arctanh(r) over folds and repeats; r = 0 for a constant prediction"
        else:
            tested = "either image in the held-out fold"
            raw = "Pearson r over all pairs of the predictions averaged over folds and repeats; r2 is its square"
        return {
            "solver": "non-negative least squares with free intercept on the correlation RDMs of all layers",
            "test_pairs": tested,
            "raw": raw,
            **super().definition,
        }

    def score_sites(
        self,
        layers: Mapping[str, xr.Dataset],
        targets: Mapping[str, xr.DataArray],
        seed: int,
        progress: Progress | None = None,
    ) -> dict[str, xr.Dataset]:
        """Score sites together; ``raw_10_layers`` beside raw is that of 10 layers evenly spaced in depth."""
        scores = super().score_sites(layers, targets, seed, progress)
        if self.procedure is not leak_free or not layers:
            return scores
        few = self._few_layers(layers, targets, seed)
        return {site: score.assign(raw_10_layers=few[site]) for site, score in scores.items()}

    def _few_layers(
        self, layers: Mapping[str, xr.Dataset], targets: Mapping[str, xr.DataArray], seed: int
    ) -> dict[str, float]:
        """Return raw with as many regressors for a deep net as for a shallow one."""
        rdms = self.columns(layers)
        chosen = np.unique(np.linspace(0, len(rdms.names) - 1, N_QUANTILES).round().astype(int))
        some = LayerRdms(
            [rdms.names[k] for k in chosen], np.ascontiguousarray(rdms.pairs[:, chosen]), rdms.sd[chosen], []
        )
        sites = {site: self.site(target).values for site, target in targets.items()}
        there = {site: values for site, values in sites.items() if values is not None}
        if not there:
            return dict.fromkeys(targets, float("nan"))
        n_stimuli = len(next(iter(there.values())))
        partitions = list(make_partitions(n_stimuli, self.repeats, seed))
        outcomes = self.procedure(some, there, permuted_labels(n_stimuli, 0, seed), partitions, Silent())
        return {site: float(outcomes[site].raw[0]) if site in outcomes else float("nan") for site in targets}
