"""``mousebench leaderboard``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mousebench.commands.options import discovered, positive
from mousebench.errors import UsageError, print_error

if TYPE_CHECKING:
    from mousebench.crew import Report
    from mousebench.leaderboard import Place
    from mousebench.matrix import Plan, Unit
    from mousebench.progress import Progress

TEXT = "score what the leaderboard of registry.yaml lacks, and write it"
EXAMPLE = "mousebench leaderboard --results results --html site"


def add(parser: argparse.ArgumentParser) -> None:
    """Give the command its options."""
    parser.add_argument("--results", metavar="DIR", help="where results are stored (results in the home folder)")
    parser.add_argument(
        "--out", metavar="DIR", help="where LEADERBOARD.md, leaderboard.csv and .json go (beside results)"
    )
    parser.add_argument("--html", metavar="DIR", help="write the site into this folder too")
    parser.add_argument("--registry", metavar="FILE", help="another registry.yaml (MOUSEBENCH_REGISTRY)")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--dry-run", action="store_true", help="say what would be scored, and do nothing")
    what.add_argument("--check", action="store_true", help="say what is stale, missing or not as written; then exit 1")
    what.add_argument("--no-score", action="store_true", help="write from the results that are there")
    what.add_argument("--verify", action="store_true", help="load every model too, and score again what changed")
    parser.add_argument(
        "--jobs", type=positive, default=1, metavar="N", help="models at a time, each in its process (1)"
    )
    parser.add_argument("--cluster", metavar="ADDRESS", help="a dask scheduler whose workers score the models")
    parser.add_argument(
        "--device", default="auto", choices=("auto", "cpu", "cuda", "mps"), help="where nets run (auto)"
    )


def run(options: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    from mousebench import leaderboard, store

    if options.registry:
        os.environ["MOUSEBENCH_REGISTRY"] = options.registry  # for the processes that score, too
    results = Path(options.results) if options.results else store.default_results()
    out = Path(options.out) if options.out else results.parent
    place = leaderboard.Place(results, out, Path(options.html) if options.html else None)
    if options.check:
        return _check(options, place)
    if options.dry_run:
        return _say_what_is_to_do(_plan(options, results))
    if options.no_score:
        leaderboard.check_results(results)
        return _write(place)
    return _score_and_write(options, place)


def _plan(options: argparse.Namespace, results: Path) -> Plan:
    from mousebench.matrix import plan
    from mousebench.registry import read_registry

    return plan(read_registry(), discovered(options), results)


def _check(options: argparse.Namespace, place: Place) -> int:
    from mousebench import leaderboard

    leaderboard.check_results(place.results)
    made = _plan(options, place.results)
    problems = [
        f"{cell.state}: {cell.model} on {cell.benchmark}, {cell.metric}{_because(cell.reason)}" for cell in made.wrong()
    ]
    problems += leaderboard.differences(place)
    for problem in problems:
        print(problem)
    if problems:
        sys.stderr.write(f"{len(problems)} thing(s) to mend: mousebench leaderboard\n")
    return 1 if problems else 0


def _because(reason: str) -> str:
    return f" ({reason})" if reason else ""


def _say_what_is_to_do(made: Plan) -> int:
    units = made.units()
    for unit in units:
        print(f"to score: {unit}")
    for text in _blocked(made):
        print(text)
    for error in made.problems:
        print_error(error)
    there = sum(cell.state == "there" for cell in made.cells)
    sys.stderr.write(f"{len(units)} model(s) to score, {there} of {len(made.cells)} results are there\n")
    return 2 if made.problems else 0


def _blocked(made: Plan) -> list[str]:
    """Return what cannot be scored here, a line for each thing that is needed."""
    models: dict[str, list[str]] = {}
    for cell in made.cells:
        if cell.blocked and cell.state != "there":
            models.setdefault(cell.blocked, []).append(cell.model)
    return [f"left out, needs {what}: {', '.join(dict.fromkeys(names))}" for what, names in models.items()]


def _score_and_write(options: argparse.Namespace, place: Place) -> int:
    from mousebench import store
    from mousebench.progress import progress_for_stderr
    from mousebench.runs import check_writable

    check_writable(place.results)
    progress = progress_for_stderr()
    waiting = f"another leaderboard is at work on {place.results}; this one goes on when it is done"
    with store.alone(place.results / "leaderboard", lambda: progress.note(waiting)):
        made = _plan(options, place.results)
        for text in _blocked(made):
            progress.note(text)
        failed = _score(made.units(verify=options.verify), options, place.results, progress)
        code = _write(place)
        for error in made.problems:
            print_error(error)
        return 2 if failed or made.problems else code


def _score(units: Sequence[Unit], options: argparse.Namespace, results: Path, progress: Progress) -> int:
    """Score the units, say how each went, and return how many failed."""
    from mousebench import crew

    given = crew.orders(results, options.device, options.plugin)
    if not units:
        return 0
    progress.note(f"{len(units)} model(s) to score")
    reports = (
        crew.work_on_cluster(units, given, options.cluster)
        if options.cluster
        else crew.work_here(units, given, options.jobs)
    )
    done: list[Report] = []
    for report in reports:
        done.append(report)
        went = "failed" if report.error else "done"
        progress.note(f"{len(done)} of {len(units)}: {report.unit}: {went} ({report.seconds:.0f} s)")
    after = _plan(
        options, results
    )  # what a process says of itself is not enough: it may have ended early without a word
    failed = 0
    for report in done:
        lacking = after.not_there(report.unit)
        if report.error or lacking:
            error = report.error or f"no result of {', '.join(lacking)} was stored, and nothing was said"
            print_error(UsageError(f"{report.unit}: {error}", report.hint or EXCEPT))
            failed += 1
    return failed


EXCEPT = "a model that is not for this benchmark is named under 'except' in registry.yaml"


def _write(place: Place) -> int:
    from mousebench import leaderboard

    written = leaderboard.write(place)
    for path in written[:5]:
        sys.stderr.write(f"wrote {path}\n")
    if len(written) > 5:
        sys.stderr.write(f"wrote {len(written) - 5} more file(s)\n")
    if not written:
        sys.stderr.write("the leaderboard is up to date\n")
    return 0
