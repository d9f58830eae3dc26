"""``mousebench doctor``."""

from __future__ import annotations

import argparse

TEXT = "show what is installed, fetched and cached"
EXAMPLE = "mousebench doctor"


def add(parser: argparse.ArgumentParser) -> None:
    """Give the command its options."""
    parser.add_argument("--remote", action="store_true", help="read one session of the Allen bucket and show its facts")


def run(options: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    from mousebench.doctor import report

    rows = report(remote=options.remote)
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:<{width}}  {value}")
    return 0
