"""A result is run again; what differs, and what keeps it from running, is said."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from conftest import TOY, Cli, Environment

from mousebench import store
from mousebench.assemblies import load, save


@pytest.fixture
def result(toy: Cli, tmp_path: Path) -> Path:
    """Score the toy and return its result."""
    assert toy("toy-a", "--site", "A,B").code == 0
    return tmp_path / "results" / "toy" / "v1" / "quick" / "toy-a.nc"


def changed(path: Path, change: Callable[[xr.Dataset], xr.Dataset]) -> Path:
    """Write a result that was changed, with a hash that fits."""
    other = path.with_name(f"changed-{path.name}")
    save(change(load(path)), other)
    return other


def provenance(path: Path, **parts: dict[str, str]) -> Path:
    def change(result: xr.Dataset) -> xr.Dataset:
        about = json.loads(result.attrs["provenance"])
        for name, part in parts.items():
            about[name] = {**about[name], **part}
        return result.assign_attrs(provenance=json.dumps(about))

    return changed(path, change)


def test_the_same_run_gives_the_same_numbers_from_nothing(
    result: Path, cli: Cli, calls: Callable[[], list[str]]
) -> None:
    calls()
    done = cli("--plugin", TOY, "reproduce", result)
    assert done.code == 0
    assert "reproduced: every number is within 1e-06" in done.out
    assert [line.split()[0] for line in done.out.splitlines()[2:4]] == ["A", "B"]
    assert "differs:" not in done.out
    called = calls()
    assert "activations toy-a" in called  # nothing comes from the cache
    assert any(call.startswith("score ") for call in called)


@pytest.mark.slow
@pytest.mark.usefixtures("sim_home")
def test_pixels_on_the_simulated_benchmark(cli: Cli, tmp_path: Path) -> None:
    line = ("score", "--model", "pixels", "--benchmark", "sim-ns", "--site", "VISp.L6", "--metric", "rsa")
    assert cli(*line, "--results", tmp_path / "r").code == 0
    done = cli("reproduce", tmp_path / "r/sim-ns/v1/rsa/pixels.nc")
    assert (done.code, "reproduced" in done.out) == (0, True)


def test_a_number_that_differs_is_exit_1(result: Path, cli: Cli) -> None:
    def change(one: xr.Dataset) -> xr.Dataset:
        return one.assign(raw=one["raw"] + np.array([0.0, 2e-6]))

    done = cli("--plugin", TOY, "reproduce", changed(result, change))
    assert done.code == 1
    assert "not reproduced: the largest difference is 2e-06, above 1e-06" in done.out


def test_a_difference_below_the_tolerance_is_none(result: Path, cli: Cli) -> None:
    assert cli("--plugin", TOY, "reproduce", changed(result, lambda one: one.assign(raw=one["raw"] + 5e-7))).code == 0


def test_a_number_that_was_none_is_a_difference(result: Path, cli: Cli) -> None:
    done = cli("--plugin", TOY, "reproduce", changed(result, lambda one: one.assign(raw=one["raw"] * np.nan)))
    assert (done.code, "inf" in done.out) == (1, True)


def test_other_weights_are_said(result: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOY_WEIGHTS", "2")
    done = cli("--plugin", TOY, "reproduce", result)
    assert done.code == 1
    assert "differs: model fingerprint weights: " in done.out
    assert "the model, or a plugin's code, is not what it was" in done.out


def test_other_data_are_said(result: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOY_TARGET_B", "99")
    done = cli("--plugin", TOY, "reproduce", result)
    assert done.code == 1
    assert "differs: data of B: " in done.out
    assert "the data are not those that the result was made from" in done.out


def test_other_versions_are_said(result: Path, cli: Cli) -> None:
    done = cli("--plugin", TOY, "reproduce", provenance(result, packages={"torch": "1.0"}))
    assert done.code == 0
    assert "differs: packages torch: 1.0 -> " in done.out


# what cannot be run ---------------------------------------------------------------------------------------------------


def test_a_plugin_that_is_not_installed(result: Path, cli: Cli) -> None:
    done = cli("reproduce", result)
    assert done.code == 2
    assert "made with model 'toy-a' of local, which is not installed" in done.err
    assert "--plugin FILE.py" in done.err
    done = cli("--plugin", TOY, "reproduce", changed(result, lambda one: one.assign_attrs(model="toy-zzz")))
    assert "made with model 'toy-zzz' of local, which is not installed" in done.err


def test_a_plugin_of_another_distribution(result: Path, cli: Cli) -> None:
    for kind in ("model", "metric", "benchmark"):
        done = cli("--plugin", TOY, "reproduce", provenance(result, **{kind: {"distribution": "their-dist"}}))
        assert done.code == 2
        assert f"made with {kind} " in done.err
        assert "of their-dist; here it comes from local" in done.err


@pytest.mark.parametrize("kind", ["benchmark", "metric"])
def test_another_version(result: Path, cli: Cli, kind: str) -> None:
    done = cli("--plugin", TOY, "reproduce", changed(result, lambda one: one.assign_attrs({f"{kind}_version": 7})))
    assert done.code == 2
    assert f"made with version 7 of {kind}" in done.err


def test_an_older_format(result: Path, cli: Cli) -> None:
    done = cli("reproduce", changed(result, lambda one: one.assign_attrs(format=store.FORMAT - 1)))
    assert done.code == 2
    assert f"has format {store.FORMAT - 1}" in done.err


def test_a_file_that_is_no_result(result: Path, cli: Cli, tmp_path: Path) -> None:
    assert "does not exist" in cli("reproduce", tmp_path / "none.nc").err
    (tmp_path / "text.nc").write_text("text")
    assert "cannot be read" in cli("reproduce", tmp_path / "text.nc").err
    assert "is no result" in cli("reproduce", changed(result, lambda one: one.assign_attrs(provenance="[]"))).err
    assert "is no result" in cli("reproduce", changed(result, lambda one: one.drop_vars("raw"))).err
    cached = next((tmp_path / "home" / "representations").rglob("*.nc"))
    assert cli("reproduce", cached).code == 2


def test_a_function_in_a_file(cli: Cli, toy: Cli, tmp_path: Path) -> None:
    file = tmp_path / "net.py"
    file.write_text(
        "import importlib.util, sys\n"
        f"spec = importlib.util.spec_from_file_location('toy_again', {str(TOY)!r})\n"
        "module = importlib.util.module_from_spec(spec)\nspec.loader.exec_module(module)\n"
        "def build():\n    return module.Projections('toy-a')\n"
        "def other():\n    return module.Projections('toy-b')\n"
    )
    assert toy(f"{file}:build", "--site", "A").code == 0
    result = tmp_path / "results" / "toy" / "v1" / "quick" / "local-net-build.nc"
    done = cli("--plugin", TOY, "reproduce", result)
    assert done.code == 2
    assert "that of 'net:build', a model that nobody registered" in done.err
    assert "--model FILE.py:FUNCTION" in done.err
    assert cli("--plugin", TOY, "reproduce", result, "--model", f"{file}:build").code == 0
    done = cli("--plugin", TOY, "reproduce", result, "--model", f"{file}:other")
    assert "that of 'net:build', not of 'net:other'" in done.err
    assert cli("--plugin", TOY, "reproduce", result, "--model", f"{tmp_path}/gone.py:build").code == 2


@pytest.mark.parametrize(
    ("name", "hint"),
    [("python:Net", "score it there again"), ("alexnet+mine", "--weights FILE"), ("a[conv]", "--layers")],
)
def test_what_else_has_no_plain_name(result: Path, cli: Cli, name: str, hint: str) -> None:
    done = cli("--plugin", TOY, "reproduce", changed(result, lambda one: one.assign_attrs(model=name)))
    assert done.code == 2
    assert hint in done.err


def test_a_model_that_is_shadowed(result: Path, cli: Cli, environment: Environment) -> None:
    source = """
        from mousebench import Spec, hookimpl
        @hookimpl
        def mousebench_models():
            return [Spec("toy-a", load=dict)]
    """
    environment.install("their-dist", "theirs", source)
    done = cli("--plugin", TOY, "reproduce", result)
    assert done.code == 2
    assert "provided by their-dist" in done.err
