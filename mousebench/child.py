"""The process of one plugin of others: imports it, does what it is asked, and answers with arrays and text.

Everything here runs beside the plugin's code, so nothing that it says is believed (``mousebench.isolation.proxies``).
Heavy imports are inside: to declare, a plugin needs none of them.
"""

from __future__ import annotations

import json
import os
import traceback
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from mousebench.catalogue import OURS, Catalogue, Entry, Plugin, broken_plugin, code_hash, takes_variant
from mousebench.errors import ContractViolation, MousebenchError, PluginBroken
from mousebench.isolation import hardening
from mousebench.isolation.channel import Channel, Closed
from mousebench.plugins import GROUP, discover, discover_one, local_model
from mousebench.specs import KINDS

Reply = tuple[dict[str, Any], bytes]


def main(job: Mapping[str, Any]) -> None:
    """Answer requests until the other side is gone."""
    hardening.restrict(job["writable"], job["network"])
    channel = Channel(*job["pipes"])
    worker = _Worker(channel)
    while True:
        try:
            message, payload = channel.receive()
        except Closed:
            os._exit(0)
        try:
            reply, found = worker.do(message, bytes(payload))
        except BaseException as error:
            reply, found = {"error": _told(error)}, b""
        channel.send(reply, found)


def _told(error: BaseException) -> dict[str, str]:
    ours = isinstance(error, MousebenchError)
    return {
        "type": type(error).__name__,
        "message": error.message if isinstance(error, MousebenchError) else " ".join(str(error).split()),
        "hint": error.hint if isinstance(error, MousebenchError) else "",
        "traceback": "".join(traceback.format_exception(error)) if not ours or error.__cause__ else "",
    }


class _Progress:
    """Tell the other process how far it is."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def start(self, description: str, total: float | None = None, unit: str = "") -> None:
        self._channel.send({"progress": "start", "text": description, "amount": total})

    def advance(self, amount: float = 1) -> None:
        self._channel.send({"progress": "advance", "amount": amount})

    def note(self, text: str) -> None:
        self._channel.send({"progress": "note", "text": text})

    def finish(self) -> None:
        self._channel.send({"progress": "finish"})


class _Worker:
    """What the process holds: one plugin and one thing of it."""

    def __init__(self, channel: Channel) -> None:
        self._progress = _Progress(channel)
        self._thing: Any = None

    def do(self, request: Mapping[str, Any], payload: bytes) -> Reply:
        """Do what one request asks for."""
        operations: dict[str, Callable[[Mapping[str, Any], bytes], Reply]] = {
            "declare": self._declare,
            "load": self._load,
            "layers": self._layers,
            "reduce": self._reduce,
            "stimuli": self._stimuli,
            "target": self._target,
            "fetch": self._fetch,
            "score": self._score,
            "ceiling": self._ceiling,
            "call": self._call,
        }
        return operations[request["do"]](request, payload)

    def _declare(self, request: Mapping[str, Any], _: bytes) -> Reply:
        found = _discovered(request["plugin"])
        if found.broken:
            return {"cause": found.broken[0].cause}, b""
        entries = [entry for kind in KINDS for some in found.entries[kind].values() for entry in some]
        source = next((entry.plugin.source_hash() for entry in entries), "")
        return {"specs": [_row(entry) for entry in entries], "source": source}, b""

    def _load(self, request: Mapping[str, Any], _: bytes) -> Reply:
        plugin, kind, identifier = request["plugin"], request["kind"], request["identifier"]
        if plugin["function"] is not None:
            entry = local_model(Path(plugin["file"]), plugin["function"], trust=True)
        else:
            found = _discovered(plugin)
            if found.broken:
                raise PluginBroken(f"plugin {plugin['name']!r} cannot be imported: {found.broken[0].cause}")
            entry = found.find(kind, identifier)
        weights, layers = request["weights"], request["layers"]
        if weights is None and layers is None:
            thing = entry.load(identifier, untrained=request["untrained"])
        else:
            from mousebench.api import load_changed

            thing = load_changed(entry, identifier, None if weights is None else Path(weights), layers)
        if kind == "models":
            from mousebench.models import as_model

            thing = as_model(thing)
        self._thing = thing
        try:
            facts = {"models": _model_facts, "benchmarks": _benchmark_facts, "metrics": _metric_facts}[kind](
                self._thing
            )
        except (Exception, SystemExit) as error:
            raise broken_plugin(entry, "does not say what it is", error) from error
        return {**facts, "source": code_hash(entry.plugin, self._thing)}, b""

    def _layers(self, _request: Mapping[str, Any], _: bytes) -> Reply:
        return {"layers": [str(name) for name in self._thing.layers]}, b""

    def _reduce(self, request: Mapping[str, Any], payload: bytes) -> Reply:
        import numpy as np

        from mousebench.isolation.arrays import pack_arrays, unpack_arrays
        from mousebench.models import in_colour, reduce

        images = in_colour(unpack_arrays(payload)["images"])
        found = reduce(self._thing, images, request["device"], self._progress)
        n, m = len(images), len(found.layers)
        arrays = {
            "gram": np.array([layer.gram for layer in found.layers], dtype=np.float64).reshape(m, n, n),
            "feature_sum": np.array([layer.feature_sum for layer in found.layers], dtype=np.float64).reshape(m, n),
            "n_features": np.array([layer.n_features for layer in found.layers], dtype=np.int64),
        }
        told = {
            "layers": [layer.name for layer in found.layers],
            "duplicates": dict(found.duplicates),
            "skipped": dict(found.skipped),
            "device": found.device,
        }
        return told, pack_arrays(arrays)

    def _stimuli(self, _request: Mapping[str, Any], _: bytes) -> Reply:
        return _array(self._thing.stimuli(), "stimuli")

    def _target(self, request: Mapping[str, Any], _: bytes) -> Reply:
        return _array(self._thing.target(request["site"]), f"target({request['site']!r})")

    def _fetch(self, request: Mapping[str, Any], _: bytes) -> Reply:
        wanted = {name: request[name] for name in ("sites", "source", "jobs", "dry_run")}
        report = self._thing.fetch(**wanted, progress=self._progress)
        return {"lines": list(report.lines), "failed": list(report.failed)}, b""

    def _score(self, request: Mapping[str, Any], payload: bytes) -> Reply:
        import xarray as xr

        from mousebench.isolation.packing import pack, unpack
        from mousebench.representations import Layers
        from mousebench.scoring import score_targets

        given = unpack(request["datasets"], payload)
        targets = {site: given[f"target {k}"]["_data"].rename(None) for k, site in enumerate(request["sites"])}
        scores = score_targets(self._thing, Layers(given["layers"]), targets, request["seed"], self._progress)
        told, found = pack({site: one for site, one in scores.items() if isinstance(one, xr.Dataset)})
        return {"datasets": told}, found

    def _ceiling(self, request: Mapping[str, Any], payload: bytes) -> Reply:
        import xarray as xr
        from threadpoolctl import threadpool_limits

        from mousebench.isolation.packing import pack, unpack

        target = unpack(request["datasets"], payload)["target"]["_data"].rename(None)
        with threadpool_limits(1, user_api="blas"):
            ceiling = self._thing.ceiling(target, request["seed"])
        if not isinstance(ceiling, xr.Dataset):
            raise ContractViolation(f"ceiling gives {type(ceiling).__name__}; a Dataset is expected")
        told, found = pack({"ceiling": ceiling})
        return {"datasets": told}, found

    def _call(self, request: Mapping[str, Any], _: bytes) -> Reply:
        module, _, name = request["function"].partition(":")
        plugin = request["plugin"]
        if plugin["file"]:
            found = discover([plugin["file"]], trust=True)
        else:
            point = EntryPoint(plugin["name"], plugin["module"], GROUP)
            ours = [own for own in entry_points(group=GROUP) if own.dist and own.dist.name == OURS]
            found = discover((), [*ours, point], trust=True)
        return {"gives": getattr(import_module(module), name)(found, request["arguments"], self._progress)}, b""


def _discovered(plugin: Mapping[str, Any]) -> Catalogue:
    known = Plugin(*(plugin[name] for name in ("name", "distribution", "version", "module", "file")))
    point = None if known.file else EntryPoint(known.name, known.module, GROUP)
    return discover_one(known, point)


def _row(entry: Entry) -> dict[str, Any]:
    spec = entry.spec
    return {
        "kind": entry.kind,
        "identifier": spec.listed.partition("/")[0] if spec.family else spec.identifier,
        "description": str(spec.description),
        "metadata": dict(spec.metadata),
        "missing": entry.missing(),
        "family": spec.family,
        "variants": takes_variant(spec.load),
        "architecture": spec.architecture is not None,
        "untrained_variants": spec.architecture is not None and takes_variant(spec.architecture),
    }


def _model_facts(model: Any) -> dict[str, Any]:
    takes_data = getattr(model, "take_from", None) is not None
    return {
        "takes_data": takes_data,
        "intercept_only": bool(getattr(model, "intercept_only", False)),
        "fingerprint": {} if takes_data else {str(n): str(v) for n, v in dict(model.fingerprint).items()},
    }


def _benchmark_facts(benchmark: Any) -> dict[str, Any]:
    return {
        "version": benchmark.version,
        "sites": list(benchmark.sites),
        "metrics": list(benchmark.metrics),
        "simulated": bool(getattr(benchmark, "simulated", False)),
        "fetches": hasattr(benchmark, "fetch"),
    }


def _metric_facts(metric: Any) -> dict[str, Any]:
    definition = getattr(metric, "definition", None)
    return {
        "version": metric.version,
        "accepts": sorted(metric.accepts),
        "normalisation": metric.normalisation,
        "definition": None if definition is None else json.loads(json.dumps(dict(definition), default=str)),
    }


def _array(array: Any, what: str) -> Reply:
    import xarray as xr

    from mousebench.isolation.packing import pack

    if not isinstance(array, xr.DataArray):
        raise ContractViolation(f"{what} gives {type(array).__name__}; a DataArray is expected")
    told, payload = pack({"array": array.to_dataset(name="_data")})
    return {"datasets": told}, payload
