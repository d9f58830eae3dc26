"""The validation suite: its worlds are what they say, and it tells a wrong metric from a right one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from conftest import Cli
from sklearn.linear_model import Ridge
from sklearn.model_selection import KFold

from mousebench import validation
from mousebench.comparison import Named
from mousebench.linalg import correlation_rdm, gram, upper_triangle
from mousebench.oracles import ORACLES
from mousebench.progress import Silent
from mousebench.validation import Report, agreement, coverage_checks, ladder, ladder_checks, null_checks, oracle_checks
from mousebench.validity import as_markdown
from mousebench.verdicts import Check, asked_for, measure, named_right, share_check
from mousebench.worlds import SITE, World, as_layers
from mousebench_plugins.metrics import cka, pls, ridge, rsa, rsa_nnls

METRICS = {
    "rsa-nnls": rsa_nnls.load,
    "rsa-nnls-published": rsa_nnls.load_published,
    "rsa": rsa.load,
    "cka": cka.load,
    "pls": pls.load,
    "ridge": ridge.load,
}


class Fair:
    """Correlation of the RDMs of the first layer and the site: nothing is fitted, so nothing can go wrong.

    Parameters
    ----------
    width : float
        Of the draws, for the spread that raw has over worlds; 0: no draws.
    """

    version = 1
    accepts = frozenset({"responses"})
    normalisation = "ratio"
    leak = 0.0

    def __init__(self, width: float = 0.0, n_permutations: int = 100) -> None:
        self.width = width
        self.n_permutations = n_permutations

    def raw(self, layers: Mapping[str, xr.Dataset], means: np.ndarray) -> float:
        one = next(iter(layers.values()))
        rdms = [
            correlation_rdm(one["gram"].values, one["feature_sum"].values, int(one.attrs["n_features"])),
            correlation_rdm(*gram([means])),
        ]
        return float(np.corrcoef(*map(upper_triangle, rdms))[0, 1])

    def score(self, layers: Mapping[str, xr.Dataset], target: xr.DataArray, seed: int) -> xr.Dataset:
        means = target.values.astype(float).reshape(len(next(iter(layers.values()))["stimulus"]), -1, target.shape[1])
        means, rng = means.mean(1), np.random.default_rng(seed)
        raw = self.raw(layers, means)
        found = {"raw": raw, "best_layer": next(iter(layers))}
        if self.n_permutations:
            found["null"] = (
                "permutation",
                [self.raw(layers, rng.permutation(means)) for _ in range(self.n_permutations)],
            )
        if self.width:
            found["bootstrap"] = ("bootstrap", raw + self.width * rng.standard_normal(400))
        return xr.Dataset(found)

    def ceiling(self, target: xr.DataArray, seed: int) -> xr.Dataset:
        return xr.Dataset({"ceiling": 0.9})


class Pooled(Fair):
    """The mean over neurons predicted by its training mean, predictions of all folds correlated at once."""

    def raw(self, layers: Mapping[str, xr.Dataset], means: np.ndarray) -> float:
        y = means.mean(1)
        predicted = np.empty(len(y))
        for train, test in KFold(6, shuffle=True, random_state=0).split(y):
            predicted[test] = y[train].mean()
        return float(np.corrcoef(predicted, y)[0, 1])


class Leaking(Fair):
    """Ridge that is tested on what it was trained on, with a null that is not fitted again."""

    def raw(self, layers: Mapping[str, xr.Dataset], means: np.ndarray) -> float:
        x, y = next(iter(layers.values()))["gram"].values, means.mean(1)
        self.predicted = Ridge(1e-3).fit(x, y).predict(x)
        return float(np.corrcoef(self.predicted, y)[0, 1])

    def score(self, layers: Mapping[str, xr.Dataset], target: xr.DataArray, seed: int) -> xr.Dataset:
        found = super().score(layers, target, seed)
        rng = np.random.default_rng(seed)
        null = [np.corrcoef(rng.permutation(self.predicted), self.predicted)[0, 1] for _ in range(20)]
        return found.assign(null=("permutation", null))


def named(metric: object, identifier: str = "mine") -> Named:
    return Named(identifier, metric, None)


def one(found: list[Check], section: str, name: str) -> Check:
    (check,) = (check for check in found if (check.section, check.name) == (section, name))
    return check


# the worlds


def test_samples_of_a_world_share_the_net_and_nothing_else() -> None:
    world = World(3, n_stimuli=30)
    a, again, b = world.sample(0), world.sample(0), world.sample(1)
    for layer, values in a.features.items():
        np.testing.assert_array_equal(values, again.features[layer])
        assert abs(np.corrcoef(values.ravel(), b.features[layer].ravel())[0, 1]) < 0.2
    np.testing.assert_array_equal(a.trials, again.trials)
    assert not np.array_equal(a.trials, b.trials)
    latents = world._latents(np.random.default_rng(0))
    np.testing.assert_array_equal(world._net(latents)["layer-1"], world._net(latents.copy())["layer-1"])
    assert not np.array_equal(World(4, n_stimuli=30)._net(latents)["layer-1"], world._net(latents)["layer-1"])


def variance_explained(x: np.ndarray, y: np.ndarray) -> float:
    """Return the share of the variance of y that a linear map of x reaches."""
    x, y = x - x.mean(0), y - y.mean(0)
    residual = y - x @ np.linalg.lstsq(x, y, rcond=None)[0]
    return float(1 - (residual**2).sum() / (y**2).sum())


def test_the_planted_layer_drives_the_neurons_and_a_quarter_is_out_of_reach() -> None:
    sample = World(n_stimuli=2000, n_repetitions=200).sample(0)
    assert sample.planted in list(sample.features)[1:-1]
    reached = {layer: variance_explained(values, sample.means) for layer, values in sample.features.items()}
    assert max(reached, key=reached.get) == sample.planted
    # three quarters of the expected responses, trials blurring the means by a fiftieth
    assert reached[sample.planted] == pytest.approx(0.75, abs=0.03)


@pytest.mark.parametrize("number", [0, 1])
def test_unrelated_layers_know_nothing_of_the_neurons(number: int) -> None:
    sample = World(n_stimuli=2000, n_repetitions=4).unrelated(number)
    for values in sample.features.values():
        assert variance_explained(values, sample.means) < 0.05  # 60 features by chance: .03


def test_models_along_a_path_know_ever_less_and_rescaled_ones_as_much() -> None:
    sample, paths = World(n_stimuli=1500, n_repetitions=100).degraded(0)
    assert set(paths) == {"noise", "truncated", "rescaled"}
    for path, grades in paths.items():
        assert list(grades) == sorted(grades)
        reached = [variance_explained(features["driver"], sample.means) for features in grades.values()]
        if path == "rescaled":
            np.testing.assert_allclose(reached, reached[0], atol=1e-6)
        else:
            assert (np.diff(reached) < -0.005).all(), (path, reached)


# Monte Carlo error and verdicts


@pytest.mark.parametrize(
    ("value", "around", "verdict"),
    [
        (0.05, (0.04, 0.06), "yes"),
        (0.05, (0.0, 0.5), "yes"),
        (0.08, (0.06, 0.1), "unclear"),
        (0.08, (0.075, 0.085), "no"),
        (0.01, (0.0, 0.029), "no"),
        (0.08, (np.nan, np.nan), "no"),
        (np.nan, (np.nan, np.nan), ""),
    ],
)
def test_a_figure_is_unclear_where_it_is_out_of_bounds_by_less_than_its_error(
    value: float, around: tuple[float, float], verdict: str
) -> None:
    assert Check("m", "null", "p", "", value, around, 0.03, 0.07).verdict == verdict
    assert Check("m", "null", "p", "", value, around).verdict == ""


def test_the_error_of_a_share_is_binomial_and_holds_it_in_95_percent_of_runs() -> None:
    rng, held = np.random.default_rng(0), []
    for _ in range(300):
        check = share_check(named(Fair()), "null", "p", "", rng.random(100) < 0.05, 0.03, 0.07)
        held.append(check.around[0] <= 0.05 <= check.around[1])
    assert 0.92 < np.mean(held) < 0.99


def test_a_published_recipe_is_not_judged() -> None:
    hits = np.ones(50, dtype=bool)
    assert share_check(named(Fair(), "mine"), "null", "p", "", hits, 0.03, 0.07).verdict == "no"
    assert share_check(named(Fair(), "pls-nayebi"), "null", "p", "", hits, 0.03, 0.07).verdict == ""


def test_a_metric_is_told_how_many_permutations_only_if_it_has_them_and_stays_as_it_is() -> None:
    metric = Fair(n_permutations=100)
    told = asked_for(named(metric), 20, 400)
    assert (told.thing.n_permutations, metric.n_permutations) == (20, 100)
    assert not hasattr(told.thing, "n_bootstraps")


# right and wrong metrics


def test_a_fair_metric_passes() -> None:
    found = null_checks(named(Fair()), 20, 0, Silent())
    assert not [check for check in found if check.verdict == "no"]
    assert one(found, "null", "mean score").n == 20
    assert one(found, "coverage", "raw, unrelated").n == 0  # it draws none: not given, not judged
    assert one(found, "coverage", "raw, unrelated").verdict == ""


def test_pooling_over_folds_is_flagged() -> None:
    found = null_checks(named(Pooled()), 12, 0, Silent())
    mean = one(found, "null", "mean score")
    assert mean.value < -0.1
    assert mean.verdict == "no"
    assert one(found, "null", "p < .05").verdict != "no"  # its null is pooled as well


def test_testing_on_the_training_images_is_flagged() -> None:
    found = null_checks(named(Leaking()), 6, 0, Silent())
    assert one(found, "null", "mean score").value > 0.5
    assert one(found, "null", "mean score").verdict == "no"
    assert one(found, "null", "p < .05").value == 1
    assert one(found, "null", "p < .05").verdict == "no"


N_INTERVALS = 40


@pytest.fixture(scope="module")
def spread() -> float:
    """Return the standard deviation of raw over worlds."""
    samples = [World().sample(number) for number in range(N_INTERVALS)]
    return float(np.std([Fair().raw(sample.layers, sample.means) for sample in samples], ddof=1))


@pytest.mark.parametrize(("factor", "verdict"), [(1.0, {"yes", "unclear"}), (0.5, {"no"})])
def test_intervals_that_are_too_narrow_are_flagged(spread: float, factor: float, verdict: set[str]) -> None:
    found = coverage_checks(named(Fair(factor * spread)), N_INTERVALS, 0, Silent())
    for name in ("score, related", "raw, related"):
        assert one(found, "coverage", name).verdict in verdict
    assert one(found, "coverage", "width").value == pytest.approx(factor, rel=0.05)


def test_intervals_that_always_hold_the_truth_are_flagged() -> None:
    check = share_check(named(Fair()), "coverage", "score, related", "", np.ones(200, dtype=bool), 0.92, 0.98)
    assert check.verdict == "no"


def test_a_wrong_layer_is_flagged() -> None:
    check = one(coverage_checks(named(Fair()), 6, 0, Silent()), "truth", "planted layer first")
    assert check.value == 0  # it takes the first
    assert check.verdict == "no"


def test_a_metric_that_finds_no_layer_in_some_worlds_is_not_excused() -> None:
    assert named_right(["a", "", "b"], ["a", "a", "a"]).tolist() == [True, False, False]
    assert named_right(["", ""], ["a", "a"]).size == 0  # it never names one


class Backwards(Fair):
    def raw(self, layers: Mapping[str, xr.Dataset], means: np.ndarray) -> float:
        return -super().raw(layers, means)


def test_a_metric_that_orders_models_backwards_is_flagged() -> None:
    right, wrong = (ladder(named(metric), 1, 0, Silent()) for metric in (Fair(), Backwards()))
    for path in ("noise", "truncated"):
        assert one(ladder_checks(named(Fair()), right), "ranking", path).verdict == "yes"
        check = one(ladder_checks(named(Fair()), wrong), "ranking", path)
        assert check.value < -0.8
        assert check.verdict == "no"
    from scipy import stats

    report = Report(3, 0, [], {"right": right, "wrong": wrong})
    np.testing.assert_allclose(agreement(report, stats.spearmanr), [[1, -1], [-1, 1]], atol=1e-12)


# oracles


@pytest.mark.parametrize("name", ["rsa", "cka", "rsa-nnls-published"])
def test_metrics_agree_with_their_oracles(name: str) -> None:
    (check,) = oracle_checks(named(METRICS[name](), name), 0, 1)
    assert check.verdict == "yes"
    assert check.value < 1e-10


def test_a_metric_that_is_off_by_little_is_told_by_its_oracle() -> None:
    class Off(type(rsa.load())):
        def score(self, layers, target, seed):
            found = super().score(layers, target, seed)
            return found.assign(raw=found["raw"] + 1e-6)

    (check,) = oracle_checks(named(Off(), "rsa"), 0, 1)
    assert check.verdict == "no"


def test_an_oracle_whose_package_is_missing_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(case: object) -> float:
        raise ModuleNotFoundError("No module named 'sklearn'", name="sklearn")

    monkeypatch.setattr(validation, "ORACLES", {"rsa": missing})
    (check,) = oracle_checks(named(rsa.load(), "rsa"), 0, 1)
    assert check.what == "sklearn is not installed"
    assert check.verdict == ""
    assert oracle_checks(named(Fair(), "mine"), 0, 1) == []


def test_every_default_metric_has_an_oracle() -> None:
    assert set(METRICS) <= set(ORACLES)


# what the code of results makes of it


def test_measured_is_what_a_result_says() -> None:
    from mousebench.comparison import Comparison
    from mousebench.representations import Layers
    from mousebench.results import assemble
    from mousebench.scoring import compare

    sample = World(n_stimuli=48, n_neuroids=8).sample(0)
    model = type("Known", (), {"fingerprint": {"model": "known"}})()
    for make in (rsa.load, ridge.load):
        metric = asked_for(named(make()), 20, 50)
        comparison = Comparison(named(sample, "world"), metric, [SITE], 5)
        whole = xr.Dataset(attrs={"key": "", "notes": "[]", "extraction": "{}"}).assign_coords(layer=[])
        result = assemble(named(model), Layers(whole), comparison, compare(sample.layers, comparison), None).isel(
            site=0
        )
        found = measure(named(make()), sample, sample.layers, 5, n_permutations=20, n_bootstraps=50)[SITE]
        assert found.score == result["score"].item()
        assert found.raw == result["raw"].item()
        assert found.p == result["null_p"].item()
        assert found.score_interval == (result["ci_low"].item(), result["ci_high"].item())
        assert found.best_layer == result["best_layer"].item()


def test_a_metric_of_rdms_alone_is_given_rdms() -> None:
    metric = rsa.load()
    metric.accepts = frozenset({"rdm"})
    found = null_checks(named(metric), 3, 0, Silent())
    assert np.isfinite(one(found, "null", "mean score").value)
    # an RDM comes without neurons: what its interval should hold is not for this world to say
    assert one(coverage_checks(named(metric), 3, 0, Silent()), "coverage", "score, related").low is None


# the page and the command


def report() -> Report:
    mine, published = named(Fair(0.1)), named(Fair(0.1), "rsa-nnls-published")
    found = Report(4, 0)
    for metric in (mine, published):
        found.checks += null_checks(metric, 4, 0, Silent())
        found.ladder[metric.identifier] = {("noise", 0.0): np.array([0.5, 0.6]), ("noise", 1.0): np.array([0.2, 0.1])}
        found.checks += ladder_checks(metric, found.ladder[metric.identifier])
    found.checks.append(Check("mine", "oracle", "largest difference", "a loop", 3e-4, low=0.0, high=1e-8))
    return found


def test_the_page_says_what_does_not_hold() -> None:
    text = as_markdown(report(), "mousebench validate --worlds 4 --seed 0")
    assert text == as_markdown(report(), "mousebench validate --worlds 4 --seed 0")
    assert "`mousebench validate --worlds 4 --seed 0`" in text
    assert "1 do not hold: mine, oracle, largest difference" in text
    assert "1e-03 **no**" in text
    assert "| noise 1 | 0.150 | 0.150 |" in text
    assert " nan" not in text


def test_json_has_no_nan() -> None:
    content = json.loads(json.dumps(report().as_json(), allow_nan=False))
    assert content["format"] == 1
    assert {"metric", "section", "name", "value", "around", "low", "high", "n", "verdict"} <= set(content["checks"][0])


PLUGIN = """
import sys
sys.path.insert(0, {tests!r})
from mousebench import Spec, hookimpl


@hookimpl
def mousebench_metrics():
    return [Spec("my-metric", load=load), Spec("my-pooled", load=load_pooled)]


def load():
    from test_validation import Fair

    return Fair()


def load_pooled():
    from test_validation import Pooled

    return Pooled()
"""


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A contributor's own metrics; sim-ns is left out, which takes longer to make than all the rest."""
    monkeypatch.setattr("mousebench.anchors.Anchors.checks", lambda self, metric, seed: [])
    file = tmp_path / "my_metric.py"
    file.write_text(PLUGIN.format(tests=str(Path(__file__).parent)))
    return file


def test_a_contributors_metric_is_validated(cli: Cli, plugin: Path, tmp_path: Path) -> None:
    page, figures = tmp_path / "page.md", tmp_path / "figures.json"
    arguments = ("--plugin", plugin, "validate", "my-metric", "--worlds", "2", "--out", page, "--json", figures)
    done = cli(*arguments)
    # the first layer is not the planted one, and the metric says that it is best
    assert done.code == 1
    assert "my-metric: truth, planted layer first is 0, asked is 0.95 to 1" in done.err
    assert "p < .05" in done.out
    assert "--plugin my_metric.py validate my-metric --worlds 2 --seed 0" in page.read_text()
    first = page.read_bytes(), figures.read_bytes()
    cli(*arguments)
    assert (page.read_bytes(), figures.read_bytes()) == first


def test_a_wrong_metric_exits_with_1_and_json_goes_to_stdout(cli: Cli, plugin: Path) -> None:
    done = cli("--plugin", plugin, "validate", "my-pooled", "--worlds", "6", "--json", "-")
    assert done.code == 1
    wrong = [(row["section"], row["name"]) for row in json.loads(done.out)["checks"] if row["verdict"] == "no"]
    assert ("null", "mean score") in wrong
    assert "my-pooled: null, mean score" in done.err


def test_an_unknown_metric_is_an_error(cli: Cli) -> None:
    done = cli("validate", "rsaa")
    assert done.code == 2
    assert "did you mean 'rsa'" in done.err


def test_a_metric_that_breaks_is_blamed(cli: Cli, plugin: Path) -> None:
    plugin.write_text(plugin.read_text().replace("return Fair()", "return object()"))
    done = cli("--plugin", plugin, "validate", "my-metric", "--worlds", "1")
    assert done.code == 2
    assert "my-metric" in done.err


# sim-ns


def test_without_sim_ns_its_checks_are_left_out(environment: object) -> None:
    from mousebench.anchors import Anchors
    from mousebench.plugins import discover

    assert Anchors(discover(), Silent()).checks(named(Fair()), 0) == []


@pytest.mark.slow
def test_the_truth_of_sim_ns_scores_one() -> None:
    from mousebench.anchors import Anchors
    from mousebench.plugins import discover

    found = Anchors(discover(), Silent()).checks(named(rsa.load(), "rsa"), 0)
    assert [check.verdict for check in found if check.low is not None] == ["yes"] * 3


def test_layers_are_grams() -> None:
    x = np.random.default_rng(0).normal(size=(5, 3))
    layers = as_layers({"x": x})
    np.testing.assert_allclose(layers["x"]["gram"], x @ x.T)
