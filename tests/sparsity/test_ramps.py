"""Sparsity that changes over time: the numbers of the ramp, and drop and grow that follow it."""

import itertools

import pytest
import torch

from rigl_lightning.sparsity import (
    DSR,
    NM,
    SET,
    GradualMagnitudePruning,
    GraNet,
    RigL,
    SparsityRamp,
    Static,
    Uniform,
    UpdateSchedule,
)
from rigl_lightning.sparsity.costs.training import planned_training_flops
from rigl_lightning.sparsity.distributions import ErdosRenyi
from rigl_lightning.sparsity.schedules import constant, cosine, cubic, exponential, linear, sigmoid
from rigl_lightning.sparsity.scores import Connections
from tests.helpers.small_training import flags, written

EVERYWHERE = Uniform(first_layer_dense=False)
SHAPES = {"a": (10, 10), "b": (5, 20)}


@pytest.mark.parametrize("decay", [linear, cosine, cubic, exponential, sigmoid])
@pytest.mark.parametrize(("initial", "final"), [(0.0, 0.9), (0.5, 0.8), (0.9, 0.5)])
def test_a_ramp_goes_from_its_first_to_its_last_number_and_never_back(decay, initial, final):
    ramp = SparsityRamp(initial, final, 10, 50, decay)
    values = [ramp.at(step) for step in range(60)]
    assert values[:11] == pytest.approx([initial] * 11)
    assert values[50:] == pytest.approx([final] * 10)
    steps = [b - a for a, b in itertools.pairwise(values)]
    assert all((step >= -1e-12) == (final > initial) or abs(step) < 1e-12 for step in steps)


def test_the_numbers_half_way():
    half = [SparsityRamp(0.0, 0.8, 0, 10, decay).at(5) for decay in (linear, cosine, cubic, sigmoid)]
    assert half == pytest.approx([0.4, 0.4, 0.7, 0.4])


def test_each_layer_goes_from_its_share_to_its_share():
    ramp = SparsityRamp(0.0, 0.8, 0, 10, linear)
    final = ErdosRenyi()(SHAPES, 0.8)
    assert ramp.layer_sparsities(ErdosRenyi(), SHAPES, 5) == pytest.approx({n: s / 2 for n, s in final.items()})


def layer(mask, weight, gradient):
    return Connections(torch.tensor(weight), flags(mask), dense_grad=torch.tensor(gradient))


WEIGHT = (0.8, 0.1, 0.5, 0.3, 0.9, 0.0, 0.0, 0.0)
GRADIENT = (0.0, 5.0, 0.0, 0.0, 0.0, 9.0, 8.0, 1.0)


def rigl(initial, final, drop_fraction):
    ramp = SparsityRamp(initial, final, 0, 1)
    return RigL(ramp, EVERYWHERE, UpdateSchedule(1, 0, 2), drop_fraction, constant)


def test_an_update_drops_the_more_that_a_rising_sparsity_asks_for():
    # From 5 to 4 of 8, and half of those are moved: .8 and .9 stay, gradients 9 and 8 grow.
    (new,) = rigl(0.375, 0.5, 0.5).update_masks({"a": layer("11111...", WEIGHT, GRADIENT)}, 1, {}).values()
    assert written(new) == "1...111."


def test_an_update_grows_the_more_that_a_falling_sparsity_asks_for():
    # From 5 to 6 of 8, and one of five is moved: .1 is dropped, gradients 9 and 8 grow.
    (new,) = rigl(0.375, 0.25, 0.2).update_masks({"a": layer("11111...", WEIGHT, GRADIENT)}, 1, {}).values()
    assert written(new) == "1.11111."


def test_a_layer_without_gradient_follows_the_ramp_all_the_same():
    seen = Connections(torch.tensor(WEIGHT), flags("11111..."))
    (new,) = rigl(0.375, 0.5, 0.0).update_masks({"a": seen}, 1, {}).values()
    assert written(new) == "1.111..."


def test_the_last_update_is_at_the_end_of_the_ramp():
    algorithm = SET(SparsityRamp(0.5, 0.9, end=0.5), schedule=UpdateSchedule(interval=30, end=0.75)).resolve(100)
    assert list(algorithm.update_steps()) == [0, 30, 50, 60]
    assert algorithm.layer_sparsities(SHAPES, 50) != algorithm.final_sparsities(SHAPES)
    assert algorithm.layer_sparsities(SHAPES, 51) == algorithm.final_sparsities(SHAPES) == ErdosRenyi()(SHAPES, 0.9)


def test_a_longer_training_stretches_the_ramp():
    assert RigL(SparsityRamp(begin=10, end=100)).stretched(2).sparsity == SparsityRamp(begin=20, end=200)


def test_costs_follow_the_ramp():
    schedule = UpdateSchedule(1, 0, 1.0)
    shapes, flops = {"a": (10, 10)}, {"a": 200}
    ramp = SET(SparsityRamp(0.0, 0.8, 0, 0.5, linear), EVERYWHERE, schedule, 0.0).resolve(1000)
    # Half of the training from density 1 to .2, then .2.
    assert planned_training_flops(ramp, shapes, flops, 1000) == pytest.approx(0.6 * 0.5 + 0.2 * 0.5, abs=0.002)


@pytest.mark.parametrize("decay", [linear, cosine])
def test_pruning_and_granet_take_other_curves(decay):
    pruning = GradualMagnitudePruning(0.8, EVERYWHERE, UpdateSchedule(1, 0, 10), ramp_decay=decay).resolve(20)
    granet = GraNet(0.8, 0.0, EVERYWHERE, UpdateSchedule(1, 0, 10), 10, ramp_decay=decay).resolve(20)
    for algorithm in (pruning, granet):
        assert algorithm.layer_sparsities(SHAPES, 6)["a"] == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Static(SparsityRamp()), "to be a number for Static.*Set `sparsity` of the algorithm"),
        (lambda: DSR(SparsityRamp()), "to be a number for DSR"),
        (lambda: RigL(SparsityRamp(0.2, 0.5), structure=NM()), "to be a number for NM.*structure"),
        (lambda: RigL(SparsityRamp(), min_fan_in=2), "min_fan_in"),
        (lambda: SparsityRamp(0.5, 1.0), r"in \[0, 1\), got 1.0. Set `final` of SparsityRamp"),
        (lambda: SparsityRamp(end=1.5), "Set `end` of SparsityRamp"),
        (lambda: RigL(SparsityRamp(end=0.9)).resolve(1000), "updates to go on until the ramp.*step 900.*750"),
        (lambda: RigL(SparsityRamp(end=100)).resolve(50), "before the end of training, 50 steps"),
        (lambda: RigL(SparsityRamp(begin=300, end=0.1)).resolve(1000), "ends after its begin, 300.*got 100"),
        (lambda: SparsityRamp().at(3), "resolved"),
    ],
)
def test_what_cannot_go_together_is_refused_at_once(make, message):
    with pytest.raises(ValueError, match=message):
        make()
