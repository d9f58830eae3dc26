"""Make a report: read what is stored, make sections, write report.json, tables, figures and the page."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from mousebench import analysis, assemblies, store
from mousebench.assemblies import replacing
from mousebench.errors import ContractViolation, MissingData, StoreError
from mousebench.interfaces import Benchmark
from mousebench.names import result_name
from mousebench.progress import Progress, Silent
from mousebench.rdms import layer_rdm, target_rdm
from mousebench.report import claims, figures, page, sections, task_sections
from mousebench.report.content import Section, plain
from mousebench.representations import Layers, cache_path
from mousebench.specs import file_name

FORMAT = 1
FORMS = ("rsa-nnls-published", "rsa-nnls")  # as published, and as we would defend it


@dataclass
class Inputs:
    """Everything a report is made of.

    Attributes
    ----------
    benchmark : str
    scores : dict of metric to Dataset
        ``analysis.collect``.
    sites : dict of site to float64 (stimulus, stimulus_b)
        RDMs.
    reliabilities : dict of site to float
        Of the site RDMs, where the benchmark gives it.
    latents : dict of task to float64 (stimulus, stimulus_b)
        RDMs of the latent spaces.
    clusters : dict of task to cluster
    notes : list of str
    """

    benchmark: str
    scores: dict[str, xr.Dataset]
    sites: dict[str, np.ndarray] = field(default_factory=dict)
    reliabilities: dict[str, float] = field(default_factory=dict)
    latents: dict[str, np.ndarray] = field(default_factory=dict)
    clusters: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def simulated(self) -> bool:
        """Whether the data are simulated."""
        return any(scores.attrs["simulated"] for scores in self.scores.values())


def read_inputs(
    results: Path,
    benchmark: str,
    thing: Benchmark,
    facts: analysis.Facts | None = None,
    metrics: Sequence[str] | None = None,
) -> Inputs:
    """Read the results of a benchmark, its site RDMs, and the latent spaces that are in the cache.

    Parameters
    ----------
    results : Path
    benchmark : str
    thing : Benchmark
    facts : callable, optional
        As in ``analysis.collect``.
    metrics : sequence of str, optional
        All that have results by default.

    Raises
    ------
    MissingData
        If there are no results.
    """
    folder = analysis.latest_version(results / file_name(benchmark))
    there = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder else []
    wanted = [name for name in FORMS if name in there] + [name for name in there if name not in FORMS]
    if metrics is not None:
        wanted = [name for name in wanted if name in (*metrics, *FORMS)]
    scores = {name: analysis.collect(results, benchmark, name, facts) for name in wanted}
    if not scores:
        raise MissingData(
            f"there is no result on {benchmark!r} in {results}",
            f"mousebench score --model M,... --benchmark {benchmark} --metric {','.join(FORMS)} --results {results}",
        )
    inputs = Inputs(benchmark, scores)
    for name, one in scores.items():
        inputs.notes += [f"{name}: left out: {text}" for text in one.attrs["skipped"]]
    _add_sites(inputs, thing)
    _add_latents(inputs, folder or results)
    return inputs


def _add_sites(inputs: Inputs, thing: Benchmark) -> None:
    try:
        ids = thing.stimuli()["stimulus_id"].values
    except MissingData as error:
        inputs.notes.append(f"no site RDMs: {error.message}")
        return
    for site in thing.sites:
        try:
            target = assemblies.align(thing.target(site), ids)
        except MissingData as error:
            inputs.notes.append(f"{site}: {error.message}")
            continue
        values = target_rdm(target).values
        if values is not None:
            inputs.sites[site] = values
            inputs.reliabilities[site] = float(target.attrs.get("reliability", np.nan))


def _add_latents(inputs: Inputs, folder: Path) -> None:
    """Read the latent spaces of the tasks that were scored; a result says where its representation is."""
    for scores in inputs.scores.values():
        some = analysis.task_scores(scores, latent=True)
        for model, task, cluster in zip(*(some[key].values for key in ("model", "task", "cluster")), strict=True):
            if str(task) in inputs.latents:
                continue
            rdm = _cached_latent(
                folder / file_name(scores.attrs["metric"]) / f"{result_name(str(model))}.nc", str(model)
            )
            if rdm is None:
                inputs.notes.append(
                    f"{model}: its representation is not in the cache any more; score it again with --force"
                )
            elif not inputs.sites or len(rdm) == len(next(iter(inputs.sites.values()))):
                inputs.latents[str(task)] = rdm
                inputs.clusters[str(task)] = str(cluster)


def _cached_latent(result: Path, model: str) -> np.ndarray | None:
    try:
        key = json.loads(store.read(result).attrs["provenance"])["representation"]
        layers = Layers(assemblies.load(cache_path(result_name(model), key)))
    except (StoreError, ContractViolation):
        return None
    rdm = layer_rdm(layers[list(layers)[-1]])
    return rdm if np.isfinite(rdm).all() else None


def make_sections(inputs: Inputs, *, n_splits: int = 1000, progress: Progress | None = None) -> list[Section]:
    """Return all sections of a report, in the order of the page."""
    progress = progress or Silent()
    forms = [name for name in inputs.scores if name in FORMS] or list(inputs.scores)[:1]
    made: list[Section] = []
    progress.start("sections", 3 + 6 * len(forms))
    by_form = (
        sections.architectures,
        sections.size_and_depth,
        lambda scores: task_sections.tasks(scores, latent=True),
        lambda scores: task_sections.tasks(scores, latent=False),
        sections.best,
        sections.batch_norm,
    )
    for make in by_form:
        for form in forms:
            made.append(make(inputs.scores[form]))
            progress.advance(1)
    signature = task_sections.signatures(inputs.latents, inputs.sites, inputs.clusters, n_splits=n_splits)
    made.append(signature)
    progress.advance(1)
    made.append(sections.sensitivity(inputs.scores))
    made.append(claims.stands(inputs.scores))
    progress.advance(1)
    if inputs.sites:
        made.append(sections.nothing(inputs.sites))
    made.append(claims.regenerate(inputs.scores, inputs.reliabilities, signature))
    progress.advance(1)
    progress.finish()
    return made


def as_json(inputs: Inputs, made: Sequence[Section]) -> dict[str, Any]:
    """Return a report as plain data: what report.json holds."""
    metrics = {
        name: {
            "models": scores["model"].values.tolist(),
            "sites": scores["site"].values.tolist(),
            **{key: scores.attrs[key] for key in ("benchmark_version", "metric_version", "seed")},
        }
        for name, scores in inputs.scores.items()
    }
    content: dict[str, Any] = plain(
        {
            "format": FORMAT,
            "benchmark": inputs.benchmark,
            "simulated": inputs.simulated,
            "metrics": metrics,
            "notes": inputs.notes,
            "sections": [asdict(section) for section in made],
        }
    )
    return content


def write(content: Mapping[str, Any], out: Path) -> list[Path]:
    """Write report.json, tables (CSV), figures (SVG, PNG) and the page, each whole or not at all; return their paths.

    Raises
    ------
    StoreError
        If the folder cannot be written.
    MissingDependency
        If matplotlib is not installed.
    """
    drawn = {
        figure["name"]: figures.draw(figure["kind"], figure["data"])
        for section in content["sections"]
        for figure in section["figures"]
    }
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    files: dict[str, bytes] = {"report.json": text.encode()}
    for section in content["sections"]:
        files |= {f"tables/{table['name']}.csv": _csv(table) for table in section["tables"]}
    for name, (svg, png) in drawn.items():
        files |= {f"figures/{name}.svg": svg, f"figures/{name}.png": png}
    files["index.html"] = page.render(content, {name: svg.decode() for name, (svg, _) in drawn.items()}).encode()
    for name, data in files.items():
        with replacing(out / name) as temporary:
            temporary.write_bytes(data)
    return [out / name for name in files]


def _csv(table: Mapping[str, Any]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table["columns"])
    writer.writerows(["" if cell is None else cell for cell in row] for row in table["rows"])
    return text.getvalue().encode()
