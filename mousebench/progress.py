"""Show that long work goes on: a bar on a terminal, now and then a plain line elsewhere. All of it on stderr."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import rich.progress

_SECONDS_BETWEEN_LINES = 10.0


class Progress(Protocol):
    """Where long work reports how far it is."""

    def start(self, description: str, total: float | None = None, unit: str = "") -> None:
        """Begin a piece of work of ``total`` steps; ``unit`` is "bytes" for what is counted in bytes."""

    def advance(self, amount: float = 1) -> None:
        """Say that some steps are done."""

    def note(self, text: str) -> None:
        """Say something that stays to be read."""

    def finish(self) -> None:
        """End the piece of work."""


class Silent:
    """Report nothing."""

    def start(self, description: str, total: float | None = None, unit: str = "") -> None:
        """Do nothing."""

    def advance(self, amount: float = 1) -> None:
        """Do nothing."""

    def note(self, text: str) -> None:
        """Do nothing."""

    def finish(self) -> None:
        """Do nothing."""


class Lines:
    """Report in plain lines: one when a piece of work begins, and one every ten seconds while it lasts."""

    def __init__(self) -> None:
        self._what, self._unit = "", ""
        self._total: float | None = None
        self._done = 0.0
        self._last = 0.0

    def start(self, description: str, total: float | None = None, unit: str = "") -> None:
        """Say what begins."""
        self._what, self._total, self._unit, self._done = description, total, unit, 0.0
        self._last = time.monotonic()
        self.note(f"{description} ...")

    def advance(self, amount: float = 1) -> None:
        """Say how far it is, if the last line is old."""
        self._done += amount
        if time.monotonic() - self._last > _SECONDS_BETWEEN_LINES:
            self._last = time.monotonic()
            share = f" ({self._done / self._total:.0%})" if self._total else ""
            self.note(f"{self._what}: {self._amount(self._done)}{share}")

    def _amount(self, amount: float) -> str:
        return f"{amount / 1e6:.1f} MB" if self._unit == "bytes" else f"{amount:g}"

    def note(self, text: str) -> None:
        """Write a line."""
        sys.stderr.write(text + "\n")
        sys.stderr.flush()

    def finish(self) -> None:
        """Forget the piece of work."""
        self._what = ""


class Bar:
    """Report with a bar that disappears when its piece of work ends."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(stderr=True, highlight=False)
        self._bar: rich.progress.Progress | None = None

    def start(self, description: str, total: float | None = None, unit: str = "") -> None:
        """Show an empty bar."""
        from rich import progress

        self.finish()
        amount = (
            [progress.DownloadColumn(), progress.TransferSpeedColumn()]
            if unit == "bytes"
            else [progress.MofNCompleteColumn()]
        )
        self._bar = progress.Progress(
            progress.TextColumn("{task.description}", markup=False),
            progress.BarColumn(),
            *amount,
            progress.TimeElapsedColumn(),
            progress.TimeRemainingColumn(),
            console=self._console,
            transient=True,
        )
        self._bar.add_task(description, total=total)
        self._bar.start()

    def advance(self, amount: float = 1) -> None:
        """Move the bar."""
        if self._bar is not None:
            self._bar.advance(self._bar.task_ids[0], amount)

    def note(self, text: str) -> None:
        """Write a line above the bar."""
        self._console.print(text, markup=False)

    def finish(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def progress_for_stderr() -> Progress:
    """Return a bar if stderr is a terminal, plain lines if not."""
    return Bar() if sys.stderr.isatty() else Lines()
