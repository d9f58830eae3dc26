"""The sections of a report: each takes scores or RDMs, and returns text, tables and figures as plain data."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import xarray as xr

from mousebench import analysis
from mousebench.report.content import Figure, Section, Table, as_list, interval, number, p_value, plain, rows_of


def architectures(scores: xr.Dataset) -> Section:
    """Figure 2: trained architectures and their untrained twins."""
    metric = scores.attrs["metric"]
    section = Section(f"architectures-{metric}", f"Architectures, trained and untrained ({metric})")
    found = analysis.twins(scores)
    if "trained" not in found:
        section.gaps.append(f"no architecture has been scored with {metric}")
        return section
    names = found["architecture"].values.tolist()
    count = analysis.counts(found)
    alone = [name for name, one in zip(names, found["difference"].values, strict=True) if not np.isfinite(one)]
    alone += [name for name in analysis.ARCHITECTURES if name not in names]
    if alone:
        section.gaps.append(f"not scored both trained and untrained: {', '.join(alone)}")
    single = [name for name, n in zip(names, found["n_seeds"].values, strict=True) if n == 1]
    if single and len(single) == (found["n_seeds"].values > 0).sum():
        section.gaps.append(
            "one seed of each untrained net alone, so that neither intervals nor p know how seeds differ "
            "(NAME-random@1,NAME-random@2,... are others)"
        )
    if count["compared"]:
        section.text.append(
            f"{count['higher']} of {count['compared']} trained architectures score above their untrained twin. By the published test (unpaired t over "
            f"sites, one untrained draw, p < .05) {count['published']} do, after Bonferroni {count['published_bonferroni']}; by the paired test on "
            f"resampled images and neurons, to which the spread of seeds of the untrained net adds, {count['ours_holm']} after Holm and {count['ours_bh']} after "
            "Benjamini-Hochberg."
        )
    keys = [*("trained", "trained_low", "trained_high", "untrained", "untrained_sd", "n_seeds", "difference")]
    keys += ["difference_low", "difference_high", "dz", "p", "p_holm", "p_bh", "t_published", "p_published"]
    section.tables.append(
        Table(
            section.name,
            "Mean score over sites; differences are paired, with 95 % intervals. untrained_sd is that over seeds.",
            ["architecture", *keys],
            rows_of([names, *(found[key].values for key in keys)]),
        )
    )
    series = [
        {"name": "trained", "value": found["trained"], "low": found["trained_low"], "high": found["trained_high"]},
        {"name": "untrained (mean over seeds)", "value": found["untrained"]},
    ]
    data = {
        "labels": names,
        "series": [{key: as_list(value) for key, value in one.items()} for one in series],
        "x": f"mean score over sites ({metric})",
    }
    caption = (
        "Architectures by the mean of their scores over sites, with 95 % intervals; their untrained twins beside them."
    )
    section.figures.append(Figure(section.name, caption, "points", data))
    return section


def size_and_depth(scores: xr.Dataset) -> Section:
    """Parameters and depth against score."""
    metric = scores.attrs["metric"]
    section = Section(f"size-{metric}", f"Size and depth ({metric})")
    found = analysis.twins(scores)
    which = "trained"
    if "trained" in found and np.isfinite(found["trained"].values).sum() < 4:
        which = "untrained"
        found = found.assign(trained=found["untrained"])
        section.gaps.append("fewer than four trained architectures have been scored: this is of the untrained ones")
    correlated = analysis.size_and_depth(found)
    if correlated.attrs["n"] < 4:
        section.gaps.append("fewer than four architectures have been scored")
        return section
    row = {str(name): correlated.sel(predictor=name) for name in correlated["predictor"].values}
    size, depth = row["parameters"], row["depth"]
    section.text.append(
        f"Over {correlated.attrs['n']} {which} architectures the score correlates with the number of parameters at r = {number(float(size['pearson']))} "
        f"(p {p_value(float(size['pearson_p']))}) and with depth at r = {number(float(depth['pearson']))} (p {p_value(float(depth['pearson_p']))}), as published. "
        f"By ranks: {number(float(size['spearman']))} (95 % {interval(float(size['spearman_low']), float(size['spearman_high']))}) and "
        f"{number(float(depth['spearman']))} ({interval(float(depth['spearman_low']), float(depth['spearman_high']))}); with the number of layers held "
        f"constant {number(float(size['partial']))} and {number(float(depth['partial']))}."
    )
    keys = list(map(str, correlated.data_vars))
    section.tables.append(
        Table(
            section.name,
            "Correlations of the mean score with size and depth; partial: Spearman with the number of layers held constant.",
            ["predictor", *keys],
            rows_of([correlated["predictor"].values, *(correlated[key].values for key in keys)]),
        )
    )
    panels = [
        {"x": as_list(found["parameters"]), "name": "parameters", "log": True},
        {"x": as_list(found["depth"]), "name": "depth (weight layers)"},
    ]
    data = {
        "panels": panels,
        "y": as_list(found["trained"]),
        "y_name": f"mean score, {which} ({metric})",
        "labels": found["architecture"].values.tolist(),
    }
    section.figures.append(Figure(section.name, "Score against parameters and depth.", "scatter", data))
    return section


def best(scores: xr.Dataset) -> Section:
    """Find the best model of each site, and what is left unexplained."""
    metric = scores.attrs["metric"]
    section = Section(f"best-{metric}", f"Best model by site ({metric})")
    found = analysis.best(scores)
    left = 1 - found["explained"].values
    section.text.append(
        f"Highest of all cells: {found.attrs['model']} in {found.attrs['site']}, score {number(found.attrs['score'])}. On average over sites the best model leaves "
        f"{number(100 * float(np.nanmean(left)), 0)} % of the explainable variance unexplained. A best of many is chosen on the score that is reported, and so is optimistic."
    )
    keys = ("model", "score", "explained", "raw", "ceiling")
    section.tables.append(
        Table(
            section.name,
            "The best model of each site; explained: share of the explainable variance.",
            ["site", *keys],
            rows_of([found["site"].values, *(found[key].values for key in keys)]),
        )
    )
    return section


def sensitivity(by_metric: Mapping[str, xr.Dataset]) -> Section:
    """Say what a ranking owes to the metric."""
    section = Section("sensitivity", "Sensitivity to the metric")
    if len(by_metric) < 2:
        section.gaps.append("only one metric has results")
        return section
    found = analysis.metric_agreement({name: analysis.site_mean(one) for name, one in by_metric.items()})
    names = found["metric"].values.tolist()
    rows = [
        [a, b, *(float(found[key][i, j]) for key in ("spearman", "kendall")), int(found["n"][i, j])]
        for i, a in enumerate(names)
        for j, b in enumerate(names)
        if i < j
    ]
    section.tables.append(
        Table(
            "sensitivity",
            "Rank correlations between metrics over the models that both have scored (means over sites).",
            ["metric", "metric_b", "spearman", "kendall", "models"],
            plain(rows),
        )
    )
    data = {"rows": names, "columns": names, "values": as_list(found["spearman"]), "name": "Spearman"}
    section.figures.append(Figure("sensitivity", "How alike metrics rank the models.", "heat", data))
    return section


def batch_norm(scores: xr.Dataset) -> Section:
    """Appendix A.5: VGG16 with and without batch normalisation."""
    metric = scores.attrs["metric"]
    section = Section(f"batch-norm-{metric}", f"Batch normalisation: VGG16 ({metric})")
    wanted = [f"{name}{twin}" for name in ("vgg16", "vgg16_bn") for twin in ("", "-random")]
    means = analysis.site_mean(scores)
    rows: list[list[object]] = []
    for name in wanted:
        there = means["model"].values == name
        if there.any():
            one = means.isel(model=int(there.argmax()))
            rows.append([name, *(float(one[key]) for key in ("mean", "low", "high"))])
        else:
            section.gaps.append(f"{name} has not been scored")
    if rows:
        section.text.append(
            "Untrained and in evaluation mode, a batch normalisation changes nothing but by rounding, so that of the same seed both untrained nets score alike."
        )
        section.tables.append(
            Table(section.name, "Mean score over sites.", ["model", "mean", "low", "high"], plain(rows))
        )
    return section


def nothing(sites: Mapping[str, np.ndarray], *, n_seeds: int = 5) -> Section:
    """Say what the published metric gives for nothing."""
    section = Section("nothing", "What the published metric gives a model that knows nothing")
    r = analysis.intercept_only(sites, n_seeds=n_seeds)
    square, mean = (r**2).mean("site"), r.mean("site")
    section.text.append(
        "A constant prediction, scored by the published recipe: held-out predictions are averaged over folds and repeats and pooled over all pairs of images before "
        f"they are correlated. With one repeat the mean over sites of R2 is {number(float(square.sel(repeats=1).mean()))}, with ten {number(float(square.sel(repeats=10).mean()))}, with a "
        f"hundred {number(float(square.sel(repeats=100).mean()))}; its r is negative. In rsa-nnls it is 0 by construction."
    )
    by_repeats = [square.sel(repeats=k) for k in r["repeats"].values]
    rows = [
        [
            int(one["repeats"]),
            float(mean.sel(repeats=one["repeats"]).mean()),
            *(float(value) for value in (one.mean(), one.min(), one.max())),
            float((r**2).sel(repeats=one["repeats"]).max()),
        ]
        for one in by_repeats
    ]
    section.tables.append(
        Table(
            "nothing",
            f"Intercept only, mean over {r.sizes['site']} sites, {n_seeds} seeds of the folds.",
            ["repeats", "r", "r2", "r2 lowest seed", "r2 highest seed", "r2 highest site"],
            plain(rows),
        )
    )
    data = {
        "x": r["repeats"].values.tolist(),
        "x_name": "repeats of the 6 folds",
        "y_name": "R2 of the intercept alone",
        "log": True,
        "series": [
            {
                "name": "mean over sites",
                "y": as_list(square.mean("run")),
                "low": as_list(square.min("run")),
                "high": as_list(square.max("run")),
            },
            {"name": "highest site", "y": as_list((r**2).max(("run", "site")))},
        ],
    }
    section.figures.append(
        Figure(
            "nothing", "The published R2 of a model that knows nothing grows with the number of repeats.", "lines", data
        )
    )
    return section
