"""``mousebench list``."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from mousebench.commands.options import discovered, print_json

if TYPE_CHECKING:
    from mousebench.catalogue import Catalogue, Entry
    from mousebench.registry import Registry

TEXT = "list models, benchmarks and metrics"
EXAMPLE = "mousebench list models"


def add(parser: argparse.ArgumentParser) -> None:
    """Give the command its options."""
    parser.add_argument("kind", nargs="?", choices=("models", "benchmarks", "metrics"), help="one kind; all by default")
    parser.add_argument("--json", action="store_true", help="as JSON")


def run(options: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    from mousebench.registry import read_registry
    from mousebench.specs import KINDS

    found, registry = discovered(options), read_registry()
    kinds = (options.kind,) if options.kind else KINDS
    rows = {kind: [_row(entry, registry, found) for entry in _entries(found, kind)] for kind in kinds}
    if options.json:
        broken = [vars(item) for item in found.broken]
        print_json({**{kind: rows.get(kind, []) for kind in KINDS}, "broken": broken})
        return 0
    for kind in kinds:
        _print_listing(kind, rows[kind])
    for item in found.broken:
        print(f"broken: plugin {item.plugin!r} of {item.distribution}: {item.cause}")
    return 0


def _entries(found: Catalogue, kind: str) -> Iterator[Entry]:
    for identifier in found.identifiers(kind):
        yield from found.entries[kind][identifier]


def _row(entry: Entry, registry: Registry, found: Catalogue) -> dict[str, Any]:
    plugin = entry.plugin
    clash = len(found.entries[entry.kind][entry.spec.listed]) > 1 or plugin.name in found.contested
    key = registry.citation(entry)
    return {
        "identifier": entry.spec.listed,
        "description": entry.spec.description,
        "plugin": "local" if plugin.distribution == "local" else plugin.name,
        "distribution": plugin.distribution,
        "status": "clash" if clash else registry.status(plugin.name, plugin.distribution),
        "missing": entry.missing(),
        "metadata": {**entry.spec.metadata, **({"reference": key} if key else {})},
    }


def _print_listing(kind: str, rows: Sequence[dict[str, Any]]) -> None:
    there = sum(not row["missing"] for row in rows)
    print(f"{kind} ({len(rows)}{f', {there} of them without a download' if there < len(rows) else ''})")
    columns = [
        [row["identifier"] for row in rows],
        [row["status"] for row in rows],
        [row["plugin"] for row in rows],
        [f"needs {row['missing']}" if row["missing"] else "" for row in rows],
        [row["description"] for row in rows],
    ]
    widths = [max(map(len, column), default=0) for column in columns]
    for cells in zip(*columns, strict=True):
        padded = [cell.ljust(width) for cell, width in zip(cells, widths, strict=True) if width]
        print(f"  {'  '.join(padded)}".rstrip())
