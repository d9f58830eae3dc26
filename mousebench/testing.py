"""For the tests of a plugin, in this repository or outside: every check of ``mousebench check`` is one test.

The whole test file of a plugin::

    from mousebench.testing import parametrize_checks

    @parametrize_checks("my-net")
    def test_my_net(check):
        check()
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mousebench.checks import Check, DoesNotApply, checks_of, entries_of
from mousebench.plugins import discover


def parametrize_checks(identifier: str, *, plugin: str | Path | None = None, kind: str | None = None) -> Any:
    """Return a decorator that runs a test once for each check of a model, benchmark or metric, as argument ``check``.

    A check that does not apply is skipped, with its reason. The plugin runs in the process of the tests, not isolated.

    Parameters
    ----------
    identifier : str
    plugin : path, optional
        The plugin's file, if it is not installed.
    kind : {"models", "benchmarks", "metrics"}, optional
        Which is meant where more than one has the name.

    Raises
    ------
    UnknownIdentifier
        If nothing is called so.
    """
    found = discover([] if plugin is None else [plugin], trust=True)  # who tests a plugin runs it
    entries = [entry for entry in entries_of(identifier, found) if kind in (None, entry.kind)]
    cases = [
        pytest.param(_skipping(check), id=f"{entry.kind[:-1]}-{check.name.replace(' ', '-')}")
        for entry in entries
        for check in checks_of(entry, identifier, found)
    ]
    return pytest.mark.parametrize("check", cases)


def _skipping(check: Check) -> Check:
    def run() -> None:
        try:
            check()
        except DoesNotApply as reason:
            pytest.skip(str(reason))

    return Check(check.name, run)
