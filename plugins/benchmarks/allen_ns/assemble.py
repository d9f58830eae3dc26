"""Sessions into one labelled array a site: trials by scene, reliable neurons, pooled over mice."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mousebench import assemblies
from mousebench.errors import ContractViolation, MissingData
from mousebench.reliability import neuroid_reliability
from mousebench_plugins.benchmarks.allen_ns.checks import BLANK

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import xarray as xr

SELECTIONS = ("all", "apart")


@dataclass(frozen=True)
class Recipe:
    """How neurons are chosen and trials arranged.

    Attributes
    ----------
    threshold : float
        Neurons with a split-half reliability (Spearman-Brown corrected to all trials) of at least this are kept.
    selection : str
        "all": the reliability is of all trials, as published, and the ceilings of the chosen neurons are too high by
        the amount that ``ceilings.selection_bias`` measures. "apart": a third of the repetitions chooses, the target
        holds the others, and its ceilings are free of that bias.
    include_grey : bool
        Keep the blank sweeps as a further condition, stimulus_id -1.
    n_splits : int
        Random splits of the trials.
    seed : int
    """

    threshold: float = 0.75
    selection: str = "all"
    include_grey: bool = False
    n_splits: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        if self.selection not in SELECTIONS:
            raise ContractViolation(f"selection {self.selection!r} is not one of {', '.join(SELECTIONS)}")

    def text(self) -> str:
        """Return the recipe as JSON."""
        return json.dumps(asdict(self), sort_keys=True)


@dataclass(frozen=True)
class Recording:
    """Trials of one session, and what is known of its neurons.

    Attributes
    ----------
    key : int
        A number of its own for the random splits: they do not depend on which other sessions there are.
    cube : float32 (stimulus, repetition, neuroid)
        NaN is a trial that is missing.
    neuroid : mapping of coordinate to (neuroid)
    """

    key: int
    cube: np.ndarray
    neuroid: dict[str, np.ndarray]


def conditions(include_grey: bool, n_scenes: int = 118) -> np.ndarray:
    """Return the stimulus ids, 0..117, and -1 after them where blanks are kept."""
    ids = np.arange(n_scenes, dtype=np.int64)
    return np.append(ids, BLANK) if include_grey else ids


def arrange(values: np.ndarray, frame: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Arrange presentations by condition and occurrence.

    Parameters
    ----------
    values : (presentation, neuroid)
        In order of onset.
    frame : int (presentation)
    ids : int (stimulus)
        The conditions wanted, in the order wanted.

    Returns
    -------
    float32 (stimulus, repetition, neuroid)
        NaN where a condition has fewer presentations than another.
    """
    rows = [np.flatnonzero(frame == condition) for condition in ids]
    most = max((len(row) for row in rows), default=0)
    cube = np.full((len(ids), most, values.shape[1]), np.nan, dtype=np.float32)
    for position, row in enumerate(rows):
        cube[position, : len(row)] = values[row]
    return cube


def recording(session: xr.Dataset, site: str, ids: np.ndarray) -> Recording:
    """Return the trials of a stored two-photon session."""
    attrs = session.attrs
    cells = session["cell_specimen_id"].values
    labels = {
        "site": site,
        "area": attrs["area"],
        "layer": site.partition(".")[2],
        "depth_um": int(attrs["depth_um"]),
        "cre_line": attrs["cre_line"],
        "experiment_id": int(attrs["id"]),
        "animal_id": attrs["animal_id"],
    }
    return Recording(
        key=int(attrs["id"]),
        cube=arrange(session["response"].values, session["frame"].values, ids),
        neuroid={"neuroid_id": cells, **{name: np.full(len(cells), value) for name, value in labels.items()}},
    )


def choosing_repetitions(n_repetitions: int, recipe: Recipe) -> np.ndarray:
    """Return bool (repetition): which repetitions choose the neurons."""
    if recipe.selection == "all":
        return np.ones(n_repetitions, dtype=bool)
    rng = np.random.default_rng([recipe.seed, n_repetitions])
    chosen = np.zeros(n_repetitions, dtype=bool)
    chosen[rng.permutation(n_repetitions)[: n_repetitions // 3]] = True
    return chosen


def prophecy(reliability: np.ndarray, factor: float) -> np.ndarray:
    """Return the reliability of ``factor`` times as many trials (Spearman and Brown), cut at -1 below."""
    floor = np.maximum(reliability, -1 / (2 * factor - 1) if factor > 1 else -1.0)
    return np.asarray(factor * floor / (1 + (factor - 1) * floor))


def reliabilities(one: Recording, chosen: np.ndarray, recipe: Recipe) -> np.ndarray:
    """Return the reliability of all trials of each neuroid, estimated on the chosen repetitions."""
    rng = np.random.default_rng([recipe.seed, one.key])
    part = one.cube[:, chosen[: one.cube.shape[1]]]
    estimate = neuroid_reliability(part, rng, recipe.n_splits)
    factor = one.cube.shape[1] / part.shape[1]
    return estimate if factor == 1 else prophecy(estimate, factor)


def assemble(recordings: Iterable[Recording], site: str, ids: np.ndarray, recipe: Recipe, **attrs: Any) -> xr.DataArray:
    """Pool the reliable neurons of a site's sessions.

    Parameters
    ----------
    recordings : iterable of Recording
    site : str
    ids : int (stimulus)
    recipe : Recipe
    **attrs
        Kept with the array.

    Returns
    -------
    DataArray, float32 (presentation, neuroid)
        By condition, then repetition; the attribute ``counts`` says (as JSON) what was kept and what was dropped.

    Raises
    ------
    MissingData
        If no session is given, or no neuron is reliable enough.
    """
    chosen = [_choose(one, recipe) for one in recordings]
    counts = _counts([one for one, _ in chosen], [reliability for _, reliability in chosen], recipe.threshold)
    if not counts["kept"]:
        raise MissingData(
            f"{site} has no neuron with a reliability of {recipe.threshold} or more ({json.dumps(counts)})"
        )
    most = max(one.cube.shape[1] for one, _ in chosen)
    keep = [reliability >= recipe.threshold for _, reliability in chosen]
    pool = np.concatenate(
        [_pad(one.cube[:, :, mask], most) for (one, _), mask in zip(chosen, keep, strict=True)], axis=2
    )
    left = ~choosing_repetitions(most, recipe) if recipe.selection == "apart" else np.ones(most, dtype=bool)
    repetition = np.flatnonzero(left)
    counts["missing_trials"] = int(np.isnan(pool[:, left]).sum())
    labels = [{**one.neuroid, "reliability": reliability} for one, reliability in chosen]
    return assemblies.make_responses(
        pool[:, left].reshape(len(ids) * len(repetition), -1),
        np.repeat(ids, len(repetition)),
        np.tile(repetition, len(ids)),
        {
            name: np.concatenate([label[name][mask] for label, mask in zip(labels, keep, strict=True)])
            for name in labels[0]
        },
        counts=json.dumps(counts),
        recipe=recipe.text(),
        **attrs,
    )


def _choose(one: Recording, recipe: Recipe) -> tuple[Recording, np.ndarray]:
    return one, reliabilities(one, choosing_repetitions(one.cube.shape[1], recipe), recipe)


def _counts(recordings: list[Recording], reliability: list[np.ndarray], threshold: float) -> dict[str, int]:
    """Return what is kept and what is dropped, and why."""
    pooled = np.concatenate([np.empty(0), *reliability])
    return {
        "sessions": len(recordings),
        "animals": len({animal for one in recordings for animal in one.neuroid["animal_id"].tolist()}),
        "neurons": len(pooled),
        "no_reliability": int(np.isnan(pooled).sum()),
        "unreliable": int((pooled < threshold).sum()),
        "kept": int((pooled >= threshold).sum()),
        "sessions_without_kept": sum(not (values >= threshold).any() for values in reliability),
    }


def _pad(cube: np.ndarray, repetitions: int) -> np.ndarray:
    return np.pad(cube, ((0, 0), (0, repetitions - cube.shape[1]), (0, 0)), constant_values=np.nan)


def blanks(sessions: Sequence[tuple[xr.Dataset, str]], keep: np.ndarray) -> xr.DataArray:
    """Return the blank sweeps of some neurons, float32 (presentation, neuroid), stimulus_id -1.

    Parameters
    ----------
    sessions : sequence of (Dataset, site)
    keep : (neuroid)
        Neuroid ids, in the order wanted.
    """
    parts = [recording(session, site, np.array([BLANK])) for session, site in sessions]
    most = max(part.cube.shape[1] for part in parts)
    if most == 0:
        raise MissingData("no session of this site has blank sweeps")
    pool = np.concatenate([_pad(part.cube, most) for part in parts], axis=2)[0]
    labels = {name: np.concatenate([part.neuroid[name] for part in parts]) for name in parts[0].neuroid}
    where = {identifier: at for at, identifier in enumerate(labels["neuroid_id"].tolist())}
    order = np.array([where[identifier] for identifier in keep.tolist()], dtype=int)
    picked = {name: values[order] for name, values in labels.items()}
    return assemblies.make_responses(pool[:, order], np.full(most, BLANK), np.arange(most), picked)
