"""Plugins of others run elsewhere: what they do there, and what becomes of it here."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from conftest import TOY, Cli, Environment, files

from mousebench import assemblies
from mousebench.catalogue import Catalogue
from mousebench.errors import ContractViolation, MissingData, PluginBroken, UnknownIdentifier, UsageError
from mousebench.isolation import arrays, hardening, packing, policy, process, proxies, remote
from mousebench.isolation.channel import _HEAD, Channel, Closed, TimedOut
from mousebench.plugins import discover, local_model

HOSTILE = TOY.with_name("hostile.py")
needs_landlock = pytest.mark.skipif(hardening.version() == 0, reason="this kernel has no Landlock")


@pytest.fixture(autouse=True)
def isolated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MOUSEBENCH_TRUST_PLUGINS")
    (tmp_path / "user").mkdir()
    (tmp_path / "tmp").mkdir()
    (tmp_path / "user" / "precious").write_text("mine")
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    for name in ("AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "GITHUB_TOKEN", "PYTORCH_API_KEY", "SSH_AUTH_SOCK"):
        monkeypatch.setenv(name, "credential-of-mine")
    monkeypatch.setenv("HTTPS_PROXY", "http://me:credential-of-mine@proxy")


@pytest.fixture
def hostile(environment: Environment, tmp_path: Path) -> Catalogue:
    file = tmp_path / "hostile.py"
    file.write_text(HOSTILE.read_text())
    return discover([file])


@pytest.fixture
def ours(environment: Environment) -> None:
    """Install the toy plugin as one of the project's own."""
    environment.install("mousebench", "toy", TOY.read_text())


def images(n: int = 24) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, 8, 8, 3), dtype=np.uint8)


def plugin_file(folder: Path, source: str, name: str = "mine.py") -> Path:
    path = folder / name
    path.write_text("from mousebench import Spec, hookimpl\n" + source)
    return path


# the whole way --------------------------------------------------------------------------------------------------------


SMALL = """
import numpy as np

class Net:
    layers = ("a", "b")
    fingerprint = {"weights": "1"}
    def activations(self, images, layers):
        print("the net says hello")
        pixels = images.reshape(len(images), -1) / 255
        return {"a": pixels, "b": np.sqrt(pixels)}

class Bench:
    version, sites, metrics = 3, ("A", "B"), ("small-metric",)
    def stimuli(self):
        from mousebench.assemblies import make_stimuli
        return make_stimuli(np.random.default_rng(0).integers(0, 256, (6, 4, 4), dtype=np.uint8), list("fedcba"))
    def target(self, site):
        from mousebench.assemblies import make_responses
        values = np.random.default_rng(ord(site)).standard_normal((12, 3)).astype("f4")
        values[0, 0] = np.nan
        return make_responses(values, list("abcdef") * 2, [0] * 6 + [1] * 6, {"neuroid_id": [site + c for c in "xyz"]})

class Metric:
    version, accepts, normalisation, definition = 2, {"responses"}, "ratio", {"folds": 2}
    def score(self, layers, target, seed):
        import xarray as xr
        total = sum(float(one["gram"].sum() / one.attrs["n_features"]) for one in layers.values())
        raw = np.nanmean(target.values, axis=0) * total + seed
        return xr.Dataset(
            {"raw": ("neuroid", raw), "best_layer": list(layers)[0], "bootstrap": (("neuroid", "bootstrap"), np.outer(raw, [1, 2]))},
            coords={"neuroid_id": target["neuroid_id"]},
            attrs={"notes": '["small"]', "definition": '{"folds": 2}'},
        )
    def ceiling(self, target, seed):
        import xarray as xr
        return xr.Dataset({"ceiling": ("neuroid", np.full(target.sizes["neuroid"], 0.5))})

@hookimpl
def mousebench_models():
    return [Spec("small-net", Net)]

@hookimpl
def mousebench_benchmarks():
    return [Spec("small", Bench)]

@hookimpl
def mousebench_metrics():
    return [Spec("small-metric", Metric)]
"""


@pytest.mark.slow
def test_a_plugin_of_others_gives_the_same_result_as_in_this_process(
    cli: Cli, environment: Environment, tmp_path: Path
) -> None:
    file = plugin_file(tmp_path, SMALL)
    same_either_way(cli, tmp_path, file, "--model", "small-net", "--benchmark", "small", "--seed", "4")


@pytest.mark.slow
def test_real_metrics_give_the_same_result_elsewhere(cli: Cli, environment: Environment, tmp_path: Path) -> None:
    same_either_way(
        cli, tmp_path, TOY, "--model", "toy-a", "--benchmark", "toy", "--metric", "quick,each", "--jobs", "2"
    )


def same_either_way(cli: Cli, tmp_path: Path, file: Path, *arguments: str) -> None:
    score = ["--plugin", file, "score", *arguments, "--results"]
    assert cli(*score, tmp_path / "there").code == 0
    assert cli("--trust-plugins", *score, tmp_path / "here", "--force").code == 0
    assert files(tmp_path / "here", "*.nc") == files(tmp_path / "there", "*.nc")
    for path in files(tmp_path / "here", "*.nc"):
        there, here = (assemblies.load(tmp_path / name / path) for name in ("there", "here"))
        provenances = [json.loads(result.attrs.pop("provenance")) for result in (there, here)]
        assert there.identical(here)
        assert [provenances[0][kind].pop("isolated") for kind in ("model", "benchmark", "metric")] == [True] * 3
        # the file of a class is told where the class is: in the plugin's process, whose ``source`` holds its hash
        kinds = ("model", "benchmark", "metric")
        assert [provenances[0][kind].pop("class") for kind in kinds] == [{}] * 3
        here = [provenances[1][kind].pop("class") for kind in kinds]
        assert any(here)
        assert provenances[0] == provenances[1]


WAYS = {
    "good": "",
    "sys-exit": "activations fail: SystemExit: bye",
    "os-exit": "ended its own process to answer to the images (exit code 0)",
    "segfault": "ended its own process to answer to the images (SIGSEGV)",
    "memory": "was ended to answer to the images: it used more than 0.5 GB of memory",
    "forks": "was ended to answer to the images: it started more than 64 processes",
    "stdout": "",
    "flood": "",
    "daemon": "",
    "deletes-home": "",
    "relative": "PermissionError" if hardening.version() else "",
    "kills": "",
    "objects": "layer 'only' gives object activations",
}


def test_whatever_a_model_does_the_others_are_scored(
    cli: Cli, ours: None, hostile: Catalogue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOUSEBENCH_PLUGIN_MEMORY", "0.5")
    results = tmp_path / "results"
    models = ",".join(["toy-a", *(f"hostile@{way}" for way in WAYS), "toy-b"])
    arguments = ("--model", models, "--benchmark", "toy", "--metric", "each", "--site", "A", "--results", results)
    done = cli("--plugin", tmp_path / "hostile.py", "score", *arguments, "--json", "-")
    assert done.code == 2
    scored = [row["model"] for row in json.loads(done.out)["results"]]  # nothing else is on stdout
    well = [f"hostile@{way}" for way, said in WAYS.items() if not said and way != "kills"]
    assert set(scored) >= {"toy-a", *well, "toy-b"}
    errors = [line for line in done.err.splitlines() if line.startswith("error: ")]
    for way, said in WAYS.items():
        if said:
            (line,) = [line for line in errors if f"hostile@{way}'" in line] or ["nothing"]
            assert said in line
            assert len(line) < 600
    assert done.err.count("a line that nobody needs to read") < 1_000
    assert "prints more than 20000 characters; the rest is not shown" in done.err
    (daemon,) = re.findall(r"daemon (\d+)", done.err)
    with pytest.raises(ProcessLookupError):
        os.kill(int(daemon), 0)
    assert (tmp_path / "user" / "precious").read_text() == "mine"
    assert hardening.version() == 0 or not [path for path in files(tmp_path) if path.name == "stolen.nc"]
    assert not list((tmp_path / "tmp").iterdir())
    assert {path.stem for path in files(results)} == {name.replace("@", "%40") for name in scored}


def test_a_hanging_model_is_ended(hostile: Catalogue) -> None:
    model = hostile.load("models", "hostile@hang")
    running = model._session._process
    running.limits = dataclasses.replace(running.limits, seconds=0.3)
    with pytest.raises(PluginBroken, match=r"took more than 0.005 min to answer to the images") as caught:
        model.reduce(images())
    assert "--plugin-time MINUTES" in caught.value.hint
    assert not running.alive
    assert running._warden.returncode is not None


def test_what_is_written_to_disk_is_bounded(hostile: Catalogue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process.Limits, "here", lambda: process.Limits(10**9, 60.0, disk=50_000_000))
    with pytest.raises(PluginBroken, match=r"wrote more than 0.05 GB on disk"):
        hostile.load("models", "hostile@disk").reduce(images())


def test_no_credential_is_told(hostile: Catalogue, tmp_path: Path) -> None:
    model = hostile.load("models", "hostile@good")
    environment = model.fingerprint["environment"]
    model.close()
    assert "credential-of-mine" not in environment
    assert str(tmp_path / "user") not in environment.replace(str(tmp_path / "user" / ".cache"), "")
    assert '"PATH"' in environment


@needs_landlock
def test_nothing_is_written_elsewhere_even_by_its_full_path(hostile: Catalogue, tmp_path: Path) -> None:
    (tmp_path / "target.json").write_text(json.dumps(str(tmp_path / "user")))
    with pytest.raises(PluginBroken, match="PermissionError"):
        hostile.load("models", "hostile@absolute").reduce(images())
    assert [path.name for path in (tmp_path / "user").iterdir() if path.name != ".cache"] == ["precious"]


@needs_landlock
def test_the_environment_of_who_started_it_cannot_be_read(hostile: Catalogue) -> None:
    with pytest.raises(PluginBroken, match="PermissionError"):
        hostile.load("models", "hostile@spies").reduce(images())


def test_a_process_that_was_closed_starts_again(hostile: Catalogue) -> None:
    model = hostile.load("models", "hostile@good")
    first = model.reduce(images())
    model.close()
    again = model.reduce(images())
    assert np.array_equal(first.layers[0].gram, again.layers[0].gram)
    model.close()


def test_nothing_is_left_when_who_started_it_is_killed(tmp_path: Path) -> None:
    code = (
        "import sys, time, tempfile; tempfile.tempdir = sys.argv[1]\n"
        "from mousebench.isolation.process import Process\n"
        "process = Process('a plugin'); print(process._warden.pid, flush=True); time.sleep(600)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "tmp")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as started:
        assert started.stdout is not None
        warden = int(started.stdout.readline())
        started.kill()
    until = time.monotonic() + 60
    while time.monotonic() < until and (Path(f"/proc/{warden}").exists() or list((tmp_path / "tmp").iterdir())):
        time.sleep(0.02)
    assert not list((tmp_path / "tmp").iterdir())


# to declare -----------------------------------------------------------------------------------------------------------

DECLARE = "@hookimpl\ndef mousebench_models():\n    return [Spec({!r}, dict)]\n"


@pytest.mark.parametrize(
    ("source", "cause"),
    [
        ("import os; os._exit(3)", "ended its own process to declare what it provides (exit code 3)"),
        ("import no_such_package", "ModuleNotFoundError: No module named 'no_such_package'"),
        (DECLARE.format("../../x"), "'../../x' is not an identifier"),
        (DECLARE.format("<script>"), "'<script>' is not an identifier"),
        ("import time; time.sleep(600)", "took more than"),
    ],
)
def test_a_plugin_that_cannot_declare_is_broken_and_harms_nobody(
    environment: Environment, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, cause: str
) -> None:
    if "sleep" in source:
        monkeypatch.setattr(remote, "SECONDS_TO_DECLARE", 0.5)
    environment.install("mousebench", "own", "from mousebench import Spec, hookimpl\n" + DECLARE.format("own"))
    done = cli("--plugin", plugin_file(tmp_path, source), "list", "--json")
    assert done.code == 0
    content = json.loads(done.out)
    assert [row["identifier"] for row in content["models"]] == ["own"]
    assert cause in content["broken"][0]["cause"]
    assert "\n" not in content["broken"][0]["cause"]


def test_what_is_declared_is_as_in_this_process(environment: Environment, tmp_path: Path) -> None:
    file = plugin_file(
        tmp_path,
        "def one(name, variant=None): return name\ndef net(): return 1\n"
        "@hookimpl\ndef mousebench_models():\n"
        "    yield Spec('zoo', one, 'nets', {'depth': 3}, architecture=net, missing=lambda: 'weights', family=True)\n"
        "    yield Spec('plain', net)\n    yield Spec('plain@fixed', net)\n",
    )
    there, here = discover([file]), discover([file], trust=True)
    assert there.identifiers("models") == here.identifiers("models") == ["plain", "plain@fixed", "zoo/NAME"]
    for name in there.identifiers("models"):
        entry, other = there.find("models", name), here.find("models", name)
        for what in ("listed", "identifier", "description", "metadata", "family"):
            assert getattr(entry.spec, what) == getattr(other.spec, what)
        assert entry.missing() == other.missing()
        assert bool(entry.spec.architecture) == bool(other.spec.architecture)
        assert entry.plugin.source_hash() == other.plugin.source_hash()
    with pytest.raises(UnknownIdentifier, match="has no variants"):
        there.load("models", "plain@x")


def test_text_of_a_plugin_is_one_plain_line(hostile: Catalogue) -> None:
    spec = hostile.find("models", "hostile").spec
    assert spec.description == "a model?[31m in <script>two</script> lines"


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "modules"},
        {"identifier": "../../x"},
        {"identifier": ["x"]},
        {"metadata": {"depth": [1]}},
        {"metadata": [1]},
        {"family": True, "identifier": "a/b"},
    ],
)
def test_what_a_process_says_is_checked_again_here(wrong: dict[str, Any]) -> None:
    row = {"kind": "models", "identifier": "x", "metadata": {}, "missing": "", **wrong}
    with pytest.raises(ContractViolation):
        remote._spec(policy.Reference("x", "x", "1", "x"), row)


# errors, options ------------------------------------------------------------------------------------------------------


def test_an_error_of_the_plugin_is_told_as_in_this_process(environment: Environment, tmp_path: Path) -> None:
    file = plugin_file(
        tmp_path,
        "def fails(): return {}['weights']\n"
        "def lacks():\n    from mousebench.errors import MissingData\n    raise MissingData('no weights', 'get them')\n"
        "@hookimpl\ndef mousebench_models():\n    return [Spec('fails', fails), Spec('lacks', lacks)]\n",
    )
    there, here = discover([file]), discover([file], trust=True)
    with pytest.raises(MissingData, match="no weights") as lacks:
        there.load("models", "lacks")
    assert lacks.value.hint == "get them"
    with pytest.raises(PluginBroken) as caught:
        there.load("models", "fails")
    with pytest.raises(PluginBroken) as expected:
        here.load("models", "fails")
    assert (caught.value.message, caught.value.hint) == (expected.value.message, expected.value.hint)
    assert "return {}['weights']" in str(caught.value.__cause__)  # --debug shows it


def test_a_function_in_a_file_is_run_elsewhere(tmp_path: Path, environment: Environment) -> None:
    file = tmp_path / "my_net.py"
    file.write_text(
        "from mousebench_plugins.models.pixels import load as build\nimport os\nos.environ['RAN_HERE'] = '1'\n"
    )
    entry = local_model(file, "build", trust=False)
    model = entry.load("my_net:build")
    assert list(model.layers) == ["pixels"]
    model.close()
    assert "RAN_HERE" not in os.environ
    with pytest.raises(UsageError, match="has no function 'biuld'; did you mean 'build'"):
        local_model(file, "biuld", trust=False).load("my_net:biuld")


def test_a_model_made_of_the_data_is_refused(tmp_path: Path, environment: Environment) -> None:
    source = "class Thief:\n    layers = activations = ()\n    fingerprint = {}\n    def take_from(self, *_): pass\n"
    source += "@hookimpl\ndef mousebench_models():\n    return [Spec('thief', Thief)]\n"
    with pytest.raises(UsageError, match="made of a benchmark's own data") as caught:
        discover([plugin_file(tmp_path, source)]).load("models", "thief")
    assert "--trust-plugins" in caught.value.hint


@pytest.mark.parametrize("wrong", ["much", "0", "-1", "inf", "nan"])
def test_a_limit_is_a_number(wrong: str, cli: Cli, environment: Environment, tmp_path: Path) -> None:
    done = cli("--plugin-memory", wrong, "--plugin", plugin_file(tmp_path, ""), "list")
    assert done.code == 2
    assert done.err.startswith(f"error: MOUSEBENCH_PLUGIN_MEMORY is {wrong!r}; a number above 0 is expected")


# what comes back ------------------------------------------------------------------------------------------------------


class FakeSession:
    """Answers as a hostile process might."""

    kind, identifier = "metrics", "fake"

    def __init__(self, answer: dict[str, Any], payload: bytes = b"") -> None:
        self.answer, self.payload = answer, payload

    def ask(self, *_: Any, **__: Any) -> tuple[dict[str, Any], bytes]:
        return self.answer, self.payload

    def facts(self) -> dict[str, Any]:
        return self.answer

    def close(self) -> None:
        pass


METRIC = {"version": 1, "accepts": ["rdm"], "normalisation": "ratio", "definition": None, "source": ""}
BENCHMARK = {"version": 1, "sites": ["A"], "metrics": ["rsa"], "simulated": False, "fetches": False, "source": ""}


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        ("metrics", {"version": "../../x"}),
        ("metrics", {"version": True}),
        ("metrics", {"version": -1}),
        ("metrics", {"accepts": ["anything"]}),
        ("metrics", {"accepts": 3}),
        ("metrics", {"normalisation": "mine"}),
        ("metrics", {"definition": "text"}),
        ("benchmarks", {"version": 1e400}),
        ("benchmarks", {"sites": ["\x1b[2J"]}),
        ("benchmarks", {"sites": "A"}),
        ("benchmarks", {"metrics": ["../x"]}),
        ("benchmarks", {"metrics": None}),
        ("models", {"fingerprint": [1], "takes_data": False, "intercept_only": False}),
        ("models", {"takes_data": False}),
    ],
)
def test_what_a_thing_says_of_itself_is_checked(kind: str, wrong: dict[str, Any]) -> None:
    good = {"metrics": METRIC, "benchmarks": BENCHMARK, "models": {"source": ""}}[kind]
    session: Any = FakeSession({**good, **wrong})
    session.kind = kind
    with pytest.raises(ContractViolation):
        proxies.load(session)


def grams(n: int = 4) -> dict[str, np.ndarray]:
    features = np.random.default_rng(0).standard_normal((n, 5))
    gram, sums = features @ features.T, features.sum(1)
    return {"gram": gram[None], "feature_sum": sums[None], "n_features": np.array([5])}


def reduced(answer: dict[str, Any], **wrong: np.ndarray) -> Any:
    told = {"fingerprint": {}, "takes_data": False, "intercept_only": False, "source": ""}
    session: Any = FakeSession(answer, arrays.pack_arrays({**grams(), **wrong}))
    return proxies.IsolatedModel(session, told).reduce(images(4))


def test_good_grams_pass() -> None:
    found = reduced({"layers": ["only"], "skipped": {"x": "why"}, "device": "cpu"})
    assert np.array_equal(found.layers[0].gram, grams()["gram"][0])
    assert (found.layers[0].n_features, found.skipped, found.device) == (5, {"x": "why"}, "cpu")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"gram": grams(5)["gram"]}, r"float64 \(1, 5, 5\) as gram"),
        ({"gram": grams()["gram"].astype("f4")}, "float32"),
        ({"gram": 1 - np.eye(4)[None]}, "no features can have"),  # larger than its diagonal allows
        ({"gram": grams()["gram"] + np.triu(np.ones((4, 4)), 1)}, "no features can have"),
        ({"gram": -grams()["gram"]}, "no features can have"),
        ({"gram": np.where(np.eye(4) > 0, grams()["gram"], np.nan)}, "no features can have"),
        ({"feature_sum": np.full((1, 4), 100.0)}, "no features can have"),
        ({"feature_sum": np.full((1, 4), np.inf)}, "no features can have"),
        ({"n_features": np.array([0])}, "no features can have"),
        ({"n_features": np.array([[5]])}, "as n_features"),
    ],
)
def test_what_cannot_be_a_gram_is_refused(wrong: dict[str, np.ndarray], said: str) -> None:
    with pytest.raises(ContractViolation, match=said):
        reduced({"layers": ["only"]}, **wrong)


@pytest.mark.parametrize("names", [None, ["\x1b[31mred"], [3], ["a", "b"], "a", ["x" * 3_000]])
def test_names_of_layers_are_checked(names: Any) -> None:
    with pytest.raises(ContractViolation):
        reduced({"layers": names})


def test_a_layer_is_named_once() -> None:
    double = {name: np.concatenate([array, array]) for name, array in grams().items()}
    with pytest.raises(ContractViolation, match="names a layer twice"):
        reduced({"layers": ["a", "a"]}, **double)


def responses() -> xr.DataArray:
    return assemblies.make_responses(np.zeros((4, 3)), [0, 0, 1, 1], [0, 1, 0, 1], {"neuroid_id": ["a", "b", "c"]})


def layers() -> dict[str, xr.Dataset]:
    one = xr.Dataset({"gram": (("stimulus", "stimulus_b"), np.eye(2)), "feature_sum": ("stimulus", np.ones(2))})
    return {"only": one.assign_attrs(n_features=3)}


RAW = {"raw": ("neuroid", np.ones(3))}
IDS = {"neuroid_id": ("neuroid", ["a", "b", "c"])}


@pytest.mark.parametrize(
    ("score", "said"),
    [
        (xr.Dataset(), "no Dataset with 'raw'"),
        (xr.Dataset({"raw": ("fold", np.ones(3))}), "along"),
        (xr.Dataset({"raw": "text"}), "a number"),
        (xr.Dataset({"raw": ("neuroid", np.ones(2))}), "2 neuroids, the target 3"),
        (xr.Dataset(RAW), "without coordinate neuroid_id"),
        (xr.Dataset({"raw": 1.0, "score": 1.0}), "not its to give"),
        (xr.Dataset({"raw": 1.0, "ci_low": 1.0, "n_layers": 3}), "ci_low, n_layers"),
        (xr.Dataset({"raw": 1.0}, attrs={"notes": "no json"}), "no JSON"),
        (xr.Dataset({"raw": 1.0}, attrs={"notes": "[1]"}), "list of text"),
        (xr.Dataset({"raw": 1.0}, attrs={"definition": "[]"}), "no JSON mapping"),
        (xr.Dataset({"raw": 1.0}, attrs={"n_layers": "many"}), "a number is expected"),
    ],
)
def test_a_score_is_checked(score: xr.Dataset, said: str) -> None:
    told, payload = packing.pack({"A": score})
    session: Any = FakeSession({"datasets": told}, payload)
    metric = proxies.IsolatedMetric(session, METRIC)
    with pytest.raises(ContractViolation, match=said):
        metric.score_sites(layers(), {"A": responses()}, 0)


def test_a_good_score_passes() -> None:
    told, payload = packing.pack({"A": xr.Dataset(RAW, coords=IDS, attrs={"notes": '["a"]', "n_layers": 1})})
    session: Any = FakeSession({"datasets": told}, payload)
    score = proxies.IsolatedMetric(session, METRIC).score_sites(layers(), {"A": responses()}, 0)["A"]
    assert score["raw"].values.tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    "told",
    [
        None,
        {"x": None},
        {"x": {"variables": {}, "coords": []}},
        {"x": {"variables": {"raw": {"dims": [], "array": "b0", "attrs": {}}}, "coords": [], "attrs": {}}},
        {"x": {"variables": {"raw": {"dims": ["a"], "array": "a0", "attrs": {}}}, "coords": [], "attrs": {}}},
        {
            "x": {
                "variables": {"raw": {"dims": ["a"], "text": ["1"], "shape": [2], "attrs": {}}},
                "coords": [],
                "attrs": {},
            }
        },
        {
            "x": {
                "variables": {"raw": {"dims": ["a"], "text": [1], "shape": [1], "attrs": {}}},
                "coords": [],
                "attrs": {},
            }
        },
        {"x": {"variables": {"a\x07": {"dims": [], "array": "a0", "attrs": {}}}, "coords": [], "attrs": {}}},
        {"x": {"variables": {}, "coords": [], "attrs": {"a": [1]}}},
        {"x": {"variables": {}, "coords": [], "attrs": {"a": "\x1b[2J"}}},
    ],
)
def test_a_dataset_of_another_form_is_refused(told: Any) -> None:
    with pytest.raises(ContractViolation):
        packing.unpack(told, arrays.pack_arrays({"a0": np.ones(())}))


@pytest.mark.parametrize("payload", [b"\x80\x04K\x01.", b"x" * 100, b"\xff" * 8 + b"{}"])
def test_bytes_that_are_no_arrays_are_refused_and_never_unpickled(payload: bytes) -> None:
    with pytest.raises(ContractViolation, match="no arrays"):
        arrays.unpack_arrays(payload)


@pytest.mark.parametrize(
    "values", [np.array([object()]), np.array(["2020-01-01"], dtype="M8[ns]"), np.ones(2, complex)]
)
def test_only_numbers_and_text_are_packed(values: np.ndarray) -> None:
    with pytest.raises(ContractViolation, match="numbers or text"):
        packing.pack({"x": xr.Dataset({"raw": ("a", values)})})


def test_what_is_packed_comes_back_as_it_was() -> None:
    target = responses().assign_attrs(reliability=np.float64(0.5), distance="x")
    dataset = target.to_dataset(name="_data").assign(
        names=(("a", "b"), np.array([["x", "yy"], ["é", ""]])),
        whole=("c", np.arange(3, dtype=">i4")),
        empty=("d", np.ones(0)),
    )
    told, payload = packing.pack({"x": dataset})
    back = packing.unpack(json.loads(json.dumps(told)), payload)["x"]
    assert assemblies.content_hash(back["_data"]) == assemblies.content_hash(target)
    xr.testing.assert_identical(back, dataset)
    assert [back[name].dtype.kind for name in ("_data", "names", "whole")] == ["f", "U", "i"]


# the pipe -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def pipe() -> Iterator[tuple[Channel, int]]:
    """Give a channel and the end to write raw bytes to."""
    reading, writing = os.pipe()
    unread, sending = os.pipe()
    channel = Channel(reading, sending)
    yield channel, writing
    channel.close()
    os.close(unread)


@pytest.mark.parametrize(
    ("sent", "error"),
    [
        (_HEAD.pack(1 << 60, 0), ContractViolation),
        (_HEAD.pack(2, 1 << 60) + b"{}", ContractViolation),
        (_HEAD.pack(2, 0) + b"{]", ContractViolation),
        (_HEAD.pack(60_000, 0) + b"[" * 60_000, ContractViolation),
        (_HEAD.pack(10, 0) + b"{}", Closed),
        (b"", Closed),
    ],
)
def test_what_is_no_message_is_refused(pipe: tuple[Channel, int], sent: bytes, error: type[Exception]) -> None:
    channel, writing = pipe
    os.write(writing, sent)
    os.close(writing)
    with pytest.raises(error):
        channel.receive(time.monotonic() + 5)


def test_who_neither_reads_nor_answers_is_not_waited_for(pipe: tuple[Channel, int]) -> None:
    channel, writing = pipe
    with pytest.raises(TimedOut):
        channel.receive(time.monotonic() + 0.05)
    with pytest.raises(TimedOut):
        channel.send({}, bytes(1 << 20), time.monotonic() + 0.05)
    os.close(writing)
