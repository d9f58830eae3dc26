"""What servers, networks and disks do to a fetch; each time the result and the bytes moved are looked at."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from dataclasses import asdict

import numpy as np
import pytest

from allen import allen_files, small_fetch
from allen.allen_files import sessions, stored
from allen.allen_server import QUICK, Faults
from mousebench.errors import StoreError
from mousebench_plugins.benchmarks.allen_ns import ledger
from mousebench_plugins.benchmarks.allen_ns.remote import Changed, Client, NotThere, RangeFile

NWB = "ophys_experiment_data/501000001.nwb"
ANALYSIS = "ophys_experiment_analysis/501000001_three_session_B_analysis.h5"


@pytest.fixture(scope="session")
def clean(cache, tmp_path_factory):
    """Bytes that a fetch without faults moves, and what it stores."""
    from allen import allen_server
    from mousebench_plugins.benchmarks.allen_ns.benchmark import TwoPhoton

    folder = tmp_path_factory.mktemp("clean")
    with allen_server.serve(cache) as server:
        benchmark = TwoPhoton("allen-ns", scene_shape=allen_files.SCENE_SHAPE, settings=QUICK, folder=folder)
        report = benchmark.fetch(sites=None, source=server.url, jobs=1, dry_run=False)
    assert not report.failed
    return report.moved_bytes, stored(folder)


def sessions_and_scenes(content):
    """Leave out the assembled sites, whose names tell which versions of the files they are from."""
    return {key: value for key, value in content.items() if not key.startswith("sites")}


@pytest.mark.parametrize(
    ("faults", "factor"),
    [
        (Faults(busy=True, times=2), 1.0),
        (Faults(busy=True, only=ANALYSIS, times=2), 1.0),
        (Faults(cut=0, only=ANALYSIS, times=2), 1.0),
        (Faults(cut=1, only=ANALYSIS, times=1), 1.0),
        (Faults(cut=70_001, only=ANALYSIS, times=2), 1.05),
        (Faults(cut=12_345, times=2), 1.05),
        (Faults(stall=1.0, only=ANALYSIS, times=1), 1.2),
    ],
    ids=["503", "503 on one file", "cut at once", "cut at 1", "cut late", "cut anywhere", "stalled"],
)
def test_passing_faults_change_nothing(fetch, server, clean, faults, factor):
    server.faults = faults
    benchmark, report = fetch(server.url)
    assert not report.failed
    moved, content = clean
    assert stored(benchmark.folder) == content
    assert server.sent <= factor * moved + 3 * QUICK.block


@pytest.mark.parametrize(
    ("faults", "message"),
    [
        (Faults(busy=True, only=ANALYSIS), "503"),
        (Faults(cut=0, only=ANALYSIS), "broke off"),
        (Faults(stall=1.0, only=ANALYSIS), "broke off"),
        (Faults(missing=True, only=ANALYSIS), "does not exist"),
        (Faults(html=True, only=ANALYSIS), "a web page"),
        (Faults(ignore_range=True, only=ANALYSIS), "ignores ranges"),
        (Faults(wrong_range=True, only=ANALYSIS), "were asked for"),
        (Faults(short=1_000_000, only=ANALYSIS), "cannot be read as HDF5"),
        (Faults(changed=1, only=ANALYSIS), "changed while it was read"),
        (Faults(changed=1, only=ANALYSIS, loose=True), "changed while it was read"),
    ],
    ids=[
        "503",
        "cut",
        "stalled",
        "404",
        "html",
        "whole file",
        "wrong range",
        "truncated",
        "changed",
        "changed, no 412",
    ],
)
def test_a_session_that_fails_is_reported_and_the_rest_goes_on(fetch, server, clean, faults, message):
    server.faults = faults
    benchmark, report = fetch(server.url)
    if faults.changed:
        # the second attempt reads the new version from its beginning, and gets all of it
        assert not report.failed
    else:
        assert len(report.failed) == 1
        assert report.failed[0].startswith("experiment 501000001: ")
        assert message in report.failed[0]
        assert ledger.read(benchmark.folder)["501000001"]["status"] == "failed"
        assert benchmark.held()["VISp.L23"] == (1, 2)
    assert benchmark.held()["VISl.L4"] == (2, 2)
    # of a body that is not wanted, only what the server sent before it noticed
    unwanted = 5_000_000 if faults.ignore_range or faults.loose else 0
    assert server.sent <= clean[0] + 4 * QUICK.block + unwanted
    assert report.moved_bytes <= clean[0] + 4 * QUICK.block
    server.faults = Faults()
    benchmark, report = fetch(server.url)
    assert not report.failed
    assert sessions_and_scenes(stored(benchmark.folder)).keys() == sessions_and_scenes(clean[1]).keys()


def test_no_answer_at_all(fetch):
    with pytest.raises(StoreError, match="does not answer"):
        fetch("http://127.0.0.1:9")


def test_an_experiment_table_that_is_a_web_page(fetch, server):
    server.faults = Faults(html=True, only="ophys_experiments.json")
    with pytest.raises(StoreError, match="is not JSON"):
        fetch(server.url)


def test_scenes_that_differ_between_sessions(fetch, tmp_path):
    folder = allen_files.write_cache(tmp_path / "cache", sessions()[:2])
    allen_files.write_nwb(folder / NWB, sessions()[0], scenes=255 - allen_files.template())
    benchmark, report = fetch(folder)
    assert report.failed == ("scenes: the scenes of experiments 501000001 and 501000002 differ",)
    assert benchmark.held()["VISp.L23"] == (2, 2)


class TestRangeFile:
    def test_it_reads_what_a_file_reads(self, server):
        path = server.root / NWB
        content = path.read_bytes()
        file = RangeFile(Client(QUICK), f"{server.url}/{NWB}")
        rng = np.random.default_rng(0)
        for _ in range(200):
            start, length = int(rng.integers(len(content) + 10)), int(rng.integers(1, 300_000))
            file.seek(start)
            assert file.read(length) == content[start : start + length]
        assert file.seek(-10, os.SEEK_END) == len(content) - 10
        assert file.read() == content[-10:]

    def test_runs_of_blocks_are_one_request(self, server):
        client = Client(QUICK)
        file = RangeFile(client, f"{server.url}/{ANALYSIS}")
        file.seek(100_000)
        file.read(2_000_000)
        assert client.requests == 2

    def test_a_block_is_moved_once(self, server):
        client = Client(QUICK)
        file = RangeFile(client, f"{server.url}/{NWB}")
        for _ in range(10):
            file.seek(0)
            file.read(1000)
        assert client.moved == QUICK.block
        assert client.requests == 1

    def test_a_change_is_an_error(self, server):
        file = RangeFile(Client(QUICK), f"{server.url}/{ANALYSIS}")
        server.faults = Faults(changed=0)
        file.seek(1_000_000)
        with pytest.raises(Changed):
            file.read(10)

    def test_missing(self, server):
        with pytest.raises(NotThere):
            RangeFile(Client(QUICK), f"{server.url}/nothing")


class TestDownload:
    @pytest.mark.parametrize("cut", [65_536, 70_000, 1_000_003])
    def test_it_goes_on_where_it_stopped(self, server, tmp_path, cut):
        server.faults = Faults(cut=cut, times=3)
        path = tmp_path / "whole.h5"
        Client(QUICK).download(f"{server.url}/{ANALYSIS}", path)
        assert path.read_bytes() == (server.root / ANALYSIS).read_bytes()
        assert server.sent <= path.stat().st_size + 3 * 65_536
        assert [item.name for item in tmp_path.iterdir() if item.is_file()] == ["whole.h5"]

    @pytest.mark.parametrize("cut", [0, 1])
    def test_without_progress_it_gives_up_and_the_next_call_goes_on(self, server, tmp_path, cut):
        path, begun = tmp_path / "whole.h5", 1_000_000
        identity = Client(QUICK).identity(f"{server.url}/{ANALYSIS}")
        path.with_name("whole.h5.part").write_bytes((server.root / ANALYSIS).read_bytes()[:begun])
        path.with_name("whole.h5.part.json").write_text(json.dumps(asdict(identity)))
        server.faults = Faults(cut=cut, times=3)
        with pytest.raises(StoreError, match="3 answers in a row broke off"):
            Client(QUICK).download(f"{server.url}/{ANALYSIS}", path)
        assert not path.exists()
        server.sent = 0
        Client(QUICK).download(f"{server.url}/{ANALYSIS}", path)
        assert path.read_bytes() == (server.root / ANALYSIS).read_bytes()
        assert server.sent == path.stat().st_size - begun

    def test_a_new_version_is_begun_anew(self, server, tmp_path):
        server.faults = Faults(cut=500_000, times=1, changed=1)
        path = tmp_path / "whole.h5"
        Client(QUICK).download(f"{server.url}/{ANALYSIS}", path)
        assert path.read_bytes() == (server.root / ANALYSIS).read_bytes()
        assert server.sent == path.stat().st_size + 500_000

    def test_a_web_page_is_refused(self, server, tmp_path):
        server.faults = Faults(html=True)
        with pytest.raises(StoreError, match="web page"):
            Client(QUICK).download(f"{server.url}/{NWB}", tmp_path / "a")
        assert not (tmp_path / "a").exists()


def test_two_processes_fetch_the_same(server, clean, tmp_path):
    first, second = (start_fetch(server.url, tmp_path / "data") for _ in range(2))
    assert first.wait(60) == 0
    assert second.wait(60) == 0
    assert stored(tmp_path / "data") == sessions_and_scenes(clean[1])


def test_a_full_disk(server, tmp_path):
    """A limit on file size is what a full disk looks like to the process that writes."""
    limit = 40_000  # bytes; a session takes more

    def set_limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    process = start_fetch(server.url, tmp_path / "data", preexec_fn=set_limit, stdout=subprocess.PIPE)
    out, _ = process.communicate(timeout=60)
    failed = json.loads(out)
    assert len(failed) == 4  # each session with its reason, and no traceback
    assert all("cannot write" in line or "cannot be" in line for line in failed)
    assert list((tmp_path / "data/sessions").iterdir()) == []
    assert small_fetch.fetch_here(server.url, tmp_path / "data") == ()


def start_fetch(url, folder, quantity="mean_sweep_response", jobs=1, **options):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    arguments = [url, str(folder), quantity, str(jobs)]
    return subprocess.Popen([sys.executable, small_fetch.__file__, *arguments], env=environment, text=True, **options)


def kill_and_finish(url, folder, quantity, jobs, kills, rng, server):
    """Kill a fetch at random moments, then let it finish; return how often it was really killed."""
    killed = 0
    for _ in range(kills):
        process = start_fetch(url, folder, quantity, jobs)
        # imports take about a second: the moments are spread over what comes after
        seen = sum(server.requests.values())
        deadline = time.monotonic() + 20
        while process.poll() is None and sum(server.requests.values()) == seen and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(float(rng.uniform(0, 0.3)))
        if process.poll() is None:
            process.kill()
            killed += 1
        process.wait()
    assert small_fetch.fetch_here(url, folder, quantity, jobs) == ()
    return killed


@pytest.mark.parametrize(
    ("quantity", "jobs", "kills"),
    [
        ("mean_sweep_response", 1, 1),
        ("l0_events", 1, 1),
        pytest.param("mean_sweep_response", 1, 20, marks=pytest.mark.slow),
        pytest.param("l0_events", 1, 20, marks=pytest.mark.slow),
        pytest.param("mean_sweep_response", 2, 10, marks=pytest.mark.slow),
    ],
)
def test_killed_at_random_moments(server, tmp_path, quantity, jobs, kills):
    server.delay = 0.01
    assert small_fetch.fetch_here(server.url, tmp_path / "whole", quantity) == ()
    once = server.sent
    server.forget()
    killed = kill_and_finish(
        server.url, tmp_path / "killed", quantity, jobs, kills, np.random.default_rng(kills), server
    )
    assert killed >= kills * 0.6  # the others had finished
    assert stored(tmp_path / "killed") == stored(tmp_path / "whole")
    assert not [path for path in (tmp_path / "killed").rglob("*") if ".tmp-" in path.name or ".part" in path.name]
    # a finished session is not moved again: each kill costs at most what was under way
    assert server.sent <= once * (1 + killed / 2)
