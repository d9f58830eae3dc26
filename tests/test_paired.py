"""Differences, ranks and corrections, on results made up from scores and draws."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import xarray as xr
from scipy.stats import false_discovery_control, ttest_rel
from statsmodels.stats.multitest import multipletests

from mousebench.errors import UsageError
from mousebench.paired import adjusted, compare, difference, ranks
from mousebench.resampling import image_counts, two_sided_p

N_STIMULI = 118


def result(
    model: str,
    scores: Sequence[float],
    draws: np.ndarray | None = None,
    sites: Sequence[str] = "ABCDEFGH",
    **changes: Any,
) -> xr.Dataset:
    """Return a result with scores (site) and draws (site, bootstrap), the rest as ``results.assemble`` writes it."""
    n = len(scores)
    found = xr.Dataset(
        {
            "score": ("site", np.array(scores, dtype=float)),
            "null_p": ("site", np.full(n, 0.01)),
            "n_stimuli": ("site", np.full(n, N_STIMULI)),
            "target_sha256": ("site", np.array([f"data of {site}" for site in sites[:n]])),
        },
        coords={"site": list(sites[:n])},
        attrs={
            "model": model,
            "benchmark": "made-up",
            "benchmark_version": 1,
            "metric": "quick",
            "metric_version": 1,
            "seed": 0,
            "simulated": 1,
            "definition": json.dumps({"folds": 6}),
            "provenance": json.dumps({"stimuli": "pictures"}),
            **changes,
        },
    )
    if draws is not None:
        found["score_draws"] = (("site", "bootstrap"), np.asarray(draws, dtype=np.float32))
    return found


def about(scores: Sequence[float], spread: float, seed: int, n: int = 1000) -> np.ndarray:
    """Return draws (site, bootstrap) about scores."""
    noise = np.random.default_rng(seed).normal(size=(len(scores), n))
    return np.array(scores)[:, None] + spread * (noise - noise.mean(1, keepdims=True))


def notes_of(table: xr.Dataset) -> list[str]:
    return json.loads(table.attrs["notes"])


# differences ----------------------------------------------------------------------------------------------------------


def test_the_difference_of_sites_and_of_their_mean() -> None:
    a, b = [0.6, 0.5, 0.1], [0.5, 0.5, 0.4]
    both = difference(result("a", a, about(a, 0.03, 1)), result("b", b, about(b, 0.04, 2)))
    assert both["site"].values.tolist() == ["A", "B", "C"]
    np.testing.assert_allclose(both["difference"], [0.1, 0, -0.3], atol=1e-12)
    assert float(both["mean_difference"]) == pytest.approx(-0.2 / 3)
    np.testing.assert_allclose(both["high"] - both["low"], 2 * 1.98 * 0.05, rtol=0.1)
    np.testing.assert_allclose((both["low"] + both["high"]) / 2, both["difference"], atol=1e-12)
    assert float(both["mean_high"] - both["mean_low"]) == pytest.approx(2 * 1.98 * 0.05 / 3**0.5, rel=0.1)
    np.testing.assert_allclose(both["p_corrected"], false_discovery_control(both["p"]))
    assert float(both["p"][1]) == 1


def test_the_interval_leaves_zero_out_where_p_is_below_5_percent() -> None:
    scores = np.linspace(-0.2, 0.2, 8)
    both = difference(
        result("a", scores, about(scores, 0.05, 1)), result("b", np.zeros(8), about(np.zeros(8), 0.05, 2))
    )
    outside = (both["low"] > 0) | (both["high"] < 0)
    assert 0 < int(outside.sum()) < 8
    np.testing.assert_array_equal(outside, both["p"] < 0.05)


def test_a_difference_of_means_over_images_agrees_with_the_paired_t_test() -> None:
    # scores that are means over images, resampled as the metrics resample: the t-test on images is the exact answer
    rng = np.random.default_rng(3)
    common = rng.normal(size=N_STIMULI)
    a, b = common + rng.normal(size=N_STIMULI), common + 0.15 + rng.normal(size=N_STIMULI)
    share = image_counts(N_STIMULI, seed=0, n_draws=20_000) / N_STIMULI
    both = difference(result("a", [a.mean()], [share @ a]), result("b", [b.mean()], [share @ b]))
    exact = ttest_rel(a, b)
    assert float(both["p"][0]) == pytest.approx(exact.pvalue, rel=0.1)
    np.testing.assert_allclose(
        [both["low"][0], both["high"][0]], exact.confidence_interval(0.95), rtol=0.02, atol=0.002
    )
    assert float(both["p"][0]) == pytest.approx(two_sided_p(a.mean() - b.mean(), share @ (a - b)), rel=0.1)


def test_p_is_below_5_percent_in_5_percent_of_worlds_without_a_difference() -> None:
    # 2,000 worlds, each a site: two models whose scores are means over images that both see, equally good
    n = 2000
    rng = np.random.default_rng(4)
    common = rng.normal(size=(N_STIMULI, n))
    a, b = common + rng.normal(size=(N_STIMULI, n)), common + rng.normal(size=(N_STIMULI, n))
    share = image_counts(N_STIMULI, seed=0) / N_STIMULI
    worlds = [f"world{number}" for number in range(n)]
    both = difference(
        result("a", a.mean(0).tolist(), (share @ a).T, worlds), result("b", b.mean(0).tolist(), (share @ b).T, worlds)
    )
    assert float((both["p"] < 0.05).mean()) == pytest.approx(0.05, abs=0.015)
    assert float((both["p"] < 0.01).mean()) == pytest.approx(0.01, abs=0.007)
    assert int((both["p_corrected"] < 0.05).sum()) == 0


def test_draws_on_the_same_resamples_make_the_interval_narrower() -> None:
    scores = [0.5, 0.4]
    shared = about([0, 0], 0.1, 1)
    a = result("a", scores, shared + about(scores, 0.02, 2))
    paired = difference(a, result("b", scores, shared + about(scores, 0.02, 3)))
    apart = difference(a, result("b", scores, about([0, 0], 0.1, 4) + about(scores, 0.02, 3)))
    narrower = (paired["high"] - paired["low"]) / (apart["high"] - apart["low"])
    np.testing.assert_allclose(narrower, 0.02 / (0.02**2 + 0.1**2) ** 0.5, rtol=0.1)


def test_a_difference_the_other_way_round_is_its_mirror() -> None:
    a, b = result("a", [0.6, 0.1], about([0.6, 0.1], 0.1, 1)), result("b", [0.5, 0.3], about([0.5, 0.3], 0.1, 2))
    there, back = difference(a, b), difference(b, a)
    np.testing.assert_array_equal(there["difference"], -back["difference"])
    np.testing.assert_array_equal(there["low"], -back["high"])
    np.testing.assert_array_equal(there["p"], back["p"])
    assert float(there["mean_p"]) == float(back["mean_p"])


@pytest.mark.parametrize("rounding", [0, 1e-9])
def test_models_that_are_equal_but_for_rounding_do_not_differ(rounding: float) -> None:
    scores = np.array([0.5, 0.4])
    draws = about(scores, 0.1, 1)
    both = difference(result("a", scores, draws), result("b", scores + rounding, draws))
    assert float(both["p"].min()) > 0.95
    assert float(both["mean_p"]) > 0.95
    assert float(both["high"].max()) < 1e-6
    if not rounding:
        assert float(abs(both["difference"]).max()) == 0
        assert float(both["p"].min()) == 1


def test_a_site_without_a_score_has_no_difference_and_the_mean_leaves_it_out() -> None:
    a = result("a", [0.5, np.nan, 0.3], about([0.5, np.nan, 0.3], 0.1, 1))
    b = result("b", [0.4, 0.4, 0.4], about([0.4, 0.4, 0.4], 0.1, 2))
    both = difference(a, b)
    assert np.isnan(both[["difference", "low", "high", "p", "p_corrected"]].to_array()[:, 1]).all()
    assert float(both["mean_difference"]) == pytest.approx(0)
    assert notes_of(both) == ["B: no score for a; the mean leaves the site out"]
    np.testing.assert_allclose(both["p_corrected"][[0, 2]], false_discovery_control(both["p"][[0, 2]]))


def test_results_without_draws_differ_without_interval_and_p() -> None:
    both = difference(result("a", [0.5]), result("b", [0.4], about([0.4], 0.1, 1)))
    assert float(both["difference"][0]) == pytest.approx(0.1)
    assert np.isnan([both["low"][0], both["p"][0], both["mean_p"]]).all()
    assert notes_of(both) == ["no interval, p or group where a model has no draws: a"]


def test_sites_are_matched_by_name_and_those_of_one_model_left_out() -> None:
    a = result("a", [0.5, 0.1], about([0.5, 0.1], 0.1, 1), sites="AB")
    b = result("b", [0.3, 0.2], about([0.3, 0.2], 0.1, 2), sites="CA")
    both = difference(a, b)
    assert both["site"].values.tolist() == ["A"]
    assert float(both["difference"][0]) == pytest.approx(0.3)
    assert notes_of(both) == ["B is left out: not scored for b", "C is left out: not scored for a"]


# what cannot be compared ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"benchmark": "other"}, "benchmark made-up and other"),
        ({"benchmark_version": 2}, "benchmark version 1 and 2"),
        ({"metric": "slow"}, "metric quick and slow"),
        ({"metric_version": 3}, "metric version 1 and 3"),
        ({"seed": 4}, "seed 0 and 4"),
        ({"definition": json.dumps({"folds": 5})}, "definition says folds 6 and 5"),
        ({"definition": json.dumps({"folds": 6, "repeats": 2})}, "definition says repeats None and 2"),
        ({"provenance": json.dumps({"stimuli": "drawings"})}, "different stimuli"),
    ],
)
def test_results_that_were_made_differently_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        compare([result("a", [0.5]), result("b", [0.4], **changes)])
    assert said in caught.value.message
    assert caught.value.message.startswith("a and b cannot be compared: ")
    assert caught.value.hint


def test_results_with_other_numbers_of_draws_are_refused() -> None:
    with pytest.raises(UsageError, match="a and b cannot be compared: 1000 and 50 draws"):
        compare([result("a", [0.5], about([0.5], 0.1, 1)), result("b", [0.4], about([0.4], 0.1, 1, n=50))])


def test_a_model_twice_or_alone_is_refused() -> None:
    with pytest.raises(UsageError, match="model 'a' is given twice"):
        compare([result("a", [0.5]), result("a", [0.4])])
    with pytest.raises(UsageError, match="nothing to compare with one model"):
        compare([result("a", [0.5])])


def test_models_without_a_site_in_common_are_refused() -> None:
    with pytest.raises(UsageError, match="no site in common"):
        compare([result("a", [0.5], sites="A"), result("b", [0.4], sites="B")])


def on_other_data(model: str, n: int) -> xr.Dataset:
    other = result(model, [0.7] * n, about([0.7] * n, 0.1, 9))
    return other.assign(target_sha256=("site", [f"half of {site}" for site in other["site"].values]))


def test_a_model_on_other_data_is_left_out_with_a_note() -> None:
    scored = [on_other_data("brain", 2)]
    scored += [result(name, [0.5, 0.3], about([0.5, 0.3], 0.1, seed)) for seed, name in enumerate("ab")]
    table = compare(scored)
    assert table["model"].values.tolist() == ["a", "b"]
    assert notes_of(table) == ["brain is left out: it was scored on other data than the others at all its sites"]
    with pytest.raises(UsageError, match="brain and a cannot be compared: they were scored on different data"):
        compare(scored[:2])


def test_a_site_on_other_data_is_left_out_with_a_note() -> None:
    a, b = result("a", [0.5, 0.3], about([0.5, 0.3], 0.1, 1)), result("b", [0.4, 0.3], about([0.4, 0.3], 0.1, 2))
    table = compare([a, b.assign(target_sha256=("site", ["data of A", "newer data of B"]))])
    assert table["site"].values.tolist() == ["A"]
    assert notes_of(table) == ["B is left out: the models were scored on different data"]


def test_a_model_without_any_score_is_left_out_with_a_note() -> None:
    scored = [result(name, [0.5, 0.3], about([0.5, 0.3], 0.1, seed)) for seed, name in enumerate("ab")]
    silent = result("silent", [np.nan, np.nan])
    assert notes_of(compare([silent, *scored])) == ["silent is left out: it has no score at any site"]
    with pytest.raises(UsageError, match="fewer than two models have a score: silent is left out"):
        compare([silent, scored[0]])


# ranks ----------------------------------------------------------------------------------------------------------------


def ladder(means: Sequence[float], spread: float = 0.01) -> list[xr.Dataset]:
    """Return results of models m0, m1, ... with one site and draws that do not depend on each other."""
    return [result(f"m{number}", [mean], about([mean], spread, number)) for number, mean in enumerate(means)]


def test_ranks_and_groups_of_models_that_cannot_be_told_apart() -> None:
    table = ranks(ladder([0.10, 0.50, 0.51, 0.30, 0.305, 0.49]))
    assert table["rank"].values.tolist() == [6, 2, 1, 5, 4, 3]
    assert table["group"].values.tolist() == [3, 1, 1, 2, 2, 1]
    assert table["rank_low"].values.tolist() == [6, 1, 1, 4, 4, 1]
    assert table["rank_high"].values.tolist() == [6, 3, 3, 5, 5, 3]
    np.testing.assert_array_equal(table["mean_score"], [0.10, 0.50, 0.51, 0.30, 0.305, 0.49])


def test_a_group_starts_where_its_leader_is_left_behind_not_the_last_one() -> None:
    # each differs from the next by too little, but the third from the first by enough
    table = ranks(ladder([0.50, 0.47, 0.44, 0.41], spread=0.01))
    assert table["group"].values.tolist() == [1, 1, 2, 2]
    assert table["rank_low"].values.tolist() == [1, 1, 2, 3]
    assert table["rank_high"].values.tolist() == [2, 3, 4, 4]


def test_equal_models_share_a_rank() -> None:
    draws = about([0.5], 0.1, 1)
    table = ranks([result(name, [0.5], draws) for name in "abc"] + [result("d", [0.6], draws + 0.1)])
    assert table["rank"].values.tolist() == [2, 2, 2, 1]
    assert table["mean_p_corrected"].sel(model="a", model_b="b") == 1


def test_the_ranks_of_many_models_are_corrected_for_their_pairs() -> None:
    # 40 models that are all the same but for noise: 780 pairs, of which about 39 differ before the correction
    rng = np.random.default_rng(5)
    table = ranks(ladder(0.5 + 0.01 * rng.normal(size=40)))
    upper = np.triu_indices(40, 1)
    assert (table["mean_p"].values[upper] < 0.05).mean() > 0.01
    assert set(table["group"].values.tolist()) == {1}
    assert set(table["rank_high"].values.tolist()) == {40}
    # and one that is really better is found among them
    one = ranks(ladder([*(0.5 + 0.01 * rng.normal(size=39)), 0.62]))
    assert one["group"].values.tolist() == [2] * 39 + [1]
    assert (one["rank_low"].values[-1], one["rank_high"].values[-1]) == (1, 1)


def test_without_draws_there_is_an_order_but_no_groups() -> None:
    table = ranks([result("a", [0.5]), result("b", [0.6])])
    assert table["rank"].values.tolist() == [2, 1]
    assert np.isnan(table[["rank_low", "rank_high", "group", "mean_score_low"]].to_array()).all()


def test_a_model_without_draws_stays_out_of_the_groups_of_the_others() -> None:
    table = ranks([*ladder([0.5, 0.3]), result("z", [0.4])])
    assert table["rank"].values.tolist() == [1, 3, 2]
    np.testing.assert_array_equal(table["group"], [1, 2, np.nan])
    np.testing.assert_array_equal(table["rank_low"], [1, 2, np.nan])


def test_no_site_with_a_score_of_all_models_gives_no_ranks() -> None:
    a = result("a", [0.5, np.nan], about([0.5, np.nan], 0.1, 1))
    b = result("b", [np.nan, 0.5], about([np.nan, 0.5], 0.1, 2))
    table = compare([a, b])
    assert np.isnan(table[["rank", "group", "mean_score", "rank_low"]].to_array()).all()
    assert notes_of(table)[-1] == "no site where all models have a score: no means and no ranks"


def test_compare_holds_ranks_pairs_and_sites() -> None:
    scored = [result(name, [0.5, 0.3], about([0.5, 0.3], 0.1, seed)) for seed, name in enumerate("abc")]
    table = compare(scored)
    xr.testing.assert_identical(ranks(scored), table[list(ranks(scored).data_vars)])
    pair = difference(scored[2], scored[0])
    np.testing.assert_array_equal(table["p"].sel(model="c", model_b="a"), pair["p"])
    assert np.isnan(table["p"].sel(model="a", model_b="a")).all()
    assert table["score"].dims == ("model", "site")


# corrections ----------------------------------------------------------------------------------------------------------


def test_the_null_is_corrected_over_sites() -> None:
    # 8 sites: by Benjamini-Hochberg, .011 of the first four stays below .05 while .04 does not
    table = compare(
        [
            result(name, [0.5] * 8, about([0.5] * 8, 0.1, 1)).assign(null_p=("site", [0.011] * 4 + [0.04] + [0.9] * 3))
            for name in "ab"
        ]
    )
    np.testing.assert_allclose(table["null_p_corrected"][0], false_discovery_control([0.011] * 4 + [0.04] + [0.9] * 3))
    assert table["n_above_null"].values.tolist() == [4, 4]


def test_holm_steps_down() -> None:
    np.testing.assert_allclose(adjusted(np.array([0.04, 0.01, 0.02])), [0.04, 0.03, 0.04])
    np.testing.assert_allclose(adjusted(np.array([0.01, np.nan, 0.02])), [0.02, np.nan, 0.02])
    assert np.isnan(adjusted(np.full(3, np.nan))).all()
    assert adjusted(np.empty(0)).shape == (0,)


@pytest.mark.parametrize("method", ["holm", "fdr_bh"])
def test_corrections_of_many_families_are_those_of_statsmodels(method: str) -> None:
    rng = np.random.default_rng(0)
    p = rng.random((3, 4, 21)) ** 3
    p[rng.random(p.shape) < 0.1] = np.nan
    p[0, 0, 5:9] = p[0, 0, 4]  # ties
    p[1, 2] = np.nan
    for family, corrected in zip(p.reshape(12, 21), adjusted(p, method).reshape(12, 21), strict=True):
        there = np.isfinite(family)
        np.testing.assert_array_equal(np.isfinite(corrected), there)
        if there.any():
            expected = multipletests(family[there], method=method)[1]
            np.testing.assert_allclose(corrected[there], expected, rtol=1e-12)
