"""``mousebench report``."""

from __future__ import annotations

import argparse
from pathlib import Path

from mousebench.commands.options import discovered, names, natural, positive

TEXT = "redo the analyses of the paper from stored results"
EXAMPLE = "mousebench report --benchmark sim-ns --out report"


def add(parser: argparse.ArgumentParser) -> None:
    """Give the command its options."""
    parser.add_argument("--benchmark", default="allen-ns-rdms", metavar="B", help="allen-ns-rdms by default")
    parser.add_argument("--metric", type=names, metavar="X,...", help="metrics beside rsa-nnls and rsa-nnls-published")
    parser.add_argument("--results", metavar="DIR", help="where results are stored (results in the home folder)")
    parser.add_argument("--out", default="report", metavar="DIR", help="where the report goes (report)")
    parser.add_argument("--splits", type=positive, default=1000, metavar="N", help="random splits of signatures (1000)")
    parser.add_argument(
        "--planted",
        type=natural,
        metavar="SEED",
        help="of a simulated world whose answers are known, instead of results",
    )


def run(options: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    from mousebench.progress import progress_for_stderr
    from mousebench.report.build import as_json, make_sections, read_inputs, write
    from mousebench.store import default_results

    found = discovered(options)
    progress = progress_for_stderr()
    try:
        if options.planted is None:
            results = Path(options.results) if options.results else default_results()
            thing = found.load("benchmarks", options.benchmark)
            inputs = read_inputs(results, options.benchmark, thing, metrics=options.metric)
        else:
            from mousebench.report.planted import planted_inputs

            inputs = planted_inputs(options.planted, found, progress)
        content = as_json(inputs, make_sections(inputs, n_splits=options.splits, progress=progress))
        files = write(content, Path(options.out))
    finally:
        progress.finish()
    gaps = sum(len(section["gaps"]) for section in content["sections"])
    print(f"{files[-1]}: {len(content['sections'])} sections, {gaps} gaps; {len(files)} files in {options.out}")
    return 0
