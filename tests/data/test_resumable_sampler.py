"""The sampler's order is a permutation per epoch, shared out evenly, that can be entered anywhere."""

import pytest
import torch
from torch.utils.data import DistributedSampler

from rigl_lightning.data import ResumableSampler
from rigl_lightning.data.resumable import batch_seed


def test_an_epoch_is_a_permutation_that_depends_on_seed_and_epoch_only():
    sampler = ResumableSampler(range(20), seed=1)
    torch.manual_seed(0)
    first = list(sampler)
    torch.manual_seed(1)
    assert list(sampler) == first
    assert sorted(first) == list(range(20))
    sampler.set_epoch(1)
    assert list(sampler) != first
    assert list(ResumableSampler(range(20), seed=2)) != first


@pytest.mark.parametrize("n_trained", [0, 1, 7, 19, 20])
def test_entering_an_epoch_skips_what_is_trained(n_trained):
    whole = list(ResumableSampler(range(20), seed=1, position=lambda: (4, 0)))
    assert list(ResumableSampler(range(20), seed=1, position=lambda: (4, n_trained))) == whole[n_trained:]


@pytest.mark.parametrize(("n", "world_size"), [(20, 2), (23, 4), (7, 3)])
def test_ranks_share_an_epoch_evenly_without_overlap(n, world_size):
    shares = [list(ResumableSampler(range(n), 0, rank, world_size)) for rank in range(world_size)]
    assert {len(share) for share in shares} == {n // world_size}
    assert len(set().union(*shares)) == n // world_size * world_size


def test_the_position_is_asked_for_with_the_first_sample_and_not_before():
    asked = []
    iterator = iter(ResumableSampler(range(4), 0, position=lambda: asked.append(1) or (0, 0)))
    assert not asked
    next(iterator)
    assert asked


def test_lightning_recognises_it_as_distributed_and_its_length_is_the_whole_epoch():
    sampler = ResumableSampler(range(23), 0, world_size=4, position=lambda: (0, 3))
    assert isinstance(sampler, DistributedSampler)
    assert len(sampler) == 5


def test_batch_seeds_differ_by_seed_rank_and_batch():
    seeds = {batch_seed(seed, rank, batch) for seed in range(3) for rank in range(3) for batch in range(50)}
    assert len(seeds) == 450
    assert all(0 <= seed < 2**32 for seed in seeds)
