"""The Allen Institute's natural-scene recordings: two-photon (mean dF/F, L0 events) and Neuropixels."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from mousebench import Spec, hookimpl

if TYPE_CHECKING:
    from collections.abc import Iterable


@hookimpl
def mousebench_benchmarks() -> Iterable[Spec]:
    """Declare the three benchmarks."""
    return [
        Spec("allen-ns", partial(load_two_photon, "allen-ns"), "two-photon, 21 sites, mean % dF/F per presentation"),
        Spec(
            "allen-ns-events",
            partial(load_two_photon, "allen-ns-events"),
            "the same cells, L0 events summed over the presentation",
        ),
        Spec("allen-ns-ephys", load_ephys, "Neuropixels, 6 areas, firing rate per presentation"),
    ]


def load_two_photon(identifier: str, variant: str | None = None) -> object:
    """Return a two-photon benchmark; see ``benchmark.VARIANTS`` for the variants."""
    from mousebench_plugins.benchmarks.allen_ns.benchmark import two_photon

    return two_photon(identifier, variant)


def load_ephys(variant: str | None = None) -> object:
    """Return the Neuropixels benchmark; see ``ephys.VARIANTS`` for the variants."""
    from mousebench_plugins.benchmarks.allen_ns.ephys import load

    return load(variant)
