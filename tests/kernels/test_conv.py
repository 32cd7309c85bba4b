"""sparse_conv2d equals the dense convolution with a masked weight."""

import pytest
import torch
from torch.nn import functional as F

from rigl_lightning.kernels import SparsePattern, available, sparse_conv2d, use_tier
from tests.helpers.masked_layers import SPARSE_TIERS, compare, sparse_weight

pytestmark = pytest.mark.parametrize("tier", available())


def images(*shape, layout="contiguous"):
    x = torch.randn(shape)
    if layout == "channels last":
        x = x.to(memory_format=torch.channels_last)
    if layout == "sliced":
        x = torch.randn(*shape[:3], shape[3] * 2)[..., ::2]
    return x.requires_grad_()


def check(tier, x, weight, mask, pattern, bias=None, window=(1, 0, 1), dense_grad=False):
    with use_tier(tier):
        compare(
            lambda x, w, b: sparse_conv2d(x, w, b, *window, pattern, dense_grad),
            lambda x, w, b: F.conv2d(x, w, b, *window),
            [x, weight, bias],
            [None, mask, None],
            dense_grad,
        )


@pytest.mark.parametrize("layout", ["contiguous", "channels last", "sliced"])
@pytest.mark.parametrize("seed", range(16))
def test_random_geometry(tier, seed, layout):
    if (seed, layout) == (10, "channels last") and torch.__version__.startswith("2.6"):
        pytest.skip("torch 2.6 ends the process in its own conv2d of this geometry, which is what we compare with")
    torch.manual_seed(seed)

    def draw(low, high, n):
        return tuple(int(k) for k in torch.randint(low, high, (n,)))

    batch, channels, outputs = draw(1, 35, 1)[0], *draw(1, 12, 2)
    kernel, stride, padding, dilation = draw(1, 4, 2), draw(1, 4, 2), draw(0, 3, 2), draw(1, 3, 2)
    smallest = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    size = [low + extra for low, extra in zip(smallest, draw(0, 12, 2), strict=True)]
    weight, mask, pattern = sparse_weight(outputs, channels, *kernel, density=float(torch.rand(())))
    bias = torch.randn(outputs, requires_grad=True) if seed % 2 else None
    x = images(batch, channels, *size, layout=layout)
    check(tier, x, weight, mask, pattern, bias, (stride, padding, dilation), seed % 3 == 0)


@pytest.mark.parametrize("layout", ["contiguous", "channels last"])
@pytest.mark.parametrize("batch", [0, 1, 2, 7, 16, 17])
@pytest.mark.parametrize(("kernel", "stride", "padding"), [(1, 1, 0), (1, 2, 0), (3, 1, 1), (3, 2, 1)])
def test_any_batch(tier, batch, kernel, stride, padding, layout):
    weight, mask, pattern = sparse_weight(6, 4, kernel, kernel)
    x = images(batch, 4, 9, 10, layout=layout)
    check(tier, x, weight, mask, pattern, torch.randn(6, requires_grad=True), (stride, padding, 1))


@pytest.mark.parametrize("density", [0, 1])
@pytest.mark.parametrize("kernel", [1, 3])
def test_no_or_only_active_connections(tier, density, kernel):
    weight, mask, pattern = sparse_weight(6, 4, kernel, kernel, density=density)
    check(tier, images(5, 4, 8, 8), weight, mask, pattern, torch.randn(6, requires_grad=True))


@pytest.mark.parametrize("kernel", [1, 3])
def test_empty_outputs_and_unread_channels(tier, kernel):
    mask = torch.zeros(6, 4, kernel, kernel, dtype=torch.bool)
    mask[2, 1] = mask[4, 3] = True
    weight = (torch.randn(mask.shape) * mask).requires_grad_()
    check(tier, images(3, 4, 8, 8), weight, mask, SparsePattern.from_mask(mask), None, (1, kernel // 2, 1))


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_bad_numbers_stay_within_the_reach_of_active_connections(tier, kernel, bad):
    if tier == "dense" or (tier == "torch" and kernel == 3):
        pytest.skip("the dense convolution multiplies infinity by inactive zeros")
    mask = torch.zeros(2, 2, kernel, kernel, dtype=torch.bool)
    mask[0, 0, kernel // 2, kernel // 2] = mask[1, 1] = True
    weight = (torch.ones(mask.shape) * mask).requires_grad_()
    x = torch.ones(17, 2, 6, 6)
    x[16, 0, 2, 3] = bad
    x.requires_grad_()
    with use_tier(tier):
        out = sparse_conv2d(x, weight, None, 1, kernel // 2, 1, SparsePattern.from_mask(mask))
    assert (~out.isfinite()).nonzero().tolist() == [[16, 0, 2, 3]]
    out.sum().backward()
    assert weight.grad.isfinite().logical_not().nonzero().tolist() == [[0, 0, kernel // 2, kernel // 2]]
    assert x.grad.isfinite().all()


def test_gradients_by_finite_differences(tier):
    weight, mask, pattern = sparse_weight(3, 2, 1, 1, density=0.6)
    x = torch.randn(2, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    values = weight[mask].detach().double().requires_grad_()
    with use_tier(tier):
        assert torch.autograd.gradcheck(
            lambda x, v: sparse_conv2d(
                x, torch.zeros(mask.shape, dtype=v.dtype).masked_scatter(mask, v), None, 2, 0, 1, pattern
            ),
            (x, values),
        )


def test_weights_in_channels_last_format(tier):
    weight, mask, pattern = sparse_weight(6, 4, 3, 3)
    weight = weight.detach().to(memory_format=torch.channels_last).requires_grad_()
    check(tier, images(3, 4, 8, 8, layout="channels last"), weight, mask, pattern, None, (1, 1, 1))


@pytest.mark.parametrize("layout", ["contiguous", "channels last"])
@pytest.mark.parametrize("kernel", [1, 3])
def test_the_memory_format_of_results(tier, kernel, layout):
    weight, _, pattern = sparse_weight(6, 4, kernel, kernel)
    with use_tier(tier):
        out = sparse_conv2d(images(3, 4, 8, 8, layout=layout), weight, None, 1, 0, 1, pattern)
    is_by_planes = tier == "fast" and kernel == 3  # the others keep the format of the images
    assert out.is_contiguous() == (layout == "contiguous" or is_by_planes)


@pytest.mark.parametrize("kernel", [1, 3])
def test_compiles_without_a_graph_break(tier, kernel):
    weight, mask, pattern = sparse_weight(6, 4, kernel, kernel)
    torch._dynamo.reset()

    @torch.compile(backend="aot_eager", fullgraph=True)
    def layer(x, w, b):
        return sparse_conv2d(x, w, b, 2, 0, 1, pattern)

    with use_tier(tier):
        inputs = [images(5, 4, 9, 9), weight, torch.randn(6, requires_grad=True)]
        compare(layer, lambda x, w, b: F.conv2d(x, w, b, 2), inputs, [None, mask, None])


def test_operators_keep_the_promises_of_torch_library(tier):
    weight, _, pattern = sparse_weight(6, 4, 1, 1)
    args = (images(2, 4, 5, 5), weight, torch.randn(6), [2, 2, 0, 0, 1, 1], pattern.tensors(), False, tier)
    if tier in SPARSE_TIERS:
        with use_tier(tier):
            torch.library.opcheck(torch.ops.rigl_lightning.sparse_conv2d.default, args)


def test_what_does_not_fit_is_refused(tier):
    weight, _, pattern = sparse_weight(6, 4, 3, 3)
    with use_tier(tier):
        with pytest.raises(ValueError, match="Expected images"):
            sparse_conv2d(torch.randn(2, 5, 8, 8), weight, None, 1, 0, 1, pattern)
        with pytest.raises(ValueError, match="padded image of at least 5"):
            sparse_conv2d(torch.randn(2, 4, 4, 8), weight, None, 1, 0, 2, pattern)


@pytest.mark.parametrize("kernel", [1, 3])
def test_strided_channels_last_images(tier, kernel):
    """torch 2.15 writes out of bounds in the strided 1x1 backward pass of channels-last images."""
    weight, mask, pattern = sparse_weight(6, 8, kernel, kernel)
    x = torch.randn(5, 8, 9, 7).to(memory_format=torch.channels_last).requires_grad_()
    with use_tier(tier):
        out = sparse_conv2d(x, weight, None, 2, 0, 1, pattern)
        assert out.is_contiguous() == (tier == "fast" and kernel == 3)
        for padding in (0, 1):
            compare(
                lambda x, w, p=padding: sparse_conv2d(x, w, None, 2, p, 1, pattern),
                lambda x, w, p=padding: F.conv2d(x, w, None, 2, p),
                [x, weight],
                [None, mask],
            )


def test_images_with_too_many_pixels_for_the_offsets_are_dense(tier, monkeypatch):
    from rigl_lightning.kernels import conv_geometry

    size = conv_geometry.Axis(1472, 3, 1, 1, 1)
    for lanes in (1, 16):  # 16 images of 64 channels do not fit 2**31 floats
        tables = conv_geometry.tables(conv_geometry.Geometry(size, size, 64, 1, lanes))
        assert int(tables.taps.min()) == 0
        assert int(tables.taps.max()) < 64 * 1474**2
    large = conv_geometry.Axis(6000, 3, 1, 1, 1)
    assert not conv_geometry.Geometry(large, large, 64, 1, 1).has_offsets
    assert not conv_geometry.Geometry(large, large, 1, 64, 1).has_offsets
    monkeypatch.setattr(conv_geometry, "OFFSET_LIMIT", 4 * 11 * 12)
    weight, mask, pattern = sparse_weight(3, 4, 3, 3)
    check(tier, images(2, 4, 9, 10), weight, mask, pattern, window=(1, 1, 1))


def test_a_backward_pass_takes_memory_of_its_own_images_only(tier):
    """Not those of the sixteen that fit side by side."""
    from rigl_lightning.kernels import release, workspace

    if tier != "fast":
        pytest.skip("keeps no memory")
    release()
    weight, mask, pattern = sparse_weight(4, 4, 3, 3)
    check(tier, images(1, 4, 30, 30), weight, mask, pattern, window=(1, 1, 1))
    kept = max(tensor.numel() for tensor in workspace._KEPT.tensors.values())
    assert kept <= 4 * 34 * 34
    release()
