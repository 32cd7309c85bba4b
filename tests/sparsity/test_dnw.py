import pytest
import torch
from torch.nn import functional as F

from rigl_lightning.sparsity.algorithms import DNW
from rigl_lightning.sparsity.costs.training import planned_training_flops
from rigl_lightning.sparsity.distributions import Uniform, active_counts
from rigl_lightning.sparsity.schedules import UpdateSchedule
from tests.helpers.small_training import backward, batch, small_network, sparsify, train

EVERYWHERE = Uniform(first_layer_dense=False)
NAMES = ("0.weight", "4.weight")


def described(steps, learning_rate=0.1, momentum=0.9, weight_decay=0.01):
    """The reference as its description has it, in ten lines: straight through, then the top of ``|w|``."""
    model = small_network()
    dense = {name: p.detach().clone() for name, p in model.named_parameters()}
    velocity = {name: torch.zeros_like(w) for name, w in dense.items()}
    counts = active_counts({n: dense[n].shape for n in NAMES}, dict.fromkeys(NAMES, 0.7))
    for step in range(steps + 1):
        masks = {}
        for name in NAMES:
            masks[name] = torch.zeros_like(dense[name])
            masks[name].view(-1)[dense[name].abs().view(-1).topk(counts[name]).indices] = 1
        with torch.no_grad():
            for name, p in model.named_parameters():
                p.copy_(dense[name] * masks.get(name, 1))
        if step == steps:
            return dense, masks
        images, labels = batch(step)
        gradients = torch.autograd.grad(F.cross_entropy(model(images), labels), list(model.parameters()))
        for name, gradient in zip(dense, gradients, strict=True):
            velocity[name] = momentum * velocity[name] + gradient + weight_decay * dense[name]
            dense[name] = dense[name] - learning_rate * velocity[name]
    raise AssertionError


def test_weights_and_masks_are_those_of_the_description():
    model = small_network()
    sparsifier = sparsify(model, DNW(0.7, EVERYWHERE, UpdateSchedule(1, 0, 100)))
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=0.01)
    first = sparsifier.checksums()
    for steps in range(12):
        dense, masks = described(steps)
        hidden = sparsifier.state_dict()["hidden"]["weights"]
        for name in NAMES:
            assert torch.equal(sparsifier.masks[name], masks[name].bool()), (steps, name)
            torch.testing.assert_close(hidden[name], dense[name], rtol=1e-4, atol=1e-6)
        train(model, optimizer, sparsifier, [steps])
    assert sparsifier.checksums() != first


def test_the_first_masks_are_the_largest_weights():
    model = small_network()
    weight = model[4].weight.detach().clone()
    sparsifier = sparsify(model, DNW(0.75, EVERYWHERE, UpdateSchedule(1, 0, 9)))
    mask = sparsifier.masks["4.weight"]
    assert mask.sum() == 64
    assert weight.abs()[mask].min() > weight.abs()[~mask].max()
    assert torch.equal(model[4].weight, weight * mask)


def test_with_an_interval_masks_stay_while_hidden_weights_learn():
    model = small_network()
    sparsifier = sparsify(model, DNW(0.7, schedule=UpdateSchedule(4, 3, 100)))
    optimizer = torch.optim.SGD(model.parameters(), 0.5)
    checksums = []
    for step in range(8):
        train(model, optimizer, sparsifier, [step])
        checksums.append(sparsifier.checksums()["4.weight"])
    assert len(set(checksums[:3])) == len(set(checksums[3:7])) == 1
    assert len({checksums[0], checksums[3], checksums[7]}) == 3


def test_a_step_costs_the_dense_gradient_of_weights():
    algorithm = DNW(0.9, EVERYWHERE).resolve(100_000)  # and the sum over so many updates takes no time
    cost = planned_training_flops(algorithm, {"a": (10, 10)}, {"a": 200}, 100_000)
    assert cost == pytest.approx((2 * 0.1 + 1) / 3)


def test_what_a_user_makes_of_the_active_weights_holds():
    model = small_network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    sparsifier = sparsify(model, DNW(0.7), total_steps=10)
    train(model, optimizer, sparsifier, range(1))
    with torch.no_grad():
        model[4].weight.clamp_(-0.01, 0.01)
    clipped = model[4].weight.detach().clone()
    before_step_sees = []
    optimizer.register_step_pre_hook(lambda *_: before_step_sees.append(model[4].weight.detach().clone()))
    active = sparsifier.masks["4.weight"].clone()
    train(model, optimizer, sparsifier, range(1, 2))
    assert torch.equal(before_step_sees[0][active], clipped[active])
    assert before_step_sees[0][~active].count_nonzero() > 0


def test_a_step_that_failed_leaves_a_sparse_network_that_trains_on():
    model = small_network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sparsifier = sparsify(model, DNW(0.7), total_steps=10)
    backward(model, 0)
    sparsifier.before_step(optimizer)  # and the step raises
    assert model[4].weight[~sparsifier.masks["4.weight"]].count_nonzero() > 0
    sparsifier.apply_masks()
    assert model[4].weight[~sparsifier.masks["4.weight"]].count_nonzero() == 0
    train(model, optimizer, sparsifier, range(3))
    assert sparsifier.step == 3
