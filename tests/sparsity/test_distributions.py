import itertools
import math
from types import MappingProxyType

import pytest
import torch

from rigl_lightning.sparsity.distributions import ErdosRenyi, Uniform, active_counts, n_active
from rigl_lightning.sparsity.parameters import select_parameters

NET = {
    "stem.weight": (8, 3, 3, 3),
    "conv.weight": (16, 8, 3, 3),
    "skip.weight": (16, 8, 1, 1),
    "fc.weight": (10, 16),
}
SIZES = {name: math.prod(shape) for name, shape in NET.items()}  # 216, 1152, 128, 160


def shapes_of(module, *excluded):
    return {n: tuple(p.shape) for n, p in select_parameters(module, exclude=excluded).items()}


class TestRounding:
    @pytest.mark.parametrize(
        ("numel", "sparsity", "active"),
        [
            (10, 0.0, 10),
            (10, 0.75, 3),  # 7.5 zeros round down to 7
            (10, 0.99, 1),
            (1, 0.99, 1),
            (100, 0.29, 71),  # 0.29 * 100 = 28.999999999999996
            (100, 0.57, 43),  # 0.57 * 100 = 56.99999999999999
            (2359296, 0.9, 235930),  # 2123366.4 zeros
            (10, 1.0, 0),
        ],
    )
    def test_zeros_round_down(self, numel, sparsity, active):
        assert n_active(numel, sparsity) == active

    @pytest.mark.parametrize("percent", range(100))
    def test_whole_products_are_exact(self, percent):
        assert n_active(100, percent / 100) == 100 - percent
        assert n_active(700_000, percent / 100) == 7_000 * (100 - percent)


class TestActiveCounts:
    def test_the_largest_remainder_gets_what_is_left_over(self):
        # 2.5 + 3.75 + 1.25 active of 7.5 in all: zeros 22.5 round down to 22, so 8 are active.
        shapes = {"a": (10,), "b": (10,), "c": (10,)}
        counts = active_counts(shapes, {"a": 0.75, "b": 0.625, "c": 0.875})
        assert counts == {"a": 3, "b": 4, "c": 1}  # floors 2, 3, 1; the two left over go to .75 and .5

    def test_of_equal_remainders_the_first_layer_wins(self):
        shapes = dict.fromkeys("abcd", (5,))
        assert active_counts(shapes, dict.fromkeys("abcd", 0.5)) == {"a": 3, "b": 3, "c": 2, "d": 2}

    def test_every_layer_keeps_a_connection(self):
        shapes = {"big": (100, 10), "tiny": (2, 2)}
        assert active_counts(shapes, {"big": 0.99, "tiny": 0.99}) == {"big": 10, "tiny": 1}  # 10.04 rounds up to 11

    def test_a_layer_of_size_one_stays(self):
        assert active_counts({"a": (1, 1)}, {"a": 0.9}) == {"a": 1}

    def test_many_tiny_layers_still_end(self):
        shapes = {str(i): (2, 2) for i in range(50)}
        assert set(active_counts(shapes, dict.fromkeys(shapes, 0.99)).values()) == {1}

    @pytest.mark.parametrize(
        ("sparsity", "distribution"),
        itertools.product(
            (0.0, 0.1, 0.33, 0.5, 0.777, 0.9, 0.95),
            (ErdosRenyi(), ErdosRenyi(kernel=False), ErdosRenyi(power=0.5), Uniform(first_layer_dense=False)),
        ),
    )
    def test_the_total_is_exact_and_no_layer_is_off_by_more_than_one(self, sparsity, distribution):
        sparsities = distribution(NET, sparsity)
        counts = active_counts(NET, sparsities)
        assert list(counts) == list(NET)
        assert sum(counts.values()) == n_active(sum(SIZES.values()), sparsity)
        for name, count in counts.items():
            assert 1 <= count <= SIZES[name]
            assert abs(count - (1 - sparsities[name]) * SIZES[name]) < 1 + 1e-6

    @pytest.mark.parametrize("sparsity", [0.8, 0.9, 0.95, 0.965, 0.99])
    def test_resnet50_has_exactly_the_connections_asked_for(self, resnet50, sparsity):
        shapes = shapes_of(resnet50)
        counts = active_counts(shapes, ErdosRenyi()(shapes, sparsity))
        assert sum(counts.values()) == 25_502_912 - math.floor(sparsity * 25_502_912)


class TestUniform:
    def test_the_first_layer_stays_dense_and_is_not_made_up_for(self):
        assert Uniform()(NET, 0.9) == {
            "stem.weight": 0.0,
            "conv.weight": 0.9,
            "skip.weight": 0.9,
            "fc.weight": 0.9,
        }

    def test_the_first_layer_may_be_sparse(self):
        assert set(Uniform(first_layer_dense=False)(NET, 0.9).values()) == {0.9}

    def test_named_layers_stay_dense(self):
        assert Uniform(dense=("fc", "s*"))(NET, 0.9) == {**dict.fromkeys(NET, 0.0), "conv.weight": 0.9}

    def test_a_custom_sparsity_wins_over_the_dense_first_layer(self):
        sparsities = Uniform(custom={"stem": 0.5, "fc": 0.25})(NET, 0.9)
        assert list(sparsities.items()) == [
            ("stem.weight", 0.5),
            ("conv.weight", 0.9),
            ("skip.weight", 0.9),
            ("fc.weight", 0.25),
        ]


class TestErdosRenyiByHand:
    # a: 20 / 100 = .2, b: 40 / 300 = .1333; budget 200 = eps (20 + 40), eps = 10/3; densities 2/3 and 4/9.
    shapes = MappingProxyType({"a": (10, 10), "b": (30, 10)})

    def test_density_follows_the_ratio(self):
        assert ErdosRenyi()(self.shapes, 0.5) == pytest.approx({"a": 1 / 3, "b": 5 / 9})

    def test_a_surplus_goes_to_the_others(self):
        # Budget 320: eps = 16/3 gives a density 1.07, so a is dense and b gets 220 of 300.
        sparsities = ErdosRenyi()(self.shapes, 0.2)
        assert sparsities["a"] == 0
        assert sparsities["b"] == pytest.approx(80 / 300)

    def test_layers_of_equal_ratio_saturate_together(self):
        # a and c: 20 / 100; b: 110 / 1000. Budget 480 = eps (40 + 110) gives eps 3.2: nothing saturates, a .64.
        # Budget 780: eps 5.2, a and c 1.04: both dense; b gets 580 of 1000.
        shapes = {"a": (10, 10), "b": (100, 10), "c": (10, 10)}
        assert ErdosRenyi()(shapes, 0.6)["c"] == pytest.approx(0.36)
        assert ErdosRenyi()(shapes, 0.35) == pytest.approx({"a": 0, "b": 0.42, "c": 0})

    def test_kernel_sizes_count_in_erk_only(self):
        # ERK: (4 + 2 + 3 + 3) / 72 = 1/6, 6 / 8 = 3/4. ER: 6 / 8 for both, so both have the same density.
        shapes = {"conv": (4, 2, 3, 3), "fc": (4, 2)}
        assert ErdosRenyi(kernel=False)(shapes, 0.5) == pytest.approx({"conv": 0.5, "fc": 0.5})
        # Budget 40 = eps (12 + 6): eps 2.22, fc 1.67 > 1: dense; conv gets 32 of 72.
        assert ErdosRenyi()(shapes, 0.5) == pytest.approx({"conv": 40 / 72, "fc": 0})

    def test_power_zero_is_the_same_density_everywhere(self):
        assert ErdosRenyi(power=0)(NET, 0.7) == pytest.approx(dict.fromkeys(NET, 0.7))

    def test_power_is_an_exponent_on_the_ratio(self):
        # Power 2: .04 and .01778; budget 200 = eps (4 + 16/3): eps 150/7.
        sparsities = ErdosRenyi(power=2)(self.shapes, 0.5)
        assert sparsities == pytest.approx({"a": 1 - 6 / 7, "b": 1 - (150 / 7) * (2 / 15) ** 2})

    def test_a_dense_layer_is_made_up_for(self):
        # Budget 300 of 400 minus 100 for a: 200 of 300 in b.
        assert ErdosRenyi(dense=("a",))({"a": (10, 10), "b": (30, 10)}, 0.25) == pytest.approx({"a": 0, "b": 1 / 3})

    def test_a_custom_layer_is_outside_the_total(self):
        assert ErdosRenyi(custom={"a": 0.9})(self.shapes, 0.25) == pytest.approx({"a": 0.9, "b": 0.25})

    def test_custom_for_all_layers_leaves_nothing_to_share(self):
        assert ErdosRenyi(custom={"*": 0.3})(self.shapes, 0.9) == {"a": 0.3, "b": 0.3}


class TestErdosRenyiInvariants:
    @pytest.mark.parametrize(
        ("kernel", "power", "sparsity"),
        itertools.product((True, False), (0.5, 1.0, 2.0), (0.0, 0.01, 0.3, 0.5, 0.8, 0.9, 0.97)),
    )
    def test_the_mean_sparsity_weighted_by_size_is_the_one_asked_for(self, kernel, power, sparsity):
        sparsities = ErdosRenyi(kernel=kernel, power=power)(NET, sparsity)
        zeros = math.fsum(sparsities[name] * SIZES[name] for name in NET)
        assert zeros == pytest.approx(sparsity * sum(SIZES.values()), abs=1e-6)
        assert all(0 <= s < 1 for s in sparsities.values())

    def test_the_order_of_the_layers_is_kept_and_does_not_matter(self):
        forward = ErdosRenyi()(NET, 0.8)
        backward = ErdosRenyi()(dict(reversed(NET.items())), 0.8)
        assert list(forward) == list(NET)
        assert backward == pytest.approx(forward)

    @pytest.mark.parametrize("sparsity", [0.8, 0.9, 0.95, 0.965])
    def test_free_layers_share_one_factor(self, resnet50, sparsity):
        shapes = shapes_of(resnet50)
        sparsities = ErdosRenyi()(shapes, sparsity)
        factors = [(1 - sparsities[n]) * math.prod(s) / sum(s) for n, s in shapes.items() if sparsities[n] > 0]
        assert max(factors) == pytest.approx(min(factors))
        dense = [sum(s) / math.prod(s) for n, s in shapes.items() if sparsities[n] == 0]
        assert all(ratio * max(factors) >= 1 for ratio in dense)


# Stage: first 1x1, other first 1x1s, 3x3s, last 1x1s, shortcut. Computed apart from this code from the authors'
# function (google-research/rigl d39fc7d, sparse_utils.py:90-207) and their layer list.
RESNET50 = {
    0.8: (0.143, [(0, 0, 0.638, 0, 0), (0, 0.025, 0.823, 0.025, 0.415), (0.415, 0.513, 0.913, 0.513, 0.708),
                  (0.708, 0.757, 0.957, 0.757, 0.854)], 0.852),
    0.9: (0.580, [(0, 0.041, 0.823, 0.041, 0.041), (0.425, 0.522, 0.913, 0.522, 0.713),
                  (0.713, 0.761, 0.957, 0.761, 0.857), (0.857, 0.881, 0.979, 0.881, 0.928)], 0.927),
    0.95: (0.790, [(0.226, 0.521, 0.911, 0.521, 0.521), (0.713, 0.761, 0.957, 0.761, 0.857),
                   (0.857, 0.881, 0.979, 0.881, 0.929), (0.929, 0.940, 0.989, 0.940, 0.964)], 0.964),
    0.965: (0.853, [(0.459, 0.665, 0.938, 0.665, 0.665), (0.799, 0.833, 0.970, 0.833, 0.900),
                    (0.900, 0.917, 0.985, 0.917, 0.950), (0.950, 0.958, 0.993, 0.958, 0.975)], 0.975),
}  # fmt: skip

# Skip, first 3x3, other 3x3s of each stage. The stem has no mask there (prune_first_layer=False); logits are dense.
WRN_22_2 = {
    0.5: [(0, 0, 0), (0, 0, 0.237), (0, 0.436, 0.627)],
    0.8: [(0, 0.113, 0.425), (0, 0.581, 0.725), (0, 0.797, 0.865)],
    0.9: [(0, 0.577, 0.726), (0, 0.800, 0.869), (0.146, 0.903, 0.936)],
    0.95: [(0, 0.795, 0.867), (0.163, 0.903, 0.936), (0.586, 0.953, 0.969)],
}


def resnet50_position(name):
    """(stage, column of the table) of a layer in a stage."""
    _, block, layer = name.removesuffix(".weight").split(".", 2)
    column = {"conv1": 0 if block == "0" else 1, "conv2": 2, "conv3": 3, "downsample.0": 4}[layer]
    return int(name[len("layer")]) - 1, column


@pytest.mark.parametrize("sparsity", RESNET50)
def test_erk_of_resnet50_is_the_papers_to_three_decimals(resnet50, sparsity):
    conv1, stages, fc = RESNET50[sparsity]
    sparsities = ErdosRenyi()(shapes_of(resnet50), sparsity)
    assert len(sparsities) == 54
    for name, value in sparsities.items():
        if name.startswith("layer"):
            stage, column = resnet50_position(name)
            expected = stages[stage][column]
        else:
            expected = {"conv1.weight": conv1, "fc.weight": fc}[name]
        assert value == pytest.approx(expected, abs=0.0005001), name


@pytest.mark.parametrize("sparsity", WRN_22_2)
def test_erk_of_wrn_22_2_is_the_papers_to_three_decimals(wrn_22_2, sparsity):
    sparsities = ErdosRenyi()(shapes_of(wrn_22_2, "stem"), sparsity)
    assert len(sparsities) == 22
    for name, value in sparsities.items():
        if name == "classifier.weight":
            assert value == 0
            continue
        _, stage, block, layer, _ = name.split(".")
        column = 0 if layer == "skip" else 1 if (block, layer) == ("0", "conv1") else 2
        assert value == pytest.approx(WRN_22_2[sparsity][int(stage)][column], abs=0.0005001), name


@pytest.mark.parametrize("sparsity", [0.5, 0.8, 0.9, 0.95])
def test_the_stem_of_wrn_22_2_saturates_if_it_has_a_mask(wrn_22_2, sparsity):
    with_stem = ErdosRenyi()(shapes_of(wrn_22_2), sparsity)
    without = ErdosRenyi()(shapes_of(wrn_22_2, "stem"), sparsity)
    assert with_stem["stem.weight"] == 0
    # Its 432 dense weights are then part of the budget, and the others a little sparser for it.
    assert all(0 <= with_stem[name] - without[name] < 0.007 for name in without)


class TestErrors:
    @pytest.mark.parametrize("sparsity", [1.2, -1, 1.0, math.nan, math.inf])
    @pytest.mark.parametrize("distribution", [Uniform(), ErdosRenyi()])
    def test_a_sparsity_out_of_range_is_refused_with_the_setting(self, distribution, sparsity):
        with pytest.raises(ValueError, match=r"`sparsity` in \[0, 1\), got .*Set `sparsity` of the algorithm"):
            distribution(NET, sparsity)

    @pytest.mark.parametrize("sparsity", [1.2, -1, 1.0, "0.5", None])
    def test_a_custom_sparsity_out_of_range_is_refused_with_the_setting(self, sparsity):
        with pytest.raises(ValueError, match=r"Set `custom` of the distribution for .fc.\."):
            ErdosRenyi(custom={"fc": sparsity})(NET, 0.5)

    @pytest.mark.parametrize("distribution", [Uniform, ErdosRenyi])
    def test_a_misspelt_layer_gets_a_suggestion(self, distribution):
        with pytest.raises(ValueError, match=r"distribution\.dense.*'skpi' matches none.*'skip'"):
            distribution(dense=("skpi",))(NET, 0.5)
        with pytest.raises(ValueError, match=r"distribution\.custom.*'con\.weight' matches none.*'conv\.weight'"):
            distribution(custom={"con.weight": 0.5})(NET, 0.5)

    @pytest.mark.parametrize("power", [math.nan, math.inf])
    def test_a_power_is_finite(self, power):
        with pytest.raises(ValueError, match="Expected `power` to be finite, got .* Set `power` of ErdosRenyi"):
            ErdosRenyi(power=power)

    @pytest.mark.parametrize("settings", [{"dense": (0,)}, {"custom": {0: 0.5}}])
    def test_a_pattern_is_a_text(self, settings):
        with pytest.raises(ValueError, match=r"distribution\..* to have patterns of names, got 0"):
            ErdosRenyi(**settings)(NET, 0.5)

    def test_a_budget_below_the_dense_layers_is_refused(self):
        # 10 % of 1656 is 166 connections; the stem alone has 216.
        with pytest.raises(ValueError, match=r"166 connections in all, of which 216 go to dense layers \(stem.weight"):
            ErdosRenyi(dense=("stem",))(NET, 0.9)

    def test_a_budget_below_one_connection_a_layer_is_refused(self):
        with pytest.raises(ValueError, match="leaves every layer a connection"):
            ErdosRenyi()({"a": (2, 2), "b": (2, 2)}, 0.9)

    def test_a_total_that_dense_layers_make_impossible_is_refused(self):
        with pytest.raises(ValueError, match=r"shorten `dense` of the distribution"):
            ErdosRenyi(dense=("*",))(NET, 0.5)


def test_a_sparse_model_of_one_layer_is_exact_too():
    assert ErdosRenyi()({"weight": torch.Size((10, 20))}, 0.9) == pytest.approx({"weight": 0.9})
