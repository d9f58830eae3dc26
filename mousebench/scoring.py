"""Score a model: stimuli -> model -> layers -> metric -> raw -> result."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import xarray as xr
from threadpoolctl import threadpool_limits

from mousebench import representations
from mousebench.comparison import Comparison, Named, bind, blaming, who
from mousebench.errors import ContractViolation, PluginBroken
from mousebench.interfaces import Metric, Model
from mousebench.plugins import result_name
from mousebench.progress import Progress, Silent
from mousebench.representations import Layers
from mousebench.results import assemble
from mousebench.store import FORMAT


def representation(model: Named, comparison: Comparison, device: str, progress: Progress) -> Layers:
    """Return the layers of a model for the stimuli of a comparison; errors name the model."""
    try:
        return representations.get(
            model.thing,
            comparison.stimuli,
            name=result_name(model.identifier),
            key=representation_key(model, comparison),
            device=device,
            progress=progress,
        )
    except (ContractViolation, PluginBroken) as error:
        raise type(error)(f"{who(model)}: {error.message}", error.hint) from error


def representation_key(model: Named, comparison: Comparison) -> str | None:
    """Return the hash of all that the layers follow from; None if it cannot be known."""
    return representations.representation_key(model.fingerprint, comparison.stimuli_hash, _source(model))


def result_key(model: Named, comparison: Comparison) -> str | None:
    """Return the hash of all that a result follows from but the targets; None if it cannot be known."""
    representation = representation_key(model, comparison)
    if representation is None:
        return None
    metric, benchmark = comparison.metric, comparison.benchmark
    parts = [representation, benchmark.identifier, benchmark.thing.version, metric.identifier, metric.thing.version]
    parts += [_source(metric), getattr(metric.thing, "definition", None), comparison.seed, FORMAT]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def _source(named: Named) -> str:
    """Return a hash of the code behind something: its plugin's file, and the files of its class and of those it inherits from.

    Classes of mousebench itself are left out: their version is FORMAT, and that of the extraction. So are those of other
    packages, such as torch, that are no part of the plugin.
    """
    parts = [named.plugin.source_hash() or ""] if named.plugin else []
    own = type(named.thing).__module__.partition(".")[0]
    modules = [one.__module__ for one in type(named.thing).__mro__]
    for module in dict.fromkeys(modules):
        file = getattr(sys.modules.get(module), "__file__", None)
        if file and module.partition(".")[0] == own != "mousebench":
            parts.append(hashlib.sha256(Path(file).read_bytes()).hexdigest())
    return " ".join(parts)


def compare(
    layers: Mapping[str, xr.Dataset], comparison: Comparison, progress: Progress | None = None
) -> dict[str, xr.Dataset]:
    """Let the metric score all sites; what it returns is checked, and comes back raw.

    One BLAS thread: the same bits whatever else runs, and no slower for matrices of this size.
    """
    metric: Metric = comparison.metric.thing
    progress = progress or Silent()
    together = getattr(metric, "score_sites", None)
    with blaming(comparison.metric, "metric"), threadpool_limits(1, user_api="blas"):
        if together is not None:
            scores: Mapping[str, xr.Dataset] = together(layers, comparison.targets, comparison.seed, progress)
        else:
            scores = dict(_one_by_one(metric, layers, comparison, progress))
    return {site: _checked(scores.get(site), site, comparison) for site in comparison.sites}


def _one_by_one(
    metric: Metric, layers: Mapping[str, xr.Dataset], comparison: Comparison, progress: Progress
) -> Iterator[tuple[str, xr.Dataset]]:
    progress.start("sites", len(comparison.sites))
    for site, target in comparison.targets.items():
        yield site, metric.score(layers, target, comparison.seed)
        progress.advance(1)
    progress.finish()


def _checked(score: Any, site: str, comparison: Comparison) -> xr.Dataset:
    where = f"metric {comparison.metric.identifier!r}, site {site}"
    if not isinstance(score, xr.Dataset) or "raw" not in score or score["raw"].dims not in ((), ("neuroid",)):
        raise ContractViolation(f"{where}: score gives no Dataset with 'raw', a scalar or along neuroid")
    return score


def score_model(
    model: Named,
    comparison: Comparison,
    *,
    device: str = "auto",
    progress: Progress | None = None,
) -> xr.Dataset:
    """Score one model on all sites of a comparison, from nothing."""
    progress = progress or Silent()
    model, (comparison,) = bind(model, [comparison])
    layers = representation(model, comparison, device, progress)
    scores = compare(layers, comparison, progress)
    return assemble(model, layers, comparison, scores, result_key(model, comparison))


def as_model(model: Any) -> Model:
    """Return a torch module as a TorchModel, a Model as it is.

    Raises
    ------
    ContractViolation
        If it is neither.
    """
    # the class is asked first: to ask a TorchModel itself for its layers is to run the net
    if all(hasattr(type(model), name) or hasattr(model, name) for name in ("layers", "fingerprint", "activations")):
        found: Model = model
        return found
    from torch import nn

    if isinstance(model, nn.Module):
        from mousebench.torch_model import TorchModel

        return TorchModel(model)
    raise ContractViolation(
        f"{type(model).__name__} is neither a torch.nn.Module nor a Model",
        "a Model has layers, fingerprint and activations(images, layers)",
    )
