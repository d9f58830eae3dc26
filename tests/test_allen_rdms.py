from __future__ import annotations

import os
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from conftest import Cli, files
from PIL import Image

from mousebench import load_benchmark
from mousebench.assemblies import check_stimuli, check_target
from mousebench.errors import ContractViolation, MissingData, StoreError, UnknownIdentifier
from mousebench_plugins.benchmarks._allen_rdms import RDMS, RELIABILITIES, SITES

N = 118


def column(site: str) -> str:
    return site.replace(".L", "_layer")


@pytest.fixture(scope="module")
def similarity() -> dict[str, np.ndarray]:
    """Correlation matrices of 119 stimuli by site, of random features, to four digits."""
    rng = np.random.default_rng(7)
    return {site: np.corrcoef(rng.standard_normal((N + 1, 12))).round(4) for site in SITES}


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory, similarity: dict[str, np.ndarray]) -> Path:
    """Made-up files in the published layout, the sites in another order than ours."""
    folder = tmp_path_factory.mktemp("published")
    (folder / "rdms").mkdir()
    (folder / "scenes").mkdir()
    sites = list(reversed(SITES))
    upper = np.triu_indices(N + 1, 1)
    values = np.stack([similarity[site][upper] for site in sites], axis=1)
    header = ",".join(map(column, sites))
    np.savetxt(folder / RDMS, values, fmt="%.4f", delimiter=",", header=header, comments="")
    rows = [
        f"{column(site).replace('_', ',')},{0.5 + number / 100},{number / 1000}" for number, site in enumerate(SITES)
    ]
    (folder / RELIABILITIES).write_text("\n".join(["area,layer,mean,sem", *rows]) + "\n")
    rng = np.random.default_rng(8)
    for number in range(N):
        pixels = rng.integers(0, 256, (4, 6), dtype=np.uint8)
        pixels[0, 0] = number
        Image.fromarray(pixels).save(folder / "scenes" / f"scene_{number:03d}.png")
    return folder


@pytest.fixture
def copy(published: Path, tmp_path: Path) -> Path:
    """Return a copy that may be harmed."""
    return Path(shutil.copytree(published, tmp_path / "copy"))


@pytest.fixture
def fetched(published: Path, cli: Cli) -> str:
    done = cli("fetch", "allen-ns-rdms", "--from", published)
    assert done.code == 0, done.err
    return done.out


def test_sites_are_the_21_of_the_paper() -> None:
    assert len(SITES) == len(set(SITES)) == 21
    assert {"VISp.L6", "VISl.L6", "VISpm.L6"} == {site for site in SITES if site.endswith("L6")}
    assert list(load_benchmark("allen-ns-rdms").sites) == list(SITES)


def test_fetch_says_that_the_values_are_not_the_published_ones(fetched: str, home: Path) -> None:
    assert "120 files, 0 already there, 120 to fetch" in fetched
    assert "are NOT the published ones" in fetched
    assert (home / "data" / "allen-ns-rdms" / "v1" / "SHA256SUMS").is_file()


def test_fetching_again_moves_nothing(fetched: str, cli: Cli, published: Path) -> None:
    done = cli("fetch", "allen-ns-rdms", "--from", published)
    assert "120 already there, 0 to fetch" in done.out
    assert "0.0 MB moved" in done.out


def test_a_dry_run_moves_nothing(cli: Cli, published: Path, home: Path) -> None:
    done = cli("fetch", "allen-ns-rdms", "--from", published, "--dry-run")
    assert done.code == 0
    assert "120 to fetch" in done.out
    assert not home.exists()


def test_stimuli_are_the_scenes_in_order(fetched: str) -> None:
    stimuli = check_stimuli(load_benchmark("allen-ns-rdms").stimuli())
    assert stimuli.shape == (N, 4, 6)
    assert stimuli["stimulus_id"].values.tolist() == list(range(N))
    assert stimuli.values[:, 0, 0].tolist() == list(range(N))


def test_targets_are_one_minus_the_published_correlations(fetched: str, similarity: dict[str, np.ndarray]) -> None:
    benchmark = load_benchmark("allen-ns-rdms")
    for number, site in enumerate(SITES):
        target = benchmark.target(site)
        assert check_target(target) == "rdm"
        np.testing.assert_allclose(target.values, 1 - similarity[site][:N, :N], atol=1e-12)
        assert target["stimulus_id"].values.tolist() == list(range(N))
        assert target.attrs["reliability"] == 0.5 + number / 100
        assert target.attrs["reliability_sem"] == number / 1000
        assert target.attrs["site"] == site
        assert target.attrs["data"] == "not the published values"


def test_grey_is_an_option(fetched: str, similarity: dict[str, np.ndarray]) -> None:
    benchmark = load_benchmark("allen-ns-rdms@grey")
    stimuli, target = benchmark.stimuli(), benchmark.target("VISp.L4")
    assert stimuli.sizes["stimulus"] == target.sizes["stimulus"] == N + 1
    assert stimuli["stimulus_id"].values.tolist() == target["stimulus_id"].values.tolist() == [*range(N), -1]
    assert (stimuli.values[-1] == 127).all()
    np.testing.assert_allclose(target.values, 1 - similarity["VISp.L4"], atol=1e-12)


def test_any_other_variant_is_unknown() -> None:
    with pytest.raises(UnknownIdentifier, match="no variant 'gray'") as caught:
        load_benchmark("allen-ns-rdms@gray")
    assert "'grey'" in caught.value.hint


def test_the_ceiling_is_the_root_of_the_corrected_reliability(fetched: str) -> None:
    from mousebench import load_metric

    target = load_benchmark("allen-ns-rdms").target("VISp.L23")
    half = target.attrs["reliability"]
    assert float(load_metric("rsa-nnls").ceiling(target, 0)["ceiling"]) == pytest.approx((2 * half / (1 + half)) ** 0.5)


def test_without_data_the_hint_is_the_fetch_line(cli: Cli, tmp_path: Path) -> None:
    benchmark = load_benchmark("allen-ns-rdms")  # loading needs no data
    with pytest.raises(MissingData, match="lacks 120 of 120 files"):
        benchmark.stimuli()
    for arguments in (
        ["score", "--model", "pixels", "--benchmark", "allen-ns-rdms", "--results", str(tmp_path / "results")],
        ["fetch", "allen-ns-rdms"],
    ):
        done = cli(*arguments)
        assert done.code == 2
        assert "hint: mousebench fetch allen-ns-rdms --from FOLDER_OR_URL" in done.err
        assert done.err.count("error:") == 1
    shown = cli("show", "allen-ns-rdms")
    assert shown.code == 0
    assert "mousebench fetch allen-ns-rdms --from" in shown.out


@pytest.mark.parametrize("name", ["rdms/site_similarity.csv", "rdms/rdms_splithalf.csv", "scenes/scene_007.png"])
def test_a_file_that_was_changed_after_the_fetch_is_refused(fetched: str, home: Path, name: str) -> None:
    path = home / "data" / "allen-ns-rdms" / "v1" / name
    path.write_bytes(path.read_bytes().replace(b"0", b"1", 1) + b"\n")
    benchmark = load_benchmark("allen-ns-rdms")
    read = benchmark.stimuli if name.endswith("png") else partial(benchmark.target, "VISp.L4")
    with pytest.raises(StoreError, match=f"{Path(name).name} is not what was fetched") as caught:
        read()
    assert "mousebench fetch allen-ns-rdms" in caught.value.hint


def test_an_unknown_site_is_named(fetched: str, cli: Cli, published: Path) -> None:
    with pytest.raises(UnknownIdentifier, match=r"no site 'VISp.L1'"):
        load_benchmark("allen-ns-rdms").target("VISp.L1")
    done = cli("fetch", "allen-ns-rdms", "--from", published, "--site", "VISp.L1")
    assert done.code == 2
    assert "did you mean 'VISp.L" in done.err


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def cut(path: Path) -> None:
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))


HARM = {
    "a site is missing": (RDMS, lambda p: replace(p, "VISp_layer4", "VISp_layer9"), "lacks ['VISp.L4']"),
    "a pair is missing": (RDMS, cut, "has 7020 pairs"),
    "no number": (RDMS, lambda p: replace(p, "\n0.", "\nx0."), "not a number"),
    "not finite": (RDMS, lambda p: p.write_text(p.read_text()[:-7] + "nan\n"), "no correlations"),
    "no correlation": (RDMS, lambda p: replace(p, "\n0.", "\n10."), "no correlations"),
    "ragged": (RDMS, lambda p: replace(p, "\n", "\n0.1,"), "is not a CSV table"),
    "empty": (RDMS, lambda p: p.write_text(""), "is not a CSV table"),
    "a page": (RDMS, lambda p: p.write_text("<html>\n<p>log in</p>\n</html>\n"), "lacks"),
    "binary": (RDMS, lambda p: p.write_bytes(b"\x89\xff\x00" * 50), "is not a CSV file"),
    "reliability of a site": (RELIABILITIES, lambda p: replace(p, "VISl,layer4", "VISl,layer9"), "lacks VISl.L4"),
    "reliability is text": (RELIABILITIES, lambda p: replace(p, "0.5,", "half,"), "is not a table"),
    "reliability is NaN": (RELIABILITIES, lambda p: replace(p, "0.5,", "nan,"), "VISp.L23"),
    "reliability above 1": (RELIABILITIES, lambda p: replace(p, "0.5,", "1.5,"), "VISp.L23"),
    "reliabilities without names": (RELIABILITIES, lambda p: replace(p, "area", "region"), "is not a table"),
    "no image": ("scenes/scene_007.png", lambda p: p.write_text("<html>"), "scene_007.png is not an image"),
    "half an image": (
        "scenes/scene_007.png",
        lambda p: p.write_bytes(p.read_bytes()[:60]),
        "scene_007.png is not an image",
    ),
    "colour": (
        "scenes/scene_007.png",
        lambda p: Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(p),
        "one grey channel",
    ),
}


@pytest.mark.parametrize("harm", HARM)
def test_a_source_that_is_not_as_published_is_refused_by_file(copy: Path, cli: Cli, home: Path, harm: str) -> None:
    name, do, said = HARM[harm]
    do(copy / name)
    done = cli("fetch", "allen-ns-rdms", "--from", copy)
    assert done.code == 2, done.out
    assert said in done.err
    assert Path(name).name in done.err
    stored = home / "data" / "allen-ns-rdms" / "v1"
    assert not (stored / name).exists()
    assert not [path for path in files(stored) if "tmp" in path.name] if stored.exists() else True


def test_scenes_of_different_sizes_are_refused(copy: Path, cli: Cli) -> None:
    Image.fromarray(np.zeros((5, 6), np.uint8)).save(copy / "scenes" / "scene_007.png")
    assert cli("fetch", "allen-ns-rdms", "--from", copy).code == 0  # each file is a scene by itself
    with pytest.raises(ContractViolation, match=r"scene_007.png"):
        load_benchmark("allen-ns-rdms").stimuli()


@pytest.mark.real
def test_the_real_files_are_the_published_ones(cli: Cli) -> None:
    folder = os.environ.get("MOUSEBENCH_REAL_DATA")
    if not folder:
        pytest.skip("MOUSEBENCH_REAL_DATA is not set")
    done = cli("fetch", "allen-ns-rdms", "--from", folder)
    assert done.code == 0, done.err
    assert "are the published ones" in done.out
    from mousebench import load_metric

    benchmark = load_benchmark("allen-ns-rdms")
    assert benchmark.stimuli().shape == (118, 918, 1174)
    target = benchmark.target("VISl.L23")
    assert target.attrs["data"] == "the published values"
    half = target.attrs["reliability"]
    assert half == pytest.approx(0.9305, abs=5e-5)
    ceiling = load_metric("rsa-nnls").ceiling(target, 0)
    assert float(ceiling["ceiling"]) == pytest.approx((2 * half / (1 + half)) ** 0.5, abs=1e-12)
