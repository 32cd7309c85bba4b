"""Batch norms beside sparse convolutions: what they compute, which are replaced, and that they are given back."""

import copy
import pickle

import pytest
import torch
from torch import nn

from rigl_lightning import Sparsifier, Static, select_parameters
from rigl_lightning.compute import SparseCompute
from rigl_lightning.compute.batch_norms import replace_batch_norms
from rigl_lightning.compute.installation import is_replaced
from rigl_lightning.kernels import available, batch_norm

pytestmark = pytest.mark.skipif("fast" not in available(), reason="needs numba")


class OwnForward(nn.BatchNorm2d):
    def forward(self, input):
        return 2 * super().forward(input)


class OwnReLU(nn.ReLU):
    def forward(self, input):
        return 2 * super().forward(input)


def network(norm=nn.BatchNorm2d, relu=nn.ReLU, **settings):
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), norm(8, **settings), relu(), nn.Conv2d(8, 4, 3))


def compute_of(model, compute="sparse"):
    return SparseCompute(model, Sparsifier(select_parameters(model), Static(0.8)), compute)


def steps(model, x, compute="sparse"):
    """Parameters and statistics after three steps."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with compute_of(model, compute) as running:
        for _ in range(3):
            optimizer.zero_grad()
            model(x).square().mean().backward()
            running.sparsifier.before_step(optimizer)
            optimizer.step()
            running.sparsifier.after_step(optimizer)
    return model.state_dict()


@pytest.mark.parametrize(
    "settings",
    [{}, {"momentum": None}, {"affine": False}, {"track_running_stats": False}, {"momentum": 0.3, "eps": 1e-2}],
)
def test_a_training_equals_the_dense_one(settings, monkeypatch):
    monkeypatch.setattr(batch_norm, "_LEAST", 1)
    x = torch.randn(4, 3, 12, 12)
    found, expected = steps(network(**settings), x), steps(network(**settings), x, "dense")
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "settings",
    [{}, {"apply_act": False}, {"act_layer": nn.SiLU}, {"inplace": False}, {"drop_layer": nn.Dropout}],
)
def test_a_training_with_timms_norm_and_activation_equals_the_dense_one(settings, monkeypatch):
    norm_act = pytest.importorskip("timm.layers.norm_act")
    monkeypatch.setattr(batch_norm, "_LEAST", 1)
    monkeypatch.setattr(nn.Dropout, "forward", lambda self, input: torch.where(input > 1, 0, input))
    x = torch.randn(4, 3, 12, 12)
    models = [network(norm_act.BatchNormAct2d, nn.Identity, **settings) for _ in range(2)]
    with compute_of(models[0]):
        assert is_replaced(models[0][1]), "timm has moved its forward"
    found, expected = steps(models[0], x), steps(models[1], x, "dense")
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("relu", [nn.ReLU, lambda: nn.ReLU(inplace=True), OwnReLU, nn.ReLU6])
def test_a_training_with_any_relu_equals_the_dense_one(relu, monkeypatch):
    monkeypatch.setattr(batch_norm, "_LEAST", 1)
    x = torch.randn(4, 3, 12, 12)
    found, expected = steps(network(relu=relu), x), steps(network(relu=relu), x, "dense")
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_the_relu_after_a_norm_shares_its_backward_pass(monkeypatch):
    monkeypatch.setattr(batch_norm, "_LEAST", 1)
    model, x = network(), torch.randn(4, 8, 12, 12)
    with compute_of(model):
        assert type(model[1:3](x).grad_fn).__name__ == "_RectifiedBackward"
        assert type(model[2](x.requires_grad_()).grad_fn).__name__ == "ReluBackward0"
    assert type(model[2]) is nn.ReLU


def test_evaluation_is_torchs_own(monkeypatch):
    monkeypatch.setattr(batch_norm, "_LEAST", 1)
    model, x = network().eval(), torch.randn(4, 8, 12, 12)
    expected = copy.deepcopy(model[1])(x)
    with compute_of(model):
        assert torch.equal(model[1](x), expected)
    assert int(model[1].num_batches_tracked) == 0


@pytest.mark.parametrize(
    "norm",
    [OwnForward, nn.SyncBatchNorm, nn.InstanceNorm2d, lambda n: nn.GroupNorm(2, n)],
    ids=["own forward", "SyncBatchNorm", "InstanceNorm2d", "GroupNorm"],
)
def test_others_are_left_alone(norm):
    model = network(norm)
    assert not replace_batch_norms(model)
    assert not is_replaced(model[1])
    assert not is_replaced(model[2])


def test_scripted_modules_are_left_alone():
    model = nn.Sequential(network(), torch.jit.script(nn.Sequential(nn.BatchNorm2d(4), nn.ReLU())))
    assert replace_batch_norms(model) == [model[0][1], model[0][2]]


def test_another_relu_is_left_alone():
    model = network(relu=OwnReLU)
    replace_batch_norms(model)
    assert is_replaced(model[1])
    assert not is_replaced(model[2])


def test_they_are_replaced_beside_convolutions_only():
    beside = network()
    with compute_of(beside):
        assert is_replaced(beside[1])
    assert type(beside[1]) is nn.BatchNorm2d
    with compute_of(beside, "dense"):
        assert not is_replaced(beside[1])
    linear = nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 4))
    with compute_of(linear):
        assert not is_replaced(linear[0])


def test_copies_and_pickles_are_plain():
    model = network()
    with compute_of(model):
        for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert type(other[1]) is nn.BatchNorm2d
        assert list(model.state_dict()) == list(network().state_dict())


def test_deterministic_algorithms_are_torchs(monkeypatch):
    monkeypatch.setattr(batch_norm, "_LEAST", 1)
    model, x = network(), torch.randn(4, 8, 12, 12)
    expected = copy.deepcopy(model[1])(x)
    torch.use_deterministic_algorithms(True)
    try:
        with compute_of(model, "auto"):
            assert torch.equal(model[1](x), expected)
    finally:
        torch.use_deterministic_algorithms(False)


def test_an_error_of_torch_is_raised_and_nothing_counted():
    model = network()
    with compute_of(model), pytest.raises(ValueError, match="4D"):
        model[1](torch.randn(4, 8))
    assert int(model[1].num_batches_tracked) == 0
