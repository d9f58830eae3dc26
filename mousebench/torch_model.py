"""Turn a torch module into a Model: every layer reduced to its Gram while the images pass through the net.

The extraction rule (Conwell et al. 2020, their code): every call of every module but ``nn.Sequential`` and
``nn.ModuleList`` is a layer, in order of execution; a layer that equals an earlier one in every element is dropped.
Activations are consumed before the net can change them in place, and no feature map outlives its layer.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

# torch reads this at its first allocation. Layers of all images are hundreds of MB; with ordinary pages the kernel
# spends as long handing them out as the net spends computing (resnet18, 118 images, 2 cores: 4.3 s against 2.4 s).
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

import numpy as np
import torch
from PIL import Image
from torch import nn
from torchvision import transforms

from mousebench.devices import at_work, choose_device
from mousebench.errors import ContractViolation, PluginBroken
from mousebench.extraction import Extraction
from mousebench.fingerprint import describe, hash_architecture, hash_weights
from mousebench.layer_names import checked_selection, hooked_modules, no_such_layer, shape
from mousebench.progress import Progress, Silent
from mousebench.reduction import Reductions
from mousebench.tracing import N_FEW

EXTRACTION = 2  # raised when the same net and images would give other numbers
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def paper_preprocess(size: int = 224) -> Callable[[Image.Image], torch.Tensor]:
    """Return the paper's preprocessing: a square squash without crop, ImageNet normalisation."""
    squash: Callable[[Image.Image], torch.Tensor] = transforms.Compose(
        [
            transforms.Resize((size, size), antialias=True),
            transforms.ToTensor(),
            transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )
    return squash


class TorchModel:
    """A torch module as a mousebench Model.

    Parameters
    ----------
    module : torch.nn.Module
        Put into eval mode while it runs, and back afterwards. It gets images in the type of its own parameters.
    preprocess : callable, optional
        A PIL image (RGB) in, a (channel, height, width) tensor out; None is ``paper_preprocess()``.
    layers : sequence of str, or "blocks", optional
        Names of layers or modules, or globs over them. None is every module call but containers. "blocks" is the
        top-level blocks: the direct children of the net, where an ``nn.Sequential`` or ``nn.ModuleList`` among them
        stands for its members.
    memory_budget : int, optional
        Bytes that the activations may take; where all images would take more, they pass in pairs of blocks. None is
        4 GiB on a CPU, or half of its memory, and most of what is free on an accelerator. Where memory runs short all
        the same, fewer images pass at once. It changes no number, unless batches have to be smaller than 30 images:
        those agree to float32 rounding.

    Raises
    ------
    ContractViolation
        If ``module`` is no module, a layer does not exist, or preprocessing gives no tensors of one shape.
    """

    def __init__(
        self,
        module: nn.Module,
        preprocess: Callable[[Image.Image], torch.Tensor] | None = None,
        layers: Sequence[str] | None = None,
        *,
        memory_budget: int | None = None,
    ) -> None:
        if not isinstance(module, nn.Module):
            raise ContractViolation(f"{module!r} is not a torch.nn.Module")
        self.module = module
        self.preprocess = paper_preprocess() if preprocess is None else preprocess
        self.selection = checked_selection(layers)
        self.memory_budget = memory_budget
        if any(nn.parameter.is_lazy(parameter) for parameter in module.parameters()):
            raise ContractViolation("the net has lazy modules, which get their weights when images first pass")
        self._hooked = hooked_modules(module, self.selection)

    @cached_property
    def layers(self) -> Sequence[str]:
        """Names of all layers in order of execution, before equal ones are dropped."""
        noise = np.random.default_rng(0).integers(0, 256, (N_FEW, 256, 256, 3), dtype=np.uint8)
        device = torch.device("cpu")
        with at_work(self.module, device):
            return tuple(call.name for call in self._extraction(noise, device).trace.calls)

    @property  # not kept: a net may be trained on between two scores
    def fingerprint(self) -> Mapping[str, str]:
        """All that changes the numbers; a part that cannot be resolved is "unknown", and is then not cached."""
        return {
            "weights": hash_weights(self.module),
            "architecture": hash_architecture(self.module),
            "preprocess": describe(self.preprocess),
            "layers": "all" if self.selection is None else json.dumps(self.selection),
            "extraction": str(EXTRACTION),
        }

    def activations(self, images: np.ndarray, layers: Sequence[str]) -> Mapping[str, np.ndarray]:
        """Return float (image, feature) of some layers; all in memory at once, which ``reduce`` avoids."""
        device = torch.device("cpu")
        with at_work(self.module, device):
            extraction = self._extraction(images, device)
            known = [call.name for call in extraction.trace.calls]
            for name in layers:
                if name not in known:
                    raise no_such_layer(name, known)
            return extraction.keep(layers)

    def reduce(self, images: np.ndarray, *, device: str = "auto", progress: Progress | None = None) -> Reductions:
        """Reduce every layer to its Gram and sums in one forward pass over the images.

        Parameters
        ----------
        images : uint8 (image, height, width, 3)
        device : {"auto", "cpu", "cuda", "mps"}
        progress : Progress, optional

        Returns
        -------
        Reductions
            Layers in order of execution, equal ones once.

        Raises
        ------
        ContractViolation
            If preprocessing or the net does not give what a model must.
        PluginBroken
            If the net's own code fails.
        UsageError
            If the device is not there, or has too little memory.
        """
        where = choose_device(device)
        with at_work(self.module, where):
            return self._extraction(images, where).reduce(progress or Silent())

    def _extraction(self, images: np.ndarray, device: torch.device) -> Extraction:
        batch = self._prepare(images)
        return Extraction(self.module, self._hooked, self.selection, batch, device, self.memory_budget)

    def _prepare(self, images: np.ndarray) -> torch.Tensor:
        """Return the float input (image, channel, height, width)."""
        tensors: list[torch.Tensor] = []
        for number, image in enumerate(images):
            try:
                tensor = self.preprocess(Image.fromarray(np.ascontiguousarray(image)))
            except (Exception, SystemExit) as error:
                raise PluginBroken(f"preprocessing fails on image {number}: {type(error).__name__}: {error}") from error
            if not isinstance(tensor, torch.Tensor) or tensor.ndim != 3 or not tensor.is_floating_point():
                raise ContractViolation(
                    f"preprocessing gives {shape(tensor)} for image {number}; a float (channel, height, width) tensor is expected"
                )
            if tensors and tensor.shape != tensors[0].shape:
                raise ContractViolation(
                    f"preprocessing gives {shape(tensor)} for image {number} and {shape(tensors[0])} for image 0"
                )
            tensors.append(tensor)
        return torch.stack(tensors)
