"""What a model, a benchmark and a metric are: the contract that plugins implement."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np
    import xarray as xr


class Model(Protocol):
    """A thing that turns images into the activations of named layers.

    Attributes
    ----------
    layers : sequence of str
        Names in order of execution.
    fingerprint : mapping of str to str
        Everything that changes the numbers: hash of the weights, preprocessing, input size, seed, code.
    intercept_only : bool, optional
        True for a model that has no layers on purpose, the one that knows nothing. For any other model no layer is an
        error.
    """

    @property
    def layers(self) -> Sequence[str]: ...

    @property
    def fingerprint(self) -> Mapping[str, str]: ...

    def activations(self, images: np.ndarray, layers: Sequence[str]) -> Mapping[str, np.ndarray]:
        """Return the activations of some layers.

        Parameters
        ----------
        images : uint8 (image, height, width, 3)
        layers : sequence of str
            A subset of ``self.layers``.

        Returns
        -------
        mapping of layer to float (image, feature)
            May be lazy: each layer is asked for once, in order.
        """
        ...


class MadeOfData(Protocol):
    """Optional: a model that is made of a benchmark's own data, such as one half of the trials.

    It has the attributes of a Model, and is none until it has taken its data.
    """

    def take_from(self, benchmark: Benchmark, identifier: str) -> tuple[Model, Benchmark]:
        """Return the model, and the benchmark of what is left: no number may be on both sides.

        What is left has the sites, metrics and stimuli of the benchmark; a target's attribute ``notes`` says what was
        taken. It is read anew for every run, so that the model is the same whatever sites are asked for.
        """
        ...


class Benchmark(Protocol):
    """Stimuli, and for each site what the brain answered to them.

    Attributes
    ----------
    version : int
        Raised when scores can change.
    sites : sequence of str
    metrics : sequence of str
        Identifiers of the metrics that the targets support, the default first.
    """

    @property
    def version(self) -> int: ...

    @property
    def sites(self) -> Sequence[str]: ...

    @property
    def metrics(self) -> Sequence[str]: ...

    def stimuli(self) -> xr.DataArray:
        """Return uint8 (stimulus, y, x) or (stimulus, y, x, channel) with coordinate stimulus_id; never downloads."""
        ...

    def target(self, site: str) -> xr.DataArray:
        """Return responses (presentation, neuroid) or an RDM (stimulus, stimulus_b) of one site."""
        ...


class Metric(Protocol):
    """A comparison of a model's layers with one site.

    Attributes
    ----------
    version : int
        Raised when scores can change.
    accepts : collection of str
        Of {"responses", "rdm"}: the kinds of target it can use.
    normalisation : str
        "ratio" (score = raw / ceiling); for recipes published so "squared" (raw^2 / ceiling), "squared-ratio" ((raw / ceiling)^2)
        or "published": ``score`` gives the score as well, because the recipe's correction depends on the model.
    """

    @property
    def version(self) -> int: ...

    @property
    def accepts(self) -> Collection[str]: ...

    @property
    def normalisation(self) -> str: ...

    def score(self, layers: Mapping[str, xr.Dataset], target: xr.DataArray, seed: int) -> xr.Dataset:
        """Return ``raw`` (scalar or along neuroid), never divided by a ceiling, and what goes with it.

        Parameters
        ----------
        layers : mapping of layer to Dataset
            ``gram`` float64 (stimulus, stimulus_b), ``feature_sum`` (stimulus), attribute ``n_features``. An empty
            mapping is the model that predicts a constant: its ``raw`` is 0, of every neuroid for a metric per neuroid,
            unless the metric is named after a publication whose recipe gives a constant another value. Layers that
            are all unusable are an error.
        target : DataArray
            Responses or RDM, its stimuli in the order of the layers'.
        seed : int

        Returns
        -------
        Dataset
            ``raw``; where the metric has them ``best_layer``, ``weight`` (layer), ``layer_raw`` (layer), ``null``
            (permutation), ``bootstrap`` (bootstrap); with the normalisation "published" also ``score``, as raw, and
            ``score_bootstrap``, as bootstrap; attributes ``definition`` (JSON) and ``notes`` (JSON list).
        """
        ...

    def ceiling(self, target: xr.DataArray, seed: int) -> xr.Dataset:
        """Return ``ceiling``, shaped as raw: the raw that a perfect model would reach in expectation."""
        ...


class ManySites(Protocol):
    """Optional: a metric that shares work between the sites of a benchmark."""

    def score_sites(
        self, layers: Mapping[str, xr.Dataset], targets: Mapping[str, xr.DataArray], seed: int, progress: Any = None
    ) -> Mapping[str, xr.Dataset]:
        """Return for each site what ``score`` would return for it alone."""
        ...
