"""Peak memory of all layers of nets to Grams, against the bare forward pass and against keeping all features.

    python benchmarks/memory.py [NET ...]

Each form runs in a process of its own. Keeping all features of 118 images would take more memory than most machines have, so it is
run with fewer images and extrapolated: features grow in proportion.
"""

from __future__ import annotations

import subprocess
import sys

import torch
from _timing import machine, noise_images, peak_gb
from extraction import NETS, bare
from torchvision import models

from mousebench.extraction import BATCH
from mousebench.torch_model import TorchModel

N_IMAGES, FEW = 118, 12
FORMS = ("load", "same", "one", "ours", "budget", "keep")


def main(names: list[str]) -> None:
    """Run each form in a fresh process."""
    print(machine())
    for name in names:
        for form in FORMS:
            command = [sys.executable, __file__, name, form]
            print(subprocess.run(command, capture_output=True, text=True, check=True).stdout, end="", flush=True)


def one(name: str, form: str) -> None:
    """Run one form and print its peak."""
    net = models.get_model(name, weights=None).eval()
    if form == "load":
        print(f"{name}: loaded, nothing run: peak {peak_gb():.2f} GB")
        return
    images = noise_images(FEW if form == "keep" else N_IMAGES)
    if form in ("same", "one"):
        size = BATCH if form == "same" else N_IMAGES
        bare(net, TorchModel(net)._prepare(images), size)
        print(f"{name}: bare forward pass, batches of {size}: peak {peak_gb():.2f} GB")
    elif form in ("ours", "budget"):
        layers = TorchModel(net, memory_budget=2**30 if form == "budget" else None).reduce(images).layers
        widest = max(layer.n_features for layer in layers) * N_IMAGES * 4 / 1e9
        how = "budget 1 GiB" if form == "budget" else "default budget"
        print(f"{name}: all Grams, {how}: peak {peak_gb():.2f} GB (widest layer of all images {widest:.2f} GB)")
    else:
        base = peak_gb()
        model = TorchModel(net)
        size = sum(features.nbytes for features in model.activations(images, list(model.layers)).values()) / 1e9
        total = base + size / FEW * N_IMAGES
        print(f"{name}: all features kept: {size:.2f} GB for {FEW} images, so {total:.0f} GB for {N_IMAGES}")


if __name__ == "__main__":
    torch.manual_seed(0)
    if len(sys.argv) == 3 and sys.argv[2] in FORMS:
        one(sys.argv[1], sys.argv[2])
    else:
        main(sys.argv[1:] or NETS)
