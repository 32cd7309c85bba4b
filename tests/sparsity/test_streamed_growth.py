"""A streamed update is drop and grow of the whole, ties included."""

import pytest
import torch

from rigl_lightning import SNIP, RigL, Static
from rigl_lightning.sparsity.masks import drop_and_grow, random_mask
from rigl_lightning.sparsity.streamed_growth import StreamedUpdate, can_stream
from rigl_lightning.sparsity.structures import NM


@pytest.mark.parametrize("piece", [1, 7, 60, 1000])
@pytest.mark.parametrize("levels", [3, 1000])  # few levels: nearly all scores are ties
@pytest.mark.parametrize("fraction", [0, 0.3, 1])
def test_the_mask_is_that_of_the_whole_gradient(piece, levels, fraction):
    for seed in range(12):
        generator = torch.Generator().manual_seed(seed)
        mask = random_mask((20, 15), 10 + 17 * seed, generator)
        weight = torch.randint(-levels, levels, (20, 15), generator=generator).float() / levels * mask
        grad = torch.randint(-levels, levels, (20, 15), generator=generator).float() / levels
        active = mask.view(-1).nonzero().view(-1)
        n_update = int(fraction * active.numel())
        update = StreamedUpdate(weight.view(-1)[active], active, n_update)
        for first in range(0, 300, piece):
            update.add(first, grad.view(-1)[first : first + piece])
        expected = drop_and_grow(mask, weight.abs(), grad.abs(), n_update)
        assert torch.equal(update.positions(), expected.view(-1).nonzero().view(-1))
        assert update.n_grown_blindly() == int((expected & ~mask & (grad == 0)).sum())


def test_long_pieces_take_the_sampled_path():
    generator = torch.Generator().manual_seed(0)
    mask = random_mask((400, 1000), 4000, generator)
    weight, grad = torch.randn(400, 1000, generator=generator) * mask, torch.randn(400, 1000, generator=generator)
    active = mask.view(-1).nonzero().view(-1)
    update = StreamedUpdate(weight.view(-1)[active], active, 1200)
    for first in range(0, 400000, 100000):
        update.add(first, grad.view(-1)[first : first + 100000])
    expected = drop_and_grow(mask, weight.abs(), grad.abs(), 1200)
    assert torch.equal(update.positions(), expected.view(-1).nonzero().view(-1))


def test_gradients_that_are_not_finite_are_noticed():
    update = StreamedUpdate(torch.ones(2), torch.tensor([0, 3]), 1)
    update.add(0, torch.tensor([1.0, float("inf"), 0.0, 0.0]))
    assert not update.is_finite


def test_only_rigl_as_the_paper_has_it_streams():
    assert can_stream(RigL(0.9, drop_fraction=0.1))
    assert not can_stream(RigL(0.5, structure=NM(2, 4)))
    assert not can_stream(RigL(0.9, drop_score=lambda c: c.weight))
    assert not any(map(can_stream, (SNIP(0.9), Static(0.9))))

    class Own(RigL):
        def grow_init(self, layer):
            return layer.weight

    assert not can_stream(Own(0.9))
