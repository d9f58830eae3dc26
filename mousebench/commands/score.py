"""``mousebench score``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mousebench.commands.options import add_scoring, discovered, names, stdout_kept_clean, write_json
from mousebench.errors import MousebenchError, UsageError, print_error

if TYPE_CHECKING:
    from mousebench.catalogue import Catalogue
    from mousebench.runs import Done

TEXT = "score models on a benchmark"
EXAMPLE = "mousebench score --model pixels,resnet18-random --benchmark sim-ns"


def add(parser: argparse.ArgumentParser) -> None:
    """Give the command its options."""
    parser.add_argument("--model", type=names, required=True, metavar="M,...", help="identifiers, or file.py:function")
    parser.add_argument("--weights", metavar="FILE", help="safetensors or torch file to fill the one model with")
    parser.add_argument(
        "--layers",
        type=names,
        metavar="PATTERN,...",
        help="names or globs; 'blocks': the top-level blocks; all by default",
    )
    parser.add_argument("--benchmark", required=True, metavar="B")
    parser.add_argument("--metric", type=names, metavar="X,...", help="the benchmark's first by default")
    add_scoring(parser)
    parser.add_argument("--force", action="store_true", help="compute again what is stored already")


def run(options: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    from mousebench.names import split_local_model
    from mousebench.progress import progress_for_stderr
    from mousebench.runs import Request, check_writable
    from mousebench.runs import run as run_request
    from mousebench.store import default_results
    from mousebench.tables import print_result

    found = discovered(options)
    request = Request(
        models=_models(options, found),
        benchmark=options.benchmark,
        metrics=options.metric or (),
        sites=options.site,
        seed=options.seed,
        device=options.device,
        results=Path(options.results) if options.results else default_results(),
        jobs=options.jobs,
        force=options.force,
        plugin_files=options.plugin,
    )
    found.find("benchmarks", request.benchmark)
    for metric in request.metrics:
        found.find("metrics", metric)
    if len(request.models) == 1 and split_local_model(request.models[0]) is None:
        found.find("models", request.models[0])  # a typo is said before the benchmark's data are made or read
    check_writable(request.results)
    progress = progress_for_stderr()
    done = []
    try:
        for item in stdout_kept_clean(run_request(request, found, progress)):
            done.append(item)
            if options.json != "-" and item.result is not None:
                progress.finish()
                print_result(item)
    finally:
        progress.finish()
    return _conclude(done, request.results, options.json)


def _models(options: argparse.Namespace, found: Catalogue) -> list[str]:
    """Return the models asked for; those with other weights or layers are put into the catalogue, as local ones."""
    from mousebench.api import changed_model

    models: list[str] = options.model
    if options.weights is not None and len(models) > 1:
        raise UsageError(f"--weights is for one model, not for {len(models)}", "score them one by one")
    if options.weights is None and options.layers is None:
        return models
    chosen = []
    for model in models:
        try:
            entry = changed_model(model, found, weights=options.weights, layers=options.layers)
        except MousebenchError:
            if len(models) == 1:
                raise
            chosen.append(model)  # the others are scored, and this one is said to fail
        else:
            found.add("models", entry.spec, entry.plugin)
            chosen.append(entry.spec.identifier)
    return chosen


def _conclude(done: Sequence[Done], results: Path, json_file: str | None) -> int:
    from mousebench.report_json import as_json
    from mousebench.tables import print_summary

    finished = [item for item in done if item.result is not None]
    if json_file:
        write_json(as_json([item.result for item in finished if item.result is not None]), json_file)
    if json_file != "-" and len(finished) > 1:
        print_summary(finished)
    if finished:
        reused = sum(item.reused for item in finished)
        note = f", {reused} of them from before (--force computes them again)" if reused else ""
        sys.stderr.write(f"{len(finished)} result(s) in {results}{note}\n")
    failed = [item for item in done if item.error is not None]
    for item in failed:
        if item.error is not None:
            print_error(item.error)
    return 2 if failed else 0
