"""Curves between two solutions stay where they belong, and the study refuses data it cannot hold in memory."""

import pytest
import torch
from torch import nn

from paper.protocols import PROTOCOLS
from paper.studies import loss_landscape
from paper.studies.loss_landscape import BENCHMARK, bezier, loss_at, point_of, trained_curve
from paper.studies.plain_training import Images, read_images


def network(seed):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    )


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(0)
    stored = torch.randint(0, 256, (40, 3, 6, 6), dtype=torch.uint8, generator=generator)
    return Images((stored, torch.arange(40) % 3), (stored, torch.arange(40) % 3), padding=1)


@pytest.fixture
def masks():
    return {"0.weight": torch.arange(108).view(4, 3, 3, 3) % 4 == 0}


@pytest.fixture
def ends(masks):
    points = [point_of(network(seed)) for seed in (1, 2)]
    for point in points:
        point["0.weight"].mul_(masks["0.weight"])
    return points


def test_bezier_curves_are_bernstein_sums():
    a, b, c = ({"x": torch.tensor([value])} for value in (1.0, 2.0, 5.0))
    assert bezier([a, c], 0.25)["x"].item() == pytest.approx(0.75 * 1 + 0.25 * 5)
    assert bezier([a, b, c], 0.5)["x"].item() == pytest.approx((1 + 2 * 2 + 5) / 4)
    assert bezier([a, b, b, c], 0.5)["x"].item() == pytest.approx((1 + 3 * 2 + 3 * 2 + 5) / 8)


@pytest.mark.parametrize("n_inner", [1, 2])
def test_a_sparse_curve_keeps_to_the_masks_and_a_dense_one_leaves_them(ends, masks, images, n_inner, monkeypatch):
    monkeypatch.setattr(loss_landscape, "CURVE_STEPS", 3)
    inactive = ~masks["0.weight"]
    sparse = trained_curve(network(1), ends, n_inner, masks, images, seed=0)
    dense = trained_curve(network(1), ends, n_inner, None, images, seed=0)
    for curve in (sparse, dense):
        assert len(curve) == n_inner + 2
        for end, kept in zip((curve[0], curve[-1]), ends, strict=True):
            assert all(torch.equal(end[name], kept[name]) for name in kept)
        line = bezier(ends, 1 / (n_inner + 1))
        assert not torch.equal(curve[1]["0.weight"], line["0.weight"])  # it has been trained
    assert all(not point["0.weight"][inactive].any() for point in sparse)
    assert dense[1]["0.weight"][inactive].any()


def test_the_loss_of_a_point_does_not_depend_on_the_networks_own_norm_statistics(ends, images):
    model = network(1)
    first = loss_at(model, ends[0], images)
    loss_at(model, ends[1], images)
    assert loss_at(model, ends[0], images) == pytest.approx(first, rel=1e-6)


def test_data_that_do_not_fit_into_memory_are_refused(tmp_path):
    with pytest.raises(ValueError, match="trains on CIFAR-10, got ImageFolderDataModule"):
        read_images(PROTOCOLS["paper"][BENCHMARK], tmp_path)
