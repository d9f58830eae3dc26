"""Collect the layers of a net while they pass by: each tensor becomes a Gram and sums, and is forgotten."""

from __future__ import annotations

import contextlib
import weakref
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from mousebench.errors import OutOfStep
from mousebench.linalg import gram
from mousebench.progress import Progress
from mousebench.reduction import Reduction, Reductions
from mousebench.tracing import Call, alike, as_float, sample

_CHUNK = 4096  # features a matrix product: fixed, so that sums do not depend on the number of threads
_ALIKE = 0.05  # relative difference of an image's features between two batches: rounding stays far below


class Collector:
    """Grams and sums of all layers, filled from passes over groups of images.

    Parameters
    ----------
    n_images : int
    few : sequence of int
        The images that were traced, and have to give again what they gave then.
    progress : Progress
        Advanced by one for each layer and pass.
    """

    def __init__(self, n_images: int, few: Sequence[int], progress: Progress) -> None:
        self.n_images, self.few, self.progress = n_images, few, progress
        self.grams: dict[str, np.ndarray] = {}
        self.sums: dict[str, np.ndarray] = {}
        self.same: dict[str, str | None] = {}
        self._batches: Sequence[np.ndarray] = ()
        self._alive: dict[int, tuple[list[tuple[weakref.ref[torch.Tensor], int]], str]] = {}

    def begin(self, batches: Sequence[np.ndarray]) -> None:
        """Say which images the batches of the next pass hold."""
        self._batches = batches
        self._alive = {}

    def add(self, call: Call, parts: Sequence[torch.Tensor], pool: ThreadPoolExecutor) -> None:
        """Reduce one layer of the present images, given batch by batch."""
        original = self._passed_on(call, parts)
        if self.same.setdefault(call.name, original) != original:
            raise OutOfStep(f"layer {call.name!r} is computed differently for different images")
        if original is None:
            self._check_few(call, parts)
            part, row_sum = reduce_tensors([x.detach().movedim(call.axis, 0) for x in parts], pool)
            index = np.concatenate(self._batches)
            total = self.grams.setdefault(call.name, np.zeros((self.n_images, self.n_images)))
            total[np.ix_(index, index)] = part
            self.sums.setdefault(call.name, np.zeros(self.n_images))[index] = row_sum
        self.progress.advance(1)

    def _passed_on(self, call: Call, parts: Sequence[torch.Tensor]) -> str | None:
        """Return the earlier layer whose very tensors these are, unchanged: dropout in eval, a block's last child."""
        if any(x.is_inference() for x in parts):  # has no version; result() finds equal layers all the same
            return None
        known, name = self._alive.get(id(parts[0]), ((), ""))
        if name and all(ref() is x and version == x._version for (ref, version), x in zip(known, parts, strict=True)):
            return name
        self._alive[id(parts[0])] = [(weakref.ref(x), x._version) for x in parts], call.name
        return None

    def _check_few(self, call: Call, parts: Sequence[torch.Tensor]) -> None:
        """Refuse a net that gives an image other features in another batch."""
        for position, image in enumerate(self.few):
            for batch, x in zip(self._batches, parts, strict=True):
                for row in np.flatnonzero(batch == image):
                    if not alike(sample(x, call.axis, int(row)), call.sample[position], _ALIKE):
                        raise OutOfStep(
                            f"layer {call.name!r} gives image {image} other features among {len(batch)} images than among few",
                            "batch statistics in eval mode, or something that a module keeps from one call to the next?",
                        )

    def result(self, calls: Sequence[Call], skipped: Mapping[str, str], device: str) -> Reductions:
        """Return the layers, those that equal an earlier one in every element dropped."""
        kept: list[Reduction] = []
        duplicates: dict[str, str] = {}
        alike_few: defaultdict[bytes, list[Reduction]] = defaultdict(list)
        for call in calls:
            original = self.same[call.name]
            if original is None:
                layer = Reduction(call.name, self.grams[call.name], self.sums[call.name], call.width)
                original = next((other.name for other in alike_few[call.digest] if _same(layer, other)), None)
                if original is None:
                    alike_few[call.digest].append(layer)
                    kept.append(layer)
                    continue
            duplicates[call.name] = duplicates.get(original, original)
        return Reductions(kept, duplicates, dict(skipped), device)


@np.errstate(invalid="ignore")
def _same(a: Reduction, b: Reduction) -> bool:
    """Say whether layers whose elements agree in few images agree in all: their Grams differ by rounding only."""
    return bool(np.abs(a.gram - b.gram).max() <= 1e-12 * np.abs(a.gram).max())


def reduce_tensors(parts: Sequence[torch.Tensor], pool: ThreadPoolExecutor) -> tuple[np.ndarray, np.ndarray]:
    """Return Gram and sums, float64, of (image, ...) features that come in batches of images.

    The order of features does not matter to either, so they are read as they lie in memory.
    """
    order = sorted(range(1, parts[0].ndim), key=parts[0].stride, reverse=True)
    flat = [x.permute(0, *order).reshape(x.shape[0], -1) for x in parts]
    if flat[0].device.type not in ("cpu", "mps"):  # mps has no float64
        return reduce_on_device(flat)
    arrays = [as_float(x).cpu().numpy() for x in flat]

    def chunk(start: int) -> tuple[np.ndarray, np.ndarray, int]:
        return gram([np.concatenate([x[:, start : start + _CHUNK] for x in arrays], dtype=np.float64)])

    n_images = sum(map(len, arrays))
    total, row_sum = np.zeros((n_images, n_images)), np.zeros(n_images)
    for part, part_sum, _ in pool.map(chunk, range(0, arrays[0].shape[1], _CHUNK)):
        total += part
        row_sum += part_sum
    return total, row_sum


def reduce_on_device(parts: Sequence[torch.Tensor]) -> tuple[np.ndarray, np.ndarray]:
    """Return Gram and sums of (image, feature) in batches, accumulated in float64 where the features are."""
    n_images = sum(len(x) for x in parts)
    total = parts[0].new_zeros((n_images, n_images), dtype=torch.float64)
    row_sum = parts[0].new_zeros(n_images, dtype=torch.float64)
    for start in range(0, parts[0].shape[1], 16 * _CHUNK):
        chunk = torch.cat([x[:, start : start + 16 * _CHUNK] for x in parts]).double()
        total += chunk @ chunk.T
        row_sum += chunk.sum(1)
    return total.cpu().numpy(), row_sum.cpu().numpy()


@contextlib.contextmanager
def one_blas_thread_each() -> Iterator[ThreadPoolExecutor]:
    """Give a pool whose threads do one matrix product each: faster for thin matrices than threads inside one."""
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(torch.get_num_threads()) as pool:
        yield pool
