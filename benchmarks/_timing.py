"""What the benchmark scripts share: take turns, best of several, and say on what machine."""

from __future__ import annotations

import os
import platform
import resource
import sys
import time
from importlib.metadata import version
from typing import TYPE_CHECKING

import numpy as np
from threadpoolctl import threadpool_info

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def best_of(
    runs: int, candidates: Mapping[str, Callable[[], object]], clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """Return the best seconds of each candidate; they take turns, so that a busy moment hits all.

    Wall-clock time by default. For what runs in one thread, ``time.process_time`` leaves out waiting for a busy core.
    """
    for call in candidates.values():
        call()  # warm up: first calls pay for threads, pages and imports
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(runs):
        for name, call in candidates.items():
            start = clock()
            call()
            times[name].append(clock() - start)
    return {name: min(values) for name, values in times.items()}


def machine() -> str:
    """Return the machine and the versions, for the record."""
    blas = ", ".join(sorted({f"{i['internal_api']} {i.get('architecture') or ''}".strip() for i in threadpool_info()}))
    packages = ", ".join(f"{name} {version(name)}" for name in ("numpy", "scipy", "torch"))
    return f"{os.cpu_count()} cores, {platform.machine()}, python {platform.python_version()}, {packages}, {blas}"


def peak_gb() -> float:
    """Return the peak memory of this process so far."""
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale / 1e9


def noise_images(n_images: int = 118, size: int = 224) -> np.ndarray:
    """Return uint8 (image, height, width, 3)."""
    return np.random.default_rng(0).integers(0, 256, (n_images, size, size, 3), dtype=np.uint8)
