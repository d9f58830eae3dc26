"""The metric ``pls-nayebi``: Nayebi et al. 2023 and the code of neuroailab/mouse-vision."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import xarray as xr

from mousebench.assemblies import average, trial_cube
from mousebench.errors import ContractViolation
from mousebench.linalg import pearson_columns, weighted_pearson
from mousebench.nipals import MAX_STEPS, TOLERANCE, nipals
from mousebench.progress import Progress, Silent
from mousebench.rdms import usable_neuroids
from mousebench.regression import FoldBasis, Responses
from mousebench.reliability import half_masks, half_means, neuroid_reliability
from mousebench.resampling import N_DRAWS, image_counts
from mousebench.threads import each
from mousebench_plugins.metrics._per_neuroid import IMAGE_SCALE, layer_bases

N_COMPONENTS = 25
N_SPLITS = 10
N_HALVES = 100
N_CHOOSING = 2  # of the halvings of trials, those that find the best layer
_LEAST_TEST = 3
_TOGETHER = 10  # halvings at a time: their means are held
_HALVES_STREAM = 6
_SPLIT_STREAM = 2


@dataclass(frozen=True)
class Animals:
    """The neuroids of a site that have a mean in every half of the trials.

    Attributes
    ----------
    cube : (stimulus, repetition, usable neuroid)
    usable : bool (neuroid)
    members : list of int (usable neuroid)
        By animal.
    masks : bool (halving, repetition)
    notes : list of str
    """

    cube: np.ndarray
    usable: np.ndarray
    members: list[np.ndarray]
    masks: np.ndarray
    notes: list[str]


@dataclass
class Tally:
    """Sums over splits and halvings of one layer, by usable neuroid."""

    raw: np.ndarray
    score: np.ndarray
    n_raw: np.ndarray
    n_score: np.ndarray
    n_fits: int = 0
    n_negative: int = 0
    kept: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]] = field(default_factory=list)

    @classmethod
    def empty(cls, n: int) -> Tally:
        """Return sums of nothing for so many neuroids."""
        return cls(np.zeros(n), np.zeros(n), np.zeros(n, dtype=int), np.zeros(n, dtype=int))

    def means(self) -> tuple[np.ndarray, np.ndarray]:
        """Return raw and score (usable neuroid); NaN for one that has none in any split."""
        nothing = np.full(self.raw.shape, np.nan)
        raw = np.divide(self.raw, self.n_raw, out=nothing.copy(), where=self.n_raw > 0)
        return raw, np.divide(self.score, self.n_score, out=nothing, where=self.n_score > 0)


class PlsNayebi:
    """Joint PLS2 of each animal, with the splits, the noise correction and the aggregation of Nayebi et al. 2023.

    Parameters
    ----------
    n_splits, n_halves, n_choosing, n_bootstraps : int
        Of the stimuli; of the trials; of these, those that find the best layer; resamples for the interval.
    """

    version = 2
    accepts = frozenset({"responses"})
    normalisation = "published"

    def __init__(
        self,
        *,
        n_splits: int = N_SPLITS,
        n_halves: int = N_HALVES,
        n_choosing: int = N_CHOOSING,
        n_bootstraps: int = N_DRAWS,
    ) -> None:
        self.n_splits = n_splits
        self.n_halves = n_halves
        self.n_choosing = min(n_choosing, n_halves)
        self.n_bootstraps = n_bootstraps

    @property
    def definition(self) -> dict[str, object]:
        """All that fixes the number."""
        return {
            "fit": f"one PLS2 of all neuroids of an animal, {N_COMPONENTS} components (or the rank of the layer), features not scaled",
            "algorithm": f"scikit-learn's NIPALS, tol {TOLERANCE:g}, max_iter {MAX_STEPS}, started from the first neuroid: depends on their order",
            "splits": f"RandomState({self.n_splits} seed + s).permutation(stimuli), s = 0 .. {self.n_splits - 1}, the first half trains; "
            "seed 0 is as published",
            "halves": f"{self.n_halves} random halvings of the repetitions, 1 and 2; M1 and M2 are fitted to the halves t1 and t2",
            "raw": "r(M1, t2) over the test images, mean over splits and halvings, by neuroid: of half of the trials",
            "score": "r(M1, t2) / sqrt(SB(r(M1, M2)) SB(r(t1, t2))) over the test images, SB(r) = 2 r / (1 + r); mean over the splits "
            "and halvings in which the product is positive, by neuroid; median over neuroids",
            "layer": f"highest score by the first {self.n_choosing} halvings: on the images that it is reported on, as published, hence optimistic",
            "layer_raw": f"median raw of each layer, first {self.n_choosing} halvings",
            "ceiling": "square root of the split-half correlation, not corrected: what a perfect model would reach as raw",
            "ceiling_splits": self.n_halves,
            "bootstraps": self.n_bootstraps,
            "resampled": "images, in the first halving, what they share over neuroids times the root of 2 as images train too; neuroids within animals",
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
        """Score sites one after the other; what layers are made of is made once."""
        progress = progress or Silent()
        bases, notes = layer_bases(layers)
        progress.start("sites", len(targets))
        out = {}
        for name, target in targets.items():
            out[name] = self._site(bases, notes, target, seed)
            progress.advance(1)
        progress.finish()
        return out

    def _site(self, bases: Mapping[str, np.ndarray], notes: list[str], target: xr.DataArray, seed: int) -> xr.Dataset:
        site = self._animals(target, seed)
        n_stimuli, _, n_usable = site.cube.shape
        if n_stimuli // 2 < _LEAST_TEST:
            raise ContractViolation(
                f"{n_stimuli} stimuli are too few: responses are correlated over half of them, at least {_LEAST_TEST}"
            )
        attrs = {
            "definition": json.dumps(self.definition),
            "n_layers": len(bases),
            "n_neuroids": n_usable,
            "image_scale": IMAGE_SCALE,
        }
        notes = [*notes, *site.notes]
        labels = {"neuroid_id": ("neuroid", target["neuroid_id"].values)}
        raw, score = (np.full(len(site.usable), np.nan) for _ in range(2))
        if not bases or not n_usable:
            raw[site.usable] = score[site.usable] = 0.0  # no layers: a constant prediction explains nothing
            found = {"raw": ("neuroid", raw), "score": ("neuroid", score)}
            return xr.Dataset(found, coords=labels, attrs={**attrs, "notes": json.dumps(notes)})
        splits = halving_splits(n_stimuli, self.n_splits, seed)

        def curve(name: str) -> tuple[np.ndarray, np.ndarray]:
            return self._tally(bases[name], site, splits, slice(0, self.n_choosing)).means()

        by_layer = each(curve, bases)
        medians = np.array([[_median(values) for values in pair] for pair in by_layer])  # (layer, raw and score)
        best = int(np.where(np.isfinite(medians[:, 1]), medians[:, 1], -np.inf).argmax())
        tally = self._tally(list(bases.values())[best], site, splits, slice(0, self.n_halves))
        raw[site.usable], score[site.usable] = tally.means()
        lost = tally.n_fits - int(tally.n_score.sum())
        if lost:
            notes.append(
                f"{lost / tally.n_fits:.1%} of the scores of a neuroid in a split and halving do not exist and are left out, as published: "
                f"{tally.n_negative / tally.n_fits:.1%} have a negative product of reliabilities, in the rest something does not vary"
            )
        notes.append("no null: the best of all layers would have to be found again in every permutation")
        draws = np.full((2, self.n_bootstraps, len(raw)), np.nan, dtype=np.float32)
        draws[:, :, site.usable] = self._draws(tally, splits, n_stimuli, seed)
        names = list(bases)
        return xr.Dataset(
            {
                "raw": ("neuroid", raw),
                "score": ("neuroid", score),
                "bootstrap": (("bootstrap", "neuroid"), draws[0]),
                "score_bootstrap": (("bootstrap", "neuroid"), draws[1]),
                "layer_raw": ("layer", medians[:, 0]),
                "layer_score": ("layer", medians[:, 1]),
                "best_layer": names[best],
                "intercept_only": 0.0,
            },
            coords={**labels, "layer": ("layer", np.array(names))},
            attrs={**attrs, "notes": json.dumps(notes)},
        )

    def _animals(self, target: xr.DataArray, seed: int) -> Animals:
        cube = trial_cube(target)[0]
        usable, notes = usable_neuroids(average(target)["mean"].values)
        if cube.shape[1] < 2:
            notes.append("no score: a single repetition cannot be halved")
            usable = np.zeros_like(usable)
            masks = np.zeros((0, cube.shape[1]), dtype=bool)
        else:
            masks = half_masks(cube.shape[1], self.n_halves, np.random.default_rng([seed, _HALVES_STREAM]))
        there = (~np.isnan(cube)).astype(np.float32)
        whole = usable.copy()
        for mask in masks if not there.all() else ():
            for half in (mask, ~mask):
                whole &= (there[:, half].sum(1) > 0).all(0)
        if (usable & ~whole).any():
            notes.append(
                f"{(usable & ~whole).sum()} neuroid(s) left out: without any trial for some stimulus in half of the trials"
            )
        if not whole.any():
            notes.append("no neuroid is left")
        cube = cube[:, :, whole]
        if "animal_id" not in target.coords:
            notes.append("animals are not known: all neuroids are fitted together, as those of one")
            return Animals(cube, whole, [np.arange(cube.shape[2])] if whole.any() else [], masks, notes)
        animal = target["animal_id"].values.astype(str)[whole]
        return Animals(cube, whole, [np.flatnonzero(animal == one) for one in np.unique(animal)], masks, notes)

    def _tally(
        self, layer: np.ndarray, site: Animals, splits: list[tuple[np.ndarray, np.ndarray]], which: slice
    ) -> Tally:
        """Fit one layer (stimulus, component) to some of the halvings, and sum up."""
        tally = Tally.empty(site.cube.shape[2])
        for first, second in _halves(site, which):
            for number, (train, test) in enumerate(splits):
                basis = FoldBasis(layer[train], layer[test])
                m1, m2 = np.empty_like(first[:, test]), np.empty_like(second[:, test])
                for members in site.members:
                    sets = [Responses.of(half[train][:, members]) for half in (*first, *second)]
                    predicted = nipals(basis, sets, N_COMPONENTS)
                    m1[:, :, members], m2[:, :, members] = predicted[: len(first)], predicted[len(first) :]
                t1, t2 = first[:, test], second[:, test]
                raw = pearson_columns(m1, t2)
                score, negative = corrected(raw, pearson_columns(m1, m2), pearson_columns(t1, t2))
                for values, total, count in ((raw, tally.raw, tally.n_raw), (score, tally.score, tally.n_score)):
                    total += np.nan_to_num(values).sum(0)
                    count += np.isfinite(values).sum(0)
                tally.n_fits += raw.size
                tally.n_negative += negative
                if len(tally.kept) == number:
                    tally.kept.append((m1[0].copy(), m2[0].copy(), t1[0].copy(), t2[0].copy()))
        return tally

    def _draws(
        self, tally: Tally, splits: list[tuple[np.ndarray, np.ndarray]], n_stimuli: int, seed: int
    ) -> np.ndarray:
        """Return draws (raw and score, bootstrap, usable neuroid) on resampled images, from the first halving."""
        images = image_counts(n_stimuli, seed, self.n_bootstraps)
        total = np.zeros((2, self.n_bootstraps, len(tally.raw)))
        count = np.zeros(total.shape, dtype=int)
        for (m1, m2, t1, t2), (_, test) in zip(tally.kept, splits, strict=True):
            weight = images[:, test]
            raw = weighted_pearson(m1, t2, weight)
            score, _ = corrected(raw, weighted_pearson(m1, m2, weight), weighted_pearson(t1, t2, weight))
            for number, values in enumerate((raw, score)):
                total[number] += np.nan_to_num(values)
                count[number] += np.isfinite(values)
        return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)

    # ceiling ----------------------------------------------------------------------------------------------------------

    def ceiling(self, target: xr.DataArray, seed: int) -> xr.Dataset:
        """Return the r that a perfect model would reach with half of the trials; the published score does not use it."""
        cube = trial_cube(target)[0]
        values = np.full(cube.shape[2], np.nan)
        usable, _ = usable_neuroids(average(target)["mean"].values)
        if cube.shape[1] < 2 or not usable.any():
            why = "a single repetition" if usable.any() else "no neuroid is left"
            return xr.Dataset({"ceiling": ("neuroid", values)}, attrs={"notes": json.dumps([f"no ceiling: {why}"])})
        rng = np.random.default_rng([seed, _SPLIT_STREAM])
        reliability = neuroid_reliability(cube[:, :, usable], rng, self.n_halves)
        half = reliability / (2 - reliability)  # Spearman-Brown, undone
        values[usable] = np.sqrt(np.where(half > 0, half, np.nan))
        lost = int((~(half > 0)).sum())
        notes = [f"{lost} neuroid(s) of no reliability have no ceiling"] if lost else []
        return xr.Dataset({"ceiling": ("neuroid", values)}, attrs={"notes": json.dumps(notes)})


def halving_splits(n: int, n_splits: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return train and test of every split; those of seed 0 are the published ones."""
    orders = [np.random.RandomState(n_splits * seed + number).permutation(n) for number in range(n_splits)]
    return [(order[: n // 2], order[n // 2 :]) for order in orders]


def corrected(raw: np.ndarray, model: np.ndarray, data: np.ndarray) -> tuple[np.ndarray, int]:
    """Return the noise-corrected r, NaN where it does not exist, and how often that is for a negative product.

    Parameters
    ----------
    raw, model, data : float64 (..., neuroid)
        r(M1, t2), r(M1, M2) and r(t1, t2).
    """
    product = _spearman_brown(model) * _spearman_brown(data)
    positive = product > 0
    score = np.divide(raw, np.sqrt(np.where(positive, product, 1)), out=np.full(raw.shape, np.nan), where=positive)
    return score, int((product < 0).sum())


def _spearman_brown(r: np.ndarray) -> np.ndarray:
    """Return 2 r / (1 + r) as published, not cut where it runs away; NaN at r = -1."""
    return np.divide(2 * r, 1 + r, out=np.full(r.shape, np.nan), where=r > -1)


def _halves(site: Animals, which: slice) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the means (halving, stimulus, usable neuroid) of both halves of the trials, some halvings at a time."""
    masks = site.masks[which]
    for begin in range(0, len(masks), _TOGETHER):
        yield half_means(site.cube, masks[begin : begin + _TOGETHER])


def _median(values: np.ndarray) -> float:
    there = values[np.isfinite(values)]
    return float(np.median(there)) if there.size else float("nan")
