"""brain: half of the recordings as the model of the other half, on data whose truth is planted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from conftest import Cli, files

import mousebench as mb
from mousebench.assemblies import make_responses, make_stimuli
from mousebench.errors import ContractViolation, MissingData, UnknownIdentifier, UsageError
from mousebench.linalg import correlation_rdm, gram, upper_triangle
from mousebench_plugins.metrics._rsa_nnls import RsaNnls, leak_free
from mousebench_plugins.models import brain
from mousebench_plugins.models._brain import half_of_animals, own_trials

N = 48


class Recordings:
    """A benchmark of given targets; a site whose target is None has no data."""

    version = 1
    metrics = ("rsa-nnls",)

    def __init__(self, targets: dict[str, xr.DataArray | None]) -> None:
        self.targets = targets
        self.sites = tuple(targets)

    def stimuli(self) -> xr.DataArray:
        return make_stimuli(np.random.default_rng(0).integers(0, 256, (N, 4, 5), dtype=np.uint8), np.arange(N))

    def target(self, site: str) -> xr.DataArray:
        found = self.targets[site]
        if found is None:
            raise MissingData(f"no session of {site}")
        return found


def recorded(
    site: str,
    n_neuroids: int = 60,
    n_repetitions: int = 10,
    noise: float = 2.0,
    animals: tuple[object, ...] = ("a", "b"),
    signal: int = 0,
) -> xr.DataArray:
    """Return responses of neurons that mix six features of the stimuli; animals in turn."""
    rng = np.random.default_rng([signal, *site.encode()])
    clean = np.random.default_rng(signal).standard_normal((N, 6)) @ rng.standard_normal((6, n_neuroids))
    trials = clean[:, None] + noise * rng.standard_normal((N, n_repetitions, n_neuroids))
    labels = {"neuroid_id": [f"{site}{number}" for number in range(n_neuroids)]}
    if animals:
        labels["animal_id"] = [str(animals[number % len(animals)]) for number in range(n_neuroids)]
    return make_responses(
        trials.reshape(-1, n_neuroids),
        np.repeat(np.arange(N), n_repetitions),
        np.tile(np.arange(n_repetitions), N),
        labels,
    )


def metric(repeats: int = 3) -> RsaNnls:
    return RsaNnls(leak_free, repeats=repeats, n_permutations=10)


def score(benchmark: Recordings, variant: str | None = None, sites: list[str] | None = None) -> xr.Dataset:
    return mb.score(model=brain.load(variant), benchmark=benchmark, metric=metric(), sites=sites)


def notes(result: xr.Dataset, site: str) -> list[str]:
    return json.loads(result["notes"].sel(site=site).item())


def images(benchmark: Recordings) -> np.ndarray:
    return np.repeat(benchmark.stimuli().values[..., None], 3, axis=3)


# trials ---------------------------------------------------------------------------------------------------------------


def bits(responses: xr.DataArray) -> xr.DataArray:
    """Return responses whose value is 2 to the power of the repetition: a sum tells which trials are in it."""
    return responses.copy(
        data=np.tile(2.0 ** responses["repetition"].values[:, None], responses.sizes["neuroid"]).astype("f4")
    )


def test_no_trial_is_on_both_sides_and_none_is_lost() -> None:
    benchmark = Recordings({"A": bits(recorded("A")), "B": bits(recorded("B", n_repetitions=7))})
    model, rest = brain.load().take_from(benchmark, "tiny")
    means = model.activations(images(benchmark), model.layers)
    of_site = {}
    for site, n_repetitions in (("A", 10), ("B", 7)):
        left = rest.target(site)
        there = set(left["repetition"].values.tolist())
        n_own = n_repetitions - len(there)
        own = np.unique((means[site] * n_own).round().astype(int))
        assert len(own) == 1  # the same repetitions of all stimuli and neuroids
        of_site[site] = {number for number in range(n_repetitions) if own[0] >> number & 1}
        assert of_site[site] | there == set(range(n_repetitions))
        assert of_site[site] & there == set()
        assert left.sizes["presentation"] == N * len(there)
        np.testing.assert_array_equal(left.values[:, 0], 2.0 ** left["repetition"].values)
    assert len(of_site["A"]) == 5
    assert of_site["B"] == {number for number in of_site["A"] if number < 7}  # recorded at once, they share noise


def test_the_split_is_random_and_does_not_follow_the_order_of_trials() -> None:
    many = make_responses(np.ones((200, 1)), np.zeros(200, int), np.arange(200), {"neuroid_id": ["n"]})
    own = own_trials(many)
    assert own.sum() == 100
    assert 30 < own[::2].sum() < 70
    assert (own[::2] != own[1::2]).all()  # drifts over the session are on both sides


def rdm_pairs(values: np.ndarray) -> np.ndarray:
    return upper_triangle(correlation_rdm(*gram([values])))


@pytest.mark.parametrize("noise", [1.0, 3.0, 4.0, 8.0])
def test_the_raw_score_is_the_correlation_of_the_rdms_of_both_halves(noise: float) -> None:
    target = recorded("A", n_neuroids=80, noise=noise)
    own, cube = own_trials(target)[:10], target.values.astype(float).reshape(N, 10, -1)
    assert own.sum() == 5
    halves = [rdm_pairs(cube[:, half].mean(1)) for half in (own, ~own)]
    result = score(Recordings({"A": target}))
    assert result["raw"].item() == pytest.approx(np.corrcoef(halves)[0, 1], abs=0.03)


@pytest.mark.parametrize("noise", [1.0, 3.0, 4.0])
def test_the_score_is_what_noise_leaves_of_the_model(noise: float) -> None:
    # the share of its half's noise-free RDM that the model knows; planted, for its half is as noisy as the target's
    target, clean = (recorded("A", n_neuroids=80, noise=level) for level in (noise, 0.0))
    half = target.values.astype(float).reshape(N, 10, -1)[:, own_trials(target)[:10]].mean(1)
    truth = clean.values.astype(float).reshape(N, 10, -1)[:, 0]
    known = np.corrcoef(rdm_pairs(half), rdm_pairs(truth))[0, 1]
    result = score(Recordings({"A": target}))
    assert result["ceiling"].item() == pytest.approx(known, abs=0.03)
    assert result["score"].item() == pytest.approx(known, abs=0.07)
    assert result["raw"].item() == pytest.approx(known * result["ceiling"].item(), abs=0.06)


def test_without_noise_the_brain_is_perfect() -> None:
    result = score(Recordings({"A": recorded("A", noise=0.0)}))
    assert result["raw"].item() == pytest.approx(1, abs=1e-6)
    assert result["score"].item() == pytest.approx(1, abs=1e-6)


def test_half_of_noise_knows_nothing_of_the_other_half() -> None:
    targets = {site: recorded(site, noise=1e6) for site in "ABCDEFGH"}
    raw = score(Recordings(targets))["raw"].values
    assert abs(raw.mean()) < 0.05


def test_a_score_does_not_depend_on_the_sites_that_are_asked_for() -> None:
    benchmark = Recordings({site: recorded(site) for site in "ABC"})
    whole, one = score(benchmark), score(benchmark, sites=["B"])
    assert whole["layer"].values.tolist() == one["layer"].values.tolist() == ["A", "B", "C"]
    assert one["raw"].item() == whole["raw"].sel(site="B").item()
    assert one["ceiling"].item() == whole["ceiling"].sel(site="B").item()
    assert notes(one, "B") == ["scored on the trials of which the model is not made: 5 of 10 repetitions"]


def test_the_order_of_presentations_changes_nothing() -> None:
    targets = {site: recorded(site) for site in "AB"}
    order = np.random.default_rng(1).permutation(targets["A"].sizes["presentation"])
    shuffled = {site: target.isel(presentation=order) for site, target in targets.items()}
    first, second = score(Recordings(targets)), score(Recordings(shuffled))
    np.testing.assert_allclose(first["raw"], second["raw"], rtol=0, atol=1e-12)


def test_labels_that_are_not_the_stimuli_are_refused_in_any_site() -> None:
    other = recorded("B")
    other = other.assign_coords(stimulus_id=("presentation", other["stimulus_id"].values + 1))
    with pytest.raises(ContractViolation, match="site B: the target's stimuli are not the benchmark's"):
        score(Recordings({"A": recorded("A"), "B": other}), sites=["A"])


def test_a_neuroid_without_a_trial_left_is_no_feature_and_a_stimulus_without_one_is_no_score() -> None:
    targets = {site: recorded(site) for site in "AB"}
    own = own_trials(targets["A"])
    shown = targets["A"]["stimulus_id"].values
    values = targets["A"].values.copy()
    values[own & (shown == 3), 7] = np.nan  # in the model's half, neuroid 7 has no trial of stimulus 3
    values[~own & (shown == 4), 8] = np.nan
    targets["A"] = targets["A"].copy(data=values)
    lost = (targets["B"]["stimulus_id"].values != 5) | own_trials(targets["B"])
    targets["B"] = targets["B"].isel(presentation=lost)
    benchmark = Recordings(targets)
    model, rest = brain.load().take_from(benchmark, "tiny")
    means = model.activations(images(benchmark), model.layers)
    assert means["A"].shape == (N, 59)
    kept = np.delete(values, 7, axis=1)
    np.testing.assert_allclose(means["A"][3], np.nanmean(kept[own & (shown == 3)], 0, dtype=float), rtol=1e-12)
    assert np.isfinite(means["B"]).all()
    assert np.isnan(rest.target("B").values[rest.target("B")["stimulus_id"].values == 5]).all()
    result = score(benchmark)
    assert result["n_neuroids"].sel(site="A").item() == 59
    assert "1 neuroid(s) left out: without any trial for some stimulus" in notes(result, "A")
    assert np.isfinite(result["raw"].sel(site="A").item())
    assert np.isnan(result["raw"].sel(site="B").item())
    assert "no score: all trials of 1 stimuli are in the model" in notes(result, "B")


@pytest.mark.parametrize("numbers", [np.linspace(0, 1, 10), -np.arange(10)])
def test_repetitions_without_numbers_cannot_be_parted(numbers: np.ndarray) -> None:
    target = recorded("A").assign_coords(repetition=("presentation", np.tile(numbers, N)))
    with pytest.raises(ContractViolation, match="not numbered by whole numbers"):
        score(Recordings({"A": target}))


def test_a_site_without_data_is_no_layer() -> None:
    benchmark = Recordings({"A": recorded("A"), "B": None, "C": None})
    result = score(benchmark, sites=["A"])
    assert "layer B, C left out: no data" in json.loads(result.attrs["notes"])
    assert result["layer"].values.tolist() == ["A"]
    with pytest.raises(MissingData, match="no data of which brain could be made"):
        brain.load().take_from(Recordings({"B": None}), "tiny")


def test_it_is_another_model_when_any_of_its_data_change() -> None:
    def fingerprint(targets: dict[str, xr.DataArray | None], variant: str | None = None, name: str = "tiny") -> str:
        return json.dumps(dict(brain.load(variant).take_from(Recordings(targets), name)[0].fingerprint), sort_keys=True)

    one = {site: recorded(site) for site in "AB"}
    assert fingerprint(one) == fingerprint(dict(one))
    changed = {**one, "B": one["B"] + np.float32(1)}
    different = [fingerprint(one), fingerprint(changed), fingerprint(one, "animals"), fingerprint(one, name="other")]
    assert len({*different, fingerprint({**one, "B": None})}) == 5


# animals --------------------------------------------------------------------------------------------------------------


def test_no_animal_is_on_both_sides() -> None:
    animals = {"A": ("a", "b", "c"), "B": ("c", "a"), "C": ("d", "e")}
    targets = {site: recorded(site, animals=names) for site, names in animals.items()}
    benchmark = Recordings(targets)
    model, rest = brain.load("animals").take_from(benchmark, "tiny")
    left = {site: set(rest.target(site)["animal_id"].values.tolist()) for site in targets}
    taken = set().union(*map(set, animals.values())) - set().union(*left.values())
    means = model.activations(images(benchmark), model.layers)
    for site, target in targets.items():
        assert 0 < len(left[site]) < len(animals[site])
        own = np.isin(target["animal_id"].values, list(taken))
        trials = target.values.reshape(N, 10, -1)[:, :, own]  # all trials
        np.testing.assert_allclose(means[site], trials.mean(1, dtype=float), rtol=1e-12)
        assert rest.target(site).sizes == {"presentation": N * 10, "neuroid": (~own).sum()}


def test_animals_that_share_a_code_predict_each_other() -> None:
    result = score(Recordings({"A": recorded("A", n_neuroids=160, noise=1.0)}), "animals")
    assert 0.6 < result["score"].item() < 1.02
    assert "scored on the neuroids of animals of which the model is not made: 1 of 2" in notes(result, "A")


def test_a_site_that_cannot_be_parted_has_no_target_and_the_others_go_on() -> None:
    one, unknown = recorded("B", animals=("z",)), recorded("C", animals=())
    result = score(Recordings({"A": recorded("A"), "B": one, "C": unknown}), "animals")
    raw = result["raw"]
    assert np.isfinite(raw.sel(site="A").item())
    assert np.isnan(raw.sel(site=["B", "C"]).values).all()
    assert np.isnan(result["score"].sel(site=["B", "C"]).values).all()
    assert "no target: it has one animal" in notes(result, "B")
    assert "no target: its animals are not known" in notes(result, "C")
    assert result.attrs["mean_score"] == pytest.approx(result["score"].sel(site="A").item())


def test_a_benchmark_that_does_not_tell_its_animals_is_refused() -> None:
    with pytest.raises(UsageError, match="does not tell its animals"):
        score(Recordings({"A": recorded("A", animals=())}), "animals")


@pytest.mark.parametrize(
    "animals",
    [
        {"A": "xy"},
        {"A": "xy", "B": "xyz"},  # as in the Neuropixels recordings
        {"A": "xy", "B": "yz", "C": "z", "D": "xw"},
        {"A": "abcdefgh", "B": "abcd", "C": "efgh", "D": "ijklmnop"},
    ],
)
def test_half_of_the_animals_of_each_site_are_taken(animals: dict[str, str]) -> None:
    taken = half_of_animals(animals)
    for found in animals.values():
        if len(found) > 1:
            assert abs(len(taken & set(found)) - len(found) / 2) <= len(found) / 4
    assert taken == half_of_animals({site: found[::-1] * 3 for site, found in reversed(animals.items())})


# without a benchmark, and on the command line -------------------------------------------------------------------------


def test_images_alone_do_not_drive_it() -> None:
    with pytest.raises(UsageError, match="no answer to images alone"):
        brain.load().activations(np.zeros((1, 4, 4, 3), dtype=np.uint8), [])


def test_an_unknown_variant_is_refused() -> None:
    with pytest.raises(UnknownIdentifier, match="no variant 'mice'"):
        brain.load("mice")


@pytest.fixture
def model(tmp_path: Path) -> str:
    file = tmp_path / "half.py"
    file.write_text("from mousebench_plugins.models.brain import load as build\n")
    return f"{file}:build"


def test_rdms_have_no_trials_and_other_models_go_on(toy: Cli, model: str, tmp_path: Path) -> None:
    done = toy(f"{model},toy-a", benchmark="toy-rdm")
    assert done.code == 2
    assert done.err.count("error:") == 1
    assert "brain is made of trials, and toy-rdm has none: its targets are RDMs" in done.err
    assert "hint: score it where targets are responses" in done.err
    assert [path.name for path in files(tmp_path / "results")] == ["toy-a.nc"]


@pytest.mark.slow
def test_it_is_scored_beside_others_whose_targets_stay_whole(
    toy: Cli, model: str, calls: Callable[[], list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics = ("--metric", "quick,quick-published,each", "--json", "-")
    contents = {}
    for jobs in ("1", "2"):
        done = toy(f"{model},toy-a", *metrics, "--jobs", jobs, "--results", tmp_path / jobs)
        assert done.code == 0, done.err
        contents[jobs] = json.loads(done.out)["results"]
    strip = [[{**result, "provenance": ""} for result in contents[jobs]] for jobs in ("1", "2")]
    assert strip[0] == strip[1]
    half, whole = contents["1"][0], contents["1"][3]
    assert (half["model"], whole["model"]) == ("half:build", "toy-a")
    for ours, theirs in zip(half["sites"], whole["sites"], strict=True):
        assert ours["raw"] > 0.5
        assert ours["ceiling"] < theirs["ceiling"]  # that of half of the trials
        assert ours["notes"] == ["scored on the trials of which the model is not made: 2 of 4 repetitions"]
        assert theirs["notes"] == []
    # what is stored is used again, and made anew when the data of any site change
    calls()
    again = toy(model, "--metric", "quick", "--results", tmp_path / "1")
    assert "1 of them from before" in again.err
    assert not [call for call in calls() if call.startswith("score")]
    monkeypatch.setenv("TOY_TARGET_C", "7")
    toy(model, "--metric", "quick", "--site", "A", "--results", tmp_path / "1")
    assert "score A" in calls()
