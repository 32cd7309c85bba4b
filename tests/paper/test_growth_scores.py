"""The grow scores of the question about narrow networks, on numbers that can be checked in the head."""

import torch

from paper.studies import growth_scores
from rigl_lightning.sparsity.scores import Connections

# Two live channels, and one without an active input whose gradients are the largest.
MASK = torch.tensor([[True, False, False], [False, True, False], [False, False, False]])
GRAD = torch.tensor([[1.0, -4.0, 2.0], [3.0, 1.0, -1.0], [60.0, -80.0, 0.0]])


def layer():
    return Connections(torch.zeros(3, 3), MASK, torch.Generator().manual_seed(0), GRAD)


def best(values):
    """Position of the inactive connection that grows first."""
    return divmod(int(torch.where(MASK, -torch.inf, values).argmax()), 3)


def test_raw_magnitude_grows_into_the_dead_channel():
    assert best(GRAD.abs()) == (2, 1)


def test_live_channels_come_first():
    values = growth_scores.live_channels(layer())
    assert best(values) == (0, 1)
    assert (values[2] == -1).all()


def test_random_growth_can_avoid_dead_channels():
    values = growth_scores.random_in_live_channels(layer())
    assert (values[2] == -1).all()
    assert (values[:2] >= 0).all()


def test_a_dead_channel_counts_as_the_median_one():
    # Root mean squares of the live channels: sqrt(21 / 3) and sqrt(11 / 3); torch's median is the lower one.
    values = growth_scores.median_dead_channels(layer())
    assert torch.allclose(values[2].square().mean().sqrt(), torch.tensor(11 / 3).sqrt())
    assert torch.equal(values[:2], GRAD[:2].abs())


def test_normalised_channels_are_equally_large():
    values = growth_scores.channel_normalised(layer())
    assert torch.allclose(values.square().mean(dim=1), torch.ones(3))


def test_every_channel_has_its_turn():
    values = torch.where(MASK, -torch.inf, growth_scores.turn_by_turn(layer())).flatten()
    first_three = [divmod(int(i), 3) for i in values.argsort(descending=True)[:3]]
    assert first_three == [(2, 1), (0, 1), (1, 0)]  # the best of each channel, the largest gradient first
