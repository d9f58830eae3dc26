"""Task against site: hierarchy of tasks, cells of cluster x area, analyses of variance (Conwell et al. 2020, figure 3)."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr
from scipy import stats

from mousebench.analysis.collect import only, site_mean

if TYPE_CHECKING:
    import pandas as pd

N_PERMUTATIONS = 10_000


SEVERAL_IMAGES = ("egomotion", "fixated_pose", "nonfixated_pose", "point_matching")
"""Tasks whose networks take several images; of the 25 the paper's 21 are inferred to be the others (Zamir et al. 2018)."""


def task_scores(scores: xr.Dataset, *, latent: bool, single_image: bool = False) -> xr.Dataset:
    """Return the scores of the tasks that have a cluster (24; 20 of single images), of the latent space or of all layers."""
    tasks = only(scores, kind="task", latent=latent).pipe(_with_cluster)
    return tasks.isel(model=~np.isin(tasks["task"].values, SEVERAL_IMAGES)) if single_image else tasks


def _with_cluster(scores: xr.Dataset) -> xr.Dataset:
    return scores.isel(model=scores["cluster"].values != "none")


def hierarchy(tasks: xr.Dataset) -> xr.Dataset:
    """Return the mean over sites of every task with its interval, the best first; ``site_mean``, sorted."""
    means = site_mean(tasks)
    return means.isel(model=np.argsort(-means["mean"].values, kind="stable"))


def cells(tasks: xr.Dataset) -> xr.Dataset:
    """Return the mean score of each cluster in each area, (cluster, area), with intervals from shared resamples."""
    clusters, areas = (list(dict.fromkeys(tasks[name].values.astype(str).tolist())) for name in ("cluster", "area"))
    shape = (len(clusters), len(areas))
    mean, low, high = (np.full(shape, np.nan) for _ in range(3))
    for row, cluster in enumerate(clusters):
        for column, area in enumerate(areas):
            part = tasks.isel(model=tasks["cluster"].values == cluster, site=tasks["area"].values == area)
            value = part["score"].values
            if not np.isfinite(value).any():
                continue
            there = np.isfinite(value)
            mean[row, column] = value[there].mean()
            draws = part["score_draws"].values[there].astype(float)
            if draws.shape[1]:
                low[row, column], high[row, column] = np.quantile(draws.mean(0), [0.025, 0.975])
    dims = ("cluster", "area")
    return xr.Dataset(
        {"mean": (dims, mean), "low": (dims, low), "high": (dims, high)}, {"cluster": clusters, "area": areas}
    )


def frame(tasks: xr.Dataset) -> pd.DataFrame:
    """Return one row for each task and site that has a score: score, task, cluster, site, area."""
    import pandas as pd

    values = tasks["score"].values
    model, site = np.nonzero(np.isfinite(values))
    return pd.DataFrame(
        {
            "score": values[model, site],
            "task": tasks["task"].values[model],
            "cluster": tasks["cluster"].values[model],
            "site": tasks["site"].values[site],
            "area": tasks["area"].values[site],
        }
    )


def anova(tasks: xr.Dataset, by: str = "area") -> xr.Dataset:
    """Return the two-way analysis of variance of score by cluster and area (or site), as published.

    Every task in every site is one observation, sums of squares of type II, by statsmodels. The observations are not independent: sites share their
    images and a task is in all of them; ``label_permutation`` and ``mixed_model`` are what we would defend.

    Parameters
    ----------
    tasks : Dataset
        ``task_scores``.
    by : {"area", "site"}

    Returns
    -------
    Dataset along term (cluster, ``by``, interaction)
        ``sum_sq``, ``df``, ``f``, ``p``, ``eta_sq`` (of all of the variance), ``partial_eta_sq``; attribute ``df_resid``. NaN where the table
        has too few observations.
    """
    from statsmodels.formula.api import ols
    from statsmodels.stats.anova import anova_lm

    terms = ["cluster", by, "interaction"]
    data = frame(tasks)
    n_cells = data["cluster"].nunique() * data[by].nunique()
    if min(data["cluster"].nunique(), data[by].nunique()) < 2 or len(data) <= n_cells:
        nothing = ("term", np.full(3, np.nan))
        return xr.Dataset(
            dict.fromkeys(("sum_sq", "df", "f", "p", "eta_sq", "partial_eta_sq"), nothing),
            {"term": terms},
            {"df_resid": 0},
        )
    found = anova_lm(ols(f"score ~ C(cluster) * C({by})", data).fit(), typ=2)
    effect, error = found.iloc[:3], found.iloc[3]
    sum_sq = effect["sum_sq"].to_numpy()
    total = ((data["score"] - data["score"].mean()) ** 2).sum()
    columns = {
        "sum_sq": sum_sq,
        "df": effect["df"].to_numpy(),
        "f": effect["F"].to_numpy(),
        "p": effect["PR(>F)"].to_numpy(),
        "eta_sq": sum_sq / total,
        "partial_eta_sq": sum_sq / (sum_sq + error["sum_sq"]),
    }
    return xr.Dataset(
        {name: ("term", value) for name, value in columns.items()}, {"term": terms}, {"df_resid": int(error["df"])}
    )


def posthoc(tasks: xr.Dataset) -> xr.Dataset:
    """Return t tests between clusters over all tasks and sites, with Bonferroni, as published."""
    data = frame(tasks)
    pairs = list(combinations(dict.fromkeys(data["cluster"]), 2))
    rows = []
    for a, b in pairs:
        x, y = (data.loc[data["cluster"] == name, "score"].to_numpy() for name in (a, b))
        rows.append((x.mean() - y.mean(), *stats.ttest_ind(x, y)))
    difference, t, p = np.array(rows, dtype=float).reshape(-1, 3).T
    return xr.Dataset(
        {
            "difference": ("pair", difference),
            "t": ("pair", t),
            "p": ("pair", p),
            "p_bonferroni": ("pair", np.minimum(p * max(len(pairs), 1), 1)),
            "cluster_a": ("pair", np.array([a for a, _ in pairs], dtype=str)),
            "cluster_b": ("pair", np.array([b for _, b in pairs], dtype=str)),
        }
    )


def label_permutation(
    tasks: xr.Dataset, *, n_permutations: int = N_PERMUTATIONS, seed: int = 0
) -> dict[str, dict[str, float]]:
    """Test cluster, and cluster x area, by permuting which task belongs to which cluster.

    A task is the unit: its sites move together, so that their correlation is in the null. The statistics are the sums of squares
    between clusters of the task means, and of what is left of the cluster x area means without both main effects.

    Tasks of one cluster have features in common, which go with these images and neurons as it happens, so that clusters differ even
    where they would not with others. ``p_resampled`` asks for a difference beyond that: to each permutation the changes of the clusters' means on one
    resample of images and neurons (``score_draws``) are added. What tasks and images do together is in both, which errs on the safe side.

    Returns
    -------
    dict of "cluster", "interaction" to dict
        ``statistic``, ``p``, ``p_resampled`` (NaN without draws), and ``omega_sq`` for the cluster: the share of variance between tasks that clusters
        explain, corrected for chance. NaN where there are fewer than two clusters or no complete site.
    """
    values = tasks["score"].values
    whole = np.isfinite(values).all(0)
    clusters, of = np.unique(tasks["cluster"].values, return_inverse=True)
    if len(clusters) < 2 or not whole.any() or len(values) <= len(clusters):
        nothing = dict.fromkeys(("statistic", "p", "p_resampled"), float("nan"))
        return {"cluster": {**nothing, "omega_sq": float("nan")}, "interaction": dict(nothing)}
    areas, area = np.unique(tasks["area"].values[whole], return_inverse=True)
    share = np.bincount(area) / len(area)  # areas count by their sites
    of_site = (area[:, None] == np.arange(len(areas))) / np.bincount(area)  # (site, area)
    by_area = values[:, whole] @ of_site
    rng = np.random.default_rng([seed, 6])
    labels = np.stack([of, *(rng.permutation(of) for _ in range(n_permutations))])
    member = (labels[:, :, None] == np.arange(len(clusters))).astype(float)  # (permutation, task, cluster)
    size = member[0].sum(0)
    mean, inner = _effects(by_area, share)
    by_cluster = np.einsum("ptc,t->pc", member / size, mean)
    cell = np.einsum("ptc,ta->pca", member / size, inner)
    between, crossed = _sums_of_squares(by_cluster, cell, size, share)
    total = np.square(mean).sum()
    within = (total - between[0]) / (len(mean) - len(clusters))
    found = {
        "cluster": {
            "statistic": float(between[0]),
            "p": _p(between),
            "p_resampled": float("nan"),
            "omega_sq": float((between[0] - (len(clusters) - 1) * within) / (total + within)),
        },
        "interaction": {"statistic": float(crossed[0]), "p": _p(crossed), "p_resampled": float("nan")},
    }
    draws = tasks["score_draws"].values[:, whole].astype(float)
    if draws.shape[2] and np.isfinite(draws).all():
        changes = np.einsum("tsd,sa->dta", draws - draws.mean(2, keepdims=True), of_site)
        of_task, of_cell = _effects(changes, share)
        draw = np.arange(n_permutations) % len(changes)
        by_cluster[1:] += (of_task @ (member[0] / size))[draw]
        cell[1:] += np.einsum("tc,dta->dca", member[0] / size, of_cell)[draw]
        for term, moved in zip(found, _sums_of_squares(by_cluster, cell, size, share), strict=True):
            found[term]["p_resampled"] = _p(moved)
    return found


def _effects(by_area: np.ndarray, share: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Split means (..., task, area) into what is the task's (..., task) and what is of task x area (..., task, area)."""
    mean = by_area @ share
    inner = by_area - mean[..., None]
    return mean - mean.mean(-1, keepdims=True), inner - inner.mean(-2, keepdims=True)


def _sums_of_squares(
    by_cluster: np.ndarray, cell: np.ndarray, size: np.ndarray, share: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return those between clusters and of cluster x area, (permutation) each, from means (permutation, cluster[, area])."""
    return (size * np.square(by_cluster)).sum(1), (size[:, None] * share * np.square(cell)).sum((1, 2))


def _p(statistic: np.ndarray) -> float:
    reached = statistic[1:] >= statistic[0] * (1 - 1e-12)
    return float((1 + reached.sum()) / (1 + reached.size))


def mixed_model(tasks: xr.Dataset) -> xr.Dataset:
    """Return Wald tests of cluster, area and their interaction beside crossed random intercepts of task and site.

    Returns
    -------
    Dataset along term
        ``chi2``, ``df``, ``p``; attributes ``sd_task``, ``sd_site``, ``sd_residual``, ``converged`` (0 or 1). NaN where it
        cannot be fitted, with the reason in ``note``.
    """
    import warnings

    from statsmodels.formula.api import mixedlm
    from statsmodels.tools.sm_exceptions import ConvergenceWarning

    terms = ["cluster", "area", "interaction"]
    nothing = xr.Dataset({name: ("term", np.full(3, np.nan)) for name in ("chi2", "df", "p")}, {"term": terms})
    data = frame(tasks).assign(everything=1)
    if min(data[name].nunique() for name in ("cluster", "area")) < 2 or data["task"].nunique() < 4:
        return nothing.assign_attrs(note="too few tasks, clusters or areas")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # said by ``converged``
        warnings.simplefilter("ignore", RuntimeWarning)
        warnings.simplefilter("ignore", UserWarning)
        try:
            fit = mixedlm(
                "score ~ C(cluster, Sum) * C(area, Sum)",
                data,
                groups="everything",
                vc_formula={"task": "0 + C(task)", "site": "0 + C(site)"},
            ).fit()
        except (np.linalg.LinAlgError, ValueError) as error:
            return nothing.assign_attrs(note=f"the model could not be fitted: {error}")
    names = [name for name in fit.model.exog_names if name != "Intercept"]
    rows = []
    for crossed, start in ((False, "C(cluster"), (False, "C(area"), (True, "")):
        chosen = [n for n, name in enumerate(fit.model.exog_names) if name in names and (":" in name) is crossed]
        chosen = [n for n in chosen if fit.model.exog_names[n].startswith(start)]
        effect = fit.fe_params.to_numpy()[chosen]
        covariance = fit.cov_params().to_numpy()[np.ix_(chosen, chosen)]
        chi2 = float(effect @ np.linalg.pinv(covariance) @ effect)
        rows.append((chi2, len(chosen), float(stats.chi2.sf(chi2, len(chosen)))))
    spread = dict(zip(fit.model.exog_vc.names, np.sqrt(fit.vcomp), strict=True))
    columns = dict(zip(("chi2", "df", "p"), np.array(rows).T, strict=True))
    return xr.Dataset(
        {name: ("term", value) for name, value in columns.items()},
        {"term": terms},
        {
            "sd_task": float(spread["task"]),
            "sd_site": float(spread["site"]),
            "sd_residual": float(np.sqrt(fit.scale)),
            "converged": int(fit.converged),
        },
    )


def best(scores: xr.Dataset) -> xr.Dataset:
    """Return for every site its best model, that model's score, and the share of explainable variance left unexplained.

    Variables along site: ``model``, ``score``, ``explained`` (sign(score) score^2), ``raw``, ``ceiling``; attributes ``model``, ``site``, ``score`` of
    the best cell of all. The best of many is optimistic: it is chosen on the score that is reported.
    """
    values = np.where(np.isfinite(scores["score"].values), scores["score"].values, -np.inf)
    row = values.argmax(0)
    top = scores.isel(model=xr.DataArray(row, dims="site"))
    score = np.where(np.isfinite(values.max(0)), values.max(0), np.nan)
    best_site = int(np.nanargmax(score)) if np.isfinite(score).any() else 0
    return xr.Dataset(
        {
            "model": ("site", scores["model"].values[row]),
            "score": ("site", score),
            "explained": ("site", np.sign(score) * score**2),
            "raw": ("site", top["raw"].values),
            "ceiling": ("site", top["ceiling"].values),
        },
        {"site": scores["site"].values},
        {
            "model": str(scores["model"].values[row[best_site]]),
            "site": str(scores["site"].values[best_site]),
            "score": float(score[best_site]),
        },
    )
