"""pixels, gabor, noise, intercept-only: against oracles of what they are, and what they score."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import Cli, files
from PIL import Image
from threadpoolctl import threadpool_limits

from mousebench import representations
from mousebench.assemblies import make_rdm, make_stimuli
from mousebench.errors import ContractViolation, UnknownIdentifier
from mousebench.linalg import correlation_rdm, gram, upper_triangle
from mousebench.nnls import kfold
from mousebench.rdms import layer_rdms
from mousebench.specs import seed_of
from mousebench.torch_model import paper_preprocess
from mousebench_plugins.metrics._rsa_nnls import Procedure, RsaNnls, as_published, leak_free
from mousebench_plugins.models import _gabor, controls, pixels
from mousebench_plugins.models._gabor import FREQUENCIES, GREY, LAYERS, N_ORIENTATIONS, SCREEN, SIZE, STEP, Gabor
from mousebench_plugins.models._nothing import InterceptOnly, Noise

N_PLACES = SIZE // STEP
CENTRE = N_PLACES // 2


def pictures(n: int, height: int = 30, width: int = 40, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, height, width, 3), dtype=np.uint8)


# pixels ---------------------------------------------------------------------------------------------------------------


def test_pixels_are_what_the_nets_see() -> None:
    grey = pictures(3, 120, 154)[..., :1].repeat(3, axis=3)
    seen = np.stack([paper_preprocess()(Image.fromarray(image))[0].numpy() for image in grey])
    levels = 255 * (0.229 * seen + 0.485)  # ImageNet's normalisation of the red channel, undone
    found = pixels.load().activations(grey, ["pixels"])["pixels"]
    np.testing.assert_allclose(found.reshape(3, 224, 224), levels, rtol=0, atol=1e-4)


def test_pixels_at_64_are_coarser_and_another_model() -> None:
    fine, coarse = pixels.load(), pixels.load("64")
    assert coarse.activations(pictures(2), coarse.layers)["pixels"].shape == (2, 64 * 64)
    assert fine.fingerprint != coarse.fingerprint
    with pytest.raises(UnknownIdentifier, match="no variant '32'"):
        pixels.load("32")


# gabor ----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bank() -> _gabor.Bank:
    return _gabor.filter_bank()


def degrees() -> tuple[np.ndarray, np.ndarray]:
    """Return where the pixels are on the screen, from its centre."""
    x, y = ((np.arange(SIZE) - (SIZE - 1) / 2) * extent / SIZE for extent in SCREEN)
    return x[None, :], y[:, None]


def grating(frequency: float, orientation: int, phase: float = 0.0, contrast: float = 1.0) -> np.ndarray:
    x, y = degrees()
    angle = np.pi * orientation / N_ORIENTATIONS
    wave = frequency * (np.cos(angle) * x + np.sin(angle) * y)
    return GREY * (1 + contrast * np.cos(2 * np.pi * wave + phase))


def energy(image: np.ndarray, bank: _gabor.Bank) -> np.ndarray:
    with threadpool_limits(1):  # threads cost more than they bring for matrices of this size
        return np.abs(_gabor.responses(image, bank))


def test_a_grating_excites_its_own_frequency_and_orientation_most(bank: _gabor.Bank) -> None:
    for f, frequency in enumerate(FREQUENCIES):
        for orientation in range(N_ORIENTATIONS):
            found = energy(grating(frequency, orientation, phase=1.0 + orientation), bank)[:, :, CENTRE, CENTRE]
            assert np.unravel_index(found.argmax(), found.shape) == (f, orientation)


@pytest.mark.parametrize(("frequency", "orientation"), [(0.08, 3), (0.16, 0), (0.32, 6)])
def test_energy_is_the_contrast_of_a_grating_that_fits_whatever_its_phase(
    bank: _gabor.Bank, frequency: float, orientation: int
) -> None:
    f = FREQUENCIES.index(frequency)
    for phase, contrast in ((0, 1), (1, 0.25), (np.pi / 2, 1), (np.pi, 0.5), (5, 1)):
        found = energy(grating(frequency, orientation, phase, contrast), bank)[f, orientation]
        assert found[CENTRE, CENTRE] == pytest.approx(contrast, rel=1e-3)


def test_a_filter_is_a_gabor_function_of_the_mirrored_image(bank: _gabor.Bank) -> None:
    image = np.random.default_rng(0).uniform(0, 255, (SIZE, SIZE))
    beyond = np.pad(image / GREY - 1, SIZE, mode="symmetric")
    x, y = ((np.arange(3 * SIZE) - SIZE - (SIZE - 1) / 2) * extent / SIZE for extent in SCREEN)
    found = _gabor.responses(image, bank)
    for f, orientation, row, column in ((0, 3, 2, 5), (2, 0, 14, 0), (2, 5, 27, 13), (4, 7, 8, 20)):
        at_x, at_y = (
            (STEP * place + (STEP - 1) / 2 - (SIZE - 1) / 2) * extent / SIZE
            for place, extent in zip((column, row), SCREEN, strict=True)
        )
        dx, dy = x[None, :] - at_x, y[:, None] - at_y
        angle = np.pi * orientation / N_ORIENTATIONS
        envelope = np.exp(-(dx**2 + dy**2) / 2 / (_gabor.PERIODS / FREQUENCIES[f]) ** 2)
        wave = np.exp(2j * np.pi * FREQUENCIES[f] * (np.cos(angle) * dx + np.sin(angle) * dy))
        gabor = envelope * wave
        gabor = 2 * (gabor - envelope * gabor.sum() / envelope.sum()) / envelope.sum()
        np.testing.assert_allclose(found[f, orientation, row, column], (gabor * beyond).sum(), rtol=0, atol=1e-10)


@pytest.mark.parametrize("level", [0.0, 30.0, 127.0, 255.0])
def test_uniform_light_has_no_energy(bank: _gabor.Bank, level: float) -> None:
    assert energy(np.full((SIZE, SIZE), level), bank).max() < 1e-12


def test_a_mirrored_image_has_the_mirrored_energy(bank: _gabor.Bank) -> None:
    image = np.random.default_rng(1).uniform(0, 255, (SIZE, SIZE))
    here, there = energy(image, bank), energy(image[:, ::-1], bank)
    mirrored = -np.arange(N_ORIENTATIONS) % N_ORIENTATIONS
    np.testing.assert_allclose(there[:, mirrored, :, ::-1], here, rtol=0, atol=1e-12)


def test_a_shifted_image_has_the_shifted_energy(bank: _gabor.Bank) -> None:
    wide = np.random.default_rng(2).uniform(0, 255, (SIZE + STEP, SIZE + STEP))
    here, there = energy(wide[:SIZE, :SIZE], bank), energy(wide[STEP:, STEP:], bank)
    inside = slice(10, 17)  # from where the filters of .08 cycles a degree and more do not reach the border
    shifted = slice(11, 18)
    np.testing.assert_allclose(there[2:, :, inside, inside], here[2:, :, shifted, shifted], rtol=0, atol=1e-5)
    assert np.abs(there[2:, :, inside, inside] - here[2:, :, inside, inside]).max() > 0.01


def test_contrast_scales_cells_and_normalisation_takes_it_away(bank: _gabor.Bank) -> None:
    low, high = (_gabor.cell_responses(_gabor.responses(grating(0.08, 2, 0.3, c), bank)) for c in (0.4, 0.8))
    for layer in ("simple", "complex"):
        np.testing.assert_allclose(high[layer], 2 * low[layer], rtol=1e-5, atol=1e-6)
    assert (high["normalised"] <= 1).all()
    strong = low["normalised"] > 0.3
    assert strong.any()
    ratio = high["normalised"][strong] / low["normalised"][strong]
    assert 1 < ratio.min() < ratio.max() < 1.1


def test_simple_cells_are_half_of_each_phase_and_their_squares_sum_to_the_energy(bank: _gabor.Bank) -> None:
    pairs = _gabor.responses(np.random.default_rng(3).uniform(0, 255, (SIZE, SIZE)), bank)
    cells = _gabor.cell_responses(pairs)
    simple = cells["simple"].reshape(4, *pairs.shape)
    assert simple.min() == 0
    np.testing.assert_allclose(simple[0] - simple[2] + 1j * (simple[1] - simple[3]), pairs, atol=1e-6)
    np.testing.assert_allclose((simple**2).sum(0).ravel(), cells["complex"] ** 2, rtol=1e-5, atol=1e-9)


def test_gabor_does_not_depend_on_the_batch() -> None:
    images, model = pictures(3, 60, 80), Gabor()
    together = model.activations(images, LAYERS)
    assert [together[layer].shape for layer in LAYERS] == [(3, n * 40 * N_PLACES**2) for n in (4, 1, 1)]
    alone = model.activations(images[2:], ["complex"])
    assert list(alone) == ["complex"]
    np.testing.assert_array_equal(alone["complex"][0], together["complex"][2])


# noise ----------------------------------------------------------------------------------------------------------------


def test_noise_follows_the_seed_and_the_image_and_nothing_else() -> None:
    images = pictures(4)
    images[3] = images[0]
    model = Noise(0)
    drawn = model.activations(images, model.layers)
    assert len(drawn) == 10
    np.testing.assert_array_equal(drawn["noise-2"][3], drawn["noise-2"][0])
    again = model.activations(images[[2, 1]], ["noise-2"])
    np.testing.assert_array_equal(again["noise-2"], drawn["noise-2"][[2, 1]])
    other = Noise(1).activations(images, ["noise-2"])["noise-2"]
    features = [drawn["noise-2"][0], drawn["noise-2"][1], drawn["noise-3"][0], other[0]]
    assert np.abs(np.corrcoef(features) - np.eye(4)).max() < 0.15  # sd of r of 1000 features: .03


def test_noise_is_white() -> None:
    drawn = np.stack(list(Noise(0).activations(pictures(30), Noise.layers).values()))
    assert abs(drawn.mean()) < 0.01
    assert drawn.std() == pytest.approx(1, abs=0.01)
    rdm = upper_triangle(correlation_rdm(*gram([drawn[0]])))
    assert rdm.mean() == pytest.approx(1, abs=0.01)
    assert rdm.std() == pytest.approx(1000**-0.5, rel=0.15)


@pytest.mark.parametrize(("variant", "seed"), [(None, 0), ("0", 0), ("17", 17)])
def test_a_variant_of_noise_is_its_seed(variant: str | None, seed: int) -> None:
    assert controls.load_noise(variant).fingerprint["seed"] == str(seed)


@pytest.mark.parametrize("variant", ["x", "-1", "03", "1.5", "\u0663"])
def test_what_is_no_seed_is_refused(variant: str) -> None:
    with pytest.raises(UnknownIdentifier, match="model 'noise' has no variant") as caught:
        seed_of("noise", variant)
    assert "seeds" in caught.value.hint


def random_rdm(n: int, seed: int) -> np.ndarray:
    return correlation_rdm(*gram([np.random.default_rng(seed).standard_normal((n, 20))]))


def layers_of(model: object, n: int) -> representations.Layers:
    stimuli = make_stimuli(pictures(n), np.arange(n))
    return representations.get(model, stimuli, name="model", key=None)


def test_noise_scores_nothing_in_the_default_metric() -> None:
    layers = layers_of(Noise(0), 48)
    targets = {str(seed): make_rdm(random_rdm(48, seed), np.arange(48)) for seed in range(20)}
    scores = RsaNnls(leak_free, repeats=4, n_permutations=1).score_sites(layers, targets, 0)
    # 24 folds of 28 pairs: sd of a site about .2 / sqrt(24) and more, for repeats are not independent
    assert abs(np.mean([float(score["raw"]) for score in scores.values()])) < 0.04


# intercept-only -------------------------------------------------------------------------------------------------------


def score_nothing(procedure: Procedure, repeats: int, n: int = 40):
    metric = RsaNnls(procedure, repeats=repeats, n_permutations=30)
    return metric.score(layers_of(InterceptOnly(), n), make_rdm(random_rdm(n, 0), np.arange(n)), 0)


def test_the_model_without_layers_scores_exactly_0() -> None:
    found = score_nothing(leak_free, 3)
    assert found["raw"].item() == 0
    assert (found["null"].values == 0).all()
    assert found["cv_r2"].item() == pytest.approx(0, abs=1e-12)
    assert found["best_layer"].item() == ""
    assert found.attrs["n_layers"] == 0
    assert json.loads(found.attrs["notes"])[0] == "no layers: every prediction is a constant"
    assert "weight" not in found


@pytest.mark.parametrize("repeats", [1, 5])
def test_as_published_it_scores_what_the_folds_give_away(repeats: int) -> None:
    found = score_nothing(as_published, repeats)
    rdm, (first, second) = random_rdm(40, 0), np.triu_indices(40, 1)
    y = rdm[first, second]
    total, count = np.zeros(len(y)), np.zeros(len(y))
    for repeat in range(repeats):
        fold = kfold(40, 6, repeat)
        for held_out in range(6):
            tested = (fold[first] == held_out) | (fold[second] == held_out)
            total[tested] += y[~tested].mean()
            count[tested] += 1
    expected = np.corrcoef(total / count, y)[0, 1]
    assert expected < -0.05
    assert found["raw"].item() == pytest.approx(expected, abs=1e-12)
    assert found["intercept_only"].item() == pytest.approx(expected, abs=1e-12)
    assert found["null"].values.std() > 0


def test_no_layers_give_no_columns() -> None:
    found = layer_rdms({})
    assert (found.names, found.sd.shape, found.pairs.shape) == ([], (0,), (0, 0))


def test_a_model_with_layers_cannot_be_intercept_only() -> None:
    model = Noise(0)
    model.intercept_only = True
    with pytest.raises(ContractViolation, match=r"intercept_only and has 10 layer\(s\)"):
        layers_of(model, 2)


def test_intercept_only_on_the_command_line(toy: Cli, tmp_path: Path, home: Path) -> None:
    file = tmp_path / "nothing.py"
    file.write_text("from mousebench_plugins.models.controls import load_intercept_only as build\n")
    arguments = (f"{file}:build", "--metric", "quick,quick-published", "--json", "-")
    done = toy(*arguments)
    assert done.code == 0, done.err
    quick, published = json.loads(done.out)["results"]
    for site in quick["sites"]:
        assert (site["raw"], site["score"], site["n_layers"], site["best_layer"]) == (0, 0, 0, None)
        assert site["null"] == {"mean": 0, "p": 1, "intercept_only": 0}
    for site in published["sites"]:
        assert site["raw"] == pytest.approx(site["null"]["intercept_only"], abs=1e-12)
        assert site["raw"] < 0
    assert [path.name for path in files(tmp_path / "results")] == ["local-nothing-build.nc"] * 2
    again = toy(*arguments)
    assert again.out == done.out
    assert "2 of them from before" in again.err
