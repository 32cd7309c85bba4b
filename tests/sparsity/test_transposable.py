"""Masks that are N:M in both directions."""

import itertools

import pytest
import torch

from rigl_lightning.sparsity import RigL, Uniform
from rigl_lightning.sparsity.layouts import InputsFirst
from rigl_lightning.sparsity.selection import smallest
from rigl_lightning.sparsity.structures import structured_random_mask
from rigl_lightning.sparsity.transposable import TransposableNM, _masks

PATTERNS = {(1, 2): 2, (1, 3): 6, (2, 3): 6, (1, 4): 24, (2, 4): 90}


def is_transposable(mask, n, m):
    blocks = mask.reshape(mask.shape[0] // m, m, mask.shape[1] // m, m, -1)
    return bool((blocks.sum(1) == n).all()) and bool((blocks.sum(3) == n).all())


@pytest.mark.parametrize(("n", "m"), PATTERNS)
def test_every_mask_of_a_block_is_known_once(n, m):
    masks = _masks(n, m)
    assert len({tuple(row.tolist()) for row in masks}) == len(masks) == PATTERNS[n, m]
    assert all(is_transposable(mask.view(m, m), n, m) for mask in masks)


@pytest.mark.parametrize("shape", [(8, 12), (4, 8, 3, 3)])
def test_random_masks_and_updates_have_the_structure(shape):
    structure, generator = TransposableNM(2, 4), torch.Generator().manual_seed(0)
    mask = structure.random_mask(shape, 0, generator)
    for n_update in (0, 1, 7, int(mask.sum())):
        new = structure.drop_and_grow(mask, torch.rand(shape), torch.randn(shape), n_update)
        assert is_transposable(new, 2, 4)
        assert new.sum() == mask.sum()
        mask = new


def test_nothing_moves_without_a_drop_and_survivors_stay():
    structure, generator = TransposableNM(2, 4), torch.Generator().manual_seed(1)
    mask, drop = structure.random_mask((8, 8), 0, generator), torch.rand(8, 8)
    grow = torch.rand(8, 8) * 1000
    assert torch.equal(structure.drop_and_grow(mask, drop, grow, 0), mask)
    new = structure.drop_and_grow(mask, drop, grow, 5)
    kept = mask & (drop > drop[mask].sort().values[4])
    assert new[kept].all()


def test_where_all_are_dropped_the_mask_is_the_best_of_all():
    structure, score = TransposableNM(2, 4), torch.randn(4, 4, generator=torch.Generator().manual_seed(2)).abs()
    found = structure.drop_and_grow(torch.ones(4, 4, dtype=torch.bool), score, score, 16)
    best = max(score[mask.view(4, 4)].sum().item() for mask in _masks(2, 4))
    assert score[found].sum().item() == pytest.approx(best)
    rows = [set(c) for c in itertools.combinations(range(4), 2)]
    assert all({i for i in range(4) if found[r, i]} in rows for r in range(4))


def test_a_weight_stored_inputs_first_has_a_mask_of_its_shape():
    mask = structured_random_mask(TransposableNM(1, 2), InputsFirst((4, 6)), 12, torch.Generator().manual_seed(0))
    assert mask.shape == (4, 6)
    assert is_transposable(mask, 1, 2)


def test_units_that_are_no_multiple_are_refused_before_training():
    algorithm = RigL(0.5, Uniform(first_layer_dense=False), structure=TransposableNM())
    with pytest.raises(ValueError, match="units of 'fc' to be a multiple of m=4.*got 10"):
        algorithm.layer_sparsities({"fc": (10, 8)}, 0)
    with pytest.raises(ValueError, match="`m` of at most 4.*got 8"):
        TransposableNM(4, 8)


@pytest.mark.parametrize("infinite", [torch.inf, -torch.inf])
def test_survivors_stay_whatever_scores_are_infinite(infinite):
    structure, generator = TransposableNM(2, 4), torch.Generator().manual_seed(0)
    mask = structure.random_mask((4, 8), 0, generator)
    drop, grow = (torch.rand(4, 8, generator=generator) for _ in range(2))
    grow[~mask] = infinite
    new = structure.drop_and_grow(mask, drop, grow, 4)
    kept = mask.reshape(-1).clone()
    kept[smallest(drop, 4, mask)] = False
    assert new.reshape(-1)[kept].all()
    assert is_transposable(new, 2, 4)


def test_a_score_that_is_nan_is_refused():
    mask = TransposableNM().random_mask((4, 4), 8, torch.Generator())
    with pytest.raises(ValueError, match="NaN"):
        TransposableNM().drop_and_grow(mask, torch.ones(4, 4), torch.full((4, 4), torch.nan), 2)
