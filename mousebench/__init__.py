"""mousebench: how mouse-like is a vision model?

The names below are the public interface; the heavy ones are imported when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mousebench.hookspecs import hookimpl
from mousebench.specs import Spec

if TYPE_CHECKING:
    from mousebench.api import (
        compare,
        list_benchmarks,
        list_metrics,
        list_models,
        load_benchmark,
        load_metric,
        load_model,
        score,
    )
    from mousebench.torch_model import TorchModel

_LAZY = {
    "TorchModel": "mousebench.torch_model",
    "compare": "mousebench.api",
    "list_benchmarks": "mousebench.api",
    "list_metrics": "mousebench.api",
    "list_models": "mousebench.api",
    "load_benchmark": "mousebench.api",
    "load_metric": "mousebench.api",
    "load_model": "mousebench.api",
    "score": "mousebench.api",
}

__version__ = "0.1.0"
__all__ = [
    "Spec",
    "TorchModel",
    "compare",
    "hookimpl",
    "list_benchmarks",
    "list_metrics",
    "list_models",
    "load_benchmark",
    "load_metric",
    "load_model",
    "score",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'mousebench' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY])
