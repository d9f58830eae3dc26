"""``mousebench new``: a plugin that scores as it is written, in the repository, as one file, or as a package.

What a person may have changed by hand (pyproject.toml, registry.yaml) gets lines inserted and keeps all else; the new
text is parsed, and must say what the old one said and the new entry, or nothing is written.
"""

from __future__ import annotations

import importlib.util
import keyword
import re
import string
import sys
import textwrap
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mousebench.catalogue import Catalogue
from mousebench.consistency import DISTRIBUTION, PACKAGE, checkout
from mousebench.errors import StoreError, UsageError
from mousebench.plugins import GROUP
from mousebench.registry import Registry
from mousebench.specs import KINDS, is_identifier

_TEMPLATES = Path(__file__).with_name("templates")
_DISTRIBUTION = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")
_POINTS = f"[project.entry-points.{GROUP}]"


@dataclass(frozen=True)
class Plan:
    """What is to be written, all of it computed beforehand.

    Attributes
    ----------
    created : mapping of path to text
        Files that must not be there.
    edited : mapping of path to text
        Files that get a new text.
    next_steps : list of str
        Commands, and what a person has to do.
    """

    created: Mapping[Path, str]
    edited: Mapping[Path, str]
    next_steps: list[str]


def check_name(name: str, found: Catalogue, registry: Registry) -> str:
    """Return the module name of a new plugin, or raise UsageError if its name cannot be used."""
    module = name.replace("-", "_")
    if not is_identifier(name) or not module.isidentifier():
        raise UsageError(
            f"{name!r} cannot name a plugin",
            "lower-case letters and digits, joined by single '-' or '_', a letter first",
        )
    if keyword.iskeyword(module) or keyword.issoftkeyword(module):
        raise UsageError(f"{name!r} is a word of Python, so no module can be called that", f"such as {name}-net")
    plugins = {entry.plugin.name for kind in KINDS for some in found.entries[kind].values() for entry in some}
    plugins |= {broken.plugin for broken in found.broken}
    for kind in KINDS:
        if name in found.entries[kind]:
            raise UsageError(f"{name!r} is taken: an installed {kind[:-1]} is called that", f"mousebench show {name}")
        if any(name in reviewed.of(kind) for reviewed in registry.plugins.values()):
            raise UsageError(
                f"{name!r} is taken: registry.yaml lists a {kind[:-1]} of that name", "choose another name"
            )
    if name in plugins or name in registry.plugins:
        raise UsageError(f"{name!r} is taken: a plugin is called that", "choose another name")
    return module


def plan_in_repository(kind: str, name: str, module: str, folder: Path) -> Plan:
    """Return the plan of a plugin in the checkout that a folder lies in.

    Raises
    ------
    UsageError
        If it lies in none, a file is there already, or pyproject.toml or registry.yaml cannot be added to.
    """
    root = checkout(folder)
    if root is None:
        raise UsageError(
            "this folder is not in a checkout of mousebench",
            f"mousebench new {kind} {name} --file, or --package DISTRIBUTION, makes a plugin anywhere",
        )
    package = f"{PACKAGE}.{kind}s"
    created = {
        root / "plugins" / f"{kind}s" / f"{module}.py": _filled("declare", kind, name, work=f"{package}._{module}"),
        root / "plugins" / f"{kind}s" / f"_{module}.py": _filled("work", kind, name),
        root / "tests" / f"test_{module}.py": _test(kind, name, module),
    }
    pyproject, registry = root / "pyproject.toml", root / "registry.yaml"
    edited = {
        pyproject: with_entry_point(_read(pyproject), name, f"{package}.{module}"),
        registry: with_draft(_read(registry), kind, name, f"{module}_citation"),
    }
    _refuse_existing(created)
    steps = [
        f"{sys.executable} -m pip install -e . --no-deps   # entry points are read when a package is installed",
        f"mousebench check {name}",
        _score(kind, name),
        f"{sys.executable} -m pytest tests/test_{module}.py",
        f"then your own {kind}: plugins/{kind}s/_{module}.py; its citation: registry.yaml, {module}_citation",
    ]
    return Plan(created, edited, steps)


def plan_file(kind: str, name: str, module: str, folder: Path) -> Plan:
    """Return the plan of a plugin in one file, with its test beside it."""
    _refuse_shadowing(module, folder)
    path, test = folder / f"{module}.py", folder / f"test_{module}.py"
    created = {path: _one_file(kind, name), test: _test(kind, name, module, file=path.name)}
    _refuse_existing(created)
    steps = [
        f"mousebench --plugin {path.name} check {name}",
        _score(kind, name, plugin=path.name),
        f"pytest {test.name}",
    ]
    return Plan(created, {}, steps)


def plan_package(kind: str, name: str, module: str, folder: Path, distribution: str) -> Plan:
    """Return the plan of a package of its own, in a new folder named after the distribution."""
    if not _DISTRIBUTION.fullmatch(distribution):
        raise UsageError(
            f"{distribution!r} cannot name a distribution", "letters and digits, joined by '-', '_' or '.'"
        )
    package = re.sub(r"[-_.]+", "_", distribution).lower()
    if not package.isidentifier() or keyword.iskeyword(package) or package in (DISTRIBUTION, PACKAGE):
        raise UsageError(
            f"{distribution!r} cannot name a distribution: its package would be {package!r}", "another name"
        )
    top = folder / distribution
    if top.exists():
        raise UsageError(f"{distribution!r} is there already", "nothing is overwritten; choose another name")
    _refuse_shadowing(package, folder)
    words = {"distribution": distribution, "package": package, "score": _score(kind, name)}
    created = {
        top / "pyproject.toml": _filled("pyproject", kind, name, shared=True, **words),
        top / "README.md": _filled("readme", kind, name, shared=True, **words),
        top / "src" / package / "__init__.py": _filled("declare", kind, name, work=f"{package}._{module}"),
        top / "src" / package / f"_{module}.py": _filled("work", kind, name),
        top / "tests" / f"test_{module}.py": _test(kind, name, module),
    }
    steps = [f"cd {distribution}", "pip install -e .", f"mousebench check {name}", _score(kind, name), "pytest"]
    return Plan(created, {}, steps)


def carry_out(plan: Plan) -> None:
    """Write everything; a file that cannot be written takes back those that were.

    Raises
    ------
    StoreError
    """
    from mousebench.assemblies import replacing

    before = {path: _read(path) for path in plan.edited}
    done: list[Path] = []
    try:
        for path, text in {**plan.created, **plan.edited}.items():
            with replacing(path) as temporary:
                temporary.write_text(text, encoding="utf-8", newline="")
            done.append(path)
    except StoreError:
        for path in done:
            if path in before:
                path.write_text(before[path], encoding="utf-8", newline="")
            else:
                path.unlink()
        raise


# texts ----------------------------------------------------------------------------------------------------------------


def _filled(template: str, kind: str, name: str, *, shared: bool = False, **words: str) -> str:
    file = f"{template}.tmpl" if shared else f"{template}_{kind}.tmpl"
    text = string.Template((_TEMPLATES / file).read_text(encoding="utf-8"))
    title = "".join(part.capitalize() for part in re.split(r"[._-]", name))
    return text.substitute({"kind": kind, "name": name, "cls": title, **words})


def _one_file(kind: str, name: str) -> str:
    """Return both files as one: what does the work goes into ``load``, where heavy imports belong."""
    declaration = _filled("declare", kind, name, work="_")
    body = _filled("work", kind, name).partition("\n\n")[2]  # without its docstring
    inside = re.sub(r"\n{3,}", "\n\n", textwrap.indent(body.strip(), "    "))
    return re.sub(r"    from _ import \w+\n", lambda _: f"{inside}\n", declaration)


def _test(kind: str, name: str, module: str, file: str | None = None) -> str:
    imports = "" if file is None else "from pathlib import Path\n\n"
    arguments = f'"{name}"' if file is None else f'"{name}", plugin=Path(__file__).with_name("{file}")'
    return _filled("test", kind, name, shared=True, module=module, imports=imports, arguments=arguments)


def _score(kind: str, name: str, plugin: str = "") -> str:
    others = {"model": "pixels", "benchmark": "sim-ns", "metric": ""} | {kind: name}
    metric = f" --metric {others['metric']}" if others["metric"] else ""
    start = f"mousebench --plugin {plugin}" if plugin else "mousebench"
    return f"{start} score --model {others['model']} --benchmark {others['benchmark']}{metric}"


def with_entry_point(text: str, name: str, module: str) -> str:
    """Return pyproject.toml with one more entry point, in its alphabetical place among those of its kind.

    Raises
    ------
    UsageError
        If the file is not as expected, or would say anything else differently.
    """
    lines = text.splitlines(keepends=True)
    new = f'{name} = "{module}"'
    refused = UsageError("pyproject.toml has another form than expected", f"add by hand, below {_POINTS}: {new}")
    start = next((number for number, line in enumerate(lines) if line.startswith(_POINTS)), None)
    if start is None:
        raise refused
    kind = module.rpartition(".")[0]
    place = start + 1
    for number, line in enumerate(lines[start + 1 :], start + 1):
        if line.startswith("["):
            break
        key, equals, value = line.partition("=")
        other = value.strip().split('"')[1].rpartition(".")[0] if value.count('"') >= 2 else ""
        if equals and (other, key.strip().strip('"')) < (kind, name) and other.startswith(PACKAGE):
            place = number + 1
    changed = _inserted(lines, place, [new])
    expected = tomllib.loads(text)
    expected["project"]["entry-points"][GROUP][name] = module
    if not _says(tomllib.loads, changed, expected):
        raise refused
    return changed


def with_draft(text: str, kind: str, name: str, citation: str) -> str:
    """Return registry.yaml with one more plugin, a draft, and the place for its citation.

    Raises
    ------
    UsageError
        If the file is not as expected, or would say anything else differently.
    """
    quoted = name if yaml.safe_load(name) == name else f'"{name}"'
    entry = [
        f"  {quoted}:",
        f"    distribution: {DISTRIBUTION}",
        "    status: draft # a reviewer makes it accepted",
        "    version: 1",
        f"    {kind}s: {{{quoted}: {citation}}}",
    ]
    words = "Names (year). Title. Where it appeared."
    refused = UsageError("registry.yaml has another form than expected", "add by hand:\n" + "\n".join(entry))
    try:
        expected = yaml.safe_load(text)
        expected["plugins"][name] = {
            **{"distribution": DISTRIBUTION, "status": "draft", "version": 1},
            f"{kind}s": {name: citation},
        }
        expected["citations"][citation] = words
        changed = _in_mapping(text, "plugins", name, entry)
        changed = _in_mapping(changed, "citations", citation, [f'  {citation}: "{words}" # to be filled in'])
    except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise refused from error
    if not _says(yaml.safe_load, changed, expected):
        raise refused
    return changed


def _in_mapping(text: str, section: str, key: str, entry: list[str]) -> str:
    """Insert an entry into a top-level mapping of registry.yaml: before the first key that is greater, else at its end."""
    lines = text.splitlines(keepends=True)
    start = next((number for number, line in enumerate(lines) if line.rstrip() == f"{section}:"), None)
    if start is None:
        raise ValueError(f"no line {section}:")
    end = next(
        (n for n in range(start + 1, len(lines)) if re.match(r"\S", lines[n]) and lines[n][0] != "#"), len(lines)
    )
    while not lines[end - 1].strip():
        end -= 1
    keys = [
        (n, lines[n].strip().partition(":")[0].strip("\"'"))
        for n in range(start + 1, end)
        if re.match(r"  [^\s#]", lines[n])
    ]
    place = next((n for n, other in keys if other > key), end)
    return _inserted(lines, place, entry)


def _inserted(lines: list[str], place: int, new: list[str]) -> str:
    ending = "\r\n" if lines and lines[0].endswith("\r\n") else "\n"
    before = lines[:place]
    if before and not before[-1].endswith("\n"):
        before[-1] += ending
    return "".join([*before, *(line + ending for line in new), *lines[place:]])


def _says(parse: Any, text: str, expected: Any) -> bool:
    try:
        return bool(parse(text) == expected)
    except (tomllib.TOMLDecodeError, yaml.YAMLError):
        return False


def _read(path: Path) -> str:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(f"{path.name} cannot be read: {error}") from error


def _refuse_existing(paths: Mapping[Path, str]) -> None:
    for path in paths:
        if path.exists() or path.is_symlink():
            raise UsageError(f"{path.name} is there already", "nothing is overwritten; choose another name")


def _refuse_shadowing(module: str, folder: Path) -> None:
    """Refuse a module that would be imported in place of one that is installed."""
    spec = None if (folder / f"{module}.py").exists() else importlib.util.find_spec(module)
    if module in sys.stdlib_module_names or spec is not None:
        raise UsageError(f"a module called {module!r} is installed, which a new one would hide", "choose another name")
