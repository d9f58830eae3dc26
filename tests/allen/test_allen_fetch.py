"""Fetching: from a folder, over HTTP, from an S3 server; plans, resume, the ledger."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from allen import allen_files
from allen.allen_files import sessions, stored
from mousebench import assemblies
from mousebench.errors import MissingData, StoreError, UnknownIdentifier
from mousebench_plugins.benchmarks.allen_ns import ledger


class Recorder:
    """A progress that remembers."""

    def __init__(self):
        self.total, self.amount, self.finished = None, 0, False

    def start(self, description, total, unit=""):
        self.total = total

    def advance(self, amount):
        self.amount += amount

    def note(self, text):
        pass

    def finish(self):
        self.finished = True


@pytest.mark.parametrize("identifier", ["allen-ns", "allen-ns-events"])
def test_a_folder_gives_the_planted_responses(fetch, cache, identifier):
    benchmark, report = fetch(cache, identifier)
    assert not report.failed
    assert benchmark.held()["VISp.L23"] == (2, 2)
    target = benchmark.target("VISp.L23")
    first, second = sessions()[:2]
    assert set(target["neuroid_id"].values) == {*first.cell_ids[:3], *second.cell_ids[:2]}
    assert set(target["animal_id"].values) == {"11", "12"}
    for column, neuroid in enumerate(target["neuroid_id"].values):
        session = first if neuroid in first.cell_ids else second
        cell = session.cell_ids.tolist().index(neuroid)
        planted = session.responses if identifier == "allen-ns" else np.maximum(session.responses, 0)
        rows = target["stimulus_id"].values == 17
        np.testing.assert_allclose(target.values[rows, column], planted[session.frame == 17, cell], rtol=1e-6)


def test_the_range_reader_moves_a_part_and_gives_the_same_bytes(fetch, cache, server, tmp_path):
    _, local = fetch(cache, folder=tmp_path / "local")
    benchmark, report = fetch(server.url, folder=tmp_path / "remote")
    assert not report.failed
    assert report.moved_bytes == pytest.approx(server.sent, abs=2000)
    whole = sum(path.stat().st_size for path in cache.rglob("*.*") if path.suffix in (".nwb", ".h5"))
    assert server.sent < 0.25 * whole
    for path in sorted((tmp_path / "local/sessions").glob("*.nc")):
        here, there = assemblies.load(path), assemblies.load(tmp_path / "remote/sessions" / path.name)
        assert here.drop_attrs().identical(there.drop_attrs())
    assert local.stored_bytes == pytest.approx(report.stored_bytes, rel=0.01)
    assert benchmark.stimuli().dtype == np.uint8
    np.testing.assert_array_equal(benchmark.stimuli().values, allen_files.template())


def test_a_second_fetch_moves_nothing(fetch, server):
    fetch(server.url)
    server.forget()
    benchmark, report = fetch(server.url)
    assert report.moved_bytes == 0 == server.sent
    assert sum(server.requests.values()) == 0
    assert report.planned_bytes == 0
    assert "4 here, 0 to fetch" in report.lines[0]
    assert benchmark.held()["VISl.L4"] == (2, 2)


@pytest.mark.slow
def test_processes_give_the_same_bytes_as_one(fetch, server, tmp_path):
    fetch(server.url, folder=tmp_path / "one")
    _, report = fetch(server.url, folder=tmp_path / "two", jobs=2)
    assert not report.failed
    assert stored(tmp_path / "one") == stored(tmp_path / "two")


def test_dry_run_says_what_it_would_move_and_stores_nothing(fetch, server):
    benchmark, report = fetch(server.url, "allen-ns-events", dry_run=True)
    assert not benchmark.folder.exists()
    assert report.stored_bytes == 0
    assert "4 sessions of 21 sites, 0 here, 4 to fetch" in report.lines[0]
    _, done = fetch(server.url, "allen-ns-events")
    assert report.planned_bytes > sum(path.stat().st_size for path in server_files(server, "ophys_experiment_events"))
    assert done.moved_bytes < 1.2 * report.planned_bytes


def server_files(server, folder):
    return list((server.root / folder).iterdir())


def test_only_the_sites_asked_for_are_fetched(fetch, server):
    benchmark, report = fetch(server.url, sites=["VISp.L23"])
    assert "2 to fetch" in report.lines[0]
    assert benchmark.held()["VISp.L23"] == (2, 2)
    assert benchmark.held()["VISl.L4"] == (0, 2)
    with pytest.raises(MissingData) as raised:
        benchmark.target("VISl.L4")
    assert raised.value.hint == "mousebench fetch allen-ns --site VISl.L4"


def test_an_unknown_site_is_named(fetch, server):
    with pytest.raises(UnknownIdentifier, match=r"'VISp\.L7'"):
        fetch(server.url, sites=["VISp.L7"])


def test_nothing_is_loaded_that_was_not_fetched(make):
    benchmark = make()
    for call in (benchmark.stimuli, lambda: benchmark.target("VISp.L23"), benchmark.held):
        with pytest.raises(MissingData) as raised:
            call()
        assert raised.value.hint.startswith("mousebench fetch allen-ns")


def test_progress_ends_at_its_total(fetch, cache):
    progress = Recorder()
    fetch(cache, progress=progress)
    assert progress.finished
    assert progress.amount == pytest.approx(progress.total)


def test_the_ledger_keeps_sizes_and_checksums(fetch, server):
    benchmark, _ = fetch(server.url)
    entry = ledger.read(benchmark.folder)["501000001"]
    path = benchmark.folder / "sessions/501000001.nc"
    assert entry["status"] == "done"
    assert entry["sha256"] == ledger.sha256(path)
    assert entry["stored"] == path.stat().st_size
    files = json.loads(entry["files"])
    assert files[0]["etag"].endswith('-25"')
    assert (
        files[1]["size"]
        == (server.root / "ophys_experiment_analysis/501000001_three_session_B_analysis.h5").stat().st_size
    )


def test_a_damaged_session_is_fetched_again(fetch, server):
    benchmark, _ = fetch(server.url)
    path = benchmark.folder / "sessions/501000002.nc"
    good = path.read_bytes()
    path.write_bytes(good[:-100] + bytes(100))
    server.forget()
    _, report = fetch(server.url)
    assert "1 to fetch" in report.lines[0]
    assert path.read_bytes() == good


def test_a_damaged_session_is_not_loaded(fetch, server):
    benchmark, _ = fetch(server.url)
    for path in (benchmark.folder / "sites").glob("*"):
        path.unlink()
    path = benchmark.folder / "sessions/501000002.nc"
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(StoreError, match=r"501000002\.nc"):
        benchmark.target("VISp.L23")


def test_a_file_that_the_ledger_missed_is_taken_into_it(fetch, server):
    benchmark, _ = fetch(server.url)
    (benchmark.folder / ledger.NAME).write_text('{"item": "501000001", "sta')
    server.forget()
    _, report = fetch(server.url)
    assert report.moved_bytes == 0
    assert len(ledger.read(benchmark.folder)) == 4


def test_events_share_the_scenes(fetch, server):
    fetch(server.url)
    server.forget()
    benchmark, report = fetch(server.url, "allen-ns-events")
    assert not report.failed
    assert benchmark.stimuli().shape == (118, *allen_files.SCENE_SHAPE)
    assert (benchmark.folder / "scenes.nc").stat().st_ino == (
        benchmark.folder.parent.parent / "allen-ns/v1/scenes.nc"
    ).stat().st_ino


def test_events_that_the_bucket_lacks_come_from_the_api(fetch, cache, tmp_path):
    from allen.allen_server import serve
    from mousebench_plugins.benchmarks.allen_ns.remote import Settings

    folder = tmp_path / "bucket"
    session = sessions()[0]
    allen_files.write_cache(folder, [session])
    allen_files.write_events(folder / "api/v2/well_known_file_download/77", session)
    (folder / "api/v2/well_known_file_download/77.npz").rename(folder / "api/v2/well_known_file_download/77")
    with serve(folder) as server:
        query = (
            "/api/v2/data/query.json?q=model::WellKnownFile,rma::criteria,"
            f"[attachable_id$eq{session.id}],well_known_file_type[name$eqObservatoryEventsFile]"
        )
        server.answers[query] = json.dumps({"msg": [{"download_link": "/api/v2/well_known_file_download/77"}]}).encode()
        settings = Settings(attempts=2, backoff=0.01, api=server.url)
        benchmark, report = fetch(server.url, "allen-ns-events", settings=settings)
        assert not report.failed
        assert benchmark.target("VISp.L23").sizes["neuroid"] == 3
        _, report = fetch(
            server.url, "allen-ns-events", settings=Settings(attempts=2, backoff=0.01, api="http://127.0.0.1:9")
        )
        assert not report.failed


def test_a_folder_that_holds_some_sessions_is_enough(fetch, tmp_path):
    folder = allen_files.write_cache(tmp_path / "cache", sessions())
    (folder / "ophys_experiment_data/501000002.nwb").unlink()
    benchmark, report = fetch(folder)
    assert not report.failed
    assert "1 sessions are not in that folder" in report.lines
    assert "holds 3 of 4 sessions of 21 sites" in report.lines
    assert benchmark.counts("VISp.L23")["sessions"] == 1
    assert benchmark.counts("VISp.L23")["expected"] == 2
    assert json.loads(benchmark.target("VISp.L23").attrs["notes"]) == ["1 of 2 sessions are held"]


def test_the_places_of_a_manifest_are_used(fetch, tmp_path):
    folder = allen_files.write_cache(tmp_path / "cache", sessions()[:1])
    (folder / "ophys_experiment_data").rename(folder / "sessions_here")
    entry = {"key": "EXPERIMENT_DATA", "type": "file", "spec": "sessions_here/%d.nwb", "parent_key": "BASEDIR"}
    analysis = {"key": "ANALYSIS_DATA", "spec": "ophys_experiment_analysis/%d_%s_analysis.h5", "parent_key": "BASEDIR"}
    (folder / "manifest.json").write_text(json.dumps({"manifest": [{"key": "BASEDIR", "spec": "."}, entry, analysis]}))
    _, report = fetch(folder)
    assert not report.failed
    assert "holds 1 of 1 sessions of 21 sites" in report.lines


def test_containers_and_cre_lines_are_filtered_and_counted(fetch, tmp_path):
    kept = sessions()[:1]
    folder = allen_files.write_cache(tmp_path / "cache", kept)
    records = json.loads((folder / "ophys_experiments.json").read_text())
    for number, change in enumerate(
        (
            {"experiment_container": {"failed": True}},
            {"experiment_container_id": 511510998},
            {"stimulus_name": "three_session_A"},
        )
    ):
        records.append({**kept[0].record(), "id": 601000000 + number, **change})
    inhibitory = allen_files.Session(id=601000009, cre="Sst-IRES-Cre").record()
    (folder / "ophys_experiments.json").write_text(json.dumps([*records, inhibitory]))
    _, report = fetch(folder)
    line = next(line for line in report.lines if line.startswith("not used"))
    assert line == "not used: 1 container on the published list of bad ones, 1 failed container, 1 inhibitory cre line"


def test_a_folder_that_is_not_there(fetch, tmp_path):
    with pytest.raises(StoreError, match="is not a folder"):
        fetch(tmp_path / "nowhere")


def test_s3_server(fetch, cache, tmp_path, monkeypatch):
    """The bucket as moto's S3 serves it: real ETags, ranges and conditions."""
    boto3 = pytest.importorskip("boto3")
    from moto.server import ThreadedMotoServer

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    try:
        host, port = moto.get_host_and_port()
        s3 = boto3.client("s3", endpoint_url=f"http://{host}:{port}", region_name="us-west-2")
        s3.create_bucket(
            Bucket="allen-brain-observatory",
            CreateBucketConfiguration={"LocationConstraint": "us-west-2"},
            ACL="public-read",
        )
        for path in sorted(cache.rglob("*")):
            if path.is_file():
                key = f"visual-coding-2p/{path.relative_to(cache).as_posix()}"
                s3.upload_file(str(path), "allen-brain-observatory", key, ExtraArgs={"ACL": "public-read"})
        for identifier in ("allen-ns", "allen-ns-events"):
            url = f"http://{host}:{port}/allen-brain-observatory/visual-coding-2p"
            benchmark, report = fetch(url, identifier, folder=tmp_path / "s3" / identifier)
            assert not report.failed
            local, _ = fetch(cache, identifier, folder=tmp_path / "local" / identifier)
            np.testing.assert_array_equal(benchmark.target("VISl.L4").values, local.target("VISl.L4").values)
    finally:
        moto.stop()


def test_the_plugin_module_is_light():
    code = (
        "import sys, mousebench_plugins.benchmarks.allen_ns as p; list(p.mousebench_benchmarks());"
        "print([m for m in ('numpy', 'xarray', 'h5py', 'requests', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
