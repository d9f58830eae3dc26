"""Results on disk: ``<results>/<benchmark>/v<version>/<metric>/<model>.nc``, each written whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from mousebench import assemblies
from mousebench.errors import StoreError
from mousebench.home import home
from mousebench.names import result_name
from mousebench.specs import file_name

FORMAT = 2  # 2: draws of raw and score
_HEADER = (
    "format",
    "model",
    "benchmark",
    "metric",
    "benchmark_version",
    "metric_version",
    "seed",
    "definition",
    "provenance",
)


def default_results() -> Path:
    """Return the folder of results when none is named."""
    return home() / "results"


def result_path(results: Path, benchmark: str, version: int, metric: str, model: str) -> Path:
    """Return the file of one result."""
    return results / file_name(benchmark) / f"v{version}" / file_name(metric) / f"{result_name(model)}.nc"


def write(result: xr.Dataset, path: Path) -> None:
    """Write a result.

    Raises
    ------
    StoreError
        If it has no provenance, or cannot be written.
    """
    if not result.attrs.get("provenance"):
        raise StoreError(f"a result without provenance is not stored: {path.name}")
    assemblies.save(result, path)


@dataclass(frozen=True)
class Header:
    """What a result says of itself, read without the numbers.

    Attributes
    ----------
    attrs : mapping of str to str, int or float
    targets : mapping of site to str
        Hash of the target that each site was scored on; where a model was made of it, of the whole one.
    """

    attrs: Mapping[str, Any]
    targets: Mapping[str, str]

    @cached_property
    def provenance(self) -> dict[str, Any]:
        """Where the numbers come from."""
        found: dict[str, Any] = json.loads(self.attrs["provenance"])
        return found


def header(path: Path) -> Header:
    """Read a result's attributes and the hashes of its targets, some ten times faster than ``read``; checks nothing else.

    Raises
    ------
    StoreError
        If it is not there, or is no result.
    """
    import h5py

    try:
        with h5py.File(path) as file:
            attrs = {name: _plain(file.attrs[name]) for name in _HEADER}
            sites = file["site"].asstr()[:].tolist()
            hashes = file["whole_sha256" if "whole_sha256" in file else "target_sha256"].asstr()[:].tolist()
    except (OSError, KeyError, TypeError, RuntimeError) as error:
        raise StoreError(f"{path} cannot be read: {error}", "delete the file, it is damaged") from error
    return Header(attrs, dict(zip(sites, hashes, strict=True)))


def _plain(value: Any) -> str | int | float:
    """Return an attribute that netCDF wrote, as h5py reads it, as it was."""
    plain: str | int | float = value.decode() if isinstance(value, bytes) else np.asarray(value).item()
    return plain


def read(path: Path) -> xr.Dataset:
    """Read a result.

    Raises
    ------
    StoreError
        If it is not there, damaged, or of a newer format.
    """
    result = assemblies.load(path)
    if result.attrs.get("format") != FORMAT:
        raise StoreError(
            f"{path} has format {result.attrs.get('format')}; this version reads {FORMAT}", "score it again"
        )
    return result


@contextlib.contextmanager
def alone(path: Path, waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """Keep other processes from changing the results in a file's folder meanwhile, where the system can.

    ``waiting`` is called if another process has to be waited for.
    """
    folder = None
    try:
        import fcntl

        path.parent.mkdir(parents=True, exist_ok=True)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if waiting is not None:
                waiting()
            fcntl.flock(folder, fcntl.LOCK_EX)
    except (ImportError, OSError):
        pass  # Windows and some network disks have no such locks; a folder that cannot be made is found by ``write``
    try:
        yield
    finally:
        if folder is not None:
            os.close(folder)


def still_valid(path: Path, key: str | None, target_hashes: dict[str, str]) -> tuple[xr.Dataset | None, str]:
    """Return the sites of a stored result that would come out the same again, and what is wrong with it if anything.

    Parameters
    ----------
    path : Path
    key : str or None
        Hash of model, stimuli, metric and seed; None where it cannot be known, and nothing is reused.
    target_hashes : dict of site to hash of its target
    """
    if key is None or not path.is_file():
        return None, ""
    try:
        result = read(path)
    except StoreError as error:
        return None, error.message
    if result.attrs.get("key") != key:
        return None, ""
    hashes = dict(zip(result["site"].values.tolist(), result["target_sha256"].values.tolist(), strict=True))
    same = [site for site, digest in hashes.items() if target_hashes.get(site, digest) == digest]
    return (only_sites(result, same), "") if same else (None, "")


def only_sites(result: xr.Dataset, sites: Collection[str]) -> xr.Dataset:
    """Return a result for some of its sites, and for the neuroids of these."""
    part = result.isel(site=np.isin(result["site"].values, list(sites)))
    if "neuroid" in part.dims:
        part = part.isel(neuroid=np.isin(part["neuroid_site"].values, list(sites)))
    return part
