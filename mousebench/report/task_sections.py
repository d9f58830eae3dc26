"""The sections of a report that are about tasks: hierarchy, cluster x area, signatures."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import xarray as xr

from mousebench import analysis
from mousebench.report.content import Figure, Section, Table, as_list, interval, number, p_value, plain, rows_of


def tasks(scores: xr.Dataset, *, latent: bool) -> Section:
    """Figure 3: hierarchy of tasks; cells of cluster x area; analyses of variance."""
    metric = scores.attrs["metric"]
    what = "latent space" if latent else "all layers"
    section = Section(f"tasks-{'latent' if latent else 'layers'}-{metric}", f"Tasks, {what} ({metric})")
    chosen = analysis.task_scores(scores, latent=latent)
    if chosen.sizes["model"] < 2:
        section.gaps.append(f"fewer than two Taskonomy encoders have been scored ({what})")
        return section
    order = analysis.hierarchy(chosen)
    if chosen.sizes["model"] < 24:
        section.gaps.append(f"{chosen.sizes['model']} of 24 tasks have been scored ({what})")
    first, last = order.isel(model=0), order.isel(model=-1)
    section.text.append(
        f"Best task: {first['task'].item()} ({first['cluster'].item()}) at {number(float(first['mean']))} (95 % {interval(float(first['low']), float(first['high']))}); "
        f"last: {last['task'].item()} at {number(float(last['mean']))} ({interval(float(last['low']), float(last['high']))})."
    )
    names = [f"{task} ({cluster})" for task, cluster in zip(order["task"].values, order["cluster"].values, strict=True)]
    columns = [order[key].values for key in ("task", "cluster", "mean", "low", "high")]
    section.tables.append(
        Table(section.name, "Mean score over sites.", ["task", "cluster", "mean", "low", "high"], rows_of(columns))
    )
    series = [{"name": what, **{key: as_list(order[old]) for key, old in _SPAN}}]
    data = {"labels": names, "series": series, "x": f"mean score over sites ({metric})"}
    section.figures.append(Figure(section.name, "Tasks by mean score over sites, with 95 % intervals.", "points", data))
    _add_cells(section, chosen, metric)
    _add_variance(section, chosen)
    _add_single(section, chosen, analysis.task_scores(scores, latent=latent, single_image=True))
    return section


PAPERS = (frozenset({"2D", "Semantic"}), frozenset({"VISp", "VISl"}))
"""The clusters that change places, and the areas, in Conwell et al. (2020)."""
_SHOWN = 10  # dissociations in the table
_TERMS = {"cluster": "cluster", "interaction": "cluster x area"}
_SPAN = (("value", "mean"), ("low", "low"), ("high", "high"))


def _add_cells(section: Section, chosen: xr.Dataset, metric: str) -> None:
    found = analysis.cells(chosen)
    clusters, areas = found["cluster"].values.tolist(), found["area"].values.tolist()
    rows = [
        [cluster, area, *plain(found.isel(cluster=r, area=c).to_array().values)]
        for r, cluster in enumerate(clusters)
        for c, area in enumerate(areas)
    ]
    section.tables.append(
        Table(
            f"{section.name}-cells",
            "Mean score by cluster and area, with 95 % intervals.",
            ["cluster", "area", "mean", "low", "high"],
            rows,
        )
    )
    data = {"rows": clusters, "columns": areas, "values": as_list(found["mean"]), "name": f"score ({metric})"}
    section.figures.append(Figure(f"{section.name}-cells", "Mean score by cluster and area.", "heat", data))


def _add_variance(section: Section, chosen: xr.Dataset) -> None:
    permuted, mixed = analysis.label_permutation(chosen), analysis.mixed_model(chosen)
    rows: list[list[object]] = []
    for by in ("area", "site"):
        found = analysis.anova(chosen, by)
        for term in found["term"].values:
            one = found.sel(term=term)
            name = f"cluster x {by}" if term == "interaction" else f"{term} (with {by})"
            rows.append([name, *(float(one[key]) for key in ("df", "f", "p", "eta_sq", "partial_eta_sq"))])
    section.tables.append(
        Table(
            f"{section.name}-anova",
            "Two-way analyses of variance as published: every task in every site is one observation, which they are not.",
            ["term", "df", "f", "p", "eta_sq", "partial_eta_sq"],
            plain(rows),
        )
    )
    ours: list[list[object]] = [
        [
            name,
            permuted[term]["p"],
            permuted[term]["p_resampled"],
            permuted[term].get("omega_sq"),
            *(float(mixed.sel(term=term)[key]) for key in ("chi2", "p")),
        ]
        for term, name in _TERMS.items()
    ]
    section.tables.append(
        Table(
            f"{section.name}-defended",
            "The same questions with tasks as the units: cluster labels permuted among tasks 10,000 times; the same with images (and neurons, where "
            "the data have them) resampled, which is what we would defend; a mixed model with crossed random intercepts of task and site. How often each finds what is not there: "
            f"docs/validity-report.md. {mixed.attrs.get('note', '')}".strip(),
            [
                "term",
                "p, labels permuted",
                "p, images resampled too",
                "omega_sq",
                "chi2, mixed model",
                "p, mixed model",
            ],
            plain(ours),
        )
    )
    if np.isfinite(permuted["cluster"]["p_resampled"]):
        section.text.append(
            f"With tasks as the units and images resampled, clusters differ with p {p_value(permuted['cluster']['p_resampled'])} and interact with area with p "
            f"{p_value(permuted['interaction']['p_resampled'])}."
        )
    after = analysis.posthoc(chosen)
    keys = ("cluster_a", "cluster_b", "difference", "t", "p", "p_bonferroni")
    section.tables.append(
        Table(
            f"{section.name}-posthoc",
            "t tests between clusters over all tasks and sites, as published.",
            list(keys),
            rows_of([after[key].values for key in keys]),
        )
    )


def _add_single(section: Section, chosen: xr.Dataset, single: xr.Dataset) -> None:
    """Ask the same of all tasks and of those that see a single image: the paper says 21, its code scores 24."""
    if not 2 <= single.sizes["model"] < chosen.sizes["model"]:
        return
    rows: list[list[object]] = []
    for name, some in (("all", chosen), ("of single images", single)):
        order, published = analysis.hierarchy(some)["task"].values, analysis.anova(some)["p"]
        permuted = analysis.label_permutation(some)
        p = [p for term in _TERMS for p in (float(published.sel(term=term)), permuted[term]["p_resampled"])]
        rows.append([name, len(order), order[0], order[-1], *p])
    heads = [f"p, {name}, {how}" for name in _TERMS.values() for how in ("as published", "images resampled")]
    section.tables.append(
        Table(
            f"{section.name}-single",
            "Does it matter which tasks are meant? The paper says 21, which are inferred to be those whose networks take a single image; its code scores 24. Colorization, the 21st, "
            "has no cluster and is in neither.",
            ["tasks", "number", "first", "last", *heads],
            plain(rows),
        )
    )


def signatures(
    latents: Mapping[str, np.ndarray],
    sites: Mapping[str, np.ndarray],
    clusters: Mapping[str, str],
    *,
    n_splits: int = 1000,
) -> Section:
    """Figures 1 and 4: all tasks at once as regressors of each site."""
    section = Section("signatures", "Taskonomic signatures: all tasks at once")
    if len(latents) < 2:
        section.gaps.append("fewer than two latent spaces of Taskonomy encoders are at hand")
        return section
    if len(latents) < 24:
        section.gaps.append(f"{len(latents)} of 24 latent spaces are at hand")
    splits = analysis.split_weights(latents, sites, n_splits=n_splits)
    images = analysis.image_bootstrap(latents, sites, n_draws=n_splits)
    lost = analysis.drop_one(latents, sites)
    spread = {
        "splits": (analysis.by_cluster(splits["weight"], clusters), "split"),
        "images": (analysis.by_cluster(images, clusters), "bootstrap"),
        "images and tasks": (analysis.resampled_tasks(images, clusters), "bootstrap"),
    }
    rows: list[list[object]] = []
    for how, (weight, over) in spread.items():
        found = analysis.summary(weight, over)
        rows += [
            [how, cluster, site, *plain(found.sel(cluster=cluster, site=site).to_array().values)]
            for cluster in weight["cluster"].values.tolist()
            for site in weight["site"].values.tolist()
        ]
    section.tables.append(
        Table(
            "signatures",
            f"Mean weight of a cluster's tasks, RDMs of standard deviation 1; 95 % intervals over {n_splits} random 6-fold splits (as published: the "
            "spread of splits alone), over resampled images, and over resampled images and tasks of the cluster, which is what we would defend.",
            ["resampled", "cluster", "site", "mean", "low", "high"],
            plain(rows),
        )
    )
    areas = {how: (analysis.by_area(weight), over) for how, (weight, over) in spread.items()}
    mean = areas["splits"][0].mean("split")
    data = {
        "rows": mean["cluster"].values.tolist(),
        "columns": mean["area"].values.tolist(),
        "values": as_list(mean),
        "name": "mean standardised weight",
    }
    section.figures.append(Figure("signatures", "Weights of the clusters by area, mean over splits.", "heat", data))
    # the ten of most splits, and the paper's
    held = enumerate(_each(analysis.dissociations(areas["splits"][0])))
    shown = [
        (one, [_share(areas[how][0], one) for how in ("images", "images and tasks")])
        for k, one in held
        if k < _SHOWN or _said(one) == PAPERS
    ]
    keys = ("cluster_a", "area_a", "cluster_b", "area_b", "share")
    section.tables.append(
        Table(
            "dissociations",
            "Share of splits, of resamples of the images, and of resamples of the images and of the tasks in each cluster, in which cluster_a outweighs cluster_b in area_a and the "
            "opposite holds in area_b. Splits are no replicates, and other tasks of a kind would differ: how often each is wrong is in docs/validity-report.md.",
            [*keys[:4], "share of splits", "share of images resampled", "share of images and tasks resampled"],
            [[*plain([one[key].item() for key in keys]), *shares] for one, shares in shown],
        )
    )
    if shown:
        one, (share, defended) = shown[0]
        section.text.append(
            f"The dissociation that holds in most splits: {one['cluster_a'].item()} over {one['cluster_b'].item()} in {one['area_a'].item()}, the opposite in "
            f"{one['area_b'].item()}: {number(100 * float(one['share']), 1)} % of the splits; {number(100 * share, 1)} % of the resamples of the images, "
            f"{number(100 * defended, 1)} % of those of images and tasks."
        )
    change = analysis.by_area(lost)
    section.tables.append(
        Table(
            "drop-one",
            "Loss of cross-validated R2 (leak-free) when a task is left out, by area: what a task adds to all others.",
            ["task", *change["area"].values.tolist()],
            [[task, *plain(change.sel(task=task).values)] for task in change["task"].values.tolist()],
        )
    )
    fit = splits[["r", "cv_r2"]].mean("split")
    section.tables.append(
        Table(
            "signatures-fit",
            "How well all tasks together predict held-out pairs of each site.",
            ["site", "r", "cv_r2"],
            rows_of([fit["site"].values, fit["r"].values, fit["cv_r2"].values]),
        )
    )
    return section


def _each(found: xr.Dataset) -> list[xr.Dataset]:
    return [found.isel(dissociation=k) for k in range(found.sizes["dissociation"])]


def _said(one: xr.Dataset) -> tuple[frozenset[str], frozenset[str]]:
    """Return the clusters and the areas of a dissociation, whichever way round it is said."""
    clusters, areas = ((str(one[f"{what}_{k}"].item()) for k in "ab") for what in ("cluster", "area"))
    return frozenset(clusters), frozenset(areas)


def _share(weight: xr.DataArray, one: xr.Dataset) -> float:
    """Return the share of draws of weights (draw, cluster, area) in which a dissociation holds, in that direction."""
    apart = weight.sel(cluster=one["cluster_a"].item()) - weight.sel(cluster=one["cluster_b"].item())
    here, there = (apart.sel(area=one[name].item()).values for name in ("area_a", "area_b"))
    return float(((here > 0) & (there < 0)).mean())
