"""What the published metric gives a model that knows nothing, by the number of repeats (METHODS of the page)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr

from mousebench.linalg import upper_triangle
from mousebench.nnls import Partition, Regressors, kfold

REPEATS = (1, 2, 5, 10, 20, 50, 100)
N_FOLDS = 6


def intercept_only(
    sites: Mapping[str, np.ndarray], *, repeats: Sequence[int] = REPEATS, seed: int = 0, n_seeds: int = 1
) -> xr.DataArray:
    """Return r of the intercept alone under the published recipe: predictions averaged over folds and repeats, then pooled.

    Parameters
    ----------
    sites : mapping of site to float64 (stimulus, stimulus_b)
        RDMs.
    repeats : sequence of int
    seed : int
        Partition k of the run with seed s is ``KFold(6, shuffle=True, random_state=s + k)``.
    n_seeds : int
        Runs, with seeds seed, seed + 1000, ...

    Returns
    -------
    DataArray (run, repeats, site)
        Signed; its square is what would be reported.
    """
    y = np.column_stack([upper_triangle(rdm) for rdm in sites.values()])
    n_stimuli = len(next(iter(sites.values())))
    nothing = np.empty((len(y), 0))
    out = np.empty((n_seeds, len(repeats), len(sites)))
    for run in range(n_seeds):
        total, count = np.zeros_like(y), np.zeros((len(y), 1))
        for repeat in range(max(repeats)):
            partition = Partition(kfold(n_stimuli, N_FOLDS, seed + 1000 * run + repeat))
            regressors = Regressors(nothing, partition)
            fits = regressors.fits(regressors.moments(y[partition.order]), intercept_only=True)
            predicted, times = regressors.predict(fits)
            total[partition.order] += predicted
            count[partition.order] += times[:, None]
            if repeat + 1 in repeats:
                mean = total / count
                x = mean - mean.mean(0)
                centred = y - y.mean(0)
                out[run, list(repeats).index(repeat + 1)] = (x * centred).sum(0) / np.sqrt(
                    (x * x).sum(0) * (centred * centred).sum(0)
                )
    return xr.DataArray(out, {"repeats": list(repeats), "site": list(sites)}, ("run", "repeats", "site"))
