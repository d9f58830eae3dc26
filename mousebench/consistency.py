"""Compare what is written down with what is there: registry, entry points, plugin files, results."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path

from mousebench import store
from mousebench.catalogue import LOCAL, Catalogue
from mousebench.errors import MousebenchError, StoreError, did_you_mean
from mousebench.plugins import GROUP
from mousebench.registry import Problem, problems, read_registry

PACKAGE = "mousebench_plugins"  # what plugins/ is installed as
DISTRIBUTION = "mousebench"


def everything(found: Catalogue, results: Path) -> list[Problem]:
    """Return all that does not agree.

    Parameters
    ----------
    found : Catalogue
    results : Path
        Folder of results; it need not exist.
    """
    root = checkout(Path(__file__).parent)
    files = [] if root is None else list(_files(root))
    return [*problems(read_registry(), found), *files, *stale_results(found, results)]


def checkout(folder: Path) -> Path | None:
    """Return the top of the mousebench repository that a folder lies in, None if it lies in none."""
    for top in (folder, *folder.parents):
        if (top / "plugins").is_dir() and (top / "registry.yaml").is_file() and (top / "pyproject.toml").is_file():
            project = tomllib.loads((top / "pyproject.toml").read_text(encoding="utf-8")).get("project", {})
            return top if project.get("name") == DISTRIBUTION else None
    return None


def _files(root: Path) -> Iterator[Problem]:
    """Yield plugin files without entry point, entry points without file, and entry points that are not installed yet."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    written = project.get("entry-points", {}).get(GROUP, {})
    modules = {module_name(path, root): path.relative_to(root) for path in plugin_files(root)}
    for module, path in sorted(modules.items()):
        if module not in written.values():
            name = module.rpartition(".")[2].replace("_", "-")
            yield Problem(
                f"{path} is no entry point",
                f'add to pyproject.toml, [project.entry-points.{GROUP}]: {name} = "{module}"; then pip install -e .',
            )
    for name, module in written.items():
        if module.partition(".")[0] == PACKAGE and module not in modules:
            yield Problem(f"entry point {name!r} names {module}, which is no file", "take it out of pyproject.toml")
    points = [point for point in entry_points(group=GROUP) if point.dist and point.dist.name == DISTRIBUTION]
    installed = {point.name: point.value for point in points}
    for name, module in sorted(set(written.items()) ^ set(installed.items())):
        yield Problem(f"entry point {name!r} = {module!r} is not both written and installed", "pip install -e .")


def plugin_files(root: Path) -> list[Path]:
    """Return the files (or packages) in plugins/ that declare something; an underscore begins what does the work."""
    top = root / "plugins"
    packages = [init.parent for init in sorted(top.glob("*/*/__init__.py")) if "hookimpl" in init.read_text("utf-8")]
    files = [path for path in sorted(top.glob("*/*.py")) if not path.name.startswith("_")]
    return [*files, *packages]


def module_name(path: Path, root: Path) -> str:
    """Return the name under which a plugin file is imported."""
    return ".".join([PACKAGE, *path.relative_to(root / "plugins").with_suffix("").parts])


def stale_results(found: Catalogue, results: Path) -> list[Problem]:
    """Return the results that cannot be read, or would come out otherwise now; those of local plugins are nobody's."""
    return [problem for path in sorted(results.glob("*/v*/*/*.nc")) for problem in _stale(path, results, found)]


def _stale(path: Path, results: Path, found: Catalogue) -> Iterator[Problem]:
    where = path.relative_to(results)
    try:
        about = store.read(path).attrs
        provenance = json.loads(about["provenance"])
        parts = {kind: str(about[kind[:-1]]) for kind in ("models", "benchmarks", "metrics")}
        if any(provenance[kind[:-1]]["distribution"] == LOCAL for kind in parts):
            return
    except StoreError as error:
        yield Problem(error.message, error.hint)
        return
    except (KeyError, TypeError, ValueError) as error:
        yield Problem(f"{where} is no result: {type(error).__name__} {error}", "delete the file")
        return
    again = f"mousebench score --model {parts['models']} --benchmark {parts['benchmarks']} --metric {parts['metrics']}"
    for kind, identifier in parts.items():
        try:
            plugin = found.find(kind, identifier).plugin
        except MousebenchError as error:
            guess = did_you_mean(identifier, found.identifiers(kind))
            yield Problem(
                f"{where}: {error.message if not guess else f'unknown {kind[:-1]} {identifier!r}{guess}'}",
                "delete the file, or install the plugin",
            )
            return
        made_by = provenance[kind[:-1]]["distribution"]
        if made_by != plugin.distribution:
            yield Problem(
                f"{where} was made with {kind[:-1]} {identifier!r} of {made_by}; here it comes from {plugin.distribution}",
                f"delete the file, or install {made_by}",
            )
            return
    for kind in ("benchmarks", "metrics"):
        was = int(about[f"{kind[:-1]}_version"])
        try:
            now = int(found.load(kind, parts[kind]).version)
        except MousebenchError as error:
            yield Problem(f"{where}: {error.message}", error.hint)
            return
        if was != now:
            yield Problem(f"{where} was made with version {was} of {parts[kind]}; it is {now} now", again)
