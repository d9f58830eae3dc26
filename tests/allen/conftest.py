from __future__ import annotations

import allen_files
import allen_server
import pytest

from mousebench_plugins.benchmarks.allen_ns.benchmark import TwoPhoton
from mousebench_plugins.benchmarks.allen_ns.remote import Settings

QUICK = Settings(attempts=3, backoff=0.01, connect_timeout=5, read_timeout=0.5, block=1 << 16)


@pytest.fixture(autouse=True)
def _own_home(tmp_path, monkeypatch):
    monkeypatch.setenv("MOUSEBENCH_HOME", str(tmp_path / "home"))
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "127.0.0.1,localhost")


def sessions() -> list[allen_files.Session]:
    """Four sessions of three mice in two sites."""
    return [
        allen_files.Session(id=501000001, donor=11),
        allen_files.Session(id=501000002, donor=12, n_cells=5, n_reliable=2),
        allen_files.Session(id=501000003, donor=11, area="VISl", depth=275, cre="Rorb-IRES2-Cre"),
        allen_files.Session(id=501000004, donor=13, area="VISl", depth=350, cre="Nr5a1-Cre", n_cells=4, n_reliable=1),
    ]


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """A folder laid out as the SDK's cache and the bucket; nobody changes it."""
    return allen_files.write_cache(tmp_path_factory.mktemp("cache"), sessions(), events=True, padding=4_000_000)


@pytest.fixture
def server(cache):
    with allen_server.serve(cache) as running:
        yield running


@pytest.fixture
def make(tmp_path):
    """Return a function that makes a benchmark for the small fixture."""

    def make(identifier="allen-ns", folder=None, settings=QUICK, **options):
        place = {"folder": folder} if folder else {}
        return TwoPhoton(identifier, scene_shape=allen_files.SCENE_SHAPE, settings=settings, **place, **options)

    return make


@pytest.fixture
def fetch(make):
    """Return a function that fetches and returns (benchmark, report)."""

    def fetch(source, identifier="allen-ns", sites=None, jobs=1, dry_run=False, progress=None, **options):
        benchmark = make(identifier, **options)
        report = benchmark.fetch(sites=sites, source=str(source), jobs=jobs, dry_run=dry_run, progress=progress)
        return benchmark, report

    return fetch
