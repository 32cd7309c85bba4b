"""First sentences of the pages, the table at the paper's length, and the pictures at a glance."""

import pandas as pd
import pytest

from paper.figures import claims_at_a_glance, narrow_networks, overview
from paper.figures.data import read
from paper.make_figures import HERE
from paper.make_tables import claims_table
from paper.tables import cards, choosing, flops, lenet, methods, summary
from tests.helpers.synthetic_results import write_results

PUBLISHED = HERE / "results" / "published.csv"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """All declared runs of both scales, with made-up numbers."""
    folder = tmp_path_factory.mktemp("results")
    for scale in ("small", "paper"):
        write_results(folder, scale)
    return folder


def judged(*verdicts):
    """A claim with each verdict, one comparison each."""
    row = {"scale": "small", "figure": "2 left", "effect": 1.0, "interval": 0.5, "spread": 1.0, "n": 5, "test": "first"}
    found = [
        {**row, "claim": f"{i}", "comparison": f"{i}", "verdict": v, "claim_verdict": v} for i, v in enumerate(verdicts)
    ]
    return pd.DataFrame(found)


def test_three_sentences_say_what_was_reproduced():
    table = judged("holds", "holds", "refuted", "inconclusive")
    lines = summary.sentences(table, "Of the multipliers").splitlines()
    assert lines[0] == "1. Of 4 claims 2 hold, 1 is refuted, 1 is inconclusive."
    assert "4 are judged at the small scale" in lines[1]
    assert len(lines) == 3


def test_the_claims_that_do_not_hold_are_named_by_verdict():
    lines = summary.exceptions(judged("holds", "inconclusive", "refuted", "inconclusive")).splitlines()
    assert lines == ["- Refuted: 2 (2 left).", "- Inconclusive: 1 (2 left); 3 (2 left)."]
    assert summary.exceptions(judged("holds")) == "None.\n"


def test_every_consistent_multiplier_of_the_paper_is_met():
    computed, published = (pd.read_csv(HERE / "results" / name) for name in (flops.COMPUTED, flops.PUBLISHED))
    assert flops.multipliers_in_words(flops.joined(computed, published)).startswith(
        "Of the paper's FLOPs multipliers 122 of 122 consistent ones are met to 0.01; 53 contradict another"
    )


class TestAtThePapersLength:
    def test_ours_and_the_published_networks(self, folder):
        table = lenet.rows(read(folder, "paper"), pd.read_csv(PUBLISHED))
        ours, theirs = (table[table["source"] == source] for source in ("ours", "published"))
        assert set(ours["n"]) == {5}
        assert {"Dense", "Static", "SET", "SNFS", "RigL", "Pruning"} == set(ours["method"])
        assert {"ERK", "appendix", "appendix, RigL+", ""} == set(ours["distribution"])
        assert theirs.set_index("method").loc["RigL", ["units", "error", "size_bytes"]].tolist() == [
            "408-100-69-10",
            1.44,
            31914,
        ]
        assert lenet.as_markdown(table).count("\n") == 2 + len(table)
        errors = ours[ours["method"] == "RigL"].set_index("distribution")["error"]
        assert summary.at_length_in_words(table) == (
            "LeNet-300-100 on MNIST at the paper's length of 200 epochs, test error of RigL: "
            f"{errors['appendix']:.2f} % with the layer sparsities of the paper's appendix B "
            "(n = 5; the paper has 1.44 %), "
            f"{errors['appendix, RigL+']:.2f} % with those that the appendix gives for RigL+ (n = 5; the paper "
            "has 1.57 %). All methods: `paper/README.md`.\n"
        )

    def test_without_runs_there_are_the_published_ones_and_a_page_says_so(self, folder):
        table = lenet.rows(read(folder, "paper").query("scale == 'published'"), pd.read_csv(PUBLISHED))
        assert set(table["source"]) == {"published"}
        assert summary.at_length_in_words(table) == "No run at the paper's length has a row yet.\n"

    def test_units_are_medians(self):
        assert lenet._median_units(pd.Series(["400-100-60-10", "410-90-70-10", "405-95-80-10"])) == "405-95-70-10"


class TestChoosing:
    def test_intervals_are_of_one_sparsity(self, folder):
        parts = choosing.parts(read(folder, "small"))
        line = next(line for line in parts["by_interval"].splitlines() if line.startswith("| 100 |"))
        rigl = next(line for line in parts["by_method"].splitlines() if line.startswith("| RigL |"))
        assert line.split("|")[4] == rigl.split("|")[2]  # the setting of the table of methods: LeNet at .99


class TestMethods:
    def test_methods_that_are_equal_but_for_rounding_stay_in_order(self):
        run = {"sparsity": 0.99, "seed": 0, **dict.fromkeys(methods.MEANS[2:], 0.1)}
        accuracies = {"Static": 90.0, "first": 96.23, "second": 96.23 + 1e-13}
        table = methods.accuracies(pd.DataFrame([{**run, "method": m, "accuracy": a} for m, a in accuracies.items()]))
        assert table["method"].tolist() == ["first", "second", "Static"]


class TestCards:
    def test_a_single_run_has_no_deviation(self):
        run = {"method": "SNIP", "sparsity": 0.99, "seed": 0, "accuracy": 94.2, **dict.fromkeys(methods.MEANS[2:], 0.1)}
        table = methods.accuracies(pd.DataFrame([run, {**run, "method": "Static", "accuracy": 90.0}]))
        first = methods.as_markdown(table).splitlines()[2]
        assert first == "| SNIP | 94.20 | +4.20 | 0.100 | 0.100 | 0.10 | 1 |"

    def test_a_card_says_that_its_method_has_no_runs(self, folder):
        accuracies = methods.rows(read(folder, "small"))
        card = folder / "cards" / "MEST.md"
        assert cards.measured(accuracies, folder)[card]["measured"].startswith("| method |")
        without = accuracies[accuracies["method"] != "MEST"]
        assert cards.measured(without, folder)[card]["measured"].startswith("MEST has not been run with this protocol")


class TestAtAGlance:
    def test_every_method_has_its_name_and_the_cheapest_are_joined(self, folder):
        accuracies = methods.rows(read(folder, "small"))
        figure = overview.draw(accuracies, "LeNet")
        (axis,) = figure.axes
        assert len(axis.containers) == len(accuracies)
        assert "RigL" in {text.get_text() for text in axis.texts}

    def test_every_comparison_has_a_line_and_the_title_counts_the_claims(self, folder):
        table = claims_table(folder, "small")
        figure = claims_at_a_glance.draw(table)
        names = [label.get_text() for axis in figure.axes for label in axis.get_yticklabels()]
        n_panels = len(table[["scale", "figure"]].drop_duplicates())
        assert len(names) == len(table) + n_panels
        assert {claims_at_a_glance.short(name) for name in table["comparison"]} <= set(names)
        n_claims = len(table[["scale", "figure", "claim"]].drop_duplicates())
        assert figure.get_suptitle().startswith(f"{n_claims} claims: ")

    def test_grow_rules_are_compared_with_rigl_of_the_same_seed(self, folder):
        results = read(folder, "small")
        figure = narrow_networks.draw(results, claims_table(folder, "small"))
        shown = [axis for axis in figure.axes if axis.axison]
        assert len(shown) == 6  # WRN-10-1 at three sparsities, WRN-22-2 at two, LeNet-300-100 at one
        labels = [label.get_text() for label in shown[0].get_yticklabels()]
        assert labels[:2] == ["SET", "live channels"]
        assert "Grow rules on narrow networks, ERK" in figure.get_suptitle()

    def test_an_effect_lies_on_the_side_of_its_sign(self):
        table = judged("holds", "refuted")
        table.loc[1, "effect"] = -1.0
        figure = claims_at_a_glance.draw(table)
        drawn = [c.lines[0].get_xdata()[0] for axis in figure.axes for c in axis.containers]
        assert sorted(drawn) == [-1.0, 1.0]
