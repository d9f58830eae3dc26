from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PACKAGES = PROJECT["tool"]["setuptools"]["packages"]
POINTS = PROJECT["project"]["entry-points"]["mousebench"]


def module_name(path: Path) -> str:
    return ".".join(["mousebench_plugins", *path.relative_to(ROOT / "plugins").parts]).removesuffix(".py")


def test_every_package_is_listed() -> None:
    plugins = {module_name(init.parent) for init in (ROOT / "plugins").rglob("__init__.py")}
    own = {".".join(init.parent.relative_to(ROOT).parts) for init in (ROOT / "mousebench").rglob("__init__.py")}
    assert plugins | own == set(PACKAGES)
    assert len(PACKAGES) == len(set(PACKAGES))


def test_no_plugin_lies_outside_a_package() -> None:
    for path in (ROOT / "plugins").rglob("*.py"):
        assert (path.parent / "__init__.py").is_file(), path


def test_every_plugin_module_has_an_entry_point_and_every_entry_point_a_module() -> None:
    packages = {init.parent for init in (ROOT / "plugins").rglob("__init__.py") if "hookimpl" in init.read_text()}
    modules = {
        module_name(path)
        for path in (ROOT / "plugins").rglob("*.py")
        if not path.name.startswith("_") and path.parent not in packages  # what a package keeps to itself
    }
    assert sorted(POINTS.values()) == sorted(modules | {module_name(package) for package in packages})


def test_plugin_modules_are_named_after_their_plugins() -> None:
    assert all(value.rpartition(".")[2] == name.replace("-", "_") for name, value in POINTS.items())


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> ZipFile:
    """Build a wheel from a copy of what git would give, so that nothing is left in the checkout."""
    pytest.importorskip("setuptools", minversion="77")
    folder = tmp_path_factory.mktemp("build")
    source = folder / "source"
    skip = shutil.ignore_patterns("__pycache__", "*.egg-info", "build", "dist")
    for name in ("mousebench", "plugins"):
        shutil.copytree(ROOT / name, source / name, ignore=skip)
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "registry.yaml", "LICENSE", "README.md"):
        shutil.copy(ROOT / name, source / name)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    done = subprocess.run(
        [*build, "--disable-pip-version-check", "--wheel-dir", folder, source], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("mousebench-*.whl")
    return ZipFile(path)


def test_the_wheel_holds_every_module_and_the_registry(wheel: ZipFile) -> None:
    names = set(wheel.namelist())
    modules = {
        f"mousebench/{path.relative_to(ROOT / 'mousebench').as_posix()}" for path in (ROOT / "mousebench").rglob("*.py")
    }
    modules |= {
        f"mousebench_plugins/{path.relative_to(ROOT / 'plugins').as_posix()}"
        for path in (ROOT / "plugins").rglob("*.py")
    }
    assert len(modules) > 30
    assert modules <= names
    assert "mousebench/py.typed" in names
    folder = ROOT / "mousebench" / "templates"
    templates = {f"mousebench/templates/{path.relative_to(folder).as_posix()}" for path in folder.rglob("*.*")}
    assert len(templates) > 15
    assert templates <= names
    assert wheel.read("mousebench/registry.yaml") == (ROOT / "registry.yaml").read_bytes()


def test_the_wheel_holds_nothing_else(wheel: ZipFile) -> None:
    assert {name.partition("/")[0].partition("-")[0] for name in wheel.namelist()} == {
        "mousebench",
        "mousebench_plugins",
    }


def test_the_wheel_has_the_licence_the_command_and_the_plugins(wheel: ZipFile) -> None:
    (licence,) = (name for name in wheel.namelist() if name.endswith("LICENSE"))
    assert b"MIT" in wheel.read(licence)
    (points,) = (name for name in wheel.namelist() if name.endswith("entry_points.txt"))
    text = wheel.read(points).decode()
    assert "mousebench = mousebench.cli:main" in text
    assert all(f"{name} = {value}" in text for name, value in POINTS.items())


def test_the_wheel_alone_lists_scores_and_finds_its_registry(wheel: ZipFile, tmp_path: Path) -> None:
    site = tmp_path / "site"
    wheel.extractall(site)
    code = f"""
import sys
sys.path = [{str(site)!r}, *(path for path in sys.path if path != {str(ROOT)!r})]
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in str(getattr(finder, "__module__", finder))]
import mousebench
from mousebench.plugins import discover
from mousebench.registry import problems, read_registry, registry_path
assert mousebench.__file__.startswith({str(site)!r}), mousebench.__file__
assert str(registry_path()).startswith({str(site)!r}), registry_path()
from importlib.metadata import Distribution
import pathlib
points = Distribution.at(next(pathlib.Path({str(site)!r}).glob("*.dist-info"))).entry_points.select(group="mousebench")
found = discover(installed=points)
assert problems(read_registry(), found) == [], problems(read_registry(), found)
print(len(found.load("models", "pixels").layers))
"""
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout == "1\n", done.stderr
