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
from mousebench.report.task_sections import PAPERS

_TASKS = (
    *("autoencoding", "class_object", "class_scene", "curvature", "denoising", "depth_euclidean", "depth_zbuffer"),
    *("edge_occlusion", "edge_texture", "egomotion", "fixated_pose", "inpainting", "jigsaw", "keypoints2d"),
    *("keypoints3d", "nonfixated_pose", "normal", "point_matching", "reshading", "room_layout", "segment_semantic"),
    *("segment_unsup25d", "segment_unsup2d", "vanishing_point"),
)
NAMES = (
    f"NETS={','.join(analysis.ARCHITECTURES)}",
    "TWINS=${NETS//,/-random,}-random",
    f"TASKS={','.join(f'taskonomy/{task}' for task in _TASKS)}",
    "LATENTS=${TASKS//,/@latent,}@latent",
)
"""What the commands mean by $NETS, $TWINS, $TASKS and $LATENTS, for bash."""
_SCORE = "mousebench score --benchmark allen-ns-rdms --metric rsa-nnls-published,rsa-nnls --model"
_REPORT = "mousebench report --benchmark allen-ns-rdms"
_RSA = f"mousebench score --benchmark allen-ns-rdms --metric rsa --model $NETS,$TWINS; {_REPORT}"
_EVENTS = "mousebench fetch allen-ns-events; mousebench score --benchmark allen-ns-events --results results"
_SIZE = 4 * np.log(119) / (0.1**2 / 2 - 0.1**3 / 3)


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
    Claim("neurons with split-half r of .75 or more", "over 8,200 (8,214 excitatory)", "data", f"{_EVENTS} --model pixels; mousebench report --benchmark allen-ns-events --results results", "neurons"),
    Claim("split-half reliability of site RDMs up to", ".93 (VISl L2/3)", "data", f"{_SCORE} pixels; {_REPORT}", "reliability"),
    Claim("ceiling of VISal L4 in R2; the best model reaches a third of it", ".789; .281", "data", f"{_SCORE} $NETS,$TASKS; {_REPORT}", "ceiling"),
    Claim("architectures whose pretrained net beats the random one; by t test; after Bonferroni", "28 of 30; 15; 6 (notebook: 30; 23 after Bonferroni)", "weights", f"{_SCORE} $NETS,$TWINS; {_REPORT}", "pretraining"),
    Claim("best architectures, mean R2 over sites", "MobileNetV2 .1164, SqueezeNets .1162, .109 (notebook: resnet152 .127)", "weights", f"{_SCORE} $NETS; {_REPORT}", "best_architecture"),
    Claim("worst pretrained; worst of all", "VGG19_bn .032; random MobileNetV2 .011", "weights", f"{_SCORE} $NETS,$TWINS; {_REPORT}", "worst_architecture"),
    Claim("score against parameters; against depth", "r -.346, p .061; r .05, p .783 (notebook: -.575, +.713)", "weights", f"{_SCORE} $NETS; {_REPORT}", "size"),
    Claim("VGG16 against random; with batch norm", ".079, .009; .027, .033 (notebook: .077, .025; .075, .008)", "weights", f"{_SCORE} vgg16,vgg16-random,vgg16_bn,vgg16_bn-random; {_REPORT}", "batch_norm"),
    Claim("best and worst latent space", "segment_unsup2d .046; room_layout .000065 (notebook: .00061)", "weights", f"{_SCORE} $LATENTS; {_REPORT}", "latent"),
    Claim("best and worst task, all layers", "segment_unsup2d .092; inpainting .022", "weights", f"{_SCORE} $TASKS; {_REPORT}", "layers"),
    Claim("analyses of variance by cluster and area", "cluster p < 1e-11 (latent), p < 1e-6 (layers); interaction p .056", "weights", f"{_SCORE} $TASKS,$LATENTS; {_REPORT}", "anova"),
    Claim("VISp and VISl dissociate 2D and Semantic", "93.9 % of splits", "weights", f"{_SCORE} $LATENTS; {_REPORT}", "dissociation"),
    Claim("best cell", "segment_unsup2d in VISal L4, .281", "weights", f"{_SCORE} $NETS,$TASKS; {_REPORT}", "best_cell"),
    Claim("best single layer: pretrained, random", "r .299, .183; paired t(629) = 37.1", "weights", _RSA, "rsa_mean"),
    Claim("best model by site, best single layer", "shufflenet_v2_x0_5 in 9 of 21 sites", "weights", _RSA, "rsa_first"),
    Claim("best r by site, best single layer", "VISal L4 .495 ... VISrl L5 .138", "weights", _RSA, "rsa_sites"),
    Claim("2021: cells, cells at r >= .8, size of the projection", "39,317; 6,619; 4,096", "arithmetic", 'python -c "from math import log; print(4 * log(119) / (.1**2 / 2 - .1**3 / 3))"', "size_2021"),
    Claim("2021: resnet18, ridge by area", "mean .152", "weights", f"{_EVENTS} --metric ridge --model resnet18"),
    Claim("2021: best single layer by task cluster and area", "Semantic .474 (VISal) ... random .247 (VISp)", "weights", f"{_EVENTS} --metric rsa --model $TASKS,taskonomy/encoder-random; mousebench report --benchmark allen-ns-events --results results"),
    Claim("2021: depth of the best layer by area", "median .19 (VISp) to .36 (VISam)", "weights", f"{_EVENTS} --metric rsa --model alexnet; " + "python -c \"import xarray as xr; r = xr.load_dataset('results/allen-ns-events/v1/rsa/alexnet.nc')['layer_raw']; print((r.argmax('layer') / (r.sizes['layer'] - 1)).to_series())\""),
    Claim("2021: self-supervised ResNet-50s, ridge", "supervised .156, random .158, MoCo v2 .156, BYOL .163", "weights", f"{_EVENTS} --metric ridge --model resnet50 --weights FILE"),
)  # fmt: skip


def regenerate(by_metric: Mapping[str, xr.Dataset], reliabilities: Mapping[str, float], signature: Section) -> Section:
    """List every claim, what was published, how it is made again, and what comes out where the inputs are at hand.

    Parameters
    ----------
    by_metric : mapping of metric to Dataset
        Scores; the paper's are of ``rsa-nnls-published``, some of ``rsa``.
    reliabilities : mapping of site to float
        Split-half reliability of the site RDMs, where the benchmark gives it.
    signature : Section
        ``task_sections.signatures``.
    """
    section = Section("claims", "Published claims, and how each is made again")
    found = values_at_hand(by_metric, reliabilities)
    for row in next((table.rows for table in signature.tables if table.name == "dissociations"), []):
        a, p, b, q, splits, _, resampled = row
        if (frozenset([str(a), str(b)]), frozenset([str(p), str(q)])) == PAPERS:
            found["dissociation"] = (
                f"{a} in {p}, {b} in {q}: {_percent(splits)} of splits, {_percent(resampled)} of images and tasks resampled"
            )
    rows: list[list[object]] = [
        [k, claim.text, claim.published, claim.needs, claim.how, found.get(claim.value)]
        for k, claim in enumerate(CLAIMS, 1)
    ]
    section.text.append("The commands are for bash, and mean by their names:")
    section.code += NAMES
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


def _percent(share: object) -> str:
    return f"{number(100 * share, 1)} %" if isinstance(share, float) else number(None)


def values_at_hand(by_metric: Mapping[str, xr.Dataset], reliabilities: Mapping[str, float]) -> dict[str, str]:
    """Return what can be said of each claim from what is stored."""
    found = {"size_2021": f"size of the projection {_SIZE:,.0f}"}
    known = {site: value for site, value in reliabilities.items() if np.isfinite(value)}
    if reliabilities:
        found["sites"] = str(len(reliabilities))
    if known:
        top = max(known, key=lambda site: known[site])
        found["reliability"] = f"{number(known[top], 4)} ({top})"
    if "VISal.L4" in known:
        found["ceiling"] = f"{number(known['VISal.L4'] ** 2)} = {number(known['VISal.L4'])} squared"
    for scores in by_metric.values():
        count = scores["n_neuroids"].max("model") if "n_neuroids" in scores else xr.DataArray(np.nan)
        if not scores.attrs["simulated"] and np.isfinite(count).all():
            found["neurons"] = f"{int(count.sum()):,}"
    if "rsa" in by_metric:
        _add_single_layers(found, by_metric["rsa"])
    if "rsa-nnls-published" in by_metric:
        _add_published(found, by_metric["rsa-nnls-published"])
    return found


def _add_published(found: dict[str, str], scores: xr.Dataset) -> None:
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


def _add_single_layers(found: dict[str, str], scores: xr.Dataset) -> None:
    """Say what the best single layer gives; ours is chosen in the training folds, the paper's on the score that it reports."""
    nets = analysis.only(scores, kind="network")
    trained, untrained = (analysis.only(nets, trained=one)["raw"] for one in (True, False))
    found["rsa_mean"] = ", ".join(
        f"{name} {number(float(some.mean()))}"
        for name, some in (("trained", trained), ("untrained", untrained))
        if some.size
    )
    best = analysis.best(nets.assign(score=nets["raw"])) if nets.sizes["model"] else None
    if best is not None:
        names, times = np.unique(best["model"].values, return_counts=True)
        found["rsa_first"] = f"{names[times.argmax()]} in {times.max()} of {best.sizes['site']} sites"
        order = best.isel(site=np.argsort(-best["score"].values))
        ends = [f"{site} {number(float(order['score'].sel(site=site)))}" for site in order["site"].values[[0, -1]]]
        found["rsa_sites"] = " ... ".join(ends)


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
