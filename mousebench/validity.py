"""The page that shows what the checks of validation found: Markdown, without a date, the same bytes for the same seed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats

from mousebench import __version__
from mousebench.anchors import MAX_NEUROIDS, SLOW_SITES
from mousebench.validation import (
    N_BOOTSTRAPS,
    N_PERMUTATIONS,
    NULL_WORLD,
    ORACLE_WORLD,
    SLOW_SHARE,
    WORLD,
    Report,
    agreement,
    n_ladders,
)
from mousebench.verdicts import N_HALVES, PUBLISHED, SLOW, Check

_TITLES = {
    "null": "Chance: what a model that knows nothing scores",
    "coverage": "Intervals: how often they hold the truth",
    "truth": "Planted truth: is it found, does it score 1?",
    "oracle": "Oracles: the same number by the plainest way",
    "ranking": "Rankings: do metrics order models by what they know?",
}


def as_markdown(report: Report, command: str) -> str:
    """Return the page.

    Parameters
    ----------
    report : Report
    command : str
        What made it, for the reader to run again.
    """
    sections = [name for name in _TITLES if any(check.section == name for check in report.checks)]
    parts = [_head(report, command)]
    for name in sections:
        checks = [check for check in report.checks if check.section == name]
        table = _oracle_table(checks) if name == "oracle" else _table(checks)
        parts += [f"## {_TITLES[name]}", _about(name, report), table]
    if report.ladder:
        parts += _ladder(report)
    return "\n\n".join(parts) + "\n"


def _head(report: Report, command: str) -> str:
    failed, unclear = report.failed, [check for check in report.checks if check.verdict == "unclear"]
    judged = [check for check in report.checks if check.verdict]
    lines = [
        "# Validity",
        f"Made by `{command}` with mousebench {__version__}, seed {report.seed}; not written by hand. The same command gives the same figures.",
        "This page is about metrics; what the analyses of `mousebench report` find in worlds with and without an effect is in [validity-report.md](validity-report.md).",
        "Every figure comes from simulated data whose answer is known. A cell shows the value, its 95 % Monte Carlo interval in "
        "brackets (from the number of worlds), and whether it is within the bounds that the head of the column asks for: yes, **no**, or "
        "unclear, where it lies outside by less than its Monte Carlo error. Published recipes "
        f"({', '.join(sorted(PUBLISHED))}) define their score themselves; what they give is shown, and not judged. "
        f"{' and '.join(sorted(SLOW))} are slow: where they are here, from one world in {SLOW_SHARE} of those named below and from {SLOW_SITES} sites "
        f"of `sim-ns`, pls-nayebi with {N_HALVES} halvings of the trials.",
        f"Of {len(judged)} figures that are judged, {len(judged) - len(failed) - len(unclear)} hold, {len(unclear)} are unclear, {len(failed)} do not hold"
        + (f": {'; '.join(_said(check) for check in failed)}." if failed else "."),
    ]
    return "\n\n".join(lines)


def _said(check: Check) -> str:
    return f"{check.metric}, {check.section}, {check.name} ({_number(check.value)})"


def _about(section: str, report: Report) -> str:
    n = report.n_worlds
    return {
        "null": f"{2 * n} worlds of {NULL_WORLD.n_stimuli} images, {NULL_WORLD.n_neuroids} neurons and {NULL_WORLD.n_repetitions} trials; the model has "
        f"{NULL_WORLD.n_layers} layers, in every second world white noise, in the others a net that sees latent variables which drive no neuron. "
        f"A fair score is 0 on average, and p, from {N_PERMUTATIONS} permutations, is below .05 in 1 of {N_PERMUTATIONS + 1} worlds. `rsa-nnls-published` pools predictions "
        "of different folds: a fold that knows nothing predicts its training mean, which is low exactly where the pairs held out are high, "
        "so that knowing nothing scores below 0 ([method.md](method.md)). Its p is fair, because its null is made the same way.",
        "coverage": f"Related: {n} worlds of {WORLD.n_stimuli} images, {WORLD.n_neuroids} neurons and {WORLD.n_repetitions} trials, driven by one of {WORLD.n_layers} layers; a quarter "
        "of the variance of the expected responses is out of the model's reach. Images, neurons and trials are drawn anew in every world, "
        "the net stays. The truth that an interval is to hold is the expectation of the same procedure's score (or raw) for as "
        "many images, neurons and trials; the mean over the worlds stands for it. Unrelated: the worlds of the section before, where the truth is 0. "
        f"{N_BOOTSTRAPS} resamples. `width` is the mean width of the intervals over that of the 95 % spread over worlds: 1 is as narrow as can be, "
        "2 twice as wide. Neurons here are independent; animals, which make real ones alike, are not simulated.",
        "truth": f"`planted layer first`: the layer that drives the neurons is the best layer, in the worlds of the section before. The others are from `sim-ns` "
        f"with at most {MAX_NEUROIDS} neurons a site, 21 sites: `sim-truth`, the expected responses of all sites as layers, should score 1 and find each site's own; "
        "`sim-features`, the banks of features that drive the sites, should find the driver. A score of the truth a little below 1 is expected where neurons "
        "were chosen by the reliability of the very trials that the ceiling is made of.",
        "oracle": f"`raw` of three worlds of {ORACLE_WORLD.n_stimuli} images and {ORACLE_WORLD.n_neuroids} neurons against a loop over folds, layers and neurons that starts from features, not from Grams, "
        "and shares no code with the metric. At most two partitions, for the oracles are slow.",
        "ranking": f"One world's neurons, models that know ever less of the layer that drives them, over {n_ladders(n)} worlds. Along `noise` the layer drowns in white noise, along "
        "`truncated` it sees ever fewer of its latent variables: there the order is known. Along `rescaled` it loses nothing, but its directions become more alike in "
        "variance (singular values to the power of 1 - grade): there is no true order, and what a metric does with it is what it measures. "
        "A figure is Kendall's tau, 1 for the true order: of the mean scores over worlds, and on average in a single world.",
    }[section]


def _table(checks: Sequence[Check]) -> str:
    """Return a table with a row a metric and a column a check."""
    names = list(dict.fromkeys(check.name for check in checks))
    metrics = list(dict.fromkeys(check.metric for check in checks))
    cells = {(check.metric, check.name): check for check in checks}
    heads = []
    for name in names:
        bounds = next(
            ((c.low, c.high) for c in checks if c.name == name and c.low is not None and c.high is not None), None
        )
        heads.append(name + (f", asked {_number(bounds[0])} to {_number(bounds[1])}" if bounds else ""))
    rows = [[metric, *(_cell(cells.get((metric, name))) for name in names)] for metric in metrics]
    return _markdown(["metric", *heads], rows)


def _oracle_table(checks: Sequence[Check]) -> str:
    rows = [[c.metric, c.what, "-" if not c.n else f"{_power(c.value)} {_mark(c)}", "1e-08"] for c in checks]
    return _markdown(["metric", "oracle", "largest difference below", "asked"], rows)


def _power(value: float) -> str:
    """Return the power of ten that a value does not exceed: its digits are rounding, another on each machine."""
    return f"1e{int(np.ceil(np.log10(max(value, 1e-15)))):+03d}"


def _cell(check: Check | None) -> str:
    if check is None or not np.isfinite(check.value):
        return "not given"
    around = f" [{_number(check.around[0])}, {_number(check.around[1])}]" if np.isfinite(check.around[0]) else ""
    return f"{_number(check.value)}{around} {_mark(check)}".rstrip()


def _mark(check: Check) -> str:
    return "**no**" if check.verdict == "no" else check.verdict


def _number(value: float) -> str:
    return f"{value + 0.0:.3f}" if abs(value) >= 0.0005 else "0.000"


def _markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in lines)


def _ladder(report: Report) -> list[str]:
    metrics = list(report.ladder)
    models = list(next(iter(report.ladder.values())))
    rows = [
        [f"{path} {grade:g}", *(_number(float(report.ladder[metric][path, grade].mean())) for metric in metrics)]
        for path, grade in models
    ]
    parts = ["Mean scores of these models:", _markdown(["model", *metrics], rows)]
    if len(metrics) < 2:
        return parts
    spearman, kendall = agreement(report, stats.spearmanr), agreement(report, stats.kendalltau)
    table = [
        [metric, *("" if i == j else _number(spearman[i, j] if j > i else kendall[i, j]) for j in range(len(metrics)))]
        for i, metric in enumerate(metrics)
    ]
    return [
        *parts,
        "How alike metrics rank all of these models together, whose order across paths is a matter of what is measured: Spearman's rho above the diagonal, "
        "Kendall's tau below it. Where two metrics agree less than 1, a ranking of models depends on which one is asked.",
        _markdown(["", *metrics], table),
    ]
