"""Get the layers of a model as Grams: from the cache, or computed and then cached.

The key of the cache is a hash of contents (weights, preprocessing, code, stimuli), never a name alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import xarray as xr

from mousebench import assemblies
from mousebench.errors import ContractViolation, StoreError
from mousebench.home import home
from mousebench.interfaces import Model
from mousebench.models import in_colour, reduce
from mousebench.progress import Progress, Silent
from mousebench.provenance import installed_version
from mousebench.reduction import Reductions

FORMAT = 1  # raised when the files are laid out differently
NOT_FINITE = "holds NaN or infinite values"


class Layers(Mapping[str, xr.Dataset]):
    """The layers of a model: a mapping of layer to Dataset with ``gram``, ``feature_sum`` and ``n_features``.

    Parameters
    ----------
    dataset : Dataset
        ``gram`` (layer, stimulus, stimulus_b), ``feature_sum`` (layer, stimulus), ``n_features`` (layer).

    Attributes
    ----------
    key : str
        Hash of everything that the numbers follow from.
    notes : list of str
        What a reader of the score has to know, such as layers that were left out.
    extraction : dict of str
        What computed them: device and versions; recorded, not part of the key.
    """

    def __init__(self, dataset: xr.Dataset) -> None:
        self.dataset = dataset
        self.key = str(dataset.attrs["key"])
        self.notes: list[str] = json.loads(dataset.attrs["notes"])
        self.extraction: dict[str, str] = json.loads(dataset.attrs["extraction"])
        self._position = {str(name): number for number, name in enumerate(dataset["layer"].values)}

    def __getitem__(self, layer: str) -> xr.Dataset:
        one = self.dataset.isel(layer=self._position[layer])
        width = int(one["n_features"])
        return one[["gram", "feature_sum"]].assign_attrs(n_features=width)

    def __iter__(self) -> Iterator[str]:
        return iter(self._position)

    def __len__(self) -> int:
        return len(self._position)


def images_of(stimuli: xr.DataArray) -> np.ndarray:
    """Return uint8 (image, height, width, 3); grey stimuli are one plane seen three times, without a copy."""
    return in_colour(stimuli.values)


def representation_key(fingerprint: Mapping[str, str], stimuli_hash: str, source: str) -> str | None:
    """Return the hash that names a representation, or None if a part of it cannot be resolved.

    Parameters
    ----------
    fingerprint : mapping of str to str
        The model's.
    stimuli_hash : str
        ``assemblies.content_hash`` of the stimuli.
    source : str
        Hash of the code that the fingerprint does not cover: the plugin's.
    """
    if "unknown" in fingerprint.values():
        return None
    parts = {"format": FORMAT, "fingerprint": dict(fingerprint), "source": source, "stimuli": stimuli_hash}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def cache_path(name: str, key: str) -> Path:
    """Return the file of a representation."""
    return home() / "representations" / name / key[:32] / "layers.nc"


def get(
    model: Model,
    stimuli: xr.DataArray,
    *,
    name: str,
    key: str | None,
    device: str = "auto",
    progress: Progress | None = None,
    fresh: bool = False,
) -> Layers:
    """Return the layers of a model for some stimuli.

    Parameters
    ----------
    model : Model
    stimuli : uint8 (stimulus, y, x[, channel])
    name : str
        The model's name as one path component; it only makes the cache readable.
    key : str or None
        ``representation_key``; with None nothing is read from the cache or written to it.
    device : str
    progress : Progress, optional
    fresh : bool
        Compute again what is cached.

    Raises
    ------
    ContractViolation
        If the model does not give what the contract says.
    PluginBroken
        If the model's own code fails.
    """
    progress = progress or Silent()
    if getattr(model, "intercept_only", False):
        return _without_layers(model, stimuli, key or "")
    path = cache_path(name, key) if key else None
    cached = None if fresh else _read(path, key, progress)
    if cached is not None:
        return cached
    reductions = reduce(model, images_of(stimuli), device, progress)
    dataset = _to_dataset(reductions, stimuli, key or "")
    if path is None:
        progress.note(f"{name}: not cached, a part of the model has no source or description that could be hashed")
    else:
        try:
            assemblies.save(dataset, path)
        except StoreError as error:
            progress.note(f"{name}: not cached: {error.message}")
    return Layers(dataset)


def _read(path: Path | None, key: str | None, progress: Progress) -> Layers | None:
    if path is None or not path.is_file():
        return None
    try:
        dataset = assemblies.load(path)
    except StoreError as error:
        progress.note(f"computing again: {error.message}")
        return None
    return Layers(dataset) if dataset.attrs.get("key") == key else None


def _to_dataset(reductions: Reductions, stimuli: xr.DataArray, key: str) -> xr.Dataset:
    layers = reductions.layers
    ids = stimuli["stimulus_id"].values
    skipped = dict(reductions.skipped)
    wrong = {layer.name: ~np.isfinite(layer.gram.diagonal()) for layer in layers}
    finite = [layer for layer in layers if not wrong[layer.name].any()]
    skipped.update({name: _not_finite(images) for name, images in wrong.items() if images.any()})
    if not finite:
        raise ContractViolation(
            "no layer is left to score", "; ".join(f"{n}: {why}" for n, why in list(skipped.items())[:3])
        )
    return xr.Dataset(
        {
            "gram": (("layer", "stimulus", "stimulus_b"), np.stack([layer.gram for layer in finite])),
            "feature_sum": (("layer", "stimulus"), np.stack([layer.feature_sum for layer in finite])),
            "n_features": ("layer", np.array([layer.n_features for layer in finite], dtype=np.int64)),
        },
        coords={
            "layer": ("layer", np.array([layer.name for layer in finite], dtype=str)),
            "stimulus_id": ("stimulus", ids),
            "stimulus_id_b": ("stimulus_b", ids),
        },
        attrs={
            "key": key,
            "notes": json.dumps(_notes(skipped)),
            "duplicates": json.dumps(dict(reductions.duplicates)),
            "extraction": json.dumps({"device": reductions.device, "torch": installed_version("torch")}),
        },
    )


def _without_layers(model: Model, stimuli: xr.DataArray, key: str) -> Layers:
    """Return the layers of a model that has none on purpose."""
    if len(model.layers):
        raise ContractViolation(f"the model is intercept_only and has {len(model.layers)} layer(s)")
    n = stimuli.sizes["stimulus"]
    empty = {
        "gram": (("layer", "stimulus", "stimulus_b"), np.empty((0, n, n))),
        "feature_sum": (("layer", "stimulus"), np.empty((0, n))),
        "n_features": ("layer", np.empty(0, dtype=np.int64)),
        "layer": ("layer", np.empty(0, dtype=str)),
    }
    return Layers(xr.Dataset(empty, attrs={"key": key, "notes": "[]", "extraction": "{}"}))


def _not_finite(images: np.ndarray) -> str:
    """Say that a layer is not finite, and for which images where it is not for all."""
    numbers = np.flatnonzero(images)
    which = "" if images.all() else f" for image {', '.join(map(str, numbers[:5]))}"
    return f"{NOT_FINITE}{which}{' and others' if which and len(numbers) > 5 else ''}"


def _notes(skipped: Mapping[str, str]) -> list[str]:
    """Return a note for each reason why layers are left out; it names them all."""
    names: dict[str, list[str]] = {}
    for name, reason in skipped.items():
        names.setdefault(reason, []).append(name)
    return [f"layer{'s' * (len(some) > 1)} {', '.join(some)} left out: {reason}" for reason, some in names.items()]
