"""``mousebench reproduce``."""

from __future__ import annotations

import argparse
import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from mousebench.commands.options import discovered, names

if TYPE_CHECKING:
    from mousebench.reproduction import Reproduction

TEXT = "run again what a result says of itself, and show by how much it differs"
EXAMPLE = "mousebench reproduce results/sim-ns/v1/rsa-nnls/pixels.nc"


def add(parser: argparse.ArgumentParser) -> None:
    """Give the command its options."""
    parser.add_argument("result", metavar="RESULT.nc")
    parser.add_argument("--model", metavar="FILE.py:FUNCTION", help="the model of a result that is local")
    parser.add_argument("--weights", metavar="FILE", help="the weights that it was scored with")
    parser.add_argument("--layers", type=names, metavar="PATTERN,...", help="the layers that it was scored with")
    parser.add_argument(
        "--device", default="auto", choices=("auto", "cpu", "cuda", "mps"), help="where nets run (auto)"
    )


def run(options: argparse.Namespace) -> int:
    """Run the command and return its exit code: 1 if a number differs."""
    from mousebench.progress import progress_for_stderr
    from mousebench.reproduction import reproduce

    progress = progress_for_stderr()
    try:
        with contextlib.redirect_stdout(sys.stderr):  # stdout is for results
            done = reproduce(
                Path(options.result),
                discovered(options),
                model=options.model,
                weights=options.weights,
                layers=options.layers,
                device=options.device,
                progress=progress,
            )
    finally:
        progress.finish()
    _print(done)
    return 0 if done.same else 1


def _print(done: Reproduction) -> None:
    from mousebench.reproduction import TOLERANCE

    about = done.before.attrs
    print(f"{about['model']} on {about['benchmark']}, {about['metric']}, seed {about['seed']}")
    width = max(len("site"), *(len(site) for site in done.differences))
    print(f"{'site':<{width}}  {'raw before':>12}  {'raw now':>12}  {'largest difference':>18}  of")
    for number, (site, row) in enumerate(done.differences.items()):
        worst = max(row, key=lambda name: row[name])
        now = done.now["raw"].values[done.now["site"].values.tolist().index(site)]
        print(f"{site:<{width}}  {done.before['raw'].values[number]:12.9f}  {now:12.9f}  {row[worst]:18.2g}  {worst}")
    for what, was, now in done.changed:
        print(f"differs: {what}: {_short(was)} -> {_short(now)}")
    if done.same:
        print(f"reproduced: every number is within {TOLERANCE:g}")
        return
    print(f"not reproduced: the largest difference is {done.largest:.2g}, above {TOLERANCE:g}")
    changed = {name for name, _, _ in done.changed}
    if any(name.startswith("data of") or name == "stimuli" for name in changed):
        print("the data are not those that the result was made from")
    elif any("fingerprint" in name or name.endswith("source") for name in changed):
        print("the model, or a plugin's code, is not what it was")
    elif changed:
        print(
            "another processor, device or version of what computes rounds differently; see docs/method.md, Reproducing"
        )


def _short(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:12]}..."
