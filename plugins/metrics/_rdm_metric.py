"""What the metrics that compare one matrix of image pairs with another share: folds, null, draws, ceiling, labels.

A metric of this family turns each layer and each site into a value for every pair of images (an RDM, or a centred Gram),
predicts held-out pairs of the site from those of the layers, and says how well that goes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import xarray as xr

from mousebench.assemblies import average, check_target, trial_cube
from mousebench.errors import ContractViolation
from mousebench.influence import NeuroidPull, Pull, cosine_pull, image_changes, neuroid_changes, rdm_neuroid_pull
from mousebench.linalg import correlation_rdm, gram, pearson_columns, upper_triangle
from mousebench.nnls import Partition, kfold
from mousebench.progress import Progress, Silent
from mousebench.rdms import LayerRdms, TargetRdm, layer_rdms, target_rdm, usable_neuroids
from mousebench.reliability import growth, half_masks, half_means, of_all_trials, rdm_agreement, subset_agreement
from mousebench.resampling import N_DRAWS, about, animals, image_counts, n_animals, neuroid_counts

N_FOLDS = 6
N_PERMUTATIONS = 1000
N_SPLITS = 20
# permutations and splits draw from different streams of one seed
_PERMUTATION_STREAM = 1
_SPLIT_STREAM = 2
_QUARTER_STREAM = 6
_LIMIT = 1 - 1e-15  # arctanh(1) is infinite
_EPS = np.finfo(np.float64).eps


@dataclass(frozen=True)
class Held:
    """Predictions of held-out pairs.

    Attributes
    ----------
    pair : int (held pair)
        Their places in the upper triangle.
    predicted : float64 (held pair)
    """

    pair: np.ndarray
    predicted: np.ndarray


@dataclass(frozen=True)
class Outcome:
    """What a procedure gives for one site.

    Attributes
    ----------
    raw : float64 (1 + permutation)
        The score, then the scores of the permuted site.
    weight : float64 (layer)
    held : list of Held
        The predictions behind raw[0], one a fold.
    extra : mapping of name to number
    """

    raw: np.ndarray
    weight: np.ndarray
    held: list[Held]
    extra: Mapping[str, float] = field(default_factory=dict)


# (layers, site matrices by name, labels (stimulus, 1 + permutation), partitions, progress) -> outcomes by site
Procedure = Callable[
    [LayerRdms, Mapping[str, np.ndarray], np.ndarray, Sequence[Partition], Progress], Mapping[str, Outcome]
]


def fisher_mean(r: np.ndarray) -> np.ndarray:
    """Return the Fisher-z mean of correlations (fold, ...) over folds, those that are not numbers left out."""
    z = np.arctanh(np.clip(r, -_LIMIT, _LIMIT))
    there = np.isfinite(z)
    count = there.sum(0)
    return np.tanh(np.divide(np.where(there, z, 0).sum(0), count, out=np.full(count.shape, np.nan), where=count > 0))


def constant_outcomes(sites: Mapping[str, np.ndarray], labels: np.ndarray) -> dict[str, Outcome]:
    """Return what a model without layers gives: constant predictions, which explain nothing."""
    return {site: Outcome(np.zeros(labels.shape[1]), np.empty(0), [], {"intercept_only": 0.0}) for site in sites}


class RdmMetric:
    """A cross-validated comparison of image pairs.

    Parameters
    ----------
    procedure : callable
        What predicts held-out pairs, and how predictions are scored.
    repeats : int
        Partitions of the images into folds.
    n_permutations : int
        Relabellings of the images for the null.
    n_bootstraps : int
        Resamples of images and neuroids for the interval.
    alike : float
        Layers whose RDMs have 1 - r below this are one.
    """

    version = 3
    accepts = frozenset({"responses", "rdm"})
    normalisation = "ratio"
    what = "RDM"
    least_images = 3  # in a fold: pairs of fewer have no correlation
    least_neuroids = 2

    def __init__(
        self,
        procedure: Procedure,
        *,
        repeats: int,
        n_permutations: int = N_PERMUTATIONS,
        n_bootstraps: int = N_DRAWS,
        alike: float = 1e-10,
    ) -> None:
        self.procedure = procedure
        self.repeats = repeats
        self.n_permutations = n_permutations
        self.n_bootstraps = n_bootstraps
        self.alike = alike

    @property
    def definition(self) -> dict[str, object]:
        """All that fixes the number."""
        return {
            "folds": N_FOLDS,
            "partition": "KFold(6, shuffle=True, random_state=seed + r) over the stimuli, r = 0 .. repeats - 1",
            "repeats": self.repeats,
            "same_layers": f"1 - r of their {self.what}s below {self.alike:g}",
            "permutations": self.n_permutations,
            "permuted": f"stimulus labels of the site {self.what}, the same permutations for all sites",
            "bootstraps": self.n_bootstraps,
            "resampled": "images, and neuroids within animals where there are trials, to first order; predictions stay as fitted",
            "ceiling": f"square root of the mean split-half correlation of the site {self.what}, carried on to all trials "
            "as it grows from quarters to halves",
            "ceiling_splits": N_SPLITS,
        }

    # what a subclass may change ---------------------------------------------------------------------------------------

    def columns(self, layers: Mapping[str, xr.Dataset]) -> LayerRdms:
        """Return the layers as columns of pairs."""
        return layer_rdms(layers, self.alike)

    def site(self, target: xr.DataArray) -> TargetRdm:
        """Return the matrix of a site."""
        return target_rdm(target)

    def agreement(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Return the agreement (column) of columns (pair, column); NaN where one of the two does not vary."""
        return pearson_columns(a, b)

    def pull(self, x: np.ndarray, y: np.ndarray, about: float | None = None) -> Pull:
        """Return how the agreement of pairs moves with their weights and values; see ``cosine_pull``."""
        return cosine_pull(_deviations(x), _deviations(y), about)

    def neuroid_pull(self, means: np.ndarray, value: np.ndarray) -> NeuroidPull:
        """Return how neuroids of means (stimulus, neuroid) move the agreement, from the pull of pairs (pair)."""
        return rdm_neuroid_pull(means, value)

    def reliability(self, first: np.ndarray, second: np.ndarray) -> float:
        """Return the agreement of two sets of means (stimulus, neuroid), of different trials."""
        return rdm_agreement(first, second)

    def halves(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Return the pairs (pair, 2) of the means (stimulus, neuroid) of two halves of the trials."""
        return np.column_stack([upper_triangle(correlation_rdm(*gram([half]))) for half in (first, second)])

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
        """Score sites together: what is computed of the layers serves all of them and all permutations."""
        rdms = self.columns(layers)
        found = {site: self.site(target) for site, target in targets.items()}
        values = {site: rdm.values for site, rdm in found.items() if rdm.values is not None}
        outcomes: Mapping[str, Outcome] = {}
        if values:
            n_stimuli = len(next(iter(values.values())))
            least = self.least_images
            if n_stimuli < least * N_FOLDS:
                raise ContractViolation(
                    f"{n_stimuli} stimuli are too few: {N_FOLDS} folds of at least {least}, whose pairs are compared, need {least * N_FOLDS}"
                )
            progress = progress or Silent()
            progress.start("sites x partitions, with permutations", self.repeats * len(values))
            if not rdms.names:
                rdms = replace(rdms, pairs=np.empty((n_stimuli * (n_stimuli - 1) // 2, 0)))
            partitions = list(make_partitions(n_stimuli, self.repeats, seed))
            labels = permuted_labels(n_stimuli, self.n_permutations, seed)
            outcomes = self.procedure(rdms, values, labels, partitions, progress)
            progress.finish()
        return {site: self._result(rdms, rdm, targets[site], outcomes.get(site), seed) for site, rdm in found.items()}

    def _result(
        self,
        rdms: LayerRdms,
        site: TargetRdm,
        target: xr.DataArray,
        outcome: Outcome | None,
        seed: int,
    ) -> xr.Dataset:
        notes = [*rdms.notes, *site.notes]
        attrs: dict[str, object] = {"definition": json.dumps(self.definition), "n_layers": len(rdms.names)}
        if site.n_neuroids is not None:
            attrs["n_neuroids"] = site.n_neuroids
        if outcome is None or site.values is None:
            return xr.Dataset({"raw": np.nan}, attrs={**attrs, "notes": json.dumps(notes)})
        by_layer: dict[str, object] = {"best_layer": ""}
        if rdms.names:
            names = np.array(rdms.names, dtype=str)
            heaviest = int(outcome.weight.argmax())
            best = outcome.weight[heaviest] > 0
            if not best:
                notes.append(f"all weights are 0: no layer's {self.what} goes with the site's")
            by_layer = {
                "weight": ("layer", outcome.weight),
                "layer_raw": ("layer", self._alone(rdms, site.values)),
                "best_layer": str(names[heaviest]) if best else "",
                "layer": ("layer", names),
            }
        draws, told = self._draws(outcome, site.values, target, seed)
        return xr.Dataset(
            {
                "raw": outcome.raw[0],
                "null": ("permutation", outcome.raw[1:]),
                "bootstrap": ("bootstrap", draws),
                **by_layer,
                **outcome.extra,
            },
            attrs={**attrs, "notes": json.dumps([*notes, *told])},
        )

    def _alone(self, rdms: LayerRdms, values: np.ndarray) -> np.ndarray:
        """Return how each layer (layer) goes with the site over all pairs; descriptive, nothing is held out."""
        one = np.repeat(upper_triangle(values)[:, None], len(rdms.names), axis=1)
        return self.agreement(rdms.pairs, one)

    # intervals --------------------------------------------------------------------------------------------------------

    def _draws(
        self, outcome: Outcome, values: np.ndarray, target: xr.DataArray, seed: int
    ) -> tuple[np.ndarray, list[str]]:
        """Return draws (bootstrap) of raw, and notes on what they do not know."""
        n_stimuli, raw = len(values), float(outcome.raw[0])
        y = upper_triangle(values)
        weight, value = np.zeros(len(y)), np.zeros(len(y))
        for held in outcome.held:  # raw is nearly the mean over folds
            pull = self.pull(held.predicted, y[held.pair], raw)
            weight[held.pair] += pull.weight / len(outcome.held)
            value[held.pair] += pull.second / len(outcome.held)
        changes = image_changes(weight, image_counts(n_stimuli, seed, self.n_bootstraps))
        if check_target(target) == "rdm":
            note = "the interval knows the sampling of images, not that of neurons: the RDM comes without them"
            return about(raw, changes), [note]
        means, counts, of_animal, notes = self._neuroids(target, seed)
        changes = changes + neuroid_changes(self.neuroid_pull(means, value), counts, of_animal)
        return about(raw, changes), notes

    def _neuroids(self, target: xr.DataArray, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]:
        """Return of the neuroids that can be used means (stimulus, neuroid), resamples (bootstrap, neuroid), animals."""
        means = average(target)["mean"].values
        usable, _ = usable_neuroids(means)
        some = target.isel(neuroid=usable)
        notes = []
        if n_animals(target) == 1:
            notes.append("one animal: the interval does not know how animals differ")
        return means[:, usable], neuroid_counts(some, seed, self.n_bootstraps), animals(some), notes

    # ceiling ----------------------------------------------------------------------------------------------------------

    def ceiling(self, target: xr.DataArray, seed: int) -> xr.Dataset:
        """Return the score that the noise-free site would reach: the root of the reliability of its matrix.

        Trials are split into random halves, their matrices compared, the mean agreement carried on to all trials: it
        grows from halves to all as it did from quarters to halves. An RDM without trials brings its split-half
        correlation as an attribute, which is corrected by Spearman-Brown.
        """
        changes, rate = np.full(self.n_bootstraps, np.nan), 2.0
        if check_target(target) == "rdm":
            half = np.array([float(target.attrs.get("reliability", np.nan))])
            missing = "the RDM comes without a reliability"
        else:
            half, rate, changes = self._split_half(target, seed)
            missing = f"half of the trials give no {self.what}"
        there = half[np.isfinite(half)]
        reliability = of_all_trials(float(there.mean()), rate) if there.size else np.nan
        notes = []
        if not there.size:
            notes.append(f"no ceiling: {missing}")
        elif reliability <= 0:
            notes.append(f"no ceiling: the reliability of the site {self.what} is {reliability:.3f}")
        value = np.sqrt(reliability) if reliability > 0 else np.nan
        found = {"ceiling": value, "reliability": reliability}
        if not np.isfinite(changes).any() or not reliability > 0:
            return xr.Dataset(found, attrs={"notes": json.dumps(notes)})
        # the slope of what all trials have on what halves have, and of the root on what is under it
        slope = rate / (1 + (rate - 1) * there.mean()) ** 2 / (2 * value)
        return xr.Dataset(
            {**found, "bootstrap": ("bootstrap", value + slope * changes)}, attrs={"notes": json.dumps(notes)}
        )

    def _split_half(self, responses: xr.DataArray, seed: int) -> tuple[np.ndarray, float, np.ndarray]:
        """Return split-half agreements (split), NaN where there are none, how fast they grow, and their changes (bootstrap)."""
        nothing = np.full(self.n_bootstraps, np.nan)
        usable, _ = usable_neuroids(average(responses)["mean"].values)
        cube = trial_cube(responses)[0][:, :, usable]
        if len(cube) < self.least_images or cube.shape[1] < 2 or cube.shape[2] < self.least_neuroids:
            return np.array([np.nan]), 2.0, nothing
        masks = half_masks(cube.shape[1], N_SPLITS, np.random.default_rng([seed, _SPLIT_STREAM]))
        half = subset_agreement(cube, masks, ~masks, self.reliability)
        there = half[np.isfinite(half)]
        # one split is enough for how the agreement changes with images and neurons
        first, second = (one[0] for one in half_means(cube, masks[:1]))
        whole = ~np.isnan(first).any(0) & ~np.isnan(second).any(0)
        if whole.sum() < self.least_neuroids or not there.size:
            return half, 2.0, nothing
        first, second = first[:, whole], second[:, whole]
        x, y = self.halves(first, second).T
        pull = self.pull(x, y)
        both = self.neuroid_pull(first, pull.first) + self.neuroid_pull(second, pull.second)
        changes = image_changes(pull.weight, image_counts(len(cube), seed, self.n_bootstraps))
        _, counts, of_animal, _ = self._neuroids(responses, seed)
        changes = changes + neuroid_changes(both, counts[:, whole], of_animal[whole])
        return half, growth(float(there.mean()), self._quarters(cube, seed)), changes

    def _quarters(self, cube: np.ndarray, seed: int) -> float:
        """Return the mean agreement of a quarter of the trials with another; NaN for fewer than 4 trials."""
        if cube.shape[1] < 4:
            return np.nan
        rng = np.random.default_rng([seed, _QUARTER_STREAM])
        halves = half_masks(cube.shape[1], N_SPLITS, rng)
        first = np.zeros_like(halves)
        for quarter, half in zip(first, halves, strict=True):
            quarter[half] = half_masks(int(half.sum()), 1, rng)[0]
        found = subset_agreement(cube, first, halves & ~first, self.reliability)
        there = found[np.isfinite(found)]
        return float(there.mean()) if there.size else np.nan


def _deviations(pairs: np.ndarray) -> np.ndarray:
    """Return what is left of pairs (pair) after their mean; 0 where that is rounding."""
    left = pairs - pairs.mean()
    return np.asarray(left if np.ptp(pairs) > len(pairs) * _EPS * np.abs(pairs).max() else np.zeros(len(pairs)))


def make_partitions(n_stimuli: int, repeats: int, seed: int) -> Iterator[Partition]:
    """Yield the partitions of the stimuli into folds."""
    for repeat in range(repeats):
        yield Partition(kfold(n_stimuli, N_FOLDS, seed + repeat))


def permuted_labels(n_stimuli: int, n_permutations: int, seed: int) -> np.ndarray:
    """Return int (stimulus, 1 + permutation): which stimulus takes the place of each; column 0 is all as it is."""
    rng = np.random.default_rng([seed, _PERMUTATION_STREAM])
    return np.stack([np.arange(n_stimuli), *(rng.permutation(n_stimuli) for _ in range(n_permutations))], axis=1)


def permuted_pairs(labels: np.ndarray) -> np.ndarray:
    """Return int32 (pair, 1 + permutation): where in a flat RDM the pairs of the relabelled stimuli stand.

    Parameters
    ----------
    labels : int (stimulus, 1 + permutation)
    """
    n_stimuli = len(labels)
    first, second = np.triu_indices(n_stimuli, 1)
    return (labels[first] * n_stimuli + labels[second]).astype(np.int32)
