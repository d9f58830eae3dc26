"""All layers of a net to Grams, against the bare forward pass.

    python benchmarks/extraction.py [NET ...]

The images are preprocessed before the clock starts on both sides. The bare pass is timed in batches of 16, where it is fastest,
and of 118. The floor is the bare pass plus the arithmetic of the Grams at the speed of one large float64 product.
"""

from __future__ import annotations

import sys
from functools import partial

import numpy as np
import torch
from _timing import best_of, machine, noise_images
from torchvision import models

from mousebench.torch_model import TorchModel

N_IMAGES = 118


def main(names: list[str]) -> None:
    """Time each net."""
    print(machine())
    images = noise_images(N_IMAGES)
    rate = _float64_rate()
    for name in names:
        torch.manual_seed(0)
        net = models.get_model(name, weights=None).eval()
        model = TorchModel(net, memory_budget=2**50)
        batch = model._prepare(images)
        model._prepare = lambda some, batch=batch: batch[: len(some)]  # type: ignore[method-assign]
        candidates = {
            "16": partial(_bare, net, batch, 16),
            "118": partial(_bare, net, batch, 118),
            "ours": partial(model.reduce, images),
        }
        times = best_of(3, candidates)
        layers = model.reduce(images).layers
        features = sum(layer.n_features for layer in layers)
        arithmetic = N_IMAGES * (N_IMAGES + 1) * features / rate
        bare = min(times["16"], times["118"])
        print(
            f"{name}: {len(layers)} layers, {features / 1e6:.1f} M features; bare pass {times['16']:.2f} s (batches of 16), {times['118']:.2f} s (118); "
            f"all Grams {times['ours']:.2f} s; ratio {times['ours'] / bare:.2f} (to the same batch {times['ours'] / times['118']:.2f}); "
            f"floor {bare + arithmetic:.2f} s, ratio {(bare + arithmetic) / bare:.2f}"
        )


def _bare(net: torch.nn.Module, batch: torch.Tensor, size: int) -> None:
    with torch.no_grad():
        for start in range(0, len(batch), size):
            net(batch[start : start + size])


def _float64_rate() -> float:
    """Return multiplications and additions a second of a large float64 product."""
    x = np.random.default_rng(0).normal(size=(2000, 2000))
    return 2 * 2000**3 / best_of(3, {"product": lambda: x @ x.copy()})["product"]


if __name__ == "__main__":
    main(sys.argv[1:] or ["resnet18"])
