"""Under bfloat16 autocast the fast tier reads and writes bfloat16 activations; weights and sums stay float32."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from rigl_lightning.compute import SparseCompute
from rigl_lightning.kernels import SparsePattern, available, sparse_conv2d, sparse_gru, sparse_linear, sparse_lstm
from rigl_lightning.kernels.recurrent_types import Patterns, Weights
from rigl_lightning.sparsity import Sparsifier, select_parameters
from rigl_lightning.sparsity.algorithms import RigL, Static
from tests.helpers.masked_layers import sparse_weight

pytestmark = pytest.mark.skipif("fast" not in available(), reason="only the fast tier reads bfloat16")


def awkward_floats(count):
    """Ties between two bfloat16 numbers, subnormal, infinite and undefined ones, and ordinary ones."""
    torch.manual_seed(0)
    bits = torch.randint(-(2**31), 2**31 - 1, (count,), dtype=torch.int64).to(torch.int32)
    bits[: count // 2] = (bits[: count // 2] & ~0xFFFF) | 0x8000
    floats = bits.view(torch.float32)
    floats[:6] = torch.tensor([float("nan"), float("inf"), -float("inf"), 0.0, -0.0, 3.4028235e38])
    return floats


def equal(one, other):
    return one.dtype == other.dtype and torch.equal(one.view(torch.int16), other.view(torch.int16))


@pytest.mark.parametrize(("samples", "channels"), [(16, 8), (37, 13), (3, 5), (300, 9)])
def test_rows_are_rounded_and_widened_as_torch_does_it(samples, channels):
    from rigl_lightning.kernels.compiled.blocks import partition, step_from_blocks, step_to_blocks

    def rounded(rows):
        """To blocks and back, in bfloat16."""
        n_blocks, length = partition(samples)
        blocks, out = torch.zeros(n_blocks, channels, length), torch.empty(samples, channels, dtype=torch.bfloat16)
        step_to_blocks(rows, blocks, samples, channels, rows.dtype).run({})
        step_from_blocks(blocks, out, samples, channels, torch.bfloat16).run({})
        return out

    floats = awkward_floats(samples * channels).view(samples, channels)
    found, expected = rounded(floats), floats.bfloat16()
    assert equal(found.nan_to_num(1.5), expected.nan_to_num(1.5))
    assert torch.equal(found.isnan(), expected.isnan())
    assert equal(rounded(expected).nan_to_num(1.5), expected.nan_to_num(1.5))


def linear(x, weight, bias, pattern, dense_grad):
    return sparse_linear(x, weight, bias, pattern, dense_grad)


def conv(stride=1, padding=1, layout=torch.contiguous_format):
    def layer(x, weight, bias, pattern, dense_grad):
        own = x.contiguous(memory_format=layout)
        return sparse_conv2d(own, weight, bias, stride, padding, 1, pattern, dense_grad)

    return layer


LAYERS = {
    "linear": (linear, (37, 24), (17, 24)),
    "linear of sequences": (linear, (5, 7, 24), (17, 24)),
    "3x3, lanes": (conv(), (16, 5, 9, 9), (6, 5, 3, 3)),
    "3x3, lanes and planes": (conv(), (19, 5, 9, 9), (6, 5, 3, 3)),
    "3x3, stride 2": (conv(2), (18, 5, 9, 9), (6, 5, 3, 3)),
    "3x3, channels last": (conv(layout=torch.channels_last), (18, 5, 9, 9), (6, 5, 3, 3)),
    "1x1": (conv(1, 0), (3, 5, 9, 9), (6, 5, 1, 1)),
    "1x1, small images": (conv(1, 0), (3, 5, 4, 4), (6, 5, 1, 1)),
    "1x1, channels last": (conv(1, 0, torch.channels_last), (3, 5, 9, 9), (6, 5, 1, 1)),
    "1x1, stride 2": (conv(2, 0), (3, 5, 9, 9), (6, 5, 1, 1)),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("dense_grad", [False, True])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_layer_is_that_of_float32_with_rounded_results(name, dense_grad, threads):
    torch.manual_seed(0)
    layer, x_shape, weight_shape = LAYERS[name]
    weight, _, pattern = sparse_weight(*weight_shape)
    bias, x = torch.randn(weight_shape[0], requires_grad=True), torch.randn(x_shape).bfloat16()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.autocast("cpu", torch.bfloat16):
            out = layer(own := x.clone().requires_grad_(), weight, bias, pattern, dense_grad)
        grad = torch.randn_like(out)
        found = torch.autograd.grad(out, (own, weight, bias), grad)
        exact = layer(wide := x.float().requires_grad_(), weight, bias, pattern, dense_grad)
        expected = torch.autograd.grad(exact, (wide, weight, bias), grad.float())
    finally:
        torch.set_num_threads(before)
    assert equal(out, exact.bfloat16())
    assert out.stride() == exact.stride()
    assert equal(found[0], expected[0].bfloat16())
    assert found[1].dtype == torch.float32
    assert torch.equal(found[1], expected[1])
    torch.testing.assert_close(found[2], expected[2])


@pytest.mark.parametrize("gates", [3, 4])
@pytest.mark.parametrize("is_batch_first", [False, True])
def test_recurrent_layers(gates, is_batch_first):
    torch.manual_seed(0)
    times, batch, features, units = 5, 19, 7, 6
    (ih, _, ih_pattern), (hh, _, hh_pattern) = (
        sparse_weight(gates * units, features),
        sparse_weight(gates * units, units),
    )
    weights = Weights(ih, hh, *(torch.randn(gates * units, requires_grad=True) for _ in range(2)))
    patterns, states = Patterns(ih_pattern, hh_pattern), [torch.randn(batch, units) for _ in range(gates - 2)]
    x = torch.randn(times, batch, features).bfloat16()
    x = x.transpose(0, 1).contiguous().transpose(0, 1) if is_batch_first else x

    def run(x):
        if gates == 3:
            return sparse_gru(x, states[0], weights, patterns)[0]
        return sparse_lstm(x, (states[0], states[1]), weights, patterns)[0]

    with torch.autocast("cpu", torch.bfloat16):
        out = run(own := x.detach().requires_grad_())
    exact = run(wide := x.float().requires_grad_())
    grad = torch.randn_like(out)
    found = torch.autograd.grad(out, (own, *weights), grad)
    expected = torch.autograd.grad(exact, (wide, *weights), grad.float())
    assert equal(out.contiguous(), exact.bfloat16().contiguous())
    assert out.stride() == exact.stride()
    assert equal(found[0].contiguous(), expected[0].bfloat16().contiguous())
    for one, other in zip(found[1:], expected[1:], strict=True):
        assert torch.equal(one, other)


def test_without_autocast_dtypes_must_agree():
    weight, _, pattern = sparse_weight(8, 16)
    with pytest.raises(RuntimeError, match=r"Expected inputs of the weight's dtype, torch.float32, got torch.bfloat16"):
        sparse_linear(torch.randn(4, 16).bfloat16(), weight, None, pattern)


def test_inputs_are_kept_for_the_backward_pass_in_bfloat16():
    weight, _, pattern = sparse_weight(8, 16)
    kept = []
    with (
        torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.dtype) or t, lambda t: t),
        torch.autocast("cpu", torch.bfloat16),
    ):
        sparse_linear(torch.randn(4, 16).bfloat16(), weight, None, pattern)
    assert kept[0] == torch.bfloat16


@pytest.mark.parametrize("storage", ["dense", "connections"])
def test_a_network_trains_under_autocast_as_with_dense_products(storage):
    def train(compute):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.Flatten(), nn.Linear(8 * 64, 10)
        )
        optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
        sparsifier = Sparsifier(select_parameters(model), RigL(0.8), total_steps=20)
        x, y = torch.randn(16, 3, 8, 8), torch.randint(10, (16,))
        losses = []
        with SparseCompute(model, sparsifier, compute, storage="dense" if compute == "dense" else storage) as layers:
            for _ in range(12):
                optimizer.zero_grad()
                with torch.autocast("cpu", torch.bfloat16):
                    loss = F.cross_entropy(model(x), y)
                loss.backward()
                sparsifier.before_step(optimizer)
                optimizer.step()
                sparsifier.after_step(optimizer)
                losses.append(loss.item())
            is_sparse = [layer.is_sparse for layer in layers.layers]
        return losses, is_sparse

    (dense, _), (sparse, is_sparse) = train("dense"), train("sparse")
    assert all(is_sparse)
    assert sparse[-1] < 0.9 * sparse[0]
    # Products of bfloat16 weights differ from those of float32 weights by their rounding.
    torch.testing.assert_close(torch.tensor(sparse), torch.tensor(dense), rtol=0.1, atol=0.05)


def test_auto_compares_with_the_dense_layer_under_autocast():
    model = nn.Linear(1024, 1024, bias=False)
    sparsifier = Sparsifier(select_parameters(model), Static(0.99))
    with SparseCompute(model, sparsifier, "auto") as compute, torch.autocast("cpu", torch.bfloat16):
        assert model(torch.randn(64, 1024).bfloat16()).dtype == torch.bfloat16
        (layer,) = compute.layers
        assert layer.choice is not None
        assert layer.choice.speedup is not None


def test_a_pattern_of_one_row():
    pattern = SparsePattern.from_mask(torch.ones(1, 3, dtype=torch.bool))
    weight = torch.tensor([[1.0, 2.0, 3.0]])
    with torch.autocast("cpu", torch.bfloat16):
        assert sparse_linear(torch.ones(3).bfloat16(), weight, None, pattern).tolist() == [6.0]
