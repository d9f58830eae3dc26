"""Score a model: stimuli -> model -> layers -> metric -> raw -> result."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import xarray as xr
from threadpoolctl import threadpool_limits

from mousebench import representations
from mousebench.catalogue import code_hash
from mousebench.comparison import Comparison, Named, bind, blaming, who
from mousebench.errors import ContractViolation, PluginBroken
from mousebench.interfaces import Metric
from mousebench.isolation.proxies import IsolatedBenchmark, IsolatedMetric, IsolatedModel
from mousebench.models import as_model as as_model
from mousebench.names import result_name
from mousebench.progress import Progress, Silent
from mousebench.representations import Layers
from mousebench.results import assemble
from mousebench.store import FORMAT


def representation(
    model: Named, comparison: Comparison, device: str, progress: Progress, *, fresh: bool = False
) -> Layers:
    """Return the layers of a model for the stimuli of a comparison, computed again if fresh; errors name the model."""
    try:
        return representations.get(
            model.thing,
            comparison.stimuli,
            name=result_name(model.identifier),
            key=representation_key(model, comparison),
            device=device,
            progress=progress,
            fresh=fresh,
        )
    except (ContractViolation, PluginBroken) as error:
        raise type(error)(f"{who(model)}: {error.message}", error.hint) from error
    finally:
        if isinstance(model.thing, IsolatedModel):
            model.thing.close()  # a net is large, and has given all that is wanted of it


def representation_key(model: Named, comparison: Comparison) -> str | None:
    """Return the hash of all that the layers follow from; None if it cannot be known."""
    return representations.representation_key(model.fingerprint, comparison.stimuli_hash, source_of(model))


def result_key(model: Named, comparison: Comparison) -> str | None:
    """Return the hash of all that a result follows from but the targets; None if it cannot be known."""
    representation = representation_key(model, comparison)
    if representation is None:
        return None
    metric, benchmark = comparison.metric, comparison.benchmark
    parts = [representation, benchmark.identifier, benchmark.thing.version, metric.identifier, metric.thing.version]
    parts += [source_of(metric), getattr(metric.thing, "definition", None), comparison.seed, FORMAT]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def source_of(named: Named) -> str:
    """Return a hash of the code behind something; its own process tells that of an isolated one."""
    if isinstance(named.thing, IsolatedModel | IsolatedBenchmark | IsolatedMetric):
        return named.thing.source
    return code_hash(named.plugin, named.thing)


def compare(
    layers: Mapping[str, xr.Dataset], comparison: Comparison, progress: Progress | None = None
) -> dict[str, xr.Dataset]:
    """Let the metric score all sites; what it returns is checked, and comes back raw.

    One BLAS thread: the same bits whatever else runs, and no slower for matrices of this size.
    """
    with blaming(comparison.metric, "metric"):
        scores = score_targets(
            comparison.metric.thing, layers, comparison.targets, comparison.seed, progress or Silent()
        )
    return {site: _checked(scores.get(site), site, comparison) for site in comparison.sites}


def score_targets(
    metric: Metric,
    layers: Mapping[str, xr.Dataset],
    targets: Mapping[str, xr.DataArray],
    seed: int,
    progress: Progress,
) -> Mapping[str, xr.Dataset]:
    """Return what a metric gives for each site, all sites together where it can do that."""
    together = getattr(metric, "score_sites", None)
    with threadpool_limits(1, user_api="blas"):
        if together is not None:
            scores: Mapping[str, xr.Dataset] = together(layers, targets, seed, progress)
            return scores
        found = {}
        progress.start("sites", len(targets))
        for site, target in targets.items():
            found[site] = metric.score(layers, target, seed)
            progress.advance(1)
        progress.finish()
        return found


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
    fresh: bool = False,
) -> xr.Dataset:
    """Score one model on all sites of a comparison; only its layers may come from the cache, unless fresh."""
    progress = progress or Silent()
    model, (comparison,) = bind(model, [comparison])
    layers = representation(model, comparison, device, progress, fresh=fresh)
    scores = compare(layers, comparison, progress)
    return assemble(model, layers, comparison, scores, result_key(model, comparison))
