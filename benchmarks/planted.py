"""How often the analyses of ``mousebench report`` find what is planted, and how often something where nothing is.

    python benchmarks/planted.py --worlds 100 --published 20 --zoos 10 --out docs/validity-report.md

Worlds are those of ``mousebench report --planted SEED``: with an effect, without any, and with an effect but with the clusters'
labels shuffled among the tasks, so that tasks differ and clusters do not. What is no part of the analyses is done with less: one repeat, 200
draws, latent spaces alone, ten architectures; architectures and the published metric in the first worlds only.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

import numpy as np
import xarray as xr
from scipy.stats import binomtest, kendalltau
from threadpoolctl import threadpool_limits

from mousebench import __version__, analysis
from mousebench.analysis.architectures import ARCHITECTURES
from mousebench.analysis.planted import CLUSTERS, WEIGHTS, PlantedModel, PlantedWorld
from mousebench.api import catalogue
from mousebench.comparison import Comparison
from mousebench.models import as_model, in_colour, reduce
from mousebench.progress import Progress, Silent, progress_for_stderr
from mousebench.rdms import TargetRdm
from mousebench.report.planted import planted_comparisons, planted_latents, planted_scores, planted_world, rdm_of
from mousebench_plugins.metrics import _rdm_metric
from mousebench_plugins.metrics._rdm_metric import Procedure, make_partitions, permuted_labels
from mousebench_plugins.metrics._rsa_nnls import RsaNnls, as_published, leak_free

LEVEL = 0.05
N_NETS, N_TWINS = 10, 5  # architectures in a world, seeds of each untrained
N_DRAWS = 200  # of scores, for intervals and p
N_SPLITS = 200  # random splits, and resamples of images, of signatures
CLAIMED = 0.95  # share of splits or resamples from which a report would claim a dissociation
DRIVING = [name for name in CLUSTERS if any(weights.get(name) for weights in WEIGHTS.values())]
SAID = ("cluster_a", "area_a", "cluster_b", "area_b")
LAWS = {"planted": "planted", "nothing": "nothing planted", "shuffled": "labels shuffled"}

Row = dict[str, float]  # "section | outcome | metric" to 0, 1 or a number


def main() -> None:
    """Simulate, count, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, default=100)
    parser.add_argument("--published", type=int, default=20, help="worlds with the published metric too")
    parser.add_argument("--zoos", type=int, default=10, help="of these, worlds with architectures too")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="the page, in Markdown")
    parser.add_argument("--json", type=Path, help="the outcomes of every world; what is there is not simulated again")
    options = parser.parse_args()
    # a resample of the images is the same for all models and sites
    _rdm_metric.image_counts = cache(_rdm_metric.image_counts)
    start = time.process_time()
    with threadpool_limits(1):
        found = worlds(options, progress_for_stderr())
    text = page(
        found,
        f"--worlds {options.worlds} --published {options.published} --zoos {options.zoos} --seed {options.seed}",
    )
    print(text, f"{time.process_time() - start:.0f} s of processor time", sep="\n")
    if options.out:
        options.out.write_text(text)


def worlds(options: argparse.Namespace, progress: Progress) -> dict[str, list[Row]]:
    """Return the outcomes of every world by its law."""
    n_worlds, file = options.worlds, options.json
    found: dict[str, list[Row]] = {law: [] for law in LAWS}
    if file and file.is_file():
        found = json.loads(file.read_text())
    progress.start("worlds", n_worlds)
    progress.advance(len(found["nothing"]))
    for number in range(len(found["nothing"]), n_worlds):
        for effect in (True, False):
            world = planted_world(
                options.seed + number, catalogue(), effect=effect, architectures=ARCHITECTURES[:N_NETS]
            )
            world.twins = N_TWINS
            parts = {"published": number < options.published, "zoo": number < options.zoos, "checked": number == 0}
            for law, row in outcomes(world, **parts).items():
                found[law].append(row)
        if file:
            file.write_text(json.dumps(found, indent=1) + "\n")
        progress.advance(1)
    progress.finish()
    return found


def outcomes(world: PlantedWorld, *, published: bool, zoo: bool, checked: bool) -> dict[str, Row]:
    """Return what the analyses say of one world; with an effect also of its tasks with their labels shuffled."""
    metrics = {"rsa-nnls": Quick(leak_free, 1)} | ({"rsa-nnls-published": Quick(as_published, 1)} if published else {})
    comparisons = planted_comparisons(world, metrics, Silent())
    models = world.models()
    law = "planted" if world.effect else "nothing"
    rows: dict[str, Row] = {law: {}} | ({"shuffled": {}} if world.effect else {})
    labels = np.random.default_rng([world.seed, 7]).permutation(list(world.tasks.values()))
    shuffled = dict(zip(world.tasks, labels.tolist(), strict=True))
    latent = {name: model for name, model in models.items() if name.endswith("@latent")}
    nets = {name: model for name, model in models.items() if not name.startswith("taskonomy/")}
    for metric, comparison in comparisons.items():
        if checked:
            check(dict([*list(latent.items())[:2], *list(nets.items())[:1]]), comparison)
        tasks = quick_scores(latent, comparison)
        if world.effect:
            rows[law] |= named("order", metric, order(tasks))
            clusters = ("model", [shuffled[task] for task in tasks["task"].values.tolist()])
            rows["shuffled"] |= named("clusters", metric, variance(tasks.assign_coords(cluster=clusters)))
        rows[law] |= named("clusters", metric, variance(tasks))
        if zoo:
            rows[law] |= named("twins", metric, architectures(quick_scores(nets, comparison), world))
    targets = next(iter(comparisons.values())).targets
    weights = signature_weights(
        planted_latents(world, models), {site: rdm_of(target) for site, target in targets.items()}, world.seed
    )
    rows[law] |= named("signatures", "", signatures(weights, world.tasks, true=world.effect))
    if world.effect:
        rows["shuffled"] |= named("signatures", "", signatures(weights, shuffled, true=False))
    return rows


def named(section: str, metric: str, row: Row) -> Row:
    """Return a row whose outcomes say of which section and metric they are."""
    return {f"{section} | {name} | {metric}": float(value) for name, value in row.items()}


class Quick(RsaNnls):
    """The metric, which makes what all models share of a site once."""

    def __init__(self, procedure: Procedure, repeats: int) -> None:
        super().__init__(procedure, repeats=repeats, n_permutations=0, n_bootstraps=N_DRAWS)
        self._kept: dict[tuple[str, int], object] = {}

    def site(self, target: xr.DataArray) -> TargetRdm:
        """Return the matrix of a site."""
        return self._once("site", target, super().site)

    def _neuroids(self, target: xr.DataArray, seed: int) -> tuple:
        return self._once("neuroids", target, super()._neuroids, seed)

    def _once(self, what: str, target: xr.DataArray, make: Callable, *more: int) -> object:
        if (what, id(target)) not in self._kept:
            self._kept[what, id(target)] = make(target, *more)
        return self._kept[what, id(target)]


def quick_scores(models: Mapping[str, PlantedModel], comparison: Comparison) -> xr.Dataset:
    """Return what ``planted_scores`` does of score and draws, without what makes results of them."""
    metric, seed, sites = comparison.metric.thing, comparison.seed, comparison.sites
    values = {site: metric.site(target).values for site, target in comparison.targets.items()}
    n_stimuli = len(values[sites[0]])
    partitions, labels = list(make_partitions(n_stimuli, metric.repeats, seed)), permuted_labels(n_stimuli, 0, seed)
    top = np.array([float(comparison.ceilings[site]["ceiling"]) for site in sites])[:, None]
    tops = np.array([comparison.ceilings[site]["bootstrap"].values for site in sites])
    images, results = in_colour(comparison.stimuli.values), []
    for name, model in models.items():
        grams = {
            layer.name: xr.Dataset(
                {"gram": (("stimulus", "stimulus_b"), layer.gram), "feature_sum": ("stimulus", layer.feature_sum)},
                attrs={"n_features": layer.n_features},
            )
            for layer in reduce(as_model(model), images, "cpu", Silent()).layers
        }
        found = metric.procedure(metric.columns(grams), values, labels, partitions, Silent())
        raw = np.array([found[site].raw[0] for site in sites])[:, None]
        draws = np.array(
            [metric._draws(found[site], values[site], comparison.targets[site], seed)[0] for site in sites]
        )
        score_draws = raw / top + (draws - raw) / top - raw / top**2 * (tops - top)
        columns = {"raw": raw[:, 0], "ceiling": top[:, 0], "score": (raw / top)[:, 0]}
        same = {"n_layers": np.full(len(sites), len(grams)), "n_stimuli": np.full(len(sites), n_stimuli)}
        known = dict.fromkeys(("benchmark_version", "metric_version", "simulated"), 1)
        results.append(
            xr.Dataset(
                {key: ("site", value) for key, value in {**columns, **same}.items()}
                | {"score_draws": (("site", "bootstrap"), score_draws.astype(np.float32))},
                {"site": sites},
                {**known, "model": name, "benchmark": "planted", "metric": comparison.metric.identifier, "seed": seed},
            )
        )
    return analysis.table(results, analysis.catalogue_facts)


def check(models: Mapping[str, PlantedModel], comparison: Comparison) -> None:
    """Assert that the quick way gives what the report's own gives."""
    ours, report = quick_scores(models, comparison), planted_scores(models, comparison, Silent())
    for name in ("score", "score_draws"):
        np.testing.assert_allclose(ours[name].values, report[name].values, atol=1e-6)


def order(tasks: xr.Dataset) -> Row:
    """Say whether the hierarchy of tasks is the planted one."""
    ranked = analysis.hierarchy(tasks)["cluster"].values.tolist()
    last = max(k for k, cluster in enumerate(ranked) if cluster in DRIVING)
    means = analysis.cells(tasks)["mean"]
    first = {area: str(means.sel(area=area).idxmax("cluster").item()) for area in ("VISp", "VISl")}
    return {
        "tasks whose features drive sites all before the others": last < sum(c in DRIVING for c in ranked),
        "2D the first cluster in VISp, Semantic in VISl": first == {"VISp": "2D", "VISl": "Semantic"},
    }


def variance(tasks: xr.Dataset) -> Row:
    """Say which tests find an effect of cluster, or of cluster x area."""
    published, mixed = analysis.anova(tasks), analysis.mixed_model(tasks)
    permuted = analysis.label_permutation(tasks, n_permutations=999)
    row: Row = {}
    for term, name in (("cluster", "cluster"), ("interaction", "cluster x area")):
        row[f"{name}: analysis of variance, as published"] = float(published["p"].sel(term=term)) < LEVEL
        row[f"{name}: mixed model"] = float(mixed["p"].sel(term=term)) < LEVEL
        row[f"{name}: labels permuted"] = permuted[term]["p"] < LEVEL
        row[f"{name}: labels permuted, images and neurons resampled"] = permuted[term]["p_resampled"] < LEVEL
    row["any two clusters: t tests, Bonferroni, as published"] = bool(
        (analysis.posthoc(tasks)["p_bonferroni"] < LEVEL).any()
    )
    return row


def architectures(scores: xr.Dataset, world: PlantedWorld) -> Row:
    """Say whether the order of the architectures is found, and how many differ from their untrained twins."""
    found = analysis.twins(scores)
    quality = [world.quality[name] for name in found["architecture"].values.tolist()]
    published, ours = found["p_published"].values, found["p"].values
    n = len(ours)
    return {
        "Kendall's tau of architectures and their quality": float(
            kendalltau(quality, found["trained"].values).statistic
        ),
        "a net: unpaired t, as published": (published < LEVEL).mean(),
        "a net: unpaired t, Bonferroni, as published": (published < LEVEL / n).mean(),
        "a net: paired, resampled, seeds": (ours < LEVEL).mean(),
        "a net: paired, resampled, seeds, Holm": (found["p_holm"].values < LEVEL).mean(),
        "any net: unpaired t, as published": (published < LEVEL).any(),
        "any net: unpaired t, Bonferroni, as published": (published < LEVEL / n).any(),
        "any net: paired, resampled, seeds, Holm": (found["p_holm"].values < LEVEL).any(),
        "any net: paired, resampled, seeds, Benjamini-Hochberg": (found["p_bh"].values < LEVEL).any(),
    }


def signature_weights(latents: dict, sites: dict, seed: int) -> dict[str, xr.DataArray]:
    """Return the weights (draw, task, site) over random splits and over resampled images."""
    images = analysis.image_bootstrap(latents, sites, n_draws=N_SPLITS, seed=seed)
    splits = analysis.split_weights(latents, sites, n_splits=N_SPLITS, seed=seed)["weight"]
    return {"splits, as published": splits, "images resampled": images, "images and tasks resampled": images}


def signatures(weights: dict[str, xr.DataArray], clusters: dict[str, str], *, true: bool) -> Row:
    """Say which dissociations would be claimed; none is there unless ``true``."""
    row: Row = {}
    for how, weight in weights.items():
        group = analysis.resampled_tasks if "tasks" in how else analysis.by_cluster
        found = analysis.dissociations(analysis.by_area(group(weight, clusters)))
        said = list(zip(*(found[name].values.tolist() for name in SAID), strict=True))
        there = np.array([true and planted(*one) for one in said])
        claimed = found["share"].values >= CLAIMED
        if true:
            n_there = sum(planted(a, p, b, q) or planted(b, p, a, q) for a, p, b, q in said)
            papers = [k for k, one in enumerate(said) if set(one) == {"2D", "Semantic", "VISp", "VISl"} and there[k]]
            row[f"2D and Semantic in VISp and VISl: {how}"] = claimed[papers].any()
            row[f"one that is there: {how}"] = (claimed & there).sum() / n_there
        row[f"one that is not there: {how}"] = claimed[~there].mean()
        row[f"any that is not there: {how}"] = claimed[~there].any()
    return row


def planted(a: str, p: str, b: str, q: str) -> bool:
    """Say whether cluster a outweighs cluster b in area p, and the opposite holds in area q."""
    here, there = (WEIGHTS[area].get(a, 0) - WEIGHTS[area].get(b, 0) for area in (p, q))
    return here > 0 > there


HEAD = """# Validity of the report

Made by `python benchmarks/planted.py {options}` with mousebench {version}; not written by hand. The same command gives the same figures. It says how often the
analyses of `mousebench report` ([report.md](report.md)) find what is there, and how often something that is not; what single metrics do is in [validity.md](validity.md).

Three laws, {n} worlds each of 118 images, 10 sites of 60 neurons and 10 trials, 24 tasks in 5 clusters by their latent spaces:

- **planted**: 2D, 3D and Semantic tasks drive the areas with weights of their own, Geometric and Other ones none; trained architectures have learned ever less of it.
- **nothing planted**: all clusters drive all areas alike; training teaches nothing. Tasks of a cluster still have features in common, which go a little better or worse with
  the images and neurons of a world.
- **labels shuffled**: the planted world, but its clusters' labels are shuffled among the tasks: tasks differ, clusters do not.

A cell is the share of worlds (or of nets, or of dissociations, on average over worlds) in which something is found at p < .05, with its 95 % Monte Carlo interval in brackets. Under
the first law it should be high, under the others at most .05; **bold** is what lies above .05 by more than Monte Carlo error. `rsa-nnls` has one repeat here, and 200 draws.
The published metric is in {published} of the worlds, architectures are in {zoos}.
"""

SECTIONS = {
    "order": (
        "Hierarchies",
        "",
    ),
    "clusters": (
        "Do clusters of tasks differ, and do they change with area?",
        "As published every task in every site is one observation. They are not independent: sites share their images, a task is in all sites, and tasks of a cluster share "
        "features. The mixed model knows of tasks and of sites, but not that a task's residuals go together in sites of one area. Permuted labels are exact where labels mean nothing, "
        "but find what tasks of a cluster have in common on these images alone. `mousebench report` shows all of them, and concludes from the last.",
    ),
    "signatures": (
        "Dissociations: do two clusters change places between two areas?",
        "Of the weights of the combined NNLS; claimed from .95 of {n_splits} draws on, and there are 60 that can be claimed. Splits hold the same images, so that their spread says nothing of other images; "
        "resampled images say nothing of other tasks. `mousebench report` shows all three shares; the last is what we would defend. It misses some that are there.",
    ),
    "twins": (
        "Trained nets against their untrained twins",
        "{n_nets} architectures, {n_twins} seeds of each untrained. Either way: a net that is below its twins counts too. As published, sites are replicates and one seed stands for all. "
        "Ours counts the spread of seeds, pooled over architectures, of which the trained net is one too.",
    ),
}


def page(found: dict[str, list[Row]], options: str) -> str:
    """Return the page: for each section a row an outcome and metric, a column a law."""
    names = list(dict.fromkeys(name for rows in found.values() for row in rows for name in row))
    with_published, zoos = (
        sum(any(part in name for name in row) for row in found["nothing"]) for part in ("rsa-nnls-published", "twins |")
    )
    parts = [
        HEAD.format(options=options, version=__version__, n=len(found["nothing"]), published=with_published, zoos=zoos)
    ]
    for section, (title, text) in SECTIONS.items():
        told = {"n_splits": N_SPLITS, "n_nets": N_NETS, "n_twins": N_TWINS}
        parts += [f"## {title}\n", *([text.format(**told) + "\n"] if text else [])]
        mine = sorted(
            (name for name in names if name.startswith(f"{section} |")), key=lambda name: name.partition(" | ")[0]
        )
        laws = [law for law in LAWS if any(name in row for name in mine for row in found[law])]
        lines = [
            "| found | metric | " + " | ".join(LAWS[law] for law in laws) + " |",
            "| --- |" * 1 + " --- |" * (len(laws) + 1),
        ]
        for name in mine:
            _, what, metric = name.split(" | ")
            cells = [cell([row[name] for row in found[law] if name in row], law, what) for law in laws]
            lines.append(f"| {what} | {metric or '-'} | {' | '.join(cells)} |")
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def cell(values: list[float], law: str, what: str) -> str:
    """Return the mean over worlds with its 95 % Monte Carlo interval."""
    if not values:
        return ""
    n, mean = len(values), float(np.mean(values))
    if set(values) <= {0.0, 1.0}:
        low, high = binomtest(int(sum(values)), n).proportion_ci(method="wilson")
    else:
        reach = 1.96 * float(np.std(values, ddof=1)) / n**0.5
        low, high = mean - reach, mean + reach
    text = f"{mean:.3f} [{low:.3f}, {high:.3f}]"
    wrong = low > LEVEL and (law != "planted" or "not there" in what) and "tau" not in what
    return f"**{text}**" if wrong else text


if __name__ == "__main__":
    main()
