"""Where files come from: a public bucket over HTTPS, or a folder laid out as the SDK's cache."""

from __future__ import annotations

import io
import json
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

from mousebench.errors import MissingData, StoreError
from mousebench.fetching import is_url, offline
from mousebench_plugins.benchmarks.allen_ns.remote import Client, Identity, NotThere, RangeFile, Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

BUCKET = "https://allen-brain-observatory.s3.us-west-2.amazonaws.com"
LAYOUT = {
    "EXPERIMENTS": "ophys_experiments.json",
    "EXPERIMENT_DATA": "ophys_experiment_data/{id}.nwb",
    "ANALYSIS_DATA": "ophys_experiment_analysis/{id}_three_session_B_analysis.h5",
    "EVENTS_DATA": "ophys_experiment_events/{id}_events.npz",
    "EPHYS_SESSIONS": "sessions.csv",
    "EPHYS_DATA": "session_{id}/session_{id}.nwb",
    "EPHYS_SCENE": "natural_scene_templates/natural_scene_{id}.tiff",
}


class Source(Protocol):
    """A place that files are read from; ``moved`` counts the bytes, ``requests`` the reads."""

    name: str
    is_remote: bool

    @property
    def moved(self) -> int:
        """Return how many bytes were read."""
        ...

    @property
    def requests(self) -> int:
        """Return how many reads there were."""
        ...

    def key(self, kind: str, identifier: int | str = "") -> str:
        """Return the key of a file of a kind of ``LAYOUT``."""
        ...

    def open(self, key: str) -> Any:
        """Return a context manager of (file object, Identity)."""
        ...

    def bytes(self, key: str) -> bytes:
        """Return the whole content of a small file."""
        ...

    def json(self, key: str) -> Any:
        """Return a parsed JSON document."""
        ...

    def identity(self, key: str) -> Identity:
        """Return size and ETag without reading the file."""
        ...

    def whole(self, key: str, scratch: Path) -> Any:
        """Return a context manager of (path of the whole file, Identity)."""
        ...


@dataclass
class Bucket:
    """Files below a URL."""

    name: str
    settings: Settings = field(default_factory=Settings)
    is_remote: bool = True

    def __post_init__(self) -> None:
        self.name = self.name.rstrip("/")
        self.client = Client(self.settings)

    @property
    def moved(self) -> int:
        """Return how many bytes came over the network."""
        return self.client.moved

    @property
    def requests(self) -> int:
        """Return how many requests were sent."""
        return self.client.requests

    def key(self, kind: str, identifier: int | str = "") -> str:
        """Return the key of a file."""
        return LAYOUT[kind].format(id=identifier)

    def url(self, key: str) -> str:
        """Return the URL of a key."""
        return f"{self.name}/{key}"

    @contextmanager
    def open(self, key: str) -> Iterator[tuple[BinaryIO, Identity]]:
        """Open a file that reads by ranges."""
        file = RangeFile(self.client, self.url(key))
        yield file, file.identity

    def bytes(self, key: str) -> bytes:
        """Return the whole content of a small file."""
        return self.client.bytes(self.url(key))

    def json(self, key: str) -> Any:
        """Return a parsed JSON document."""
        return parse_json(self.bytes(key), self.url(key))

    def identity(self, key: str) -> Identity:
        """Return size and ETag."""
        return self.client.identity(self.url(key))

    @contextmanager
    def whole(self, key: str, scratch: Path) -> Iterator[tuple[Path, Identity]]:
        """Download a file with resume; it is deleted once it has been used."""
        path = scratch / PurePosixPath(key).name
        with locked(path.with_name(f"{path.name}.lock")):
            try:
                identity = self.client.download(self.url(key), path)
            except NotThere:
                if not key.endswith("_events.npz"):
                    raise
                identity = self.client.download(self._events_url(int(path.name.split("_")[0])), path)
            try:
                yield path, identity
            finally:
                path.unlink(missing_ok=True)

    def _events_url(self, experiment: int) -> str:
        """Ask the API where it keeps the events of a session; not all of them are known to be in the bucket."""
        criteria = f"[attachable_id$eq{experiment}],well_known_file_type[name$eqObservatoryEventsFile]"
        query = f"{self.settings.api}/api/v2/data/query.json?q=model::WellKnownFile,rma::criteria,{criteria}"
        answer = parse_json(self.client.bytes(query), query)
        try:
            return f"{self.settings.api}{answer['msg'][0]['download_link']}"
        except (KeyError, IndexError, TypeError):
            raise NotThere(
                f"neither {self.name} nor {self.settings.api} has the events of experiment {experiment}"
            ) from None


class CountingFile(io.FileIO):
    """A local file that counts what is read."""

    def __init__(self, path: Path, owner: Folder) -> None:
        super().__init__(path, "r")
        self._owner = owner

    def readinto(self, buffer: Any) -> int:
        """Read into a buffer."""
        count = super().readinto(buffer) or 0
        self._owner.moved += count
        self._owner.requests += 1
        return count


@dataclass
class Folder:
    """Files of a local folder, at the places that its manifest.json names, or the SDK's usual ones."""

    name: str
    moved: int = 0
    requests: int = 0
    is_remote: bool = False

    def __post_init__(self) -> None:
        self.root = Path(self.name)
        if not self.root.is_dir():
            raise StoreError(f"{self.name} is not a folder", "--from takes a URL that starts with http, or a folder")
        self.layout = {**LAYOUT, **_manifest(self.root / "manifest.json")}

    def key(self, kind: str, identifier: int | str = "") -> str:
        """Return the path of a file below the folder."""
        return self.layout[kind].format(id=identifier)

    def path(self, key: str) -> Path:
        """Return the path of a key; raise NotThere if there is no such file."""
        path = self.root / key
        if not path.is_file():
            raise NotThere(f"{path} does not exist")
        return path

    @contextmanager
    def open(self, key: str) -> Iterator[tuple[BinaryIO, Identity]]:
        """Open a file."""
        path = self.path(key)
        with CountingFile(path, self) as file:
            yield file, self.identity(key)

    def bytes(self, key: str) -> bytes:
        """Return the whole content of a small file."""
        content = self.path(key).read_bytes()
        self.moved += len(content)
        return content

    def json(self, key: str) -> Any:
        """Return a parsed JSON document."""
        return parse_json(self.bytes(key), str(self.path(key)))

    def identity(self, key: str) -> Identity:
        """Return size and time of change."""
        status = self.path(key).stat()
        return Identity(key, status.st_size, "", formatdate(status.st_mtime, usegmt=True))

    @contextmanager
    def whole(self, key: str, scratch: Path) -> Iterator[tuple[Path, Identity]]:
        """Return the file where it is."""
        identity = self.identity(key)
        self.moved += identity.size
        yield self.path(key), identity


def parse_json(content: bytes, name: str) -> Any:
    """Return a parsed JSON document, or raise StoreError that says how it starts."""
    try:
        return json.loads(content)
    except ValueError as error:
        raise StoreError(f"{name} is not JSON (it starts with {content[:40]!r})") from error


def open_source(name: str, settings: Settings) -> Bucket | Folder:
    """Return the bucket or folder of a name; with ``--offline`` there is no bucket."""
    if not is_url(name):
        return Folder(name)
    if offline():
        raise MissingData(f"{name} is on the network, and --offline is set", "--from takes a folder too")
    return Bucket(name, settings)


def _manifest(path: Path) -> dict[str, str]:
    """Return the places that an SDK manifest names, for the kinds in ``LAYOUT``."""
    if not path.is_file():
        return {}
    try:
        entries = {entry["key"]: entry for entry in json.loads(path.read_text())["manifest"] if "key" in entry}
        return {kind: _place(entries, kind) for kind in LAYOUT if kind in entries}
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{path} is not a manifest of the SDK's cache: {error!r}") from error


def _place(entries: dict[str, Any], kind: str) -> str:
    entry, parts = entries[kind], []
    while True:
        parts.append(entry["spec"])
        parent = entry.get("parent_key")
        if parent is None or parent == "BASEDIR" or parent not in entries or len(parts) > len(entries):
            break
        entry = entries[parent]
    # "%d_%s_analysis.h5": the second place is the session type
    return "/".join(reversed(parts)).replace("%d", "{id}", 1).replace("%s", "three_session_B", 1)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a file's lock, waiting for another process that has it; the lock ends with the process."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
    except ImportError:  # Windows: two fetches at a time are on their own there
        yield
        return
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
