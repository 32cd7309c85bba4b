from types import MappingProxyType

import pytest
import torch

from rigl_lightning.sparsity.algorithms import (
    SET,
    SNFS,
    SNIP,
    Dense,
    GradualMagnitudePruning,
    RigL,
    Static,
)
from rigl_lightning.sparsity.costs.flops import trace_flops
from rigl_lightning.sparsity.costs.training import planned_inference_flops, planned_training_flops
from rigl_lightning.sparsity.distributions import ErdosRenyi, Uniform
from rigl_lightning.sparsity.parameters import select_parameters
from rigl_lightning.sparsity.schedules import UpdateSchedule

EVERYWHERE = Uniform(first_layer_dense=False)


class TestByHand:
    """One sparse layer of 200 FLOPs, of which a tenth is active, and one of 100 FLOPs that is always dense."""

    # f_S = 20 + 100 = 120, f_D = 300. A dense step costs 900, a static one 360, one with dense gradient 540.
    shapes = MappingProxyType({"sparse": (10, 10)})
    flops = MappingProxyType({"sparse": 200, "dense": 100})

    @pytest.mark.parametrize(
        ("algorithm", "inference", "ten_steps"),
        [
            (Dense(), 300, 10 * 900),
            (Static(0.9, EVERYWHERE), 120, 10 * 360),
            (SET(0.9, EVERYWHERE, UpdateSchedule(interval=4, end=8)), 120, 10 * 360),
            (RigL(0.9, EVERYWHERE, UpdateSchedule(interval=4, end=8)), 120, 8 * 360 + 2 * 540),  # at 0 and 4
            (RigL(0.9, EVERYWHERE, UpdateSchedule(interval=4, end=100)), 120, 7 * 360 + 3 * 540),  # at 0, 4 and 8
            (SNFS(0.9, EVERYWHERE, UpdateSchedule(interval=4, end=8)), 120, 10 * 540),
            (SNIP(0.9, EVERYWHERE), 120, 900 + 9 * 360),  # ranks the dense network first
        ],
        ids=lambda value: type(value).__name__ if not isinstance(value, int) else "",
    )
    def test_ten_steps(self, algorithm, inference, ten_steps):
        assert planned_inference_flops(algorithm, self.shapes, self.flops) == pytest.approx(inference / 300)
        planned = planned_training_flops(algorithm, self.shapes, self.flops, 10)
        assert planned == pytest.approx(ten_steps / 9000)

    def test_pruning_is_dense_until_an_update_has_pruned(self):
        # Ramp 2..6 every 2 steps to .8: at 2 nothing, at 4 .7, at 6 .8. Steps 0..4 dense, 5, 6 at .7, 7.. at .8.
        algorithm = GradualMagnitudePruning(0.8, EVERYWHERE, UpdateSchedule(interval=2, begin=2, end=6)).resolve(10)
        f = {0.0: 300, 0.7: 160, 0.8: 140}
        steps = [0.0] * 5 + [0.7] * 2 + [0.8] * 3
        planned = planned_training_flops(algorithm, self.shapes, self.flops, 10)
        assert planned == pytest.approx(sum(3 * f[s] for s in steps) / 9000)
        assert planned_inference_flops(algorithm, self.shapes, self.flops) == pytest.approx(140 / 300)


# Inference and RigL training at interval 100, as recomputed from the authors' counting code.
PUBLISHED = {
    (0.8, "uniform"): (0.2254, 0.2279, 0.484),
    (0.8, "ER"): (0.4546, 0.4564, 0.636),
    (0.8, "ERK"): (0.4153, 0.4172, 0.610),
    (0.9, "uniform"): (0.1285, 0.1314, 0.419),
    (0.9, "ERK"): (0.2431, 0.2456, 0.495),
    (0.95, "uniform"): (0.0801, 0.0831, 0.387),
    (0.95, "ERK"): (0.1230, 0.1259, 0.415),
    (0.965, "uniform"): (0.0656, 0.0687, 0.377),
    (0.965, "ERK"): (0.0865, 0.0895, 0.391),
}
DISTRIBUTIONS = {"uniform": Uniform(), "ER": ErdosRenyi(kernel=False), "ERK": ErdosRenyi()}


class TestResNet50:
    @pytest.fixture(scope="class")
    def shapes(self, resnet50):
        return {name: tuple(p.shape) for name, p in select_parameters(resnet50).items()}

    @pytest.fixture(scope="class")
    def flops(self, resnet50):
        return trace_flops(resnet50, torch.zeros(1, 3, 224, 224))

    @pytest.fixture(scope="class")
    def authors_flops(self, shapes, flops):
        """Their convention: the stem at 115 x 115, and one dense FLOP for the bias of every output element."""
        flops = {**flops, "conv1.weight": flops["conv1.weight"] * 115**2 // 112**2}
        sizes = {name: torch.Size(shape).numel() for name, shape in shapes.items()}
        positions = {name: flops[name] // (2 * sizes[name]) for name in flops}
        return flops | {f"{name} bias": shapes[name][0] * positions[name] for name in shapes}

    def test_their_dense_network_is_ours_in_their_convention(self, authors_flops):
        assert sum(authors_flops.values()) == pytest.approx(8.2023e9, rel=1e-4)

    @pytest.mark.parametrize(("sparsity", "distribution"), PUBLISHED)
    def test_in_the_authors_convention_the_costs_are_theirs(self, shapes, authors_flops, sparsity, distribution):
        inference, training, snfs = PUBLISHED[sparsity, distribution]
        # Their formula, (100 · 3 f_S + 2 f_S + f_D) / 101, updates at every 101st batch to the end of training.
        always = UpdateSchedule(interval=101, end=101 * 20)
        rigl = RigL(sparsity, DISTRIBUTIONS[distribution], always)
        assert planned_inference_flops(rigl, shapes, authors_flops) == pytest.approx(inference, abs=0.0001)
        assert planned_training_flops(rigl, shapes, authors_flops, 101 * 20) == pytest.approx(training, abs=0.0001)
        average = SNFS(sparsity, DISTRIBUTIONS[distribution], always)
        assert planned_training_flops(average, shapes, authors_flops, 101 * 20) == pytest.approx(snfs, abs=0.0006)

    @pytest.mark.parametrize(("sparsity", "distribution"), PUBLISHED)
    def test_in_our_convention_they_are_within_three_thousandths(self, shapes, flops, sparsity, distribution):
        # Below theirs: we count no biases and the stem at 112 x 112, and RigL updates in three quarters of training.
        inference, training, _ = PUBLISHED[sparsity, distribution]
        rigl = RigL(sparsity, DISTRIBUTIONS[distribution], UpdateSchedule(interval=100, end=25_000))
        assert 0 < inference - planned_inference_flops(rigl, shapes, flops) < 0.003
        assert 0 < training - planned_training_flops(rigl, shapes, flops, 32_000) < 0.0035

    @pytest.mark.parametrize(("sparsity", "published"), [(0.8, 0.560), (0.9, 0.505)])
    def test_pruning_from_10k_to_25k_of_32k(self, shapes, flops, sparsity, published):
        algorithm = GradualMagnitudePruning(sparsity, EVERYWHERE, UpdateSchedule(1_000, 10_000, 25_000)).resolve(32_000)
        planned = planned_training_flops(algorithm, shapes, flops, 32_000)
        # The mean of 1 - (1 - p)^3 is 3/4, and masks follow the ramp half an interval late.
        by_hand = 1 - sparsity * (15_000 * 3 / 4 + 7_000 - 500) / 32_000
        assert planned == pytest.approx(by_hand, abs=0.001)
        assert planned == pytest.approx(published, abs=0.005)  # the authors count biases as well
