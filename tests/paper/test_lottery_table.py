"""The lottery table: which runs it compares, and what a ticket costs."""

from pathlib import Path

import pytest

from paper.figures.data import own, pick, read
from paper.tables import lottery
from tests.helpers.synthetic_results import write_results


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """All declared runs, with made-up numbers."""
    folder: Path = tmp_path_factory.mktemp("results")
    write_results(folder)
    return read(folder, "small")


def test_a_ticket_pays_for_the_run_that_found_it(runs):
    table = lottery.rows(runs).set_index(["method", "multiplier"])
    assert list(table.index) == list(lottery.ROWS)
    assert set(table["n"]) == {5}
    tickets = pick(own(runs), benchmark=lottery.BENCHMARK, method="Lottery, static")
    own_cost = tickets["training"].mean()
    assert table.loc[("Lottery, static", 1.0), "training"] == pytest.approx(
        own_cost + table.loc[("RigL", 1.0), "training"]
    )
    assert table.loc[("RigL", 2.0), "published_accuracy"] == 76.06


def test_without_tickets_there_is_no_table(runs):
    assert not len(lottery.rows(runs[~runs["method"].str.startswith("Lottery")]))
    assert lottery.as_markdown(lottery.rows(runs.head(0))).count("\n") == 2
