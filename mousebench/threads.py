"""Work on all cores of this process: arrays are shared, and what is computed does not depend on how many cores there are."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Found = TypeVar("Found")


def each(work: Callable[[Item], Found], items: Iterable[Item]) -> list[Found]:
    """Return what the work gives for each item, in threads; in a worker process, which has a core, one after the other."""
    if multiprocessing.parent_process() is not None:
        return [work(item) for item in items]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(work, items))
