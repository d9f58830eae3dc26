from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import boards
import numpy as np
import pytest
from boards import SITES, put, result
from conftest import Cli, Environment, files

from mousebench import board, board_files, leaderboard, matrix, paired, store
from mousebench.errors import StoreError
from mousebench.plugins import discover
from mousebench.progress import Lines
from mousebench.registry import read_registry

TESTS = Path(__file__).parent


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a folder of results beside a registry that asks for them."""
    monkeypatch.setenv("MOUSEBENCH_REGISTRY", str(boards.registry(tmp_path / "registry.yaml")))
    folder = tmp_path / "results"
    for name, quality in (("net-a", 0.5), ("net-b", 0.3), ("net-b-random", 0.2), ("pixels", 0.1)):
        put(folder, result(name, quality))
    return folder


def made(results: Path) -> board.Leaderboard:
    return board.make(results, read_registry())


def only(results: Path) -> board.Board:
    (one,) = made(results).boards
    return one


# the board ------------------------------------------------------------------------------------------------------------


def test_models_are_ranked_best_first_and_controls_are_set_apart(results: Path) -> None:
    one = only(results)
    assert [row.model for row in one.rows] == ["net-a", "net-b", "net-b-random", "pixels"]
    assert [row.rank for row in one.rows] == [1, 2, 3, None]
    assert [row.model for row in one.controls] == ["pixels"]


def test_models_that_cannot_be_told_apart_share_a_rank(results: Path) -> None:
    put(results, result("net-c", 0.5))
    one = only(results)
    assert {row.model for row in one.models[:2]} == {"net-a", "net-c"}
    assert [row.rank for row in one.models] == [1, 1, 3, 4]
    table = paired.ranks([store.read(results / row.file) for row in one.models])
    assert [row.rank_low for row in one.models] == table["rank_low"].values.tolist()


def test_the_numbers_are_means_over_sites_of_the_result(results: Path) -> None:
    row = only(results).row("net-a")
    stored = store.read(results / "bench/v2/quick/net-a.nc")
    assert row is not None
    assert row.score == pytest.approx(stored["score"].values.mean(), abs=1e-12)
    assert row.raw == pytest.approx(stored["raw"].values.mean(), abs=1e-12)
    assert (row.low, row.high) == (stored.attrs["mean_score_low"], stored.attrs["mean_score_high"])
    assert row.significant == len(SITES)


def test_an_untrained_twin_is_named(results: Path) -> None:
    one = only(results)
    assert [row.untrained for row in one.models] == ["", "net-b-random", ""]


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"distribution": "local"}, "local model"),
        ({"distribution": "evil-dist"}, "registry.yaml gives it to nets of my-dist"),
        ({"plugin": "other"}, "registry.yaml gives it to nets of my-dist"),
        ({"format": 1}, "format 1"),
        ({"seed": 3}, "seed 3"),
        ({"metric_version": 2}, "of version 2"),
        ({"sites": SITES[:3]}, "lacks 6 of 9 sites"),
        ({"definition": '{"folds": 7}'}, "another definition"),
    ],
)
def test_what_is_not_comparable_is_left_out_with_the_reason(results: Path, wrong: dict, reason: str) -> None:
    put(results, result("net-c", **wrong))
    found = made(results)
    assert found.boards[0].row("net-c") is None
    (told,) = [text for text, names in found.left_out.items() if "bench/v2/quick/net-c.nc" in names]
    assert reason in told


def test_more_that_is_left_out(results: Path) -> None:
    put(results, result("unknown-net"))
    put(results, result("draft-net", plugin="drafts"))
    put(results, result("net-a@variant"))
    put(results, result("odd"))
    put(results, result("net-a"), version=1)
    put(results, result("net-a", metric="third"))
    put(results, result("net-a"), name="net-c")
    (results / "bench/v2/quick/noise.nc").write_bytes(b"not netCDF")
    (results / "stray.nc").write_bytes(b"")
    left = made(results).left_out
    texts = {name: reason for reason, names in left.items() for name in names}
    assert "not in registry.yaml" in texts["bench/v2/quick/unknown-net.nc"]
    assert "not accepted but draft" in texts["bench/v2/quick/draft-net.nc"]
    assert "does not ask for it" in texts["bench/v2/quick/net-a%40variant.nc"]
    assert "leaves odd out" in texts["bench/v2/quick/odd.nc"]
    assert "version 2" in texts["bench/v1/quick/net-a.nc"]
    assert "does not ask for third" in texts["bench/v2/third/net-a.nc"]
    assert "its path does not say" in texts["bench/v2/quick/net-c.nc"]
    assert "cannot be read" in texts["bench/v2/quick/noise.nc"]
    assert "where a result belongs" in texts["stray.nc"]


def test_no_site_with_a_score_has_no_number_and_no_rank(results: Path) -> None:
    nothing = result("net-c")
    nothing["score"][:] = np.nan
    put(results, nothing.assign_attrs(mean_score=np.nan))
    row = only(results).rows[3]
    assert (row.model, row.rank) == ("net-c", None)
    assert "| net-c | **-** |" in board_files.markdown(made(results)).replace("|  |  | net-c", "| net-c")


# files ----------------------------------------------------------------------------------------------------------------


def test_the_files_agree(results: Path) -> None:
    found = made(results)
    texts = board_files.texts(found)
    content = json.loads(texts["leaderboard.json"])
    lines = list(csv.DictReader(io.StringIO(texts["leaderboard.csv"])))
    models = content["boards"][0]["models"]
    assert [line["model"] for line in lines] == [one["model"] for one in models]
    assert [float(line["score"]) for line in lines] == [one["score"] for one in models]
    assert models[0]["by_site"]["score"] == [float(f"{v:.6g}") for v in found.boards[0].rows[0].sites["score"]]
    assert f"**{models[0]['score']:.3f}**" in texts["LEADERBOARD.md"]


def test_simulated_data_are_called_so(results: Path) -> None:
    assert "Simulated data" not in board_files.markdown(made(results))
    put(results, result("net-c", simulated=1))
    assert "**Simulated data." in board_files.markdown(made(results))


def test_markdown_shows_names_as_they_are(results: Path) -> None:
    put(results, result("net-c", definition='{"a": 1}'), name="<script>alert(1)|x")
    text = board_files.markdown(made(results))
    assert "<script" not in text
    assert "&lt;script&gt;alert(1)\\|x.nc" in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.count("|") - line.count("\\|") for line in rows[:4]}) == 1


@pytest.mark.parametrize(("value", "text"), [(float("nan"), "-"), (-0.0001, "0.000"), (-0.25, "-0.250")])
def test_numbers(value: float, text: str) -> None:
    assert board_files.number(value) == text


# the command ----------------------------------------------------------------------------------------------------------


def test_writing_twice_gives_the_same_bytes_and_the_second_time_nothing_is_done(cli: Cli, results: Path) -> None:
    out = results.parent
    first = cli("leaderboard", "--results", results, "--no-score")
    assert first.code == 0
    before = {name: (out / name).read_bytes() for name in ("LEADERBOARD.md", "leaderboard.csv", "leaderboard.json")}
    again = cli("leaderboard", "--results", results, "--no-score")
    assert "up to date" in again.err
    for name in before:
        (out / name).unlink()
    assert "wrote" in cli("leaderboard", "--results", results, "--no-score").err
    assert {name: (out / name).read_bytes() for name in before} == before
    assert not list(out.glob(".*tmp*"))


def test_an_edit_is_undone(cli: Cli, results: Path) -> None:
    cli("leaderboard", "--results", results, "--no-score")
    file = results.parent / "LEADERBOARD.md"
    right = file.read_text()
    file.write_text(right.replace("0.5", "0.9"))
    assert "LEADERBOARD.md" in cli("leaderboard", "--results", results, "--no-score").err
    assert file.read_text() == right


def test_without_results_there_is_an_error_and_a_hint(cli: Cli, tmp_path: Path) -> None:
    done = cli("leaderboard", "--results", tmp_path / "none", "--check")
    assert done.code == 2
    assert "hint: name it with --results" in done.err


def test_an_empty_folder_gives_an_empty_board(cli: Cli, tmp_path: Path, results: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert cli("leaderboard", "--results", tmp_path / "empty", "--out", tmp_path, "--no-score").code == 0
    assert "no results yet" in (tmp_path / "LEADERBOARD.md").read_text()


def test_a_killed_run_leaves_the_old_file(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = leaderboard.Place(results, results.parent)
    leaderboard.write(place)
    old = (results.parent / "LEADERBOARD.md").read_bytes()
    put(results, result("net-c"))
    monkeypatch.setattr("pathlib.Path.write_bytes", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        leaderboard.write(place)
    assert (results.parent / "LEADERBOARD.md").read_bytes() == old
    assert not list(results.parent.glob(".*tmp*"))


# what is to be done ---------------------------------------------------------------------------------------------------

PLUGIN = """
    import os
    from functools import partial
    from mousebench import Spec, hookimpl
    import toy

    mousebench_benchmarks, mousebench_metrics = toy.mousebench_benchmarks, toy.mousebench_metrics

    @hookimpl
    def mousebench_models():
        yield Spec("toy-a", load=partial(toy.Projections, "toy-a"), description="first", metadata={"parameters": 7})
        yield Spec("toy-b", load=partial(toy.Projections, "toy-b"))
        yield Spec("leaves", load=partial(os._exit, 0))
        yield Spec("dies", load=partial(os.kill, os.getpid(), 9))
        yield Spec("lacks", load=dict, missing=lambda: "weights")
"""
TOYS = """
schema: 1
plugins:
  toys:
    distribution: my-dist
    status: accepted
    version: 1
    models: {toy-a: me, toy-b: me, leaves: me, dies: me, lacks: me}
    benchmarks: {toy: me}
    metrics: {quick: me, each: me}
citations: {me: Me}
leaderboard:
  - {benchmark: toy, metrics: [quick, each], sites: all, models: [toy-a, toy-b, lacks], controls: []}
"""


@pytest.fixture
def toys(environment: Environment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Install a distribution with the toy benchmark and two models, for this process and those it starts."""
    module = environment.install("my-dist", "toys", PLUGIN)
    monkeypatch.syspath_prepend(TESTS)
    monkeypatch.setenv("PYTHONPATH", f"{environment.folder}:{TESTS}")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    registry = tmp_path / "registry.yaml"
    registry.write_text(TOYS)
    monkeypatch.setenv("MOUSEBENCH_REGISTRY", str(registry))
    assert module == "my_dist_toys"
    return tmp_path


def planned(toys: Path) -> matrix.Plan:
    return matrix.plan(read_registry(), discover(), toys / "results")


def states(toys: Path) -> dict[str, str]:
    return {f"{cell.model} {cell.metric}": f"{cell.state} {cell.reason}{cell.blocked}" for cell in planned(toys).cells}


def scored(toys: Path, cli: Cli, models: str = "toy-a,toy-b") -> None:
    done = cli(
        "score", "--model", models, "--benchmark", "toy", "--metric", "quick,each", "--results", toys / "results"
    )
    assert done.code == 0, done.err


def test_all_is_missing_at_first_and_what_needs_a_download_is_left_out(toys: Path, cli: Cli) -> None:
    assert states(toys)["toy-a quick"] == "missing "
    assert states(toys)["lacks quick"] == "missing weights"
    assert [str(unit) for unit in planned(toys).units()] == ["toy-a on toy, quick, each", "toy-b on toy, quick, each"]
    done = cli("leaderboard", "--results", toys / "results", "--dry-run")
    assert done.code == 0
    assert done.out.splitlines() == [
        "to score: toy-a on toy, quick, each",
        "to score: toy-b on toy, quick, each",
        "left out, needs weights: lacks",
    ]
    assert not (toys / "results").exists()


def test_what_is_scored_is_there_and_carries_what_the_plugin_says(toys: Path, cli: Cli) -> None:
    scored(toys, cli)
    assert set(states(toys).values()) == {"there ", "missing weights"}
    assert planned(toys).units() == []
    assert len(planned(toys).units(verify=True)) == 2
    row = made(toys / "results").boards[0].row("toy-a")
    assert row is not None
    assert row.metadata == {"parameters": 7}
    assert row.provenance["model"]["description"] == "first"


def test_what_makes_a_cell_stale(toys: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    import toy

    scored(toys, cli, "toy-a")

    def reason(metric: str = "quick") -> str:
        matrix._file_hash.cache_clear()
        return states(toys)[f"toy-a {metric}"]

    assert reason() == "there "
    monkeypatch.setattr(toy.Toy, "version", 2)
    assert reason() == "missing "  # its folder is named after the version
    monkeypatch.setattr(toy.Toy, "version", 1)
    monkeypatch.setattr(toy.Each, "version", 5)
    assert reason("each") == "stale metric version is 1, now 5"
    monkeypatch.setattr(toy.Each, "version", 1)
    monkeypatch.setenv("TOY_REPEATS", "3")
    assert "definition changed" in reason()
    monkeypatch.delenv("TOY_REPEATS")
    monkeypatch.setenv("TOY_TARGET_B", "9")
    assert reason() == "stale the data of 1 site(s) changed: B"
    monkeypatch.delenv("TOY_TARGET_B")
    monkeypatch.setenv("TOY_IMAGES", "9")
    assert reason() == "stale the stimuli changed"
    monkeypatch.delenv("TOY_IMAGES")
    monkeypatch.setattr(toy.Toy, "sites", ("A", "B", "C", "D"))
    assert "not scored on 1 site(s): D" in reason()
    monkeypatch.undo()


def test_a_changed_plugin_a_raised_version_and_damage_make_a_cell_stale(toys: Path, cli: Cli) -> None:
    scored(toys, cli, "toy-a")
    registry, plugin = toys / "registry.yaml", toys / "site-packages/my_dist_toys.py"
    registry.write_text(TOYS.replace("version: 1\n    models", "version: 2\n    models"))
    assert "version 1 of plugin 'toys', now 2" in states(toys)["toy-a quick"]
    unit = planned(toys).units()[0]
    assert unit.force
    registry.write_text(TOYS)
    source = plugin.read_text()
    plugin.write_text(source + "\n# another line\n")
    assert "the file of plugin 'toys' changed" in states(toys)["toy-a quick"]
    plugin.write_text(source)
    next((toys / "results").rglob("quick/toy-a.nc")).write_bytes(b"damaged")
    assert "cannot be read" in states(toys)["toy-a quick"]


def test_the_file_of_the_class_is_looked_at_without_loading_the_model(toys: Path, cli: Cli) -> None:
    scored(toys, cli, "toy-a")
    head = store.header(next((toys / "results").rglob("quick/toy-a.nc")))
    assert head.provenance["model"]["class"]["module"] == "toy"
    was = {**head.provenance["model"], "class": {"module": "toy", "sha256": "0" * 64}}
    plugin = discover().find("models", "toy-a").plugin
    assert matrix._plugin_changed(was, plugin, read_registry()) == "the file of toy changed"


def test_the_header_is_what_read_gives(toys: Path, cli: Cli) -> None:
    scored(toys, cli, "toy-a")
    path = next((toys / "results").rglob("quick/toy-a.nc"))
    head, whole = store.header(path), store.read(path)
    assert head.attrs == {name: whole.attrs[name] for name in head.attrs}
    assert head.targets == dict(zip(whole["site"].values.tolist(), whole["target_sha256"].values.tolist(), strict=True))
    with pytest.raises(StoreError, match="cannot be read"):
        store.header(toys / "registry.yaml")


def test_all_accepted_models_but_the_families_and_those_left_out(toys: Path) -> None:
    text = TOYS.replace("models: [toy-a, toy-b, lacks]", "models: all-accepted").replace(
        "controls: []", "controls: [], except: [dies]"
    )
    (toys / "registry.yaml").write_text(text)
    row = read_registry().leaderboard[0]
    assert matrix.models_of(row, read_registry(), discover()) == ["lacks", "leaves", "toy-a", "toy-b"]


def test_check_finds_what_is_missing_stale_or_not_as_written(toys: Path, cli: Cli) -> None:
    scored(toys, cli, "toy-a")
    place = ("--results", toys / "results")
    done = cli("leaderboard", *place, "--check")
    assert done.code == 1
    assert "missing: toy-b on toy, quick\n" in done.out
    assert "LEADERBOARD.md is not there" in done.out
    assert "lacks" not in done.out
    scored(toys, cli, "toy-b")
    assert cli("leaderboard", *place, "--no-score").code == 0
    assert cli("leaderboard", *place, "--check").code == 0
    with (toys / "leaderboard.csv").open("a") as file:
        file.write("me,first\n")
    done = cli("leaderboard", *place, "--check")
    assert (done.code, done.out.strip()) == (1, f"{toys / 'leaderboard.csv'} is not what results and registry give")


def test_a_crash_of_one_model_harms_no_other(toys: Path, cli: Cli) -> None:
    (toys / "registry.yaml").write_text(
        TOYS.replace("[toy-a, toy-b, lacks]", "[leaves, toy-a, dies]").replace("quick, each]", "quick]", 1)
    )
    done = cli("leaderboard", "--results", toys / "results", "--jobs", "2")
    assert done.code == 2
    assert "leaves on toy, quick: no result of quick was stored, and nothing was said" in done.err
    assert "dies on toy, quick: its process was ended by SIGKILL" in done.err
    assert files(toys / "results", "*.nc") == [Path("toy/v1/quick/toy-a.nc")]
    assert "toy-a" in (toys / "LEADERBOARD.md").read_text()


def test_two_leaderboards_at_once_wait_for_each_other(toys: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    fcntl = pytest.importorskip("fcntl")
    scored(toys, cli)
    first = os.open(toys / "results", os.O_RDONLY)  # what the first one holds
    fcntl.flock(first, fcntl.LOCK_EX)
    said = []

    def note(_: Lines, text: str) -> None:
        said.append(text)
        if "another leaderboard is at work" in text:
            assert not (toys / "LEADERBOARD.md").exists()
            os.close(first)  # it is done

    monkeypatch.setattr(Lines, "note", note)
    assert cli("leaderboard", "--results", toys / "results").code == 0
    assert sum("another leaderboard is at work" in text for text in said) == 1
    assert (toys / "LEADERBOARD.md").exists()


def test_scoring_leaves_torch_alone_when_nothing_is_to_do(results: Path, tmp_path: Path) -> None:
    code = f"""
        import sys
        from mousebench.cli import main
        assert main(["leaderboard", "--results", {str(results)!r}, "--no-score"]) == 0
        assert "torch" not in sys.modules
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_unknown_names_in_the_matrix_are_said_and_the_rest_goes_on(toys: Path, cli: Cli) -> None:
    (toys / "registry.yaml").write_text(TOYS.replace("[toy-a, toy-b, lacks]", "[toy-a, toy-z]"))
    done = cli("leaderboard", "--results", toys / "results", "--dry-run")
    assert done.code == 2
    assert "unknown model 'toy-z'" in done.err
    assert "to score: toy-a" in done.out
