"""Say what is installed, fetched and cached here; and, on demand, what a real session of the Allen data looks like."""

from __future__ import annotations

import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from mousebench import api
from mousebench.fetching import offline
from mousebench.home import home

PACKAGES = (
    *("mousebench", "numpy", "scipy", "xarray", "netCDF4", "h5py", "torch", "torchvision", "safetensors", "timm"),
    *("requests", "urllib3"),
)
REMOTE = "allen-ns"  # the benchmark whose source is probed


def report(remote: bool = False) -> list[tuple[str, str]]:
    """Return rows of (what, value).

    Parameters
    ----------
    remote : bool
        Also read one session of the public bucket, some tens of MB, and state its facts.

    Returns
    -------
    list of (str, str)
    """
    rows = [*_installed(), *_stored()]
    if not remote:
        return rows
    if offline():
        return [*rows, (f"{REMOTE}: remote", "not probed: --offline is set")]
    benchmark: Any = api.load_benchmark(REMOTE)  # probe is its own, no part of the contract
    return [*rows, *((f"{REMOTE}: {name}", value) for name, value in benchmark.probe())]


def _installed() -> list[tuple[str, str]]:
    rows = [("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")]
    for name in PACKAGES:
        try:
            rows.append((name, version(name)))
        except PackageNotFoundError:
            rows.append((name, "not installed"))
    return rows


def _stored() -> list[tuple[str, str]]:
    """Return what the home folder holds; a folder that is not there is not an error."""
    top = home()
    rows = [("home", str(top))]
    there = next((folder for folder in (top, *top.parents) if folder.is_dir()), None)
    if there is not None:
        rows.append(("free space", _size(shutil.disk_usage(there).free)))
    for folder in _folders(top / "data", 2):
        rows.append((f"data: {folder.parent.name} {folder.name}", _content(folder)))
    for folder in _folders(top / "representations", 1):
        rows.append((f"representations: {folder.name}", _content(folder)))
    return rows


def _folders(top: Path, depth: int) -> list[Path]:
    return sorted(path for path in top.glob("/".join("*" * depth)) if path.is_dir())


def _content(folder: Path) -> str:
    files = [path for path in folder.rglob("*") if path.is_file()]
    left = sum(".tmp-" in path.name or path.suffix == ".part" for path in files)
    text = f"{len(files)} files, {_size(sum(path.stat().st_size for path in files))}"
    return f"{text}, {left} of them unfinished" if left else text


def _size(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
