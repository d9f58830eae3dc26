"""What doctor says of this machine and of a session."""

from __future__ import annotations

import pytest

from allen import allen_files, allen_server
from allen.allen_files import Session
from mousebench import doctor
from mousebench.errors import MissingData
from mousebench_plugins.benchmarks.allen_ns import probe
from mousebench_plugins.benchmarks.allen_ns.source import Bucket, Folder, open_source


def test_local_rows(fetch, cache, tmp_path):
    before = dict(doctor.report())
    assert before["home"] == str(tmp_path / "home")
    assert "not installed" not in (before["numpy"], before["h5py"])
    assert not [name for name in before if name.startswith("data: ")]
    fetch(cache)
    after = dict(doctor.report())
    # four sessions, two sites, the scenes, the table and the ledger
    assert after["data: allen-ns v1"].startswith("9 files")


def test_offline_asks_nobody(monkeypatch):
    monkeypatch.setenv("MOUSEBENCH_OFFLINE", "1")
    assert doctor.report(remote=True)[-1] == ("allen-ns: remote", "not probed: --offline is set")
    with pytest.raises(MissingData, match="--offline is set"):
        open_source("https://example.org", allen_server.QUICK)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    sessions = [
        Session(id=probe.EXPERIMENT, n_cells=4, repeats=50, with_traces=True),
        Session(id=501000002, area="VISl", depth=275),
    ]
    return allen_files.write_cache(tmp_path_factory.mktemp("probe"), sessions)


def test_the_facts_of_a_session(folder):
    with allen_server.serve(folder) as server:
        facts = dict(probe.probe(Bucket(server.url, allen_server.QUICK)))
        assert facts["experiments of session B"] == "2, 2 in passing containers"
        assert facts["sessions by site"] == "VISp.L23 1, VISl.L4 1"
        assert facts["presentations"] == "5950, frames -1..117"
        assert facts["blanks"] == "50 with code -1; 0 occurs 50 times"
        assert facts["end - start"] == "{7: 5950}"
        assert facts["row labels"] == "5950, 0..n-1 in order"
        assert facts["block 0"].startswith("float64 (5950, 5), chunks None")
        assert facts["text of the depth, of the genotype"] == "'175 microns', 'Cux2-CreERT2/wt;Camk2a-tTA/wt'"
        events = next(name for name in facts if name.endswith("_events.npz"))
        assert "does not exist" in facts[events]
        assert "requests" in facts["traces: moved"]
        hashes = [value for name, value in facts.items() if name.startswith("three scenes")]
        assert len(set(hashes)) == 1
        assert len(hashes) == 2


def test_a_part_that_fails_does_not_stop_the_others(folder):
    with allen_server.serve(folder) as server:
        server.faults = allen_server.Faults(missing=True, only="analysis")
        facts = dict(probe.probe(Bucket(server.url, allen_server.QUICK)))
        assert facts["analysis file"].startswith("failed: ")
        assert facts["traces"].startswith("failed: ")
        assert "presentations" in facts
    assert dict(probe.probe(Folder(str(folder))))["demixed signal"] == "there"
