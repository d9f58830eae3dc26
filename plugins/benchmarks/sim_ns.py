"""sim-ns: the benchmark that needs no download, simulated neurons in the 21 sites of the Allen natural-scenes data.

What drives each site is known (``SimNS.truth``), so that a method can be judged by whether it finds it. The data are made
on first use from a seed, in seconds, and kept.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any

from mousebench import Spec, hookimpl

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    import numpy as np
    import xarray as xr

    from mousebench_plugins.benchmarks._sim_features import StandardBank
    from mousebench_plugins.benchmarks._simulation import Population

# the bank of features that drives each site; which one has no claim to anatomy
DRIVERS = {
    "VISp.L23": "texture",
    "VISp.L4": "edges-fine",
    "VISp.L5": "luminance",
    "VISp.L6": "edges-coarse",
    "VISl.L23": "texture",
    "VISl.L4": "edges-fine",
    "VISl.L5": "texture",
    "VISl.L6": "edges-coarse",
    "VISal.L23": "texture",
    "VISal.L4": "luminance",
    "VISal.L5": "edges-coarse",
    "VISpm.L23": "global",
    "VISpm.L4": "edges-fine",
    "VISpm.L5": "edges-coarse",
    "VISpm.L6": "edges-fine",
    "VISam.L23": "texture",
    "VISam.L4": "global",
    "VISam.L5": "edges-coarse",
    "VISrl.L23": "luminance",
    "VISrl.L4": "edges-fine",
    "VISrl.L5": "edges-coarse",
}


class SimNS:
    """Simulated two-photon responses to 118 simulated scenes, by site.

    Parameters
    ----------
    seed : int
        Of scenes, neurons and trials; every site has its own stream of random numbers.
    drivers : mapping of site to feature bank, optional
        What drives the sites, where it is not DRIVERS.
    cells : mapping of site to int, optional
        How many neurons are recorded, where it is not the real number.
    repetitions : int
        Trials of each scene.
    threshold : float
        Neurons whose measured split-half reliability is lower are left out.
    folder : Path, optional
        Where generated data are kept; by default that of the benchmark in mousebench's home.

    Raises
    ------
    UnknownIdentifier
        If there is no such site.
    UsageError
        If there is no such bank, or a number is out of range.
    """

    simulated = True
    version = 1
    sites: Sequence[str] = tuple(DRIVERS)
    metrics: Sequence[str] = (
        "rsa-nnls",
        "rsa-nnls-published",
        "rsa",
        "pls",
        "pls-brainscore",
        "pls-nayebi",
        "ridge",
        "cka",
    )

    def __init__(
        self,
        *,
        seed: int = 0,
        drivers: Mapping[str, str] | None = None,
        cells: Mapping[str, int] | None = None,
        repetitions: int = 50,
        threshold: float = 0.75,
        folder: Path | None = None,
    ) -> None:
        from mousebench.home import data_folder
        from mousebench_plugins.benchmarks import _simulation

        self.seed, self.repetitions, self.threshold = seed, repetitions, threshold
        self.drivers = {**DRIVERS, **(drivers or {})}
        self.cells = {**_simulation.CELLS, **(cells or {})}
        self.folder = data_folder("sim-ns", self.version) if folder is None else folder
        self._check()
        self._scenes: xr.DataArray | None = None
        self._banks: dict[str, StandardBank] = {}
        self._features: dict[str, np.ndarray] = {}
        self._recorded: dict[str, np.ndarray] = {}

    def stimuli(self) -> xr.DataArray:
        """Return the scenes, uint8 (stimulus, y, x)."""
        from mousebench.assemblies import make_stimuli
        from mousebench_plugins.benchmarks._sim_scenes import N_SCENES, make_scenes

        if self._scenes is None:
            name = self._file_name("stimuli", {"version": self.version, "seed": self.seed})
            self._scenes = self._kept(
                name, lambda: make_stimuli(make_scenes(self.seed), range(N_SCENES), simulated=1, seed=self.seed)
            )
        return self._scenes.copy()

    def target(self, site: str) -> xr.DataArray:
        """Return the trials of a site's reliable neurons, float32 (presentation, neuroid).

        Attributes: ``n_cells`` that were recorded, ``n_unreliable`` and ``n_constant`` that were left out,
        ``n_simulated`` whose trials were generated to find that out.
        """
        from mousebench_plugins.benchmarks._simulation import cell_positions

        self._check_site(site)
        target = self._kept(self._file_name(site, self.parameters), lambda: self._record(site))
        self._recorded[site] = cell_positions(target["neuroid_id"].values)
        return target

    def truth(self, site: str | None = None) -> xr.Dataset:
        """Return what was planted.

        Parameters
        ----------
        site : str, optional

        Returns
        -------
        Dataset
            ``driver`` (site), the name of the feature bank; with a site also ``expected`` float64 (stimulus, neuroid) and
            ``planted_reliability`` (neuroid) of the neurons that ``target(site)`` returns.
        """
        import xarray as xr

        from mousebench_plugins.benchmarks._simulation import neuroid_labels

        known = xr.Dataset(
            {"driver": ("site", [self.drivers[name] for name in self.sites])},
            coords={"site": list(self.sites)},
            attrs={"simulated": 1},
        )
        if site is None:
            return known
        scenes = self.stimuli()
        cell = self._cells_of_target(site)
        neurons = self._population(site).subset(cell)
        known = known.assign(
            expected=(("stimulus", "neuroid"), neurons.expected(self._features_of(self.drivers[site]))),
            planted_reliability=("neuroid", neurons.planted_reliability),
        )
        names = neuroid_labels(site, cell, neurons.planted_reliability)["neuroid_id"]
        return known.assign_coords(
            stimulus_id=("stimulus", scenes["stimulus_id"].values), neuroid_id=("neuroid", names)
        )

    def expected(self, images: np.ndarray, sites: Sequence[str]) -> dict[str, np.ndarray]:
        """Return the expected responses to any images of the neurons that ``target`` returns.

        Parameters
        ----------
        images : uint8 (image, height, width) or (image, height, width, 3)
        sites : sequence of str

        Returns
        -------
        dict of site to float64 (image, neuroid)
        """
        banks = {self.drivers[site] for site in sites}
        features = {name: self.standard_features(images, name) for name in sorted(banks)}
        neurons = {site: self._population(site).subset(self._cells_of_target(site)) for site in sites}
        return {site: neurons[site].expected(features[self.drivers[site]]) for site in sites}

    def standard_features(self, images: np.ndarray, bank: str) -> np.ndarray:
        """Return a feature bank of any images, standardised by the scenes, float64 (image, feature)."""
        from mousebench_plugins.benchmarks._sim_features import StandardBank

        if bank not in self._banks:
            self._banks[bank] = StandardBank.fixed_on(bank, self.stimuli().values)
        return self._banks[bank](images)

    @property
    def parameters(self) -> dict[str, Any]:
        """All that fixes the data but the code."""
        return {
            "version": self.version,
            "seed": self.seed,
            "drivers": self.drivers,
            "cells": self.cells,
            "repetitions": self.repetitions,
            "threshold": self.threshold,
        }

    def _check(self) -> None:
        from mousebench.errors import UsageError
        from mousebench_plugins.benchmarks._sim_features import feature_banks

        for site in [*self.drivers, *self.cells]:
            self._check_site(site)
        banks = feature_banks()
        for site, bank in self.drivers.items():
            if bank not in banks:
                raise UsageError(f"sim-ns has no feature bank {bank!r} to drive {site!r}", f"one of {', '.join(banks)}")
        for site, n_cells in self.cells.items():
            if n_cells < 1:
                raise UsageError(f"sim-ns: site {site!r} cannot have {n_cells} cells", "give 1 or more")
        if self.seed < 0 or self.repetitions < 2 or not 0 < self.threshold < 1:
            raise UsageError(
                f"sim-ns: seed {self.seed}, repetitions {self.repetitions} or threshold {self.threshold} is out of range",
                "seed 0 or more, repetitions 2 or more, threshold between 0 and 1",
            )

    def _check_site(self, site: str) -> None:
        from mousebench.errors import UnknownIdentifier

        if site not in self.sites:
            raise UnknownIdentifier(f"sim-ns has no site {site!r}", f"one of {', '.join(self.sites)}")

    def _stream(self, site: str) -> list[int]:
        # independent of the other sites and of the order in which they are asked for
        return [self.seed, zlib.crc32(site.encode())]

    def _features_of(self, bank: str) -> np.ndarray:
        if bank not in self._features:
            self._features[bank] = self.standard_features(self.stimuli().values, bank)
        return self._features[bank]

    def _population(self, site: str) -> Population:
        import numpy as np

        from mousebench_plugins.benchmarks._simulation import make_population

        rng = np.random.default_rng(self._stream(site))
        return make_population(site, self._features_of(self.drivers[site]), self.cells[site], self.repetitions, rng)

    def _cells_of_target(self, site: str) -> np.ndarray:
        if site not in self._recorded:
            self.target(site)
        return self._recorded[site]

    def _record(self, site: str) -> xr.DataArray:
        import numpy as np

        from mousebench.assemblies import make_responses
        from mousebench.errors import UsageError
        from mousebench_plugins.benchmarks._simulation import N_SPLITS, neuroid_labels, record

        features = self._features_of(self.drivers[site])
        recording = record(self._population(site), features, self.repetitions, self.threshold, self._stream(site))
        n_stimuli, n_repetitions, n_kept = recording.cube.shape
        if n_kept == 0:
            raise UsageError(
                f"sim-ns: none of the {self.cells[site]} cells of {site!r} has a reliability of {self.threshold}",
                "ask for more cells or a lower threshold",
            )
        return make_responses(
            recording.cube.reshape(-1, n_kept),
            np.repeat(self.stimuli()["stimulus_id"].values, n_repetitions),
            np.tile(np.arange(n_repetitions), n_stimuli),
            neuroid_labels(site, recording.cell, recording.reliability),
            simulated=1,
            seed=self.seed,
            threshold=self.threshold,
            n_splits=N_SPLITS,
            n_cells=self.cells[site],
            n_unreliable=self.cells[site] - n_kept - recording.n_constant,
            n_constant=recording.n_constant,
            n_simulated=recording.n_simulated,
        )

    def _file_name(self, name: str, parameters: Mapping[str, Any]) -> str:
        from mousebench_plugins.benchmarks._simulation import world_hash

        return f"{name}-{world_hash(parameters)[:12]}.nc"

    def _kept(self, name: str, make: Callable[[], xr.DataArray]) -> xr.DataArray:
        """Return what is in the folder under a name; where it is missing or damaged make it, and keep it if possible."""
        from contextlib import suppress

        from mousebench.assemblies import load_array, save
        from mousebench.errors import StoreError

        with suppress(StoreError):
            return load_array(self.folder / name)
        made = make()
        with suppress(StoreError):  # a folder that cannot be written costs time, not the benchmark
            save(made, self.folder / name)
        return made


def load() -> SimNS:
    """Return the benchmark as it is by default."""
    return SimNS()


@hookimpl
def mousebench_benchmarks() -> Iterable[Spec]:
    """Return sim-ns."""
    return [Spec("sim-ns", load=load, description="simulated neurons with a known answer, 118 scenes, 21 sites")]
