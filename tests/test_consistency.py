"""What is written down against what is there: plugin files, entry points, results."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from conftest import TOY, Cli, Environment
from test_reproduction import changed, provenance

from mousebench import consistency, store
from mousebench.consistency import checkout, everything, stale_results
from mousebench.plugins import discover

ROOT = Path(__file__).parents[1]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Return a copy of what is compared in a checkout."""
    folder = tmp_path / "copy"
    shutil.copytree(ROOT / "plugins", folder / "plugins", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "registry.yaml"):
        shutil.copy(ROOT / name, folder / name)
    return folder


def said(root: Path) -> list[str]:
    return [f"{problem.what} -> {problem.remedy}" for problem in consistency._files(root)]


def test_our_own_checkout_agrees(copy: Path) -> None:
    assert said(copy) == []
    assert checkout(copy / "plugins" / "models") == copy
    assert checkout(copy.parent) is None


def test_a_file_without_entry_point_is_found_with_the_line_to_add(copy: Path) -> None:
    (copy / "plugins" / "models" / "my_net.py").write_text("")
    (copy / "plugins" / "models" / "_my_net.py").write_text("")
    (line,) = said(copy)
    assert line.startswith("plugins/models/my_net.py is no entry point -> ")
    assert 'my-net = "mousebench_plugins.models.my_net"; then pip install -e .' in line


def test_an_entry_point_without_file_is_found(copy: Path) -> None:
    (copy / "plugins" / "models" / "pixels.py").unlink()
    assert said(copy) == [
        "entry point 'pixels' names mousebench_plugins.models.pixels, which is no file -> take it out of pyproject.toml"
    ]


def test_an_entry_point_that_is_not_installed_yet_is_found(copy: Path) -> None:
    (copy / "plugins" / "models" / "my_net.py").write_text("")
    text = (copy / "pyproject.toml").read_text()
    new = 'my-net = "mousebench_plugins.models.my_net"\n'
    (copy / "pyproject.toml").write_text(text.replace("pixels = ", f"{new}pixels = "))
    (line,) = said(copy)
    assert "'my-net'" in line
    assert line.endswith("is not both written and installed -> pip install -e .")


@pytest.fixture
def results(toy: Cli, environment: Environment, tmp_path: Path) -> Path:
    """Score the toys with an installed plugin and return the folder of results."""
    environment.install("toy-dist", "toy", TOY.read_text(encoding="utf-8"), module="toy_installed")
    return tmp_path / "results"


def scored(cli: Cli, results: Path) -> Path:
    assert cli("score", "--model", "toy-a", "--benchmark", "toy", "--site", "A", "--results", results).code == 0
    return results / "toy" / "v1" / "quick" / "toy-a.nc"


def test_results_that_would_come_out_otherwise_are_found(results: Path, cli: Cli) -> None:
    path = scored(cli, results)
    assert stale_results(discover(), results) == []
    for version in ("benchmark_version", "metric_version"):
        other = changed(path, lambda one, version=version: one.assign_attrs({version: 7}))
        (problem,) = stale_results(discover(), results)
        assert "was made with version 7 of" in problem.what
        assert problem.remedy == "mousebench score --model toy-a --benchmark toy --metric quick"
        other.unlink()
    cases = [
        (lambda: changed(path, lambda one: one.assign_attrs(model="toy-zzz")), "unknown model 'toy-zzz'; did you mean"),
        (lambda: changed(path, lambda one: one.assign_attrs(model="../../x")), "unknown model '../../x'"),
        (lambda: provenance(path, model={"distribution": "theirs"}), "of theirs; here it comes from toy-dist"),
        (lambda: changed(path, lambda one: one.assign_attrs(format=store.FORMAT - 1)), "has format"),
        (lambda: changed(path, lambda one: one.assign_attrs(provenance="{}")), "is no result"),
    ]
    for make, words in cases:
        other = make()
        (problem,) = stale_results(discover(), results)
        assert words in problem.what
        assert problem.remedy
        other.unlink()
    (path.parent / "text.nc").write_text("text")
    (problem,) = stale_results(discover(), results)
    assert "cannot be read" in problem.what


def test_results_of_local_models_are_nobodys(toy: Cli, cli: Cli, tmp_path: Path) -> None:
    assert toy("toy-a", "--site", "A").code == 0
    assert stale_results(discover(), tmp_path / "results") == []


def test_the_command_exits_1_with_remedies(cli: Cli, tmp_path: Path) -> None:
    assert stale_results(discover(), tmp_path / "none") == []
    good = cli("check", "--results", tmp_path / "none")
    assert (good.code, good.out) == (0, "nothing found: the registry, what is installed and the results agree\n")
    folder = tmp_path / "results" / "sim-ns" / "v1" / "rsa"
    folder.mkdir(parents=True)
    (folder / "x.nc").write_text("text")
    bad = cli("check", "--results", tmp_path / "results")
    assert bad.code == 1
    assert "found: " in bad.out
    assert "delete the file, it is damaged" in bad.out
    assert '"problems": [' in cli("check", "--json", "--results", tmp_path / "results").out


def test_everything_holds_the_registry_too(environment: Environment, tmp_path: Path) -> None:
    environment.install("bad-dist", "bad", "import no_such_package")
    assert any("'bad' of bad-dist is broken" in problem.what for problem in everything(discover(), tmp_path))
