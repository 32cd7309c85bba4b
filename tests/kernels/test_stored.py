"""Layers that store values only compute what those with dense weights do, and hand the dense gradient on."""

import pytest
import torch
from torch import nn

from rigl_lightning.kernels import (
    Patterns,
    SparsePattern,
    Stored,
    Weights,
    available,
    sparse_conv2d,
    sparse_gru,
    sparse_linear,
    sparse_lstm,
    stored_conv2d,
    stored_linear,
    stored_recurrent,
    use_tier,
)
from rigl_lightning.kernels.conv_geometry import Window

TIERS = available()[:-1]


class Weight:
    """A sparse weight in both forms."""

    def __init__(self, *shape, density=0.3, dtype=torch.float32):
        mask = torch.rand(shape) < density
        self.dense = (torch.randn(shape, dtype=dtype) * mask).requires_grad_()
        self.pattern = SparsePattern.from_mask(mask)
        values = self.dense.detach()[mask].clone().requires_grad_()
        self.stored, self.mask = Stored(values, self.dense.shape), mask
        self.taken = []
        self.rows_at_once = 1 << 20

    def take(self, first, rows):
        assert first == len(torch.cat(self.taken)) if self.taken else first == 0
        self.taken.append(rows.clone())

    __call__ = take

    def check(self, wants_dense):
        grad = self.dense.grad
        torch.testing.assert_close(self.stored.values.grad, grad[self.mask], rtol=1e-4, atol=1e-5)
        if wants_dense:
            torch.testing.assert_close(torch.cat(self.taken), grad, rtol=1e-4, atol=1e-5)


def compare(weights, inputs, dense, stored, wants_dense):
    """Outputs and all gradients of both, given functions of the inputs."""
    other = [t.detach().clone().requires_grad_() for t in inputs]
    for found, expected in ((stored, other), (dense, inputs)):
        outs = list(found(*expected))
        torch.manual_seed(1)
        sum((out * torch.randn(out.shape, dtype=out.dtype)).sum() for out in outs).backward()
    for one, two in zip(inputs, other, strict=True):
        torch.testing.assert_close(two.grad, one.grad, rtol=1e-4, atol=1e-5)
    for weight in weights:
        weight.check(wants_dense)


def leaves(*shapes, dtype=torch.float32):
    return [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes]


@pytest.mark.parametrize("wants_dense", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("tier", TIERS)
def test_linear(tier, dtype, wants_dense):
    torch.manual_seed(0)
    w = Weight(7, 13, dtype=dtype)
    take = w if wants_dense else None
    with use_tier(tier):
        compare(
            [w],
            leaves((3, 5, 13), (7,), dtype=dtype),
            lambda x, b: [sparse_linear(x, w.dense, b, w.pattern, wants_dense)],
            lambda x, b: [stored_linear(x, w.stored, b, w.pattern, take)],
            wants_dense,
        )


@pytest.mark.parametrize("wants_dense", [False, True])
@pytest.mark.parametrize(
    ("tier", "kernel", "window"),
    [("fast", 3, Window((2, 2), (1, 1), (1, 1))), *((tier, 1, Window((2, 2), (0, 0), (1, 1))) for tier in TIERS)],
)
def test_conv(tier, kernel, window, wants_dense):
    if tier not in TIERS:
        pytest.skip("numba is missing")
    torch.manual_seed(0)
    w = Weight(6, 5, kernel, kernel)
    take = w if wants_dense else None
    with use_tier(tier):
        compare(
            [w],
            leaves((9, 5, 8, 8), (6,)),
            lambda x, b: [sparse_conv2d(x, w.dense, b, *window, w.pattern, wants_dense)],
            lambda x, b: [stored_conv2d(x, w.stored, b, window, w.pattern, take)],
            wants_dense,
        )


@pytest.mark.parametrize("wants_dense", [False, True])
@pytest.mark.parametrize("states", [1, 2])
@pytest.mark.parametrize("tier", TIERS)
def test_recurrent(tier, states, wants_dense):
    torch.manual_seed(0)
    gates = 3 if states == 1 else 4
    ih, hh = Weight(gates * 5, 7), Weight(gates * 5, 5)
    patterns = Patterns(ih.pattern, hh.pattern)
    take = [ih, hh] if wants_dense else [None, None]

    def dense(x, b, c, *s):
        weights = Weights(ih.dense, hh.dense, b, c)
        if states == 1:
            return sparse_gru(x, s[0], weights, patterns, wants_dense)
        out, last = sparse_lstm(x, s, weights, patterns, wants_dense)
        return [out, *last]

    def stored(x, b, c, *s):
        return stored_recurrent(x, s, Weights(ih.stored, hh.stored, b, c), patterns, take)

    inputs = leaves((4, 3, 7), (gates * 5,), (gates * 5,), *[(3, 5)] * states)
    with use_tier(tier):
        compare([ih, hh], inputs, dense, stored, wants_dense)


@pytest.mark.parametrize("kind", ["linear", "conv", "gru"])
def test_derivatives_of_a_higher_order(kind):
    torch.manual_seed(0)
    w = Weight(6, 6, 3, 3) if kind == "conv" else Weight(18, 6) if kind == "gru" else Weight(4, 6)
    hh = Weight(18, 6)
    x = torch.randn((9, 6, 5, 5) if kind == "conv" else (3, 2, 6) if kind == "gru" else (5, 6), requires_grad=True)

    def penalty(weight, other, is_stored):
        if kind == "linear":
            layer = stored_linear if is_stored else sparse_linear
            out = layer(x, weight, None, w.pattern)
        elif kind == "conv":
            window = Window((1, 1), (1, 1), (1, 1))
            stored = is_stored and stored_conv2d(x, weight, None, window, w.pattern)
            out = stored if is_stored else sparse_conv2d(x, weight, None, *window, w.pattern)
        else:
            weights, patterns = Weights(weight, other, None, None), Patterns(w.pattern, hh.pattern)
            state = torch.zeros(2, 6)
            out = (
                stored_recurrent(x, [state], weights, patterns, [None, None])[0]
                if is_stored
                else sparse_gru(x, state, weights, patterns)[0]
            )
        (grad,) = torch.autograd.grad(out.tanh().sum(), x, create_graph=True)
        return grad.square().sum()

    (expected,) = torch.autograd.grad(penalty(w.dense, hh.dense, False), w.dense)
    (found,) = torch.autograd.grad(penalty(w.stored, hh.stored, True), w.stored.values)
    torch.testing.assert_close(found, expected[w.mask], rtol=1e-3, atol=1e-5)


def test_a_weight_beside_a_dense_one():
    torch.manual_seed(0)
    ih, hh = Weight(15, 7, density=1.0), Weight(15, 5)
    patterns = Patterns(ih.pattern, hh.pattern)
    x, state = torch.randn(4, 3, 7), torch.zeros(3, 5)
    sparse_gru(x, state, Weights(ih.dense, hh.dense, None, None), patterns)[0].sum().backward()
    expected, ih.dense.grad = ih.dense.grad, None
    weights = Weights(ih.dense, hh.stored, None, None)
    stored_recurrent(x, [state], weights, patterns, [None, hh])[0].sum().backward()
    torch.testing.assert_close(ih.dense.grad, expected)
    hh.check(False)


def test_the_version_of_values_is_watched():
    w = Weight(4, 6)
    values = nn.Parameter(w.stored.values.detach())
    loss = stored_linear(torch.randn(2, 6, requires_grad=True), Stored(values, w.stored.shape), None, w.pattern).sum()
    with torch.no_grad():
        values.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("rows", [1, 3, 7])
def test_the_dense_gradient_of_a_linear_layer_comes_by_rows(rows):
    torch.manual_seed(0)
    w = Weight(7, 13)
    w.rows_at_once = rows
    compare(
        [w],
        leaves((5, 13), (7,)),
        lambda x, b: [sparse_linear(x, w.dense, b, w.pattern, True)],
        lambda x, b: [stored_linear(x, w.stored, b, w.pattern, w)],
        True,
    )
    assert len(w.taken) == -(-7 // rows)
