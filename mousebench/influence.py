"""How much each image and each neuroid moves the agreement of two matrices of image pairs, to first order.

A comparison of RDMs or Grams is, to first order, a sum over pairs of images. Pairs that share an image vary together, so
the variance of the sum is that of dyadic data (Fafchamps and Gubert 2007; Aronow, Samii and Assenova 2015, Political
Analysis 23, eq. 5): with h the influence of a pair and R_i the sum over the pairs of image i, sum of R_i^2 less the sum of
h^2, because the products of all pairs that share an image count once, and each pair with itself once. Resampled images
(counts w) move the sum by sum of (w_i - 1) R_i, which counts each pair with itself twice; weights w_i w_j, three times.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri, stdtrit

from mousebench.linalg import CONSTANT


@dataclass(frozen=True)
class Pull:
    """First-order changes of an agreement.

    Attributes
    ----------
    weight : float64 (pair)
        With the weight of a pair, less what it takes for the weights to sum to what they did.
    first, second : float64 (pair)
        With the value of a pair in the first, and in the second matrix.
    """

    weight: np.ndarray
    first: np.ndarray
    second: np.ndarray


def cosine_pull(x: np.ndarray, y: np.ndarray, about: float | None = None) -> Pull:
    """Return the pull on x'y / sqrt(x'x y'y).

    Parameters
    ----------
    x, y : float64 (pair)
        Centred, for Pearson r.
    about : float
        The agreement from which influences are counted: of a mean over folds, so that the spread over folds is part of the
        variance. The agreement of x and y itself where it is not given; influences then sum to 0.
    """
    length_x, length_y = np.linalg.norm(x), np.linalg.norm(y)
    if not length_x > 0 or not length_y > 0:  # says nothing, whatever the weights and values
        nothing = np.zeros(len(x))
        return Pull(nothing - (about or 0.0) / len(x), nothing, nothing)
    x, y = x / length_x, y / length_y
    r = float(x @ y)
    weight = x * y - (r if about is None else about) * (x * x + y * y) / 2
    return Pull(weight, (y - r * x) / length_x, (x - r * y) / length_y)


def by_stimulus(pairs: np.ndarray, n_stimuli: int) -> np.ndarray:
    """Return the sum (stimulus) over the pairs (pair) of each stimulus."""
    first, second = np.triu_indices(n_stimuli, 1)
    return np.bincount(first, pairs, n_stimuli) + np.bincount(second, pairs, n_stimuli)


def image_changes(weight: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return the changes (bootstrap) of an agreement with resampled images, their variance that of dyadic data.

    The variance of dyadic data lies between half of that of linear changes, where images have no part of their own, and
    all of it; an estimate outside is cut. Influences about their mean give it n / (n - 4) too small, with a part of images
    and without.

    Parameters
    ----------
    weight : float64 (pair)
        Influences of all pairs, 0 for a pair that is not compared.
    counts : float64 (bootstrap, stimulus)
    """
    n = counts.shape[1]
    pull = by_stimulus(weight, n)
    linear = float(np.square(pull - pull.mean()).sum())
    if not linear > 0:
        return np.zeros(len(counts))
    share = np.clip((1 - float(np.square(weight).sum()) / linear) * n / (n - 4), 0.5 * n / (n - 2), n / (n - 4))
    return np.asarray(widening(pull) * np.sqrt(share) * ((counts - 1) @ (pull - pull.mean())))


@dataclass(frozen=True)
class NeuroidPull:
    """How the values of pairs move with neuroids, times how an agreement moves with these values.

    Attributes
    ----------
    by_image : float64 (stimulus, neuroid)
        Sum over the pairs of each stimulus.
    squares : float64 (neuroid)
        Sum of squares over pairs.
    """

    by_image: np.ndarray
    squares: np.ndarray

    def __add__(self, other: NeuroidPull) -> NeuroidPull:
        # of two halves of the trials, whose noise is independent
        return NeuroidPull(self.by_image + other.by_image, self.squares + other.squares)


def rdm_neuroid_pull(means: np.ndarray, value: np.ndarray) -> NeuroidPull:
    """Return how neuroids move a correlation RDM.

    Parameters
    ----------
    means : float64 (stimulus, neuroid)
    value : float64 (pair)
        The pull of the values of pairs.
    """
    n_neuroids = means.shape[1]
    z = means - means.mean(1, keepdims=True)
    energy = np.square(z).mean(1, keepdims=True)
    z = z / np.sqrt(np.where(energy > CONSTANT * np.square(means).mean(1, keepdims=True), energy, np.inf))
    slope = _square(value, len(means))
    r = z @ z.T / n_neuroids
    bent, z2 = slope * r, z * z
    # one more of neuroid k moves r_ij by (z_ik z_jk - r_ij (z_ik^2 + z_jk^2) / 2) / n
    by_image = z * (slope @ z) - (z2 * bent.sum(1, keepdims=True) + bent @ z2) / 2
    steep, z4 = slope * slope / 2, z2 * z2  # both triangles
    squares = (
        np.einsum("ik,ik->k", z2, (steep * (1 + r * r / 2)) @ z2)
        - 2 * np.einsum("ik,ik->k", z2 * z, (steep * r) @ z)
        + (steep * r * r).sum(1) @ z4 / 2
    )
    return NeuroidPull(-by_image / n_neuroids, squares / n_neuroids**2)


def gram_neuroid_pull(means: np.ndarray, value: np.ndarray) -> NeuroidPull:
    """Return how neuroids move a Gram of centred neuroids; as ``rdm_neuroid_pull``."""
    y = means - means.mean(0)
    slope = _square(value, len(means))
    mean = y @ y.T / y.shape[1]
    by_image = y * (slope @ y) - (slope * mean).sum(1, keepdims=True)
    steep, y2 = slope * slope / 2, y * y
    squares = (
        np.einsum("ik,ik->k", y2, steep @ y2)
        - 2 * np.einsum("ik,ik->k", y, (steep * mean) @ y)
        + float((steep * mean * mean).sum())
    )
    return NeuroidPull(by_image, squares)


def neuroid_changes(pull: NeuroidPull, counts: np.ndarray, animals: np.ndarray) -> np.ndarray:
    """Return the changes (bootstrap) of an agreement with resampled neuroids, for images as they are on average.

    What neuroids and images do together, the noise of responses above all, is in the changes with images and is taken off
    here (two-way clusters: Cameron, Gelbach and Miller 2011, J. Bus. Econ. Stat. 29, eq. 2.13), the interaction by the
    variance of dyadic data in each neuroid. Where animals are known the variance between them counts if it is the larger one.

    Parameters
    ----------
    pull : NeuroidPull
    counts : float64 (bootstrap, neuroid)
    animals : int (neuroid)
        The number of the animal of each neuroid.
    """
    of_neuroid = pull.by_image.sum(0) / 2  # a pair is one of two images
    variance = _between(of_neuroid)
    if animals.max(initial=0) > 0:
        variance = max(variance, _between(np.bincount(animals, of_neuroid)))
    n, n_stimuli = len(of_neuroid), len(pull.by_image)
    alone = pull.by_image - pull.by_image.mean(0)
    together = float(np.square(alone).sum() - pull.squares.sum()) * n / max(n - 1, 1) * n_stimuli / (n_stimuli - 4)
    changes = (counts - 1) @ (of_neuroid - of_neuroid.mean())
    changes = changes - changes.mean()
    spread = float(changes.var())
    if not spread > 0:
        return np.zeros(len(counts))
    return np.asarray(widening(of_neuroid) * changes * np.sqrt(max(variance - max(together, 0.0), 0.0) / spread))


def widening(pulls: np.ndarray) -> float:
    """Return how much wider than the normal law's an interval is whose variance comes from these pulls: Student's t.

    The degrees of freedom follow from how much the sum of squares varies (Satterthwaite 1946): as many as there are pulls
    of a normal law, fewer where a few are large.
    """
    squares = np.square(pulls - pulls.mean())
    spread = float(np.square(squares - squares.mean()).sum())
    if not spread > 0:
        return 1.0
    freedom = max(2 * float(squares.sum()) ** 2 / spread, 4.0)
    return float(stdtrit(freedom, 0.975) / ndtri(0.975))


def _between(pulls: np.ndarray) -> float:
    """Return the variance of a sum of independent pulls that sum to about 0."""
    n = len(pulls)
    return float(np.square(pulls - pulls.mean()).sum()) * n / (n - 1) if n > 1 else 0.0


def _square(pairs: np.ndarray, n_stimuli: int) -> np.ndarray:
    out = np.zeros((n_stimuli, n_stimuli))
    out[np.triu_indices(n_stimuli, 1)] = pairs
    return out + out.T
