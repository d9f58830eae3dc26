"""The Python interface: list, load and score by identifier, or score an object as it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xarray as xr

from mousebench import paired, scoring, store
from mousebench.catalogue import LOCAL, Catalogue, Entry
from mousebench.comparison import Comparison, Named, choose_sites
from mousebench.errors import ContractViolation, MissingData, UsageError
from mousebench.interfaces import Benchmark, Metric, Model
from mousebench.models import as_model
from mousebench.names import changed_name, split_local_model
from mousebench.plugins import discover, local_model
from mousebench.progress import Progress, Silent
from mousebench.specs import unregistered

if TYPE_CHECKING:
    from mousebench.torch_model import TorchModel

BLOCKS = "blocks"  # as layers: the top-level blocks of a net


@lru_cache(maxsize=1)
def catalogue() -> Catalogue:
    """Return what is installed, discovered once a process; who imports it from Python runs its code in that process."""
    return discover(trust=True)


def list_models() -> list[str]:
    """Return the identifiers of all models; a family that cannot be listed is there once, as ``timm/NAME``."""
    return catalogue().identifiers("models")


def list_benchmarks() -> list[str]:
    """Return the identifiers of all benchmarks."""
    return catalogue().identifiers("benchmarks")


def list_metrics() -> list[str]:
    """Return the identifiers of all metrics."""
    return catalogue().identifiers("metrics")


def load_model(
    identifier: str, *, weights: str | Path | None = None, layers: str | Sequence[str] | None = None
) -> Model:
    """Build a model; ``path/to/file.py:function`` names one that nobody registered.

    Parameters
    ----------
    identifier : str
    weights : path, optional
        A safetensors or torch file with a state dict, in place of the model's own weights.
    layers : sequence of str, optional
        Names of layers or globs over them, or "blocks" for the top-level blocks alone.
    """
    model: Model = named_model(identifier, catalogue(), weights=weights, layers=layers).thing
    return model


def load_benchmark(identifier: str) -> Benchmark:
    """Build a benchmark; its data need not be there."""
    benchmark: Benchmark = catalogue().load("benchmarks", identifier)
    return benchmark


def load_metric(identifier: str) -> Metric:
    """Build a metric."""
    metric: Metric = catalogue().load("metrics", identifier)
    return metric


def named_model(
    model: Any,
    found: Catalogue,
    *,
    weights: str | Path | None = None,
    layers: str | Sequence[str] | None = None,
) -> Named:
    """Return a model with its name and plugin, from an identifier, ``file.py:function``, a module or a Model."""
    if not isinstance(model, str):
        if weights is not None:
            raise UsageError("weights are for a model that is named, not for an object", "load them into it yourself")
        thing = as_model(model)
        name = changed_name(f"python:{type(model).__name__}", None, _patterns(layers))
        return Named(name, thing if layers is None else _with_layers(thing, name, layers), None)
    if weights is None and layers is None:
        entry, identifier = _find_model(model, found)
    else:
        entry = changed_model(model, found, weights=weights, layers=layers)
        identifier = entry.spec.identifier
    try:
        return Named(identifier, as_model(entry.load(identifier)), entry.plugin, entry.about())
    except ContractViolation as error:
        raise ContractViolation(f"model {identifier!r}: {error.message}", error.hint) from error


def _find_model(model: str, found: Catalogue) -> tuple[Entry, str]:
    """Return the entry of a model and what it is called."""
    local = split_local_model(model)
    if local is None:
        return found.find("models", model), model
    entry = local_model(*local, trust=found.trust)
    return entry, entry.spec.identifier


def changed_model(
    model: str, found: Catalogue, *, weights: str | Path | None = None, layers: str | Sequence[str] | None = None
) -> Entry:
    """Return the entry of a model with weights from a file, or with other layers; it is local, since nobody reviewed it.

    Raises
    ------
    MissingData
        If there is no such file.
    StoreError
        If weights are damaged or do not fit: they are loaded at once, so that this is said before anything is computed.
    """
    entry, identifier = _find_model(model, found)
    path = None if weights is None else Path(weights)
    if path is not None and not path.is_file():
        raise MissingData(f"there is no weights file {str(path)!r}", "give a safetensors or torch file")
    name = changed_name(identifier, path, _patterns(layers))
    load: Callable[[], Model] = partial(load_changed, entry, identifier, path, layers)
    if path is not None:
        load = partial(_as_it_is, load())
    spec = unregistered(name, load, f"{identifier} with other {'layers' if path is None else 'weights'}")
    return Entry("models", spec, replace(entry.plugin, distribution=LOCAL))


def _as_it_is(model: Model) -> Model:
    return model


def load_changed(entry: Entry, identifier: str, weights: Path | None, layers: str | Sequence[str] | None) -> Model:
    """Return the model of an entry with weights from a file, or with other layers."""
    if entry.plugin.isolated:
        isolated: Model = entry.load(
            identifier, weights=None if weights is None else str(weights.resolve()), layers=layers
        )
        return isolated
    model = _torch_model(as_model(entry.load(identifier, untrained=weights is not None)), identifier)
    if weights is not None:
        from mousebench.checkpoints import fill, read_state_dict

        fill(model.module, read_state_dict(weights), weights.name)
    return model if layers is None else _with_layers(model, identifier, layers)


def _with_layers(model: Model, identifier: str, layers: str | Sequence[str]) -> TorchModel:
    """Return the same net and preprocessing with other layers."""
    from mousebench.torch_model import TorchModel

    known = _torch_model(model, identifier)
    patterns = _patterns(layers)
    return TorchModel(known.module, known.preprocess, BLOCKS if patterns == (BLOCKS,) else patterns)


def _patterns(layers: str | Sequence[str] | None) -> tuple[str, ...] | None:
    return None if layers is None else (layers,) if isinstance(layers, str) else tuple(layers)


def _torch_model(model: Model, identifier: str) -> TorchModel:
    from mousebench.torch_model import TorchModel

    if not isinstance(model, TorchModel):
        raise UsageError(f"model {identifier!r} is no torch net: it has neither weights nor layers to choose from")
    return model


def named(kind: str, thing: Any, found: Catalogue) -> Named:
    """Return a benchmark or metric with its name and plugin, from an identifier or an object."""
    if isinstance(thing, str):
        entry = found.find(kind, thing)
        return Named(thing, entry.load(thing), entry.plugin, entry.about())
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
    weights: str | Path | None = None,
    layers: str | Sequence[str] | None = None,
) -> xr.Dataset:
    """Score one model on one benchmark; plugins and files run in this process (the command line isolates them).

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
    weights : path, optional
        A safetensors or torch file with a state dict, in place of the weights of the model that is named.
    layers : sequence of str, optional
        Names of layers or globs over them, or "blocks" for the top-level blocks alone.

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
    comparison = _comparison(benchmark, metric, sites, seed, progress)
    subject = named_model(model, catalogue(), weights=weights, layers=layers)
    result = scoring.score_model(subject, comparison, device=device, progress=progress)
    if results is not None:
        chosen, judge = comparison.benchmark, comparison.metric
        version = chosen.thing.version
        store.write(
            result, store.result_path(Path(results), chosen.identifier, version, judge.identifier, subject.identifier)
        )
    return result


def _comparison(
    benchmark: Any, metric: Any, sites: Sequence[str] | None, seed: int, progress: Progress | None
) -> Comparison:
    found = catalogue()
    chosen = named("benchmarks", benchmark, found)
    judge = named("metrics", chosen.thing.metrics[0] if metric is None else metric, found)
    return Comparison(chosen, judge, choose_sites(chosen, sites), seed, progress or Silent())


def compare(
    models: Sequence[Any] | Mapping[str, Any],
    benchmark: Any,
    metric: Any = None,
    sites: Sequence[str] | None = None,
    seed: int = 0,
    *,
    device: str = "auto",
    progress: Progress | None = None,
) -> xr.Dataset:
    """Score models on one benchmark and compare them: which is better, how sure that is, and which cannot be told apart.

    Results that are there already are compared by ``mousebench.paired.compare(results)``.

    Parameters
    ----------
    models : sequence of models, or mapping of name to model
        Each as in ``score``; names of your own tell two modules of one class apart.
    benchmark, metric, sites, seed, device, progress
        As in ``score``.

    Returns
    -------
    Dataset
        Along ``model``: rank, rank_low, rank_high, group, mean_score; along (model, model_b): mean_difference, mean_low,
        mean_high, mean_p, mean_p_corrected; along (model, model_b, site): difference, low, high, p, p_corrected; see
        ``paired.compare``.

    Raises
    ------
    MousebenchError
        For everything that the caller can mend; the message says what, the hint how.

    Examples
    --------
    >>> import mousebench as mb
    >>> table = mb.compare(["pixels", "noise"], "sim-ns", sites=["VISp.L6"])
    >>> table["mean_p"].sel(model="pixels", model_b="noise")
    """
    comparison = _comparison(benchmark, metric, sites, seed, progress)
    subjects = [named_model(m, catalogue()) for m in (models.values() if isinstance(models, Mapping) else models)]
    names = list(models) if isinstance(models, Mapping) else [subject.identifier for subject in subjects]
    paired.check_models(names)
    scored = [scoring.score_model(subject, comparison, device=device, progress=progress) for subject in subjects]
    return paired.compare([result.assign_attrs(model=name) for result, name in zip(scored, names, strict=True)])
