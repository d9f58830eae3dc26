"""Compare mousebench's reader with AllenSDK, array by array.

``tools/check_against_allensdk.py`` writes what AllenSDK reads; this module reads the same files and says where the two
differ: ``python -m mousebench_plugins.benchmarks.allen_ns.compare SESSION.nwb ANALYSIS.h5 OUT.npz``.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mousebench.errors import MousebenchError, StoreError
from mousebench_plugins.benchmarks.allen_ns import reader

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

TOLERANCE = 1e-9  # of the recomputed responses, relative to the larger of 1 and their size


@dataclass(frozen=True)
class Row:
    """How one array compares.

    Attributes
    ----------
    name : str
    shape : tuple of int
        Of mousebench's array.
    difference : float
        Largest absolute difference; 0 where the arrays are equal bit for bit, NaN where they cannot be compared.
    agrees : bool
    """

    name: str
    shape: tuple[int, ...]
    difference: float
    agrees: bool


def compare(nwb_path: Path, analysis_path: Path, sdk: Mapping[str, np.ndarray]) -> list[Row]:
    """Read a session and compare it with what AllenSDK read.

    Parameters
    ----------
    nwb_path, analysis_path : Path
    sdk : mapping of name to array
        What ``tools/check_against_allensdk.py`` wrote; arrays that it lacks are passed over.

    Returns
    -------
    list of Row
    """
    ours: dict[str, Any] = {}
    with reader.open_hdf5(nwb_path, nwb_path.name) as nwb:
        metadata, ours["cell_ids"], table = reader.read_session_file(nwb, nwb_path.name)
        ours["template"] = reader.read_template(nwb, nwb_path.name)
        if f"{reader.PIPELINE}/Fluorescence/{reader.PLANE}_demixed_signal" in nwb:
            ours["corrected_fluorescence"] = reader.read_corrected_fluorescence(nwb, nwb_path.name)
            ours["dff"] = reader.read_dff(nwb, nwb_path.name)
    with reader.open_hdf5(analysis_path, analysis_path.name) as analysis:
        ours["response"], ours["running_speed"], same = reader.read_mean_sweep(
            analysis, len(ours["cell_ids"]), analysis_path.name
        )
    ours.update(frame=table.frame, start=table.start, end=table.end)
    ours.update({f"analysis {key}": getattr(same, key) for key in ("frame", "start", "end")})
    ours.update(
        {key: getattr(metadata, key) for key in ("session_type", "experiment_id", "area", "depth_um", "cre_line")}
    )
    theirs = arrange(sdk)
    rows = [_row(name, value, theirs[name]) for name, value in ours.items() if name in theirs]
    if "corrected_fluorescence" in ours:
        recomputed = reader.mean_sweep_response(ours["corrected_fluorescence"], table)
        rows.append(_row("response, recomputed from traces", recomputed, theirs["response"], TOLERANCE))
    return rows


def arrange(sdk: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return AllenSDK's arrays in mousebench's order: presentations by onset, cells as in the session file."""
    theirs = {name: np.asarray(value) for name, value in sdk.items()}
    where = {label: at for at, label in enumerate(theirs["row"].tolist())}
    # the SDK's table is sorted by onset; its index holds the labels of the response frame's rows
    rows = [where[label] for label in theirs["label"].tolist()]
    columns = theirs["columns"].tolist()
    cells = [columns.index(str(k)) for k in range(len(theirs["cell_ids"]))]
    response = theirs["response"][rows]
    theirs["running_speed"] = response[:, columns.index(reader.RUNNING)]
    theirs["response"] = response[:, cells]
    if "cre_line" in theirs:  # the SDK keeps the genotype as the file has it, "Cux2-CreERT2/wt"
        theirs["cre_line"] = np.asarray(str(theirs["cre_line"]).split("/")[0])
    theirs.update({f"analysis {key}": theirs[key] for key in ("frame", "start", "end")})
    return theirs


def _row(name: str, ours: Any, theirs: Any, tolerance: float = 0.0) -> Row:
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    if ours.shape != theirs.shape:
        return Row(name, ours.shape, float("nan"), agrees=False)
    if ours.dtype.kind not in "iuf":
        return Row(name, ours.shape, 0.0, agrees=bool((ours.astype(str) == theirs.astype(str)).all()))
    a, b = ours.astype(np.float64), theirs.astype(np.float64)
    both = np.isnan(a) & np.isnan(b)
    difference = float(np.abs(np.where(both, 0, a - b)).max(initial=0.0))
    scale = max(1.0, float(np.nanmax(np.abs(b), initial=0.0)))
    return Row(name, ours.shape, difference, agrees=difference <= tolerance * scale)


def lines(rows: Sequence[Row]) -> list[str]:
    """Return the comparison as text."""
    return [
        f"{'same' if row.agrees else 'DIFFERENT':<10}{row.name:<36}{row.shape!s:<20}largest difference {row.difference:.3g}"
        for row in rows
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare and print; return 1 where something differs, 2 where it cannot be compared."""
    parser = argparse.ArgumentParser(description="Compare mousebench's reader with AllenSDK, array by array.")
    for name in ("nwb", "analysis", "npz"):
        parser.add_argument(name, type=Path)
    options = parser.parse_args(arguments)
    try:
        if not options.npz.is_file():
            raise StoreError(
                f"{options.npz} does not exist", "uv run --script tools/check_against_allensdk.py writes it"
            )
        with np.load(options.npz, allow_pickle=False) as sdk:
            rows = compare(options.nwb, options.analysis, dict(sdk))
    except MousebenchError as error:
        sys.stderr.write(f"error: {error.message}\n" + (f"hint: {error.hint}\n" if error.hint else ""))
        return 2
    sys.stdout.write("\n".join(lines(rows)) + "\n")
    return 0 if all(row.agrees for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
