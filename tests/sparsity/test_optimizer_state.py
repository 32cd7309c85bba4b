import pytest
import torch
from torch import nn

from rigl_lightning.kernels.positions import positions
from rigl_lightning.sparsity.optimizer_state import group_of, reset_state, restart

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


def after_steps(name, n_steps, gradient_at):
    parameter = nn.Parameter(torch.ones(3, 4))
    optimizer = OPTIMIZERS[name]([parameter])
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


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_after_a_restart_a_step_is_that_of_a_new_optimizer(name):
    everywhere = torch.ones(3, 4, dtype=torch.bool)
    parameter, optimizer = after_steps(name, 3, everywhere)
    restart(optimizer)
    fresh = nn.Parameter(parameter.detach().clone())
    for weight, of in ((parameter, optimizer), (fresh, OPTIMIZERS[name]([fresh]))):
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
