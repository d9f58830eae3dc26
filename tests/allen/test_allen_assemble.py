"""Sites: which neurons are kept, how trials are arranged, and how good the ceilings are."""

from __future__ import annotations

import json

import numpy as np
import pytest

from allen.allen_files import sessions
from mousebench import assemblies
from mousebench.errors import ContractViolation, MissingData, StoreError, UnknownIdentifier
from mousebench_plugins.benchmarks.allen_ns import assemble, benchmark, ceilings, stored
from mousebench_plugins.benchmarks.allen_ns.assemble import Recipe, Recording


def planted(gains, n_repetitions=20, n_stimuli=118, seed=0, key=1, noise=1.0):
    """Trials of neurons with a known share of signal: variance gain^2 beside noise of variance noise^2."""
    rng = np.random.default_rng([seed, key])
    gains = np.asarray(gains, dtype=float)
    signal = rng.normal(size=(n_stimuli, 1, len(gains))) * gains
    cube = signal + noise * rng.normal(size=(n_stimuli, n_repetitions, len(gains)))
    labels = {"neuroid_id": key * 1000 + np.arange(len(gains)), "animal_id": np.full(len(gains), f"m{key}")}
    return Recording(key, cube.astype(np.float32), labels)


def build(recordings, recipe=None, n_stimuli=118):
    return assemble.assemble(recordings, "VISp.L23", np.arange(n_stimuli), recipe or Recipe(n_splits=20))


def loop_reliability(cube, n_splits, rng):
    """Split-half reliability of one neuron, step by step."""
    values = []
    for _ in range(n_splits):
        order = rng.permutation(cube.shape[1])
        half = cube.shape[1] // 2
        r = np.corrcoef(cube[:, order[:half]].mean(1), cube[:, order[half:]].mean(1))[0, 1]
        values.append(2 * r / (1 + r))
    return np.mean(values)


def test_reliability_equals_a_loop():
    one = planted([0.3, 0.5, 1.0])
    fast = assemble.reliabilities(one, np.ones(20, bool), Recipe(n_splits=30))
    slow = [loop_reliability(one.cube[:, :, i].astype(float), 30, np.random.default_rng([0, 1])) for i in range(3)]
    np.testing.assert_allclose(fast, slow, rtol=0, atol=1e-12)


def test_reliability_finds_the_planted_one():
    gains = np.repeat([0.2, 0.5, 1.0], 60)
    found = assemble.reliabilities(planted(gains), np.ones(20, bool), Recipe(n_splits=40))
    expected = gains**2 / (gains**2 + 1 / 20)
    for gain in (0.2, 0.5, 1.0):
        assert found[gains == gain].mean() == pytest.approx(expected[gains == gain][0], abs=0.03)


def test_reliable_neurons_are_kept_and_the_rest_is_counted():
    first = planted([2, 0, 2, 0, 2], key=1)
    second = planted([0, 2], key=2)
    first.cube[:, :, 1] = 5.0
    target = build([first, second])
    assert target["neuroid_id"].values.tolist() == [1000, 1002, 1004, 2001]
    assert set(target["animal_id"].values) == {"m1", "m2"}
    counts = json.loads(target.attrs["counts"])
    assert counts["neurons"] == 7
    assert counts["kept"] == 4
    assert counts["no_reliability"] == 1
    assert counts["unreliable"] == 2
    assert counts["sessions"] == counts["animals"] == 2
    assert (target["reliability"].values >= 0.75).all()
    cube, ids = assemblies.trial_cube(target)
    np.testing.assert_array_equal(cube[:, :, 1], first.cube[:, :, 2])
    np.testing.assert_array_equal(ids, np.arange(118))


def test_the_threshold_is_inclusive_of_what_reaches_it():
    one = planted([0.4, 0.6, 0.8])
    reliability = assemble.reliabilities(one, np.ones(20, bool), Recipe(n_splits=20))
    target = build([one], Recipe(threshold=float(reliability[1]), n_splits=20))
    assert target["neuroid_id"].values.tolist() == [1001, 1002]


def test_a_session_does_not_change_the_neurons_of_another():
    one, two = planted(np.linspace(0.2, 1, 20), key=1), planted(np.linspace(0.2, 1, 20), key=2)
    alone, both = build([one]), build([two, one])
    mine = both.isel(neuroid=both["neuroid_id"].values < 2000)
    np.testing.assert_array_equal(alone["reliability"].values, mine["reliability"].values)
    np.testing.assert_array_equal(alone.values, mine.values)


def test_sessions_with_fewer_repetitions_are_padded():
    full, short = planted([2, 2], key=1), planted([2], key=2, n_repetitions=17)
    target = build([full, short])
    cube, _ = assemblies.trial_cube(target)
    assert cube.shape == (118, 20, 3)
    assert np.isnan(cube[:, 17:, 2]).all()
    assert not np.isnan(cube[:, :, :2]).any()
    assert json.loads(target.attrs["counts"])["missing_trials"] == 3 * 118


def test_no_neuron_is_an_error():
    with pytest.raises(MissingData, match=r"VISp\.L23 has no neuron with a reliability of 0\.75"):
        build([planted([0, 0])])


def test_no_session_is_an_error():
    with pytest.raises(MissingData, match=r"no neuron"):
        build([])


def test_a_neuron_twice_is_an_error():
    with pytest.raises(ContractViolation, match="neuroid_id 1000 occurs more than once"):
        build([planted([2], key=1), planted([2], key=1)])


def test_presentations_are_arranged_by_condition_and_occurrence():
    frame = np.array([2, -1, 0, 2, 0, 1, 2])
    values = np.arange(7.0)[:, None]
    cube = assemble.arrange(values, frame, np.array([0, 1, 2]))[:, :, 0]
    np.testing.assert_array_equal(cube, [[2, 4, np.nan], [5, np.nan, np.nan], [0, 3, 6]])
    np.testing.assert_array_equal(assemble.arrange(values, frame, np.array([-1]))[:, :, 0], [[1]])


def test_apart_leaves_the_choosing_trials_out():
    one = planted(np.full(40, 0.35), n_repetitions=30)
    chosen = assemble.choosing_repetitions(30, Recipe(selection="apart"))
    assert chosen.sum() == 10
    target = build([one], Recipe(threshold=0.5, selection="apart", n_splits=20))
    assert set(target["repetition"].values) == set(np.flatnonzero(~chosen))
    # the reliability is that of all trials, though a third of them gave it
    assert target["reliability"].values.mean() == pytest.approx(0.35**2 / (0.35**2 + 1 / 30), abs=0.06)


@pytest.mark.parametrize("factor", [0.5, 1.0, 2.0, 3.0])
def test_prophecy_is_the_reliability_of_more_trials(factor):
    signal, trials = 0.2, 10
    reliability = signal / (signal + 1 / trials)
    expected = signal / (signal + 1 / (trials * factor))
    assert assemble.prophecy(np.array(reliability), factor) == pytest.approx(expected)
    assert assemble.prophecy(np.array(-0.999999), factor) >= -1 - 1e-12


def test_selection_bias_is_found_and_is_absent_without_selection():
    """Many neurons near the threshold: those that pass look better on the trials that let them pass."""
    recordings = [planted(np.full(150, 0.25), key=key, n_repetitions=20) for key in (1, 2)]
    bias = ceilings.selection_bias(recordings, Recipe(threshold=0.6), n_draws=3)
    true = 0.25**2 / (0.25**2 + 1 / 20)
    assert bias["neuron_same"] > bias["neuron_apart"] + 0.03
    assert bias["neuron_apart"] == pytest.approx(np.sqrt(true), abs=0.03)
    none = ceilings.selection_bias(recordings, Recipe(threshold=-1.0), n_draws=3)
    assert none["neuron_same"] == pytest.approx(none["neuron_apart"], abs=0.01)
    assert none["rdm_same"] == pytest.approx(none["rdm_apart"], abs=0.02)


def test_site_ceilings_are_what_a_perfect_model_reaches():
    one = planted(np.full(60, 0.5), n_repetitions=20)
    target = build([one], Recipe(threshold=-1.0, n_splits=20))
    found = ceilings.site_ceilings(target, 0)
    true_mean = planted(np.full(60, 0.5), noise=0.0).cube.mean(1)
    mean = assemblies.average(target)["mean"].values
    reached = [np.corrcoef(true_mean[:, i], mean[:, i])[0, 1] for i in range(60)]
    assert found["neuron_ceiling"] == pytest.approx(np.median(reached), abs=0.02)
    upper = np.triu_indices(118, 1)
    rdm_reached = np.corrcoef((1 - np.corrcoef(true_mean))[upper], (1 - np.corrcoef(mean))[upper])[0, 1]
    assert found["rdm_ceiling"] == pytest.approx(rdm_reached, abs=0.03)


def test_variants(fetch, cache, make):
    base, _ = fetch(cache)
    grey = benchmark.two_photon("allen-ns", "grey")
    apart = benchmark.two_photon("allen-ns", "apart")
    by_cell = benchmark.two_photon("allen-ns", "cell-rule")
    assert grey.stimuli()["stimulus_id"].values.tolist() == [*range(118), -1]
    assert set(grey.target("VISp.L23")["stimulus_id"].values) == {-1, *range(118)}
    assert apart.target("VISp.L23").sizes["presentation"] == 118 * 34
    assert base.held()["VISl.L4"] == (2, 2)
    assert by_cell.held()["VISl.L4"] == (1, 1)
    assert by_cell.target("VISl.L5")["cre_line"].values.tolist() == ["Nr5a1-Cre"]
    assert benchmark.two_photon("allen-ns", "r80").recipe.threshold == 0.8
    # each variant has a file of its own, and the plain one is still there
    assert len(list((base.folder / "sites").glob("VISp.L23.*.nc"))) == 3
    with pytest.raises(UnknownIdentifier, match="'blue'"):
        benchmark.two_photon("allen-ns", "blue")


def test_blanks_are_available_and_never_in_the_target(fetch, cache):
    base, _ = fetch(cache)
    target, blank = base.target("VISp.L23"), base.blank("VISp.L23")
    assert -1 not in target["stimulus_id"].values
    assert blank.shape == (50, target.sizes["neuroid"])
    np.testing.assert_array_equal(blank["neuroid_id"].values, target["neuroid_id"].values)
    first = sessions()[0]
    expected = first.responses[first.frame == -1][:, first.cell_ids == blank["neuroid_id"].values[0]][:, 0]
    np.testing.assert_array_equal(blank.values[:, 0], expected.astype(np.float32))


def test_the_array_of_a_site_follows_its_sessions(fetch, cache, tmp_path):
    base, _ = fetch(cache, sites=["VISp.L23"])
    whole = base.target("VISp.L23")
    (base.folder / "sessions/501000002.nc").unlink()
    assert base.target("VISp.L23").sizes["neuroid"] == 3 < whole.sizes["neuroid"]
    fetch(cache)
    np.testing.assert_array_equal(base.target("VISp.L23").values, whole.values)
    assert len(list((base.folder / "sites").glob("VISp.L23.*.nc"))) == 1


def test_the_target_fits_the_contract(fetch, cache):
    base, _ = fetch(cache)
    target = base.target("VISl.L4")
    assert assemblies.check_target(target) == "responses"
    assert set(assemblies.NEUROID_COORDS) <= set(target.coords)
    assert target.dtype == np.float32
    assert set(target["site"].values) == {"VISl.L4"}
    assert set(target["depth_um"].values) == {275, 350}
    stimuli = base.stimuli()
    assemblies.check_stimuli(stimuli)
    assemblies.align(target, stimuli["stimulus_id"].values)


def test_an_unknown_selection():
    with pytest.raises(ContractViolation, match="selection 'some'"):
        Recipe(selection="some")


def test_a_disk_that_cannot_keep_the_array_still_gives_it(fetch, cache, monkeypatch):
    base, _ = fetch(cache)
    whole = base.target("VISp.L23")
    for path in (base.folder / "sites").iterdir():
        path.unlink()
    (base.folder / "sites").rmdir()
    (base.folder / "sites").write_text("a file where the folder should be")
    np.testing.assert_array_equal(base.target("VISp.L23").values, whole.values)


def test_a_damaged_array_is_made_again(fetch, cache):
    base, _ = fetch(cache, sites=["VISp.L23"])
    whole = base.target("VISp.L23")
    for path in (base.folder / "sites").iterdir():
        path.write_bytes(b"damaged")
    np.testing.assert_array_equal(base.target("VISp.L23").values, whole.values)
    assert assemblies.load_array(next((base.folder / "sites").iterdir())).identical(base.target("VISp.L23"))


def test_a_site_that_cannot_be_made_is_reported():
    def describe(site):
        raise {"a": MissingData("no neuron"), "b": StoreError("damaged")}[site]

    assert stored.describe_sites("ab", describe) == (["no neuron"], ["b: damaged"])
