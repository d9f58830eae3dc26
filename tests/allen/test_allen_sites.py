"""The site rules: published sites, filters, and the real container table."""

from __future__ import annotations

import csv
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from allen.allen_files import Session
from mousebench.errors import StoreError
from mousebench_plugins.benchmarks.allen_ns import sites
from mousebench_plugins.benchmarks.allen_ns.sites import Experiment

REAL = os.environ.get("MOUSEBENCH_REAL_DATA")
ONE = Experiment(1, 2, False, sites.SESSION_B, "VISp", 175, "Cux2-CreERT2", "9")


def test_there_are_21_sites():
    assert len(sites.SITES) == len(set(sites.SITES)) == 21
    assert sites.SITES[:4] == ("VISp.L23", "VISp.L4", "VISp.L5", "VISp.L6")
    assert not {"VISal.L6", "VISam.L6", "VISrl.L6"} & set(sites.SITES)


@pytest.mark.parametrize(
    ("depth", "layer"),
    [(175, "L23"), (199, "L23"), (200, "L4"), (299, "L4"), (300, "L5"), (499, "L5"), (500, "L6"), (625, "L6")],
)
def test_depth_to_layer(depth, layer):
    assert sites.conwell2020_site("VISl", depth, "Emx1-IRES-Cre") == f"VISl.{layer}"
    assert sites.conwell2021_cell("VISl", depth, "Emx1-IRES-Cre") == f"VISl.{layer}"


@pytest.mark.parametrize("cre", ["Nr5a1-Cre", "Scnn1a-Tg3-Cre"])
@pytest.mark.parametrize("depth", [175, 350, 550])
def test_the_rules_differ_for_two_cre_lines(cre, depth):
    assert sites.conwell2020_site("VISp", depth, cre) == "VISp.L4"
    assert sites.conwell2021_cell("VISp", depth, cre) == f"VISp.{sites.layer_by_depth(depth)}"


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ("Cux2-CreERT2", "Cux2"), ("Emx1-IRES-Cre", "Emx1"), ("Fezf2-CreER", "Fezf2"), ("Nr5a1-Cre", "Nr5a1"),
        ("Ntsr1-Cre_GN220", "Ntsr1"), ("Rbp4-Cre_KL100", "Rbp4"), ("Rorb-IRES2-Cre", "Rorb"), ("Scnn1a-Tg3-Cre", "Scnn1a"),
        ("Slc17a7-IRES2-Cre", "Slc17a7"), ("Tlx3-Cre_PL56", "Tlx3"),
    ],
)  # fmt: skip
def test_excitatory_lines_are_used(line, key):
    assert sites.cre_key(line) == key
    assert sites.why_left_out(replace(ONE, cre_line=line)) == ""


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"session_type": "three_session_C"}, "another session type"),
        ({"container_failed": True}, "failed container"),
        ({"container_id": 614113106 - 9_000_000}, "container on the published list of bad ones"),
        ({"cre_line": "Sst-IRES-Cre"}, "inhibitory cre line"),
        ({"cre_line": "Vip-IRES-Cre"}, "inhibitory cre line"),
        ({"cre_line": "Pvalb-IRES-Cre"}, "inhibitory cre line"),
        ({"cre_line": ""}, "cre line of unknown kind"),
    ],
)
def test_what_is_left_out(change, reason):
    assert sites.why_left_out(replace(ONE, **change)) == reason


def test_selection_counts_and_sorts():
    by_site, left_out = sites.select(
        [
            replace(ONE, id=3),
            ONE,
            replace(ONE, id=5, area="VISal", depth_um=550),
            replace(ONE, id=6, container_failed=True),
        ],
        "conwell2020_site",
    )
    assert {site: [one.id for one in found] for site, found in by_site.items()} == {"VISp.L23": [1, 3]}
    assert left_out == {"no published site": 1, "failed container": 1}


def test_the_cre_line_is_the_driver_named_cre():
    record = Session().record()
    record["specimen"]["donor"]["transgenic_lines"].insert(
        0, {"name": "Camk2a-tTA", "transgenic_line_type_name": "driver"}
    )
    assert sites.parse_experiments([record], "t")[0].cre_line == "Cux2-CreERT2"


def test_older_tables_give_the_cre_line_in_the_genotype():
    record = Session().record()
    del record["specimen"]["donor"]["transgenic_lines"]
    record["specimen"]["donor"]["full_genotype"] = "Rorb-IRES2-Cre/wt;Camk2a-tTA/wt;Ai93(TITL-GCaMP6f)/wt"
    assert sites.parse_experiments([record], "t")[0].cre_line == "Rorb-IRES2-Cre"


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"a": 1}, "is not a list of experiments"),
        ([1], "is not a list of experiments"),
        ([{"id": 5, "stimulus_name": "three_session_B"}], "experiment 5 lacks or misstates a field"),
        ([{**Session().record(), "imaging_depth": "deep"}], "lacks or misstates a field"),
        ([Session().record(), Session().record()], "lists experiment 501559087 more than once"),
    ],
)
def test_bad_tables(table, message):
    with pytest.raises(StoreError, match=message):
        sites.parse_experiments(table, "t.json")


@pytest.mark.real
@pytest.mark.skipif(not REAL, reason="MOUSEBENCH_REAL_DATA is not set")
def test_the_real_container_table():
    """On the containers of 2017 the exception for two cre lines moves VISp from 20 to 36 in layer 4, 23 to 7 in layer 5."""
    with Path(REAL, "tables/experiment_containers_2017.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    counts = {
        name: Counter(rule(row["area"], int(row["imaging_depth"]), row["tld1_name"]) for row in rows)
        for name, rule in sites.RULES.items()
    }
    assert counts["conwell2021_cell"]["VISp.L4"] == 20
    assert counts["conwell2020_site"]["VISp.L4"] == 36
    assert counts["conwell2021_cell"]["VISp.L5"] == 23
    assert counts["conwell2020_site"]["VISp.L5"] == 7
    assert sum(counts["conwell2020_site"].values()) == len(rows) == 199
