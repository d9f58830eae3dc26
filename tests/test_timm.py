"""timm's own nets, those of a few thousand parameters that it has for tests; skipped where timm is not installed."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Cli

import mousebench as mb
from mousebench.errors import MissingData, MissingDependency, StoreError, UnknownIdentifier

pytest.importorskip("timm", reason="timm, an extra of mousebench, is not installed")
import timm
from safetensors.torch import save_file

NETS = ("test_resnet", "test_vit", "test_convnext", "test_efficientnet", "test_byobnet")


def images(n: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, 64, 64, 3), dtype=np.uint8)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give an empty cache of the hub, and no network."""
    from huggingface_hub import constants

    monkeypatch.setenv("MOUSEBENCH_OFFLINE", "1")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def publish(hub: Path, name: str, state: dict[str, torch.Tensor]) -> None:
    """Put weights into the cache as if they had been downloaded."""
    repository = hub / f"models--timm--{name}"
    revision = "0" * 40
    snapshot = repository / "snapshots" / revision
    snapshot.mkdir(parents=True)
    save_file(state, snapshot / "model.safetensors")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(revision)


# untrained


@pytest.mark.parametrize("name", NETS)
def test_untrained_nets_are_seeded_extracted_and_known_in_full(name: str) -> None:
    first, again, other = (mb.load_model(f"timm/{name}-random{seed}") for seed in ("", "@0", "@3"))
    torch.rand(3)
    assert first.fingerprint["weights"] == again.fingerprint["weights"] != other.fingerprint["weights"]
    assert "unknown" not in first.fingerprint.values()  # or it would never be cached
    layers = first.reduce(images(), device="cpu").layers
    assert len(layers) > 10
    assert all(np.isfinite(layer.gram).all() for layer in layers)


def test_the_seed_of_the_process_is_left_alone() -> None:
    state = torch.random.get_rng_state()
    mb.load_model("timm/test_vit-random")
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_tag_chooses_input_size_and_normalisation() -> None:
    model = mb.load_model("timm/test_resnet.r160_in1k-random")
    config = timm.data.resolve_data_config({}, model=model.module)
    assert config["input_size"] == (3, 160, 160)
    assert config["mean"] == (0.5, 0.5, 0.5)
    tensor = model.preprocess(_edges())
    assert tensor.shape == (3, 160, 160)
    assert tensor.min() == -1
    assert tensor[:, :, 0].min() == tensor[:, :, -1].min() == 1  # the margins are there: nothing is cropped


def _edges():
    from PIL import Image

    image = np.zeros((900, 1200, 3), dtype=np.uint8)
    image[:, :100] = image[:, -100:] = 255
    return Image.fromarray(image)


# trained


def test_weights_are_loaded_by_timm_itself(hub: Path) -> None:
    source = mb.load_model("timm/test_resnet-random@5").module
    publish(hub, "test_resnet.r160_in1k", source.state_dict())
    model = mb.load_model("timm/test_resnet.r160_in1k")
    for name, value in source.state_dict().items():
        assert torch.equal(model.module.state_dict()[name], value)
    assert mb.load_model("timm/test_resnet").fingerprint == model.fingerprint  # timm's default tag
    crop = mb.load_model("timm/test_resnet@crop")
    assert crop.fingerprint["weights"] == model.fingerprint["weights"]
    expected = timm.data.create_transform(**timm.data.resolve_data_config({}, model=crop.module))
    assert torch.equal(crop.preprocess(_edges()), expected(_edges()))
    assert crop.preprocess(_edges()).max() == -1  # the margins are cropped
    assert "unknown" not in crop.fingerprint.values()


@pytest.mark.parametrize("name", ["test_resnet", "resnet18.a1_in1k", "legacy_seresnet18.in1k"])
def test_missing_weights_say_what_works_without(hub: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("uses the network"))
    with pytest.raises(MissingData, match=rf"the weights of 'timm/{name}'") as caught:
        mb.load_model(f"timm/{name}")
    assert f"'timm/{name}-random'" in caught.value.hint


def test_damaged_weights_are_an_error(hub: Path) -> None:
    publish(hub, "test_resnet.r160_in1k", {"conv1.weight": torch.zeros(3)})
    with pytest.raises(MissingData, match="the weights of 'timm/test_resnet' cannot be loaded: RuntimeError"):
        mb.load_model("timm/test_resnet")


def test_a_net_without_weights_says_so() -> None:
    name = next(name for name in timm.list_models() if not timm.is_model_pretrained(name))
    with pytest.raises(MissingData, match=f"knows of no weights for '{name}'"):
        mb.load_model(f"timm/{name}")


def test_weights_from_a_file(tmp_path: Path) -> None:
    source = mb.load_model("timm/test_vit-random@2")
    save_file(source.module.state_dict(), tmp_path / "mine.safetensors")
    model = mb.load_model("timm/test_vit", weights=tmp_path / "mine.safetensors")
    assert model.fingerprint == source.fingerprint
    with pytest.raises(StoreError, match=r"mine\.safetensors does not fit ResNet"):
        mb.load_model("timm/test_resnet", weights=tmp_path / "mine.safetensors")


# names


@pytest.mark.parametrize(
    ("identifier", "message"),
    [
        ("timm/resnt18", r"timm \d\S* has no model 'resnt18'; did you mean .*'timm/resnet18'"),
        ("timm/test_resnt-random", r"has no model 'test_resnt'; did you mean 'timm/test_resnet'"),
        ("timm/resnet18.nope", "has no model 'resnet18.nope'; did you mean"),
        ("timm/test_resnet@big", "model 'timm/test_resnet' has no variant 'big'"),
        ("timm/test_resnet-random@big", "model 'timm/test_resnet-random' has no variant 'big'"),
        ("timm/NAME", "'timm/NAME' stands for a family"),
        ("timm", "unknown model 'timm'; did you mean"),
    ],
)
def test_unknown_names_are_refused_with_the_closest(identifier: str, message: str) -> None:
    with pytest.raises(UnknownIdentifier, match=message):
        mb.load_model(identifier)


def test_every_name_of_timm_is_an_identifier() -> None:
    from mousebench.specs import is_identifier

    names = {*timm.list_models(), *timm.list_models(pretrained=True)}
    assert len(names) > 1000
    assert [name for name in names if not is_identifier(f"timm/{name}") or name.endswith("-random")] == []


def test_without_timm_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, cli: Cli) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "timm"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(MissingDependency) as caught:
        mb.load_model("timm/resnet18-random")
    assert caught.value.hint == "pip install 'mousebench[timm]'"
    done = cli("show", "timm/resnet18")
    assert done.code == 0
    assert "mousebench[timm]" in done.out


def test_the_list_has_the_family_once_and_says_what_it_needs(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def line() -> str:
        (found,) = (line for line in cli("list", "models").out.splitlines() if line.startswith("  timm"))
        return found

    assert line().split()[:5] == ["timm/NAME", "accepted", "timm", "needs", "weights"]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "needs package timm" in line()


def test_show_describes_the_family_and_its_members(cli: Cli) -> None:
    assert "any model that timm lists" in cli("show", "timm/NAME").out
    rows = dict(line.split(maxsplit=1) for line in cli("show", "timm/test_resnet-random").out.splitlines())
    assert rows["model"] == "timm/test_resnet-random"
    assert rows["citation"].startswith("wightman2019")
    assert int(rows["parameters"].replace(",", "")) == sum(
        parameter.numel() for parameter in timm.create_model("test_resnet").parameters()
    )
