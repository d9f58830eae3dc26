"""Read registry.yaml, the reviewed catalogue, and compare it with what was discovered."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from mousebench.catalogue import LOCAL, Catalogue, Entry, Plugin
from mousebench.errors import ContractViolation, did_you_mean
from mousebench.specs import ANY_NAME, KINDS, split_variant

STATUSES = ("draft", "accepted", "deprecated")
SCHEMA = 1
REGISTRY = "MOUSEBENCH_REGISTRY"  # the environment variable
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # in C it takes a tenth of the time; not everywhere built


@dataclass(frozen=True)
class Reviewed:
    """What the registry says of one plugin."""

    name: str
    distribution: str
    status: str
    version: int
    models: Mapping[str, str] = field(default_factory=dict)
    benchmarks: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, str] = field(default_factory=dict)

    def of(self, kind: str) -> Mapping[str, str]:
        """Return identifier -> citation key of one kind."""
        return {"models": self.models, "benchmarks": self.benchmarks, "metrics": self.metrics}[kind]

    def citation(self, kind: str, identifier: str) -> str | None:
        """Return the citation key of an identifier, None if it is not reviewed.

        ``NAME-random`` goes with ``NAME``, ``NAME@VARIANT`` too, and ``family/NAME`` with its family.
        """
        reviewed = self.of(kind)
        base = split_variant(identifier)[0]
        family, slash, _ = base.partition("/")
        names = [identifier, base, base.removesuffix("-random"), *([f"{family}/{ANY_NAME}"] if slash else [])]
        return next((reviewed[name] for name in names if name in reviewed), None)


@dataclass(frozen=True)
class Matrix:
    """One benchmark of the leaderboard: the metrics, sites, models and controls that fill it; ``except`` leaves some out."""

    benchmark: str
    metrics: tuple[str, ...]
    sites: tuple[str, ...] | str
    models: tuple[str, ...] | str
    controls: tuple[str, ...] = ()
    leave_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class Registry:
    """The whole of registry.yaml."""

    plugins: Mapping[str, Reviewed]
    citations: Mapping[str, str]
    leaderboard: tuple[Matrix, ...]

    def status(self, plugin: str, distribution: str) -> str:
        """Return draft, accepted or deprecated; "local" or "unreviewed" where the registry has no say."""
        if distribution == LOCAL:
            return LOCAL
        reviewed = self.plugins.get(plugin)
        return reviewed.status if reviewed and reviewed.distribution == distribution else "unreviewed"

    def provider(self, kind: str, identifier: str) -> Reviewed | None:
        """Return the plugin that provides an identifier as the registry has it, None if none does."""
        return next((plugin for plugin in self.plugins.values() if plugin.citation(kind, identifier)), None)

    def citation(self, entry: Entry) -> str:
        """Return the citation key of what a plugin provides, "" where the registry has none."""
        reviewed = self.plugins.get(entry.plugin.name)
        ours = reviewed is not None and reviewed.distribution == entry.plugin.distribution
        return (ours and reviewed is not None and reviewed.citation(entry.kind, entry.spec.listed)) or ""


@dataclass(frozen=True)
class Problem:
    """One disagreement between the registry and what is installed, and its remedy."""

    what: str
    remedy: str


def registry_path() -> Path:
    """Return the registry that MOUSEBENCH_REGISTRY names, else that of the checkout or the copy in the package."""
    if os.environ.get(REGISTRY):
        return Path(os.environ[REGISTRY])
    here = Path(__file__).parent
    packaged = here / "registry.yaml"
    return packaged if packaged.is_file() else here.parent / "registry.yaml"


def read_registry(path: Path | None = None) -> Registry:
    """Read and check the form of registry.yaml.

    Raises
    ------
    ContractViolation
        If it cannot be read, or has an unknown key, a wrong type or a wrong value.
    """
    path = registry_path() if path is None else path
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _LOADER)
    except (OSError, yaml.YAMLError) as error:
        raise ContractViolation(f"{path.name} cannot be read: {' '.join(str(error).split())}") from error
    top = _mapping(content, path.name, ("schema", "plugins", "citations", "leaderboard"))
    if top.get("schema") != SCHEMA:
        raise ContractViolation(f"{path.name}: schema is {top.get('schema')!r}; {SCHEMA} is expected")
    plugins = {name: _reviewed(name, entry) for name, entry in _plain(top.get("plugins"), "plugins").items()}
    citations = {key: str(text) for key, text in _plain(top.get("citations"), "citations").items()}
    rows = top.get("leaderboard") or []
    if not isinstance(rows, list):
        raise ContractViolation(f"{path.name}: leaderboard is not a list")
    return Registry(plugins, citations, tuple(_matrix(number, row) for number, row in enumerate(rows, 1)))


@lru_cache
def _read_once(path: Path) -> Registry:
    return read_registry(path)


def reviewed_version(plugin: Plugin | None) -> int | None:
    """Return the version of a plugin in the registry, None where it is not reviewed or the registry cannot be read."""
    try:
        reviewed = _read_once(registry_path()).plugins.get(plugin.name) if plugin else None
    except ContractViolation:
        return None  # not what whoever scores a model asked for; ``leaderboard`` and ``check`` say it
    return reviewed.version if plugin and reviewed and reviewed.distribution == plugin.distribution else None


def _plain(value: Any, where: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise ContractViolation(f"registry.yaml: {where} is not a mapping of names")
    return value


def _mapping(value: Any, where: str, keys: Iterable[str], required: Iterable[str] = ()) -> dict[str, Any]:
    """Return a mapping whose keys are all known; an unknown one is an error that names the closest known key."""
    known = list(keys)
    content = _plain(value, where)
    for key in content:
        if key not in known:
            guess = did_you_mean(key, known)
            raise ContractViolation(
                f"registry.yaml: {where} has the unknown key {key!r}{guess}", f"known keys: {', '.join(known)}"
            )
    for key in required:
        if key not in content:
            raise ContractViolation(f"registry.yaml: {where} lacks the key {key!r}")
    return content


def _reviewed(name: str, value: Any) -> Reviewed:
    where = f"plugin {name!r}"
    entry = _mapping(value, where, ("distribution", "status", "version", *KINDS), ("distribution", "status", "version"))
    if entry["status"] not in STATUSES:
        raise ContractViolation(
            f"registry.yaml: {where} has status {entry['status']!r}", f"one of {', '.join(STATUSES)}"
        )
    if type(entry["version"]) is not int:  # true is an int too
        raise ContractViolation(f"registry.yaml: {where} has version {entry['version']!r}; a whole number is expected")
    lists = {kind: _cited(entry.get(kind), f"{where}, {kind}") for kind in KINDS}
    return Reviewed(name, str(entry["distribution"]), entry["status"], entry["version"], **lists)


def _cited(value: Any, where: str) -> dict[str, str]:
    """Return identifier -> citation key, from ``identifier: key`` and from ``key: [identifier, ...]``."""
    cited: dict[str, str] = {}
    for name, content in _plain(value, where).items():
        key = name if isinstance(content, list) else str(content)
        for identifier in _names(content, f"{where}, {name}") if isinstance(content, list) else [name]:
            if identifier in cited:
                raise ContractViolation(f"registry.yaml: {where} lists {identifier!r} twice")
            cited[identifier] = key
    return cited


def _matrix(number: int, value: Any) -> Matrix:
    where = f"leaderboard row {number}"
    row = _mapping(
        value, where, ("benchmark", "metrics", "sites", "models", "controls", "except"), ("benchmark", "metrics")
    )
    return Matrix(
        str(row["benchmark"]),
        tuple(_names(row["metrics"], f"{where}, metrics")),
        _all_or_names(row.get("sites", "all"), "all", f"{where}, sites"),
        _all_or_names(row.get("models", "all-accepted"), "all-accepted", f"{where}, models"),
        tuple(_names(row.get("controls", []), f"{where}, controls")),
        tuple(_names(row.get("except", []), f"{where}, except")),
    )


def _names(value: Any, where: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ContractViolation(f"registry.yaml: {where} is {value!r}; a list of names is expected")
    return value


def _all_or_names(value: Any, everything: str, where: str) -> tuple[str, ...] | str:
    return everything if value == everything else tuple(_names(value, where))


def problems(registry: Registry, catalogue: Catalogue) -> list[Problem]:
    """Return every disagreement between the registry and what was discovered, all at once."""
    return [
        *_not_installed(registry, catalogue),
        *_not_reviewed(registry, catalogue),
        *_ownership(registry, catalogue),
        *_citations(registry),
        *_leaderboard(registry, catalogue),
        *(
            Problem(
                f"plugin {broken.plugin!r} of {broken.distribution} is broken: {broken.cause}", "mend or uninstall it"
            )
            for broken in catalogue.broken
        ),
    ]


def _not_installed(registry: Registry, catalogue: Catalogue) -> list[Problem]:
    found = []
    for reviewed in registry.plugins.values():
        for kind in KINDS:
            for identifier in reviewed.of(kind):
                providers = [entry.plugin.name for entry in catalogue.entries[kind].get(identifier, [])]
                if reviewed.name not in providers:
                    found.append(
                        Problem(
                            f"registry.yaml lists {kind[:-1]} {identifier!r} of plugin {reviewed.name!r}, which does not provide it",
                            "take it out of registry.yaml, or add it to the plugin and install again",
                        )
                    )
    return found


def _not_reviewed(registry: Registry, catalogue: Catalogue) -> list[Problem]:
    found = []
    for kind in KINDS:
        for identifier, entries in catalogue.entries[kind].items():
            for entry in entries:
                reviewed = registry.plugins.get(entry.plugin.name)
                ours = reviewed is not None and reviewed.distribution == entry.plugin.distribution
                if ours and reviewed is not None and reviewed.citation(kind, identifier) is None:
                    found.append(
                        Problem(
                            f"{kind[:-1]} {identifier!r} of plugin {entry.plugin.name!r} is not in registry.yaml",
                            f"add it there under plugins, {entry.plugin.name}, {kind}",
                        )
                    )
    return found


def _ownership(registry: Registry, catalogue: Catalogue) -> list[Problem]:
    plugins = {entry.plugin for kind in KINDS for entries in catalogue.entries[kind].values() for entry in entries}
    return [
        Problem(
            f"plugin {plugin.name!r} comes from {plugin.distribution}, registry.yaml gives the name to {registry.plugins[plugin.name].distribution}",
            "rename or uninstall it",
        )
        for plugin in sorted(plugins, key=str)
        if plugin.name in registry.plugins
        and plugin.distribution not in (LOCAL, registry.plugins[plugin.name].distribution)
    ]


def _citations(registry: Registry) -> list[Problem]:
    return [
        Problem(f"{identifier!r} cites {key!r}, which is not among the citations of registry.yaml", "add the citation")
        for reviewed in registry.plugins.values()
        for kind in KINDS
        for identifier, key in reviewed.of(kind).items()
        if key not in registry.citations
    ]


def _leaderboard(registry: Registry, catalogue: Catalogue) -> list[Problem]:
    found = []
    for row in registry.leaderboard:
        wanted = [("benchmarks", row.benchmark), *(("metrics", metric) for metric in row.metrics)]
        wanted += [
            ("models", model)
            for names in (row.models, row.controls, row.leave_out)
            if not isinstance(names, str)
            for model in names
        ]
        for kind, identifier in wanted:
            if not catalogue.has(kind, identifier):
                guess = did_you_mean(identifier, catalogue.identifiers(kind))
                found.append(
                    Problem(
                        f"the leaderboard names the {kind[:-1]} {identifier!r}, which is not installed{guess}",
                        "mend registry.yaml",
                    )
                )
    return found
