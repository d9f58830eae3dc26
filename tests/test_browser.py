"""The site in a real browser, from disk and without a network."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boards
import pytest

from mousebench import board
from mousebench.registry import read_registry
from mousebench.site import pages

pytestmark = pytest.mark.browser
OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the site of 12 architectures, trained and untrained."""
    top = tmp_path_factory.mktemp("site")
    nets = boards.zoo(top / "results", 24)
    registry = read_registry(boards.registry(top / "registry.yaml", [*nets, "pixels", "noise"]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOUSEBENCH_HOME", str(top / "home"))
        for name, text in pages(board.make(top / "results", registry)):
            path = top / "site" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    return top / "site"


@pytest.fixture(params=[(1280, 900), (390, 844)], ids=["desktop", "phone"])
def browser(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    """Start chromium at the width of a desktop and of a phone; no test leaves an error on its console."""
    webdriver = pytest.importorskip("selenium.webdriver")
    binary = shutil.which("chromium") or shutil.which("chromium-browser")
    driver = shutil.which("chromedriver")
    if binary is None or driver is None:
        pytest.fail("chromium and chromedriver are needed: apt-get install chromium chromium-driver")
    width, height = request.param
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for option in (*OPTIONS, f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},{height}"):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    if width < 500:
        metrics = {"width": width, "height": height, "pixelRatio": 2}
        options.add_experimental_option("mobileEmulation", {"deviceMetrics": metrics})
    running = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    try:
        yield running
        assert running.get_log("browser") == []
    finally:
        running.quit()


def see(browser: Any, selector: str) -> list[str]:
    """Return the texts of the elements that are shown."""
    found = browser.find_elements("css selector", selector)
    return [one.text.split("\n")[0] for one in found if one.is_displayed()]


def models(browser: Any) -> list[str]:
    return see(browser, "table.board tr[data-kind]:not([data-kind=control]) th")


def choose(browser: Any, kind: str) -> None:
    """Choose what kind of models is shown."""
    from selenium.webdriver.support.select import Select

    Select(browser.find_element("name", "kind")).select_by_value(kind)


def press(browser: Any, name: str) -> str:
    """Press the button of a column with the keyboard, and return how the column says that it is sorted."""
    for button in browser.find_elements("css selector", "table.board thead button"):
        if button.text.strip() == name:
            button.send_keys("\ue007")  # Enter
            return str(button.find_element("xpath", "..").get_attribute("aria-sort"))
    raise AssertionError(f"no column {name}")


def test_sort_filter_and_open_a_model(browser: Any, folder: Path) -> None:
    browser.get((folder / "index.html").as_uri())
    by_score = models(browser)
    assert len(by_score) == 24
    assert press(browser, "model") == "ascending"
    assert models(browser) == sorted(by_score)
    assert press(browser, "model") == "descending"
    assert models(browser) == sorted(by_score, reverse=True)
    assert press(browser, "score") == "descending"
    scores = [float(text) for text in see(browser, "tr[data-kind]:not([data-kind=control]) td.score")]
    assert scores == sorted(scores, reverse=True)
    assert press(browser, "rank") == "ascending"
    assert models(browser) == by_score

    search = browser.find_element("name", "text")
    search.send_keys("net003")
    assert models(browser) == ["net003", "net003-random"]
    assert see(browser, "output") == ["2 of 26"]
    assert see(browser, "tr.part") == []  # no control is left, so neither is their heading
    choose(browser, "untrained")
    assert models(browser) == ["net003-random"]
    search.clear()
    search.send_keys(" ")
    choose(browser, "control")
    assert see(browser, "table.board tr[data-kind] th") == ["pixels", "noise"]
    choose(browser, "")

    browser.find_element("link text", "net000").click()
    assert see(browser, "h1") == ["net000"]
    assert browser.title == "net000 | mousebench"
    assert len(see(browser, "table.grid td")) == 18
    browser.find_element("link text", "the same net untrained").click()
    assert see(browser, "h1") == ["net000-random"]
    browser.find_element("link text", "mousebench").click()
    assert see(browser, "h1") == ["bench: quick"]


def test_no_page_is_wider_than_the_screen(browser: Any, folder: Path) -> None:
    for name in ("index.html", "bench---other.html", "models/net000.html", "benchmarks/bench.html", "notes.html"):
        browser.get((folder / name).as_uri())
        wide, screen = browser.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
        assert wide <= screen, name


def test_without_scripts_the_page_is_complete(browser: Any, folder: Path) -> None:
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    browser.get((folder / "index.html").as_uri())
    assert len(models(browser)) == 24
    assert see(browser, "form.filter") == []
