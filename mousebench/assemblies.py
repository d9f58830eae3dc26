"""Labelled arrays: stimuli, responses, RDMs. Checking, aligning, averaging, splitting, and netCDF.

All objects are plain xarray DataArrays and Datasets with flat, non-index coordinates. They are matched by
``stimulus_id``, never by position.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import xarray as xr

from mousebench.errors import ContractViolation, StoreError

NEUROID_COORDS = (
    "neuroid_id",
    "site",
    "area",
    "layer",
    "depth_um",
    "cre_line",
    "experiment_id",
    "animal_id",
    "reliability",
)
_SYMMETRY = 1e-9
_HASH = "content_sha256"

T = TypeVar("T", xr.Dataset, xr.DataArray)


def make_stimuli(values: np.ndarray, stimulus_id: Sequence[Any] | np.ndarray, **attrs: Any) -> xr.DataArray:
    """Return checked stimuli, uint8 (stimulus, y, x) or (stimulus, y, x, channel)."""
    dims = ("stimulus", "y", "x", "channel")[: np.ndim(values)]
    return check_stimuli(_labelled(values, dims, {"stimulus_id": ("stimulus", np.asarray(stimulus_id))}, attrs))


def make_responses(
    values: np.ndarray,
    stimulus_id: Sequence[Any] | np.ndarray,
    repetition: Sequence[int] | np.ndarray,
    neuroid: Mapping[str, Any],
    **attrs: Any,
) -> xr.DataArray:
    """Return checked trial-level responses.

    Parameters
    ----------
    values : (presentation, neuroid)
        Stored as float32; NaN is a trial that is missing.
    stimulus_id, repetition : (presentation)
    neuroid : mapping of coordinate name to (neuroid) values
        Must hold ``neuroid_id``; see NEUROID_COORDS for the others.
    **attrs
        Strings and numbers.

    Raises
    ------
    ContractViolation
        If shapes or labels are wrong.
    """
    coords: dict[Hashable, Any] = {
        "stimulus_id": ("presentation", np.asarray(stimulus_id)),
        "repetition": ("presentation", np.asarray(repetition)),
    }
    coords.update({name: ("neuroid", np.asarray(column)) for name, column in neuroid.items()})
    responses = _labelled(np.asarray(values, dtype=np.float32), ("presentation", "neuroid"), coords, attrs)
    check_target(responses)
    return responses


def make_rdm(
    values: np.ndarray, stimulus_id: Sequence[Any] | np.ndarray, *, distance: str = "correlation", **attrs: Any
) -> xr.DataArray:
    """Return a checked RDM, float64 dissimilarities (stimulus, stimulus_b)."""
    ids = np.asarray(stimulus_id)
    coords: dict[Hashable, Any] = {"stimulus_id": ("stimulus", ids), "stimulus_id_b": ("stimulus_b", ids)}
    attrs = {"distance": distance, **attrs}
    rdm = _labelled(np.asarray(values, dtype=np.float64), ("stimulus", "stimulus_b"), coords, attrs)
    check_target(rdm)
    return rdm


def _labelled(
    values: np.ndarray, dims: Sequence[str], coords: Mapping[Hashable, Any], attrs: Mapping[str, Any]
) -> xr.DataArray:
    try:
        return xr.DataArray(values, dims=dims, coords=coords, attrs=attrs)
    except ValueError as error:
        raise ContractViolation(f"values and labels do not fit: {error}") from error


def check_stimuli(stimuli: xr.DataArray) -> xr.DataArray:
    """Return the stimuli, or raise ContractViolation if they are not labelled uint8 images."""
    if stimuli.dims not in (("stimulus", "y", "x"), ("stimulus", "y", "x", "channel")):
        raise ContractViolation(f"stimuli have dimensions {stimuli.dims}; (stimulus, y, x[, channel]) is expected")
    if stimuli.dtype != np.uint8:
        raise ContractViolation(f"stimuli are {stimuli.dtype}; uint8 in 0..255 is expected")
    if stimuli.ndim == 4 and stimuli.sizes["channel"] != 3:
        raise ContractViolation(
            f"stimuli have {stimuli.sizes['channel']} channels; 3, or no channel dimension, is expected"
        )
    _unique_ids(stimuli, "stimulus", "stimulus_id")
    return stimuli


def check_target(target: xr.DataArray) -> str:
    """Return the kind of a target, "responses" or "rdm".

    Raises
    ------
    ContractViolation
        If it is neither, or its labels or values break the contract.
    """
    if target.dims == ("presentation", "neuroid"):
        _check_responses(target)
        return "responses"
    if target.dims == ("stimulus", "stimulus_b"):
        _check_rdm(target)
        return "rdm"
    raise ContractViolation(
        f"a target has dimensions {target.dims}; (presentation, neuroid) or (stimulus, stimulus_b) is expected"
    )


def _check_responses(responses: xr.DataArray) -> None:
    for dim, name in (("presentation", "stimulus_id"), ("presentation", "repetition"), ("neuroid", "neuroid_id")):
        _coordinate(responses, dim, name)
    if responses.dtype != np.float32:
        raise ContractViolation(f"responses are {responses.dtype}; float32 is expected")
    if responses.sizes["neuroid"] == 0 or responses.sizes["presentation"] == 0:
        raise ContractViolation(f"responses are empty: {dict(responses.sizes)}")
    if np.isinf(responses.values).any():
        raise ContractViolation("responses hold infinite values; a missing trial is NaN")
    neuroids = responses["neuroid_id"].values
    if len(set(neuroids.tolist())) < len(neuroids):
        raise ContractViolation(f"neuroid_id {_first_duplicate(neuroids)!r} occurs more than once")
    trials = set()
    for trial in zip(responses["stimulus_id"].values.tolist(), responses["repetition"].values.tolist(), strict=True):
        if trial in trials:
            raise ContractViolation(f"stimulus {trial[0]!r} has repetition {trial[1]!r} more than once")
        trials.add(trial)


def _check_rdm(rdm: xr.DataArray) -> None:
    ids = _unique_ids(rdm, "stimulus", "stimulus_id")
    ids_b = _unique_ids(rdm, "stimulus_b", "stimulus_id_b")
    if len(ids) != len(ids_b) or not np.array_equal(ids, ids_b):
        raise ContractViolation("the rows and the columns of an RDM are not the same stimuli in the same order")
    values = rdm.values
    if values.size == 0:
        raise ContractViolation("an RDM is empty")
    if rdm.dtype != np.float64:
        raise ContractViolation(f"an RDM is {rdm.dtype}; float64 is expected")
    if not np.isfinite(values).all():
        raise ContractViolation("an RDM holds NaN or infinite values")
    if np.abs(values - values.T).max() > _SYMMETRY:
        raise ContractViolation("an RDM is not symmetric")
    if np.abs(np.diag(values)).max() > _SYMMETRY:
        raise ContractViolation("an RDM's diagonal is not 0: dissimilarities are expected, not similarities")
    if rdm.attrs.get("distance") != "correlation":
        raise ContractViolation(f"an RDM has distance {rdm.attrs.get('distance')!r}; 'correlation' is expected")


def _coordinate(array: xr.DataArray, dim: str, name: str) -> np.ndarray:
    if name not in array.coords or array.coords[name].dims != (dim,):
        raise ContractViolation(f"coordinate {name!r} along {dim!r} is missing")
    return np.asarray(array.coords[name].values)


def _unique_ids(array: xr.DataArray, dim: str, name: str) -> np.ndarray:
    ids = _coordinate(array, dim, name)
    if len(set(ids.tolist())) < len(ids):
        raise ContractViolation(f"{name} {_first_duplicate(ids)!r} occurs more than once")
    return ids


def _first_duplicate(ids: np.ndarray) -> Any:
    values = ids.tolist()
    return next(value for number, value in enumerate(values) if value in values[:number])


def _positions(have: np.ndarray, want: np.ndarray) -> np.ndarray:
    """Return where each wanted id stands; raise ContractViolation unless both hold the same ids, once each."""
    where = {value: position for position, value in enumerate(have.tolist())}
    wanted = want.tolist()
    missing = [value for value in wanted if value not in where]
    extra = set(where) - set(wanted)
    if len(set(wanted)) < len(wanted):
        raise ContractViolation(f"stimulus_id {_first_duplicate(want)!r} is asked for more than once")
    if missing or extra:
        parts = [
            f"{len(ids)} {word} (first {next(iter(ids))!r})"
            for ids, word in ((missing, "missing"), (sorted(extra, key=str), "unknown"))
            if ids
        ]
        raise ContractViolation(f"the target's stimuli are not the benchmark's: {', '.join(parts)}")
    return np.array([where[value] for value in wanted], dtype=int)


def align(target: xr.DataArray, stimulus_id: Sequence[Any] | np.ndarray) -> xr.DataArray:
    """Return the target with its stimuli in the given order.

    An RDM is reordered on both sides; presentations are sorted by stimulus, then by repetition.

    Raises
    ------
    ContractViolation
        If a stimulus is missing, unknown, or there twice.
    """
    want = np.asarray(stimulus_id)
    if check_target(target) == "rdm":
        order = _positions(target["stimulus_id"].values, want)
        return target.isel(stimulus=order, stimulus_b=order)
    shown = target["stimulus_id"].values
    seen = list(dict.fromkeys(shown.tolist()))
    _positions(np.asarray(seen, dtype=shown.dtype), want)
    rank = {value: position for position, value in enumerate(want.tolist())}
    code = np.array([rank[value] for value in shown.tolist()])
    order = np.lexsort((target["repetition"].values, code))
    return target if np.array_equal(order, np.arange(len(order))) else target.isel(presentation=order)


def stimulus_ids(target: xr.DataArray) -> np.ndarray:
    """Return the ids of the stimuli of a target, in order of appearance."""
    shown = target["stimulus_id"].values
    if target.dims[0] == "stimulus":
        return np.asarray(shown)
    return np.asarray(list(dict.fromkeys(shown.tolist())), dtype=shown.dtype)


def trial_cube(responses: xr.DataArray) -> tuple[np.ndarray, np.ndarray]:
    """Arrange trials by stimulus and repetition.

    Returns
    -------
    cube : float32 (stimulus, repetition, neuroid)
        Stimuli in order of appearance; NaN where a stimulus lacks a repetition.
    stimulus_id : (stimulus)
    """
    ids = stimulus_ids(responses)
    rank = {value: position for position, value in enumerate(ids.tolist())}
    code = np.array([rank[value] for value in responses["stimulus_id"].values.tolist()])
    repetitions, trial = np.unique(responses["repetition"].values, return_inverse=True)
    shape = (len(ids), len(repetitions), responses.sizes["neuroid"])
    flat = code * shape[1] + trial
    if np.array_equal(flat, np.arange(shape[0] * shape[1])):
        return responses.values.reshape(shape), ids
    cube = np.full((shape[0] * shape[1], shape[2]), np.nan, dtype=np.float32)
    cube[flat] = responses.values
    return cube.reshape(shape), ids


def average(responses: xr.DataArray) -> xr.Dataset:
    """Average over repetitions, leaving out missing trials.

    Returns
    -------
    Dataset
        ``mean`` float64 (stimulus, neuroid), NaN where no trial is left, and ``n_trials`` int (stimulus, neuroid); the
        stimuli in order of appearance.
    """
    cube, ids = trial_cube(responses)
    there = ~np.isnan(cube)
    count = there.sum(1)
    total = np.where(there, cube, 0).sum(1, dtype=np.float64)
    mean = np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
    neuroid = {name: value for name, value in responses.coords.items() if value.dims == ("neuroid",)}
    return xr.Dataset(
        {"mean": (("stimulus", "neuroid"), mean), "n_trials": (("stimulus", "neuroid"), count)},
        coords={"stimulus_id": ("stimulus", ids), **neuroid},
        attrs=dict(responses.attrs),
    )


def split_halves(responses: xr.DataArray, rng: np.random.Generator) -> tuple[xr.DataArray, xr.DataArray]:
    """Split the repetitions at random into two halves, the same for all stimuli and neuroids.

    With an odd number of repetitions the second half has one more.
    """
    repetitions = rng.permutation(np.unique(responses["repetition"].values))
    first = np.isin(responses["repetition"].values, repetitions[: len(repetitions) // 2])
    if first.all() or not first.any():
        raise ContractViolation("responses with a single repetition cannot be split into halves")
    return responses.isel(presentation=first), responses.isel(presentation=~first)


def content_hash(data: xr.DataArray | xr.Dataset) -> str:
    """Return the sha256 of names, dimensions, dtypes, values and attributes."""
    dataset = data.to_dataset(name="_data") if isinstance(data, xr.DataArray) else data
    digest = hashlib.sha256()
    for name in sorted(map(str, dataset.variables)):
        variable = dataset.variables[name]
        values = np.asarray(variable.values)
        if values.dtype.kind in "OUST":
            digest.update(json.dumps([name, variable.dims, "text", values.astype(str).ravel().tolist()]).encode())
        else:
            digest.update(json.dumps([name, variable.dims, values.dtype.str, values.shape]).encode())
            digest.update(np.ascontiguousarray(values).data)
        digest.update(_attrs_text(variable.attrs))
    digest.update(_attrs_text(dataset.attrs))
    if isinstance(data, xr.DataArray):
        digest.update(_attrs_text(data.attrs))
    return digest.hexdigest()


def _attrs_text(attrs: Mapping[Any, Any]) -> bytes:
    # netCDF gives numbers back as numpy scalars: compare what they are, not how they are held
    plain = {str(key): value.item() if isinstance(value, np.generic) else value for key, value in attrs.items()}
    return json.dumps(plain, sort_keys=True, default=str).encode()


def save(data: T, path: Path) -> None:
    """Write a Dataset or DataArray to netCDF, whole or not at all, with its content hash.

    Raises
    ------
    StoreError
        If the file cannot be written (no permission, no space); nothing is left behind.
    """
    dataset = data.to_dataset(name="_data") if isinstance(data, xr.DataArray) else data.copy(deep=False)
    if isinstance(data, xr.DataArray):
        dataset.attrs["_dataarray"] = 1 if data.name is None else str(data.name)
    for name, variable in dataset.variables.items():
        _check_attrs(f"{name}: ", variable.attrs)
    _check_attrs("", dataset.attrs)
    dataset.attrs[_HASH] = content_hash(dataset)
    # not shuffled: events and spike counts, half or more of them zeros, are up to four times quicker to write and smaller;
    # values without zeros (dF/F) take a third longer and a tenth more room
    encoding = {
        name: {"zlib": True, "complevel": 1, "shuffle": False}
        for name, variable in dataset.variables.items()
        if variable.dtype == np.float32 and variable.size > 10_000
    }
    with replacing(path) as temporary:
        dataset.to_netcdf(temporary, engine="netcdf4", encoding=encoding)


def load(path: Path) -> xr.Dataset:
    """Read a Dataset that ``save`` wrote, all of it, and check its content hash.

    Raises
    ------
    StoreError
        If the file is not there, cannot be read, or is not what was written.
    """
    if not path.is_file():
        raise StoreError(f"{path} does not exist")
    try:
        dataset = xr.load_dataset(path, engine="netcdf4")
    except Exception as error:  # netCDF4, HDF5 and xarray raise many kinds for a damaged file
        raise StoreError(f"{path} cannot be read: {error}", "delete the file, it is damaged") from error
    for name, variable in dataset.variables.items():
        if variable.dtype.kind in "OT":
            dataset[name] = variable.astype(str)
        dataset[name].encoding = {}
    dataset.encoding = {}
    expected = dataset.attrs.pop(_HASH, None)
    if expected is None:
        raise StoreError(f"{path} has no content hash: mousebench did not write it", "delete the file")
    if content_hash(dataset) != expected:
        raise StoreError(f"{path} is not what was written: its content hash differs", "delete the file, it is damaged")
    return dataset


def load_array(path: Path) -> xr.DataArray:
    """Read a DataArray that ``save`` wrote; raises as ``load`` does."""
    dataset = load(path)
    name = dataset.attrs.get("_dataarray")
    if name is None:
        raise StoreError(f"{path} holds a Dataset, a DataArray is expected", "delete the file")
    return dataset["_data"].rename(None if not isinstance(name, str) else name)


def _check_attrs(where: str, attrs: Mapping[Any, Any]) -> None:
    for key, value in attrs.items():
        if isinstance(value, bool) or not isinstance(value, str | int | float | np.integer | np.floating):
            raise ContractViolation(
                f"attribute {where}{key!r} is {value!r}; netCDF attributes hold strings and numbers"
            )


class replacing:
    """Write a file under a temporary name in its folder; on success it takes the final name, on failure it goes.

    Use as ``with replacing(path) as temporary: ...``.

    Raises
    ------
    StoreError
        If the folder or the file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}-{secrets.token_hex(4)}")

    def __enter__(self) -> Path:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.temporary.touch()
        except OSError as error:
            raise self._cannot(error) from error
        return self.temporary

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: Any) -> None:
        try:
            if error is None:
                with self.temporary.open("rb") as file:
                    os.fsync(file.fileno())
                self.temporary.replace(self.path)
                return
        except OSError as failed:
            error = failed
        self.temporary.unlink(missing_ok=True)
        # netCDF4 reports a full disk as RuntimeError("NetCDF: HDF error")
        if isinstance(error, OSError) or (isinstance(error, RuntimeError) and "HDF" in str(error)):
            raise self._cannot(error) from error

    def _cannot(self, error: BaseException) -> StoreError:
        reason = getattr(error, "strerror", None) or error
        return StoreError(
            f"cannot write {self.path}: {reason}", "check the permissions of the folder and the free space of the disk"
        )
