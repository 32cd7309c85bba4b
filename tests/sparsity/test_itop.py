"""Exploration: what share of all connections a training has tried."""

import pytest
import torch
from torch import nn

from rigl_lightning.sparsity.algorithms import SET, SETITOP, RigL, RigLITOP, Static
from rigl_lightning.sparsity.distributions import Uniform
from rigl_lightning.sparsity.schedules import UpdateSchedule, constant
from rigl_lightning.sparsity.sparsifier import Sparsifier
from tests.helpers.small_training import small_network, sparsifier_with, sparsify, through_disk, train

EVERYWHERE = Uniform(first_layer_dense=False)


def grown_by(scores):
    """A grow score that gives position i the i-th number."""
    return lambda c: torch.tensor(scores, dtype=torch.float).view(c.weight.shape)


def step_once(sparsifier, optimizer, parameter):
    parameter.grad = torch.zeros_like(parameter)
    sparsifier.before_step(optimizer)
    optimizer.step()
    sparsifier.after_step(optimizer)


def test_exploration_by_hand():
    """Eight connections, four active. A connection counts once, whether it is active now or was."""
    weight = nn.Parameter(torch.tensor([[4.0, 3.0, 2.0, 1.0, 0.0, 0.0, 0.0, 0.0]]))
    algorithm = SET(
        0.5, EVERYWHERE, UpdateSchedule(1, 0, 9), 0.25, constant, grow_score=grown_by([0, 0, 0, 9, 1, 2, 3, 5])
    )
    mask = torch.tensor([[True] * 4 + [False] * 4])
    sparsifier = sparsifier_with({"w": mask}, {"w": weight}, algorithm)
    optimizer = torch.optim.SGD([weight], 0.0)
    assert sparsifier.exploration() == 4 / 8
    step_once(sparsifier, optimizer, weight)  # drops 3, which has the highest grow score and comes back
    assert sparsifier.exploration() == 4 / 8
    weight.data[0, 3] = 5.0
    step_once(sparsifier, optimizer, weight)  # drops 2, grows 7
    assert sparsifier.exploration() == 5 / 8
    assert sparsifier.explored["w"].int().tolist() == [[1, 1, 1, 1, 0, 0, 0, 1]]
    step_once(sparsifier, optimizer, weight)  # 7, still zero, is dropped and comes back
    assert sparsifier.exploration() == 5 / 8
    weight.data[0, 7] = 6.0
    step_once(sparsifier, optimizer, weight)  # drops 1, grows 6
    assert sparsifier.exploration() == 6 / 8


def test_a_static_network_explores_nothing_more_than_its_masks():
    model = small_network()
    sparsifier = sparsify(model, Static(0.75, EVERYWHERE))
    train(model, torch.optim.SGD(model.parameters(), 0.1), sparsifier, range(5))
    assert sparsifier.exploration() == 0.25


def test_exploration_survives_a_checkpoint():
    model = small_network()
    algorithm = SET(0.7, EVERYWHERE, UpdateSchedule(1, 0, 20))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    sparsifier = sparsify(model, algorithm)
    train(model, optimizer, sparsifier, range(6))
    assert sparsifier.exploration() > 0.31
    resumed = sparsify(small_network(1), algorithm, state=through_disk(sparsifier.state_dict()))
    assert resumed.exploration() == sparsifier.exploration()


@pytest.mark.parametrize(("density", "fraction", "updates"), [(0.1, 0.5, 12), (0.05, 0.3, 30), (0.3, 0.5, 8)])
def test_random_growth_explores_as_the_formula_predicts(density, fraction, updates):
    """Of N connections k are active; n are moved. Each of N - k + n candidates grows with probability n / (N - k + n).

    So 1 - R = (1 - k/N) · product over the updates of 1 - n / (N - k + n).
    """
    size = 40_000
    weight = nn.Parameter(torch.randn(200, 200, generator=torch.Generator().manual_seed(0)))
    algorithm = SET(1 - density, EVERYWHERE, UpdateSchedule(1, 0, updates), fraction)
    sparsifier = Sparsifier({"w": weight}, algorithm)
    optimizer = torch.optim.SGD([weight], 0.0)
    k = sparsifier.n_active["w"]
    unexplored = 1 - k / size
    for step in range(updates):
        weight.data += torch.randn(200, 200, generator=torch.Generator().manual_seed(step)) * sparsifier.masks["w"]
        step_once(sparsifier, optimizer, weight)
        n = int(k * sparsifier.algorithm.drop_fraction_at(step))
        unexplored *= 1 - n / (size - k + n)
        # Standard deviation of a share of N, at most sqrt(1/4 / N) = .0025.
        assert sparsifier.exploration() == pytest.approx(1 - unexplored, abs=4 * 0.0025)
    assert sparsifier.exploration() > 2 * density


def test_the_defaults_are_those_of_the_authors_code():
    steps = 97_656  # 250 epochs of 50,000 images in batches of 128
    for algorithm, interval in ((SETITOP(), 1500), (RigLITOP(), 4000)):
        resolved = algorithm.resolve(steps)
        assert list(resolved.update_steps()) == list(range(0, steps, interval))
        assert resolved.drop_fraction_at(0) == 0.5
        assert resolved.drop_fraction_at(steps // 2) == pytest.approx(0.25)
    assert not RigLITOP().replaces_step
    assert RigL().replaces_step
    assert [t for t in (0, 1, 4000) if RigLITOP().resolve(steps).needs_dense_gradient(t)] == [0, 4000]


def predicted(algorithm, density, total_steps):
    """Exploration of random growth, by the formula above."""
    resolved = algorithm.resolve(total_steps)
    unexplored = 1 - density
    for step in resolved.update_steps():
        n = density * resolved.drop_fraction_at(step)
        unexplored *= 1 - n / (1 - density + n)
    return 1 - unexplored


def test_the_numbers_of_the_guide():
    """Predicted exploration in docs/methods_after_rigl.md: CIFAR-10's 97,656 steps, density .1 and .05."""
    one, five = 97_656, 5 * 97_656
    found = [round(predicted(SETITOP(), d, n), 2) for d in (0.1, 0.05) for n in (one, five)]
    assert found == [0.85, 1.0, 0.6, 0.99]
    assert round(predicted(SETITOP(schedule=UpdateSchedule(300, 0, 1.0)), 0.05, one), 2) == 0.99
