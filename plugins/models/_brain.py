"""The brain as a model of itself: what one half of the recordings knows of the other.

All sites of the benchmark are layers, as all layers of a net are, whatever sites are asked for. No number is on both
sides: with trials apart, a repetition is on the same side in all sites (areas of one animal are recorded at once, and
share the noise of a trial); with animals apart, so is an animal.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import xarray as xr

from mousebench.assemblies import align, average, check_target, content_hash
from mousebench.errors import ContractViolation, MissingData, UsageError
from mousebench.interfaces import Benchmark, Model
from mousebench.linalg import gram
from mousebench.reduction import Reduction, Reductions

VERSION = 1
SEED = 0


class Brain:
    """What ``brain`` is until it meets a benchmark.

    Parameters
    ----------
    parted : str
        "trials" or "animals".
    """

    layers: Sequence[str] = ()

    def __init__(self, parted: str) -> None:
        self.parted = parted
        self.fingerprint: Mapping[str, str] = {
            "model": f"brain {VERSION}",
            "made of": f"half of the {parted} of the benchmark that it is scored on",
            "seed": str(SEED),
        }

    def activations(self, images: np.ndarray, layers: Sequence[str]) -> Mapping[str, np.ndarray]:
        """Raise UsageError: images alone do not drive it."""
        raise UsageError("brain is made of the recordings of a benchmark, and has no answer to images alone")

    def take_from(self, benchmark: Benchmark, identifier: str) -> tuple[Model, Benchmark]:
        """Part the recordings; see ``mousebench.interfaces.MadeOfData``.

        Raises
        ------
        UsageError
            If the benchmark has RDMs and no trials, or, with animals apart, does not tell its animals.
        MissingData
            If no site has data.
        """
        ids = benchmark.stimuli()["stimulus_id"].values
        means, hashes = {}, {}
        for site in benchmark.sites:  # one at a time: the trials of all sites need not fit into memory
            target = _target(benchmark, site, identifier, ids)
            if target is not None:
                hashes[site] = content_hash(target)
                own = own_trials(target) if self.parted == "trials" else np.ones(target.sizes["presentation"], bool)
                means[site] = average(target.where(xr.DataArray(own, dims="presentation")))
        if not means:
            raise MissingData(
                f"{identifier} has no data of which brain could be made", f"mousebench fetch {identifier}"
            )
        leave: Callable[[xr.DataArray], xr.DataArray] = without_own_trials
        if self.parted == "animals":
            taken = half_of_animals({site: animals for site, mean in means.items() if (animals := animals_of(mean))})
            if not taken:
                raise UsageError(
                    f"{identifier} does not tell its animals (coordinate animal_id)", "score 'brain' on it"
                )
            means = {site: mean.isel(neuroid=_made_of(mean, taken)) for site, mean in means.items()}
            leave = partial(without_animals, taken=taken)
        fingerprint = {
            **self.fingerprint,
            "benchmark": f"{identifier} {benchmark.version}",
            "recordings": hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest(),
        }
        layers = {site: mean["mean"].values for site, mean in means.items()}
        return Half(layers, [site for site in benchmark.sites if site not in means], fingerprint), Rest(
            benchmark, leave
        )


def _target(benchmark: Benchmark, site: str, identifier: str, ids: np.ndarray) -> xr.DataArray | None:
    """Return the trials of a site, None where it has no data."""
    try:
        target = benchmark.target(site)
    except MissingData:
        return None
    try:
        kind = check_target(target)
        target = align(target, ids)
    except ContractViolation as error:
        raise ContractViolation(f"{identifier}, site {site}: {error.message}", error.hint) from error
    if kind == "rdm":
        raise UsageError(
            f"brain is made of trials, and {identifier} has none: its targets are RDMs",
            "score it where targets are responses to single presentations, as in sim-ns and allen-ns",
        )
    return target


class Half:
    """The half that is the model: mean responses, one site a layer.

    Parameters
    ----------
    means : mapping of site to float64 (stimulus, neuroid)
        NaN where no trial is left; a neuroid that lacks a stimulus is left out.
    lacking : sequence of str
        Sites without data.
    fingerprint : mapping of str to str
    """

    def __init__(self, means: Mapping[str, np.ndarray], lacking: Sequence[str], fingerprint: Mapping[str, str]) -> None:
        whole = {site: mean[:, ~np.isnan(mean).any(0)] for site, mean in means.items()}
        self.means = {site: mean for site, mean in whole.items() if mean.shape[1]}
        self.fingerprint = fingerprint
        self.layers: Sequence[str] = tuple(self.means)
        none_left = [site for site in whole if site not in self.means]
        reasons = {"no data": lacking, "no neuroid in this half, or none with a trial of every stimulus": none_left}
        self.skipped = {", ".join(sites): reason for reason, sites in reasons.items() if sites}

    def activations(self, images: np.ndarray, layers: Sequence[str]) -> Mapping[str, np.ndarray]:
        """Return float64 (image, neuroid), the images being the benchmark's stimuli."""
        return {layer: self.means[layer] for layer in layers}

    def reduce(self, images: np.ndarray, **_: Any) -> Reductions:
        """Return the layers with what is left out of them."""
        return Reductions([Reduction(site, *gram([mean])) for site, mean in self.means.items()], skipped=self.skipped)


class Rest:
    """The benchmark of what is left.

    Parameters
    ----------
    benchmark : Benchmark
    leave : callable
        Takes a target, returns what is left of it.
    """

    def __init__(self, benchmark: Benchmark, leave: Callable[[xr.DataArray], xr.DataArray]) -> None:
        self.benchmark = benchmark
        self.leave = leave
        self.version, self.sites, self.metrics = benchmark.version, benchmark.sites, benchmark.metrics
        self.simulated = bool(getattr(benchmark, "simulated", False))

    def stimuli(self) -> xr.DataArray:
        """Return the benchmark's own stimuli."""
        return self.benchmark.stimuli()

    def target(self, site: str) -> xr.DataArray:
        """Return what is left of a site."""
        return self.leave(self.benchmark.target(site))


# trials ---------------------------------------------------------------------------------------------------------------


def own_trials(target: xr.DataArray) -> np.ndarray:
    """Return bool (presentation): the trials of which the model is made.

    Of two successive repetitions (0 and 1, 2 and 3, ...) a coin gives one to each side, the same for all stimuli and
    sites. What it gives depends on the number of the repetition alone, not on which others or which sites there are.
    """
    repetition = target["repetition"].values
    if repetition.dtype.kind not in "iu" or repetition.min() < 0:
        raise ContractViolation("repetitions are not numbered by whole numbers from 0, by which trials are parted")
    pairs, where = np.unique(repetition // 2, return_inverse=True)
    coin = np.array([np.random.default_rng([SEED, pair]).random() < 0.5 for pair in pairs.tolist()])
    return np.asarray((repetition % 2 == 1) == coin[where])


def without_own_trials(target: xr.DataArray) -> xr.DataArray:
    """Return a target without the trials of which the model is made.

    A stimulus of which no trial is left keeps one that is missing, and the site has no score.
    """
    own = own_trials(target)
    repetition, stimulus = target["repetition"].values, target["stimulus_id"].values
    lost = ~np.isin(stimulus, stimulus[~own])
    left, whole = len(np.unique(repetition[~own])), len(np.unique(repetition))
    notes = [f"scored on the trials of which the model is not made: {left} of {whole} repetitions"]
    if lost.any():
        notes.append(f"no score: all trials of {len(np.unique(stimulus[lost]))} stimuli are in the model")
    kept = target.where(xr.DataArray(~own, dims="presentation")).isel(presentation=~own | lost)
    return _with_notes(kept, notes)


# animals --------------------------------------------------------------------------------------------------------------


def animals_of(target: xr.DataArray | xr.Dataset) -> list[str]:
    """Return the animal of each neuroid; an empty list where that is not known."""
    return target["animal_id"].values.astype(str).tolist() if "animal_id" in target.coords else []


def half_of_animals(animals: Mapping[str, Collection[str]]) -> frozenset[str]:
    """Return the animals of which the model is made: half of those of each site, as far as that goes.

    An animal is on one side in all of its sites. Animals are taken in random order, and each goes where its sites lack
    one; a site with few animals has the greater say, for it is the sooner left without a target.

    Parameters
    ----------
    animals : mapping of site to the animals of its neuroids
    """
    sites: dict[str, list[str]] = {}
    for site, found in animals.items():
        for animal in set(found):
            sites.setdefault(animal, []).append(site)
    say = {site: 1 / len(set(found)) ** 2 for site, found in animals.items()}
    surplus: Counter[str] = Counter()
    rng = np.random.default_rng(SEED)
    taken = set()
    for animal in rng.permutation(sorted(sites)).tolist():
        lean = sum(say[site] * surplus[site] for site in sites[animal])
        coin = rng.random() < 0.5
        side = -1 if lean > 1e-9 or (coin and lean > -1e-9) else 1
        surplus.update(dict.fromkeys(sites[animal], side))
        if side > 0:
            taken.add(animal)
    return frozenset(taken)


def _made_of(target: xr.DataArray | xr.Dataset, taken: Collection[str]) -> np.ndarray:
    """Return bool (neuroid): the neuroids of the animals that are taken; none where animals are not known."""
    return np.isin(animals_of(target) or [""] * target.sizes["neuroid"], list(taken))


def without_animals(target: xr.DataArray, taken: Collection[str]) -> xr.DataArray:
    """Return a target without the neuroids of the animals of which the model is made.

    A site with a single animal, or whose animals are not known, or all on one side, has no target: its trials are missing.
    """
    animals = set(animals_of(target))
    own = _made_of(target, taken)
    if own.any() and not own.all():
        left = len(animals - set(taken))
        notes = [f"scored on the neuroids of animals of which the model is not made: {left} of {len(animals)}"]
        return _with_notes(target.isel(neuroid=~own), notes)
    if not animals:
        reason = "its animals are not known"
    else:
        reason = "it has one animal" if len(animals) == 1 else f"all its {len(animals)} animals are on one side"
    return _with_notes(target.where(False), [f"no target: {reason}"])


def _with_notes(target: xr.DataArray, notes: list[str]) -> xr.DataArray:
    return target.assign_attrs(notes=json.dumps([*json.loads(target.attrs.get("notes", "[]")), *notes]))
