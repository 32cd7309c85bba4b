"""A minimum fan-in, and growth by gradients relative to their channel."""

import pytest
import torch
from torch import nn

from rigl_lightning.sparsity.algorithms import SET, RigL
from rigl_lightning.sparsity.distributions import Uniform
from rigl_lightning.sparsity.fan_in import with_minimum_fan_in
from rigl_lightning.sparsity.masks import drop_and_grow, random_mask
from rigl_lightning.sparsity.schedules import UpdateSchedule, constant
from rigl_lightning.sparsity.sparsifier import Sparsifier
from rigl_lightning.sparsity.structures import NM

EVERYWHERE = Uniform(first_layer_dense=False)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("shape", [(6, 10), (6, 4, 3, 3)])
@pytest.mark.parametrize("minimum", [1, 2, 3])
def test_units_keep_what_they_have_up_to_the_minimum_and_counts_are_exact(shape, minimum, seed):
    mask = random_mask(shape, 24, seeded(seed))
    drop, grow = (torch.randn(shape, generator=seeded(seed + k)).abs() for k in (100, 200))
    new = drop_and_grow(mask, *with_minimum_fan_in(mask, drop, grow, 12, minimum))
    before, after = (m.flatten(1).sum(1) for m in (mask, new))
    assert new.sum() == mask.sum()
    assert (after >= torch.minimum(before, torch.tensor(minimum))).all()
    moved = int((mask & ~new).sum())
    if (after < minimum).any():  # all that was moved went to units that had fewer
        assert int((after - before).clamp(min=0)[before < minimum].sum()) == int((after - before).clamp(min=0).sum())
    assert moved <= 12


@pytest.mark.parametrize("algorithm", [RigL, SET])
def test_no_channel_dies_in_a_training_at_high_sparsity(algorithm):
    dead = {}
    for minimum in (0, 1):
        torch.manual_seed(0)
        weight = nn.Parameter(torch.randn(16, 32))
        schedule = UpdateSchedule(1, 0, 20)
        rule = algorithm(0.95, EVERYWHERE, schedule, 0.5, constant, min_fan_in=minimum)
        sparsifier = Sparsifier({"w": weight}, rule)
        optimizer = torch.optim.SGD([weight], 0.1)
        scale = torch.linspace(0.01, 1, 16)[:, None]  # some channels have small weights and gradients
        for step in range(20):
            weight.grad = torch.randn(16, 32, generator=seeded(step)) * scale
            sparsifier.before_step(optimizer)
            optimizer.step()
            sparsifier.after_step(optimizer)
        dead[minimum] = int((~sparsifier.masks["w"].any(1)).sum())
        assert sparsifier.n_active["w"] == 26
    assert dead[1] == 0 < dead[0]


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
def test_of_more_units_without_a_connection_than_are_grown_the_best_are_first_whatever_the_scale(scale):
    mask = torch.tensor([[True, True, True, True], [False] * 4, [False] * 4, [False] * 4])
    grow = torch.zeros(4, 4)
    grow[1:, 0] = scale * torch.tensor([1.0, 2.0, 3.0])
    new = drop_and_grow(mask, *with_minimum_fan_in(mask, mask.float(), grow, 1, 1))
    assert new.int().tolist() == [[1, 1, 1, 0], [0] * 4, [0] * 4, [1, 0, 0, 0]]


def test_infinite_scores_do_not_take_the_place_of_units_without_a_connection():
    mask = torch.tensor([[True, True, False, False], [False] * 4])
    grow = torch.tensor([[0.0, 0.0, torch.inf, torch.inf], [1.0, 2.0, 0.0, 0.0]])
    new = drop_and_grow(mask, *with_minimum_fan_in(mask, torch.full((2, 4), torch.inf), grow, 1, 1))
    assert new.int().tolist() == [[1, 0, 0, 0], [0, 1, 0, 0]]


@pytest.mark.parametrize("settings", [{"min_fan_in": -1}, {"min_fan_in": 1.5}, {"min_fan_in": 1, "structure": NM()}])
def test_other_numbers_and_structures_are_refused(settings):
    with pytest.raises(ValueError, match=r"`min_fan_in` to be a whole number, at least 0, and 0 with a structure"):
        RigL(**settings)
