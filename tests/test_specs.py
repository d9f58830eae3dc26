from __future__ import annotations

import pickle
import string
from functools import partial
from pathlib import PurePosixPath, PureWindowsPath
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mousebench import Spec
from mousebench.errors import ContractViolation
from mousebench.specs import check_identifier, file_name, is_identifier, split_variant

GOOD = ["a", "0", "mobilenet_v2", "squeezenet1_1", "timm/vit-b.16_x", "resnet18-random@3", "timm/net@small-2"]
BAD = [
    "",
    "A",
    "Net",
    "my net",
    "-a",
    "a-",
    "a--b",
    "a._b",
    "a/b/c",
    "/a",
    "a/",
    "a@",
    "@a",
    "a@b@c",
    "a@b/c",
    "../../x",
    "..",
    ".",
    "a/../b",
    "a\n",
    "a\x00",
    "é",
    "a:b",
    "a%2fb",
    "a,b",
    None,
    3,
]


@pytest.mark.parametrize("identifier", GOOD)
def test_identifiers_of_the_contract_are_accepted(identifier: str) -> None:
    assert check_identifier(identifier) == identifier
    assert Spec(identifier, load=dict).identifier == identifier


@pytest.mark.parametrize("identifier", BAD)
def test_anything_else_is_refused_by_name(identifier: object) -> None:
    with pytest.raises(ContractViolation, match="is not an identifier") as caught:
        Spec(identifier, load=dict)  # type: ignore[arg-type]
    assert repr(identifier) in caught.value.message
    assert "my-net" in caught.value.hint


def test_a_load_that_cannot_be_called_is_refused() -> None:
    with pytest.raises(ContractViolation, match="'my-net': load is 3"):
        Spec("my-net", load=3)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["architecture", "missing"])
def test_what_may_be_called_must_be_callable(name: str) -> None:
    with pytest.raises(ContractViolation, match=f"'my-net': {name} is 'x'"):
        Spec("my-net", load=dict, **{name: "x"})


@pytest.mark.parametrize("value", [None, [1], float("nan"), float("inf"), {}])
def test_metadata_are_texts_and_numbers(value: object) -> None:
    assert Spec("my-net", dict, metadata={"depth": 3, "loss": 0.5, "training": "none"}).metadata["depth"] == 3
    with pytest.raises(ContractViolation, match=r"'my-net': metadata 'depth' is .*, no text or number"):
        Spec("my-net", load=dict, metadata={"depth": value})  # type: ignore[dict-item]


def test_a_family_is_listed_with_a_placeholder_that_is_no_identifier() -> None:
    spec = Spec("timm", load=dict, family=True)
    assert spec.listed == "timm/NAME"
    assert not is_identifier(spec.listed)
    assert Spec("timm", load=dict).listed == "timm"


@pytest.mark.parametrize("identifier", ["a/b", "a@b"])
def test_a_family_has_one_plain_name(identifier: str) -> None:
    with pytest.raises(ContractViolation, match="the identifier of a family is one plain name"):
        Spec(identifier, load=dict, family=True)


def test_a_spec_can_be_pickled() -> None:
    spec = Spec("a", partial(int, "7"), "seven", {"depth": 3}, architecture=int, missing=str)
    again = pickle.loads(pickle.dumps(spec))
    assert again.load() == 7
    assert again.metadata == {"depth": 3}
    assert (again.architecture, again.missing, again.description) == (int, str, "seven")


@pytest.mark.parametrize(
    ("identifier", "parts"),
    [("a", ("a", None)), ("a@b", ("a", "b")), ("timm/a@b-2", ("timm/a", "b-2"))],
)
def test_split_variant(identifier: str, parts: tuple[str, str | None]) -> None:
    assert split_variant(identifier) == parts


words = st.text(string.ascii_lowercase + string.digits, min_size=1, max_size=3)
names = st.builds(
    lambda first, rest: first + "".join(joint + word for joint, word in rest),
    words,
    st.lists(st.tuples(st.sampled_from("._-"), words), max_size=2),
)
identifiers = st.builds(
    lambda family, name, variant: family + name + variant,
    st.one_of(st.just(""), names.map("{}/".format)),
    names,
    st.one_of(st.just(""), names.map("@{}".format)),
)


@given(identifiers)
def test_a_file_name_is_one_safe_component_and_says_which_identifier_it_is(identifier: str) -> None:
    name = file_name(check_identifier(identifier))
    assert unquote(name) == identifier  # so different identifiers have different names
    assert PurePosixPath(name).parts == (name,)
    assert PureWindowsPath(name).parts == (name,)
    assert not name.startswith(".")
    assert set(name) <= set(string.ascii_letters + string.digits + "._-%")
