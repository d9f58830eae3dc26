"""Collect the layers of a net while they pass by: each tensor becomes a Gram and sums, and is forgotten."""

from __future__ import annotations

import contextlib
import weakref
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from mousebench.errors import ContractViolation
from mousebench.linalg import gram
from mousebench.progress import Progress
from mousebench.reduction import Reduction, Reductions

_CHUNK = 4096  # features a matrix product; 118 of them in float64 stay in the cache
_STRIPE = 1 * _CHUNK  # features a task: small, so that threads end together; fixed, so that sums do not depend on them


@dataclass(frozen=True)
class Call:
    """One tensor that one call of one module gives: where it comes from, and which axis counts images."""

    path: str
    call: int
    item: str
    name: str
    axis: int
    width: int
    digest: bytes


class Collector:
    """Grams and sums of all layers, filled from the passes over pairs of blocks of images.

    Parameters
    ----------
    n_images : int
    progress : Progress
        Advanced by one for each layer and pass.
    """

    def __init__(self, n_images: int, progress: Progress) -> None:
        self.n_images = n_images
        self.progress = progress
        self.grams: dict[str, np.ndarray] = {}
        self.sums: dict[str, np.ndarray] = {}
        self.same: dict[str, str | None] = {}
        self.index = np.arange(n_images)
        self.alive: dict[int, tuple[weakref.ref[torch.Tensor], int, str]] = {}

    def begin(self, index: np.ndarray) -> None:
        """Say which images the next pass holds."""
        self.index = index
        self.alive = {}

    def add(self, call: Call, tensor: torch.Tensor, pool: ThreadPoolExecutor) -> None:
        """Reduce one layer of the present images."""
        original = self._passed_on(call, tensor)
        if self.same.setdefault(call.name, original) != original:
            raise ContractViolation(f"layer {call.name!r} is computed differently for different images")
        if original is None:
            part, row_sum = reduce_tensor(tensor.detach().movedim(call.axis, 0), pool)
            total = self.grams.setdefault(call.name, np.zeros((self.n_images, self.n_images)))
            total[np.ix_(self.index, self.index)] = part
            self.sums.setdefault(call.name, np.zeros(self.n_images))[self.index] = row_sum
        self.progress.advance(1)

    def _passed_on(self, call: Call, tensor: torch.Tensor) -> str | None:
        """Return the earlier layer whose very tensor this is, unchanged: dropout in eval, a block's last child."""
        if tensor.is_inference():  # has no version; result() finds equal layers all the same
            return None
        known = self.alive.get(id(tensor))
        if known is not None and known[0]() is tensor and known[1] == tensor._version:
            return known[2]
        self.alive[id(tensor)] = (weakref.ref(tensor), tensor._version, call.name)
        return None

    def result(self, calls: Sequence[Call], skipped: Mapping[str, str], device: str) -> Reductions:
        """Return the layers, those that equal an earlier one in every element dropped."""
        kept: list[Reduction] = []
        duplicates: dict[str, str] = {}
        alike: defaultdict[bytes, list[Reduction]] = defaultdict(list)
        for call in calls:
            original = self.same[call.name]
            if original is None:
                layer = Reduction(call.name, self.grams[call.name], self.sums[call.name], call.width)
                original = next((other.name for other in alike[call.digest] if _same(layer, other)), None)
                if original is None:
                    alike[call.digest].append(layer)
                    kept.append(layer)
                    continue
            duplicates[call.name] = duplicates.get(original, original)
        return Reductions(kept, duplicates, dict(skipped), device)


@np.errstate(invalid="ignore")
def _same(a: Reduction, b: Reduction) -> bool:
    """Say whether layers whose elements agree in three images agree in all: their Grams differ by rounding only."""
    return bool(np.abs(a.gram - b.gram).max() <= 1e-12 * np.abs(a.gram).max())


def reduce_tensor(tensor: torch.Tensor, pool: ThreadPoolExecutor) -> tuple[np.ndarray, np.ndarray]:
    """Return Gram and sums, float64, of (image, ...) features; the order of features does not matter to either."""
    features = _flat(tensor)
    if features.device.type not in ("cpu", "mps"):  # mps has no float64
        return reduce_on_device(features)
    array = features.float().cpu().numpy()
    starts = range(0, array.shape[1], _STRIPE)
    parts = list(pool.map(lambda start: _stripe(array[:, start : start + _STRIPE]), starts))
    return np.asarray(sum(part for part, _ in parts)), np.asarray(sum(part for _, part in parts))


def _flat(tensor: torch.Tensor) -> torch.Tensor:
    """Return (image, feature) with the features as they lie in memory, so that nothing is copied."""
    order = sorted(range(1, tensor.ndim), key=tensor.stride, reverse=True)
    return tensor.permute(0, *order).reshape(tensor.shape[0], -1)


def _stripe(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    width = features.shape[1]
    total, row_sum, _ = gram(features[:, start : start + _CHUNK] for start in range(0, width, _CHUNK))
    return total, row_sum


def reduce_on_device(features: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return Gram and sums of (image, feature), accumulated in float64 where the features are."""
    n_images, width = features.shape
    total = features.new_zeros((n_images, n_images), dtype=torch.float64)
    row_sum = features.new_zeros(n_images, dtype=torch.float64)
    for start in range(0, width, 16 * _CHUNK):
        chunk = features[:, start : start + 16 * _CHUNK].double()
        total += chunk @ chunk.T
        row_sum += chunk.sum(1)
    return total.cpu().numpy(), row_sum.cpu().numpy()


@contextlib.contextmanager
def one_blas_thread_each() -> Iterator[ThreadPoolExecutor]:
    """Give a pool whose threads do one matrix product each: faster for thin matrices than threads inside one."""
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(torch.get_num_threads()) as pool:
        yield pool
