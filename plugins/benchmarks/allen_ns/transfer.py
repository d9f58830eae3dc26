"""Carry out the tasks of a fetch: in turn or in several processes, each result written whole or not at all.

Workers are processes, because HDF5 reads of one process go one after the other.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import threading
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mousebench import assemblies
from mousebench.errors import MousebenchError, StoreError
from mousebench_plugins.benchmarks.allen_ns import ledger
from mousebench_plugins.benchmarks.allen_ns.remote import Changed, Settings
from mousebench_plugins.benchmarks.allen_ns.source import open_source

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence


@dataclass(frozen=True)
class Task:
    """One file to make.

    Attributes
    ----------
    item : str
        What the ledger and messages call it.
    path : Path
        Where it goes.
    read : callable
        Called with an open source; returns the Dataset to store, with attributes ``notes`` and ``files`` (JSON).
        A module-level function or a partial of one.
    size : int
        Bytes it is expected to move.
    """

    item: str
    path: Path
    read: Callable[[Any], Any]
    size: int = 0


@dataclass(frozen=True)
class Outcome:
    """What became of a task."""

    item: str
    moved: int
    requests: int
    stored: int = 0
    sha256: str = ""
    notes: str = "[]"
    files: str = "[]"
    error: str = ""


def run(
    tasks: Sequence[Task], source: str, settings: Settings, folder: Path, *, jobs: int, advance: Callable[[float], Any]
) -> list[Outcome]:
    """Carry out tasks and note each in the ledger; a task that fails does not stop the others.

    Parameters
    ----------
    tasks : sequence of Task
    source : str
        Name of the source, opened anew for each task.
    settings : Settings
    folder : Path
        Where the ledger is.
    jobs : int
        Tasks at a time.
    advance : callable
        Called with the expected size of each finished task.

    Returns
    -------
    list of Outcome
        In the order of the items.
    """
    sizes = {task.item: task.size for task in tasks}
    outcomes = []
    work = _in_processes if jobs > 1 and len(tasks) > 1 else _in_turn
    for outcome in work(tasks, source, settings, jobs):
        # an outcome that cannot be noted is found again from the file itself
        ledger.append(folder, status="failed" if outcome.error else "done", source=source, **vars(outcome))
        outcomes.append(outcome)
        advance(sizes[outcome.item])
    return sorted(outcomes, key=lambda one: one.item)


def _in_turn(tasks: Sequence[Task], source: str, settings: Settings, jobs: int) -> Iterator[Outcome]:
    for task in tasks:
        yield perform(task, source, settings)


def _in_processes(tasks: Sequence[Task], source: str, settings: Settings, jobs: int) -> Iterator[Outcome]:
    context = multiprocessing.get_context("spawn")
    workers = min(jobs, len(tasks))
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_end_with_parent) as pool:
        waiting: dict[Future[Outcome], str] = {pool.submit(perform, one, source, settings): one.item for one in tasks}
        for future in as_completed(waiting):
            try:
                yield future.result()
            except BrokenProcessPool:
                yield Outcome(waiting[future], 0, 0, error="the worker process was killed, perhaps for lack of memory")


def _end_with_parent() -> None:
    """End this worker when the process that started it is gone, even if it was killed."""
    parent = multiprocessing.parent_process()

    def wait() -> None:
        if parent is not None:
            parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def perform(task: Task, source: str, settings: Settings) -> Outcome:
    """Read, check and store one thing; what goes wrong is in the outcome."""
    place = open_source(source, settings)
    try:
        _check_space(task.path.parent)
        try:
            data = task.read(place)
        except Changed:  # the new version from its beginning; a second change is an error
            data = task.read(place)
        assemblies.save(data, task.path)
    except MousebenchError as error:
        return Outcome(task.item, place.moved, place.requests, error=error.message)
    return Outcome(
        task.item, place.moved, place.requests, task.path.stat().st_size, ledger.sha256(task.path),
        data.attrs["notes"], data.attrs["files"],
    )  # fmt: skip


def is_done(folder: Path, item: str, path: Path, known: dict[str, dict[str, Any]]) -> bool:
    """Return whether a file is here and intact; one that the ledger missed is taken into it."""
    entry = known.get(item, {})
    if not path.is_file():
        return False
    if entry.get("status") == "done":
        return path.stat().st_size == entry["stored"] and ledger.sha256(path) == entry["sha256"]
    try:
        assemblies.load(path)
    except StoreError:
        return False
    ledger.append(folder, item=item, status="done", stored=path.stat().st_size, sha256=ledger.sha256(path))
    return True


def _check_space(folder: Path, needed: int = 1 << 24) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise StoreError(f"cannot write below {folder}: only {free / 1e6:.0f} MB of the disk are free")


def sweep(folder: Path) -> None:
    """Remove the temporary files of processes that were killed."""
    for path in folder.rglob(".*.tmp-*"):
        owner = path.name.rpartition(".tmp-")[2].split("-")[0]
        if owner.isdigit() and not _is_alive(int(owner)):
            path.unlink(missing_ok=True)


def _is_alive(process: int) -> bool:
    if os.name != "posix":
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return not _is_zombie(process)


def _is_zombie(process: int) -> bool:
    """Return whether a process has ended and nobody has asked how; only Linux says so in a file."""
    try:
        state = Path(f"/proc/{process}/stat").read_text(errors="replace")
    except OSError:
        return False
    return state.rpartition(")")[2].split()[:1] == ["Z"]


@contextmanager
def bar(progress: Any, description: str, total: float) -> Iterator[Callable[[float], Any]]:
    """Give the function that advances a progress; without one it does nothing."""
    if progress is None:
        yield lambda amount: None
        return
    progress.start(description, total, "B")
    try:
        yield progress.advance
    finally:
        progress.finish()


def mega(count: float) -> str:
    """Return bytes as megabytes for a person."""
    return f"{count / 1e6:,.1f} MB"
