from __future__ import annotations

import errno
import hashlib
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from conftest import Cli, files

from mousebench.errors import ContractViolation, MissingData, StoreError
from mousebench.fetching import SUMS, FetchReport, fetch_files, read_sums, read_verified

FILES = {"a.txt": b"content of a", "deep/b.txt": b"content of b" * 1000, "deep/c.txt": b"content of c"}
HTML = b"<!DOCTYPE html><html>please log in</html>"


def check(name: str, content: bytes) -> None:
    if not content.startswith(b"content"):
        raise ContractViolation(f"{name} is not what it should be")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "target"


def fetch(source: object, target: Path, **options: bool) -> FetchReport:
    return fetch_files("bench", str(source), list(FILES), target, check=check, **options)


class Server:
    """A web server on this machine, with faults: a list for each file, one used up by each request."""

    def __init__(self) -> None:
        self.faults: dict[str, list[str]] = {}
        self.requests: list[str] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                name = self.path.removeprefix("/data/")
                server.requests.append(name)
                left = server.faults.get(name, [])
                fault = left.pop(0) if left else ""
                content = HTML if fault == "html" else FILES.get(name)
                if content is None or fault.isdecimal():
                    self.send_error(int(fault or 404))
                    return
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content[: len(content) // 2] if fault == "cut" else content)
                if fault == "cut":
                    self.close_connection = True

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/data"


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.http.shutdown()
    thread.join()
    server.http.server_close()


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("urllib3.util.retry.Retry.sleep", lambda self, response=None: None)


def whole(target: Path) -> bool:
    return all((target / name).read_bytes() == content for name, content in FILES.items())


@pytest.mark.parametrize("kind", ["folder", "url", "url with a slash"])
def test_files_come_whole_with_their_checksums(kind: str, source: Path, target: Path, server: Server) -> None:
    where = {"folder": source, "url": server.url, "url with a slash": server.url + "/"}[kind]
    report = fetch(where, target)
    assert whole(target)
    assert [str(path) for path in files(target)] == sorted([SUMS, *FILES])
    size = sum(map(len, FILES.values()))
    assert (report.moved_bytes, report.stored_bytes, report.failed) == (size, size, ())
    assert read_sums(target) == {name: hashlib.sha256(content).hexdigest() for name, content in FILES.items()}


def test_checksums_are_in_the_form_of_sha256sum(source: Path, target: Path) -> None:
    fetch(source, target)
    first = (target / SUMS).read_text().splitlines()[0]
    assert first == f"{hashlib.sha256(FILES['a.txt']).hexdigest()}  a.txt"


def test_what_is_there_is_not_moved_again(target: Path, server: Server) -> None:
    fetch(server.url, target)
    server.requests.clear()
    report = fetch(server.url, target)
    assert server.requests == []
    assert report.moved_bytes == 0
    assert "3 already there, 0 to fetch" in report.lines[0]


@pytest.mark.parametrize("harm", ["gone", "changed", "empty"])
def test_what_is_gone_or_changed_is_fetched_again_alone(harm: str, target: Path, server: Server) -> None:
    fetch(server.url, target)
    server.requests.clear()
    victim = target / "deep" / "b.txt"
    victim.unlink()
    if harm != "gone":
        victim.write_bytes(b"" if harm == "empty" else b"content of somebody else")
    fetch(server.url, target)
    assert server.requests == ["deep/b.txt"]
    assert whole(target)


def test_a_dry_run_moves_nothing(source: Path, target: Path, server: Server) -> None:
    for where in (source, server.url):
        report = fetch(where, target, dry_run=True)
        assert report.moved_bytes == 0
        assert "3 to fetch" in report.lines[0]
        assert not target.exists()
    assert server.requests == []


@pytest.mark.parametrize("faults", [["503"], ["500", "502"], ["429"], ["cut"], ["cut", "503", "cut"]])
def test_faults_that_pass_are_tried_again(faults: list[str], target: Path, server: Server) -> None:
    server.faults["deep/b.txt"] = list(faults)
    fetch(server.url, target)
    assert whole(target)
    assert server.requests.count("deep/b.txt") == len(faults) + 1


@pytest.mark.parametrize("faults", [["404"], ["403"], ["503"] * 50, ["cut"] * 50])
def test_faults_that_stay_are_errors_that_name_the_file(faults: list[str], target: Path, server: Server) -> None:
    server.faults["deep/b.txt"] = list(faults)
    with pytest.raises(MissingData, match=r"/data/deep/b.txt cannot be fetched") as caught:
        fetch(server.url, target)
    assert "goes on where it stopped" in caught.value.hint
    # what came before is kept, nothing is half there, and the next try moves the rest only
    assert [str(path) for path in files(target)] == [SUMS, "a.txt"]
    server.faults.clear()
    server.requests.clear()
    fetch(server.url, target)
    assert server.requests == ["deep/b.txt", "deep/c.txt"]
    assert whole(target)


def test_a_page_with_status_200_is_not_taken_for_the_file(target: Path, server: Server) -> None:
    server.faults["a.txt"] = ["html"]
    with pytest.raises(ContractViolation, match=r"a.txt is not what it should be"):
        fetch(server.url, target)
    assert files(target) == []


def test_an_interrupted_fetch_goes_on_where_it_stopped(target: Path, server: Server) -> None:
    def interrupted(name: str, content: bytes) -> None:
        if name == "deep/b.txt":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch_files("bench", server.url, list(FILES), target, check=interrupted)
    assert [str(path) for path in files(target)] == [SUMS, "a.txt"]
    server.requests.clear()
    fetch(server.url, target)
    assert server.requests == ["deep/b.txt", "deep/c.txt"]


def test_a_server_that_is_not_there_is_an_error(target: Path, server: Server) -> None:
    url = server.url.replace(server.url.split(":")[2], "9/data")
    with pytest.raises(MissingData, match="cannot be fetched"):
        fetch(url, target)


def test_offline_uses_no_network_but_folders(
    source: Path, target: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOUSEBENCH_OFFLINE", "1")
    with pytest.raises(MissingData, match="is on the network, and --offline is set"):
        fetch(server.url, target)
    assert server.requests == []
    fetch(source, target)
    assert whole(target)


def test_a_folder_that_lacks_a_file_or_is_none(source: Path, target: Path) -> None:
    (source / "deep" / "c.txt").unlink()
    with pytest.raises(MissingData, match=r"c.txt cannot be read: No such file"):
        fetch(source, target)
    with pytest.raises(MissingData, match="is not a folder") as caught:
        fetch(source / "nowhere", target)
    assert "--from" in caught.value.hint


def test_a_target_that_cannot_be_written_is_a_clear_error(source: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StoreError, match="cannot write") as caught:
        fetch(source, tmp_path / "file" / "target")
    assert "permissions" in caught.value.hint


def test_a_full_disk_is_a_clear_error_and_leaves_no_half_file(
    source: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write: Callable[[Path, bytes], int] = Path.write_bytes

    def full(path: Path, content: bytes) -> int:
        if len(content) > 1000:
            write(path, content[:100])
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(StoreError, match=r"cannot write .*b.txt: No space left on device") as caught:
        fetch(source, target)
    assert "free space" in caught.value.hint
    assert [str(path) for path in files(target)] == [SUMS, "a.txt"]


def test_what_is_read_is_verified(source: Path, target: Path) -> None:
    fetch(source, target)
    sums = read_sums(target)
    assert read_verified(target, "a.txt", sums, "fetch it") == FILES["a.txt"]
    (target / "a.txt").write_bytes(b"content of A")
    with pytest.raises(StoreError, match=r"a.txt is not what was fetched: its sha256 differs") as caught:
        read_verified(target, "a.txt", sums, "fetch it")
    assert caught.value.hint.startswith("fetch it")
    (target / "a.txt").unlink()
    with pytest.raises(MissingData, match="is not there"):
        read_verified(target, "a.txt", sums, "fetch it")
    with pytest.raises(MissingData, match="is not there"):
        read_verified(target, "d.txt", sums, "fetch it")


@pytest.mark.parametrize("content", ["no two columns\n", "", "\n\n", "x\x00\xff"])
def test_a_damaged_list_of_checksums_is_mended_by_fetching(source: Path, target: Path, content: str) -> None:
    fetch(source, target)
    (target / SUMS).write_text(content, encoding="latin-1")
    fetch(source, target)
    assert set(read_sums(target)) == set(FILES)


def test_a_benchmark_that_makes_its_data_has_nothing_to_fetch(cli: Cli) -> None:
    done = cli("fetch", "sim-ns")
    assert (done.code, done.err) == (0, "")
    assert "nothing to fetch" in done.out
