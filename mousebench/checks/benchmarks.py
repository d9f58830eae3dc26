"""The checks of a benchmark."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import xarray as xr

from mousebench import assemblies
from mousebench.checks import Check, DoesNotApply
from mousebench.checks.shared import PluginChecks
from mousebench.errors import CheckFailed, ContractViolation, MissingData, did_you_mean


class BenchmarkChecks(PluginChecks):
    """The checks of one benchmark."""

    def all(self) -> list[Check]:
        """Return the checks in the order in which they are run."""
        return [
            *super().all(),
            Check("says what it is", self.says_what_it_is),
            Check("uses no network", self.uses_no_network),
            Check("missing data say how to get them", self.missing_data_say_how),
            Check("stimuli are labelled images", self.stimuli_are_labelled),
            Check("targets are labelled, ids match", self.targets_are_labelled),
            Check("at least two repetitions", self.repetitions),
            Check("same content twice", self.same_content_twice),
            Check("metrics exist and accept its targets", self.metrics_accept),
        ]

    def says_what_it_is(self) -> None:
        """Look at version, sites and metrics."""
        version = getattr(self.thing, "version", None)
        if type(version) is not int or version < 1:
            raise CheckFailed(f"version is {version!r}", "give a whole number, and raise it when scores can change")
        for name in ("sites", "metrics"):
            names: Any = getattr(self.thing, name, None)
            good = not isinstance(names, str) and names and all(isinstance(one, str) and one for one in names)
            if not good or len(set(names)) < len(names):
                raise CheckFailed(f"{name} is {names!r}", "give a sequence of names, at least one, each once")

    def uses_no_network(self) -> None:
        """Load it and read stimuli and targets in a process that can open no connection."""
        _ = self.thing
        self.in_fresh_process("read")

    # data -------------------------------------------------------------------------------------------------------------

    @cached_property
    def _read(self) -> tuple[xr.DataArray | None, dict[str, xr.DataArray], MissingData | None]:
        """The stimuli, the targets of the sites that have data, and what is missing."""
        missing, targets = None, {}
        try:
            stimuli = self.thing.stimuli()
        except MissingData as error:
            return None, {}, error
        for site in self.thing.sites:
            try:
                targets[site] = self.thing.target(site)
            except MissingData as error:
                missing = error
        return stimuli, targets, missing

    @property
    def stimuli(self) -> xr.DataArray:
        """The stimuli; without them a check does not apply."""
        stimuli, _, missing = self._read
        if stimuli is None:
            raise DoesNotApply(f"{missing.message if missing else ''} ({missing.hint if missing else ''})")
        return stimuli

    @property
    def targets(self) -> dict[str, xr.DataArray]:
        """The targets that are on this machine; without any a check does not apply."""
        _ = self.stimuli
        _, targets, missing = self._read
        if not targets:
            raise DoesNotApply(f"{missing.message if missing else ''} ({missing.hint if missing else ''})")
        return targets

    def missing_data_say_how(self) -> None:
        """Look at what is said where data are missing."""
        missing = self._read[2]
        if missing is None:
            raise DoesNotApply("all data are here")
        if "mousebench fetch" not in missing.hint:
            raise CheckFailed(
                f"missing data are said as {missing.message!r}, hint {missing.hint!r}",
                "raise MissingData with the line 'mousebench fetch ...' as its hint",
            )

    def stimuli_are_labelled(self) -> None:
        """Look at type, shape and ids of the stimuli."""
        assemblies.check_stimuli(self.stimuli)

    def targets_are_labelled(self) -> None:
        """Look at labels and values of every target, and match its ids with those of the stimuli."""
        ids = self.stimuli["stimulus_id"].values
        for site, target in self.targets.items():
            try:
                assemblies.align(target, ids)
            except ContractViolation as error:
                raise CheckFailed(
                    f"site {site}: {error.message}", error.hint or "see docs/plugin-benchmark.md"
                ) from error

    def repetitions(self) -> None:
        """Count how often each stimulus was shown to each neuroid; an RDM brings its reliability instead."""
        for site, target in self.targets.items():
            if target.dims == ("presentation", "neuroid"):
                trials = assemblies.average(target)["n_trials"].values
                few = int((trials < 2).any(0).sum())
                if few == trials.shape[1]:
                    raise CheckFailed(
                        f"site {site}: no neuroid has two trials of every stimulus",
                        "without repetitions there is no ceiling: give trials, not means",
                    )
            elif not -1 < float(target.attrs.get("reliability", np.nan)) <= 1:
                raise CheckFailed(
                    f"site {site}: the RDM has the reliability {target.attrs.get('reliability')!r}",
                    "give the split-half correlation of half of the data as the attribute 'reliability'",
                )

    def same_content_twice(self) -> None:
        """Read stimuli and targets again, from the benchmark loaded again."""
        again = self.entry.load(self.identifier)
        pairs = {"stimuli": (self.stimuli, again.stimuli())}
        pairs.update({f"the target of {site}": (one, again.target(site)) for site, one in self.targets.items()})
        for name, (one, other) in pairs.items():
            if assemblies.content_hash(one) != assemblies.content_hash(other):
                raise CheckFailed(
                    f"{name} has other content when it is read again", "seed what is simulated; sort what is read"
                )

    def metrics_accept(self) -> None:
        """Look for the metrics, and for what they accept."""
        metrics: Any = self.thing.metrics
        for name in metrics:
            if not self.found.has("metrics", name):
                guess = did_you_mean(name, self.found.identifiers("metrics"))
                raise CheckFailed(f"it lists the metric {name!r}, which is not installed{guess}", "mend metrics")
        for site, target in self.targets.items():
            try:
                kind = assemblies.check_target(target)
            except ContractViolation as error:
                raise DoesNotApply("a target is not what the contract says, see above") from error
            for name in metrics:
                accepts = self.found.load("metrics", name).accepts
                if kind not in accepts:
                    raise CheckFailed(
                        f"the metric {name!r} takes {' or '.join(sorted(accepts))}, the target of {site} is {kind}",
                        "list metrics that take its targets, the default first",
                    )
