"""The workflows of the public repository, and the script that says which plugins a change touches."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def test_all_three_are_there() -> None:
    assert [path.stem for path in WORKFLOWS] == ["leaderboard", "plugins", "tests"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_may_read_and_no_more(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    content = yaml.safe_load(text)
    assert content["permissions"] == {"contents": "read"}
    assert "pull_request_target" not in text
    assert "secrets" not in text.replace("holds no secrets", "")
    for job in content["jobs"].values():
        assert "permissions" not in job
        for step in job["steps"]:
            assert re.fullmatch(r"actions/[a-z-]+@v\d+", step["uses"]) if "uses" in step else step["run"]
            # what a pull request names never becomes part of a script
            assert "${{" not in step.get("run", "")


@pytest.mark.parametrize("name", ["score", "test"])
def test_the_readmes_commands_are_found_word_for_word(name: str) -> None:
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("there is no bash")
    done = subprocess.run([bash, ".ci/readme", name], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout in (ROOT / "README.md").read_text(encoding="utf-8")
    assert done.stdout.startswith("python3 -m venv .venv")
    assert subprocess.run([bash, ".ci/readme", "nothing"], cwd=ROOT, check=False).returncode != 0


@pytest.fixture(scope="module")
def touched() -> ModuleType:
    spec = importlib.util.spec_from_file_location("touched_plugins", ROOT / "tools" / "touched_plugins.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("files", "plugins"),
    [
        (["plugins/models/pixels.py"], ["pixels"]),
        (["plugins/models/_pixels.py"], ["brain?", "controls", "pixels", "sim-models?"]),
        (["plugins/metrics/_rsa.py"], ["rsa"]),
        (["plugins/benchmarks/allen_ns/__init__.py"], ["allen-ns"]),
        (["README.md", "mousebench/linalg.py", "plugins/models/gone.py", "", "../x"], []),
    ],
)
def test_changed_files_belong_to_plugins(touched: ModuleType, files: list[str], plugins: list[str]) -> None:
    found = touched.touched_plugins(files, ROOT)
    assert set(found) >= {name for name in plugins if not name.endswith("?")}
    assert set(found) <= {name.rstrip("?") for name in plugins}


def test_what_metrics_share_touches_all_of_them(touched: ModuleType) -> None:
    found = touched.touched_plugins(["plugins/metrics/_rdm_metric.py"], ROOT)
    assert {"cka", "pls", "ridge", "rsa", "rsa-nnls"} <= set(found)


def test_a_plugin_of_many_is_checked_by_a_few(touched: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert touched.identifiers("torchvision-zoo", 2) == ["alexnet", "vgg11"]
    assert "torchvision-zoo: 2 of " in capsys.readouterr().err
    assert touched.identifiers("rsa-nnls", 2) == ["rsa-nnls", "rsa-nnls-published"]
    assert touched.identifiers("timm", 2) == []  # a family of a thousand names
    assert touched.identifiers("gone", 2) == []


def test_the_script_reads_names_and_prints_identifiers() -> None:
    line = [sys.executable, "tools/touched_plugins.py"]
    done = subprocess.run(line, cwd=ROOT, input="plugins/models/pixels.py\n", capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "pixels\n"), done.stderr
