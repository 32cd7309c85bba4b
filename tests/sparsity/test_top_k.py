"""Methods whose masks are the largest weights: annealed top-k, AC/DC and SR-STE."""

import pytest
import torch
from torch import nn

from rigl_lightning.sparsity import (
    ACDC,
    DNW,
    NM,
    SRSTE,
    AnnealedTopK,
    Sparsifier,
    Uniform,
    Unstructured,
    UpdateSchedule,
)
from rigl_lightning.sparsity.costs.training import planned_training_flops
from rigl_lightning.sparsity.fan_in import topk_with_minimum_fan_in
from rigl_lightning.sparsity.scores import Connections
from rigl_lightning.sparsity.transposable import TransposableNM
from tests.helpers.small_training import flags, small_network, sparsify, train, written

EVERYWHERE = Uniform(first_layer_dense=False)
WEIGHT = torch.tensor([0.9, 0.1, 0.5, 0.3, -1.0, 0.2, 0.4, 0.6])
SHAPES = {"a": (10, 10), "b": (5, 20)}


def step(weight, sparsifier, gradient, optimizer=None):
    optimizer = optimizer or torch.optim.SGD([weight], 0.1)
    optimizer.zero_grad()
    (torch.tensor(gradient) * weight).sum().backward()
    sparsifier.before_step(optimizer)
    optimizer.step()
    sparsifier.after_step(optimizer)


class TestAnnealedTopK:
    def of_eight(self, sparsity=0.5, **settings):
        weight = nn.Parameter(WEIGHT.clone())
        settings = {"anneal_end": 0, "min_fan_in": 0, "distribution": EVERYWHERE, **settings}
        return weight, Sparsifier({"w": weight}, AnnealedTopK(sparsity, **settings), total_steps=100)

    def test_weights_that_are_not_among_the_largest_become_zero_and_start_from_there(self):
        weight, sparsifier = self.of_eight()
        assert written(sparsifier.masks["w"]) == "1.1.1..1"
        # Index 1 was 0.1 and is zero; a gradient of -4 brings it to 0.4, where 0.1 would have made it 0.5.
        step(weight, sparsifier, [0.0, -4.0, 2.5, 0.0, 0.0, 0.0, 0.0, 0.0])
        assert written(sparsifier.masks["w"]) == "11..1..1"  # index 2 fell from 0.5 to 0.25
        torch.testing.assert_close(weight.detach(), torch.tensor([0.9, 0.4, 0.0, 0.0, -1.0, 0.0, 0.0, 0.6]))

    def test_momentum_of_zeroed_weights_is_theirs(self):
        weight, sparsifier = self.of_eight()
        optimizer = torch.optim.SGD([weight], 0.1, momentum=0.9)
        for _ in range(3):  # 0.1, then 0.19, then 0.271 from zero: not yet among the four largest
            step(weight, sparsifier, [0.0, -1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0], optimizer)
            assert written(sparsifier.masks["w"]) == "1.1.1..1"
        for _ in range(4):  # 0.344, 0.410, 0.469, 0.522
            step(weight, sparsifier, [0.0, -1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0], optimizer)
        assert written(sparsifier.masks["w"]) == "11..1..1"
        assert weight[1].item() == pytest.approx(0.1 * sum(0.9**k for k in range(7)))

    def test_the_number_of_weights_falls_linearly_over_half_of_the_training(self):
        algorithm = AnnealedTopK(0.8, EVERYWHERE).resolve(100)
        sparsities = [algorithm.layer_sparsities(SHAPES, n)["a"] for n in (0, 1, 26, 51, 80)]
        assert sparsities == pytest.approx([0.0, 0.0, 0.4, 0.8, 0.8])

    def test_every_unit_keeps_its_largest_few(self):
        weight = nn.Parameter(torch.tensor([[9.0, 8.0, 7.0, 6.0], [1.0, 3.0, 2.0, 0.5]]))
        algorithm = AnnealedTopK(0.5, EVERYWHERE, anneal_end=0, min_fan_in=1)
        masks = Sparsifier({"w": weight}, algorithm, total_steps=10).masks
        assert written(masks["w"]) == "111..1.."

    def test_a_network_learns(self):
        model = small_network()
        optimizer = torch.optim.Adam(model.parameters(), 0.01)
        sparsifier = sparsify(model, AnnealedTopK(0.7), total_steps=30)
        train(model, optimizer, sparsifier, range(30))
        assert sparsifier.total_density() == pytest.approx(0.3, abs=0.01)
        assert sparsifier.exploration() == 1.0


class TestMinimumFanIn:
    def test_it_gives_way_where_there_are_too_few_connections(self):
        score = torch.arange(12.0).view(3, 4)
        assert topk_with_minimum_fan_in(score, 5, 4).sum(1).tolist() == [1, 1, 3]
        assert topk_with_minimum_fan_in(score, 2, 4).sum(1).tolist() == [0, 0, 2]

    def test_where_all_have_enough_it_changes_nothing(self):
        score = torch.tensor([[4.0, 1.0], [3.0, 2.0]])
        assert topk_with_minimum_fan_in(score, 2, 1).int().tolist() == [[1, 0], [1, 0]]

    def test_a_structure_has_a_rule_of_its_own(self):
        with pytest.raises(ValueError, match="min_fan_in"):
            DNWWithBoth()


class DNWWithBoth(DNW):
    structure, min_fan_in = NM(), 2


class TestACDC:
    def test_the_phases_are_those_of_the_authors_for_100_epochs(self):
        changes = ACDC(0.9).resolve(100).further_updates()
        assert changes[:4] == [10, 15, 20, 25]  # compressed, dense, compressed, dense
        assert changes[-3:] == [70, 75, 85]  # the last dense phase has ten epochs, the last compressed one fifteen
        assert len(changes) % 2 == 1

    def test_it_is_dense_and_sparse_by_turns(self):
        algorithm = ACDC(0.8, EVERYWHERE, warm_up=2, phase=3, last=9).resolve(20)
        sparsities = [algorithm.layer_sparsities(SHAPES, n)["a"] for n in range(12)]
        assert sparsities == [0, 0, 0, 0.8, 0.8, 0.8, 0, 0, 0, 0, 0.8, 0.8]

    def test_a_dense_phase_trains_all_weights_from_zero_and_no_parameter_keeps_its_momentum(self):
        weight, bias = nn.Parameter(WEIGHT.clone()), nn.Parameter(torch.ones(8))
        algorithm = ACDC(0.5, EVERYWHERE, warm_up=0, phase=1, last=3)
        optimizer = torch.optim.SGD([weight, bias], 0.1, momentum=0.9)
        sparsifier = Sparsifier({"w": weight}, algorithm)
        ones = [1.0] * 8
        for mask in ("1.1.1..1", "11111111"):  # dense, then compressed; compressed, then dense
            optimizer.state[bias]["momentum_buffer"] = torch.ones(8)
            step(weight, sparsifier, ones, optimizer)
            assert written(sparsifier.masks["w"]) == mask
            assert weight[1].item() == 0
        assert not optimizer.state[weight]["momentum_buffer"].any()  # of the survivors neither, as in manager.py
        assert not optimizer.state[bias]["momentum_buffer"].any()
        step(weight, sparsifier, ones, optimizer)
        assert optimizer.state[weight]["momentum_buffer"].tolist() == ones

    def test_a_global_ranking_ranks_all_layers_together(self):
        layers = {"a": layer((0.9, 0.8, 0.7, 0.6)), "b": layer((0.1, 0.2, 0.3, 0.4))}
        both = {g: ACDC(0.5, EVERYWHERE, g, 0, 1, 2).update_masks(layers, 0, {}) for g in (True, False)}
        assert [written(m) for m in both[True].values()] == ["111.", "...1"]
        assert [written(m) for m in both[False].values()] == ["11..", "..11"]

    def test_what_it_costs(self):
        algorithm = ACDC(0.9, EVERYWHERE).resolve(1000)
        compressed = (7 * 50 + 149) / 1000
        cost = planned_training_flops(algorithm, {"a": (10, 10)}, {"a": 200}, 1000)
        assert cost == pytest.approx(1 - compressed * 0.9, abs=0.002)

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"last": 200}, "before the end of training, 100 steps, got 200"),
            ({"warm_up": 0.9}, "from `warm_up`, step 90"),
        ],
    )
    def test_phases_outside_of_the_training_are_refused(self, settings, message):
        with pytest.raises(ValueError, match=message):
            ACDC(**settings).resolve(100)

    def test_a_phase_of_no_length_is_refused(self):
        with pytest.raises(ValueError, match=r"`phase` above 0.*Set `phase` of"):
            ACDC(phase=0)


def layer(weight, mask=None):
    weight = torch.tensor(weight)
    return Connections(weight, torch.ones_like(weight, dtype=torch.bool) if mask is None else flags(mask))


class TestSRSTE:
    def test_the_largest_of_each_group_compute_and_all_learn(self):
        weight = nn.Parameter(WEIGHT.clone().view(1, 8))
        sparsifier = Sparsifier({"w": weight}, SRSTE(0.5, EVERYWHERE, penalty=0.0), total_steps=10)
        assert written(sparsifier.masks["w"]) == "1.1.1..1"  # by fours: .9 .5, 1.0 .6
        step(weight, sparsifier, [[0.0, -9.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]])
        assert written(sparsifier.masks["w"]) == "11..1..1"  # 0.1 kept its value and is 1.0 now
        assert weight[0, 1].item() == pytest.approx(1.0)

    def test_the_refining_term_by_hand(self):
        penalty = SRSTE(penalty=0.3).penalty_gradient(layer((0.9, 0.1, -0.5), "1.."))
        torch.testing.assert_close(penalty, torch.tensor([0.0, 0.03, -0.15]))

    def test_transposable_masks_are_two_of_four_both_ways_at_every_step(self):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4))
        optimizer = torch.optim.SGD(model.parameters(), 0.5)
        weights = {"0": model[0].weight, "2": model[2].weight}
        sparsifier = Sparsifier(weights, SRSTE(0.5, EVERYWHERE, structure=TransposableNM()), total_steps=9)
        seen = set()
        for number in range(9):
            model.zero_grad()
            model(torch.randn(8, 16, generator=torch.Generator().manual_seed(number))).square().mean().backward()
            sparsifier.before_step(optimizer)
            optimizer.step()
            sparsifier.after_step(optimizer)
            seen.add(sparsifier.checksums()["0"])
            for mask in sparsifier.masks.values():
                blocks = mask.view(mask.shape[0] // 4, 4, mask.shape[1] // 4, 4)
                assert (blocks.sum(1) == 2).all()
                assert (blocks.sum(3) == 2).all()
        assert len(seen) > 1

    def test_without_a_term_and_a_structure_it_is_dnw(self):
        results = []
        for algorithm in (DNW(0.7), SRSTE(0.7, DNW().distribution, penalty=0.0, structure=Unstructured())):
            model = small_network()
            optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
            sparsifier = sparsify(model, algorithm, total_steps=12)
            train(model, optimizer, sparsifier, range(12))
            results.append(sparsifier.checksums())
        assert results[0] == results[1]

    def test_updates_may_be_steps_apart(self):
        algorithm = SRSTE(schedule=UpdateSchedule(5, 0, 20))
        assert list(algorithm.resolve(30).update_steps()) == [0, 5, 10, 15]
