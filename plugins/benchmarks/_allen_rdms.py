"""The published site RDMs: reading, checking, fetching."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import xarray as xr
from PIL import Image, UnidentifiedImageError

from mousebench.assemblies import make_rdm, make_stimuli
from mousebench.errors import ContractViolation, MissingData, UnknownIdentifier
from mousebench.fetching import FetchReport, fetch_files, read_sums, read_verified
from mousebench.home import data_folder
from mousebench.progress import Progress

N_SCENES = 118
GREY = -1  # the Allen stimulus table's code for the grey screen
GREY_LEVEL = 127
RDMS, RELIABILITIES = "rdms/site_similarity.csv", "rdms/rdms_splithalf.csv"
SCENES = tuple(f"scenes/scene_{number:03d}.png" for number in range(N_SCENES))
AREAS = ("VISp", "VISl", "VISal", "VISpm", "VISam", "VISrl")
# sha256 of the float64 values of the published file, sites in the order of SITES
PUBLISHED = "b5cd70e24d2d0d96b242ae6c3b714e9baa0e55c58a4d5f7c65bd5294b3cb8a27"
SITES = tuple(
    f"{area}.{layer}"
    for area in AREAS
    for layer in ("L23", "L4", "L5", "L6")
    if not (layer == "L6" and area in ("VISal", "VISam", "VISrl"))
)
_HINT = "mousebench fetch allen-ns-rdms --from FOLDER_OR_URL"


class AllenRdms:
    """The 21 published site RDMs.

    Parameters
    ----------
    include_grey : bool
        Keep the grey screen as the last stimulus, id -1.
    """

    version = 1
    sites: Sequence[str] = SITES
    metrics: Sequence[str] = ("rsa-nnls", "rsa-nnls-published", "rsa")

    def __init__(self, *, include_grey: bool = False) -> None:
        self.include_grey = include_grey
        self.folder = data_folder("allen-ns-rdms", self.version)

    @cached_property
    def _sums(self) -> dict[str, str]:
        sums = read_sums(self.folder)
        missing = [name for name in (RDMS, RELIABILITIES, *SCENES) if name not in sums]
        if missing:
            raise MissingData(
                f"allen-ns-rdms lacks {len(missing)} of {2 + N_SCENES} files (first: {missing[0]})", _HINT
            )
        return sums

    def _read(self, name: str) -> bytes:
        return read_verified(self.folder, name, self._sums, _HINT)

    def stimuli(self) -> xr.DataArray:
        """Return the scenes, uint8 (stimulus, y, x), in Allen frame order; grey last."""
        scenes = [_scene(name, self._read(name)) for name in SCENES]
        for name, scene in zip(SCENES, scenes, strict=True):
            if scene.shape != scenes[0].shape:
                raise ContractViolation(f"{name} has shape {scene.shape}, {SCENES[0]} {scenes[0].shape}")
        ids = np.arange(N_SCENES)
        if self.include_grey:
            scenes.append(np.full_like(scenes[0], GREY_LEVEL))
            ids = np.append(ids, GREY)
        return make_stimuli(np.stack(scenes), ids)

    def target(self, site: str) -> xr.DataArray:
        """Return the RDM (stimulus, stimulus_b) of one site, with its published split-half reliability."""
        if site not in SITES:
            raise UnknownIdentifier(f"allen-ns-rdms has no site {site!r}", f"its sites are {', '.join(SITES)}")
        n_all = N_SCENES + 1
        rdm = np.zeros((n_all, n_all))
        rdm[np.triu_indices(n_all, 1)] = 1 - self._similarity[site]
        rdm += rdm.T
        ids = np.append(np.arange(N_SCENES), GREY)
        n = n_all if self.include_grey else N_SCENES
        reliability, sem = self._reliability[site]
        return make_rdm(
            rdm[:n, :n],
            ids[:n],
            reliability=reliability,
            reliability_sem=sem,
            site=site,
            data="the published values" if self._is_published else "not the published values",
        )

    @cached_property
    def _similarity(self) -> dict[str, np.ndarray]:
        return parse_similarity(self._read(RDMS))

    @cached_property
    def _reliability(self) -> dict[str, tuple[float, float]]:
        return parse_reliability(self._read(RELIABILITIES))

    @cached_property
    def _is_published(self) -> bool:
        return similarity_hash(self._similarity) == PUBLISHED

    def fetch(
        self,
        *,
        sites: Sequence[str] | None,
        source: str | None,
        jobs: int,
        dry_run: bool,
        progress: Progress | None,
    ) -> FetchReport:
        """Bring the files from a folder or URL; ``sites`` and ``jobs`` make no difference to 120 small files."""
        if source is None:
            raise MissingData(
                "allen-ns-rdms has no single public address to fetch from",
                f"{_HINT}, laid out as {RDMS}, {RELIABILITIES}, {SCENES[0]} ...: docs/data.md says where the files come from",
            )
        report = fetch_files(
            "allen-ns-rdms",
            source,
            (RDMS, RELIABILITIES, *SCENES),
            self.folder,
            check=_check,
            dry_run=dry_run,
            progress=progress,
        )
        if dry_run:
            return report
        self.__dict__.pop("_sums", None)
        same = "are the published ones" if self._is_published else "are NOT the published ones"
        line = f"the values of {RDMS} {same} (sha256 of the numbers)"
        return FetchReport(**{**report.__dict__, "lines": (*report.lines, line)})


def parse_similarity(content: bytes) -> dict[str, np.ndarray]:
    """Read the upper triangles of the correlation matrices.

    Returns
    -------
    mapping of site to float64 (pair)
        7021 pairs of 119 stimuli in the order of ``numpy.triu_indices(119, 1)``.

    Raises
    ------
    ContractViolation
        If a site, a pair or a value is not as published.
    """
    rows = _csv(RDMS, content)
    n_pairs = (N_SCENES + 1) * N_SCENES // 2
    columns = {_site(name): index for index, name in enumerate(rows[0])}
    missing = [site for site in SITES if site not in columns]
    if missing or len(rows) != n_pairs + 1:
        raise ContractViolation(
            f"{RDMS} has {len(rows) - 1} pairs and lacks {missing}; {n_pairs} pairs of 21 sites are expected"
        )
    try:
        values = np.array(rows[1:], dtype=np.float64)
    except ValueError as error:
        raise ContractViolation(f"{RDMS} holds something that is not a number: {error}") from error
    if not (np.abs(values) <= 1 + 1e-9).all():
        raise ContractViolation(f"{RDMS} holds values that are no correlations")
    return {site: values[:, columns[site]] for site in SITES}


def parse_reliability(content: bytes) -> dict[str, tuple[float, float]]:
    """Read the split-half correlation of each site's RDM, half of the data, and its standard error."""
    rows = _csv(RELIABILITIES, content)
    try:
        header = {name: index for index, name in enumerate(rows[0])}
        found = {
            _site(f"{row[header['area']]}_{row[header['layer']]}"): (
                float(row[header["mean"]]),
                float(row[header["sem"]]),
            )
            for row in rows[1:]
        }
    except (KeyError, IndexError, ValueError) as error:
        raise ContractViolation(f"{RELIABILITIES} is not a table of area, layer, mean, sem: {error}") from error
    missing = [site for site in SITES if site not in found]
    if missing:
        raise ContractViolation(f"{RELIABILITIES} lacks {', '.join(missing)}")
    for site in SITES:
        if not abs(found[site][0]) <= 1:  # NaN is none either
            raise ContractViolation(f"{RELIABILITIES} gives {site} the mean {found[site][0]}, which is no correlation")
    return found


def similarity_hash(similarity: dict[str, np.ndarray]) -> str:
    """Return the sha256 of the values themselves, whatever the file's order of columns."""
    values = np.stack([similarity[site] for site in SITES])
    return hashlib.sha256(np.ascontiguousarray(values, dtype="<f8").data).hexdigest()


def _csv(name: str, content: bytes) -> list[list[str]]:
    try:
        rows = [row for row in csv.reader(io.StringIO(content.decode("utf-8"))) if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ContractViolation(f"{name} is not a CSV file: {error}") from error
    if not rows or any(len(row) != len(rows[0]) for row in rows):
        raise ContractViolation(f"{name} is not a CSV table")
    return rows


def _site(column: str) -> str:
    return column.replace("_layer", ".L")


def _scene(name: str, content: bytes) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(content)) as image:
            pixels = np.asarray(image)
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ContractViolation(f"{name} is not an image: {error}") from error
    if pixels.ndim != 2 or pixels.dtype != np.uint8:
        raise ContractViolation(
            f"{name} is {pixels.dtype} of shape {pixels.shape}; one grey channel of uint8 is expected"
        )
    return pixels


def _check(name: str, content: bytes) -> None:
    """Check one file before it is stored."""
    if name == RDMS:
        parse_similarity(content)
    elif name == RELIABILITIES:
        parse_reliability(content)
    else:
        _scene(Path(name).name, content)
