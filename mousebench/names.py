"""What a model that nobody registered is called, and the files of results are."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from mousebench.specs import check_identifier, file_name, is_identifier

_LONG = 60


def split_local_model(name: str) -> tuple[Path, str] | None:
    """Return the file and the function of ``path/to/file.py:function``, None for any other name."""
    path, colon, function = name.rpartition(":")
    return (Path(path), function) if colon and path.endswith(".py") else None


def changed_name(identifier: str, weights: Path | None, layers: Sequence[str] | None) -> str:
    """Return what a model is called with other weights or layers: ``NAME+FILE_STEM``, ``NAME[PATTERN,...]``, or both."""
    if weights is not None:
        identifier += "+" + re.sub(r"[^A-Za-z0-9._-]+", "_", weights.stem)
    if layers is not None:
        text = ",".join(layers)
        if len(text) > _LONG:  # it becomes part of a file's name
            text = f"{text[:_LONG]}...{hashlib.sha256(text.encode()).hexdigest()[:8]}"
        identifier += f"[{text}]"
    return identifier


def result_name(identifier: str) -> str:
    """Return the file name, without ending, of the results of a model; ``local-...`` for those that nobody registered."""
    if is_identifier(identifier):
        return file_name(identifier)
    name, bracket, layers = identifier.partition("[")
    name, plus, weights = name.partition("+")
    stem, colon, function = name.partition(":")
    if not (bracket or plus or colon):
        check_identifier(identifier)
    parts = ["local", stem, function, weights, *(("layers", layers.removesuffix("]")) if bracket else ())]
    return "-".join(file_name(part) for part in parts if part)
