"""What the options of several commands share."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mousebench.plugins import Catalogue


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


def discovered(options: argparse.Namespace) -> Catalogue:
    """Return what is installed and what ``--plugin`` adds."""
    from mousebench.plugins import discover

    return discover(options.plugin)


def print_json(content: Any) -> None:
    """Print JSON on stdout."""
    print(json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False))
