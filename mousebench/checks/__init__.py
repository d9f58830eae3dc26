"""Small named checks of a plugin, of what the contract asks of a model, benchmark or metric.

``mousebench check ID`` runs them, and so does pytest through ``mousebench.testing``. A check is a callable that returns
nothing if all is well, raises CheckFailed with what is wrong and what to do, or DoesNotApply with the reason. The checks
of one plugin share what they have loaded and computed, and nothing else: they can run in any process, and what comes of
them (``Outcome``) is plain data.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mousebench.errors import MousebenchError, UnknownIdentifier, did_you_mean
from mousebench.plugins import KINDS, Catalogue, cause_of, local_model, split_local_model

if TYPE_CHECKING:
    from mousebench.plugins import Entry

OK, FAILED, SKIPPED = "ok", "FAIL", "skipped"
CONTRACT = "what is asked for: docs/plugin-model.md, plugin-benchmark.md, plugin-metric.md"


class DoesNotApply(Exception):
    """A check says nothing about this plugin; the text is the reason."""


@dataclass(frozen=True)
class Check:
    """One check of one plugin."""

    name: str
    run: Callable[[], None]

    def __call__(self) -> None:
        """Run it; raises CheckFailed, DoesNotApply, or whatever the plugin raises."""
        self.run()


@dataclass(frozen=True)
class Outcome:
    """What came of one check: plain data.

    Attributes
    ----------
    name : str
    state : {"ok", "FAIL", "skipped"}
    message, hint : str
        What is wrong and what to do, or why the check does not apply.
    seconds : float
    """

    name: str
    state: str
    message: str = ""
    hint: str = ""
    seconds: float = 0.0


def entries_of(identifier: str, found: Catalogue) -> list[Entry]:
    """Return what an identifier names, of every kind; ``path/to/file.py:function`` names a model.

    Raises
    ------
    UnknownIdentifier
        If it names nothing; says what is close.
    PluginConflict
        If two plugins claim it.
    """
    local = split_local_model(identifier)
    if local is not None:
        return [local_model(*local)]
    kinds = [kind for kind in KINDS if found.has(kind, identifier)]
    if not kinds:
        known = [name for kind in KINDS for name in found.identifiers(kind)]
        causes = [f"plugin {item.plugin!r} is broken: {item.cause}" for item in found.broken]
        hint = "'mousebench list' shows everything"
        raise UnknownIdentifier(
            f"nothing is called {identifier!r}{did_you_mean(identifier, known, 3)}", "; ".join([*causes[:3], hint])
        )
    return [found.find(kind, identifier) for kind in kinds]


def checks_of(entry: Entry, identifier: str, found: Catalogue) -> list[Check]:
    """Return the checks of one model, benchmark or metric; nothing is loaded before one of them runs.

    Parameters
    ----------
    entry : Entry
        The plugin's.
    identifier : str
        What to load of it: a name, or one of its variants.
    found : Catalogue
        Where the benchmarks and metrics are that a check needs.
    """
    if entry.kind == "models":
        from mousebench.checks.models import ModelChecks

        return ModelChecks(entry, identifier, found).all()
    if entry.kind == "benchmarks":
        from mousebench.checks.benchmarks import BenchmarkChecks

        return BenchmarkChecks(entry, identifier, found).all()
    from mousebench.checks.metrics import MetricChecks

    return MetricChecks(entry, identifier, found).all()


def perform(checks: Sequence[Check], *, debug: bool = False) -> Iterator[Outcome]:
    """Run checks one after the other; what fails does not keep the others from running.

    Parameters
    ----------
    checks : sequence of Check
    debug : bool
        Let the first exception through, with its traceback.
    """
    for check in checks:
        begin = time.monotonic()
        state, message, hint = OK, "", ""
        try:
            with contextlib.redirect_stdout(sys.stderr):  # stdout is for results
                check()
        except DoesNotApply as reason:
            state, message = SKIPPED, str(reason)
        except MousebenchError as error:
            if debug:
                raise
            state, message, hint = FAILED, error.message, error.hint or CONTRACT
        except (Exception, SystemExit) as error:
            if debug:
                raise
            state, message, hint = FAILED, cause_of(error), "this is the plugin's own error; --debug shows where"
        yield Outcome(check.name, state, message, hint, round(time.monotonic() - begin, 3))
