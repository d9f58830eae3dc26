from __future__ import annotations

import pytest

from allen import allen_files, allen_server
from mousebench_plugins.benchmarks.allen_ns.benchmark import TwoPhoton


@pytest.fixture(autouse=True)
def _own_home(tmp_path, monkeypatch):
    monkeypatch.setenv("MOUSEBENCH_HOME", str(tmp_path / "home"))
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "127.0.0.1,localhost")


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """A folder laid out as the SDK's cache and the bucket; nobody changes it."""
    return allen_files.write_cache(
        tmp_path_factory.mktemp("cache"), allen_files.sessions(), events=True, padding=4_000_000
    )


@pytest.fixture
def server(cache):
    with allen_server.serve(cache) as running:
        yield running


@pytest.fixture
def make(tmp_path):
    """Return a function that makes a benchmark for the small fixture."""

    def make(identifier="allen-ns", folder=None, settings=allen_server.QUICK, **options):
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
