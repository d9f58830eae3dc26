"""Taskonomic signatures: all tasks at once as regressors of each site's RDM (Conwell et al. 2020, figures 1 and 4).

The RDM of a site is fitted by non-negative least squares on the RDMs of all tasks; a task's weight, and the mean weight of
a cluster of tasks, say what the site is like. As published, weights are those of 1,000 random 6-fold splits of the images, and
their spread is that of splits. Splits are no replicates: the same images are in all of them. So an image bootstrap stands
beside them, and the change of the cross-validated R2 when a task is left out, which does not depend on how alike tasks are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
import xarray as xr

from mousebench.linalg import upper_triangle
from mousebench.nnls import Partition, Regressors, definite, kfold, solve_nnls
from mousebench.progress import Progress, Silent
from mousebench.resampling import image_counts

N_SPLITS = 1000
N_FOLDS = 6
_TASK_STREAM = 10


def task_columns(rdms: Mapping[str, np.ndarray]) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Return tasks, their RDMs as columns (pair, task) of mean 0 and sd 1, and the sd that they had (task).

    Parameters
    ----------
    rdms : mapping of task to float64 (stimulus, stimulus_b)
    """
    columns = np.column_stack([upper_triangle(rdm) for rdm in rdms.values()])
    sd = columns.std(0)
    return list(rdms), (columns - columns.mean(0)) / sd, sd


def split_weights(
    tasks: Mapping[str, np.ndarray],
    sites: Mapping[str, np.ndarray],
    *,
    n_splits: int = N_SPLITS,
    seed: int = 0,
    progress: Progress | None = None,
) -> xr.Dataset:
    """Fit all tasks to each site in many random splits of the images.

    Parameters
    ----------
    tasks, sites : mapping of name to float64 (stimulus, stimulus_b)
        RDMs.
    n_splits : int
        Split s is ``KFold(6, shuffle=True, random_state=seed + s)``.
    seed : int
    progress : Progress, optional

    Returns
    -------
    Dataset
        ``weight`` (split, task, site): mean over folds, for RDMs of standard deviation 1; ``weight_raw``: as published, for RDMs as they
        are; ``r`` (split, site): leak-free, mean over folds; ``cv_r2`` (split, site).
    """
    names, pairs, sd = task_columns(tasks)
    y = np.column_stack([upper_triangle(rdm) for rdm in sites.values()])
    n_stimuli = len(next(iter(sites.values())))
    near = _all_pairs(pairs, y) > 0
    progress = progress or Silent()
    progress.start("splits of the images", n_splits)
    weight = np.empty((n_splits, len(names), len(sites)), dtype=np.float32)
    r, cv_r2 = (np.empty((n_splits, len(sites))) for _ in range(2))
    for split in range(n_splits):
        partition = Partition(kfold(n_stimuli, N_FOLDS, seed + split))
        regressors = Regressors(pairs, partition)
        found = regressors.score_within(regressors.moments(y[partition.order]), near)
        weight[split], r[split], cv_r2[split] = found.weight, np.tanh(np.arctanh(found.r).mean(0)), found.cv_r2
        progress.advance(1)
    progress.finish()
    dims = ("split", "task", "site")
    return xr.Dataset(
        {
            "weight": (dims, weight),
            "weight_raw": (dims, weight / sd[:, None]),
            "r": (("split", "site"), r),
            "cv_r2": (("split", "site"), cv_r2),
        },
        {"task": names, "site": list(sites)},
    )


def _all_pairs(pairs: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the weights (task, site) of a fit on all pairs, which those of a part are near to."""
    x = pairs - pairs.mean(0)
    return solve_nnls(definite(x.T @ x), x.T @ (y - y.mean(0)))


def image_bootstrap(
    tasks: Mapping[str, np.ndarray], sites: Mapping[str, np.ndarray], *, n_draws: int = 1000, seed: int = 0
) -> xr.DataArray:
    """Fit all tasks to each site on resampled images; pairs of an image with itself are left out.

    Returns
    -------
    DataArray (bootstrap, task, site)
        Weights for RDMs of standard deviation 1, all pairs in the fit.
    """
    names, pairs, _ = task_columns(tasks)
    y = np.column_stack([upper_triangle(rdm) for rdm in sites.values()])
    n_stimuli = len(next(iter(sites.values())))
    first, second = np.triu_indices(n_stimuli, 1)
    design = np.column_stack([np.ones(len(pairs)), pairs, y])
    n_tasks, near = len(names), _all_pairs(pairs, y) > 0
    weight = np.empty((n_draws, n_tasks, len(sites)), dtype=np.float32)
    for draw, counts in enumerate(image_counts(n_stimuli, seed, n_draws)):
        times = counts[first] * counts[second]
        some = times > 0
        rows = design[some]
        products = (rows * times[some, None]).T @ rows
        total, sums = products[0, 0], products[0, 1:]
        centred = products[1:, 1:] - np.outer(sums, sums) / total
        weight[draw] = solve_nnls(definite(centred[:n_tasks, :n_tasks]), centred[:n_tasks, n_tasks:], near)
    return xr.DataArray(weight, {"task": names, "site": list(sites)}, ("bootstrap", "task", "site"))


def drop_one(
    tasks: Mapping[str, np.ndarray], sites: Mapping[str, np.ndarray], *, repeats: int = 10, seed: int = 0
) -> xr.DataArray:
    """Return how much of the cross-validated R2 of each site is lost without each task, (task, site)."""
    names, pairs, _ = task_columns(tasks)
    y = np.column_stack([upper_triangle(rdm) for rdm in sites.values()])
    n_stimuli = len(next(iter(sites.values())))
    lost = np.zeros((len(names), len(sites)))
    for repeat in range(repeats):
        partition = Partition(kfold(n_stimuli, N_FOLDS, seed + repeat))
        targets = y[partition.order]
        whole = _cv_r2(pairs, partition, targets)
        for task in range(len(names)):
            lost[task] += whole - _cv_r2(np.delete(pairs, task, axis=1), partition, targets)
    return xr.DataArray(lost / repeats, {"task": names, "site": list(sites)}, ("task", "site"))


def _cv_r2(pairs: np.ndarray, partition: Partition, y: np.ndarray) -> np.ndarray:
    regressors = Regressors(pairs, partition)
    return regressors.score_within(regressors.moments(y)).cv_r2


def by_cluster(weight: xr.DataArray, clusters: Mapping[str, str]) -> xr.DataArray:
    """Return the mean weight of the tasks of each cluster: (..., task, site) becomes (..., cluster, site)."""
    of = [clusters[str(task)] for task in weight["task"].values]
    names = list(dict.fromkeys(of))
    parts = [weight.isel(task=[k for k, name in enumerate(of) if name == cluster]).mean("task") for cluster in names]
    return xr.concat(parts, xr.Variable("cluster", names)).transpose(..., "cluster", "site")


def resampled_tasks(weight: xr.DataArray, clusters: Mapping[str, str], *, seed: int = 0) -> xr.DataArray:
    """Return the mean weight of each cluster's tasks, of tasks drawn anew from the cluster in every draw.

    What is said of a cluster is meant of other tasks of its kind too, and the few that there are differ. Changes are widened by the root of n / (n - 1), as a
    resample of n varies by so much less than n others would.

    Parameters
    ----------
    weight : DataArray (draw, task, site)
    clusters : mapping of task to cluster
    seed : int

    Returns
    -------
    DataArray (draw, cluster, site)
    """
    whole = by_cluster(weight, clusters)
    rng = np.random.default_rng([seed, _TASK_STREAM])
    of = np.array([clusters[str(task)] for task in weight["task"].values])
    parts = []
    for cluster in whole["cluster"].values:
        some = weight.isel(task=np.flatnonzero(of == cluster)).values
        n = some.shape[1]
        times = rng.multinomial(n, np.full(n, 1 / n), size=len(some)) / n
        wider = (n / max(n - 1, 1)) ** 0.5
        parts.append(some.mean(1) + wider * np.einsum("dt,dts->ds", times - 1 / n, some))
    return whole.copy(data=np.stack(parts, axis=1))


def by_area(weight: xr.DataArray) -> xr.DataArray:
    """Return the mean over the sites of each area: (..., site) becomes (..., area)."""
    of = [str(site).partition(".")[0] for site in weight["site"].values]
    names = list(dict.fromkeys(of))
    parts = [weight.isel(site=[k for k, name in enumerate(of) if name == area]).mean("site") for area in names]
    return xr.concat(parts, xr.Variable("area", names)).transpose(..., "area")


def dissociations(weight: xr.DataArray) -> xr.Dataset:
    """Say for any two areas and two clusters in what share of draws the clusters change places.

    Parameters
    ----------
    weight : DataArray (split or bootstrap, cluster, area)

    Returns
    -------
    Dataset along dissociation
        ``share`` of draws in which cluster_a outweighs cluster_b in area_a and the opposite in area_b; ``area_a``, ``area_b``,
        ``cluster_a``, ``cluster_b``, ordered so that the share is that of the more common direction; the highest first.
    """
    values = weight.transpose(..., "cluster", "area").values
    clusters, areas = (weight[name].values.astype(str).tolist() for name in ("cluster", "area"))
    rows: list[tuple[float, str, str, str, str]] = []
    for a, b in combinations(range(len(clusters)), 2):
        sign = np.sign(values[:, a] - values[:, b])
        for p, q in combinations(range(len(areas)), 2):
            one = float(((sign[:, p] > 0) & (sign[:, q] < 0)).mean())
            other = float(((sign[:, p] < 0) & (sign[:, q] > 0)).mean())
            first, second = (a, b) if one >= other else (b, a)
            rows.append((max(one, other), areas[p], areas[q], clusters[first], clusters[second]))
    rows.sort(key=lambda row: (-row[0], *row[1:]))
    columns = list(zip(*rows, strict=True)) or [()] * 5
    names = ("share", "area_a", "area_b", "cluster_a", "cluster_b")
    return xr.Dataset({name: ("dissociation", np.array(column)) for name, column in zip(names, columns, strict=True)})


def summary(weight: xr.DataArray, over: str) -> xr.Dataset:
    """Return mean, low and high (95 %) over splits or draws."""
    low, high = (weight.quantile(q, over).drop_vars("quantile") for q in (0.025, 0.975))
    return xr.Dataset({"mean": weight.mean(over), "low": low, "high": high})


def latent_rdms(models: Sequence[str], rdms: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """Return RDMs by task from models ``taskonomy/TASK@latent``."""
    return {name.rpartition("/")[2].partition("@")[0]: rdm for name, rdm in zip(models, rdms, strict=True)}
