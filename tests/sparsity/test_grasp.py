import pytest
import torch
from torch import nn
from torch.nn import functional as F

from rigl_lightning.sparsity.algorithms import SET, GraSP
from rigl_lightning.sparsity.distributions import Uniform
from rigl_lightning.sparsity.schedules import UpdateSchedule
from rigl_lightning.sparsity.scores import Connections, gradient_flow
from rigl_lightning.sparsity.sparsifier import Sparsifier
from tests.helpers.small_training import backward, batch, small_network, sparsify, train, written

EVERYWHERE = Uniform(first_layer_dense=False)


def smooth_network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).double()


def loss_of(model, part=slice(None)):
    inputs = torch.randn(8, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)[part]
    return F.cross_entropy(model(inputs), torch.arange(8)[part] % 3)


def weights_of(model):
    return {name: p for name, p in model.named_parameters() if name.endswith("weight")}


def product(model):
    sparsifier = Sparsifier(weights_of(model), GraSP(0.5))
    loss = loss_of(model)
    sparsifier.before_backward(loss)
    loss.backward()  # the graph is still there
    return sparsifier.gradients.hessian


def gradient(model):
    return torch.autograd.grad(loss_of(model), list(weights_of(model).values()))


def test_by_hand_on_a_quadratic():
    # L = (x² + 4 y² + 2 x y) / 2 at (1, -1): g = (x + y, 4 y + x) = (0, -3), Hg = (1·0 + 1·(-3), 1·0 + 4·(-3)).
    weight = nn.Parameter(torch.tensor([1.0, -1.0]))
    sparsifier = Sparsifier({"w": weight}, GraSP(0.5, EVERYWHERE))
    x, y = weight
    loss = (x * x + 4 * y * y + 2 * x * y) / 2
    sparsifier.before_backward(loss)
    assert sparsifier.gradients.hessian["w"].tolist() == [-3, -12]
    loss.backward()
    optimizer = torch.optim.SGD([weight], 0.1)
    sparsifier.before_step(optimizer)  # w · Hg = (-3, 12): the second stays
    optimizer.step()
    sparsifier.after_step(optimizer)
    assert written(sparsifier.masks["w"]) == ".1"
    assert weight.tolist() == [0, -1]


def test_the_product_is_a_difference_of_gradients():
    model, epsilon = smooth_network(), 1e-5
    found, direction = product(model), gradient(model)
    sides = []
    for sign in (1, -1):
        with torch.no_grad():
            for weight, along in zip(weights_of(model).values(), direction, strict=True):
                weight.add_(along, alpha=sign * epsilon)
        sides.append(gradient(model))
        with torch.no_grad():
            for weight, along in zip(weights_of(model).values(), direction, strict=True):
                weight.sub_(along, alpha=sign * epsilon)
    for name, plus, minus in zip(found, *sides, strict=True):
        torch.testing.assert_close(found[name], (plus - minus) / (2 * epsilon), rtol=1e-6, atol=1e-9)


def test_the_product_is_that_of_torch():
    model = smooth_network()

    def loss(*weights):
        return torch.func.functional_call(_Loss(model), dict(zip(names, weights, strict=True)), ())

    names = [f"model.{name}" for name in weights_of(model)]
    inputs = tuple(weight.detach() for weight in weights_of(model).values())
    _, expected = torch.autograd.functional.hvp(loss, inputs, gradient(model))
    for value, other in zip(product(model).values(), expected, strict=True):
        torch.testing.assert_close(value, other)


class _Loss(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self):
        return loss_of(self.model)


def test_the_first_batch_makes_masks_and_no_step():
    model = small_network()
    before = model[4].bias.detach().clone()
    sparsifier = sparsify(model, GraSP(0.8))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    train(model, optimizer, sparsifier, range(1))
    assert torch.equal(model[4].bias, before)
    assert sum(sparsifier.n_active.values()) == 292 - 233
    assert not sparsifier.gradients.hessian
    train(model, optimizer, sparsifier, range(1, 3))
    assert not torch.equal(model[4].bias, before)


def test_parts_of_a_batch_are_added_up():
    model = smooth_network()
    sparsifier = Sparsifier(weights_of(model), GraSP(0.5))
    parts = []
    for part in (slice(4), slice(4, 8)):
        sparsifier.before_backward(loss_of(model, part))
        alone = Sparsifier(weights_of(model), GraSP(0.5))
        alone.before_backward(loss_of(model, part))
        parts.append(alone.gradients.hessian)
    for name, value in sparsifier.gradients.hessian.items():
        torch.testing.assert_close(value, parts[0][name] + parts[1][name])


def test_a_loop_that_forgets_before_backward_is_told():
    model = small_network()
    sparsifier = sparsify(model, GraSP(0.8))
    backward(model, 0)
    with pytest.raises(RuntimeError, match=r"Expected `before_backward\(loss\)` before loss.backward\(\) at step 0"):
        sparsifier.before_step(torch.optim.SGD(model.parameters(), 0.1))


def test_a_network_without_second_derivatives_is_refused_with_the_reason():
    model = small_network()
    sparsifier = sparsify(model, GraSP(0.8))
    images, labels = batch(0)
    loss = F.multi_margin_loss(model(images), labels)
    with pytest.raises(RuntimeError, match=r"Expected a network that can be differentiated twice, as GraSP needs, got"):
        sparsifier.before_backward(loss)


def test_an_overflow_of_the_product_alone_is_an_error():
    model = small_network()
    sparsifier = sparsify(model, GraSP(0.8))
    backward(model, 0, sparsifier)
    sparsifier.gradients.hessian["4.weight"][0, 0] = torch.inf
    with pytest.raises(RuntimeError, match=r"finite product.*`precision` of the Trainer"):
        sparsifier.before_step(torch.optim.SGD(model.parameters(), 0.1))


def test_an_overflow_of_the_step_starts_the_product_anew():
    model = small_network()
    sparsifier = sparsify(model, GraSP(0.8))
    backward(model, 0, sparsifier)
    model[4].weight.grad[0, 0] = torch.inf
    sparsifier.before_step(torch.optim.SGD(model.parameters(), 0.1))
    assert not sparsifier.gradients.hessian
    assert sparsifier.last_update is None


def test_a_loss_without_curvature_has_product_zero():
    weight = nn.Parameter(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    sparsifier = Sparsifier({"w": weight}, GraSP(0.5, EVERYWHERE))
    sparsifier.before_backward((weight * torch.arange(4)).sum())
    assert not sparsifier.gradients.hessian["w"].any()


@pytest.mark.parametrize("loss", ["of all layers", "of the first layer alone", "linear"])
def test_every_process_asks_for_the_same_means(loss):
    model, asked = smooth_network(), []

    def mean_over_ranks(tensor):
        asked.append(tuple(tensor.shape))
        return tensor

    x = torch.ones(2, 6, dtype=torch.float64)
    losses = {"of all layers": model(x).square().sum(), "of the first layer alone": model[0](x).square().sum()}
    sparsifier = Sparsifier(weights_of(model), GraSP(0.5))
    sparsifier.before_backward(losses.get(loss, model[0](x).sum()), mean_over_ranks)
    assert asked == 2 * [tuple(weight.shape) for weight in weights_of(model).values()]


def test_other_algorithms_compute_no_product_and_the_score_says_who_does():
    model = small_network()
    sparsifier = sparsify(model, SET(0.7, schedule=UpdateSchedule(2, 0, 9)))
    backward(model, 0, sparsifier)
    assert not sparsifier.gradients.hessian
    with pytest.raises(ValueError, match=r"product of Hessian and gradient.*Use GraSP"):
        gradient_flow(Connections(torch.ones(2), torch.ones(2).bool()))


def test_a_loss_whose_backward_leaves_the_sparse_weights_out_adds_nothing():
    """Another optimizer's loss, for which Lightning's toggle_optimizer freezes these weights."""
    model = smooth_network()
    weights = {name: p for name, p in model.named_parameters() if p.ndim == 2}
    sparsifier = Sparsifier(weights, GraSP(0.5))
    sparsifier.before_backward(loss_of(model))
    products = {name: product.clone() for name, product in sparsifier.gradients.hessian.items()}
    model.requires_grad_(False)
    code = torch.zeros(8, 6, dtype=torch.float64, requires_grad=True)
    sparsifier.before_backward(model(code).square().mean())
    assert all(torch.equal(sparsifier.gradients.hessian[name], products[name]) for name in weights)
    assert all(product.count_nonzero() for product in products.values())
