"""The combined NNLS of ``mousebench report`` against a loop of scikit-learn fits; the whole report from stored results.

    python benchmarks/report.py

All 24 tasks are regressors of 21 sites in 1,000 random 6-fold splits of 118 images. scikit-learn is timed on some splits and
extrapolated (its time is proportional to their number); weights are asserted equal. Then the report of 21 planted sites and
the 84 models of Conwell et al. (2020), that is 30 nets, 30 untrained and 24 tasks, and the tasks' 24 latent spaces, with two metrics and 1,000
draws, from results and Grams that are on disk; the scores are made up, the RDMs are those of the planted world.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import xarray as xr
from _timing import best_of, machine, peak_gb
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import KFold
from threadpoolctl import threadpool_limits

from mousebench import analysis, representations, store
from mousebench.analysis.planted import PlantedWorld
from mousebench.api import catalogue
from mousebench.linalg import upper_triangle
from mousebench.names import result_name
from mousebench.report import build
from mousebench.report.planted import planted_latents, planted_world, rdm_of

N_SPLITS, N_FOLDS = 1000, 6
PEER = 4  # splits that scikit-learn is timed on
# those of the published RDMs
SITES = [
    f"{area}.{layer}"
    for area in ("VISp", "VISl", "VISpm", "VISal", "VISam", "VISrl")
    for layer in ("L23", "L4", "L5", "L6")
    if layer != "L6" or area not in ("VISal", "VISam", "VISrl")
]


def main() -> None:
    """Time both."""
    print(machine())
    world = planted_world(0, catalogue())
    world.sites = SITES
    with threadpool_limits(1):
        combined_nnls(world)
    with tempfile.TemporaryDirectory(prefix="mousebench-report-") as folder:
        os.environ["MOUSEBENCH_HOME"] = folder
        whole_report(world, Path(folder))


def combined_nnls(world: PlantedWorld) -> None:
    """Compare the fits of all tasks in random splits with scikit-learn's, site by site and fold by fold."""
    latents = planted_latents(world, world.models())
    sites = {site: rdm_of(world.target(site)) for site in world.sites}
    ours = analysis.split_weights(latents, sites, n_splits=PEER)["weight_raw"].values
    largest = float(np.abs(ours - peer(latents, sites)).max())
    assert largest < 1e-6, largest  # weights are kept in float32
    times = best_of(
        3,
        {
            "ours": lambda: analysis.split_weights(latents, sites, n_splits=N_SPLITS),
            "peer": lambda: peer(latents, sites),
        },
        time.process_time,
    )
    whole = times["peer"] / PEER * N_SPLITS
    print(
        f"combined NNLS, {N_SPLITS} splits x {N_FOLDS} folds x {len(latents)} tasks x {len(sites)} sites: ours {times['ours']:.1f} s, "
        f"scikit-learn {whole:.0f} s (from {PEER} splits), ratio {whole / times['ours']:.0f}; weights agree to {largest:.0e}, "
        f"{(ours > 0).sum(1).mean():.1f} of {len(latents)} are above 0"
    )


def peer(latents: dict[str, np.ndarray], sites: dict[str, np.ndarray]) -> np.ndarray:
    """Return weights (split, task, site), the mean over folds, by scikit-learn."""
    x, y = (np.column_stack([upper_triangle(rdm) for rdm in rdms.values()]) for rdms in (latents, sites))
    n_stimuli = len(next(iter(latents.values())))
    first, second = np.triu_indices(n_stimuli, 1)
    found = np.zeros((PEER, x.shape[1], y.shape[1]))
    for split in range(PEER):
        for _, test in KFold(N_FOLDS, shuffle=True, random_state=split).split(np.zeros(n_stimuli)):
            train = ~np.isin(first, test) & ~np.isin(second, test)
            fits = [LinearRegression(positive=True).fit(x[train], site) for site in y[train].T]
            found[split] += np.stack([fit.coef_ for fit in fits], axis=1) / N_FOLDS
    return found


def whole_report(world: PlantedWorld, folder: Path) -> None:
    """Time a report from what is on disk to what is on disk; how it came there is not timed."""
    n_models = stored(world, folder / "results")
    with step(f"whole report, {n_models} models x {len(world.sites)} sites x {len(build.FORMS)} metrics"):
        with step("  reading"):
            inputs = build.read_inputs(folder / "results", "planted", world)
        with step("  analyses"):
            made = build.make_sections(inputs)
        with step("  figures and page"):
            build.write(build.as_json(inputs, made), folder / "report")
    size = (folder / "report" / "index.html").stat().st_size
    print(f"  page {size / 1e6:.1f} MB, peak memory {peak_gb():.2f} GB")
    gaps = [gap for section in made for gap in section.gaps if not gap.startswith("one seed")]
    assert not gaps, gaps


def stored(world: PlantedWorld, results: Path) -> int:
    """Store made-up results as ``mousebench score`` would, and the tasks' latent spaces; return the number of models."""
    rng = np.random.default_rng(0)
    stimuli = world.stimuli()
    models = {name: model for name, model in world.models().items() if "-random@" not in name}
    of_site = rng.uniform(0.1, 0.5, len(world.sites))
    for name, model in models.items():
        key = representations.representation_key(model.fingerprint, "", "")
        if name.endswith("@latent"):
            representations.get(model, stimuli, name=result_name(name), key=key)
        for metric in build.FORMS:
            score = of_site + 0.05 * rng.normal() + 0.02 * rng.normal(size=len(world.sites))
            result = made_up(name, metric, score, rng, world).assign_attrs(
                provenance=json.dumps({"representation": key})
            )
            store.write(result, store.result_path(results, "planted", world.version, metric, name))
    return len(models)


def made_up(model: str, metric: str, score: np.ndarray, rng: np.random.Generator, world: PlantedWorld) -> xr.Dataset:
    """Return a result of the size that one has, with 1,000 draws and permutations and 60 layers."""
    n = len(score)
    draws = (score[:, None] + 0.03 * rng.normal(size=(n, 1000))).astype(np.float32)
    numbers = {"score": score, "raw": 0.9 * score, "ceiling": np.full(n, 0.9), "null_p": np.full(n, 0.01)}
    numbers |= {"n_layers": np.full(n, 60), "n_stimuli": np.full(n, world.n_stimuli), "n_neuroids": np.full(n, 60)}
    columns = {name: ("site", value) for name, value in numbers.items()}
    columns |= dict.fromkeys(("score_draws", "raw_draws"), (("site", "bootstrap"), draws))
    columns["null"] = (("site", "permutation"), 0.03 * rng.normal(size=(n, 1000)))
    columns["weight"] = (("site", "layer"), rng.random((n, 60)))
    attrs = {"model": model, "benchmark": "planted", "benchmark_version": world.version, "metric": metric}
    attrs |= {"metric_version": 1, "seed": 0, "simulated": 1, "format": store.FORMAT}
    return xr.Dataset(columns, {"site": list(world.sites)}, attrs)


@contextmanager
def step(what: str) -> Iterator[None]:
    """Print what a piece of work took."""
    wall, processor = time.perf_counter(), time.process_time()
    yield
    print(f"{what}: {time.perf_counter() - wall:.1f} s, {time.process_time() - processor:.1f} s of processor time")


if __name__ == "__main__":
    main()
