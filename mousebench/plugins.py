"""Find plugins, refuse clashes, and hold the broken ones.

pluggy's own entry-point loader drops the second of two equal names without a word and lets one failing import end
the program; so entry points are read here, and each plugin is registered with pluggy under guard.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

import pluggy

from mousebench import hookspecs
from mousebench.catalogue import LOCAL, OURS, Broken, Catalogue, Entry, Plugin, cause_of, conflict, reference
from mousebench.errors import ContractViolation, PluginBroken, UsageError, did_you_mean
from mousebench.isolation.policy import trusted_here
from mousebench.specs import KINDS, Spec, unregistered

GROUP = "mousebench"


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
        cause = conflict(f"plugin name {name!r} is claimed", plugins).message
        catalogue.broken += [Broken(name, plugin.distribution, cause) for plugin in plugins]
    for kind, identifier, plugins in catalogue.clashes():
        cause = conflict(f"{kind[:-1]} {identifier!r} is provided", plugins).message
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


def _installed(points: Iterable[EntryPoint]) -> Iterator[tuple[Plugin, EntryPoint | None]]:
    """Yield plugins by name; metadata that is there twice (egg-info beside dist-info) counts once."""
    points = list(points)
    # each distribution's metadata, which hold its README, are parsed once
    about = {
        dist: (dist.name, dist.version) if dist else ("unknown distribution", "unknown")
        for dist in {point.dist for point in points}
    }
    unique = {(point.name, point.value, about[point.dist][0]): point for point in points}
    for (name, value, _), point in sorted(unique.items()):
        yield Plugin(name, *about[point.dist], value), point


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
