"""Read the Allen Institute's two-photon files with h5py and numpy alone.

NWB 1.0 session files, the ``three_session_B`` analysis files (pandas fixed-format frames, never a pickled block) and
the events archives. Every function takes an open HDF5 file, so that a local path and a range-reading remote file are
the same; ``name`` is what messages call the file.
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

import h5py
import numpy as np

from mousebench.errors import MousebenchError, StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SESSION_TYPE = "three_session_B"
PIPELINE = "processing/brain_observatory_pipeline"
CELL_IDS = f"{PIPELINE}/ImageSegmentation/cell_specimen_ids"
PLANE = "imaging_plane_1"
TABLES = ("stimulus/presentation/natural_scenes_stimulus", "stimulus/presentation/natural_scenes")
TEMPLATE = "stimulus/templates/natural_scenes_image_stack/data"
RUNNING = "dx"
N_SCENES = 118
BASELINE_SWEEPS, RESPONSE_SWEEPS = 4, 2  # windows of the mean sweep response, in presentations


@dataclass(frozen=True)
class StimulusTable:
    """The natural-scene presentations of a session, sorted by start.

    Attributes
    ----------
    frame : int64 (presentation)
        Scene 0..117; -1 is a blank sweep.
    start, end : int64 (presentation)
        Two-photon frame indices, the end exclusive.
    """

    frame: np.ndarray
    start: np.ndarray
    end: np.ndarray


@dataclass(frozen=True)
class SessionMetadata:
    """What a session file says of itself; an empty text or -1 where it does not say."""

    session_type: str
    experiment_id: int
    area: str
    depth_um: int
    cre_line: str


@dataclass(frozen=True)
class Frame:
    """A pandas frame: values (row, column), the row labels and the column names."""

    values: np.ndarray
    index: np.ndarray
    columns: list[str]


@contextmanager
def open_hdf5(file: Path | BinaryIO, name: str) -> Iterator[h5py.File]:
    """Open an HDF5 file to read; whatever HDF5 cannot read in it becomes a StoreError.

    A file object may keep what made its read fail in an attribute ``error``, because HDF5 hides it.
    """
    try:
        with h5py.File(file, "r") as handle:
            yield handle
    except MousebenchError:
        raise
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        hidden = getattr(file, "error", None)
        if hidden is not None:
            raise hidden from error
        raise StoreError(
            f"{name} cannot be read as HDF5: {error}", "the file is damaged or is not what its name says"
        ) from error


def dataset(
    handle: h5py.File | h5py.Group, path: str, name: str, *, kinds: str = "iuf", ndim: int | None = None
) -> h5py.Dataset:
    """Return a dataset, or raise StoreError if it is missing, of another kind of dtype, or of another rank.

    Of the kinds, which are numpy's letters, "O" means variable-length text and nothing else.
    """
    node = handle.get(path)
    if not isinstance(node, h5py.Dataset):
        raise StoreError(f"{name} has no dataset {path!r}")
    is_object = node.dtype.kind == "O" and h5py.check_string_dtype(node.dtype) is None
    if is_object or node.dtype.kind not in kinds:
        raise StoreError(f"{name}: {path!r} has dtype {node.dtype}, which is not what it should hold")
    if ndim is not None and node.ndim != ndim:
        raise StoreError(f"{name}: {path!r} has {node.ndim} dimensions; {ndim} are expected")
    return node


def text(handle: h5py.File, path: str) -> str:
    """Return a scalar text, or an empty one where the file has none."""
    node = handle.get(path)
    if not isinstance(node, h5py.Dataset) or node.size != 1:
        return ""
    value = np.asarray(node[()]).ravel()[0]
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def read_metadata(nwb: h5py.File) -> SessionMetadata:
    """Return what a session file says of itself."""
    plane = f"general/optophysiology/{PLANE}"
    depth = re.match(r"\s*(\d+)", text(nwb, f"{plane}/imaging depth") or text(nwb, f"{plane}/imaging_depth"))
    session_id = text(nwb, "general/session_id")
    genotype = text(nwb, "general/subject/genotype").split(";")[0]
    return SessionMetadata(
        session_type=text(nwb, "general/session_type"),
        experiment_id=int(session_id) if session_id.strip().isdigit() else -1,
        area=text(nwb, f"{plane}/location") or text(nwb, "general/targeted_structure"),
        depth_um=int(depth.group(1)) if depth else -1,
        cre_line=genotype.split("/")[0].strip(),
    )


def read_cell_ids(nwb: h5py.File, name: str) -> np.ndarray:
    """Return the cell specimen ids, int64 (cell); a repeated one is refused."""
    ids = np.asarray(dataset(nwb, CELL_IDS, name, kinds="iu", ndim=1)[()], dtype=np.int64)
    unique, counts = np.unique(ids, return_counts=True)
    if (counts > 1).any():
        raise StoreError(f"{name}: cell specimen id {unique[counts > 1][0]} occurs more than once")
    return ids


def read_stimulus_table(nwb: h5py.File, name: str) -> StimulusTable:
    """Return the natural-scene presentations, sorted by (start, end)."""
    group = next((path for path in TABLES if f"{path}/data" in nwb), TABLES[0])
    frame = dataset(nwb, f"{group}/data", name, ndim=1)[()]
    duration = dataset(nwb, f"{group}/frame_duration", name, ndim=2)[()]
    if duration.shape != (len(frame), 2):
        raise StoreError(f"{name}: {len(frame)} frames, but frame_duration has shape {duration.shape}")
    return _sorted_table(_integers(frame, name, "frame"), _integers(duration, name, "frame_duration"))


def _sorted_table(frame: np.ndarray, duration: np.ndarray) -> StimulusTable:
    order = np.lexsort((duration[:, 1], duration[:, 0]))
    return StimulusTable(frame[order], duration[order, 0], duration[order, 1])


def _integers(values: np.ndarray, name: str, what: str) -> np.ndarray:
    values = np.asarray(values)
    if values.dtype.kind == "f" and not np.array_equal(values, np.round(values)):
        raise StoreError(f"{name}: {what} holds values that are not integers")
    if values.dtype.kind == "u" and values.size and values.max() > np.iinfo(np.int64).max:
        raise StoreError(
            f"{name}: {what} holds {values.max()}, an unsigned value out of range; a blank (-1) was stored unsigned"
        )
    return values.astype(np.int64)


def read_template(nwb: h5py.File, name: str, scenes: slice = slice(None)) -> np.ndarray:
    """Return the scenes, uint8 (stimulus, y, x), also where the file holds them as float."""
    node = dataset(nwb, TEMPLATE, name, ndim=3)
    if node.shape[0] != N_SCENES:
        raise StoreError(f"{name}: the template holds {node.shape[0]} scenes; {N_SCENES} are expected")
    wanted = range(*scenes.indices(N_SCENES))
    out = np.empty((len(wanted), *node.shape[1:]), dtype=np.uint8)
    for position, scene in enumerate(wanted):
        values = node[scene]
        if values.dtype != np.uint8:
            whole = values.astype(np.int16, copy=False) if values.dtype.kind != "f" else np.nan_to_num(values, nan=-1)
            if whole.min() < 0 or whole.max() > 255 or not np.array_equal(whole, np.round(whole)):
                raise StoreError(f"{name}: the template holds values that are not integers in 0..255")
        out[position] = values
    return out


def read_dff(nwb: h5py.File, name: str) -> np.ndarray:
    """Return the stored dF/F, float64 (cell, sample); the analysis files are not made from it."""
    return np.asarray(dataset(nwb, f"{PIPELINE}/DfOverF/{PLANE}/data", name, kinds="f", ndim=2)[()], dtype=np.float64)


def read_corrected_fluorescence(nwb: h5py.File, name: str) -> np.ndarray:
    """Return the demixed fluorescence without its neuropil part, float64 (cell, sample)."""
    base = f"{PIPELINE}/Fluorescence/{PLANE}"
    if f"{base}_demixed_signal/data" not in nwb:
        raise StoreError(
            f"{name} has no demixed signal", "the mean sweep responses of its analysis file can still be read"
        )
    demixed = dataset(nwb, f"{base}_demixed_signal/data", name, kinds="f", ndim=2)[()]
    neuropil = dataset(nwb, f"{base}_neuropil_response/data", name, kinds="f", ndim=2)[()]
    r = dataset(nwb, f"{base}_neuropil_response/r", name, kinds="f", ndim=1)[()]
    if demixed.shape != neuropil.shape or len(r) != len(demixed):
        raise StoreError(f"{name}: demixed {demixed.shape}, neuropil {neuropil.shape} and r {r.shape} do not fit")
    return demixed.astype(np.float64) - r.astype(np.float64)[:, None] * neuropil


def window_sums(traces: np.ndarray, first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """Return the sums of traces over windows, float64 (presentation, cell).

    Parameters
    ----------
    traces : (cell, sample)
    first, last : int (presentation)
        Windows [first, last), each at least one sample long and inside the traces.
    """
    edges = np.column_stack([first, last]).ravel()
    padded = np.pad(traces, ((0, 0), (0, 1))) if edges.size and edges.max() >= traces.shape[1] else traces
    # every second segment runs from one window's end to the next one's start: not wanted
    return np.add.reduceat(padded, edges, axis=1, dtype=np.float64)[:, ::2].T


def mean_sweep_response(fluorescence: np.ndarray, table: StimulusTable) -> np.ndarray:
    """Return the mean % change of fluorescence, as the analysis files hold it.

    With L the length of the second presentation, 100 (F / B - 1) averaged over [start, start + 2L), where B is the mean
    of F over the 4L samples before start.

    Parameters
    ----------
    fluorescence : (cell, sample)
        Corrected fluorescence.
    table : StimulusTable

    Returns
    -------
    float64 (presentation, cell)
        NaN where a window leaves the recording.
    """
    length = int(table.end[1] - table.start[1])
    before, after = BASELINE_SWEEPS * length, RESPONSE_SWEEPS * length
    inside = (table.start >= before) & (table.start + after <= fluorescence.shape[1])
    start = table.start[inside]
    out = np.full((len(table.start), len(fluorescence)), np.nan)
    baseline = window_sums(fluorescence, start - before, start) / before
    with np.errstate(divide="ignore", invalid="ignore"):
        out[inside] = 100 * (window_sums(fluorescence, start, start + after) / after / baseline - 1)
    return out


def event_responses(events: np.ndarray, table: StimulusTable, name: str) -> np.ndarray:
    """Return the events summed over each presentation, float64 (presentation, cell)."""
    if table.end.max() > events.shape[1]:
        raise StoreError(f"{name} holds {events.shape[1]} samples; the stimulus table ends at {table.end.max()}")
    return window_sums(events, table.start, table.end)


def read_events(path: Path, name: str) -> np.ndarray:
    """Return the L0 events, float (cell, sample), from an npz archive; pickles are refused."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            if "ev" not in archive:
                raise StoreError(f"{name} has no array 'ev'")
            events = archive["ev"]
    except StoreError:
        raise
    except Exception as error:  # zipfile, zlib and numpy raise many kinds for a damaged archive
        raise StoreError(f"{name} cannot be read as an npz archive: {error}", "the file is damaged") from error
    if events.ndim != 2 or events.dtype.kind != "f":
        raise StoreError(f"{name}: 'ev' is {events.dtype} {events.shape}; float (cell, sample) is expected")
    return events


def read_frame(analysis: h5py.File, key: str, name: str) -> Frame:
    """Return a pandas fixed-format frame, its columns in the order of axis0.

    Raises
    ------
    StoreError
        If the frame is missing, or holds an object block: that is a pickle, and a pickle is code.
    """
    group = analysis.get(f"analysis/{key}")
    if not isinstance(group, h5py.Group):
        raise StoreError(f"{name} has no frame 'analysis/{key}'")
    where = f"{name}, analysis/{key}"
    columns, index = _labels(group, "axis0", where), dataset(group, "axis1", where, kinds="iu", ndim=1)[()]
    position = {column: at for at, column in enumerate(columns)}
    blocks = [_block(group, i, where) for i in range(int(group.attrs.get("nblocks", 0)))]
    named = [item for items, _ in blocks for item in items]
    if len(position) != len(columns) or sorted(named) != sorted(columns):
        raise StoreError(f"{where}: the blocks do not hold each column once")
    if len(np.unique(index)) != len(index) or any(len(values) != len(index) for _, values in blocks):
        raise StoreError(f"{where}: the row labels are not unique, or do not fit the blocks")
    if len(blocks) == 1 and blocks[0][0] == columns:
        return Frame(blocks[0][1], index.astype(np.int64), columns)
    values = np.empty((len(index), len(columns)), dtype=np.result_type(*(block for _, block in blocks)))
    for items, block in blocks:
        values[:, [position[item] for item in items]] = block
    return Frame(values, index.astype(np.int64), columns)


def _labels(group: h5py.Group, key: str, where: str) -> list[str]:
    node = dataset(group, key, where, kinds="S", ndim=1)
    return [label.decode("utf-8", "replace") for label in node[()].tolist()]


def _block(group: h5py.Group, i: int, where: str) -> tuple[list[str], np.ndarray]:
    node = group.get(f"block{i}_values")
    if isinstance(node, h5py.Dataset) and (h5py.check_vlen_dtype(node.dtype) is not None or node.dtype.kind == "O"):
        raise StoreError(f"{where}: block {i} holds pickled objects, which are never read")
    items = _labels(group, f"block{i}_items", where)
    values = dataset(group, f"block{i}_values", where, ndim=2)[()]
    if values.shape[1] != len(items):
        raise StoreError(f"{where}: block {i} has {values.shape[1]} columns for {len(items)} items")
    return items, values


def read_mean_sweep(analysis: h5py.File, n_cells: int, name: str) -> tuple[np.ndarray, np.ndarray, StimulusTable]:
    """Return mean sweep responses, joined to the stimulus table by row label.

    Parameters
    ----------
    analysis : h5py.File
    n_cells : int
        How many cells the session has.

    Returns
    -------
    responses : float64 (presentation, cell)
        Mean % dF/F, sorted by start.
    running_speed : float64 (presentation)
        In cm/s, over the same window.
    table : StimulusTable
    """
    table = read_frame(analysis, "stim_table_ns", name)
    if sorted(table.columns) != ["end", "frame", "start"]:
        raise StoreError(f"{name}: stim_table_ns has columns {table.columns}; frame, start, end are expected")
    response = read_frame(analysis, "mean_sweep_response_ns", name)
    wanted = [*map(str, range(n_cells)), RUNNING]
    if sorted(response.columns) != sorted(wanted):
        raise StoreError(
            f"{name}: mean_sweep_response_ns has {len(response.columns)} columns; {n_cells} cells and {RUNNING!r} are expected"
        )
    if response.values.dtype.kind != "f" or set(table.index.tolist()) != set(response.index.tolist()):
        raise StoreError(f"{name}: mean_sweep_response_ns is not float, or its rows are not those of stim_table_ns")
    where = {label: row for row, label in enumerate(response.index.tolist())}
    frame, start, end = (
        _integers(table.values[:, table.columns.index(key)], name, key) for key in ("frame", "start", "end")
    )
    order = np.lexsort((end, start))
    rows = np.array([where[label] for label in table.index.tolist()], dtype=int)[order]
    values = response.values[rows]
    columns = [response.columns.index(column) for column in wanted]
    return values[:, columns[:-1]], values[:, columns[-1]], _sorted_table(frame, np.column_stack([start, end]))


def read_session_file(nwb: h5py.File, name: str) -> tuple[SessionMetadata, np.ndarray, StimulusTable]:
    """Return metadata, cell ids and stimulus table of a session file."""
    return read_metadata(nwb), read_cell_ids(nwb, name), read_stimulus_table(nwb, name)


def describe(node: Any) -> str:
    """Return dtype, shape, chunks and compression of a dataset as one line."""
    return f"{node.dtype} {node.shape}, chunks {node.chunks}, compression {node.compression}"
