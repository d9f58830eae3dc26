"""The leaderboard's work on a dask cluster: a real scheduler and two workers, of which one is killed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Environment

from mousebench.crew import orders, work_on_cluster
from mousebench.errors import UsageError
from mousebench.matrix import Unit

pytest.importorskip("distributed")
pytestmark = pytest.mark.slow

TESTS = Path(__file__).parent
PLUGIN = """
    import os, time
    from functools import partial
    from pathlib import Path
    from mousebench import Spec, hookimpl
    import toy

    mousebench_benchmarks, mousebench_metrics = toy.mousebench_benchmarks, toy.mousebench_metrics

    def load(name):
        (Path(os.environ["SEEN"]) / f"{name}-{os.getppid()}").touch()  # the parent is the worker
        time.sleep(3)
        return toy.Projections(name)

    @hookimpl
    def mousebench_models():
        for number in range(6):
            yield Spec(f"toy-{number}", load=partial(load, f"toy-{number}"))
        yield Spec("dies", load=partial(os.kill, os.getpid(), 9))
"""


@pytest.fixture
def cluster(environment: Environment, tmp_path: Path) -> Iterator[tuple[str, list[subprocess.Popen[str]]]]:
    """Start a scheduler and two workers; give its address and the workers."""
    environment.install("my-dist", "toys", PLUGIN)
    (tmp_path / "seen").mkdir()
    settings = {
        **os.environ,
        "PYTHONPATH": f"{environment.folder}:{TESTS}",
        "SEEN": str(tmp_path / "seen"),
        "OMP_NUM_THREADS": "1",
    }
    started: list[subprocess.Popen[str]] = []

    def start(*command: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "dask", *command], stderr=subprocess.PIPE, text=True, env=settings, cwd=tmp_path
        )
        started.append(process)
        return process

    try:
        scheduler = start("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--no-show")
        assert scheduler.stderr is not None
        address = next(
            found[0] for line in scheduler.stderr if (found := re.search(r"tcp://127\.0\.0\.1:\d+", line)) is not None
        )
        workers = [
            start("worker", address, "--host", "127.0.0.1", "--no-nanny", "--nthreads", "1", "--no-dashboard")
            for _ in range(2)
        ]
        for process in started:  # a pipe that nobody reads fills up
            threading.Thread(target=process.communicate, daemon=True).start()
        yield address, workers
    finally:
        for process in started:
            process.kill()
            process.wait()


def test_the_work_of_a_worker_that_is_killed_goes_to_the_other(
    cluster: tuple[str, list[subprocess.Popen[str]]], tmp_path: Path
) -> None:
    address, workers = cluster
    names = [*(f"toy-{number}" for number in range(6)), "dies"]
    units = [Unit(name, "toy", ("quick",), None, False) for name in names]
    given = orders(tmp_path / "results", "cpu", ())

    def kill_the_first_in_the_middle_of_its_work() -> None:
        until = time.monotonic() + 120
        while time.monotonic() < until:
            if list((tmp_path / "seen").glob(f"*-{workers[0].pid}")):
                workers[0].kill()
                return
            time.sleep(0.05)

    killer = threading.Thread(target=kill_the_first_in_the_middle_of_its_work)
    killer.start()
    reports = {report.unit.model: report for report in work_on_cluster(units, given, address)}
    killer.join()
    assert workers[0].wait(10) == -9
    assert {name for name, report in reports.items() if report.error} == {"dies"}
    assert "SIGKILL" in reports["dies"].error
    stored = {path.stem for path in (tmp_path / "results").rglob("*.nc")}
    assert stored == set(names) - {"dies"}


def test_no_scheduler_is_an_error_with_a_hint(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no dask scheduler answers"):
        list(work_on_cluster([Unit("a", "b", ("c",), None, False)], orders(tmp_path, "cpu", ()), "tcp://127.0.0.1:9"))
