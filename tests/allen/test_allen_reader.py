"""The readers: what they give for good files in every layout, and what they say of bad ones."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from allen import allen_files
from allen.allen_files import PIPELINE, Session
from mousebench.errors import StoreError
from mousebench_plugins.benchmarks.allen_ns import checks, compare, reader, sites
from mousebench_plugins.benchmarks.allen_ns.session import DFF, EVENTS, read_session
from mousebench_plugins.benchmarks.allen_ns.source import Folder

GOLDEN = Path(__file__).parent / "data/allensdk_2.16.2.npz"
TABLE = "stimulus/presentation/natural_scenes_stimulus"


@pytest.fixture
def session():
    return Session(id=501000001)


@pytest.fixture
def read(tmp_path, session):
    """Return a function that writes a session, spoils the files, and reads it."""

    def read(spoil_nwb=None, spoil_analysis=None, quantity=DFF, **options):
        folder = allen_files.write_cache(tmp_path / "cache", [session], events=quantity == EVENTS, **options)
        nwb = folder / f"ophys_experiment_data/{session.id}.nwb"
        analysis = folder / f"ophys_experiment_analysis/{session.id}_three_session_B_analysis.h5"
        for path, spoil in ((nwb, spoil_nwb), (analysis, spoil_analysis)):
            if spoil:
                with h5py.File(path, "r+") as file:
                    spoil(file)
        experiment = sites.parse_experiments([session.record()], "table")[0]
        return read_session(Folder(str(folder)), experiment, quantity, tmp_path / "scratch")

    return read


def replace_data(file, path, values):
    del file[path]
    file[path] = values


@pytest.mark.parametrize(
    "options", [{}, {"n_blocks": 2}, {"n_blocks": 3, "shuffled": True}, {"shuffled": True}], ids=str
)
def test_responses_are_joined_by_label(read, session, options):
    data = read(**options)
    np.testing.assert_array_equal(data["response"].values, session.responses.astype(np.float32))
    np.testing.assert_array_equal(data["running_speed"].values, session.speed.astype(np.float32))
    np.testing.assert_array_equal(data["cell_specimen_id"].values, session.cell_ids)
    assert json.loads(data.attrs["notes"]) == []


def test_events_are_summed_over_the_presentation(read, session):
    data = read(quantity=EVENTS)
    loop = np.array([session.events()[:, a:b].sum(1) for a, b in zip(session.start, session.end, strict=True)])
    np.testing.assert_allclose(data["response"].values, loop, rtol=1e-6)


def unsort(nwb):
    order = np.random.default_rng(1).permutation(len(nwb[f"{TABLE}/data"]))
    for key in ("data", "frame_duration"):
        replace_data(nwb, f"{TABLE}/{key}", nwb[f"{TABLE}/{key}"][()][order])


def test_an_unsorted_table_is_sorted(read, session):
    np.testing.assert_array_equal(read(spoil_nwb=unsort)["frame"].values, session.frame)


def test_the_group_may_lack_its_suffix(read, session):
    data = read(spoil_nwb=lambda nwb: nwb.move(TABLE, "stimulus/presentation/natural_scenes"))
    np.testing.assert_array_equal(data["start"].values, session.start)


def test_the_link_beside_the_table_is_not_read(read, session):
    def link(nwb):
        nwb[f"{TABLE}/indexed_timeseries/data"] = np.zeros(3)

    np.testing.assert_array_equal(read(spoil_nwb=link)["frame"].values, session.frame)


def test_frames_may_be_float(read, session):
    data = read(spoil_nwb=lambda nwb: replace_data(nwb, f"{TABLE}/data", session.frame.astype(float)))
    assert data["frame"].dtype == np.int64


@pytest.mark.parametrize("repeats_of_seven", [0, 49])
def test_missing_presentations_are_kept_and_noted(tmp_path, repeats_of_seven):
    full = Session(id=501000001)
    drop = np.flatnonzero(full.frame == 7)[: 50 - repeats_of_seven]
    keep = np.setdiff1d(np.arange(len(full.frame)), drop)
    for name in ("frame", "start", "end", "responses", "speed"):
        setattr(full, name, getattr(full, name)[keep])
    folder = allen_files.write_cache(tmp_path / "cache", [full])
    experiment = sites.parse_experiments([full.record()], "table")[0]
    data = read_session(Folder(str(folder)), experiment, DFF, tmp_path)
    assert json.loads(data.attrs["notes"]) == [f"scene 7: {repeats_of_seven} of 50 presentations"]
    assert data.sizes["presentation"] == 5950 - 50 + repeats_of_seven


def test_nan_in_running_speed_and_traces_is_kept(read, session):
    def spoil(analysis):
        values = analysis["analysis/mean_sweep_response_ns/block0_values"]
        values[3, -1] = np.nan
        values[:10, 2] = np.nan
        values[11, 2] = np.inf

    data = read(spoil_analysis=spoil)
    assert np.isnan(data["running_speed"].values[3])
    assert np.isnan(data["response"].values[:, 2]).sum() == 11
    assert json.loads(data.attrs["notes"]) == ["11 of 35700 responses are not finite"]


def as_bytes(text):
    return np.bytes_(text)


BAD_NWB = {
    "no table": (lambda nwb: nwb.__delitem__(TABLE), "has no dataset"),
    "no ids": (lambda nwb: nwb.__delitem__(f"{PIPELINE}/ImageSegmentation/cell_specimen_ids"), "has no dataset"),
    "ids are float": (
        lambda nwb: replace_data(nwb, reader.CELL_IDS, np.arange(6.0)),
        "has dtype float64",
    ),
    "an id twice": (
        lambda nwb: replace_data(nwb, reader.CELL_IDS, np.array([5, 6, 7, 8, 6, 9])),
        "cell specimen id 6 occurs more than once",
    ),
    "one id more": (lambda nwb: replace_data(nwb, reader.CELL_IDS, np.arange(7)), "7 cells and 'dx' are expected"),
    "blanks are 0": (
        lambda nwb: replace_data(nwb, f"{TABLE}/data", np.maximum(nwb[f"{TABLE}/data"][()], 0)),
        "scene 0 occurs 100 times",
    ),
    "blanks are unsigned": (
        lambda nwb: replace_data(nwb, f"{TABLE}/data", nwb[f"{TABLE}/data"][()].astype(np.uint64)),
        "out of range",
    ),
    "frame 118": (
        lambda nwb: replace_data(nwb, f"{TABLE}/data", nwb[f"{TABLE}/data"][()] + 1),
        "frames run from 0 to 118",
    ),
    "half frames": (
        lambda nwb: replace_data(nwb, f"{TABLE}/data", nwb[f"{TABLE}/data"][()] + 0.5),
        "not integers",
    ),
    "text frames": (
        lambda nwb: replace_data(nwb, f"{TABLE}/data", nwb[f"{TABLE}/data"][()].astype("S")),
        "has dtype",
    ),
    "ends before it starts": (
        lambda nwb: replace_data(nwb, f"{TABLE}/frame_duration", nwb[f"{TABLE}/frame_duration"][()][:, ::-1]),
        "end before they start",
    ),
    "two at a time": (
        lambda nwb: replace_data(nwb, f"{TABLE}/frame_duration", nwb[f"{TABLE}/frame_duration"][()] * 0 + [60, 67]),
        "overlap in time",
    ),
    "no rows": (
        lambda nwb: (
            replace_data(nwb, f"{TABLE}/data", np.zeros(0, int)),
            replace_data(nwb, f"{TABLE}/frame_duration", np.zeros((0, 2), int)),
        ),
        "no natural-scene presentation",
    ),
    "lengths differ": (
        lambda nwb: replace_data(nwb, f"{TABLE}/data", nwb[f"{TABLE}/data"][()][:-1]),
        "frame_duration has shape",
    ),
    "session type": (
        lambda nwb: replace_data(nwb, "general/session_type", as_bytes("three_session_A")),
        "session type is 'three_session_A'",
    ),
    "area": (
        lambda nwb: replace_data(nwb, "general/optophysiology/imaging_plane_1/location", as_bytes("VISl")),
        "its area is 'VISl'; the experiment table says 'VISp'",
    ),
    "depth": (
        lambda nwb: replace_data(nwb, "general/optophysiology/imaging_plane_1/imaging depth", as_bytes("275 microns")),
        "its depth is 275",
    ),
    "cre line": (
        lambda nwb: replace_data(nwb, "general/subject/genotype", as_bytes("Rorb-IRES2-Cre/wt;x")),
        "its cre line is 'Rorb-IRES2-Cre'",
    ),
    "another table": (
        lambda nwb: replace_data(nwb, f"{TABLE}/data", np.roll(nwb[f"{TABLE}/data"][()], 1)),
        "differ in 'frame'",
    ),
}


@pytest.mark.parametrize(("spoil", "message"), BAD_NWB.values(), ids=BAD_NWB)
def test_a_bad_session_file_is_refused(read, spoil, message):
    with pytest.raises(StoreError, match=message):
        read(spoil_nwb=spoil)


FRAME = "analysis/mean_sweep_response_ns"
BAD_ANALYSIS = {
    "no frame": (lambda file: file.__delitem__(FRAME), "has no frame"),
    "no table": (lambda file: file.__delitem__("analysis/stim_table_ns"), "has no frame"),
    "row label twice": (
        lambda file: replace_data(file, f"{FRAME}/axis1", np.zeros(5950, int)),
        "row labels are not unique",
    ),
    "other row labels": (
        lambda file: replace_data(file, f"{FRAME}/axis1", np.arange(5950) + 1),
        "rows are not those of stim_table_ns",
    ),
    "no block": (lambda file: file[FRAME].attrs.__setitem__("nblocks", 0), "do not hold each column once"),
    "column twice": (
        lambda file: replace_data(file, f"{FRAME}/block0_items", np.array(["0", "1", "1", "3", "4", "5", "dx"], "S")),
        "do not hold each column once",
    ),
    "integers": (
        lambda file: replace_data(file, f"{FRAME}/block0_values", file[f"{FRAME}/block0_values"][()].astype(int)),
        "is not float",
    ),
    "text": (
        lambda file: replace_data(file, f"{FRAME}/block0_values", file[f"{FRAME}/block0_values"][()].astype("S")),
        "has dtype",
    ),
    "all NaN": (
        lambda file: replace_data(file, f"{FRAME}/block0_values", np.full((5950, 7), np.nan)),
        "no response is finite",
    ),
    "block too narrow": (
        lambda file: replace_data(file, f"{FRAME}/block0_values", file[f"{FRAME}/block0_values"][:, :-1]),
        "6 columns for 7 items",
    ),
}


@pytest.mark.parametrize(("spoil", "message"), BAD_ANALYSIS.values(), ids=BAD_ANALYSIS)
def test_a_bad_analysis_file_is_refused(read, spoil, message):
    with pytest.raises(StoreError, match=message):
        read(spoil_analysis=spoil)


def test_a_pickled_block_is_refused(read):
    with pytest.raises(StoreError, match="holds pickled objects, which are never read"):
        read(as_pickle=True)


def test_one_column_more_is_refused(read):
    with pytest.raises(StoreError, match="has 8 columns; 6 cells and 'dx' are expected"):
        read(extra_column=True)


def test_metadata_that_is_not_there_is_noted(read):
    def spoil(nwb):
        del nwb["general/subject/genotype"], nwb["general/optophysiology/imaging_plane_1/imaging depth"]

    assert json.loads(read(spoil_nwb=spoil).attrs["notes"]) == [
        "the session file does not state its depth",
        "the session file does not state its cre line",
    ]


@pytest.mark.parametrize("content", [b"", b"<html>", b"\x89HDF\r\n\x1a\n" + bytes(100)])
def test_a_file_that_is_not_hdf5(tmp_path, content):
    path = tmp_path / "a.nwb"
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"a\.nwb cannot be read as HDF5"), reader.open_hdf5(path, "a.nwb"):
        pass


def test_a_truncated_file(tmp_path, session):
    path = tmp_path / "a.nwb"
    allen_files.write_nwb(path, session)
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(StoreError, match="cannot be read as HDF5"), reader.open_hdf5(path, "a.nwb"):
        pass


class TestTemplate:
    def write(self, path, values, dtype):
        with h5py.File(path, "w") as file:
            file[reader.TEMPLATE] = values.astype(dtype)
        return h5py.File(path, "r")

    @pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.int64, np.float64])
    def test_whole_numbers_of_any_type(self, tmp_path, dtype):
        with self.write(tmp_path / "a", allen_files.template(), dtype) as file:
            np.testing.assert_array_equal(reader.read_template(file, "a"), allen_files.template())
            np.testing.assert_array_equal(
                reader.read_template(file, "a", slice(0, 118, 59)), allen_files.template()[::59]
            )

    @pytest.mark.parametrize("wrong", [0.5, -1.0, 256.0, np.nan, np.inf])
    def test_other_values_are_refused(self, tmp_path, wrong):
        values = allen_files.template().astype(float)
        values[3, 2, 1] = wrong
        with (
            self.write(tmp_path / "a", values, np.float32) as file,
            pytest.raises(StoreError, match=r"not integers in 0\.\.255"),
        ):
            reader.read_template(file, "a")

    def test_another_number_of_scenes(self, tmp_path):
        with (
            self.write(tmp_path / "a", allen_files.template()[:100], np.uint8) as file,
            pytest.raises(StoreError, match="100 scenes"),
        ):
            reader.read_template(file, "a")

    def test_another_size(self):
        with pytest.raises(StoreError, match=r"\(118, 918, 1174\) is expected"):
            checks.check_template(allen_files.template(), checks.SCENE_SHAPE, "a")


class TestEvents:
    @pytest.mark.parametrize(
        ("arrays", "message"),
        [
            ({"other": np.zeros((2, 2))}, "no array 'ev'"),
            ({"ev": np.zeros(3)}, r"'ev' is float64 \(3,\)"),
            ({"ev": np.zeros((2, 3), int)}, "'ev' is int64"),
            ({"ev": np.array([[None]], dtype=object)}, "cannot be read"),
        ],
    )
    def test_bad_archives(self, tmp_path, arrays, message):
        path = tmp_path / "a.npz"
        np.savez(path, allow_pickle=True, **arrays)
        with pytest.raises(StoreError, match=message):
            reader.read_events(path, "a.npz")

    def test_damaged_archives(self, tmp_path):
        path = tmp_path / "a.npz"
        np.savez_compressed(path, ev=np.random.default_rng(0).normal(size=(5, 1000)))
        content = bytearray(path.read_bytes())
        path.write_bytes(content[:-50])
        with pytest.raises(StoreError, match="cannot be read as an npz archive"):
            reader.read_events(path, "a.npz")
        content[3000] ^= 255
        path.write_bytes(content)
        with pytest.raises(StoreError, match="cannot be read as an npz archive"):
            reader.read_events(path, "a.npz")

    def test_too_few_samples(self, session):
        table = reader.StimulusTable(session.frame, session.start, session.end)
        with pytest.raises(StoreError, match="the stimulus table ends at"):
            reader.event_responses(session.events()[:, :-100], table, "a.npz")

    def test_another_number_of_cells(self, read, session, tmp_path):
        read(quantity=EVENTS)
        other = replace(session, n_cells=5)
        allen_files.write_events(tmp_path / f"cache/ophys_experiment_events/{session.id}_events.npz", other)
        experiment = sites.parse_experiments([session.record()], "table")[0]
        with pytest.raises(StoreError, match=r"\(5950, 6\) is expected"):
            read_session(Folder(str(tmp_path / "cache")), experiment, EVENTS, tmp_path)


class TestTraces:
    def test_mean_sweep_response_equals_the_definition(self):
        session = Session(n_cells=3, repeats=3, with_traces=True)
        demixed, neuropil, r = session.traces()
        traces = demixed.astype(float) - r[:, None] * neuropil
        table = reader.StimulusTable(session.frame, session.start, session.end)
        loop = [
            np.mean(100 * (traces[:, a : a + 14] / traces[:, a - 28 : a].mean(1, keepdims=True) - 1), axis=1)
            for a in session.start
        ]
        np.testing.assert_allclose(reader.mean_sweep_response(traces, table), loop, rtol=0, atol=1e-11)

    def test_windows_outside_the_recording_are_missing(self):
        start = np.array([10, 40, 95])
        table = reader.StimulusTable(np.zeros(3, int), start, start + 7)
        values = reader.mean_sweep_response(np.ones((2, 100)), table)
        np.testing.assert_array_equal(values, [[np.nan] * 2, [0, 0], [np.nan] * 2])

    def test_a_window_may_end_with_the_recording(self):
        np.testing.assert_array_equal(
            reader.window_sums(np.arange(10.0)[None], np.array([2, 7]), np.array([4, 10])), [[5], [24]]
        )

    def test_no_demixed_signal(self, tmp_path):
        path = tmp_path / "a.nwb"
        allen_files.write_nwb(path, Session(n_cells=2, repeats=1))
        with reader.open_hdf5(path, "a") as nwb, pytest.raises(StoreError, match="has no demixed signal"):
            reader.read_corrected_fluorescence(nwb, "a")


class TestAllenSDK:
    """Equality with AllenSDK 2.16.2, which computed the stored archive from this very session."""

    @pytest.fixture
    def files(self, tmp_path):
        session = Session(id=501559087, n_cells=3, n_reliable=2, repeats=2, with_traces=True)
        allen_files.write_nwb(tmp_path / "s.nwb", session, unsorted=True)
        with np.load(GOLDEN) as golden:
            sdk = dict(golden)
        # an analysis file with AllenSDK's own values, in another order than it writes them in
        session.responses, session.speed = sdk["response"][:, :3], sdk["response"][:, 3]
        allen_files.write_analysis(tmp_path / "a.h5", session, n_blocks=2, shuffled=True)
        return tmp_path / "s.nwb", tmp_path / "a.h5", sdk

    def test_every_array_is_the_same(self, files):
        rows = compare.compare(*files)
        assert [row.name for row in rows if not row.agrees] == []
        assert {"response", "cell_ids", "frame", "response, recomputed from traces", "cre_line"} <= {
            row.name for row in rows
        }
        recomputed = rows[-1]
        assert recomputed.difference < 1e-11
        with reader.open_hdf5(files[0], "s") as nwb:
            traces, dff = reader.read_corrected_fluorescence(nwb, "s"), reader.read_dff(nwb, "s")
        np.testing.assert_array_equal(traces[:, ::97], files[2]["corrected_part"])
        np.testing.assert_array_equal(dff[:, ::97], files[2]["dff_part"])

    def test_a_difference_is_found(self, files, capsys, tmp_path):
        nwb, analysis, sdk = files
        sdk["cell_ids"] = sdk["cell_ids"][::-1]
        np.savez(tmp_path / "sdk.npz", **sdk)
        assert compare.main([str(nwb), str(analysis), str(tmp_path / "sdk.npz")]) == 1
        out = capsys.readouterr().out.splitlines()
        assert [line.split()[1] for line in out if line.startswith("DIFFERENT")] == ["cell_ids"]

    def test_without_the_archive(self, files, capsys, tmp_path):
        assert compare.main([str(files[0]), str(files[1]), str(tmp_path / "none.npz")]) == 2
        assert "hint: uv run --script tools/check_against_allensdk.py" in capsys.readouterr().err
