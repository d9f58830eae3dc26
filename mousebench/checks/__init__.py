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
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from mousebench.catalogue import Catalogue, cause_of, reference
from mousebench.errors import ContractViolation, MousebenchError, UnknownIdentifier, did_you_mean
from mousebench.names import split_local_model
from mousebench.plugins import local_model
from mousebench.specs import KINDS

if TYPE_CHECKING:
    from mousebench.catalogue import Entry
    from mousebench.progress import Progress

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
        return [local_model(*local, trust=found.trust)]
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
            state, message, hint = (
                FAILED,
                cause_of(error),
                "the plugin's own error; --trust-plugins --debug shows where",
            )
        yield Outcome(check.name, state, message, hint, round(time.monotonic() - begin, 3))


def perform_in_isolation(entry: Entry, identifier: str, progress: Progress) -> list[Outcome]:
    """Run the checks of a plugin of others in a process of its own, all of them there.

    What comes back is looked at, but the plugin is there while it is made: it could say that all is well.

    Raises
    ------
    MousebenchError
        If the process hangs, eats memory, or ends; or if it gives no outcomes.
    """
    from mousebench.isolation.remote import call

    local = split_local_model(identifier)
    where = reference(entry.plugin, None if local is None else local[1])
    if local is not None:
        identifier = f"{entry.plugin.file}:{local[1]}"  # the process works in another folder
    arguments = {"kind": entry.kind, "identifier": identifier}
    rows = call(where, f"{__name__}:beside_the_plugin", arguments, doing="to run its checks", progress=progress)
    return [_outcome(row) for row in (rows if isinstance(rows, list) else [None])]


def beside_the_plugin(found: Catalogue, arguments: Mapping[str, Any], progress: Progress) -> list[dict[str, Any]]:
    """Run the checks in the process of the plugin, and return what comes of them as plain data."""
    identifier = arguments["identifier"]
    rows = []
    for entry in entries_of(identifier, found):
        if entry.kind == arguments["kind"]:
            checks = checks_of(entry, identifier, found)
            progress.start(f"checks of {identifier}", len(checks))
            for outcome in perform(checks):
                rows.append(asdict(outcome))
                progress.advance(1)
            progress.finish()
    return rows


def _outcome(row: Any) -> Outcome:
    """Return one outcome that a plugin's process sent; nothing of it is taken on trust."""
    from mousebench.isolation.process import plain

    texts = ("name", "message", "hint")
    good = isinstance(row, dict) and row.get("state") in (OK, FAILED, SKIPPED) and isinstance(row.get("seconds"), float)
    if not good or not all(isinstance(row.get(name), str) for name in texts):
        raise ContractViolation("the plugin's process gives something else than what came of its checks")
    name, message, hint = (plain(row[name]) for name in texts)
    return Outcome(name, row["state"], message, hint, row["seconds"])
