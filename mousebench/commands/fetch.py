"""``mousebench fetch``."""

from __future__ import annotations

import argparse
import sys

from mousebench.commands.options import discovered, names, positive

TEXT = "bring a benchmark's data to this machine"
EXAMPLE = "mousebench fetch allen-ns-rdms --from FOLDER"


def add(parser: argparse.ArgumentParser) -> None:
    """Give the command its options."""
    parser.add_argument("benchmark", metavar="BENCHMARK")
    parser.add_argument("--site", type=names, metavar="S,...", help="only these sites")
    parser.add_argument("--from", dest="source", metavar="URL_OR_FOLDER", help="take the data from there")
    parser.add_argument("--jobs", type=positive, default=4, metavar="N", help="transfers at a time (4)")
    parser.add_argument("--dry-run", action="store_true", help="show what would be moved, and stop")


def run(options: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    from mousebench.progress import progress_for_stderr

    benchmark = discovered(options).load("benchmarks", options.benchmark)
    if not hasattr(benchmark, "fetch"):
        print(f"{options.benchmark}: nothing to fetch, it makes its data itself")
        return 0
    if options.site:
        from mousebench.comparison import Named, choose_sites

        choose_sites(Named(options.benchmark, benchmark, None), options.site)
    progress = progress_for_stderr()
    try:
        report = benchmark.fetch(
            sites=options.site, source=options.source, jobs=options.jobs, dry_run=options.dry_run, progress=progress
        )
    finally:
        progress.finish()
    for line in report.lines:
        print(line)
    for line in report.failed:
        sys.stderr.write(f"failed: {line}\n")
    return 2 if report.failed else 0
