from __future__ import annotations

import json
import os
import pickle
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TOY, Cli, files
from safetensors.torch import save_file
from torch import nn
from toy import Quick, Toy

import mousebench as mb
from mousebench import api
from mousebench.checkpoints import fill, read_state_dict
from mousebench.errors import ContractViolation, MissingData, StoreError, UsageError

REAL = os.environ.get("MOUSEBENCH_REAL_DATA")

# a zoo of one: its own weights are never there, its architecture always is
ZOO = """
from functools import partial
import torch
from torch import nn
from torchvision import transforms
from mousebench import Spec, TorchModel, hookimpl
from mousebench.errors import MissingData

SMALL = transforms.Compose([transforms.Resize((8, 8)), transforms.ToTensor()])

def net(seed=0, pool=2):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AvgPool2d(pool), nn.Flatten(), nn.Linear(36, 5))

def load(variant=None):
    raise MissingData("the weights of 'small' are missing")

def architecture(variant=None):
    return TorchModel(net(), SMALL)

def load_random(variant="0"):
    return TorchModel(net(int(variant)), SMALL)

@hookimpl
def mousebench_models():
    return [Spec("small", load, architecture=architecture), Spec("small-random", load_random)]
"""


class Net(nn.Module):
    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.bn = nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, classes)


def net(seed: int = 0, classes: int = 5) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Net(classes)


def written(path: Path, content: object, kind: str = "zip") -> Path:
    if kind == "safetensors":
        save_file(content, path)
    else:
        torch.save(content, path, _use_new_zipfile_serialization=kind == "zip")
    return path


def prefixed(state: dict, prefix: str) -> dict:
    return {prefix + name: value for name, value in state.items()}


# reading


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ""])
def test_every_form_of_file_is_told_from_its_content(tmp_path: Path, kind: str, suffix: str) -> None:
    source, target = net(1), net(2)
    fill(target, read_state_dict(written(tmp_path / f"w{suffix}", source.state_dict(), kind)), "w")
    for name, value in source.state_dict().items():
        assert torch.equal(target.state_dict()[name], value)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": state, "optimizer": {"lr": 0.1}, "best": None},
        lambda state: {"model_state_dict": state},
        lambda state: {"state_dict": {"model": state}},
        lambda state: prefixed(state, "module."),
        lambda state: prefixed(state, "_orig_mod."),
        lambda state: {"state_dict": prefixed(prefixed(state, "_orig_mod."), "module.")},
    ],
)
def test_what_training_scripts_wrap_around_a_state_dict_is_taken_off(tmp_path: Path, wrap) -> None:
    state = net(1).state_dict()
    found = read_state_dict(written(tmp_path / "w.pth", wrap(state)))
    assert list(found) == list(state)
    assert all(torch.equal(found[name], state[name]) for name in state)


def test_a_prefix_that_only_some_tensors_have_is_part_of_their_names(tmp_path: Path) -> None:
    state = {"module.weight": torch.zeros(2), "head.weight": torch.zeros(3)}
    assert list(read_state_dict(written(tmp_path / "w.pth", state))) == list(state)


def test_the_versions_of_modules_are_kept(tmp_path: Path) -> None:
    parallel = nn.DataParallel(net())
    found = read_state_dict(written(tmp_path / "w.pth", parallel.state_dict()))
    assert found._metadata["bn"] == {"version": 2}


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_a_file_that_is_cut_off_is_an_error(tmp_path: Path, kind: str) -> None:
    path = written(tmp_path / "w.pth", net().state_dict(), kind)
    path.write_bytes(cut(path.read_bytes()))
    with pytest.raises(StoreError, match=r"^w\.pth \(\d+ bytes\) is damaged or cut off") as caught:
        read_state_dict(path)
    assert caught.value.hint == "copy or download it again"


@pytest.mark.parametrize(
    "content", [b"", b"weights", b"\x00" * 99, pickle.dumps({"a": 1}), b"PK", b"<html>not found</html>"]
)
def test_what_is_no_weights_file_is_an_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "w.pth"
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"is neither a safetensors nor a torch file"):
        read_state_dict(path)


class Evil:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("kind", ["zip", "legacy"])
@pytest.mark.parametrize("wrap", [lambda evil: evil, lambda evil: {"state_dict": {}, "args": evil}])
def test_nothing_is_ever_unpickled(tmp_path: Path, kind: str, wrap) -> None:
    marker = tmp_path / "ran"
    path = written(tmp_path / "w.pth", wrap(Evil(marker)), kind)
    with pytest.raises(
        StoreError, match=r"w\.pth is refused: beside tensors it holds a \S+, and to load that"
    ) as caught:
        read_state_dict(path)
    assert "torch.save(net.state_dict(), FILE)" in caught.value.hint
    assert "weights_only" not in str(caught.value)
    assert not marker.exists()
    torch.load(path, weights_only=False)  # it is as evil as it looks
    assert marker.exists()


@pytest.mark.parametrize("kind", ["zip", "legacy"])
def test_a_pickled_net_is_refused_by_its_class(tmp_path: Path, kind: str) -> None:
    with pytest.raises(StoreError, match=r"it holds a torch\.nn\.modules\.container\.Sequential"):
        read_state_dict(written(tmp_path / "w.pth", nn.Sequential(nn.ReLU()), kind))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (torch.zeros(3), "holds a Tensor, no state dict"),
        ([torch.zeros(3)], "holds a list, no state dict"),
        ({}, "holds nothing, no state dict"),
        ({"state_dict": {}}, "holds nothing, no state dict"),
        ({"epoch": 3, "w": torch.zeros(2)}, "is no state dict: 'epoch' is a int, no tensor"),
        ({3: torch.zeros(2)}, "is no state dict: 3 is a Tensor"),
        ({"weights": {"a": torch.zeros(2)}}, "is no state dict: 'weights' is a dict, no tensor"),
    ],
)
def test_what_is_no_state_dict_is_an_error(tmp_path: Path, content: object, message: str) -> None:
    with pytest.raises(StoreError, match=message):
        read_state_dict(written(tmp_path / "w.pth", content))


@pytest.mark.parametrize("name", ["none.pth", "."])
def test_a_file_that_is_not_there_is_an_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(MissingData, match="there is no weights file"):
        read_state_dict(tmp_path / name)


# filling


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: s.pop("fc.bias"), ["1 missing: fc.bias"]),
        (lambda s: s.update(extra=torch.zeros(2)), ["1 not of this net: extra"]),
        (lambda s: s.update({"fc.bias": torch.zeros(7)}), ["1 of another shape: fc.bias 7, not 5"]),
        (lambda s: s.update({"fc.weight": torch.zeros(5)}), ["1 of another shape: fc.weight 5, not 5x4"]),
        (lambda s: s.update({"fc.weight": torch.tensor(1.0)}), ["fc.weight scalar, not 5x4"]),
        (
            lambda s: (
                s.pop("conv.bias"),
                s.update(a=torch.zeros(1), b=torch.zeros(1)),
                s.update({"fc.bias": s["bn.bias"]}),
            ),
            ["1 missing: conv.bias; 2 not of this net: a, b; 1 of another shape: fc.bias 4, not 5"],
        ),
        (
            lambda s: (s.clear(), s.update({f"x{k}": torch.zeros(1) for k in range(5)})),
            ["8 missing: conv.weight, conv.bias, bn.weight, ...; 5 not of this net: x0, x1, x2, ..."],
        ),
    ],
)
def test_a_state_dict_that_does_not_fit_is_an_error_that_counts_and_names(change, said: list[str]) -> None:
    state = OrderedDict(net(1).state_dict())
    change(state)
    with pytest.raises(StoreError, match=r"^w\.pth does not fit Net, which has 9 tensors: ") as caught:
        fill(net(), state, "w.pth")
    for text in said:
        assert text in caught.value.message
    assert "another number of classes" in caught.value.hint


def test_counters_of_batches_may_be_missing() -> None:
    state = {name: value for name, value in net(1).state_dict().items() if "num_batches" not in name}
    target = net()
    fill(target, state, "w")
    assert torch.equal(target.bn.running_var, state["bn.running_var"])


def test_half_precision_is_widened() -> None:
    target = net()
    fill(
        target,
        {name: value.half() if value.is_floating_point() else value for name, value in net(1).state_dict().items()},
        "w",
    )
    assert target.fc.weight.dtype == torch.float32
    torch.testing.assert_close(target.fc.weight, net(1).fc.weight, atol=1e-3, rtol=0)


def test_a_net_whose_versions_are_told_apart_takes_files_that_have_none(tmp_path: Path) -> None:
    source = mb.load_model("mnasnet0_5-random@4")
    path = written(tmp_path / "w.safetensors", source.module.state_dict(), "safetensors")
    assert dict(mb.load_model("mnasnet0_5", weights=path).fingerprint) == dict(source.fingerprint)


# from Python and from the command line


@pytest.fixture
def zoo(tmp_path: Path) -> Path:
    path = tmp_path / "zoo.py"
    path.write_text(ZOO)
    return path


@pytest.fixture
def weights(tmp_path: Path, zoo: Path) -> Path:
    scope: dict = {}
    exec(zoo.read_text(), scope)
    return written(tmp_path / "best.safetensors", scope["net"](7).state_dict(), "safetensors")


@pytest.fixture
def score(zoo: Path, tmp_path: Path, cli: Cli):
    def run(models: str, *arguments: object):
        plugins = ("--plugin", zoo, "--plugin", TOY)
        where = ("--benchmark", "toy", "--site", "A", "--results", tmp_path / "results", "--device", "cpu")
        return cli(*plugins, "score", "--model", models, *where, *arguments)

    return run


def test_weights_fill_the_architecture_and_are_scored_as_a_local_model(score, weights: Path, tmp_path: Path) -> None:
    done = score("small", "--weights", weights, "--json", "-")
    assert done.code == 0, done.err
    (result,) = json.loads(done.out)["results"]
    assert result["model"] == "small+best"
    assert result["provenance"]["plugin"] == "local"
    assert result["provenance"]["model"]["source"]  # the code that built it is on record all the same
    assert [path.name for path in files(tmp_path / "results", "*.nc")] == ["local-small-best.nc"]
    same = json.loads(score("small-random@7", "--json", "-").out)["results"][0]
    assert same["sites"] == result["sites"]
    assert same["provenance"]["model"]["fingerprint"] == result["provenance"]["model"]["fingerprint"]
    other = json.loads(score("small-random@8", "--json", "-").out)["results"][0]
    assert other["sites"] != result["sites"]
    again = score("small", "--weights", weights)
    assert "1 of them from before" in again.err


def test_other_weights_of_the_same_name_are_scored_again(score, weights: Path, tmp_path: Path) -> None:
    first = json.loads(score("small", "--weights", weights, "--json", "-").out)["results"][0]
    scope: dict = {}
    exec(ZOO, scope)
    written(weights, scope["net"](8).state_dict(), "safetensors")
    second = json.loads(score("small", "--weights", weights, "--json", "-").out)["results"][0]
    assert first["sites"] != second["sites"]


def test_layers_are_chosen_from_the_command_line(score, tmp_path: Path) -> None:
    done = score("small-random", "--layers", "2,5*", "--json", "-")
    assert done.code == 0, done.err
    (result,) = json.loads(done.out)["results"]
    assert result["model"] == "small-random[2,5*]"
    assert result["sites"][0]["n_layers"] == 2
    assert result["provenance"]["plugin"] == "local"
    assert score("small-random").code == 0  # the zoo's own result is another file
    assert sorted(path.name for path in files(tmp_path / "results", "*.nc")) == [
        "local-small-random-layers-2%2C5%2A.nc",
        "small-random.nc",
    ]


def test_weights_and_layers_together(score, weights: Path) -> None:
    done = score("small", "--weights", weights, "--layers", "0", "--json", "-")
    (result,) = json.loads(done.out)["results"]
    assert result["model"] == "small+best[0]"
    assert result["sites"][0]["n_layers"] == 1


def test_layers_of_a_model_that_nobody_registered(score, tmp_path: Path) -> None:
    done = score(f"{tmp_path}/zoo.py:load_random", "--layers", "0", "--json", "-")
    assert json.loads(done.out)["results"][0]["model"] == "zoo:load_random[0]"


def test_blocks_are_asked_of_the_net(monkeypatch: pytest.MonkeyPatch) -> None:
    from mousebench import torch_model

    asked = []

    class Recording(torch_model.TorchModel):
        def __init__(self, module: nn.Module, preprocess=None, layers=None) -> None:
            asked.append(layers)
            super().__init__(module, preprocess)

    monkeypatch.setattr(torch_model, "TorchModel", Recording)
    module = nn.Sequential(nn.Conv2d(3, 4, 1))
    for layers in ("blocks", ["blocks"], "0", ["0", "1*"]):
        api.named_model(Recording(module), api.catalogue(), layers=layers)
    assert asked[1::2] == ["blocks", "blocks", ("0",), ("0", "1*")]


@pytest.mark.parametrize(
    ("arguments", "said", "hint"),
    [
        (("small,small-random", "--weights", "W"), "--weights is for one model, not for 2", "one by one"),
        (("small", "--weights", "none.pth"), "there is no weights file 'none.pth'", "safetensors"),
        (("smll", "--weights", "W"), "unknown model 'smll'; did you mean 'small'", "list models"),
        (("toy-a", "--weights", "W"), "model 'toy-a' is no torch net", ""),
        (("toy-a", "--layers", "first"), "model 'toy-a' is no torch net", ""),
        (("small-random", "--layers", "9"), "layer '9': no such module", "dotted module paths"),
        (("squeezenet1_1", "--weights", "W"), "best.safetensors does not fit SqueezeNet", "another architecture"),
    ],
)
def test_mistakes_are_errors_with_exit_2(
    score, weights: Path, arguments: tuple[str, ...], said: str, hint: str
) -> None:
    done = score(*(weights if argument == "W" else argument for argument in arguments))
    assert done.code == 2
    assert f"error: {said}" in done.err.replace("error: model 'small-random[9]': ", "error: ")
    assert hint in done.err
    assert "Traceback" not in done.err


def test_weights_that_do_not_fit_are_said_before_anything_is_computed(
    score, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mousebench.runs.run", lambda *_: pytest.fail("the benchmark's targets would be made first"))
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(weights.read_bytes()[:-100])
    for arguments, said in ((("small", "--weights", cut), "damaged"), (("squeezenet1_1", "--weights", weights), "fit")):
        done = score(*arguments)
        assert done.code == 2
        assert said in done.err


def test_one_model_that_fails_does_not_keep_the_others_from_their_layers(score, tmp_path: Path) -> None:
    done = score("toy-a,smll,small-random", "--layers", "0")
    assert done.code == 2
    assert "model 'toy-a' is no torch net" in done.err
    assert "unknown model 'smll'" in done.err
    assert [path.name for path in files(tmp_path / "results", "*.nc")] == ["local-small-random-layers-0.nc"]


def test_python_takes_weights_and_layers(weights: Path, zoo: Path, tmp_path: Path) -> None:
    written(tmp_path / "s.pth", mb.load_model("squeezenet1_1-random@5").module.state_dict())
    model = mb.load_model("squeezenet1_1", weights=tmp_path / "s.pth", layers=["features.0", "classifier.*"])
    assert model.fingerprint["weights"] == mb.load_model("squeezenet1_1-random@5").fingerprint["weights"]
    assert list(model.layers) == ["features.0", *(f"classifier.{k}" for k in range(4))]
    with pytest.raises(ContractViolation, match="no such module"):
        mb.load_model("squeezenet1_1-random", layers=["nowhere"])


def test_the_transform_of_the_variant_goes_with_the_weights(tmp_path: Path) -> None:
    written(tmp_path / "s.pth", mb.load_model("squeezenet1_1-random").module.state_dict())
    model = mb.load_model("squeezenet1_1@crop", weights=tmp_path / "s.pth")
    assert "crop_size=[224]" in model.fingerprint["preprocess"]


def test_an_object_takes_layers_but_no_weights(weights: Path) -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3, 8), nn.ReLU(), nn.Flatten())
    result = mb.score(module, Toy(), metric=Quick(), sites=["A"], layers=["0"], device="cpu")
    assert result.attrs["model"] == "python:Sequential[0]"
    assert result["n_layers"].item() == 1
    with pytest.raises(UsageError, match="weights are for a model that is named"):
        mb.score(module, "sim-ns", weights=weights)


@pytest.mark.real
@pytest.mark.skipif(not REAL, reason="MOUSEBENCH_REAL_DATA is not set")
def test_real_weights_of_another_making_fill_the_zoo_s_net(tmp_path: Path) -> None:
    path = Path(REAL or "", "weights", "squeezenet1_0-imagenet.pth")
    model = mb.load_model("squeezenet1_0", weights=path)
    reference = torch.load(path, weights_only=True)
    for name, value in model.module.state_dict().items():
        assert torch.equal(value, reference[name])
    random = mb.load_model("squeezenet1_0-random")
    assert model.fingerprint["architecture"] == random.fingerprint["architecture"]
    assert model.fingerprint["preprocess"] == random.fingerprint["preprocess"]
    with pytest.raises(StoreError, match="does not fit"):
        mb.load_model("squeezenet1_1", weights=path)
    images = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    assert len(model.reduce(images, device="cpu").layers) == 64
