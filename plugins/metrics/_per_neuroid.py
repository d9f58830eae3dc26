"""What the metrics that predict each neuroid share: folds, choice of layer, null, draws, ceiling, labels."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import xarray as xr

from mousebench.assemblies import average, trial_cube
from mousebench.errors import ContractViolation
from mousebench.linalg import pearson_columns, weighted_pearson
from mousebench.nnls import kfold
from mousebench.progress import Progress, Silent
from mousebench.rdms import usable_neuroids
from mousebench.regression import FoldBasis, ridge, sample_basis
from mousebench.reliability import half_masks, half_means, neuroid_reliability, spearman_brown
from mousebench.resampling import N_DRAWS, image_counts
from mousebench.threads import each
from mousebench_plugins.metrics._rdm_metric import permuted_labels

N_FOLDS = 5
N_REPEATS = 5
N_PERMUTATIONS = 200
N_SPLITS = 100
MAX_CHOOSING = 200  # neuroids of a site that choose its layer
MAX_NULL = 50  # neuroids of a site whose permuted responses are fitted again
# An image trains as it tests: its draw changes the maps as well, which stay as fitted. For a linear map of unrelated
# features both changes are alike and independent, so the variance of the two is twice that of the one seen.
IMAGE_SCALE = 2**0.5
_NEUROID_STREAM = 5
_SPLIT_STREAM = 2
_CHOOSING_ALPHAS = np.logspace(-3, 3, 7)


@dataclass(frozen=True)
class Site:
    """The neuroids of a site.

    Attributes
    ----------
    means : float64 (stimulus, usable neuroid)
    usable : bool (neuroid)
    notes : list of str
    choosing, tested : int (usable neuroid)
        Those that choose the layer, and those that the null is made of.
    """

    means: np.ndarray
    usable: np.ndarray
    notes: list[str]
    choosing: np.ndarray
    tested: np.ndarray


@dataclass(frozen=True)
class Fold:
    """One fold of one partition.

    Attributes
    ----------
    train, test : int (stimulus)
    chosen : dict of site to layer
    """

    train: np.ndarray
    test: np.ndarray
    chosen: dict[str, str]


class PerNeuroid(ABC):
    """A metric that predicts the responses of each neuroid from a layer chosen inside the training images.

    Parameters
    ----------
    repeats : int
        Partitions of the images into folds.
    n_permutations, n_bootstraps : int
    """

    version = 2
    accepts = frozenset({"responses"})
    normalisation = "ratio"
    fit_words = ""

    def __init__(
        self,
        *,
        repeats: int = N_REPEATS,
        n_permutations: int = N_PERMUTATIONS,
        n_bootstraps: int = N_DRAWS,
    ) -> None:
        self.repeats = repeats
        self.n_permutations = n_permutations
        self.n_bootstraps = n_bootstraps

    @property
    def definition(self) -> dict[str, object]:
        """All that fixes the number."""
        return {
            "fit": self.fit_words,
            "folds": N_FOLDS,
            "partition": "KFold(5, shuffle=True, random_state=seed + r) over the stimuli, r = 0 .. repeats - 1",
            "repeats": self.repeats,
            "raw": "Pearson r over the images of a held-out fold, mean over folds and repeats, by neuroid",
            "layer": "highest median leave-one-out R2 of ridge among the training images, for each fold and site",
            "layer_neuroids": MAX_CHOOSING,
            "layer_raw": "median r of each layer, first partition, the same neuroids: descriptive, chosen by nothing",
            "permutations": self.n_permutations,
            "permuted": f"stimulus labels, maps fitted again; at most {MAX_NULL} neuroids of a site, first partition",
            "bootstraps": self.n_bootstraps,
            "resampled": "images, what they share over neuroids times the root of 2 as images train too; neuroids within animals",
            "ceiling": "square root of the Spearman-Brown corrected split-half reliability, by neuroid",
            "ceiling_splits": N_SPLITS,
        }

    # what a subclass gives --------------------------------------------------------------------------------------------

    @abstractmethod
    def predict(self, basis: FoldBasis, y: np.ndarray) -> np.ndarray:
        """Return predictions (test stimulus, neuroid) from training responses (train stimulus, neuroid)."""

    def extra(
        self, bases: Mapping[str, np.ndarray], folds: list[Fold], name: str, site: Site
    ) -> dict[str, tuple[str, np.ndarray]]:
        """Return further variables of a site."""
        return {}

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
        """Score sites together: a layer is decomposed once for each fold, whatever the number of neuroids."""
        progress = progress or Silent()
        bases, notes = layer_bases(layers)
        sites = {name: site_of(target, seed) for name, target in targets.items()}
        found = {name: site for name, site in sites.items() if site.means.shape[1]}
        n_stimuli = len(next(iter(sites.values())).means)
        if n_stimuli < 3 * N_FOLDS:
            raise ContractViolation(
                f"{n_stimuli} stimuli are too few: {N_FOLDS} folds of at least 3, whose responses are correlated, need {3 * N_FOLDS}"
            )
        folds: list[Fold] = []
        held: dict[str, list[np.ndarray]] = {name: [] for name in found}
        curves: dict[str, list[np.ndarray]] = {name: [] for name in found}
        if bases and found:
            progress.start("folds", self.repeats * N_FOLDS)
            for repeat in range(self.repeats):
                fold_of = kfold(n_stimuli, N_FOLDS, seed + repeat)
                for number in range(N_FOLDS):
                    train, test = np.flatnonzero(fold_of != number), np.flatnonzero(fold_of == number)
                    fold, predicted, curve = self._fold(bases, found, train, test, with_curve=repeat == 0)
                    folds.append(fold)
                    for name in found:
                        held[name].append(predicted[name])
                        if curve:
                            curves[name].append(curve[name])
                    progress.advance(1)
            progress.finish()
        nulls = self._nulls(bases, found, folds[:N_FOLDS], seed, progress) if folds else {}
        images = image_counts(n_stimuli, seed, self.n_bootstraps)

        def result(name: str) -> xr.Dataset:
            return self._result(name, sites[name], targets[name], bases, notes, folds, held, curves, nulls, images)

        return dict(zip(sites, each(result, sites), strict=True))

    def _fold(
        self,
        bases: Mapping[str, np.ndarray],
        sites: Mapping[str, Site],
        train: np.ndarray,
        test: np.ndarray,
        *,
        with_curve: bool,
    ) -> tuple[Fold, dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Choose the layer of each site, and predict its held-out responses.

        Returns
        -------
        fold : Fold
        predicted : dict of site to float64 (test stimulus, usable neuroid)
        curve : dict of site to float64 (layer), the median r of each layer; empty without ``with_curve``
        """

        def one(name: str) -> tuple[FoldBasis, dict[str, float], dict[str, float]]:
            # site by site: the bits do not depend on the other sites
            basis = FoldBasis(bases[name][train], bases[name][test])
            quality = {
                which: float(np.median(loo_r2(basis, site.means[train][:, site.choosing])))
                for which, site in sites.items()
            }
            alone = {which: self._alone(basis, site, train, test) for which, site in sites.items() if with_curve}
            return basis, quality, alone

        made = dict(zip(bases, each(one, bases), strict=True))
        chosen = {which: max(made, key=lambda name: made[name][1][which]) for which in sites}
        predicted = {which: self.predict(made[chosen[which]][0], site.means[train]) for which, site in sites.items()}
        curve = {which: np.array([alone[which] for _, _, alone in made.values()]) for which in sites if with_curve}
        return Fold(train, test, chosen), predicted, curve

    def _alone(self, basis: FoldBasis, site: Site, train: np.ndarray, test: np.ndarray) -> float:
        """Return the median held-out r that a layer gives the neuroids that choose."""
        y = site.means[:, site.choosing]
        return float(np.median(_r(self.predict(basis, y[train]), y[test])))

    def _nulls(
        self,
        bases: Mapping[str, np.ndarray],
        sites: Mapping[str, Site],
        folds: list[Fold],
        seed: int,
        progress: Progress,
    ) -> dict[str, np.ndarray]:
        """Return the score of each site in some folds with its images relabelled, maps fitted again, float64 (permutation)."""
        progress.start("sites, with permutations", len(sites))

        def one(item: tuple[str, Site]) -> np.ndarray:
            name, site = item
            some = site.means[:, site.tested]
            labels = permuted_labels(len(some), self.n_permutations, seed)[:, 1:]
            responses = some[labels].reshape(len(some), -1)  # (stimulus, permutation x neuroid)
            total = np.zeros(responses.shape[1])
            for fold in folds:
                layer = bases[fold.chosen[name]]
                predicted = self.predict(FoldBasis(layer[fold.train], layer[fold.test]), responses[fold.train])
                total += _r(predicted, responses[fold.test])
            progress.advance(1)
            return np.asarray(np.median((total / len(folds)).reshape(self.n_permutations, -1), axis=1))

        values = each(one, sites.items()) if self.n_permutations else [np.empty(0)] * len(sites)
        progress.finish()
        return dict(zip(sites, values, strict=True))

    def _result(
        self,
        name: str,
        site: Site,
        target: xr.DataArray,
        bases: Mapping[str, np.ndarray],
        notes: list[str],
        folds: list[Fold],
        held: Mapping[str, list[np.ndarray]],
        curves: Mapping[str, list[np.ndarray]],
        nulls: Mapping[str, np.ndarray],
        images: np.ndarray,
    ) -> xr.Dataset:
        n_usable = site.means.shape[1]
        attrs = {
            "definition": json.dumps(self.definition),
            "n_layers": len(bases),
            "n_neuroids": n_usable,
            "notes": json.dumps([*notes, *site.notes]),
            "image_scale": IMAGE_SCALE,
        }
        labels = {"neuroid_id": ("neuroid", target["neuroid_id"].values)}
        raw = np.full(len(site.usable), np.nan)
        if not folds or not n_usable:
            raw[site.usable] = 0.0  # no layers: a constant prediction explains nothing
            return xr.Dataset({"raw": ("neuroid", raw)}, coords=labels, attrs=attrs)
        draws = np.full((self.n_bootstraps, len(raw)), np.nan, dtype=np.float32)
        by_fold, draws[:, site.usable] = _over_folds(zip(held[name], folds, strict=True), site.means, images)
        raw[site.usable] = by_fold.mean(0)
        share = np.array([sum(fold.chosen[name] == layer for fold in folds) for layer in bases]) / len(folds)
        variables = {
            "raw": ("neuroid", raw),
            "bootstrap": (("bootstrap", "neuroid"), draws),
            "weight": ("layer", share),
            "layer_raw": ("layer", np.mean(curves[name], axis=0)),
            "best_layer": list(bases)[int(share.argmax())],
            "null": ("permutation", nulls[name]),
            "null_raw": float(np.median(by_fold[:N_FOLDS, site.tested].mean(0))),
            "intercept_only": 0.0,
            **self.extra(bases, folds, name, site),
        }
        return xr.Dataset(variables, coords={**labels, "layer": ("layer", np.array(list(bases)))}, attrs=attrs)

    # ceiling ----------------------------------------------------------------------------------------------------------

    def ceiling(self, target: xr.DataArray, seed: int) -> xr.Dataset:
        """Return the r that a perfect model would reach with each neuroid: the root of its reliability."""
        cube = trial_cube(target)[0]
        values = np.full(cube.shape[2], np.nan)
        usable, _ = usable_neuroids(average(target)["mean"].values)
        if cube.shape[1] < 2 or not usable.any():
            why = "a single repetition" if usable.any() else "no neuroid is left"
            return xr.Dataset({"ceiling": ("neuroid", values)}, attrs={"notes": json.dumps([f"no ceiling: {why}"])})
        rng = np.random.default_rng([seed, _SPLIT_STREAM])
        reliability = neuroid_reliability(cube[:, :, usable], rng, N_SPLITS)
        positive = np.where(reliability > 0, reliability, np.nan)
        values[usable] = np.sqrt(positive)
        draws = np.full((self.n_bootstraps, len(values)), np.nan, dtype=np.float32)
        draws[:, usable] = self._ceiling_draws(cube[:, :, usable], positive, seed)
        lost = int((~(reliability > 0)).sum())
        notes = [f"{lost} neuroid(s) of no reliability have no ceiling"] if lost else []
        return xr.Dataset(
            {"ceiling": ("neuroid", values), "bootstrap": (("bootstrap", "neuroid"), draws)},
            attrs={"notes": json.dumps(notes)},
        )

    def _ceiling_draws(self, cube: np.ndarray, reliability: np.ndarray, seed: int) -> np.ndarray:
        """Return draws (bootstrap, neuroid) of the ceilings on resampled images, from one split of the trials."""
        masks = half_masks(cube.shape[1], 1, np.random.default_rng([seed, _SPLIT_STREAM]))
        first, second = (half[0] for half in half_means(cube, masks))
        images = image_counts(len(cube), seed, self.n_bootstraps)
        halves = spearman_brown(weighted_pearson(first, second, images))
        root = np.sqrt(reliability)
        return np.asarray(root + (halves - halves.mean(0)) / (2 * root))


def layer_bases(layers: Mapping[str, xr.Dataset]) -> tuple[dict[str, np.ndarray], list[str]]:
    """Return the principal-component scores (stimulus, component) of the layers that vary, and notes on the others."""
    names = list(layers)
    made = dict(zip(names, each(lambda name: sample_basis(layers[name]["gram"].values), names), strict=True))
    constant = [name for name, basis in made.items() if not basis.shape[1]]
    if names and len(constant) == len(names):
        raise ContractViolation("no layer is left to score: all are constant", "look at the model's activations")
    notes = [f"layer {name} left out: it answers alike to all stimuli" for name in constant]
    return {name: basis for name, basis in made.items() if basis.shape[1]}, notes


def site_of(target: xr.DataArray, seed: int) -> Site:
    means = average(target)["mean"].values
    usable, notes = usable_neuroids(means)
    n_usable = int(usable.sum())
    if not n_usable:
        notes = [*notes, "no neuroid is left"]
    order = np.random.default_rng([seed, _NEUROID_STREAM]).permutation(n_usable)
    return Site(means[:, usable], usable, notes, np.sort(order[:MAX_CHOOSING]), np.sort(order[:MAX_NULL]))


def loo_r2(basis: FoldBasis, y: np.ndarray) -> np.ndarray:
    """Return the leave-one-out R2 (neuroid) of ridge among the training images; 0 for a neuroid that is constant there."""
    sse = ridge(basis, y, alpha_grid(basis, _CHOOSING_ALPHAS)).sse.min(0)
    n = len(y)
    sst = (n / (n - 1)) ** 2 * np.square(y - y.mean(0)).sum(0)
    varies = np.ptp(y, axis=0) > 0  # the mean of equal numbers may differ from them by rounding
    return np.where(varies, 1 - sse / np.where(varies, sst, 1), 0.0)


def alpha_grid(basis: FoldBasis, relative: np.ndarray) -> np.ndarray:
    """Return penalties in units of the mean variance of the directions of a layer's training rows."""
    if not basis.rank:
        return relative  # the layer varies with the test images alone: nothing is penalised
    return np.asarray(relative * np.mean(basis.s**2))


def _r(predicted: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return Pearson r (neuroid); 0 where the prediction or the response does not vary."""
    return np.nan_to_num(pearson_columns(predicted, y))


def _over_folds(
    held: Iterable[tuple[np.ndarray, Fold]], means: np.ndarray, images: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return r (fold, neuroid), and its mean over folds on resampled images (bootstrap, neuroid)."""
    r, draws = [], None
    for predicted, fold in held:
        y = means[fold.test]
        r.append(_r(predicted, y))
        again = np.nan_to_num(weighted_pearson(predicted, y, images[:, fold.test]))
        draws = again if draws is None else draws + again
    assert draws is not None
    return np.array(r), draws / len(r)
