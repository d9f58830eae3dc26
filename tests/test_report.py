from __future__ import annotations

import csv
import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from conftest import Cli, files
from test_analysis import CLUSTERS, SITES, facts, rdms, result

from mousebench import analysis
from mousebench.api import catalogue
from mousebench.report import build, claims, figures, page
from mousebench.report.content import number, plain

pytest.importorskip("matplotlib")


def inputs(models: dict[str, float], metrics: tuple[str, ...] = build.FORMS, seed: int = 0) -> build.Inputs:
    """Return what a report is made of: models by their mean score, all in ten sites."""
    rng = np.random.default_rng(seed)
    scores = {}
    for metric in metrics:
        some = []
        for name, mean in models.items():
            score = mean + 0.05 * rng.normal(size=len(SITES))
            draws = score[:, None] + 0.02 * rng.normal(size=(len(SITES), 60))
            some.append(result(name, score, draws, metric=metric))
        scores[metric] = analysis.table(some, facts)
    return build.Inputs("b", scores)


@pytest.fixture(scope="module")
def full() -> build.Inputs:
    """Return inputs of tasks, a net with twins, latent spaces and sites."""
    models = {f"taskonomy/{task}{end}": 0.1 * k for k, task in enumerate(CLUSTERS) for end in ("", "@latent")}
    made = inputs({**models, "alexnet": 0.5, "alexnet-random": 0.2, "alexnet-random@1": 0.25, "resnet18": 0.4})
    made.latents = dict(zip(CLUSTERS, rdms(24, len(CLUSTERS), 0), strict=True))
    made.clusters = dict(CLUSTERS)
    made.sites = dict(zip(SITES, rdms(24, len(SITES), 1), strict=True))
    made.reliabilities = dict.fromkeys(SITES, 0.8)
    return made


@pytest.fixture(scope="module")
def content(full: build.Inputs) -> dict:
    return build.as_json(full, build.make_sections(full, n_splits=4))


@contextmanager
def drawn_once() -> Iterator[dict[str, tuple[bytes, bytes]]]:
    """Draw the first figure of each kind only, and give those: all of them take ten seconds, by the same code."""
    kinds: dict[str, tuple[bytes, bytes]] = {}
    draw = figures.draw

    def first_of_its_kind(kind: str, data: dict) -> tuple[bytes, bytes]:
        if kind not in kinds:
            kinds[kind] = draw(kind, data)
        return kinds[kind]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "draw", first_of_its_kind)
        yield kinds


@pytest.fixture(scope="module")
def folder(content: dict, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a report, written once."""
    out = tmp_path_factory.mktemp("report")
    with drawn_once():
        written = build.write(content, out)
    assert set(files(out)) == {path.relative_to(out) for path in written}
    return out


def section(content: dict, name: str) -> dict:
    (found,) = (one for one in content["sections"] if one["name"] == name)
    return found


def test_the_report_is_one_page_with_everything_beside_it(content: dict, folder: Path) -> None:
    assert json.loads((folder / "report.json").read_text()) == content
    text = (folder / "index.html").read_text()
    for one in content["sections"]:
        assert f'id="{one["name"]}"' in text
        for table in one["tables"]:
            lines = (folder / "tables" / f"{table['name']}.csv").read_text().splitlines()
            rows = list(csv.reader(lines))
            assert rows[0] == table["columns"]
            assert len(rows) == len(table["rows"]) + 1
        for figure in one["figures"]:
            assert (folder / "figures" / f"{figure['name']}.png").read_bytes().startswith(b"\x89PNG")
    assert "<script" not in text
    assert 'src="http' not in text
    assert "@import" not in text


@pytest.mark.slow
def test_the_same_results_give_the_same_bytes(content: dict, folder: Path, full: build.Inputs, tmp_path: Path) -> None:
    with drawn_once() as kinds:
        build.write(build.as_json(full, build.make_sections(full, n_splits=4)), tmp_path)
    assert len(kinds) >= 3
    assert files(tmp_path) == files(folder)
    for name in files(tmp_path):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes(), name


def test_numbers_of_the_page_are_those_of_the_json(content: dict, folder: Path) -> None:
    text = (folder / "index.html").read_text()
    rows = section(content, "tasks-latent-rsa-nnls")["tables"][0]["rows"]
    for row in rows:
        assert f'<td class="n">{number(row[2])}</td>' in text


def test_the_best_task_is_the_planted_one(content: dict) -> None:
    found = section(content, "tasks-latent-rsa-nnls")
    assert found["tables"][0]["rows"][0][0] == list(CLUSTERS)[-1]
    assert "c2 (C)" in found["text"][0]


def test_what_is_missing_is_a_marked_gap(content: dict, folder: Path) -> None:
    gaps = section(content, "architectures-rsa-nnls")["gaps"]
    assert "resnet18" in gaps[0]
    assert "vgg16" in gaps[0]
    assert any("7 of 24" in gap for gap in section(content, "signatures")["gaps"])
    assert "Gap: 7 of 24" in (folder / "index.html").read_text()


@pytest.mark.parametrize("models", [{"pixels": 0.1}, {"alexnet": 0.3}, {"alexnet-random": 0.2, "pixels": 0.1}])
def test_a_report_of_next_to_nothing_is_made_of_gaps(models: dict[str, float], tmp_path: Path) -> None:
    few = inputs(models, ("rsa-nnls",))
    content = build.as_json(few, build.make_sections(few, n_splits=2))
    build.write(content, tmp_path)
    assert sum(len(one["gaps"]) for one in content["sections"]) >= 6


def test_names_are_escaped(tmp_path: Path) -> None:
    bad = inputs({"<script>alert(1)</script>": 0.3, "pixels": 0.1})
    content = build.as_json(bad, build.make_sections(bad, n_splits=2))
    build.write(content, tmp_path)
    text = (tmp_path / "index.html").read_text()
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(1)" in text


def test_simulated_data_have_a_banner() -> None:
    about = {"benchmark": "b", "metrics": {}, "notes": [], "sections": []}
    assert "Simulated data" in page.render({**about, "simulated": True}, {})
    assert "Simulated data" not in page.render({**about, "simulated": False}, {})


def test_plain_data_have_no_numpy_and_no_nan() -> None:
    assert plain({"a": np.float64("nan"), "b": np.arange(2), "c": (np.int64(1), "x", None)}) == {
        "a": None,
        "b": [0, 1],
        "c": [1, "x", None],
    }


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("points", {"labels": ["a"], "series": [{"name": "s", "value": [None]}], "x": "x"}),
        ("heat", {"rows": ["a"], "columns": ["b"], "values": [[None]], "name": "n"}),
        ("heat", {"rows": ["a"], "columns": ["b"], "values": [[0.0]], "name": "n"}),
        (
            "scatter",
            {"panels": [{"x": [None, 1.0], "name": "x"}], "y": [1.0, None], "y_name": "y", "labels": ["a", "b"]},
        ),
    ],
)
def test_figures_of_nothing_are_drawn(kind: str, data: dict) -> None:
    svg, png = figures.draw(kind, data)
    assert b"<svg" in svg
    assert len(png) > 500


def test_the_names_in_the_commands_are_those_of_models() -> None:
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("the commands are for bash")
    script = "; ".join((*claims.NAMES, "echo $NETS,$TWINS,$TASKS,$LATENTS"))
    done = subprocess.run([bash, "-c", script], capture_output=True, text=True, check=True)
    names = done.stdout.strip().split(",")
    assert len(names) == len(set(names)) == 30 + 30 + 24 + 24
    assert all(catalogue().has("models", name) for name in names)


def test_claims_about_single_layers_are_those_of_rsa(full: build.Inputs) -> None:
    scores = full.scores["rsa-nnls"]
    found = claims.values_at_hand({"rsa": scores}, {})
    nets = analysis.only(scores, kind="network")
    trained = float(analysis.only(nets, trained=True)["raw"].mean())
    assert found["rsa_mean"].startswith(f"trained {number(trained)}, untrained ")
    top = nets["raw"].max("model")
    best = str(top["site"].values[top.values.argmax()])
    assert found["rsa_sites"].startswith(f"{best} {number(float(top.max()))} ... ")
    assert "pretraining" not in found


def test_the_papers_dissociation_is_in_the_table_of_claims(content: dict) -> None:
    rows = section(content, "claims")["tables"][0]["rows"]
    assert [row[0] for row in rows] == list(range(1, 23))
    known = {row[1]: row[5] for row in rows}
    assert known["6 areas x 4 layers, 21 recorded sites"] == str(len(SITES))
    assert known["2021: cells, cells at r >= .8, size of the projection"].endswith("4,096")


@pytest.mark.slow
def test_the_command_reports_what_was_scored(cli: Cli, tmp_path: Path) -> None:
    site = ("--site", "VISp.L6,VISl.L6")
    results = ("--results", tmp_path / "results")
    score = (
        "score",
        "--model",
        "pixels,intercept-only",
        "--benchmark",
        "sim-ns",
        "--metric",
        "rsa-nnls,rsa-nnls-published",
    )
    assert cli(*score, *site, *results).code == 0
    done = cli("report", "--benchmark", "sim-ns", *results, "--out", tmp_path / "report", "--splits", "2")
    assert done.code == 0
    assert "index.html" in done.out
    content = json.loads((tmp_path / "report" / "report.json").read_text())
    assert content["simulated"] is True
    stored = analysis.collect(tmp_path / "results", "sim-ns", "rsa-nnls")["score"]
    for site, model, score, *_ in section(content, "best-rsa-nnls")["tables"][0]["rows"]:
        assert score == pytest.approx(float(stored.sel(site=site).max()))
        assert model == str(stored["model"].values[stored.sel(site=site).values.argmax()])
    nothing = section(content, "nothing")["tables"][0]["rows"]
    assert nothing[-1][1] < nothing[0][1] < 0


def test_a_report_without_results_says_what_to_do(cli: Cli, tmp_path: Path) -> None:
    done = cli("report", "--benchmark", "sim-ns", "--results", tmp_path, "--out", tmp_path / "report")
    assert done.code == 2
    assert "hint: mousebench score" in done.err
    assert not (tmp_path / "report").exists()
