"""The width solver finds the last step of the staircase that stays within the budget."""

import pytest
import torch

from rigl_lightning.models import WideResNet, mobilenet_v1, resnet50
from rigl_lightning.sparsity.costs.flops import trace_flops
from rigl_lightning.sparsity.costs.sizes import network_bytes
from rigl_lightning.sparsity.costs.widths import Width, count_parameters, largest_width, of_network
from rigl_lightning.sparsity.distributions import ErdosRenyi


def squared(width):
    return int(round(100 * width, 6)) ** 2


@pytest.mark.parametrize("budget", [25, 26, 1000, 1024, 5000, 9999, 10_000])
def test_the_answer_fits_and_the_next_width_does_not(budget):
    width, achieved = largest_width(squared, budget)
    assert achieved == squared(width) <= budget < squared(width + 0.001)


def test_a_budget_that_a_width_meets_exactly_is_met():
    assert largest_width(squared, 1024, decimals=2) == Width(0.32, 1024)


def test_a_budget_below_the_narrowest_network_is_refused():
    with pytest.raises(ValueError, match="at least 25, which the network of width 0.05 takes, got 24"):
        largest_width(squared, 24)


def test_a_budget_above_the_widest_network_is_refused():
    with pytest.raises(ValueError, match="below 10000, which the network of width 1 takes, got 10000.*highest"):
        largest_width(squared, 10_000, highest=1.0)


def test_a_network_is_measured_without_storage():
    devices = []

    def parameters(module):
        devices.extend({p.device.type for p in module.parameters()})
        return count_parameters(module)

    measure = of_network(lambda width: WideResNet(10, width), parameters)
    assert measure(1.0) == count_parameters(WideResNet(10, 1.0))
    assert devices == ["meta"]


def flops(module):
    return sum(trace_flops(module, torch.zeros(1, 3, 224, 224)).values())


class TestRealNetworks:
    """Networks that can be trained, with whole channels: the widths the paper used."""

    def test_resnet50_with_a_fifth_of_the_flops_has_width_0_44(self):
        measure = of_network(resnet50, flops)
        width, achieved = largest_width(measure, 0.2 * measure(1.0), lowest=0.4, highest=0.5, decimals=2)
        assert width == 0.44
        assert achieved / measure(1.0) == pytest.approx(0.2, abs=0.002)

    def test_resnet50_as_large_as_the_90_percent_erk_network_has_width_0_34(self):
        # 13.499 MB published, mask bits included; one bias an output of all layers, as batch norms fold into.
        def megabytes(module):
            weights = [p for p in module.parameters() if p.ndim > 1]
            return sum(4 * p.numel() + 4 * p.shape[0] for p in weights) / 1e6

        width = largest_width(of_network(resnet50, megabytes), 13.499, lowest=0.3, highest=0.4).width
        assert width == pytest.approx(0.34, abs=0.002)

    def test_mobilenet_v1_at_75_percent_and_as_large_as_the_dense_one_has_width_1_98(self):
        def shapes(module):
            return {name: tuple(p.shape) for name, p in module.named_parameters() if p.ndim > 1}

        # The authors' count: layer sparsities of width 1, depthwise layers sparse, the stem dense and out of the total.
        with torch.device("meta"):
            dense = shapes(mobilenet_v1())
        sparsities = ErdosRenyi(custom={"conv_stem": 0.0})(dense, 0.75)
        measure = of_network(
            lambda width: mobilenet_v1(width, divisor=1), lambda module: network_bytes(shapes(module), sparsities)
        )
        width, achieved = largest_width(measure, network_bytes(dense, {}), lowest=1.9, highest=2.1, decimals=2)
        assert width == pytest.approx(1.98, abs=0.015)
        assert 0.98 < achieved / network_bytes(dense, {}) <= 1
