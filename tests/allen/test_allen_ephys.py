"""Neuropixels: NWB 2 sessions by ranges, arrays of one session and area, and the real ones where they are."""

from __future__ import annotations

import json
import os
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from allen import allen_files, allen_server
from mousebench import assemblies
from mousebench.errors import MissingData, StoreError, UnknownIdentifier
from mousebench_plugins.benchmarks.allen_ns import ephys, neuropixels, reader
from mousebench_plugins.benchmarks.allen_ns.assemble import Recipe
from mousebench_plugins.benchmarks.allen_ns.ephys import Neuropixels

REAL = os.environ.get("MOUSEBENCH_REAL_DATA")
SHAPE = allen_files.SCENE_SHAPE


class Probe:
    """A session with spikes: presentations of 118 scenes and blanks, and units in several areas."""

    def __init__(self, session=715093703, repeats=10, seed=0):
        rng = np.random.default_rng([seed, session])
        self.session = session
        self.frame = np.repeat(np.arange(-1, 118), repeats)
        rng.shuffle(self.frame)
        self.onset = 100 + np.arange(len(self.frame)) * 0.25
        self.areas = ["VISp", "VISp", "CA1", "VISl", "VISp", ""]
        self.unit_ids = 950_000_000 + session % 1000 * 1000 + np.arange(6)[::-1]
        self.channels = 850_000_000 + np.array([3, 1, 4, 0, 2, 9])
        self.isi = np.array([0.1, 0.2, 0.1, 0.3, 0.9, 0.1])  # the fifth unit is not good
        tuning = rng.gamma(1.0, 3.0, (119, 6))
        self.counts = rng.poisson(tuning[self.frame])
        self.spikes = [self._spikes(rng, unit) for unit in range(6)]

    def _spikes(self, rng, unit):
        inside = np.repeat(self.onset, self.counts[:, unit]) + rng.uniform(0.051, 0.249, self.counts[:, unit].sum())
        outside = self.onset[::3] + 0.02
        return np.sort(np.concatenate([inside, outside]))

    def write(self, path):
        path.parent.mkdir(parents=True, exist_ok=True)
        text = h5py.string_dtype()
        order = np.random.default_rng(2).permutation(len(self.frame))
        with h5py.File(path, "w") as nwb:
            nwb["identifier"] = str(self.session)
            nwb["general/subject/specimen_name"] = "Sst-IRES-Cre;Ai32-386129"
            nwb[f"{neuropixels.PRESENTATIONS}/start_time"] = self.onset[order]
            nwb[f"{neuropixels.PRESENTATIONS}/frame"] = self.frame[order].astype(float)
            shuffled = np.random.default_rng(3).permutation(6)
            nwb[f"{neuropixels.ELECTRODES}/id"] = self.channels[shuffled]
            nwb.create_dataset(
                f"{neuropixels.ELECTRODES}/location", data=np.array(self.areas, object)[shuffled], dtype=text
            )
            nwb["units/id"] = self.unit_ids
            nwb["units/peak_channel_id"] = self.channels.astype(float)
            nwb["units/isi_violations"] = self.isi
            nwb.create_dataset(
                "units/spike_times", data=np.concatenate(self.spikes), chunks=(4096,), compression="gzip"
            )
            nwb["units/spike_times_index"] = np.cumsum([len(times) for times in self.spikes]).astype(np.uint32)
            nwb["units/spike_amplitudes"] = np.zeros(2_000_000)  # stands for what is never read
        return self


def write_sessions(folder, probes):
    folder.mkdir(parents=True, exist_ok=True)
    rows = ["id,session_type,ecephys_structure_acronyms"]
    for probe in probes:
        probe.write(folder / f"session_{probe.session}/session_{probe.session}.nwb")
        rows.append(f"{probe.session},brain_observatory_1.1,\"['CA1' 'VISp', 'VISl', nan]\"")
    rows.append("7,functional_connectivity,\"['VISp']\"")
    (folder / "sessions.csv").write_text("\n".join(rows))
    (folder / "natural_scene_templates").mkdir()
    for number, scene in enumerate(allen_files.template()):
        Image.fromarray(scene).save(folder / f"natural_scene_templates/natural_scene_{number}.tiff")
    return folder


def write_arrays(folder, n_trials=20, short=17):
    (folder / "ephys").mkdir(parents=True)
    (folder / "scenes").mkdir()
    rng = np.random.default_rng(4)
    order = rng.permutation(118)
    signal = rng.normal(size=(118, 5)) * [3, 3, 3, 0, 3]
    for name, area, trials in (("V1_11", "VISp", n_trials), ("RL_12", "VISrl", short)):
        values = signal + rng.normal(size=(trials, 118, 5))
        np.save(folder / f"ephys/{name}.npy", values[:, order].astype(np.float32))
        facts = {
            "specimen_id": int(name[-2:]), "visual_area_code": area, "n_trials": n_trials, "unit_ids": list(range(5 * trials, 5 * trials + 5)),
            "frame_id_values": order.tolist(), "time_window_s": [0.065, 0.255],
        }  # fmt: skip
        (folder / f"ephys/{name}.json").write_text(json.dumps(facts))
    for number, scene in enumerate(allen_files.template()):
        Image.fromarray(scene).save(folder / f"scenes/scene_{number:03d}.png")
    return signal


@pytest.fixture
def bench(tmp_path):
    return Neuropixels(scene_shape=SHAPE, settings=allen_server.QUICK, recipe=Recipe(threshold=0.5, n_splits=20))


def fetch(bench, source, **options):
    return bench.fetch(**{"sites": None, "source": str(source), "jobs": 1, "dry_run": False, **options})


def test_sessions_by_ranges(bench, tmp_path):
    probes = [Probe(), Probe(session=715093704)]
    folder = write_sessions(tmp_path / "cache", probes)
    with allen_server.serve(folder) as server:
        report = fetch(bench, server.url)
        assert not report.failed
        sizes = sum(path.stat().st_size for path in folder.rglob("*.nwb"))
        assert server.sent < 0.1 * sizes
        server.forget()
        report = fetch(bench, server.url)
        assert "2 here, 0 to fetch" in report.lines[0]
        assert server.sent < 1000  # the list of sessions
    target = bench.target("VISp")
    # the unit that is not good, the one of CA1 and the one of no area are left out
    assert sorted(target["neuroid_id"].values) == sorted([*probes[0].unit_ids[:2], *probes[1].unit_ids[:2]])
    unit = probes[0].unit_ids[1]
    rates = target.values[target["stimulus_id"].values == 5][:, target["neuroid_id"].values == unit][:, 0]
    np.testing.assert_allclose(rates, probes[0].counts[probes[0].frame == 5, 1] / 0.2, rtol=1e-6)
    assert bench.target("VISl").sizes["neuroid"] == 2
    np.testing.assert_array_equal(bench.stimuli().values, allen_files.template())
    with pytest.raises(MissingData, match="no session of VISam"):
        bench.target("VISam")


def test_only_sessions_with_the_area_are_fetched(bench, tmp_path):
    folder = write_sessions(tmp_path / "cache", [Probe()])
    report = fetch(bench, folder, sites=["VISam"], dry_run=True)
    assert "0 recordings" in report.lines[0]
    with pytest.raises(UnknownIdentifier, match=r"'VISp.L4'"):
        fetch(bench, folder, sites=["VISp.L4"])


def test_arrays_with_fewer_trials_and_images_in_another_order(bench, tmp_path):
    signal = write_arrays(tmp_path / "arrays")
    report = fetch(bench, tmp_path / "arrays", jobs=2)
    assert not report.failed
    assert "RL_12: 17 of 20 repetitions" in report.lines
    target = bench.target("VISrl")
    assert target.shape == (118 * 17, 4)  # the silent unit is not kept
    mean = assemblies.average(target)["mean"].values
    np.testing.assert_allclose(mean, signal[:, [0, 1, 2, 4]], atol=1.3)
    assert bench.target("VISp").sizes["presentation"] == 118 * 20
    assert "10 recordings" not in fetch(bench, tmp_path / "arrays").lines[0]


def test_arrays_and_sessions_are_not_mixed(bench, tmp_path):
    write_arrays(tmp_path / "arrays")
    fetch(bench, tmp_path / "arrays")
    with pytest.raises(StoreError, match="holds sessions read from arrays"):
        fetch(bench, write_sessions(tmp_path / "cache", [Probe()]))


def test_nothing_here(bench):
    with pytest.raises(MissingData) as raised:
        bench.target("VISp")
    assert raised.value.hint == "mousebench fetch allen-ns-ephys"


def test_variants():
    assert ephys.load("apart").recipe.selection == "apart"
    assert ephys.load("all-units").recipe.threshold == -1
    with pytest.raises(UnknownIdentifier, match="'x'"):
        ephys.load("x")


def change(facts_or_values, key, value):
    return {**facts_or_values, key: value}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: change(f, "unit_ids", [1, 1, 2, 3, 4]), "a unit id occurs more than once"),
        (lambda f: change(f, "unit_ids", [1, 2]), r"118 images, 2 units\) is expected"),
        (lambda f: change(f, "frame_id_values", [0] * 118), "not distinct"),
        (lambda f: change(f, "visual_area_code", "VISx"), "area 'VISx'"),
        (lambda f: change(f, "specimen_id", None), "lacks or misstates"),
        (lambda f: {}, "lacks or misstates"),
        (lambda f: [], "does not hold a JSON object"),
    ],
)
def test_bad_facts(tmp_path, spoil, message):
    write_arrays(tmp_path)
    path = tmp_path / "ephys/V1_11.json"
    path.write_text(json.dumps(spoil(json.loads(path.read_text()))))
    with pytest.raises(StoreError, match=message):
        neuropixels.read_arrays(tmp_path / "ephys", "V1_11")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((3, 118, 5), int), "is int64"),
        (np.zeros((118, 5)), r"float64 \(118, 5\)"),
        (np.full((3, 118, 5), np.nan), "no response is finite"),
        (np.array([None], dtype=object), "cannot be read as an array"),
    ],
)
def test_bad_arrays(tmp_path, values, message):
    write_arrays(tmp_path)
    np.save(tmp_path / "ephys/V1_11.npy", values, allow_pickle=True)
    with pytest.raises(StoreError, match=message):
        neuropixels.read_arrays(tmp_path / "ephys", "V1_11")


def put(nwb, path, values):
    del nwb[path]
    nwb[path] = values


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda nwb: nwb.__delitem__("units/spike_times"), "has no dataset 'units/spike_times'"),
        (lambda nwb: nwb.__delitem__(neuropixels.PRESENTATIONS), "has no dataset"),
        (lambda nwb: put(nwb, "units/spike_times_index", np.arange(6)), "does not fit them"),
        (lambda nwb: put(nwb, "units/isi_violations", np.ones(6)), "no good unit"),
        (lambda nwb: put(nwb, "identifier", "x"), "is not a session id"),
        (lambda nwb: put(nwb, f"{neuropixels.PRESENTATIONS}/frame", np.zeros(1190)), "scene 0 occurs 1190 times"),
        (lambda nwb: put(nwb, f"{neuropixels.PRESENTATIONS}/frame", np.full(1190, 0.5)), "not integers"),
        (lambda nwb: put(nwb, f"{neuropixels.PRESENTATIONS}/frame", np.zeros(3)), "3 frames for 1190 presentations"),
    ],
)
def test_bad_sessions(tmp_path, spoil, message):
    Probe().write(tmp_path / "a.nwb")
    with h5py.File(tmp_path / "a.nwb", "r+") as nwb:
        spoil(nwb)
    with pytest.raises(StoreError, match=message), reader.open_hdf5(tmp_path / "a.nwb", "a") as nwb:
        neuropixels.read_nwb2(nwb, "a")


def test_rates_equal_a_loop():
    rng = np.random.default_rng(0)
    times, onset = np.sort(rng.uniform(0, 100, 5000)), np.sort(rng.uniform(0, 100, 300))
    loop = [((times >= a + 0.05) & (times < a + 0.25)).sum() / 0.2 for a in onset]
    np.testing.assert_allclose(neuropixels.firing_rate(times, onset, (0.05, 0.25)), loop)


@pytest.mark.real
@pytest.mark.skipif(not REAL, reason="MOUSEBENCH_REAL_DATA is not set")
def test_the_real_sessions():
    real = Neuropixels()
    report = fetch(real, Path(REAL))
    assert not report.failed
    assert "RL_718643567: 47 of 50 repetitions" in report.lines
    assert real.stimuli().shape == (118, 918, 1174)
    assert real.target("VISp").shape == (5900, 280)
    assert real.target("VISrl").sizes["presentation"] == 118 * 47
    # the weak session loses most of its units, and the area's ceiling is the lowest
    weak = real.target("VISl")
    kept = weak["experiment_id"].values
    assert (kept == 769360779).sum() < 0.3 * 56 < 0.9 * 47 < (kept == 739783171).sum()
    ceilings = {site: real.target(site).attrs["rdm_ceiling"] for site in real.sites}
    assert min(ceilings, key=ceilings.get) == "VISl"
    assert min(ceilings.values()) > 0.85
