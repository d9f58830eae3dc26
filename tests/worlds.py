"""Small made-up data for the tests of metrics: layers from features, trials from mean responses."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr
from sklearn.model_selection import KFold

from mousebench.assemblies import make_responses
from mousebench.linalg import gram


def layers_of(features: Mapping[str, np.ndarray]) -> dict[str, xr.Dataset]:
    """Return layers from their features (stimulus, feature)."""
    out = {}
    for name, values in features.items():
        product, row_sum, width = gram([values])
        out[name] = xr.Dataset(
            {"gram": (("stimulus", "stimulus_b"), product), "feature_sum": ("stimulus", row_sum)},
            attrs={"n_features": width},
        )
    return out


def net(n_stimuli: int, n_layers: int = 4, seed: int = 0, width: int = 60) -> dict[str, np.ndarray]:
    """Return features of layers that are alike, as those of one net are."""
    rng = np.random.default_rng([seed, 7])
    common = rng.normal(size=(n_stimuli, 4))
    return {
        f"layer{k}": common @ rng.normal(size=(4, width)) + 3 * rng.normal(size=(n_stimuli, width))
        for k in range(n_layers)
    }


def driven(features: np.ndarray, n_neuroids: int, seed: int = 0) -> np.ndarray:
    """Return mean responses (stimulus, neuroid) that are linear in features, each of variance about 1."""
    rng = np.random.default_rng([seed, 11])
    means = (features - features.mean(0)) @ rng.normal(size=(features.shape[1], n_neuroids))
    return means / means.std(0)


def responses_of(
    means: np.ndarray,
    n_repetitions: int = 4,
    noise: float = 1.0,
    seed: int = 0,
    animals: Sequence[str] | None = None,
) -> xr.DataArray:
    """Return trials: mean responses (stimulus, neuroid) and noise."""
    rng = np.random.default_rng([seed, 10])
    n_stimuli, n_neuroids = means.shape
    trials = np.repeat(means, n_repetitions, axis=0) + noise * rng.normal(size=(n_stimuli * n_repetitions, n_neuroids))
    labels: dict[str, object] = {"neuroid_id": [f"n{number}" for number in range(n_neuroids)]}
    if animals is not None:
        labels["animal_id"] = list(animals)
    return make_responses(
        trials, np.repeat(np.arange(n_stimuli), n_repetitions), np.tile(np.arange(n_repetitions), n_stimuli), labels
    )


def means_of(target: xr.DataArray, n_stimuli: int) -> np.ndarray:
    """Return the mean (stimulus, neuroid) of trials made by ``responses_of``."""
    return target.values.astype(np.float64).reshape(n_stimuli, -1, target.sizes["neuroid"]).mean(1)


def weighted_rdm(means: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the RDM (pair) of means (stimulus, neuroid) whose neuroids (neuroid) count so often."""
    covariance = np.cov(means, aweights=weights, ddof=0)
    sd = np.sqrt(np.diag(covariance))
    return 1 - (covariance / sd / sd[:, None])[np.triu_indices(len(means), 1)]


def folds_of(n_stimuli: int, n_folds: int, repeats: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return train and test stimuli of every fold of every partition, by scikit-learn."""
    return [
        (train, test)
        for repeat in range(repeats)
        for train, test in KFold(n_folds, shuffle=True, random_state=seed + repeat).split(np.zeros((n_stimuli, 1)))
    ]


def notes_of(result: xr.Dataset) -> list[str]:
    return json.loads(result.attrs["notes"])
