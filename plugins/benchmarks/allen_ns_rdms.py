"""allen-ns-rdms: the 21 site RDMs that Conwell et al. 2020 published, with the 118 natural scenes.

No trials, so no neurons to fit: the benchmark supports RDM metrics only, and its ceilings come from the published
split-half correlations. ``allen-ns-rdms@grey`` keeps the grey screen, the 119th row of the published matrices.
"""

from __future__ import annotations

from mousebench import Spec, hookimpl


@hookimpl
def mousebench_benchmarks():
    """Declare the benchmark."""
    return [
        Spec(
            "allen-ns-rdms", load=load, description="the 21 published site RDMs of the Allen natural scenes (real data)"
        )
    ]


def load(variant: str | None = None):
    """Return the benchmark; the variant "grey" keeps the grey screen as a 119th stimulus."""
    from mousebench.errors import UnknownIdentifier
    from mousebench_plugins.benchmarks._allen_rdms import AllenRdms

    if variant not in (None, "grey"):
        raise UnknownIdentifier(f"benchmark 'allen-ns-rdms' has no variant {variant!r}", "its one variant is 'grey'")
    return AllenRdms(include_grey=variant == "grey")
