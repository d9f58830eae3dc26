"""One session: read from a source, checked, as one small Dataset."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from mousebench_plugins.benchmarks.allen_ns import checks, reader

if TYPE_CHECKING:
    from pathlib import Path

    from mousebench_plugins.benchmarks.allen_ns.remote import Identity
    from mousebench_plugins.benchmarks.allen_ns.sites import Experiment
    from mousebench_plugins.benchmarks.allen_ns.source import Source

DFF, EVENTS = "mean_sweep_response", "l0_events"
UNITS = {DFF: "mean % dF/F of two presentations from onset", EVENTS: "L0 events summed over the presentation"}


def read_session(source: Source, experiment: Experiment, quantity: str, scratch: Path) -> xr.Dataset:
    """Read one session and check it.

    Parameters
    ----------
    source : Source
    experiment : Experiment
    quantity : str
        "mean_sweep_response" or "l0_events".
    scratch : Path
        Folder for a whole file while it is read.

    Returns
    -------
    Dataset
        ``response`` float32 (presentation, cell) in order of onset, ``frame``, ``start``, ``end`` and, for dF/F,
        ``running_speed`` (presentation), ``cell_specimen_id`` (cell).

    Raises
    ------
    StoreError
        If a file is missing, damaged, or does not hold what it should.
    """
    key = source.key("EXPERIMENT_DATA", experiment.id)
    with source.open(key) as (file, identity), reader.open_hdf5(file, key) as nwb:
        metadata, cell_ids, table = reader.read_session_file(nwb, key)
    notes = checks.check_metadata(metadata, experiment, key) + checks.check_table(table, key)
    read = _mean_sweep if quantity == DFF else _events
    values, extra, found = read(source, experiment, table, len(cell_ids), scratch)
    values, more = checks.check_responses(values, len(cell_ids), len(table.frame), found.url)
    speed = {"running_speed": ("presentation", extra)} if extra is not None else {}
    return xr.Dataset(
        {
            "response": (("presentation", "cell"), values),
            **{name: ("presentation", getattr(table, name)) for name in ("frame", "start", "end")},
            **speed,
            "cell_specimen_id": ("cell", cell_ids),
        },
        attrs={
            **{name: _plain(value) for name, value in experiment.as_dict().items()},
            "quantity": quantity,
            "files": json.dumps([_stamp(one) for one in (identity, found)]),
            "notes": json.dumps(notes + more),
        },
    )


def _mean_sweep(
    source: Source, experiment: Experiment, table: reader.StimulusTable, n_cells: int, scratch: Path
) -> tuple[np.ndarray, np.ndarray | None, Identity]:
    key = source.key("ANALYSIS_DATA", experiment.id)
    with source.open(key) as (file, identity), reader.open_hdf5(file, key) as analysis:
        values, speed, same = reader.read_mean_sweep(analysis, n_cells, key)
    checks.check_same_table(same, table, key)
    return values, speed.astype(np.float32), identity


def _events(
    source: Source, experiment: Experiment, table: reader.StimulusTable, n_cells: int, scratch: Path
) -> tuple[np.ndarray, np.ndarray | None, Identity]:
    key = source.key("EVENTS_DATA", experiment.id)
    with source.whole(key, scratch) as (path, identity):
        values = reader.event_responses(reader.read_events(path, key), table, key)
    return values, None, identity


def _stamp(identity: Identity) -> dict[str, str | int]:
    # only what is a property of the file: two fetches of the same files give the same bytes
    return {"size": identity.size, "etag": identity.etag, "last_modified": identity.last_modified}


def _plain(value: object) -> object:
    return int(value) if isinstance(value, bool) else value
