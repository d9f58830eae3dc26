"""Keep the assembled array of a site beside the sessions it is from, under a name that tells both."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from typing import TYPE_CHECKING

from mousebench import assemblies
from mousebench.errors import MissingData, MousebenchError, StoreError
from mousebench_plugins.benchmarks.allen_ns import ceilings, ledger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    import xarray as xr

    from mousebench_plugins.benchmarks.allen_ns.assemble import Recipe, Recording


def site_array(
    folder: Path, site: str, definition: str, parts: Mapping[str, Path], build: Callable[[], xr.DataArray]
) -> xr.DataArray:
    """Return a site's array: the stored one if it was made by this definition from these files, else a new one.

    Parameters
    ----------
    folder : Path
        The benchmark's data folder.
    site : str
    definition : str
        All that changes the array beside its sessions.
    parts : mapping of item to Path
        The sessions, by their name in the ledger.
    build : callable
        Makes the array.
    """
    known = ledger.read(folder)
    prefix = hashlib.sha256(definition.encode()).hexdigest()[:8]
    digest = hashlib.sha256()
    for item, path in sorted(parts.items()):
        digest.update(f"{item} {known.get(item, {}).get('sha256') or ledger.sha256(path)} ".encode())
    path = folder / "sites" / f"{site}.{prefix}{digest.hexdigest()[:8]}.nc"
    if path.is_file():
        with suppress(StoreError):  # a damaged array is made again from the sessions
            return assemblies.load_array(path)
    array = build()
    try:
        assemblies.save(array, path)
    except StoreError:  # a full or read-only disk: it is made again the next time
        return array
    for old in path.parent.glob(f"{site}.{prefix}*.nc"):
        if old != path:  # of sessions that have been added to since
            old.unlink(missing_ok=True)
    return array


def with_ceilings(array: xr.DataArray, recordings: list[Recording], recipe: Recipe, **counts: int) -> xr.DataArray:
    """Return a site's array with its ceilings and the selection bias as attributes, and further counts."""
    bias = ceilings.selection_bias(recordings, recipe)
    more = {f"selection_bias_{name}": value for name, value in bias.items()}
    together = {**json.loads(array.attrs["counts"]), **counts}
    held, expected = together["sessions"], together.get("expected")
    notes = [f"{held} of {expected} sessions are held"] if expected and held < expected else []
    told = {"counts": json.dumps(together), "notes": json.dumps(notes)}
    return array.assign_attrs({**ceilings.site_ceilings(array, recipe.seed), **more, **told})


def describe_sites(sites: Iterable[str], describe: Callable[[str], str]) -> tuple[list[str], list[str]]:
    """Return a line for each site, and one for each that cannot be made.

    A site whose neurons are all unreliable is a fact, not a failure.
    """
    lines, failed = [], []
    for site in sites:
        try:
            lines.append(f"{site}: {describe(site)}")
        except MissingData as error:
            lines.append(error.message)
        except MousebenchError as error:
            failed.append(f"{site}: {error.message}")
    return lines, failed
