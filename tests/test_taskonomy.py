"""The Taskonomy encoders against visualpriors, the package that published their weights for torch."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TOY, Cli
from PIL import Image
from skimage.color import rgb2lab
from torch import nn
from torchvision import transforms
from visualpriors.taskonomy_network import LIST_OF_TASKS, TASKONOMY_PRETRAINED_URLS, TaskonomyEncoder

from mousebench import TorchModel
from mousebench.api import catalogue
from mousebench.errors import MissingData, StoreError, UnknownIdentifier
from mousebench_plugins.benchmarks._sim_scenes import make_scenes
from mousebench_plugins.models import _taskonomy
from mousebench_plugins.models._taskonomy import Encoder, lightness, preprocess, untrained
from mousebench_plugins.models.taskonomy import ENCODERS, PAPER_21, SCORED_24, TASKS, metadata, weights_file

SMALL = transforms.Compose([transforms.Resize((64, 64)), transforms.ToTensor()])  # full size takes ten times as long
CLUSTERS = {
    "2D": "autoencoding edge_texture inpainting keypoints2d segment_unsup2d",
    "3D": "curvature depth_euclidean depth_zbuffer edge_occlusion keypoints3d reshading segment_unsup25d",
    "Semantic": "class_object class_scene segment_semantic",
    "Geometric": "egomotion fixated_pose jigsaw nonfixated_pose point_matching room_layout vanishing_point",
    "Other": "denoising normal",
    None: "colorization",
}


@pytest.fixture(scope="module")
def state() -> Mapping[str, torch.Tensor]:
    """A state dict of the published form in which every tensor matters: batch norms that are not the identity."""
    generator = torch.Generator().manual_seed(1)
    torch.manual_seed(1)
    tensors = TaskonomyEncoder().state_dict()
    for key, value in tensors.items():
        if key.endswith("running_var") or (value.ndim == 1 and key.endswith("weight")):
            value.uniform_(0.5, 1.5, generator=generator)
        elif value.ndim == 1:
            value.normal_(0, 0.2, generator=generator)
    return tensors


@pytest.fixture
def torch_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """torch's cache folder for this test, and no network."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("MOUSEBENCH_OFFLINE", "1")
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def publish(torch_home: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Return a function that publishes a checkpoint for curvature, as the real files are: old format, sha256 in the name."""

    def write(checkpoint: Any, folder: Path = torch_home, task: str = "curvature") -> Path:
        temporary = folder / "new.pth"
        torch.save(checkpoint, temporary, _use_new_zipfile_serialization=False)
        sha256 = hashlib.sha256(temporary.read_bytes()).hexdigest()
        monkeypatch.setitem(ENCODERS, task, dataclasses.replace(ENCODERS[task], sha256=sha256))
        return temporary.rename(folder / f"{task}_encoder-{sha256}.pth")

    return write


def load(identifier: str) -> TorchModel:
    """Return a model without the forward pass by which ``mousebench.load_model`` checks it."""
    model = catalogue().load("models", identifier)
    assert isinstance(model, TorchModel)
    return model


def light(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return zeros of the same shapes that take no room in a file."""
    return {key: torch.zeros((), dtype=value.dtype).expand(value.shape) for key, value in tensors.items()}


def every_call(net: nn.Module, images: torch.Tensor) -> list[tuple[str, torch.Tensor]]:
    """Return module path and output of each call of each module but Sequential."""
    calls: list[tuple[str, torch.Tensor]] = []
    handles = []
    for path, module in net.named_modules():
        if not isinstance(module, nn.Sequential):
            handles.append(
                module.register_forward_hook(lambda _, __, output, path=path: calls.append((path, output.clone())))
            )
    with torch.no_grad():
        net.eval()(images)
    for handle in handles:
        handle.remove()
    return calls


@cache
def scenes(n: int) -> np.ndarray:
    """Return naturalistic scenes, uint8 (image, y, x, 3)."""
    return np.repeat(make_scenes(0, n)[..., None], 3, axis=3)


# what there is --------------------------------------------------------------------------------------------------------


def test_the_25_encoders_and_their_files_are_the_published_ones() -> None:
    assert list(ENCODERS) == LIST_OF_TASKS
    for task in ENCODERS:
        assert f"{_taskonomy.URL}/{weights_file(task)}" == TASKONOMY_PRETRAINED_URLS[f"{task}_encoder"]


def test_clusters_and_lists() -> None:
    assert {task: cluster for cluster, tasks in CLUSTERS.items() for task in tasks.split()} == TASKS
    assert set(TASKS) - set(SCORED_24) == {"colorization"}
    assert set(TASKS) - set(PAPER_21) == {"egomotion", "fixated_pose", "nonfixated_pose", "point_matching"}
    assert (len(SCORED_24), len(PAPER_21)) == (24, 21)
    assert {f"taskonomy/{task}" for task in TASKS} < set(catalogue().identifiers("models"))


@pytest.mark.parametrize("task", ["curvature", "colorization", "encoder-random"])
def test_metadata(task: str) -> None:
    net = Encoder(1 if task == "colorization" else 3)
    told = metadata(task)
    assert told["parameters"] == sum(parameter.numel() for parameter in net.parameters())
    assert told["depth"] == sum(isinstance(part, nn.Conv2d) for part in net.modules())
    assert told.get("cluster") == {"curvature": "3D", "colorization": "none"}.get(task)
    assert (told["training"] == "none") == (task == "encoder-random")


# the architecture -----------------------------------------------------------------------------------------------------


def test_it_draws_the_weights_that_visualpriors_draws() -> None:
    torch.manual_seed(3)
    theirs = TaskonomyEncoder().state_dict()
    ours = untrained(3, latent=False, imagenet=False).module.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


@pytest.mark.parametrize("kind", ["random", "scenes"])
def test_every_call_gives_what_visualpriors_gives(kind: str, state: Mapping[str, torch.Tensor]) -> None:
    if kind == "random":  # of odd size: where the stride falls and how the pool rounds shows
        images = torch.rand(2, 3, 91, 75, generator=torch.Generator().manual_seed(0)) * 2 - 1
    else:
        images = preprocess()(Image.fromarray(scenes(1)[0]))[None, :, ::2, ::2]
    ours, theirs = Encoder(), TaskonomyEncoder()
    ours.load_state_dict(state)
    theirs.load_state_dict(state)
    found, expected = every_call(ours, images), every_call(theirs, images)
    assert [path for path, _ in found] == [path for path, _ in expected]
    assert len(found) == 179
    for (path, mine), (_, other) in zip(found, expected, strict=True):
        assert mine.shape == other.shape, path
        assert (mine - other).abs().max() <= 1e-6 * other.abs().max(), path


def test_golden_layers() -> None:
    # at a quarter of the size: which layers there are does not follow from it, and every width is a sixteenth
    found = TorchModel(untrained(0, latent=False, imagenet=False).module, SMALL).reduce(scenes(2), device="cpu")
    assert (len(found.layers), len(found.duplicates)) == (162, 17)  # 179 calls
    assert sum(layer.n_features for layer in found.layers) == 41_852_928 / 16
    assert found.layers[-1].name == "groupnorm"
    assert metadata("encoder-random")["layers"] == len(found.layers)
    # a block's output is that of its last ReLU, the net's that of the group norm
    blocks = [
        f"layer{stage}.{block}" for stage, n in zip((1, 2, 3, 4), (3, 4, 6, 3), strict=True) for block in range(n)
    ]
    assert found.duplicates == {**{block: f"{block}.relu#2" for block in blocks}, "(root)": "groupnorm"}
    # sizes alone, without arithmetic: all calls but those 17, at the size of 2020 too
    net = Encoder().to("meta")
    for size, features, latent in ((256, 41_852_928, 2048), (224, 32_043_648, 1568)):
        calls = every_call(net, torch.empty(1, 3, size, size, device="meta"))
        widths = [output.numel() for path, output in calls if path not in ("", *blocks)]
        assert (len(widths), sum(widths), widths[-1]) == (162, features, latent)
        shapes = {path: tuple(output.shape[1:]) for path, output in calls}
        assert shapes["conv1"] == (64, size // 2, size // 2)
        assert shapes["maxpool"] == (64, size // 4, size // 4)
        assert shapes["layer1.2"] == (256, size // 8, size // 8)
        assert shapes["layer2.3"] == (512, size // 16, size // 16)
        assert shapes["layer4.2"] == (2048, size // 16, size // 16)
        assert shapes[""] == (8, size // 16, size // 16)


# what goes in ---------------------------------------------------------------------------------------------------------


def test_preprocessing_is_a_square_squash_to_minus_one_to_one() -> None:
    image = np.zeros((30, 60, 3), dtype=np.uint8)
    image[:, :20] = 255  # a third on the left: a crop would change the share
    squashed = preprocess()(Image.fromarray(image))
    assert squashed.shape == (3, 256, 256)
    assert (squashed.min(), squashed.max()) == (-1, 1)
    assert ((squashed.mean() + 1) / 2).item() == pytest.approx(1 / 3, abs=1e-3)
    levels = np.repeat(np.arange(256, dtype=np.uint8), 256).reshape(256, 256)
    same_size = preprocess()(Image.fromarray(levels).convert("RGB"))
    assert same_size[1].numpy() == pytest.approx(levels / 255 * 2 - 1, abs=1e-6)


def test_lightness_is_that_of_cielab() -> None:
    rgb = np.random.default_rng(0).random((40, 50, 3), dtype=np.float32)
    rgb[0, :20] = np.linspace(0, 0.2, 20, dtype=np.float32)[:, None]  # grey, through the linear parts of both curves
    rgb[1, :2] = [[0, 0, 0], [1, 1, 1]]
    ours = lightness(torch.from_numpy(rgb).permute(2, 0, 1))
    assert ours.shape == (1, 40, 50)
    assert ours[0].numpy() == pytest.approx(rgb2lab(rgb)[..., 0] / 50 - 1, abs=1e-5)
    assert ours[0, 1, :2].tolist() == pytest.approx([-1, 1], abs=1e-6)


def test_variants_choose_layers_and_input() -> None:
    made = {
        variant: load(f"taskonomy/encoder-random{variant}")
        for variant in (
            "",
            "@latent",
            "@imagenet224",
            "@latent-imagenet224",
            "@3",
            "@latent-3",
            "@latent-imagenet224-3",
        )
    }
    prints = {variant: model.fingerprint for variant, model in made.items()}
    assert len({tuple(sorted(told.items())) for told in prints.values()}) == len(made)
    assert not any("unknown" in told.values() for told in prints.values())
    assert load("taskonomy/encoder-random@0").fingerprint == prints[""]
    assert prints["@latent-3"]["weights"] == prints["@3"]["weights"] != prints[""]["weights"]
    assert prints["@latent-imagenet224"]["preprocess"] == load("alexnet-random").fingerprint["preprocess"]
    image = Image.fromarray(scenes(1)[0])
    for variant, model in made.items():
        assert model.selection == (("groupnorm",) if "latent" in variant else None)
        assert model.preprocess(image).shape[1:] == ((224, 224) if "imagenet224" in variant else (256, 256))


@pytest.mark.parametrize(
    ("model", "hint"),
    [
        ("curvature@crop", "'latent', 'imagenet224', 'latent-imagenet224'"),
        ("curvature@3", "'latent', 'imagenet224', 'latent-imagenet224'"),
        ("curvature@imagenet224-latent", "'latent-imagenet224'"),
        ("colorization@imagenet224", "its variants are 'latent'"),
        ("encoder-random@03", "seed"),
        ("encoder-random@3-latent", "'latent-3'"),
        ("encoder-random@latent-x", "'latent-3'"),
    ],
)
def test_variants_that_are_none(model: str, hint: str) -> None:
    variant = model.partition("@")[2]
    with pytest.raises(UnknownIdentifier, match=rf"has no variant '{variant}'") as caught:
        load(f"taskonomy/{model}")
    assert hint in caught.value.hint


def test_an_untrained_encoder_follows_its_seed_and_nothing_else() -> None:
    before = torch.random.get_rng_state()
    first = load("taskonomy/encoder-random@2").fingerprint
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(12345)
    assert load("taskonomy/encoder-random@2").fingerprint == first


# published weights ----------------------------------------------------------------------------------------------------


def test_a_file_of_the_published_form_is_loaded(
    publish: Callable[..., Path], state: Mapping[str, torch.Tensor]
) -> None:
    publish({"epoch": 30, "arch": "encoder", "state_dict": state})
    model = load("taskonomy/curvature@latent")
    loaded = model.module.state_dict()
    assert all(torch.equal(loaded[key], state[key]) for key in state)
    oracle = TaskonomyEncoder()
    oracle.load_state_dict(state)
    images = scenes(1)
    # TorchModel passes images channels last, which is another order of sums
    batch = SMALL(Image.fromarray(images[0]))[None].contiguous(memory_format=torch.channels_last)
    expected = oracle(batch).numpy().reshape(1, 128)
    (name,) = model.selection
    latent = TorchModel(model.module, SMALL, model.selection).activations(images, [name])[name]
    assert np.abs(latent - expected).max() <= 1e-6 * np.abs(expected).max()


def test_a_file_without_the_counters_of_later_torch_is_loaded(
    publish: Callable[..., Path], state: Mapping[str, torch.Tensor]
) -> None:
    publish({"state_dict": {key: value for key, value in light(state).items() if "num_batches" not in key}})
    assert load("taskonomy/curvature").module.state_dict().keys() == state.keys()


def test_colorization_takes_one_channel(publish: Callable[..., Path], state: Mapping[str, torch.Tensor]) -> None:
    grey = {**light(state), "conv1.weight": torch.zeros(64, 1, 7, 7)}
    publish({"state_dict": grey}, task="colorization")
    model = load("taskonomy/colorization@latent")
    with torch.no_grad():
        assert model.module.eval()(model.preprocess(Image.fromarray(scenes(1)[0]))[None]).shape == (1, 8, 16, 16)
    assert "unknown" not in model.fingerprint.values()
    publish({"state_dict": light(state)}, task="colorization")
    with pytest.raises(StoreError, match=r"conv1.weight 64x3x7x7, not 64x1x7x7"):
        load("taskonomy/colorization")


def test_a_file_is_downloaded_once_and_checked(
    publish: Callable[..., Path],
    state: Mapping[str, torch.Tensor],
    torch_home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MOUSEBENCH_OFFLINE", "")
    monkeypatch.setattr(_taskonomy, "URL", tmp_path.as_uri())
    published = publish({"state_dict": light(state)}, tmp_path)
    load("taskonomy/curvature")
    assert [file.name for file in torch_home.iterdir()] == [published.name]
    published.unlink()
    load("taskonomy/curvature")
    (torch_home / published.name).unlink()
    published.write_bytes(b"an error page")
    with pytest.raises(MissingData, match=r"downloading file:///.* fails: invalid hash value") as caught:
        load("taskonomy/curvature")
    assert "'taskonomy/encoder-random'" in caught.value.hint
    assert list(torch_home.iterdir()) == []


def test_offline_says_which_file_is_missing_where_and_what_works_without(
    cli: Cli, torch_home: Path, tmp_path: Path
) -> None:
    arguments = ("score", "--model", "taskonomy/normal", "--benchmark", "toy", "--results", tmp_path / "results")
    done = cli("--plugin", TOY, "--offline", *arguments)
    assert done.code == 2
    assert f"normal_encoder-{ENCODERS['normal'].sha256}.pth, looked for in {torch_home}" in done.err
    assert "hint: put the file there, or score 'taskonomy/encoder-random', which needs no weights" in done.err
    assert "Traceback" not in done.err


def test_a_truncated_file_is_not_used(publish: Callable[..., Path], state: Mapping[str, torch.Tensor]) -> None:
    file = publish({"state_dict": light(state)})
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(StoreError, match=rf"{file.name} \(\d+ bytes\) is damaged") as caught:
        load("taskonomy/curvature")
    assert "delete it" in caught.value.hint


def test_a_file_that_agrees_with_the_start_of_the_hash_only_is_not_used(
    publish: Callable[..., Path], state: Mapping[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = publish({"state_dict": light(state)})
    sha256 = ENCODERS["curvature"].sha256
    other = sha256[:-1] + ("0" if sha256[-1] != "0" else "1")
    monkeypatch.setitem(ENCODERS, "curvature", dataclasses.replace(ENCODERS["curvature"], sha256=other))
    file.rename(file.with_name(f"curvature_encoder-{other}.pth"))
    with pytest.raises(StoreError, match="is damaged"):
        load("taskonomy/curvature")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: {k: v for k, v in s.items() if "compress" not in k}, r"\d missing: compress1.weight, .*, \.\.\.$"),
        (lambda s: {**s, "fc.weight": torch.zeros(2)}, r"1 not of this net: fc.weight$"),
        (
            lambda s: {"e." + k: v for k, v in s.items()},
            r"missing: conv1.weight, .*; 324 not of this net: e.conv1.weight",
        ),
        (
            lambda s: {**s, "conv1.weight": torch.zeros(64, 1, 7, 7)},
            r"1 of another shape: conv1.weight 64x1x7x7, not 64x3x7x7",
        ),
        (lambda s: {**s, "bn1.bias": 3.0}, r"no state dict: 'bn1.bias' is a float, no tensor"),
        (lambda s: None, r"no state dict"),
    ],
)
def test_a_state_dict_that_does_not_fit(
    change: Callable[..., Any], message: str, publish: Callable[..., Path], state: Mapping[str, torch.Tensor]
) -> None:
    file = publish({"state_dict": change(light(state))})
    with pytest.raises(StoreError, match=message) as caught:
        load("taskonomy/curvature")
    assert file.name in caught.value.message
    assert len(caught.value.message) < 400


class Touch:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., None], tuple[Path]]:
        return Path.touch, (self.path,)


def test_nothing_in_a_file_is_run(publish: Callable[..., Path], tmp_path: Path) -> None:
    publish({"state_dict": Touch(tmp_path / "was-run")})
    with pytest.raises(StoreError, match="is refused"):
        load("taskonomy/curvature")
    assert not (tmp_path / "was-run").exists()
