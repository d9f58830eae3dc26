"""The correlation RDM of 118 images x 800,000 features, against rsatoolbox and numpy; equality asserted.

python benchmarks/rdm.py
"""

from __future__ import annotations

import warnings

import numpy as np
import torch
from _timing import best_of, machine

from mousebench.collector import one_blas_thread_each, reduce_tensors
from mousebench.linalg import correlation_rdm

N_IMAGES, N_FEATURES = 118, 800_000


def main() -> None:
    """Time the three and print the ratios."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from rsatoolbox.data import Dataset
        from rsatoolbox.rdm import calc_rdm

    print(machine())
    rng = np.random.default_rng(0)
    features = np.maximum(rng.normal(size=(N_IMAGES, N_FEATURES)), 0).astype(np.float32)
    tensor, dataset = torch.from_numpy(features), Dataset(features)

    def ours() -> np.ndarray:
        with one_blas_thread_each() as pool:
            return correlation_rdm(*reduce_tensors([tensor], pool), N_FEATURES)

    candidates = {
        "ours": ours,
        "numpy corrcoef": lambda: 1 - np.corrcoef(features),
        "rsatoolbox calc_rdm": lambda: calc_rdm(dataset, method="correlation").get_matrices()[0],
    }
    reference = candidates["numpy corrcoef"]()
    assert np.abs(ours() - reference).max() < 1e-12
    assert np.abs(candidates["rsatoolbox calc_rdm"]() - reference).max() < 1e-3
    times = best_of(4, candidates)
    for name, seconds in times.items():
        print(f"{name:<22} {seconds:6.2f} s   {seconds / times['ours']:5.1f} x ours")


if __name__ == "__main__":
    main()
