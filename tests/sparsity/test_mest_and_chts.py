"""Drop and grow of MEST and CHTs, by hand."""

import pytest
import torch

from rigl_lightning.sparsity import MEST, SET, CHTs, SparsityRamp, Uniform, UpdateSchedule
from rigl_lightning.sparsity.paths import local_paths, soft_order
from rigl_lightning.sparsity.schedules import constant, sigmoid
from rigl_lightning.sparsity.scores import Connections, length_three_paths, relative_importance
from tests.helpers.small_training import flags

EVERYWHERE = Uniform(first_layer_dense=False)
WINDOW = UpdateSchedule(1, 0, 10)


def seen(mask, weight, gradient=None, seed=0):
    gradient = None if gradient is None else torch.tensor(gradient)
    gradient = None if gradient is None else gradient.view(1, -1)
    generator = torch.Generator().manual_seed(seed)
    return Connections(torch.tensor(weight).view(1, -1), flags(mask).view(1, -1), generator, gradient)


class TestMEST:
    LAYER = ("1111....", (0.1, 0.2, 0.3, 0.4, 0.0, 0.0, 0.0, 0.0), (9.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0))

    def test_a_small_weight_with_a_large_gradient_stays(self):
        for gradient_weight, dropped in ((0.0, 0), (0.1, 1)):
            algorithm = MEST(0.5, EVERYWHERE, WINDOW, 0.25, constant, gradient_weight=gradient_weight)
            (new,) = algorithm.update_masks({"a": seen(*self.LAYER)}, 0, {}).values()
            survivors = [i for i in range(4) if i != dropped]
            assert all(new[0, i] for i in survivors)
            assert new.sum() == 4

    def test_without_gradients_it_is_set(self):
        for seed in range(5):
            layers = {"a": seen(*self.LAYER[:2], seed=seed)}
            mest = MEST(0.5, EVERYWHERE, WINDOW, 0.5, constant, gradient_weight=0.0).update_masks(layers, 0, {})
            layers = {"a": seen(*self.LAYER[:2], seed=seed)}
            random = SET(0.5, EVERYWHERE, WINDOW, 0.5, constant).update_masks(layers, 0, {})
            assert torch.equal(mest["a"], random["a"])

    def test_the_fraction_falls_in_the_authors_two_steps(self):
        algorithm = MEST(0.9).resolve(160)  # of 160 epochs: a fifth up to epoch 90, a tenth up to 120
        assert [algorithm.drop_fraction_at(epoch) for epoch in (0, 89, 90, 119)] == [0.2, 0.2, 0.1, 0.1]
        assert algorithm.schedule.end == 120

    def test_it_reads_the_gradient_unless_lambda_is_zero(self):
        assert MEST().reads_gradient
        assert not MEST(gradient_weight=0.0).reads_gradient

    def test_a_soft_memory_bound_is_a_ramp(self):
        algorithm = MEST(SparsityRamp(0.85, 0.9, end=0.7)).resolve(1000)
        assert algorithm.layer_sparsities({"a": (10, 10)}, 1000) == pytest.approx({"a": 0.9})


def slowly(mask):
    """The sum over the middles of the paths, written out."""
    units, inputs = mask.shape
    of_unit = [{v for v in range(inputs) if mask[u, v]} for u in range(units)]
    of_input = [{u for u in range(units) if mask[u, v]} for v in range(inputs)]
    score = torch.zeros(mask.shape, dtype=torch.float64)
    for u in range(units):
        for v in range(inputs):
            for z in of_input[v] - {u}:  # u - an input they share - z - v
                shared = len(of_unit[u] & of_unit[z])
                score[u, v] += shared / (1 + max(len(of_unit[z]) - shared - 1, 0))
            for z in of_unit[u] - {v}:  # v - a unit they share - z - u
                shared = len(of_input[v] & of_input[z])
                score[u, v] += shared / (1 + max(len(of_input[z]) - shared - 1, 0))
    return score


class TestPaths:
    @pytest.mark.parametrize("seed", range(5))
    def test_the_score_is_the_sum_over_the_middles(self, seed):
        mask = torch.rand(7, 9, generator=torch.Generator().manual_seed(seed)) < 0.3
        expected, found = slowly(mask), local_paths(mask)
        torch.testing.assert_close(found[~mask], expected[~mask])

    def test_where_no_path_leads_it_is_zero(self):
        mask = torch.tensor([[True, False], [False, True]])
        assert not local_paths(mask)[~mask].any()

    def test_a_weight_stored_inputs_first_has_the_same_paths(self):
        mask = torch.rand(6, 8, generator=torch.Generator().manual_seed(1)) < 0.4
        plain = length_three_paths(Connections(torch.zeros(6, 8), mask))
        turned = length_three_paths(Connections(torch.zeros(8, 6), mask.t(), inputs_first=True))
        torch.testing.assert_close(turned.t(), plain)

    def test_a_kernel_position_is_an_input(self):
        mask = torch.rand(4, 2, 3, 3, generator=torch.Generator().manual_seed(2)) < 0.3
        found = length_three_paths(Connections(torch.zeros(4, 2, 3, 3), mask))
        torch.testing.assert_close(found.flatten(1), local_paths(mask.flatten(1)))


def test_relative_importance_by_hand():
    score = relative_importance(Connections(torch.tensor([[1.0, -3.0], [0.0, 1.0]]), flags("11.1").view(2, 2)))
    torch.testing.assert_close(score, torch.tensor([[0.25 + 1.0, 0.75 + 0.75], [0.0, 1.0 + 0.25]]))


class TestSoftSampling:
    def test_one_is_drawn_in_proportion_to_its_score(self):
        generator, score = torch.Generator().manual_seed(0), torch.tensor([1.0, 2.0, 5.0, 0.0])
        drawn = torch.stack([soft_order(score, generator) for _ in range(4000)]).argmax(1)
        shares = torch.bincount(drawn, minlength=4) / 4000
        torch.testing.assert_close(shares, torch.tensor([0.125, 0.25, 0.625, 0.0]), atol=0.025, rtol=0)

    def test_a_score_of_zero_comes_last(self):
        order = soft_order(torch.tensor([0.0, 1e-30, 0.0, 1.0]), torch.Generator().manual_seed(3))
        assert order.argsort(descending=True)[:2].tolist() == [3, 1]


class TestCHTs:
    def test_what_no_path_leads_to_grows_last(self):
        # Units 0 and 1 share input 0; unit 1 has input 1 too: the path 0 - 0 - 1 - 1 asks for (0, 1) alone.
        mask, weight = "1...11......", [[1.0, 0.0, 0.0, 0.0], [9.0, 9.0, 0.0, 0.0], [0.0] * 4]
        layer = Connections(torch.tensor(weight), flags(mask).view(3, 4), torch.Generator().manual_seed(0))
        drop, grow = CHTs(0.75, EVERYWHERE, WINDOW).update_scores(layer, 0, 0)
        assert torch.equal(drop.isfinite(), torch.ones(3, 4, dtype=torch.bool))
        inactive = grow.masked_fill(layer.mask, -torch.inf)
        assert inactive.argmax().item() == 1

    def test_growth_sees_what_is_left_after_the_drop(self):
        layer = seen("11111111", [1.0] * 8)
        new = CHTs(0.5, EVERYWHERE, WINDOW, drop_fraction=1.0).update_masks({"a": layer}, 0, {})
        assert new["a"].sum() == 8

    def test_the_drop_becomes_harder(self):
        algorithm = CHTs(schedule=UpdateSchedule(1, 0, 100))
        assert [algorithm.power_at(step) for step in (0, 50, 100)] == pytest.approx([1, 2, 3])
        assert CHTs(first_softness=0.0, last_softness=0.0).resolve(100).power_at(3) == 0

    def test_large_weights_stay_more_often(self):
        kept = torch.zeros(4)
        for seed in range(300):
            layer = seen("1111....", (0.1, 0.1, 0.4, 0.4, 0.0, 0.0, 0.0, 0.0), seed=seed)
            drop, _ = CHTs(0.5, EVERYWHERE, WINDOW).update_scores(layer, 0, 2)
            kept[drop[0, :4].topk(2).indices] += 1 / 300
        assert kept[2:].min() > kept[:2].max() + 0.2

    def test_no_gradient_is_read(self):
        algorithm = CHTs().resolve(1000)
        assert not any(algorithm.needs_dense_gradient(step) for step in algorithm.update_steps())

    def test_with_a_sigmoid_it_is_chtss(self):
        algorithm = CHTs(SparsityRamp(0.5, 0.9, end=0.5, decay=sigmoid), schedule=UpdateSchedule(1)).resolve(1000)
        density = [1 - algorithm.layer_sparsities({"a": (10, 10)}, step)["a"] for step in (0, 251, 1000)]
        assert density == pytest.approx([0.5, 0.3, 0.1], abs=0.02)

    @pytest.mark.parametrize("name", ["first_softness", "last_softness"])
    def test_a_softness_of_one_is_refused(self, name):
        with pytest.raises(ValueError, match=rf"`{name}` in \[0, 1\).*Set `{name}` of"):
            CHTs(**{name: 1.0})
