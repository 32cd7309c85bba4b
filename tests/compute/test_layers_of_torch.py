"""Every kind of layer computes under SparseCompute what it computes without, and differentiates it so."""

import copy

import pytest
import torch
from torch import nn

from rigl_lightning import Sparsifier, Static, select_parameters
from rigl_lightning.compute import SparseCompute

LAYERS = {
    "Linear": (lambda: nn.Linear(20, 30), (6, 20)),
    "Linear without bias": (lambda: nn.Linear(20, 30, bias=False), (2, 3, 20)),
    "Linear on one sample": (lambda: nn.Linear(20, 30), (20,)),
    "Conv2d": (lambda: nn.Conv2d(4, 6, 3), (5, 4, 9, 8)),
    "Conv2d 1x1 with stride": (lambda: nn.Conv2d(8, 6, 1, stride=2), (5, 8, 9, 8)),
    "Conv2d, all settings": (lambda: nn.Conv2d(4, 6, (3, 2), (2, 1), (1, 2), (1, 2)), (5, 4, 9, 8)),
    "Conv2d same": (lambda: nn.Conv2d(4, 6, 3, padding="same"), (5, 4, 9, 8)),
    "Conv2d same, even kernel": (lambda: nn.Conv2d(4, 6, (4, 3), padding="same"), (5, 4, 9, 8)),
    "Conv2d valid": (lambda: nn.Conv2d(4, 6, 3, padding="valid", bias=False), (5, 4, 9, 8)),
    "Conv2d circular": (lambda: nn.Conv2d(4, 6, 3, padding=(1, 2), padding_mode="circular"), (5, 4, 9, 8)),
    "Conv2d reflect": (lambda: nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"), (5, 4, 9, 8)),
    "GRU": (lambda: nn.GRU(7, 12), (5, 3, 7)),
    "GRU, all settings": (lambda: nn.GRU(7, 12, 3, batch_first=True, bidirectional=True, dropout=0.4), (3, 5, 7)),
    "GRU without bias": (lambda: nn.GRU(7, 12, 2, bias=False), (5, 3, 7)),
    "LSTM": (lambda: nn.LSTM(7, 12), (5, 3, 7)),
    "LSTM, all settings": (lambda: nn.LSTM(7, 12, 2, batch_first=True, bidirectional=True, dropout=0.4), (3, 5, 7)),
}


def masked(build, sparsity=0.7):
    torch.manual_seed(0)
    module = build()
    return module, Sparsifier(select_parameters(module), Static(sparsity))


def tensors(value):
    return [value] if torch.is_tensor(value) else [t for part in value for t in tensors(part)]


def run(module, *inputs):
    """Results, and gradients of the inputs and weights."""
    torch.manual_seed(1)  # dropout
    inputs = [x.detach().requires_grad_() if torch.is_tensor(x) else x for x in inputs]
    module.zero_grad()
    outs = tensors(module(*inputs))
    sum((out * torch.randn(out.shape, generator=torch.Generator().manual_seed(2))).sum() for out in outs).backward()
    return [*outs, *(x.grad for x in inputs if torch.is_tensor(x)), *(p.grad for p in module.parameters())]


def compare(module, sparsifier, *inputs):
    expected = run(module, *inputs)
    sparsifier.mask_gradients()
    expected[-len(list(module.parameters())) :] = [p.grad for p in module.parameters()]
    with SparseCompute(module, sparsifier, "sparse") as compute:
        found = run(module, *inputs)
        assert all(layer.is_sparse for layer in compute.layers)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    for name, parameter in sparsifier.parameters.items():
        assert not parameter.grad[~sparsifier.masks[name]].any()


@pytest.mark.parametrize("name", LAYERS)
def test_results_and_gradients_are_those_of_the_dense_layer(name):
    build, shape = LAYERS[name]
    module, sparsifier = masked(build)
    compare(module, sparsifier, torch.randn(shape))


@pytest.mark.parametrize(
    ("name", "layout"),
    [
        ("Conv2d 1x1 with stride", torch.channels_last),
        ("Conv2d", torch.contiguous_format),  # what the next sparse convolution and batch norm read fastest
        ("Conv2d, all settings", torch.contiguous_format),
    ],
)
def test_results_for_channels_last_images(name, layout):
    build, shape = LAYERS[name]
    module, sparsifier = masked(build)
    x = torch.randn(shape).to(memory_format=torch.channels_last)
    with SparseCompute(module, sparsifier, "sparse"):
        out = module(x)
    assert out.is_contiguous(memory_format=layout)
    torch.testing.assert_close(out, module(x), rtol=1e-4, atol=1e-5)


def test_states_are_handed_on():
    state = torch.randn(2, 3, 12)
    compare(*masked(lambda: nn.GRU(7, 12, 2)), torch.randn(5, 3, 7), state)
    module, sparsifier = masked(lambda: nn.LSTM(7, 12, 2))
    x, states = torch.randn(5, 3, 7), (state, state + 1)
    expected = tensors(module(x, states))
    with SparseCompute(module, sparsifier, "sparse"):
        for one, other in zip(tensors(module(x, hx=states)), expected, strict=True):
            torch.testing.assert_close(one, other)


def test_a_recurrent_weight_that_is_not_sparse_is_read_whole():
    torch.manual_seed(0)
    module = nn.GRU(7, 12)
    sparsifier = Sparsifier(select_parameters(module, exclude=["weight_ih_l0"]), Static(0.7))
    compare(module, sparsifier, torch.randn(5, 3, 7))


@pytest.mark.parametrize(
    ("build", "x"),
    [
        (lambda: nn.Linear(20, 30), torch.randn(6, 19)),
        (lambda: nn.Conv2d(4, 6, 3), torch.randn(5, 3, 9, 9)),
        (lambda: nn.Conv2d(4, 6, 3), torch.randn(5, 4, 2, 9)),
        (lambda: nn.GRU(7, 12), torch.randn(5, 3, 6)),
    ],
)
def test_wrong_inputs_are_errors_as_without(build, x):
    module, sparsifier = masked(build)
    with SparseCompute(module, sparsifier, "sparse"), pytest.raises((RuntimeError, ValueError)):
        module(x)


def test_a_batch_can_be_empty():
    module, sparsifier = masked(lambda: nn.Sequential(nn.Conv2d(2, 3, 3), nn.Flatten(), nn.Linear(27, 4)))
    with SparseCompute(module, sparsifier, "sparse"):
        module(torch.randn(0, 2, 5, 5)).sum().backward()
    assert not module[0].weight.grad.any()


def network():
    return nn.Sequential(nn.Conv2d(1, 8, 3, stride=2), nn.Tanh(), nn.Flatten(), nn.Linear(8 * 9, 12), nn.Tanh())


@pytest.mark.parametrize("build", [network, lambda: nn.Linear(20, 3), lambda: nn.GRU(7, 12)])
def test_derivatives_of_a_higher_order_are_those_of_the_dense_layer(build):
    """As gradient penalties need them."""
    module, sparsifier = masked(build)
    x = torch.randn({nn.Sequential: (4, 1, 7, 7), nn.Linear: (4, 20), nn.GRU: (5, 3, 7)}[type(module)])

    def penalty_gradients():
        own = x.detach().requires_grad_()
        score = tensors(module(own))[0].square().sum()
        (gradient,) = torch.autograd.grad(score, own, create_graph=True)
        second = torch.autograd.grad(gradient.square().sum(), list(module.parameters()), allow_unused=True)
        for parameter, found in zip(module.parameters(), second, strict=True):
            parameter.grad = found
        sparsifier.mask_gradients()
        return [gradient.detach(), *(g for g in second if g is not None)]

    expected = penalty_gradients()
    with SparseCompute(module, sparsifier, "sparse"):
        found = penalty_gradients()
    assert len(found) == len(expected) > 1
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
        assert one.any()


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpoints_recompute_it(reentrant):
    from torch.utils.checkpoint import checkpoint

    module, sparsifier = masked(network)

    class Checkpointed(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = module

        def forward(self, x):
            return checkpoint(self.net, x, use_reentrant=reentrant)

    compare(Checkpointed(), sparsifier, torch.randn(4, 1, 7, 7))


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_measurement_within_a_gradient_checkpoint_leaves_no_trace(monkeypatch, reentrant):
    from torch.utils.checkpoint import checkpoint

    monkeypatch.setattr("rigl_lightning.compute.timed_choice.LEAST_FLOPS", 0)
    monkeypatch.setattr("rigl_lightning.compute.timed_choice.LARGEST_DENSITY", 1)
    module, sparsifier = masked(network)
    with SparseCompute(module, sparsifier, "auto") as compute:
        x = torch.randn(4, 1, 7, 7, requires_grad=True)
        checkpoint(module, x, use_reentrant=reentrant).sum().backward()
        assert all(layer.choice.dense_seconds is not None for layer in compute.layers)
    assert all(p.grad is not None for p in module.parameters())


class FirstOutput(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x)[0]


SCRIPTABLE = {
    "linear": (lambda: nn.Linear(20, 3), (4, 20)),
    "conv": (lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU()), (2, 2, 6, 7)),
    "gru": (lambda: FirstOutput(nn.GRU(7, 12)), (5, 3, 7)),
    "lstm": (lambda: FirstOutput(nn.LSTM(7, 12)), (5, 3, 7)),
}


@pytest.mark.filterwarnings("ignore:.*torch.jit.script")
@pytest.mark.parametrize("storage", ["dense", "auto"])
@pytest.mark.parametrize("called", [False, True], ids=["at first", "after a call"])
@pytest.mark.parametrize("kind", SCRIPTABLE)
def test_torch_script_sees_the_layers_as_they_are(kind, called, storage):
    build, shape = SCRIPTABLE[kind]
    module, sparsifier = masked(build)
    x = torch.randn(shape)
    expected = module(x)
    with SparseCompute(module, sparsifier, "sparse", storage=storage) as compute:
        if called:
            module(x)
            sparsifier.step += 1  # that graph is over
        scripted = torch.jit.script(module)
        module(x)  # nor does the next call store connections in what they share
        assert all(layer.is_sparse for layer in compute.layers)
        assert torch.equal(scripted(x), expected)
        assert [p.shape for p in scripted.parameters()] == [p.shape for p in module.parameters()]
    assert torch.equal(scripted(x), expected)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script")
@pytest.mark.parametrize("kind", SCRIPTABLE)
def test_torch_script_of_stored_connections_is_refused_and_its_copy_is_scripted(kind):
    build, shape = SCRIPTABLE[kind]
    module, sparsifier = masked(build)
    x = torch.randn(shape)
    expected = module(x)
    with SparseCompute(module, sparsifier, "sparse", storage="connections"):
        module(x)
        with pytest.raises(ValueError, match=r"torch.jit.script, got '.*weight.*Script a copy"):
            torch.jit.script(module)
        assert torch.equal(torch.jit.script(copy.deepcopy(module))(x), expected)


@pytest.mark.parametrize("kind", [kind for kind in SCRIPTABLE if kind != "lstm"])  # oneDNN's has no forward mode
def test_forward_mode_differentiation_is_that_of_the_layers_without_us(kind):
    build, shape = SCRIPTABLE[kind]
    module, sparsifier = masked(build)
    x, tangent = torch.randn(2, *shape)
    expected = torch.func.jvp(module, (x,), (tangent,))[1]

    def dual(x):
        with torch.autograd.forward_ad.dual_level():
            out = module(torch.autograd.forward_ad.make_dual(x, tangent))
            return torch.autograd.forward_ad.unpack_dual(out).tangent

    with SparseCompute(module, sparsifier, "sparse"):
        for derivative in (dual(x), torch.func.jvp(module, (x,), (tangent,))[1]):
            torch.testing.assert_close(derivative, expected)
        torch.testing.assert_close(torch.func.linearize(module, x)[1](tangent), expected)


def test_a_replaced_forward_has_the_signature_of_its_own():
    import inspect

    module, sparsifier = masked(lambda: nn.Linear(20, 3))
    own = inspect.signature(module.forward)
    with SparseCompute(module, sparsifier, "sparse"):
        assert inspect.signature(module.forward) == own
