"""Does a session hold what it should? Checks of meaning, because the bucket publishes no checksums."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mousebench.errors import StoreError
from mousebench_plugins.benchmarks.allen_ns.reader import N_SCENES, SESSION_TYPE, SessionMetadata, StimulusTable

if TYPE_CHECKING:
    from mousebench_plugins.benchmarks.allen_ns.sites import Experiment

BLANK = -1
REPEATS = 50
SCENE_SHAPE = (918, 1174)


def check_table(table: StimulusTable, name: str) -> list[str]:
    """Return what is unusual about a stimulus table; refuse what cannot be right.

    Too few presentations are kept and reported. Too many of one scene are refused: that is how blanks look after
    their code -1 has been lost.
    """
    if len(table.frame) == 0:
        raise StoreError(f"{name} has no natural-scene presentation")
    if (table.end <= table.start).any() or (np.diff(table.start) <= 0).any() or table.start[0] < 0:
        raise StoreError(f"{name}: presentations overlap in time or end before they start")
    return check_counts(table.frame, name)


def check_counts(frame: np.ndarray, name: str) -> list[str]:
    """Return which conditions were shown too seldom; refuse one that was shown too often, or is unknown."""
    if len(frame) == 0:
        raise StoreError(f"{name} has no natural-scene presentation")
    if frame.min() < BLANK or frame.max() >= N_SCENES:
        raise StoreError(f"{name}: frames run from {frame.min()} to {frame.max()}; -1..{N_SCENES - 1} are expected")
    counts = np.bincount(frame + 1, minlength=N_SCENES + 1)
    if counts.max() > REPEATS:
        scene = int(counts.argmax()) - 1
        raise StoreError(
            f"{name}: scene {scene} occurs {counts.max()} times, {REPEATS} are expected; the code of the blank sweeps may be lost",
            "use the NWB 1 file of the public bucket",
        )
    few = {int(i) - 1: int(counts[i]) for i in np.flatnonzero(counts < REPEATS)}
    if len(few) > 5:
        return [f"{len(few)} of {N_SCENES + 1} conditions have fewer than {REPEATS} presentations"]
    return [
        f"{'blanks' if i == BLANK else f'scene {i}'}: {count} of {REPEATS} presentations" for i, count in few.items()
    ]


def check_metadata(metadata: SessionMetadata, experiment: Experiment, name: str) -> list[str]:
    """Compare a session file with its record; return what the file does not say."""
    pairs = {
        "session type": (metadata.session_type, SESSION_TYPE, ""),
        "experiment id": (metadata.experiment_id, experiment.id, -1),
        "area": (metadata.area, experiment.area, ""),
        "depth": (metadata.depth_um, experiment.depth_um, -1),
        "cre line": (metadata.cre_line, experiment.cre_line, ""),
    }
    notes = []
    for what, (found, expected, absent) in pairs.items():
        if found == absent and what != "session type":
            notes.append(f"the session file does not state its {what}")
        elif found != expected:
            raise StoreError(f"{name}: its {what} is {found!r}; the experiment table says {expected!r}")
    return notes


def check_same_table(analysis: StimulusTable, nwb: StimulusTable, name: str) -> None:
    """Refuse an analysis file whose presentations are not those of the session file."""
    for key in ("frame", "start", "end"):
        if not np.array_equal(getattr(analysis, key), getattr(nwb, key)):
            raise StoreError(
                f"{name}: the presentations of the analysis file and of the session file differ in {key!r}"
            )


def check_responses(
    responses: np.ndarray, n_cells: int, n_presentations: int, name: str
) -> tuple[np.ndarray, list[str]]:
    """Return responses float32 (presentation, cell) with infinite values as missing, and what was found."""
    if responses.shape != (n_presentations, n_cells):
        raise StoreError(f"{name}: responses have shape {responses.shape}; {(n_presentations, n_cells)} is expected")
    if n_cells == 0:
        raise StoreError(f"{name} has no cell")
    with np.errstate(over="ignore"):
        values = responses.astype(np.float32)
    missing = ~np.isfinite(values)
    values[missing] = np.nan
    notes = [f"{int(missing.sum())} of {missing.size} responses are not finite"] if missing.any() else []
    empty = int(missing.all(0).sum())
    if empty == n_cells:
        raise StoreError(f"{name}: no response is finite")
    return values, notes + ([f"{empty} of {n_cells} cells have no finite response"] if empty else [])


def check_template(scenes: np.ndarray, shape: tuple[int, int], name: str) -> None:
    """Refuse scenes that are not (118, 918, 1174)."""
    if scenes.shape != (N_SCENES, *shape):
        raise StoreError(f"{name}: the scenes have shape {scenes.shape}; {(N_SCENES, *shape)} is expected")
