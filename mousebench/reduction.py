"""A layer reduced to what all metrics need: its Gram, its sums, its width."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Reduction:
    """One layer.

    Attributes
    ----------
    name : str
    gram : float64 (stimulus, stimulus_b)
    feature_sum : float64 (stimulus)
    n_features : int
    """

    name: str
    gram: np.ndarray
    feature_sum: np.ndarray
    n_features: int


@dataclass(frozen=True)
class Reductions:
    """The layers of a net, in order of execution.

    Attributes
    ----------
    layers : sequence of Reduction
    duplicates : mapping of dropped layer to the earlier layer that it equals in every element
    skipped : mapping of layer to the reason why it is not there
    device : str
        What computed them.
    """

    layers: Sequence[Reduction]
    duplicates: Mapping[str, str] = field(default_factory=dict)
    skipped: Mapping[str, str] = field(default_factory=dict)
    device: str = "cpu"
