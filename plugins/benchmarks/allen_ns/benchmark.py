"""The two-photon benchmarks: scenes, and one array of responses a site."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from mousebench import assemblies
from mousebench.errors import MissingData, StoreError, UnknownIdentifier
from mousebench.home import data_folder
from mousebench_plugins.benchmarks.allen_ns import assemble, checks, fetch, probe, scenes, session, sites, stored
from mousebench_plugins.benchmarks.allen_ns.remote import Settings
from mousebench_plugins.benchmarks.allen_ns.sites import Experiment
from mousebench_plugins.benchmarks.allen_ns.source import BUCKET, open_source

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import xarray as xr

    from mousebench.fetching import FetchReport

VERSION = 1
QUANTITIES = {"allen-ns": session.DFF, "allen-ns-events": session.EVENTS}
GREY = 127  # luminance of the blank screen between scenes, the mean of the monitor's range
# what follows the @ in an identifier; the plain identifier is the published choice
VARIANTS: dict[str, dict[str, Any]] = {
    "apart": {"recipe": {"selection": "apart"}},
    "grey": {"recipe": {"include_grey": True}},
    "r80": {"recipe": {"threshold": 0.80}},
    "cell-rule": {"rule": "conwell2021_cell"},
}


def two_photon(identifier: str, variant: str | None = None) -> TwoPhoton:
    """Return ``allen-ns`` or ``allen-ns-events``, in the published form or a variant.

    Variants: ``apart`` (neurons are chosen on a third of the trials, the others are the target), ``grey`` (blank sweeps
    are a 119th condition), ``r80`` (threshold .80), ``cell-rule`` (the depth-to-layer rule of 2021).
    """
    if variant is None:
        return TwoPhoton(identifier)
    if variant not in VARIANTS:
        raise UnknownIdentifier(f"{identifier} has no variant {variant!r}", f"its variants are {', '.join(VARIANTS)}")
    options = VARIANTS[variant]
    recipe = assemble.Recipe(**options.get("recipe", {}))
    return TwoPhoton(identifier, recipe=recipe, rule=options.get("rule", "conwell2020_site"))


class TwoPhoton:
    """Responses of excitatory neurons to 118 natural scenes, by area and layer.

    Parameters
    ----------
    identifier : str
        "allen-ns" (mean % dF/F) or "allen-ns-events" (L0 events).
    recipe : Recipe or None
        How neurons are chosen; None is the published way, reliability of at least .75.
    rule : str
        The depth-to-layer rule: "conwell2020_site" or "conwell2021_cell".
    folder : Path or None
        Where the data are; None is the benchmark's data folder.
    scene_shape : (y, x)
    settings : Settings or None
        Patience of the fetch.

    Attributes
    ----------
    sites : tuple of str
        The 21 published sites, whether or not they were fetched: a mean over sites is the same everywhere.
    """

    version = VERSION
    metrics = ("rsa-nnls", "rsa-nnls-published", "rsa", "pls", "pls-brainscore", "pls-nayebi", "ridge", "cka")
    sites = sites.SITES

    def __init__(
        self,
        identifier: str,
        *,
        recipe: assemble.Recipe | None = None,
        rule: str = "conwell2020_site",
        folder: Path | None = None,
        scene_shape: tuple[int, int] = checks.SCENE_SHAPE,
        settings: Settings | None = None,
    ) -> None:
        if rule not in sites.RULES:
            raise UnknownIdentifier(f"no depth-to-layer rule {rule!r}", f"rules are {', '.join(sites.RULES)}")
        self.identifier = identifier
        self.recipe = recipe or assemble.Recipe()
        self.rule = rule
        self.folder = folder or data_folder(identifier, VERSION)
        self._scene_shape = scene_shape
        self._settings = settings or Settings()
        self._ids = assemble.conditions(self.recipe.include_grey)

    def stimuli(self) -> xr.DataArray:
        """Return the scenes, uint8 (stimulus, y, x), stimulus_id 0..117 (and -1, uniform grey, in the variant)."""
        stimuli = scenes.load(self.folder, self.identifier)
        if not self.recipe.include_grey:
            return stimuli
        grey = np.full((1, *stimuli.shape[1:]), GREY, dtype=np.uint8)
        return assemblies.make_stimuli(np.concatenate([stimuli.values, grey]), self._ids, **stimuli.attrs)

    def target(self, site: str) -> xr.DataArray:
        """Return the responses of a site, float32 (presentation, neuroid), assembled once and then kept.

        Raises
        ------
        UnknownIdentifier
            If there is no such site.
        MissingData
            If no session of it was fetched, or none of its neurons is reliable enough.
        """
        held, expected = self._sessions(site)
        definition = json.dumps([VERSION, self.rule, asdict(self.recipe)], sort_keys=True)
        parts = {str(one.id): self._path(one) for one in held}
        return stored.site_array(self.folder, site, definition, parts, partial(self._assemble, site, held, expected))

    def blank(self, site: str) -> xr.DataArray:
        """Return the blank sweeps of a site's neurons, float32 (presentation, neuroid), stimulus_id -1."""
        held, _ = self._sessions(site)
        keep = self.target(site)["neuroid_id"].values
        return assemble.blanks([(self._load(one), site) for one in held], keep)

    def counts(self, site: str) -> dict[str, int]:
        """Return what was kept and dropped of a site, and how many of its sessions are held."""
        return dict(json.loads(self.target(site).attrs["counts"]))

    def held(self) -> dict[str, tuple[int, int]]:
        """Return for each site how many of how many sessions are here."""
        by_site = self._by_site()
        return {
            site: (sum(self._path(one).is_file() for one in by_site.get(site, [])), len(by_site.get(site, [])))
            for site in self.sites
        }

    def fetch(
        self, *, sites: Sequence[str] | None, source: str | None, jobs: int, dry_run: bool, progress: Any = None
    ) -> FetchReport:
        """Fetch what is missing of some sites, or all, and assemble them; see ``fetch.fetch``."""
        siblings = tuple(data_folder(other, VERSION) for other in QUANTITIES if other != self.identifier)
        order = fetch.Order(
            self.identifier,
            self.folder,
            QUANTITIES[self.identifier],
            self.rule,
            self._scene_shape,
            siblings,
            self._settings,
        )
        report = fetch.fetch(order, wanted=sites, source=source, jobs=jobs, dry_run=dry_run, progress=progress)
        if dry_run:
            return report
        held = self.held()
        here = [site for site in (sites or self.sites) if held[site][0]]
        lines, failed = stored.describe_sites(here, self._describe)
        return replace(report, lines=(*report.lines, *lines), failed=(*report.failed, *failed))

    def probe(self, source: str | None = None, experiment: int = probe.EXPERIMENT) -> list[probe.Fact]:
        """Return the facts of one session of the public bucket, or of another source, for ``mousebench doctor``."""
        place = open_source(source or f"{BUCKET}/visual-coding-2p", self._settings)
        return probe.probe(place, experiment)

    def _describe(self, site: str) -> str:
        counts = self.counts(site)
        return "{kept} of {neurons} neurons of {animals} mice, {sessions} of {expected} sessions".format(**counts)

    def _by_site(self) -> dict[str, list[Experiment]]:
        table = fetch.stored_table(self.folder / fetch.TABLE)
        if not table:
            raise MissingData(f"{self.identifier} has no data on this machine", f"mousebench fetch {self.identifier}")
        return sites.select([Experiment(**record) for record in table["experiments"]], self.rule)[0]

    def _path(self, experiment: Experiment) -> Path:
        return fetch.session_path(self.folder, experiment.id)

    def _sessions(self, site: str) -> tuple[list[Experiment], int]:
        sites.check_sites([site], self.sites, self.identifier)
        listed = self._by_site().get(site, [])
        held = [one for one in listed if self._path(one).is_file()]
        if not held:
            raise MissingData(
                f"{self.identifier} has no session of {site} on this machine",
                f"mousebench fetch {self.identifier} --site {site}",
            )
        return held, len(listed)

    def _load(self, experiment: Experiment) -> xr.Dataset:
        try:
            return assemblies.load(self._path(experiment))
        except StoreError as error:
            hint = f"delete it and run: mousebench fetch {self.identifier}"
            raise StoreError(error.message, hint) from error

    def _assemble(self, site: str, held: Sequence[Experiment], expected: int) -> xr.DataArray:
        recordings = [assemble.recording(self._load(one), site, self._ids) for one in held]
        what = {"quantity": session.UNITS[QUANTITIES[self.identifier]], "depth_rule": self.rule}
        about = {"benchmark": self.identifier, "version": VERSION, **what}
        target = assemble.assemble(recordings, site, self._ids, self.recipe, **about)
        return stored.with_ceilings(target, recordings, self.recipe, expected=expected)
