"""Computing with the Allen data: mean sweep responses against AllenSDK, reliabilities against a loop, loading a site.

    python benchmarks/allen_responses.py [--cells N]

AllenSDK computes in an environment of its own (needs uv); both work on the same file and the numbers are compared.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

TOP = Path(__file__).parents[1]
sys.path[:0] = [str(TOP / "tests"), str(TOP / "tests/allen")]

import allen_files  # noqa: E402
from _timing import best_of, machine  # noqa: E402

from mousebench import assemblies  # noqa: E402
from mousebench.reliability import neuroid_reliability  # noqa: E402
from mousebench_plugins.benchmarks.allen_ns import assemble, compare, reader  # noqa: E402


def responses(n_cells: int) -> None:
    """Time both computations of the mean sweep responses of one full-length session."""
    uv = shutil.which("uv") or str(Path(sys.executable).with_name("uv"))
    with tempfile.TemporaryDirectory() as name:
        nwb, analysis, out = (Path(name) / file for file in ("s.nwb", "a.h5", "sdk.npz"))
        session = allen_files.Session(id=501559087, n_cells=n_cells, with_traces=True)
        allen_files.write_nwb(nwb, session, unsorted=True)
        script = [uv, "run", "--script", str(TOP / "tools/check_against_allensdk.py")]
        done = subprocess.run([*script, str(nwb), str(analysis), str(out), "--compute"], capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"AllenSDK could not be run:\n{done.stderr[-2000:]}")
        with np.load(out) as sdk:
            rows, seconds = compare.compare(nwb, analysis, dict(sdk)), float(sdk["seconds"])
        with reader.open_hdf5(nwb, nwb.name) as file:
            _, _, table = reader.read_session_file(file, nwb.name)
            traces = reader.read_corrected_fluorescence(file, nwb.name)
    assert all(row.agrees for row in rows), compare.lines(rows)
    ours = best_of(5, {"ours": lambda: reader.mean_sweep_response(traces, table)})["ours"]
    print(f"mean sweep responses, {n_cells} cells x {len(table.frame)} presentations (traces in memory):")
    print(f"  AllenSDK {seconds:.2f} s, mousebench {1000 * ours:.1f} ms: {seconds / ours:,.0f} x (aim >= 100 x)")
    print("\n".join(f"  {line}" for line in compare.lines(rows)))


def reliability(n_neurons: int = 8000, n_splits: int = 100, sample: int = 20) -> None:
    """Time the split-half reliability of many neurons; the loop is timed on a sample and scaled."""
    rng = np.random.default_rng(0)
    cube = rng.normal(size=(118, 50, n_neurons)).astype(np.float32)
    cube += rng.normal(size=(118, 1, n_neurons)).astype(np.float32)
    fast = neuroid_reliability(cube, np.random.default_rng(1), n_splits)
    slow = np.array([loop(cube[:, :, i].astype(np.float64), n_splits) for i in range(sample)])
    times = best_of(
        3,
        {
            "ours": lambda: neuroid_reliability(cube, np.random.default_rng(1), n_splits),
            "loop": lambda: [loop(cube[:, :, i].astype(np.float64), n_splits) for i in range(sample)],
        },
    )
    ours, theirs = times["ours"], times["loop"] * n_neurons / sample
    np.testing.assert_allclose(fast[:sample], slow, rtol=0, atol=1e-12)
    print(f"reliability, {n_neurons} neurons x {n_splits} splits: loop {theirs:.0f} s (from {sample} neurons), ours {ours:.1f} s: "
          f"{theirs / ours:.0f} x (aim >= 50 x), equal to 1e-12")  # fmt: skip


def loop(trials: np.ndarray, n_splits: int) -> float:
    """Return the reliability of one neuron, (stimulus, repetition), split by split."""
    rng, values = np.random.default_rng(1), []
    for _ in range(n_splits):
        order = rng.permutation(trials.shape[1])
        half = trials.shape[1] // 2
        r = np.corrcoef(trials[:, order[:half]].mean(1), trials[:, order[half:]].mean(1))[0, 1]
        values.append(2 * r / (1 + r))
    return float(np.mean(values))


def loading(n_neurons: int = 2083) -> None:
    """Time reading the largest site's array, checksum included."""
    values = np.random.default_rng(0).normal(size=(5900, n_neurons)).astype(np.float32)
    ids = assemble.conditions(False)
    labels = {"neuroid_id": np.arange(n_neurons)}
    target = assemblies.make_responses(values, np.repeat(ids, 50), np.tile(np.arange(50), 118), labels)
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "site.nc"
        assemblies.save(target, path)
        times = best_of(3, {"verified": lambda: assemblies.load_array(path), "bytes": path.read_bytes})
        size = path.stat().st_size
    print(
        f"loading a site, 5900 x {n_neurons}, {size / 1e6:.0f} MB: {times['verified']:.2f} s verified "
        f"({1000 * times['bytes']:.0f} ms to read the bytes)"
    )


def main() -> None:
    """Run all three."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=5)
    options = parser.parse_args()
    print(machine())
    reliability()
    loading()
    responses(options.cells)


if __name__ == "__main__":
    main()
