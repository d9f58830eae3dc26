"""What issue 2 lists under "Bad input": a clear error or it just works, no half-written file, nothing finished is lost."""

from __future__ import annotations

import errno
import json
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from conftest import TOY, Cli, files, process

from mousebench.runs import check_writable
from mousebench.store import read


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return tmp_path / "results"


def no_temporary_files(folder: Path) -> bool:
    return not [path for path in files(folder) if "tmp" in path.name or path.name.startswith(".")]


# activations ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["nan", "inf", "constant"])
def test_a_bad_layer_is_left_out_with_a_note_and_the_others_count(toy: Cli, variant: str) -> None:
    bad = json.loads(toy(f"toy-bad@{variant}", "--json", "-").out)["results"][0]
    notes = bad["notes"] + [note for site in bad["sites"] for note in site["notes"]]
    assert any("layer second left out" in note for note in notes)
    assert [site["n_layers"] for site in bad["sites"]] == [1, 1, 1]
    assert {site["best_layer"] for site in bad["sites"]} <= {"first", None}
    assert all(np.isfinite(site["raw"]) for site in bad["sites"])


@pytest.mark.parametrize(
    ("variant", "said"),
    [
        ("all-nan", "no layer is left to score"),
        ("all-constant", "no layer is left to score: all are constant"),
        ("three-dims", "layer 'first' gives float64 activations of shape (24, 40, 1) for 24 images"),
        ("no-features", "shape (24, 0)"),
        ("too-few", "layer 'first' gives float64 activations of shape (23, 40) for 24 images"),
        ("text", "layer 'first' gives <U"),
        ("one-layer", "gives no activations for its layer 'second'"),
        ("no-layers", "has no layers"),
        ("raises", "KeyError: 'weights'"),
        ("cannot-load", "cannot be loaded: OSError: no such weights"),
        ("exit", "cannot be loaded: SystemExit: 0"),
        ("string", "str is neither a torch.nn.Module nor a Model"),
    ],
)
def test_a_bad_model_is_an_error_that_names_it_and_stores_nothing(
    toy: Cli, results: Path, home: Path, variant: str, said: str
) -> None:
    done = toy(f"toy-bad@{variant}")
    assert done.code == 2
    assert done.err.count("error:") == 1
    assert said in done.err
    assert "toy-bad" in done.err
    assert "Traceback" not in done.err
    assert files(results) == []
    assert no_temporary_files(home) if home.exists() else True


def test_what_a_model_prints_is_no_result(toy: Cli) -> None:
    done = toy("toy-bad@prints", "--json", "-")
    assert json.loads(done.out)["results"]
    assert "the model says hello" in done.err


def test_a_model_that_cannot_be_hashed_is_scored_and_not_kept(toy: Cli, home: Path, calls) -> None:
    for _ in range(2):
        done = toy("toy-bad@unknown-key")
        assert done.code == 0
        assert "not cached" in done.err
        assert "score A,B,C" in calls()
    assert not (home / "representations").exists()


# benchmarks and metrics -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("benchmark", "said"),
    [
        ("toy@same-ids", "stimulus_id 4 occurs more than once"),
        ("toy@other-ids", "the target's stimuli are not the benchmark's: 1 missing (first 0), 1 unknown (first 24)"),
        ("toy@no-stimuli", "ValueError: the disk is made of cheese"),
        ("toy@no-target", "KeyError: 'site'"),
        ("toy@same-images", "no layer is left to score: all are constant"),
    ],
)
def test_a_bad_benchmark_is_an_error_that_names_it(toy: Cli, results: Path, benchmark: str, said: str) -> None:
    done = toy("toy-a,toy-b", benchmark=benchmark)
    assert done.code == 2
    assert said in done.err
    assert benchmark in done.err
    assert files(results) == []
    if benchmark != "toy@same-images":  # one error, not one for each model
        assert done.err.count("error:") == 1


@pytest.mark.parametrize(
    ("metric", "said"),
    [
        ("each@raises", "ZeroDivisionError: nothing to divide by"),
        ("each@no-ceiling", "ZeroDivisionError: nothing to divide by"),
        ("each@no-raw", "score gives no Dataset with 'raw'"),
        ("each@wrong-dims", "score gives no Dataset with 'raw'"),
    ],
)
def test_a_bad_metric_is_an_error_that_names_it(toy: Cli, results: Path, metric: str, said: str) -> None:
    done = toy("toy-a", "--metric", f"quick,{metric}")
    assert done.code == 2
    assert said in done.err
    assert metric in done.err
    assert [path.name for path in files(results)] == ["toy-a.nc"]  # the other metric's


# damaged files --------------------------------------------------------------------------------------------------------


def truncate(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flip(content: bytes) -> bytes:
    middle = content.index(b"\x3f", len(content) // 3)  # the exponent of some number
    return content[:middle] + b"\x3e" + content[middle + 1 :]


def empty(content: bytes) -> bytes:
    return b""


@pytest.mark.parametrize("harm", [truncate, flip, empty])
@pytest.mark.parametrize("which", ["result", "cache"])
def test_a_damaged_file_is_made_again_with_the_right_numbers(
    toy: Cli, results: Path, home: Path, calls, which: str, harm: Callable[[bytes], bytes]
) -> None:
    first = toy("toy-a", "--json", "-")
    calls()
    if which == "cache":
        (results / "toy/v1/quick/toy-a.nc").unlink()
    (victim,) = (results if which == "result" else home / "representations").rglob("*.nc")
    good = victim.read_bytes()
    victim.write_bytes(harm(good))
    assert victim.read_bytes() != good
    second = toy("toy-a", "--json", "-")
    assert second.code == 0
    assert second.out == first.out
    assert "again: " in second.err
    assert str(victim) in second.err
    assert "score A,B,C" in calls()
    assert victim.read_bytes() == good
    toy("toy-a")
    assert not [call for call in calls() if not call.startswith("target")]


# disks ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("NetCDF: HDF error")],
    ids=["full", "hdf"],
)
def test_a_disk_that_is_full_at_the_second_result_keeps_the_first(
    toy: Cli, results: Path, home: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    write = xr.Dataset.to_netcdf

    def full(self: xr.Dataset, path: Path, **options: object) -> None:
        if "toy-b" in str(path):
            Path(path).write_bytes(b"half")
            raise error
        write(self, path, **options)

    monkeypatch.setattr(xr.Dataset, "to_netcdf", full)
    done = toy("toy-a,toy-b")
    assert done.code == 2
    assert "error: cannot write" in done.err
    assert "hint: check the permissions of the folder and the free space of the disk" in done.err
    assert [path.name for path in files(results)] == ["toy-a.nc"]
    assert read(results / "toy/v1/quick/toy-a.nc").sizes["site"] == 3
    assert no_temporary_files(home)


def test_a_cache_that_cannot_be_written_is_no_error(toy: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MOUSEBENCH_HOME", str(tmp_path / "file" / "home"))
    done = toy("toy-a")
    assert done.code == 0
    assert "not cached: cannot write" in done.err


def test_results_that_cannot_be_written_are_an_error_before_the_work(toy: Cli, tmp_path: Path, calls) -> None:
    (tmp_path / "file").write_text("")
    done = toy("toy-a", "--results", tmp_path / "file" / "results")
    assert done.code == 2
    assert "error: cannot write" in done.err
    assert calls() == []


def test_json_that_cannot_be_written_loses_no_result(toy: Cli, results: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = toy("toy-a", "--json", tmp_path / "file" / "out.json")
    assert done.code == 2
    assert "error: cannot write" in done.err
    assert [path.name for path in files(results)] == ["toy-a.nc"]


# interruptions --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_an_interrupt_keeps_what_was_finished(
    toy: Cli, results: Path, home: Path, calls, monkeypatch: pytest.MonkeyPatch, jobs: str
) -> None:
    monkeypatch.setenv("TOY_STOP", "toy-b")
    if jobs == "2":  # the scores of the first model are ready when the second one is interrupted
        from mousebench import runs

        start, started = runs._start, []

        def slowly(*arguments: object) -> object:
            for _, _, state in started:
                if isinstance(state, runs._Pending):
                    state.scores.exception(timeout=60)
            started[:] = start(*arguments)
            return started

        monkeypatch.setattr(runs, "_start", slowly)
    done = toy("toy-a,toy-b", "--jobs", jobs)
    assert done.code == 130
    assert "interrupted" in done.err
    assert "Traceback" not in done.err
    assert [path.name for path in files(results)] == ["toy-a.nc"]
    assert no_temporary_files(home)
    monkeypatch.delenv("TOY_STOP")
    calls()
    assert toy("toy-a,toy-b").code == 0
    assert "activations toy-a" not in calls()


def score(model: str, *more: str | Path, home: Path, **settings: str):
    return process("--plugin", TOY, "--home", home, "score", "--model", model, "--benchmark", "toy", *more, **settings)


def test_a_run_that_was_killed_can_be_run_again(toy: Cli, tmp_path: Path, home: Path, results: Path) -> None:
    log = tmp_path / "log"
    killed = score("toy-a,toy-b", "--results", results, home=home, TOY_SLEEP="toy-b", TOY_LOG=str(log))
    deadline = time.monotonic() + 60
    while "activations toy-b" not in (log.read_text() if log.exists() else "") and time.monotonic() < deadline:
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    assert [path.name for path in files(results, "*.nc")] == ["toy-a.nc"]
    again = toy("toy-a,toy-b", "--json", "-")
    assert again.code == 0, again.err
    assert len(json.loads(again.out)["results"]) == 2
    assert "1 of them from before" in again.err


def test_two_runs_at_once_on_one_home(tmp_path: Path, home: Path, results: Path) -> None:
    barrier = tmp_path / "barrier"
    barrier.mkdir()
    both = [
        score("toy-a", "--site", part, "--results", results, "--json", "-", home=home, TOY_BARRIER=str(barrier))
        for part in ("A,B", "A,C")
    ]
    outputs = [run.communicate(timeout=60) for run in both]
    assert [run.returncode for run in both] == [0, 0], outputs
    assert len(list(barrier.iterdir())) == 2
    first, other = (json.loads(out)["results"][0]["sites"] for out, _ in outputs)
    assert [[row["site"] for row in rows] for rows in (first, other)] == [["A", "B"], ["A", "C"]]
    assert first[0] == other[0]
    assert [path.name for path in files(results)] == ["toy-a.nc"]
    assert no_temporary_files(home)
    kept = read(results / "toy/v1/quick/toy-a.nc")
    assert kept["site"].values.tolist() == ["A", "B", "C"]


def test_runs_that_begin_at_once_do_not_disturb_each_other(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(check_writable, [tmp_path / "results"] * 200))  # raises what any of them raised
    assert files(tmp_path) == []
