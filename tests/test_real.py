"""What comes out on the published RDMs with real ImageNet weights; runs where MOUSEBENCH_REAL_DATA is set."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

import mousebench as mb
from mousebench.cli import main

REAL = os.environ.get("MOUSEBENCH_REAL_DATA")
pytestmark = [pytest.mark.real, pytest.mark.skipif(not REAL, reason="MOUSEBENCH_REAL_DATA is not set")]


@pytest.fixture
def squeezenet() -> object:
    import torch
    from torchvision.models import squeezenet1_0

    net = squeezenet1_0(weights=None)
    net.load_state_dict(torch.load(Path(REAL or "", "weights", "squeezenet1_0-imagenet.pth"), weights_only=True))
    return net


def quick_metric(published: bool) -> object:
    from mousebench_plugins.metrics._rsa_nnls import RsaNnls, as_published, leak_free

    procedure, repeats = (as_published, 1) if published else (leak_free, 10)
    return RsaNnls(procedure, repeats=repeats, n_permutations=50)


def test_trained_squeezenet_is_more_mouse_like_than_untrained_and_pixels(home: Path, squeezenet: object) -> None:
    assert main(["fetch", "allen-ns-rdms", "--from", str(REAL)]) == 0
    for published in (False, True):
        scores = {
            name: mb.score(model=model, benchmark="allen-ns-rdms", metric=quick_metric(published))
            for name, model in (("trained", squeezenet), ("random", "squeezenet1_0-random"), ("pixels", "pixels"))
        }
        raw = {name: result["raw"].values for name, result in scores.items()}
        assert (raw["trained"] > raw["random"]).sum() >= 17  # of 21 sites
        assert raw["trained"].mean() > raw["random"].mean() > raw["pixels"].mean()
        # the paper: the most reliable site, and a ceiling of r = sqrt(2 * .890 / 1.890) for VISal L4
        ceiling = dict(zip(scores["pixels"]["site"].values, scores["pixels"]["ceiling"].values, strict=True))
        assert max(ceiling, key=ceiling.__getitem__) == "VISl.L23"
        assert ceiling["VISal.L4"] == pytest.approx(np.sqrt(2 * 0.8899802 / 1.8899802), abs=1e-6)
        if published:
            r2 = (raw["trained"] ** 2).mean()
            assert 0.05 < r2 < 0.15  # the paper's SqueezeNets: .1162 and .109
            intercept = scores["pixels"]["intercept_only"].values
            # over 20 seeds: mean r -.096 to -.155, mean squared .011 to .027
            assert -0.16 < intercept.mean() < -0.09
            assert 0.01 < (intercept**2).mean() < 0.028


@pytest.mark.slow
def test_the_controls_stand_in_order_on_the_neuropixels_recordings(home: Path) -> None:
    assert main(["fetch", "allen-ns-ephys", "--from", str(REAL)]) == 0
    names = ("intercept-only", "noise", "pixels", "gabor", "brain@animals", "brain")
    sites = ["VISp", "VISal"]  # both have several animals
    raw = {
        name: mb.score(model=name, benchmark="allen-ns-ephys", metric=quick_metric(False), sites=sites)["raw"].values
        for name in names
    }
    assert (raw["intercept-only"] == 0).all()
    assert (abs(raw["noise"]) < 0.05).all()
    for low, high in (("noise", "pixels"), ("noise", "gabor"), ("pixels", "brain@animals"), ("brain@animals", "brain")):
        assert (raw[low] < raw[high]).all(), (low, high)
    assert (raw["brain"] > 0.85).all()
