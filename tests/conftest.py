"""What all tests share: a home of their own, an environment without installed plugins, the command line in-process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import Distribution, EntryPoint
from pathlib import Path
from textwrap import dedent

import pytest

from mousebench import api
from mousebench.cli import main

TOY = Path(__file__).with_name("toy.py")


def pytest_configure() -> None:
    """Give torch, and the processes that tests start, one thread each where tests run in a process a core."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Keep every test away from the user's home folder, settings and network; they are put back afterwards."""
    folder = tmp_path / "home"
    monkeypatch.setenv("MOUSEBENCH_HOME", str(folder))
    monkeypatch.setenv("MOUSEBENCH_OFFLINE", "")
    monkeypatch.setenv(
        "MOUSEBENCH_TRUST_PLUGINS", "1"
    )  # made-up plugins run here; test_isolation.py runs them elsewhere
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("COLUMNS", "120")
    api.catalogue.cache_clear()
    yield folder
    api.catalogue.cache_clear()


@pytest.fixture(scope="session")
def sim_ns(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder for the data of sim-ns that all tests share, in all processes: files are named after what fixes them."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "sim-ns"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture
def sim_home(home: Path, sim_ns: Path) -> Path:
    """Give a home of one's own whose data of sim-ns are those that all tests share."""
    place = home / "data" / "sim-ns" / "v1"
    place.parent.mkdir(parents=True)
    place.symlink_to(sim_ns)
    return home


class Environment:
    """Installed distributions that are made up: metadata on disk as pip writes it, read by importlib.metadata."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.points: list[EntryPoint] = []
        folder.mkdir()
        monkeypatch.syspath_prepend(folder)
        monkeypatch.setattr("mousebench.plugins.entry_points", lambda group: tuple(self.points))

    def install(self, distribution: str, name: str, source: str, version: str = "1.0", module: str = "") -> str:
        """Install a distribution with one plugin and return the plugin's module."""
        module = module or f"{distribution}_{name}".replace("-", "_")
        (self.folder / f"{module}.py").write_text(dedent(source), encoding="utf-8")
        info = self.folder / f"{distribution}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(f"[mousebench]\n{name} = {module}\n")
        self.points += Distribution.at(info).entry_points
        return module


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Environment]:
    """Give an environment without any plugin, to which some can be added."""
    before = set(sys.modules)
    yield Environment(tmp_path / "site-packages", monkeypatch)
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


@dataclass(frozen=True)
class Outcome:
    """What a command did."""

    code: int
    out: str
    err: str


Cli = Callable[..., Outcome]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    """Run the command line in this process."""

    def run(*arguments: str | Path) -> Outcome:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        return Outcome(code, *capsys.readouterr())

    return run


@pytest.fixture
def toy(cli: Cli, environment: Environment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Score with the plugin of toy.py alone: ``toy("toy-a")`` is ``score --model toy-a --benchmark toy``."""
    monkeypatch.setenv("TOY_LOG", str(tmp_path / "toy.log"))

    def run(models: str, *arguments: str | Path, benchmark: str = "toy") -> Outcome:
        results = () if "--results" in arguments else ("--results", tmp_path / "results")
        return cli("--plugin", TOY, "score", "--model", models, "--benchmark", benchmark, *results, *arguments)

    return run


@pytest.fixture
def calls(tmp_path: Path) -> Callable[[], list[str]]:
    """Say what of the toy plugin was called since the last time."""

    def since() -> list[str]:
        log = tmp_path / "toy.log"
        lines = log.read_text().splitlines() if log.is_file() else []
        log.unlink(missing_ok=True)
        return lines

    return since


def process(*arguments: str | Path, **settings: str) -> subprocess.Popen[str]:
    """Start the command line in a fresh process, with all that is really installed."""
    return subprocess.Popen(
        [sys.executable, "-m", "mousebench", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **settings},
    )


def files(folder: Path, pattern: str = "*") -> Sequence[Path]:
    """Return the files below a folder, hidden and temporary ones too, by path relative to it."""
    return sorted(path.relative_to(folder) for path in folder.rglob(pattern) if path.is_file())
