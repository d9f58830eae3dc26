"""The zoo from nothing to scores, a process a net: time, memory, bytes; then again with what is stored.

    python benchmarks/zoo.py [--benchmark B] [--home DIR] [--results DIR] [NET ...]

Without NET: the 30 nets that Conwell et al. (2020) scored, untrained. Without --home: in a new folder, from nothing. Each net
is one ``mousebench score``, so that a net that fails harms no other. What each took goes into a log (JSON lines) beside the
results; nets that are in it are not run again, so that a run can be interrupted. Then all nets once more, in one command: with stored
results, and with stored Grams alone.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from _timing import machine

from mousebench.names import result_name

# from small to large, so that most of them are there soon
PAPER = [
    "alexnet",
    "squeezenet1_1",
    "squeezenet1_0",
    "resnet18",
    "shufflenet_v2_x0_5",
    "mnasnet0_5",
    "shufflenet_v2_x1_0",
    "mobilenet_v2",
    "mnasnet1_0",
    "googlenet",
    "resnet34",
    "resnet50",
    "vgg11",
    "vgg13",
    "vgg16",
    "vgg19",
    "vgg11_bn",
    "vgg13_bn",
    "vgg16_bn",
    "resnext50_32x4d",
    "wide_resnet50_2",
    "densenet121",
    "resnet101",
    "densenet169",
    "vgg19_bn",
    "resnet152",
    "wide_resnet101_2",
    "densenet201",
    "densenet161",
    "resnext101_32x8d",
]


def main() -> None:
    """Score, log, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("nets", nargs="*", metavar="NET", help="models by identifier")
    parser.add_argument("--benchmark", default="sim-ns")
    parser.add_argument("--home", type=Path, help="home folder of mousebench (a new one, removed at the end)")
    parser.add_argument("--results", type=Path, help="where results and the log go (results in the home folder)")
    parser.add_argument("--cold-only", action="store_true", help="do not time what is stored")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mousebench-zoo-") as temporary:
        home = options.home or Path(temporary, "home")
        results = options.results or home / "results"
        os.environ["MOUSEBENCH_HOME"] = str(home)
        nets = options.nets or [f"{name}-random" for name in PAPER]
        print(machine(), flush=True)
        log = results / f"zoo-{options.benchmark}.jsonl"
        rows = cold(nets, options.benchmark, results, log)
        table(rows, nets)
        if not options.cold_only:
            warm([net for net in nets if net in rows], options.benchmark, results, temporary)


def cold(nets: list[str], benchmark: str, results: Path, log: Path) -> dict[str, dict[str, Any]]:
    """Score each net in a process of its own, and return what is in the log of those that went well."""
    log.parent.mkdir(parents=True, exist_ok=True)
    done = read(log)
    for net in nets:
        if net in done:
            continue
        before = stored_bytes(net)
        with tempfile.NamedTemporaryFile(suffix=".json") as file:
            took = measured("--model", net, "--benchmark", benchmark, "--results", str(results), "--json", file.name)
            row = {"net": net, **took, "cache_bytes": stored_bytes(net) - before, **scores(Path(file.name))}
        with log.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(row) + "\n")
        print(f"{net}: exit code {row['exit']}, {row['wall_s']:.0f} s", flush=True)
    return read(log)


def read(log: Path) -> dict[str, dict[str, Any]]:
    """Return what the log holds by net; a line that says of a failure does not count."""
    rows = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()] if log.is_file() else []
    return {row["net"]: row for row in rows if row["exit"] == 0}


def measured(*arguments: str) -> dict[str, Any]:
    """Run ``mousebench score`` and return its exit code, seconds (wall, user, system) and peak memory."""
    start = time.perf_counter()
    child = subprocess.Popen(
        [sys.executable, "-m", "mousebench", "score", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )
    assert child.stderr is not None
    words = child.stderr.read()
    _, status, used = os.wait4(child.pid, 0)
    child.stderr.close()
    child.returncode = os.waitstatus_to_exitcode(status)  # it is waited for: subprocess need not do so
    if child.returncode:
        print(words.strip().splitlines()[-1:], file=sys.stderr)
    scale = 1 if sys.platform == "darwin" else 1024
    return {
        "exit": child.returncode,
        "wall_s": time.perf_counter() - start,
        "user_s": used.ru_utime,
        "system_s": used.ru_stime,
        "peak_bytes": used.ru_maxrss * scale,
        "load": os.getloadavg()[0],
    }


def stored_bytes(net: str) -> int:
    """Return the bytes of the cached Grams of one net; other runs may fill the same home."""
    folder = Path(os.environ["MOUSEBENCH_HOME"], "representations", result_name(net))
    return sum(file.stat().st_size for file in folder.glob("*/layers.nc"))


def scores(file: Path) -> dict[str, Any]:
    """Return means over sites and the number of layers, from the JSON that ``mousebench score`` wrote."""
    text = file.read_text(encoding="utf-8")
    if not text:
        return {}
    (result,) = json.loads(text)["results"]
    sites = [site for site in result["sites"] if site["raw"] is not None]
    return {
        "layers": max((site["n_layers"] or 0 for site in sites), default=0),
        "sites": len(sites),
        "mean_raw": sum(site["raw"] for site in sites) / len(sites),
        "mean_score": result["mean_score"],
        "mean_ci": result["mean_ci"],
        "above_null": sum(site["null"]["p"] < 0.05 for site in sites),
        "notes": result["notes"],
    }


def table(rows: dict[str, dict[str, Any]], nets: list[str]) -> None:
    """Print a row a net, and the sums."""
    print("| model | mean raw | mean score | 95 % | layers scored | wall s | CPU s | peak GB | cache MB |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for net in nets:
        if net not in rows:
            print(f"| {net} | failed | | | | | | | |")
            continue
        row = rows[net]
        low, high = row["mean_ci"] or (float("nan"),) * 2
        print(
            f"| {net} | {row['mean_raw']:.3f} | {row['mean_score']:.3f} | {low:.3f} .. {high:.3f} | {row['layers']} "
            f"| {row['wall_s']:.0f} | {row['user_s'] + row['system_s']:.0f} | {row['peak_bytes'] / 1e9:.2f} "
            f"| {row['cache_bytes'] / 1e6:.2f} |"
        )
    some = [rows[net] for net in nets if net in rows]
    print(
        f"{len(some)} of {len(nets)} nets: {sum(row['wall_s'] for row in some) / 3600:.2f} h wall, "
        f"{sum(row['user_s'] + row['system_s'] for row in some) / 3600:.2f} h of processor time, "
        f"{sum(row['cache_bytes'] for row in some) / 1e6:.0f} MB of Grams, "
        f"peak {max((row['peak_bytes'] for row in some), default=0) / 1e9:.2f} GB",
        flush=True,
    )


def warm(nets: list[str], benchmark: str, results: Path, temporary: str) -> None:
    """Time all nets in one command: results stored, then Grams stored and results not."""
    for what, folder in (("results", str(results)), ("Grams", str(Path(temporary, "again")))):
        took = measured("--model", ",".join(nets), "--benchmark", benchmark, "--results", folder)
        print(
            f"again, {len(nets)} nets in one command, {what} stored: {took['wall_s']:.1f} s wall, "
            f"{took['user_s'] + took['system_s']:.1f} s of processor time, peak {took['peak_bytes'] / 1e9:.2f} GB"
            + (f", EXIT CODE {took['exit']}" if took["exit"] else ""),
            flush=True,
        )


if __name__ == "__main__":
    main()
