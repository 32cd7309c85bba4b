import copy
from functools import partial

import pytest
import timm.optim
import torch
from torch import nn

from rigl_lightning import RigL, Sparsifier, UpdateSchedule
from rigl_lightning.kernels.positions import positions
from rigl_lightning.sparsity.invariants import violations
from rigl_lightning.sparsity.optimizer_state import group_of, reset_state, restart

TIMM_NAMES = ["lamb", "adanw", "laprop", "novograd", "nadamlegacy", "lookahead_lamb"]
OPTIMIZERS = {
    "SGD": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9),
    "Adam": lambda p: torch.optim.Adam(p, 0.1, amsgrad=True),
    "Adagrad": lambda p: torch.optim.Adagrad(p, 0.1, initial_accumulator_value=0.25),
    "Rprop": lambda p: torch.optim.Rprop(p, 0.1),
    "RMSprop": lambda p: torch.optim.RMSprop(p, 0.1, momentum=0.9, centered=True),
    "Adadelta": lambda p: torch.optim.Adadelta(p, 0.1),
    "Adamax": lambda p: torch.optim.Adamax(p, 0.1),
    "NAdam": lambda p: torch.optim.NAdam(p, 0.1),
    "RAdam": lambda p: torch.optim.RAdam(p, 0.1),
}
# They count steps in groups, or have numbers of a layer that start at zero or one.
OF_TIMM = {name: partial(timm.optim.create_optimizer_v2, opt=name, lr=0.1) for name in TIMM_NAMES}
ALL = OPTIMIZERS | OF_TIMM


def after_steps(name, n_steps, gradient_at):
    parameter = nn.Parameter(torch.ones(3, 4))
    optimizer = ALL[name]([parameter])
    for _ in range(n_steps):
        parameter.grad = torch.where(gradient_at, 1.0, 0.0)
        optimizer.step()
    return parameter, optimizer


@pytest.mark.parametrize("known", [True, False], ids=["positions", "mask"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_reset_connection_is_as_one_that_never_had_a_gradient(name, known):
    everywhere = torch.ones(3, 4, dtype=torch.bool)
    where = torch.zeros(3, 4, dtype=torch.bool)
    where[1, 2] = where[0, 0] = True
    parameter, optimizer = after_steps(name, 3, everywhere)
    untouched, fresh = after_steps(name, 3, ~where)
    reset_state(optimizer, parameter, where, positions(where) if known else None)
    compared = 0
    for key, value in optimizer.state[parameter].items():
        if torch.is_tensor(value) and value.shape == parameter.shape:
            # Adamax adds epsilon, 1e-8, to what is compared with the next gradient.
            torch.testing.assert_close(value[where], fresh.state[untouched][key][where], rtol=0, atol=2e-8)
            assert not torch.equal(value[~where], fresh.state[untouched][key][where][0].expand(10)), key
            compared += 1
    assert compared


@pytest.mark.parametrize("name", ALL)
def test_after_a_restart_a_step_is_that_of_a_new_optimizer(name):
    everywhere = torch.ones(3, 4, dtype=torch.bool)
    parameter, optimizer = after_steps(name, 3, everywhere)
    restart(optimizer)
    fresh = nn.Parameter(parameter.detach().clone())
    for weight, of in ((parameter, optimizer), (fresh, ALL[name]([fresh]))):
        for _ in range(2):
            weight.grad = torch.full((3, 4), 0.5)
            of.step()
    torch.testing.assert_close(parameter, fresh, rtol=2e-6, atol=2e-8)


def test_a_parameter_without_state_or_optimizer_is_left_alone():
    parameter, optimizer = nn.Parameter(torch.ones(2)), torch.optim.SGD([nn.Parameter(torch.ones(2))], 0.1)
    reset_state(optimizer, parameter, torch.ones(2, dtype=torch.bool))
    assert group_of(optimizer, parameter) is None


def test_the_group_is_the_one_that_holds_the_parameter():
    first, second = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([{"params": [first]}, {"params": [second], "lr": 0.5}], 0.1)
    assert group_of(optimizer, second)["lr"] == 0.5
    assert group_of(optimizer, first)["lr"] == 0.1


class Preconditioned(torch.optim.Optimizer):
    """Shampoo (Gupta et al. 2018, algorithm 1): a matrix of the rows and one of the columns."""

    def __init__(self, params):
        super().__init__(params, {"lr": 0.1})

    @torch.no_grad()
    def step(self):
        for weight in self.param_groups[0]["params"]:
            state, grad = self.state[weight], weight.grad
            if not state:
                state["momentum_buffer"] = torch.zeros_like(weight)
                for side, n in enumerate(weight.shape):
                    state[f"precond_{side}"] = 1e-4 * torch.eye(n)
            state["momentum_buffer"].mul_(0.9).add_(grad)
            state["precond_0"] += grad @ grad.T
            state["precond_1"] += grad.T @ grad
            left, right = (torch.linalg.inv(state[f"precond_{side}"]) for side in (0, 1))
            weight.sub_(left @ state["momentum_buffer"] @ right, alpha=1e-3)


class Rotated(torch.optim.Optimizer):
    """SOAP (Vyas et al. 2024) with a fixed basis: Adam's second moments are those of the rotated gradient."""

    def __init__(self, params):
        super().__init__(params, {"lr": 0.01})

    @torch.no_grad()
    def step(self):
        for weight in self.param_groups[0]["params"]:
            state = self.state[weight]
            if not state:
                generator = torch.Generator().manual_seed(0)
                state["Q"] = [torch.linalg.qr(torch.randn(n, n, generator=generator))[0] for n in weight.shape]
                state["exp_avg_sq"] = torch.zeros_like(weight)
            left, right = state["Q"]
            rotated = left.T @ weight.grad @ right
            state["exp_avg_sq"].lerp_(rotated.square(), 0.1)
            weight.sub_(left @ (rotated / (state["exp_avg_sq"].sqrt() + 1e-8)) @ right.T, alpha=0.01)


@pytest.mark.parametrize("n_inputs", [6, 8], ids=["oblong", "square"])
@pytest.mark.parametrize("make", [Preconditioned, Rotated])
def test_what_mixes_connections_is_left_alone(make, n_inputs):
    torch.manual_seed(0)
    layer = nn.Linear(n_inputs, 8, bias=False)
    optimizer = make(layer.parameters())
    sparsifier = Sparsifier({"weight": layer.weight}, RigL(0.5, schedule=UpdateSchedule(2)), total_steps=8)
    for step in range(6):
        optimizer.zero_grad()
        layer(torch.randn(16, n_inputs)).square().mean().backward()
        before = copy.deepcopy(optimizer.state[layer.weight])
        sparsifier.before_step(optimizer)
        if sparsifier.has_dropped_gradients:
            for key in before.keys() - {"momentum_buffer"}:
                pairs = zip(before[key], optimizer.state[layer.weight][key], strict=True)
                assert all(torch.equal(old, new) for old, new in pairs), (step, key)
        else:  # unlike those of torch, the optimizers here do not look whether there is a gradient
            optimizer.step()
        sparsifier.after_step(optimizer)
        assert violations(sparsifier, optimizer) == []
    assert sparsifier.last_update.step == 4
