"""The Python interface: list, load and score by identifier, or score an object as it is."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import xarray as xr

from mousebench import scoring, store
from mousebench.comparison import Comparison, Named, choose_sites
from mousebench.errors import ContractViolation
from mousebench.interfaces import Benchmark, Metric, Model
from mousebench.plugins import Catalogue, discover, local_model, split_local_model
from mousebench.progress import Progress


@lru_cache(maxsize=1)
def catalogue() -> Catalogue:
    """Return what is installed, discovered once a process."""
    return discover()


def list_models() -> list[str]:
    """Return the identifiers of all models."""
    return catalogue().identifiers("models")


def list_benchmarks() -> list[str]:
    """Return the identifiers of all benchmarks."""
    return catalogue().identifiers("benchmarks")


def list_metrics() -> list[str]:
    """Return the identifiers of all metrics."""
    return catalogue().identifiers("metrics")


def load_model(identifier: str) -> Model:
    """Build a model; ``path/to/file.py:function`` names one that nobody registered."""
    model: Model = named_model(identifier, catalogue()).thing
    return model


def load_benchmark(identifier: str) -> Benchmark:
    """Build a benchmark; its data need not be there."""
    benchmark: Benchmark = catalogue().load("benchmarks", identifier)
    return benchmark


def load_metric(identifier: str) -> Metric:
    """Build a metric."""
    metric: Metric = catalogue().load("metrics", identifier)
    return metric


def named_model(model: Any, found: Catalogue) -> Named:
    """Return a model with its name and plugin, from an identifier, ``file.py:function``, a module or a Model."""
    if not isinstance(model, str):
        return Named(f"python:{type(model).__name__}", scoring.as_model(model), None)
    local = split_local_model(model)
    if local is None:
        return _loaded_model(model, found)
    one = Catalogue()
    entry = local_model(*local)
    one.entries["models"][entry.spec.identifier] = [entry]
    return _loaded_model(entry.spec.identifier, one)


def _loaded_model(identifier: str, found: Catalogue) -> Named:
    thing = found.load("models", identifier)
    try:
        return Named(identifier, scoring.as_model(thing), found.find("models", identifier).plugin)
    except ContractViolation as error:
        raise ContractViolation(f"model {identifier!r}: {error.message}", error.hint) from error


def named(kind: str, thing: Any, found: Catalogue) -> Named:
    """Return a benchmark or metric with its name and plugin, from an identifier or an object."""
    if isinstance(thing, str):
        return Named(thing, found.load(kind, thing), found.find(kind, thing).plugin)
    return Named(f"python-{type(thing).__name__.lower()}", thing, None)


def score(
    model: Any,
    benchmark: Any,
    metric: Any = None,
    sites: Sequence[str] | None = None,
    seed: int = 0,
    *,
    device: str = "auto",
    results: str | Path | None = None,
    progress: Progress | None = None,
) -> xr.Dataset:
    """Score one model on one benchmark.

    Parameters
    ----------
    model : str, torch.nn.Module or Model
        An identifier, ``path/to/file.py:function``, or the thing itself: nothing need be registered.
    benchmark : str or Benchmark
    metric : str or Metric, optional
        The benchmark's first by default.
    sites : sequence of str, optional
        All by default.
    seed : int
    device : {"auto", "cpu", "cuda", "mps"}
    results : path, optional
        A folder in which to store the result; it is not stored by default.
    progress : Progress, optional

    Returns
    -------
    Dataset
        Along ``site``: raw, ceiling, score, explained, null_mean, null_p and more; see ``results.assemble``.

    Raises
    ------
    MousebenchError
        For everything that the caller can mend; the message says what, the hint how.

    Examples
    --------
    >>> import mousebench as mb
    >>> result = mb.score(model="pixels", benchmark="sim-ns", sites=["VISp.L6"])
    """
    found = catalogue()
    chosen = named("benchmarks", benchmark, found)
    judge = named("metrics", chosen.thing.metrics[0] if metric is None else metric, found)
    comparison = Comparison(chosen, judge, choose_sites(chosen, sites), seed)
    if progress is not None:
        comparison.progress = progress
    subject = named_model(model, found)
    result = scoring.score_model(subject, comparison, device=device, progress=progress)
    if results is not None:
        version = chosen.thing.version
        store.write(
            result, store.result_path(Path(results), chosen.identifier, version, judge.identifier, subject.identifier)
        )
    return result
