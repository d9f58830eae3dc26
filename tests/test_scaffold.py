"""New plugins: they score as they are written, nothing is overwritten, what people edit by hand keeps its form."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from conftest import Cli, Environment, files

from mousebench.checks import FAILED, checks_of, entries_of, perform
from mousebench.errors import StoreError, UsageError
from mousebench.plugins import discover
from mousebench.scaffold import Plan, carry_out, with_draft, with_entry_point

ROOT = Path(__file__).parents[1]
KINDS = ("model", "benchmark", "metric")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def checkout(here: Path) -> Path:
    """Work in a copy of what ``new`` looks at in the repository."""
    for name in ("pyproject.toml", "registry.yaml"):
        shutil.copy(ROOT / name, here / name)
    for kind in KINDS:
        (here / "plugins" / f"{kind}s").mkdir(parents=True)
    (here / "tests").mkdir()
    return here


@pytest.mark.parametrize("kind", KINDS)
def test_one_file_passes_its_checks_as_it_is_written(cli: Cli, here: Path, kind: str) -> None:
    done = cli("new", kind, "my-thing", "--file")
    assert (done.code, done.err) == (0, "")
    assert files(here) == [Path("my_thing.py"), Path("test_my_thing.py")]
    assert "mousebench --plugin my_thing.py check my-thing" in done.out
    found = discover([here / "my_thing.py"], trust=True)
    (entry,) = entries_of("my-thing", found)
    slow = ("same in a fresh process", "scores sim-ns in range")
    checks = [check for check in checks_of(entry, "my-thing", found) if check.name not in slow]
    assert [outcome for outcome in perform(checks) if outcome.state == FAILED] == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_package_declares_what_it_says(cli: Cli, here: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    done = cli("new", kind, "my-thing", "--package", "mouse-things")
    assert (done.code, done.err) == (0, "")
    top = here / "mouse-things"
    assert files(top) == [
        *(Path("README.md"), Path("pyproject.toml"), Path("src/mouse_things/__init__.py")),
        *(Path("src/mouse_things/_my_thing.py"), Path("tests/test_my_thing.py")),
    ]
    project = tomllib.loads((top / "pyproject.toml").read_text())["project"]
    assert project["name"] == "mouse-things"
    assert project["entry-points"]["mousebench"] == {"my-thing": "mouse_things"}
    code = f"""
import sys; sys.path.insert(0, {str(top / "src")!r})
from importlib.metadata import EntryPoint
from mousebench.plugins import discover
found = discover(installed=[EntryPoint("my-thing", "mouse_things", "mousebench")], trust=True)
assert not found.broken, found.broken
assert not {{"numpy", "torch", "xarray"}} & set(sys.modules)
found.load({f"{kind}s"!r}, "my-thing")
"""
    done_there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done_there.returncode == 0, done_there.stderr


@pytest.mark.parametrize("kind", KINDS)
def test_in_the_repository_files_entry_point_and_draft_are_written(cli: Cli, checkout: Path, kind: str) -> None:
    before = {name: (checkout / name).read_text() for name in ("pyproject.toml", "registry.yaml")}
    done = cli("new", kind, "my-thing")
    assert (done.code, done.err) == (0, "")
    new = {Path(f"plugins/{kind}s/my_thing.py"), Path(f"plugins/{kind}s/_my_thing.py"), Path("tests/test_my_thing.py")}
    assert set(files(checkout)) == {*new, Path("pyproject.toml"), Path("registry.yaml")}
    for name, text in before.items():  # lines are added, none is changed
        lines = (checkout / name).read_text().splitlines()
        rest = iter(lines)
        assert all(line in rest for line in text.splitlines())
    points = list(tomllib.loads((checkout / "pyproject.toml").read_text())["project"]["entry-points"]["mousebench"])
    kinds = [
        value.split(".")[1]
        for value in tomllib.loads((checkout / "pyproject.toml").read_text())["project"]["entry-points"][
            "mousebench"
        ].values()
    ]
    assert kinds == sorted(kinds)
    mine = [name for name, one in zip(points, kinds, strict=True) if one == f"{kind}s"]
    assert mine == sorted(mine)
    registry = yaml.safe_load((checkout / "registry.yaml").read_text())
    assert registry["plugins"]["my-thing"]["status"] == "draft"
    assert registry["plugins"]["my-thing"][f"{kind}s"]["my-thing"] in registry["citations"]


def test_what_is_made_in_the_repository_is_formatted_and_linted(cli: Cli, checkout: Path) -> None:
    for kind in KINDS:
        assert cli("new", kind, f"my-{kind}").code == 0
    ruff = Path(sys.executable).with_name("ruff")
    if not ruff.exists():
        pytest.skip("ruff is not beside this python")
    for command in (["check"], ["format", "--check"]):
        done = subprocess.run([ruff, *command, "plugins", "tests"], cwd=checkout, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    "name", ["../../x", "<script>", "My-Net", "a b", "3d-net", "timm/net", "net@3", "a--b", "", "my.net", "ä"]
)
def test_a_name_that_is_no_identifier_is_refused(cli: Cli, here: Path, name: str) -> None:
    for where in ((), ("--file",), ("--package", "mouse-things")):
        done = cli("new", "model", name, *where)
        assert done.code == 2
        assert f"{name!r} cannot name a plugin" in done.err
    assert files(here.parent / "here") == []


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("class", "is a word of Python"),
        ("match", "is a word of Python"),
        ("pixels", "'pixels' is taken: an installed model is called that"),
        ("sim-ns", "'sim-ns' is taken: an installed benchmark is called that"),
        ("torchvision-zoo", "'torchvision-zoo' is taken: a plugin is called that"),
        ("json", "a module called 'json' is installed"),
        ("numpy", "a module called 'numpy' is installed"),
    ],
)
def test_a_name_that_is_taken_is_refused(cli: Cli, here: Path, name: str, said: str) -> None:
    done = cli("new", "metric", name, "--file")
    assert done.code == 2
    assert said in done.err
    assert files(here) == []


@pytest.mark.parametrize("name", ["../x", "a/b", "<script>", "", "mousebench", "numpy", "-x", "3d"])
def test_a_distribution_that_cannot_be_is_refused(cli: Cli, here: Path, name: str) -> None:
    done = cli("new", "model", "my-net", f"--package={name}")
    assert done.code == 2
    assert files(here.parent / "here") == []


def test_nothing_is_overwritten(cli: Cli, checkout: Path) -> None:
    assert cli("new", "model", "my-net", "--file").code == 0
    before = {path: path.read_bytes() for path in checkout.rglob("*") if path.is_file()}
    assert "my_net.py is there already" in cli("new", "model", "my-net", "--file").err
    (checkout / "test_other.py").write_text("mine")
    assert "test_other.py is there already" in cli("new", "model", "other", "--file").err
    assert not (checkout / "other.py").exists()
    (checkout / "mouse-things").mkdir()
    assert "'mouse-things' is there already" in cli("new", "model", "more", "--package", "mouse-things").err
    (checkout / "tests" / "test_more.py").write_text("mine")
    assert "test_more.py is there already" in cli("new", "model", "more").err
    assert {path: path.read_bytes() for path in before} == before


def test_outside_a_checkout_the_other_two_ways_are_named(cli: Cli, here: Path) -> None:
    done = cli("new", "model", "my-net")
    assert done.code == 2
    assert "not in a checkout of mousebench" in done.err
    assert "--file" in done.err
    assert "--package" in done.err


@pytest.mark.parametrize("name", ["no", "on", "yes", "null", "true", "e1"])
def test_words_that_yaml_reads_otherwise_are_quoted(name: str) -> None:
    text = (ROOT / "registry.yaml").read_text()
    assert name in yaml.safe_load(with_draft(text, "model", name, "cited2026"))["plugins"]


def test_the_ends_of_lines_and_comments_are_kept() -> None:
    pyproject = (ROOT / "pyproject.toml").read_text().replace("\n", "\r\n")
    changed = with_entry_point(pyproject, "zzz", "mousebench_plugins.models.zzz")
    assert changed.count("\r\n") == changed.count("\n") == pyproject.count("\n") + 1
    assert changed.replace('zzz = "mousebench_plugins.models.zzz"\r\n', "") == pyproject
    registry = (ROOT / "registry.yaml").read_text()
    assert [line for line in with_draft(registry, "model", "zzz", "zzz_citation").splitlines() if "#" in line][:-2]


@pytest.mark.parametrize(
    "text",
    [
        '[project]\nname = "mousebench"\n',
        '[project]\nname = "m"\n[project.entry-points]\nmousebench = {a = "b"}\n',
        '[project.entry-points.mousebench]\nzzz = "mousebench_plugins.models.zzz"\n',
    ],
)
def test_a_pyproject_of_another_form_is_left_alone(text: str) -> None:
    with pytest.raises(UsageError, match="another form than expected"):
        with_entry_point(text, "zzz", "mousebench_plugins.models.zzz")


@pytest.mark.parametrize(
    "text", ["", "[", "plugins: {}\ncitations: {}\n", "plugins:\n    deep: {}\ncitations:\n    a: b\n", "- a\n"]
)
def test_a_registry_of_another_form_is_left_alone(text: str) -> None:
    with pytest.raises(UsageError, match="another form than expected"):
        with_draft(text, "model", "zzz", "zzz_citation")


def test_what_was_written_is_taken_back_if_a_file_cannot_be(tmp_path: Path) -> None:
    kept = tmp_path / "kept.txt"
    kept.write_text("before")
    (tmp_path / "folder").mkdir()
    plan = Plan({tmp_path / "new.txt": "new"}, {kept: "after"}, [])
    blocked = Plan({**plan.created, tmp_path / "kept.txt" / "below.txt": "x"}, {}, [])
    with pytest.raises(StoreError):
        carry_out(blocked)
    assert not (tmp_path / "new.txt").exists()
    carry_out(plan)
    assert kept.read_text() == "after"


def test_new_is_light_of_what_is_installed(cli: Cli, here: Path, environment: Environment) -> None:
    environment.install("broken-dist", "my-net", "import no_such_package")
    done = cli("new", "model", "my-net", "--file")
    assert "'my-net' is taken: a plugin is called that" in done.err
