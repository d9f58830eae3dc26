from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mousebench import assemblies
from mousebench.assemblies import (
    align,
    average,
    check_stimuli,
    check_target,
    content_hash,
    make_rdm,
    make_responses,
    make_stimuli,
    replacing,
    split_halves,
    stimulus_ids,
    trial_cube,
)
from mousebench.errors import ContractViolation, StoreError

IDS = [10, 1, 2]


def images(n: int = 3, *more: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, 4, 5, *more), dtype=np.uint8)


def responses(ids=IDS, n_repetitions: int = 4, n_neuroids: int = 2, **neuroid) -> xr.DataArray:
    """Return trials shuffled, so that nothing can rely on their order."""
    ids = np.asarray(ids)
    rng = np.random.default_rng(1)
    order = rng.permutation(len(ids) * n_repetitions)
    return make_responses(
        rng.normal(size=(len(order), n_neuroids)),
        np.repeat(ids, n_repetitions)[order],
        np.tile(np.arange(n_repetitions), len(ids))[order],
        {"neuroid_id": np.arange(n_neuroids) + 100, **neuroid},
        unit="dF/F",
    )


def rdm(ids=IDS, **attrs) -> xr.DataArray:
    values = 1 - np.corrcoef(np.random.default_rng(2).normal(size=(len(ids), 9)))
    np.fill_diagonal(values, 0)
    return make_rdm((values + values.T) / 2, ids, **attrs)


# making and checking


@pytest.mark.parametrize("more", [(), (3,)])
def test_stimuli_are_labelled_images(more: tuple[int, ...]) -> None:
    stimuli = make_stimuli(images(3, *more), IDS, source="test")
    assert check_stimuli(stimuli) is stimuli
    assert stimuli.dims == ("stimulus", "y", "x", "channel")[: 3 + len(more)]
    assert stimuli["stimulus_id"].values.tolist() == IDS
    assert stimuli.attrs == {"source": "test"}
    assert not stimuli.indexes


@pytest.mark.parametrize(
    ("values", "ids", "message"),
    [
        (images().astype(float), IDS, "stimuli are float64; uint8"),
        (images()[0], range(4), r"dimensions \('stimulus', 'y'\)"),
        (images(3, 4), IDS, "stimuli have 4 channels; 3, or no channel"),
        (images(3, 3)[None], IDS, "do not fit"),
        (images(), [1, 2], "do not fit"),
        (images(), [1, 2, 1], "stimulus_id 1 occurs more than once"),
        (images(), ["a", "b", "b"], "stimulus_id 'b' occurs more than once"),
        (images(), np.array(["a", 1, 1], dtype=object), "stimulus_id 1 occurs more than once"),
    ],
)
def test_what_are_no_stimuli_is_refused(values: np.ndarray, ids, message: str) -> None:
    with pytest.raises(ContractViolation, match=message):
        make_stimuli(values, ids)


def test_stimuli_without_ids_are_refused() -> None:
    with pytest.raises(ContractViolation, match="coordinate 'stimulus_id' along 'stimulus' is missing"):
        check_stimuli(make_stimuli(images(), IDS).drop_vars("stimulus_id"))


def test_responses_are_float32_with_flat_labels() -> None:
    target = responses(site=["VISp.L4", "VISp.L4"])
    assert check_target(target) == "responses"
    assert target.dtype == np.float32
    assert target["site"].dims == ("neuroid",)
    assert not target.indexes


@pytest.mark.parametrize(
    ("values", "ids", "repetition", "neuroid", "message"),
    [
        (np.zeros((2, 1)), [1, 2], [0, 0], {}, "'neuroid_id' along 'neuroid' is missing"),
        (np.zeros((2, 1)), [1, 1], [0, 0], {"neuroid_id": [7]}, "stimulus 1 has repetition 0 more than once"),
        (np.zeros((2, 2)), [1, 2], [0, 0], {"neuroid_id": [7, 7]}, "neuroid_id 7 occurs more than once"),
        (np.zeros((2, 0)), [1, 2], [0, 0], {"neuroid_id": []}, "responses are empty"),
        (np.zeros((0, 1)), [], [], {"neuroid_id": [7]}, "responses are empty"),
        (np.array([[np.inf], [0]]), [1, 2], [0, 0], {"neuroid_id": [7]}, "infinite values; a missing trial is NaN"),
        (np.zeros((2, 1)), [1], [0, 0], {"neuroid_id": [7]}, "do not fit"),
        (np.zeros((2, 1)), [1, 2], [0, 0], {"neuroid_id": [7, 8]}, "do not fit"),
        (np.zeros(2), [1, 2], [0, 0], {"neuroid_id": [7]}, "do not fit"),
    ],
)
def test_what_are_no_responses_is_refused(values, ids, repetition, neuroid, message: str) -> None:
    with pytest.raises(ContractViolation, match=message):
        make_responses(values, ids, repetition, neuroid)


def test_responses_of_another_type_are_refused() -> None:
    with pytest.raises(ContractViolation, match="responses are float64; float32"):
        check_target(responses().astype(np.float64))


def test_a_target_with_other_dimensions_is_refused() -> None:
    with pytest.raises(ContractViolation, match=r"dimensions \('neuroid', 'presentation'\)"):
        check_target(responses().T)


def test_an_rdm_is_labelled_on_both_sides() -> None:
    target = rdm(reliability=0.8)
    assert check_target(target) == "rdm"
    assert target.attrs == {"distance": "correlation", "reliability": 0.8}
    assert target["stimulus_id_b"].values.tolist() == target["stimulus_id"].values.tolist() == IDS


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v + np.triu(np.full(v.shape, 1e-6), 1), "not symmetric"),
        (lambda v: 1 - v, "diagonal is not 0: dissimilarities are expected, not similarities"),
        (lambda v: np.where(v == v.max(), np.nan, v), "NaN or infinite"),
        (lambda v: v * np.inf, "NaN or infinite"),
        (lambda v: v[:, :2], "do not fit"),
        (lambda v: v[:0, :0], "do not fit"),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value encountered in multiply:RuntimeWarning")
def test_what_is_no_rdm_is_refused(change, message: str) -> None:
    with pytest.raises(ContractViolation, match=message):
        make_rdm(change(rdm().values), IDS)


def test_an_rdm_of_nothing_is_refused() -> None:
    with pytest.raises(ContractViolation, match="empty"):
        make_rdm(np.zeros((0, 0)), [])


def test_an_rdm_with_repeated_ids_is_refused() -> None:
    with pytest.raises(ContractViolation, match="stimulus_id 1 occurs more than once"):
        make_rdm(rdm().values, [1, 1, 2])


def test_an_rdm_of_another_distance_is_refused() -> None:
    with pytest.raises(ContractViolation, match="distance 'euclidean'; 'correlation' is expected"):
        rdm(distance="euclidean")
    with pytest.raises(ContractViolation, match="distance None"):
        check_target(rdm().drop_attrs())


def test_an_rdm_of_another_type_is_refused() -> None:
    with pytest.raises(ContractViolation, match="an RDM is float32; float64"):
        check_target(rdm().astype(np.float32))


def test_an_rdm_whose_sides_differ_is_refused() -> None:
    target = rdm()
    message = "rows and the columns of an RDM are not the same stimuli in the same order"
    with pytest.raises(ContractViolation, match=message):
        check_target(target.assign_coords(stimulus_id_b=("stimulus_b", IDS[::-1])))
    with pytest.raises(ContractViolation, match=message):
        check_target(target.isel(stimulus_b=[0, 1]))


# aligning


@pytest.mark.parametrize("ids", [[10, 1, 2], ["10", "1", "2"], ["b", "a", "c"]])
def test_an_rdm_is_reordered_on_both_sides(ids) -> None:
    target = rdm(ids)
    order = [2, 0, 1]
    found = align(target, [ids[k] for k in order])
    assert np.array_equal(found.values, target.values[np.ix_(order, order)])
    assert found["stimulus_id"].values.tolist() == found["stimulus_id_b"].values.tolist() == [ids[k] for k in order]
    assert check_target(found) == "rdm"


@pytest.mark.parametrize("ids", [[10, 1, 2], ["10", "1", "2"], ["1", "10", "2"]])
def test_responses_are_sorted_by_stimulus_then_repetition(ids) -> None:
    target = responses(ids)
    found = align(target, ids)
    assert found["stimulus_id"].values.tolist() == [i for i in ids for _ in range(4)]
    assert found["repetition"].values.tolist() == [0, 1, 2, 3] * 3
    for trial in range(12):
        (source,) = np.flatnonzero(
            (target["stimulus_id"].values == found["stimulus_id"].values[trial])
            & (target["repetition"].values == found["repetition"].values[trial])
        )
        assert np.array_equal(found.values[trial], target.values[source])
    assert stimulus_ids(found).tolist() == ids


def test_string_ids_are_never_sorted() -> None:
    ids = ["1", "10", "2", "0"]
    found = align(responses(["0", "1", "2", "10"]), ids)
    assert average(found)["stimulus_id"].values.tolist() == ids


@pytest.mark.parametrize("make", [rdm, responses])
def test_what_is_in_order_stays_as_it_is(make) -> None:
    target = align(make(), IDS)
    assert align(target, IDS).identical(target)


@pytest.mark.parametrize("make", [rdm, responses])
@pytest.mark.parametrize(
    ("want", "message"),
    [
        ([10, 1, 2, 5], r"1 missing \(first 5\)"),
        ([10, 1], r"1 unknown \(first 2\)"),
        ([10, 1, 3], r"1 missing \(first 3\), 1 unknown \(first 2\)"),
        (["10", "1", "2"], r"3 missing \(first '10'\), 3 unknown"),
        ([10, 1, 2, 2], "stimulus_id 2 is asked for more than once"),
    ],
)
def test_other_stimuli_than_the_benchmark_s_are_refused(make, want, message: str) -> None:
    with pytest.raises(ContractViolation, match=message):
        align(make(), want)


# averaging and splitting


def ragged() -> xr.DataArray:
    """Return trials of which some are NaN and some are not there at all."""
    target = responses(n_neuroids=3)
    target.values[np.random.default_rng(3).random(target.shape) < 0.3] = np.nan
    target.values[target["stimulus_id"].values == 1, 2] = np.nan
    return target.isel(presentation=[0, 1, 2, 3, 5, 6, 7, 8, 10, 11])


def test_the_cube_has_every_trial_in_its_place() -> None:
    target = ragged()
    cube, ids = trial_cube(target)
    assert cube.shape == (3, 4, 3)
    assert ids.tolist() == stimulus_ids(target).tolist()
    left = np.isfinite(cube).sum()
    for values, stimulus, repetition in zip(
        target.values, target["stimulus_id"].values, target["repetition"].values, strict=True
    ):
        np.testing.assert_array_equal(cube[ids.tolist().index(stimulus), repetition], values)
    assert left == np.isfinite(target.values).sum()


def test_the_cube_of_ordered_trials_is_the_same() -> None:
    shuffled = responses()
    ordered = align(shuffled, stimulus_ids(shuffled))
    for one, other in zip(trial_cube(shuffled), trial_cube(ordered), strict=True):
        assert np.array_equal(one, other)


def test_the_average_leaves_missing_trials_out_and_counts_the_rest() -> None:
    target = ragged()
    found = average(target)
    for row, stimulus in enumerate(found["stimulus_id"].values):
        trials = target.values[target["stimulus_id"].values == stimulus].astype(np.float64)
        for neuroid in range(3):
            there = trials[~np.isnan(trials[:, neuroid]), neuroid]
            assert found["n_trials"].values[row, neuroid] == len(there)
            expected = there.mean() if len(there) else np.nan
            np.testing.assert_allclose(found["mean"].values[row, neuroid], expected, rtol=0, atol=1e-15)
    assert np.isnan(found["mean"].sel(stimulus=found["stimulus_id"].values == 1).values[0, 2])
    assert found["neuroid_id"].values.tolist() == [100, 101, 102]
    assert found.attrs == {"unit": "dF/F"}


def test_averages_do_not_lose_digits_to_float32() -> None:
    target = make_responses(
        np.full((3001, 1), 0.1) + np.arange(3001)[:, None],
        np.zeros(3001, dtype=int),
        np.arange(3001),
        {"neuroid_id": [0]},
    )
    assert average(target)["mean"].values[0, 0] == pytest.approx(1500.1, abs=1e-4)


@pytest.mark.parametrize(("n_repetitions", "sizes"), [(4, (2, 2)), (5, (2, 3)), (2, (1, 1))])
def test_halves_split_the_repetitions(n_repetitions: int, sizes: tuple[int, int]) -> None:
    target = responses(n_repetitions=n_repetitions)
    halves = split_halves(target, np.random.default_rng(0))
    shown = [set(half["repetition"].values.tolist()) for half in halves]
    assert tuple(len(repetitions) for repetitions in shown) == sizes
    assert not shown[0] & shown[1]
    for half, repetitions in zip(halves, shown, strict=True):
        assert half.sizes["presentation"] == 3 * len(repetitions)
        assert check_target(half) == "responses"


def test_halves_follow_the_generator() -> None:
    target = responses(n_repetitions=20)
    first, again, other = (split_halves(target, np.random.default_rng(seed))[0] for seed in (0, 0, 1))
    assert first.identical(again)
    assert not first.identical(other)


def test_one_repetition_has_no_halves() -> None:
    with pytest.raises(ContractViolation, match="single repetition cannot be split"):
        split_halves(responses(n_repetitions=1), np.random.default_rng(0))


# netCDF

text = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=6)
number = st.one_of(st.integers(-(2**53), 2**53), st.floats(allow_nan=False))


@st.composite
def datasets(draw: st.DrawFn) -> xr.Dataset:
    n, m = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    column = st.lists
    return xr.Dataset(
        {
            "f64": (("a", "b"), np.array(draw(column(st.floats(), min_size=n * m, max_size=n * m))).reshape(n, m)),
            "f32": ("a", np.array(draw(column(st.floats(width=32), min_size=n, max_size=n)), dtype=np.float32)),
            "i64": ("b", np.array(draw(column(st.integers(-(2**63), 2**63 - 1), min_size=m, max_size=m)))),
            "u8": ("a", np.array(draw(column(st.integers(0, 255), min_size=n, max_size=n)), dtype=np.uint8)),
            "scalar": draw(st.floats()),
            "word": draw(text),
        },
        coords={"name": ("a", np.array(draw(column(text, min_size=n, max_size=n)), dtype=str))},
        attrs={f"attr_{k}": value for k, value in enumerate(draw(column(st.one_of(text, number), max_size=3)))},
    )


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(dataset=datasets())
def test_a_dataset_comes_back_without_loss(dataset: xr.Dataset, tmp_path: Path) -> None:
    path = tmp_path / "file.nc"
    assemblies.save(dataset, path)
    found = assemblies.load(path)
    assert found.identical(dataset)
    assert {name: v.dtype.kind for name, v in found.variables.items()} == {
        name: v.dtype.kind for name, v in dataset.variables.items()
    }
    assert content_hash(found) == content_hash(dataset)


@pytest.mark.parametrize("name", [None, "raw", "_data"])
@pytest.mark.parametrize(
    "make", [rdm, ragged, lambda: responses(["1", "10", "ü"]), lambda: make_stimuli(images(), IDS, simulated=1)]
)
def test_an_array_comes_back_without_loss(make, name: str | None, tmp_path: Path) -> None:
    array = make().rename(name)
    path = tmp_path / "folder" / "file.nc"
    assemblies.save(array, path)
    found = assemblies.load_array(path)
    assert found.identical(array)
    assert found.name == name
    assert found.dtype == array.dtype
    assert not found.indexes
    assert content_hash(found) == content_hash(array)


def test_large_responses_come_back_without_loss(tmp_path: Path) -> None:
    array = responses(np.arange(60), n_repetitions=5, n_neuroids=50)  # large enough to be compressed
    assemblies.save(array, tmp_path / "file.nc")
    assert assemblies.load_array(tmp_path / "file.nc").identical(array)


def test_the_hash_follows_contents_only() -> None:
    array = responses()
    changed = [
        array + np.float32(1e-3),
        array.astype(np.float64),
        array.assign_attrs(unit="spikes"),
        array.assign_coords(neuroid_id=("neuroid", [100, 102])),
        array.rename(presentation="trial"),
        array.isel(presentation=slice(None, None, -1)),
        array.assign_coords(more=1),
    ]
    hashes = {content_hash(one) for one in changed}
    assert len(hashes) == len(changed)
    assert content_hash(array) not in hashes
    assert content_hash(array.copy(deep=True)) == content_hash(array)
    assert content_hash(array.assign_attrs(unit=np.str_("dF/F"))) == content_hash(array)


def test_text_is_hashed_by_what_it_says_not_by_how_it_is_held() -> None:
    narrow, wide = (xr.Dataset({"x": ("a", np.array(["a", "bc"], dtype=kind))}) for kind in ("<U2", "<U9"))
    loose = xr.Dataset({"x": ("a", np.array(["a", "bc"], dtype=object))})
    assert content_hash(narrow) == content_hash(wide) == content_hash(loose)
    shifted = xr.Dataset({"x": ("a", np.array(["ab", "c"]))})
    assert content_hash(shifted) != content_hash(narrow)


def test_damaged_files_are_never_taken_for_whole(tmp_path: Path) -> None:
    path = tmp_path / "file.nc"
    array = responses(np.arange(8), n_neuroids=6)
    assemblies.save(array, path)
    whole = path.read_bytes()
    values = whole.find(array.values.tobytes())
    assert values > 0
    for position in (values, values + 100, values + array.nbytes - 1):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        with pytest.raises(StoreError, match=r"not what was written|cannot be read") as caught:
            assemblies.load(path)
        assert "damaged" in caught.value.hint


@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.999])
def test_truncated_files_are_refused(share: float, tmp_path: Path) -> None:
    path = tmp_path / "file.nc"
    assemblies.save(responses(np.arange(8), n_neuroids=6), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(StoreError, match=r"cannot be read|not what was written"):
        assemblies.load(path)


def test_labels_changed_in_a_file_are_noticed(tmp_path: Path) -> None:
    path = tmp_path / "file.nc"
    assemblies.save(responses(["first", "second", "third"]), path)
    whole = path.read_bytes()
    assert b"second" in whole
    path.write_bytes(whole.replace(b"second", b"decond"))
    with pytest.raises(StoreError, match="content hash differs"):
        assemblies.load(path)


def test_a_file_of_somebody_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file.nc"
    xr.Dataset({"x": 1}).to_netcdf(path, engine="netcdf4")
    with pytest.raises(StoreError, match="no content hash: mousebench did not write it"):
        assemblies.load(path)


def test_a_missing_file_is_a_store_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="does not exist"):
        assemblies.load(tmp_path / "file.nc")
    with pytest.raises(StoreError, match="does not exist"):
        assemblies.load(tmp_path)


def test_a_dataset_is_not_an_array(tmp_path: Path) -> None:
    assemblies.save(xr.Dataset({"x": 1.0}), tmp_path / "file.nc")
    with pytest.raises(StoreError, match="holds a Dataset, a DataArray is expected"):
        assemblies.load_array(tmp_path / "file.nc")


@pytest.mark.parametrize("value", [True, None, {"a": 1}, [1, 2], np.bool_(True)])
def test_attributes_that_netcdf_does_not_hold_are_refused(value, tmp_path: Path) -> None:
    path = tmp_path / "file.nc"
    with pytest.raises(ContractViolation, match=r"attribute 'odd' is .*; netCDF attributes hold strings and numbers"):
        assemblies.save(xr.Dataset({"x": 1.0}, attrs={"odd": value}), path)
    with pytest.raises(ContractViolation, match="attribute x: 'odd'"):
        assemblies.save(xr.Dataset({"x": ((), 1.0, {"odd": value})}), path)
    assert not path.exists()


def test_saving_leaves_the_data_alone(tmp_path: Path) -> None:
    dataset = xr.Dataset({"x": ("a", [1.0, np.nan])}, attrs={"n": 1})
    before = dataset.copy(deep=True)
    assemblies.save(dataset, tmp_path / "file.nc")
    assert dataset.identical(before)


# whole or not at all


def write_half(path: Path, error: BaseException) -> None:
    before = path.is_file()
    with replacing(path) as temporary:
        temporary.write_bytes(b"half")
        assert path.is_file() == before
        raise error


@pytest.mark.parametrize("old", [None, b"old"])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError()])
def test_an_interrupted_write_leaves_what_was_there(old: bytes | None, error: BaseException, tmp_path: Path) -> None:
    folder = tmp_path / "store"
    path = folder / "file.nc"
    if old:
        folder.mkdir()
        path.write_bytes(old)
    with pytest.raises(type(error)):
        write_half(path, error)
    assert [file.read_bytes() for file in folder.iterdir()] == ([old] if old else [])


def test_a_finished_write_replaces_the_file(tmp_path: Path) -> None:
    path = tmp_path / "store" / "file.nc"
    for content in (b"one", b"two"):
        with replacing(path) as temporary:
            temporary.write_bytes(content)
    assert [(file.name, file.read_bytes()) for file in path.parent.iterdir()] == [("file.nc", b"two")]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("NetCDF: HDF error")])
def test_a_full_disk_is_a_store_error_and_leaves_nothing(error: Exception, tmp_path: Path) -> None:
    path = tmp_path / "store" / "file.nc"
    with pytest.raises(StoreError, match=r"cannot write .*file\.nc: (No space|NetCDF)"):
        write_half(path, error)
    assert list(path.parent.iterdir()) == []


def test_a_folder_in_the_way_is_a_store_error(tmp_path: Path) -> None:
    (tmp_path / "file.nc").mkdir()
    with pytest.raises(StoreError, match="cannot write"):
        assemblies.save(xr.Dataset({"x": 1.0}), tmp_path / "file.nc")
    (tmp_path / "plain").write_text("")
    with pytest.raises(StoreError, match="cannot write"):
        assemblies.save(xr.Dataset({"x": 1.0}), tmp_path / "plain" / "file.nc")
    assert not list(tmp_path.glob(".*"))


def test_concat_text_shortens_long_lists() -> None:
    assert assemblies.concat_text([1, "b"]) == "1, b"
    assert assemblies.concat_text(range(10)) == "0, 1, 2, 3, 4, 5, 6, 7 and 2 more"
