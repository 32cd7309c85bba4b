"""Claims are judged on differences of runs with the same seed; what is declared is what is compared."""

import math
from dataclasses import replace

import pandas as pd
import pytest

from paper import launch, study_claims
from paper.claims import claims, runs, runs_again
from paper.comparisons import Again, Claim, Comparison
from paper.declared import by_identity
from paper.experiments import CLAIM_SEEDS, Run
from paper.judged import differences, judged, measured, measured_again
from paper.make_tables import claims_table
from paper.panels import all_runs
from paper.tables import claims as table
from paper.verdicts import (
    HOLDS,
    INCONCLUSIVE,
    NO_DIFFERENCE,
    REFUTED,
    TOO_FEW,
    Outcome,
    corrected,
    of_claim,
    of_differences,
    of_later_test,
    with_p_value,
)
from tests.helpers.synthetic_results import write_results, write_study

STATIC, RIGL = (Run("mnist_lenet", method, 0.99, "ERK") for method in ("Static", "RigL"))
SEEDS = (10, 11, 12)


def own(values, column="accuracy"):
    """Rows by identity: values of each run by seed; each costs a tenth of the dense training."""
    found = {replace(run, seed=seed).identity: v for run, of_run in values.items() for seed, v in of_run.items()}
    return pd.DataFrame({column: found, "training": 0.1})


class TestDifferences:
    def test_are_of_the_same_seed(self):
        rows = own({RIGL: {10: 92.0, 11: 93.0}, STATIC: {10: 90.0, 11: 90.0, 12: 10.0}})
        assert differences(Comparison("", (RIGL,), (STATIC,)), rows).to_dict() == {10: 2.0, 11: 3.0}

    def test_of_several_runs_a_side_count_by_their_mean_and_only_together(self):
        other = replace(RIGL, sparsity=0.98)
        rows = own({RIGL: {10: 92.0, 11: 93.0}, other: {10: 94.0}, STATIC: {10: 90.0, 11: 90.0}})
        assert differences(Comparison("", (RIGL, other), (STATIC,)), rows).to_dict() == {10: 3.0}

    def test_less_is_better_with_the_other_sign(self):
        rows = own({RIGL: {10: 2.5}, STATIC: {10: 3.0}}, "val_bits")
        assert differences(Comparison("", (RIGL,), (STATIC,), "val_bits", -1), rows).to_dict() == {10: 0.5}

    def test_a_trend_is_the_slope_of_each_seed(self):
        lengths = [replace(RIGL, multiplier=m) for m in (1.0, 2.0, 4.0)]
        rows = own({run: {10: 90.0 + 3 * i} for i, run in enumerate(lengths)})
        comparison = Comparison("", tuple(lengths), over="doubling of the training")
        assert differences(comparison, rows).to_dict() == {10: pytest.approx(3.0)}

    def test_of_two_trends_the_slopes_are_compared(self):
        sparsities = (0.5, 0.75)  # one halving of the density
        ours, theirs = ([replace(run, sparsity=s) for s in sparsities] for run in (RIGL, STATIC))
        rows = own(dict(zip([*ours, *theirs], [{10: 90.0}, {10: 89.0}, {10: 90.0}, {10: 86.0}], strict=True)))
        comparison = Comparison("", tuple(ours), tuple(theirs), over="halving of the density")
        assert differences(comparison, rows).to_dict() == {10: pytest.approx(3.0)}

    def test_published_rows_and_other_runs_are_no_pairs(self):
        rows = pd.DataFrame({"config_hash": [None, "0"], "accuracy": [1.0, 2.0], "training": [1.0, 1.0]})
        (found,) = measured([Claim("2 left", "", (Comparison("", (RIGL,), (STATIC,)),))], rows)
        assert not len(found.differences)

    def test_a_ticket_costs_the_run_that_found_it_too(self):
        ticket = replace(RIGL, method="Lottery, static")
        rows = own({ticket: {10: 90.0}, RIGL: {10: 91.0}}).rename_axis("config_hash").reset_index()
        (found,) = measured([Claim("lottery", "", (Comparison("", (RIGL,), (ticket,)),))], rows)
        assert found.flops == (pytest.approx(0.1), pytest.approx(0.2))


class TestVerdicts:
    def test_the_interval_is_students(self):
        # Mean 2, standard deviation 1, t = 4.303: 4.303 / sqrt(3) = 2.484.
        outcome = of_differences([1.0, 2.0, 3.0])
        assert (outcome.effect, outcome.n) == (2.0, 3)
        assert outcome.interval == pytest.approx(2.484, abs=1e-3)
        assert outcome.verdict == INCONCLUSIVE

    @pytest.mark.parametrize(
        ("values", "verdict"),
        [([3.0, 3.1, 3.2], HOLDS), ([-3.0, -3.1, -3.2], REFUTED), ([-1.0, 0.0, 1.1], INCONCLUSIVE)],
    )
    def test_follow_the_sign_of_a_clear_effect(self, values, verdict):
        assert of_differences(values).verdict == verdict

    @pytest.mark.parametrize("values", [[], [5.0], [5.0, 5.0]])
    def test_below_three_pairs_nothing_is_said(self, values):
        assert of_differences(values).verdict == TOO_FEW

    def test_a_cost_without_spread_is_clear(self):
        assert of_differences([0.3, 0.3, 0.3]).verdict == HOLDS
        assert of_differences([0.0, 0.0, 0.0]).verdict == INCONCLUSIVE

    def test_equal_within_a_margin_is_shown_not_assumed(self):
        assert of_differences([0.0, 0.1, -0.1], within=1.0).verdict == HOLDS
        assert of_differences([0.0, 2.0, -2.0], within=1.0).verdict == INCONCLUSIVE
        assert of_differences([3.0, 3.1, 3.2], within=1.0).verdict == REFUTED

    def test_p_values_are_corrected_within_a_figure(self):
        found = corrected({"2": [Outcome(p=0.01), Outcome(p=0.04), Outcome(p=0.03)], "3": [Outcome(p=0.04)]})
        assert [o.p for o in found["2"]] == [pytest.approx(p) for p in (0.03, 0.06, 0.06)]
        assert [o.p for o in found["3"]] == [0.04]

    def test_each_comparison_has_the_spread_of_its_own_pairs(self):
        # Comparisons of a claim share runs: three with the same line, say. Their spreads are not independent.
        rows = own({RIGL: {10: 91.0, 11: 92.0, 12: 93.0}, STATIC: dict.fromkeys(SEEDS, 90.0)})
        rows = rows.rename_axis("config_hash").reset_index()
        comparisons = tuple(Comparison(name, (RIGL,), (STATIC,)) for name in "ab")
        for j in judged(measured([Claim("6 left", "", comparisons)], rows)):
            assert j.outcome.interval == pytest.approx(2.484, abs=1e-3)  # of two degrees of freedom

    def test_the_pairs_that_would_do(self):
        # Half a standard deviation: 34 pairs in tables of Student's t; the normal distribution would say 32.
        assert with_p_value(Outcome(1.0, 2.0, 5)).needed == 34
        assert of_differences([3.0, 3.1, 3.2]).needed is None

    def test_more_pairs_are_needed_where_p_values_count_more_often(self):
        outcome = with_p_value(Outcome(1.0, 2.0, 5))
        assert replace(outcome, counts=2).needed == replace(outcome, comparisons=2).needed > outcome.needed

    def test_a_claim_needs_all_and_one_refutes_it(self):
        assert of_claim([HOLDS, HOLDS]) == HOLDS
        assert of_claim([HOLDS, INCONCLUSIVE]) == INCONCLUSIVE
        assert of_claim([TOO_FEW, REFUTED]) == REFUTED


class TestLaterTests:
    """Of what the test before left inconclusive: on new seeds alone, with p-values that count more often."""

    AGAIN = Comparison("RigL over Static", (RIGL,), (STATIC,), again=Again(4, level=1.0))
    SECOND = (15, 16, 17, 18)
    LATER = (*SECOND, 19, 20, 21, 22)

    def verdict(self, first, second, comparison=AGAIN):
        differences = dict(zip((*CLAIM_SEEDS, *self.LATER), [*first, *second], strict=False))
        rows = own({RIGL: {s: 90.0 + d for s, d in differences.items()}, STATIC: dict.fromkeys(differences, 90.0)})
        rows, claim = rows.rename_axis("config_hash").reset_index(), Claim("2 left", "", (comparison,))
        (found,) = judged(measured([claim], rows), measured_again([claim], rows))
        return found.outcome.verdict, found.measured.test, found.outcome.n

    UNCLEAR, CLEAR = (1.0, -1.0, 0.5, -0.5, 0.2), (3.0, 3.1, 2.9, 3.0, 3.2)

    def test_the_new_seeds_decide_alone(self):
        assert self.verdict(self.UNCLEAR, (3.0, 3.1, 2.9, 3.0)) == (HOLDS, 2, 4)
        assert self.verdict(self.UNCLEAR, (-3.0, -3.1, -2.9, -3.0)) == (REFUTED, 2, 4)
        assert self.verdict(self.UNCLEAR, (0.0, 0.1, -0.1, 0.0)) == (NO_DIFFERENCE, 2, 4)
        assert self.verdict(self.UNCLEAR, (2.0, -2.0, 2.5, -2.5)) == (INCONCLUSIVE, 2, 4)

    def test_a_clear_first_test_stands(self):
        assert self.verdict(self.CLEAR, (-3.0, -3.1, -2.9, -3.0)) == (HOLDS, 1, 5)

    def test_without_all_its_runs_there_is_no_second_test(self):
        assert self.verdict(self.UNCLEAR, (3.0, 3.1, 2.9)) == (INCONCLUSIVE, 1, 5)

    def test_other_runs_may_take_the_place_of_those_of_a_faulty_protocol(self):
        sparser = replace(RIGL, sparsity=0.995)
        both = Comparison("", (RIGL, sparser), (STATIC,), again=Again(4, None, (RIGL,), (STATIC,)))
        assert self.verdict((), (3.0, 3.1, 2.9, 3.0), both) == (TOO_FEW, 1, 0)  # the first test lacks runs
        ((_, compared, seeds),) = both.later
        assert (compared.runs, seeds) == ((RIGL, STATIC), self.SECOND)

    def test_a_test_of_other_runs_has_a_name_of_its_own(self):
        v2 = [c for claim in claims("small") for c in claim.comparisons if c.name.startswith("MobileNet-v2")]
        assert v2
        for comparison in v2:
            assert "all sparsities" in comparison.name
            for _, compared, _ in comparison.later:
                assert "sparsities up to 0.9:" in compared.name
        again = Again(4, None, (RIGL,), (STATIC,), name="second")
        rows = {RIGL: {s: 90.0 + s % 3 for s in CLAIM_SEEDS}, STATIC: dict.fromkeys(CLAIM_SEEDS, 91.0)}
        rows[RIGL] |= dict.fromkeys(self.SECOND, 95.0)
        rows[STATIC] |= dict.fromkeys(self.SECOND, 91.0)
        claim = Claim("2 left", "", (Comparison("first", (RIGL,), (STATIC,), again=again),))
        table = own(rows).rename_axis("config_hash").reset_index()
        (found,) = judged(measured([claim], table), measured_again([claim], table))
        assert (found.measured.name, found.measured.test) == ("second", 2)

    def test_a_third_test_has_seeds_of_its_own(self):
        third = replace(self.AGAIN, again=Again(4, 1.0, then=Again(2, 1.0)))
        assert [seeds for *_, seeds in third.later] == [self.SECOND, (19, 20)]
        third = replace(self.AGAIN, again=Again(4, 1.0, then=Again(4, 1.0)))
        unclear = (2.0, -2.0, 2.5, -2.5)
        assert self.verdict(self.UNCLEAR, (*unclear, 3.0, 3.1, 2.9, 3.0), third) == (HOLDS, 3, 4)
        assert self.verdict(self.UNCLEAR, (3.0, 3.1, 2.9, 3.0, *unclear), third) == (HOLDS, 2, 4)
        assert self.verdict(self.UNCLEAR, (*unclear, 3.0, 3.1), third) == (INCONCLUSIVE, 2, 4)
        lacks_one = (2.0, -2.0, 2.5, math.nan, 3.0, 3.1, 2.9, 3.0)
        assert self.verdict(self.UNCLEAR, lacks_one, third) == (INCONCLUSIVE, 1, 5)

    def test_p_values_count_twice_and_then_four_times(self):
        values = [1.0, 2.0, 3.0, 4.0]
        once, twice = of_differences(values), of_later_test(values, test=2)
        assert (once.p, twice.p) == (pytest.approx(0.0305, abs=1e-4), pytest.approx(0.0610, abs=1e-4))
        assert (once.verdict, twice.verdict) == (HOLDS, INCONCLUSIVE)
        assert of_later_test(values, test=3).p == pytest.approx(0.1220, abs=2e-4)
        # Standard error 0.0577 and 0.2 to the bound: t = 3.464 with 3 degrees of freedom, one side, 0.0203, twice.
        near = of_later_test([0.7, 0.9, 0.7, 0.9], test=2, level=1.0)
        assert near.p_level == pytest.approx(2 * 0.0203, abs=1e-4)

    def test_a_claim_is_level_if_one_comparison_is_and_none_is_worse(self):
        assert of_claim([HOLDS, NO_DIFFERENCE]) == NO_DIFFERENCE
        assert of_claim([NO_DIFFERENCE, INCONCLUSIVE]) == INCONCLUSIVE

    def test_the_seeds_are_new_and_figures_show_them_too(self):
        second = runs_again(claims("small"))
        assert second
        assert min(run.seed for run in second) > max(CLAIM_SEEDS)
        assert {run.identity for run in second} <= by_identity("small").keys()
        assert set(launch.selected(["again"], "small")) == set(second)


class TestStudy:
    def test_a_barrier_is_above_the_higher_end(self):
        rows = pd.DataFrame({"seed": 0, "curve": "linear", "t": [0.0, 0.5, 1.0], "loss": [1.0, 5.0, 2.0]})
        assert study_claims.barriers(rows)["linear"].tolist() == [3.0]

    def test_the_final_loss_is_of_the_last_tenth(self):
        rows = pd.DataFrame({"seed": 0, "method": "RigL", "step": range(1, 21), "train_loss": [9.0] * 18 + [1.0, 2.0]})
        assert study_claims.final_losses(rows)["RigL"].tolist() == [1.5]

    def test_without_rows_there_are_no_pairs(self):
        found = study_claims.measured(pd.DataFrame(), pd.DataFrame())
        assert {j.outcome.verdict for j in judged(found)} == {TOO_FEW}


class TestTable:
    @pytest.fixture(scope="class")
    def folder(self, tmp_path_factory):
        folder = tmp_path_factory.mktemp("results")
        for scale in ("small", "paper"):
            write_results(folder, scale)
        write_study(folder)
        return folder

    @pytest.fixture(scope="class")
    def found(self, folder):
        return claims_table(folder, "small")

    def test_every_comparison_has_its_pairs_if_all_runs_are_there(self, found):
        is_study = found["figure"].str.startswith("6")
        assert (found.loc[~is_study, "n"] == len(CLAIM_SEEDS)).all()
        assert (found.loc[is_study, "n"] == 3).all()
        assert list(found.columns) == table.COLUMNS
        assert set(found["scale"]) == {"small", "paper"}

    @pytest.mark.parametrize(
        ("effect", "interval", "words"),
        [
            (-0.00562, 0.43, "-0.01 ± 0.43"),
            (12.94, 8.23, "+12.9 ± 8.2"),
            (5.29, 14.2, "+5 ± 14"),
            (0.3, 0.0, "+0.300 ± 0.000"),
        ],
    )
    def test_an_effect_ends_with_the_second_digit_of_its_interval(self, effect, interval, words):
        row = {"effect": effect, "interval": interval, "unit": "points", "n": 5, "test": "first", "verdict": HOLDS}
        assert table.effect(row) == f"{words} points (n = 5)"

    def test_the_verdicts_are_those_of_the_made_up_order(self, found):
        verdicts = table.verdicts(found).droplevel(["scale", "figure"])
        assert verdicts["RigL is above Static at every sparsity."] == HOLDS
        assert verdicts["RigL keeps gaining with the length of the training."] == HOLDS
        assert verdicts["It is lower through the dense space than on sparse curves."] == HOLDS
        assert verdicts["RigL is above pruning."] == REFUTED

    def test_without_runs_no_claim_is_judged(self, tmp_path):
        assert set(claims_table(tmp_path, "small")["verdict"]) == {TOO_FEW}

    def test_a_line_a_claim_with_the_comparison_that_decides(self, found):
        lines = table.as_markdown(found).splitlines()
        assert len(lines) == 2 + len(table.verdicts(found))
        (line,) = [line for line in lines if "RigL is above Static at every sparsity." in line]
        assert line.startswith(
            "| 4 right | RigL is above Static at every sparsity. | **holds** | RigL over Static at 0.9"
        )
        assert line.endswith("points (n = 5); 2 of 2 comparisons hold |")


@pytest.mark.parametrize("scale", ["small", "paper"])
def test_claims_rest_on_runs_that_can_be_made(scale):
    of_claims = runs(claims(scale), SEEDS)
    assert all(run.settings() for run in of_claims)
    assert {run.seed for run in of_claims} == set(SEEDS)
    assert [run.seed for run in of_claims] == sorted(run.seed for run in of_claims)


def test_figures_show_the_runs_that_the_small_scale_is_judged_on():
    assert set(runs(claims("small"), [10])) <= set(all_runs("small", [10]))
