"""Make JSON and bytes of xarray Datasets, and Datasets of these: numbers and text, of checked shapes, nothing else."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from mousebench.errors import ContractViolation
from mousebench.isolation.arrays import label, pack_arrays, unpack_arrays

_MOST_DIMENSIONS = 6
_WHITE = "\n\t\r"


def pack(datasets: Mapping[str, xr.Dataset]) -> tuple[dict[str, Any], bytes]:
    """Return Datasets as JSON and bytes.

    Raises
    ------
    ContractViolation
        If one holds something other than numbers and text.
    """
    arrays: dict[str, np.ndarray] = {}
    told = {name: _pack_dataset(dataset, arrays) for name, dataset in datasets.items()}
    return told, pack_arrays(arrays)


def _pack_dataset(dataset: xr.Dataset, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    variables = {}
    for name, variable in dataset.variables.items():
        values = np.asarray(variable.values)
        row: dict[str, Any] = {"dims": list(map(str, variable.dims)), "attrs": _pack_attrs(variable.attrs)}
        if values.dtype.kind in "biuf" and values.dtype.itemsize <= 8:
            row["array"] = f"a{len(arrays)}"
            arrays[row["array"]] = values.astype(values.dtype.newbyteorder("="), copy=False)
        elif values.dtype.kind in "UT" or all(isinstance(value, str) for value in values.flat):
            row |= {"text": values.astype(str).ravel().tolist(), "shape": list(values.shape)}
        else:
            raise ContractViolation(f"{name!r} holds {values.dtype}; numbers or text are expected")
        variables[str(name)] = row
    return {"variables": variables, "coords": list(map(str, dataset.coords)), "attrs": _pack_attrs(dataset.attrs)}


def _pack_attrs(attrs: Mapping[Any, Any]) -> dict[str, Any]:
    plain = {str(name): value.item() if isinstance(value, np.generic) else value for name, value in attrs.items()}
    for name, value in plain.items():
        if not isinstance(value, str | int | float):
            raise ContractViolation(f"attribute {name!r} is {type(value).__name__}; text or a number is expected")
    return plain


def unpack(told: Any, payload: bytes | bytearray) -> dict[str, xr.Dataset]:
    """Return the Datasets of ``pack``.

    Raises
    ------
    ContractViolation
        If anything is of another form.
    """
    arrays = unpack_arrays(payload)
    if not isinstance(told, dict):
        raise ContractViolation("Datasets of no known form")
    return {name: _unpack_dataset(one, arrays) for name, one in told.items()}


def _unpack_dataset(told: Any, arrays: Mapping[str, np.ndarray]) -> xr.Dataset:
    try:
        variables = {label(name): _unpack_variable(row, arrays) for name, row in told["variables"].items()}
        coords = set(told["coords"])
        return xr.Dataset(
            {name: variable for name, variable in variables.items() if name not in coords},
            coords={name: variable for name, variable in variables.items() if name in coords},
            attrs=_unpack_attrs(told["attrs"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ContractViolation(f"a Dataset of no known form: {type(error).__name__}: {error}") from error


def _unpack_variable(row: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> tuple[list[str], np.ndarray, Any]:
    dims = [label(dim) for dim in row["dims"]]
    if len(dims) > _MOST_DIMENSIONS:
        raise ContractViolation(f"an array has {len(dims)} dimensions")
    if "array" in row:
        return dims, arrays[row["array"]], _unpack_attrs(row["attrs"])
    texts, shape = [label(text) for text in row["text"]], [int(size) for size in row["shape"]]
    if len(texts) != math.prod(shape) or min(shape, default=0) < 0:
        raise ContractViolation("text of another shape than is said")
    return dims, np.array(texts, dtype=str).reshape(shape), _unpack_attrs(row["attrs"])


def _unpack_attrs(attrs: Any) -> dict[str, str | int | float]:
    found: dict[str, str | int | float] = {}
    for name, value in attrs.items():
        if not isinstance(value, str | int | float) or (isinstance(value, str) and not _readable(value)):
            raise ContractViolation(f"attribute {label(name)!r} is neither plain text nor a number")
        found[label(name)] = value
    return found


def _readable(text: str) -> bool:
    return all(letter.isprintable() or letter in _WHITE for letter in text)
