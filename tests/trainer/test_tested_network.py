"""What a test says of a network in addition to its accuracy: counts, FLOPs, bytes, and the neurons that remain."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from rigl_lightning.models import LeNet300100
from rigl_lightning.reports.network import read_structure, report_network, structure_of
from rigl_lightning.sparsity.costs.neurons import used_units
from rigl_lightning.sparsity.masks import random_mask


def masks_of(model, density):
    generator = torch.Generator().manual_seed(0)
    weights = {name: p for name, p in model.named_parameters() if p.ndim == 2}
    return {name: random_mask(w.shape, round(density * w.numel()), generator) for name, w in weights.items()}


def test_a_network_is_counted():
    model = nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4), nn.Linear(4, 2, bias=False))
    masks = {"0.weight": torch.arange(32).view(4, 8) < 8}
    report = report_network(model, masks, {"0.weight": 64.0, "2.weight": 16.0})
    assert report.metrics() == {
        "density": 0.25,
        "size_bytes": 8 * 4 + 32 / 8 + 4 * 4 + (4 + 4) * 4 + 8 * 4,  # values, mask, bias, norm, dense layer
        "inference_flops": (16 + 16) / 80,
        "inference_mflops": 32e-6,
    }
    assert report.dense_size == 4 * (32 + 4 + 8 + 8)
    assert "FLOPs" not in str(report_network(model, masks, {}))


def test_units_without_a_path_from_the_inputs_to_the_outputs_are_not_used():
    """By brute force: a unit is used if flipping all weights on can be felt at an output through it."""
    generator = torch.Generator().manual_seed(1)
    for _ in range(20):
        masks = [random_mask(shape, 5, generator) for shape in ((6, 5), (4, 6), (3, 4))]
        sizes = [5, 6, 4, 3]
        for layer, used in enumerate(used_units(masks)):
            for unit in range(sizes[layer]):
                before = torch.eye(sizes[layer])[unit : unit + 1]
                into = after = before
                for mask in reversed(masks[:layer]):
                    into = into @ mask.float()
                for mask in masks[layer:]:
                    after = after @ mask.float().T
                expected = bool(after.any()) or layer == 3
                expected &= bool(into.any()) or layer in (0, 3)
                assert bool(used[unit]) is expected


def test_layers_that_are_no_chain_are_refused():
    with pytest.raises(ValueError, match="in a chain, got shapes"):
        read_structure([torch.ones(3, 2).bool(), torch.ones(3, 2).bool()])
    assert structure_of(nn.Sequential(nn.Conv2d(1, 1, 3), nn.Linear(1, 1)), {}) is None


def test_a_lenet_is_read_as_in_the_appendix():
    model = LeNet300100()
    masks = masks_of(model, 0.01)
    reading = structure_of(model, masks)
    inputs, first, second, outputs = reading.units
    assert outputs == 10
    assert inputs < 784
    assert first < 300
    assert second < 100
    connections = inputs * first + first * second + second * 10
    assert reading.sparsity == pytest.approx(1 - reading.active / connections)
    assert f"{inputs} inputs and {first}-{second}-10 neurons remain" in str(reading)


@pytest.mark.parametrize(
    ("units", "sparsity", "kiloflops", "size"),
    [((408, 100, 69), 0.870, 12.6, 31914), ((375, 62, 51), 0.886, 6.2, 16113)],
)
def test_the_published_table_follows_from_its_architectures(units, sparsity, kiloflops, size):
    """Version 3, table 2: RigL and RigL+. Its sparsities have three digits, hence the tolerance of the bytes; two FLOPs
    a connection are 12.58 and 6.14 thousand, which it has as 12.6 and 6.2."""
    sizes = [*units, 10]
    numel = sum(a * b for a, b in pairwise(sizes))
    active = round((1 - sparsity) * numel)
    generator = torch.Generator().manual_seed(0)
    masks = []
    left = active
    for before, after in reversed(list(pairwise(sizes))):
        n = min(left, round(active * before * after / numel)) if masks else before * after  # the last layer is dense
        n = left if before == sizes[0] else n
        mask = torch.zeros(after, before, dtype=torch.bool)
        for i in range(max(before, after)):
            mask[i % after, i % before] = True  # no unit is left out
        free = (~mask).flatten().nonzero().flatten()
        mask.view(-1)[free[torch.randperm(len(free), generator=generator)[: n - int(mask.sum())]]] = True
        left -= int(mask.sum())
        masks.insert(0, mask)
    reading = read_structure(masks)
    assert reading.units == (*units, 10)
    assert reading.kiloflops == pytest.approx(kiloflops, abs=0.07)
    assert reading.size == pytest.approx(size, abs=0.0005 * numel * 4 + 4 * 50)
