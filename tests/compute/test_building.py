"""A network built layer by layer is the one that would have been made densely."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from rigl_lightning import DNW, NM, DeepR, RigL, Sparsifier, Static, Uniform, UpdateSchedule, select_parameters
from rigl_lightning.compute import SparseCompute, build_sparse
from rigl_lightning.sparsity import masks, selection

RIGL = RigL(0.8, Uniform(first_layer_dense=False, dense=("last.weight",)), UpdateSchedule(3, end=20))


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3, padding=1)
        self.norm = nn.LayerNorm([8, 8, 8])
        self.gru = nn.GRU(16, 12, batch_first=True)
        self.fc = nn.Linear(12, 30)
        self.last = nn.Linear(30, 4)

    def forward(self, x):
        x = self.norm(self.conv(x)).tanh().flatten(2).view(len(x), -1, 16)
        return self.last(self.fc(self.gru(x)[0][:, -1]).tanh())


def train(model, sparsifier, steps):
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for step in range(steps):
        generator = torch.Generator().manual_seed(step)
        x, y = torch.randn(9, 1, 8, 8, generator=generator), torch.randint(4, (9,), generator=generator)
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        sparsifier.before_step(optimizer)
        optimizer.step()
        sparsifier.after_step(optimizer)


def test_weights_masks_and_training_are_those_of_a_network_made_densely():
    torch.manual_seed(0)
    model = Network()
    sparsifier = Sparsifier(select_parameters(model), RIGL, 20, seed=3)
    with SparseCompute(model, sparsifier, "sparse"):
        train(model, sparsifier, 8)
    with torch.device("meta"):
        built = Network()
    torch.manual_seed(0)
    compute = build_sparse(built, RIGL, 20, seed=3)
    assert compute.sparsifier.initial_weights == sparsifier.initial_weights
    assert set(compute.sparsifier.compact) == set(sparsifier.masks) - {"last.weight"}
    assert built.fc._parameters["weight"].ndim == 1
    for key in ("explored", "first_masks"):
        assert compute.sparsifier.state_dict()[key].keys() == sparsifier.state_dict()[key].keys()
    train(built, compute.sparsifier, 8)
    assert compute.sparsifier.checksums() == sparsifier.checksums()
    for key, value in model.state_dict().items():
        torch.testing.assert_close(built.state_dict()[key], value)
    first, expected = compute.sparsifier.network.first_masks(), sparsifier.network.first_masks()
    assert all(torch.equal(first[name], mask) for name, mask in expected.items())
    assert compute.sparsifier.exploration() == sparsifier.exploration()
    compute.remove()
    assert {k: v.shape for k, v in built.named_parameters()} == {k: v.shape for k, v in model.named_parameters()}


@pytest.mark.parametrize("algorithm", [DNW(0.8), DeepR(0.8), RigL(0.5, structure=NM(2, 4))])
def test_algorithms_that_look_at_the_dense_weights_are_refused(algorithm):
    with torch.device("meta"):
        model = nn.Linear(8, 8)
    with pytest.raises(ValueError, match="begins with random masks"):
        build_sparse(model, algorithm, 20)


def test_tied_weights_stay_one():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.last = nn.Linear(40, 40), nn.Linear(40, 40), nn.Linear(40, 4)
            self.second.weight, self.second.bias = self.first.weight, self.first.bias

        def forward(self, x):
            return self.last(self.second(self.first(x.flatten(1)[:, :40]).tanh()))

    algorithm = RigL(0.8, Uniform(first_layer_dense=False))
    torch.manual_seed(0)
    model = Tied()
    sparsifier = Sparsifier(select_parameters(model), algorithm, 20, seed=3)
    with torch.device("meta"):
        built = Tied()
    torch.manual_seed(0)
    compute = build_sparse(built, algorithm, 20, seed=3)
    assert built.second.weight is built.first.weight
    assert built.second.bias is built.first.bias
    assert set(compute.sparsifier.compact) == {"last.weight"}
    with SparseCompute(model, sparsifier, "sparse"):
        train(model, sparsifier, 8)
    train(built, compute.sparsifier, 8)
    for key, value in model.state_dict().items():
        torch.testing.assert_close(built.state_dict()[key], value)


def test_a_module_that_cannot_draw_its_weights_is_refused():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3))
            self.fc = nn.Linear(8, 8)

    with torch.device("meta"):
        model = nn.Sequential(Own())
    with pytest.raises(ValueError, match=r"`reset_parameters` of '0' \(Own\)"):
        build_sparse(model, Static(0.8))


def test_positions_of_very_large_layers_are_distinct_and_those_of_the_mask(monkeypatch):
    monkeypatch.setattr(selection, "_PERMUTED_UP_TO", 100)
    for n_active in (0, 1, 400, 1000, 1001):
        found = selection.random_positions(2001, n_active, torch.Generator().manual_seed(5))
        assert found.unique().numel() == n_active == found.numel()
        mask = masks.random_mask((3, 667), n_active, torch.Generator().manual_seed(5))
        assert torch.equal(mask.view(-1).nonzero().view(-1), found)
    counts = torch.zeros(200)
    for seed in range(300):
        counts[selection.random_positions(200, 60, torch.Generator().manual_seed(seed))] += 1
    assert counts.min() > 50
    assert counts.max() < 130  # 90 expected, standard deviation 8
