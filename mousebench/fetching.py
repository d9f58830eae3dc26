"""Bring a benchmark's data to this machine: whole files with checksums, and what ``fetch`` reports back."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mousebench.assemblies import replacing
from mousebench.errors import MissingData, StoreError
from mousebench.progress import Progress, Silent

SUMS = "SHA256SUMS"
_TIMEOUT = (10, 60)  # seconds to connect, and between two pieces
_TRIES = 4


@dataclass(frozen=True)
class FetchReport:
    """What one fetch moved and stored.

    Attributes
    ----------
    benchmark, folder : str
    planned_bytes : int or None
        What is to be moved; None where it cannot be known beforehand.
    moved_bytes, stored_bytes : int
    lines : tuple of str
        What a person wants to read.
    failed : tuple of str
        What could not be had, and why; the rest is there.
    """

    benchmark: str
    folder: str
    planned_bytes: int | None
    moved_bytes: int
    stored_bytes: int
    lines: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()


def is_url(source: str) -> bool:
    """Say whether a source is a URL, not a folder."""
    return source.startswith(("http://", "https://"))


def offline() -> bool:
    """Say whether the network may not be used (``--offline`` or MOUSEBENCH_OFFLINE)."""
    return bool(os.environ.get("MOUSEBENCH_OFFLINE"))


def fetch_files(
    benchmark: str,
    source: str,
    names: Sequence[str],
    folder: Path,
    *,
    check: Callable[[str, bytes], None],
    dry_run: bool = False,
    progress: Progress | None = None,
) -> FetchReport:
    """Bring files from a folder or a URL into a data folder, and write down their checksums.

    Files that are there and match their checksum are not moved again. Each file is checked before it gets its name;
    the list of checksums is rewritten after each, so an interrupted fetch goes on where it stopped.

    Parameters
    ----------
    benchmark : str
    source : str
        A folder, or the URL that the names are relative to.
    names : sequence of str
        Relative paths with forward slashes.
    folder : Path
    check : callable
        Called with the name and the content; raises ContractViolation if it is not what it should be.
    dry_run : bool
    progress : Progress, optional

    Raises
    ------
    MissingData
        If the source is not there, or lacks a file.
    StoreError
        If a file cannot be written.
    """
    progress = progress or Silent()
    sums = read_sums(folder)
    wanted = [name for name in names if not _holds(folder / name, sums.get(name))]
    lines = [f"{benchmark}: {len(names)} files, {len(names) - len(wanted)} already there, {len(wanted)} to fetch"]
    lines += [f"from {source}", f"to {folder}"]
    read = _url_reader(source) if is_url(source) else _folder_reader(Path(source))
    if dry_run:
        return FetchReport(benchmark, str(folder), None, 0, 0, tuple(lines))
    moved = 0
    progress.start(f"fetching {benchmark}", len(wanted))
    for name in wanted:
        content = read(name)
        check(name, content)
        with replacing(folder / name) as temporary:
            temporary.write_bytes(content)
        sums[name] = hashlib.sha256(content).hexdigest()
        _write_sums(folder, sums)
        moved += len(content)
        progress.advance(1)
    progress.finish()
    stored = sum((folder / name).stat().st_size for name in names)
    return FetchReport(benchmark, str(folder), moved, moved, stored, (*lines, f"{moved / 1e6:.1f} MB moved, verified"))


def read_verified(folder: Path, name: str, sums: Mapping[str, str], hint: str) -> bytes:
    """Return a fetched file after comparing it with its checksum.

    Raises
    ------
    MissingData
        If it was not fetched.
    StoreError
        If it is not what was fetched.
    """
    path = folder / name
    if name not in sums or not path.is_file():
        raise MissingData(f"{path} is not there", hint)
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != sums[name]:
        raise StoreError(f"{path} is not what was fetched: its sha256 differs", f"{hint} (fetches it again)")
    return content


def read_sums(folder: Path) -> dict[str, str]:
    """Return name -> sha256 of what was fetched into a folder; a line that is damaged counts for nothing."""
    path = folder / SUMS
    if not path.is_file():
        return {}
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return {name: digest for digest, gap, name in (line.partition("  ") for line in lines) if gap}


def _write_sums(folder: Path, sums: Mapping[str, str]) -> None:
    with replacing(folder / SUMS) as temporary:
        temporary.write_text("".join(f"{sums[name]}  {name}\n" for name in sorted(sums)), encoding="utf-8")


def _holds(path: Path, digest: str | None) -> bool:
    return digest is not None and path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == digest


def _folder_reader(source: Path) -> Callable[[str], bytes]:
    if not source.is_dir():
        raise MissingData(f"{str(source)!r} is not a folder", "--from takes a folder or a URL")

    def read(name: str) -> bytes:
        try:
            return (source / name).read_bytes()
        except OSError as error:
            raise MissingData(f"{source / name} cannot be read: {error.strerror}") from error

    return read


def _url_reader(source: str) -> Callable[[str], bytes]:
    if offline():
        raise MissingData(f"{source} is on the network, and --offline is set")
    import requests
    from requests.adapters import HTTPAdapter
    from urllib3.util.retry import Retry

    session = requests.Session()
    retry = Retry(total=_TRIES, backoff_factor=0.3, status_forcelist=(429, 500, 502, 503, 504))
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(max_retries=retry))

    def read(name: str) -> bytes:
        url = f"{source.rstrip('/')}/{name}"
        for left in reversed(range(_TRIES)):
            try:
                response = session.get(url, timeout=_TIMEOUT)
                response.raise_for_status()
                return bytes(response.content)
            except (requests.exceptions.ChunkedEncodingError, requests.exceptions.ContentDecodingError) as error:
                if not left:  # cut off in the body, every time
                    raise MissingData(
                        f"{url} cannot be fetched: {error}", "run the same command again: it goes on where it stopped"
                    ) from error
            except requests.exceptions.RequestException as error:
                raise MissingData(
                    f"{url} cannot be fetched: {error}", "run the same command again: it goes on where it stopped"
                ) from error
        raise AssertionError("not reached")

    return read
