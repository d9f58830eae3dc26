"""What the options of several commands share."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mousebench.catalogue import Catalogue
    from mousebench.runs import Done


def names(text: str) -> list[str]:
    """Return the names of a list with commas, each once."""
    found = [name.strip() for name in text.split(",")]
    if not all(found):
        raise argparse.ArgumentTypeError(f"{text!r} has an empty name in it")
    return list(dict.fromkeys(found))


def natural(text: str) -> int:
    """Return a whole number of at least 0."""
    if not text.isdecimal() or int(text) >= 2**31:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 to 2147483647")
    return int(text)


def positive(text: str) -> int:
    """Return a whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 1")
    return int(text)


def add_scoring(parser: argparse.ArgumentParser) -> None:
    """Give a command that scores models the options of how, and of where results go."""
    parser.add_argument("--site", type=names, metavar="S,...", help="only these sites")
    parser.add_argument(
        "--device", default="auto", choices=("auto", "cpu", "cuda", "mps"), help="where nets run (auto)"
    )
    parser.add_argument("--seed", type=natural, default=0, metavar="N", help="of folds, permutations and splits (0)")
    parser.add_argument("--jobs", type=positive, default=1, metavar="N", help="processes for the metrics (1)")
    parser.add_argument("--json", metavar="FILE|-", help="write JSON; - is stdout, instead of the tables")
    parser.add_argument("--results", metavar="DIR", help="where results are stored (results in the home folder)")


def stdout_kept_clean(items: Iterator[Done]) -> Iterator[Done]:
    """Yield the items; whatever plugins print while they are made goes to stderr."""
    while True:
        with contextlib.redirect_stdout(sys.stderr):
            item = next(items, None)
        if item is None:
            return
        yield item


def discovered(options: argparse.Namespace) -> Catalogue:
    """Return what is installed and what ``--plugin`` adds."""
    from mousebench.plugins import discover

    return discover(options.plugin)


def print_json(content: Any) -> None:
    """Print JSON on stdout."""
    print(json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False))


def write_json(content: Any, target: str) -> None:
    """Write JSON to a file, or to stdout for ``-``."""
    if target == "-":
        print_json(content)
        return
    from mousebench.assemblies import replacing

    with replacing(Path(target)) as temporary:
        temporary.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")
