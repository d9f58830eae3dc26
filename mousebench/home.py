"""Where mousebench keeps things: one home folder, with data and representations below it."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

from mousebench.specs import file_name


def home() -> Path:
    """Return the home folder: MOUSEBENCH_HOME, else the platform's cache folder."""
    named = os.environ.get("MOUSEBENCH_HOME")
    return Path(named).expanduser() if named else Path(platformdirs.user_cache_dir("mousebench"))


def data_folder(benchmark: str, version: int) -> Path:
    """Return the folder of a benchmark's fetched or generated data; it need not exist."""
    return home() / "data" / file_name(benchmark) / f"v{version}"


def torch_checkpoints() -> Path:
    """Return the folder in which torch keeps downloaded weights, without importing torch."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache"))
    return Path(os.environ.get("TORCH_HOME", cache / "torch"), "hub", "checkpoints").expanduser()


def hub_cache() -> Path:
    """Return the folder in which huggingface_hub keeps downloaded weights; its token lies elsewhere."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache"))
    hub = Path(os.environ.get("HF_HOME", cache / "huggingface"), "hub")
    return Path(os.environ.get("HF_HUB_CACHE", hub)).expanduser()
