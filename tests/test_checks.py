"""Every check is seen to pass, and to fail on a plugin that breaks just that rule."""

from __future__ import annotations

import json
from functools import lru_cache
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from conftest import Cli

from mousebench.catalogue import Catalogue
from mousebench.checks import FAILED, OK, SKIPPED, Outcome, checks_of, entries_of, perform
from mousebench.errors import UnknownIdentifier
from mousebench.plugins import discover
from mousebench.testing import parametrize_checks

BAD = Path(__file__).with_name("bad_plugins.py")
IN_A_FRESH_PROCESS = ("declares lightly", "same in a fresh process", "uses no network")
SIM = "scores sim-ns in range"


@lru_cache(maxsize=1)
def found() -> Catalogue:
    ours = [point for point in entry_points(group="mousebench") if point.dist and point.dist.name == "mousebench"]
    return discover([BAD], installed=ours, trust=True)


def outcomes(identifier: str, *names: str) -> dict[str, Outcome]:
    """Run the checks of these names, all that stay in this process by default."""
    (entry,) = entries_of(identifier, found())
    checks = checks_of(entry, identifier, found())
    chosen = [
        check for check in checks if check.name in names or (not names and check.name not in (*IN_A_FRESH_PROCESS, SIM))
    ]
    assert len(chosen) >= len(names)
    return {outcome.name: outcome for outcome in perform(chosen)}


@parametrize_checks("pixels")
@pytest.mark.usefixtures("sim_home")
def test_pixels(check) -> None:
    check()


@parametrize_checks("rsa-nnls")
@pytest.mark.slow
def test_rsa_nnls(check) -> None:
    check()


@parametrize_checks("sim-ns")
@pytest.mark.slow
def test_sim_ns(check) -> None:
    check()


@parametrize_checks("gabor")
@pytest.mark.slow
@pytest.mark.usefixtures("sim_home")
def test_gabor(check) -> None:
    check()


@parametrize_checks("pls")
@pytest.mark.slow
def test_pls(check) -> None:
    check()


@parametrize_checks("rsa-nnls-published")
@pytest.mark.slow
def test_rsa_nnls_published(check) -> None:
    check()


@pytest.mark.parametrize("identifier", ["m-good", "n-good", "x-good", "b-good"])
def test_a_good_plugin_passes_every_check(identifier: str) -> None:
    done = outcomes(identifier)
    assert {name: one for name, one in done.items() if one.state == FAILED} == {}
    assert sum(one.state == OK for one in done.values()) >= 6


BROKEN = [
    ("m-lambda", "can be pickled", "load cannot be pickled"),
    ("m-no-load", "loads", "cannot be loaded: OSError: no such weights"),
    ("m-no-layer-names", "layers exist", "layers is ['', 'means']"),
    ("m-wrong-layer", "layers exist", "no activations for its layer 'corner'; did you mean 'corners'?"),
    ("n-wrong-layer", "loads", "layer 'conv1': no such module; closest: 'conv'"),
    ("m-nan", "finite", "layer means left out: holds NaN or infinite values"),
    ("m-random", "deterministic", "the same images give other features again: layer 'means'"),
    ("n-noise", "deterministic", "the net is not deterministic: layer 'part'"),
    ("m-batch-statistics", "independent of batch size", "images in smaller batches give other features: layer 'means'"),
    ("n-training", "independent of batch size", "gives image"),
    ("m-position", "independent of image order", "images in another order give other features: layer 'means'"),
    ("n-training", "eval mode", "in training mode while it is scored: part"),
    ("m-number", "fingerprint", "fingerprint is {'variant': 'good', 'size': 3}"),
    ("m-empty", "fingerprint", "fingerprint is {}"),
    ("m-changes", "fingerprint", "changes from one look to the next"),
    ("m-unknown", "fingerprint", "cannot tell preprocess"),
    ("n-same-fingerprint", "fingerprint changes with the weights", "stays the same when a weight changes"),
    ("x-no-version", "says what it is", "version is '1'"),
    ("x-text-accepts", "says what it is", "accepts is 'responses'"),
    ("x-odd-normalisation", "says what it is", "normalisation is 'cubed'"),
    ("x-ceiling-of-2", "ceiling between 0 and 1", "is 2.000, 2.000, 2.000 ..."),
    ("x-other-dims", "ceiling between 0 and 1", "ceiling has dimensions ('fold',), raw ('neuroid',)"),
    ("x-no-raw", "a perfect model reaches the ceiling", "score gives no Dataset with 'raw'"),
    ("x-low-ceiling", "a perfect model reaches the ceiling", "with a ceiling of 0.400"),
    ("x-leaks", "shuffled images score 0", "layers of shuffled images score 0."),
    ("x-pooled", "shuffled images score 0", "layers of shuffled images score -0."),
    ("x-constant-scores", "no layers score 0", "a model without layers scores 0.300"),
    ("x-unseeded", "same seed, same numbers", "the same seed gives another raw"),
    ("x-by-position", "order of neuroids does not matter", "with the neuroids in another order raw differs by"),
    ("x-keeps-all", "NaN and constant neuroids are counted", "of 14 neuroids, two of which"),
    ("x-says-nothing", "NaN and constant neuroids are counted", "it says to have used ?"),
    ("b-text-version", "says what it is", "version is 'one'"),
    ("b-no-sites", "says what it is", "sites is ()"),
    ("b-missing-without-hint", "missing data say how to get them", "hint 'ask a friend'"),
    ("b-float", "stimuli are labelled images", "stimuli are float64"),
    (
        "b-missing-ids",
        "targets are labelled, ids match",
        "site A: the target's stimuli are not the benchmark's: 1 missing",
    ),
    ("b-once", "at least two repetitions", "no neuroid has two trials of every stimulus"),
    ("b-rdm-without-reliability", "at least two repetitions", "the RDM has the reliability None"),
    ("b-other-images", "same content twice", "stimuli has other content"),
    ("b-other-data", "same content twice", "the target of A has other content"),
    ("b-unknown-metric", "metrics exist and accept its targets", "'rsaa', which is not installed; did you mean 'rsa'?"),
    ("b-rdm", "metrics exist and accept its targets", "the metric 'ridge' takes responses, the target of A is rdm"),
]


@pytest.mark.parametrize(("identifier", "name", "said"), BROKEN, ids=[f"{row[0]}-{row[1]}" for row in BROKEN])
def test_a_plugin_that_breaks_a_rule_fails_its_check(identifier: str, name: str, said: str) -> None:
    outcome = outcomes(identifier, name)[name]
    assert outcome.state == FAILED
    assert said in outcome.message
    assert outcome.hint


def test_every_check_is_seen_to_fail() -> None:
    names = {
        check.name
        for identifier in ("n-good", "x-good", "b-good")
        for check in checks_of(entries_of(identifier, found())[0], identifier, found())
    }
    elsewhere = {*IN_A_FRESH_PROCESS, SIM}
    assert {row[1] for row in BROKEN} | elsewhere == names


@pytest.mark.slow
def test_what_a_fresh_process_finds() -> None:
    heavy = outcomes("m-other-process", "declares lightly")["declares lightly"]
    assert heavy.state == FAILED
    assert "numpy" in heavy.message
    assert "torch" in heavy.message
    other = outcomes("m-other-process", "same in a fresh process")["same in a fresh process"]
    assert other.state == FAILED
    assert "a fresh process gives other features: layer 'means'" in other.message
    network = outcomes("b-network", "uses no network")["uses no network"]
    assert network.state == FAILED
    assert "must not use the network" in network.message or "ConnectionRefusedError" in network.message


def test_what_fails_first_keeps_later_checks_from_failing_too() -> None:
    done = outcomes("m-no-load")
    assert [name for name, one in done.items() if one.state == FAILED] == ["loads"]
    assert {one.message for one in done.values() if one.state == SKIPPED} == {"it does not load"}
    noise = outcomes("n-noise")
    assert [name for name, one in noise.items() if one.state == FAILED] == ["deterministic"]


def test_a_model_that_gives_nothing_fails_on_the_simulated_data() -> None:
    outcome = outcomes("m-of-data", SIM)[SIM]
    assert (outcome.state, outcome.message) == (FAILED, "not here")


def test_data_that_are_not_here_are_skipped_with_the_way_to_them() -> None:
    done = outcomes("b-missing")
    assert done["missing data say how to get them"].state == OK
    assert done["stimuli are labelled images"].message == "no data (mousebench fetch bench)"
    half = outcomes("b-half", "targets are labelled, ids match", "missing data say how to get them")
    assert {one.state for one in half.values()} == {OK}


def test_a_model_made_of_data_is_not_given_images() -> None:
    assert outcomes("m-of-data", "finite")["finite"].message == "the model is made of a benchmark's data"


def test_an_unknown_identifier_names_the_closest() -> None:
    with pytest.raises(UnknownIdentifier, match="did you mean 'pixels'"):
        entries_of("pixls", found())


# the command ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_command_says_one_line_a_check_and_exits_1(cli: Cli) -> None:
    done = cli("--plugin", BAD, "check", "b-once")
    assert done.code == 1
    lines = done.out.splitlines()
    assert lines[0] == f"benchmark b-once, of local ({BAD})"
    assert "  ok       can be pickled" in lines
    assert "  FAIL     at least two repetitions: site A: no neuroid has two trials of every stimulus" in lines
    assert lines[
        lines.index("  FAIL     at least two repetitions: site A: no neuroid has two trials of every stimulus") + 1
    ].strip()
    assert lines[-1].startswith("b-once: ")
    assert "2 failed" in lines[-1]  # the plugin is heavy, too


NUMPY_AT_THE_TOP = """
import numpy
from mousebench import Spec, hookimpl
from mousebench.errors import MissingData

class Bench:
    version, sites, metrics = 1, ("A",), ("rsa",)
    def stimuli(self):
        raise MissingData("no data", "mousebench fetch bench")

@hookimpl
def mousebench_benchmarks():
    return [Spec("bench", Bench)]
"""


def test_the_command_as_json(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "bench.py").write_text(NUMPY_AT_THE_TOP)
    done = cli("--plugin", tmp_path / "bench.py", "check", "bench", "--json")
    content = json.loads(done.out)
    assert content["identifier"] == "bench"
    states = {check["name"]: check["state"] for check in content["checks"]}
    assert {name for name, state in states.items() if state == FAILED} == {"declares lightly"}
    assert set(states.values()) == {OK, FAILED, SKIPPED}
    assert set(content["checks"][0]) == {"kind", "name", "state", "message", "hint", "seconds"}


@pytest.mark.parametrize("name", ["../../x", "<script>", "pixls"])
def test_a_name_that_is_none_is_a_users_error(cli: Cli, name: str) -> None:
    done = cli("check", name)
    assert done.code == 2
    assert f"nothing is called {name!r}" in done.err
