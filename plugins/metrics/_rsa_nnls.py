"""The two RSA-NNLS metrics; see ``rsa_nnls`` for what they are."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import xarray as xr

from mousebench.assemblies import average, trial_cube
from mousebench.errors import ContractViolation
from mousebench.linalg import pearson_columns, upper_triangle
from mousebench.nnls import Partition, Regressors, kfold
from mousebench.progress import Progress, Silent
from mousebench.rdms import LayerRdms, TargetRdm, layer_rdms, target_rdm, usable_neuroids
from mousebench.reliability import rdm_reliability, spearman_brown

N_FOLDS = 6
N_PERMUTATIONS = 1000
N_SPLITS = 20
# permutations and splits draw from different streams of one seed
_PERMUTATION_STREAM = 1
_SPLIT_STREAM = 2


@dataclass(frozen=True)
class Outcome:
    """What the fits give for one site.

    Attributes
    ----------
    raw : float64 (1 + permutation)
        The score, then the scores of the permuted RDM.
    weight : float64 (layer)
        Mean over folds and repeats, for RDMs of standard deviation 1.
    extra : mapping of name to number
    """

    raw: np.ndarray
    weight: np.ndarray
    extra: Mapping[str, float]


# (layer RDMs, site RDMs by name, pairs (pair, 1 + permutation), partitions, progress) -> outcomes by site
Procedure = Callable[
    [LayerRdms, Mapping[str, np.ndarray], np.ndarray, Sequence[Partition], Progress], Mapping[str, Outcome]
]


def leak_free(
    rdms: LayerRdms,
    sites: Mapping[str, np.ndarray],
    pairs: np.ndarray,
    partitions: Sequence[Partition],
    progress: Progress,
) -> dict[str, Outcome]:
    """Train on pairs inside the training folds, test on pairs inside the held-out fold; Fisher-z mean.

    Parameters
    ----------
    rdms : LayerRdms
    sites : mapping of site to float64 (stimulus, stimulus_b)
    pairs : int (pair, 1 + permutation)
        Where in a flat RDM the pairs of the relabelled stimuli stand.
    partitions : sequence of Partition
    progress : Progress
    """
    limit = 1 - 1e-15  # arctanh(1) is infinite
    z = dict.fromkeys(sites, np.zeros(pairs.shape[1]))
    cv_r2 = dict.fromkeys(sites, 0.0)
    weight = dict.fromkeys(sites, np.zeros(len(rdms.names)))
    for partition in partitions:
        regressors = Regressors(rdms.pairs, partition)
        order = pairs[partition.order]
        for site, rdm in sites.items():
            within = regressors.score_within(regressors.moments(rdm.ravel()[order]))
            z[site] = z[site] + np.arctanh(np.clip(within.r, -limit, limit)).mean(0)
            cv_r2[site] += float(within.cv_r2[0])
            weight[site] = weight[site] + within.weight[:, 0]
            progress.advance(1)
    n = len(partitions)
    # a constant prediction has r = 0 in every fold, by definition
    return {
        site: Outcome(np.tanh(z[site] / n), weight[site] / n, {"cv_r2": cv_r2[site] / n, "intercept_only": 0.0})
        for site in sites
    }


def as_published(
    rdms: LayerRdms,
    sites: Mapping[str, np.ndarray],
    pairs: np.ndarray,
    partitions: Sequence[Partition],
    progress: Progress,
) -> dict[str, Outcome]:
    """Average the predictions of all folds pair by pair, then correlate once over all pairs; as ``leak_free``."""
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
        outcomes[site] = Outcome(raw, weight, {"r2": float(raw[0] ** 2), "intercept_only": intercept})
    return outcomes


class RsaNnls:
    """NNLS of layer RDMs on site RDMs.

    Parameters
    ----------
    procedure : callable
        ``leak_free`` or ``as_published``.
    repeats : int
        Partitions of the images into folds.
    n_permutations : int
        Relabellings of the images for the null.
    """

    version = 1
    accepts = frozenset({"responses", "rdm"})
    normalisation = "ratio"

    def __init__(self, procedure: Procedure, *, repeats: int, n_permutations: int = N_PERMUTATIONS) -> None:
        self.procedure = procedure
        self.repeats = repeats
        self.n_permutations = n_permutations

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
            "folds": N_FOLDS,
            "partition": "KFold(6, shuffle=True, random_state=seed + r) over the stimuli, r = 0 .. repeats - 1",
            "repeats": self.repeats,
            "test_pairs": tested,
            "raw": raw,
            "permutations": self.n_permutations,
            "permuted": "stimulus labels of the site RDM, the same permutations for all sites",
            "ceiling": "square root of the Spearman-Brown corrected split-half correlation of the site RDM",
            "ceiling_splits": N_SPLITS,
        }

    def score(self, layers: Mapping[str, xr.Dataset], target: xr.DataArray, seed: int) -> xr.Dataset:
        """Score one site; see ``mousebench.interfaces.Metric``."""
        return self.score_sites(layers, {"": target}, seed)[""]

    def score_sites(
        self,
        layers: Mapping[str, xr.Dataset],
        targets: Mapping[str, xr.DataArray],
        seed: int,
        progress: Progress | None = None,
    ) -> dict[str, xr.Dataset]:
        """Score sites together: Grams and factors of the layers serve all of them and all permutations."""
        rdms = layer_rdms(layers)
        found = {site: target_rdm(target) for site, target in targets.items()}
        values = {site: rdm.values for site, rdm in found.items() if rdm.values is not None}
        outcomes: Mapping[str, Outcome] = {}
        if values:
            n_stimuli = len(next(iter(values.values())))
            if n_stimuli < 3 * N_FOLDS:
                raise ContractViolation(
                    f"{n_stimuli} stimuli are too few: {N_FOLDS} folds of at least 3, whose pairs are correlated, need {3 * N_FOLDS}"
                )
            progress = progress or Silent()
            progress.start("sites x partitions, with permutations", self.repeats * len(values))
            if not rdms.names:
                rdms = replace(rdms, pairs=np.empty((n_stimuli * (n_stimuli - 1) // 2, 0)))
            partitions = list(_partitions(n_stimuli, self.repeats, seed))
            pairs = permuted_pairs(n_stimuli, self.n_permutations, seed)
            outcomes = self.procedure(rdms, values, pairs, partitions, progress)
            progress.finish()
        return {site: self._result(rdms, rdm, outcomes.get(site)) for site, rdm in found.items()}

    def _result(self, rdms: LayerRdms, target: TargetRdm, outcome: Outcome | None) -> xr.Dataset:
        notes = [*rdms.notes, *target.notes]
        attrs: dict[str, object] = {"definition": json.dumps(self.definition), "n_layers": len(rdms.names)}
        if target.n_neuroids is not None:
            attrs["n_neuroids"] = target.n_neuroids
        if outcome is None or target.values is None:
            return xr.Dataset({"raw": np.nan}, attrs={**attrs, "notes": json.dumps(notes)})
        by_layer: dict[str, object] = {"best_layer": ""}
        if rdms.names:
            names = np.array(rdms.names, dtype=str)
            heaviest = int(outcome.weight.argmax())
            if outcome.weight[heaviest] == 0:
                notes.append("all weights are 0: no layer's RDM goes with the site's")
            alone = pearson_columns(rdms.pairs, np.repeat(upper_triangle(target.values)[:, None], len(names), axis=1))
            by_layer = {
                "weight": ("layer", outcome.weight),
                "layer_raw": ("layer", alone),
                "best_layer": str(names[heaviest]) if outcome.weight[heaviest] > 0 else "",
                "layer": ("layer", names),
            }
        return xr.Dataset(
            {"raw": outcome.raw[0], "null": ("permutation", outcome.raw[1:]), **by_layer, **outcome.extra},
            attrs={**attrs, "notes": json.dumps(notes)},
        )

    def ceiling(self, target: xr.DataArray, seed: int) -> xr.Dataset:
        """Return the r that the noise-free RDM would reach: the root of the reliability of the site RDM.

        Trials are split into random halves, their RDMs correlated, the correlation corrected to all trials by
        Spearman-Brown inside each split. An RDM without trials brings its split-half correlation as an attribute.
        """
        if target.dims[0] == "stimulus":
            half = np.array([float(target.attrs.get("reliability", np.nan))])
            missing = "the RDM comes without a reliability"
        else:
            half = _split_half(target, seed)
            missing = "half of the trials give no RDM"
        there = half[np.isfinite(half)]
        reliability = float(spearman_brown(there).mean()) if there.size else np.nan
        notes = []
        if not there.size:
            notes.append(f"no ceiling: {missing}")
        elif reliability <= 0:
            notes.append(f"no ceiling: the reliability of the site RDM is {reliability:.3f}")
        value = np.sqrt(reliability) if reliability > 0 else np.nan
        return xr.Dataset({"ceiling": value, "reliability": reliability}, attrs={"notes": json.dumps(notes)})


def _split_half(responses: xr.DataArray, seed: int) -> np.ndarray:
    """Return the split-half correlations (split) of the RDM of some responses; NaN where they cannot be split."""
    usable, _ = usable_neuroids(average(responses)["mean"].values)
    cube = trial_cube(responses)[0][:, :, usable]
    if cube.shape[1] < 2 or cube.shape[2] < 2:
        return np.array([np.nan])
    return rdm_reliability(cube, np.random.default_rng([seed, _SPLIT_STREAM]), N_SPLITS)


def _partitions(n_stimuli: int, repeats: int, seed: int) -> Iterator[Partition]:
    for repeat in range(repeats):
        yield Partition(kfold(n_stimuli, N_FOLDS, seed + repeat))


def permuted_pairs(n_stimuli: int, n_permutations: int, seed: int) -> np.ndarray:
    """Return int32 (pair, 1 + permutation): where in a flat RDM the pairs of the relabelled stimuli stand.

    Column 0 is the RDM as it is.
    """
    rng = np.random.default_rng([seed, _PERMUTATION_STREAM])
    labels = np.stack([np.arange(n_stimuli), *(rng.permutation(n_stimuli) for _ in range(n_permutations))], axis=1)
    first, second = np.triu_indices(n_stimuli, 1)
    return (labels[first] * n_stimuli + labels[second]).astype(np.int32)
