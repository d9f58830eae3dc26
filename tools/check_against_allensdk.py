# /// script
# requires-python = "==3.11.*"
# dependencies = [
#   "allensdk==2.16.2", "numpy==1.23.5", "pandas==1.5.3", "scipy==1.10.1", "xarray==2023.1.0",
#   "h5py==3.16.0", "tables==3.11.1", "statsmodels==0.14.6", "setuptools==80.10.2", "marshmallow==3.26.2",
#   "argschema==3.0.4", "pynwb==2.8.3", "hdmf==6.2.0", "scikit-image==0.24.0", "matplotlib==3.10.9",
#   "simpleitk==2.5.7", "semver==3.1.1", "boto3==1.44.5",
# ]
# ///
"""Read one two-photon session with AllenSDK and save what it says, to compare mousebench's reader with.

    uv run --script tools/check_against_allensdk.py SESSION.nwb ANALYSIS.h5 OUT.npz [--compute]
    python -m mousebench_plugins.benchmarks.allen_ns.compare SESSION.nwb ANALYSIS.h5 OUT.npz

With --compute AllenSDK first computes the natural-scene analysis from the traces and writes ANALYSIS.h5 itself (slow).
AllenSDK pins numpy 1.23 and pandas 1.5, so it has an environment of its own; the caps on statsmodels and setuptools are
what it needs to be imported at all, the exact pins keep it from rotting. It unpickles parts of an analysis file: use it
on files that you trust.
"""

from __future__ import annotations

import argparse
import time
import warnings

warnings.simplefilter("ignore")

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
from allensdk.brain_observatory.brain_observatory_exceptions import MissingStimulusException  # noqa: E402
from allensdk.brain_observatory.natural_scenes import NaturalScenes  # noqa: E402
from allensdk.core.brain_observatory_nwb_data_set import BrainObservatoryNwbDataSet  # noqa: E402


def compute(nwb: str, analysis: str) -> float:
    """Let AllenSDK compute the analysis of the natural scenes and write it; return the seconds of the responses."""
    scenes = NaturalScenes(BrainObservatoryNwbDataSet(nwb))
    started = time.perf_counter()
    responses = scenes.mean_sweep_response
    seconds = time.perf_counter() - started
    out = BrainObservatoryNwbDataSet(analysis)
    out.save_analysis_dataframes(
        ("stim_table_ns", scenes.stim_table),
        ("sweep_response_ns", scenes.sweep_response),
        ("mean_sweep_response_ns", responses),
        ("peak", scenes.peak),
    )
    out.save_analysis_arrays(
        ("response_ns", scenes.response),
        ("binned_dx_sp", scenes.binned_dx_sp),
        ("binned_cells_sp", scenes.binned_cells_sp),
        ("binned_dx_vis", scenes.binned_dx_vis),
        ("binned_cells_vis", scenes.binned_cells_vis),
    )
    return seconds


def read_analysis(data: BrainObservatoryNwbDataSet, analysis: str) -> tuple[pd.DataFrame, str]:
    """Return the mean sweep responses of an analysis file, and by which route they came."""
    try:
        return NaturalScenes.from_analysis_file(data, analysis).mean_sweep_response, "from_analysis_file"
    except MissingStimulusException:  # a file without the pickled frames, which that method asks for
        return pd.read_hdf(analysis, "analysis/mean_sweep_response_ns"), "read_hdf"


def main() -> None:
    """Read the arguments, read the files, write the archive."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("nwb")
    parser.add_argument("analysis")
    parser.add_argument("out")
    parser.add_argument("--compute", action="store_true")
    options = parser.parse_args()
    seconds = compute(options.nwb, options.analysis) if options.compute else np.nan
    data = BrainObservatoryNwbDataSet(options.nwb)
    table = data.get_stimulus_table("natural_scenes")
    response, route = read_analysis(data, options.analysis)
    about = data.get_metadata()
    np.savez_compressed(
        options.out,
        cell_ids=data.get_cell_specimen_ids(),
        frame=table["frame"].to_numpy(),
        start=table["start"].to_numpy(),
        end=table["end"].to_numpy(),
        label=table.index.to_numpy(),
        row=response.index.to_numpy(),
        columns=np.array(response.columns, dtype=str),
        response=response.to_numpy(dtype=np.float64),
        session_type=data.get_session_type(),
        experiment_id=about["ophys_experiment_id"],
        area=about["targeted_structure"],
        depth_um=about["imaging_depth_um"],
        cre_line=about["cre_line"],
        template=data.get_stimulus_template("natural_scenes"),
        corrected_fluorescence=data.get_corrected_fluorescence_traces()[1],
        dff=data.get_dff_traces()[1],
        seconds=seconds,
        route=route,
    )


if __name__ == "__main__":
    main()
