from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from conftest import TOY, Cli, files

from mousebench import scoring, store
from mousebench.comparison import Named
from mousebench.results import normalise
from mousebench.store import read

VARIABLES = {
    "raw",
    "ceiling",
    "score",
    "explained",
    "ci_low",
    "ci_high",
    "null_mean",
    "null_p",
    "n_stimuli",
    "n_neuroids",
    "n_layers",
    "best_layer",
    "notes",
    "target_sha256",
}


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return tmp_path / "results"


def result(results: Path, model: str = "toy-a", metric: str = "quick", benchmark: str = "toy") -> xr.Dataset:
    return read(store.result_path(results, benchmark, 1, metric, model))


def same(a: xr.Dataset, b: xr.Dataset) -> None:
    xr.testing.assert_identical(a.drop_attrs(), b.drop_attrs())
    assert {**a.attrs, "provenance": ""} == {**b.attrs, "provenance": ""}


# what a result is -----------------------------------------------------------------------------------------------------


def test_a_result_has_the_labels_of_the_contract(toy: Cli, results: Path) -> None:
    assert toy("toy-a").code == 0
    assert [str(path) for path in files(results)] == ["toy/v1/quick/toy-a.nc"]
    found = result(results)
    assert set(found.data_vars) >= VARIABLES
    assert found["site"].values.tolist() == ["A", "B", "C"]
    assert found["null"].dims == ("site", "permutation")
    assert found["weight"].dims == found["layer_raw"].dims == ("site", "layer")
    assert found["layer"].values.tolist() == ["first", "second"]
    for name in VARIABLES:
        assert found[name].dims == ("site",), name
    assert found["n_neuroids"].values.tolist() == [12, 12, 12]
    assert found["n_stimuli"].values.tolist() == [24, 24, 24]
    assert found["n_layers"].values.tolist() == [2, 2, 2]
    attrs = found.attrs
    assert {name: attrs[name] for name in ("model", "benchmark", "metric")} == {
        "model": "toy-a",
        "benchmark": "toy",
        "metric": "quick",
    }
    assert (attrs["benchmark_version"], attrs["metric_version"], attrs["seed"], attrs["simulated"]) == (1, 3, 0, 0)
    assert json.loads(attrs["definition"])["permutations"] == 20


def test_a_score_is_raw_over_ceiling_and_explained_its_signed_square(toy: Cli, results: Path) -> None:
    toy("toy-a,toy-b")
    for model in ("toy-a", "toy-b"):
        found = result(results, model)
        np.testing.assert_allclose(found["score"], found["raw"] / found["ceiling"], rtol=1e-14)
        np.testing.assert_allclose(found["explained"], np.sign(found["score"]) * found["score"] ** 2, rtol=1e-14)
        assert found.attrs["mean_score"] == pytest.approx(float(found["score"].mean()), rel=1e-14)
        np.testing.assert_allclose(found["null_mean"], found["null"].mean("permutation"), rtol=1e-14)
        p = (1 + (found["null"] >= found["raw"]).sum("permutation")) / 21
        np.testing.assert_allclose(found["null_p"], p, rtol=1e-14)


def test_provenance_says_where_it_comes_from(toy: Cli, results: Path) -> None:
    toy("toy-a")
    provenance = json.loads(result(results).attrs["provenance"])
    assert provenance["plugin"] == "local"
    assert provenance["model"]["fingerprint"] == {"model": "toy-a", "weights": str(1 + sum(map(ord, "toy-a")))}
    for part in ("model", "benchmark", "metric"):
        assert len(provenance[part]["source"]) == 64
    assert provenance["seed"] == 0
    assert provenance["packages"]["numpy"] == np.__version__
    assert len(provenance["stimuli"]) == len(provenance["representation"]) == 64


def test_a_local_model_is_called_by_its_file_and_function(toy: Cli, results: Path, tmp_path: Path) -> None:
    file = tmp_path / "My_net.py"
    file.write_text("from mousebench_plugins.models.pixels import load as build\n")
    done = toy(f"{file}:build", "--json", "-")
    assert done.code == 0, done.err
    assert [str(path) for path in files(results)] == ["toy/v1/quick/local-My_net-build.nc"]
    content = json.loads(done.out)["results"][0]
    assert content["model"] == "My_net:build"
    assert content["provenance"]["plugin"] == "local"


def test_an_rdm_target_is_matched_by_stimulus_id(toy: Cli, results: Path) -> None:
    # toy-rdm gives its stimuli in another order than its images
    toy("toy-a", benchmark="toy-rdm")
    toy("toy-a", benchmark="toy-rdm@ordered")
    found, ordered = result(results, benchmark="toy-rdm"), result(results, benchmark="toy-rdm@ordered")
    np.testing.assert_allclose(found["ceiling"], (2 * 0.8 / 1.8) ** 0.5, rtol=1e-12)
    np.testing.assert_array_equal(found["raw"], ordered["raw"])
    np.testing.assert_array_equal(found["null"], ordered["null"])
    assert np.isnan(found["n_neuroids"]).all()


def test_the_same_seed_gives_the_same_bytes(toy: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contents = []
    for number in (1, 2):
        monkeypatch.setenv("MOUSEBENCH_HOME", str(tmp_path / f"home{number}"))
        toy("toy-a", "--results", tmp_path / f"results{number}")
        contents.append((tmp_path / f"results{number}" / "toy/v1/quick/toy-a.nc").read_bytes())
    assert contents[0] == contents[1]


def test_another_seed_gives_other_numbers(toy: Cli, tmp_path: Path) -> None:
    toy("toy-a", "--results", tmp_path / "a")
    toy("toy-a", "--seed", "1", "--results", tmp_path / "b")
    a, b = result(tmp_path / "a"), result(tmp_path / "b")
    assert b.attrs["seed"] == 1
    for name in ("raw", "ceiling", "null_mean"):
        assert (a[name].values != b[name].values).all()


@pytest.mark.parametrize("metric", ["quick,quick-published"])
def test_jobs_change_no_number(toy: Cli, tmp_path: Path, metric: str) -> None:
    for jobs in ("1", "2"):
        done = toy("toy-a,toy-b", "--metric", metric, "--jobs", jobs, "--results", tmp_path / jobs)
        assert done.code == 0, done.err
    assert len(files(tmp_path / "1")) == 4
    assert files(tmp_path / "1") == files(tmp_path / "2")
    for path in files(tmp_path / "1"):
        assert (tmp_path / "1" / path).read_bytes() == (tmp_path / "2" / path).read_bytes()


# nothing is computed twice --------------------------------------------------------------------------------------------


def test_a_second_run_computes_nothing_and_says_so(toy: Cli, calls, results: Path) -> None:
    first = toy("toy-a", "--json", "-")
    assert calls() == ["target A", "target B", "target C", "activations toy-a", "score A,B,C"]
    before = (results / "toy/v1/quick/toy-a.nc").stat().st_mtime_ns
    second = toy("toy-a", "--json", "-")
    assert not [call for call in calls() if not call.startswith("target")]
    assert second.out == first.out
    assert (results / "toy/v1/quick/toy-a.nc").stat().st_mtime_ns == before
    assert "1 of them from before" in second.err


def test_force_computes_the_scores_again_and_gets_the_same(toy: Cli, calls, results: Path) -> None:
    first = toy("toy-a", "--json", "-")
    calls()
    second = toy("toy-a", "--json", "-", "--force")
    assert "score A,B,C" in calls()
    assert second.out == first.out


def test_another_metric_uses_the_same_layers(toy: Cli, calls) -> None:
    toy("toy-a")
    calls()
    toy("toy-a", "--metric", "quick-published")
    assert not [call for call in calls() if call.startswith("activations")]


@pytest.mark.parametrize(
    ("setting", "recomputed"),
    [
        (("TOY_WEIGHTS", "2"), ["activations toy-a", "score A,B,C"]),
        (("TOY_IMAGES", "2"), ["activations toy-a", "score A,B,C"]),
        (("TOY_REPEATS", "3"), ["score A,B,C"]),
        (("TOY_TARGET_B", "77"), ["score B"]),
    ],
)
def test_what_changes_is_computed_again_and_equals_a_run_from_nothing(
    toy: Cli,
    calls,
    results: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    setting: tuple[str, str],
    recomputed,
) -> None:
    toy("toy-a")
    old = result(results)
    calls()
    monkeypatch.setenv(*setting)
    toy("toy-a")
    assert [call for call in calls() if not call.startswith("target")] == recomputed
    new = result(results)
    assert new["raw"].values[1] != old["raw"].values[1]
    toy("toy-a", "--results", tmp_path / "nothing")
    same(new, result(tmp_path / "nothing"))


def test_another_seed_computes_the_scores_and_not_the_layers(toy: Cli, calls, results: Path) -> None:
    toy("toy-a")
    calls()
    toy("toy-a", "--seed", "5")
    assert [call for call in calls() if not call.startswith("target")] == ["score A,B,C"]
    assert result(results).attrs["seed"] == 5


def test_a_changed_plugin_file_is_computed_again(toy: Cli, cli: Cli, calls, tmp_path: Path) -> None:
    copy = tmp_path / "toy.py"
    copy.write_text(TOY.read_text())
    line = ("--plugin", copy, "score", "--model", "toy-a", "--benchmark", "toy", "--results", tmp_path / "results")
    cli(*line)
    calls()
    cli(*line)
    assert not [call for call in calls() if not call.startswith("target")]
    copy.write_text(TOY.read_text() + "# a remark\n")
    cli(*line)
    assert "score A,B,C" in calls()


def test_sites_are_joined_in_order_and_none_is_lost(toy: Cli, calls, results: Path, tmp_path: Path) -> None:
    toy("toy-a", "--site", "C")
    calls()
    done = toy("toy-a", "--site", "B", "--json", "-")
    assert [site["site"] for site in json.loads(done.out)["results"][0]["sites"]] == ["B"]
    assert result(results)["site"].values.tolist() == ["B", "C"]
    assert "score B" in calls()
    toy("toy-a")
    assert "score A" in calls()
    toy("toy-a", "--results", tmp_path / "nothing")
    same(result(results), result(tmp_path / "nothing"))


def test_per_neuroid_results_are_joined_too(toy: Cli, results: Path, tmp_path: Path) -> None:
    toy("toy-a", "--site", "B", "--metric", "each")
    toy("toy-a", "--metric", "each")
    toy("toy-a", "--results", tmp_path / "nothing", "--metric", "each")
    a, b = result(results, metric="each"), result(tmp_path / "nothing", metric="each")
    xr.testing.assert_identical(a.drop_dims("neuroid").drop_attrs(), b.drop_dims("neuroid").drop_attrs())
    by_id = [
        dict(zip(x["neuroid_id"].values.tolist(), x["raw_by_neuroid"].values.tolist(), strict=True)) for x in (a, b)
    ]
    assert len(by_id[0]) == 36
    assert str(by_id[0]["B3"]) == str(by_id[1]["B3"])
    assert by_id[0].keys() == by_id[1].keys()


def test_forcing_one_site_keeps_the_others(toy: Cli, calls, results: Path) -> None:
    toy("toy-a")
    before = result(results)
    calls()
    toy("toy-a", "--site", "B", "--force")
    assert "score B" in calls()
    same(result(results), before)


def test_sites_come_in_the_benchmarks_order_and_once(toy: Cli) -> None:
    done = toy("toy-a", "--site", "C,A,C", "--json", "-")
    assert [site["site"] for site in json.loads(done.out)["results"][0]["sites"]] == ["A", "C"]


# normalisation --------------------------------------------------------------------------------------------------------


def normalised(raw, ceiling, how: str = "ratio"):
    notes: list[str] = []
    return (*normalise(xr.DataArray(raw), xr.DataArray(ceiling), how, notes), notes)


def test_ratio_and_square() -> None:
    assert normalised(0.4, 0.8) == (0.4, 0.8, 0.5, [])
    assert normalised(-0.4, 0.8) == (-0.4, 0.8, -0.5, [])
    assert normalised(0.4, 0.8, "squared")[2] == pytest.approx(0.2)
    assert normalised(1.2, 0.8)[2] == pytest.approx(1.5)  # nothing is clipped


def test_nothing_is_divided_by_a_ceiling_near_zero() -> None:
    raw, ceiling, score, notes = normalised(0.05, 0.09)
    assert (raw, ceiling) == (0.05, 0.09)
    assert np.isnan(score)
    assert notes == ["the site has a ceiling below 0.1, by which nothing is divided"]
    assert normalised(0.05, 0.1)[2] == pytest.approx(0.5)


@pytest.mark.parametrize(("raw", "ceiling"), [(np.nan, 0.8), (0.4, np.nan)])
def test_no_number_in_no_number_out(raw: float, ceiling: float) -> None:
    found = normalised(raw, ceiling)
    assert np.isnan(found[2])
    assert found[3] == []


def test_a_metric_per_neuroid_is_normalised_neuroid_by_neuroid_and_the_median_is_taken() -> None:
    raw = np.array([0.1, 0.2, 0.6, np.nan, 0.9])
    ceiling = np.array([0.2, 0.8, 0.6, 0.5, 0.01])
    found = normalised(raw, ceiling)
    assert found[0] == pytest.approx(0.4)  # of 0.1 0.2 0.6 0.9
    assert found[1] == pytest.approx(0.5)
    assert found[2] == pytest.approx(0.5)  # of 0.5 0.25 1: the median of ratios, not the ratio of medians
    assert found[3] == ["1 of 5 neuroids have a ceiling below 0.1, by which nothing is divided"]
    assert normalised(raw, ceiling, "squared")[2] == pytest.approx(0.05)  # of 0.05 0.05 0.6
    assert normalised(raw, 0.5)[2] == pytest.approx(0.8)  # one ceiling for all


def test_no_neuroid_at_all_has_a_number() -> None:
    assert np.isnan(normalised(np.array([np.nan, np.nan]), np.array([np.nan, 0.5]))[:3]).sum() == 2


def test_a_metric_per_neuroid_end_to_end(toy: Cli, results: Path) -> None:
    done = toy("toy-a", "--metric", "each,each@squared", "--json", "-")
    assert done.code == 0, done.err
    found = result(results, metric="each")
    raw = np.linspace(-0.2, 0.8, 12)[:-1]
    np.testing.assert_allclose(found["raw"], np.median(raw))
    np.testing.assert_allclose(found["score"], np.median(raw[1:] / 0.5))
    np.testing.assert_allclose(result(results, metric="each@squared")["score"], np.median(raw[1:] ** 2 / 0.5))
    assert found["raw_by_neuroid"].dims == ("neuroid",)
    assert found["neuroid_id"].values[:2].tolist() == ["A0", "A1"]
    assert set(found["neuroid_site"].values.tolist()) == {"A", "B", "C"}
    site = json.loads(done.out)["results"][0]["sites"][0]
    assert site["n_neuroids"] == 12
    assert site["notes"][0] == "per neuroid"
    assert site["null"] == {"mean": None, "p": None, "intercept_only": None}
    low, high = site["ci"]
    assert low < site["score"] < high
    # shifts of raw from -0.1 to 0.1 in even steps with the images, over a ceiling of a half; other neuroids add to that
    assert high - low > 0.38


def test_no_interval_where_there_is_no_score(toy: Cli) -> None:
    done = toy("toy-a", "--metric", "each@low", "--json", "-")
    assert done.code == 0, done.err
    for site in json.loads(done.out)["results"][0]["sites"]:
        assert (site["score"], site["explained"], site["ci"]) == (None, None, None)
        assert any("ceiling below 0.1" in note for note in site["notes"])
        assert site["raw"] is not None


def test_data_of_noise_give_no_ceiling_and_no_score_with_the_reason(toy: Cli) -> None:
    done = toy("toy-a", "--json", "-", benchmark="toy@noise")
    content = json.loads(done.out)["results"][0]
    for site in content["sites"]:
        if site["ceiling"] is None or site["ceiling"] < 0.1:
            assert site["score"] is None
            assert any("ceiling" in note for note in site["notes"])
    assert any(site["score"] is None for site in content["sites"])


# what cannot be scored ------------------------------------------------------------------------------------------------


def test_a_metric_that_cannot_use_the_target_is_refused_with_those_that_can(toy: Cli, calls, results: Path) -> None:
    done = toy("toy-a", "--metric", "each", benchmark="toy-rdm")
    assert done.code == 2
    assert "error: metric 'each' needs responses, 'toy-rdm' gives rdm" in done.err
    assert "hint: metrics for toy-rdm: quick, quick-published" in done.err
    assert files(results) == []


def test_metrics_are_refused_before_anything_is_computed(toy: Cli, calls) -> None:
    done = toy("toy-a,toy-b", "--metric", "quick,each", benchmark="toy-rdm")
    assert done.code == 2
    assert done.err.count("error:") == 1
    assert not [call for call in calls() if call.startswith("activations")]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("toy-a", "--metric", "quik"), "unknown metric 'quik'; did you mean 'quick'"),
        (("toy-a", "--site", "A,D"), "'toy' has no site 'D'"),
        (("toy-c",), "unknown model 'toy-c'; did you mean 'toy-"),
        (("toy-a@3",), "model 'toy-a' has no variants"),
        (("nowhere.py:f",), "plugin file 'nowhere.py' does not exist"),
    ],
)
def test_unknown_names(toy: Cli, arguments: tuple[str, ...], said: str) -> None:
    done = toy(*arguments)
    assert done.code == 2
    assert f"error: {said}" in done.err
    assert done.out == ""


def test_an_unknown_benchmark(toy: Cli) -> None:
    done = toy("toy-a", benchmark="toi")
    assert (done.code, done.err.splitlines()[0]) == (2, "error: unknown benchmark 'toi'; did you mean 'toy'?")


def test_a_model_that_fails_leaves_the_others_scored(toy: Cli, results: Path) -> None:
    done = toy("toy-a,toy-bad@raises,toy-zzz,toy-b")
    assert done.code == 2
    assert [path.name for path in files(results)] == ["toy-a.nc", "toy-b.nc"]
    assert done.err.count("error:") == 2
    assert done.err.index("toy-b on toy") < done.err.index("error:")  # reported at the end
    assert "KeyError: 'weights'" in done.err
    assert "unknown model 'toy-zzz'" in done.err


# what makes a result stale --------------------------------------------------------------------------------------------


def test_code_that_a_metric_inherits_is_part_of_its_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An edit of a helper of several metrics makes the results of all of them stale, but not those of torch or ours."""
    base = tmp_path / "made_up" / "_base.py"
    base.parent.mkdir()
    (base.parent / "__init__.py").write_text("")
    base.write_text("from mousebench.progress import Silent\nclass Base(Silent):\n    version = 1\n")
    (base.parent / "metric.py").write_text("from made_up._base import Base\nclass Mine(Base):\n    pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    mine = importlib.import_module("made_up.metric").Mine()
    before = scoring.source_of(Named("mine", mine, None))
    assert len(before.split()) == 2  # the two files, not that of Silent
    base.write_text(base.read_text() + "    # other\n")
    after = scoring.source_of(Named("mine", mine, None))
    assert after.split()[0] == before.split()[0]
    assert after.split()[1] != before.split()[1]
    for name in ("made_up", "made_up._base", "made_up.metric"):
        monkeypatch.delitem(sys.modules, name)
