"""All layers of nets to Grams, against the bare forward pass and against keeping the features: time and peak memory.

    python benchmarks/extraction.py [--processor-time] [--runs N] [NET ...]

Each form runs in a process of its own, as its peak memory is that of the process; three images pass before the clock
starts, and preprocessing is outside it. The bare pass is run in batches of the size that ours uses and in one batch. The peer does
as users of thingsvision do: hooks keep a layer's features as they come, batch by batch, and ``numpy.corrcoef`` makes its
RDM; ours has to agree with it. Features of all layers are up to 22 GB, so it takes as many layers a pass as stay below
3 GB (and where one layer is wide, fewer images, which is said). The floor is the bare pass plus the arithmetic of the Grams, at
the rate of the same product on features that are in the cache, all cores at once.

With ``--processor-time`` seconds are those of processors, on one thread, so that other work on the machine counts less.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from _timing import best_of, machine, noise_images, peak_gb
from threadpoolctl import threadpool_limits
from torch import nn
from torchvision import models

from mousebench.collector import one_blas_thread_each
from mousebench.extraction import BATCH
from mousebench.linalg import correlation_rdm
from mousebench.torch_model import TorchModel

NETS = ["mobilenet_v2", "resnet50", "vgg19_bn", "vit_b_16"]
FORMS = ("load", "same", "one", "ours", "budget", "keep")
N_IMAGES, KEPT = 118, 3e9
WIDE, FEW = 2_000_000, 40  # features of a layer from which the peer gets fewer images, and how many


def main() -> None:
    """Run each form of each net in a fresh process, and print what they took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("nets", nargs="*", metavar="NET", help=f"by torchvision's name ({', '.join(NETS)})")
    parser.add_argument("--runs", type=int, default=1, metavar="N", help="of each form; the best one counts")
    parser.add_argument("--processor-time", action="store_true", help="one thread, processor time")
    parser.add_argument("--forms", default=",".join(FORMS), help=argparse.SUPPRESS)
    parser.add_argument("--form", choices=FORMS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.processor_time:
        torch.set_num_threads(1)
        threadpool_limits(1, user_api="blas")
    clock = time.process_time if options.processor_time else time.perf_counter
    if options.form:
        print(json.dumps(one(options.nets[0], options.form, options.folder, options.runs, clock)))
        return
    print(machine() + (", one thread, processor time" if options.processor_time else ""))
    rate = product_rate(clock)
    print(f"products of 118 x 4096 in float64: {rate / 1e9:.0f} billion operations a second, a triangle counted once")
    for name in options.nets or NETS:
        with tempfile.TemporaryDirectory(prefix="mousebench-extraction-") as folder:
            command = [sys.executable, __file__, name, "--folder", folder, "--runs", str(options.runs)]
            command += ["--processor-time"] * options.processor_time
            forms = {}
            for form in options.forms.split(","):
                done = subprocess.run([*command, "--form", form], capture_output=True, text=True, check=False)
                if done.returncode:
                    sys.exit(f"{name}, {form}: exit code {done.returncode}\n{done.stderr}")
                forms[form] = json.loads(done.stdout)
                print(f"{name}, {form}: {done.stdout.strip()}", flush=True)
        tell(name, forms, rate)


def tell(name: str, forms: dict[str, dict[str, float]], rate: float) -> None:
    """Print the forms of one net beside ours."""
    ours = forms["ours"]
    seconds, features = ours["seconds"], ours["features"]
    print(f"{name}: {ours['layers']} layers, {features / 1e6:.1f} M features; load {os.getloadavg()[0]:.1f}")
    print(f"  weights and libraries: peak {forms['load']['peak_gb']:.2f} GB") if "load" in forms else None
    print(f"  all Grams {seconds:.2f} s, peak {ours['peak_gb']:.2f} GB (widest layer {ours['widest_gb']:.2f} GB)")
    for form, words in (("same", f"batches of {BATCH}"), ("one", "one batch")):
        if form in forms:
            bare = forms[form]
            ratio = seconds / bare["seconds"]
            print(f"  bare pass, {words} {bare['seconds']:.2f} s, peak {bare['peak_gb']:.2f} GB: ratio {ratio:.2f}")
    if "same" in forms:
        floor = forms["same"]["seconds"] + N_IMAGES * (N_IMAGES + 1) * features / rate
        to_bare = floor / forms["same"]["seconds"]
        print(f"  floor {floor:.2f} s: ratio {seconds / floor:.2f} (floor to bare pass {to_bare:.2f})")
    if "budget" in forms:
        budget = forms["budget"]
        print(f"  all Grams, budget 1 GiB {budget['seconds']:.2f} s, peak {budget['peak_gb']:.2f} GB")
    if "keep" in forms:
        kept = forms["keep"]
        peer = kept["seconds"] * N_IMAGES / kept["images"]
        how = "" if kept["images"] == N_IMAGES else f" (in proportion, from {kept['images']} images)"
        print(
            f"  features kept, numpy.corrcoef {peer:.1f} s{how}: {peer / seconds:.1f} times ours; "
            f"all features of {N_IMAGES} images {features * N_IMAGES * 4 / 1e9:.1f} GB",
            flush=True,
        )


def one(name: str, form: str, folder: Path, runs: int, clock: Callable[[], float]) -> dict[str, float]:
    """Run one form; return its seconds, the peak of this process, and what else is known of it."""
    torch.manual_seed(0)
    net = models.get_model(name, weights=None).eval()
    if form == "load":
        return {"peak_gb": peak_gb()}
    images = noise_images(N_IMAGES)
    model = TorchModel(net, memory_budget=2**30 if form == "budget" else None)
    batch = model._prepare(images)
    model._prepare = lambda some: batch[: len(some)]  # type: ignore[method-assign]
    bare(net, batch[:3], 3)
    file = folder / "ours.npz"
    if form in ("same", "one"):
        seconds, _ = best(runs, partial(bare, net, batch, BATCH if form == "same" else N_IMAGES), clock)
        return {"seconds": seconds, "peak_gb": peak_gb()}
    if form in ("ours", "budget"):
        seconds, reductions = best(runs, partial(model.reduce, images), clock)
        layers = [layer for layer in reductions.layers if layer.n_features > 1]
        found = {"seconds": seconds, "peak_gb": peak_gb(), "layers": len(reductions.layers)}
        widths = {layer.name: layer.n_features for layer in reductions.layers}
        if form == "ours":
            file.with_suffix(".json").write_text(json.dumps(widths))
            np.savez(file, **{x.name: correlation_rdm(x.gram, x.feature_sum, x.n_features) for x in layers})
        return {**found, "features": sum(widths.values()), "widest_gb": max(widths.values()) * N_IMAGES * 4 / 1e9}
    widths = json.loads(file.with_suffix(".json").read_text())
    some = batch[: FEW if max(widths.values()) > WIDE else N_IMAGES]
    seconds, kept = best(runs, partial(keep, net, some, widths), clock)
    peak = peak_gb()
    with np.load(file) as ours:
        for layer in ours.files:
            rdm = ours[layer][: len(some), : len(some)]
            if np.isfinite(rdm).all():
                assert np.abs(rdm - kept[layer]).max() < 1e-3, layer
    return {"seconds": seconds, "peak_gb": peak, "images": len(some)}


def best(runs: int, call: Callable[[], object], clock: Callable[[], float]) -> tuple[float, object]:
    """Return the best seconds of a call, and what it returned."""
    times = []
    for _ in range(runs):
        start = clock()
        result = call()
        times.append(clock() - start)
    return min(times), result


def bare(net: nn.Module, batch: torch.Tensor, size: int) -> None:
    """Pass all images and keep nothing."""
    with torch.no_grad():
        for some in batch.split(size):
            net(some)


def keep(net: nn.Module, batch: torch.Tensor, widths: dict[str, int]) -> dict[str, np.ndarray]:
    """Return the RDM of each layer, from features that hooks keep; as few passes as the memory allows."""
    groups: list[list[str]] = [[]]
    for name in widths:
        if sum(widths[other] for other in [*groups[-1], name]) * len(batch) * 4 > KEPT and groups[-1]:
            groups.append([])
        groups[-1].append(name)
    return {name: rdm for group in groups for name, rdm in _keep_some(net, batch, group).items()}


def _keep_some(net: nn.Module, batch: torch.Tensor, names: list[str]) -> dict[str, np.ndarray]:
    found: dict[str, list[np.ndarray]] = {name: [] for name in names}
    called: dict[str, int] = {}

    def hook(path: str) -> object:
        def on_call(_module: nn.Module, _inputs: object, output: object) -> None:
            call = called.get(path, 0)
            called[path] = call + 1
            first = output[0] if isinstance(output, tuple) else output
            for name in (path, f"{path}#{call}", f"{path}#{call}.0"):
                if name in found:
                    found[name].append(first.flatten(1).numpy().copy())  # type: ignore[attr-defined]

        return on_call

    paths = {name.partition("#")[0] for name in names}
    modules = {path or "(root)": module for path, module in net.named_modules()}
    handles = [modules[path].register_forward_hook(hook(path)) for path in paths]  # type: ignore[arg-type]
    with torch.no_grad():
        for some in batch.split(BATCH):
            called.clear()
            net(some)
    for handle in handles:
        handle.remove()
    with np.errstate(invalid="ignore", divide="ignore"):
        return {name: 1 - np.corrcoef(np.concatenate(found.pop(name))) for name in names}


def product_rate(clock: Callable[[], float]) -> float:
    """Return multiplications and additions a second of thin products in float64, one thread a core."""
    x = np.random.default_rng(0).normal(size=(N_IMAGES, 4096))

    def products(_: int) -> None:
        for _ in range(100):
            x @ x.T

    with one_blas_thread_each() as pool:
        workers = pool._max_workers
        seconds = best_of(3, {"product": lambda: list(pool.map(products, range(workers)))}, clock)["product"]
    return workers * 100 * N_IMAGES * (N_IMAGES + 1) * 4096 / seconds


if __name__ == "__main__":
    main()
