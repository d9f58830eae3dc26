"""A report on a world in which the answers are known: whether the analyses find what is there, and nothing where nothing is."""

from __future__ import annotations

import numpy as np
import xarray as xr

from mousebench import analysis, scoring
from mousebench.analysis.architectures import ARCHITECTURES
from mousebench.analysis.planted import PlantedWorld
from mousebench.comparison import Comparison, Named, together
from mousebench.plugins import Catalogue
from mousebench.progress import Progress
from mousebench.rdms import target_rdm
from mousebench.report.build import FORMS, Inputs

NAME = "planted"


def planted_world(seed: int, found: Catalogue, *, effect: bool = True) -> PlantedWorld:
    """Return a world with all tasks that have a cluster and the thirty architectures."""
    entries = (found.entries["models"][name][0] for name in found.identifiers("models"))
    clusters = {one.spec.listed.rpartition("/")[2]: str(one.spec.metadata.get("cluster", "none")) for one in entries}
    tasks = {task: cluster for task, cluster in clusters.items() if cluster != "none"}
    return PlantedWorld(seed, effect, tasks, ARCHITECTURES)


def planted_inputs(seed: int, found: Catalogue, progress: Progress, *, effect: bool = True) -> Inputs:
    """Return what a report is made of, for a world of a seed, scored as any other benchmark is."""
    world = planted_world(seed, found, effect=effect)
    benchmark = Named(NAME, world, None)
    metrics = [Named(name, found.load("metrics", name), None) for name in FORMS]
    for one in metrics:
        one.thing.n_permutations = 99  # p is not what a planted world is for
    comparisons = together([Comparison(benchmark, one, list(world.sites), seed, progress) for one in metrics])
    models = world.models()
    results: dict[str, list[xr.Dataset]] = {name: [] for name in FORMS}
    progress.start("planted models", len(models))
    for name, model in models.items():
        for comparison in comparisons:
            results[comparison.metric.identifier].append(scoring.score_model(Named(name, model, None), comparison))
        progress.advance(1)
    progress.finish()
    tasks = dict(world.tasks)
    return Inputs(
        benchmark=f"{NAME}, seed {seed}",
        scores={name: analysis.table(some, analysis.catalogue_facts) for name, some in results.items()},
        sites={site: _rdm(target_rdm(target).values) for site, target in comparisons[0].targets.items()},
        latents={task: 1 - np.corrcoef(models[f"taskonomy/{task}@latent"].features["latent"]) for task in tasks},
        clusters=tasks,
        notes=[
            f"planted: sites are driven by {dict(world.weights('VISp.L4'))} in VISp, by {dict(world.weights('VISl.L4'))} in VISl"
        ],
    )


def _rdm(values: np.ndarray | None) -> np.ndarray:
    if values is None:
        raise ValueError("a planted site has no RDM")
    return values
