"""What plugins provide: who declares which identifier, and how what it names is built."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mousebench.errors import MousebenchError, PluginBroken, PluginConflict, UnknownIdentifier, did_you_mean
from mousebench.isolation.policy import Reference
from mousebench.specs import ANY_NAME, KINDS, Spec, is_identifier, split_variant

OURS = "mousebench"  # the distribution whose plugins run in this process; those of others run in one of their own
LOCAL = "local"


@dataclass(frozen=True)
class Plugin:
    """One entry point, or one file given on the command line (``distribution`` is then "local").

    One that is ``isolated`` runs in a process of its own, which says what the hash of its ``source`` is.
    """

    name: str
    distribution: str
    version: str
    module: str
    file: str | None = None
    isolated: bool = field(default=False, compare=False)
    source: str = field(default="", compare=False)

    def __str__(self) -> str:
        return f"{self.distribution} ({self.file or self.module})"

    def source_hash(self) -> str | None:
        """Return the sha256 of the plugin's source file, None where it has none."""
        if self.isolated and not self.file:
            return self.source or None
        file = self.file or getattr(sys.modules.get(self.module), "__file__", None)
        return hashlib.sha256(Path(file).read_bytes()).hexdigest() if file and Path(file).is_file() else None


@dataclass(frozen=True)
class Broken:
    """A plugin, or a name, that cannot be used, and why."""

    plugin: str
    distribution: str
    cause: str


@dataclass(frozen=True)
class Entry:
    """One identifier that one plugin provides."""

    kind: str
    spec: Spec
    plugin: Plugin

    def about(self) -> dict[str, Any]:
        """Return what the plugin tells of it, for the record: description and metadata."""
        return {"description": self.spec.description, "metadata": dict(self.spec.metadata)}

    def missing(self) -> str:
        """Say what must be downloaded or installed before it can be used, "" if nothing must."""
        try:
            return str(self.spec.missing()) if self.spec.missing else ""
        except Exception as error:
            return cause_of(error)

    def load(self, identifier: str, *, untrained: bool = False, **changes: Any) -> Any:
        """Build what an identifier that this entry answers to names, or only its architecture.

        ``changes`` (``weights``, ``layers``) are for isolated models, which cannot be changed from here afterwards.

        Raises
        ------
        UnknownIdentifier
            For a variant of something that has none.
        PluginBroken
            If the plugin's own code fails.
        """
        build = (untrained and self.spec.architecture) or self.spec.load
        arguments = self._arguments(identifier, build)
        try:
            with contextlib.redirect_stdout(sys.stderr):  # stdout is for results
                return build(**arguments, **changes)
        except MousebenchError:
            raise
        except (Exception, SystemExit) as error:
            raise broken_plugin(self, "cannot be loaded", error) from error

    def _arguments(self, identifier: str, build: Callable[..., Any]) -> dict[str, str]:
        listed = self.spec.listed
        if identifier == listed:
            if self.spec.family:
                raise UnknownIdentifier(f"{listed!r} stands for a family of {self.kind}", f"put a name for {ANY_NAME}")
            return {}
        base, variant = split_variant(identifier)
        arguments = {"name": base.partition("/")[2]} if self.spec.family else {}
        if variant is None:
            return arguments
        if not takes_variant(build):
            raise UnknownIdentifier(f"{self.kind[:-1]} {listed!r} has no variants, so {identifier!r} is unknown")
        return {**arguments, "variant": variant}


@dataclass
class Catalogue:
    """All that was discovered.

    Attributes
    ----------
    entries : dict of kind to dict of identifier to list of Entry
        More than one Entry for an identifier is a clash.
    broken : list of Broken
    contested : dict of plugin name to the plugins that claim it
    trust : bool
        Whether plugins of others run in this process.
    """

    entries: dict[str, dict[str, list[Entry]]] = field(default_factory=lambda: {kind: {} for kind in KINDS})
    broken: list[Broken] = field(default_factory=list)
    contested: dict[str, list[Plugin]] = field(default_factory=dict)
    trust: bool = False

    def add(self, kind: str, spec: Spec, plugin: Plugin) -> None:
        """Add what a plugin declares."""
        self.entries[kind].setdefault(spec.listed, []).append(Entry(kind, spec, plugin))

    def identifiers(self, kind: str) -> list[str]:
        """Return the identifiers of a kind, sorted; a family is there once, as ``family/NAME``."""
        return sorted(self.entries[kind])

    def clashes(self) -> Iterator[tuple[str, str, list[Plugin]]]:
        """Yield (kind, identifier, plugins) for every identifier that more than one plugin provides."""
        for kind in KINDS:
            for identifier, entries in self.entries[kind].items():
                if len(entries) > 1:
                    yield kind, identifier, [entry.plugin for entry in entries]

    def find(self, kind: str, identifier: str) -> Entry:
        """Return the entry that answers to an identifier; ``name@variant`` falls back on ``name``, then on a family.

        Raises
        ------
        UnknownIdentifier
            If nothing does; names the closest identifiers.
        PluginConflict
            If more than one plugin does, or the plugin's own name is claimed twice.
        """
        for name in _answering(identifier):
            found = self.entries[kind].get(name, [])
            if len(found) > 1:
                raise conflict(f"{kind[:-1]} {name!r} is provided", [entry.plugin for entry in found])
            if found and found[0].plugin.name in self.contested:
                plugin = found[0].plugin.name
                raise conflict(f"plugin name {plugin!r} is claimed", self.contested[plugin])
            if found:
                return found[0]
        raise self._unknown(kind, identifier)

    def has(self, kind: str, identifier: str) -> bool:
        """Say whether anything answers to an identifier."""
        return any(name in self.entries[kind] for name in _answering(identifier))

    def _unknown(self, kind: str, identifier: str) -> UnknownIdentifier:
        known = self.identifiers(kind)
        base = split_variant(identifier)[0]
        guess = did_you_mean(identifier, known, 3) or did_you_mean(base, known, 3)
        hint = f"'mousebench list {kind}' shows all {len(known)}"
        if self.broken:
            hint += f"; {len(self.broken)} plugin(s) are broken and listed there"
        return UnknownIdentifier(f"unknown {kind[:-1]} {identifier!r}{guess}", hint)

    def load(self, kind: str, identifier: str) -> Any:
        """Build what an identifier names.

        Raises
        ------
        MousebenchError
            As ``find`` and ``Entry.load``.
        """
        return self.find(kind, identifier).load(identifier)


def _answering(identifier: str) -> Iterator[str]:
    """Yield what may be listed that answers to an identifier, the closest first."""
    yield identifier
    if is_identifier(identifier):
        base, _ = split_variant(identifier)
        yield base
        family, slash, _ = base.partition("/")
        if slash:
            yield f"{family}/{ANY_NAME}"


def takes_variant(build: Callable[..., Any]) -> bool:
    """Say whether what builds a thing can be asked for a variant of it."""
    try:
        return "variant" in inspect.signature(build).parameters
    except ValueError:  # some built-in types have no signature
        return False


def broken_plugin(entry: Entry, what: str, error: BaseException) -> PluginBroken:
    """Return the error to raise from an exception inside a plugin."""
    plugin = entry.plugin
    return PluginBroken(
        f"{entry.kind[:-1]} {entry.spec.listed!r} of {plugin} version {plugin.version} {what}: {cause_of(error)}",
        "this is the plugin's own error; --debug shows where it happened",
    )


def cause_of(error: BaseException) -> str:
    """Return an exception as one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def code_hash(plugin: Plugin | None, thing: object) -> str:
    """Return a hash of the code behind a thing: its plugin's file, and the files of its class and of those it inherits from.

    Classes of mousebench itself are left out: their version is that of the formats. So are those of other packages, such
    as torch, that are no part of the plugin.
    """
    parts = [plugin.source_hash() or ""] if plugin else []
    own = type(thing).__module__.partition(".")[0]
    modules = [one.__module__ for one in type(thing).__mro__]
    for module in dict.fromkeys(modules):
        file = getattr(sys.modules.get(module), "__file__", None)
        if file and module.partition(".")[0] == own != "mousebench":
            parts.append(hashlib.sha256(Path(file).read_bytes()).hexdigest())
    return " ".join(parts)


def reference(plugin: Plugin, function: str | None = None) -> Reference:
    """Return how another process finds a plugin again."""
    return Reference(plugin.name, plugin.distribution, plugin.version, plugin.module, plugin.file, function)


def conflict(what: str, plugins: Sequence[Plugin]) -> PluginConflict:
    """Return the error that two plugins want the same."""
    return PluginConflict(f"{what} by {' and by '.join(map(str, plugins))}", "uninstall one, or leave out its --plugin")
