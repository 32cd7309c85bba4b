import itertools
import math

import numpy as np
import pytest
import torch

from rigl_lightning.sparsity.masks import drop_and_grow, random_mask, topk_mask
from rigl_lightning.sparsity.packed_masks import pack_mask, unpack_mask
from tests.helpers.small_training import flags, written

SHAPES = [(1,), (7,), (64,), (1, 1), (5, 9), (3, 4, 5), (4, 3, 2, 2), (1, 6, 1, 3)]


# The witness: the paper's section 3 (drop: ArgTopK(-|w|, k) of the active; grow: ArgTopK of the gradient over all but
# the survivors), one connection at a time. A tie goes to the lower index, which is kept, or grown, first.
def slow_drop_and_grow(mask, drop_score, grow_score, n_update):
    n = len(mask)
    active = [i for i in range(n) if mask[i]]
    survivors = sorted(active, key=lambda i: (-drop_score[i], i))[: len(active) - n_update]
    candidates = [i for i in range(n) if i not in survivors]
    grown = sorted(candidates, key=lambda i: (-grow_score[i], i))[:n_update]
    return [i in survivors or i in grown for i in range(n)]


class TestDropAndGrowByHand:
    # index      0    1    2    3   |  4    5    6    7
    # mask       1    1    1    1   |  .    .    .    .
    # |w|       .8   .1   .5   .3   |  0    0    0    0      dropped in the order 1, 3, 2, 0
    # |g|       .0   .2  .05  .35   | .1   .4   .3   .5
    mask = flags("1111 ....")
    weight = torch.tensor([0.8, -0.1, 0.5, 0.3, 0.0, 0.0, 0.0, 0.0])
    gradient = torch.tensor([0.0, 0.2, -0.05, 0.35, 0.1, -0.4, 0.3, 0.5])

    @pytest.mark.parametrize(
        ("n_update", "expected"),
        [
            (0, "1111 ...."),
            (1, "1.11 ...1"),  # drops 1; of 1, 4..7 the largest gradient is at 7
            (2, "1.1. .1.1"),  # drops 1, 3; of 1, 3, 4..7 the largest are 7 (.5) and 5 (.4)
            (3, "1..1 .1.1"),  # drops 1, 3, 2; the largest are 7 (.5), 5 (.4) and 3 (.35), which grows again
            (4, "...1 .111"),  # drops all; the largest are 7, 5, 3 and 6
        ],
    )
    def test_moves_as_many_connections_as_told(self, n_update, expected):
        new = drop_and_grow(self.mask, self.weight.abs(), self.gradient.abs(), n_update)
        assert written(new) == written(flags(expected))

    def test_inputs_stay_as_they_are(self):
        mask, weight, gradient = self.mask.clone(), self.weight.clone(), self.gradient.clone()
        drop_and_grow(mask, weight, gradient, 2).fill_(False)
        assert torch.equal(mask, self.mask)
        assert torch.equal(weight, self.weight)
        assert torch.equal(gradient, self.gradient)

    def test_a_dropped_connection_grows_again_if_its_gradient_is_the_largest(self):
        gradient = torch.tensor([0.0, 9.0, 0.0, 0.0, 0.1, 0.4, 0.3, 0.5])
        assert written(drop_and_grow(self.mask, self.weight.abs(), gradient, 1)) == "1111...."

    def test_a_survivor_never_grows_twice(self):
        gradient = torch.tensor([99.0, 0.2, 99.0, 99.0, 0.1, 0.4, 0.3, 0.5])  # 0, 2, 3 survive: not candidates
        assert written(drop_and_grow(self.mask, self.weight.abs(), gradient, 1)) == "1.11...1"

    def test_active_zeros_rank_above_inactive_connections(self):
        # Right after growth active weights are exactly 0, as the inactive ones are.
        zeros = torch.zeros(8)
        assert written(drop_and_grow(flags("...1 1..1"), zeros, torch.arange(8.0), 0)) == "...11..1"

    def test_a_tie_in_the_drop_score_keeps_the_first(self):
        equal = torch.ones(8)
        gradient = torch.tensor([0.0, 0, 0, 0, 1, 2, 3, 4])
        assert written(drop_and_grow(self.mask, equal, gradient, 2)) == "11....11"

    def test_a_tie_in_the_grow_score_grows_the_first(self):
        # Drops 1 and 3; of 1, 3, 4..7 with equal scores the first two are 1 and 3 themselves.
        assert written(drop_and_grow(self.mask, self.weight.abs(), torch.zeros(8), 2)) == "1111...."

    def test_a_gradient_that_is_zero_everywhere_fills_by_position(self):
        # Drops 7 (.1): candidates 0, 2, 4, 6, 7 all have gradient 0, the first wins.
        mask, weight = flags(".1.1 .1.1"), torch.tensor([0, 0.4, 0, 0.3, 0, 0.2, 0, 0.1])
        assert written(drop_and_grow(mask, weight, torch.zeros(8), 1)) == "11.1.1.."

    def test_an_infinite_score_is_a_score(self):
        drop = torch.tensor([math.inf, -math.inf, math.inf, 0.3, 0, 0, 0, 0])  # dropped in the order 1, 3, 2, 0
        grow = torch.tensor([0, -math.inf, 0, 1.0, math.inf, -math.inf, math.inf, 2.0])
        assert written(drop_and_grow(self.mask, drop, grow, 1)) == "1.111..."  # 4 and 6 tie at infinity
        assert written(drop_and_grow(self.mask, drop, grow, 3)) == "1...1.11"

    def test_minus_infinity_everywhere_still_moves_the_exact_count(self):
        low = torch.full((8,), -math.inf)
        assert written(drop_and_grow(self.mask, low, low, 2)) == "1111...."
        assert written(drop_and_grow(flags(".... 1111"), low, low, 2)) == "11..11.."

    @pytest.mark.parametrize("n_update", [-1, 5])
    def test_a_count_that_does_not_fit_is_an_error(self, n_update):
        with pytest.raises(ValueError, match=rf"`n_update` in \[0, 4\], got {n_update}"):
            drop_and_grow(self.mask, self.weight, self.gradient, n_update)

    @pytest.mark.parametrize("n_grow", [-1, 4, 9])
    def test_more_growth_than_there_is_room_for_is_an_error(self, n_grow):
        mask = torch.tensor([True, True, True, False, False])
        with pytest.raises(ValueError, match=rf"`n_grow` in \[0, 3\], got {n_grow}"):
            drop_and_grow(mask, torch.arange(5.0), torch.arange(5.0), 1, n_grow)
        assert drop_and_grow(mask, torch.arange(5.0), torch.arange(5.0), 1, 3).all()


class TestNaN:
    mask = flags("1111 ....")

    @pytest.mark.parametrize("n_update", [1, 2, 3])
    @pytest.mark.parametrize("position", [0, 1, 2, 3])
    @pytest.mark.parametrize("others", [[0.4, 0.3, 0.2, 0.1], [5.0, 5.0, 5.0, 1.0]], ids=["distinct", "tied"])
    def test_nan_in_the_drop_score_is_an_error(self, n_update, position, others):
        drop = torch.tensor([*others, 0, 0, 0, 0])
        drop[position] = math.nan
        with pytest.raises(ValueError, match="NaN"):
            drop_and_grow(self.mask, drop, torch.arange(8.0), n_update)

    @pytest.mark.parametrize("n_update", [1, 2, 3])
    @pytest.mark.parametrize("position", [4, 5, 6, 7])
    @pytest.mark.parametrize("others", [[0.4, 0.3, 0.2, 0.1], [5.0, 5.0, 5.0, 5.0]], ids=["distinct", "tied"])
    def test_nan_in_the_grow_score_is_an_error(self, n_update, position, others):
        grow = torch.tensor([0, 0, 0, 0, *others])
        grow[position] = math.nan
        with pytest.raises(ValueError, match="NaN"):
            drop_and_grow(self.mask, torch.arange(8.0), grow, n_update)

    def test_nan_where_no_score_is_read_does_no_harm(self):
        drop = torch.tensor([0.4, 0.3, 0.2, 0.1, math.nan, math.nan, math.nan, math.nan])
        grow = torch.tensor([math.nan, math.nan, math.nan, 0.0, 1.0, 2.0, 3.0, 4.0])
        assert written(drop_and_grow(self.mask, drop, grow, 1)) == "111....1"

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_nan_in_topk_is_an_error(self, dtype):
        with pytest.raises(ValueError, match="NaN"):
            topk_mask(torch.tensor([1.0, math.nan, 3.0], dtype=dtype), 1)


class TestDropAndGrowInvariants:
    @pytest.mark.parametrize(
        ("shape", "density", "fraction"), itertools.product(SHAPES, (0.0, 0.1, 0.5, 0.9, 1.0), (0.0, 0.3, 1.0))
    )
    def test_counts_are_kept_and_survivors_are_the_strongest(self, shape, density, fraction):
        generator = torch.Generator().manual_seed(0)
        mask = random_mask(shape, round(density * math.prod(shape)), generator)
        weight, gradient = torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)
        n_active = int(mask.sum())
        n_update = int(fraction * n_active)
        new = drop_and_grow(mask, weight.abs(), gradient.abs(), n_update)
        assert new.shape == mask.shape
        assert new.dtype == torch.bool
        assert int(new.sum()) == n_active
        strongest = sorted(weight[mask].abs().tolist())[n_update:]
        survivors = mask & new & (weight.abs() >= min(strongest, default=math.inf))
        assert int(survivors.sum()) == n_active - n_update
        grown, passed_over = new & ~survivors, ~new
        if grown.any() and passed_over.any():
            assert gradient[grown].abs().min() >= gradient[passed_over].abs().max()

    @pytest.mark.parametrize("n_active", [0, 1])
    @pytest.mark.parametrize("n_update", [0, 1])
    def test_one_connection_stays_what_it_is(self, n_active, n_update):
        mask = torch.full((1, 1), bool(n_active))
        if n_update > n_active:
            with pytest.raises(ValueError, match=r"\[0, 0\]"):
                drop_and_grow(mask, torch.ones(1, 1), torch.ones(1, 1), n_update)
        else:
            assert torch.equal(drop_and_grow(mask, torch.ones(1, 1), torch.ones(1, 1), n_update), mask)


class TestDropAndGrowAgainstTheSlowWitness:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
    @pytest.mark.parametrize("levels", [1, 2, 4, 50])
    def test_agrees_on_scores_with_many_ties(self, levels, dtype):
        generator = torch.Generator().manual_seed(levels)
        for trial in range(60):
            size = int(torch.randint(1, 25, (), generator=generator))
            mask = torch.rand(size, generator=generator) < 0.1 + 0.2 * (trial % 5)
            drop = torch.randint(levels, (size,), generator=generator).to(dtype)
            grow = torch.randint(levels, (size,), generator=generator).to(dtype)
            for n_update in range(int(mask.sum()) + 1):
                expected = slow_drop_and_grow(mask.tolist(), drop.tolist(), grow.tolist(), n_update)
                assert drop_and_grow(mask, drop, grow, n_update).tolist() == expected, (mask, drop, grow, n_update)

    @pytest.mark.parametrize("shape", [(3, 4), (4, 3, 3, 2), (2, 3, 2, 3, 2)])
    def test_row_major_order_decides_ties_in_every_memory_layout(self, shape):
        generator = torch.Generator().manual_seed(1)
        mask = torch.rand(shape, generator=generator) < 0.5
        drop = torch.randint(2, shape, generator=generator).float()
        grow = torch.randint(2, shape, generator=generator).float()
        n_update = int(mask.sum()) // 2
        expected = slow_drop_and_grow(*(t.flatten().tolist() for t in (mask, drop, grow)), n_update)
        for order in itertools.permutations(range(len(shape))) if len(shape) < 5 else [(4, 2, 0, 3, 1)]:
            inverse = [order.index(i) for i in range(len(shape))]
            relaid = [t.permute(order).contiguous().permute(inverse) for t in (mask, drop, grow)]
            assert drop_and_grow(*relaid, n_update).flatten().tolist() == expected

    def test_channels_last_changes_nothing(self):
        generator = torch.Generator().manual_seed(2)
        mask = torch.rand(6, 5, 3, 3, generator=generator) < 0.3
        scores = torch.randint(3, (2, 6, 5, 3, 3), generator=generator).float()
        expected = slow_drop_and_grow(mask.flatten().tolist(), *(s.flatten().tolist() for s in scores), 20)
        last = [t.contiguous(memory_format=torch.channels_last) for t in (mask, *scores)]
        assert not last[1].is_contiguous()
        assert drop_and_grow(*last, 20).flatten().tolist() == expected

    def test_a_parameter_that_requires_grad_may_be_the_score(self):
        weight = torch.nn.Parameter(torch.tensor([3.0, 1.0, 2.0]))
        assert written(topk_mask(weight, 2)) == "1.1"


class TestTopk:
    @pytest.mark.parametrize("n_active", range(6))
    def test_keeps_the_largest_and_of_equals_the_first(self, n_active):
        score = torch.tensor([1.0, 3.0, 2.0, 3.0, 2.0])
        order = [1, 3, 2, 4, 0]
        assert topk_mask(score, n_active).nonzero().flatten().tolist() == sorted(order[:n_active])

    @pytest.mark.parametrize("shape", SHAPES)
    def test_agrees_with_a_stable_sort(self, shape):
        score = torch.randint(5, shape, generator=torch.Generator().manual_seed(3)).float()
        for n_active in (0, 1, score.numel() // 2, score.numel()):
            order = torch.sort(score.flatten(), descending=True, stable=True).indices[:n_active]
            expected = torch.zeros(score.numel(), dtype=torch.bool).index_fill(0, order, True)
            assert torch.equal(topk_mask(score, n_active), expected.view(shape))

    def test_minus_zero_and_zero_are_equal(self):
        assert written(topk_mask(torch.tensor([-0.0, 0.0, -0.0, 0.0]), 2)) == "11.."

    @pytest.mark.parametrize("n_active", [-1, 4])
    def test_a_count_that_does_not_fit_is_an_error(self, n_active):
        with pytest.raises(ValueError, match=r"`n_active` in \[0, 3\]"):
            topk_mask(torch.ones(3), n_active)


def test_the_choice_does_not_depend_on_the_number_of_threads():
    generator = torch.Generator().manual_seed(4)
    size = 300_000
    mask = torch.rand(size, generator=generator) < 0.2
    drop, grow = (torch.randint(50, (size,), generator=generator).float() for _ in range(2))
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        assert torch.get_num_threads() == threads
        results += [drop_and_grow(mask, drop, grow, 20_000)]
        results += [drop_and_grow(mask, drop.bfloat16(), grow.bfloat16(), 20_000)]  # 0..49 are exact in bfloat16

    survivors = mask & ~topk_mask_by_sort(-drop, 20_000, mask, last=True)
    expected = survivors | topk_mask_by_sort(grow, 20_000, ~survivors)
    assert all(torch.equal(result, expected) for result in results)


def topk_mask_by_sort(score, count, among, last=False):
    """Witness by numpy's lexsort: highest score first, then lowest index (or the highest one)."""
    indices = among.nonzero().flatten().numpy()
    order = np.lexsort((-indices if last else indices, -score.numpy()[indices]))
    return torch.zeros(len(score), dtype=torch.bool).index_fill(0, torch.from_numpy(indices[order[:count]]), True)


class TestRandomMask:
    @pytest.mark.parametrize("shape", SHAPES)
    def test_has_the_exact_count_for_every_count(self, shape):
        for n_active in range(min(math.prod(shape), 20) + 1):
            mask = random_mask(shape, n_active, torch.Generator().manual_seed(n_active))
            assert (tuple(mask.shape), mask.dtype, int(mask.sum())) == (shape, torch.bool, n_active)

    def test_every_position_is_as_likely(self):
        generator = torch.Generator().manual_seed(5)
        counts = sum(random_mask((10,), 3, generator).int() for _ in range(3000))
        # Binomial(3000, .3): mean 900, standard deviation 25.
        assert counts.min() > 800
        assert counts.max() < 1000

    def test_depends_on_its_generator_only(self):
        first = random_mask((6, 6), 12, torch.Generator().manual_seed(6))
        torch.manual_seed(123)
        torch.rand(5)
        state = torch.get_rng_state()
        assert torch.equal(random_mask((6, 6), 12, torch.Generator().manual_seed(6)), first)
        assert not torch.equal(random_mask((6, 6), 12, torch.Generator().manual_seed(7)), first)
        assert torch.equal(torch.get_rng_state(), state)

    def test_a_count_that_does_not_fit_is_an_error(self):
        with pytest.raises(ValueError, match=r"\[0, 6\], got 7"):
            random_mask((2, 3), 7, torch.Generator())


class TestPacking:
    def test_eight_connections_are_one_byte_first_connection_highest(self):
        assert pack_mask(flags("1... ...1")).tolist() == [0b10000001]
        assert pack_mask(flags("1... ...1 1")).tolist() == [0b10000001, 0b10000000]

    @pytest.mark.parametrize("shape", [*SHAPES, (0,), (2, 0)])
    def test_comes_back_as_it_was(self, shape):
        mask = torch.rand(shape, generator=torch.Generator().manual_seed(8)) < 0.5
        bits = pack_mask(mask)
        assert (bits.dtype, bits.numel()) == (torch.uint8, math.ceil(math.prod(shape) / 8))
        back = unpack_mask(bits, shape)
        assert back.dtype == torch.bool
        assert torch.equal(back, mask)

    def test_bits_are_in_row_major_order_whatever_the_layout(self):
        mask = torch.rand(4, 3, 2, 2, generator=torch.Generator().manual_seed(9)) < 0.5
        by_hand = int("".join(str(int(bit)) for bit in mask.flatten().tolist()), 2).to_bytes(6, "big")
        assert bytes(pack_mask(mask.contiguous(memory_format=torch.channels_last)).tolist()) == by_hand

    @pytest.mark.parametrize("shape", [(8,), (17,), (3, 6)])
    def test_a_wrong_size_is_an_error(self, shape):
        with pytest.raises(ValueError, match="got 2"):
            unpack_mask(torch.zeros(2, dtype=torch.uint8), shape)

    def test_the_unpacked_mask_may_be_changed(self):
        mask = unpack_mask(pack_mask(flags("11..")), (4,))
        mask[3] = True
        assert written(mask) == "11.1"
