"""Hierarchy of architectures, trained against untrained, size and depth (Conwell et al. 2020, figure 2 and table)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import xarray as xr
from scipy import optimize, stats

from mousebench.analysis.collect import only
from mousebench.paired import adjusted

ARCHITECTURES = (
    *("alexnet", "vgg11", "vgg13", "vgg16", "vgg19", "vgg11_bn", "vgg13_bn", "vgg16_bn", "vgg19_bn"),
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "squeezenet1_0", "squeezenet1_1"),
    *("densenet121", "densenet161", "densenet169", "densenet201", "googlenet", "shufflenet_v2_x0_5"),
    *("shufflenet_v2_x1_0", "mobilenet_v2", "resnext50_32x4d", "resnext101_32x8d", "wide_resnet50_2"),
    *("wide_resnet101_2", "mnasnet0_5", "mnasnet1_0"),
)
"""The thirty that Conwell et al. (2020) scored."""
_STREAM = 9
_MEASURED = (
    *("trained", "trained_low", "trained_high", "untrained", "untrained_sd", "difference", "difference_low"),
    *("difference_high", "p", "dz", "t_published", "p_published"),
)


def twins(scores: xr.Dataset) -> xr.Dataset:
    """Compare every trained architecture with its untrained twins.

    Published: unpaired t test over sites against one untrained draw (here the lowest seed), Bonferroni over architectures. Ours: the difference of the means over
    sites on the same resampled images and neurons, the untrained net being the mean over its seeds; Holm and Benjamini-Hochberg over architectures. A
    trained net began as one seed too, so that its mean may differ from theirs by the spread of seeds where training teaches nothing: the variance of
    seeds counts 1 + 1 / n times. It is pooled over architectures, as few seeds of one say little; with one seed of each it is not known and left out.

    Parameters
    ----------
    scores : Dataset
        ``collect``; its networks are used.

    Returns
    -------
    Dataset along architecture, the highest trained mean first, then the highest untrained one
        ``trained``, ``trained_low``, ``trained_high``, ``untrained`` (mean over seeds), ``untrained_sd`` (over seeds), ``n_seeds``,
        ``difference``, ``difference_low``, ``difference_high``, ``p``, ``p_holm``, ``p_bh``, ``dz`` (mean over sites by its standard deviation), ``t_published``,
        ``p_published``, ``parameters``, ``depth``, ``n_layers``. NaN where one of the two was not scored.
    """
    nets = only(scores, kind="network").pipe(
        lambda some: some.isel(model=~some["local"].values | some["trained"].values)
    )
    names = list(dict.fromkeys(nets["architecture"].values.astype(str).tolist()))
    parts = [only(nets, architecture=name) for name in names]
    spread = _spread_of_seeds(parts)
    rows = [_twin(part, *spread) for part in parts]
    columns = {key: np.array([row[key] for row in rows]) for key in (rows[0] if rows else {})}
    if not rows:
        return xr.Dataset(coords={"architecture": np.array([], dtype=str)})
    columns["p_holm"], columns["p_bh"] = adjusted(columns["p"], "holm"), adjusted(columns["p"], "fdr_bh")
    found = xr.Dataset({key: ("architecture", value) for key, value in columns.items()}, {"architecture": names})
    order = np.lexsort([-np.nan_to_num(columns[key], nan=-np.inf) for key in ("untrained", "trained")])
    return found.isel(architecture=order)


def _untrained_means(nets: xr.Dataset) -> np.ndarray:
    """Return the mean score (seed) of untrained nets over the sites that all of an architecture's have."""
    there = np.isfinite(nets["score"].values).all(0)
    return np.asarray(only(nets, trained=False)["score"].values[:, there].mean(1)) if there.any() else np.empty(0)


def _spread_of_seeds(parts: Sequence[xr.Dataset]) -> tuple[float, int]:
    """Return the variance of mean scores between seeds of an architecture, pooled over all, and its degrees of freedom."""
    several = [means for means in map(_untrained_means, parts) if len(means) > 1]
    freedom = sum(len(means) - 1 for means in several)
    squares = sum(float(np.square(means - means.mean()).sum()) for means in several)
    return (squares / freedom if freedom else 0.0), freedom


def _twin(nets: xr.Dataset, between: float, freedom: int) -> dict[str, float]:
    trained, untrained = only(nets, trained=True), only(nets, trained=False)
    some = nets.isel(model=0)
    row = dict.fromkeys(_MEASURED, float("nan"))
    row |= {name: float(some[name]) for name in ("parameters", "depth", "n_layers")}
    row["n_seeds"] = untrained.sizes["model"]
    order = np.argsort(untrained["twin_seed"].values, kind="stable")
    untrained = untrained.isel(model=order)
    # only a single trained net is the architecture's; of several (weights of one's own) the first is taken
    there = np.isfinite(nets["score"].values).all(0)
    if trained.sizes["model"]:
        values, draws = trained["score"].values[0], trained["score_draws"].values[0].astype(float)
        row["trained"] = _mean(values)
        row["trained_low"], row["trained_high"] = _interval(draws[np.isfinite(values)].mean(0))
    if untrained.sizes["model"]:
        means = np.array([_mean(one) for one in untrained["score"].values])
        row["untrained"] = float(means.mean())
        row["untrained_sd"] = float(means.std(ddof=1)) if len(means) > 1 else float("nan")
    if not (trained.sizes["model"] and untrained.sizes["model"] and there.any()):
        return row
    a, b = values[there], untrained["score"].values[:, there]
    difference = a - b.mean(0)
    row["difference"] = float(difference.mean())
    if len(difference) > 1 and np.ptp(difference) > 0:
        row["dz"] = float(difference.mean() / difference.std(ddof=1))
    row["t_published"], row["p_published"] = (float(one) for one in stats.ttest_ind(a, b[0]))
    twin_draws = untrained["score_draws"].values[:, there].astype(float).mean(1)  # (seed, bootstrap)
    if draws.shape[1]:
        n_seeds = len(twin_draws)
        images = float((draws[there].mean(0) - twin_draws.mean(0)).var(ddof=1))
        seeds = between * (1 + 1 / n_seeds)
        error, reach = (images + seeds) ** 0.5, 0.0
        if error > 0:
            tail = _mixed_tail(seeds / (images + seeds), max(freedom, 1), int(nets.attrs["n_stimuli"]) - 1)
            row["p"] = tail(abs(row["difference"]) / error)
            reach = error * float(optimize.brentq(lambda t: tail(t) - 0.05, 0, 1000))
        row["difference_low"], row["difference_high"] = row["difference"] - reach, row["difference"] + reach
    return row


def _mixed_tail(seeds: float, few: int, many: int) -> Callable[[float], float]:
    """Return the two-sided p of t whose variance is of seeds, by that share, and of images.

    Student's t (as in ``paired``: a count of draws would end at 1 / 1,001) of either number of degrees of freedom, mixed by the shares of variance in the manner of
    Cochran and Cox (1950): at most .05 of nets that do not differ come below .05 for 3 to 10 seeds and any shares, at most .0017 below .05 / 30. With Satterthwaite's
    degrees of freedom it is up to .077, and .018.
    """
    return lambda t: float(2 * (seeds * stats.t.sf(t, few) + (1 - seeds) * stats.t.sf(t, many)))


def _mean(values: np.ndarray) -> float:
    there = values[np.isfinite(values)]
    return float(there.mean()) if there.size else float("nan")


def _interval(draws: np.ndarray) -> tuple[float, float]:
    if not draws.size or not np.isfinite(draws).any():
        return float("nan"), float("nan")
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(low), float(high)


def counts(found: xr.Dataset, level: float = 0.05) -> dict[str, int]:
    """Count the architectures that beat their untrained twin: by the mean, by the published tests, by ours."""
    if "difference" not in found:
        return dict.fromkeys(("compared", "higher", "published", "published_bonferroni", "ours_holm", "ours_bh"), 0)
    there = np.isfinite(found["difference"].values)
    higher = found["difference"].values > 0
    number = max(int(there.sum()), 1)
    return {
        "compared": int(there.sum()),
        "higher": int(higher.sum()),
        "published": int((higher & (found["p_published"].values < level)).sum()),
        "published_bonferroni": int((higher & (found["p_published"].values < level / number)).sum()),
        "ours_holm": int((higher & (found["p_holm"].values < level)).sum()),
        "ours_bh": int((higher & (found["p_bh"].values < level)).sum()),
    }


def size_and_depth(found: xr.Dataset, *, n_draws: int = 10_000, seed: int = 0) -> xr.Dataset:
    """Correlate the mean scores of trained nets with their size and depth.

    Published: Pearson r with the number of parameters and with the number of layers. Ours: Spearman, with a bootstrap interval over architectures, and
    with the number of layers (of regressors, for NNLS) held constant.

    Parameters
    ----------
    found : Dataset
        ``twins``.
    n_draws, seed : int

    Returns
    -------
    Dataset along predictor (parameters, log parameters, depth, n_layers)
        ``pearson``, ``pearson_p``, ``spearman``, ``spearman_low``, ``spearman_high``, ``spearman_p``, ``partial`` (Spearman, number of layers held constant); attribute ``n``. NaN for
        fewer than four architectures.
    """
    predictors = ("parameters", "log parameters", "depth", "n_layers")
    keys = ("pearson", "pearson_p", "spearman", "spearman_low", "spearman_high", "spearman_p", "partial")
    columns = {key: np.full(len(predictors), np.nan) for key in keys}
    used = 0
    if "trained" in found:
        values = {name: found[name].values for name in ("parameters", "depth", "n_layers")}
        with np.errstate(invalid="ignore"):
            values["log parameters"] = np.log10(values["parameters"])
        score = found["trained"].values
        there = np.isfinite(score) & np.isfinite(values["parameters"]) & np.isfinite(values["depth"])
        used = int(there.sum())
        rng = np.random.default_rng([seed, _STREAM])
        chosen = rng.integers(used, size=(n_draws, used)) if used else np.empty((0, 0), dtype=int)
        for row, name in enumerate(predictors):
            x, y, layers = values[name][there], score[there], values["n_layers"][there]
            if used < 4 or np.ptp(x) == 0 or np.ptp(y) == 0:
                continue
            columns["pearson"][row], columns["pearson_p"][row] = stats.pearsonr(x, y)
            columns["spearman"][row], columns["spearman_p"][row] = stats.spearmanr(x, y)
            draws = _row_correlations(stats.rankdata(x[chosen], axis=1), stats.rankdata(y[chosen], axis=1))
            columns["spearman_low"][row], columns["spearman_high"][row] = np.nanquantile(draws, [0.025, 0.975])
            if name != "n_layers" and np.ptp(layers) > 0:
                columns["partial"][row] = _partial(*(stats.rankdata(one) for one in (x, y, layers)))
    return xr.Dataset(
        {key: ("predictor", value) for key, value in columns.items()}, {"predictor": list(predictors)}, {"n": used}
    )


def _row_correlations(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return Pearson r of each row; NaN where one does not vary."""
    x, y = (one - one.mean(1, keepdims=True) for one in (x, y))
    scale = np.sqrt((x * x).sum(1) * (y * y).sum(1))
    return np.asarray(np.divide((x * y).sum(1), scale, out=np.full(len(x), np.nan), where=scale > 0))


def _partial(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> float:
    """Return the correlation of x and y with z held constant; NaN where one follows from z."""
    xy, xz, yz = (float(np.corrcoef(*two)[0, 1]) for two in ((x, y), (x, z), (y, z)))
    left = (1 - xz**2) * (1 - yz**2)
    return (xy - xz * yz) / left**0.5 if left > 1e-12 else float("nan")


def metric_agreement(by_metric: dict[str, xr.Dataset]) -> xr.Dataset:
    """Return how alike metrics order the models that they share, by the means over sites.

    Parameters
    ----------
    by_metric : dict of metric to Dataset
        ``site_mean`` of each.

    Returns
    -------
    Dataset (metric, metric_b)
        ``spearman``, ``kendall``, ``n`` models in common; NaN for fewer than three.
    """
    names = list(by_metric)
    shape = (len(names), len(names))
    spearman, kendall, n = np.full(shape, np.nan), np.full(shape, np.nan), np.zeros(shape, dtype=int)
    for i, first in enumerate(names):
        for j, second in enumerate(names):
            a, b = (by_metric[name]["mean"].to_series().dropna() for name in (first, second))
            common = a.index.intersection(b.index)
            n[i, j] = len(common)
            x, y = a.loc[common].to_numpy(), b.loc[common].to_numpy()
            if len(common) > 2 and np.ptp(x) > 0 and np.ptp(y) > 0:
                spearman[i, j], kendall[i, j] = stats.spearmanr(x, y)[0], stats.kendalltau(x, y)[0]
    dims = ("metric", "metric_b")
    columns = {"spearman": (dims, spearman), "kendall": (dims, kendall), "n": (dims, n)}
    return xr.Dataset(columns, {"metric": names, "metric_b": names})
