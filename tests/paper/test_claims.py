"""A claim is judged on differences of runs with the same seed, with their interval and number."""

import pandas as pd
import pytest

from paper import claims
from paper.claims import FAILS, HOLDS, TOO_FEW, UNDECIDED, Contrast, of_differences, paired, table
from paper.figures.data import read, summary
from paper.make_figures import HERE
from tests.helpers.synthetic_results import write_results

OVER = Contrast("RigL over Static", {"method": "RigL"}, {"method": "Static"}, sweep=True)


def runs(rigl, static):
    """Accuracies by seed."""
    found = [("RigL", seed, a) for seed, a in rigl.items()] + [("Static", seed, a) for seed, a in static.items()]
    return pd.DataFrame(found, columns=["method", "seed", "accuracy"])


class TestPairs:
    def test_differences_are_of_the_same_seed(self):
        outcome = paired(runs({0: 10, 1: 20, 2: 30}, {0: 9, 1: 19, 2: 29, 3: 99}), OVER)
        assert (outcome.effect, outcome.interval, outcome.n) == (1, 0, 3)
        assert outcome.verdict == HOLDS

    def test_of_several_runs_a_side_all_must_be_there(self):
        rigl = [("RigL", seed, s, 10 * seed + s) for seed in range(4) for s in (0.8, 0.9) if (seed, s) != (3, 0.9)]
        static = [("Static", seed, s, 10 * seed) for seed in range(4) for s in (0.8, 0.9)]
        rows = pd.DataFrame([*rigl, *static], columns=["method", "seed", "sparsity", "accuracy"])
        both = {"sparsity": [0.8, 0.9]}
        outcome = paired(rows, Contrast("", {"method": "RigL", **both}, {"method": "Static", **both}))
        assert (outcome.effect, outcome.n) == (pytest.approx(0.85), 3)
        one = {"method": "RigL", "sparsity": 0.8}
        assert paired(rows, Contrast("", one, {"method": "Static", **both})).n == 0

    def test_less_is_better_with_the_other_sign(self):
        contrast = Contrast("", {"method": "RigL"}, {"method": "Static"}, sign=-1, sweep=True)
        assert paired(runs({0: 1, 1: 1, 2: 1}, {0: 2, 1: 2, 2: 2}), contrast).verdict == HOLDS

    def test_the_interval_is_students(self):
        # Mean 2, standard deviation 1, t = 4.303: 4.303 / sqrt(3) = 2.484.
        outcome = of_differences(pd.Series([1.0, 2.0, 3.0]))
        assert outcome.interval == pytest.approx(2.484, abs=1e-3)
        assert outcome.verdict == UNDECIDED
        assert of_differences(pd.Series([-3.0, -3.1, -3.2])).verdict == FAILS

    @pytest.mark.parametrize("values", [[], [5.0], [5.0, 5.0]])
    def test_below_three_pairs_nothing_is_said(self, values):
        assert of_differences(pd.Series(values, dtype=float)).verdict == TOO_FEW

    def test_the_summary_of_a_figure_has_the_same_interval(self):
        rows = pd.DataFrame({"x": [1, 1, 1, 2], "y": [1.0, 2.0, 3.0, 4.0]})
        found = summary(rows, "x", "y")
        assert found["interval"].iloc[0] == pytest.approx(2.484, abs=1e-3)
        assert found["interval"].isna().iloc[1]
        assert found["n"].tolist() == [3, 1]


class TestBarriers:
    def test_a_barrier_is_above_the_higher_end(self):
        rows = pd.DataFrame({"seed": 0, "curve": "linear", "t": [0.0, 0.5, 1.0], "loss": [1.0, 5.0, 2.0]})
        assert claims._barriers(rows)["linear"].tolist() == [3.0]

    def test_without_rows_there_are_none(self):
        assert claims._barriers(None) == {}


class TestTable:
    @pytest.fixture(scope="class")
    def rows(self, tmp_path_factory):
        folder = tmp_path_factory.mktemp("results")
        (folder / "published.csv").write_bytes((HERE / "results" / "published.csv").read_bytes())
        write_results(folder)
        return read(folder, "small")

    def test_every_claim_is_judged_on_three_pairs_if_all_runs_are_there(self, rows):
        found = table(rows)
        judged = found[~found["figure"].str.startswith("6")]
        assert (judged["n"] == 3).all()
        by_claim = found.groupby("claim", sort=False)["verdict"].agg(set)
        assert by_claim["RigL is above Static at every sparsity."] == {HOLDS}
        assert by_claim["RigL keeps gaining with the training multiplier."] == {HOLDS}

    def test_without_runs_no_claim_is_judged(self, rows):
        found = table(rows[rows["scale"] == "published"])
        assert set(found["verdict"]) == {TOO_FEW}

    def test_published_values_prove_nothing(self, rows):
        assert table(rows).equals(table(rows[rows["seed"].notna()]))

    def test_in_words(self, rows):
        found = table(rows)
        text = claims.as_markdown(found)
        assert "| 4 right | RigL is above Static at every sparsity. | holds | 0.5, 1x: +" in text
        assert text.count("\n") == 2 + found[["figure", "claim"]].drop_duplicates().shape[0]
