"""Look at one real session and say what it is like: the facts that could not be confirmed without a network."""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from mousebench.errors import MousebenchError
from mousebench_plugins.benchmarks.allen_ns import checks, reader, scenes, sites

if TYPE_CHECKING:
    from collections.abc import Callable

    from mousebench_plugins.benchmarks.allen_ns.source import Bucket, Folder

EXPERIMENT = 501559087
Fact = tuple[str, str]
_GENERAL = ("general", "general/subject", f"general/optophysiology/{reader.PLANE}")


def probe(place: Bucket | Folder, experiment: int = EXPERIMENT) -> list[Fact]:
    """Return the facts of one session, as (what, value); a part that fails says so and the others go on.

    Moves some tens of MB: the tables, three scenes of two sessions, the traces of a few cells.
    """
    facts: list[Fact] = [("source", place.name), ("experiment", str(experiment))]
    parts: list[tuple[str, Callable[[], list[Fact]]]] = [
        ("table of experiments", lambda: _table(place)),
        ("files", lambda: _files(place, experiment)),
        ("session file", lambda: _session_file(place, experiment)),
        ("analysis file", lambda: _analysis_file(place, experiment)),
        ("traces", lambda: _traces(place, experiment)),
        ("scenes", lambda: _scenes(place, experiment)),
    ]
    for name, part in parts:
        before, requests = place.moved, place.requests
        try:
            facts += part()
        except MousebenchError as error:
            facts.append((name, f"failed: {error.message}"))
        facts.append((f"{name}: moved", f"{place.moved - before} bytes in {place.requests - requests} requests"))
    return facts


def _table(place: Bucket | Folder) -> list[Fact]:
    key = place.key("EXPERIMENTS")
    experiments = sites.parse_experiments(place.json(key), key)
    passing = sum(not one.container_failed for one in experiments)
    by_site, left_out = sites.select(experiments, "conwell2020_site")
    return [
        ("experiments of session B", f"{len(experiments)}, {passing} in passing containers"),
        ("sessions by site", ", ".join(f"{site} {len(by_site[site])}" for site in sites.SITES if site in by_site)),
        ("not used", ", ".join(f"{count} {reason}" for reason, count in sorted(left_out.items()))),
    ]


def _files(place: Bucket | Folder, experiment: int) -> list[Fact]:
    facts = []
    for kind in ("EXPERIMENT_DATA", "ANALYSIS_DATA", "EVENTS_DATA"):
        key = place.key(kind, experiment)
        try:
            one = place.identity(key)
            facts.append((key, f"{one.size} bytes, ETag {one.etag or 'none'}, {one.last_modified}"))
        except MousebenchError as error:
            facts.append((key, error.message))
    return facts


def _session_file(place: Bucket | Folder, experiment: int) -> list[Fact]:
    key = place.key("EXPERIMENT_DATA", experiment)
    with place.open(key) as (file, _), reader.open_hdf5(file, key) as nwb:
        metadata, cells, table = reader.read_session_file(nwb, key)
        depth = reader.text(nwb, f"general/optophysiology/{reader.PLANE}/imaging depth")
        facts = [
            ("metadata", str(metadata)),
            ("text of the depth, of the genotype", f"{depth!r}, {reader.text(nwb, 'general/subject/genotype')!r}"),
            ("cells", str(len(cells))),
            *((f"fields of {path}", ", ".join(nwb[path])) for path in _GENERAL if path in nwb),
            *((path, reader.describe(nwb[path])) for path in _arrays() if path in nwb),
            ("demixed signal", "there" if _arrays()[1] in nwb else "missing"),
        ]
    counts = Counter(table.frame.tolist())
    lengths = Counter((table.end - table.start).tolist())
    gaps = Counter(np.diff(table.start).tolist()).most_common(4)
    return [
        *facts,
        ("presentations", f"{len(table.frame)}, frames {table.frame.min()}..{table.frame.max()}"),
        ("blanks", f"{counts.get(checks.BLANK, 0)} with code {checks.BLANK}; 0 occurs {counts.get(0, 0)} times"),
        ("end - start", str(dict(lengths))),
        ("frames from onset to onset", str(dict(gaps))),
    ]


def _arrays() -> list[str]:
    base = f"{reader.PIPELINE}/Fluorescence/{reader.PLANE}"
    dff = f"{reader.PIPELINE}/DfOverF/{reader.PLANE}/data"
    return [dff, f"{base}_demixed_signal/data", f"{base}_neuropil_response/data", reader.TEMPLATE]


def _analysis_file(place: Bucket | Folder, experiment: int) -> list[Fact]:
    key = place.key("ANALYSIS_DATA", experiment)
    with place.open(key) as (file, _), reader.open_hdf5(file, key) as analysis:
        group = analysis["analysis/mean_sweep_response_ns"]
        facts = [("mean_sweep_response_ns: blocks", str(group.attrs.get("nblocks")))]
        for i in range(int(group.attrs.get("nblocks", 0))):
            items = [item.decode() for item in group[f"block{i}_items"][()]]
            facts.append((f"block {i}", f"{reader.describe(group[f'block{i}_values'])}, items {items[0]}..{items[-1]}"))
        labels = group["axis1"][()]
        order = (
            "0..n-1 in order"
            if np.array_equal(labels, np.arange(len(labels)))
            else f"permuted, first {labels[:5].tolist()}"
        )
        return [*facts, ("row labels", f"{len(labels)}, {order}")]


def _traces(place: Bucket | Folder, experiment: int, n_cells: int = 3) -> list[Fact]:
    """Recompute the responses of a few cells from their traces."""
    key, other = place.key("EXPERIMENT_DATA", experiment), place.key("ANALYSIS_DATA", experiment)
    base = f"{reader.PIPELINE}/Fluorescence/{reader.PLANE}"
    with place.open(key) as (file, _), reader.open_hdf5(file, key) as nwb:
        _, cells, table = reader.read_session_file(nwb, key)
        demixed = reader.dataset(nwb, f"{base}_demixed_signal/data", key)[:n_cells].astype(np.float64)
        neuropil = reader.dataset(nwb, f"{base}_neuropil_response/data", key)[:n_cells]
        r = reader.dataset(nwb, f"{base}_neuropil_response/r", key)[:n_cells].astype(np.float64)
    with place.open(other) as (file, _), reader.open_hdf5(file, other) as analysis:
        stored, _, _ = reader.read_mean_sweep(analysis, len(cells), other)
    again = reader.mean_sweep_response(demixed - r[:, None] * neuropil, table)
    difference = np.nanmax(np.abs(again - stored[:, :n_cells]))
    span = f"{np.nanmin(stored):.3g}..{np.nanmax(stored):.3g}"
    return [(f"responses of {len(r)} cells, recomputed", f"largest difference {difference:.3g} on a range of {span}")]


def _scenes(place: Bucket | Folder, experiment: int) -> list[Fact]:
    """Compare three scenes of two sessions."""
    key = place.key("EXPERIMENTS")
    others = [one.id for one in sites.parse_experiments(place.json(key), key) if one.id != experiment][:1]
    facts = []
    for number in (experiment, *others):
        key = place.key("EXPERIMENT_DATA", number)
        with place.open(key) as (file, _), reader.open_hdf5(file, key) as nwb:
            values: Any = reader.read_template(nwb, key, scenes.COMPARED)
        facts.append(
            (f"three scenes of {number}", f"{values.shape}, sha256 {hashlib.sha256(values.tobytes()).hexdigest()}")
        )
    return facts
