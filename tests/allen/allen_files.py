"""Write files in the formats of the Allen Institute, with h5py alone: sessions, analysis files, events, tables."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import h5py
import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

N_SCENES, REPEATS = 118, 50
CONTAINER_OFFSET = 1000
SCENE_SHAPE = (9, 12)
PIPELINE = "processing/brain_observatory_pipeline"


@dataclass
class Session:
    """What a pair of files is made from; ``responses`` is (presentation, cell) in order of onset."""

    id: int = 501559087
    area: str = "VISp"
    depth: int = 175
    cre: str = "Cux2-CreERT2"
    donor: int = 222001
    n_cells: int = 6
    n_reliable: int = 3
    repeats: int = REPEATS
    seed: int = 0
    with_traces: bool = False
    frame: np.ndarray = field(init=False)
    start: np.ndarray = field(init=False)
    end: np.ndarray = field(init=False)
    cell_ids: np.ndarray = field(init=False)
    tuning: np.ndarray = field(init=False)
    responses: np.ndarray = field(init=False)
    speed: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        rng = np.random.default_rng([self.seed, self.id])
        self.frame = np.repeat(np.arange(-1, N_SCENES), self.repeats)
        rng.shuffle(self.frame)
        n = len(self.frame)
        gaps = rng.choice([7, 8], n)
        gaps[[n // 3, 2 * n // 3]] += 900  # three blocks
        self.start = 60 + np.concatenate([[0], np.cumsum(gaps)[:-1]])
        self.end = self.start + 7
        # descending ids in the order of the columns: a mix-up of both shows
        self.cell_ids = 517_000_000 + self.id % 1000 * 1000 + np.arange(self.n_cells)[::-1]
        self.tuning = rng.normal(size=(N_SCENES + 1, self.n_cells)) * (np.arange(self.n_cells) < self.n_reliable)
        self.responses = self.tuning[self.frame] * 4 + rng.normal(size=(n, self.n_cells)) * 2
        self.speed = np.abs(rng.normal(size=n)) * 5

    @property
    def n_samples(self) -> int:
        return int(self.end[-1]) + 60

    def traces(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return demixed and neuropil traces, float32 (cell, sample), and the neuropil weights."""
        rng = np.random.default_rng([self.seed, self.id, 1])
        drive = np.zeros((self.n_cells, self.n_samples))
        for row, (first, last) in enumerate(zip(self.start, self.end, strict=True)):
            drive[:, first:last] = self.responses[row][:, None] / 40
        neuropil = (300 + 20 * rng.normal(size=drive.shape)).astype(np.float32)
        r = rng.uniform(0.2, 0.9, self.n_cells)
        clean = 500 * (1 + drive) + 10 * rng.normal(size=drive.shape)
        return (clean + r[:, None] * neuropil).astype(np.float32), neuropil, r

    def events(self) -> np.ndarray:
        """Return sparse events (cell, sample) whose sum over a presentation is its planted response, cut at 0."""
        events = np.zeros((self.n_cells, self.n_samples))
        events[:, self.start + 2] = np.maximum(self.responses, 0).T
        return events

    def record(self) -> dict:
        """Return the session's record in ophys_experiments.json."""
        return {
            "id": self.id,
            "imaging_depth": self.depth,
            "targeted_structure": {"acronym": self.area},
            "experiment_container_id": self.id + CONTAINER_OFFSET,
            "experiment_container": {"failed": False},
            "stimulus_name": "three_session_B",
            "specimen": {
                "id": self.donor + 7,
                "donor": {
                    "id": self.donor,
                    "external_donor_name": str(self.donor),
                    "transgenic_lines": [
                        {"name": "Ai93(TITL-GCaMP6f)", "transgenic_line_type_name": "reporter"},
                        {"name": self.cre, "transgenic_line_type_name": "driver"},
                    ],
                },
            },
        }


def set_text(node, **attrs: str) -> None:
    for key, text in attrs.items():
        node.attrs.create(key, text.encode(), dtype=h5py.string_dtype("utf-8", max(1, len(text))))


def put_frame(parent, name, columns, index, blocks) -> None:
    """Write a pandas fixed-format frame; blocks are (items, values (row, item))."""
    group = parent.create_group(name)
    kinds = {f"block{i}_items_variety": "regular" for i in range(len(blocks))}
    set_text(
        group, CLASS="GROUP", TITLE="", VERSION="1.0", pandas_type="frame", pandas_version="0.15.2", encoding="UTF-8",
        errors="strict", axis0_variety="regular", axis1_variety="regular", **kinds,
    )  # fmt: skip
    group.attrs["ndim"], group.attrs["nblocks"] = np.int64(2), np.int64(len(blocks))

    def array(key, value, kind=None):
        node = group.create_dataset(key, data=value)
        set_text(node, CLASS="ARRAY", FLAVOR="numpy", TITLE="", VERSION="2.4")
        node.attrs["transposed"] = np.int64(1)
        if kind:
            set_text(node, kind=kind, name="N.")

    array("axis0", np.array(columns, "S"), "string")
    array("axis1", np.asarray(index, "int64"), "integer")
    for i, (items, values) in enumerate(blocks):
        array(f"block{i}_items", np.array(items, "S"), "string")
        array(f"block{i}_values", values)


def put_object_frame(parent, name, n_rows: int) -> None:
    """Write a frame as pandas writes objects: one variable-length block, which is a pickle."""
    group = parent.create_group(name)
    set_text(
        group, CLASS="GROUP", TITLE="", VERSION="1.0", pandas_type="frame", pandas_version="0.15.2", encoding="UTF-8",
        errors="strict", axis0_variety="regular", axis1_variety="regular", block0_items_variety="regular",
    )  # fmt: skip
    group.attrs["ndim"], group.attrs["nblocks"] = np.int64(2), np.int64(1)
    for key, value in (
        ("axis0", np.array(["0"], "S")),
        ("axis1", np.arange(n_rows)),
        ("block0_items", np.array(["0"], "S")),
    ):
        group.create_dataset(key, data=value)
    block = group.create_dataset("block0_values", (1,), dtype=h5py.vlen_dtype(np.uint8))
    block[0] = np.frombuffer(b"\x80\x04N.", dtype=np.uint8)


def template(shape: tuple[int, int] = SCENE_SHAPE) -> np.ndarray:
    """Return 118 different scenes, uint8."""
    return np.random.default_rng(7).integers(0, 256, (N_SCENES, *shape)).astype(np.uint8)


def write_nwb(path: Path, session: Session, *, scenes: np.ndarray | None = None, unsorted: bool = False) -> None:
    """Write a session file; ``unsorted`` stores the presentations in another order than they were shown in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as nwb:
        for key, value in {
            "nwb_version": "NWB-1.0.5_beta",
            "identifier": str(session.id),
            "session_start_time": "Mon Jan 01 2016",
            "session_description": "synthetic",
            "general/session_type": "three_session_B",
            "general/session_id": str(session.id),
            "general/experiment_container_id": str(session.id + CONTAINER_OFFSET),
            "general/optophysiology/imaging_plane_1/location": session.area,
            "general/optophysiology/imaging_plane_1/imaging depth": f"{session.depth} microns",
            "general/subject/genotype": f"{session.cre}/wt;Camk2a-tTA/wt",
        }.items():
            nwb[key] = np.bytes_(value)
        nwb["general/generated_by"] = np.array([b"pipeline", b"3.0"])
        nwb[f"{PIPELINE}/ImageSegmentation/cell_specimen_ids"] = session.cell_ids
        nwb[f"{PIPELINE}/ImageSegmentation/roi_ids"] = np.array([str(i) for i in range(session.n_cells)], "S")
        table = nwb.create_group("stimulus/presentation/natural_scenes_stimulus")
        order = np.random.default_rng(5).permutation(len(session.frame)) if unsorted else slice(None)
        table["data"] = session.frame[order]
        table["frame_duration"] = np.column_stack([session.start, session.end])[order]
        table["timestamps"] = session.start[order] / 30.0
        quiet = nwb.create_group("stimulus/presentation/spontaneous_stimulus")
        quiet["data"] = np.array([1, -1])
        quiet["frame_duration"] = np.array([[0, 0], [50, 50]])
        quiet["timestamps"] = np.array([0.0, 50 / 30])
        nwb["stimulus/templates/natural_scenes_image_stack/data"] = template() if scenes is None else scenes
        if session.with_traces:
            _write_traces(nwb, session)


def _write_traces(nwb: h5py.File, session: Session) -> None:
    demixed, neuropil, r = session.traces()
    times = np.arange(session.n_samples) / 30.0
    base = f"{PIPELINE}/Fluorescence/imaging_plane_1"
    packed = {"compression": "gzip", "compression_opts": 1, "chunks": (1, min(session.n_samples, 65536))}
    for name, value in ((base, demixed), (f"{base}_demixed_signal", demixed), (f"{base}_neuropil_response", neuropil)):
        nwb.create_dataset(f"{name}/data", data=value, **packed)
        nwb[f"{name}/timestamps"] = times
    nwb[f"{base}/r"], nwb[f"{base}_neuropil_response/r"] = r, r
    nwb.create_dataset(
        f"{PIPELINE}/DfOverF/imaging_plane_1/data", data=(demixed / 500 - 1).astype(np.float32), **packed
    )
    nwb[f"{PIPELINE}/DfOverF/imaging_plane_1/timestamps"] = times
    nwb[f"{PIPELINE}/BehavioralTimeSeries/running_speed/data"] = np.ones(session.n_samples)
    nwb[f"{PIPELINE}/BehavioralTimeSeries/running_speed/timestamps"] = times


def write_analysis(
    path: Path,
    session: Session,
    *,
    n_blocks: int = 1,
    shuffled: bool = False,
    as_pickle: bool = False,
    extra_column: bool = False,
    padding: int = 0,
) -> None:
    """Write an analysis file.

    ``shuffled`` permutes columns, rows and row labels; ``padding`` bytes stand for what is never read.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = [str(i) for i in range(session.n_cells + extra_column)] + ["dx"]
    spare = [np.zeros(len(session.frame))] * extra_column
    values = np.column_stack([session.responses, *spare, session.speed])
    table = np.column_stack([session.frame, session.start, session.end]).astype(np.int64)
    labels = np.arange(len(table))
    rows, order = labels, np.arange(len(columns))
    if shuffled:
        rng = np.random.default_rng(3)
        labels, rows, order = rng.permutation(labels), rng.permutation(labels), rng.permutation(order)
    with h5py.File(path, "w") as file:
        set_text(file, CLASS="GROUP", PYTABLES_FORMAT_VERSION="2.1", TITLE="", VERSION="1.0")
        analysis = file.create_group("analysis")
        set_text(analysis, CLASS="GROUP", TITLE="", VERSION="1.0")
        put_frame(analysis, "stim_table_ns", ["frame", "start", "end"], labels, [(["frame", "start", "end"], table)])
        if padding:
            analysis.create_dataset("sweep_response_sg", data=np.zeros(padding, dtype=np.uint8))
        if as_pickle:
            put_object_frame(analysis, "mean_sweep_response_ns", len(table))
        else:
            names = [columns[i] for i in order]
            picked = values[rows][:, order]
            cut = np.array_split(np.arange(len(names)), n_blocks)[::-1]
            blocks = [([names[i] for i in part], picked[:, part]) for part in cut]
            put_frame(analysis, "mean_sweep_response_ns", names, labels[rows], blocks)


def write_events(path: Path, session: Session) -> None:
    """Write an events archive."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, ev=session.events())


def write_cache(folder: Path, sessions: list[Session], *, events: bool = False, **options) -> Path:
    """Write a folder laid out as the SDK's cache, and as the bucket."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "ophys_experiments.json").write_text(json.dumps([session.record() for session in sessions]))
    for session in sessions:
        write_nwb(folder / f"ophys_experiment_data/{session.id}.nwb", session)
        write_analysis(
            folder / f"ophys_experiment_analysis/{session.id}_three_session_B_analysis.h5", session, **options
        )
        if events:
            write_events(folder / f"ophys_experiment_events/{session.id}_events.npz", session)
    return folder


def sessions() -> list[Session]:
    """Four sessions of three mice in two sites."""
    return [
        Session(id=501000001, donor=11),
        Session(id=501000002, donor=12, n_cells=5, n_reliable=2),
        Session(id=501000003, donor=11, area="VISl", depth=275, cre="Rorb-IRES2-Cre"),
        Session(id=501000004, donor=13, area="VISl", depth=350, cre="Nr5a1-Cre", n_cells=4, n_reliable=1),
    ]


def stored(folder: Path) -> dict[str, bytes]:
    """Return the content of everything that a fetch stored, but the ledger, which holds times."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in ("ledger.jsonl", "experiments.json") and path.suffix != ".lock"
    }
