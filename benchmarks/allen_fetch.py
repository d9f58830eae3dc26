"""What `fetch allen-ns` moves and how long it takes: one session of realistic size, and 30 sessions, interrupted.

    python benchmarks/allen_fetch.py [--sessions N]

Everything is served on 127.0.0.1: the session by a plain range server, the 30 sessions by moto's S3.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np

TESTS = Path(__file__).parents[1] / "tests"
sys.path[:0] = [str(TESTS), str(TESTS / "allen")]

import allen_files  # noqa: E402
import allen_server  # noqa: E402
from _timing import machine  # noqa: E402

from mousebench import assemblies  # noqa: E402
from mousebench_plugins.benchmarks.allen_ns.benchmark import TwoPhoton  # noqa: E402
from mousebench_plugins.benchmarks.allen_ns.remote import Settings  # noqa: E402

SAMPLES = 113_850
FETCH = """
import sys
from pathlib import Path
import allen_files
from mousebench_plugins.benchmarks.allen_ns.benchmark import TwoPhoton
if __name__ == "__main__":
    benchmark = TwoPhoton("allen-ns", folder=Path(sys.argv[2]), scene_shape=allen_files.SCENE_SHAPE)
    report = benchmark.fetch(sites=None, source=sys.argv[1], jobs=int(sys.argv[3]), dry_run=False)
    print("\\n".join(report.lines), *report.failed, sep="\\n")
    print(report.moved_bytes)
"""


def realistic_session(folder: Path, n_cells: int) -> allen_files.Session:
    """Write one session with traces, template and the pickled parts that are never read, at their real sizes."""
    session = allen_files.Session(id=501559087, n_cells=n_cells, n_reliable=n_cells // 3)
    padding = n_cells * 2 * 1_660_000  # sweep responses of scenes and gratings, 1.66 MB a cell each
    allen_files.write_cache(folder, [session], padding=padding)
    rng = np.random.default_rng(0)
    base = f"{allen_files.PIPELINE}/Fluorescence/imaging_plane_1"
    with h5py.File(folder / f"ophys_experiment_data/{session.id}.nwb", "r+") as nwb:
        for name in (
            base,
            f"{base}_demixed_signal",
            f"{base}_neuropil_response",
            f"{allen_files.PIPELINE}/DfOverF/imaging_plane_1",
        ):
            data = nwb.create_dataset(
                f"{name}/data",
                (n_cells, SAMPLES),
                np.float32,
                chunks=(1, SAMPLES),
                compression="gzip",
                compression_opts=1,
            )
            for cell in range(n_cells):
                data[cell] = rng.normal(500, 20, SAMPLES)
        del nwb["stimulus/templates/natural_scenes_image_stack/data"]
        nwb["stimulus/templates/natural_scenes_image_stack/data"] = allen_files.template((918, 1174))
    return session


def one_session(n_cells: int, delay: float) -> None:
    """Print the share of the files that the default fetch moves."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "cache"
        session = realistic_session(folder, n_cells)
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.suffix in (".nwb", ".h5"))
        with allen_server.serve(folder) as server:
            benchmark = TwoPhoton("allen-ns", folder=Path(name) / "data")
            started = time.perf_counter()
            first = benchmark.fetch(sites=None, source=server.url, jobs=1, dry_run=False)
            seconds = time.perf_counter() - started
            assert not first.failed, first.failed
            (benchmark.folder / f"sessions/{session.id}.nc").unlink()
            server.forget()
            server.delay = delay
            started = time.perf_counter()
            benchmark.fetch(sites=None, source=server.url, jobs=1, dry_run=False)
            alone = time.perf_counter() - started
            requests = sum(server.requests.values())
        stored = assemblies.load(benchmark.folder / f"sessions/{session.id}.nc")
        np.testing.assert_array_equal(stored["response"].values, session.responses.astype(np.float32))
    print(f"one session, {n_cells} cells: files {size / 1e6:.0f} MB")
    print(f"  with the scenes, once for all sessions: {first.moved_bytes / 1e6:.1f} MB moved in {seconds:.1f} s")
    print(
        f"  the session: {server.sent / 1e6:.2f} MB in {requests} requests = {100 * server.sent / size:.2f} % of its files (aim <= 5 %), "
        f"{alone:.1f} s at {1000 * delay:.0f} ms a request, assembly included; equal to what was written"
    )


def many_sessions(count: int, jobs: int) -> None:
    """Fetch sessions from an S3 server, kill the fetch half-way, and go on."""
    import boto3
    from moto.server import ThreadedMotoServer

    areas = [("VISp", 175, "Cux2-CreERT2"), ("VISp", 275, "Rorb-IRES2-Cre"), ("VISl", 175, "Cux2-CreERT2"), ("VISal", 275, "Nr5a1-Cre"), ("VISpm", 375, "Rbp4-Cre_KL100")]  # fmt: skip
    sessions = []
    for number in range(count):
        area, depth, cre = areas[number % len(areas)]
        sessions.append(
            allen_files.Session(
                id=501000000 + number, area=area, depth=depth, cre=cre, donor=number // 2, n_cells=86, n_reliable=30
            )
        )
    os.environ.update(AWS_ACCESS_KEY_ID="testing", AWS_SECRET_ACCESS_KEY="testing")
    with tempfile.TemporaryDirectory() as name:
        top = Path(name)
        cache = allen_files.write_cache(top / "cache", sessions, padding=20_000_000)
        size = sum(path.stat().st_size for path in cache.rglob("*") if path.is_file())
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        moto.start()
        try:
            host, port = moto.get_host_and_port()
            s3 = boto3.client("s3", endpoint_url=f"http://{host}:{port}", region_name="us-east-1")
            s3.create_bucket(Bucket="bucket", ACL="public-read")
            for path in sorted(cache.rglob("*")):
                if path.is_file():
                    s3.upload_file(
                        str(path), "bucket", path.relative_to(cache).as_posix(), ExtraArgs={"ACL": "public-read"}
                    )
            url = f"http://{host}:{port}/bucket"
            print(
                f"{count} sessions of {len(areas)} sites from moto's S3, {size / 1e6:.0f} MB of files, {jobs} processes"
            )
            whole = run(url, top / "whole", jobs)
            interrupted(url, top / "halved", jobs, count, whole)
        finally:
            moto.stop()
        same = all(
            path.read_bytes() == (top / "whole/sessions" / path.name).read_bytes()
            for path in (top / "halved/sessions").iterdir()
        )
        assert same
        assert len(list((top / "halved/sessions").iterdir())) == count
        print("  sessions of both fetches: the same bytes")


def start(url: str, folder: Path, jobs: int) -> subprocess.Popen[str]:
    """Start a fetch in a process of its own."""
    script = folder.with_suffix(".py")
    script.write_text(FETCH)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "NO_PROXY": "127.0.0.1"}
    return subprocess.Popen(
        [sys.executable, str(script), url, str(folder), str(jobs)], env=environment, stdout=subprocess.PIPE, text=True
    )


def run(url: str, folder: Path, jobs: int, label: str = "uninterrupted") -> int:
    """Fetch to the end and print bytes and time."""
    started = time.perf_counter()
    out, _ = start(url, folder, jobs).communicate()
    lines = out.splitlines()
    print(f"  {label}: {int(lines[-1]) / 1e6:.1f} MB moved in {time.perf_counter() - started:.1f} s; {lines[0]}")
    return int(lines[-1])


def interrupted(url: str, folder: Path, jobs: int, count: int, whole: int) -> None:
    """Kill a fetch when half of the sessions are there, and finish it."""
    process = start(url, folder, jobs)
    while process.poll() is None and len(list((folder / "sessions").glob("*.nc"))) < count // 2:
        time.sleep(0.02)
    process.kill()
    process.wait()
    ledger = folder / "ledger.jsonl"
    done = [json.loads(line) for line in ledger.read_text().splitlines()] if ledger.is_file() else []
    before = sum(entry.get("moved", 0) for entry in done)
    print(
        f"  killed (-9) with {len(list((folder / 'sessions').glob('*.nc')))} sessions there, {before / 1e6:.1f} MB noted"
    )
    rest = run(url, folder, jobs, "resumed")
    print(f"  both together: {100 * (before + rest) / whole:.1f} % of the uninterrupted bytes")


def main() -> None:
    """Run both parts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sessions", type=int, default=30)
    parser.add_argument("--cells", type=int, default=150)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--delay", type=float, default=0.08, help="seconds that each request of the session takes")
    options = parser.parse_args()
    os.environ["NO_PROXY"] = "127.0.0.1"
    print(machine(), f"block {Settings().block >> 10} KiB", sep="; ")
    one_session(options.cells, options.delay)
    many_sessions(options.sessions, options.jobs)


if __name__ == "__main__":
    main()
