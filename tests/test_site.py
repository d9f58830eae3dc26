from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import boards
import pytest
from boards import put, result
from conftest import Cli, files

from mousebench import board
from mousebench.registry import read_registry
from mousebench.site import pages, views

EVIL = "<script>alert(1)</script>"
VOID = {"meta", "link", "input", "br", "path", "use"}


class Page(HTMLParser):
    """The elements of a page; complains about one that is not closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.elements if name == tag]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a home in which the plots of one test are there for the next."""
    return tmp_path_factory.mktemp("kept")


@pytest.fixture
def results(tmp_path: Path, kept: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MOUSEBENCH_HOME", str(kept))
    monkeypatch.setenv("MOUSEBENCH_REGISTRY", str(boards.registry(tmp_path / "registry.yaml")))
    folder = tmp_path / "results"
    put(folder, result("net-a", 0.4, metadata={"training": EVIL}, layer_names=[EVIL, "b$x$", "c"]))
    put(folder, result("net-b", 0.3, n_layers=1))
    put(folder, result("net-b-random", 0.2, notes=json.dumps([EVIL]), n_layers=1))
    put(folder, result("pixels", 0.1, n_layers=1))
    put(folder, result("net-b", 0.3, n_layers=1, metric="other"))
    put(folder, result("net-c", plugin=EVIL))
    put(folder, result("net-c"), name=EVIL.replace("/", ""))
    return folder


def site(results: Path) -> dict[str, str]:
    return dict(pages(board.make(results, read_registry())))


def test_the_site_is_one_folder_of_pages_that_link_to_each_other_and_to_nothing_else(results: Path) -> None:
    made = site(results)
    assert {"index.html", "bench---other.html", "models/net-b-random.html", "benchmarks/bench.html"} < set(made)
    for name, text in made.items():
        if not name.endswith(".html"):
            continue
        page = Page(text)
        links = [one["href"] for one in page.all("a") + page.all("link")] + [one["src"] for one in page.all("script")]
        for link in links:
            if link is not None and not link.startswith(("#", "data:")):
                target = (Path(name).parent / link).as_posix()
                assert re.sub(r"[^/]+/\.\./", "", target) in made, f"{name} links to {link}"
        assert "http://" not in re.sub(r'xmlns(:xlink)?="[^"]*"', "", text)
        assert "https://" not in text


def test_every_page_says_what_it_is(results: Path) -> None:
    for name, text in site(results).items():
        if name.endswith(".html"):
            page = Page(text)
            assert page.all("html") == [{"lang": "en"}]
            assert len(page.all("h1")) == 1
            assert any(meta.get("name") == "viewport" for meta in page.all("meta"))
            levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch(r"h\d", tag)]
            assert all(later <= former + 1 for former, later in pairwise(levels)), name
            assert text.count("<table") == text.count("<caption")
            assert all(svg.get("role") == "img" or svg.get("aria-hidden") for svg in page.all("svg"))


def test_names_are_escaped(results: Path) -> None:
    found = board.make(results, read_registry())
    assert any(EVIL in reason for reason in found.left_out)
    made = site(results)
    for name, text in made.items():
        if name.endswith(".html"):
            assert [one.get("src") for one in Page(text).all("script")] == ["../site.js" if "/" in name else "site.js"]
            assert "alert(1)</script>" not in text
    escaped = "&lt;script&gt;alert(1)&lt;/script&gt;"
    assert escaped in made["models/net-a.html"]
    assert escaped in made["models/net-b-random.html"]
    assert escaped in made["notes.html"]
    assert "&lt;b&gt;Nets&lt;/b&gt; &amp; mice" in made["models/net-a.html"]


def test_the_same_results_give_the_same_bytes_with_and_without_what_is_kept(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = site(results)
    assert first == site(results)
    monkeypatch.setenv("MOUSEBENCH_HOME", str(tmp_path / "another"))
    assert first == site(results)


def test_the_table_holds_every_model_with_its_numbers(results: Path) -> None:
    found = board.make(results, read_registry()).boards[0]
    text = site(results)["index.html"]
    rows = re.findall(r'<tr data-kind="(\w+)".*?<a href="models/([\w-]+).html">.*?score">([\d.-]+)<', text, re.DOTALL)
    kinds = ["trained", "trained", "untrained", "control"]
    assert rows == [(kind, row.model, f"{row.score:.3f}") for kind, row in zip(kinds, found.rows, strict=True)]


def test_a_banner_only_where_data_are_simulated(results: Path) -> None:
    assert "Simulated data." not in "".join(site(results).values())
    for name in ("net-a", "net-b"):
        put(results, result(name, simulated=1))
    made = site(results)
    assert "Simulated data." in made["index.html"]
    assert "Simulated data." in made["benchmarks/bench.html"]
    assert "Simulated data." not in made["bench---other.html"]
    assert "simulated data" in made["models/net-a.html"]


def test_the_page_of_a_benchmark_has_the_notes_that_all_models_share_and_no_other(results: Path) -> None:
    one = result("net-a", 0.4)
    notes = json.dumps(["a note of every site", "60 of its layers are alike"])
    put(results, one.assign(notes=("site", [notes] * one.sizes["site"])))
    made = site(results)
    assert "60 of its layers are alike" in made["models/net-a.html"]
    assert "60 of its layers are alike" not in made["benchmarks/bench.html"]
    assert "a note of every site" in made["benchmarks/bench.html"]


def test_bars_are_as_wide_as_those_of_the_models_need_and_a_control_may_be_beyond(results: Path) -> None:
    put(results, result("pixels", 0.9, n_layers=1))
    text = site(results)["index.html"]
    rows = {name: text.split(f">{name}</a>")[1].split("</tr>")[0] for name in ("net-a", "net-b", "pixels")}
    assert 'class="line" d="M' in rows["net-a"]
    assert "H100.0" in rows["net-a"]
    arrow = "M95 2L100 6L95 10"
    assert [arrow in row for row in rows.values()] == [False, False, True]


def test_only_kinds_of_models_that_are_there_can_be_chosen(results: Path) -> None:
    page = site(results)["index.html"]
    assert re.findall(r'<option value="(\w*)">', page) == ["", "trained", "untrained", "control"]
    assert "3 models on bench" in page
    for name in ("net-a", "net-b"):
        (results / f"bench/v2/quick/{name}.nc").unlink()
    page = site(results)["index.html"]
    assert re.findall(r'<option value="(\w*)">', page) == ["", "untrained", "control"]
    assert "1 model (untrained) on bench" in page


@pytest.mark.parametrize("grey", [False, True])
def test_numbers_on_colours_can_be_read(grey: bool) -> None:
    for share in range(-100, 101):
        background, ink = views.shade(share / 100, grey=grey)
        assert views.contrast(background, ink) >= 4.5


def test_contrast_is_that_of_wcag() -> None:
    assert views.contrast("#000000", "#ffffff") == pytest.approx(21)
    assert views.contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.005)  # the well-known grey that just fails


def test_pages_have_names_that_need_no_quoting() -> None:
    names = ["a", "timm/a", "timm--a", "a@3", "timm/a@3", EVIL, "../../x"]
    found = [views.page_of(name) for name in names]
    assert len(set(found)) == len(names)
    assert all(re.fullmatch(r"[a-z0-9._-]+\.html", page) and not page.startswith(".") for page in found)


def test_areas_without_layers_make_one_column() -> None:
    made = views.grid(["VISp", "VISl"], [0.5, float("nan")])
    assert made["columns"] == ["all layers"]
    assert [line["cells"][0]["text"] for line in made["lines"]] == ["0.50", "-"]


def test_what_is_no_longer_part_of_the_site_goes(cli: Cli, results: Path, tmp_path: Path) -> None:
    folder = tmp_path / "site"
    command = ("leaderboard", "--results", results, "--html", folder)
    assert cli(*command, "--no-score").code == 0
    (folder / "mine.txt").write_text("stays")
    (folder / "CNAME").write_text("stays")
    for path in results.rglob("net-b.nc"):
        path.unlink()
    assert cli(*command, "--no-score").code == 0
    left = {str(path) for path in files(folder)}
    assert {"mine.txt", "CNAME", "models/net-a.html"} < left
    assert "models/net-b.html" not in left
    (folder / "index.html").write_text("edited")
    assert f"{folder / 'index.html'} is not what" in cli(*command, "--check").out


def test_without_matplotlib_there_is_a_hint(
    cli: Cli, results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mousebench.site.plots.installed_version", lambda _: "unknown")
    done = cli("leaderboard", "--results", results, "--no-score", "--html", tmp_path / "site")
    assert done.code == 2
    assert "pip install 'mousebench[plots]'" in done.err
