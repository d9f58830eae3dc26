"""A fetch with the settings of the tests: in this process, or as a script, that can be killed."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from allen import allen_files
from mousebench_plugins.benchmarks.allen_ns import fetch
from mousebench_plugins.benchmarks.allen_ns.remote import Settings

SETTINGS = Settings(attempts=3, backoff=0.01, read_timeout=5, block=1 << 14)


def fetch_here(url: str, folder: Path, quantity: str = "mean_sweep_response", jobs: int = 1) -> tuple[str, ...]:
    """Fetch all sessions of a server and return what failed."""
    order = fetch.Order("allen-ns", folder, quantity, "conwell2020_site", allen_files.SCENE_SHAPE, (), SETTINGS)
    return fetch.fetch(order, wanted=None, source=url, jobs=jobs, dry_run=False).failed


if __name__ == "__main__":
    url, folder, quantity, jobs = sys.argv[1:]
    print(json.dumps(fetch_here(url, Path(folder), quantity, int(jobs))))  # noqa: T201
