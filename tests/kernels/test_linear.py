"""sparse_linear equals the dense layer with a masked weight."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch.nn import functional as F

from rigl_lightning.kernels import SparsePattern, available, sparse_linear, use_tier
from tests.helpers.masked_layers import SPARSE_TIERS, close, compare, sparse_weight

pytestmark = pytest.mark.parametrize("tier", available())


def check(tier, x, weight, mask, pattern, bias=None, dense_grad=False):
    with use_tier(tier):
        compare(
            lambda x, w, b: sparse_linear(x, w, b, pattern, dense_grad),
            F.linear,
            [x, weight, bias],
            [None, mask, None],
            dense_grad,
        )


@pytest.mark.parametrize("seed", range(12))
def test_random_shapes_and_densities(tier, seed):
    torch.manual_seed(seed)
    samples, inputs, outputs = (int(n) for n in torch.randint(1, 150, (3,)))
    weight, mask, pattern = sparse_weight(outputs, inputs, density=float(torch.rand(())))
    bias = torch.randn(outputs, requires_grad=True) if seed % 2 else None
    check(tier, torch.randn(samples, inputs, requires_grad=True), weight, mask, pattern, bias, seed % 3 == 0)


@pytest.mark.parametrize("shape", [(4,), (0, 4), (1, 4), (2, 3, 4), (2, 1, 3, 4), (2, 0, 4)])
def test_any_leading_dimensions(tier, shape):
    weight, mask, pattern = sparse_weight(5, 4)
    check(tier, torch.randn(shape, requires_grad=True), weight, mask, pattern, torch.randn(5, requires_grad=True))


@pytest.mark.parametrize("density", [0, 1])
@pytest.mark.parametrize("dense_grad", [False, True])
def test_no_or_only_active_connections(tier, density, dense_grad):
    weight, mask, pattern = sparse_weight(6, 40, density=density)
    check(tier, torch.randn(9, 40, requires_grad=True), weight, mask, pattern, None, dense_grad)


def test_empty_rows_and_columns(tier):
    mask = torch.zeros(7, 9, dtype=torch.bool)
    mask[3, 1:4] = mask[5, 8] = True
    weight = (torch.randn(7, 9) * mask).requires_grad_()
    check(tier, torch.randn(33, 9, requires_grad=True), weight, mask, SparsePattern.from_mask(mask))


def test_wide_layers_are_cut_into_parts(tier):
    weight, mask, pattern = sparse_weight(2100, 1100, density=0.02)
    check(tier, torch.randn(40, 1100, requires_grad=True), weight, mask, pattern)


@pytest.mark.parametrize("layout", ["transposed", "sliced", "expanded", "odd offset"])
def test_inputs_that_are_not_contiguous(tier, layout):
    weight, mask, pattern = sparse_weight(5, 12)
    x = {
        "transposed": torch.randn(12, 20).t(),
        "sliced": torch.randn(40, 24)[::2, ::2],
        "expanded": torch.randn(1, 12).expand(20, 12),
        "odd offset": torch.randn(20 * 12 + 1)[1:].view(20, 12),
    }[layout]
    check(tier, x.requires_grad_(), weight, mask, pattern)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_bad_numbers_reach_what_active_connections_reach(tier, bad):
    weight = torch.tensor([[2.0, 0.0, -1.0], [0.0, 3.0, 0.0]], requires_grad=True)
    pattern = SparsePattern.from_mask(weight != 0)
    x = torch.ones(17, 3)
    x[4, 0] = bad
    x.requires_grad_()
    with use_tier(tier):
        out = sparse_linear(x, weight, None, pattern)
    assert torch.equal(out[:, 0], 2 * x[:, 0] - x[:, 2]) or out[4, 0].isnan()
    assert not out[4, 0].isfinite()
    assert out.isfinite().sum() >= out.numel() - (1 if tier != "dense" else 2)
    out.sum().backward()
    assert not weight.grad[0, 0].isfinite()
    assert x.grad.isfinite().all()


def test_gradients_by_finite_differences(tier):
    weight, mask, pattern = sparse_weight(4, 5, density=0.5)
    x, bias = (torch.randn(s, dtype=torch.float64, requires_grad=True) for s in ((3, 5), (4,)))
    weight = weight.detach().double().requires_grad_()
    with use_tier(tier):
        # Only values of active connections vary: the forward pass does not read the others.
        assert torch.autograd.gradcheck(
            lambda x, v, b: sparse_linear(x, torch.zeros_like(weight).masked_scatter(mask, v), b, pattern),
            (x, weight[mask].detach().requires_grad_(), bias),
        )


def test_autocast_answers_as_a_dense_layer_would(tier):
    weight, _, pattern = sparse_weight(8, 16)
    x = torch.randn(4, 16)
    with use_tier(tier), torch.autocast("cpu", torch.bfloat16):
        out = sparse_linear(x, weight, None, pattern)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), F.linear(x, weight), atol=0.05, rtol=0.02)


def test_bfloat16_weights_are_computed_densely(tier):
    weight, mask, pattern = sparse_weight(8, 16)
    weight = weight.detach().bfloat16().requires_grad_()
    with use_tier(tier):
        sparse_linear(torch.randn(4, 16).bfloat16(), weight, None, pattern).sum().backward()
    assert not weight.grad[~mask].any()


def test_a_weight_changed_between_forward_and_backward_is_an_error(tier):
    if tier not in SPARSE_TIERS:
        pytest.skip("the dense tier works on a copy")
    weight, _, pattern = sparse_weight(8, 16)
    with use_tier(tier):
        out = sparse_linear(torch.randn(4, 16, requires_grad=True), weight, None, pattern)
        with torch.no_grad():
            weight.mul_(2)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            out.sum().backward()


def test_the_gradient_can_be_taken_twice_from_one_graph(tier):
    weight, _, pattern = sparse_weight(8, 16)
    with use_tier(tier):
        out = sparse_linear(torch.randn(4, 16), weight, None, pattern).square().sum()
        first = torch.autograd.grad(out, weight, retain_graph=True)[0]
        assert torch.equal(first, torch.autograd.grad(out, weight)[0])


def test_second_derivatives_by_finite_differences(tier):
    weight, mask, pattern = sparse_weight(4, 5, density=0.5)
    x, bias = (torch.randn(s, dtype=torch.float64, requires_grad=True) for s in ((3, 5), (4,)))
    weight = weight.detach().double()
    with use_tier(tier):
        assert torch.autograd.gradgradcheck(
            lambda x, v, b: sparse_linear(x, weight.masked_scatter(mask, v), b, pattern),
            (x, weight[mask].clone().requires_grad_(), bias),
        )


@pytest.mark.parametrize("dense_grad", [False, True])
def test_compiles_without_a_graph_break(tier, dense_grad):
    weight, mask, pattern = sparse_weight(8, 16)
    x, bias = torch.randn(3, 4, 16, requires_grad=True), torch.randn(8, requires_grad=True)
    torch._dynamo.reset()

    @torch.compile(backend="aot_eager", fullgraph=True)
    def layer(x, w, b):
        return sparse_linear(x, w, b, pattern, dense_grad)

    with use_tier(tier):
        compare(layer, F.linear, [x, weight, bias], [None, mask, None], dense_grad)


def test_operators_keep_the_promises_of_torch_library(tier):
    weight, _, pattern = sparse_weight(8, 16)
    args = (torch.randn(4, 16, requires_grad=True), weight, torch.randn(8), pattern.tensors(), False, tier)
    if tier in SPARSE_TIERS:
        with use_tier(tier):
            torch.library.opcheck(torch.ops.rigl_lightning.sparse_linear.default, args)


def test_inputs_of_another_width_are_refused(tier):
    weight, _, pattern = sparse_weight(8, 16)
    with pytest.raises(ValueError, match="Expected 16 input features"), use_tier(tier):
        sparse_linear(torch.randn(4, 15), weight, None, pattern)


def test_threads_of_python_run_one_program_at_once(tier):
    weight, _, pattern = sparse_weight(64, 96)
    weight = weight.detach()
    inputs = [torch.randn(33, 96) for _ in range(8)]

    def layer(x):
        torch.set_num_threads(1)  # holds for the thread that says so
        return sparse_linear(x, weight, None, pattern)

    with use_tier(tier), ThreadPoolExecutor(4) as pool:
        for _ in range(20):
            for x, out in zip(inputs, pool.map(layer, inputs), strict=True):
                close(out, x.double() @ weight.double().t())
