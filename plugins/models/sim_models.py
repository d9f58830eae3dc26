"""Controls for sim-ns: models that know what drives its sites."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mousebench import Spec, hookimpl

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import numpy as np

    from mousebench_plugins.benchmarks.sim_ns import SimNS


class SimFeatures:
    """The feature banks that drive the sites, one a layer; a good method finds which bank drives which site.

    Features are standardised by the scenes of the benchmark, as they are where they drive the neurons.

    Parameters
    ----------
    benchmark : SimNS, optional
        By default sim-ns itself.
    """

    version = 1

    def __init__(self, benchmark: SimNS | None = None) -> None:
        from mousebench_plugins.benchmarks._sim_features import feature_banks

        self.benchmark = _sim_ns() if benchmark is None else benchmark
        self.layers: Sequence[str] = tuple(feature_banks())

    @property
    def fingerprint(self) -> Mapping[str, str]:
        """What fixes the numbers: the seed of the scenes and the code."""
        return _fingerprint("sim-features", self.version, {"seed": self.benchmark.seed})

    def activations(self, images: np.ndarray, layers: Sequence[str]) -> Mapping[str, np.ndarray]:
        """Return the banks, uint8 (image, height, width, 3) -> layer to float64 (image, feature)."""
        return {layer: self.benchmark.standard_features(images, layer) for layer in layers}


class SimTruth:
    """The expected responses of the neurons of each site, one site a layer: the upper anchor of sim-ns.

    They are those of the very neurons of the benchmark's targets. Which ones these are is known only from their measured
    reliabilities, so that a target that is not kept yet is generated.

    Parameters
    ----------
    benchmark : SimNS, optional
        By default sim-ns itself.
    """

    version = 1

    def __init__(self, benchmark: SimNS | None = None) -> None:
        self.benchmark = _sim_ns() if benchmark is None else benchmark
        self.layers: Sequence[str] = tuple(self.benchmark.sites)

    @property
    def fingerprint(self) -> Mapping[str, str]:
        """What fixes the numbers: all parameters of the benchmark and the code."""
        return _fingerprint("sim-truth", self.version, self.benchmark.parameters)

    def activations(self, images: np.ndarray, layers: Sequence[str]) -> Mapping[str, np.ndarray]:
        """Return the expected responses, uint8 (image, height, width, 3) -> layer to float64 (image, neuroid)."""
        return self.benchmark.expected(images, layers)


def _sim_ns() -> SimNS:
    from mousebench_plugins.benchmarks.sim_ns import load

    return load()


def _fingerprint(model: str, version: int, parameters: Mapping[str, object]) -> dict[str, str]:
    from mousebench_plugins.benchmarks._simulation import world_hash

    return {"model": model, "version": str(version), "sha256": world_hash(parameters)}


@hookimpl
def mousebench_models() -> Iterable[Spec]:
    """Return the two controls."""
    return [
        Spec(
            "sim-features", load=SimFeatures, description="control for sim-ns: the feature banks that drive its sites"
        ),
        Spec("sim-truth", load=SimTruth, description="control for sim-ns: its neurons without noise, the upper anchor"),
    ]
