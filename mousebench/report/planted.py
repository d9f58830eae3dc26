"""A report on a world in which the answers are known: whether the analyses find what is there, and nothing where nothing is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr

from mousebench import analysis, representations
from mousebench.analysis.architectures import ARCHITECTURES
from mousebench.analysis.planted import PlantedModel, PlantedWorld
from mousebench.catalogue import Catalogue
from mousebench.comparison import Comparison, Named, together
from mousebench.interfaces import Metric
from mousebench.progress import Progress, Silent
from mousebench.rdms import target_rdm
from mousebench.report.build import FORMS, Inputs
from mousebench.results import assemble
from mousebench.scoring import compare

NAME = "planted"


def planted_world(
    seed: int, found: Catalogue, *, effect: bool = True, architectures: Sequence[str] = ARCHITECTURES
) -> PlantedWorld:
    """Return a world with all tasks that have a cluster, and the thirty architectures."""
    entries = (found.entries["models"][name][0] for name in found.identifiers("models"))
    clusters = {one.spec.listed.rpartition("/")[2]: str(one.spec.metadata.get("cluster", "none")) for one in entries}
    tasks = {task: cluster for task, cluster in clusters.items() if cluster != "none"}
    return PlantedWorld(seed, effect, tasks, architectures)


def planted_comparisons(
    world: PlantedWorld, metrics: Mapping[str, Metric], progress: Progress
) -> dict[str, Comparison]:
    """Return a world's sites with each of some metrics."""
    benchmark, sites = Named(NAME, world, None), list(world.sites)
    named = [Named(name, metric, None) for name, metric in metrics.items()]
    made = together([Comparison(benchmark, one, sites, world.seed, progress) for one in named])
    return dict(zip(metrics, made, strict=True))


def planted_scores(models: Mapping[str, PlantedModel], comparison: Comparison, progress: Progress) -> xr.Dataset:
    """Score planted models as any others are, but keep nothing in the cache; see ``analysis.table``."""
    results = []
    progress.start(f"planted models, {comparison.metric.identifier}", len(models))
    for name, model in models.items():
        layers = representations.get(model, comparison.stimuli, name=name, key=None, progress=Silent())
        scores = compare(layers, comparison)
        results.append(assemble(Named(name, model, None), layers, comparison, scores, None))
        progress.advance(1)
    progress.finish()
    return analysis.table(results, analysis.catalogue_facts)


def planted_latents(world: PlantedWorld, models: Mapping[str, PlantedModel]) -> dict[str, np.ndarray]:
    """Return the RDM of each task's latent space."""
    return {task: 1 - np.corrcoef(models[f"taskonomy/{task}@latent"].features["latent"]) for task in world.tasks}


def rdm_of(target: xr.DataArray) -> np.ndarray:
    """Return the RDM of a planted site."""
    values = target_rdm(target).values
    if values is None:
        raise ValueError("a planted site has no RDM")
    return values


def planted_inputs(seed: int, found: Catalogue, progress: Progress, *, effect: bool = True) -> Inputs:
    """Return what a report is made of, for a world of a seed."""
    world = planted_world(seed, found, effect=effect)
    metrics = {name: found.load("metrics", name) for name in FORMS}
    for metric in metrics.values():
        metric.n_permutations = 99  # p is not what a planted world is for
    comparisons = planted_comparisons(world, metrics, progress)
    models = world.models()
    return Inputs(
        benchmark=f"{NAME}, seed {seed}",
        scores={name: planted_scores(models, one, progress) for name, one in comparisons.items()},
        sites={site: rdm_of(target) for site, target in comparisons[FORMS[0]].targets.items()},
        latents=planted_latents(world, models),
        clusters=dict(world.tasks),
        notes=[
            f"planted: sites are driven by {dict(world.weights('VISp.L4'))} in VISp, by {dict(world.weights('VISl.L4'))} in VISl"
        ],
    )
