"""Find plugins, refuse clashes, hold the broken ones, and load what an identifier names.

pluggy's own entry-point loader drops the second of two equal names without a word and lets one failing import end
the program; so entry points are read here, and each plugin is registered with pluggy under guard.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import inspect
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

import pluggy

from mousebench import hookspecs
from mousebench.errors import (
    ContractViolation,
    MousebenchError,
    PluginBroken,
    PluginConflict,
    UnknownIdentifier,
    UsageError,
    did_you_mean,
)
from mousebench.isolation.policy import Reference, trusted_here
from mousebench.specs import (
    ANY_NAME,
    Spec,
    check_identifier,
    file_name,
    is_identifier,
    split_variant,
    unregistered,
)
from mousebench.specs import (
    KINDS as KINDS,
)

GROUP = "mousebench"
OURS = "mousebench"  # the distribution whose plugins run in this process; those of others run in one of their own
LOCAL = "local"
_LONG = 60


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
                raise _conflict(f"{kind[:-1]} {name!r} is provided", [entry.plugin for entry in found])
            if found and found[0].plugin.name in self.contested:
                plugin = found[0].plugin.name
                raise _conflict(f"plugin name {plugin!r} is claimed", self.contested[plugin])
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


def _conflict(what: str, plugins: Sequence[Plugin]) -> PluginConflict:
    return PluginConflict(f"{what} by {' and by '.join(map(str, plugins))}", "uninstall one, or leave out its --plugin")


def discover(
    files: Iterable[str | Path] = (),
    installed: Iterable[EntryPoint] | None = None,
    *,
    trust: bool | None = None,
) -> Catalogue:
    """Collect what every plugin declares; those of others are imported in processes of their own.

    Parameters
    ----------
    files : iterable of path
        Plugin files that are not installed (``--plugin``).
    installed : iterable of EntryPoint, optional
        The entry points of the group; found in the environment when not given.
    trust : bool, optional
        Whether plugins of others run in this process; what ``--trust-plugins`` says when not given.

    Raises
    ------
    UsageError
        If a file does not exist. A plugin that fails is no error here: it is listed as broken.
    """
    catalogue = Catalogue(trust=trusted_here() if trust is None else trust)
    manager = _manager()
    found: list[tuple[Plugin, EntryPoint | None]] = list(
        _installed(entry_points(group=GROUP) if installed is None else installed)
    )
    found += [(_local_plugin(Path(file)), None) for file in files]
    claims: dict[str, list[Plugin]] = defaultdict(list)
    others = []
    for plugin, entry_point in found:
        claims[plugin.name].append(plugin)
        if catalogue.trust or plugin.distribution == OURS:
            _register(catalogue, manager, plugin, entry_point)
        else:
            others.append(plugin)
    _register_others(catalogue, others)
    catalogue.contested = {name: plugins for name, plugins in claims.items() if len(plugins) > 1}
    for name, plugins in catalogue.contested.items():
        cause = _conflict(f"plugin name {name!r} is claimed", plugins).message
        catalogue.broken += [Broken(name, plugin.distribution, cause) for plugin in plugins]
    for kind, identifier, plugins in catalogue.clashes():
        cause = _conflict(f"{kind[:-1]} {identifier!r} is provided", plugins).message
        catalogue.broken += [Broken(plugin.name, plugin.distribution, cause) for plugin in plugins]
    return catalogue


def discover_one(plugin: Plugin, point: EntryPoint | None) -> Catalogue:
    """Import one plugin in this process and return what it declares."""
    catalogue = Catalogue(trust=True)
    _register(catalogue, _manager(), plugin, point)
    return catalogue


def _manager() -> pluggy.PluginManager:
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(hookspecs)
    return manager


def _register_others(catalogue: Catalogue, plugins: Sequence[Plugin]) -> None:
    """Let plugins of others declare in processes of their own, and add what these say."""
    if not plugins:
        return
    from mousebench.isolation.remote import declare  # it takes a moment, and mostly there are none

    declared = declare([reference(plugin) for plugin in plugins])
    for plugin, said in zip(plugins, declared, strict=True):
        if said.cause:
            catalogue.broken.append(Broken(plugin.name, plugin.distribution, said.cause))
        known = replace(plugin, isolated=True, source=said.source)
        for kind, spec in said.specs:
            catalogue.add(kind, spec, known)


def reference(plugin: Plugin, function: str | None = None) -> Reference:
    """Return how another process finds a plugin again."""
    return Reference(plugin.name, plugin.distribution, plugin.version, plugin.module, plugin.file, function)


def _installed(points: Iterable[EntryPoint]) -> Iterator[tuple[Plugin, EntryPoint | None]]:
    """Yield plugins by name; metadata that is there twice (egg-info beside dist-info) counts once."""
    unique = {(point.name, point.value, _distribution(point)[0]): point for point in points}
    for (name, value, distribution), point in sorted(unique.items()):
        yield Plugin(name, distribution, _distribution(point)[1], value), point


def _distribution(point: EntryPoint) -> tuple[str, str]:
    return (point.dist.name, point.dist.version) if point.dist else ("unknown distribution", "unknown")


def _local_plugin(file: Path) -> Plugin:
    if not file.is_file():
        raise UsageError(f"plugin file {str(file)!r} does not exist")
    path = file.resolve()
    return Plugin(file.stem, LOCAL, "local", _module_name(path), str(path))


def _module_name(path: Path) -> str:
    # two files of the same name in different folders are different modules
    return f"mousebench_local_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}_{path.stem}"


def import_file(path: Path) -> ModuleType:
    """Import a Python file under a name of its own, and leave it in ``sys.modules``."""
    path = path.resolve()
    name = _module_name(path)
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{str(path)!r} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        with contextlib.redirect_stdout(sys.stderr):
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _register(catalogue: Catalogue, manager: pluggy.PluginManager, plugin: Plugin, point: EntryPoint | None) -> None:
    """Import one plugin and call its hooks; whatever fails makes it broken and touches no other."""
    registered = None
    try:
        with contextlib.redirect_stdout(sys.stderr):
            registered = point.load() if point else import_file(Path(plugin.file or ""))
            manager.register(registered, name=f"{plugin.name} [{plugin}]")
            manager.check_pending()
            for kind, spec in _declared(manager, registered):
                catalogue.add(kind, spec, plugin)
    except (Exception, SystemExit) as error:
        catalogue.broken.append(Broken(plugin.name, plugin.distribution, cause_of(error)))
        if registered is not None and manager.is_registered(registered):
            manager.unregister(registered)


def _declared(manager: pluggy.PluginManager, registered: Any) -> list[tuple[str, Spec]]:
    declared: list[tuple[str, Spec]] = []
    for kind in KINDS:
        hook = getattr(manager.hook, f"mousebench_{kind}")
        for implementation in hook.get_hookimpls():
            if implementation.plugin is registered:
                declared += [(kind, _checked(spec, kind)) for spec in implementation.function() or ()]
    names = [(kind, spec.listed) for kind, spec in declared]
    for name in names:
        if names.count(name) > 1:
            raise ContractViolation(f"{name[0][:-1]} {name[1]!r} is declared twice by one plugin")
    return declared


def _checked(spec: object, kind: str) -> Spec:
    if not isinstance(spec, Spec):
        raise ContractViolation(f"mousebench_{kind} gave {spec!r}; Spec objects are expected")
    return spec


def split_local_model(name: str) -> tuple[Path, str] | None:
    """Return the file and the function of ``path/to/file.py:function``, None for any other name."""
    path, colon, function = name.rpartition(":")
    return (Path(path), function) if colon and path.endswith(".py") else None


def local_model(path: Path, function: str, *, trust: bool | None = None) -> Entry:
    """Return the entry for a model that nobody registered: a function in a file.

    Without ``trust`` (as ``discover``) the file is imported in a process of its own, when the model is loaded.

    Raises
    ------
    UsageError
        If the file or the function is not there.
    PluginBroken
        If the file cannot be imported.
    """
    plugin, name = _local_plugin(path), f"{path.stem}:{function}"
    if not (trusted_here() if trust is None else trust):
        from mousebench.isolation.remote import load_function

        load = partial(load_function, reference(plugin, function))
        return Entry("models", unregistered(name, load, f"{function} of {path.name}"), replace(plugin, isolated=True))
    try:
        module = import_file(path)
    except (Exception, SystemExit) as error:
        raise PluginBroken(f"{str(path)!r} cannot be imported: {cause_of(error)}", "--debug shows where") from error
    build = getattr(module, function, None)
    if not callable(build):
        names = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
        raise UsageError(f"{str(path)!r} has no function {function!r}{did_you_mean(function, names)}")
    return Entry("models", unregistered(name, build, f"{function} of {path.name}"), plugin)


def changed_name(identifier: str, weights: Path | None, layers: Sequence[str] | None) -> str:
    """Return what a model is called with other weights or layers: ``NAME+FILE_STEM``, ``NAME[PATTERN,...]``, or both."""
    if weights is not None:
        identifier += "+" + re.sub(r"[^A-Za-z0-9._-]+", "_", weights.stem)
    if layers is not None:
        text = ",".join(layers)
        if len(text) > _LONG:  # it becomes part of a file's name
            text = f"{text[:_LONG]}...{hashlib.sha256(text.encode()).hexdigest()[:8]}"
        identifier += f"[{text}]"
    return identifier


def result_name(identifier: str) -> str:
    """Return the file name, without ending, of the results of a model; ``local-...`` for those that nobody registered."""
    if is_identifier(identifier):
        return file_name(identifier)
    name, bracket, layers = identifier.partition("[")
    name, plus, weights = name.partition("+")
    stem, colon, function = name.partition(":")
    if not (bracket or plus or colon):
        check_identifier(identifier)
    parts = ["local", stem, function, weights, *(("layers", layers.removesuffix("]")) if bracket else ())]
    return "-".join(file_name(part) for part in parts if part)
