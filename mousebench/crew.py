"""Do the work of a leaderboard: each model in a process of its own, here or on the workers of a dask cluster.

A unit of work is one run of ``mousebench score``. Whatever becomes of it (a crash, no memory, an exit), the others go on, and what is
finished is stored.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mousebench.errors import MissingDependency, UsageError
from mousebench.matrix import SEED, Unit

_TAIL = 20_000  # characters of what a process says that are kept
_GRACE = 10.0  # seconds to finish in after Ctrl-C
_ALSO = ("MOUSEBENCH_HOME", "MOUSEBENCH_OFFLINE", "MOUSEBENCH_REGISTRY")


@dataclass(frozen=True)
class Orders:
    """What all units share.

    Attributes
    ----------
    results : Path
    device : str
    plugin_files : tuple of str
    environment : mapping of str to str
        Set for every process, whatever machine it runs on.
    """

    results: Path
    device: str = "auto"
    plugin_files: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """What became of a unit: "" or what went wrong, with what to do about it."""

    unit: Unit
    error: str
    hint: str
    seconds: float


def orders(results: Path, device: str, plugin_files: Sequence[str]) -> Orders:
    """Return orders with absolute paths and the settings of this process."""
    settings = {name: os.environ[name] for name in _ALSO if os.environ.get(name)}
    if settings.get("MOUSEBENCH_REGISTRY"):
        settings["MOUSEBENCH_REGISTRY"] = str(Path(settings["MOUSEBENCH_REGISTRY"]).resolve())
    return Orders(results.resolve(), device, tuple(str(Path(file).resolve()) for file in plugin_files), settings)


def work_here(units: Sequence[Unit], given: Orders, jobs: int) -> Iterator[Report]:
    """Run units in processes, ``jobs`` at a time, and yield what became of them as they end.

    Ctrl-C reaches the processes as well; they store what they have finished.
    """
    if jobs > 1 and "OMP_NUM_THREADS" not in os.environ:
        threads = str(max(1, (os.cpu_count() or 1) // jobs))
        given = Orders(
            given.results, given.device, given.plugin_files, {**given.environment, "OMP_NUM_THREADS": threads}
        )
    running: list[subprocess.Popen[bytes]] = []
    pool = ThreadPoolExecutor(jobs)
    try:
        waiting = {pool.submit(run_unit, unit, given, running) for unit in units}
        while waiting:
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            yield from sorted((future.result() for future in done), key=lambda report: str(report.unit))
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        _stop(running)
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _stop(running: Sequence[subprocess.Popen[bytes]]) -> None:
    """Let processes end by themselves for a while, then end them."""
    until = time.monotonic() + _GRACE
    for process in running:
        try:
            process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()


def run_unit(unit: Unit, given: Orders, running: list[subprocess.Popen[bytes]] | None = None) -> Report:
    """Score one model on one benchmark in a process of its own."""
    start = time.monotonic()
    command = [sys.executable, "-m", "mousebench"]
    for file in given.plugin_files:
        command += ["--plugin", file]
    command += ["score", "--model", unit.model, "--benchmark", unit.benchmark, "--metric", ",".join(unit.metrics)]
    command += ["--seed", str(SEED), "--device", given.device, "--results", str(given.results)]
    if unit.sites is not None:
        command += ["--site", ",".join(unit.sites)]
    if unit.force:
        command.append("--force")
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=said,
            env={**os.environ, **given.environment},
        )
        if running is not None:
            running.append(process)
        code = process.wait()
        if running is not None:
            running.remove(process)
        said.seek(max(0, said.seek(0, os.SEEK_END) - _TAIL))
        error, hint = _what_went_wrong(code, said.read().decode(errors="replace"))
    return Report(unit, error, hint, time.monotonic() - start)


def _what_went_wrong(code: int, said: str) -> tuple[str, str]:
    """Return error and hint from the exit code and stderr of a process."""
    if code == 0:
        return "", ""
    lines = said.splitlines()
    errors = list(dict.fromkeys(line.removeprefix("error: ") for line in lines if line.startswith("error: ")))
    hints = list(dict.fromkeys(line.removeprefix("hint: ") for line in lines if line.startswith("hint: ")))
    if code == 2 and errors:
        return "; ".join(errors), "; ".join(hints)
    if code < 0:
        name = signal.Signals(-code).name if -code in list(signal.Signals) else str(-code)
        return f"its process was ended by {name}", "out of memory?" if name == "SIGKILL" else ""
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return f"its process ended with code {code}" + (f": {last}" if last else ""), ""


def work_on_cluster(units: Sequence[Unit], given: Orders, address: str) -> Iterator[Report]:
    """Hand units to the workers of a dask scheduler, and yield what became of them as they end.

    The workers see the results and the home folder under the same paths. The work of a worker that dies goes to another.

    Raises
    ------
    MissingDependency
        If distributed is not installed.
    UsageError
        If no scheduler answers.
    """
    try:
        from distributed import Client, as_completed
    except ImportError as error:
        raise MissingDependency("--cluster needs distributed", "pip install 'mousebench[cluster]'") from error
    try:
        client = Client(address, timeout=10)
    except (OSError, ValueError, TimeoutError) as error:
        raise UsageError(f"no dask scheduler answers at {address!r}: {error}", "start one: dask scheduler") from error
    with client:
        futures: dict[Any, Unit] = {client.submit(run_unit, unit, given, pure=False): unit for unit in units}
        try:
            for future in as_completed(futures):
                yield _of_worker(future, futures[future])
        except BaseException:
            client.cancel(list(futures))
            raise


def _of_worker(future: Future[Report], unit: Unit) -> Report:
    try:
        return future.result()
    except Exception as error:  # the workers that had it died, or cannot run mousebench
        return Report(unit, f"no worker finished it: {type(error).__name__}: {' '.join(str(error).split())}", "", 0.0)
