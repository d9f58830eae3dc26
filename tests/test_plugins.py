from __future__ import annotations

import json
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from conftest import Cli, Environment

from mousebench.catalogue import Catalogue
from mousebench.errors import MissingData, PluginBroken, PluginConflict, UnknownIdentifier, UsageError
from mousebench.plugins import discover

GOOD = """
    from mousebench import Spec, hookimpl

    @hookimpl
    def mousebench_models():
        return [Spec("{0}", load=dict, description="a model")]
"""
VARIANTS = """
    from mousebench import Spec, hookimpl

    def load(variant=None):
        return [variant]

    @hookimpl
    def mousebench_models():
        return [Spec("net", load=load), Spec("net@fixed", load=dict), Spec("plain", load=dict)]
"""


def plugin_file(folder: Path, name: str, source: str) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text("from mousebench import Spec, hookimpl\n" + source)
    return path


# discovery ------------------------------------------------------------------------------------------------------------


def test_our_own_plugins_are_found_among_what_is_installed() -> None:
    ours = [point for point in entry_points(group="mousebench") if point.dist and point.dist.name == "mousebench"]
    found = discover(installed=ours)
    assert not found.broken
    assert {"pixels", "resnet18", "resnet18-random"} <= set(found.identifiers("models"))
    assert {"allen-ns-rdms", "sim-ns"} <= set(found.identifiers("benchmarks"))
    assert {"rsa-nnls", "rsa-nnls-published"} <= set(found.identifiers("metrics"))
    plugin = found.find("models", "pixels").plugin
    assert (plugin.name, plugin.distribution) == ("pixels", "mousebench")
    assert plugin.source_hash()


def test_nothing_is_loaded_before_it_is_used(environment: Environment) -> None:
    environment.install("mine", "lazy", GOOD.format("lazy").replace("load=dict", "load=lambda: 1 / 0"))
    found = discover()
    assert found.identifiers("models") == ["lazy"]
    with pytest.raises(PluginBroken, match=r"model 'lazy' of mine .* version 1.0 cannot be loaded: ZeroDivisionError"):
        found.load("models", "lazy")


def test_one_plugin_may_give_several_kinds(environment: Environment) -> None:
    environment.install("mine", "all", GOOD.format("a") + GOOD.format("b").replace("_models", "_metrics"))
    found = discover()
    assert (found.identifiers("models"), found.identifiers("metrics")) == (["a"], ["b"])


def test_metadata_that_is_there_twice_counts_once(environment: Environment) -> None:
    environment.install("mine", "net", GOOD.format("net"))
    environment.points *= 2
    found = discover()
    assert not found.broken
    assert found.load("models", "net") == {}


# clashes --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def clashing_names(environment: Environment) -> Environment:
    environment.install("first-dist", "net", GOOD.format("one"))
    environment.install("second-dist", "net", GOOD.format("two"))
    environment.install("third-dist", "other", GOOD.format("three"))
    return environment


def test_a_plugin_name_claimed_twice_is_an_error_that_names_both(clashing_names: Environment) -> None:
    found = discover()
    for identifier in ("one", "two"):
        with pytest.raises(PluginConflict) as caught:
            found.load("models", identifier)
        assert "plugin name 'net' is claimed by first-dist (first_dist_net) and by second-dist" in caught.value.message
        assert "uninstall" in caught.value.hint
    assert found.load("models", "three") == {}


def test_a_clash_is_listed_and_is_no_error_of_list(clashing_names: Environment, cli: Cli) -> None:
    text = cli("list")
    assert text.code == 0
    assert text.out.count("broken: plugin 'net' of") == 2
    listed = cli("list", "--json")
    assert listed.code == 0
    content = json.loads(listed.out)
    assert {row["identifier"]: row["status"] for row in content["models"]} == {
        "one": "clash",
        "three": "unreviewed",
        "two": "clash",
    }
    assert {(row["plugin"], row["distribution"]) for row in content["broken"]} == {
        ("net", "first-dist"),
        ("net", "second-dist"),
    }
    assert all("first-dist" in row["cause"] and "second-dist" in row["cause"] for row in content["broken"])


def test_a_clash_is_an_error_when_it_is_used(clashing_names: Environment, cli: Cli) -> None:
    done = cli("show", "one")
    assert done.code == 2
    assert done.out == ""
    assert "first-dist" in done.err
    assert "second-dist" in done.err


def test_an_identifier_of_two_plugins_is_an_error_that_names_both(environment: Environment, cli: Cli) -> None:
    environment.install("first-dist", "mine", GOOD.format("net"))
    environment.install("second-dist", "yours", GOOD.format("net"))
    with pytest.raises(PluginConflict, match=r"model 'net' is provided by first-dist .* and by second-dist"):
        discover().load("models", "net")
    listed = json.loads(cli("list", "--json").out)
    assert [row["status"] for row in listed["models"]] == ["clash", "clash"]
    assert {row["plugin"] for row in listed["broken"]} == {"mine", "yours"}


def test_the_same_identifier_may_be_a_model_and_a_metric(environment: Environment) -> None:
    environment.install("first-dist", "mine", GOOD.format("net"))
    environment.install("second-dist", "yours", GOOD.format("net").replace("_models", "_metrics"))
    found = discover()
    assert not found.broken
    assert found.load("models", "net") == {}


# broken plugins -------------------------------------------------------------------------------------------------------

TYPO = "from mousebench import hookimpl\n@hookimpl\ndef mousebench_model(): return []\n"
NO_SPEC = "from mousebench import hookimpl\n@hookimpl\ndef mousebench_models(): return ['net']\n"
NOT_ITERABLE = "from mousebench import hookimpl\n@hookimpl\ndef mousebench_models(): return 3\n"
ARGUMENT = "from mousebench import hookimpl\n@hookimpl\ndef mousebench_models(manager): return []\n"
BAD_NAME = "from mousebench import Spec, hookimpl\n@hookimpl\ndef mousebench_models(): return [Spec('../x', dict)]\n"
TWICE = "from mousebench import Spec, hookimpl\n@hookimpl\ndef mousebench_models(): return [Spec('x', dict)] * 2\n"


@pytest.mark.parametrize(
    ("source", "cause"),
    [
        ("import no_such_package", "ModuleNotFoundError: No module named 'no_such_package'"),
        ("def broken(:", "SyntaxError"),
        ("raise SystemExit(0)", "SystemExit: 0"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        (TYPO, "mousebench_model"),
        (NO_SPEC, "ContractViolation: mousebench_models gave 'net'; Spec objects are expected"),
        (NOT_ITERABLE, "TypeError"),
        (ARGUMENT, "manager"),
        (BAD_NAME, "'../x' is not an identifier"),
        (TWICE, "model 'x' is declared twice by one plugin"),
    ],
)
def test_a_broken_plugin_is_shown_with_its_cause_and_harms_nobody(
    environment: Environment, cli: Cli, source: str, cause: str
) -> None:
    environment.install("bad-dist", "bad", source)
    environment.install("good-dist", "good", GOOD.format("good"))
    environment.install("zz-dist", "also-good", GOOD.format("also-good"))
    found = discover()
    assert [(broken.plugin, broken.distribution) for broken in found.broken] == [("bad", "bad-dist")]
    assert cause in found.broken[0].cause
    assert "\n" not in found.broken[0].cause
    assert found.identifiers("models") == ["also-good", "good"]
    assert found.load("models", "good") == {}
    listed = cli("list", "--json")
    assert listed.code == 0
    assert cause in json.loads(listed.out)["broken"][0]["cause"]


def test_a_module_that_is_gone_is_broken_too(environment: Environment) -> None:
    module = environment.install("bad-dist", "bad", "x = 1")
    (environment.folder / f"{module}.py").unlink()
    assert "ModuleNotFoundError" in discover().broken[0].cause


def test_what_a_plugin_prints_while_it_is_imported_is_no_result(environment: Environment, cli: Cli) -> None:
    environment.install("loud-dist", "loud", GOOD.format("net") + "\n    print('hello from the plugin')\n")
    listed = cli("list", "--json")
    json.loads(listed.out)
    assert "hello from the plugin" in listed.err


def test_an_interrupted_import_is_no_broken_plugin(environment: Environment) -> None:
    environment.install("slow-dist", "slow", "raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        discover()


def test_an_unknown_identifier_says_that_plugins_are_broken(environment: Environment) -> None:
    environment.install("bad-dist", "bad", "import no_such_package")
    with pytest.raises(UnknownIdentifier) as caught:
        discover().load("models", "net")
    assert "1 plugin(s) are broken" in caught.value.hint


@pytest.mark.parametrize("leave", ["raise SystemExit(0)", "import sys; sys.exit('bye')"])
def test_a_load_that_exits_does_not_end_the_program(environment: Environment, leave: str) -> None:
    source = f"""
        from mousebench import Spec, hookimpl

        def load():
            {leave}

        @hookimpl
        def mousebench_models():
            return [Spec("net", load=load)]
    """
    environment.install("bad-dist", "bad", source)
    with pytest.raises(PluginBroken, match="SystemExit"):
        discover().load("models", "net")


def test_what_a_load_prints_is_no_result(environment: Environment, capsys: pytest.CaptureFixture[str]) -> None:
    environment.install("mine", "net", GOOD.format("net").replace("load=dict", "load=lambda: print('loading')"))
    discover().load("models", "net")
    out, err = capsys.readouterr()
    assert (out, err) == ("", "loading\n")


def test_an_error_that_a_user_can_mend_passes_through(environment: Environment) -> None:
    source = GOOD.format("net") + "\n    from mousebench.errors import MissingData\n"
    source = source.replace("load=dict", "load=load") + "    def load(): raise MissingData('no weights', 'get them')\n"
    environment.install("mine", "net", source)
    with pytest.raises(MissingData, match="no weights"):
        discover().load("models", "net")


# variants and closest names -------------------------------------------------------------------------------------------


@pytest.fixture
def variants(environment: Environment) -> Catalogue:
    environment.install("mine", "net", VARIANTS)
    return discover()


def test_a_variant_is_handed_to_load(variants: Catalogue) -> None:
    assert variants.load("models", "net") == [None]
    assert variants.load("models", "net@3") == ["3"]
    assert variants.load("models", "net@fixed") == {}  # one that is registered as it is


def test_a_variant_of_something_that_has_none_is_unknown(variants: Catalogue) -> None:
    with pytest.raises(UnknownIdentifier, match="model 'plain' has no variants, so 'plain@x' is unknown"):
        variants.load("models", "plain@x")


FAMILY = """
    from mousebench import Spec, hookimpl

    def load(name, variant=None):
        return "trained", name, variant

    def architecture(name, variant=None):
        return "untrained", name, variant

    @hookimpl
    def mousebench_models():
        return [
            Spec("zoo", load, architecture=architecture, missing=lambda: "weights", family=True),
            Spec("zoo/special", load=list),
            Spec("bare", lambda name: name, family=True),
            Spec("bad", dict, missing=lambda: {}["x"]),
        ]
"""


@pytest.fixture
def family(environment: Environment) -> Catalogue:
    environment.install("mine", "zoo", FAMILY)
    return discover()


def test_a_family_answers_to_all_its_names(family: Catalogue) -> None:
    assert family.identifiers("models") == ["bad", "bare/NAME", "zoo/NAME", "zoo/special"]
    assert family.load("models", "zoo/net.v1") == ("trained", "net.v1", None)
    assert family.load("models", "zoo/net@3") == ("trained", "net", "3")
    assert family.load("models", "zoo/special") == []  # one that is registered as it is
    assert family.load("models", "bare/x") == "x"
    entry = family.find("models", "zoo/net@3")
    assert entry.load("zoo/net@3", untrained=True) == ("untrained", "net", "3")
    assert family.find("models", "bare/x").load("bare/x", untrained=True) == "x"  # it has no architecture of its own
    assert family.has("models", "zoo/whatever")
    assert not family.has("models", "zoo")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("zoo", "unknown model 'zoo'"),
        ("zoo/", "unknown model 'zoo/'"),
        ("zoo/A", "unknown model 'zoo/A'"),
        ("zoo/a/b", "unknown model 'zoo/a/b'"),
        ("other/a", "unknown model 'other/a'"),
        ("zoo/NAME", "'zoo/NAME' stands for a family of models"),
        ("bare/x@3", "model 'bare/NAME' has no variants, so 'bare/x@3' is unknown"),
        ("zoo/special@3", "model 'zoo/special' has no variants"),
    ],
)
def test_what_is_no_name_of_a_family_is_unknown(family: Catalogue, wrong: str, said: str) -> None:
    with pytest.raises(UnknownIdentifier, match=said):
        family.load("models", wrong)


def test_two_families_of_one_name_are_a_clash(environment: Environment) -> None:
    for distribution in ("mine", "yours"):
        environment.install(distribution, f"zoo-{distribution}", FAMILY)
    with pytest.raises(PluginConflict, match=r"model 'zoo/NAME' is provided by mine .* and by yours"):
        discover().find("models", "zoo/net")


def test_the_list_says_what_is_missing_and_survives_who_cannot_say(family: Catalogue, cli: Cli) -> None:
    rows = {row["identifier"]: row["missing"] for row in json.loads(cli("list", "--json").out)["models"]}
    assert rows == {"bad": "KeyError: 'x'", "bare/NAME": "", "zoo/NAME": "weights", "zoo/special": ""}
    assert "models (4, 2 of them without a download)" in cli("list").out


@pytest.mark.parametrize("wrong", ["net@", "net@A B", "net@../../x", "net@a@b"])
def test_a_variant_is_an_identifier_too(variants: Catalogue, wrong: str) -> None:
    with pytest.raises(UnknownIdentifier, match="unknown model"):
        variants.load("models", wrong)


@pytest.mark.parametrize(
    ("wrong", "close"), [("pixls", "pixels"), ("resnet-18", "resnet18"), ("alexnt@crop", "alexnet")]
)
def test_did_you_mean(wrong: str, close: str) -> None:
    with pytest.raises(UnknownIdentifier, match=rf"unknown model '{wrong}'; did you mean .*'{close}'") as caught:
        discover().find("models", wrong)
    assert "'mousebench list models' shows all" in caught.value.hint


@pytest.mark.parametrize("wrong", ["../../x", "", "zzzzzz", "PIXELS/..", "pixels\n"])
def test_nonsense_is_unknown(wrong: str) -> None:
    with pytest.raises(UnknownIdentifier, match="unknown model"):
        discover().find("models", wrong)


def test_gabor_has_no_variant() -> None:
    with pytest.raises(UnknownIdentifier, match="'gabor' has no variants"):
        discover().load("models", "gabor@x")


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [("resnet18@big", "its one variant is 'crop'"), ("resnet18-random@x", "seeds"), ("resnet18-random@-1", "seeds")],
)
def test_variants_of_torchvision(wrong: str, hint: str) -> None:
    with pytest.raises(UnknownIdentifier) as caught:
        discover().load("models", wrong)
    assert hint in caught.value.hint or "mousebench list" in caught.value.hint


def test_an_untrained_net_follows_its_seed_and_nothing_else() -> None:
    import torch

    found = discover()
    state = torch.random.get_rng_state()
    prints = {name: found.load("models", name).fingerprint for name in ("alexnet-random", "alexnet-random@3")}
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(12345)
    assert found.load("models", "alexnet-random@0").fingerprint == prints["alexnet-random"]
    assert found.load("models", "alexnet-random@3").fingerprint == prints["alexnet-random@3"]
    assert prints["alexnet-random"] != prints["alexnet-random@3"]


@pytest.mark.parametrize("name", ["resnet18", "resnet18@crop"])
def test_missing_weights_say_which_file_where_and_what_works_without(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("MOUSEBENCH_OFFLINE", "1")
    with pytest.raises(MissingData) as caught:
        discover().load("models", name)
    assert "resnet18-f37072fd.pth" in caught.value.message
    assert str(tmp_path / "torch" / "hub" / "checkpoints") in caught.value.message
    assert "'resnet18-random'" in caught.value.hint
    assert not list(tmp_path.rglob("*.pth*"))


def test_damaged_weights_are_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mousebench.errors import StoreError

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / "resnet18-f37072fd.pth").write_bytes(b"half a file")
    with pytest.raises(StoreError, match=r"resnet18-f37072fd.pth \(11 bytes\) is damaged"):
        discover().load("models", "resnet18")


# files that are not installed -----------------------------------------------------------------------------------------


def test_a_plugin_file_needs_no_installation(tmp_path: Path, environment: Environment, cli: Cli) -> None:
    file = plugin_file(tmp_path, "mine.py", "@hookimpl\ndef mousebench_models(): return [Spec('my-net', dict)]\n")
    row = json.loads(cli("--plugin", file, "list", "--json").out)["models"][0]
    assert row == {
        "identifier": "my-net",
        "description": "",
        "plugin": "local",
        "distribution": "local",
        "status": "local",
        "missing": "",
        "metadata": {},
    }


def test_a_plugin_file_that_does_not_exist_is_an_error(cli: Cli, tmp_path: Path) -> None:
    done = cli("--plugin", tmp_path / "no.py", "list")
    assert done.code == 2
    assert done.err.startswith("error: plugin file ")
    assert "does not exist" in done.err


def test_a_plugin_file_may_be_a_dataclass_user(tmp_path: Path, environment: Environment) -> None:
    # dataclasses look their module up in sys.modules while it is being imported
    source = "from __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass\nclass A:\n    x: int\n"
    file = tmp_path / "mine.py"
    file.write_text(source + "from mousebench import Spec, hookimpl\n@hookimpl\ndef mousebench_models(): return []\n")
    assert not discover([file]).broken


def test_a_broken_plugin_file_is_listed(tmp_path: Path, environment: Environment, cli: Cli) -> None:
    file = plugin_file(tmp_path, "mine.py", "import no_such_package")
    done = cli("--plugin", file, "list")
    assert done.code == 0
    assert "broken: plugin 'mine' of local: ModuleNotFoundError" in done.out


def test_two_plugin_files_of_one_name_are_two_modules_that_claim_one_name(
    tmp_path: Path, environment: Environment
) -> None:
    declare = "@hookimpl\ndef mousebench_models(): return [Spec('{}', dict)]\n"
    first = plugin_file(tmp_path / "a", "mine.py", declare.format("one"))
    second = plugin_file(tmp_path / "b", "mine.py", declare.format("two"))
    found = discover([first, second])
    assert found.identifiers("models") == ["one", "two"]
    with pytest.raises(PluginConflict) as caught:
        found.find("models", "one")
    assert str(first) in caught.value.message
    assert str(second) in caught.value.message


def test_a_plugin_file_cannot_take_the_place_of_an_installed_plugin(tmp_path: Path, environment: Environment) -> None:
    environment.install("mine", "net", GOOD.format("net"))
    file = plugin_file(tmp_path, "thief.py", "@hookimpl\ndef mousebench_models(): return [Spec('net', dict)]\n")
    with pytest.raises(PluginConflict, match=r"model 'net' is provided by mine .* and by local"):
        discover([file]).load("models", "net")


# models that nobody registered ----------------------------------------------------------------------------------------


def test_a_local_model_is_built_by_its_function(tmp_path: Path) -> None:
    from mousebench import load_model

    file = tmp_path / "my_net.py"
    file.write_text("from mousebench_plugins.models.pixels import load as build\n")
    assert list(load_model(f"{file}:build").layers) == ["pixels"]


@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("biuld", "has no function 'biuld'; did you mean 'build'?"),
        ("zzz", "has no function 'zzz'"),
        ("", "no function"),
    ],
)
def test_a_missing_function_is_named(tmp_path: Path, function: str, said: str) -> None:
    from mousebench import load_model

    file = tmp_path / "my_net.py"
    file.write_text("def build(): return 3\nnumber = 3\n")
    with pytest.raises(UsageError) as caught:
        load_model(f"{file}:{function}")
    assert said in caught.value.message


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    from mousebench import load_model

    with pytest.raises(UsageError, match=r"my_net.py' does not exist"):
        load_model(f"{tmp_path}/my_net.py:build")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("import no_such_package", "cannot be imported: ModuleNotFoundError: No module named 'no_such_package'"),
        ("def build(: pass", "cannot be imported: SyntaxError"),
        ("import sys; sys.exit(0)", "cannot be imported: SystemExit"),
        ("def build(): return 1 / 0", "cannot be loaded: ZeroDivisionError"),
        ("def build(size): return 3", "cannot be loaded: TypeError"),
    ],
)
def test_a_file_that_fails_is_the_authors_error(tmp_path: Path, source: str, said: str) -> None:
    from mousebench import load_model

    file = tmp_path / "my_net.py"
    file.write_text(source)
    before = set(sys.modules)
    with pytest.raises(PluginBroken) as caught:
        load_model(f"{file}:build")
    assert said in caught.value.message
    assert "--debug" in caught.value.hint
    if "imported" in said:
        assert not [name for name in set(sys.modules) - before if "my_net" in name]
