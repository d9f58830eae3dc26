"""``mousebench compare``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from mousebench.commands.options import add_scoring, discovered, stdout_kept_clean, write_json
from mousebench.errors import UnknownIdentifier, UsageError, print_error

if TYPE_CHECKING:
    from mousebench.catalogue import Catalogue
    from mousebench.runs import Done, Request

TEXT = "compare models on a benchmark: differences, ranks, and which cannot be told apart"
EXAMPLE = "mousebench compare resnet18-random pixels noise --benchmark sim-ns"


def add(parser: argparse.ArgumentParser) -> None:
    """Give the command its options."""
    parser.add_argument(
        "models",
        nargs="+",
        metavar="MODEL",
        help="identifiers, file.py:function, or the name of a stored result; scored if no result is stored",
    )
    parser.add_argument("--benchmark", required=True, metavar="B")
    parser.add_argument("--metric", metavar="X", help="the benchmark's first by default")
    add_scoring(parser)


def run(options: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    from mousebench.paired import check_models, compare
    from mousebench.progress import progress_for_stderr
    from mousebench.report_json import compared_as_json
    from mousebench.runs import Request, as_stored, check_writable
    from mousebench.runs import run as run_request
    from mousebench.store import default_results
    from mousebench.tables import print_comparison

    check_models(options.models)
    found = discovered(options)
    request = Request(
        models=options.models,
        benchmark=options.benchmark,
        metrics=(options.metric,) if options.metric else (),
        sites=options.site,
        seed=options.seed,
        device=options.device,
        results=Path(options.results) if options.results else default_results(),
        jobs=options.jobs,
        plugin_files=options.plugin,
    )
    found.find("benchmarks", request.benchmark)
    for metric in request.metrics:
        found.find("metrics", metric)
    _check_enough(request, found)
    check_writable(request.results)
    progress = progress_for_stderr()
    try:
        done = [as_stored(item, request, found) for item in stdout_kept_clean(run_request(request, found, progress))]
    finally:
        progress.finish()
    failed = _say_failed(done)
    results = [item.result for item in done if item.result is not None]
    if len(results) < 2:
        raise UsageError(
            f"{len(results)} of {len(done)} models could be scored: there is nothing to compare",
            "the errors above say why",
        )
    table = compare(results)
    if options.json:
        write_json(compared_as_json(table), options.json)
    if options.json != "-":
        print_comparison(table)
    return 2 if failed else 0


def _check_enough(request: Request, found: Catalogue) -> None:
    """Say a typo that leaves nothing to compare before the benchmark's data are made or read."""
    from mousebench.names import split_local_model
    from mousebench.runs import Done, as_stored

    metric = request.metrics[0] if request.metrics else found.load("benchmarks", request.benchmark).metrics[0]
    unknown = []
    for name in request.models:
        try:
            if split_local_model(name) is None:
                found.find("models", name)
        except UnknownIdentifier as error:
            if as_stored(Done(name, metric, None, error), request, found).result is None:
                unknown.append(error)
    if len(request.models) - len(unknown) < 2:
        raise unknown[0]


def _say_failed(done: list[Done]) -> int:
    """Say on stderr which models failed, and which results are taken as they are stored; return how many failed."""
    failed = 0
    for item in done:
        if item.error is not None and item.result is None:
            print_error(item.error)
            failed += 1
        elif item.error is not None:
            sys.stderr.write(f"note: {item.model}: the stored result as it is ({item.error.message})\n")
    return failed
