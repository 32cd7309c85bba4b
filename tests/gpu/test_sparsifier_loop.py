"""The Sparsifier in a plain loop on a GPU: every algorithm and structure, and decisions equal to the CPU's."""

from copy import deepcopy

import pytest
import torch
from torch.nn import functional as F

from rigl_lightning import RigL, Sparsifier, Static, UpdateSchedule
from rigl_lightning.sparsity.invariants import violations
from tests.helpers.small_training import backward, batch, small_network, sparsify, through_disk
from tests.sparsity.test_every_algorithm import ALGORITHMS, OPTIMIZERS, TOTAL

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("ticket") / "ticket.pt"
    torch.save(sparsify(small_network(), Static(0.7), seed=3).state_dict(), path)
    return str(path)


def losses(model, optimizer, sparsifier, steps, device):
    for step in steps:
        images, labels = (tensor.to(device) for tensor in batch(step))
        model.zero_grad()
        loss = F.cross_entropy(model(images), labels)
        sparsifier.before_backward(loss)
        loss.backward()
        sparsifier.before_step(optimizer)
        optimizer.step()
        sparsifier.after_step(optimizer)
        assert not violations(sparsifier, optimizer)
        yield loss.item()


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_algorithm_trains(name, file, device):
    model = small_network().to(device)
    optimizer = OPTIMIZERS["momentum"](model.parameters())
    sparsifier = sparsify(model, ALGORITHMS[name](file), total_steps=TOTAL)
    assert all(loss < 100 for loss in losses(model, optimizer, sparsifier, range(TOTAL), device))
    assert {mask.device for mask in sparsifier.masks.values()} == {device}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_keeps_the_masks(optimizer, device):
    model = small_network().to(device)
    optimizer = OPTIMIZERS[optimizer](model.parameters())
    sparsifier = sparsify(model, ALGORITHMS["RigL"](None), total_steps=TOTAL)
    assert all(loss < 100 for loss in losses(model, optimizer, sparsifier, range(TOTAL), device))


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_gpu_decides_as_the_cpu_does(name, file, device):
    """Both get the same weights and gradients at every step; what is left are the decisions."""
    ours, theirs = small_network(), small_network().to(device)
    optimizers = [OPTIMIZERS["momentum"](model.parameters()) for model in (ours, theirs)]
    pair = [sparsify(model, ALGORITHMS[name](file), total_steps=TOTAL) for model in (ours, theirs)]
    for step in range(TOTAL):
        backward(ours, step, pair[0])
        with torch.no_grad():
            for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
                other.copy_(mine)
                other.grad = mine.grad.clone().to(device)
        _copy_hidden(*pair)
        pair[1].gradients.hessian = {k: v.to(device) for k, v in pair[0].gradients.hessian.items()}
        for sparsifier, optimizer in zip(pair, optimizers, strict=True):
            sparsifier.before_step(optimizer)
            optimizer.step()
            sparsifier.after_step(optimizer)
        if step % 4 != 3:  # weights that the optimizer rounded otherwise may tie otherwise after the step
            assert pair[0].checksums() == pair[1].checksums(), step


def _copy_hidden(ours, theirs):
    for name in ours.masks:
        theirs.weights.of(name).data.copy_(ours.weights.of(name))


@pytest.mark.parametrize("name", ["RigL", "SNFS", "SET", "DSR", "DeepR", "DNW", "TopKAST"])
@pytest.mark.parametrize("first_on_gpu", [True, False])
def test_a_training_goes_on_on_the_other_device(name, first_on_gpu, file, device):
    places = [device, torch.device("cpu")]
    first, second = places if first_on_gpu else places[::-1]
    model = small_network().to(first)
    optimizer = OPTIMIZERS["momentum"](model.parameters())
    before = sparsify(model, ALGORITHMS[name](file), total_steps=TOTAL)
    list(losses(model, optimizer, before, range(7), first))
    state = through_disk(
        {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "masks": before.state_dict()}
    )

    model = small_network().to(second)
    optimizer = OPTIMIZERS["momentum"](model.parameters())
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(deepcopy(state["optimizer"]))
    after = sparsify(model, ALGORITHMS[name](file), total_steps=TOTAL, state=state["masks"])
    assert after.checksums() == before.checksums()
    assert after.step == 7
    list(losses(model, optimizer, after, range(7, TOTAL), second))
    assert after.step == TOTAL


def test_half_precision_weights(cuda):
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        model = small_network().to(cuda, dtype)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
        sparsifier = sparsify(model, ALGORITHMS["RigL"](None), total_steps=TOTAL)
        for step in range(TOTAL):
            images, labels = (tensor.to(cuda) for tensor in batch(step))
            optimizer.zero_grad()
            F.cross_entropy(model(images.to(dtype)).float(), labels).backward()
            sparsifier.before_step(optimizer)
            optimizer.step()
            sparsifier.after_step(optimizer)
            assert not violations(sparsifier, optimizer)


def test_an_infinite_gradient_of_an_inactive_connection_does_not_spread(device):
    model = small_network().to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sparsifier = sparsify(model, Static(0.7))
    list(losses(model, optimizer, sparsifier, range(1), device))
    for value in (float("inf"), float("nan")):
        for name, parameter in sparsifier.parameters.items():
            parameter.grad = torch.where(sparsifier.masks[name], 0.0, value)
        sparsifier.before_step(optimizer)
        optimizer.step()
        sparsifier.after_step(optimizer)
    assert not violations(sparsifier, optimizer)
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_a_large_layer_with_many_ties(device):
    """Selection on the device takes another way than on the CPU; equal scores decide by position on both."""
    weights = {"one": torch.randn(1024, 768), "two": torch.randn(256, 64, 3, 3)}
    grads = {name: (torch.randn_like(weight) * 2).round() for name, weight in weights.items()}
    checksums = []
    for place in (torch.device("cpu"), device):
        parameters = {name: torch.nn.Parameter((weight * 4).round().to(place)) for name, weight in weights.items()}
        sparsifier = Sparsifier(parameters, RigL(0.9, schedule=UpdateSchedule(interval=1, end=10)))
        optimizer = torch.optim.SGD(parameters.values(), lr=0.0)
        for step in range(3):
            for name, parameter in parameters.items():
                parameter.grad = grads[name].roll(step, 0).to(place)
            sparsifier.before_step(optimizer)
            optimizer.step()
            sparsifier.after_step(optimizer)
        checksums.append(sparsifier.checksums())
    assert checksums[0] == checksums[1]
