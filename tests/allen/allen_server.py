"""A file server on 127.0.0.1 that serves ranges and fails on demand."""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

from mousebench_plugins.benchmarks.allen_ns.remote import Settings

QUICK = Settings(attempts=3, backoff=0.01, connect_timeout=5, read_timeout=0.5, block=1 << 16)


@dataclass
class Faults:
    """What goes wrong, for paths that contain ``only``; each kind at most ``times`` times.

    busy: 503. cut: the connection closes after that many bytes of a body. stall: seconds of silence before the body.
    changed: from that request on, the file has another ETag (412, or 200 and 206 with the new tag if ``loose``).
    ignore_range: 200 with everything. wrong_range: a Content-Range that was not asked for. html: an error page with
    status 200. missing: 404. short: the file ends that many bytes early.
    """

    only: str = ""
    busy: bool = False
    cut: int | None = None
    stall: float = 0.0
    changed: int | None = None
    loose: bool = False
    ignore_range: bool = False
    wrong_range: bool = False
    html: bool = False
    missing: bool = False
    short: int = 0
    times: int = 10**9


@dataclass
class Server:
    """A running server: its URL, the bytes of bodies it sent, and its requests by path."""

    url: str
    faults: Faults = field(default_factory=Faults)
    delay: float = 0.0
    sent: int = 0
    requests: Counter = field(default_factory=Counter)
    hits: int = 0
    root: Path = Path()
    answers: dict[str, bytes] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def forget(self) -> None:
        """Start counting anew."""
        self.sent, self.hits = 0, 0
        self.requests.clear()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: Server
    root: Path

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _fault(self, kind: str) -> bool:
        faults = self.state.faults
        if faults.only not in self.path or (kind != "cut" and not getattr(faults, kind)):
            return False
        with self.state.lock:
            self.state.hits += 1
            return self.state.hits <= faults.times

    def _answer(self, *, body: bool) -> None:
        with self.state.lock:
            self.state.requests[self.path] += 1
        if self.state.delay:
            time.sleep(self.state.delay)
        faults = self.state.faults
        path = self.root / self.path.split("?")[0].lstrip("/")
        if faults.busy and self._fault("busy"):
            self._plain(503, b"slow down", body)
            return
        if unquote(self.path) in self.state.answers:
            self._plain(200, self.state.answers[unquote(self.path)], body)
            return
        if (faults.missing and self._fault("missing")) or not path.is_file():
            self._plain(404, b"<Error>NoSuchKey</Error>", body)
            return
        if faults.html and self._fault("html"):
            self._plain(200, b"<html>please log in</html>", body, kind="text/html")
            return
        size = path.stat().st_size - (faults.short if faults.only in self.path else 0)
        tag = hashlib.md5(f"{path.name}{size}".encode()).hexdigest()
        changed = (
            faults.changed is not None and faults.only in self.path and self.state.requests[self.path] > faults.changed
        )
        etag = f'"{tag}{"-new" if changed else "-25"}"'
        wanted = self.headers.get("If-Match")
        if wanted and wanted != etag and not faults.loose:
            self._plain(412, b"", body)
            return
        self._file(path, size, etag, body=body)

    def _file(self, path: Path, size: int, etag: str, *, body: bool) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        conditional = self.headers.get("If-Range")
        if asked and (
            conditional not in (None, etag) or (self.state.faults.ignore_range and self._fault("ignore_range"))
        ):
            asked = None
        first, last = (int(asked.group(1)), min(int(asked.group(2) or size), size - 1)) if asked else (0, size - 1)
        if asked and first >= size:
            self._plain(416, b"", body)
            return
        self.send_response(206 if asked else 200)
        if asked:
            shift = 7 if self.state.faults.wrong_range and self._fault("wrong_range") else 0
            self.send_header("Content-Range", f"bytes {first + shift}-{last + shift}/{size}")
        self.send_header("Content-Length", str(last - first + 1))
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("ETag", etag)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Last-Modified", "Tue, 01 Oct 2019 00:00:00 GMT")
        self.end_headers()
        if body:
            self._body(path, first, last + 1)

    def _body(self, path: Path, first: int, stop: int) -> None:
        if self.state.faults.stall and self._fault("stall"):
            time.sleep(self.state.faults.stall)
        cut = self.state.faults.cut
        if cut is not None and stop - first > cut and self._fault("cut"):
            stop = first + cut
            self.close_connection = True
        with path.open("rb") as file:
            file.seek(first)
            while first < stop:
                data = file.read(min(1 << 16, stop - first))
                with self.state.lock:
                    self.state.sent += len(data)
                self.wfile.write(data)
                first += len(data)

    def _plain(self, status: int, content: bytes, body: bool, kind: str = "application/xml") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Content-Type", kind)
        self.end_headers()
        if body:
            self.wfile.write(content)


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, *_: object) -> None:
        """Say nothing of clients that hung up: they are part of the tests."""


@contextmanager
def serve(root: Path):
    """Serve a folder while the context lasts."""
    handler = type("Handler", (_Handler,), {"root": root})
    with _Quiet(("127.0.0.1", 0), handler) as http:
        handler.state = Server(f"http://127.0.0.1:{http.server_address[1]}", root=root)
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield handler.state
        finally:
            http.shutdown()
            thread.join()
