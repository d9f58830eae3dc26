from __future__ import annotations

import csv
import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from mousebench.assemblies import average, check_stimuli, check_target, stimulus_ids, trial_cube
from mousebench.errors import UnknownIdentifier, UsageError
from mousebench.linalg import correlation_rdm, gram, pearson_columns, upper_triangle
from mousebench.reliability import neuroid_reliability, rdm_reliability, spearman_brown
from mousebench_plugins.benchmarks import _sim_features, _sim_scenes, _simulation, sim_ns
from mousebench_plugins.benchmarks.sim_ns import SimNS
from mousebench_plugins.models import sim_models
from mousebench_plugins.models.sim_models import SimFeatures, SimTruth

SMALL = {"VISp.L4": 60, "VISl.L6": 60, "VISp.L5": 60}


def rdm_pairs(features: np.ndarray) -> np.ndarray:
    return upper_triangle(correlation_rdm(*gram([features])))


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a, b)[0, 1])


@pytest.fixture(scope="module")
def world(sim_ns: Path) -> SimNS:
    """sim-ns as it is by default; all its sites are made once."""
    return SimNS(folder=sim_ns)


@pytest.fixture(scope="module")
def scenes(world: SimNS) -> np.ndarray:
    return world.stimuli().values


@pytest.fixture(scope="module")
def targets(world: SimNS) -> dict[str, xr.DataArray]:
    return {site: world.target(site) for site in world.sites}


@pytest.fixture
def quick_scenes(scenes: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Make the scenes of any seed at once, and return the seeds asked for: scenes are what takes time in a small world."""
    asked: list[int] = []
    monkeypatch.setattr(_sim_scenes, "make_scenes", lambda seed: (asked.append(seed), np.roll(scenes, seed, 0))[1])
    return asked


@pytest.fixture
def own_folder(tmp_path: Path, quick_scenes: list[int]) -> Path:
    """An empty folder, where worlds of one's own are made quickly."""
    return tmp_path / "own"


@pytest.fixture(scope="module")
def bank_rdms(world: SimNS, scenes: np.ndarray) -> dict[str, np.ndarray]:
    return {name: rdm_pairs(world.standard_features(scenes, name)) for name in _sim_features.feature_banks()}


def population(world: SimNS, site: str, n_cells: int) -> tuple[_simulation.Population, np.ndarray]:
    features = world.standard_features(world.stimuli().values, world.drivers[site])
    rng = np.random.default_rng(11)
    return _simulation.make_population(site, features, n_cells, 50, rng), features


# scenes


def spectral_slopes(images: np.ndarray) -> np.ndarray:
    """Return the exponent of the radial amplitude spectrum of each image, between 0.02 and 0.4 cycles a pixel."""
    height, width = images.shape[1:]
    window = np.outer(np.hanning(height), np.hanning(width))
    amplitude = np.abs(np.fft.fft2((images - images.mean((1, 2), keepdims=True)) * window))
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width))
    edges = np.geomspace(0.02, 0.4, 13)
    band = np.digitize(frequency, edges)
    profile = np.stack([amplitude[:, band == k].mean(1) for k in range(1, 13)])
    return np.polyfit(np.log(edges[1:] * edges[:-1]) / 2, np.log(profile), 1)[0]


def test_the_scenes_are_labelled_grey_images(world: SimNS) -> None:
    stimuli = check_stimuli(world.stimuli())
    assert dict(stimuli.sizes) == {"stimulus": 118, "y": 192, "x": 246}
    assert stimuli["stimulus_id"].dtype == np.int64
    assert stimuli["stimulus_id"].values.tolist() == list(range(118))
    assert stimuli.attrs["simulated"] == 1
    assert SimNS.simulated is True


def test_the_scenes_have_the_spectra_of_natural_scenes(scenes: np.ndarray) -> None:
    slopes = spectral_slopes(scenes.astype(float))
    assert -1.4 < slopes.mean() < -0.8
    assert slopes.std() > 0.05


def test_the_scenes_differ_from_one_another(scenes: np.ndarray) -> None:
    assert len({scene.tobytes() for scene in scenes}) == 118
    assert scenes.std((1, 2)).min() > 20
    assert scenes.std((1, 2)).std() > 5
    assert scenes.mean((1, 2)).std() > 5


def test_a_seed_fixes_the_scenes() -> None:
    first, again, other = (_sim_scenes.make_scenes(seed, 5) for seed in (3, 3, 4))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


# feature banks


def test_the_feature_banks_are_clearly_different(bank_rdms: dict[str, np.ndarray]) -> None:
    between = np.corrcoef(list(bank_rdms.values()))
    assert np.abs(between[np.triu_indices(len(between), 1)]).max() < 0.8


@pytest.mark.parametrize("name", list(_sim_features.feature_banks()))
def test_a_feature_bank_is_a_function_of_any_images(name: str, scenes: np.ndarray) -> None:
    bank = _sim_features.feature_banks()[name]
    grey = scenes[:9]
    features = bank(grey)
    assert features.dtype == np.float64
    assert features.shape[0] == 9
    np.testing.assert_allclose(bank(np.repeat(grey[..., None], 3, axis=-1)), features, atol=1e-12)
    np.testing.assert_allclose(bank(grey[4:5]), features[4:5], atol=1e-9)
    larger = np.repeat(np.repeat(grey, 2, axis=1), 2, axis=2)
    np.testing.assert_allclose(bank(larger), features, atol=1e-6)
    assert np.isfinite(bank(np.full((1, 64, 64, 3), 127, dtype=np.uint8))).all()


# responses


def test_the_targets_keep_the_contract(targets: dict[str, xr.DataArray]) -> None:
    for site, target in targets.items():
        assert check_target(target) == "responses"
        assert target.sizes["presentation"] == 118 * 50
        assert target.sizes["neuroid"] >= 4
        assert np.isfinite(target.values).all()
        assert float(target.min()) == 0
        assert np.array_equal(stimulus_ids(target), np.arange(118))
        assert np.array_equal(np.unique(target["repetition"]), np.arange(50))
        assert set(target["site"].values) == {site}
        assert (target["area"].values + "." + target["layer"].values == site).all()
        assert set(target["cre_line"].values) == {"simulated"}
        assert target["experiment_id"].dtype.kind == target["animal_id"].dtype.kind == "i"
        assert float(target["reliability"].min()) >= 0.75
        assert target.attrs["simulated"] == 1


def test_the_counts_are_close_to_the_real_ones(targets: dict[str, xr.DataArray]) -> None:
    kept = {site: target.sizes["neuroid"] for site, target in targets.items()}
    for site, target in targets.items():
        attrs = target.attrs
        assert attrs["n_cells"] == _simulation.CELLS[site]
        assert attrs["n_unreliable"] + attrs["n_constant"] + kept[site] == attrs["n_cells"]
        assert abs(kept[site] - _simulation.KEPT[site]) <= max(6, 0.06 * _simulation.KEPT[site])
    assert sum(_simulation.CELLS.values()) == 37719
    assert sum(_simulation.KEPT.values()) == 8214
    assert abs(sum(kept.values()) - 8214) < 0.04 * 8214


def test_depths_belong_to_their_layers(world: SimNS) -> None:
    bounds = {"L23": (0, 200), "L4": (200, 300), "L5": (300, 500), "L6": (500, 900)}
    for site in ("VISp.L23", "VISp.L4", "VISp.L5", "VISp.L6"):
        depth = world.target(site)["depth_um"].values
        low, high = bounds[site.split(".")[1]]
        assert low <= depth.min() <= depth.max() < high


def test_ids_are_unique_and_animals_hold_whole_experiments(targets: dict[str, xr.DataArray]) -> None:
    ids = np.concatenate([target["neuroid_id"].values for target in targets.values()])
    assert len(set(ids)) == len(ids)
    animals = defaultdict(set)
    for target in targets.values():
        for experiment, animal in zip(target["experiment_id"].values, target["animal_id"].values, strict=True):
            animals[experiment].add(animal)
    assert {len(owners) for owners in animals.values()} == {1}


def test_reliabilities_are_measured_as_planted(world: SimNS) -> None:
    neurons, features = population(world, "VISal.L23", 600)
    cube = _simulation.make_trials(neurons, features, 50, np.random.default_rng(0))
    measured = neuroid_reliability(cube, np.random.default_rng(1), n_splits=40)
    planted = neurons.planted_reliability
    assert correlation(measured, planted) > 0.95
    assert np.median(np.abs(measured - planted)) < 0.06
    assert abs(np.median(measured - planted)) < 0.01


def test_trials_are_mostly_nothing_and_sometimes_much(world: SimNS) -> None:
    values = world.target("VISp.L5").values
    assert np.mean(values == 0) > 0.5
    relative = values / values.std(0)
    assert np.mean(relative**4) > 6  # a normal distribution has 3


def test_trials_have_the_mean_and_variance_of_a_compound_poisson_sum() -> None:
    features = np.linspace(-1, 1, 3)[:, None]
    two = np.array([0.5, 1.5])
    neurons = _simulation.Population(np.ones((1, 2)), two, two, 2 * two, two)
    trials = _simulation.make_trials(neurons, features, 40_000, np.random.default_rng(0))
    np.testing.assert_allclose(trials.mean(1), neurons.expected(features), rtol=0.05)
    np.testing.assert_allclose(trials.var(1), 2 * neurons.amplitude**2 * neurons.events(features), rtol=0.1)


def test_cells_without_trials_could_not_have_been_kept(world: SimNS) -> None:
    neurons, features = population(world, "VISpm.L4", 1657)
    below = neurons.subset(neurons.planted_reliability < 0.75 - _simulation.MARGIN)
    cube = _simulation.make_trials(below, features, 50, np.random.default_rng(0))
    measured = neuroid_reliability(cube, np.random.default_rng(1), n_splits=20)
    assert len(measured) > 1000
    assert np.nanmax(measured) < 0.72


def test_a_seed_fixes_the_data_whatever_the_order_of_sites(
    own_folder: Path, tmp_path: Path, quick_scenes: list[int]
) -> None:
    forth = SimNS(cells=SMALL, folder=own_folder)
    back = SimNS(cells=SMALL, folder=tmp_path / "other")
    expected = {site: forth.target(site) for site in SMALL}
    for site in reversed(SMALL):
        xr.testing.assert_identical(back.target(site), expected[site])
        assert back.target(site).values.tobytes() == expected[site].values.tobytes()
    assert set(quick_scenes) == {0}
    other = SimNS(cells=SMALL, seed=1, folder=own_folder)
    assert not np.array_equal(other.stimuli(), forth.stimuli())
    assert not np.array_equal(other.target("VISp.L4").values[:, :4], expected["VISp.L4"].values[:, :4])


# truth


def test_the_truth_names_the_driver_of_every_site(world: SimNS) -> None:
    truth = world.truth()
    assert truth["driver"].dims == ("site",)
    assert truth["site"].values.tolist() == list(world.sites)
    assert truth["driver"].sel(site="VISp.L4").item() == sim_ns.DRIVERS["VISp.L4"]
    assert set(truth["driver"].values) == set(_sim_features.feature_banks())


def test_the_planted_bank_is_nearer_to_its_site_than_any_other(
    world: SimNS, targets: dict[str, xr.DataArray], bank_rdms: dict[str, np.ndarray]
) -> None:
    large = [site for site in world.sites if _simulation.KEPT[site] >= 100]
    assert len(large) == 13
    for site in large:
        pairs = rdm_pairs(average(targets[site])["mean"].values)
        similarity = {name: correlation(pairs, rdm) for name, rdm in bank_rdms.items()}
        planted = similarity.pop(world.drivers[site])
        assert planted > max(similarity.values()) + 0.1


def test_averaged_trials_correlate_with_the_expected_as_their_reliability_says(world: SimNS) -> None:
    target, truth = world.target("VISl.L4"), world.truth("VISl.L4")
    assert truth["neuroid_id"].values.tolist() == target["neuroid_id"].values.tolist()
    assert truth["stimulus_id"].values.tolist() == stimulus_ids(target).tolist()
    r = pearson_columns(average(target)["mean"].values, truth["expected"].values)
    ceiling = np.sqrt(truth["planted_reliability"].values)
    assert np.median(np.abs(r - ceiling)) < 0.02
    assert abs(np.median(r - ceiling)) < 0.01


@pytest.mark.parametrize("site", ["VISl.L5", "VISal.L5", "VISpm.L23", "VISam.L4", "VISrl.L23"])
def test_the_expected_rdm_reaches_the_ceiling(world: SimNS, site: str) -> None:
    cube, _ = trial_cube(world.target(site))
    half = rdm_reliability(cube, np.random.default_rng(0), n_splits=10).mean()
    r = correlation(rdm_pairs(cube.mean(1)), rdm_pairs(world.truth(site)["expected"].values))
    assert abs(r - np.sqrt(spearman_brown(half))) < 0.03


def test_rdms_of_large_sites_are_reliable_and_those_of_tiny_ones_are_not(world: SimNS) -> None:
    half = {}
    for site in ("VISl.L23", "VISal.L23", "VISpm.L23", "VISp.L6", "VISrl.L4", "VISrl.L5"):
        cube, _ = trial_cube(world.target(site))
        half[site] = rdm_reliability(cube, np.random.default_rng(0), n_splits=10).mean()
    assert min(half[site] for site in ("VISl.L23", "VISal.L23", "VISpm.L23")) > 0.8
    assert max(half[site] for site in ("VISp.L6", "VISrl.L4", "VISrl.L5")) < 0.75


def test_another_truth_can_be_planted(own_folder: Path, bank_rdms: dict[str, np.ndarray]) -> None:
    world = SimNS(drivers={"VISp.L4": "global"}, cells={"VISp.L4": 400}, folder=own_folder)
    assert world.truth()["driver"].sel(site="VISp.L4").item() == "global"
    pairs = rdm_pairs(average(world.target("VISp.L4"))["mean"].values)
    similarity = {name: correlation(pairs, rdm) for name, rdm in bank_rdms.items()}
    assert max(similarity, key=lambda name: similarity[name]) == "global"


# files


def forbid_making(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("made again")

    monkeypatch.setattr(_sim_scenes, "make_scenes", refuse)
    monkeypatch.setattr(_simulation, "record", refuse)


@pytest.mark.usefixtures("quick_scenes")
def test_data_are_made_once_and_kept_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOUSEBENCH_HOME", str(tmp_path))
    made = SimNS(cells=SMALL).target("VISp.L4")
    assert len(list((tmp_path / "data" / "sim-ns" / "v1").glob("VISp.L4-*.nc"))) == 1
    forbid_making(monkeypatch)
    xr.testing.assert_identical(SimNS(cells=SMALL).target("VISp.L4"), made)


def test_a_damaged_file_is_made_again(own_folder: Path) -> None:
    made = SimNS(cells=SMALL, folder=own_folder).target("VISp.L4")
    (path,) = own_folder.glob("VISp.L4-*.nc")
    path.write_bytes(path.read_bytes()[:-2000])
    xr.testing.assert_identical(SimNS(cells=SMALL, folder=own_folder).target("VISp.L4"), made)
    path.write_bytes(b"not netCDF")
    xr.testing.assert_identical(SimNS(cells=SMALL, folder=own_folder).target("VISp.L4"), made)


@pytest.mark.parametrize(
    "change",
    [{"seed": 1}, {"drivers": {"VISp.L4": "global"}}, {"cells": {}}, {"repetitions": 20}, {"threshold": 0.8}],
    ids=lambda change: next(iter(change)),
)
def test_other_parameters_use_other_files(tmp_path: Path, change: dict) -> None:
    one = SimNS(**{"cells": SMALL, "folder": tmp_path})
    two = SimNS(**{"cells": SMALL, "folder": tmp_path, **change})
    assert one._file_name("VISp.L4", one.parameters) != two._file_name("VISp.L4", two.parameters)


def test_other_repetitions_and_thresholds_are_kept_to(own_folder: Path) -> None:
    target = SimNS(cells=SMALL, repetitions=20, threshold=0.5, folder=own_folder).target("VISp.L4")
    assert target.sizes["presentation"] == 118 * 20
    assert 0.5 <= float(target["reliability"].min()) < 0.75


@pytest.mark.usefixtures("quick_scenes")
def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    world = SimNS(cells=SMALL, folder=blocked / "sim-ns")
    assert check_target(world.target("VISp.L4")) == "responses"
    assert world.truth("VISp.L4")["expected"].sizes["stimulus"] == 118


# errors


@pytest.mark.parametrize(
    ("parameters", "error", "named"),
    [
        ({"drivers": {"VISp.L9": "global"}}, UnknownIdentifier, "VISp.L9"),
        ({"cells": {"V1": 10}}, UnknownIdentifier, "V1"),
        ({"drivers": {"VISp.L4": "faces"}}, UsageError, "faces"),
        ({"cells": {"VISp.L4": 0}}, UsageError, "VISp.L4"),
        ({"seed": -1}, UsageError, "seed"),
        ({"repetitions": 1}, UsageError, "repetitions"),
        ({"threshold": 1.5}, UsageError, "threshold"),
    ],
)
def test_wrong_parameters_are_named(parameters: dict, error: type[Exception], named: str) -> None:
    with pytest.raises(error, match=named):
        SimNS(**parameters)


def test_an_unknown_site_is_named(world: SimNS) -> None:
    for ask in (world.target, world.truth):
        with pytest.raises(UnknownIdentifier, match=r"VISp\.L9"):
            ask("VISp.L9")


def test_a_site_without_a_reliable_neuron_is_an_error(own_folder: Path) -> None:
    with pytest.raises(UsageError, match=r"none of the 3 cells of 'VISrl\.L4'"):
        SimNS(cells={"VISrl.L4": 3}, folder=own_folder).target("VISrl.L4")


# plugins and models


def test_the_plugins_declare_without_heavy_imports() -> None:
    code = (
        "import sys\n"
        "from mousebench_plugins.benchmarks import sim_ns\n"
        "from mousebench_plugins.models import sim_models\n"
        "specs = [*sim_ns.mousebench_benchmarks(), *sim_models.mousebench_models()]\n"
        "assert [spec.identifier for spec in specs] == ['sim-ns', 'sim-features', 'sim-truth']\n"
        "assert not {'numpy', 'scipy', 'xarray', 'torch'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_descriptions_say_what_is_simulated() -> None:
    (benchmark,) = sim_ns.mousebench_benchmarks()
    assert benchmark.description.startswith("simulated")
    assert all("control for sim-ns" in spec.description for spec in sim_models.mousebench_models())


def test_sim_features_holds_the_planted_banks(world: SimNS, scenes: np.ndarray, bank_rdms: dict) -> None:
    model = SimFeatures(world)
    images = np.repeat(scenes[..., None], 3, axis=-1)
    activations = model.activations(images, model.layers[:2])
    assert list(activations) == ["luminance", "edges-fine"]
    for layer, features in activations.items():
        np.testing.assert_allclose(rdm_pairs(features), bank_rdms[layer], atol=1e-9)
        np.testing.assert_allclose(features.mean(0), 0, atol=1e-9)


def test_sim_truth_is_the_neurons_of_the_targets(
    world: SimNS, sim_ns: Path, scenes: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    sites = ["VISpm.L6", "VISrl.L5"]
    truth = {site: world.truth(site)["expected"].values for site in sites}
    forbid_making(monkeypatch)
    model = SimTruth(SimNS(folder=sim_ns))
    assert model.layers == world.sites
    activations = model.activations(np.repeat(scenes[..., None], 3, axis=-1), sites)
    assert list(activations) == sites
    for site in sites:
        np.testing.assert_allclose(activations[site], truth[site], rtol=1e-9)
    some = model.activations(np.repeat(scenes[7:9, ..., None], 3, axis=-1), sites[:1])
    np.testing.assert_allclose(some["VISpm.L6"], truth["VISpm.L6"][7:9], rtol=1e-6)


def test_fingerprints_follow_what_fixes_the_numbers(tmp_path: Path) -> None:
    default, seed, cells = SimNS(folder=tmp_path), SimNS(seed=1, folder=tmp_path), SimNS(cells=SMALL, folder=tmp_path)
    for model in (SimFeatures, SimTruth):
        fingerprint = model(default).fingerprint
        assert all(isinstance(value, str) for value in fingerprint.values())
        assert fingerprint == model(SimNS(folder=tmp_path / "elsewhere")).fingerprint
        assert fingerprint != model(seed).fingerprint
    assert SimTruth(default).fingerprint != SimTruth(cells).fingerprint
    assert SimFeatures(default).fingerprint == SimFeatures(cells).fingerprint


# against the real neurons


@pytest.fixture(scope="module")
def real_reliabilities() -> dict[str, np.ndarray]:
    folder = os.environ.get("MOUSEBENCH_REAL_DATA")
    if not folder:
        pytest.skip("MOUSEBENCH_REAL_DATA is not set")
    by_site = defaultdict(list)
    with (Path(folder) / "tables" / "reliability_by_site.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            by_site[f"{row['area']}.{row['layer'].replace('layer', 'L')}"].append(float(row["splithalf_r"]))
    return {site: np.array(values) for site, values in by_site.items()}


@pytest.mark.real
def test_the_planted_reliabilities_spread_as_the_real_ones(real_reliabilities: dict[str, np.ndarray]) -> None:
    assert set(real_reliabilities) == set(SimNS.sites)
    levels = np.linspace(0.05, 0.95, 19)
    for site, real in real_reliabilities.items():
        planted = _simulation.planted_reliabilities(site, len(real))
        assert len(real) == _simulation.CELLS[site]
        assert (real >= 0.75).sum() == _simulation.KEPT[site] == (planted >= 0.75).sum()
        difference = np.quantile(planted, levels) - np.clip(np.quantile(real, levels), 0, 0.99)
        assert np.abs(difference).max() < 0.05


@pytest.mark.real
@pytest.mark.parametrize("site", ["VISal.L5", "VISpm.L5", "VISrl.L5"])
def test_the_measured_reliabilities_spread_as_the_real_ones(
    world: SimNS, site: str, real_reliabilities: dict[str, np.ndarray]
) -> None:
    real = real_reliabilities[site]
    neurons, features = population(world, site, len(real))
    cube = _simulation.make_trials(neurons, features, 50, np.random.default_rng(0))
    measured = neuroid_reliability(cube, np.random.default_rng(1), n_splits=20)
    levels = np.linspace(0.05, 0.95, 19)
    assert np.abs(np.quantile(measured, levels) - np.quantile(real, levels)).max() < 0.1
