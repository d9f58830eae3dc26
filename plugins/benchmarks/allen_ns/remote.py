"""Read parts of a remote file as if it were open, and fetch whole files with resume.

HTTP and its retries are requests and urllib3; what is added here is that a body cut short is asked for from the byte
where it stopped, and that no answer is taken for a part of a file that has changed in between.
"""

from __future__ import annotations

import io
import json
import re
import time
from collections import OrderedDict
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from mousebench.assemblies import replacing
from mousebench.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CHUNK = 1 << 16
BUSY = (429, 500, 502, 503, 504)
_AGAIN = "run the same command again: what is finished is kept"


class NotThere(StoreError):
    """The server has no such file."""


class Changed(StoreError):
    """The file on the server is no longer the one that was begun."""


@dataclass(frozen=True)
class Settings:
    """How patient a client is.

    Attributes
    ----------
    attempts : int
        Tries of one request without progress before it fails.
    backoff : float
        Seconds; doubles with each try.
    connect_timeout, read_timeout : float
        Seconds without an answer, or without a byte.
    block : int
        Bytes that a read of a remote file asks for at least.
    cached_blocks : int
        Blocks kept in memory for each file.
    api : str
        Server of the Institute's API, asked for events files that the bucket lacks.
    """

    attempts: int = 5
    backoff: float = 0.5
    connect_timeout: float = 10.0
    read_timeout: float = 30.0
    block: int = 1 << 18
    cached_blocks: int = 256
    api: str = "http://api.brain-map.org"


@dataclass(frozen=True)
class Identity:
    """What tells one version of a file from another."""

    url: str
    size: int
    etag: str = ""
    last_modified: str = ""


class Client:
    """An HTTP session that counts what it moves.

    Attributes
    ----------
    moved, requests : int
        Bytes of bodies received, and requests sent.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or Settings()
        retry = Retry(
            total=self.settings.attempts - 1,
            backoff_factor=self.settings.backoff,
            status_forcelist=BUSY,
            allowed_methods=("GET", "HEAD"),
        )
        self.session = requests.Session()
        self.session.headers.update({"Accept-Encoding": "identity", "User-Agent": "mousebench"})
        for scheme in ("http://", "https://"):
            self.session.mount(scheme, HTTPAdapter(max_retries=retry))
        self.moved = 0
        self.requests = 0

    def send(self, method: str, url: str, headers: dict[str, str] | None = None) -> requests.Response:
        """Send a request and return the answer with its body unread; raise StoreError if there is none."""
        timeout = (self.settings.connect_timeout, self.settings.read_timeout)
        self.requests += 1
        try:
            response = self.session.request(method, url, headers=headers or {}, timeout=timeout, stream=True)
        except requests.RequestException as error:
            raise StoreError(f"{url} does not answer: {_reason(error)}", _AGAIN) from error
        if response.status_code == 404 or (response.status_code == 403 and method == "HEAD"):
            response.close()
            raise NotThere(f"{url} does not exist (status {response.status_code})")
        return response

    def identity(self, url: str) -> Identity:
        """Return size and ETag of a file, by a HEAD request."""
        with self.send("HEAD", url) as response:
            if response.status_code != 200 or "Content-Length" not in response.headers:
                raise StoreError(f"{url} answers status {response.status_code} without a size")
            return _identity(url, response, int(response.headers["Content-Length"]))

    def range(self, url: str, start: int, stop: int | None, identity: Identity | None = None) -> tuple[bytes, Identity]:
        """Return the bytes [start, stop) of a file, or up to its end where that comes first.

        Parameters
        ----------
        url : str
        start, stop : int
        identity : Identity or None
            The version that is being read; an answer from another one is refused.

        Raises
        ------
        Changed, NotThere, StoreError
        """
        received = bytearray()
        failures = 0
        while stop is None or start + len(received) < stop:
            before = len(received)
            broken: Exception = ValueError("the body was empty")
            try:
                with self._ask_range(url, start + before, stop, identity) as response:
                    identity = identity or _range_identity(url, response)
                    stop = identity.size if stop is None else min(stop, identity.size)
                    self._receive(response, received.extend)
            except requests.RequestException as error:
                broken = error
            if start + len(received) < (stop or 0) or identity is None:
                failures = 0 if len(received) > before else failures + 1
                self._pause(url, failures, broken)
        if identity is None:
            raise StoreError(f"{url}: an empty range was asked for")
        return bytes(received[: stop - start]), identity

    def _ask_range(self, url: str, start: int, stop: int | None, identity: Identity | None) -> requests.Response:
        headers = {"Range": f"bytes={start}-{'' if stop is None else stop - 1}"}
        if identity and identity.etag:
            headers["If-Match"] = identity.etag
        response = self.send("GET", url, headers)
        try:
            _check_range(url, response, start, identity)
        except StoreError:
            response.close()  # the body is not read: it may be the whole file
            raise
        return response

    def _receive(self, response: requests.Response, take: Callable[[bytes], Any]) -> None:
        for chunk in response.iter_content(CHUNK):
            self.moved += len(chunk)
            take(chunk)

    def _pause(self, url: str, failures: int, error: Exception) -> None:
        if failures >= self.settings.attempts:
            raise StoreError(f"{url}: {failures} answers in a row broke off: {_reason(error)}", _AGAIN) from error
        time.sleep(self.settings.backoff * 2**failures)

    def bytes(self, url: str) -> bytes:
        """Return the whole content of a small file."""
        body = bytearray()
        for attempt in range(1, self.settings.attempts + 1):
            body.clear()
            try:
                with self.send("GET", url) as response:
                    if response.status_code != 200:
                        raise StoreError(f"{url} answers status {response.status_code}")
                    self._receive(response, body.extend)
                break
            except requests.RequestException as error:
                self._pause(url, attempt, error)
        return bytes(body)

    def download(self, url: str, path: Path) -> Identity:
        """Fetch a whole file; an interrupted one is taken up where it stopped.

        The bytes are gathered in ``path`` with the suffix ``.part``; ``path`` exists only when all are there.

        Raises
        ------
        NotThere, StoreError
        """
        part, note = path.with_name(f"{path.name}.part"), path.with_name(f"{path.name}.part.json")
        path.parent.mkdir(parents=True, exist_ok=True)
        identity = _noted(note, url) if part.exists() else None
        failures = 0
        while identity is None or _size(part) != identity.size:
            before = _size(part) if identity else 0
            broken: Exception = ValueError("the body was too short")
            try:
                identity = self._continue(url, part, note, identity, before)
            except requests.RequestException as error:
                broken, identity = error, _noted(note, url)
            if identity is None or _size(part) != identity.size:
                failures = 0 if _size(part) > before else failures + 1
                self._pause(url, failures, broken)
        part.replace(path)
        note.unlink(missing_ok=True)
        return identity

    def _continue(self, url: str, part: Path, note: Path, identity: Identity | None, at: int) -> Identity:
        """Ask for the file from a byte on, or anew, and append what comes."""
        begun = identity if identity is not None and identity.etag and at > 0 else None
        headers = {"Range": f"bytes={at}-", "If-Range": begun.etag} if begun else {}
        with self.send("GET", url, headers) as response:
            if begun is not None and response.status_code == 206:
                _check_range(url, response, at, begun)
            else:
                begun = None
                part.unlink(missing_ok=True)
            found = begun or _whole_identity(url, response)
            if begun is None:
                with replacing(note) as temporary:
                    temporary.write_text(json.dumps(asdict(found)))
            try:
                file = part.open("ab" if begun else "wb")
                with file:
                    self._receive(response, file.write)
            except requests.RequestException:
                raise
            except OSError as error:
                raise StoreError(
                    f"cannot write {part}: {error.strerror}", "check the free space of the disk"
                ) from error
        if _size(part) > found.size >= 0:
            part.unlink()
            raise StoreError(f"{url} sent more than the {found.size} bytes it announced", _AGAIN)
        # where the server did not say how long the file is, what came is all
        return found if found.size >= 0 else replace(found, size=_size(part))


class RangeFile(io.RawIOBase):
    """A remote file that reads, seeks and tells; blocks that were read stay in memory.

    Parameters
    ----------
    client : Client
    url : str

    Attributes
    ----------
    identity : Identity
    error : Exception or None
        What made a read fail; HDF5 reports only that it did.
    """

    def __init__(self, client: Client, url: str) -> None:
        super().__init__()
        self.client = client
        self.error: BaseException | None = None
        self._block = client.settings.block
        self._cache: OrderedDict[int, bytes] = OrderedDict()
        self._position = 0
        first, self.identity = client.range(url, 0, self._block)
        self._cache[0] = first

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a position and return it."""
        self._position = offset + (0, self._position, self.identity.size)[whence]
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Read as many bytes as the buffer holds, fewer at the end of the file."""
        view = memoryview(buffer).cast("B")
        start, stop = self._position, min(self._position + len(view), self.identity.size)
        try:
            data = self._bytes(start, stop) if stop > start else b""
        except BaseException as error:
            self.error = error
            raise
        view[: len(data)] = data
        self._position += len(data)
        return len(data)

    def _bytes(self, start: int, stop: int) -> bytes:
        first, last = start // self._block, (stop - 1) // self._block
        have = {i: self._cache[i] for i in range(first, last + 1) if i in self._cache}
        missing = [i for i in range(first, last + 1) if i not in have]
        for low, high in _runs(missing):
            data, _ = self.client.range(self.identity.url, low * self._block, (high + 1) * self._block, self.identity)
            for i in range(low, high + 1):
                have[i] = data[(i - low) * self._block : (i - low + 1) * self._block]
        for i in range(first, last + 1):
            self._cache[i] = have[i]
            self._cache.move_to_end(i)
        while len(self._cache) > self.client.settings.cached_blocks:
            self._cache.popitem(last=False)
        joined = b"".join(have[i] for i in range(first, last + 1))
        return joined[start - first * self._block : stop - first * self._block]


def _runs(numbers: list[int]) -> list[tuple[int, int]]:
    """Return the runs of consecutive numbers as (first, last): one request each."""
    runs: list[tuple[int, int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1] = (runs[-1][0], number)
        else:
            runs.append((number, number))
    return runs


def _identity(url: str, response: requests.Response, size: int) -> Identity:
    return Identity(url, size, response.headers.get("ETag", ""), response.headers.get("Last-Modified", ""))


def _whole_identity(url: str, response: requests.Response) -> Identity:
    if response.status_code != 200:
        raise StoreError(f"{url} answers status {response.status_code}")
    if "html" in response.headers.get("Content-Type", ""):
        raise StoreError(f"{url} answers with a web page instead of a file")
    return _identity(url, response, int(response.headers.get("Content-Length", -1)))


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _range_identity(url: str, response: requests.Response) -> Identity:
    size = re.fullmatch(r"bytes \d+-\d+/(\d+)", response.headers.get("Content-Range", ""))
    if size is None:
        raise StoreError(f"{url} does not say how long it is (Content-Range {response.headers.get('Content-Range')!r})")
    return _identity(url, response, int(size.group(1)))


def _check_range(url: str, response: requests.Response, start: int, identity: Identity | None) -> None:
    """Refuse an answer that is not the range asked for, of the file that was begun."""
    if response.status_code == 412:
        raise Changed(f"{url} changed while it was read", _AGAIN)
    if response.status_code == 200:
        kind = response.headers.get("Content-Type", "")
        if "html" in kind:
            raise StoreError(f"{url} answers with a web page instead of a file")
        if identity and response.headers.get("ETag", "") != identity.etag:
            raise Changed(f"{url} changed while it was read", _AGAIN)
        raise StoreError(
            f"{url} ignores ranges: the server would send the whole file", "fetch from another server or a folder"
        )
    if response.status_code != 206:
        raise StoreError(f"{url} answers status {response.status_code}")
    found = _range_identity(url, response)
    if identity and (found.etag != identity.etag or found.size != identity.size):
        raise Changed(f"{url} changed while it was read", _AGAIN)
    if not response.headers["Content-Range"].startswith(f"bytes {start}-"):
        raise StoreError(f"{url} sent {response.headers['Content-Range']!r} where bytes from {start} were asked for")


def _noted(note: Path, url: str) -> Identity | None:
    """Return the identity that an interrupted download noted, if it is of this file."""
    try:
        identity = Identity(**json.loads(note.read_text()))
    except (OSError, ValueError, TypeError):
        return None
    return identity if identity.url == url else None


def _reason(error: Exception) -> str:
    cause = getattr(error, "args", [error])
    return str(cause[0] if cause else error)[:200]
