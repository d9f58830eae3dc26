"""The 118 natural scenes: fetched once, checked against a second session, kept as one file."""

from __future__ import annotations

import hashlib
import os
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np

from mousebench import assemblies
from mousebench.errors import MissingData, StoreError
from mousebench_plugins.benchmarks.allen_ns import checks, ledger, reader
from mousebench_plugins.benchmarks.allen_ns.remote import NotThere

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import xarray as xr

    from mousebench_plugins.benchmarks.allen_ns.sites import Experiment

NAME = "scenes.nc"
COMPARED = slice(0, reader.N_SCENES, 59)  # the scenes that a second session must hold alike


def is_stored(folder: Path, siblings: Sequence[Path] = ()) -> bool:
    """Return whether the scenes are here, or in the folder of a benchmark that has the same."""
    return any((place / NAME).is_file() for place in (folder, *siblings))


def stored_bytes(folder: Path) -> int:
    """Return the size of the stored scenes."""
    path = folder / NAME
    return path.stat().st_size if path.is_file() else 0


def adopt(folder: Path, siblings: Sequence[Path]) -> None:
    """Take the scenes from a sibling's folder if they are not here: no byte is moved or stored twice."""
    path = folder / NAME
    for sibling in siblings:
        if path.is_file():
            return
        if (sibling / NAME).is_file():
            folder.mkdir(parents=True, exist_ok=True)
            with assemblies.replacing(path) as temporary:
                temporary.unlink()
                try:
                    os.link(sibling / NAME, temporary)
                except OSError:  # another disk, or a file system without links
                    shutil.copyfile(sibling / NAME, temporary)


def load(folder: Path, benchmark: str) -> xr.DataArray:
    """Return the scenes, uint8 (stimulus, y, x); raise MissingData if they were not fetched."""
    path = folder / NAME
    if not path.is_file():
        raise MissingData(f"{benchmark} has no scenes on this machine", f"mousebench fetch {benchmark}")
    return assemblies.load_array(path)


def store(values: np.ndarray, folder: Path, **attrs: Any) -> None:
    """Write scenes 0..n-1 with their checksum."""
    digest = hashlib.sha256(np.ascontiguousarray(values).data).hexdigest()
    stimuli = assemblies.make_stimuli(values, np.arange(len(values), dtype=np.int64), sha256=digest, **attrs)
    assemblies.save(stimuli, folder / NAME)


def fetch(source: Any, experiments: Sequence[Experiment], folder: Path, shape: tuple[int, int]) -> None:
    """Read the scenes of the first session that has them, compare with a second one, and store them.

    Raises
    ------
    StoreError
        If no session has them, or two sessions differ.
    """
    values, problems = None, []
    for experiment in experiments:
        key = source.key("EXPERIMENT_DATA", experiment.id)
        try:
            with source.open(key) as (file, _), reader.open_hdf5(file, key) as nwb:
                part = reader.read_template(nwb, key, slice(None) if values is None else COMPARED)
        except StoreError as error:
            problems += [] if isinstance(error, NotThere) else [error.message]
            if len(problems) == 3:
                break
            continue
        if values is None:
            checks.check_template(part, shape, key)
            values, first = part, experiment.id
        elif np.array_equal(part, values[COMPARED]):
            break
        else:
            raise StoreError(f"the scenes of experiments {first} and {experiment.id} differ")
    if values is None:
        raise StoreError("no session holds the scenes" + "".join(f"; {problem}" for problem in problems))
    store(values, folder, experiment=first)
    ledger.append(folder, item="scenes", status="done", stored=stored_bytes(folder))
