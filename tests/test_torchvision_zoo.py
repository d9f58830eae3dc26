from __future__ import annotations

import hashlib
import json
import re
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Cli
from PIL import Image
from torch import nn
from torchvision import models

import mousebench as mb
from mousebench.errors import MissingDependency, StoreError
from mousebench.home import torch_checkpoints
from mousebench.torch_model import paper_preprocess
from mousebench_plugins.models import _torchvision
from mousebench_plugins.models._torchvision_nets import NETS, OTHERS, PAPER, Net

# Hook calls, widest layer, layers, parameters and features of all layers at 224 x 224. The last three are those of
# model_opts/model_metadata.csv in the authors' repository (annonymousecode/Model-Zoology-and-Neural-Taskonomy, 2020).
GOLDEN = {
    "alexnet": (22, 193_600, 18, 61_100_840, 1_075_688),
    "vgg11": (30, 3_211_264, 26, 132_863_336, 16_399_848),
    "vgg13": (34, 3_211_264, 30, 133_047_848, 26_033_640),
    "vgg16": (40, 3_211_264, 36, 138_357_544, 28_642_792),
    "vgg19": (46, 3_211_264, 42, 143_667_240, 31_251_944),
    "vgg11_bn": (38, 3_211_264, 34, 132_868_840, 23_825_896),
    "vgg13_bn": (44, 3_211_264, 40, 133_053_736, 38_276_584),
    "vgg16_bn": (53, 3_211_264, 49, 138_365_992, 42_190_312),
    "vgg19_bn": (62, 3_211_264, 58, 143_678_248, 46_104_040),
    "resnet18": (69, 802_816, 60, 11_689_512, 7_477_736),
    "resnet34": (125, 802_816, 108, 21_797_672, 11_240_936),
    "resnet50": (175, 802_816, 158, 25_557_032, 32_040_424),
    "resnet101": (345, 802_816, 311, 44_549_160, 47_394_280),
    "resnet152": (515, 802_816, 464, 60_192_808, 66_360_808),
    "squeezenet1_0": (66, 1_140_576, 64, 1_248_424, 11_945_848),
    "squeezenet1_1": (66, 788_544, 64, 1_235_496, 6_960_376),
    "densenet121": (429, 802_816, 369, 7_978_856, 39_815_656),
    "densenet161": (569, 1_204_224, 489, 28_681_000, 72_390_856),
    "densenet169": (597, 802_816, 513, 14_149_480, 46_984_552),
    "densenet201": (709, 802_816, 609, 20_013_928, 59_014_248),
    "googlenet": (197, 802_816, 195, 13_004_888, 12_333_560),
    "shufflenet_v2_x0_5": (168, 301_056, 167, 1_366_792, 3_284_392),
    "shufflenet_v2_x1_0": (168, 301_056, 167, 2_278_604, 6_283_192),
    "mobilenet_v2": (159, 1_204_224, 151, 3_504_872, 19_680_680),
    "resnext50_32x4d": (175, 802_816, 158, 25_028_904, 41_900_008),
    "resnext101_32x8d": (345, 1_605_632, 311, 88_791_336, 92_326_888),
    "wide_resnet50_2": (175, 802_816, 158, 68_883_240, 41_900_008),
    "wide_resnet101_2": (345, 802_816, 311, 126_886_696, 62_371_816),
    "mnasnet0_5": (158, 301_056, 151, 2_218_512, 8_999_464),
    "mnasnet1_0": (158, 602_112, 151, 4_383_312, 16_005_288),
}
QUICK = ("alexnet", "squeezenet1_1", "shufflenet_v2_x0_5", "mnasnet0_5")


def all_but(names, quick) -> list:
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in sorted(names)]


def noise(n: int = 3, size: int = 64) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, size, size, 3), dtype=np.uint8)


def weights_hash(model) -> str:
    return model.fingerprint["weights"]


# the extraction rule


@pytest.mark.parametrize("name", all_but(GOLDEN, QUICK))
def test_layers_of_the_paper_s_nets_are_those_that_its_authors_counted(name: str) -> None:
    model = mb.load_model(f"{name}-random")
    found = model.reduce(noise(), device="cpu")
    widths = [layer.n_features for layer in found.layers]
    n_calls = len(widths) + len(found.duplicates) + len(found.skipped)
    parameters = sum(parameter.numel() for parameter in model.module.parameters())
    assert (n_calls, max(widths), len(widths), parameters, sum(widths)) == GOLDEN[name]


# without squeeze-and-excitation: its gates are nearly constant in an untrained net, and which of them agree in every
# element depends on the images and on how the processor rounds
@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["convnext_tiny", "inception_v3", "regnet_x_400mf", "swin_t", "swin_v2_t", "shufflenet_v2_x1_5", "vit_b_32"]
)
def test_layers_of_other_nets_are_those_of_the_table(name: str) -> None:
    assert len(mb.load_model(f"{name}-random").reduce(noise(), device="cpu").layers) == NETS[name].layers


# the table


def test_the_table_is_torchvision_s_list_of_nets() -> None:
    # a net that a newer torchvision adds is to be added to the table
    assert set(NETS) == set(models.list_models(module=models))
    assert len(PAPER) == 30
    assert len(NETS) == len(PAPER) + len(OTHERS)


@pytest.mark.parametrize("net", NETS.values(), ids=lambda net: net.name)
def test_the_table_says_what_torchvision_says_of_the_weights(net: Net) -> None:
    offered = models.get_model_weights(net.name)
    weights = offered["IMAGENET1K_V1"] if net in PAPER else offered.DEFAULT
    assert net.weights == weights.name
    assert net.file == weights.url.rpartition("/")[2]
    assert [net.pixels] == weights.transforms().crop_size
    if net.name != "googlenet":  # torchvision counts it without the heads that only training uses
        assert net.parameters == weights.meta["num_params"]


def test_the_table_has_the_paper_s_counts() -> None:
    assert {net.name: (net.layers, net.parameters) for net in PAPER} == {
        name: (layers, parameters) for name, (_, _, layers, parameters, _) in GOLDEN.items()
    }


def counted_depth(module: nn.Module) -> int:
    kinds = nn.Conv2d, nn.Linear, nn.MultiheadAttention  # of the last, the joint projection: the other is a Linear
    used = [part for path, part in module.named_modules() if not re.search(r"(^|\.)aux", path, re.IGNORECASE)]
    return sum(isinstance(part, kinds) for part in used)


@pytest.mark.parametrize("name", all_but(NETS, ("resnet18", "squeezenet1_1", "mobilenet_v3_small")))
def test_the_table_has_each_net_s_depth_and_parameters(name: str) -> None:
    # on "meta" shapes without numbers: no time, no memory; regnets compute their widths with tensors
    with torch.device("cpu" if name.startswith("regnet") else "meta"):
        module = _torchvision.untrained(name).module
    assert counted_depth(module) == NETS[name].depth
    assert sum(parameter.numel() for parameter in module.parameters()) == NETS[name].parameters


@pytest.mark.parametrize(
    ("name", "depth"), [("alexnet", 8), ("vgg16", 16), ("vgg19_bn", 19), ("densenet121", 121), ("densenet201", 201)]
)
def test_depth_is_what_nets_without_shortcut_convolutions_are_named_after(name: str, depth: int) -> None:
    assert NETS[name].depth == depth


def test_a_torchvision_that_lacks_a_net_or_its_weights_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(NETS, "resnet18", NETS["resnet18"]._replace(name="resnet1800"))
    monkeypatch.setitem(NETS, "alexnet", NETS["alexnet"]._replace(weights="IMAGENET1K_V7"))
    for name, said in (("resnet18", "has no 'resnet1800'"), ("alexnet", "has no 'alexnet' with weights IMAGENET1K_V7")):
        with pytest.raises(MissingDependency, match=rf"torchvision \d.* {said}"):
            mb.load_model(f"{name}-random")


# preprocessing


def edges() -> Image.Image:
    """Return a wide image that is black but for white margins left and right: a centre crop does not see them."""
    image = np.zeros((900, 1200, 3), dtype=np.uint8)
    image[:, :100] = image[:, -100:] = 255
    return Image.fromarray(image)


@pytest.mark.parametrize(("name", "pixels"), [("squeezenet1_1", 224), ("efficientnet_b1", 240)])
def test_images_are_squashed_to_the_input_size_of_the_net(name: str, pixels: int) -> None:
    tensor = mb.load_model(f"{name}-random").preprocess(edges())
    assert tensor.shape == (3, pixels, pixels)
    assert torch.equal(tensor, paper_preprocess(pixels)(edges()))
    row = tensor[0, pixels // 2]
    assert row[0] == row[-1] == row.max()
    assert (row > 0).sum() == pytest.approx(pixels / 6, abs=2)


def test_the_weights_own_transform_crops() -> None:
    model = _torchvision.untrained("efficientnet_b1", crop=True)
    assert model.preprocess(edges()).max() < 0
    assert torch.equal(model.preprocess(edges()), models.EfficientNet_B1_Weights.DEFAULT.transforms()(edges()))


def test_a_net_with_a_normalisation_of_its_own_keeps_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert models.EfficientNet_V2_L_Weights.DEFAULT.transforms().mean == [0.5, 0.5, 0.5]
    monkeypatch.setattr(models, "get_model", lambda *_, **__: nn.Conv2d(3, 1, 1))  # the net itself is large
    preprocess = _torchvision.untrained("efficientnet_v2_l").preprocess
    assert torch.equal(preprocess(Image.new("RGB", (9, 9), "white")), torch.ones(3, 480, 480))


# untrained twins; that a fresh process makes the same net is in test_torch_model.py


def test_untrained_nets_differ_by_seed_and_are_the_trained_ones_but_for_their_weights() -> None:
    first, again, other = (mb.load_model(f"squeezenet1_1-random{seed}") for seed in ("", "@0", "@1"))
    assert weights_hash(first) == weights_hash(again) != weights_hash(other)
    assert first.fingerprint["architecture"] == other.fingerprint["architecture"]
    for name in ("googlenet", "inception_v3"):
        net = NETS[name]
        options = _torchvision._options(net)
        assert options["transform_input"]  # as torchvision sets it for the trained ones
        assert options["aux_logits"]
    assert _torchvision._options(NETS["vit_h_14"]) == {"image_size": 518}


# weights files


@pytest.fixture
def checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give an empty folder for weights, and no network."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("MOUSEBENCH_OFFLINE", "1")
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def publish(folder: Path, name: str, state: object, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write a weights file as torchvision publishes them, its name ending with its hash."""
    torch.save(state, folder / "new.pth")
    digest = hashlib.sha256((folder / "new.pth").read_bytes()).hexdigest()[:8]
    path = (folder / "new.pth").rename(folder / f"{name}-{digest}.pth")
    monkeypatch.setitem(NETS, name, NETS[name]._replace(file=path.name))
    return path


def old_dense_names(state: dict) -> dict:
    pattern = re.compile(r"(denselayer\d+\.(?:norm|conv))([12]\.)")
    # of before batch norm counted its batches
    kept = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
    return OrderedDict((pattern.sub(r"\1.\2", name), value) for name, value in kept.items())


@pytest.mark.parametrize("name", all_but(["densenet121", "googlenet", "mnasnet0_5", "vit_b_32"], ["densenet121"]))
def test_weights_are_loaded_as_torchvision_loads_them(
    name: str, checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = _torchvision.untrained(name, 7).module.state_dict()
    if name == "densenet121":  # the published files of densenets have the names of an older torchvision
        state = old_dense_names(state)
        assert "features.denseblock1.denselayer1.norm.1.weight" in state
    path = publish(checkpoints, name, state, monkeypatch)
    weights = models.get_model_weights(name)["IMAGENET1K_V1"]
    (checkpoints / weights.url.rpartition("/")[2]).write_bytes(path.read_bytes())
    expected = models.get_model(name, weights=weights).eval()
    model = mb.load_model(name)
    batch = model._prepare(noise(2))
    with torch.no_grad():
        assert torch.equal(model.module.eval()(batch), expected(batch))
    assert weights_hash(mb.load_model(f"{name}@crop")) == weights_hash(model)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: content[: len(content) // 2], "is damaged: its sha256 does not start with"),
        (lambda content: content[:-100] + bytes(100), "is damaged: its sha256 does not start with"),
        (lambda content: b"", "is damaged: its sha256 does not start with"),
    ],
)
def test_a_damaged_weights_file_is_not_used(
    damage, message: str, checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = publish(checkpoints, "squeezenet1_1", {"a": torch.zeros(999)}, monkeypatch)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(StoreError, match=message) as caught:
        mb.load_model("squeezenet1_1")
    assert str(path) in caught.value.message
    assert "downloaded again" in caught.value.hint


def test_a_weights_file_of_another_net_is_refused(checkpoints: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = _torchvision.untrained("squeezenet1_0").module.state_dict()
    path = publish(checkpoints, "squeezenet1_1", state, monkeypatch)
    with pytest.raises(
        StoreError, match=rf"{path.name} does not fit SqueezeNet.*of another shape: features\.0\.weight"
    ):
        mb.load_model("squeezenet1_1")


# what is listed


@pytest.mark.parametrize(
    "settings",
    [{}, {"TORCH_HOME": "/a/b"}, {"XDG_CACHE_HOME": "/c"}, {"TORCH_HOME": "~/d", "XDG_CACHE_HOME": "/c"}],
)
def test_weights_are_looked_for_where_torch_keeps_them(settings: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TORCH_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    assert torch_checkpoints() == Path(torch.hub.get_dir(), "checkpoints")


def test_the_list_says_which_nets_need_a_download(cli: Cli, checkpoints: Path) -> None:
    def listed() -> dict[str, str]:
        return {row["identifier"]: row["missing"] for row in json.loads(cli("list", "models", "--json").out)["models"]}

    before = listed()
    assert all((before[name], before[f"{name}-random"]) == ("weights", "") for name in NETS)
    assert before["pixels"] == ""
    (checkpoints / NETS["alexnet"].file).touch()
    assert {name: said for name, said in listed().items() if said != before[name]} == {"alexnet": ""}
    text = cli("list", "models").out
    assert re.search(r"^  alexnet +accepted +torchvision-zoo +torchvision, ImageNet", text, re.MULTILINE)
    assert re.search(
        r"^  resnet18 +accepted +torchvision-zoo +needs weights +torchvision, ImageNet", text, re.MULTILINE
    )


def test_the_list_carries_what_is_known_of_each_net(cli: Cli) -> None:
    rows = {row["identifier"]: row["metadata"] for row in json.loads(cli("list", "--json").out)["models"]}
    assert rows["inception_v3"] == {
        "parameters": 27161264,
        "depth": 95,
        "layers": 297,
        "input_size": "299 x 299",
        "weights_name": "IMAGENET1K_V1",
        "training": "ImageNet-1k classification",
        "reference": "szegedy2016",
    }
    assert rows["inception_v3-random"]["training"] == "none"
    assert "Instagram" in rows["vit_h_14"]["training"]
    assert all(rows[name]["reference"] and rows[f"{name}-random"]["reference"] for name in NETS)


def test_show_says_it_and_never_downloads(cli: Cli, checkpoints: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOUSEBENCH_OFFLINE", "")
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *_, **__: pytest.fail("downloads"))
    lines = dict(line.split(maxsplit=1) for line in cli("show", "resnet18@crop").out.splitlines())
    assert lines["model"] == "resnet18@crop"
    assert lines["parameters"] == "11,689,512"
    assert lines["depth"] == "21"
    assert lines["citation"].startswith("he2016: He, Zhang")
    assert "resnet18-f37072fd.pth" in lines["missing"]
