"""How well a perfect model could do, and how much choosing neurons by the same trials flatters it.

A neuron's ceiling is the square root of its reliability; an RDM's is the square root of the Spearman-Brown corrected
split-half correlation. Neurons chosen because their trials agree agree less in other trials: the bias is measured by
choosing on one half of the trials and estimating on that half (flattered) and on the other (fair).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mousebench.assemblies import trial_cube
from mousebench.linalg import correlation_rdm, gram, upper_triangle
from mousebench.reliability import neuroid_reliability, rdm_reliability, spearman_brown
from mousebench_plugins.benchmarks.allen_ns.assemble import Recipe, Recording, prophecy

if TYPE_CHECKING:
    from collections.abc import Sequence

    import xarray as xr


def site_ceilings(target: xr.DataArray, seed: int, n_splits: int = 20) -> dict[str, float]:
    """Return the ceilings of a site from the trials of its target.

    Parameters
    ----------
    target : DataArray, (presentation, neuroid)
    seed : int
    n_splits : int

    Returns
    -------
    dict
        ``neuron_ceiling``: median over neurons of the root of their reliability; ``rdm_split_half``: mean split-half r
        of the RDM, half of the data against the other; ``rdm_ceiling``: root of its Spearman-Brown correction.
    """
    cube, _ = trial_cube(target)
    rng = np.random.default_rng([seed, 1])
    neurons = np.sqrt(np.maximum(neuroid_reliability(cube, rng, n_splits), 0))
    halves = _mean(rdm_reliability(cube, rng, n_splits)) if cube.shape[2] > 1 else float("nan")
    return {
        "neuron_ceiling": _median(neurons),
        "rdm_split_half": halves,
        "rdm_ceiling": float(np.sqrt(np.maximum(spearman_brown(halves), 0.0))),
    }


def selection_bias(
    recordings: Sequence[Recording], recipe: Recipe, n_draws: int = 4, n_splits: int = 20
) -> dict[str, float]:
    """Measure how much higher ceilings look on the trials that chose the neurons.

    In each draw the repetitions are halved; each half chooses once, and the reliability of the chosen neurons (as of
    all trials) and the split-half r of their RDM (as of half of a half) are estimated on both.

    Parameters
    ----------
    recordings : sequence of Recording
    recipe : Recipe
    n_draws, n_splits : int

    Returns
    -------
    dict
        ``neuron_same``, ``neuron_apart`` (median ceilings), ``rdm_same``, ``rdm_apart`` (split-half r of a quarter of
        the trials against another); NaN where no neuron was chosen.
    """
    found: dict[str, list[float]] = {"neuron_same": [], "neuron_apart": [], "rdm_same": [], "rdm_apart": []}
    for draw in range(n_draws):
        rng = np.random.default_rng([recipe.seed, 2, draw])
        sides = [_both_halves(one, rng, n_splits) for one in recordings]
        for chooser in (0, 1):
            keep = [np.nan_to_num(side[chooser][0], nan=-1.0) >= recipe.threshold for side in sides]
            if sum(int(mask.sum()) for mask in keep) < 2:
                continue
            for name, half in (("same", chooser), ("apart", 1 - chooser)):
                reliability = np.concatenate([side[half][0][mask] for side, mask in zip(sides, keep, strict=True)])
                quarters = [side[half][1][:, :, mask] for side, mask in zip(sides, keep, strict=True)]
                found[f"neuron_{name}"].append(_median(np.sqrt(np.maximum(reliability, 0))))
                found[f"rdm_{name}"].append(_rdm_agreement(np.concatenate(quarters, axis=2)))
    return {name: _mean(np.array(values)) for name, values in found.items()}


def _both_halves(one: Recording, rng: np.random.Generator, n_splits: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return for each half of the repetitions: reliability as of all trials, and means (quarter, stimulus, neuroid)."""
    order = rng.permutation(one.cube.shape[1])
    middle = len(order) // 2
    halves = []
    for half in (order[:middle], order[middle:]):
        trials = one.cube[:, half]
        reliability = prophecy(neuroid_reliability(trials, rng, n_splits), len(order) / len(half))
        there = ~np.isnan(trials)
        means = []
        for part in (slice(0, len(half) // 2), slice(len(half) // 2, None)):
            count = there[:, part].sum(1)
            total = np.where(there[:, part], trials[:, part], 0).sum(1, dtype=np.float64)
            means.append(np.divide(total, count, out=np.zeros(total.shape), where=count > 0))
        halves.append((reliability, np.stack(means)))
    return halves


def _rdm_agreement(means: np.ndarray) -> float:
    """Return Pearson r of the RDMs of two sets of means (quarter, stimulus, neuroid)."""
    triangles = [upper_triangle(correlation_rdm(*gram([quarter]))) for quarter in means]
    if not all(np.isfinite(triangle).all() for triangle in triangles):
        return float("nan")
    return float(np.corrcoef(triangles[0], triangles[1])[0, 1])


def _mean(values: np.ndarray) -> float:
    there = values[~np.isnan(values)]
    return float(there.mean()) if len(there) else float("nan")


def _median(values: np.ndarray) -> float:
    there = values[~np.isnan(values)]
    return float(np.median(there)) if len(there) else float("nan")
