"""What a report is made of, as plain data: report.json holds it, and tables, figures and page are drawn from that alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr

Cell = str | float | int | None
NONE = "\N{EN DASH}"


@dataclass(frozen=True)
class Table:
    """A table; it becomes a CSV file of its name.

    Attributes
    ----------
    name : str
    caption : str
    columns : list of str
    rows : list of list of text, number or None
    """

    name: str
    caption: str
    columns: list[str]
    rows: list[list[Cell]]


@dataclass(frozen=True)
class Figure:
    """A figure; it becomes an SVG and a PNG file of its name.

    Attributes
    ----------
    name : str
    caption : str
    kind : {"points", "scatter", "heat", "lines"}
        The function of ``figures`` that draws it.
    data : dict
        What that function takes.
    """

    name: str
    caption: str
    kind: str
    data: dict[str, Any]


@dataclass
class Section:
    """One part of the report.

    Attributes
    ----------
    name, title : str
    text : list of str
        Paragraphs.
    code : list of str
        Lines to be copied, below the text.
    tables, figures : list
    gaps : list of str
        What is missing and why; marked in the page.
    """

    name: str
    title: str
    text: list[str] = field(default_factory=list)
    code: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    gaps: list[str] = field(default_factory=list)


def plain(value: Any) -> Any:
    """Return numpy numbers, arrays and NaN as what JSON has: floats, lists and null."""
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str) or not isinstance(value, Sequence):
        return value
    return [plain(one) for one in value]


def as_list(value: object) -> object:
    """Return the values of a DataArray as a plain list, anything else as it is."""
    return plain(value.values) if isinstance(value, xr.DataArray) else value


def rows_of(columns: Iterable[Sequence[Any] | np.ndarray]) -> list[list[Cell]]:
    """Return columns as rows of plain cells."""
    return [list(row) for row in zip(*(plain(np.asarray(column)) for column in columns), strict=True)]


def number(value: float | None, digits: int = 3) -> str:
    """Return a number as a reader sees it, NONE where there is none."""
    if value is None or not math.isfinite(value):
        return NONE
    if value and abs(value) < 10**-digits:
        return f"{value:.1e}"
    return f"{value:.{digits}f}"


def p_value(value: float | None) -> str:
    """Return p as text: ``= 0.031``, ``< 0.001``."""
    if value is None or not math.isfinite(value):
        return "not available"
    return "< 0.001" if value < 0.001 else f"= {value:.3f}"


def interval(low: float | None, high: float | None) -> str:
    """Return an interval as text."""
    return f"{number(low)} to {number(high)}"
