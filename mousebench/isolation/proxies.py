"""A model, a benchmark and a metric whose code runs in another process: what comes back is checked before it is used."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NoReturn

import numpy as np
import xarray as xr

from mousebench.errors import ContractViolation, MousebenchError, PluginBroken, UsageError
from mousebench.isolation.arrays import label, pack_arrays, unpack_arrays
from mousebench.isolation.packing import pack, unpack
from mousebench.isolation.process import plain
from mousebench.isolation.remote import Session
from mousebench.progress import Progress
from mousebench.reduction import Reduction, Reductions
from mousebench.specs import check_identifier

MOST_LAYERS = 20_000
_ROUNDING = 1e-6  # of a Gram, relative to its diagonal
_COMPUTED_BY_CORE = frozenset({"score", "explained", "ci_low", "ci_high", "raw_low", "raw_high", "null_mean", "null_p"})
_COUNTED_BY_CORE = frozenset({"n_stimuli", "n_neuroids", "n_layers", "notes", "target_sha256", "site"})


def load(session: Session) -> IsolatedModel | IsolatedBenchmark | IsolatedMetric:
    """Return what a session answers for; it is loaded now.

    Raises
    ------
    ContractViolation
        If it says of itself what it may not.
    UsageError
        For a model that is made of a benchmark's own data: it would have to be given them.
    """
    facts = session.facts()
    kind: Any = {"models": IsolatedModel, "benchmarks": IsolatedBenchmark, "metrics": IsolatedMetric}[session.kind]
    try:
        made: IsolatedModel | IsolatedBenchmark | IsolatedMetric = kind(session, facts)
    except (ContractViolation, UsageError):
        session.close()
        raise
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        session.close()
        raise ContractViolation(
            f"{session.kind[:-1]} {session.identifier!r} does not say what it is: {plain(error, 200)}"
        ) from error
    return made


class IsolatedModel:
    """A Model of which only Grams come back.

    Attributes
    ----------
    fingerprint : mapping of str to str
    intercept_only : bool
    source : str
        Hash of the code behind it, as its process tells.
    """

    def __init__(self, session: Session, facts: Mapping[str, Any]) -> None:
        self._session = session
        if facts["takes_data"]:
            raise UsageError(
                f"model {session.identifier!r} is made of a benchmark's own data, which is not given to a plugin of others",
                "--trust-plugins runs it in this process, if you trust its author",
            )
        fingerprint = {plain(name): plain(value) for name, value in facts["fingerprint"].items()}
        self.fingerprint: Mapping[str, str] = MappingProxyType(fingerprint)
        self.intercept_only = facts["intercept_only"] is True
        self.source = plain(facts["source"], 200)

    @property
    def layers(self) -> Sequence[str]:
        """Names of all layers in order of execution."""
        answer, _ = self._ask("layers", doing="to name its layers")
        return _labels(answer.get("layers"), "layers")

    def activations(self, images: np.ndarray, layers: Sequence[str]) -> NoReturn:
        """Raise UsageError: features stay in the other process."""
        raise UsageError(f"of model {self._session.identifier!r} only Grams are to be had", "--trust-plugins")

    def reduce(self, images: np.ndarray, *, device: str = "auto", progress: Progress | None = None) -> Reductions:
        """Return every layer reduced to its Gram and sums; images are uint8 (image, height, width, 3)."""
        grey = images.strides[-1] == 0  # three times the same plane
        payload = pack_arrays({"images": images[..., 0] if grey else images})
        answer, found = self._ask(
            "reduce", {"device": device}, payload, doing="to answer to the images", progress=progress
        )
        return _reductions(answer, unpack_arrays(found), len(images))

    def _ask(self, *arguments: Any, **settings: Any) -> tuple[dict[str, Any], bytearray]:
        try:
            return self._session.ask(*arguments, **settings)
        except MousebenchError:
            raise
        except Exception as error:  # one of the plugin's, told by its process
            raise PluginBroken(
                f"the model fails {settings['doing']}: {type(error).__name__}: {error}", "--debug shows where"
            ) from error

    def close(self) -> None:
        """End its process, which starts again when it is asked something."""
        self._session.close()


def _labels(names: Any, what: str) -> tuple[str, ...]:
    if not isinstance(names, list) or len(names) > MOST_LAYERS:
        raise ContractViolation(f"{what}: a list of at most {MOST_LAYERS} names is expected")
    return tuple(label(name) for name in names)


def _reductions(answer: Mapping[str, Any], arrays: Mapping[str, np.ndarray], n: int) -> Reductions:
    """Return what a model's process gives for n images, if these can be Grams of layers; it may hold NaN."""
    names = _labels(answer.get("layers"), "layers")
    shapes = {"gram": (len(names), n, n), "feature_sum": (len(names), n), "n_features": (len(names),)}
    for name, shape in shapes.items():
        array = arrays.get(name)
        dtype = np.int64 if name == "n_features" else np.float64
        if array is None or array.shape != shape or array.dtype != dtype:
            found = "nothing" if array is None else f"{array.dtype} {array.shape}"
            raise ContractViolation(
                f"the model's process gives {found} as {name}; {np.dtype(dtype)} {shape} is expected"
            )
    if len(set(names)) < len(names):
        raise ContractViolation("the model's process names a layer twice")
    layers = [
        Reduction(name, *_gram(name, arrays["gram"][k], arrays["feature_sum"][k], int(arrays["n_features"][k])))
        for k, name in enumerate(names)
    ]
    duplicates, skipped = (
        {label(name): plain(text) for name, text in dict(answer.get(what, {})).items()}
        for what in ("duplicates", "skipped")
    )
    return Reductions(layers, duplicates, skipped, plain(answer.get("device", ""), 100))


def _gram(name: str, gram: np.ndarray, feature_sum: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Return a Gram, sums and width that could be those of features: Cauchy and Schwarz are kept."""
    norms = np.diagonal(gram)
    if not np.isfinite(norms).all():
        return gram, feature_sum, width  # left out with a note, as for any model
    good = width > 0 and np.isfinite(gram).all() and np.isfinite(feature_sum).all() and (norms >= 0).all()
    if good:
        most = np.sqrt(np.outer(norms, norms))
        slack = _ROUNDING * max(float(norms.max(initial=0)), 1e-300)
        good = bool(
            (np.abs(gram - gram.T) <= slack).all()
            and (np.abs(gram) <= most + slack).all()
            and (feature_sum**2 <= width * (norms + slack)).all()
        )
    if not good:
        raise ContractViolation(f"layer {name!r}: no features can have this Gram and these sums")
    return gram, feature_sum, width


@dataclass(frozen=True)
class Fetched:
    """What a benchmark says of its fetch, as ``fetching.FetchReport``."""

    lines: tuple[str, ...]
    failed: tuple[str, ...]


class IsolatedBenchmark:
    """A Benchmark whose stimuli and targets are made in another process; the comparison checks them as any others."""

    def __init__(self, session: Session, facts: Mapping[str, Any]) -> None:
        self._session = session
        self.version = _version(facts)
        self.sites = _labels(facts["sites"], "sites")
        self.metrics = tuple(check_identifier(name) for name in facts["metrics"])
        self.simulated = facts["simulated"] is True
        self.source = plain(facts["source"], 200)
        if facts["fetches"] is True:
            self.fetch = self._fetch

    def stimuli(self) -> xr.DataArray:
        """Return uint8 (stimulus, y, x[, channel])."""
        return self._array("stimuli", {}, "to give its stimuli")

    def target(self, site: str) -> xr.DataArray:
        """Return the responses or the RDM of one site."""
        return self._array("target", {"site": site}, f"to give site {site}")

    def _array(self, operation: str, fields: Mapping[str, Any], doing: str) -> xr.DataArray:
        answer, payload = self._session.ask(operation, fields, doing=doing)
        datasets = unpack(answer.get("datasets"), payload)
        if "array" not in datasets or "_data" not in datasets["array"]:
            raise ContractViolation(f"{operation} gives no DataArray")
        return datasets["array"]["_data"].rename(None)

    def _fetch(
        self,
        sites: Sequence[str] | None,
        source: str | None,
        jobs: int,
        dry_run: bool,
        progress: Progress | None = None,
    ) -> Fetched:
        fields = {"sites": sites, "source": source, "jobs": jobs, "dry_run": dry_run}
        answer, _ = self._session.ask("fetch", fields, doing="to fetch its data", progress=progress)
        told = [answer.get(what) for what in ("lines", "failed")]
        return Fetched(*(tuple(plain(line) for line in lines if lines) for lines in told if isinstance(lines, list)))

    def close(self) -> None:
        """End its process, which starts again when it is asked something."""
        self._session.close()


class IsolatedMetric:
    """A Metric that gets Grams and targets, and gives scores and ceilings."""

    def __init__(self, session: Session, facts: Mapping[str, Any]) -> None:
        self._session = session
        self.version = _version(facts)
        self.accepts = frozenset(facts["accepts"])
        self.normalisation = facts["normalisation"]
        if facts["definition"] is not None:
            self.definition = dict(facts["definition"])
        self.source = plain(facts["source"], 200)
        if not self.accepts <= {"responses", "rdm"} or self.normalisation not in ("ratio", "squared"):
            raise ContractViolation(
                f"metric {session.identifier!r} accepts {plain(sorted(self.accepts), 100)}, normalisation {plain(self.normalisation, 40)}"
            )

    def score(self, layers: Mapping[str, xr.Dataset], target: xr.DataArray, seed: int) -> xr.Dataset:
        """Return ``raw`` and what goes with it."""
        return self.score_sites(layers, {"": target}, seed)[""]

    def score_sites(
        self,
        layers: Mapping[str, xr.Dataset],
        targets: Mapping[str, xr.DataArray],
        seed: int,
        progress: Progress | None = None,
    ) -> dict[str, xr.Dataset]:
        """Return for each site what ``score`` would return for it alone."""
        sites = list(targets)
        datasets = {f"target {k}": targets[site].to_dataset(name="_data") for k, site in enumerate(sites)}
        told, payload = pack({"layers": _as_dataset(layers), **datasets})
        fields = {"datasets": told, "sites": sites, "seed": seed}
        answer, found = self._session.ask("score", fields, payload, doing="to score", progress=progress)
        scores = unpack(answer.get("datasets"), found)
        return {site: _checked(scores.get(site), "raw", site, targets[site]) for site in sites}

    def ceiling(self, target: xr.DataArray, seed: int) -> xr.Dataset:
        """Return ``ceiling``."""
        told, payload = pack({"target": target.to_dataset(name="_data")})
        answer, found = self._session.ask(
            "ceiling", {"datasets": told, "seed": seed}, payload, doing="to give the ceiling"
        )
        return _checked(unpack(answer.get("datasets"), found).get("ceiling"), "ceiling", "", target)

    def close(self) -> None:
        """End its process, which starts again when it is asked something."""
        self._session.close()


def _version(facts: Mapping[str, Any]) -> int:
    version = facts["version"]
    if type(version) is not int or not 0 <= version < 10**9:  # it becomes part of a path
        raise ContractViolation(f"version is {plain(version, 60)!r}; a whole number is expected")
    return version


def _as_dataset(layers: Mapping[str, xr.Dataset]) -> xr.Dataset:
    """Return the layers as one Dataset: that of ``representations.Layers``, or the same of any mapping."""
    whole = getattr(layers, "dataset", None)
    if isinstance(whole, xr.Dataset):
        return whole
    if not layers:
        raise ContractViolation("an empty mapping of layers does not say how many stimuli there are")
    parts = list(layers.values())
    stacked = xr.concat([part.drop_attrs() for part in parts], xr.DataArray(list(layers), dims="layer", name="layer"))
    widths = np.array([int(part.attrs["n_features"]) for part in parts], dtype=np.int64)
    return stacked.assign(n_features=("layer", widths)).assign_attrs(key="", notes="[]", extraction="{}")


def _checked(score: xr.Dataset | None, what: str, site: str, target: xr.DataArray) -> xr.Dataset:
    """Return what a metric gives for a site, if the result can be made of it; None comes from a metric that gives no Dataset."""
    where = f"site {site}: " if site else ""
    if score is None or what not in score:
        raise ContractViolation(f"{where}the metric gives no Dataset with {what!r}")
    neuroids = target.sizes.get("neuroid", 0)
    if score[what].dims not in ((), ("neuroid",)) or score[what].dtype.kind not in "biuf":
        raise ContractViolation(
            f"{where}{what} is {score[what].dtype} along {score[what].dims}; a number, or one a neuroid, is expected"
        )
    if score.sizes.get("neuroid", neuroids) != neuroids:
        raise ContractViolation(f"{where}{what} has {score.sizes['neuroid']} neuroids, the target {neuroids}")
    if what == "raw":
        wrong = (_COMPUTED_BY_CORE | _COUNTED_BY_CORE) & set(map(str, score.data_vars))
        if wrong:
            raise ContractViolation(f"{where}the metric gives {', '.join(sorted(wrong))}, which is not its to give")
        if score["raw"].ndim and score.coords.get("neuroid_id", xr.DataArray(0)).dims != ("neuroid",):
            raise ContractViolation(f"{where}raw is along neuroid without coordinate neuroid_id")
    _check_texts(score, where)
    return score


def _check_texts(score: xr.Dataset, where: str) -> None:
    """Refuse attributes that core would stumble over: notes is a JSON list of text, definition a JSON mapping."""
    try:
        notes, definition = json.loads(score.attrs.get("notes", "[]")), json.loads(score.attrs.get("definition", "{}"))
    except (ValueError, TypeError, RecursionError) as error:
        raise ContractViolation(f"{where}notes or definition is no JSON") from error
    if not isinstance(definition, dict) or not isinstance(notes, list) or not all(isinstance(n, str) for n in notes):
        raise ContractViolation(f"{where}notes is no JSON list of text, or definition no JSON mapping")
    for name in ("n_neuroids", "n_layers", "image_scale"):
        value = score.attrs.get(name, 0)
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise ContractViolation(f"{where}attribute {name} is {plain(value, 40)!r}; a number is expected")
