"""The three hooks of a mousebench plugin.

Each is called by every command, so a plugin module imports nothing heavy: import inside ``Spec.load``.
"""

from __future__ import annotations

from collections.abc import Iterable

import pluggy

from mousebench.specs import Spec

hookspec = pluggy.HookspecMarker("mousebench")
hookimpl = pluggy.HookimplMarker("mousebench")


@hookspec
def mousebench_models() -> Iterable[Spec]:  # type: ignore[empty-body]
    """Return the models this plugin provides; ``load`` returns a Model, such as TorchModel."""


@hookspec
def mousebench_benchmarks() -> Iterable[Spec]:  # type: ignore[empty-body]
    """Return the benchmarks this plugin provides; ``load`` returns a Benchmark and never downloads."""


@hookspec
def mousebench_metrics() -> Iterable[Spec]:  # type: ignore[empty-body]
    """Return the metrics this plugin provides; ``load`` returns a Metric."""
