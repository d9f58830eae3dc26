"""Say where a number comes from: versions, hashes, seeds. No clock and no host name: the same run gives the same text."""

from __future__ import annotations

import hashlib
import platform
import subprocess
import sys
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from mousebench.catalogue import Plugin

PACKAGES = ("numpy", "scipy", "xarray", "torch", "torchvision", "pillow", "netCDF4", "h5py")


@lru_cache
def environment() -> dict[str, object]:
    """Return the versions of everything that computes."""
    return {
        "mousebench": installed_version("mousebench"),
        "git": git_commit(),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "packages": {name: installed_version(name) for name in PACKAGES},
    }


def installed_version(distribution: str) -> str:
    """Return the version of an installed distribution, "unknown" if it is not installed."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "unknown"


def git_commit() -> str:
    """Return the commit of the checkout that mousebench runs from, marked if it was changed; "" for a wheel."""
    root = Path(__file__).parent.parent
    if not (root / ".git").exists():
        return ""
    try:
        commit = _git(root, "rev-parse", "HEAD")
        return f"{commit} (changed)" if _git(root, "status", "--porcelain", "--untracked-files=no") else commit
    except (OSError, subprocess.SubprocessError):
        return ""


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10, check=True)
    return done.stdout.strip()


def describe_plugin(plugin: Plugin | None) -> dict[str, str | bool]:
    """Return name, distribution, version and source hash of a plugin; "local" for an object made in Python."""
    if plugin is None:
        return {"name": "local", "distribution": "local", "version": "local", "source": ""}
    name = "local" if plugin.distribution == "local" else plugin.name
    return {
        "name": name,
        "distribution": plugin.distribution,
        "version": plugin.version,
        "source": plugin.source_hash() or "",
        **({"isolated": True} if plugin.isolated else {}),
    }


def class_file(thing: object) -> dict[str, str]:
    """Return module and sha256 of the file that defines the class of a thing; nothing where that is mousebench's own."""
    module = type(thing).__module__
    file = getattr(sys.modules.get(module), "__file__", None)
    if not file or module.partition(".")[0] == "mousebench":
        return {}
    return {"module": module, "sha256": hashlib.sha256(Path(file).read_bytes()).hexdigest()}
