"""Errors that a user can act on; every other exception is a bug and keeps its traceback."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable


def did_you_mean(name: str, known: Iterable[str], n: int = 1) -> str:
    """Return "; did you mean 'x'?" with the closest known names, "" if none is close."""
    close = difflib.get_close_matches(name, list(known), n=n)
    return f"; did you mean {' or '.join(map(repr, close))}?" if close else ""


class MousebenchError(Exception):
    """Something a user can mend.

    Parameters
    ----------
    message : str
        What is wrong, and which thing it is about.
    hint : str
        What to do next, a command where there is one.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __reduce__(self) -> tuple[type[MousebenchError], tuple[str, str]]:
        return type(self), (self.message, self.hint)


class UsageError(MousebenchError):
    """The command line or a function was called with arguments that make no sense."""


class UnknownIdentifier(MousebenchError):
    """No plugin provides the model, benchmark, metric or site that was asked for."""


class PluginConflict(MousebenchError):
    """Two distributions claim one plugin name or one identifier."""


class PluginBroken(MousebenchError):
    """A plugin cannot be imported, or fails while it declares, loads or runs."""


class ContractViolation(MousebenchError):
    """A plugin or a file returned something other than the contract says."""


class NotDeterministic(ContractViolation):
    """A net gives other features when the same images pass again."""


class OutOfStep(ContractViolation):
    """Batches of a net do not run through the same layers, or an image's features depend on what else is in its batch."""


class CheckFailed(MousebenchError):
    """A plugin does not do what the contract asks of it; raised by ``mousebench check`` and its pytest twin."""


class MissingData(MousebenchError):
    """Data or weights are not on this machine; the hint says how to get them."""


class MissingDependency(MousebenchError):
    """An optional package is needed and not installed."""


class StoreError(MousebenchError):
    """A file cannot be read, verified or written."""


def print_error(error: MousebenchError) -> None:
    """Print an error and its hint on stderr."""
    sys.stderr.write(f"error: {error.message}\n")
    if error.hint:
        sys.stderr.write(f"hint: {error.hint}\n")
