"""No kernel reads or writes outside of its tensors: the jobs run as Python on checked memory."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from rigl_lightning.kernels import available
from tests.helpers.masked_layers import close, compare, sparse_weight

if "fast" not in available():
    pytest.skip("needs numba", allow_module_level=True)

from rigl_lightning.export import compact
from rigl_lightning.kernels import (
    Patterns,
    Weights,
    sparse_conv2d,
    sparse_gru,
    sparse_linear,
    sparse_lstm,
)
from rigl_lightning.kernels.compiled import masking as compiled_masking
from tests.helpers.checked_memory import CheckedMemory


@pytest.fixture(autouse=True)
def memory(monkeypatch):
    return CheckedMemory(monkeypatch)


def test_the_witness_sees_what_it_should(memory):
    x = torch.zeros(4)
    assert memory.at(x.data_ptr(), 0, 4, "f4").shape == (4,)
    with pytest.raises(IndexError):
        memory.at(x.data_ptr(), 1, 4, "f4")
    with pytest.raises(IndexError):
        memory.at(x.data_ptr(), -1, 1, "f4")


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(("samples", "inputs", "outputs"), [(1, 3, 2), (9, 8, 17), (70, 5, 9), (33, 1030, 3)])
def test_linear(samples, inputs, outputs, threads):
    torch.set_num_threads(threads)
    weight, mask, pattern = sparse_weight(outputs, inputs)
    x = torch.randn(samples, inputs, requires_grad=True)
    compare(lambda x, w: sparse_linear(x, w, None, pattern), F.linear, [x, weight], [None, mask])


@pytest.mark.parametrize(
    ("batch", "size", "kernel", "stride", "padding", "dilation"),
    [
        (1, (3, 3), (3, 3), (1, 1), (1, 1), (1, 1)),
        (16, (4, 3), (3, 2), (1, 1), (0, 1), (1, 1)),
        (17, (5, 7), (3, 3), (2, 2), (1, 1), (1, 1)),
        (2, (9, 8), (3, 2), (3, 2), (2, 0), (2, 3)),
        (3, (6, 5), (1, 1), (2, 3), (1, 1), (1, 1)),
        (9, (5, 5), (1, 1), (1, 1), (0, 0), (1, 1)),
        (2, (5, 3), (1, 1), (2, 2), (0, 0), (1, 1)),
        (2, (9, 8), (1, 1), (1, 1), (0, 0), (1, 1)),
    ],
)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_conv(batch, size, kernel, stride, padding, dilation, layout):
    weight, mask, pattern = sparse_weight(3, 2, *kernel)
    x = torch.randn(batch, 2, *size).contiguous(memory_format=layout).requires_grad_()
    window = (stride, padding, dilation)
    compare(
        lambda x, w: sparse_conv2d(x, w, None, *window, pattern),
        lambda x, w: F.conv2d(x, w, None, *window),
        [x, weight],
        [None, mask],
    )


@pytest.mark.parametrize(("batch", "kernel"), [(17, 3), (3, 3), (9, 1), (2, 1)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_bfloat16_images(batch, kernel, layout):
    weight, mask, pattern = sparse_weight(9, 10, kernel, kernel)
    x = torch.randn(batch, 10, 5, 9).bfloat16().contiguous(memory_format=layout).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        out = sparse_conv2d(x, weight, None, 1, kernel // 2, 1, pattern)
    grad = torch.randn_like(out)
    found = torch.autograd.grad(out, (x, weight), grad)
    exact = F.conv2d(
        wide := x.detach().double().requires_grad_(),
        own := weight.detach().double().requires_grad_(),
        padding=kernel // 2,
    )
    expected = torch.autograd.grad(exact, (wide, own), grad.double())
    torch.testing.assert_close(out.double(), exact, rtol=0.01, atol=1e-4)
    torch.testing.assert_close(found[0].double(), expected[0], rtol=0.01, atol=1e-4)
    close(found[1], expected[1] * mask)


@pytest.mark.parametrize("samples", [1, 9, 70])
def test_bfloat16_rows(samples):
    weight, mask, pattern = sparse_weight(17, 11)
    x = torch.randn(samples, 11).bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        out = sparse_linear(x, weight, None, pattern)
    grad = torch.randn_like(out)
    found = torch.autograd.grad(out, (x, weight), grad)
    torch.testing.assert_close(out.double(), x.double() @ weight.double().t(), rtol=0.01, atol=1e-4)
    torch.testing.assert_close(found[0].double(), grad.double() @ weight.double(), rtol=0.01, atol=1e-4)
    close(found[1], grad.double().t() @ x.double() * mask)


@pytest.mark.parametrize("batch", [1, 8, 19])
@pytest.mark.parametrize("kind", ["GRU", "LSTM"])
def test_recurrent(kind, batch):
    gates = 3 if kind == "GRU" else 4
    (ih, _, p), (hh, _, q) = sparse_weight(gates * 5, 3), sparse_weight(gates * 5, 5)
    x, h, c = (torch.randn(s, requires_grad=True) for s in ((3, batch, 3), (batch, 5), (batch, 5)))
    weights, patterns = Weights(ih, hh, None, None), Patterns(p, q)
    if kind == "GRU":
        sparse_gru(x, h, weights, patterns)[0].sum().backward()
    else:
        sparse_lstm(x, (h, c), weights, patterns)[0].sum().backward()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("count", [1, 7, 8, 9, 33, compiled_masking._BLOCK + 5])
def test_masking(count):
    tensor, mask = torch.randn(count), torch.rand(count) < 0.5
    expected = torch.where(mask, tensor, 0.0)
    compiled_masking.zero_inactive(tensor, mask)
    assert tensor.equal(expected)


@pytest.mark.parametrize("samples", [1, 2, 70])
def test_compact_linear(samples):
    layer, x = nn.Linear(9, 17), torch.randn(samples, 9)
    layer.weight.data[torch.rand_like(layer.weight) < 0.6] = 0
    with torch.no_grad():
        close(compact(layer.eval(), x, compute="sparse")(x), layer(x))


@pytest.mark.parametrize("settings", [{}, {"padding": 1}, {"stride": 2, "padding": 2}, {"groups": 4}, {"dilation": 2}])
@pytest.mark.parametrize("size", [(5, 5), (9, 14)])
@pytest.mark.parametrize("kernel", [1, 3])
def test_compact_conv(kernel, size, settings):
    layer, x = nn.Conv2d(4, 8, kernel, **settings), torch.randn(2, 4, *size)
    layer.weight.data[torch.rand_like(layer.weight) < 0.6] = 0
    with torch.no_grad():
        close(compact(layer.eval(), x, compute="sparse")(x), layer(x))


@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM])
def test_compact_recurrent(kind):
    layer, x = kind(3, 5), torch.randn(3, 19, 3)
    for weight in (layer.weight_ih_l0, layer.weight_hh_l0):
        weight.data[torch.rand_like(weight) < 0.6] = 0
    with torch.no_grad():
        close(compact(layer.eval(), x, compute="sparse")(x)[0], layer(x)[0])
