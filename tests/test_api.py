from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import toy as toy_plugin
import xarray as xr
from conftest import TOY, Cli, files

import mousebench as mb
from mousebench.errors import ContractViolation, UnknownIdentifier, UsageError


def score(model: object = None, **options: object) -> xr.Dataset:
    arguments = {"benchmark": toy_plugin.Toy(), "metric": toy_plugin.Quick(), **options}
    return mb.score(model=toy_plugin.Projections("toy-a") if model is None else model, **arguments)


def test_lists_hold_what_is_installed() -> None:
    assert {"pixels", "resnet18-random"} <= set(mb.list_models())
    assert {"sim-ns", "allen-ns-rdms"} <= set(mb.list_benchmarks())
    assert {"rsa-nnls", "rsa-nnls-published"} <= set(mb.list_metrics())


def test_things_are_loaded_by_identifier() -> None:
    assert list(mb.load_model("pixels").layers) == ["pixels"]
    assert len(mb.load_benchmark("allen-ns-rdms").sites) == 21
    assert mb.load_metric("rsa-nnls").accepts == {"responses", "rdm"}


@pytest.mark.parametrize("load", [mb.load_model, mb.load_benchmark, mb.load_metric])
def test_an_unknown_identifier(load) -> None:
    with pytest.raises(UnknownIdentifier):
        load("no-such-thing")


def test_objects_are_scored_without_registration() -> None:
    result = score()
    assert result["site"].values.tolist() == ["A", "B", "C"]
    assert result.attrs["model"] == "python:Projections"
    provenance = json.loads(result.attrs["provenance"])
    assert provenance["plugin"] == "local"
    assert provenance["model"]["distribution"] == "local"


def test_the_numbers_are_those_of_the_command_line(toy: Cli) -> None:
    rows = json.loads(toy("toy-a", "--seed", "3", "--json", "-").out)["results"][0]["sites"]
    result = score(seed=3)
    for name in ("raw", "ceiling", "score", "explained"):
        assert [row[name] for row in rows] == result[name].values.tolist()
    assert [row["null"]["p"] for row in rows] == result["null_p"].values.tolist()


def test_some_sites_alone_have_the_same_numbers() -> None:
    everything, one = score(), score(sites=["B"])
    assert one["raw"].values.tolist() == everything["raw"].values[1:2].tolist()
    assert one["null"].values.tolist() == everything["null"].values[1:2].tolist()


def test_nothing_is_stored_unless_it_is_asked_for(home: Path, tmp_path: Path) -> None:
    score()
    assert not (home / "results").exists()
    score(results=tmp_path / "results")
    (path,) = files(tmp_path / "results")
    assert path.name == "local-python-Projections.nc"


def test_a_torch_module_is_scored_as_it_is() -> None:
    import torch
    from torch import nn

    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 7, stride=16), nn.ReLU(), nn.AdaptiveAvgPool2d(4))
    net.train()
    result = score(net)
    assert result.attrs["model"] == "python:Sequential"
    assert result["n_layers"].values.tolist() == [3, 3, 3]
    assert np.isfinite(result["raw"]).all()
    assert net.training  # left as it was
    with torch.no_grad():
        net[0].weight[0] += 1.0
    assert (score(net)["raw"].values != result["raw"].values).all()


def test_a_local_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("from mousebench_plugins.models.pixels import load as build\n")
    result = score(f"{file}:build", sites=["A"])
    assert result.attrs["model"] == "mine:build"
    assert result["n_layers"].item() == 1


def test_what_is_no_model_is_refused() -> None:
    with pytest.raises(ContractViolation, match="int is neither") as caught:
        score(3)
    assert "layers, fingerprint and activations" in caught.value.hint


def test_mistakes_are_errors_with_hints() -> None:
    with pytest.raises(UnknownIdentifier, match="no site 'D'") as unknown:
        score(sites=["D"])
    assert "A, B, C" in unknown.value.hint
    with pytest.raises(UsageError, match="needs responses") as usage:
        score(benchmark=toy_plugin.ToyRdm(), metric=toy_plugin.Each())
    assert "quick" in usage.value.hint


def test_progress_is_silent_by_default(capfd: pytest.CaptureFixture[str]) -> None:
    score()
    assert capfd.readouterr() == ("", "")


def test_the_toy_plugin_is_the_file_that_the_command_line_tests_use() -> None:
    assert Path(toy_plugin.__file__) == TOY
