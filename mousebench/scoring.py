"""Score models: stimuli -> model -> layers -> metric -> raw -> score. The only place that divides by a ceiling."""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from threadpoolctl import threadpool_limits

from mousebench import assemblies, representations
from mousebench.errors import ContractViolation, MousebenchError, PluginBroken, UnknownIdentifier, UsageError
from mousebench.interfaces import Benchmark, Metric, Model
from mousebench.plugins import Plugin, cause_of, result_name
from mousebench.progress import Progress, Silent
from mousebench.provenance import describe_plugin, environment
from mousebench.representations import Layers
from mousebench.store import FORMAT, only_sites

CEILING_FLOOR = 0.1  # below this ceiling a ratio says more of the noise than of the model
LEVEL = 0.95
_PER_SITE = ("raw", "ceiling", "null", "bootstrap", "best_layer", "weight", "layer_raw")


@dataclass(frozen=True)
class Named:
    """Something that was loaded, its identifier, and the plugin that it comes from (None: made in Python)."""

    identifier: str
    thing: Any
    plugin: Plugin | None


@dataclass
class Comparison:
    """One benchmark and one metric, ready to score any number of models; targets and ceilings are made once.

    Attributes
    ----------
    benchmark, metric : Named
    sites : list of str
    seed : int
    """

    benchmark: Named
    metric: Named
    sites: list[str]
    seed: int
    progress: Progress = field(default_factory=Silent)

    @cached_property
    def stimuli(self) -> xr.DataArray:
        """The benchmark's stimuli, checked."""
        with _blaming(self.benchmark, "benchmark", ", stimuli"):
            return assemblies.check_stimuli(self.benchmark.thing.stimuli())

    @cached_property
    def stimuli_hash(self) -> str:
        """Content hash of the stimuli."""
        return assemblies.content_hash(self.stimuli)

    @cached_property
    def targets(self) -> dict[str, xr.DataArray]:
        """The targets by site, their stimuli in the order of the benchmark's."""
        benchmark: Benchmark = self.benchmark.thing
        ids = self.stimuli["stimulus_id"].values
        self.progress.start(f"targets of {self.benchmark.identifier}", len(self.sites))
        targets = {}
        for site in self.sites:
            with _blaming(self.benchmark, "benchmark", f", site {site}"):
                targets[site] = assemblies.align(benchmark.target(site), ids)
            self.progress.advance(1)
        self.progress.finish()
        return self.accepting(targets)

    def accepting(self, targets: dict[str, xr.DataArray]) -> dict[str, xr.DataArray]:
        """Return the targets, or raise UsageError if the metric cannot use their kind."""
        kinds = {assemblies.check_target(target) for target in targets.values()}
        accepts = set(self.metric.thing.accepts)
        if not kinds <= accepts:
            raise UsageError(
                f"metric {self.metric.identifier!r} needs {' or '.join(sorted(accepts))}, {self.benchmark.identifier!r} gives {' and '.join(sorted(kinds))}",
                f"metrics for {self.benchmark.identifier}: {', '.join(self.benchmark.thing.metrics)}",
            )
        return targets

    @cached_property
    def target_hashes(self) -> dict[str, str]:
        """Content hash of each site's target."""
        return {site: assemblies.content_hash(target) for site, target in self.targets.items()}

    @cached_property
    def ceilings(self) -> dict[str, xr.Dataset]:
        """Ceiling of each site, made once for all models."""
        metric: Metric = self.metric.thing
        self.progress.start(f"ceilings of {self.metric.identifier}", len(self.sites))
        ceilings = {}
        with threadpool_limits(1, user_api="blas"):
            for site, target in self.targets.items():
                with _blaming(self.metric, "metric", f", ceiling of site {site}"):
                    ceilings[site] = metric.ceiling(target, self.seed)
                self.progress.advance(1)
        self.progress.finish()
        return ceilings

    @property
    def simulated(self) -> bool:
        """Whether the data are simulated."""
        return bool(getattr(self.benchmark.thing, "simulated", False))

    def only(self, sites: Sequence[str]) -> Comparison:
        """Return the same comparison for some of its sites, sharing what is made already."""
        part = Comparison(self.benchmark, self.metric, list(sites), self.seed, self.progress)
        part.__dict__.update(stimuli=self.stimuli, stimuli_hash=self.stimuli_hash)
        for name in ("targets", "target_hashes", "ceilings"):
            part.__dict__[name] = {site: getattr(self, name)[site] for site in sites}
        return part


def choose_sites(benchmark: Named, sites: Sequence[str] | None) -> list[str]:
    """Return the sites asked for, in the benchmark's order; all by default.

    Raises
    ------
    UnknownIdentifier
        If the benchmark lacks one; names the closest.
    """
    known = list(benchmark.thing.sites)
    if sites is None:
        return known
    for site in sites:
        if site not in known:
            close = difflib.get_close_matches(site, known, n=3)
            guess = f"; did you mean {' or '.join(map(repr, close))}?" if close else ""
            raise UnknownIdentifier(
                f"{benchmark.identifier!r} has no site {site!r}{guess}", f"its sites: {', '.join(known)}"
            )
    return [site for site in known if site in set(sites)]


def representation(model: Named, comparison: Comparison, device: str, progress: Progress) -> Layers:
    """Return the layers of a model for the stimuli of a comparison; errors name the model."""
    try:
        return representations.get(
            model.thing,
            comparison.stimuli,
            name=result_name(model.identifier),
            key=representation_key(model, comparison),
            device=device,
            progress=progress,
        )
    except (ContractViolation, PluginBroken) as error:
        raise type(error)(f"{_who(model)}: {error.message}", error.hint) from error


def representation_key(model: Named, comparison: Comparison) -> str | None:
    """Return the hash of all that the layers follow from; None if it cannot be known."""
    return representations.representation_key(model.thing, comparison.stimuli_hash, _source(model))


def result_key(model: Named, comparison: Comparison) -> str | None:
    """Return the hash of all that a result follows from but the targets; None if it cannot be known."""
    representation = representation_key(model, comparison)
    if representation is None:
        return None
    metric, benchmark = comparison.metric, comparison.benchmark
    parts = [representation, benchmark.identifier, benchmark.thing.version, metric.identifier, metric.thing.version]
    parts += [_source(metric), getattr(metric.thing, "definition", None), comparison.seed, FORMAT]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def _source(named: Named) -> str:
    """Return a hash of the code behind something: its plugin's file, and the file of its class if that is not ours."""
    parts = [named.plugin.source_hash() or ""] if named.plugin else []
    module = type(named.thing).__module__
    file = getattr(sys.modules.get(module), "__file__", None)
    if file and module.partition(".")[0] != "mousebench":
        parts.append(hashlib.sha256(Path(file).read_bytes()).hexdigest())
    return " ".join(parts)


def _who(named: Named, kind: str = "model") -> str:
    plugin = named.plugin
    return f"{kind} {named.identifier!r}" + (f" of {plugin} version {plugin.version}" if plugin else "")


@contextlib.contextmanager
def _blaming(named: Named, kind: str, where: str = "") -> Iterator[None]:
    """Turn an exception of a plugin's own code into PluginBroken; name the benchmark that breaks the contract."""
    try:
        yield
    except ContractViolation as error:
        if kind == "benchmark":
            raise ContractViolation(f"{named.identifier}{where}: {error.message}", error.hint) from error
        raise
    except MousebenchError:
        raise
    except (Exception, SystemExit) as error:
        raise PluginBroken(
            f"{_who(named, kind)}{where} fails: {cause_of(error)}", "--debug shows where it happened"
        ) from error


def compare(layers: Layers, comparison: Comparison, progress: Progress | None = None) -> dict[str, xr.Dataset]:
    """Let the metric score all sites; what it returns is checked, and comes back raw.

    One BLAS thread: the same bits whatever else runs, and no slower for matrices of this size.
    """
    metric: Metric = comparison.metric.thing
    progress = progress or Silent()
    together = getattr(metric, "score_sites", None)
    with _blaming(comparison.metric, "metric"), threadpool_limits(1, user_api="blas"):
        if together is not None:
            scores: Mapping[str, xr.Dataset] = together(layers, comparison.targets, comparison.seed, progress)
        else:
            scores = dict(_one_by_one(metric, layers, comparison, progress))
    return {site: _checked(scores.get(site), site, comparison) for site in comparison.sites}


def _one_by_one(
    metric: Metric, layers: Layers, comparison: Comparison, progress: Progress
) -> Iterator[tuple[str, xr.Dataset]]:
    progress.start("sites", len(comparison.sites))
    for site, target in comparison.targets.items():
        yield site, metric.score(layers, target, comparison.seed)
        progress.advance(1)
    progress.finish()


def _checked(score: Any, site: str, comparison: Comparison) -> xr.Dataset:
    where = f"metric {comparison.metric.identifier!r}, site {site}"
    if not isinstance(score, xr.Dataset) or "raw" not in score or score["raw"].dims not in ((), ("neuroid",)):
        raise ContractViolation(f"{where}: score gives no Dataset with 'raw', a scalar or along neuroid")
    return score


def assemble(
    model: Named, layers: Layers, comparison: Comparison, scores: Mapping[str, xr.Dataset], key: str | None
) -> xr.Dataset:
    """Put the sites together, normalise, and write down where it all comes from.

    Returns
    -------
    Dataset
        Along ``site``: raw, ceiling, score, explained, ci_low, ci_high, null_mean, null_p, n_stimuli, n_neuroids,
        n_layers, best_layer, notes (JSON), target_sha256, and whatever else the metric gives; attributes model,
        benchmark, metric, their versions, seed, mean_score, simulated, notes and provenance (JSON).
    """
    rows = [_site_row(site, scores[site], comparison) for site in comparison.sites]
    columns = {name: ("site", np.array([row.get(name, np.nan) for row in rows])) for name in _names(rows)}
    result = xr.Dataset(columns, coords={"site": ("site", np.array(comparison.sites, dtype=str))})
    for name, dim in (("null", "permutation"), ("weight", "layer"), ("layer_raw", "layer"), ("bootstrap", "bootstrap")):
        result = result.merge(_stacked(name, dim, scores, comparison.sites))
    result = result.merge(_by_neuroid(scores, comparison))
    definition = next(iter(scores.values())).attrs.get("definition", "{}")
    return result.assign_attrs(
        {
            "format": FORMAT,
            "key": key or "",
            "model": model.identifier,
            "benchmark": comparison.benchmark.identifier,
            "benchmark_version": comparison.benchmark.thing.version,
            "metric": comparison.metric.identifier,
            "metric_version": comparison.metric.thing.version,
            "seed": comparison.seed,
            "simulated": int(comparison.simulated),
            "definition": definition,
            "notes": json.dumps(_result_notes(layers, scores, comparison)),
            "provenance": json.dumps(_provenance(model, layers, comparison), sort_keys=True),
        }
    ).pipe(with_mean_score)


def with_mean_score(result: xr.Dataset) -> xr.Dataset:
    """Return the result with the mean of its sites' scores; NaN if no site has one."""
    scores = result["score"].values
    there = np.isfinite(scores)
    return result.assign_attrs(mean_score=float(scores[there].mean()) if there.any() else float("nan"))


def _names(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row))


def _site_row(site: str, score: xr.Dataset, comparison: Comparison) -> dict[str, Any]:
    """Return everything of one site that is one number or one text."""
    ceiling = comparison.ceilings[site]
    notes = [*json.loads(score.attrs.get("notes", "[]")), *json.loads(ceiling.attrs.get("notes", "[]"))]
    raw, top, normalised = normalise(score["raw"], ceiling["ceiling"], comparison.metric.thing.normalisation, notes)
    null = score["null"].values if "null" in score else np.empty(0)
    if np.isnan(raw):
        notes.append("no score: the metric gives no number here")
    low, high = _interval(score, ceiling, comparison.metric.thing.normalisation)
    extras = {str(n): v.item() for n, v in score.data_vars.items() if n not in _PER_SITE and v.ndim == 0}
    best = score["best_layer"].item() if "best_layer" in score else ""
    return {
        "raw": raw,
        "ceiling": top,
        "score": normalised,
        "explained": np.sign(normalised) * normalised**2,
        "ci_low": low,
        "ci_high": high,
        "null_mean": null.mean() if null.size else np.nan,
        "null_p": (1 + (null >= raw).sum()) / (1 + null.size) if null.size and np.isfinite(raw) else np.nan,
        "n_stimuli": comparison.stimuli.sizes["stimulus"],
        "n_neuroids": float(score.attrs.get("n_neuroids", score["raw"].size if score["raw"].ndim else np.nan)),
        "n_layers": int(score.attrs.get("n_layers", -1)),
        "best_layer": str(best),
        "notes": json.dumps(notes),
        "target_sha256": comparison.target_hashes[site],
        **extras,
    }


def normalise(
    raw: xr.DataArray, ceiling: xr.DataArray, normalisation: str, notes: list[str]
) -> tuple[float, float, float]:
    """Return raw, ceiling and score of a site; the only division by a ceiling.

    Score is raw / ceiling, or raw^2 / ceiling for a metric that was published so. For a metric per neuroid it is taken
    neuroid by neuroid, and each of the three is the median over neuroids that have it. Where the ceiling is below
    CEILING_FLOOR there is no score; ``notes`` says so.
    """
    top = np.broadcast_to(np.asarray(ceiling.values, dtype=float), raw.shape)
    values = np.asarray(raw.values, dtype=float)
    enough = top >= CEILING_FLOOR
    numerator = values**2 if normalisation == "squared" else values
    score = np.divide(numerator, top, out=np.full(values.shape, np.nan), where=enough)
    below = int((np.isfinite(top) & ~enough).sum())
    if below:
        which = f"{below} of {top.size} neuroids have" if top.ndim else "the site has"
        notes.append(f"{which} a ceiling below {CEILING_FLOOR}, by which nothing is divided")
    return _median(values), _median(top), _median(score)


def _median(values: np.ndarray) -> float:
    there = values[np.isfinite(values)]
    return float(np.median(there)) if there.size else float("nan")


def _interval(score: xr.Dataset, ceiling: xr.Dataset, normalisation: str) -> tuple[float, float]:
    if "bootstrap" not in score:
        return float("nan"), float("nan")
    draws = score["bootstrap"]
    values = [
        normalise(draws.isel(bootstrap=i), ceiling["ceiling"], normalisation, [])[2]
        for i in range(draws.sizes["bootstrap"])
    ]
    tail = (1 - LEVEL) / 2
    if not np.isfinite(values).any():
        return float("nan"), float("nan")
    low, high = np.nanquantile(values, [tail, 1 - tail])
    return float(low), float(high)


def _stacked(name: str, dim: str, scores: Mapping[str, xr.Dataset], sites: Sequence[str]) -> xr.Dataset:
    """Return a variable of all sites that have it, along site; NaN for the others."""
    parts = {site: scores[site][name] for site in sites if name in scores[site] and scores[site][name].dims == (dim,)}
    if not parts:
        return xr.Dataset()
    first = next(iter(parts.values()))
    empty = np.full(first.shape, np.nan)
    coords = {dim: first[dim].values} if dim in first.coords else {}
    values = np.stack([parts[site].values if site in parts else empty for site in sites])
    return xr.Dataset({name: (("site", dim), values)}, coords=coords)


def _by_neuroid(scores: Mapping[str, xr.Dataset], comparison: Comparison) -> xr.Dataset:
    """Return raw and ceiling of every neuroid of every site, for metrics that give them."""
    parts = [
        xr.Dataset(
            {
                "raw_by_neuroid": ("neuroid", scores[site]["raw"].values),
                "ceiling_by_neuroid": ("neuroid", comparison.ceilings[site]["ceiling"].values),
            },
            coords={
                "neuroid_id": ("neuroid", scores[site]["neuroid_id"].values.astype(str)),
                "neuroid_site": ("neuroid", np.full(scores[site]["raw"].size, site)),
            },
        )
        for site in comparison.sites
        if scores[site]["raw"].ndim
    ]
    return xr.concat(parts, "neuroid") if parts else xr.Dataset()


def _result_notes(layers: Layers, scores: Mapping[str, xr.Dataset], comparison: Comparison) -> list[str]:
    notes = list(layers.notes)
    if comparison.simulated:
        notes.append("simulated data: the score says nothing of a mouse")
    if not any("bootstrap" in score for score in scores.values()):
        notes.append("no intervals: the metric draws no bootstrap yet")
    return notes


def _provenance(model: Named, layers: Layers, comparison: Comparison) -> dict[str, Any]:
    return {
        **environment(),
        "model": {**describe_plugin(model.plugin), "fingerprint": dict(model.thing.fingerprint)},
        "benchmark": describe_plugin(comparison.benchmark.plugin),
        "metric": describe_plugin(comparison.metric.plugin),
        "plugin": describe_plugin(model.plugin)["name"],
        "extraction": layers.extraction,
        "representation": layers.key,
        "stimuli": comparison.stimuli_hash,
        "seed": comparison.seed,
    }


def score_model(
    model: Named,
    comparison: Comparison,
    *,
    device: str = "auto",
    progress: Progress | None = None,
) -> xr.Dataset:
    """Score one model on all sites of a comparison, from nothing."""
    progress = progress or Silent()
    layers = representation(model, comparison, device, progress)
    scores = compare(layers, comparison, progress)
    return assemble(model, layers, comparison, scores, result_key(model, comparison))


def join_sites(old: xr.Dataset, new: xr.Dataset, order: Sequence[str]) -> xr.Dataset:
    """Return one result of the sites of two of the same key, the new one's first where both have a site."""
    rest = only_sites(old, [site for site in old["site"].values.tolist() if site not in new["site"].values])
    joined = _concatenated([new, rest], "site", "site", order)
    if "neuroid" in new.dims:
        joined = joined.merge(_concatenated([new, rest], "neuroid", "neuroid_site", order))
    return joined.pipe(with_mean_score)


def _concatenated(parts: Sequence[xr.Dataset], dim: str, by: str, order: Sequence[str]) -> xr.Dataset:
    """Return what the parts hold along a dimension, sorted by the order of their sites."""
    other = {"site": ["neuroid"], "neuroid": [str(name) for name in parts[0].dims if name != "neuroid"]}[dim]
    joined = xr.concat(
        [part.drop_dims(other, errors="ignore") for part in parts],
        dim,
        data_vars="minimal",
        coords="minimal",
        compat="override",
        join="outer",
        combine_attrs="override",
    )
    rank = {site: number for number, site in enumerate(order)}
    return joined.isel({dim: np.argsort([rank[site] for site in joined[by].values.tolist()], kind="stable")})


def as_model(model: Any) -> Model:
    """Return a torch module as a TorchModel, a Model as it is.

    Raises
    ------
    ContractViolation
        If it is neither.
    """
    if all(hasattr(model, name) for name in ("layers", "fingerprint", "activations")):
        found: Model = model
        return found
    from torch import nn

    if isinstance(model, nn.Module):
        from mousebench.torch_model import TorchModel

        return TorchModel(model)
    raise ContractViolation(
        f"{type(model).__name__} is neither a torch.nn.Module nor a Model",
        "a Model has layers, fingerprint and activations(images, layers)",
    )
