"""``mousebench check``."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mousebench.commands.options import discovered, print_json

if TYPE_CHECKING:
    from mousebench.catalogue import Catalogue
    from mousebench.checks import Outcome

TEXT = "check one plugin, or the registry and the results against what is installed"
EXAMPLE = "mousebench check pixels"


def add(parser: argparse.ArgumentParser) -> None:
    """Give the command its options."""
    parser.add_argument("identifier", nargs="?", metavar="ID", help="a model, benchmark or metric, or file.py:function")
    parser.add_argument("--results", metavar="DIR", help="results to look through, without ID (results in the home)")
    parser.add_argument("--json", action="store_true", help="as JSON")


def run(options: argparse.Namespace) -> int:
    """Run the command and return its exit code: 1 if something was found."""
    found = discovered(options)
    return _check_all(options, found) if options.identifier is None else _check_one(options, found)


def _check_one(options: argparse.Namespace, found: Catalogue) -> int:
    from mousebench.checks import FAILED, OK, SKIPPED

    outcomes: list[tuple[str, Outcome]] = []
    for kind, outcome in _outcomes(options, found):
        outcomes.append((kind, outcome))
        if not options.json:
            _print_outcome(outcome)
    states = [outcome.state for _, outcome in outcomes]
    if options.json:
        print_json(
            {
                "identifier": options.identifier,
                "checks": [{"kind": kind, **vars(outcome)} for kind, outcome in outcomes],
            }
        )
    else:
        print(
            f"{options.identifier}: {states.count(OK)} ok, {states.count(FAILED)} failed, {states.count(SKIPPED)} skipped"
        )
    return 1 if FAILED in states else 0


def _outcomes(options: argparse.Namespace, found: Catalogue) -> Iterator[tuple[str, Outcome]]:
    from mousebench.checks import checks_of, entries_of, perform, perform_in_isolation
    from mousebench.progress import progress_for_stderr

    for entry in entries_of(options.identifier, found):
        if not options.json:
            print(f"{entry.kind[:-1]} {options.identifier}, of {entry.plugin}", flush=True)
        if entry.plugin.isolated:
            outcomes: Iterable[Outcome] = perform_in_isolation(entry, options.identifier, progress_for_stderr())
        else:
            outcomes = perform(checks_of(entry, options.identifier, found), debug=options.debug)
        for outcome in outcomes:
            yield entry.kind, outcome


def _print_outcome(outcome: Outcome) -> None:
    line = f"  {outcome.state:<8} {outcome.name}"
    print(f"{line}: {outcome.message}" if outcome.message else line, flush=True)
    if outcome.hint:
        print(f"           {outcome.hint}", flush=True)


def _check_all(options: argparse.Namespace, found: Catalogue) -> int:
    from mousebench.consistency import everything
    from mousebench.store import default_results

    results = Path(options.results) if options.results else default_results()
    problems = everything(found, results)
    if options.json:
        content: dict[str, Any] = {"problems": [vars(problem) for problem in problems]}
        print_json(content)
        return 1 if problems else 0
    for problem in problems:
        print(f"found: {problem.what}\n       {problem.remedy}")
    if not problems:
        print("nothing found: the registry, what is installed and the results agree")
    return 1 if problems else 0
