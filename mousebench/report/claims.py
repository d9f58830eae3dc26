"""What Conwell et al. (2020) claim, which of it stands under which metric, and how each number is made again.

The published values are those of the paper and of its authors' notebook of July 2020 (repository
annonymousecode/Model-Zoology-and-Neural-Taskonomy), which supersedes some of them with others from the same data.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import xarray as xr

from mousebench import analysis
from mousebench.report.content import Section, Table, number, p_value, plain

_SCORE = "mousebench score --benchmark allen-ns-rdms --metric rsa-nnls-published,rsa-nnls --model"
_REPORT = "mousebench report --benchmark allen-ns-rdms"
_TASKS = "taskonomy/TASK (all 24)"


@dataclass(frozen=True)
class Claim:
    """One published claim.

    Attributes
    ----------
    text : str
    published : str
    needs : {"data", "weights", "arithmetic"}
        Whether the published RDMs are enough, or the nets' weights are needed.
    how : str
        The commands that make it again.
    value : str
        A key of ``values_at_hand``, or "".
    """

    text: str
    published: str
    needs: str
    how: str
    value: str = ""


CLAIMS = (
    Claim("6 areas x 4 layers, 21 recorded sites", "21", "data", "mousebench show allen-ns-rdms", "sites"),
    Claim("neurons with split-half r of .75 or more", "over 8,200 (8,214 excitatory)", "data", "mousebench fetch allen-ns; mousebench score --benchmark allen-ns --model pixels (neurons by site)"),
    Claim("split-half reliability of site RDMs up to", ".93 (VISl L2/3)", "data", "mousebench fetch allen-ns-rdms --from FOLDER", "reliability"),
    Claim("ceiling of VISal L4 in R2; the best model reaches a third of it", ".789; .281", "data", _REPORT, "ceiling"),
    Claim("architectures whose pretrained net beats the random one; by t test; after Bonferroni", "28 of 30; 15; 6 (notebook: 30; 23 after Bonferroni)", "weights", f"{_SCORE} NAME,NAME-random (30 nets); {_REPORT}", "pretraining"),
    Claim("best architectures, mean R2 over sites", "MobileNetV2 .1164, SqueezeNets .1162, .109 (notebook: resnet152 .127)", "weights", f"{_SCORE} NAME (30 nets); {_REPORT}", "best_architecture"),
    Claim("worst pretrained; worst of all", "VGG19_bn .032; random MobileNetV2 .011", "weights", f"{_SCORE} NAME,NAME-random (30 nets); {_REPORT}", "worst_architecture"),
    Claim("score against parameters; against depth", "r -.346, p .061; r .05, p .783 (notebook: -.575, +.713)", "weights", _REPORT, "size"),
    Claim("VGG16 against random; with batch norm", ".079, .009; .027, .033 (notebook: .077, .025; .075, .008)", "weights", f"{_SCORE} vgg16,vgg16-random,vgg16_bn,vgg16_bn-random; {_REPORT}", "batch_norm"),
    Claim("best and worst latent space", "segment_unsup2d .046; room_layout .000065 (notebook: .00061)", "weights", f"{_SCORE} {_TASKS.replace('TASK', 'TASK@latent')}; {_REPORT}", "latent"),
    Claim("best and worst task, all layers", "segment_unsup2d .092; inpainting .022", "weights", f"{_SCORE} {_TASKS}; {_REPORT}", "layers"),
    Claim("analyses of variance by cluster and area", "cluster p < 1e-11 (latent), p < 1e-6 (layers); interaction p .056", "weights", _REPORT, "anova"),
    Claim("VISp and VISl dissociate 2D and Semantic", "93.9 % of splits", "weights", _REPORT),
    Claim("best cell", "segment_unsup2d in VISal L4, .281", "weights", _REPORT, "best_cell"),
    Claim("best single layer: pretrained, random", "r .299, .183; paired t(629) = 37.1", "weights", "mousebench score --benchmark allen-ns-rdms --metric rsa --model NAME,NAME-random (30 nets)"),
    Claim("best model by site, best single layer", "shufflenet_v2_x0_5 in 9 of 21 sites", "weights", "mousebench report --benchmark allen-ns-rdms --metric rsa"),
    Claim("best r by site, best single layer", "VISal L4 .495 ... VISrl L5 .138", "weights", "mousebench report --benchmark allen-ns-rdms --metric rsa"),
    Claim("2021: cells, cells at r >= .8, size of the projection", "39,317; 6,619; 4,096", "arithmetic", "4 ln(119) / (.1^2/2 - .1^3/3) = 4,096"),
    Claim("2021: resnet18, ridge by area", "mean .152", "weights", "mousebench score --benchmark allen-ns-events --metric ridge --model resnet18"),
    Claim("2021: best single layer by task cluster and area", "Semantic .474 (VISal) ... random .247 (VISl)", "weights", f"mousebench score --benchmark allen-ns-events --metric rsa --model {_TASKS}"),
    Claim("2021: depth of the best layer by area", "median .19 (VISp) to .36 (VISam)", "weights", "layer_raw of the results of --metric rsa"),
    Claim("2021: self-supervised ResNet-50s, ridge", "supervised .156, random .158, MoCo v2 .156, BYOL .163", "weights", "mousebench score --benchmark allen-ns-events --metric ridge --model resnet50 --weights FILE"),
)  # fmt: skip


def regenerate(scores: xr.Dataset | None, reliabilities: Mapping[str, float]) -> Section:
    """List every claim, what was published, how it is made again, and what comes out where the inputs are at hand.

    Parameters
    ----------
    scores : Dataset or None
        Of the published metric.
    reliabilities : mapping of site to float
        Split-half reliability of the site RDMs, where the benchmark gives it.
    """
    section = Section("claims", "Published claims, and how each is made again")
    found = values_at_hand(scores, reliabilities)
    rows: list[list[object]] = [
        [k, claim.text, claim.published, claim.needs, claim.how, found.get(claim.value)]
        for k, claim in enumerate(CLAIMS, 1)
    ]
    section.tables.append(
        Table(
            "claims",
            "Needs: data = the published RDMs are enough, weights = the nets' trained weights are needed. Here: from what is stored, empty where inputs are missing. "
            "R2 is the square of the pooled r, its sign kept.",
            ["#", "claim", "published", "needs", "how to make it again", "here"],
            plain(rows),
        )
    )
    return section


def values_at_hand(scores: xr.Dataset | None, reliabilities: Mapping[str, float]) -> dict[str, str]:
    """Return what can be said of each claim from what is stored."""
    found: dict[str, str] = {}
    known = {site: value for site, value in reliabilities.items() if np.isfinite(value)}
    if reliabilities:
        found["sites"] = str(len(reliabilities))
    if known:
        top = max(known, key=lambda site: known[site])
        found["reliability"] = f"{number(known[top], 4)} ({top})"
    if "VISal.L4" in known:
        found["ceiling"] = f"{number(known['VISal.L4'] ** 2)} = {number(known['VISal.L4'])} squared"
    if scores is None:
        return found
    squared = scores.assign(score=np.sign(scores["raw"]) * scores["raw"] ** 2)
    twins = analysis.twins(squared)
    if "trained" in twins:
        _add_architectures(found, twins, squared)
    for name, latent in (("latent", True), ("layers", False)):
        chosen = analysis.task_scores(squared, latent=latent)
        if chosen.sizes["model"] > 1:
            order = analysis.hierarchy(chosen)
            first, last = order.isel(model=0), order.isel(model=-1)
            found[name] = (
                f"{first['task'].item()} {number(float(first['mean']))}; {last['task'].item()} {number(float(last['mean']))}"
            )
    chosen = analysis.task_scores(squared, latent=True)
    if chosen.sizes["model"] > 3:
        variance = analysis.anova(chosen)
        cluster, crossed = (float(variance.sel(term=term)["p"]) for term in ("cluster", "interaction"))
        found["anova"] = f"latent: cluster p {p_value(cluster)}, interaction p {p_value(crossed)}"
    cell = analysis.best(squared).attrs
    found["best_cell"] = f"{cell['model']} in {cell['site']}, {number(cell['score'])}"
    return found


def _add_architectures(found: dict[str, str], twins: xr.Dataset, squared: xr.Dataset) -> None:
    count = analysis.counts(twins)
    if count["compared"]:
        found["pretraining"] = (
            f"{count['higher']} of {count['compared']}; {count['published']}; {count['published_bonferroni']}"
        )
    names, trained, untrained = (twins[key].values for key in ("architecture", "trained", "untrained"))
    if np.isfinite(trained).any():
        found["best_architecture"] = f"{names[np.nanargmax(trained)]} {number(float(np.nanmax(trained)))}"
        found["worst_architecture"] = f"{names[np.nanargmin(trained)]} {number(float(np.nanmin(trained)))}"
    if np.isfinite(untrained).any():
        worst = f"untrained {names[np.nanargmin(untrained)]} {number(float(np.nanmin(untrained)))}"
        found["worst_architecture"] = "; ".join(filter(None, [found.get("worst_architecture"), worst]))
    size = analysis.size_and_depth(twins)
    if size.attrs["n"] >= 4:
        p, d = (size.sel(predictor=name) for name in ("parameters", "depth"))
        found["size"] = (
            f"r {number(float(p['pearson']))}, p {p_value(float(p['pearson_p']))}; r {number(float(d['pearson']))}, p {p_value(float(d['pearson_p']))}"
        )
    means = analysis.site_mean(squared)["mean"].to_series()
    nets = [name for name in ("vgg16", "vgg16-random", "vgg16_bn", "vgg16_bn-random") if name in means.index]
    if nets:
        found["batch_norm"] = ", ".join(f"{name} {number(float(means[name]))}" for name in nets)


def stands(by_metric: Mapping[str, xr.Dataset]) -> Section:
    """Say which of the paper's conclusions stand under which metric."""
    section = Section("stands", "Which conclusions stand under which metric")
    rows: list[list[object]] = []
    for name, ask in _CONCLUSIONS.items():
        rows.append([name, *(ask(scores) or "not at hand" for scores in by_metric.values())])
    section.tables.append(
        Table(
            "stands",
            "Each of the paper's conclusions, asked of each metric's scores. 'not at hand': models are missing.",
            ["conclusion", *by_metric],
            plain(rows),
        )
    )
    missing = [row[0] for row in rows if all(cell == "not at hand" for cell in row[1:])]
    if missing:
        section.gaps.append(f"models are missing for: {'; '.join(map(str, missing))}")
    return section


def _pretraining(scores: xr.Dataset) -> str:
    count = analysis.counts(analysis.twins(scores))
    if not count["compared"]:
        return ""
    return f"{count['higher']} of {count['compared']} higher, {count['ours_holm']} after Holm"


def _smaller(scores: xr.Dataset) -> str:
    found = analysis.twins(scores)
    if "trained" not in found or np.isfinite(found["trained"].values).sum() < 4:
        return ""
    one = analysis.size_and_depth(found).sel(predictor="parameters")
    low, high = float(one["spearman_low"]), float(one["spearman_high"])
    verdict = "yes" if high < 0 else "no, the opposite" if low > 0 else "cannot be told"
    return f"{verdict}: Spearman {number(float(one['spearman']))} ({number(low)} to {number(high)})"


def _segmentation(latent: bool, scores: xr.Dataset) -> str:
    chosen = analysis.task_scores(scores, latent=latent)
    if chosen.sizes["model"] < 2 or "segment_unsup2d" not in chosen["task"].values:
        return ""
    order = analysis.hierarchy(chosen)
    rank = order["task"].values.tolist().index("segment_unsup2d") + 1
    return f"{'yes' if rank == 1 else 'no'}: rank {rank} of {order.sizes['model']}; first is {order['task'].values[0]}"


def _clusters(latent: bool, scores: xr.Dataset) -> str:
    chosen = analysis.task_scores(scores, latent=latent)
    if chosen["cluster"].to_series().nunique() < 2 or chosen.sizes["model"] < 4:
        return ""
    found = analysis.label_permutation(chosen)
    return f"cluster p {p_value(found['cluster']['p'])}, with area p {p_value(found['interaction']['p'])}"


def _unexplained(scores: xr.Dataset) -> str:
    explained = analysis.best(scores)["explained"].values
    if not np.isfinite(explained).any():
        return ""
    left = 1 - float(np.nanmean(explained))
    return f"{'yes' if left > 0.5 else 'no'}: the best model of a site leaves {number(100 * left, 0)} %"


_CONCLUSIONS = {
    "training helps": _pretraining,
    "larger nets score lower": _smaller,
    "2D segmentation is the best task (latent space)": lambda scores: _segmentation(True, scores),
    "2D segmentation is the best task (all layers)": lambda scores: _segmentation(False, scores),
    "clusters of tasks differ, and interact with area (latent space)": lambda scores: _clusters(True, scores),
    "clusters of tasks differ, and interact with area (all layers)": lambda scores: _clusters(False, scores),
    "most of the explainable variance is unexplained": _unexplained,
}
