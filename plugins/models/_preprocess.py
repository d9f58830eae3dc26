"""The paper's preprocessing at the input size and the normalisation of any net."""

from __future__ import annotations

from collections.abc import Sequence

from torchvision import transforms


def squash(size: tuple[int, int], mean: Sequence[float], std: Sequence[float]) -> transforms.Compose:
    """Return a resize to (height, width) without crop, as ``mousebench.torch_model.paper_preprocess``, then normalise."""
    return transforms.Compose(
        [transforms.Resize(size, antialias=True), transforms.ToTensor(), transforms.Normalize(tuple(mean), tuple(std))]
    )
