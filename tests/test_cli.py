from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import TOY, Cli, files, process

from mousebench.cli import main

COMMANDS = ["list", "show", "fetch", "score", "check", "new", "reproduce", "doctor"]
RESULT = {
    "model",
    "benchmark",
    "benchmark_version",
    "metric",
    "metric_version",
    "seed",
    "sites",
    "mean_score",
    "provenance",
}
SITE = {
    "site",
    "raw",
    "ceiling",
    "score",
    "explained",
    "ci",
    "null",
    "n_stimuli",
    "n_neuroids",
    "n_layers",
    "best_layer",
}


# help and mistakes ----------------------------------------------------------------------------------------------------


def stopped(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as caught:
        main(list(arguments))
    assert caught.value.code == 0
    return capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    import mousebench

    assert stopped(capsys, "--version") == f"mousebench {mousebench.__version__}\n"


def test_the_version_is_that_of_the_distribution() -> None:
    from importlib.metadata import version

    import mousebench

    assert version("mousebench") == mousebench.__version__


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    text = stopped(capsys, "-h")
    for command in COMMANDS:
        assert f"\n    {command} " in text
    for option in ("--plugin", "--home", "--offline", "--debug"):
        assert option in text


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command_shows_an_example_that_parses(capsys: pytest.CaptureFixture[str], command: str) -> None:
    from mousebench.cli import _parser

    text = stopped(capsys, command, "-h")
    example = text.partition("example: mousebench ")[2].split()
    assert example[0] == command
    _parser().parse_args(example)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "required: COMMAND"),
        (("lst",), "unknown 'lst'; did you mean 'list'?"),
        (("list", "modls"), "unknown 'modls'; did you mean 'models'?"),
        (("list", "--jsn"), "unrecognized arguments: --jsn"),
        (("score", "--model", "pixels"), "required: --benchmark"),
        (("score", "--model", "a,,b", "--benchmark", "x"), "'a,,b' has an empty name in it"),
        (("score", "--model", "", "--benchmark", "x"), "'' has an empty name in it"),
        (("score", "--model", "a", "--benchmark", "x", "--seed", "-1"), "'-1' is not a whole number"),
        (("score", "--model", "a", "--benchmark", "x", "--seed", "1.5"), "'1.5' is not a whole number"),
        (("score", "--model", "a", "--benchmark", "x", "--seed", "4294967296"), "not a whole number from 0 to"),
        (("score", "--model", "a", "--benchmark", "x", "--jobs", "0"), "'0' is not a number of at least 1"),
        (("show",), "required: ID"),
        (("show", "pixls"), "nothing is called 'pixls'; did you mean 'pixels'"),
        (("show", "../../x"), "nothing is called '../../x'"),
        (("fetch", "sim-n"), "unknown benchmark 'sim-n'; did you mean 'sim-ns'?"),
    ],
)
def test_a_mistake_is_an_error_with_a_hint_and_exit_2(cli: Cli, arguments: tuple[str, ...], said: str) -> None:
    done = cli(*arguments)
    assert done.code == 2
    assert done.out == ""
    error, hint = done.err.splitlines()
    assert error.startswith("error: ")
    assert said in error
    assert hint.startswith("hint: ")


def test_debug_shows_the_traceback(cli: Cli) -> None:
    from mousebench.errors import UnknownIdentifier

    with pytest.raises(UnknownIdentifier):
        cli("--debug", "fetch", "sim-n")


def test_a_bug_keeps_its_traceback(toy: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mousebench.results.normalise", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        toy("toy-a")


# list and show --------------------------------------------------------------------------------------------------------


def test_list_shows_all_three_kinds(cli: Cli) -> None:
    done = cli("list")
    assert (done.code, done.err) == (0, "")
    for kind, name in (("models", "pixels"), ("benchmarks", "sim-ns"), ("metrics", "rsa-nnls")):
        assert f"{kind} (" in done.out
        assert f"\n  {name} " in done.out


def test_list_of_one_kind(cli: Cli) -> None:
    out = cli("list", "metrics").out
    assert "rsa-nnls" in out
    assert "pixels" not in out


def test_list_as_json(cli: Cli) -> None:
    content = json.loads(cli("list", "--json").out)
    assert list(content) == ["models", "benchmarks", "metrics", "broken"]
    for kind in ("models", "benchmarks", "metrics"):
        for row in content[kind]:
            assert set(row) == {
                "identifier",
                "description",
                "plugin",
                "distribution",
                "status",
                "missing",
                "metadata",
            }
        names = [row["identifier"] for row in content[kind]]
        assert names == sorted(names)
    pixels = next(row for row in content["models"] if row["identifier"] == "pixels")
    assert (pixels["plugin"], pixels["distribution"], pixels["status"]) == ("pixels", "mousebench", "accepted")
    assert set(json.loads(cli("list", "models", "--json").out)) == set(content)


def test_show_a_model_a_benchmark_and_a_metric(cli: Cli) -> None:
    shown = {name: cli("show", name) for name in ("pixels", "rsa-nnls", "allen-ns-rdms")}
    assert all(done.code == 0 for done in shown.values())
    assert "224 x 224" in shown["pixels"].out
    assert "mousebench" in shown["pixels"].out
    assert "Conwell" in shown["rsa-nnls"].out
    assert "responses" in shown["rsa-nnls"].out
    assert "VISp.L23" in shown["allen-ns-rdms"].out


def test_show_a_plugin_file(cli: Cli) -> None:
    done = cli("--plugin", TOY, "show", "toy")
    assert done.code == 0
    assert "24 stimuli of 8 x 8 pixels" in done.out
    assert "local" in done.out


# score ----------------------------------------------------------------------------------------------------------------


def test_json_has_every_field_of_the_contract(toy: Cli) -> None:
    done = toy("toy-a", "--metric", "quick,quick-published", "--json", "-")
    content = json.loads(done.out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert set(content) == {"format", "results"}
    assert content["format"] == 1
    assert [result["metric"] for result in content["results"]] == ["quick", "quick-published"]
    for result in content["results"]:
        assert set(result) >= RESULT
        assert isinstance(result["provenance"], dict)
        assert isinstance(result["seed"], int)
        assert [site["site"] for site in result["sites"]] == ["A", "B", "C"]
        for site in result["sites"]:
            assert set(site) >= SITE
            assert set(site["null"]) >= {"mean", "p"}
            assert site["ci"][0] < site["score"] < site["ci"][1]
            assert 1 / 21 <= site["null"]["p"] <= 1
            assert (site["n_stimuli"], site["n_neuroids"], site["n_layers"]) == (24, 12, 2)
            assert ("r2" in site) == (result["metric"] == "quick-published")
    for site in content["results"][1]["sites"]:
        assert site["r2"] == pytest.approx(site["raw"] ** 2)
        assert site["null"]["intercept_only"] < 0


def test_a_number_that_is_not_known_is_null(toy: Cli) -> None:
    done = toy("toy-a", "--json", "-", benchmark="toy-rdm")
    for site in json.loads(done.out)["results"][0]["sites"]:
        assert site["n_neuroids"] is None
        assert site["raw"] is not None


def test_json_on_stdout_is_alone_there(toy: Cli) -> None:
    done = toy("toy-a,toy-zzz", "--json", "-")
    assert done.code == 2
    assert len(json.loads(done.out)["results"]) == 1
    assert "targets of toy ..." in done.err
    assert "error: unknown model 'toy-zzz'" in done.err


def test_json_in_a_file_comes_beside_the_tables(toy: Cli, tmp_path: Path) -> None:
    done = toy("toy-a", "--json", tmp_path / "new" / "out.json")
    assert "toy-a on toy (version 1), quick, seed 0" in done.out
    assert files(tmp_path / "new") == [Path("out.json")]
    again = toy("toy-a", "--json", "-")
    assert json.loads((tmp_path / "new" / "out.json").read_text()) == json.loads(again.out)


def test_json_is_written_if_all_models_fail(toy: Cli, tmp_path: Path) -> None:
    done = toy("toy-zzz,toy-yyy", "--json", tmp_path / "out.json")
    assert done.code == 2
    assert json.loads((tmp_path / "out.json").read_text()) == {"format": 1, "results": []}


def test_the_table_shows_what_a_person_wants_to_know(toy: Cli) -> None:
    done = toy("toy-a,toy-b")
    assert done.code == 0
    lines = done.out.splitlines()
    header = next(line for line in lines if "ceiling" in line)
    for column in ("site", "score", "raw", "ceiling", "null", "p", "neurons", "best layer"):
        assert column in header
    for site in "ABC":
        assert sum(line.startswith(f" {site} ") or line.startswith(f"{site} ") for line in lines) == 2
    assert any(line.strip().startswith("mean ") for line in lines)
    assert "mean over sites, toy" in done.out
    assert "SIMULATED" not in done.out
    assert "nan" not in done.out
    assert "...\n" in done.err  # progress


def test_simulated_data_are_labelled(cli: Cli, tmp_path: Path) -> None:
    source = TOY.read_text().replace("    version = 1\n", "    version = 1\n    simulated = True\n", 1)
    (tmp_path / "sim.py").write_text(source)
    line = ("--plugin", tmp_path / "sim.py", "score", "--model", "toy-a", "--benchmark", "toy")
    done = cli(*line, "--results", tmp_path / "results")
    assert "SIMULATED DATA" in done.out
    assert "says nothing of a mouse" in done.out
    again = json.loads(cli(*line, "--results", tmp_path / "results", "--json", "-").out)["results"][0]
    assert again["simulated"] is True


def test_equal_names_are_scored_once(toy: Cli) -> None:
    assert len(json.loads(toy("toy-a, toy-a", "--json", "-").out)["results"]) == 1


def test_results_lie_in_the_home_folder_by_default(cli: Cli, tmp_path: Path) -> None:
    other = tmp_path / "another home"
    line = ("--plugin", TOY, "--home", other, "score", "--model", "toy-a", "--benchmark", "toy", "--site", "A")
    assert cli(*line).code == 0
    found = [str(path) for path in files(other)]
    assert "results/toy/v1/quick/toy-a.nc" in found
    assert len(found) == 2
    assert found[0].startswith("representations/toy-a/")


def test_the_default_metric_is_the_benchmarks_first(toy: Cli) -> None:
    assert json.loads(toy("toy-a", "--json", "-").out)["results"][0]["metric"] == "quick"


# processes ------------------------------------------------------------------------------------------------------------


def test_a_reader_that_goes_away_is_no_error() -> None:
    code = "import sys; from mousebench import cli; sys.stdin.read(); sys.exit(cli.main(['list', '--json']))"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    run = subprocess.Popen([sys.executable, "-c", code], **pipes)
    assert run.stdout is not None
    run.stdout.close()
    _, err = run.communicate(timeout=60)
    assert err == b""
    assert run.returncode == 0


def test_the_module_and_the_exit_code_of_the_process() -> None:
    good, bad = process("list", "--json"), process("fetch", "sim-n")
    out, err = good.communicate(timeout=60)
    assert (good.returncode, err) == (0, "")
    assert {"pixels", "alexnet"} <= {row["identifier"] for row in json.loads(out)["models"]}
    out, err = bad.communicate(timeout=60)
    assert (bad.returncode, out) == (2, "")
    assert "Traceback" not in err


def test_the_installed_command_is_there() -> None:
    script = Path(sys.executable).with_name("mousebench")
    if not script.exists():
        pytest.skip("the command is not beside this python")
    done = subprocess.run([script, "--version"], capture_output=True, text=True, env=os.environ)
    assert (done.returncode, done.stdout.split()[0]) == (0, "mousebench")


def test_a_single_unknown_model_is_said_before_any_data_are_made(toy: Cli, calls: Callable[[], list[str]]) -> None:
    done = toy("toy-zzz")
    assert done.code == 2
    assert done.err.startswith("error: unknown model 'toy-zzz'; did you mean")
    assert not any(call.startswith(("stimuli", "target")) for call in calls())


def test_an_unknown_device_is_refused(toy: Cli) -> None:
    done = toy("toy-a", "--device", "cud")
    assert done.code == 2
    assert "did you mean 'cuda'?" in done.err


def test_doctor_shows_what_is_installed_and_where_things_are(cli: Cli, home: Path) -> None:
    done = cli("doctor")
    assert done.code == 0
    rows = dict(line.split(maxsplit=1) for line in done.out.splitlines())
    assert rows["home"] == str(home)
    assert rows["numpy"][0].isdigit()
