"""Positions of True flags, against Python's own enumeration."""

import pytest
import torch

from rigl_lightning.kernels import available, use_tier
from rigl_lightning.kernels.positions import _LEAST, count_active, positions

DENSITIES = (0.0, 0.005, 0.05, 0.3, 0.97, 1.0)
SIZES = (_LEAST - 1, _LEAST, _LEAST + 1, 2 * _LEAST + 7)


def enumerated(mask):
    return [i for i, flag in enumerate(mask.reshape(-1).tolist()) if flag]


@pytest.mark.parametrize("tier", available())
@pytest.mark.parametrize("density", DENSITIES)
@pytest.mark.parametrize("size", SIZES)
def test_positions_are_those_of_an_enumeration(size, density, tier):
    mask = torch.rand(size, generator=torch.Generator().manual_seed(size)) < density
    with use_tier(tier):
        found = positions(mask)
    assert found.dtype == torch.int64
    assert found.tolist() == enumerated(mask)
    assert count_active(mask) == len(enumerated(mask))


@pytest.mark.parametrize("start", range(1, 9))
def test_flags_may_begin_anywhere_in_memory(start):
    mask = (torch.rand(_LEAST + 40) < 0.1)[start:]
    assert positions(mask).tolist() == enumerated(mask)


def test_flags_may_have_gaps_or_another_order():
    wide = torch.rand(256, 512) < 0.1
    images = (torch.rand(32, 16, 16, 16) < 0.1).contiguous(memory_format=torch.channels_last)
    for mask in (wide.t(), wide[:, ::2], images):
        assert positions(mask).tolist() == enumerated(mask)
