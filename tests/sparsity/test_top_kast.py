import pytest
import torch
from torch import nn

from rigl_lightning.sparsity.algorithms import TopKAST
from rigl_lightning.sparsity.costs.training import planned_training_flops
from rigl_lightning.sparsity.distributions import Uniform
from rigl_lightning.sparsity.needed_gradients import weight_gradient_density
from rigl_lightning.sparsity.schedules import UpdateSchedule
from rigl_lightning.sparsity.scores import Connections
from rigl_lightning.sparsity.sparsifier import Sparsifier
from tests.helpers.small_training import flags, small_network, sparsify, train, written

EVERYWHERE = Uniform(first_layer_dense=False)
# Of ten weights three compute, and six learn.  index 0    1    2    3    4     5    6    7    8    9
WEIGHT = torch.tensor([0.9, 0.1, 0.5, 0.3, -1.0, 0.2, 0.4, 0.6, -0.7, 0.0])
FORWARD, BACKWARD = "1...1...1.", "1.1.1.111."
GRADIENT = torch.ones(10)


def ten_weights(penalty=0.0, interval=2):
    weight = nn.Parameter(WEIGHT.clone())
    algorithm = TopKAST(0.7, 0.4, EVERYWHERE, UpdateSchedule(interval, interval - 1, 100), penalty)
    return weight, Sparsifier({"w": weight}, algorithm)


def step(weight, sparsifier, learning_rate=0.1, gradient=GRADIENT):
    optimizer = torch.optim.SGD([weight], learning_rate)
    optimizer.zero_grad()
    (gradient * weight).sum().backward()
    sparsifier.before_step(optimizer)
    optimizer.step()
    sparsifier.after_step(optimizer)


def all_weights(sparsifier):
    return sparsifier.state_dict()["hidden"]["weights"]["w"]


def learning(sparsifier):
    return written(sparsifier.weights.learning["w"])


def test_the_largest_weights_compute_and_a_larger_set_learns_from_the_first_step():
    weight, sparsifier = ten_weights()
    assert written(sparsifier.masks["w"]) == FORWARD
    assert learning(sparsifier) == BACKWARD
    assert torch.equal(weight, WEIGHT * flags(FORWARD))
    assert weight_gradient_density(sparsifier) == {"w": 0.6}
    step(weight, sparsifier)
    torch.testing.assert_close(all_weights(sparsifier), WEIGHT - 0.1 * flags(BACKWARD))


def test_weights_outside_the_backward_set_keep_their_values_and_no_momentum_moves_them():
    weight, sparsifier = ten_weights(interval=5)
    optimizer = torch.optim.SGD([weight], 0.1, momentum=0.9, weight_decay=0.1)
    for _ in range(4):
        optimizer.zero_grad()
        (GRADIENT * weight).sum().backward()
        sparsifier.before_step(optimizer)
        optimizer.step()
        sparsifier.after_step(optimizer)
    outside = ~flags(BACKWARD)
    assert torch.equal(all_weights(sparsifier)[outside], WEIGHT[outside])


def test_both_sets_are_renewed_together_at_an_update():
    weight, sparsifier = ten_weights(interval=2)
    # Index 7 (0.6) and 6 (0.4) of the backward set climb by 0.5 a step; index 3 (0.3), outside it, may not.
    climb = torch.zeros(10)
    climb[[3, 6, 7]] = -5.0
    step(weight, sparsifier, gradient=climb)
    assert written(sparsifier.masks["w"]) == FORWARD
    step(weight, sparsifier, gradient=climb)  # now 1.6 and 1.4; the others 1.0, 0.9, 0.7, 0.5, 0.3, ...
    assert written(sparsifier.masks["w"]) == "....1.11.."
    assert learning(sparsifier) == "1.1.1.111."
    assert weight[7].item() == pytest.approx(1.6)
    assert all_weights(sparsifier)[3].item() == pytest.approx(0.3)


def test_the_penalty_by_hand():
    penalty = TopKAST(penalty=0.3).penalty_gradient(Connections(WEIGHT[:5], flags("1...1")))  # D = 0.4
    torch.testing.assert_close(penalty, torch.tensor([0.27, 0.075, 0.375, 0.225, -0.3]))


def test_the_penalty_reaches_the_backward_set_only():
    weight, sparsifier = ten_weights(penalty=0.3)  # D = 0.3: 0.3 · w in A, 1 · w in the rest of B
    step(weight, sparsifier, gradient=torch.zeros(10))
    factor = torch.where(flags(FORWARD), 1 - 0.03, torch.where(flags(BACKWARD), 1 - 0.1, 1.0))
    torch.testing.assert_close(all_weights(sparsifier), WEIGHT * factor)


def test_the_penalty_leaves_no_momentum_outside_the_backward_set():
    model = small_network()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    sparsifier = sparsify(model, TopKAST(0.7, 0.4, schedule=UpdateSchedule(50, 0, 50), penalty=0.1))
    train(model, optimizer, sparsifier, range(1, 4))
    for name, parameter in sparsifier.parameters.items():
        outside = ~sparsifier.weights.learning[name]
        gradient = parameter.grad
        assert not gradient[outside].any()


def test_a_step_costs_two_forward_densities_and_the_backward_one():
    algorithm = TopKAST(0.9, 0.8, EVERYWHERE).resolve(1000)
    cost = planned_training_flops(algorithm, {"a": (10, 10)}, {"a": 200}, 1000)
    assert cost == pytest.approx((2 * 0.1 + 0.2) / 3)


@pytest.mark.parametrize("settings", [{"backward_sparsity": 0.95}, {"backward_sparsity": -0.1}, {"penalty": -1}])
def test_a_setting_out_of_range_names_itself(settings):
    (name,) = settings
    with pytest.raises(ValueError, match=rf"Expected `{name}`.*Set `{name}` of TopKAST"):
        TopKAST(**settings)
