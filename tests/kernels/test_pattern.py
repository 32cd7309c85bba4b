"""Patterns list exactly the active connections, by row and by column."""

from dataclasses import FrozenInstanceError

import pytest
import torch

from rigl_lightning.kernels import SparsePattern

SHAPES = [(1, 1), (3, 4), (5, 1), (1, 7), (6, 3, 2, 2), (2, 2050), (1500, 2)]


@pytest.mark.parametrize("density", [0, 0.1, 0.6, 1])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_mask_can_be_read_back_from_rows_and_from_columns(shape, density):
    mask = torch.rand(shape) < density
    p = SparsePattern.from_mask(mask)
    matrix = mask.reshape(shape[0], -1)
    assert p.n_active == mask.sum()
    assert (p.n_rows, p.n_columns) == matrix.shape
    assert p.density == pytest.approx(float(mask.float().mean()))
    rows = torch.repeat_interleave(torch.arange(p.n_rows), p.row_starts.diff())
    columns = torch.repeat_interleave(torch.arange(p.n_columns), p.column_starts.diff())
    assert torch.equal(torch.stack([rows, p.columns], 1), matrix.nonzero())
    assert torch.equal(torch.stack([columns, p.rows], 1), matrix.t().nonzero())
    assert torch.equal(p.columns[p.by_column], columns.int())
    assert torch.equal(p.positions, mask.reshape(-1).nonzero().view(-1))


@pytest.mark.parametrize("shape", SHAPES)
def test_parts_are_narrow_and_cover_every_row_in_order(shape):
    p = SparsePattern.from_mask(torch.rand(shape) < 0.5)
    assert torch.equal(p.row_parts[0], p.row_starts[:-1])
    assert torch.equal(p.row_parts[-1], p.row_starts[1:])
    assert (p.row_parts.diff(dim=0) >= 0).all()
    for before, after in zip(p.row_parts[:-1], p.row_parts[1:], strict=True):
        read = [p.columns[a:b] for a, b in zip(before, after, strict=True)]
        widest = [int(c.max() - c.min()) for c in read if c.numel()]
        assert max(widest, default=0) < 1024


def test_a_pattern_cannot_be_changed():
    p = SparsePattern.from_mask(torch.ones(2, 2, dtype=torch.bool))
    with pytest.raises(FrozenInstanceError):
        p.columns = p.rows


def test_a_pattern_does_not_follow_its_mask():
    mask = torch.eye(3, dtype=torch.bool)
    p = SparsePattern.from_mask(mask)
    mask.fill_(True)
    assert p.n_active == 3


@pytest.mark.parametrize("mask", [torch.ones(2, 2), torch.ones(2, dtype=torch.bool)])
def test_what_is_no_mask_is_refused(mask):
    with pytest.raises(ValueError, match="Expected a boolean mask of rank 2"):
        SparsePattern.from_mask(mask)


def test_a_pattern_of_another_layer_is_refused():
    with pytest.raises(ValueError, match="belongs to another layer"):
        SparsePattern.from_mask(torch.ones(2, 2, dtype=torch.bool)).check(torch.ones(2, 3))
