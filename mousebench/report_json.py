"""Results as JSON, in the public form: every field always there, null where there is no number."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

FORMAT = 1


def as_json(results: Sequence[xr.Dataset]) -> dict[str, Any]:
    """Return results as plain lists and mappings."""
    return {"format": FORMAT, "results": [_result(result) for result in results]}


def _result(result: xr.Dataset) -> dict[str, Any]:
    attrs = result.attrs
    return {
        **{name: attrs[name] for name in ("model", "benchmark", "metric")},
        **{name: int(attrs[name]) for name in ("benchmark_version", "metric_version", "seed")},
        "simulated": bool(attrs["simulated"]),
        "sites": [_site(result.isel(site=number)) for number in range(result.sizes["site"])],
        "mean_score": _number(attrs["mean_score"]),
        "mean_ci": _pair(_number(attrs["mean_score_low"]), _number(attrs["mean_score_high"])),
        "notes": json.loads(attrs["notes"]),
        "definition": json.loads(attrs["definition"]),
        "provenance": json.loads(attrs["provenance"]),
    }


def _site(site: xr.Dataset) -> dict[str, Any]:
    def value(name: str) -> float | None:
        return _number(site[name].item()) if name in site else None

    def count(name: str) -> int | None:
        number = value(name)
        return None if number is None or number < 0 else int(number)

    row = {
        "site": str(site["site"].item()),
        **{name: value(name) for name in ("raw", "ceiling", "score", "explained")},
        "ci": _pair(value("ci_low"), value("ci_high")),
        "raw_ci": _pair(value("raw_low"), value("raw_high")),
        "null": {"mean": value("null_mean"), "p": value("null_p"), "intercept_only": value("intercept_only")},
        **{name: count(name) for name in ("n_stimuli", "n_neuroids", "n_layers")},
        "best_layer": str(site["best_layer"].item()) or None,
        "notes": json.loads(site["notes"].item()),
    }
    return {**row, "r2": value("r2")} if "r2" in site else row


def compared_as_json(table: xr.Dataset) -> dict[str, Any]:
    """Return what ``paired.compare`` found: models by rank, every pair once, in the order in which the models were given."""
    attrs = table.attrs
    names = table["model"].values.tolist()
    return {
        "format": FORMAT,
        "benchmark": attrs["benchmark"],
        "benchmark_version": int(attrs["benchmark_version"]),
        "metric": attrs["metric"],
        "metric_version": int(attrs["metric_version"]),
        "seed": int(attrs["seed"]),
        "simulated": bool(attrs["simulated"]),
        "models": [
            _ranked(table.sel(model=name))
            for name in table["model"].values[np.argsort(table["rank"].values, kind="stable")]
        ],
        "pairs": [
            _compared(table.sel(model=a, model_b=b)) for number, a in enumerate(names) for b in names[number + 1 :]
        ],
        "notes": json.loads(attrs["notes"]),
    }


def _ranked(model: xr.Dataset) -> dict[str, Any]:
    rows = model[["score", "null_p", "null_p_corrected"]]
    return {
        "model": str(model["model"].item()),
        "rank": _count(model["rank"]),
        "rank_ci": _pair(_count(model["rank_low"]), _count(model["rank_high"])),
        "group": _count(model["group"]),
        "mean_score": _number(model["mean_score"].item()),
        "mean_ci": _pair(_number(model["mean_score_low"].item()), _number(model["mean_score_high"].item())),
        "n_above_null": _count(model["n_above_null"]),
        "sites": [
            {"site": str(site), **{str(name): _number(rows[name].sel(site=site).item()) for name in rows.data_vars}}
            for site in rows["site"].values
        ],
    }


def _compared(pair: xr.Dataset) -> dict[str, Any]:
    def numbers(of: xr.Dataset, prefix: str) -> dict[str, Any]:
        def value(name: str) -> float | None:
            return _number(of[prefix + name].item())

        return {
            "difference": value("difference"),
            "ci": _pair(value("low"), value("high")),
            "p": value("p"),
            "p_corrected": value("p_corrected"),
        }

    return {
        "a": str(pair["model"].item()),
        "b": str(pair["model_b"].item()),
        "mean": numbers(pair, "mean_"),
        "sites": [{"site": str(site), **numbers(pair.sel(site=site), "")} for site in pair["site"].values],
    }


def _count(value: xr.DataArray) -> int | None:
    return int(value.item()) if math.isfinite(value.item()) else None


def _pair(low: float | None, high: float | None) -> list[float] | None:
    return None if low is None or high is None else [low, high]


def _number(value: Any) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None
