from __future__ import annotations

import errno
from pathlib import Path

import netCDF4
import numpy as np
import pytest
import xarray as xr
from conftest import files

from mousebench import assemblies, store
from mousebench.errors import ContractViolation, StoreError


def result(**attrs: object) -> xr.Dataset:
    return xr.Dataset(
        {
            "raw": ("site", [0.1, np.nan]),
            "best_layer": ("site", np.array(["conv", ""])),
            "notes": ("site", np.array(["[]", '["é"]'])),
            "target_sha256": ("site", np.array(["a" * 64, "b" * 64])),
            "n_layers": ("site", [3, 4]),
        },
        coords={"site": ("site", np.array(["A", "Bsite"]))},
        attrs={"format": store.FORMAT, "key": "k", "provenance": '{"seed": 0}', "mean_score": float("nan"), **attrs},
    )


def test_the_path_of_a_result(tmp_path: Path) -> None:
    path = store.result_path(tmp_path, "allen-ns@grey", 2, "rsa-nnls", "timm/net@small")
    assert path.relative_to(tmp_path).parts == ("allen-ns%40grey", "v2", "rsa-nnls", "timm%2Fnet%40small.nc")


def test_a_result_comes_back_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.nc"
    store.write(result(), path)
    found = store.read(path)
    xr.testing.assert_equal(found, result())
    assert {**found.attrs, "mean_score": 0} == {**result().attrs, "mean_score": 0}
    assert np.isnan(found.attrs["mean_score"])
    assert found["n_layers"].dtype.kind == "i"
    assert files(tmp_path) == [Path("deep/a.nc")]


def test_the_same_result_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.nc", "b.nc"):
        store.write(result(), tmp_path / name)
    assert (tmp_path / "a.nc").read_bytes() == (tmp_path / "b.nc").read_bytes()


@pytest.mark.parametrize("provenance", ["", None])
def test_without_provenance_nothing_is_stored(tmp_path: Path, provenance: str | None) -> None:
    wrong = result(provenance="")
    if provenance is None:
        del wrong.attrs["provenance"]
    with pytest.raises(StoreError, match="without provenance"):
        store.write(wrong, tmp_path / "a.nc")
    assert files(tmp_path) == []


@pytest.mark.parametrize("value", [True, None, {"a": 1}, [1, 2]])
def test_attributes_that_netcdf_cannot_hold_are_refused_by_name(tmp_path: Path, value: object) -> None:
    with pytest.raises(ContractViolation, match="'wrong'"):
        store.write(result(wrong=value), tmp_path / "a.nc")
    assert files(tmp_path) == []


def test_another_format_is_not_read(tmp_path: Path) -> None:
    store.write(result(format=99), tmp_path / "a.nc")
    with pytest.raises(StoreError, match="has format 99; this version reads 2") as caught:
        store.read(tmp_path / "a.nc")
    assert caught.value.hint == "score it again"


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"a.nc does not exist"):
        store.read(tmp_path / "a.nc")


def truncated(content: bytes) -> bytes:
    return content[: len(content) // 2]


def empty(content: bytes) -> bytes:
    return b""


def text(content: bytes) -> bytes:
    return b"<html>"


@pytest.mark.parametrize("harm", [truncated, empty, text])
def test_a_damaged_file_is_said_to_be_damaged(tmp_path: Path, harm) -> None:
    path = tmp_path / "a.nc"
    store.write(result(), path)
    path.write_bytes(harm(path.read_bytes()))
    with pytest.raises(StoreError, match=r"a.nc cannot be read") as caught:
        store.read(path)
    assert "damaged" in caught.value.hint


def test_a_flipped_bit_never_changes_a_number(tmp_path: Path) -> None:
    path = tmp_path / "a.nc"
    store.write(result(), path)
    good = path.read_bytes()
    noticed = 0
    for position in range(0, len(good), 97):
        path.write_bytes(good[:position] + bytes([good[position] ^ 64]) + good[position + 1 :])
        try:
            found = store.read(path)
        except StoreError:
            noticed += 1
        else:  # a byte that means nothing
            xr.testing.assert_equal(found, result())
    assert noticed > 5


def test_a_changed_number_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.nc"
    store.write(result(), path)
    with netCDF4.Dataset(path, "r+") as file:
        file["raw"][0] = 0.9
    with pytest.raises(StoreError, match="is not what was written"):
        store.read(path)


def test_a_file_of_somebody_else_is_not_read(tmp_path: Path) -> None:
    result().to_netcdf(tmp_path / "a.nc", engine="netcdf4")
    with pytest.raises(StoreError, match="mousebench did not write it"):
        store.read(tmp_path / "a.nc")


# writing --------------------------------------------------------------------------------------------------------------

FULL = [
    OSError(errno.ENOSPC, "No space left on device"),
    RuntimeError("NetCDF: HDF error"),
    OSError(errno.EROFS, "Read-only file system"),
]


@pytest.mark.parametrize("error", FULL, ids=["full", "hdf", "read-only"])
@pytest.mark.parametrize("before", [True, False])
def test_a_write_that_fails_keeps_the_old_file_and_leaves_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, before: bool
) -> None:
    path = tmp_path / "a.nc"
    if before:
        store.write(result(), path)

    def half(self: xr.Dataset, temporary: Path, **_: object) -> None:
        Path(temporary).write_bytes(b"half")
        raise error

    monkeypatch.setattr(xr.Dataset, "to_netcdf", half)
    with pytest.raises(StoreError, match=r"cannot write .*a.nc: ") as caught:
        store.write(result(key="other"), path)
    assert "free space" in caught.value.hint
    assert files(tmp_path) == ([Path("a.nc")] if before else [])
    if before:
        monkeypatch.undo()
        assert store.read(path).attrs["key"] == "k"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("a bug")])
def test_whatever_interrupts_a_write_leaves_nothing(tmp_path: Path, error: BaseException) -> None:
    def write() -> None:
        with assemblies.replacing(tmp_path / "a.txt") as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(type(error)):
        write()
    assert files(tmp_path) == []


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot write") as caught:
        store.write(result(), tmp_path / "file" / "a.nc")
    assert "permissions" in caught.value.hint


# what is still valid --------------------------------------------------------------------------------------------------


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    path = tmp_path / "a.nc"
    store.write(result(), path)
    return path


@pytest.mark.parametrize(
    ("hashes", "sites"),
    [
        ({"A": "a" * 64, "Bsite": "b" * 64}, ["A", "Bsite"]),
        ({"A": "a" * 64}, ["A", "Bsite"]),  # a site that was not asked for is kept
        ({"A": "x" * 64, "Bsite": "b" * 64}, ["Bsite"]),
        ({"A": "a" * 64, "new": "c" * 64}, ["A", "Bsite"]),
    ],
)
def test_sites_whose_target_is_the_same_are_valid(stored: Path, hashes: dict[str, str], sites: list[str]) -> None:
    found, trouble = store.still_valid(stored, "k", hashes)
    assert found is not None
    assert found["site"].values.tolist() == sites
    assert trouble == ""


@pytest.mark.parametrize("key", ["other", None])
def test_nothing_is_valid_under_another_key_or_none(stored: Path, key: str | None) -> None:
    assert store.still_valid(stored, key, {"A": "a" * 64}) == (None, "")


def test_nothing_is_valid_if_all_targets_changed(stored: Path) -> None:
    assert store.still_valid(stored, "k", {"A": "x", "Bsite": "x"}) == (None, "")


def test_a_damaged_result_is_not_valid_and_says_why(stored: Path) -> None:
    stored.write_bytes(stored.read_bytes()[:100])
    found, trouble = store.still_valid(stored, "k", {"A": "a" * 64})
    assert found is None
    assert "cannot be read" in trouble
