"""The FLOPs tables: rows are what the package computes, and every published number is reproduced or explained."""

import csv
import re
from pathlib import Path

import pandas as pd
import pytest

from paper.make_tables import make_tables
from paper.studies import flops_tables
from paper.studies.flops_rows import METHODS, read
from paper.studies.reference_networks import keras_mobilenet_v1, keras_resnet50, scaled
from paper.tables import flops
from paper.tables.markdown import with_parts

PAPER = Path(__file__).parents[2] / "paper"
COMMITTED = PAPER / "out" / "table_flops.csv"
STATUSES = {"", "contradictory", "rounded", "not reproducible"}


@pytest.fixture(scope="module")
def table():
    results = (pd.read_csv(PAPER / "results" / name) for name in (flops.COMPUTED, flops.PUBLISHED))
    return flops.joined(*results)


@pytest.fixture(scope="module")
def published(table):
    return table[table["published"].notna()]


@pytest.mark.slow
def test_the_committed_rows_are_those_of_the_package():
    committed = read(flops_tables.RESULTS)
    assert [list(row.values()) for row in committed] == [list(row.as_text().values()) for row in flops_tables.rows()]


def test_the_committed_table_and_page_are_current(tmp_path):
    for page, parts in make_tables(tmp_path).items():
        text = page.read_text(encoding="utf-8")
        assert with_parts(text, parts) == text, page.name
    assert (tmp_path / COMMITTED.name).read_bytes() == COMMITTED.read_bytes()


def test_the_columns_are_those_agreed():
    with open(COMMITTED, encoding="utf-8", newline="") as file:
        assert next(csv.reader(file)) == [
            "model", "method", "distribution", "sparsity", "training_multiplier", "quantity", "published", "computed",
            "difference", "source",
        ]  # fmt: skip


def test_every_published_number_is_within_a_hundredth_or_has_a_reason(published):
    plain = published[published["status"] == ""]
    assert len(plain) > 150
    assert plain["computed"].notna().all()
    assert plain["difference"].abs().max() <= 0.01


def test_what_is_off_is_marked_and_says_why(published):
    assert set(published["status"]) <= STATUSES
    marked = published[published["status"] != ""]
    assert (marked["note"].str.len() > 15).all()
    assert (marked.loc[marked["status"] == "rounded", "difference"].abs() < 0.04).all()
    assert marked.loc[marked["status"] == "not reproducible", "computed"].isna().all()


def test_every_contradicted_number_of_the_result_table_has_a_reading_that_gives_it(published):
    in_table = published[published["source"] == "v3 Fig. 2 table"]
    for key, readings in in_table.groupby(flops.KEY[:-1]):
        assert (readings["status"] != "contradictory").any(), key


def test_every_number_has_a_source(published):
    assert (published["source"].str.len() > 0).all()


def test_every_method_has_rows_for_every_distribution_of_every_network(table):
    plain = table[(table["reading"] == "") & (table["quantity"] == "train_flops")]
    pairs = set(plain[["model", "method", "distribution"]].itertuples(index=False, name=None))
    for model in ("ResNet-50", "MobileNet-v1", "MobileNet-v2", "WRN-22-2", "char GRU", "LeNet-300-100"):
        for method in METHODS:
            assert {(model, method, d) for d in ("uniform", "ER", "ERK")} <= pairs
        assert (model, "Small-Dense", "") in pairs


def test_every_algorithm_of_the_package_is_in_the_table_or_has_no_cost_of_its_own():
    from rigl_lightning.sparsity import algorithms

    # Dense has its own rows; some are bases; FixedMasks costs what Static does, a Group what its parts do, a lottery
    # ticket has rows of its own.
    others = {"Group", "Dense", "DropGrow", "OneShot", "SparseAlgorithm", "FixedMasks", "LotteryTicket", "describe"}
    assert set(METHODS) == set(algorithms.__all__) - others


def test_no_study_holds_a_published_multiplier():
    text = "".join(path.read_text(encoding="utf-8") for path in (PAPER / "studies").glob("flops_*.py"))
    code = re.sub(r'"""[\s\S]*?"""', "", text)
    assert not re.findall(r"\b\d+\.\d+x|e18|e17", code)


class TestAuthorsCount:
    """To the last digit that their colabs print."""

    def test_resnet50(self):
        network = keras_resnet50()
        assert sum(network.authors_flops().values()) == pytest.approx(8.2023e9, rel=1e-5)
        assert f"{network.bytes({}) / 1e6:.3f}" == "102.122"

    def test_mobilenet_v1(self):
        network = keras_mobilenet_v1()
        assert f"{sum(network.authors_flops().values()) / 1e6:.3f}" == "1141.544"
        assert f"{network.bytes({}) / 1e6:.3f}" == "16.864"
        narrow = scaled(network, 0.47)
        assert f"{sum(narrow.authors_flops().values()) / 1e6:.3f} {narrow.bytes({}) / 1e6:.3f}" == "266.539 4.789"


def test_a_page_without_markers_is_refused():
    with pytest.raises(ValueError, match="begin published"):
        with_parts("# Page", {"published": "text"})
