"""Peak memory of all layers of vgg19 to Grams, against keeping all features.

    python benchmarks/memory.py [NET]

Each form runs in a process of its own. Keeping all features of 118 images would take more memory than most machines have, so it is
run with fewer images and extrapolated: features grow in proportion.
"""

from __future__ import annotations

import subprocess
import sys

import torch
from _timing import machine, noise_images, peak_gb
from torchvision import models

from mousebench.torch_model import TorchModel

N_IMAGES, FEW = 118, 12


def main(name: str) -> None:
    """Run each form in a fresh process."""
    print(machine())
    for form, n_images in (("load", 0), ("ours", N_IMAGES), ("budget", N_IMAGES), ("keep", FEW)):
        print(
            subprocess.run(
                [sys.executable, __file__, name, form, str(n_images)], capture_output=True, text=True, check=True
            ).stdout,
            end="",
        )


def one(name: str, form: str, n_images: int) -> None:
    """Run one form and print its peak."""
    net = models.get_model(name, weights=None)
    images = noise_images(max(n_images, 1))
    if form == "load":
        print(f"{name} loaded, nothing run: {peak_gb():.2f} GB")
    elif form in ("ours", "budget"):
        budget = 2**50 if form == "ours" else 2 * 2**30
        layers = TorchModel(net, memory_budget=budget).reduce(images).layers
        widest = max(layer.n_features for layer in layers)
        how = "one pass" if form == "ours" else "pairs of blocks, budget 2 GiB"
        print(
            f"ours, {n_images} images, {how}: peak {peak_gb():.2f} GB (widest layer for all images {widest * n_images * 4 / 1e9:.2f} GB)"
        )
    else:
        base = peak_gb()
        kept = TorchModel(net).activations(images, list(TorchModel(net).layers))
        size = sum(features.nbytes for features in kept.values()) / 1e9
        print(
            f"keeping all features, {n_images} images: peak {peak_gb():.2f} GB, features {size:.2f} GB; for {N_IMAGES} images {base + size / n_images * N_IMAGES:.0f} GB"
        )


if __name__ == "__main__":
    torch.manual_seed(0)
    if len(sys.argv) == 4:
        one(sys.argv[1], sys.argv[2], int(sys.argv[3]))
    else:
        main(sys.argv[1] if len(sys.argv) > 1 else "vgg19")
