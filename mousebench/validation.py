"""Is a metric right? Worlds whose answer is known say: null, type I error, coverage, planted truth, oracles, rankings.

A metric is taken as the contract has it, through ``score`` and ``ceiling``, and what it gives is turned into scores,
p values and intervals by the code that makes results. One that has the attributes ``n_permutations`` and
``n_bootstraps`` is asked for as many as a check needs; a permutation test is exact with any number of permutations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from scipy import stats

from mousebench.comparison import Named, blaming
from mousebench.oracles import ORACLES, Case
from mousebench.progress import Progress
from mousebench.verdicts import (
    NO_DRAWS,
    SLOW,
    Check,
    Measured,
    asked_for,
    judged,
    mean_check,
    measure,
    named_right,
    share_check,
)
from mousebench.worlds import SITE, Sample, World, as_layers, as_rdm

SLOW_SHARE = 20  # of the worlds one in twenty for a metric that is slow, and not judged
N_PERMUTATIONS = 20  # p < .05 if none of 20 reaches raw, in 1 of 21 worlds by chance
N_BOOTSTRAPS = 400

# small, as the checks need many: a null needs few neurons, an interval enough that they can be resampled
NULL_WORLD = World(n_stimuli=48, n_layers=3, n_neuroids=10)
WORLD = World()
ORACLE_WORLD = World(n_stimuli=48, n_neuroids=5)


@dataclass
class Report:
    """All checks, and the scores of the degraded models that the rankings are made of.

    Attributes
    ----------
    n_worlds, seed : int
    checks : list of Check
    ladder : dict of metric to dict of (path, grade) to float64 (sample)
    """

    n_worlds: int
    seed: int
    checks: list[Check] = field(default_factory=list)
    ladder: dict[str, dict[tuple[str, float], np.ndarray]] = field(default_factory=dict)

    @property
    def failed(self) -> list[Check]:
        """The checks that do not hold."""
        return [check for check in self.checks if check.verdict == "no"]

    def as_json(self) -> dict[str, Any]:
        """Return it for a JSON file; what is no number is null."""
        rows = [{**asdict(check), "verdict": check.verdict} for check in self.checks]
        for row in rows:
            row["value"] = _or_none(row["value"])
            row["around"] = [_or_none(end) for end in row["around"]]
        ladder = [
            {"metric": metric, "path": path, "grade": grade, "scores": [_or_none(float(one)) for one in scores]}
            for metric, models in self.ladder.items()
            for (path, grade), scores in models.items()
        ]
        return {"format": 1, "worlds": self.n_worlds, "seed": self.seed, "checks": rows, "ladder": ladder}


def _or_none(value: float) -> float | None:
    return value if np.isfinite(value) else None


def n_ladders(n_worlds: int) -> int:
    """Return in how many worlds models are ranked."""
    return max(1, n_worlds // 10)


def validate(
    metrics: Sequence[Named], *, n_worlds: int, seed: int, anchors: Callable[[Named], list[Check]], progress: Progress
) -> Report:
    """Run all checks of all metrics.

    Parameters
    ----------
    metrics : sequence of Named
    n_worlds : int
        For coverage; twice as many for the null, a tenth for the rankings.
    seed : int
    anchors : callable
        The checks of a metric on a whole benchmark.
    progress : Progress
    """
    report = Report(n_worlds, seed)
    for metric in metrics:
        n = n_worlds if metric.identifier not in SLOW else max(2, n_worlds // SLOW_SHARE)
        report.checks += null_checks(metric, 2 * n, seed, progress)
        report.checks += coverage_checks(metric, n, seed, progress)
        report.checks += anchors(metric)
        report.checks += oracle_checks(metric, seed)
        report.ladder[metric.identifier] = ladder(metric, n_ladders(n), seed, progress)
        report.checks += ladder_checks(metric, report.ladder[metric.identifier])
    return report


# worlds ---------------------------------------------------------------------------------------------------------------


def _fitting(metric: Named, sample: Sample) -> Sample:
    with blaming(metric, "metric"):
        return sample if "responses" in metric.thing.accepts else as_rdm(sample)


def _over_worlds(
    metric: Named, samples: Iterable[Sample], n: int, what: str, progress: Progress, **options: Any
) -> list[Measured]:
    progress.start(f"{metric.identifier}: {what}", n)
    found = []
    for number, sample in enumerate(samples):
        found.append(measure(metric, _fitting(metric, sample), sample.layers, number, **options)[SITE])
        progress.advance(1)
    progress.finish()
    return found


# the checks -----------------------------------------------------------------------------------------------------------


def null_checks(metric: Named, n: int, seed: int, progress: Progress) -> list[Check]:
    """Score models that know nothing: their scores should be 0, 5 % of their p below .05, 0 in their intervals."""
    world = World(seed, NULL_WORLD.n_stimuli, NULL_WORLD.n_layers, NULL_WORLD.n_neuroids)
    options = {"n_permutations": N_PERMUTATIONS, "n_bootstraps": N_BOOTSTRAPS, "ceiling_draws": False}
    found = _over_worlds(metric, map(world.unrelated, range(n)), n, "models that know nothing", progress, **options)
    scores = np.array([one.score for one in found])
    p = np.array([one.p for one in found])
    covered = _covered([one.raw_interval for one in found], 0.0)
    spread = _finite_sd(scores)
    return [
        mean_check(metric, "null", "mean score", "of models that know nothing", scores, -0.01, 0.01),
        Check(metric.identifier, "null", "sd", "of these scores over worlds", spread, n=len(scores)),
        share_check(metric, "null", "p < .05", "share of these models", p[np.isfinite(p)] < 0.05, 0.03, 0.07),
        share_check(metric, "coverage", "raw, unrelated", "share of 95 % intervals that hold 0", covered, 0.92, 0.98),
    ]


def _finite_mean(values: np.ndarray) -> float:
    there = values[np.isfinite(values)]
    return float(there.mean()) if there.size else float("nan")


def _finite_sd(values: np.ndarray) -> float:
    there = values[np.isfinite(values)]
    return float(there.std(ddof=1)) if there.size > 1 else float("nan")


def _covered(intervals: Sequence[tuple[float, float]], truth: float) -> np.ndarray:
    """Return which of the intervals that there are hold the truth, bool."""
    ends = np.array(intervals)
    ends = ends[np.isfinite(ends).all(1)]
    return np.asarray((ends[:, 0] <= truth) & (truth <= ends[:, 1]))


def coverage_checks(metric: Named, n: int, seed: int, progress: Progress) -> list[Check]:
    """Score a model that knows something: the mean score over worlds should be in 95 % of the intervals.

    What the intervals are to hold is the expectation of the same procedure's score over images, neurons and trials drawn
    anew, in the same numbers, with the net as it is; the mean over the worlds stands for it.
    """
    world = World(seed)
    options = {"n_bootstraps": N_BOOTSTRAPS}
    found = _over_worlds(metric, map(world.sample, range(n)), n, "models that know something", progress, **options)
    scores, raw = np.array([one.score for one in found]), np.array([one.raw for one in found])
    ends = np.array([one.score_interval for one in found])
    with_neurons = (
        "responses" in metric.thing.accepts
    )  # an RDM comes without neurons, whose sampling no interval can know
    bounds = (0.92, 0.98) if with_neurons else ()
    width = np.ptp(ends, axis=1) / (2 * stats.norm.ppf(0.975) * _finite_sd(scores))
    right = named_right([one.best_layer for one in found], [world.planted] * n)
    return [
        share_check(
            metric,
            "coverage",
            "score, related",
            "share of 95 % intervals that hold the mean score over worlds",
            _covered([one.score_interval for one in found], _finite_mean(scores)),
            *bounds,
        ),
        share_check(
            metric,
            "coverage",
            "raw, related",
            "share of 95 % intervals that hold the mean raw over worlds",
            _covered([one.raw_interval for one in found], _finite_mean(raw)),
            *bounds,
        ),
        mean_check(metric, "coverage", "width", "of the intervals of score, 1 for the spread over worlds", width),
        share_check(
            metric, "truth", "planted layer first", f"best layer of {world.n_layers} in a world", right, 0.95, 1.0
        ),
    ]


def oracle_checks(metric: Named, seed: int, n: int = 3) -> list[Check]:
    """Compare raw with the oracle of the metric, if there is one and scikit-learn is installed."""
    oracle = ORACLES.get(metric.identifier)
    if oracle is None:
        return []
    what = (oracle.__doc__ or "").strip()
    thing = asked_for(metric, 0, NO_DRAWS).thing
    if hasattr(thing, "repeats"):
        thing.repeats = min(thing.repeats, 2)  # an oracle is slow
    world = World(seed, ORACLE_WORLD.n_stimuli, ORACLE_WORLD.n_layers, ORACLE_WORLD.n_neuroids)
    apart = []
    try:
        for number in range(n):
            sample = world.sample(number)
            raw = thing.score(sample.layers, sample.target(SITE), number)["raw"].values
            case = Case(sample.features, sample.means, number, getattr(thing, "repeats", 1))
            apart.append(float(np.abs(raw - oracle(case)).max()))
    except ModuleNotFoundError as error:
        return [Check(metric.identifier, "oracle", "largest difference", f"{error.name} is not installed", np.nan, n=0)]
    return [Check(metric.identifier, "oracle", "largest difference", what, max(apart), low=0.0, high=1e-8, n=n)]


# rankings -------------------------------------------------------------------------------------------------------------


def ladder(metric: Named, n: int, seed: int, progress: Progress) -> dict[tuple[str, float], np.ndarray]:
    """Return the scores (sample) of models that know ever less, by path and grade."""
    progress.start(f"{metric.identifier}: models that know ever less", n)
    found: dict[tuple[str, float], list[float]] = {}
    for number in range(n):
        sample, paths = World(seed).degraded(number)
        for path, grades in paths.items():
            for grade, features in grades.items():
                one = measure(metric, _fitting(metric, sample), as_layers(features), number, ceiling_draws=False)
                found.setdefault((path, grade), []).append(one[SITE].score)
        progress.advance(1)
    progress.finish()
    return {model: np.array(scores) for model, scores in found.items()}


def ladder_checks(metric: Named, scores: Mapping[tuple[str, float], np.ndarray]) -> list[Check]:
    """Compare the order of the models along each path with the true one."""
    checks = []
    for path in dict.fromkeys(path for path, _ in scores):
        grades = [grade for which, grade in scores if which == path]
        table = np.array([scores[path, grade] for grade in grades])
        truth = -np.arange(len(grades))
        tau = float(stats.kendalltau(truth, table.mean(1)).statistic)
        each = np.array([stats.kendalltau(truth, column).statistic for column in table.T])
        # what is rescaled loses nothing: there is no true order, and metrics may differ
        bounds = () if path == "rescaled" else (0.8, 1.0)
        what = "Kendall's tau of the true order and that of the mean scores"
        mean = Check(metric.identifier, "ranking", path, what, tau, n=table.shape[1])
        checks.append(judged(mean, bounds))
        checks.append(mean_check(metric, "ranking", f"{path}, one world", "the same, world by world", each))
    return checks


def agreement(report: Report, statistic: Callable[[np.ndarray, np.ndarray], Any]) -> np.ndarray:
    """Return the rank correlation (metric, metric) of the mean scores of all degraded models; the same model once."""
    means = []
    for models in report.ladder.values():
        kept = [model for model in models if model[1] > 0 or model[0] == "noise"]
        means.append([float(models[model].mean()) for model in kept])
    return np.array([[float(statistic(np.array(a), np.array(b)).statistic) for b in means] for a in means])
