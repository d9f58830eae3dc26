"""The metric ``pls-brainscore``: Schrimpf et al. 2018 and the code of brain-score/vision since."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import xarray as xr

from mousebench.assemblies import average, trial_cube
from mousebench.errors import ContractViolation, UnknownIdentifier
from mousebench.linalg import pearson_columns, weighted_pearson
from mousebench.nipals import MAX_STEPS, TOLERANCE, nipals
from mousebench.progress import Progress, Silent
from mousebench.rdms import usable_neuroids
from mousebench.regression import FoldBasis, Responses
from mousebench.reliability import half_means, spearman_brown
from mousebench.resampling import N_DRAWS, image_counts, neuroid_counts, two_factor, weighted_median
from mousebench.threads import each
from mousebench_plugins.metrics._per_neuroid import (
    IMAGE_SCALE,
    MAX_CHOOSING,
    MAX_NULL,
    Site,
    layer_bases,
    loo_r2,
    site_of,
)
from mousebench_plugins.metrics._rdm_metric import permuted_labels

N_COMPONENTS = 25
N_SPLITS = 10
TRAIN_SIZE = 0.9
N_PERMUTATIONS = 100
_LEAST_TEST = 3
_CORRECTIONS = {None: "squared", "2024": "squared-ratio"}


@dataclass(frozen=True)
class Split:
    """One split of the stimuli, and what came of it, by site.

    Attributes
    ----------
    train, test : int (stimulus)
    chosen : dict of site to layer
    predicted : dict of site to float64 (test stimulus, usable neuroid)
        By the chosen layer.
    layer_raw : dict of site to float64 (layer)
        Median r of each layer.
    """

    train: np.ndarray
    test: np.ndarray
    chosen: dict[str, str]
    predicted: dict[str, np.ndarray]
    layer_raw: dict[str, np.ndarray]


class PlsBrainScore:
    """Joint PLS2 of all neuroids of a site, with Brain-Score's splits, aggregation, ceiling and correction.

    Parameters
    ----------
    variant : {None, "2024"}
        The correction: r^2 / reliability, or the one before December 2025, (r / reliability)^2.
    n_splits, n_permutations, n_bootstraps : int
    """

    version = 1
    accepts = frozenset({"responses"})

    def __init__(
        self,
        variant: str | None = None,
        *,
        n_splits: int = N_SPLITS,
        n_permutations: int = N_PERMUTATIONS,
        n_bootstraps: int = N_DRAWS,
    ) -> None:
        if variant not in _CORRECTIONS:
            raise UnknownIdentifier(f"metric 'pls-brainscore' has no variant {variant!r}", "its variant is 2024")
        self.normalisation = _CORRECTIONS[variant]
        self.n_splits = n_splits
        self.n_permutations = n_permutations
        self.n_bootstraps = n_bootstraps

    @property
    def definition(self) -> dict[str, object]:
        """All that fixes the number."""
        return {
            "fit": f"one PLS2 of all neuroids of a site, {N_COMPONENTS} components (or the rank of the layer), features not scaled",
            "algorithm": f"scikit-learn's NIPALS, tol {TOLERANCE:g}, max_iter {MAX_STEPS}, started from the first neuroid: depends on their order",
            "splits": f"ShuffleSplit({self.n_splits}, train_size={TRAIN_SIZE}, random_state=1 + seed) over the stimuli; seed 0 is as published",
            "raw": "Pearson r over the test images, median over neuroids (those without r left out), mean over splits",
            "layer": "highest median leave-one-out R2 of ridge among the training images, for each split and site "
            "(published: chosen on other data, which do not exist for the mouse)",
            "layer_neuroids": MAX_CHOOSING,
            "layer_raw": "raw of each layer: descriptive, its maximum is optimistic",
            "ceiling": "split-half reliability, Spearman-Brown corrected, median over neuroids, mean over splits",
            "ceiling_splits": f"ShuffleSplit({N_SPLITS}, train_size=.5, random_state=1 + seed) over the repetitions",
            "score": {"squared": "raw^2 / ceiling", "squared-ratio": "(raw / ceiling)^2"}[self.normalisation],
            "permutations": self.n_permutations,
            "permuted": f"stimulus labels, maps fitted again; at most {MAX_NULL} neuroids of a site, fitted together",
            "bootstraps": self.n_bootstraps,
            "resampled": "images, their changes times the root of 2 as images train too; neuroids within animals",
        }

    # score ------------------------------------------------------------------------------------------------------------

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
        """Score sites together: a layer is decomposed once for each split."""
        progress = progress or Silent()
        bases, notes = layer_bases(layers)
        sites = {name: site_of(target, seed) for name, target in targets.items()}
        found = {name: site for name, site in sites.items() if site.means.shape[1]}
        n_stimuli = len(next(iter(sites.values())).means)
        where = shuffle_split(n_stimuli, self.n_splits, TRAIN_SIZE, 1 + seed)
        if len(where[0][1]) < _LEAST_TEST:
            least = next(n for n in range(2, 100) if n - int(TRAIN_SIZE * n) >= _LEAST_TEST)
            raise ContractViolation(
                f"{n_stimuli} stimuli are too few: a tenth of them, over which responses are correlated, must be {_LEAST_TEST}",
                f"at least {least} are needed",
            )
        splits: list[Split] = []
        if bases and found:
            progress.start("splits", len(where))
            for train, test in where:
                splits.append(self._split(bases, found, train, test))
                progress.advance(1)
            progress.finish()
        nulls = self._nulls(bases, found, splits, seed, progress) if splits else {}
        return {
            name: self._result(name, site, targets[name], list(bases), notes, splits, nulls, seed)
            for name, site in sites.items()
        }

    def _split(
        self, bases: Mapping[str, np.ndarray], sites: Mapping[str, Site], train: np.ndarray, test: np.ndarray
    ) -> Split:
        """Fit every layer to every site, and choose one for each by the training images."""
        responses = [Responses.of(site.means[train]) for site in sites.values()]

        def one(name: str) -> tuple[list[float], list[float], list[np.ndarray]]:
            basis = FoldBasis(bases[name][train], bases[name][test])
            quality = [float(np.median(loo_r2(basis, site.means[train][:, site.choosing]))) for site in sites.values()]
            # site by site would be the same: sets do not see each other
            predicted = nipals(basis, responses, N_COMPONENTS)
            r = [pearson_columns(p, site.means[test]) for p, site in zip(predicted, sites.values(), strict=True)]
            return quality, [float(nan_median(values)) for values in r], predicted

        chosen: dict[str, str] = {}
        best: dict[str, float] = {}
        kept: dict[str, np.ndarray] = {}
        curves: dict[str, list[float]] = {site: [] for site in sites}
        for name, (quality, raw, predicted) in zip(bases, each(one, bases), strict=True):
            for number, site in enumerate(sites):
                curves[site].append(raw[number])
                if site not in best or quality[number] > best[site]:
                    best[site], chosen[site], kept[site] = quality[number], name, predicted[number]
        return Split(train, test, chosen, kept, {site: np.array(curve) for site, curve in curves.items()})

    def _nulls(
        self,
        bases: Mapping[str, np.ndarray],
        sites: Mapping[str, Site],
        splits: list[Split],
        seed: int,
        progress: Progress,
    ) -> dict[str, np.ndarray]:
        """Return raw of some neuroids of each site, as they are and with images relabelled, float64 (1 + permutation)."""
        progress.start("sites, with permutations", len(sites))

        def one(item: tuple[str, Site]) -> np.ndarray:
            name, site = item
            some = site.means[:, site.tested]
            labels = permuted_labels(len(some), self.n_permutations, seed)
            raw = []
            for split in splits:
                layer = bases[split.chosen[name]]
                basis = FoldBasis(layer[split.train], layer[split.test])
                sets = [Responses.of(some[order[split.train]]) for order in labels.T]
                predicted = nipals(basis, sets, N_COMPONENTS)
                raw.append(
                    [
                        nan_median(pearson_columns(p, some[order[split.test]]))
                        for p, order in zip(predicted, labels.T, strict=True)
                    ]
                )
            progress.advance(1)
            return np.nan_to_num(_mean(np.array(raw)))  # a split without any r predicts constants

        values = each(one, sites.items())
        progress.finish()
        return dict(zip(sites, values, strict=True))

    def _result(
        self,
        name: str,
        site: Site,
        target: xr.DataArray,
        layers: list[str],
        notes: list[str],
        splits: list[Split],
        nulls: Mapping[str, np.ndarray],
        seed: int,
    ) -> xr.Dataset:
        attrs = {"definition": json.dumps(self.definition), "n_layers": len(layers), "n_neuroids": site.means.shape[1]}
        notes = [*notes, *site.notes]
        if not splits or not site.means.shape[1]:
            raw = 0.0 if site.means.shape[1] else np.nan  # no layers: a constant prediction explains nothing
            return xr.Dataset({"raw": raw}, attrs={**attrs, "notes": json.dumps(notes)})
        r = [pearson_columns(split.predicted[name], site.means[split.test]) for split in splits]
        lost = int(sum(np.isnan(one).sum() for one in r))
        if lost:
            notes.append(
                f"{lost} of {len(r) * r[0].size} r of a neuroid in a split do not exist and are left out, as published"
            )
        if site.means.shape[1] < 10:
            notes.append(f"{site.means.shape[1]} neuroids are fitted together: with others the score would be another")
        medians = nan_median(np.array(r))
        raw = float(_mean(medians[:, None])[0])
        share = np.array([sum(split.chosen[name] == layer for split in splits) for layer in layers]) / len(splits)
        return xr.Dataset(
            {
                "raw": raw,
                "raw_error": float(medians.std() / np.sqrt(len(medians))),
                "bootstrap": ("bootstrap", self._draws(name, site, target, splits, r, raw, seed)),
                "weight": ("layer", share),
                "layer_raw": ("layer", _mean(np.array([split.layer_raw[name] for split in splits]))),
                "best_layer": layers[int(share.argmax())],
                "null": ("permutation", nulls[name][1:]),
                "null_raw": float(nulls[name][0]),
                "intercept_only": 0.0,
            },
            coords={"layer": ("layer", np.array(layers))},
            attrs={**attrs, "notes": json.dumps(notes)},
        )

    def _draws(
        self,
        name: str,
        site: Site,
        target: xr.DataArray,
        splits: list[Split],
        r: list[np.ndarray],
        raw: float,
        seed: int,
    ) -> np.ndarray:
        """Return draws (bootstrap) of raw on resampled held-out images and neuroids."""
        images = image_counts(len(site.means), seed, self.n_bootstraps)
        neuroids = neuroid_counts(target.isel(neuroid=site.usable), seed, self.n_bootstraps)
        by_images = [
            nan_median(weighted_pearson(split.predicted[name], site.means[split.test], images[:, split.test]))
            for split in splits
        ]
        by_neuroids = [weighted_median(one, neuroids) for one in r]
        return two_factor(raw, _mean(np.array(by_images)), _mean(np.array(by_neuroids)), IMAGE_SCALE)

    # ceiling ----------------------------------------------------------------------------------------------------------

    def ceiling(self, target: xr.DataArray, seed: int) -> xr.Dataset:
        """Return the internal consistency: the reliability by which the recipe divides, not its root."""
        cube = trial_cube(target)[0]
        usable, _ = usable_neuroids(average(target)["mean"].values)
        cube = cube[:, :, usable]
        if cube.shape[1] < 2 or not usable.any():
            why = "a single repetition" if usable.any() else "no neuroid is left"
            return xr.Dataset({"ceiling": np.nan}, attrs={"notes": json.dumps([f"no ceiling: {why}"])})
        by_split, halves = [], None
        for half, _ in shuffle_split(cube.shape[1], N_SPLITS, 0.5, 1 + seed):
            mask = np.zeros((1, cube.shape[1]), dtype=bool)
            mask[0, half] = True
            first, second = (means[0] for means in half_means(cube, mask))
            halves = halves or (first, second)
            by_split.append(spearman_brown(pearson_columns(first, second)))
        assert halves is not None
        value = float(_mean(nan_median(np.array(by_split))[:, None])[0])
        notes = [] if np.isfinite(value) else ["no ceiling: no half of the trials varies"]
        draws = self._ceiling_draws(*halves, by_split[0], target.isel(neuroid=usable), value, seed)
        return xr.Dataset(
            {"ceiling": value, "bootstrap": ("bootstrap", draws)},
            attrs={"notes": json.dumps(notes)},
        )

    def _ceiling_draws(
        self,
        first: np.ndarray,
        second: np.ndarray,
        reliability: np.ndarray,
        target: xr.DataArray,
        value: float,
        seed: int,
    ) -> np.ndarray:
        """Return draws (bootstrap) of the ceiling, from one split of the trials."""
        there = np.isfinite(reliability)
        if not there.any():
            return np.full(self.n_bootstraps, np.nan)
        images = image_counts(len(first), seed, self.n_bootstraps)
        by_images = spearman_brown(weighted_pearson(first[:, there], second[:, there], images))
        by_neuroids = weighted_median(reliability, neuroid_counts(target, seed, self.n_bootstraps))
        return two_factor(value, nan_median(by_images), by_neuroids)


def shuffle_split(n: int, n_splits: int, train_size: float, random_state: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return train and test of every split, as scikit-learn's ``ShuffleSplit(n_splits, train_size, random_state)``."""
    rng = np.random.RandomState(random_state)
    n_train = int(train_size * n)
    orders = [rng.permutation(n) for _ in range(n_splits)]
    return [(order[n - n_train :], order[: n - n_train]) for order in orders]


def nan_median(values: np.ndarray) -> np.ndarray:
    """Return the median over the last axis of what is finite; NaN where nothing is."""
    ordered = np.sort(values, axis=-1)  # NaN comes last
    count = np.isfinite(values).sum(-1)
    low, high = np.maximum(count - 1, 0) // 2, np.where(count > 0, count // 2, 0)
    middle = [np.take_along_axis(ordered, at[..., None], -1)[..., 0] for at in (low, high)]
    return np.asarray(np.where(count > 0, (middle[0] + middle[1]) / 2, np.nan))


def _mean(values: np.ndarray) -> np.ndarray:
    """Return the mean over the first axis of what is finite; NaN where nothing is."""
    there = np.isfinite(values)
    count = there.sum(0)
    return np.divide(np.where(there, values, 0).sum(0), count, out=np.full(count.shape, np.nan), where=count > 0)
