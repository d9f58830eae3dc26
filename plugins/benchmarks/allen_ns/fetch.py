"""Fetch the sessions of a two-photon benchmark: plan, move, check, store, and keep a ledger.

Each session becomes one small file; one that is there and intact is never fetched again.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from mousebench import assemblies
from mousebench.errors import MousebenchError
from mousebench.fetching import FetchReport
from mousebench_plugins.benchmarks.allen_ns import ledger, scenes, sites
from mousebench_plugins.benchmarks.allen_ns.remote import NotThere, Settings
from mousebench_plugins.benchmarks.allen_ns.session import DFF, read_session
from mousebench_plugins.benchmarks.allen_ns.source import BUCKET, Bucket, Folder, open_source
from mousebench_plugins.benchmarks.allen_ns.transfer import Outcome, Task, bar, is_done, mega, run, sweep

if TYPE_CHECKING:
    from collections.abc import Sequence
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
    tasks: list[Task]
    left_out: dict[str, int]
    absent: int
    scenes_bytes: int

    @property
    def planned_bytes(self) -> int:
        """Return how many bytes are expected to move."""
        return sum(task.size for task in self.tasks) + self.scenes_bytes


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
    with bar(progress, f"fetch {order.benchmark}", plan.planned_bytes) as advance:
        failed = _fetch_scenes(order, place, plan, advance)
        outcomes = run(plan.tasks, place.name, order.settings, order.folder, jobs=jobs, advance=advance)
    sweep(order.folder)  # of workers that outlived a kill by a moment
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
    todo = [
        one for one in reachable if not is_done(order.folder, str(one.id), session_path(order.folder, one.id), known)
    ]
    sizes = _sizes(order, place, todo, known, jobs)
    template = 0 if scenes.is_stored(order.folder, order.siblings) else 118 * int(np.prod(order.scene_shape))
    tasks = [_task(order, one, sizes[one.id]) for one in todo]
    return Plan(wanted, tasks, left_out, absent, template)


def _task(order: Order, experiment: sites.Experiment, size: int) -> Task:
    read = partial(read_session, experiment=experiment, quantity=order.quantity, scratch=order.folder / "whole")
    return Task(str(experiment.id), session_path(order.folder, experiment.id), read, size)


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
    done = len(plan.wanted) - len(plan.tasks) - plan.absent
    stored = len(plan.tasks) * MEAN_CELLS * PRESENTATIONS * 4 + plan.scenes_bytes
    about = "about " if order.quantity == DFF else ""
    lines = [
        f"{order.benchmark}: {len(plan.wanted)} sessions of {_of_sites(chosen)}, {done} here, {len(plan.tasks)} to fetch",
        f"from {place.name}",
        f"to move: {about}{mega(plan.planned_bytes)}; to store: about {mega(stored)}",
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
