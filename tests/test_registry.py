from __future__ import annotations

from importlib.metadata import entry_points
from pathlib import Path
from textwrap import dedent

import pytest
from conftest import Environment

from mousebench.errors import ContractViolation
from mousebench.plugins import discover
from mousebench.registry import problems, read_registry

PLUGIN = """
    from mousebench import Spec, hookimpl

    @hookimpl
    def mousebench_models():
        return [Spec(name, load=dict) for name in {models}]

    @hookimpl
    def mousebench_benchmarks():
        return [Spec({bench!r}, load=dict)]

    @hookimpl
    def mousebench_metrics():
        return [Spec({metric!r}, load=dict)]
"""


def plugin(*models: str, bench: str = "bench", metric: str = "metric") -> str:
    return PLUGIN.format(models=models, bench=bench, metric=metric)


REGISTRY = """
    schema: 1
    plugins:
      mine:
        distribution: my-dist
        status: accepted
        version: 1
        models: {net: someone2020}
        benchmarks: {bench: someone2020}
        metrics: {metric: someone2020}
    citations: {someone2020: Someone (2020).}
    leaderboard:
      - {benchmark: bench, metrics: [metric], sites: all, models: all-accepted, controls: [net]}
"""


@pytest.fixture
def written(tmp_path: Path):
    """Return a function that writes a registry, with one text replaced by another, and gives its path."""

    def write(old: str = "", new: str = "") -> Path:
        assert old in REGISTRY
        path = tmp_path / "registry.yaml"
        path.write_text(dedent(REGISTRY.replace(old, new) if old else REGISTRY))
        return path

    return write


def test_our_own_registry_agrees_with_our_own_plugins() -> None:
    ours = [point for point in entry_points(group="mousebench") if point.dist and point.dist.name == "mousebench"]
    assert problems(read_registry(), discover(installed=ours)) == []


def test_versions_in_the_registry_are_those_of_the_plugins() -> None:
    registry, found = read_registry(), discover()
    for reviewed in registry.plugins.values():
        for kind in ("benchmarks", "metrics"):
            for identifier in reviewed.of(kind):
                assert found.load(kind, identifier).version == reviewed.version, identifier


def test_what_is_read(written, environment: Environment) -> None:
    environment.install("my-dist", "mine", plugin("net"))
    registry = read_registry(written())
    assert problems(registry, discover()) == []
    assert registry.status("mine", "my-dist") == "accepted"
    assert registry.status("mine", "other-dist") == "unreviewed"
    assert registry.status("unheard-of", "my-dist") == "unreviewed"
    assert registry.status("mine", "local") == "local"
    row = registry.leaderboard[0]
    assert (row.benchmark, row.metrics, row.sites, row.models) == ("bench", ("metric",), "all", "all-accepted")
    assert row.controls == ("net",)


def test_models_can_be_listed_by_what_they_cite(written, environment: Environment) -> None:
    environment.install("my-dist", "mine", plugin("net", "net-random", "other"))
    registry = read_registry(written("models: {net: someone2020}", "models: {someone2020: [net, other]}"))
    found = discover()
    assert problems(registry, found) == []
    cited = {name: registry.citation(entry) for name, (entry,) in found.entries["models"].items()}
    assert cited == dict.fromkeys(("net", "net-random", "other"), "someone2020")  # a twin goes with its net


def test_what_is_not_reviewed_cites_nothing(written, environment: Environment) -> None:
    environment.install("my-dist", "mine", plugin("net", "new", "new-random"))
    environment.install("your-dist", "yours", plugin("yours", bench="b", metric="m"))
    registry, found = read_registry(written()), discover()
    cited = {name: registry.citation(entry) for name, (entry,) in found.entries["models"].items()}
    assert cited == {"net": "someone2020", "new": "", "new-random": "", "yours": ""}
    said = [problem.what for problem in problems(registry, found)]
    assert said == [f"model {name!r} of plugin 'mine' is not in registry.yaml" for name in ("new", "new-random")]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("schema: 1", "schema: 2", "schema is 2; 1 is expected"),
        ("schema: 1", "shcema: 1", "unknown key 'shcema'; did you mean 'schema'?"),
        ("citations:", "citation:", "unknown key 'citation'; did you mean 'citations'?"),
        ("models: {net", "model: {net", "plugin 'mine' has the unknown key 'model'; did you mean 'models'?"),
        ("status: accepted", "status: acepted", "plugin 'mine' has status 'acepted'"),
        ("version: 1", "version: '1'", "plugin 'mine' has version '1'"),
        ("version: 1", "version: true", "plugin 'mine' has version True"),
        ("version: 1", "version: 1.5", "plugin 'mine' has version 1.5"),
        ("distribution: my-dist", "x: 1", "plugin 'mine' has the unknown key 'x'"),
        ("        version: 1\n", "", "plugin 'mine' lacks the key 'version'"),
        ("models: {net: someone2020}", "models: [net]", "plugin 'mine', models is not a mapping"),
        ("models: {net: someone2020}", "models: {s: [3]}", "plugin 'mine', models, s is [3]; a list of names"),
        ("models: {net: someone2020}", "models: {s: [net, net]}", "plugin 'mine', models lists 'net' twice"),
        ("models: {net: someone2020}", "models: {s: [net], net: s}", "plugin 'mine', models lists 'net' twice"),
        ("citations: {someone2020: Someone (2020).}", "citations: [x]", "citations is not a mapping"),
        ("benchmark: bench", "benchmrk: bench", "leaderboard row 1 has the unknown key 'benchmrk'"),
        ("metrics: [metric]", "metrics: metric", "leaderboard row 1, metrics is 'metric'; a list of names"),
        ("sites: all", "sites: some", "leaderboard row 1, sites is 'some'"),
        ("models: all-accepted", "models: all", "leaderboard row 1, models is 'all'"),
        ("controls: [net]", "controls: [3]", "leaderboard row 1, controls is [3]"),
        ("schema: 1", "schema: [", "cannot be read"),
    ],
)
def test_a_wrong_form_is_refused_by_place(written, old: str, new: str, said: str) -> None:
    with pytest.raises(ContractViolation) as caught:
        read_registry(written(old, new))
    assert said in caught.value.message
    assert "registry.yaml" in caught.value.message


@pytest.mark.parametrize(
    "content", ["", "- a\n", "plugins: 3\nschema: 1\n", "schema: 1\nleaderboard: {a: b}\n", "3: 4\n"]
)
def test_what_is_no_registry_at_all_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "registry.yaml"
    path.write_text(content)
    with pytest.raises(ContractViolation):
        read_registry(path)


def test_a_registry_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ContractViolation, match=r"registry.yaml cannot be read"):
        read_registry(tmp_path / "registry.yaml")


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("net: s", "net: someone2020, ent: s", "lists model 'ent' of plugin 'mine', which does not provide it"),
        ("models: {net: someone2020}", "models: {}", "model 'net' of plugin 'mine' is not in registry.yaml"),
        ("my-dist", "other-dist", "plugin 'mine' comes from my-dist, registry.yaml gives the name to other-dist"),
        ("citations: {someone2020: Someone (2020).}", "citations: {}", "'net' cites 'someone2020'"),
        (
            "benchmark: bench",
            "benchmark: bnch",
            "names the benchmark 'bnch', which is not installed; did you mean 'bench'?",
        ),
        ("metrics: [metric]", "metrics: [metric, metrc]", "names the metric 'metrc'"),
        ("controls: [net]", "controls: [net@3, zzz]", "names the model 'zzz', which is not installed"),
        ("all-accepted", "[nett]", "names the model 'nett', which is not installed; did you mean 'net'?"),
    ],
)
def test_every_disagreement_is_a_problem_with_a_remedy(
    written, environment: Environment, old: str, new: str, what: str
) -> None:
    environment.install("my-dist", "mine", plugin("net"))
    found = problems(read_registry(written(old, new)), discover())
    assert [problem for problem in found if what in problem.what], found
    assert all(problem.remedy for problem in found)


def test_problems_are_reported_all_at_once(written, environment: Environment) -> None:
    environment.install("my-dist", "mine", plugin("net", "net2", "net3"))
    environment.install("bad-dist", "bad", "import no_such_package")
    text = "\n".join(problem.what for problem in problems(read_registry(written("[metric]", "[a, b]")), discover()))
    for said in ("'net2'", "'net3'", "'a'", "'b'", "plugin 'bad' of bad-dist is broken: ModuleNotFoundError"):
        assert said in text


def test_a_clash_is_a_problem(written, environment: Environment) -> None:
    environment.install("my-dist", "mine", plugin("net"))
    environment.install("your-dist", "mine", plugin("other", bench="b", metric="m"))
    text = "\n".join(problem.what for problem in problems(read_registry(written()), discover()))
    assert "plugin 'mine' comes from your-dist, registry.yaml gives the name to my-dist" in text
    assert "claimed by my-dist" in text


def test_a_plugin_that_nobody_reviewed_is_no_problem(written, environment: Environment) -> None:
    environment.install("my-dist", "mine", plugin("net"))
    other = plugin("other", bench="b", metric="m")
    environment.install("your-dist", "yours", other)
    assert problems(read_registry(written()), discover()) == []
