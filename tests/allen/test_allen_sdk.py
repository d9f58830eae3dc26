"""Opt-in: AllenSDK itself opens our files (``-m allensdk``); one session of the real bucket (``-m network``)."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from allen import allen_files
from mousebench_plugins.benchmarks.allen_ns import compare
from mousebench_plugins.benchmarks.allen_ns.benchmark import TwoPhoton

SCRIPT = Path(__file__).parents[2] / "tools/check_against_allensdk.py"


def run_allensdk(*arguments):
    uv = shutil.which("uv") or str(Path(sys.executable).with_name("uv"))
    done = subprocess.run([uv, "run", "--script", str(SCRIPT), *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.allensdk
@pytest.mark.parametrize("computes", [True, False], ids=["AllenSDK computes and writes", "we write"])
def test_allensdk_reads_the_same(tmp_path, computes):
    session = allen_files.Session(id=501559087, n_cells=4, n_reliable=2, repeats=5, with_traces=True)
    nwb, analysis, out = tmp_path / "s.nwb", tmp_path / "a.h5", tmp_path / "sdk.npz"
    allen_files.write_nwb(nwb, session, unsorted=computes)
    if not computes:
        allen_files.write_analysis(analysis, session, n_blocks=2)
    run_allensdk(nwb, analysis, out, *["--compute"] * computes)
    with np.load(out) as sdk:
        rows = compare.compare(nwb, analysis, dict(sdk))
        assert str(sdk["route"]) == ("from_analysis_file" if computes else "read_hdf")
    planted = [] if computes else ["response, recomputed from traces"]  # ours are not made from the traces
    assert [row.name for row in rows if not row.agrees] == planted
    assert len(rows) == 18


@pytest.mark.network
def test_a_real_session():
    facts = dict(TwoPhoton("allen-ns").probe())
    assert [name for name, value in facts.items() if value.startswith("failed")] == []
