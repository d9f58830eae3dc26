"""The Neuropixels benchmark: firing rates to the natural scenes, by visual area."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from mousebench import assemblies
from mousebench.errors import MissingData, MousebenchError, StoreError, UnknownIdentifier
from mousebench.fetching import FetchReport
from mousebench.home import data_folder
from mousebench_plugins.benchmarks.allen_ns import assemble, checks, ledger, neuropixels, scenes, stored
from mousebench_plugins.benchmarks.allen_ns.reader import N_SCENES
from mousebench_plugins.benchmarks.allen_ns.remote import Settings
from mousebench_plugins.benchmarks.allen_ns.sites import AREAS, check_sites
from mousebench_plugins.benchmarks.allen_ns.source import BUCKET, Bucket, Folder, open_source
from mousebench_plugins.benchmarks.allen_ns.transfer import Outcome, Task, bar, is_done, mega, run, sweep

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import xarray as xr

IDENTIFIER = "allen-ns-ephys"
VERSION = 1
THRESHOLD = 0.5
SESSION_BYTES = 400_000_000  # spike times of the visual areas of one session, for the estimate of a first fetch
VARIANTS = {
    "apart": assemble.Recipe(threshold=THRESHOLD, selection="apart"),
    "all-units": assemble.Recipe(threshold=-1.0),
}


def load(variant: str | None = None) -> Neuropixels:
    """Return the benchmark; variants are ``apart`` (units are chosen on other trials) and ``all-units``."""
    if variant is None:
        return Neuropixels()
    if variant not in VARIANTS:
        raise UnknownIdentifier(f"{IDENTIFIER} has no variant {variant!r}", f"its variants are {', '.join(VARIANTS)}")
    return Neuropixels(recipe=VARIANTS[variant])


class Neuropixels:
    """Firing rates of single units to 118 natural scenes, by visual area.

    Parameters
    ----------
    recipe : Recipe or None
        How units are chosen; None keeps those with a reliability of at least .5 (Nayebi et al. 2023 use this limit).
    folder : Path or None
        Where the data are; None is the benchmark's data folder.
    scene_shape : (y, x)
    settings : Settings or None

    Attributes
    ----------
    sites : tuple of str
        The six visual areas.
    """

    version = VERSION
    metrics = ("rsa-nnls", "rsa-nnls-published", "rsa", "pls", "pls-brainscore", "pls-nayebi", "ridge", "cka")
    sites = AREAS
    identifier = IDENTIFIER

    def __init__(
        self,
        *,
        recipe: assemble.Recipe | None = None,
        folder: Path | None = None,
        scene_shape: tuple[int, int] = checks.SCENE_SHAPE,
        settings: Settings | None = None,
    ) -> None:
        self.recipe = recipe or assemble.Recipe(threshold=THRESHOLD)
        self.folder = folder or data_folder(IDENTIFIER, VERSION)
        self._scene_shape = scene_shape
        self._settings = settings or Settings()

    def stimuli(self) -> xr.DataArray:
        """Return the scenes, uint8 (stimulus, y, x), stimulus_id 0..117."""
        return scenes.load(self.folder, IDENTIFIER)

    def target(self, site: str) -> xr.DataArray:
        """Return the firing rates of an area, float32 (presentation, neuroid); sessions with fewer trials have NaN."""
        check_sites([site], self.sites, IDENTIFIER)
        parts = {path.stem: path for path in self._files()}
        if not parts:
            raise MissingData(f"{IDENTIFIER} has no data on this machine", f"mousebench fetch {IDENTIFIER}")
        definition = json.dumps([VERSION, asdict(self.recipe)], sort_keys=True)
        return stored.site_array(self.folder, site, definition, parts, partial(self._assemble, site))

    def _assemble(self, site: str) -> xr.DataArray:
        recordings = list(self._recordings(site))
        if not recordings:
            hint = f"mousebench fetch {IDENTIFIER} --site {site}"
            raise MissingData(f"{IDENTIFIER} has no session of {site} on this machine", hint)
        ids = assemble.conditions(self.recipe.include_grey)
        about = {"benchmark": IDENTIFIER, "version": VERSION, "quantity": "spikes a second"}
        target = assemble.assemble(recordings, site, ids, self.recipe, **about)
        return stored.with_ceilings(target, recordings, self.recipe)

    def counts(self, site: str) -> dict[str, int]:
        """Return what was kept and dropped of a site."""
        return dict(json.loads(self.target(site).attrs["counts"]))

    def fetch(
        self, *, sites: Sequence[str] | None, source: str | None, jobs: int, dry_run: bool, progress: Any = None
    ) -> FetchReport:
        """Fetch sessions: NWB 2 files by ranges from the bucket or a folder, or arrays of a folder.

        Parameters
        ----------
        sites : sequence of str or None
            Areas; a session that has none of them is passed over. What a session has beside them is kept too.
        source : str or None
            URL or folder; None is the public bucket.
        jobs, dry_run, progress
            As for ``fetch.fetch``.
        """
        wanted = check_sites(sites, self.sites, IDENTIFIER)
        name = source or f"{BUCKET}/visual-coding-neuropixels/ecephys-cache"
        place = open_source(name, self._settings)
        arrays = array_folder(place)
        if not dry_run:
            sweep(self.folder)
        tasks = _array_tasks(arrays, wanted, self.folder) if arrays else _session_tasks(place, wanted, self.folder)
        known = ledger.read(self.folder)
        self._refuse_mixture(bool(arrays))
        todo = [task for task in tasks if not is_done(self.folder, task.item, task.path, known)]
        needs_scenes = not scenes.is_stored(self.folder, _siblings(place))
        planned = sum(task.size for task in todo) + needs_scenes * N_SCENES * int(np.prod(self._scene_shape))
        lines = [
            f"{IDENTIFIER}: {len(tasks)} recordings, {len(tasks) - len(todo)} here, {len(todo)} to fetch",
            f"from {place.name}",
            f"to move: about {mega(planned)}",
        ]
        report = FetchReport(IDENTIFIER, str(self.folder), planned, place.moved, 0, tuple(lines))
        return report if dry_run else self._carry_out(report, place, todo, wanted, jobs, progress)

    def _carry_out(
        self,
        report: FetchReport,
        place: Bucket | Folder,
        todo: list[Task],
        wanted: Sequence[str],
        jobs: int,
        progress: Any,
    ) -> FetchReport:
        failed = []
        before = scenes.stored_bytes(self.folder)
        planned = report.planned_bytes or 0
        with bar(progress, f"fetch {IDENTIFIER}", planned) as advance:
            try:
                self._fetch_scenes(place)
            except MousebenchError as error:
                failed.append(f"scenes: {error.message}")
            advance(planned - sum(task.size for task in todo))
            outcomes = run(todo, place.name, self._settings, self.folder, jobs=jobs, advance=advance)
        sweep(self.folder)  # of workers that outlived a kill by a moment
        failed += [f"{one.item}: {one.error}" for one in outcomes if one.error]
        lines, unmade = stored.describe_sites(wanted, self._describe)
        lines = [*report.lines, *_notes(outcomes), *lines]
        failed += unmade
        moved = place.moved + sum(one.moved for one in outcomes)
        stored_bytes = sum(one.stored for one in outcomes) + scenes.stored_bytes(self.folder) - before
        return FetchReport(IDENTIFIER, report.folder, planned, moved, stored_bytes, tuple(lines), tuple(failed))

    def _describe(self, site: str) -> str:
        target = self.target(site)
        counts = json.loads(target.attrs["counts"])
        text = "{kept} of {neurons} units of {animals} mice, {sessions} sessions".format(**counts)
        return f"{text}, RDM ceiling {target.attrs['rdm_ceiling']:.2f}"

    def _fetch_scenes(self, place: Bucket | Folder) -> None:
        siblings = _siblings(place)
        if scenes.is_stored(self.folder, siblings):
            scenes.adopt(self.folder, siblings)
            return
        values = np.stack([_image(place, number) for number in range(N_SCENES)])
        checks.check_template(values, self._scene_shape, place.name)
        scenes.store(values, self.folder)
        ledger.append(self.folder, item="scenes", status="done", stored=scenes.stored_bytes(self.folder))

    def _refuse_mixture(self, arrays: bool) -> None:
        """Arrays and NWB files may hold the same units, counted over other windows."""
        stored = {path.name[0].isdigit() for path in self._files()}
        if (arrays and True in stored) or (not arrays and False in stored):
            kinds = ("arrays", "NWB files") if arrays else ("NWB files", "arrays")
            raise StoreError(
                f"{self.folder} holds sessions read from {kinds[1]}; those of {kinds[0]} cannot be mixed with them",
                "fetch with another --home, or delete that folder",
            )

    def _files(self) -> list[Path]:
        return sorted((self.folder / "sessions").glob("*.nc"))

    def _recordings(self, site: str) -> Iterator[assemble.Recording]:
        ids = assemble.conditions(self.recipe.include_grey)
        for path in self._files():
            session = assemblies.load(path)
            units = np.flatnonzero(session["area"].values == site)
            if len(units):
                yield _recording(session.isel(unit=units), site, ids)


def _recording(session: xr.Dataset, site: str, ids: np.ndarray) -> assemble.Recording:
    units = session["unit_id"].values
    labels = {
        "site": site,
        "area": site,
        "layer": "",
        "depth_um": -1,
        "cre_line": "",
        "experiment_id": int(session.attrs["id"]),
        "animal_id": session.attrs["animal_id"],
    }
    return assemble.Recording(
        key=int(session.attrs["id"]),
        cube=assemble.arrange(session["response"].values, session["frame"].values, ids),
        neuroid={"neuroid_id": units, **{name: np.full(len(units), value) for name, value in labels.items()}},
    )


def array_folder(place: Bucket | Folder) -> Path | None:
    """Return the folder of a local source that holds arrays, the source itself or its ``ephys``, or None."""
    if isinstance(place, Folder):
        for folder in (place.root, place.root / "ephys"):
            if any(path.with_suffix(".json").is_file() for path in folder.glob("*.npy")):
                return folder
    return None


def _array_tasks(folder: Path, wanted: Sequence[str], out: Path) -> list[Task]:
    tasks = []
    for path in sorted(folder.glob("*.npy")):
        facts = path.with_suffix(".json")
        if facts.is_file() and (json.loads(facts.read_text()).get("visual_area_code") in wanted):
            read = partial(_read_arrays, folder=folder, name=path.stem)
            tasks.append(Task(path.stem, out / "sessions" / f"{path.stem}.nc", read, path.stat().st_size))
    if not tasks:
        raise MissingData(f"{folder} holds no array of {', '.join(wanted)}")
    return tasks


def _read_arrays(source: Any, folder: Path, name: str) -> xr.Dataset:
    source.moved += (folder / f"{name}.npy").stat().st_size
    return neuropixels.read_arrays(folder, name)


def _session_tasks(place: Bucket | Folder, wanted: Sequence[str], out: Path) -> list[Task]:
    """Return a task for each session with the natural scenes that has one of the areas."""
    key = place.key("EPHYS_SESSIONS")
    tasks = []
    try:
        rows = list(csv.DictReader(io.StringIO(place.bytes(key).decode("utf-8", "replace"))))
        for row in rows:
            areas = row["ecephys_structure_acronyms"]
            if row["session_type"] == neuropixels.SESSION_TYPE and any(f"'{area}'" in areas for area in wanted):
                session = int(row["id"])
                read = partial(neuropixels.read_session, session=session)
                tasks.append(Task(str(session), out / "sessions" / f"{session}.nc", read, SESSION_BYTES))
    except (KeyError, ValueError, csv.Error) as error:
        raise StoreError(f"{key} lacks or misstates a column: {error!r}") from error
    return sorted(tasks, key=lambda task: task.item)


def _siblings(place: Bucket | Folder) -> tuple[Path, ...]:
    """Return folders with the same scenes; arrays come with scenes of their own."""
    return () if array_folder(place) else tuple(data_folder(name, 1) for name in ("allen-ns", "allen-ns-events"))


def _image(place: Bucket | Folder, number: int) -> np.ndarray:
    """Return one scene, uint8 (y, x)."""
    folder = array_folder(place)
    if folder is None:
        key = place.key("EPHYS_SCENE", number)
    else:
        near = [root / "scenes" for root in (folder, folder.parent)]
        found = next((one for one in near if one.is_dir()), near[0])
        key = str(found.resolve() / f"scene_{number:03d}.png")
    data = place.bytes(key)
    try:
        with Image.open(io.BytesIO(data)) as image:
            values = np.asarray(image)
    except (OSError, SyntaxError) as error:
        raise StoreError(f"{key} cannot be read as an image: {error}") from error
    if values.ndim != 2 or values.dtype != np.uint8:
        raise StoreError(f"{key} is {values.dtype} {values.shape}; an 8-bit grey image is expected")
    return values


def _notes(outcomes: Sequence[Outcome]) -> list[str]:
    return [f"{one.item}: {note}" for one in outcomes for note in json.loads(one.notes)]
