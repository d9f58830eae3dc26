"""``mousebench compare`` and ``mousebench.compare``, with the plugin of toy.py."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import TOY, Cli, Environment, Outcome, files

import mousebench as mb
from mousebench import api
from mousebench.errors import UsageError
from mousebench.paired import compare, difference
from mousebench.plugins import discover
from mousebench.store import read

Compare = Callable[..., Outcome]


@pytest.fixture
def against(cli: Cli, environment: Environment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Compare:
    """Compare with the plugin of toy.py alone: ``against("a b")`` is ``compare a b --benchmark toy``."""
    monkeypatch.setenv("TOY_LOG", str(tmp_path / "toy.log"))
    monkeypatch.setenv("TOY_REPEATS", "1")

    def run(models: str, *arguments: str | Path, benchmark: str = "toy") -> Outcome:
        results = ("--results", tmp_path / "results")
        return cli("--plugin", TOY, "compare", *models.split(), "--benchmark", benchmark, *results, *arguments)

    return run


THREE = "toy-a toy-b toy-bad@constant"


def test_two_models_are_shown_by_site(against: Compare, tmp_path: Path) -> None:
    done = against("toy-a toy-b")
    assert done.code == 0
    lines = done.out.splitlines()
    assert lines[0].strip() == "toy-a less toy-b on toy (version 1), quick, seed 0"
    assert lines[1].split() == ["site", "toy-a", "toy-b", "difference", "95", "%", "p", "corrected", "p"]
    stored = [read(tmp_path / "results" / "toy" / "v1" / "quick" / f"{name}.nc") for name in ("toy-a", "toy-b")]
    apart = difference(*stored)
    rows = {line.split()[0]: line.split() for line in lines[3:] if line.strip()}
    assert list(rows) == ["A", "B", "C", "mean"]
    for site in "ABC":
        assert rows[site][3] == f"{float(apart['difference'].sel(site=site)):.3f}"
        assert rows[site][-1] == f"{float(apart['p_corrected'].sel(site=site)):.4f}"
    assert rows["mean"][1] == f"{stored[0].attrs['mean_score']:.3f}"
    assert rows["mean"][-1] == f"{float(apart['mean_p']):.4f}"


def test_more_than_two_models_are_ranked_and_compared_in_pairs(against: Compare) -> None:
    done = against(THREE)
    assert done.code == 0
    ranks, pairs = done.out.split("\n\n")[:2]
    rows = [line.split() for line in ranks.splitlines()[3:]]
    assert [row[0] for row in rows] == ["1", "2", "3"]
    assert {row[5] for row in rows} == set(THREE.split())
    assert all(row[-2:] == ["of", "3"] for row in rows)
    order = [row[5] for row in rows]
    found = [line.split()[:3] for line in pairs.splitlines()[3:]]
    assert [row[:2] for row in found] == [[order[0], order[1]], [order[0], order[2]], [order[1], order[2]]]
    assert all(float(row[2]) >= 0 for row in found)  # the better one first
    assert "nan" not in done.out


def test_json_holds_ranks_and_every_pair_once_in_the_order_given(against: Compare) -> None:
    content = json.loads(against(THREE, "--json", "-").out)
    assert {key: content[key] for key in ("format", "benchmark", "metric", "seed", "simulated", "notes")} == {
        "format": 1,
        "benchmark": "toy",
        "metric": "quick",
        "seed": 0,
        "simulated": False,
        "notes": [],
    }
    assert [row["rank"] for row in content["models"]] == [1, 2, 3]
    a, b, c = THREE.split()
    assert [(pair["a"], pair["b"]) for pair in content["pairs"]] == [(a, b), (a, c), (b, c)]
    scores = {row["model"]: row for row in content["models"]}
    for pair in content["pairs"]:
        both = scores[pair["a"]], scores[pair["b"]]
        assert pair["mean"]["difference"] == pytest.approx(both[0]["mean_score"] - both[1]["mean_score"])
        assert pair["mean"]["ci"][0] < pair["mean"]["difference"] < pair["mean"]["ci"][1]
        assert pair["mean"]["p"] <= pair["mean"]["p_corrected"] <= 1
        for number, site in enumerate(pair["sites"]):
            assert site["site"] == "ABC"[number]
            expected = both[0]["sites"][number]["score"] - both[1]["sites"][number]["score"]
            assert site["difference"] == pytest.approx(expected)
    for row in content["models"]:
        assert row["rank_ci"][0] <= row["rank"] <= row["rank_ci"][1]
        assert row["mean_ci"][0] < row["mean_score"] < row["mean_ci"][1]
        assert all(site["null_p"] <= site["null_p_corrected"] for site in row["sites"])


def test_the_same_net_twice_differs_by_nothing(against: Compare, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        f"import sys\nsys.path.insert(0, {str(TOY.parent)!r})\nfrom toy import Projections\n\n\n"
        "def one():\n    return Projections('toy-a')\n\n\ndef two():\n    return Projections('toy-a')\n"
    )
    path = tmp_path / "net.py"
    content = json.loads(against(f"{path}:one {path}:two", "--json", "-").out)
    assert [row["rank"] for row in content["models"]] == [1, 1]
    (pair,) = content["pairs"]
    assert (pair["a"], pair["b"]) == ("net:one", "net:two")
    for row in (pair["mean"], *pair["sites"]):
        assert (row["difference"], row["p"], row["ci"]) == (0, 1, pytest.approx([0, 0], abs=1e-6))


def test_what_is_stored_is_not_scored_again(against: Compare, toy: Cli, calls: Callable[[], list[str]]) -> None:
    toy("toy-a,toy-b")  # by ``score``
    calls()
    against("toy-a toy-b")
    assert not [call for call in calls() if call.startswith(("score", "activations"))]


def test_sites_and_metric_can_be_chosen(against: Compare) -> None:
    content = json.loads(against("toy-a toy-b", "--site", "C,A", "--metric", "each", "--json", "-").out)
    assert content["metric"] == "each"
    assert [site["site"] for site in content["pairs"][0]["sites"]] == ["A", "C"]


def test_a_model_that_fails_is_said_and_the_others_are_compared(against: Compare) -> None:
    done = against("toy-a toy-bad@raises toy-b", "--json", "-")
    assert done.code == 2
    assert "error: model 'toy-bad@raises'" in done.err
    assert {row["model"] for row in json.loads(done.out)["models"]} == {"toy-a", "toy-b"}


def test_one_model_that_is_left_cannot_be_compared(against: Compare) -> None:
    done = against("toy-a toy-bad@raises")
    assert (done.code, done.out) == (2, "")
    assert "error: model 'toy-bad@raises'" in done.err
    assert "error: 1 of 2 models could be scored: there is nothing to compare" in done.err


@pytest.mark.parametrize(
    ("models", "arguments", "said"),
    [
        ("toy-a", (), "error: there is nothing to compare with one model or none"),
        ("toy-a toy-a", (), "error: model 'toy-a' is given twice"),
        ("toy-a toy-zzz", (), "error: unknown model 'toy-zzz'; did you mean"),
        ("toy-a toy-b", ("--metric", "quik"), "error: unknown metric 'quik'; did you mean 'quick'?"),
        ("toy-a toy-b", ("--site", "D"), "error: 'toy' has no site 'D'"),
    ],
)
def test_mistakes_are_said_before_any_data_are_made(
    against: Compare, calls: Callable[[], list[str]], models: str, arguments: tuple[str, ...], said: str
) -> None:
    done = against(models, *arguments)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(said)
    assert "hint: " in done.err
    assert not calls()


def test_a_stored_result_can_be_compared_by_its_name(against: Compare, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        f"import sys\nsys.path.insert(0, {str(TOY.parent)!r})\nfrom toy import Projections\n\n\n"
        "def one():\n    return Projections('toy-a')\n"
    )
    first = json.loads(against(f"{tmp_path / 'net.py'}:one toy-b", "--json", "-").out)
    (tmp_path / "net.py").unlink()
    again = against("net:one toy-b", "--json", "-")
    assert again.code == 0
    assert json.loads(again.out) == first
    assert "note: net:one: the stored result as it is (unknown model 'net:one'" in again.err
    other = against("net:one toy-b", "--seed", "1")
    assert (other.code, "unknown model 'net:one'" in other.err) == (2, True)


def test_json_in_a_file_comes_beside_the_tables(against: Compare, tmp_path: Path) -> None:
    done = against("toy-a toy-b", "--json", tmp_path / "new" / "out.json")
    assert "toy-a less toy-b" in done.out
    assert files(tmp_path / "new") == [Path("out.json")]
    assert json.loads((tmp_path / "new" / "out.json").read_text()) == json.loads(
        against("toy-a toy-b", "--json", "-").out
    )


# Python ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def toys(environment: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    found = discover([str(TOY)])
    monkeypatch.setattr("mousebench.api.discover", lambda **_: found)


@pytest.mark.usefixtures("toys")
def test_models_are_compared_from_python() -> None:
    table = mb.compare(["toy-a", "toy-b"], "toy", sites=["A", "B"])
    scored = [mb.score(name, "toy", sites=["A", "B"]) for name in ("toy-a", "toy-b")]
    assert table.identical(compare(scored))
    assert table["site"].values.tolist() == ["A", "B"]
    np.testing.assert_array_equal(table["mean_score"], [result.attrs["mean_score"] for result in scored])
    low_high = [[result.attrs[f"mean_score_{end}"] for result in scored] for end in ("low", "high")]
    np.testing.assert_allclose([table["mean_score_low"], table["mean_score_high"]], low_high, rtol=1e-6)


@pytest.mark.usefixtures("toys")
def test_objects_of_one_class_are_told_apart_by_names_of_your_own() -> None:
    one, two = api.load_model("toy-a"), api.load_model("toy-b")
    with pytest.raises(UsageError, match="model 'python:Projections' is given twice"):
        mb.compare([one, two], "toy", sites=["A"])
    table = mb.compare({"my first": one, "my second": two}, "toy", sites=["A"])
    assert table["model"].values.tolist() == ["my first", "my second"]
    same = mb.compare(["toy-a", "toy-b"], "toy", sites=["A"])
    np.testing.assert_array_equal(table["difference"], same["difference"])
