"""Weights that are not those that train: refused before a step, with a line that says what to do."""

import copy

import pytest
import torch
from torch import nn

from rigl_lightning.sparsity.algorithms import RigL, Static
from rigl_lightning.sparsity.parameters import select_parameters
from rigl_lightning.sparsity.schedules import UpdateSchedule
from rigl_lightning.sparsity.sparsifier import Sparsifier


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))


def assigned(net):
    net.load_state_dict({key: torch.randn_like(value) for key, value in net.state_dict().items()}, assign=True)
    return net, net.parameters()


def copied(net):
    twin = copy.deepcopy(net)
    return twin, twin.parameters()


def new_head(net):
    net[2] = nn.Linear(32, 4)
    return net, net.parameters()


def converted(net):
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        net.double()
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(False)
    return net, net.parameters()


def step(net, optimizer, sparsifier):
    optimizer.zero_grad()
    net(torch.randn(8, 16, dtype=net[0].weight.dtype)).square().mean().backward()
    sparsifier.before_step(optimizer)
    optimizer.step()
    sparsifier.after_step(optimizer)


@pytest.mark.parametrize(
    ("change", "missing"),
    [
        (assigned, r"'0\.weight' \(2 of 2 weights\)"),
        (copied, r"'0\.weight' \(2 of 2 weights\)"),
        (new_head, r"'2\.weight' \(1 of 2 weights\)"),
        (converted, r"'0\.weight' \(2 of 2 weights\)"),
        (lambda net: (net, net[2].parameters()), r"'0\.weight' \(1 of 2 weights\)"),
    ],
    ids=["assigned", "a copy", "a new head", "converted", "one layer in the optimizer"],
)
def test_an_optimizer_of_other_weights_is_refused_at_the_first_step(change, missing):
    net = network()
    sparsifier = Sparsifier(select_parameters(net), RigL(0.8, schedule=UpdateSchedule(2, 0, 16)))
    net, trained = change(net)
    optimizer = torch.optim.SGD(trained, lr=0.1, momentum=0.9)
    with pytest.raises(ValueError, match=rf"Expected an optimizer of all sparse weights, but SGD .*{missing}"):
        step(net, optimizer, sparsifier)


def test_two_optimizers_of_a_part_each_are_refused():
    net = network()
    sparsifier = Sparsifier(select_parameters(net), RigL(0.8, schedule=UpdateSchedule(2, 0, 16)))
    for part in (net[0], net[2]):
        with pytest.raises(ValueError, match="or are there two optimizers"):
            step(net, torch.optim.SGD(part.parameters(), lr=0.1), sparsifier)
    assert sparsifier.step == 0


def test_another_optimizer_of_the_same_weights_goes_on():
    net = network()
    sparsifier = Sparsifier(select_parameters(net), RigL(0.8, schedule=UpdateSchedule(2, 0, 16)))
    for optimizer in (torch.optim.SGD(net.parameters(), 0.1), torch.optim.Adam(net.parameters(), 0.1)):
        step(net, optimizer, sparsifier)
    assert sparsifier.step == 2


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (lambda net: net, "the sparse weights by name, got a Sequential"),
        (lambda net: list(net.parameters()), "by name, got a list"),
        (lambda net: net.parameters(), "by name, got a generator"),
        (lambda net: {}, "at least one weight to make sparse, got none"),
        (lambda net: dict(net.named_children()), "the weights of layer '0', got a Linear"),
    ],
    ids=["a module", "a list", "a generator", "nothing", "modules by name"],
)
def test_what_is_no_weights_by_name_is_refused(given, message):
    with pytest.raises(ValueError, match=rf"{message}.*select_parameters\(model\)"):
        Sparsifier(given(network()), RigL(0.8), total_steps=100)


@pytest.mark.parametrize("share", ["parameter", "memory"])
def test_one_tensor_under_two_names_is_refused(share):
    net = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32))
    net[2].weight = net[0].weight if share == "parameter" else nn.Parameter(net[0].weight.data)
    named = {name: p for name, p in net.named_parameters(remove_duplicate=False) if p.ndim == 2}
    with pytest.raises(ValueError, match=r"each tensor under one name, got '0\.weight' and '2\.weight'"):
        Sparsifier(named, Static(0.8))
    if share == "parameter":
        assert list(Sparsifier(select_parameters(net), Static(0.8)).masks) == ["0.weight"]
