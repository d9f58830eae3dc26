"""Print what 'mousebench check' should look at after some files changed, one identifier a line.

    git diff --name-only origin/main... | python tools/touched_plugins.py

A plugin is touched if its file or one that it imports from plugins/ changed. Its identifiers are those of registry.yaml,
or all that it declares where that lists none; of a plugin with many, the first of each kind stand for all.
"""

from __future__ import annotations

import argparse
import ast
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path

from mousebench.consistency import PACKAGE
from mousebench.plugins import GROUP, discover
from mousebench.registry import read_registry
from mousebench.specs import KINDS, is_identifier

ROOT = Path(__file__).resolve().parents[1]


def modules_of(path: Path, root: Path, seen: dict[Path, set[Path]] | None = None) -> set[Path]:
    """Return a plugin's file and all files of plugins/ that it imports, at the top or inside a function."""
    seen = {} if seen is None else seen
    if path in seen:
        return seen[path]
    seen[path] = {path}
    found = {path}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            for file in _files(name, root):
                found |= modules_of(file, root, seen)
    seen[path] = found
    return found


def _files(module: str, root: Path) -> list[Path]:
    if module.partition(".")[0] != PACKAGE:
        return []
    place = root.joinpath("plugins", *module.split(".")[1:])
    return [file for file in (place.with_suffix(".py"), place / "__init__.py") if file.is_file()]


def touched_plugins(changed: Iterable[str], root: Path) -> list[str]:
    """Return the names of the plugins that changed files belong to, in the order of pyproject.toml."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    files = {(root / name).resolve() for name in changed}
    names = []
    for name, module in project["entry-points"][GROUP].items():
        own = set[Path]().union(*(modules_of(file, root) for file in _files(module, root)))
        if own & files:
            names.append(name)
    return names


def identifiers(plugin: str, most: int) -> list[str]:
    """Return what to check of a plugin: at most so many of each kind."""
    reviewed, found = read_registry().plugins.get(plugin), discover()
    chosen = []
    for kind in KINDS:
        listed = list(reviewed.of(kind)) if reviewed else []
        declared = [name for name, some in found.entries[kind].items() if some[0].plugin.name == plugin]
        usable = [name for name in listed or declared if is_identifier(name)]  # a family stands for too many
        chosen += usable[:most]
        if len(usable) > most:
            sys.stderr.write(f"{plugin}: {most} of {len(usable)} {kind}\n")
    return chosen


def main() -> None:
    """Read names of changed files from stdin, print identifiers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--most", type=int, default=2, help="identifiers of each kind and plugin (2)")
    options = parser.parse_args()
    for plugin in touched_plugins((line.strip() for line in sys.stdin if line.strip()), ROOT):
        for name in identifiers(plugin, options.most):
            sys.stdout.write(f"{name}\n")


if __name__ == "__main__":
    main()
