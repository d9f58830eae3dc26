"""What `fetch` of a benchmark returns."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class FetchReport:
    """What a fetch moved and stored, or would.

    Attributes
    ----------
    benchmark : str
    folder : str
        Where the data are.
    planned_bytes : int or None
        What was still to be moved when it started; None where that cannot be known.
    moved_bytes, stored_bytes : int
    lines : tuple of str
        What a person wants to read.
    failed : tuple of str
        One line for each thing that could not be fetched; the rest was.
    """

    benchmark: str
    folder: str
    planned_bytes: int | None
    moved_bytes: int
    stored_bytes: int
    lines: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()
