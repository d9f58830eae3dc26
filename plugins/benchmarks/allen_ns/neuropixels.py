"""Read the Allen Institute's Neuropixels natural scenes: NWB 2 session files, and arrays of one session and area.

An array is ``NAME.npy``, float (trial, image, unit), with ``NAME.json`` beside it: ``unit_ids``, ``visual_area_code``,
``specimen_id``, ``frame_id_values`` (the scene of each image), ``n_trials``.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from mousebench.errors import StoreError
from mousebench_plugins.benchmarks.allen_ns import reader, sites
from mousebench_plugins.benchmarks.allen_ns.checks import check_counts

if TYPE_CHECKING:
    from pathlib import Path

    import h5py

SESSION_TYPE = "brain_observatory_1.1"
PRESENTATIONS = "intervals/natural_scenes_presentations"
ELECTRODES = "general/extracellular_ephys/electrodes"
WINDOW = (0.05, 0.25)  # seconds from onset: what a scene itself drives, before the next one arrives
# the SDK's own limits for a unit that is one neuron and was there all the time
QUALITY = {"isi_violations": (0.0, 0.5), "amplitude_cutoff": (0.0, 0.1), "presence_ratio": (0.9, np.inf)}


def read_arrays(folder: Path, name: str) -> xr.Dataset:
    """Return one session and area from ``NAME.npy`` and ``NAME.json``.

    Returns
    -------
    Dataset
        ``response`` float32 (presentation, unit), ``frame`` (presentation), ``unit_id`` and ``area`` (unit).

    Raises
    ------
    StoreError
        If a file is missing or damaged, or the two do not fit.
    """
    where = folder / f"{name}.npy"
    facts = _facts(folder / f"{name}.json")
    try:
        values = np.load(where, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise StoreError(f"{where} cannot be read as an array: {error}") from error
    try:
        frames, units = np.array(facts["frame_id_values"], dtype=np.int64), np.array(facts["unit_ids"], dtype=np.int64)
        area, specimen, expected = str(facts["visual_area_code"]), int(facts["specimen_id"]), int(facts["n_trials"])
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError(f"{name}.json lacks or misstates a field: {error!r}") from error
    if values.ndim != 3 or values.dtype.kind != "f" or values.shape[1:] != (len(frames), len(units)):
        raise StoreError(
            f"{where} is {values.dtype} {values.shape}; float (trial, {len(frames)} images, {len(units)} units) is expected"
        )
    _check_labels(frames, units, area, where.name)
    notes = [f"{len(values)} of {expected} repetitions"] if len(values) != expected else []
    flat = values.reshape(-1, len(units))
    return _dataset(
        flat, np.tile(frames, len(values)), units, np.full(len(units), area),
        id=specimen, animal_id=str(specimen), window=json.dumps(facts.get("time_window_s")),
        notes=json.dumps(notes), files=json.dumps([{"size": where.stat().st_size}]),
    )  # fmt: skip


def _facts(path: Path) -> dict[str, Any]:
    try:
        facts = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise StoreError(f"{path} cannot be read: {error}") from error
    if not isinstance(facts, dict):
        raise StoreError(f"{path} does not hold a JSON object")
    return facts


def _check_labels(frames: np.ndarray, units: np.ndarray, area: str, name: str) -> None:
    if len(np.unique(frames)) != len(frames) or not set(frames.tolist()) <= set(range(-1, reader.N_SCENES)):
        raise StoreError(f"{name}: its scenes are not distinct numbers of 0..{reader.N_SCENES - 1}")
    if len(np.unique(units)) != len(units):
        raise StoreError(f"{name}: a unit id occurs more than once")
    if area not in sites.AREAS:
        raise StoreError(f"{name}: area {area!r} is not one of {', '.join(sites.AREAS)}")


def _dataset(values: np.ndarray, frame: np.ndarray, units: np.ndarray, areas: np.ndarray, **attrs: Any) -> xr.Dataset:
    response = np.where(np.isfinite(values), values, np.nan).astype(np.float32)
    if np.isnan(response).all():
        raise StoreError("no response is finite")
    return xr.Dataset(
        {
            "response": (("presentation", "unit"), response),
            "frame": ("presentation", frame),
            "unit_id": ("unit", units),
            "area": ("unit", areas.astype(str)),
        },
        attrs=attrs,
    )


def read_nwb2(nwb: h5py.File, name: str, window: tuple[float, float] = WINDOW) -> xr.Dataset:
    """Return the firing rates of a session's visual areas.

    Parameters
    ----------
    nwb : h5py.File
    name : str
    window : (first, last)
        Seconds from onset over which spikes are counted.

    Returns
    -------
    Dataset
        ``response`` float32 (presentation, unit) in spikes a second, in order of onset; see ``read_arrays``.

    Raises
    ------
    StoreError
        If a table is missing or wrong, or no unit of a visual area is left.
    """
    onset = reader.dataset(nwb, f"{PRESENTATIONS}/start_time", name, ndim=1)[()].astype(np.float64)
    frame = _frames(nwb, name)
    if len(frame) != len(onset):
        raise StoreError(f"{name}: {len(frame)} frames for {len(onset)} presentations")
    order = np.argsort(onset, kind="stable")
    onset, frame = onset[order], frame[order]
    notes = check_counts(frame, name)
    areas = unit_areas(nwb, name)
    good = good_units(nwb, name, len(areas))
    chosen = np.flatnonzero(np.isin(areas, sites.AREAS) & good)
    if len(chosen) == 0:
        raise StoreError(f"{name} has no good unit in {', '.join(sites.AREAS)}")
    units = np.asarray(reader.dataset(nwb, "units/id", name, kinds="iu", ndim=1)[()], dtype=np.int64)
    rates = np.column_stack([firing_rate(times, onset, window) for times in _spikes(nwb, chosen, name)])
    animal = reader.text(nwb, "general/subject/specimen_name") or reader.text(nwb, "general/subject/subject_id")
    session = reader.text(nwb, "identifier")
    if not session.isdigit():
        raise StoreError(f"{name}: its identifier {session!r} is not a session id")
    return _dataset(
        rates, frame, units[chosen], areas[chosen],
        id=int(session), animal_id=animal or session, window=json.dumps(list(window)), notes=json.dumps(notes),
    )  # fmt: skip


def _frames(nwb: h5py.File, name: str) -> np.ndarray:
    """Return the frame of each presentation; older files write numbers as text."""
    values = reader.dataset(nwb, f"{PRESENTATIONS}/frame", name, kinds="iufSO", ndim=1)[()]
    try:
        numbers = values.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise StoreError(f"{name}: the frames of the presentations are not numbers") from error
    if not np.array_equal(numbers, np.round(numbers)):
        raise StoreError(f"{name}: the frames of the presentations are not integers")
    return numbers.astype(np.int64)


def unit_areas(nwb: h5py.File, name: str) -> np.ndarray:
    """Return the area of each unit's peak channel, str (unit); empty where it is not known."""
    channel = reader.dataset(nwb, f"{ELECTRODES}/id", name, kinds="iu", ndim=1)[()]
    location = reader.dataset(nwb, f"{ELECTRODES}/location", name, kinds="SO", ndim=1).asstr()[()]
    peak = reader.dataset(nwb, "units/peak_channel_id", name, ndim=1)[()].astype(np.int64)
    where = dict(zip(channel.tolist(), location.tolist(), strict=True))
    return np.array([where.get(one, "") for one in peak.tolist()], dtype=str)


def good_units(nwb: h5py.File, name: str, n_units: int) -> np.ndarray:
    """Return bool (unit): within the SDK's quality limits, for the measures that the file has."""
    good = np.ones(n_units, dtype=bool)
    for measure, (low, high) in QUALITY.items():
        if f"units/{measure}" in nwb:
            values = reader.dataset(nwb, f"units/{measure}", name, ndim=1)[()]
            good &= (values >= low) & (values <= high)
    return good


def _spikes(nwb: h5py.File, chosen: np.ndarray, name: str) -> list[np.ndarray]:
    """Return the sorted spike times of some units; the index column holds where each unit's times end."""
    ends = reader.dataset(nwb, "units/spike_times_index", name, kinds="iu", ndim=1)[()].astype(np.int64)
    times = reader.dataset(nwb, "units/spike_times", name, kinds="f", ndim=1)
    starts = np.concatenate([[0], ends[:-1]])
    if (np.diff(ends) < 0).any() or (len(ends) and ends[-1] != len(times)):
        raise StoreError(f"{name}: the index of the spike times does not fit them")
    return [np.sort(times[starts[unit] : ends[unit]]) for unit in chosen]


def firing_rate(times: np.ndarray, onset: np.ndarray, window: tuple[float, float]) -> np.ndarray:
    """Return spikes a second in [onset + first, onset + last), float64 (presentation), of sorted spike times."""
    count = np.searchsorted(times, onset + window[1], "left") - np.searchsorted(times, onset + window[0], "left")
    return count / (window[1] - window[0])


def read_session(source: Any, session: int) -> xr.Dataset:
    """Return one NWB 2 session of a source."""
    key = source.key("EPHYS_DATA", session)
    with source.open(key) as (file, identity), reader.open_hdf5(file, key) as nwb:
        data = read_nwb2(nwb, key)
    if data.attrs["id"] != session:
        raise StoreError(f"{key} is of session {data.attrs['id']}")
    data.attrs["files"] = json.dumps(
        [{"size": identity.size, "etag": identity.etag, "last_modified": identity.last_modified}]
    )
    return data
