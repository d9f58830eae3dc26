"""``mousebench show``."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING, Any

from mousebench.commands.options import discovered
from mousebench.errors import MissingData, MissingDependency, UnknownIdentifier, did_you_mean

if TYPE_CHECKING:
    from mousebench.catalogue import Entry
    from mousebench.registry import Registry

TEXT = "show what is known of one model, benchmark or metric"
EXAMPLE = "mousebench show sim-ns"


def add(parser: argparse.ArgumentParser) -> None:
    """Give the command its options."""
    parser.add_argument("identifier", metavar="ID")


def run(options: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    from mousebench.registry import read_registry
    from mousebench.specs import KINDS

    os.environ["MOUSEBENCH_OFFLINE"] = "1"  # a question is no reason to download weights
    found, registry = discovered(options), read_registry()
    identifier = options.identifier
    kinds = [kind for kind in KINDS if found.has(kind, identifier)]
    if not kinds:
        known = [name for kind in KINDS for name in found.identifiers(kind)]
        guess = did_you_mean(identifier, known, 3)
        raise UnknownIdentifier(f"nothing is called {identifier!r}{guess}", "'mousebench list' shows everything")
    for kind in kinds:
        entry = found.find(kind, identifier)
        facts = [] if identifier == entry.spec.listed and entry.spec.family else _loaded_facts(entry, identifier)
        for name, value in [*_about(entry, identifier, registry), *facts]:
            print(f"{name:<14} {value}")
    return 0


def _about(entry: Entry, identifier: str, registry: Registry) -> list[tuple[str, str]]:
    plugin = entry.plugin
    key = registry.citation(entry)
    return [
        (entry.kind[:-1], identifier),
        ("description", entry.spec.description),
        ("plugin", f"{plugin.name}, from {plugin.distribution} {plugin.version}"),
        ("status", registry.status(plugin.name, plugin.distribution)),
        *((name.replace("_", " "), _plain(value)) for name, value in entry.spec.metadata.items()),
        *([("citation", f"{key}: {registry.citations.get(key, '')}")] if key else []),
    ]


def _plain(value: str | float) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def _loaded_facts(entry: Entry, identifier: str) -> list[tuple[str, str]]:
    """Return what only the loaded thing knows; what cannot be loaded says why, in place of the facts."""
    try:
        thing = entry.load(identifier)
        if entry.kind == "benchmarks":
            rows = [
                ("version", str(thing.version)),
                ("sites", ", ".join(thing.sites)),
                ("metrics", ", ".join(thing.metrics)),
            ]
            return [*rows, *_data_state(thing)]
        if entry.kind == "metrics":
            definition = getattr(thing, "definition", {})
            rows = [("version", str(thing.version)), ("accepts", ", ".join(sorted(thing.accepts)))]
            return [*rows, *((name.replace("_", " "), str(value)) for name, value in definition.items())]
        layers = list(thing.layers)
        shown = ", ".join([*layers[:6], "..."] if len(layers) > 6 else layers)
        rows = [("layers by name", f"{len(layers)}: {shown}")]
        if hasattr(thing, "module") and "parameters" not in entry.spec.metadata:
            rows.append(("parameters", _plain(sum(parameter.numel() for parameter in thing.module.parameters()))))
        return [*rows, *((name, value) for name, value in thing.fingerprint.items())]
    except (MissingData, MissingDependency) as error:
        return [("missing", error.message), ("hint", error.hint)]


def _data_state(benchmark: Any) -> list[tuple[str, str]]:
    simulated = "simulated, " if getattr(benchmark, "simulated", False) else ""
    try:
        size = benchmark.stimuli().sizes
    except MissingData as error:
        return [("data", error.message), ("hint", error.hint)]
    return [("data", f"{simulated}{size['stimulus']} stimuli of {size['x']} x {size['y']} pixels")]
