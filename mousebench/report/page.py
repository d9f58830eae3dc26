"""Render a report as one HTML page that needs nothing beside it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from mousebench.report.content import NONE, number

_LONG_TABLE = 30  # longer ones are folded away


def render(content: Mapping[str, Any], svg: Mapping[str, str]) -> str:
    """Return the page.

    Parameters
    ----------
    content : mapping
        report.json.
    svg : mapping of name of a figure to its SVG
    """
    environment = Environment(
        loader=PackageLoader("mousebench", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"cell": _cell, "numeric": _numeric}
    template = environment.get_template("report.html")
    drawn = {name: Markup(_inline(name, text)) for name, text in svg.items()}
    return template.render(report=content, svg=drawn, long=_LONG_TABLE)


def _cell(value: object) -> str:
    """Return a cell of a table as text."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return NONE if value is None else str(value)
    return str(value) if isinstance(value, int) else f"{value:,.0f}" if abs(value) >= 1000 else number(value)


def _numeric(table: Mapping[str, Any]) -> list[bool]:
    """Say which columns of a table hold numbers: what is missing lies under them."""
    columns = zip(*table["rows"], strict=True) if table["rows"] else [()] * len(table["columns"])
    return [any(isinstance(cell, int | float) for cell in column) for column in columns]


def _inline(name: str, svg: str) -> str:
    """Return an SVG to put into a page: no prologue, and ids that no other figure has."""
    body = svg[svg.index("<svg") :]
    for identifier in set(re.findall(r'\bid="([^"]+)"', body)):
        pattern = rf'(?<=id="){re.escape(identifier)}(?=")|(?<=#){re.escape(identifier)}(?=["\)])'
        body = re.sub(pattern, f"{name}-{identifier}", body)
    return body
