"""All layers of nets to Grams, against the bare forward pass and against keeping the features.

    python benchmarks/extraction.py [NET ...]

The images are preprocessed before the clock starts on all sides. The bare pass is timed in batches of the size that
ours uses and in one batch. The peer does as users of thingsvision do: hooks keep a layer's features as they come, batch
by batch, and ``numpy.corrcoef`` makes its RDM. Features of all layers are up to 22 GB, so it takes as many layers a pass
as stay below 4 GB (and where one layer is wide, fewer images, which is said). The floor is the bare pass plus the
arithmetic of the Grams, at the rate of the same product on features that are in the cache, all cores at once.
"""

from __future__ import annotations

import os
import sys
import time
from functools import partial

import numpy as np
import torch
from _timing import best_of, machine, noise_images
from torch import nn
from torchvision import models

from mousebench.collector import one_blas_thread_each
from mousebench.extraction import BATCH
from mousebench.linalg import correlation_rdm
from mousebench.torch_model import TorchModel

NETS = ["mobilenet_v2", "resnet50", "vgg19_bn", "vit_b_16"]
N_IMAGES, KEPT = 118, 4e9
WIDE, FEW = 2_000_000, 40  # features of a layer from which the peer gets fewer images, and how many


def main(names: list[str]) -> None:
    """Time each net."""
    print(machine())
    images = noise_images(N_IMAGES)
    rate = product_rate()
    print(f"products of 118 x 4096 in float64: {rate / 1e9:.0f} billion operations a second, a triangle counted once")
    for name in names:
        torch.manual_seed(0)
        net = models.get_model(name, weights=None).eval()
        model = TorchModel(net)
        batch = model._prepare(images)
        model._prepare = lambda some, batch=batch: batch[: len(some)]  # type: ignore[method-assign]
        reductions = model.reduce(images)
        widths = {layer.name: layer.n_features for layer in reductions.layers}
        some = batch[: FEW if max(widths.values()) > WIDE else N_IMAGES]
        kept = keep(net, some, widths)
        for layer in reductions.layers:
            if not layer.n_features > 1:
                continue
            ours = correlation_rdm(layer.gram, layer.feature_sum, layer.n_features)[: len(some), : len(some)]
            if np.isfinite(ours).all():
                assert np.abs(ours - kept[layer.name]).max() < 1e-3, layer.name
        times = best_of(
            2,
            {
                "same": partial(bare, net, batch, BATCH),
                "one": partial(bare, net, batch, N_IMAGES),
                "ours": partial(model.reduce, images),
            },
        )
        start = time.perf_counter()
        keep(net, some, widths)
        peer = (time.perf_counter() - start) * N_IMAGES / len(some)
        ours, features = times["ours"], sum(widths.values())
        floor = times["same"] + N_IMAGES * (N_IMAGES + 1) * features / rate
        how = "" if len(some) == N_IMAGES else f" (in proportion, from {len(some)} images)"
        print(
            f"{name}: {len(widths)} layers, {features / 1e6:.1f} M features; load {os.getloadavg()[0]:.1f}\n"
            f"  all Grams {ours:.2f} s\n"
            f"  bare pass, batches of {BATCH} {times['same']:.2f} s: ratio {ours / times['same']:.2f}; "
            f"one batch {times['one']:.2f} s: ratio {ours / times['one']:.2f}\n"
            f"  floor {floor:.2f} s: ratio {ours / floor:.2f} (floor to bare pass {floor / times['same']:.2f})\n"
            f"  features kept, numpy.corrcoef {peer:.1f} s{how}: {peer / ours:.1f} times ours",
            flush=True,
        )


def bare(net: nn.Module, batch: torch.Tensor, size: int) -> None:
    """Pass all images and keep nothing."""
    with torch.no_grad():
        for some in batch.split(size):
            net(some)


def keep(net: nn.Module, batch: torch.Tensor, widths: dict[str, int]) -> dict[str, np.ndarray]:
    """Return the RDM of each layer, from features that hooks keep; as few passes as 4 GB allow."""
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


def product_rate() -> float:
    """Return multiplications and additions a second of thin products in float64, one thread a core."""
    x = np.random.default_rng(0).normal(size=(N_IMAGES, 4096))

    def products(_: int) -> None:
        for _ in range(100):
            x @ x.T

    with one_blas_thread_each() as pool:
        workers = pool._max_workers
        seconds = best_of(3, {"product": lambda: list(pool.map(products, range(workers)))})["product"]
    return workers * 100 * N_IMAGES * (N_IMAGES + 1) * 4096 / seconds


if __name__ == "__main__":
    main(sys.argv[1:] or NETS)
