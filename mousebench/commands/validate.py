"""``mousebench validate``."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from mousebench.commands.options import discovered, names, natural, positive, print_json

if TYPE_CHECKING:
    from mousebench.catalogue import Catalogue
    from mousebench.comparison import Named
    from mousebench.validation import Report

TEXT = "check metrics on simulated data whose answer is known"
EXAMPLE = "mousebench validate rsa --worlds 20"


def add(parser: argparse.ArgumentParser) -> None:
    """Give the command its options."""
    parser.add_argument("metric", nargs="?", type=names, metavar="METRIC,...", help="all metrics by default")
    parser.add_argument(
        "--worlds",
        type=positive,
        default=200,
        metavar="N",
        help="simulated worlds for the intervals, twice as many for the null (200)",
    )
    parser.add_argument("--seed", type=natural, default=0, metavar="N", help="of the worlds (0)")
    parser.add_argument("--out", metavar="FILE.md", help="write the page (docs/validity.md is one)")
    parser.add_argument("--json", metavar="FILE|-", help="write the figures as JSON; - is stdout, instead of the table")


def run(options: argparse.Namespace) -> int:
    """Run the command and return its exit code: 1 where a figure is out of its bounds."""
    from mousebench.anchors import Anchors
    from mousebench.assemblies import replacing
    from mousebench.progress import progress_for_stderr
    from mousebench.tables import print_checks
    from mousebench.validation import validate
    from mousebench.validity import as_markdown

    found = discovered(options)
    metrics = _metrics(options.metric, found)
    progress = progress_for_stderr()
    anchors = Anchors(found, progress)
    try:
        with contextlib.redirect_stdout(sys.stderr):  # whatever plugins print
            report = validate(
                metrics,
                n_worlds=options.worlds,
                seed=options.seed,
                anchors=lambda metric: anchors.checks(metric, options.seed),
                progress=progress,
            )
    finally:
        progress.finish()
    if options.json == "-":
        print_json(report.as_json())
    else:
        print_checks(report.checks)
    if options.json and options.json != "-":
        with replacing(Path(options.json)) as temporary:
            temporary.write_text(json.dumps(report.as_json(), indent=2, allow_nan=False) + "\n", encoding="utf-8")
    if options.out:
        with replacing(Path(options.out)) as temporary:
            temporary.write_text(as_markdown(report, _command(options)), encoding="utf-8")
    return _conclude(report)


def _metrics(identifiers: list[str] | None, found: Catalogue) -> list[Named]:
    from mousebench.comparison import Named

    chosen = identifiers or found.identifiers("metrics")
    entries = [found.find("metrics", name) for name in chosen]  # a typo is said before anything is loaded
    return [Named(name, found.load("metrics", name), entry.plugin) for name, entry in zip(chosen, entries, strict=True)]


def _command(options: argparse.Namespace) -> str:
    """Return the command without the files that it writes."""
    words = ["mousebench", *(f"--plugin {Path(file).name}" for file in options.plugin), "validate"]
    words += [",".join(options.metric)] if options.metric else []
    return " ".join([*words, f"--worlds {options.worlds} --seed {options.seed}"])


def _conclude(report: Report) -> int:
    unclear = sum(check.verdict == "unclear" for check in report.checks)
    if unclear:
        sys.stderr.write(
            f"{unclear} figure(s) out of bounds by less than Monte Carlo error: more --worlds would tell\n"
        )
    for check in report.failed:
        sys.stderr.write(
            f"{check.metric}: {check.section}, {check.name} is {check.value:.3g}, asked is {check.low:g} to {check.high:g}\n"
        )
    return 1 if report.failed else 0
