"""One benchmark and one metric, ready for any number of models: stimuli, targets and ceilings, made once."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import xarray as xr
from threadpoolctl import threadpool_limits

from mousebench import assemblies
from mousebench.catalogue import Plugin, cause_of
from mousebench.errors import (
    ContractViolation,
    MousebenchError,
    PluginBroken,
    UnknownIdentifier,
    UsageError,
    did_you_mean,
)
from mousebench.interfaces import Benchmark, Metric
from mousebench.progress import Progress, Silent


@dataclass(frozen=True)
class Named:
    """Something that was loaded, its identifier, the plugin that it comes from (None: made in Python), what is told of it."""

    identifier: str
    thing: Any
    plugin: Plugin | None
    about: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def fingerprint(self) -> dict[str, str]:
        """What a model says that it is, asked once: it may mean to hash all weights."""
        return dict(self.thing.fingerprint)


@dataclass
class Comparison:
    """One benchmark and one metric, ready to score any number of models; targets and ceilings are made once.

    Attributes
    ----------
    benchmark, metric : Named
    sites : list of str
    seed : int
    whole : mapping of site to str
        Where a model was made of the benchmark's data and these targets are what it left: the hashes of the whole ones.
    """

    benchmark: Named
    metric: Named
    sites: list[str]
    seed: int
    progress: Progress = field(default_factory=Silent)
    whole: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def stimuli(self) -> xr.DataArray:
        """The benchmark's stimuli, checked."""
        with blaming(self.benchmark, "benchmark", ", stimuli"):
            return assemblies.check_stimuli(self.benchmark.thing.stimuli())

    @cached_property
    def stimuli_hash(self) -> str:
        """Content hash of the stimuli."""
        return assemblies.content_hash(self.stimuli)

    @cached_property
    def targets(self) -> dict[str, xr.DataArray]:
        """The targets by site, their stimuli in the order of the benchmark's."""
        benchmark: Benchmark = self.benchmark.thing
        ids = self.stimuli["stimulus_id"].values
        self.progress.start(f"targets of {self.benchmark.identifier}", len(self.sites))
        targets = {}
        for site in self.sites:
            with blaming(self.benchmark, "benchmark", f", site {site}"):
                targets[site] = assemblies.align(benchmark.target(site), ids)
            self.progress.advance(1)
        self.progress.finish()
        return self.accepting(targets)

    def accepting(self, targets: dict[str, xr.DataArray]) -> dict[str, xr.DataArray]:
        """Return the targets, or raise UsageError if the metric cannot use their kind."""
        kinds = {assemblies.check_target(target) for target in targets.values()}
        accepts = set(self.metric.thing.accepts)
        if not kinds <= accepts:
            raise UsageError(
                f"metric {self.metric.identifier!r} needs {' or '.join(sorted(accepts))}, {self.benchmark.identifier!r} gives {' and '.join(sorted(kinds))}",
                f"metrics for {self.benchmark.identifier}: {', '.join(self.benchmark.thing.metrics)}",
            )
        return targets

    @cached_property
    def target_hashes(self) -> dict[str, str]:
        """Content hash of each site's target."""
        return {site: assemblies.content_hash(target) for site, target in self.targets.items()}

    @cached_property
    def ceilings(self) -> dict[str, xr.Dataset]:
        """Ceiling of each site, made once for all models."""
        metric: Metric = self.metric.thing
        self.progress.start(f"ceilings of {self.metric.identifier}", len(self.sites))
        ceilings = {}
        with threadpool_limits(1, user_api="blas"):
            for site, target in self.targets.items():
                with blaming(self.metric, "metric", f", ceiling of site {site}"):
                    ceilings[site] = metric.ceiling(target, self.seed)
                self.progress.advance(1)
        self.progress.finish()
        return ceilings

    @property
    def simulated(self) -> bool:
        """Whether the data are simulated."""
        return bool(getattr(self.benchmark.thing, "simulated", False))

    def only(self, sites: Sequence[str]) -> Comparison:
        """Return the same comparison for some of its sites, sharing what is made already."""
        part = replace(self, sites=list(sites))
        part.__dict__.update(stimuli=self.stimuli, stimuli_hash=self.stimuli_hash)
        for name in ("targets", "target_hashes", "ceilings"):
            part.__dict__[name] = {site: getattr(self, name)[site] for site in sites}
        return part


def together(comparisons: list[Comparison]) -> list[Comparison]:
    """Return comparisons of one benchmark and the same sites with its stimuli and targets, made once for all of them.

    Raises
    ------
    MousebenchError
        If something is wrong with the benchmark, or a metric cannot use its targets.
    """
    first = comparisons[0]
    _ = first.target_hashes
    for other in comparisons[1:]:
        other.__dict__.update(stimuli=first.stimuli, stimuli_hash=first.stimuli_hash, target_hashes=first.target_hashes)
        other.__dict__["targets"] = other.accepting(first.targets)
    return comparisons


def bind(model: Named, comparisons: list[Comparison]) -> tuple[Named, list[Comparison]]:
    """Return a model and the comparisons that it takes part in: the same, unless it is made of the benchmark's own data.

    Such a model (``interfaces.MadeOfData``) comes back made, with comparisons of its own whose targets and ceilings are
    those of what is left.

    Parameters
    ----------
    model : Named
    comparisons : list of Comparison
        Of one benchmark and the same sites.
    """
    take = getattr(model.thing, "take_from", None)
    if take is None:
        return model, comparisons
    first = comparisons[0]
    benchmark = first.benchmark
    with blaming(model, "model", f", on {benchmark.identifier}"):
        made, rest = take(benchmark.thing, benchmark.identifier)
    left = replace(benchmark, thing=rest)
    own = [replace(comparison, benchmark=left, whole=first.target_hashes) for comparison in comparisons]
    own[0].__dict__.update(stimuli=first.stimuli, stimuli_hash=first.stimuli_hash)
    return replace(model, thing=made), together(own)


def choose_sites(benchmark: Named, sites: Sequence[str] | None) -> list[str]:
    """Return the sites asked for, in the benchmark's order; all by default.

    Raises
    ------
    UnknownIdentifier
        If the benchmark lacks one; names the closest.
    """
    known = list(benchmark.thing.sites)
    if sites is None:
        return known
    for site in sites:
        if site not in known:
            guess = did_you_mean(site, known, 3)
            raise UnknownIdentifier(
                f"{benchmark.identifier!r} has no site {site!r}{guess}", f"its sites: {', '.join(known)}"
            )
    return [site for site in known if site in set(sites)]


def who(named: Named, kind: str = "model") -> str:
    """Return what something is called in an error: its kind, identifier and plugin."""
    plugin = named.plugin
    return f"{kind} {named.identifier!r}" + (f" of {plugin} version {plugin.version}" if plugin else "")


@contextlib.contextmanager
def blaming(named: Named, kind: str, where: str = "") -> Iterator[None]:
    """Turn an exception of a plugin's own code into PluginBroken; name the benchmark that breaks the contract."""
    try:
        yield
    except ContractViolation as error:
        if kind == "benchmark":
            raise ContractViolation(f"{named.identifier}{where}: {error.message}", error.hint) from error
        raise
    except MousebenchError:
        raise
    except (Exception, SystemExit) as error:
        raise PluginBroken(
            f"{who(named, kind)}{where} fails: {cause_of(error)}", "--debug shows where it happened"
        ) from error
