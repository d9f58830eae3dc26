from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {"torch", "torchvision", "xarray", "numpy", "scipy", "pandas", "h5py", "netCDF4", "PIL", "requests", "rich"}
PLUGINS = Path(__file__).parents[1] / "plugins"
PACKAGES = {init.parent for init in PLUGINS.rglob("__init__.py") if "hookimpl" in init.read_text()}
MODULES = sorted(
    "mousebench_plugins." + ".".join(path.relative_to(PLUGINS).with_suffix("").parts)
    for path in (*PLUGINS.rglob("*.py"), *PACKAGES)  # of a package, only itself: its modules are imported when used
    if not path.name.startswith("_") and path.parent not in PACKAGES
)


def imported_by(code: str) -> set[str]:
    """Return the top-level packages that a piece of code imports in a fresh process."""
    report = "import sys, json; sys.stderr.write(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    done = subprocess.run([sys.executable, "-c", f"{code}\n{report}"], capture_output=True, text=True, check=True)
    return set(json.loads(done.stderr))


@pytest.mark.parametrize("arguments", [["list"], ["list", "--json"], ["list", "models"]])
def test_list_is_light(arguments: list[str]) -> None:
    packages = imported_by(f"from mousebench.cli import main\nassert main({arguments}) == 0")
    assert "mousebench_plugins" in packages
    assert not packages & HEAVY


def test_help_is_light() -> None:
    packages = imported_by("from mousebench.cli import main\ntry: main(['score', '-h'])\nexcept SystemExit: pass")
    assert not packages & HEAVY


def test_plugin_modules_are_found() -> None:
    assert "mousebench_plugins.models.pixels" in MODULES
    assert len(MODULES) > 4


def test_every_plugin_module_is_light_and_declares_light() -> None:
    # one process for all: who is to blame is found by trying them one by one
    code = f"""
import importlib, sys
for name in {MODULES}:
    module = importlib.import_module(name)
    hooks = [getattr(module, hook) for hook in vars(module) if hook.startswith("mousebench_")]
    assert hooks, name + " has no hook"
    for hook in hooks:
        assert list(hook()), name
    heavy = {HEAVY} & {{loaded.partition(".")[0] for loaded in sys.modules}}
    assert not heavy, f"{{name}} imports {{heavy}}"
"""
    assert not imported_by(code) & HEAVY


def test_the_public_names_are_there_and_come_when_they_are_used() -> None:
    code = """
import sys
import mousebench
assert not {"torch", "xarray", "numpy", "scipy"} & set(sys.modules)
assert set(mousebench.__all__) <= set(dir(mousebench))
mousebench.score
assert "torch" not in sys.modules
"""
    assert "xarray" in imported_by(code)


def test_an_unknown_public_name_is_an_attribute_error() -> None:
    import mousebench

    with pytest.raises(AttributeError, match="has no attribute 'scores'"):
        mousebench.scores  # noqa: B018


def test_every_public_name_can_be_imported() -> None:
    import mousebench

    for name in mousebench.__all__:
        assert callable(getattr(mousebench, name))
