import itertools

import pytest
import torch
from torch import nn

from rigl_lightning.sparsity.algorithms import GradualMagnitudePruning, GraNet
from rigl_lightning.sparsity.distributions import ErdosRenyi, Uniform, active_counts
from rigl_lightning.sparsity.schedules import UpdateSchedule, constant
from rigl_lightning.sparsity.scores import Connections, saliency
from rigl_lightning.sparsity.sparsifier import Sparsifier

EVERYWHERE = Uniform(first_layer_dense=False)


def prune_run(algorithm, total_steps):
    """Number of active connections after each step, and the Sparsifier."""
    torch.manual_seed(0)
    model = nn.Linear(8, 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    sparsifier = Sparsifier({"weight": model.weight}, algorithm, total_steps=total_steps)
    counts, masks = [], []
    for step in range(total_steps):
        optimizer.zero_grad()
        model(torch.randn(4, 8, generator=torch.Generator().manual_seed(step))).square().mean().backward()
        sparsifier.before_step(optimizer)
        optimizer.step()
        sparsifier.after_step(optimizer)
        counts.append(sparsifier.n_active["weight"])
        masks.append(sparsifier.masks["weight"].clone())
        assert (model.weight[~masks[-1]] == 0).all()
    return counts, masks, sparsifier


def test_the_ramp_by_hand():
    # 80 weights, ramp 0..4 to .8: sparsities 0, .4625, .7, .7875, .8, so 0, 37, 56, 63, 64 zeros.
    counts, _, _ = prune_run(GradualMagnitudePruning(0.8, EVERYWHERE, UpdateSchedule(1, 0, 4)), 7)
    assert counts == [80, 43, 24, 17, 16, 16, 16]


@pytest.mark.parametrize(
    ("interval", "begin", "end"), itertools.product((1, 3, 5, 7, 100), (0, 2, 0.2), (5, 11, 0.75, 0.99, 1.0))
)
def test_the_final_sparsity_is_reached_whatever_the_ramp(interval, begin, end):
    algorithm = GradualMagnitudePruning(0.85, EVERYWHERE, UpdateSchedule(interval, begin, end))
    counts, masks, sparsifier = prune_run(algorithm, 12)
    assert counts[-1] == 12  # 80 - 68
    assert sparsifier.density()["weight"] == 12 / 80
    resolved_end = sparsifier.algorithm.schedule.end
    assert counts[resolved_end] == 12
    assert counts[resolved_end - 1] > 12 or interval == 1
    assert not any((later & ~earlier).any() for earlier, later in itertools.pairwise(masks))  # none comes back
    assert sorted(counts, reverse=True) == counts


@pytest.mark.parametrize(
    "algorithm",
    [
        GradualMagnitudePruning(0.8, EVERYWHERE, UpdateSchedule(1, 0, 4), ramp_decay=constant),
        GraNet(0.8, 0.0, EVERYWHERE, UpdateSchedule(1, 0, 8), ramp_end=4, ramp_decay=constant),
    ],
    ids=lambda algorithm: type(algorithm).__name__,
)
def test_the_final_sparsity_is_reached_whatever_the_decay(algorithm):
    counts, _, _ = prune_run(algorithm, 7)
    assert counts == [80] * 4 + [16] * 3


def test_an_end_that_training_does_not_reach_is_refused():
    with pytest.raises(ValueError, match=r"end=12 and 12 .*final sparsity would not be reached.*end"):
        GradualMagnitudePruning(0.8, EVERYWHERE, UpdateSchedule(1, 0, 12)).resolve(12)
    GradualMagnitudePruning(0.8, EVERYWHERE, UpdateSchedule(1, 0, 11)).resolve(12)


def test_the_smallest_weights_go():
    weight = torch.tensor([0.8, -0.1, 0.5, 0.3, -0.9, 0.2, 0.05, 0.6])
    algorithm = GradualMagnitudePruning(0.5, EVERYWHERE, UpdateSchedule(1, 0, 4))
    # At the end 4 of 8 stay: .8, .5, .9, .6.
    new = algorithm.update_masks({"a": Connections(weight, torch.ones(8, dtype=torch.bool))}, 4, {})["a"]
    assert new.tolist() == [True, False, True, False, True, False, False, True]


def test_inactive_connections_do_not_come_back_though_active_weights_are_zero():
    mask = torch.tensor([False] * 4 + [True] * 4)
    algorithm = GradualMagnitudePruning(0.5, EVERYWHERE, UpdateSchedule(1, 0, 4))
    assert torch.equal(algorithm.update_masks({"a": Connections(torch.zeros(8), mask)}, 4, {})["a"], mask)


@pytest.mark.parametrize("distribution", [EVERYWHERE, ErdosRenyi()])
def test_a_share_that_is_rounded_down_and_then_up_is_missing_nowhere(distribution):
    """Small layers and many updates: some move by less than a connection."""
    for seed in range(40):
        generator = torch.Generator().manual_seed(seed)
        sizes = torch.randint(2, 10, (5, 2), generator=generator).tolist()
        shapes = {str(i): torch.Size(size) for i, size in enumerate(sizes)}
        algorithm = GradualMagnitudePruning(0.8, distribution, UpdateSchedule(1, 0, 60))
        masks = {name: torch.ones(shape, dtype=torch.bool) for name, shape in shapes.items()}
        weights = {name: torch.rand(shape, generator=generator) for name, shape in shapes.items()}
        for step in algorithm.update_steps():
            new = algorithm.update_masks({n: Connections(weights[n], mask) for n, mask in masks.items()}, step, {})
            planned = active_counts(shapes, algorithm.layer_sparsities(shapes, step + 1))
            assert sum(int(mask.sum()) for mask in new.values()) == sum(planned.values())
            assert not any((new[name] & ~masks[name]).any() for name in masks)
            masks = new
        assert {name: int(mask.sum()) for name, mask in masks.items()} == planned


@pytest.mark.parametrize("distribution", [EVERYWHERE, Uniform(), ErdosRenyi()])
def test_every_layer_ends_at_its_own_share(distribution):
    shapes = {"a": (6, 5), "b": (20, 30), "c": (4, 20)}
    algorithm = GradualMagnitudePruning(0.8, distribution, UpdateSchedule(1, 2, 10))
    layers = {n: Connections(torch.randn(s), torch.ones(s, dtype=torch.bool)) for n, s in shapes.items()}
    new = algorithm.update_masks(layers, 10, {})
    assert {n: int(m.sum()) for n, m in new.items()} == active_counts(shapes, distribution(shapes, 0.8))
    assert set(algorithm.layer_sparsities(shapes, 2).values()) == {0.0}
    assert algorithm.layer_sparsities(shapes, 11) == pytest.approx(distribution(shapes, 0.8))


def test_a_score_that_reads_the_gradient_needs_it_on_update_steps_only():
    algorithm = GradualMagnitudePruning(0.8, EVERYWHERE, UpdateSchedule(2, 0, 5), score=saliency)
    assert [t for t in range(8) if algorithm.needs_dense_gradient(t)] == [0, 2, 4, 5]
    assert list(algorithm.update_steps()) == [0, 2, 4, 5]
    assert prune_run(algorithm, 8)[0][-1] == 16
    assert not any(GradualMagnitudePruning(0.8).resolve(100).needs_dense_gradient(t) for t in range(100))


@pytest.mark.parametrize("sparsity", [1.2, -1, 1.0])
def test_a_sparsity_out_of_range_is_refused_at_once(sparsity):
    with pytest.raises(ValueError, match="sparsity"):
        GradualMagnitudePruning(sparsity)
