"""The metric ``cka``: debiased linear CKA of the best layer, chosen in the training folds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import xarray as xr

from mousebench.assemblies import average
from mousebench.cka import u_centred
from mousebench.errors import ContractViolation
from mousebench.influence import NeuroidPull, Pull, cosine_pull, gram_neuroid_pull
from mousebench.linalg import gram
from mousebench.nnls import Partition
from mousebench.progress import Progress
from mousebench.rdms import LayerRdms, TargetRdm, usable_neuroids
from mousebench_plugins.metrics._rdm_metric import Held, Outcome, RdmMetric, constant_outcomes, fisher_mean

_CHUNK = 128  # permutations at a time: bounds the memory
_CONSTANT = 1e-12


def best_layer(
    prepare: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray],
    agreements: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray],
    layers: LayerRdms,
    sites: Mapping[str, np.ndarray],
    labels: np.ndarray,
    partitions: Sequence[Partition],
    progress: Progress,
) -> dict[str, Outcome]:
    """Choose the layer that agrees best with the site among training images; its agreement among the images held out.

    Parameters
    ----------
    prepare : callable
        (all pairs of the layers, their places, some images) -> what is compared of the layers, (layer, pair).
    agreements : callable
        (that, the site's matrix, labels of these images) -> agreement (layer, relabelling).
    layers : LayerRdms
        ``pairs`` are the upper triangles of their matrices.
    sites : mapping of site to float64 (stimulus, stimulus_b)
        Matrices.
    labels : int (stimulus, 1 + permutation)
    partitions : sequence of Partition
    progress : Progress

    Returns
    -------
    dict of site to Outcome
        ``weight`` is the share of folds in which a layer was chosen.
    """
    if not layers.names:
        return constant_outcomes(sites, labels)
    n_stimuli = len(labels)
    first, second = np.triu_indices(n_stimuli, 1)
    place = np.zeros((n_stimuli, n_stimuli), dtype=int)
    place[first, second] = place[second, first] = np.arange(len(first))
    r: dict[str, list[np.ndarray]] = {site: [] for site in sites}
    held: dict[str, list[Held]] = {site: [] for site in sites}
    share = {site: np.zeros(len(layers.names)) for site in sites}
    for partition in partitions:
        for fold in range(partition.n_folds):
            inside = np.flatnonzero(partition.fold == fold)
            outside = np.flatnonzero(partition.fold != fold)
            train, test = (prepare(layers.pairs, place, some) for some in (outside, inside))
            pair = place[np.ix_(inside, inside)][np.triu_indices(len(inside), 1)]
            for site, values in sites.items():
                chosen = agreements(train, values, labels[outside]).argmax(0)
                r[site].append(agreements(test, values, labels[inside])[chosen, np.arange(len(chosen))])
                share[site][chosen[0]] += 1
                held[site].append(Held(pair, test[chosen[0]]))
        for _ in sites:
            progress.advance(1)
    return {
        site: Outcome(fisher_mean(np.stack(r[site])), share[site] / len(r[site]), held[site], {"intercept_only": 0.0})
        for site in sites
    }


def _u_centred_pairs(pairs: np.ndarray, place: np.ndarray, some: np.ndarray) -> np.ndarray:
    """Return U-centred Grams of length 1 (layer, pair) of some images, from all pairs (pair, layer)."""
    grams = pairs[place[np.ix_(some, some)]].transpose(2, 0, 1)
    return np.nan_to_num(u_centred(grams))  # a layer that is constant on these images goes with nothing


def _cka(x: np.ndarray, gram_y: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return debiased CKA (layer, relabelling) of U-centred layers with a site's Gram under many relabellings.

    U-centring projects, so the inner product of two centred Grams needs one of them centred; the length of the
    other follows from its row sums.

    Parameters
    ----------
    x : float64 (layer, pair)
        U-centred, length 1.
    gram_y : float64 (stimulus, stimulus_b)
    labels : int (some stimulus, relabelling)
    """
    n = len(labels)
    first, second = np.triu_indices(n, 1)
    hollow = gram_y - np.diag(np.diag(gram_y))
    out = np.zeros((len(x), labels.shape[1]))
    for start in range(0, labels.shape[1], _CHUNK):
        some = labels[:, start : start + _CHUNK]
        y = hollow[some[first], some[second]]
        member = np.zeros((len(gram_y), some.shape[1]))
        np.put_along_axis(member, some, 1.0, axis=0)
        rows = np.take_along_axis(hollow @ member, some, axis=0)
        energy = 2 * (y * y).sum(0)
        length = energy - 2 * (rows**2).sum(0) / (n - 2) + rows.sum(0) ** 2 / ((n - 1) * (n - 2))
        varies = length > _CONSTANT * energy
        # both triangles: x has length 1 over one of them
        scale = np.sqrt(np.where(varies, length / 2, np.inf))
        out[:, start : start + _CHUNK] = x @ y / scale
    return out


class Cka(RdmMetric):
    """Debiased linear CKA of the best layer; parameters as those of RdmMetric."""

    version = 2
    accepts = frozenset({"responses"})
    what = "Gram"
    least_images = 4
    least_neuroids = 1

    def __init__(self, *, repeats: int = 10, **options: int) -> None:
        super().__init__(partial(best_layer, _u_centred_pairs, _cka), repeats=repeats, **options)

    @property
    def definition(self) -> dict[str, object]:
        """All that fixes the number."""
        return {
            "cka": "linear, HSIC unbiased (Song et al. 2012), diagonals left out",
            "layer": "the highest CKA with the mean responses of the site among the images of the training folds",
            "raw": "tanh of the mean of arctanh(CKA) among the images of a held-out fold over folds and repeats",
            "weight": "share of folds in which a layer was chosen",
            **super().definition,
        }

    def columns(self, layers: Mapping[str, xr.Dataset]) -> LayerRdms:
        """Return the centred Grams of all layers that vary, copies once, scaled to the same length."""
        names, columns, constant = [], [], []
        for name in layers:
            values = _centred(layers[name]["gram"].values)
            if np.trace(values) > _CONSTANT * np.trace(layers[name]["gram"].values):
                names.append(name)
                columns.append(_upper(values))
            else:
                constant.append(name)
        notes = [f"layer {name} left out: it answers alike to all stimuli" for name in constant]
        if not layers:
            return LayerRdms([], np.empty((0, 0)), np.empty(0), ["no layers: every prediction is a constant"])
        if not columns:
            raise ContractViolation("no layer is left to score: all are constant", "look at the model's activations")
        pairs = np.column_stack(columns)
        sd = np.linalg.norm(pairs, axis=0)
        pairs = pairs / sd
        alike = pairs.T @ pairs
        keep = [k for k in range(len(names)) if not (1 - alike[k, :k] < self.alike).any()]
        if len(keep) < len(names):
            notes.append(
                f"{len(names) - len(keep)} of {len(names)} layers have the same Gram as an earlier one, used once"
            )
        return LayerRdms([names[k] for k in keep], np.ascontiguousarray(pairs[:, keep]), sd[keep], notes)

    def site(self, target: xr.DataArray) -> TargetRdm:
        """Return the centred Gram of the mean responses of a site."""
        means = average(target)["mean"].values
        usable, notes = usable_neuroids(means)
        count = int(usable.sum())
        if count == 0:
            return TargetRdm(None, 0, [*notes, "no neuroid is left"])
        return TargetRdm(_centred(gram([means[:, usable]])[0]), count, notes)

    def agreement(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Return the cosine (column) of U-centred pairs (pair, column) of two sets of Grams."""
        x, y = _u_centred_columns(a), _u_centred_columns(b)
        return np.einsum("pk,pk->k", x, y) / np.linalg.norm(x, axis=0) / np.linalg.norm(y, axis=0)

    def pull(self, x: np.ndarray, y: np.ndarray, about: float | None = None) -> Pull:
        """Return how the cosine of U-centred pairs moves; centring itself moves nothing to first order.

        U-centring leaves n (n - 3) / 2 of n (n - 1) / 2 directions, so squares of influences are that much too small.
        """
        n = _n_stimuli(len(x))
        x, y = _u_centred_columns(np.column_stack([x, y])).T
        found = cosine_pull(x, y, about)
        return replace(found, weight=found.weight * np.sqrt((n - 1) / (n - 3)))

    def neuroid_pull(self, means: np.ndarray, value: np.ndarray) -> NeuroidPull:
        """Return how neuroids move the agreement."""
        return gram_neuroid_pull(means, value)

    def reliability(self, first: np.ndarray, second: np.ndarray) -> float:
        """Return the CKA of two sets of means (stimulus, neuroid)."""
        a, b = (u_centred(gram([means])[0]) for means in (first, second))
        return float(a @ b)

    def halves(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Return the pairs (pair, 2) of the Grams of two halves."""
        return np.column_stack([_upper(_centred(gram([half])[0])) for half in (first, second)])


def _centred(values: np.ndarray) -> np.ndarray:
    mean = values.mean(0)
    return np.asarray(values - mean - mean[:, None] + mean.mean())


def _upper(values: np.ndarray) -> np.ndarray:
    return np.asarray(values[np.triu_indices(len(values), 1)])


def _n_stimuli(n_pairs: int) -> int:
    return int((1 + np.sqrt(1 + 8 * n_pairs)) // 2)


def _u_centred_columns(pairs: np.ndarray) -> np.ndarray:
    """Return U-centred pairs (pair, column) of hollow matrices; centring what is centred changes nothing."""
    n = _n_stimuli(len(pairs))
    first, second = np.triu_indices(n, 1)
    rows = np.zeros((n, pairs.shape[1]))
    np.add.at(rows, first, pairs)
    np.add.at(rows, second, pairs)
    return np.asarray(pairs - (rows[first] + rows[second]) / (n - 2) + rows.sum(0) / ((n - 1) * (n - 2)))
