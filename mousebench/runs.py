"""Score many models with many metrics: reuse what is stored, compute the rest, store each as soon as it is done."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path

import xarray as xr

from mousebench import scoring, store
from mousebench.api import named, named_model
from mousebench.catalogue import Catalogue
from mousebench.comparison import Comparison, Named, bind, choose_sites, together
from mousebench.errors import (
    MissingData,
    MissingDependency,
    MousebenchError,
    PluginBroken,
    StoreError,
    UnknownIdentifier,
)
from mousebench.plugins import discover
from mousebench.progress import Progress
from mousebench.representations import Layers
from mousebench.results import assemble, join_sites, with_mean_score


@dataclass(frozen=True)
class Request:
    """What ``mousebench score`` was asked for."""

    models: Sequence[str]
    benchmark: str
    metrics: Sequence[str]
    sites: Sequence[str] | None
    seed: int
    device: str
    results: Path
    jobs: int = 1
    force: bool = False
    plugin_files: Sequence[str] = ()


@dataclass(frozen=True)
class Done:
    """One model and metric: its result, or the error that stands in its place."""

    model: str
    metric: str
    result: xr.Dataset | None
    error: MousebenchError | None = None
    path: Path | None = None
    reused: bool = False


@dataclass
class _Pending:
    """A result that is being made."""

    model: Named
    layers: Layers
    comparison: Comparison
    todo: Comparison
    scores: dict[str, xr.Dataset] | Future[dict[str, xr.Dataset]]


def run(request: Request, found: Catalogue, progress: Progress) -> Iterator[Done]:
    """Yield the results of a request in its order, each one stored before it is yielded.

    With several jobs the layers are still extracted here, one net at a time on all cores; the metrics run in
    processes of one thread each. The numbers do not depend on the number of jobs.

    Raises
    ------
    MousebenchError
        If the benchmark or a metric cannot be used; a model's error is yielded, and the others go on.
    """
    comparisons = _comparisons(request, found, progress)
    with _pool(request, comparisons) as pool:
        waiting: list[tuple[str, str, _Pending | Done]] = []
        try:
            for name in request.models:
                waiting += _start(name, request, found, comparisons, pool, progress)
                while waiting and _is_ready(waiting[0]):
                    yield _finish(waiting.pop(0), request)
            while waiting:
                yield _finish(waiting.pop(0), request)
        except KeyboardInterrupt:
            for item in filter(_is_ready, waiting):
                _finish(item, request)  # what is finished is stored
            raise


def _is_ready(item: tuple[str, str, _Pending | Done]) -> bool:
    """Say whether an item can be finished without waiting."""
    state = item[2]
    return isinstance(state, Done) or isinstance(state.scores, dict) or state.scores.done()


def _comparisons(request: Request, found: Catalogue, progress: Progress) -> list[Comparison]:
    benchmark = named("benchmarks", request.benchmark, found)
    sites = choose_sites(benchmark, request.sites)
    metrics = [named("metrics", name, found) for name in request.metrics or benchmark.thing.metrics[:1]]
    # what is wrong with the benchmark is said once, before any model is loaded
    return together([Comparison(benchmark, metric, sites, request.seed, progress) for metric in metrics])


def _start(
    name: str,
    request: Request,
    found: Catalogue,
    comparisons: list[Comparison],
    pool: ProcessPoolExecutor | None,
    progress: Progress,
) -> list[tuple[str, str, _Pending | Done]]:
    """Load a model, get its layers if any site is not stored yet, and set the metrics to work on them."""
    try:
        model, own = bind(named_model(name, found), comparisons)
        if own is not comparisons:  # workers make targets from identifiers, and would make the whole ones
            comparisons, pool = own, None
        plans = [(comparison, *_plan(model, comparison, request, progress)) for comparison in comparisons]
        layers = None
        if any(todo for _, _, todo in plans):
            progress.note(f"{model.identifier} on {request.benchmark}")
            layers = scoring.representation(model, comparisons[0], request.device, progress)
    except MousebenchError as error:
        return [(name, comparison.metric.identifier, _failed(name, comparison, error)) for comparison in comparisons]
    started: list[tuple[str, str, _Pending | Done]] = []
    for comparison, stored, todo in plans:
        metric = comparison.metric.identifier
        if not todo or layers is None:
            path = _path(model, comparison, request)
            started.append((name, metric, Done(model.identifier, metric, stored, path=path, reused=True)))
            continue
        try:
            part = comparison.only(todo)
            if pool is None:
                scores: dict[str, xr.Dataset] | Future[dict[str, xr.Dataset]] = scoring.compare(layers, part, progress)
            else:
                scores = _submit(pool, model, layers, metric, todo)
            started.append((name, metric, _Pending(model, layers, comparison, part, scores)))
        except MousebenchError as error:
            started.append((name, metric, _failed(model.identifier, comparison, error)))
    return started


def _submit(
    pool: ProcessPoolExecutor, model: Named, layers: Layers, metric: str, sites: Sequence[str]
) -> Future[dict[str, xr.Dataset]]:
    try:
        return pool.submit(_work, layers.dataset, metric, sites)
    except BrokenProcessPool as error:
        raise PluginBroken(
            f"{model.identifier!r} was not scored: a worker process died before", "try --jobs 1"
        ) from error


def _plan(
    model: Named, comparison: Comparison, request: Request, progress: Progress
) -> tuple[xr.Dataset | None, list[str]]:
    """Return what is stored and still valid, and the sites that are to be computed."""
    stored, trouble = _stored(model, comparison, request)
    if request.force:
        return stored, comparison.sites
    if trouble:
        progress.note(f"scoring again: {trouble}")
    have = set(stored["site"].values.tolist()) if stored is not None else set()
    return stored, [site for site in comparison.sites if site not in have]


def _stored(model: Named, comparison: Comparison, request: Request) -> tuple[xr.Dataset | None, str]:
    key = scoring.result_key(model, comparison)
    return store.still_valid(_path(model, comparison, request), key, comparison.target_hashes)


def _finish(item: tuple[str, str, _Pending | Done], request: Request) -> Done:
    """Wait for the scores, assemble, store; what is stored holds all sites, what is returned those asked for."""
    name, metric, state = item
    if isinstance(state, Done):
        if state.result is not None:
            return Done(state.model, metric, _asked(state.result, request), path=state.path, reused=state.reused)
        return state
    comparison = state.comparison
    try:
        scores = state.scores if isinstance(state.scores, dict) else _outcome(state.scores, state.model)
        key = scoring.result_key(state.model, comparison)
        result = assemble(state.model, state.layers, state.todo, scores, key)
        path = _path(state.model, comparison, request)
        with store.alone(path):
            stored, _ = _stored(state.model, comparison, request)  # another run may have added sites since
            if stored is not None:
                result = join_sites(stored, result, comparison.benchmark.thing.sites)
            store.write(result, path)
    except MousebenchError as error:
        return _failed(state.model.identifier or name, comparison, error)
    return Done(state.model.identifier, metric, _asked(result, request), path=path)


def as_stored(item: Done, request: Request, found: Catalogue) -> Done:
    """Return the stored result of a model that cannot be scored here, as it is, beside the error; else the item itself.

    A model of a changed net has no identifier to load it by, weights may be on another machine: what was scored stays scored.
    """
    if not isinstance(item.error, UnknownIdentifier | MissingData | MissingDependency):
        return item
    benchmark = named("benchmarks", request.benchmark, found)
    try:
        version = benchmark.thing.version
        path = store.result_path(request.results, benchmark.identifier, version, item.metric, item.model)
        result = store.read(path) if path.is_file() else None
    except MousebenchError:
        return item
    if result is None or result.attrs["seed"] != request.seed:
        return item
    return replace(item, result=_asked(result, request), path=path, reused=True)


def _asked(result: xr.Dataset, request: Request) -> xr.Dataset:
    if request.sites is None:
        return result
    return store.only_sites(result, request.sites).pipe(with_mean_score)


def _outcome(future: Future[dict[str, xr.Dataset]], model: Named) -> dict[str, xr.Dataset]:
    try:
        return future.result()
    except MousebenchError:
        raise
    except Exception as error:  # the process died: out of memory, killed
        raise PluginBroken(
            f"scoring {model.identifier!r} ended early: {type(error).__name__}: {error}", "try --jobs 1"
        ) from error


def _failed(model: str, comparison: Comparison, error: MousebenchError) -> Done:
    return Done(model, comparison.metric.identifier, None, error)


def _path(model: Named, comparison: Comparison, request: Request) -> Path:
    benchmark = comparison.benchmark
    return store.result_path(
        request.results, benchmark.identifier, benchmark.thing.version, comparison.metric.identifier, model.identifier
    )


def check_writable(results: Path) -> None:
    """Raise StoreError now, not after an hour of scoring, if the results folder cannot be written."""
    from mousebench.assemblies import replacing

    probe = results / ".writable"
    with replacing(probe) as temporary:
        temporary.write_bytes(b"")
    try:
        probe.unlink(missing_ok=True)  # another run may have taken it away
    except OSError as error:
        raise StoreError(f"{results} cannot be written: {error.strerror}") from error


@contextlib.contextmanager
def _pool(request: Request, comparisons: Sequence[Comparison]) -> Iterator[ProcessPoolExecutor | None]:
    if request.jobs < 2:
        yield None
        return
    sites = comparisons[0].sites
    _ = comparisons[0].targets  # generated or verified once, here
    pool = ProcessPoolExecutor(
        request.jobs,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_begin_worker,
        initargs=(tuple(request.plugin_files), request.benchmark, tuple(request.metrics), tuple(sites), request.seed),
    )
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


_WORKER: dict[str, Comparison] = {}


def _begin_worker(
    plugin_files: Sequence[str], benchmark: str, metrics: Sequence[str], sites: Sequence[str], seed: int
) -> None:
    """Make the comparisons of a worker process from identifiers: arrays are not sent."""
    sys.stdout = sys.stderr  # stdout is for results
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))  # Ctrl-C reaches workers too: the parent says what happened
    found = discover(plugin_files)
    chosen = named("benchmarks", benchmark, found)
    for metric in metrics or chosen.thing.metrics[:1]:
        _WORKER[metric] = Comparison(chosen, named("metrics", metric, found), list(sites), seed)


def _work(dataset: xr.Dataset, metric: str, sites: Sequence[str]) -> dict[str, xr.Dataset]:
    comparison = _WORKER[metric]
    part = Comparison(comparison.benchmark, comparison.metric, list(sites), comparison.seed)
    part.__dict__["targets"] = {site: comparison.targets[site] for site in sites}
    return scoring.compare(Layers(dataset), part)
