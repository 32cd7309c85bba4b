"""Which backward passes count for growth where connections alone are stored: those that add to ``grad``."""

import copy

import pytest
import torch
from torch import nn

from rigl_lightning import MEST, RigL, Sparsifier, Uniform, UpdateSchedule
from rigl_lightning.base.errors import StateError
from rigl_lightning.compute import SparseCompute

STEPS = 7


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(6, 10, batch_first=True)
        self.fc = nn.Linear(10, 4)

    def forward(self, x):
        return self.fc(self.gru(x.view(*x.shape[:-1], 4, 6))[0][..., -1, :])


NETWORKS = {
    "linear": lambda: nn.Sequential(nn.Linear(24, 16), nn.Tanh(), nn.Linear(16, 4)),
    "conv": lambda: nn.Sequential(
        nn.Unflatten(-1, (1, 4, 6)), nn.Conv2d(1, 6, 3, padding=1), nn.Tanh(), nn.Flatten(-3), nn.Linear(144, 4)
    ),
    "gru": Recurrent,
}


def size(outputs):
    return outputs.square().mean()


def attack(model, x):
    """The adversarial gradient is asked for after a backward pass of the same step."""
    size(model(x)).backward()
    inputs = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(10 * size(model(inputs)), inputs)
    size(model(x + 0.1 * gradient.sign())).backward()


def gradient_penalty(model, x):
    for factor in (1, 2):
        inputs = (factor * x).requires_grad_()
        outputs = model(inputs)
        (gradient,) = torch.autograd.grad(outputs.sum(), inputs, create_graph=True)
        (size(outputs) + gradient.square().sum()).backward()


def gradient_of_a_bias(model, x):
    bias = [*model.modules()][-1].bias
    for factor in (1, 2):
        loss = size(model(factor * x))
        torch.autograd.grad(5 * loss, bias, retain_graph=True)
        (2 * loss).backward(inputs=[bias], retain_graph=True)
        loss.backward()


def jacobian(model, x):
    (size(model(x)) + torch.func.jacrev(model)(x[0]).square().sum()).backward()


def batched_gradients(model, x):
    inputs = x.clone().requires_grad_()
    outputs = model(inputs)
    (found,) = torch.autograd.grad(outputs.sum(0), inputs, torch.eye(4), is_grads_batched=True, create_graph=True)
    (size(outputs) + found.square().sum()).backward()


def penalty_before(model, x):
    penalty = sum(weight.square().sum() for weight in model.parameters())
    (0.1 * penalty + size(model(x))).backward()


def penalty_after(model, x):
    size(model(x)).backward()
    (0.1 * sum(weight.abs().sum() for weight in model.parameters())).backward()


ALGORITHM = RigL(0.8, Uniform(first_layer_dense=False), UpdateSchedule(2, 0, 1.0))


def trained(network, storage, gradients, algorithm):
    torch.manual_seed(0)
    model = NETWORKS[network]()
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    sparsifier = Sparsifier.attach(model, optimizer, algorithm, total_steps=STEPS, seed=0)
    with SparseCompute(model, sparsifier, "dense" if storage is None else "sparse", storage=storage or "dense"):
        for step in range(STEPS):
            optimizer.zero_grad()
            gradients(model, torch.randn(8, 24, generator=torch.Generator().manual_seed(step)))
            optimizer.step()
        return {name: value.clone() for name, value in model.state_dict().items()}, sparsifier.checksums()


CASES = [
    *((attack, network) for network in NETWORKS),
    *((gradient_penalty, network) for network in ("linear", "conv")),
    *((case, "linear") for case in (gradient_of_a_bias, jacobian, batched_gradients, penalty_before, penalty_after)),
]


@pytest.mark.filterwarnings("ignore:.*was read as an attribute")
@pytest.mark.parametrize("storage", ["auto", "connections"])
@pytest.mark.parametrize(("gradients", "network"), CASES, ids=lambda value: getattr(value, "__name__", value))
def test_masks_and_weights_are_those_of_dense_layers(gradients, network, storage):
    assert_as_dense(network, storage, gradients, ALGORITHM)


def assert_as_dense(network, storage, gradients, algorithm):
    expected, masks = trained(network, None, gradients, algorithm)
    found, found_masks = trained(network, storage, gradients, algorithm)
    assert found_masks == masks
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6)


def unscaled(model, x):
    """As under a GradScaler."""
    (2.0**16 * size(model(x))).backward()
    for weight in model.parameters():
        weight.grad.div_(2.0**16)


def shrunk_after_each_pass(model, x):
    for part in x.chunk(2):
        size(model(part)).backward()
        for weight in model.parameters():
            weight.grad.mul_(0.3)


@pytest.mark.parametrize("storage", ["auto", "connections"])
@pytest.mark.parametrize("gradients", [unscaled, shrunk_after_each_pass])
@pytest.mark.parametrize("network", NETWORKS)
def test_gradients_of_inactive_connections_follow_what_becomes_of_the_others(gradients, network, storage):
    settings = {"gradient_weight": 1.0, "grow_score": mixed}
    algorithm = MEST(0.8, Uniform(first_layer_dense=False), UpdateSchedule(2, 0, 1.0), **settings)
    assert_as_dense(network, storage, gradients, algorithm)


def mixed(layer):
    """A growth score whose order depends on the scale of the gradients."""
    return layer.grad.abs() + 0.01 * torch.arange(layer.grad.numel()).view(layer.grad.shape).remainder(7)


def begin():
    model = nn.Sequential(nn.Linear(24, 16), nn.Tanh(), nn.Linear(16, 4))
    sparsifier = Sparsifier({"0.weight": model[0].weight}, RigL(0.8, schedule=UpdateSchedule(1, 0)), total_steps=9)
    return model, sparsifier, SparseCompute(model, sparsifier, "sparse", storage="connections")


def test_gradients_that_no_backward_pass_has_accumulated_are_refused():
    model, sparsifier, compute = begin()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with compute:
        loss = size(model(torch.randn(8, 24)))
        parameters = optimizer.param_groups[0]["params"]
        for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            parameter.grad = gradient
        with pytest.raises(StateError, match=r"Expected the gradient of '0.weight' from `backward`.*Set `storage`"):
            sparsifier.before_step(optimizer)


def test_what_no_pass_counts_is_let_go_and_hooks_are_removed():
    model, sparsifier, compute = begin()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with compute:
        weight, handed = sparsifier.parameters["0.weight"], sparsifier.compact.gradients
        inputs = torch.randn(8, 24, requires_grad=True)
        torch.autograd.grad(size(model(inputs)), inputs)
        assert not handed
        assert not handed._pending
        size(model(inputs)).backward()
        assert handed["0.weight"].shape == (16, 24)
        assert not handed._pending
        assert copy.deepcopy(handed).keys() == handed.keys()
        sparsifier.before_step(optimizer)
        optimizer.step()
        sparsifier.after_step(optimizer)
        assert not handed
        assert not weight._post_accumulate_grad_hooks
