"""Each compact layer equals the dense one, for every geometry, density and kind of number."""

import math

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

from rigl_lightning.export.folded import FoldedConv2d
from rigl_lightning.export.layers import CompactConv2d, CompactLinear
from rigl_lightning.export.recurrent_layers import CompactRecurrent
from rigl_lightning.kernels import available

pytestmark = pytest.mark.skipif(available()[0] != "fast", reason="needs numba")

CONVS = [  # (inputs, outputs, kernel, stride, padding, dilation, groups, mode), image
    ((8, 5, 1, 1, 0, 1, 1, "zeros"), (4, 4)),
    ((8, 5, 1, 2, 0, 1, 1, "zeros"), (7, 9)),
    ((8, 5, 1, 1, 1, 1, 1, "zeros"), (3, 3)),
    ((300, 6, 1, 1, 0, 1, 1, "zeros"), (5, 5)),
    ((3, 7, 3, 1, 1, 1, 1, "zeros"), (2, 1)),
    ((3, 7, 3, 2, 1, 1, 1, "zeros"), (9, 11)),
    ((3, 7, (5, 3), (3, 1), (2, 0), (1, 2), 1, "zeros"), (11, 12)),
    ((8, 8, 3, 1, 1, 1, 8, "zeros"), (7, 7)),
    ((8, 16, 3, 2, 1, 1, 8, "zeros"), (14, 15)),
    ((8, 4, 3, 1, 2, 2, 2, "zeros"), (9, 9)),
    ((4, 4, 3, 1, 1, 1, 1, "reflect"), (6, 8)),
    ((4, 4, 4, 1, "same", 1, 1, "zeros"), (6, 8)),
    ((64, 33, 1, 1, 0, 1, 1, "zeros"), (12, 11)),
]


def sparse_conv(settings, density=0.3):
    torch.manual_seed(0)
    inputs, outputs, kernel, stride, padding, dilation, groups, mode = settings
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, groups, padding_mode=mode)
    with torch.no_grad():
        conv.weight.mul_(torch.rand_like(conv.weight) < density)
    return conv.requires_grad_(False)


@pytest.mark.parametrize("bounds", [(-math.inf, math.inf), (0.0, math.inf), (0.0, 0.5)])
@pytest.mark.parametrize(("settings", "image"), CONVS)
def test_convolutions(settings, image, bounds):
    conv = sparse_conv(settings)
    layer = CompactConv2d(FoldedConv2d(conv, bounds))
    for batch in (1, 3):
        x = torch.randn(batch, settings[0], *image)
        out = conv(x)
        torch.testing.assert_close(layer(x), out.clamp(*bounds), rtol=1e-4, atol=1e-5)
        more = torch.randn_like(out)
        torch.testing.assert_close(layer(x, more), (out + more).clamp(*bounds), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(layer(x[0]), out[0].clamp(*bounds), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(layer(x, torch.ones(1)), (out + 1).clamp(*bounds), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("density", [0.0, 0.02, 1.0])
def test_densities(density):
    for settings, image in (CONVS[0], CONVS[5], CONVS[7]):
        conv = sparse_conv(settings, density)
        x = torch.randn(2, settings[0], *image)
        torch.testing.assert_close(CompactConv2d(FoldedConv2d(conv))(x), conv(x), rtol=1e-4, atol=1e-5)
    linear = nn.Linear(30, 20).requires_grad_(False)
    linear.weight.mul_(torch.rand_like(linear.weight) < density)
    for batch in (1, 5, 70):
        x = torch.randn(batch, 30)
        torch.testing.assert_close(CompactLinear(linear)(x), linear(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(30,), (0, 30), (1, 30), (2, 3, 30), (2, 0, 30)])
def test_leading_dimensions(shape):
    linear = nn.Linear(30, 20, bias=False).requires_grad_(False)
    linear.weight.mul_(torch.rand_like(linear.weight) < 0.3)
    x = torch.randn(shape)
    torch.testing.assert_close(CompactLinear(linear)(x), linear(x), rtol=1e-4, atol=1e-5)
    across = torch.randn(30, 7).t()
    torch.testing.assert_close(CompactLinear(linear)(across), linear(across), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_goes_where_connections_lead(number):
    conv = nn.Conv2d(2, 3, 1).requires_grad_(False)
    conv.weight[:] = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])[..., None, None]
    x = torch.ones(1, 2, 4, 4)
    x[0, 0, 1, 2] = number
    out = CompactConv2d(FoldedConv2d(conv, (0.0, math.inf)))(x)
    dense = (conv(x)).relu()
    assert out[0, 1].isfinite().all()
    for channel in (0, 2):
        torch.testing.assert_close(out[0, channel], dense[0, channel], equal_nan=True)


@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM])
@pytest.mark.parametrize(
    "settings", [{}, {"num_layers": 2, "bidirectional": True}, {"batch_first": True, "bias": False}]
)
def test_recurrent_layers(kind, settings):
    torch.manual_seed(0)
    rnn = kind(6, 5, **settings).requires_grad_(False)
    for name, weight in rnn.named_parameters():
        if name.startswith("weight"):
            weight.mul_(torch.rand_like(weight) < 0.4)
    layer = CompactRecurrent(rnn)
    x = torch.randn(4, 3, 6)
    expected, last = rnn(x)
    got, got_last = layer(x)
    for a, b in ((got, expected), (layer(x, got_last)[0], rnn(x, last)[0]), (layer(x[:, 0])[0], rnn(x[:, 0])[0])):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(got_last, last, rtol=1e-4, atol=1e-5)
    packed = pack_padded_sequence(torch.randn(4, 3, 6), torch.tensor([4, 2, 1][:3]), enforce_sorted=True)
    torch.testing.assert_close(layer(packed)[0].data, rnn(packed)[0].data, rtol=1e-4, atol=1e-5)


def test_wrong_inputs_are_refused():
    layer = CompactConv2d(FoldedConv2d(sparse_conv(CONVS[5][0])))
    with pytest.raises(ValueError, match="Expected images"):
        layer(torch.randn(1, 4, 9, 9))
    with pytest.raises(ValueError, match="padded image"):
        CompactConv2d(FoldedConv2d(nn.Conv2d(1, 1, 5)))(torch.randn(1, 1, 3, 9).requires_grad_(False))
    with pytest.raises(ValueError, match="input features"):
        CompactLinear(nn.Linear(3, 2))(torch.randn(1, 4))
