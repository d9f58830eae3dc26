"""The ledger of a fetch: one JSON line for each thing that was fetched or failed."""

from __future__ import annotations

import hashlib
import json
import os
import time
from typing import TYPE_CHECKING, Any

from mousebench.errors import StoreError

if TYPE_CHECKING:
    from pathlib import Path

NAME = "ledger.jsonl"


def append(folder: Path, **entry: Any) -> None:
    """Add a line, on disk when this returns; lines of several processes do not mix."""
    line = json.dumps({"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), **entry}, sort_keys=True) + "\n"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        torn = _is_torn(folder / NAME)
        descriptor = os.open(folder / NAME, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(descriptor, ("\n" * torn + line).encode())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise StoreError(
            f"cannot write {folder / NAME}: {error.strerror}", "check the free space of the disk"
        ) from error


def _is_torn(path: Path) -> bool:
    """Return whether a kill cut the last line short."""
    if not path.is_file() or path.stat().st_size == 0:
        return False
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"


def read(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the last entry of each item; a line that a kill cut short is passed over."""
    entries: dict[str, dict[str, Any]] = {}
    path = folder / NAME
    if not path.is_file():
        return entries
    for line in path.read_text(errors="replace").splitlines():
        try:
            entry = json.loads(line)
            entries[str(entry["item"])] = entry
        except (ValueError, KeyError, TypeError):
            continue
    return entries


def sha256(path: Path) -> str:
    """Return the checksum of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
