"""RDMs of layers and of targets, always dissimilarities on both sides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import xarray as xr

from mousebench.assemblies import average, check_target
from mousebench.errors import ContractViolation
from mousebench.linalg import correlation_rdm, gram, upper_triangle

COPY = 1e-10  # columns closer than this (1 - r) are the same but for rounding
ALIKE = 1e-3  # columns closer than this carry the same information: their weights could be exchanged for one another's


@dataclass(frozen=True)
class LayerRdms:
    """The RDMs of a model's layers as regressors.

    Attributes
    ----------
    names : list of str
        The layers that are left.
    pairs : float64 (pair, layer)
        Upper triangles, each column with mean 0 and standard deviation 1; (0, 0) without layers.
    sd : float64 (layer)
        Standard deviation of the columns before.
    notes : list of str
        What was left out and why.
    """

    names: list[str]
    pairs: np.ndarray
    sd: np.ndarray
    notes: list[str]


def layer_rdm(layer: xr.Dataset) -> np.ndarray:
    """Return the correlation RDM (stimulus, stimulus_b) of one layer."""
    return correlation_rdm(layer["gram"].values, layer["feature_sum"].values, int(layer.attrs["n_features"]))


def layer_rdms(layers: Mapping[str, xr.Dataset], alike: float = COPY) -> LayerRdms:
    """Return the RDMs of all layers that have one, copies once.

    A layer whose features do not vary for some stimulus has no correlation RDM; one that answers alike to all stimuli
    has a constant one; both are left out with a note. Of layers with the same RDM (a linear rescaling, say) the first
    is kept: as regressors they are one. A model without layers gives no column.

    Parameters
    ----------
    layers : mapping of layer to Dataset
    alike : float
        RDMs with 1 - r below this are the same.

    Raises
    ------
    ContractViolation
        If there are layers and none is left.
    """
    names, columns, constant = [], [], []
    for name in layers:
        column = upper_triangle(layer_rdm(layers[name]))
        if np.isfinite(column).all() and column.std() > 1e-9:
            names.append(name)
            columns.append(column)
        else:
            constant.append(name)
    notes = [f"layer {name} left out: it is constant and has no RDM" for name in constant]
    if not names and not constant:
        return LayerRdms([], np.empty((0, 0)), np.empty(0), ["no layers: every prediction is a constant"])
    if not columns:
        raise ContractViolation("no layer is left to score: all are constant", "look at the model's activations")
    pairs = np.column_stack(columns)
    sd = pairs.std(0)
    pairs = (pairs - pairs.mean(0)) / sd
    keep = _first_of_copies(pairs, alike)
    if len(keep) < len(names):
        same = "the same RDM as" if alike <= COPY else f"an RDM that correlates above {1 - alike:g} with that of"
        notes.append(f"{len(names) - len(keep)} of {len(names)} layers have {same} an earlier one, used once")
    return LayerRdms([names[k] for k in keep], np.ascontiguousarray(pairs[:, keep]), sd[keep], notes)


def _first_of_copies(pairs: np.ndarray, alike: float) -> list[int]:
    correlation = pairs.T @ pairs / len(pairs)
    keep: list[int] = []
    for column in range(pairs.shape[1]):
        if not keep or 1 - correlation[column, keep].max() > alike:
            keep.append(column)
    return keep


@dataclass(frozen=True)
class TargetRdm:
    """The RDM of a site.

    Attributes
    ----------
    values : float64 (stimulus, stimulus_b) or None
        None where there is no RDM; the notes say why.
    n_neuroids : int or None
        Neuroids that it was made from, None where that is not known.
    notes : list of str
    """

    values: np.ndarray | None
    n_neuroids: int | None
    notes: list[str]


def target_rdm(target: xr.DataArray) -> TargetRdm:
    """Return the RDM of a target: its own, or that of its neuroids' mean responses."""
    if check_target(target) == "rdm":
        count = target.attrs.get("n_neuroids")
        return TargetRdm(np.asarray(target.values), None if count is None else int(count), [])
    means = average(target)["mean"].values
    usable, notes = usable_neuroids(means)
    count = int(usable.sum())
    if count < 2:
        return TargetRdm(None, count, [*notes, f"{count} neuroid(s): an RDM needs two"])
    rdm = correlation_rdm(*gram([means[:, usable]]))
    if not np.isfinite(rdm).all():
        lost = int(np.isnan(np.diag(rdm)).sum())
        return TargetRdm(None, count, [*notes, f"no RDM: all {count} neuroids answer alike to {lost} of the stimuli"])
    return TargetRdm(rdm, count, notes)


def usable_neuroids(means: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Say which neuroids can be used.

    Parameters
    ----------
    means : float64 (stimulus, neuroid)

    Returns
    -------
    usable : bool (neuroid)
        False for a neuroid that lacks a stimulus, or answers alike to all.
    notes : list of str
        How many were left out, and why.
    """
    missing = np.isnan(means).any(0)
    constant = ~missing & (np.where(missing, 0, means).std(0) == 0)
    notes = []
    if missing.any():
        notes.append(f"{missing.sum()} neuroid(s) left out: without any trial for some stimulus")
    if constant.any():
        notes.append(f"{constant.sum()} neuroid(s) left out: constant")
    return ~(missing | constant), notes
