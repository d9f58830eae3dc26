"""What models that nobody registered are called, and the files of results."""

from __future__ import annotations

from pathlib import Path

import pytest

from mousebench.errors import ContractViolation
from mousebench.names import changed_name, result_name, split_local_model


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a.py:f", (Path("a.py"), "f")),
        ("/x/y z/a.py:f", (Path("/x/y z/a.py"), "f")),
        ("a.py", None),
        ("timm/net@x", None),
        ("a.txt:f", None),
    ],
)
def test_split_local_model(text: str, parts: tuple[Path, str] | None) -> None:
    assert split_local_model(text) == parts


@pytest.mark.parametrize(
    ("weights", "layers", "name", "file"),
    [
        ("a/b/best-1.pth", None, "net+best-1", "local-net-best-1"),
        ("my weights (2).v3.pth", None, "net+my_weights_2_.v3", "local-net-my_weights_2_.v3"),
        (None, ["layer1*", "fc"], "net[layer1*,fc]", "local-net-layers-layer1%2A%2Cfc"),
        (None, ["blocks"], "net[blocks]", "local-net-layers-blocks"),
        ("w.pt", ["a[0-9]"], "net+w[a[0-9]]", "local-net-w-layers-a%5B0-9%5D"),
    ],
)
def test_names_of_changed_models(weights: str | None, layers: list[str] | None, name: str, file: str) -> None:
    changed = changed_name("net", Path(weights) if weights else None, layers)
    assert changed == name
    assert result_name(changed) == file


def test_names_of_changed_models_are_not_those_of_others() -> None:
    assert result_name("timm/net@crop+w") == "local-timm%2Fnet%40crop-w"
    assert result_name("my_net:build[fc]") == "local-my_net-build-layers-fc"
    many = [changed_name("net", None, [f"features.{k}" for k in range(n)]) for n in (98, 99)]
    assert many[0] != many[1]
    assert max(map(len, map(result_name, many))) < 200


def test_result_names() -> None:
    assert result_name("timm/net@small") == "timm%2Fnet%40small"
    assert result_name("my_net:build") == "local-my_net-build"
    assert "/" not in result_name("../../x:y")


@pytest.mark.parametrize("identifier", ["../../x", "..", "a/../../b", "A"])
def test_no_result_is_named_by_something_that_is_no_identifier(identifier: str) -> None:
    with pytest.raises(ContractViolation):
        result_name(identifier)
