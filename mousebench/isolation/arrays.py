"""Make bytes of numpy arrays, and arrays of bytes (safetensors: no code in them, sizes checked); names that can be shown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from mousebench.errors import ContractViolation

_LONGEST = 2_000  # characters of a label


def pack_arrays(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Return arrays of numbers as bytes (safetensors)."""
    return save({name: np.array(array, order="C") for name, array in arrays.items()})


def unpack_arrays(payload: bytes | bytearray) -> dict[str, np.ndarray]:
    """Return the arrays of ``pack_arrays``; raise ContractViolation if these are none."""
    if not payload:
        return {}
    try:
        return {name: np.array(array) for name, array in load(bytes(payload)).items()}
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise ContractViolation(f"these are no arrays: {error}") from error


def label(text: Any) -> str:
    """Return a name or a label, or raise ContractViolation if it is no text that can be shown."""
    if not isinstance(text, str) or len(text) > _LONGEST or not text.isprintable():
        raise ContractViolation(f"{str(text)[:60]!r} is no label: text of at most {_LONGEST} printable characters")
    return text
