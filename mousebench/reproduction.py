"""Run again what a result says of itself, and say by how much it comes out differently."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from mousebench import store
from mousebench.api import named, named_model
from mousebench.catalogue import LOCAL, Catalogue
from mousebench.comparison import Comparison, Named, choose_sites
from mousebench.errors import StoreError, UnknownIdentifier, UsageError
from mousebench.progress import Progress
from mousebench.scoring import score_model
from mousebench.specs import KINDS, is_identifier

TOLERANCE = 1e-6
_GIVE_THE_FILE = "give the plugin's file: mousebench --plugin FILE.py reproduce ..."
NUMBERS = ("raw", "ceiling", "score", "ci_low", "ci_high", "null_mean", "null_p")


@dataclass(frozen=True)
class Reproduction:
    """A result, the same run again, and what is not the same.

    Attributes
    ----------
    before, now : Dataset
    differences : dict of site to dict of name to float
        |now - before| of each number; 0 where both are NaN, infinite where one is.
    changed : list of (what, before, now)
        Versions, hashes and devices that differ.
    """

    before: xr.Dataset
    now: xr.Dataset
    differences: dict[str, dict[str, float]]
    changed: list[tuple[str, str, str]]

    @property
    def largest(self) -> float:
        """The largest difference of all."""
        return max(value for row in self.differences.values() for value in row.values())

    @property
    def same(self) -> bool:
        """Whether all numbers are within TOLERANCE of what they were."""
        return self.largest <= TOLERANCE


def reproduce(
    path: Path,
    found: Catalogue,
    *,
    model: str | None = None,
    weights: str | None = None,
    layers: list[str] | None = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> Reproduction:
    """Score again what a result file holds: same model, benchmark, metric, seed and sites, nothing from a cache.

    Parameters
    ----------
    path : Path
    found : Catalogue
    model : str, optional
        ``file.py:function``, for the result of a local model; or the name of the net, with weights or layers.
    weights, layers
        As ``mousebench score`` got them; a result does not hold them.
    device : str
    progress : Progress, optional

    Raises
    ------
    MousebenchError
        If it cannot be run: the file is no result of this format, a plugin is not installed or is another one, a file of
        a local model is not given, data are not there or have another version.
    """
    before, about = _read(path)
    for kind in KINDS:
        _refuse_if_not_installed(kind, str(before.attrs[kind[:-1]]), about, found)
    benchmark, metric = (named(kind, str(before.attrs[kind[:-1]]), found) for kind in ("benchmarks", "metrics"))
    for part, kind in ((benchmark, "benchmarks"), (metric, "metrics")):
        _same_owner(kind, part, about)
        was, here = int(before.attrs[f"{kind[:-1]}_version"]), int(part.thing.version)
        if was != here:
            raise UsageError(
                f"the result was made with version {was} of {kind[:-1]} {part.identifier!r}; version {here} is installed",
                f"install mousebench {about.get('mousebench', '')} {about.get('git', '')}".rstrip()
                + ", or score it again",
            )
    subject = _model(before, about, found, model, weights, layers)
    sites = before["site"].values.tolist()
    comparison = Comparison(benchmark, metric, choose_sites(benchmark, sites), int(before.attrs["seed"]))
    if progress is not None:
        comparison.progress = progress
    now = score_model(subject, comparison, device=device, progress=progress, fresh=True)
    here = json.loads(now.attrs["provenance"])
    changed = [*_changed(about, here), *_other_targets(before, now)]
    return Reproduction(before, now, _differences(before, now), changed)


def _read(path: Path) -> tuple[xr.Dataset, dict[str, Any]]:
    result = store.read(path)
    try:
        about = json.loads(result.attrs["provenance"])
        for kind in KINDS:
            _ = str(result.attrs[kind[:-1]]), about[kind[:-1]]["distribution"]
        _ = int(result.attrs["seed"]), int(result.attrs["benchmark_version"]), int(result.attrs["metric_version"])
        _ = result["site"], result["raw"], result["target_sha256"]
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError(
            f"{path} is no result: {type(error).__name__} {error}", "give a file that 'score' wrote"
        ) from error
    return result, about


def _refuse_if_not_installed(kind: str, name: str, about: Mapping[str, Any], found: Catalogue) -> None:
    if not is_identifier(name) or found.has(kind, name):  # what has no plain name is said by ``_model``
        return
    made_by = about[kind[:-1]]
    hint = f"install {made_by['distribution']} {made_by['version']}"
    raise UnknownIdentifier(
        f"the result was made with {kind[:-1]} {name!r} of {made_by['distribution']}, which is not installed",
        _GIVE_THE_FILE if made_by["distribution"] == LOCAL else hint,
    )


def _same_owner(kind: str, part: Named, about: Mapping[str, Any]) -> None:
    """Refuse a plugin of another distribution under the same name."""
    made_by = about[kind[:-1]]["distribution"]
    here = part.plugin.distribution if part.plugin else LOCAL
    if made_by != here:
        raise UsageError(
            f"the result was made with {kind[:-1]} {part.identifier!r} of {made_by}; here it comes from {here}",
            _GIVE_THE_FILE if made_by == LOCAL else f"install {made_by}",
        )


def _model(
    before: xr.Dataset,
    about: Mapping[str, Any],
    found: Catalogue,
    model: str | None,
    weights: str | None,
    layers: list[str] | None,
) -> Named:
    """Return the model of a result."""
    name = str(before.attrs["model"])
    if model is None and not is_identifier(name):
        how = "--model FILE.py:FUNCTION gives it"
        if name.startswith("python:"):
            how = "it was an object in Python: score it there again"
        elif "+" in name or "[" in name:
            how = "--model NET, with the --weights FILE and --layers PATTERN,... that it was scored with, gives it"
        raise UsageError(f"the result is that of {name!r}, a model that nobody registered", how)
    subject = named_model(name if model is None else model, found, weights=weights, layers=layers)
    if subject.identifier != name:
        raise UsageError(
            f"the result is that of {name!r}, not of {subject.identifier!r}", "give the model that was scored"
        )
    _same_owner("models", subject, about)
    return subject


def _differences(before: xr.Dataset, now: xr.Dataset) -> dict[str, dict[str, float]]:
    rows: dict[str, dict[str, float]] = {}
    where = {site: number for number, site in enumerate(now["site"].values.tolist())}
    for number, site in enumerate(before["site"].values.tolist()):
        rows[site] = {}
        for name in NUMBERS:
            if name in before and name in now:
                was, is_ = float(before[name][number]), float(now[name][where[site]])
                away = abs(is_ - was)
                rows[site][name] = 0.0 if np.isnan([was, is_]).all() else float("inf") if np.isnan(away) else away
    return rows


def _changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    was, here = dict(_flat(before)), dict(_flat(now))
    names = [name for name in {**was, **here} if was.get(name) != here.get(name)]
    return [(name, was.get(name, "nothing"), here.get(name, "nothing")) for name in names]


def _flat(content: Mapping[str, Any], top: str = "") -> Iterator[tuple[str, str]]:
    for name, value in content.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{top}{name} ")
        else:
            yield f"{top}{name}", str(value)


def _other_targets(before: xr.Dataset, now: xr.Dataset) -> list[tuple[str, str, str]]:
    was, here = (
        dict(zip(one["site"].values.tolist(), one["target_sha256"].values.tolist(), strict=True))
        for one in (before, now)
    )
    return [(f"data of {site}", digest, here[site]) for site, digest in was.items() if here[site] != digest]
