"""Grow scores of narrow networks, on numbers that can be checked in the head."""

import pytest
import torch

from rigl_lightning.sparsity import RigL, Sparsifier, UpdateSchedule
from rigl_lightning.sparsity.scores import Connections, channel_normalised_gradient, live_channel_gradient

# Root mean squares of the channels: 5 / sqrt(2), 500 / sqrt(2), 0.
GRAD = torch.tensor([[3.0, -4.0], [300.0, 400.0], [0.0, 0.0]])
MASK = torch.tensor([[True, False], [False, False], [False, True]])
NORMALISED = torch.tensor([[0.6, 0.8], [0.6, 0.8], [0.0, 0.0]]) * 2**0.5
LIVE = torch.tensor([[3.0, 4.0], [-1.0, -1.0], [0.0, 0.0]])
BOTH = pytest.mark.parametrize(
    ("score", "expected"), [(channel_normalised_gradient, NORMALISED), (live_channel_gradient, LIVE)]
)


@BOTH
def test_channels_by_hand(score, expected):
    assert torch.allclose(score(Connections(GRAD, MASK, dense_grad=GRAD)), expected)


@BOTH
def test_weights_that_are_stored_inputs_first(score, expected):
    turned = Connections(GRAD.t(), MASK.t(), dense_grad=GRAD.t(), inputs_first=True)
    assert torch.allclose(score(turned), expected.t())


@BOTH
def test_a_kernel_is_part_of_its_output_channel(score, expected):
    grad, mask = GRAD.view(3, 1, 2, 1), MASK.view(3, 1, 2, 1)
    assert torch.allclose(score(Connections(grad, mask, dense_grad=grad)), expected.view(3, 1, 2, 1))


@BOTH
def test_a_vector_is_one_channel(score, expected):
    grad = torch.tensor([3.0, -4.0])
    found = score(Connections(grad, torch.tensor([True, False]), dense_grad=grad))
    assert torch.allclose(found, expected[0])


def test_rigl_grows_into_live_channels_first():
    layer = torch.nn.Linear(4, 16, bias=False)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    algorithm = RigL(0.9, schedule=UpdateSchedule(interval=1), drop_fraction=0.5, grow_score=live_channel_gradient)
    sparsifier = Sparsifier.attach(layer, optimizer, algorithm, total_steps=10)
    live = sparsifier.masks["weight"].any(1)
    assert not live.all()  # six connections of 16 units
    data, target = torch.randn(32, 4), 10 * torch.randn(32, 16)
    for _ in range(3):
        optimizer.zero_grad()
        (layer(data) - target).square().mean().backward()
        optimizer.step()
    assert not sparsifier.masks["weight"].any(1)[~live].any()
