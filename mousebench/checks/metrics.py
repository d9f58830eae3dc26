"""The checks of a metric, on small simulated sites whose expected responses are known."""

from __future__ import annotations

import numpy as np
import xarray as xr

from mousebench.assemblies import make_rdm, make_responses
from mousebench.checks import Check, DoesNotApply
from mousebench.checks.shared import PluginChecks
from mousebench.errors import CheckFailed
from mousebench.linalg import correlation_rdm, gram
from mousebench.reliability import rdm_reliability
from mousebench.results import normalise

N_STIMULI, N_REPETITIONS, N_NEUROIDS, N_FEATURES = 36, 10, 12, 12
NEAR = 0.15  # of 1: what 36 images teach a regression falls short of a perfect model by up to .06
N_SHUFFLES = 8
N_ERRORS = 4  # standard errors of the mean over shuffles: by chance in one of 200 metrics
EQUAL = 1e-6  # sums in another order


class World:
    """A simulated site: expected responses, trials, and the layer that is the site itself.

    Parameters
    ----------
    seed : int
    """

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng([seed, 12])
        hidden = rng.standard_normal((N_STIMULI, N_FEATURES))
        self.expected = hidden @ rng.standard_normal((N_FEATURES, N_NEUROIDS)) / np.sqrt(N_FEATURES)
        self.ids = np.arange(N_STIMULI)
        noise = rng.standard_normal((N_STIMULI, N_REPETITIONS, N_NEUROIDS))
        self.trials = (self.expected[:, None] + noise).reshape(-1, N_NEUROIDS)

    def responses(self, neuroids: np.ndarray | None = None, extra: np.ndarray | None = None) -> xr.DataArray:
        """Return trials (presentation, neuroid), neuroids in some order, further ones (presentation, extra) behind."""
        order = np.arange(N_NEUROIDS) if neuroids is None else neuroids
        values = self.trials[:, order]
        if extra is not None:
            values = np.column_stack([values, extra])
        return make_responses(
            values,
            np.repeat(self.ids, N_REPETITIONS),
            np.tile(np.arange(N_REPETITIONS), N_STIMULI),
            {"neuroid_id": [*order.tolist(), *range(N_NEUROIDS, values.shape[1])]},
        )

    def rdm(self) -> xr.DataArray:
        """Return the RDM of the mean responses, with its split-half correlation."""
        cube = self.trials.reshape(N_STIMULI, N_REPETITIONS, N_NEUROIDS)
        half = float(rdm_reliability(cube, np.random.default_rng(0)).mean())
        return make_rdm(correlation_rdm(*gram([cube.mean(1)])), self.ids, reliability=half)

    def layers(self, order: np.ndarray | None = None) -> dict[str, xr.Dataset]:
        """Return the expected responses as the one layer of a model, for the stimuli in some order."""
        values, sums, width = gram([self.expected if order is None else self.expected[order]])
        return {
            "the site itself": xr.Dataset(
                {"gram": (("stimulus", "stimulus_b"), values), "feature_sum": ("stimulus", sums)},
                coords={"stimulus_id": ("stimulus", self.ids), "stimulus_id_b": ("stimulus_b", self.ids)},
                attrs={"n_features": width},
            )
        }


class MetricChecks(PluginChecks):
    """The checks of one metric."""

    def all(self) -> list[Check]:
        """Return the checks in the order in which they are run."""
        return [
            *super().all(),
            Check("says what it is", self.says_what_it_is),
            Check("ceiling between 0 and 1", self.ceiling_between_0_and_1),
            Check("a perfect model reaches the ceiling", self.identity_near_ceiling),
            Check("shuffled images score 0", self.shuffled_near_0),
            Check("no layers score 0", self.no_layers_score_0),
            Check("same seed, same numbers", self.same_seed_same_numbers),
            Check("order of neuroids does not matter", self.neuroid_order),
            Check("NaN and constant neuroids are counted", self.unusable_neuroids),
        ]

    def says_what_it_is(self) -> None:
        """Look at version, accepts and normalisation."""
        metric = self.thing
        version, accepts = getattr(metric, "version", None), getattr(metric, "accepts", None)
        if type(version) is not int or version < 1:
            raise CheckFailed(f"version is {version!r}", "give a whole number, and raise it when scores can change")
        if isinstance(accepts, str) or not accepts or not set(accepts) <= {"responses", "rdm"}:
            raise CheckFailed(f"accepts is {accepts!r}", "give some of {'responses', 'rdm'}")
        if getattr(metric, "normalisation", None) not in ("ratio", "squared"):
            raise CheckFailed(f"normalisation is {getattr(metric, 'normalisation', None)!r}", "'ratio' or 'squared'")

    @property
    def takes_responses(self) -> bool:
        """Whether trials can be given to it, rather than RDMs alone."""
        return "responses" in self.thing.accepts

    def _targets(self, world: World) -> dict[str, xr.DataArray]:
        made = {"responses": world.responses, "rdm": world.rdm}
        return {kind: make() for kind, make in made.items() if kind in self.thing.accepts}

    def _score(self, layers: dict[str, xr.Dataset], target: xr.DataArray, seed: int = 0) -> xr.Dataset:
        score = self.thing.score(layers, target, seed)
        if not isinstance(score, xr.Dataset) or "raw" not in score or score["raw"].dims not in ((), ("neuroid",)):
            raise CheckFailed(
                "score gives no Dataset with 'raw', a scalar or along neuroid", "see docs/plugin-metric.md"
            )
        return score

    def ceiling_between_0_and_1(self) -> None:
        """Look at the ceiling of a reliable site, and at its shape."""
        for kind, target in self._targets(World(0)).items():
            ceiling = self.thing.ceiling(target, 0)["ceiling"]
            values = np.atleast_1d(np.asarray(ceiling.values, dtype=float))
            if not ((values > 0) & (values <= 1)).all():
                raise CheckFailed(
                    f"the ceiling of a reliable site ({kind}) is {_few(values)}",
                    "it is the raw that a perfect model would reach: above 0, at most 1",
                )
            raw = self._score(World(0).layers(), target)["raw"]
            if ceiling.dims not in ((), raw.dims):
                raise CheckFailed(f"ceiling has dimensions {ceiling.dims}, raw {raw.dims}", "give it as raw is")

    def identity_near_ceiling(self) -> None:
        """Score the expected responses themselves."""
        world = World(0)
        for kind, target in self._targets(world).items():
            raw, ceiling = self._score(world.layers(), target)["raw"], self.thing.ceiling(target, 0)["ceiling"]
            _, top, score = normalise(raw, ceiling, self.thing.normalisation, [])
            if not abs(score - 1) <= NEAR:
                raise CheckFailed(
                    f"a layer that is the site's own expected response ({kind}) scores {score:.3f}, with a ceiling of {top:.3f}",
                    f"it must come within {NEAR} of 1: is the ceiling what a perfect model reaches, with noise as in raw?",
                )

    def shuffled_near_0(self) -> None:
        """Score layers whose images are shuffled: the mean must be what a constant scores, 0 but for published recipes."""
        found, baseline = [], 0.0
        for seed in range(N_SHUFFLES):
            world = World(seed + 1)
            order = np.random.default_rng([seed, 34]).permutation(N_STIMULI)
            score = self._score(world.layers(order), next(iter(self._targets(world).values())), seed)
            found.append(_one_number(score))
            baseline += float(score.get("intercept_only", 0.0)) / N_SHUFFLES
        mean, error = float(np.mean(found)), float(np.std(found, ddof=1) / np.sqrt(N_SHUFFLES))
        if not abs(mean - baseline) <= N_ERRORS * error + 1e-9:
            known = f", where it says that a constant scores {baseline:.3f}" if baseline else ""
            raise CheckFailed(
                f"layers of shuffled images score {mean:.3f} +- {error:.3f} on average of {N_SHUFFLES} sites{known}",
                "compare inside each fold, never predictions pooled over folds; choose nothing by what is scored",
            )

    def no_layers_score_0(self) -> None:
        """Score the model that predicts a constant."""
        score = self._score({}, next(iter(self._targets(World(0)).values())))
        values = np.atleast_1d(np.asarray(score["raw"].values, dtype=float))
        expected = float(score.get("intercept_only", 0.0))
        if not np.allclose(values, expected, atol=1e-9):
            raise CheckFailed(
                f"a model without layers scores {_few(values)}",
                "an empty mapping of layers is the model that predicts a constant: raw is 0, of every neuroid if it has them",
            )

    def same_seed_same_numbers(self) -> None:
        """Score twice with one seed."""
        world = World(0)
        target = next(iter(self._targets(world).values()))
        first, second = (self._score(world.layers(), target, 3) for _ in range(2))
        ceilings = [self.thing.ceiling(target, 3) for _ in range(2)]
        differ = [str(name) for name in first.data_vars if not first[name].equals(second.get(name, first["raw"] * 0))]
        if not ceilings[0]["ceiling"].equals(ceilings[1]["ceiling"]):
            differ.append("ceiling")
        if differ:
            raise CheckFailed(
                f"the same seed gives another {', '.join(differ)}", "draw from numpy.random.default_rng(seed) alone"
            )

    def neuroid_order(self) -> None:
        """Score a site with its neuroids in another order."""
        if not self.takes_responses:
            raise DoesNotApply("the metric takes RDMs only")
        world, order = World(0), np.random.default_rng(5).permutation(N_NEUROIDS)
        raw, other = (
            np.asarray(self._score(world.layers(), target)["raw"].values, dtype=float)
            for target in (world.responses(), world.responses(order))
        )
        expected = raw[order] if raw.ndim else raw
        if not np.allclose(other, expected, atol=EQUAL, equal_nan=True):
            away = float(np.nanmax(np.abs(other - expected)))
            raise CheckFailed(
                f"with the neuroids in another order raw differs by {away:.2g}",
                "no neuroid may count by its position; if some are drawn, draw them by neuroid_id",
            )

    def unusable_neuroids(self) -> None:
        """Score a site with a neuroid that lacks a stimulus and one that is constant."""
        if not self.takes_responses:
            raise DoesNotApply("the metric takes RDMs only")
        world = World(0)
        lacking = np.random.default_rng(6).standard_normal(N_STIMULI * N_REPETITIONS)
        lacking[:N_REPETITIONS] = np.nan
        both = np.column_stack([lacking, np.ones_like(lacking)])
        alone = self._score(world.layers(), world.responses())
        score = self._score(world.layers(), world.responses(extra=both))
        raw, before = (np.asarray(one["raw"].values, dtype=float) for one in (score, alone))
        if not np.allclose(raw[:N_NEUROIDS] if raw.ndim else raw, before, atol=EQUAL, equal_nan=True):
            raise CheckFailed(
                "a neuroid without a trial of some stimulus and a constant one change raw of the others",
                "leave out neuroids without a mean for every stimulus, and those that do not vary",
            )
        told = int(score.attrs.get("n_neuroids", np.isfinite(raw).sum() if raw.ndim else -1))
        if told != N_NEUROIDS:
            raise CheckFailed(
                f"of {N_NEUROIDS + 2} neuroids, two of which cannot be used, it says to have used {told if told >= 0 else '?'}",
                "count those that are used in the attribute n_neuroids, or give NaN for the others",
            )


def _one_number(score: xr.Dataset) -> float:
    values = np.asarray(score["raw"].values, dtype=float)
    return float(np.median(values[np.isfinite(values)])) if np.isfinite(values).any() else float("nan")


def _few(values: np.ndarray) -> str:
    return ", ".join(f"{value:.3f}" for value in values[:3]) + (" ..." if len(values) > 3 else "")
