"""The leaderboard: nothing to do for 100 models x 4 metrics, one model more, and the site of 200 models in a browser.

Results are made up (tests/boards.py), in the form and size of real ones. Times are of a fresh process; processor time beside wall-clock time, for
other work may be going on. Deciding what is stale reads headers and, once a benchmark, hashes its targets; scoring nothing loads no model. ``--browser`` needs
chromium and selenium.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import boards
from _timing import machine

METRICS = ("quick", "other", "third", "fourth")
SITES = tuple(f"A{number // 4}.L{number % 4}" for number in range(21))


def command(*arguments: str | Path, home: Path) -> str:
    """Run the command line and return its times."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "mousebench", "leaderboard", *map(str, arguments)],
        check=True,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "MOUSEBENCH_HOME": str(home)},
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return f"{time.perf_counter() - start:.2f} s, {cpu:.2f} s of processor time"


def written(
    top: Path, n_models: int, metrics: Sequence[str] = METRICS, n_layers: int = 60, n_draws: int = 1000
) -> tuple[str, ...]:
    """Store results of many models, and return the options of the command."""
    settings = {"sites": SITES, "n_layers": n_layers, "n_draws": n_draws}
    nets = boards.zoo(top / "results", n_models, metrics, **settings)
    for metric in metrics:  # the controls of the zoo have other sites
        for name in ("pixels", "noise"):
            boards.put(top / "results", boards.result(name, 0.1, metric=metric, **settings))
    boards.registry(top / "registry.yaml", [*nets, "another", "pixels", "noise"], metrics)
    return ("--results", str(top / "results"), "--registry", str(top / "registry.yaml"))


def regenerate(top: Path, site: bool) -> None:
    """Time what a maintainer waits for."""
    place, home = written(top, 100), top / "home"
    size = next((top / "results").rglob("*.nc")).stat().st_size
    print(f"100 models x 4 metrics, files of {size / 1e3:.0f} KB")
    print("written for the first time:", command(*place, "--no-score", home=home))
    print("nothing to do:             ", command(*place, "--no-score", home=home))
    plan(top)
    extra = ("--html", top / "site") if site else ()
    if site:
        print("with the site, first time: ", command(*place, *extra, "--no-score", home=home))
        print("with the site, nothing:    ", command(*place, *extra, "--no-score", home=home))
    for metric in METRICS:
        boards.put(
            top / "results", boards.result("another", 0.2, metric=metric, sites=SITES, n_layers=60, n_draws=1000)
        )
    print("one model more:            ", command(*place, *extra, "--no-score", home=home))


def plan(top: Path) -> None:
    """Time how long it takes to see that nothing is stale: headers of 400 results."""
    from mousebench import store

    paths = sorted((top / "results").rglob("*.nc"))
    start, cpu = time.perf_counter(), time.process_time()
    for path in paths:
        _ = store.header(path).provenance
    wall, used = time.perf_counter() - start, time.process_time() - cpu
    print(f"headers of {len(paths)} results: {wall:.2f} s, {used:.2f} s of processor time")


def in_a_browser(top: Path) -> None:
    """Weigh the first page with 200 models, and time it until it is sorted and filtered by scripts."""
    from selenium import webdriver

    from mousebench import board
    from mousebench.registry import read_registry
    from mousebench.site import pages

    os.environ["MOUSEBENCH_HOME"] = str(top / "home")
    written(top, 200, METRICS[:1], n_layers=1, n_draws=100)
    (top / "site").mkdir()
    for name, text in pages(board.make(top / "results", read_registry(top / "registry.yaml"))):
        if "/" in name:
            break  # the pages of models come last, and are not weighed
        (top / "site" / name).write_text(text, encoding="utf-8")
    page = top / "site" / "index.html"
    text = page.read_text(encoding="utf-8")
    plots = sum(len(part.partition("</figure>")[0]) for part in text.split("<figure")[1:])
    print(f"first page, 202 rows: {len(text) / 1e3:.0f} KB, of which plots {plots / 1e3:.0f} KB")
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for option in ("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-sync"):
        options.add_argument(f"--{option}")
    for option in ("disable-background-networking", "disable-component-update", f"user-data-dir={top / 'profile'}"):
        options.add_argument(f"--{option}")
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        browser.execute_cdp_cmd("Performance.enable", {"timeDomain": "threadTicks"})
        for _ in range(5):
            browser.get(page.as_uri())
            times = browser.execute_script(
                "const t = performance.getEntriesByType('navigation')[0];"
                "return [t.domInteractive, t.domContentLoadedEventEnd, t.loadEventEnd]"
            )
            shown = " ".join(f"{value:.0f}" for value in times)
            print(
                f"ms to interactive, scripts done, loaded: {shown}; processor time of the page: {1000 * in_the_page(browser):.0f} ms"
            )
        took = browser.execute_script(
            "const t = performance.now(); document.querySelectorAll('thead button')[1].click(); document.body.offsetHeight;"
            "return performance.now() - t"
        )
        print(f"sorting by name: {took:.0f} ms")
    finally:
        browser.quit()


def in_the_page(browser: Any) -> float:
    """Return the seconds of processor time that the page took since it was opened: reading, scripts, layout, painting."""
    metrics = browser.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]
    return {metric["name"]: metric["value"] for metric in metrics}["TaskDuration"]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--browser", action="store_true")
    parser.add_argument("--site", action="store_true", help="the site as well: minutes, the first time")
    chosen = parser.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        if chosen.browser:
            in_a_browser(Path(folder))
        else:
            regenerate(Path(folder), chosen.site)
