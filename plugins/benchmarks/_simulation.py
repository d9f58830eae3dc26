"""The neurons of sim-ns: populations with planted reliabilities, and their trials.

Every neuron of a site is driven by the same bank of image-computable features. Neuron i has the drive
d_i(s) = w_i' z(s), the tuning g_i(s) = log(1 + exp(2 (1 + c_i d_i(s)))) / 2, a soft rectification, and answers image s
with the expected response

    mu_i(s) = a_i lambda_i g_i(s),

a trial being a compound Poisson sum: a Poisson number of events, lambda_i g_i(s) on average, of exponential amplitude
a_i on average, as the events of two-photon recordings are mostly nothing and now and then a lot. Its variance is
2 a_i^2 lambda_i g_i(s), so that the reliability of the mean of R trials,

    rho_i = var(mu_i) / (var(mu_i) + 2 a_i^2 lambda_i mean(g_i) / R),

is known, and is solved for the event rate lambda_i: each neuron is planted with the reliability it is to have.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mousebench.reliability import neuroid_reliability
from mousebench_plugins.benchmarks import _sim_features, _sim_scenes
from mousebench_plugins.benchmarks._sim_features import one_thread

N_SPLITS = 100
MARGIN = 0.3  # of reliability: see record()
_CELLS_A_CHUNK = 512
_CELLS_AN_EXPERIMENT = 80
_LOWEST_RATE = 0.01  # events a presentation
_SHARPNESS = 2  # of the rectification
# sd of the log of how strongly neurons respond: with it the RDMs of the sites are about as reliable as the real ones
_AMPLITUDE_SPREAD = 0.5

# Split-half reliabilities of all excitatory neurons of a site, in thousandths, at the LEVELS of their distribution.
# Summarised from the reliabilities by site of Conwell, Buice, Barbu and Alvarez (2020), published code repository.
LEVELS = (0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99, 0.995, 1)
QUANTILES = {
    "VISp.L23": "-272 91 189 314 424 520 612 696 780 859 893 927 956 979 986 990 997",
    "VISp.L4": "-343 100 189 324 429 513 594 674 746 824 857 895 938 966 977 984 998",
    "VISp.L5": "-304 135 230 345 437 527 595 666 731 799 840 878 918 945 960 971 991",
    "VISp.L6": "-255 -107 -60 21 85 134 195 247 326 482 553 629 751 867 898 915 929",
    "VISl.L23": "-390 -5 71 184 292 402 523 649 764 876 916 949 975 987 991 993 998",
    "VISl.L4": "-415 5 75 190 292 393 487 599 698 791 846 891 935 962 975 983 996",
    "VISl.L5": "-292 68 153 300 417 528 652 753 836 896 929 950 968 979 985 989 995",
    "VISl.L6": "-362 -138 -80 10 69 138 234 315 423 557 633 740 841 907 931 949 966",
    "VISal.L23": "-285 7 69 178 275 371 470 587 695 826 886 926 966 982 987 991 994",
    "VISal.L4": "-456 -74 1 101 193 280 386 502 627 745 811 868 924 956 974 982 993",
    "VISal.L5": "-170 31 105 186 288 401 482 571 722 806 850 897 938 962 967 973 990",
    "VISpm.L23": "-369 -74 -8 74 145 219 309 437 582 748 846 908 955 979 986 989 994",
    "VISpm.L4": "-300 -106 -53 21 79 142 207 293 397 542 638 726 845 922 950 966 986",
    "VISpm.L5": "-348 -123 -67 7 72 138 205 286 399 532 657 772 886 945 967 975 987",
    "VISpm.L6": "-398 -151 -86 -8 55 121 167 285 427 668 723 757 830 854 869 879 905",
    "VISam.L23": "-433 -116 -41 56 131 192 286 405 523 709 822 916 962 979 986 990 994",
    "VISam.L4": "-320 -135 -72 -11 48 103 148 212 295 398 498 659 831 933 955 977 991",
    "VISam.L5": "-206 -95 -54 19 67 130 186 246 367 506 596 748 884 952 970 976 989",
    "VISrl.L23": "-357 -150 -105 -47 1 46 88 136 200 316 383 498 669 856 945 970 987",
    "VISrl.L4": "-493 -189 -146 -91 -50 -15 19 58 103 158 189 242 339 592 722 825 945",
    "VISrl.L5": "-334 -200 -132 -86 -45 -8 32 79 124 180 228 346 504 661 719 860 961",
}
# same source: the share of a site's neurons with a reliability of .75 or more is KEPT / CELLS
KEPT = {
    "VISp.L23": 1099, "VISp.L4": 2083, "VISp.L5": 787, "VISp.L6": 18, "VISl.L23": 675, "VISl.L4": 953, "VISl.L5": 726,
    "VISl.L6": 45, "VISal.L23": 271, "VISal.L4": 561, "VISal.L5": 124, "VISpm.L23": 278, "VISpm.L4": 147,
    "VISpm.L5": 104, "VISpm.L6": 42, "VISam.L23": 109, "VISam.L4": 87, "VISam.L5": 25, "VISrl.L23": 47, "VISrl.L4": 29,
    "VISrl.L5": 4,
}  # fmt: skip
CELLS = {
    "VISp.L23": 3254, "VISp.L4": 7031, "VISp.L5": 2913, "VISp.L6": 356, "VISl.L23": 2141, "VISl.L4": 3859,
    "VISl.L5": 1804, "VISl.L6": 452, "VISal.L23": 1042, "VISal.L4": 2847, "VISal.L5": 489, "VISpm.L23": 1399,
    "VISpm.L4": 1657, "VISpm.L5": 918, "VISpm.L6": 349, "VISam.L23": 610, "VISam.L4": 1179, "VISam.L5": 251,
    "VISrl.L23": 1168, "VISrl.L4": 3612, "VISrl.L5": 388,
}  # fmt: skip
# imaging depths of the release, um, that the published rule puts into each layer
DEPTHS_UM = {"L23": (175, 185, 195), "L4": (205, 225, 250, 265, 275), "L5": (320, 335, 350, 365, 375), "L6": (550, 570)}


def planted_reliabilities(site: str, n_cells: int) -> np.ndarray:
    """Return what reliabilities the neurons of a site are planted with.

    The quantiles of the real neurons of the site, at evenly spaced levels, so that two populations of a site differ in
    their neurons but not by the luck of the draw.

    Parameters
    ----------
    site : str
    n_cells : int

    Returns
    -------
    float64 (neuroid)
        Ascending, within 0..0.99. A real value below 0 is a neuron without reliability plus the noise of measuring it.
    """
    level = np.append(LEVELS, 1 - KEPT[site] / CELLS[site])
    value = np.append(np.array(QUANTILES[site].split(), dtype=np.float64) / 1000, 0.75)
    order = np.argsort(level)
    wanted = (np.arange(n_cells) + 0.5) / n_cells
    # a site of few reliable neurons has a quantile or two that fall short of what the share of them says
    planted = np.interp(wanted, level[order], np.maximum.accumulate(value[order]))
    return np.asarray(np.clip(planted, 0, 0.99))


@dataclass(frozen=True)
class Population:
    """The neurons of one site.

    Parameters
    ----------
    weights : float64 (feature, neuroid)
        w, of a drive that has variance 1 over the scenes.
    width : float64 (neuroid)
        c, how strongly the drive modulates the response.
    rate : float64 (neuroid)
        lambda, about the events a presentation when there is no drive.
    amplitude : float64 (neuroid)
        a, the mean amplitude of an event.
    planted_reliability : float64 (neuroid)
        rho.
    """

    weights: np.ndarray
    width: np.ndarray
    rate: np.ndarray
    amplitude: np.ndarray
    planted_reliability: np.ndarray

    def subset(self, which: np.ndarray | slice) -> Population:
        """Return some of the neurons, by position or mask."""
        return Population(
            self.weights[:, which],
            self.width[which],
            self.rate[which],
            self.amplitude[which],
            self.planted_reliability[which],
        )

    def events(self, features: np.ndarray) -> np.ndarray:
        """Return the expected number of events a presentation, (image, feature) -> float64 (image, neuroid)."""
        return np.asarray(self.rate * _tuning(features @ self.weights, self.width))

    def expected(self, features: np.ndarray) -> np.ndarray:
        """Return the expected responses, standardised (image, feature) -> float64 (image, neuroid)."""
        return np.asarray(self.amplitude * self.events(features))


def _tuning(drive: np.ndarray, width: np.ndarray) -> np.ndarray:
    """Return g, positive: a site of few neurons must not be silent to an image, which would leave it without an RDM."""
    return np.asarray(np.logaddexp(0, _SHARPNESS * (1 + width * drive)) / _SHARPNESS)


@one_thread
def make_population(
    site: str, features: np.ndarray, n_cells: int, repetitions: int, rng: np.random.Generator
) -> Population:
    """Return neurons with random weights, their event rates such that they have their planted reliabilities.

    Parameters
    ----------
    site : str
        Whose reliabilities are planted.
    features : float64 (stimulus, feature)
        The standardised bank of the site, of the scenes.
    n_cells, repetitions : int
    rng : numpy Generator
    """
    reliability = rng.permutation(planted_reliabilities(site, n_cells))
    weights = rng.standard_normal((features.shape[1], n_cells))
    weights /= (features @ weights).std(0)
    odds = reliability / (1 - reliability)
    width = 0.8 * odds ** (1 / 6) * np.exp(0.3 * rng.standard_normal(n_cells))
    # a neuron of low reliability is one of flat tuning rather than one that is almost never active
    width = np.minimum(width, np.sqrt(2 * odds / (repetitions * _LOWEST_RATE)))
    tuning = _tuning(features @ weights, width)
    rate = np.full(n_cells, _LOWEST_RATE)
    np.divide(2 * tuning.mean(0) * odds, repetitions * tuning.var(0), out=rate, where=width > 0)
    sd = rate * np.sqrt(tuning.var(0) + 2 * tuning.mean(0) / (repetitions * rate))
    amplitude = np.exp(_AMPLITUDE_SPREAD * rng.standard_normal(n_cells)) / sd
    return Population(weights, width, rate, amplitude, reliability)


def make_trials(population: Population, features: np.ndarray, repetitions: int, rng: np.random.Generator) -> np.ndarray:
    """Return the responses of single trials.

    The events of all repetitions of an image are one Poisson number, and each falls into one of the repetitions, all
    being equally likely: the same as independent Poisson numbers, for as many draws as there are events.

    Returns
    -------
    float32 (stimulus, repetition, neuroid)
    """
    expected = population.events(features) * repetitions
    n_stimuli, n_cells = expected.shape
    count = rng.poisson(expected).ravel()
    stimulus, cell = np.divmod(np.repeat(np.arange(expected.size), count), n_cells)
    trial = (stimulus * repetitions + rng.integers(repetitions, size=len(cell))) * n_cells + cell
    size = rng.standard_exponential(len(cell)) * population.amplitude[cell]
    total = np.bincount(trial, weights=size, minlength=expected.size * repetitions)
    return total.reshape(n_stimuli, repetitions, n_cells).astype(np.float32)


@dataclass(frozen=True)
class Recording:
    """The neurons of a site that were measured to be reliable, and their trials.

    Parameters
    ----------
    cube : float32 (stimulus, repetition, neuroid)
    cell : int (neuroid)
        Position in the population, ascending.
    reliability : float64 (neuroid)
        Measured.
    n_constant : int
        Cells without any reliability because they did not vary.
    n_simulated : int
        Cells whose trials were generated.
    """

    cube: np.ndarray
    cell: np.ndarray
    reliability: np.ndarray
    n_constant: int
    n_simulated: int


@one_thread
def record(
    population: Population, features: np.ndarray, repetitions: int, threshold: float, seed: Sequence[int]
) -> Recording:
    """Generate trials, measure every cell's reliability as for real data, keep the cells that reach the threshold.

    Cells planted more than MARGIN below the threshold count as unreliable without trials: the measured reliability
    scatters around the planted one with a standard deviation of .13 at 0, .08 at .45, .03 at .75, and so they do not
    reach it.

    Parameters
    ----------
    population : Population
    features : float64 (stimulus, feature)
    repetitions : int
    threshold : float
    seed : sequence of int
    """
    candidate = np.flatnonzero(population.planted_reliability >= threshold - MARGIN)
    rng = np.random.default_rng([*seed, 1])
    cubes, cells, reliabilities, n_constant = [], [], [], 0
    for start in range(0, len(candidate), _CELLS_A_CHUNK):
        cell = candidate[start : start + _CELLS_A_CHUNK]
        cube = make_trials(population.subset(cell), features, repetitions, rng)
        # the same splits for all neurons, as published
        reliability = neuroid_reliability(cube, np.random.default_rng([*seed, 2]), N_SPLITS)
        kept = reliability >= threshold
        n_constant += int(np.isnan(reliability).sum())
        cubes.append(cube[:, :, kept])
        cells.append(cell[kept])
        reliabilities.append(reliability[kept])
    if not cells:
        cubes, cells, reliabilities = (
            [np.empty((len(features), repetitions, 0), np.float32)],
            [candidate],
            [np.empty(0)],
        )
    return Recording(
        np.concatenate(cubes, axis=2), np.concatenate(cells), np.concatenate(reliabilities), n_constant, len(candidate)
    )


def neuroid_labels(site: str, cell: np.ndarray, reliability: np.ndarray) -> dict[str, Any]:
    """Return the coordinates of neuroids, name to values (neuroid); a cell's labels depend on nothing but its position.

    Parameters
    ----------
    site : str
    cell : int (neuroid)
        Position in the site's population.
    reliability : float64 (neuroid)
    """
    area, layer = site.split(".")
    experiment = cell // _CELLS_AN_EXPERIMENT
    first_id = 1000 * (1 + list(CELLS).index(site))
    n = len(cell)
    return {
        "neuroid_id": [f"sim-{site}-{k:04d}" for k in cell],
        "site": [site] * n,
        "area": [area] * n,
        "layer": [layer] * n,
        "depth_um": np.array(DEPTHS_UM[layer])[experiment % len(DEPTHS_UM[layer])],
        "cre_line": ["simulated"] * n,
        "experiment_id": first_id + experiment,
        "animal_id": first_id + experiment // 2,  # two experiments an animal
        "reliability": reliability,
    }


def cell_positions(neuroid_id: np.ndarray) -> np.ndarray:
    """Return the positions in the population that neuroid_labels turned into ids, int (neuroid)."""
    return np.array([int(name.rsplit("-", 1)[1]) for name in neuroid_id.tolist()])


def world_hash(parameters: Mapping[str, Any]) -> str:
    """Return the sha256 of the parameters and of the text of the three modules: of all that fixes the numbers."""
    digest = hashlib.sha256(json.dumps(parameters, sort_keys=True).encode())
    for file in (__file__, _sim_features.__file__, _sim_scenes.__file__):
        digest.update(Path(file).read_bytes())
    return digest.hexdigest()
