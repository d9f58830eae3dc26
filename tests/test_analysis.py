from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from scipy import stats
from scipy.optimize import nnls
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import KFold

from mousebench import analysis, store
from mousebench.analysis.collect import describe
from mousebench.analysis.planted import SITES, WEIGHTS, PlantedWorld
from mousebench.errors import MissingData
from mousebench.linalg import upper_triangle

CLUSTERS = {"a1": "A", "a2": "A", "a3": "A", "b1": "B", "b2": "B", "c1": "C", "c2": "C"}
FACTS = {
    "alexnet": {"parameters": 61, "depth": 8},
    "resnet18": {"parameters": 12, "depth": 21},
    **{f"taskonomy/{task}": {"parameters": 24, "depth": 54, "cluster": cluster} for task, cluster in CLUSTERS.items()},
}


def facts(model: str) -> dict[str, object]:
    return FACTS.get(model.partition("@")[0].removesuffix("-random"), {})


def result(
    model: str, score: np.ndarray, draws: np.ndarray | None = None, sites: tuple[str, ...] = SITES, **attrs: object
) -> xr.Dataset:
    """Return a result as the store has it, with these scores."""
    n = len(score)
    draws = np.repeat(score[:, None], 50, axis=1) if draws is None else draws
    one = dict.fromkeys(("score", "raw"), ("site", score))
    same = {"ceiling": np.ones(n), "null_p": np.full(n, 0.01), "n_neuroids": np.full(n, 9.0), "n_layers": np.full(n, 3)}
    same["n_stimuli"] = np.full(n, 118)
    columns = {**one, **{name: ("site", value) for name, value in same.items()}}
    known = {"model": model, "benchmark": "b", "benchmark_version": 1, "metric": "m", "metric_version": 1, "seed": 0}
    known |= {"simulated": 1, "format": store.FORMAT, "provenance": "{}", **attrs}
    draws = draws.astype(np.float32)
    return xr.Dataset({**columns, "score_draws": (("site", "bootstrap"), draws)}, {"site": list(sites)}, known)


def task_table(values: np.ndarray, latent: bool = True) -> xr.Dataset:
    """Return the scores (task, site) of the tasks of CLUSTERS."""
    end = "@latent" if latent else ""
    some = [result(f"taskonomy/{task}{end}", row) for task, row in zip(CLUSTERS, values, strict=True)]
    return analysis.task_scores(analysis.table(some, facts), latent=latent)


def rdms(n_stimuli: int, n: int, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [1 - np.corrcoef(rng.normal(size=(n_stimuli, 20))) for _ in range(n)]


@pytest.mark.parametrize(
    ("model", "known", "expected"),
    [
        ("alexnet", {"parameters": 1, "depth": 2}, {"kind": "network", "trained": True, "architecture": "alexnet"}),
        ("alexnet-random@3", {"parameters": 1}, {"trained": False, "twin_seed": 3, "architecture": "alexnet"}),
        ("alexnet-random", {"parameters": 1}, {"trained": False, "twin_seed": 0}),
        ("taskonomy/curvature@latent", {"cluster": "3D"}, {"kind": "task", "task": "curvature", "latent": True}),
        ("taskonomy/encoder-random@latent-3", {"parameters": 1}, {"kind": "network", "twin_seed": 3, "latent": True}),
        ("taskonomy/encoder-random@latent-3", {"parameters": 1}, {"architecture": "taskonomy/encoder@latent"}),
        ("alexnet@crop", {"parameters": 1}, {"trained": True, "architecture": "alexnet@crop"}),
        ("pixels", {}, {"kind": "control", "trained": False}),
        ("squeezenet1_0+my-weights", {"parameters": 1}, {"architecture": "squeezenet1_0", "local": True}),
    ],
)
def test_an_identifier_says_what_a_model_is(model: str, known: dict, expected: dict) -> None:
    found = describe(model, known)
    assert {name: found[name] for name in expected} == expected


def test_collect_reads_what_is_stored_and_names_what_it_cannot_use(tmp_path: Path) -> None:
    folder = tmp_path / "b" / "v2" / "m"
    rng = np.random.default_rng(0)
    scores = {"alexnet": rng.random(10), "alexnet-random": rng.random(10)}
    for name, score in scores.items():
        store.write(result(name, score), folder / f"{name}.nc")
    store.write(result("pixels", rng.random(10), seed=1), folder / "pixels.nc")
    store.write(result("gabor", rng.random(4), sites=SITES[:4]), folder / "gabor.nc")
    (folder / "torn.nc").write_bytes(b"CDF")
    found = analysis.collect(tmp_path, "b", "m", facts)
    assert found["model"].values.tolist() == ["alexnet", "alexnet-random", "gabor"]
    np.testing.assert_array_equal(found["score"].sel(model="alexnet"), scores["alexnet"])
    assert np.isnan(found["score"].sel(model="gabor").values[4:]).all()
    assert len(found.attrs["skipped"]) == 2
    assert any("torn.nc" in text for text in found.attrs["skipped"])
    assert any(text.startswith("pixels: seed 1") for text in found.attrs["skipped"])


def test_collect_without_results_says_how_to_make_some(tmp_path: Path) -> None:
    with pytest.raises(MissingData) as caught:
        analysis.collect(tmp_path, "b", "m", facts)
    assert "mousebench score" in caught.value.hint


def test_the_published_test_is_scipys_and_ours_is_paired() -> None:
    rng = np.random.default_rng(1)
    sites = rng.normal(0.3, 0.2, size=10)  # sites differ far more than trained and untrained do
    noise = 0.1 * rng.normal(size=(10, 400))  # shared: the same images
    own = 0.01 * rng.normal(size=(4, 10, 400))
    trained = sites + 0.03
    some = [result("alexnet", trained, trained[:, None] + noise + own[0])]
    twins = [sites + 0.001 * rng.normal(size=10) for _ in range(3)]
    for seed, twin in enumerate(twins):
        name = f"alexnet-random@{seed}" if seed else "alexnet-random"
        some.append(result(name, twin, twin[:, None] + noise + own[seed + 1]))
    found = analysis.twins(analysis.table(some, facts)).sel(architecture="alexnet")
    assert float(found["p_published"]) == pytest.approx(stats.ttest_ind(trained, twins[0]).pvalue, abs=1e-12)
    assert float(found["p_published"]) > 0.5
    assert float(found["p"]) < 0.01
    assert float(found["difference"]) == pytest.approx(trained.mean() - np.mean(twins), abs=1e-6)
    assert float(found["difference_low"]) > 0.02
    assert float(found["untrained_sd"]) == pytest.approx(np.std([one.mean() for one in twins], ddof=1), abs=1e-9)
    assert analysis.counts(analysis.twins(analysis.table(some, facts)))["ours_holm"] == 1


def test_seeds_that_differ_much_widen_the_interval() -> None:
    rng = np.random.default_rng(2)
    score, draws = rng.random(10), rng.random(10)[:, None] + 0.001 * rng.normal(size=(10, 500))

    def width(offset: float) -> float:
        some = [result("alexnet", score, draws)]
        for seed in range(5):
            value = score + offset * (seed - 2)
            some.append(result(f"alexnet-random@{seed}", value, draws))
        found = analysis.twins(analysis.table(some, facts)).sel(architecture="alexnet")
        return float(found["difference_high"] - found["difference_low"])

    # five seeds 0.1 apart have a variance of 0.025; the trained net is a sixth, their spread has 4 degrees of freedom
    assert width(0.1) == pytest.approx(2 * stats.t.ppf(0.975, 4) * np.sqrt(0.025 * 6 / 5), rel=0.01)
    assert width(0.0) < 0.01


@pytest.mark.slow
def test_a_net_that_is_one_more_seed_is_rarely_said_to_differ() -> None:
    rng = np.random.default_rng(14)
    sites = rng.random(10)

    def net() -> xr.Dataset:
        some = []
        for end in ("", "-random", "-random@1", "-random@2"):
            score = sites + 0.1 * rng.normal() + 0.03 * rng.normal()  # a seed of its own, and images as it happens
            some.append(result(f"alexnet{end}", score, score[:, None] + 0.03 * rng.normal(size=100)))
        return analysis.twins(analysis.table(some, facts))

    p = np.array([float(net()["p"][0]) for _ in range(40)])
    assert (p < 0.05).sum() <= 6  # 2 +- 1.4 at .05, at most 6 with probability .99
    assert (p < 0.5).sum() > 10


def test_an_architecture_without_its_twin_is_there_with_gaps() -> None:
    found = analysis.twins(analysis.table([result("alexnet", np.full(10, 0.2))], facts))
    assert found["architecture"].values.tolist() == ["alexnet"]
    assert np.isnan(found["difference"].values).all()
    assert analysis.counts(found)["compared"] == 0


def test_size_and_depth_agree_with_scipy_and_with_partial_ranks() -> None:
    rng = np.random.default_rng(3)
    n = 12
    x, layers, y = rng.random(n), rng.permutation(n).astype(float), rng.random(n)
    found = xr.Dataset(
        {"trained": ("architecture", y), "parameters": ("architecture", x), "depth": ("architecture", layers + x)}
        | {"n_layers": ("architecture", layers)},
        {"architecture": [str(k) for k in range(n)]},
    )
    row = analysis.size_and_depth(found, n_draws=500).sel(predictor="parameters")
    assert float(row["pearson"]) == pytest.approx(stats.pearsonr(x, y)[0], abs=1e-12)
    assert float(row["spearman"]) == pytest.approx(stats.spearmanr(x, y)[0], abs=1e-12)
    assert float(row["spearman_low"]) < float(row["spearman"]) < float(row["spearman_high"])
    rank = [stats.rankdata(one) for one in (x, y, layers)]
    residual = [one - np.polyval(np.polyfit(rank[2], one, 1), rank[2]) for one in rank[:2]]
    assert float(row["partial"]) == pytest.approx(np.corrcoef(*residual)[0, 1], abs=1e-9)


def test_few_architectures_give_no_correlation() -> None:
    found = analysis.twins(analysis.table([result("alexnet", np.full(10, 0.2))], facts))
    assert np.isnan(analysis.size_and_depth(found)["pearson"].values).all()


def test_the_analysis_of_variance_is_that_of_sums_of_squares_by_hand() -> None:
    rng = np.random.default_rng(4)
    values = rng.normal(size=(7, 10))
    tasks = task_table(values)
    found = analysis.anova(tasks, "site")
    labels = np.array(list(CLUSTERS.values()))
    grand = values.mean()
    cluster = sum((labels == c).sum() * 10 * (values[labels == c].mean() - grand) ** 2 for c in "ABC")
    site = 7 * np.square(values.mean(0) - grand).sum()
    cell = sum((labels == c).sum() * np.square(values[labels == c].mean(0) - grand).sum() for c in "ABC")
    by_hand = [cluster, site, cell - cluster - site]
    np.testing.assert_allclose(found["sum_sq"].values, by_hand, rtol=1e-9)
    error = np.square(values - grand).sum() - cell
    assert found.attrs["df_resid"] == 70 - 30
    np.testing.assert_allclose(found["partial_eta_sq"].values, [one / (one + error) for one in by_hand], rtol=1e-9)
    f = (cluster / 2) / (error / 40)
    assert float(found.sel(term="cluster")["p"]) == pytest.approx(stats.f.sf(f, 2, 40), rel=1e-9)


def test_too_few_observations_give_an_analysis_without_numbers() -> None:
    one = analysis.task_scores(analysis.table([result("taskonomy/a1@latent", np.full(10, 0.1))], facts), latent=True)
    assert np.isnan(analysis.anova(one)["p"].values).all()
    assert np.isnan(analysis.label_permutation(one)["cluster"]["p"])
    assert "too few" in analysis.mixed_model(one).attrs["note"]


def test_label_permutation_finds_a_planted_cluster_and_a_planted_interaction() -> None:
    rng = np.random.default_rng(5)
    noise = 0.05 * rng.normal(size=(7, 10))
    of_cluster = np.array([0.5 if cluster == "A" else 0 for cluster in CLUSTERS.values()])
    found = analysis.label_permutation(task_table(noise + of_cluster[:, None]), n_permutations=2000)
    # 7! / (3! 2! 2!) = 210 ways to share out the labels; B and C may be exchanged for one another: 2 / 210 is the least p there is
    assert found["cluster"]["p"] == pytest.approx(2 / 210, abs=0.007)
    assert found["cluster"]["omega_sq"] > 0.9
    assert found["interaction"]["p"] > 0.05
    there = np.array([site.startswith("VISp.") for site in SITES])
    crossed = noise + np.outer(of_cluster, there - there.mean())
    found = analysis.label_permutation(task_table(crossed), n_permutations=2000)
    assert found["interaction"]["p"] == pytest.approx(2 / 210, abs=0.007)


def test_label_permutation_holds_its_level_where_sites_are_correlated() -> None:
    # what a task has is in all of its sites: the published analysis takes it for many observations
    rng = np.random.default_rng(6)
    ours, published = [], []
    tasks = task_table(np.zeros((7, 10)))
    for _ in range(100):
        values = rng.normal(size=(7, 1)) + 0.3 * rng.normal(size=(7, 10))
        tasks = tasks.assign(score=(("model", "site"), values))
        ours.append(analysis.label_permutation(tasks, n_permutations=199)["cluster"]["p"])
        published.append(float(analysis.anova(tasks).sel(term="cluster")["p"]))
    # 100 tests at .05: 5 +- 2.2, so at most 13 with probability .999
    assert (np.array(ours) < 0.05).sum() <= 13
    assert (np.array(published) < 0.05).mean() > 0.5


def shared_by_cluster(rng: np.random.Generator, own: float, effect: float = 0.0) -> xr.Dataset:
    """Return tasks whose clusters go with the images of a world as it happens, and resamples that know how far."""
    of = np.unique(list(CLUSTERS.values()), return_inverse=True)[1]
    cluster, draws = rng.normal(size=(3, 10)), rng.normal(size=(200, 3, 10))
    values = effect * of[:, None] + cluster[of] + own * rng.normal(size=(7, 10))
    some = [
        result(f"taskonomy/{task}@latent", row, row[:, None] + draws[:, of[k]].T)
        for k, (task, row) in enumerate(zip(CLUSTERS, values, strict=True))
    ]
    return analysis.task_scores(analysis.table(some, facts), latent=True)


def test_what_clusters_share_on_these_images_alone_is_not_found_on_others() -> None:
    rng = np.random.default_rng(15)
    found = [
        analysis.label_permutation(shared_by_cluster(rng, 0.1), n_permutations=199)["interaction"] for _ in range(60)
    ]
    p, resampled = (np.array([one[name] for one in found]) for name in ("p", "p_resampled"))
    assert (p < 0.05).mean() > 0.5
    assert (resampled < 0.05).mean() < 0.1
    far = analysis.label_permutation(shared_by_cluster(rng, 0.1, effect=5.0), n_permutations=999)["cluster"]
    assert far["p_resampled"] < 0.05


def test_resamples_that_change_nothing_leave_permuted_labels_as_they_are() -> None:
    tasks = task_table(np.random.default_rng(16).normal(size=(7, 10)))
    for term in analysis.label_permutation(tasks, n_permutations=300).values():
        assert term["p_resampled"] == term["p"]
    without = tasks.isel(bootstrap=slice(0))
    assert np.isnan(analysis.label_permutation(without, n_permutations=20)["cluster"]["p_resampled"])


def test_tasks_of_single_images_are_those_of_the_paper() -> None:
    from mousebench_plugins.models.taskonomy import PAPER_21, SCORED_24

    names = [f"taskonomy/{task}@latent" for task in SCORED_24]
    table = analysis.table([result(name, np.zeros(10)) for name in names], analysis.catalogue_facts)
    single = analysis.task_scores(table, latent=True, single_image=True)
    assert set(single["task"].values.tolist()) == set(PAPER_21) - {"colorization"}


def test_the_mixed_model_finds_the_spread_of_tasks_and_of_sites() -> None:
    rng = np.random.default_rng(7)
    values = 0.5 * rng.normal(size=(7, 1)) + 0.3 * rng.normal(size=(1, 10)) + 0.05 * rng.normal(size=(7, 10))
    found = analysis.mixed_model(task_table(values))
    assert found.attrs["sd_residual"] == pytest.approx(0.05, rel=0.35)
    assert 0.1 < found.attrs["sd_task"] < 1.5
    assert (found["p"].values >= 0).all()


def test_cells_and_hierarchy_are_means() -> None:
    rng = np.random.default_rng(8)
    values = rng.random((7, 10))
    tasks = task_table(values)
    found = analysis.cells(tasks)
    here = [site.startswith("VISl.") for site in SITES]
    assert float(found["mean"].sel(cluster="B", area="VISl")) == pytest.approx(values[3:5][:, here].mean(), abs=1e-6)
    order = analysis.hierarchy(tasks)
    assert order["task"].values[0] == list(CLUSTERS)[values.mean(1).argmax()]
    assert (np.diff(order["mean"].values) <= 0).all()


def test_the_best_model_of_each_site_is_the_highest() -> None:
    rng = np.random.default_rng(9)
    values = rng.random((7, 10))
    values[2, 4] = np.nan
    found = analysis.best(task_table(values))
    names = [f"taskonomy/{task}@latent" for task in CLUSTERS]
    assert found["model"].values.tolist() == [names[k] for k in np.nanargmax(values, axis=0)]
    np.testing.assert_allclose(found["explained"], np.nanmax(values, axis=0) ** 2)


def test_weights_of_splits_are_those_of_scikit_learn() -> None:
    n_stimuli, seed = 24, 3
    tasks = dict(zip("abcd", rdms(n_stimuli, 4, 0), strict=True))
    sites = {"x": tasks["a"] + 0.5 * tasks["b"] + 0.3 * rdms(n_stimuli, 1, 5)[0], "y": rdms(n_stimuli, 1, 6)[0]}
    found = analysis.split_weights(tasks, sites, n_splits=2, seed=seed)
    first, second = np.triu_indices(n_stimuli, 1)
    x = np.column_stack([upper_triangle(rdm) for rdm in tasks.values()])
    for split in range(2):
        weight = []
        for _, test in KFold(6, shuffle=True, random_state=seed + split).split(np.zeros((n_stimuli, 1))):
            train = ~np.isin(first, test) & ~np.isin(second, test)
            y = np.column_stack([upper_triangle(rdm) for rdm in sites.values()])[train]
            weight.append([LinearRegression(positive=True).fit(x[train], column).coef_ for column in y.T])
        expected = np.mean(weight, axis=0).T
        np.testing.assert_allclose(found["weight_raw"].values[split], expected, atol=1e-6)


def test_the_image_bootstrap_is_a_fit_on_repeated_pairs() -> None:
    from mousebench.resampling import image_counts

    n_stimuli = 18
    tasks = dict(zip("abc", rdms(n_stimuli, 3, 1), strict=True))
    sites = {"x": tasks["a"] + 0.5 * rdms(n_stimuli, 1, 7)[0]}
    found = analysis.image_bootstrap(tasks, sites, n_draws=3, seed=4)
    x = np.column_stack([upper_triangle(rdm) for rdm in tasks.values()])
    x = (x - x.mean(0)) / x.std(0)
    y = upper_triangle(sites["x"])
    first, second = np.triu_indices(n_stimuli, 1)
    for draw, counts in enumerate(image_counts(n_stimuli, 4, 3)):
        times = (counts[first] * counts[second]).astype(int)
        rows, targets = np.repeat(x, times, axis=0), np.repeat(y, times)
        weight = nnls(rows - rows.mean(0), targets - targets.mean())[0]
        np.testing.assert_allclose(found.values[draw, :, 0], weight, atol=1e-6)


def test_leaving_out_the_only_task_that_matters_costs_most() -> None:
    tasks = dict(zip("abc", rdms(30, 3, 2), strict=True))
    sites = {"x": tasks["b"] + 0.2 * rdms(30, 1, 8)[0]}
    lost = analysis.drop_one(tasks, sites, repeats=2)
    assert float(lost.sel(task="b", site="x")) > 0.5
    assert abs(float(lost.sel(task="a", site="x"))) < 0.02


def test_a_dissociation_is_counted_by_hand() -> None:
    rng = np.random.default_rng(10)
    values = rng.normal(size=(200, 3, 2))
    weight = xr.DataArray(values, {"cluster": list("ABC"), "area": ["p", "l"]}, ("split", "cluster", "area"))
    found = analysis.dissociations(weight)
    assert found.sizes["dissociation"] == 3
    assert (np.diff(found["share"].values) <= 0).all()
    for k in range(3):
        one = found.isel(dissociation=k)
        a, b = (weight.sel(cluster=str(one[name].item())) for name in ("cluster_a", "cluster_b"))
        here, there = ((a - b).sel(area=str(one[name].item())).values for name in ("area_a", "area_b"))
        assert float(one["share"]) == ((here > 0) & (there < 0)).mean()
        assert float(one["share"]) >= ((here < 0) & (there > 0)).mean()


def test_resampled_tasks_vary_as_the_mean_of_others_would() -> None:
    rng = np.random.default_rng(17)
    values = rng.normal(size=(7, 3))
    weight = xr.DataArray(
        np.repeat(values[None], 20_000, axis=0),
        {"task": list(CLUSTERS), "site": list("xyz")},
        ("bootstrap", "task", "site"),
    )
    found = analysis.resampled_tasks(weight, CLUSTERS)
    whole = analysis.by_cluster(weight, CLUSTERS)
    assert found.dims == whole.dims
    np.testing.assert_allclose(found.mean("bootstrap"), whole.isel(bootstrap=0), atol=0.03)
    for cluster, rows in (("A", slice(3)), ("B", slice(3, 5))):
        expected = values[rows].var(0, ddof=1) / len(values[rows])
        np.testing.assert_allclose(found.sel(cluster=cluster).var("bootstrap"), expected, rtol=0.05)


def test_metrics_that_rank_alike_agree() -> None:
    scores = {"x": [0.1, 0.2, 0.3, 0.4], "y": [0.2, 0.4, 0.9, 1.0], "z": [0.4, 0.3, 0.2, 0.1]}
    tables = {
        name: analysis.site_mean(
            analysis.table([result(f"m{k}", np.full(10, value)) for k, value in enumerate(values)], facts)
        )
        for name, values in scores.items()
    }
    found = analysis.metric_agreement(tables)
    assert float(found["spearman"].sel(metric="x", metric_b="y")) == pytest.approx(1)
    assert float(found["kendall"].sel(metric="x", metric_b="z")) == pytest.approx(-1)
    assert (found["n"].values == 4).all()


def test_the_intercept_alone_is_that_of_a_loop_over_folds() -> None:
    n_stimuli = 20
    sites = {"x": rdms(n_stimuli, 1, 11)[0]}
    found = analysis.intercept_only(sites, repeats=(1, 3), seed=5)
    first, second = np.triu_indices(n_stimuli, 1)
    y = upper_triangle(sites["x"])
    total, count = np.zeros_like(y), np.zeros_like(y)
    for repeat in range(3):
        for _, test in KFold(6, shuffle=True, random_state=5 + repeat).split(np.zeros((n_stimuli, 1))):
            held = np.isin(first, test) | np.isin(second, test)
            total[held] += y[~held].mean()
            count[held] += 1
        if repeat in (0, 2):
            r = np.corrcoef(total / count, y)[0, 1]
            assert float(found.sel(repeats=repeat + 1, site="x")[0]) == pytest.approx(r, abs=1e-10)


def test_a_planted_world_is_the_same_for_a_seed_and_has_what_is_planted() -> None:
    tasks = {"t": "2D", "u": "Semantic"}
    one, same, other = (PlantedWorld(seed, True, tasks, ["net"], n_neuroids=30) for seed in (0, 0, 1))
    xr.testing.assert_identical(one.target("VISp.L4"), same.target("VISp.L4"))
    assert not one.target("VISp.L4").equals(other.target("VISp.L4"))
    models = one.models()
    assert set(models) == {f"taskonomy/{t}{end}" for t, end in itertools.product(tasks, ("", "@latent"))} | {
        *("net", "net-random", "net-random@1", "net-random@2")
    }
    images = one.stimuli().values
    seen = models["taskonomy/t"].activations(np.repeat(images[..., None], 3, axis=3)[[5, 2]], ["layer4"])["layer4"]
    np.testing.assert_array_equal(seen, models["taskonomy/t"].features["layer4"][[5, 2]])
    assert WEIGHTS["VISp"]["2D"] > WEIGHTS["VISp"]["Semantic"]
