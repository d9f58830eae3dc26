"""Fetch the sessions of a two-photon benchmark: plan, move, check, store, and keep a ledger.

Each session becomes one small file, written whole or not at all; a file that is there and intact is never fetched
again. Workers are processes, because HDF5 reads of one process go one after the other.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import threading
from collections import Counter
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from mousebench import assemblies
from mousebench.errors import MousebenchError, StoreError
from mousebench.fetching import FetchReport
from mousebench_plugins.benchmarks.allen_ns import ledger, scenes, sites
from mousebench_plugins.benchmarks.allen_ns.remote import Changed, NotThere, Settings
from mousebench_plugins.benchmarks.allen_ns.session import DFF, read_session
from mousebench_plugins.benchmarks.allen_ns.source import BUCKET, Bucket, Folder, open_source

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

TABLE = "experiments.json"
MEAN_CELLS, PRESENTATIONS = 86, 5950  # of a session, for the estimate of a first fetch
OVERHEAD = 1_300_000  # bytes of metadata that range reads move beside the responses


@dataclass(frozen=True)
class Order:
    """What a fetch is of.

    Attributes
    ----------
    benchmark : str
    folder : Path
        The benchmark's data folder.
    quantity : str
        "mean_sweep_response" or "l0_events".
    rule : str
        The depth-to-layer rule that assigns sessions to sites.
    scene_shape : (y, x)
    siblings : tuple of Path
        Data folders of benchmarks with the same scenes.
    settings : Settings
    """

    benchmark: str
    folder: Path
    quantity: str
    rule: str
    scene_shape: tuple[int, int]
    siblings: tuple[Path, ...] = ()
    settings: Settings = field(default_factory=Settings)

    @property
    def default_source(self) -> str:
        """Return the URL of the public bucket's part."""
        return f"{BUCKET}/visual-coding-2p"


@dataclass(frozen=True)
class Plan:
    """What has to be done."""

    wanted: list[sites.Experiment]
    todo: list[sites.Experiment]
    left_out: dict[str, int]
    absent: int
    sizes: dict[int, int]
    scenes_bytes: int

    @property
    def planned_bytes(self) -> int:
        """Return how many bytes are expected to move."""
        return sum(self.sizes.values()) + self.scenes_bytes


@dataclass(frozen=True)
class Outcome:
    """What became of one session."""

    item: int
    moved: int
    requests: int
    stored: int = 0
    sha256: str = ""
    notes: str = "[]"
    files: str = "[]"
    error: str = ""


def session_path(folder: Path, experiment: int) -> Path:
    """Return where a session is kept."""
    return folder / "sessions" / f"{experiment}.nc"


def fetch(
    order: Order, *, wanted: Sequence[str] | None, source: str | None, jobs: int, dry_run: bool, progress: Any = None
) -> FetchReport:
    """Fetch what is missing of some sites.

    Parameters
    ----------
    order : Order
    wanted : sequence of str or None
        Sites; None is all of them.
    source : str or None
        URL or folder; None is the public bucket.
    jobs : int
        Sessions at a time.
    dry_run : bool
        Stop after the plan.
    progress : object or None
        See ``mousebench.progress``.
    """
    chosen = sites.check_sites(wanted, sites.SITES, order.benchmark)
    place = open_source(source or order.default_source, order.settings)
    if not dry_run:
        sweep(order.folder)
    experiments = experiment_table(order.folder, place, keep=not dry_run)
    plan = make_plan(order, place, experiments, chosen, jobs)
    lines = plan_lines(order, plan, place, chosen)
    report = FetchReport(order.benchmark, str(order.folder), plan.planned_bytes, place.moved, 0, tuple(lines))
    if dry_run:
        return report
    with _bar(progress, f"fetch {order.benchmark}", plan.planned_bytes) as advance:
        failed = _fetch_scenes(order, place, plan, advance)
        outcomes = _fetch_sessions(order, place.name, plan, jobs, advance)
    failed += [f"experiment {one.item}: {one.error}" for one in outcomes if one.error]
    held = sum(session_path(order.folder, one.id).is_file() for one in plan.wanted)
    stored = sum(one.stored for one in outcomes) + (scenes.stored_bytes(order.folder) if plan.scenes_bytes else 0)
    return replace(
        report,
        moved_bytes=place.moved + sum(one.moved for one in outcomes),
        stored_bytes=stored,
        lines=(*lines, f"holds {held} of {len(plan.wanted)} sessions of {_of_sites(chosen)}", *_note_lines(outcomes)),
        failed=tuple(failed),
    )


def experiment_table(folder: Path, place: Bucket | Folder, *, keep: bool) -> list[sites.Experiment]:
    """Return the sessions of the source's experiment table, moving it once only."""
    stored = folder / TABLE
    if stored.is_file():
        table = stored_table(stored)
        if table.get("source") == place.name:
            return [sites.Experiment(**record) for record in table["experiments"]]
    key = place.key("EXPERIMENTS")
    experiments = sites.parse_experiments(place.json(key), key)
    if keep:
        _store_table(stored, place.name, experiments)
    return experiments


def stored_table(path: Path) -> dict[str, Any]:
    """Return the experiment table that a fetch kept, or an empty one."""
    try:
        table = json.loads(path.read_text())
        return table if isinstance(table, dict) else {}
    except (OSError, ValueError):
        return {}


def _store_table(path: Path, source: str, experiments: Sequence[sites.Experiment]) -> None:
    with assemblies.replacing(path) as temporary:
        records = [experiment.as_dict() for experiment in experiments]
        temporary.write_text(json.dumps({"source": source, "experiments": records}, indent=0))


def make_plan(
    order: Order, place: Bucket | Folder, experiments: Sequence[sites.Experiment], chosen: Sequence[str], jobs: int
) -> Plan:
    """Return what is wanted, what of it is missing here, and what it takes to move it."""
    by_site, left_out = sites.select(experiments, order.rule)
    wanted = [experiment for site in chosen for experiment in by_site.get(site, [])]
    absent = 0
    if isinstance(place, Folder):
        here = [one for one in wanted if (place.root / place.key("EXPERIMENT_DATA", one.id)).is_file()]
        absent = sum(1 for one in wanted if one not in here and not session_path(order.folder, one.id).is_file())
        reachable = here
    else:
        reachable = wanted
    known = ledger.read(order.folder)
    todo = [one for one in reachable if not _is_done(order.folder, one.id, known)]
    sizes = _sizes(order, place, todo, known, jobs)
    template = 0 if scenes.is_stored(order.folder, order.siblings) else 118 * int(np.prod(order.scene_shape))
    return Plan(wanted, todo, left_out, absent, sizes, template)


def _is_done(folder: Path, experiment: int, known: dict[str, dict[str, Any]]) -> bool:
    """Return whether a session is here and intact; one that the ledger missed is taken into it."""
    path, entry = session_path(folder, experiment), known.get(str(experiment), {})
    if not path.is_file():
        return False
    if entry.get("status") == "done":
        return path.stat().st_size == entry["stored"] and ledger.sha256(path) == entry["sha256"]
    try:
        assemblies.load(path)
    except StoreError:
        return False
    ledger.append(folder, item=experiment, status="done", stored=path.stat().st_size, sha256=ledger.sha256(path))
    return True


def _sizes(
    order: Order, place: Bucket | Folder, todo: Sequence[sites.Experiment], known: dict[str, dict[str, Any]], jobs: int
) -> dict[int, int]:
    """Return how many bytes each session will move: exact for whole files, estimated for range reads."""
    if order.quantity == DFF:
        seen = [entry["moved"] for entry in known.values() if entry.get("status") == "done" and entry.get("moved")]
        mean = sum(seen) / len(seen) if len(seen) >= 3 else (MEAN_CELLS + 1) * PRESENTATIONS * 8 + OVERHEAD
        return {experiment.id: int(mean) for experiment in todo}
    return {experiment.id: _whole_size(place, experiment) + OVERHEAD for experiment in todo}


def _whole_size(place: Bucket | Folder, experiment: sites.Experiment) -> int:
    try:
        return place.identity(place.key("EVENTS_DATA", experiment.id)).size
    except NotThere:
        return 0


def plan_lines(order: Order, plan: Plan, place: Bucket | Folder, chosen: Sequence[str]) -> list[str]:
    """Return the plan as a person wants to read it."""
    done = len(plan.wanted) - len(plan.todo) - plan.absent
    stored = len(plan.todo) * MEAN_CELLS * PRESENTATIONS * 4 + plan.scenes_bytes
    about = "about " if order.quantity == DFF else ""
    lines = [
        f"{order.benchmark}: {len(plan.wanted)} sessions of {_of_sites(chosen)}, {done} here, {len(plan.todo)} to fetch",
        f"from {place.name}",
        f"to move: {about}{_mega(plan.planned_bytes)}; to store: about {_mega(stored)}",
    ]
    if plan.absent:
        lines.append(f"{plan.absent} sessions are not in that folder")
    if plan.left_out:
        lines.append("not used: " + ", ".join(f"{count} {reason}" for reason, count in sorted(plan.left_out.items())))
    return lines


def _note_lines(outcomes: Sequence[Outcome]) -> list[str]:
    notes = Counter(note for one in outcomes for note in json.loads(one.notes))
    return [f"{count} x {note}" if count > 1 else note for note, count in notes.most_common(10)]


def _of_sites(chosen: Sequence[str]) -> str:
    return f"{len(chosen)} sites" if len(chosen) > 3 else ", ".join(chosen)


def _mega(count: float) -> str:
    return f"{count / 1e6:,.1f} MB"


def _fetch_scenes(order: Order, place: Bucket | Folder, plan: Plan, advance: Any) -> list[str]:
    if not plan.scenes_bytes:
        scenes.adopt(order.folder, order.siblings)
        return []
    try:
        scenes.fetch(place, plan.wanted, order.folder, order.scene_shape)
    except MousebenchError as error:
        return [f"scenes: {error.message}"]
    finally:
        advance(plan.scenes_bytes)
    return []


def _fetch_sessions(order: Order, source: str, plan: Plan, jobs: int, advance: Any) -> list[Outcome]:
    outcomes = []
    work = _in_processes if jobs > 1 and len(plan.todo) > 1 else _in_turn
    for outcome in work(order, source, plan.todo, jobs):
        status = "failed" if outcome.error else "done"
        # an outcome that cannot be noted is found again from the file itself
        ledger.append(order.folder, status=status, source=source, **vars(outcome))
        outcomes.append(outcome)
        advance(plan.sizes[outcome.item])
    return sorted(outcomes, key=lambda one: one.item)


def _in_turn(order: Order, source: str, todo: Sequence[sites.Experiment], jobs: int) -> Iterator[Outcome]:
    for experiment in todo:
        yield fetch_one(order, source, experiment)


def _in_processes(order: Order, source: str, todo: Sequence[sites.Experiment], jobs: int) -> Iterator[Outcome]:
    context = multiprocessing.get_context("spawn")
    workers = min(jobs, len(todo))
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_end_with_parent) as pool:
        waiting: dict[Future[Outcome], int] = {pool.submit(fetch_one, order, source, one): one.id for one in todo}
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


def fetch_one(order: Order, source: str, experiment: sites.Experiment) -> Outcome:
    """Fetch, check and store one session; what goes wrong is in the outcome."""
    place = open_source(source, order.settings)
    path = session_path(order.folder, experiment.id)
    try:
        _check_space(order.folder)
        session = _read_twice(place, experiment, order)
        assemblies.save(session, path)
    except MousebenchError as error:
        return Outcome(experiment.id, place.moved, place.requests, error=error.message)
    return Outcome(
        experiment.id, place.moved, place.requests, path.stat().st_size, ledger.sha256(path),
        session.attrs["notes"], session.attrs["files"],
    )  # fmt: skip


def _read_twice(place: Bucket | Folder, experiment: sites.Experiment, order: Order) -> Any:
    try:
        return read_session(place, experiment, order.quantity, order.folder / "whole")
    except Changed:  # the new version from its beginning; a second change is an error
        return read_session(place, experiment, order.quantity, order.folder / "whole")


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
    return True


@contextmanager
def _bar(progress: Any, description: str, total: float) -> Iterator[Any]:
    if progress is None:
        yield lambda amount: None
        return
    progress.start(description, total, "B")
    try:
        yield progress.advance
    finally:
        progress.finish()
