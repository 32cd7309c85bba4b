import itertools

import pytest
import torch

from rigl_lightning.sparsity.algorithms import GradualMagnitudePruning, GraNet
from rigl_lightning.sparsity.costs.training import planned_training_flops
from rigl_lightning.sparsity.distributions import ErdosRenyi, Uniform, active_counts
from rigl_lightning.sparsity.schedules import UpdateSchedule, constant
from rigl_lightning.sparsity.scores import Connections
from tests.helpers.small_training import small_network, sparsify, train, written

EVERYWHERE = Uniform(first_layer_dense=False)
EVERY_STEP = UpdateSchedule(1, 0, 8)


def layer(weight, gradient=None, mask=None):
    weight = torch.tensor(weight)
    mask = torch.ones_like(weight, dtype=torch.bool) if mask is None else mask
    return Connections(weight, mask, dense_grad=None if gradient is None else torch.tensor(gradient))


def granet(sparsity=0.5, **settings):
    defaults = {"initial_sparsity": 0.0, "distribution": EVERYWHERE, "schedule": EVERY_STEP, "ramp_end": 4}
    return GraNet(sparsity, **{**defaults, "decay": constant, **settings})


class TestByHand:
    WEIGHT = (0.8, -0.1, 0.5, 0.3, -0.9, 0.2, 0.05, 0.6)
    GRADIENT = (0.0, 9.0, 0.0, 1.0, 0.0, 8.0, 7.0, 0.0)

    @pytest.mark.parametrize("together", [True, False])
    def test_it_prunes_then_regrows_as_many_as_it_drops(self, together):
        algorithm = granet(drop_fraction=0.5, global_ranking=together)
        new = algorithm.update_masks({"a": layer(self.WEIGHT, self.GRADIENT)}, 4, {})["a"]
        # To 4 of 8: .8, .5, .9, .6 stay. Half of them, .5 and .6, are dropped; gradients 9 and 8 are grown, though
        # their weights were pruned in the same update.
        assert written(new) == "11..11.."

    def test_without_regrowth_it_is_gradual_pruning(self):
        pruning = GradualMagnitudePruning(0.5, EVERYWHERE, UpdateSchedule(1, 0, 4))
        for step in range(5):
            layers = {"a": layer(self.WEIGHT, self.GRADIENT), "b": layer(self.GRADIENT, self.WEIGHT)}
            ours = granet(drop_fraction=0.0, global_ranking=False).update_masks(layers, step, {})
            theirs = pruning.update_masks(layers, step, {})
            assert all(torch.equal(ours[n], theirs[n]) for n in layers)

    def test_together_the_lowest_of_all_layers_go_but_the_last_of_a_layer(self):
        layers = {"a": layer((0.9, 0.8, 0.7, 0.6)), "b": layer((0.1, 0.2, 0.3, 0.4))}
        new = granet(drop_fraction=0.0).update_masks(layers, 4, {})
        assert (written(new["a"]), written(new["b"])) == ("111.", "...1")

    def test_what_is_inactive_is_not_ranked(self):
        mask = torch.tensor([False, True, True, True])
        layers = {"a": layer((0.0, 0.0, 0.0, 0.5), mask=mask), "b": layer((0.1, 0.2, 0.3, 0.4))}
        new = granet(drop_fraction=0.0).update_masks(layers, 4, {})
        assert (written(new["a"]), written(new["b"])) == ("...1", ".111")

    def test_a_layer_without_gradient_is_pruned_and_not_regrown(self):
        new = granet(drop_fraction=0.5).update_masks({"a": layer(self.WEIGHT)}, 4, {})["a"]
        assert written(new) == "1.1.1..1"


class TestRamp:
    def test_from_half_to_ninety_percent_by_the_papers_formula(self):
        # .9 + (.5 - .9)(1 - p)^3 at p = 0, 1/4, 1/2, 3/4, 1, then on.
        algorithm = granet(0.9, initial_sparsity=0.5)
        expected = [0.5, 0.9 - 0.4 * 27 / 64, 0.85, 0.9 - 0.4 / 64, 0.9, 0.9]
        found = [algorithm.layer_sparsities({"a": (10, 10)}, step + 1)["a"] for step in range(6)]
        assert found == pytest.approx(expected)
        assert algorithm.layer_sparsities({"a": (10, 10)}, 0) == {"a": 0.5}

    def test_it_starts_and_ends_at_the_distributions_shares(self):
        shapes = {"a": (6, 5), "b": (20, 30), "c": (4, 20)}
        algorithm = granet(0.8, initial_sparsity=0.5, distribution=ErdosRenyi())
        assert algorithm.layer_sparsities(shapes, 0) == pytest.approx(ErdosRenyi()(shapes, 0.5))
        assert algorithm.final_sparsities(shapes) == pytest.approx(ErdosRenyi()(shapes, 0.8))

    @pytest.mark.parametrize(
        ("together", "initial", "ramp_end", "schedule"),
        itertools.product(
            (True, False), (0.0, 0.5), (7, 0.5, 0.6), (UpdateSchedule(1, 0, 1.0), UpdateSchedule(3, 1, 9))
        ),
    )
    def test_the_total_is_exact_at_every_step_of_a_training(self, together, initial, ramp_end, schedule):
        model = small_network()
        optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
        algorithm = GraNet(0.8, initial, EVERYWHERE, schedule, ramp_end, global_ranking=together)
        sparsifier = sparsify(model, algorithm, total_steps=14)
        shapes = {n: p.shape for n, p in sparsifier.parameters.items()}
        grown = 0
        for step in range(14):
            before = {n: m.clone() for n, m in sparsifier.masks.items()}
            train(model, optimizer, sparsifier, [step])
            counts = active_counts(shapes, sparsifier.algorithm.layer_sparsities(shapes, step + 1))
            assert sum(sparsifier.n_active.values()) == sum(counts.values())
            assert together or sparsifier.n_active == counts
            assert min(sparsifier.n_active.values()) >= 1
            grown += sum(int((m & ~before[n]).sum()) for n, m in sparsifier.masks.items())
        assert grown > 0 or schedule.interval > 1
        assert sum(sparsifier.n_active.values()) == 292 - 233  # 36 + 256 connections, .8 of them rounded down

    def test_it_reads_the_gradient_at_updates_only(self):
        algorithm = granet(schedule=UpdateSchedule(3, 0, 12), ramp_end=5)
        assert [t for t in range(14) if algorithm.needs_dense_gradient(t)] == [0, 3, 5, 6, 9]
        assert list(algorithm.update_steps()) == [0, 3, 5, 6, 9]

    def test_planned_flops_by_hand(self):
        # Four steps; steps 0 and 1 at density 1, then half; dense gradients at the updates, steps 0 and 1.
        algorithm = granet(schedule=UpdateSchedule(1, 0, 2), ramp_end=1).resolve(4)
        flops = planned_training_flops(algorithm, {"a": (10, 10)}, {"a": 200}, 4)
        assert flops == pytest.approx((3 + 3 + 1.5 + 1.5) / 12)


def test_a_ramp_that_outlasts_the_updates_is_refused():
    with pytest.raises(
        ValueError, match=r"until the ramp ends, at step 13, got a schedule that ends at 9.*schedule.end"
    ):
        GraNet(0.8, schedule=UpdateSchedule(3, 1, 9), ramp_end=1.0).resolve(14)


class TestSettings:
    def test_the_defaults_are_those_of_the_authors_code(self):
        algorithm = GraNet()
        assert (algorithm.initial_sparsity, algorithm.schedule.interval, algorithm.drop_fraction) == (0.5, 1000, 0.5)
        assert algorithm.ramp_end == 110 / 160
        assert algorithm.global_ranking
        assert not algorithm.replaces_step
        resolved = algorithm.resolve(80_000)
        assert (resolved.ramp_end, resolved.schedule.end) == (55_000, 80_000)

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"sparsity": 1.2}, "`sparsity`"),
            ({"sparsity": 0.4}, r"`initial_sparsity` in \[0, 0\.4\].*got 0\.5\. Set `initial_sparsity` of GraNet"),
            ({"drop_fraction": 30}, r"`drop_fraction` in \[0, 1\], got 30"),
            ({"ramp_end": 1.5}, r"`ramp_end` to be a step .* got 1\.5\. Set `ramp_end` of GraNet"),
        ],
    )
    def test_a_wrong_setting_is_refused_at_once(self, settings, message):
        with pytest.raises(ValueError, match=message):
            GraNet(**settings)

    @pytest.mark.parametrize("settings", [{"ramp_end": 12}, {"ramp_end": 3, "schedule": UpdateSchedule(1, 5, 12)}])
    def test_a_ramp_that_training_does_not_hold_is_refused(self, settings):
        with pytest.raises(ValueError, match=r"Expected `ramp_end` after .* 12 steps, got \d+\. Set `ramp_end` of"):
            granet(**settings).resolve(12)
        assert granet(ramp_end=1.0, schedule=UpdateSchedule(2, 0, 1.0)).resolve(12).ramp_end == 11
