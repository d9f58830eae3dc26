"""A whole net of 60 layers against all 21 sites of sim-ns, by each metric with its null and intervals; how the time grows.

    python benchmarks/scoring.py [METRIC ...] [--only whole|growth]

Wall-clock and processor time, of what is done once for a benchmark (ceilings) and once for a net (score of all sites). The net
is an untrained resnet18, 60 layers; what NNLS takes depends on how alike they are, so a real net is needed. Growth is measured
on one site of a simulated world, in processor time, without null and intervals.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable

import numpy as np
from _timing import machine
from threadpoolctl import threadpool_limits

import mousebench as mb
from mousebench import api
from mousebench.comparison import Comparison, Named
from mousebench.progress import Silent
from mousebench.scoring import compare, representation
from mousebench.verdicts import asked_for
from mousebench.worlds import SITE, World

MODEL = "resnet18-random"
SEED = 0
AIMS = {"pls": 180.0, "rsa-nnls": 30.0}
GROWTH = {"n_neuroids": (100, 400, 1600), "n_layers": (4, 12, 36), "n_stimuli": (60, 120, 240)}


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Return wall-clock and processor seconds of one call."""
    wall, processor = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - processor


def whole(metrics: list[str]) -> None:
    """Time a whole net on all sites."""
    benchmark = Named("sim-ns", mb.load_benchmark("sim-ns"), None)
    sites = list(benchmark.thing.sites)
    first = Comparison(benchmark, Named(metrics[0], mb.load_metric(metrics[0]), None), sites, SEED)
    layers = representation(api.named_model(MODEL, api.catalogue()), first, "cpu", Silent())
    n_neurons = sum(target.sizes["neuroid"] for target in first.targets.values())
    print(
        f"{MODEL}, {len(layers)} layers, {len(sites)} sites, {n_neurons} neurons, 50 trials, seconds (wall-clock, processor)"
    )
    for name in metrics:
        comparison = Comparison(benchmark, Named(name, mb.load_metric(name), None), sites, SEED)
        comparison.__dict__["targets"] = comparison.accepting(first.targets)
        ceilings = timed(lambda comparison=comparison: comparison.ceilings)  # type: ignore[misc]
        score = timed(lambda comparison=comparison: compare(layers, comparison))  # type: ignore[misc]
        aim = f", aim {AIMS[name]:.0f}" if name in AIMS else ""
        print(
            f"  {name:<18} score {score[0]:7.1f} {score[1]:7.1f}{aim}; ceilings {ceilings[0]:6.1f} {ceilings[1]:6.1f}"
            f"; load {os.getloadavg()[0]:.1f}",
            flush=True,
        )


def growth(metrics: list[str]) -> None:
    """Print the exponents with which the time grows, one size at a time."""
    base = {"n_stimuli": 118, "n_layers": 6, "n_neuroids": 200}
    print(f"growth of processor time as exponents, from {base}, without null and intervals")
    for name in metrics:
        metric = asked_for(Named(name, mb.load_metric(name), None), 0, 2)
        found = []
        for what, sizes in GROWTH.items():
            seconds = []
            for size in sizes:
                sample = World(SEED, **{**base, what: size, "n_repetitions": 2}).sample(0)
                comparison = Comparison(Named("world", sample, None), metric, [SITE], SEED)
                _ = sample.layers, comparison.targets
                runs = [timed(lambda s=sample, c=comparison: compare(s.layers, c))[1] for _ in range(2)]  # type: ignore[misc]
                seconds.append(min(runs))
            slope = np.polyfit(np.log(sizes), np.log(seconds), 1)[0]
            found.append(f"{what[2:]} {sizes[0]} to {sizes[-1]}: {slope:.2f} ({seconds[0]:.2f} to {seconds[-1]:.2f} s)")
        print(f"  {name:<18} {'; '.join(found)}", flush=True)


def main() -> None:
    """Time everything, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("metrics", nargs="*", default=["rsa-nnls", "pls", "rsa", "cka", "ridge"])
    parser.add_argument("--only", choices=("whole", "growth"))
    options = parser.parse_args()
    print(f"{machine()}; load {os.getloadavg()[0]:.1f} at the start", flush=True)
    with threadpool_limits(1, user_api="blas"):
        if options.only != "growth":
            whole(options.metrics)
        if options.only != "whole":
            growth(options.metrics)


if __name__ == "__main__":
    main()
