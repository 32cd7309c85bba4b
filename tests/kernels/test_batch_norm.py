"""batch_norm2d equals torch's batch norm in training, and leaves to torch what it does not compute."""

import pytest
import torch
from torch.nn import functional as F

from rigl_lightning.kernels import available, batch_norm, batch_norm2d, use_tier
from rigl_lightning.kernels.batch_norm import rectified
from tests.helpers.masked_layers import close, compare

pytestmark = pytest.mark.parametrize("tier", available())


@pytest.fixture(autouse=True)
def _of_any_size(monkeypatch):
    monkeypatch.setattr(batch_norm, "_LEAST", 1)


def ours(x, weight, bias):
    return batch_norm2d(x, None, None, weight, bias, 0.1, 1e-5)


def torchs(x, weight, bias):
    return F.batch_norm(x, None, None, weight, bias, training=True)


def operands(*shape, affine=True, mean=2.0):
    x = (torch.randn(shape) * torch.rand(shape[1])[:, None, None] * 3 + mean).requires_grad_()
    return [x, *(torch.randn(shape[1], requires_grad=True) if affine else None for _ in range(2))]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("threads", [1, 3])
def test_random_shapes(tier, seed, threads):
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    images, channels, height, width = (int(n) for n in torch.randint(1, 40, (4,)))
    with use_tier(tier):
        compare(ours, torchs, operands(images, channels, height + 4, width, affine=seed % 3 > 0), [None] * 3)


def test_planes_of_several_pieces(tier):
    with use_tier(tier):
        compare(ours, torchs, operands(2, 3, 97, 131), [None] * 3)


def test_a_mean_far_from_zero_costs_no_precision(tier):
    x, weight, bias = operands(8, 2, 64, 64, mean=1000.0)
    with use_tier(tier):
        found = ours(x, weight, bias)
    expected = torchs(x.double(), weight.double(), bias.double())
    # A mean that is rounded to float32 shifts all results by as much as this.
    found, expected, weight, x = (tensor.detach() for tensor in (found, expected, weight, x))
    assert float((found - expected).abs().max()) < 1000 * 2**-23 * float((weight / x.std((0, 2, 3))).abs().max())


@pytest.mark.parametrize("layout", ["channels last", "strided", "negated", "expanded gradient", "of the batch"])
def test_any_layout(tier, layout):
    x, weight, bias = operands(4, 6, 8, 9)
    given = x.detach()
    if layout == "channels last":
        given = given.contiguous(memory_format=torch.channels_last)
    elif layout == "strided":
        given = given.repeat_interleave(2, 3)[..., ::2]
    elif layout == "negated":
        given = torch._neg_view(-given)
    elif layout == "of the batch":
        given = given.transpose(0, 1).contiguous().transpose(0, 1)
    given.requires_grad_()
    exact = [t.detach().double().requires_grad_() for t in (given, weight, bias)]
    with use_tier(tier):
        out, expected = ours(given, weight, bias), torchs(*exact)
        close(out, expected)
        grad = torch.randn(4, 1, 1, 1).expand(4, 6, 8, 9) if layout == "expanded gradient" else torch.randn(4, 6, 8, 9)
        found = torch.autograd.grad(out, [given, weight, bias], grad)
        for one, other in zip(found, torch.autograd.grad(expected, exact, grad.double()), strict=True):
            close(one, other)


@pytest.mark.parametrize("requires_grad", [True, False])
def test_the_gradient_of_channels_last_images_comes_in_their_format(tier, requires_grad):
    """With another one torch's backward pass took two to seven times as long."""
    x, weight, bias = operands(4, 6, 8, 9)
    given = x.detach().contiguous(memory_format=torch.channels_last).requires_grad_(requires_grad)
    with use_tier(tier):
        out = ours(given, weight, bias)
    formats = []
    out.grad_fn.register_prehook(
        lambda grads: formats.append(grads[0].is_contiguous(memory_format=torch.channels_last))
    )
    out.backward(torch.randn(4, 6, 8, 9))
    assert formats == [True]


def test_running_statistics(tier):
    x, weight, bias = operands(4, 6, 8, 9)
    found, expected = (torch.zeros(6), torch.ones(6)), (torch.zeros(6), torch.ones(6))
    with use_tier(tier):
        for _ in range(3):
            batch_norm2d(x, *found, weight, bias, 0.3, 1e-3)
            F.batch_norm(x, *expected, weight, bias, True, 0.3, 1e-3)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("shape", [(1, 3, 1, 1), (0, 3, 5, 5), (4, 3)])
def test_errors_are_those_of_torch(tier, shape):
    with use_tier(tier):
        try:
            F.batch_norm(torch.randn(shape), None, None, training=True)
        except ValueError as error:
            with pytest.raises(ValueError, match=str(error)[:20]):
                batch_norm2d(torch.randn(shape), None, None, None, None, 0.1, 1e-5)
        else:
            batch_norm2d(torch.randn(shape), None, None, None, None, 0.1, 1e-5)


def test_second_derivatives_and_several_gradients_at_once(tier):
    x, weight, bias = operands(2, 3, 4, 5)
    with use_tier(tier):
        results = []
        for function, dtype in ((ours, torch.float32), (torchs, torch.float64)):
            own = [t.detach().to(dtype).requires_grad_() for t in (x, weight, bias)]
            out = function(*own)
            torch.manual_seed(1)
            grads = torch.randn(3, *out.shape).to(dtype)
            batched = torch.autograd.grad(out, own, grads, is_grads_batched=True, retain_graph=True)
            first = torch.autograd.grad(out, own, grads[0], create_graph=True)
            results.append([*batched, *torch.autograd.grad(sum(g.square().sum() for g in first), own[:2])])
    for one, other in zip(*results, strict=True):
        close(one, other)


def test_function_transforms_and_tangents(tier):
    x, weight, bias = (t.detach() for t in operands(2, 3, 4, 5))

    def loss(function):
        return lambda x: function(x, weight, bias).square().sum()

    with use_tier(tier):
        close(torch.func.grad(loss(ours))(x), torch.func.grad(loss(torchs))(x))
        close(torch.func.jvp(loss(ours), (x,), (x,))[1], torch.func.jvp(loss(torchs), (x,), (x,))[1])


def test_undefined_numbers_stay_in_their_channel(tier):
    x = torch.randn(2, 3, 5, 5)
    x[0, 1, 2, 2] = torch.nan
    with use_tier(tier):
        out = ours(x, None, None)
    assert out[:, 1].isnan().all()
    assert out[:, [0, 2]].isfinite().all()


class TestRectified:
    """The ReLU of an output has the gradients that torch's has, in one backward pass with the batch norm's."""

    pytestmark = pytest.mark.parametrize("inplace", [False, True])

    @staticmethod
    def backward_nodes(out):
        """Names of the nodes that the gradient of a result passes."""
        found, waiting = set(), [out.grad_fn]
        while waiting:
            node = waiting.pop()
            if node is not None and node not in found:
                found.add(node)
                waiting += [following for following, _ in node.next_functions]
        return {type(node).__name__ for node in found}

    @pytest.mark.parametrize("affine", [True, False])
    @pytest.mark.parametrize("shape", [(3, 5, 9, 7), (2, 3, 97, 131), (8, 16, 4, 4)])
    def test_values_and_gradients(self, tier, inplace, shape, affine):
        with use_tier(tier):
            compare(
                lambda *args: rectified(ours(*args), inplace),
                lambda *args: F.relu(torchs(*args)),
                operands(*shape, affine=affine),
                [None] * 3,
            )

    def test_the_backward_pass_is_one(self, tier, inplace):
        with use_tier(tier):
            out = rectified(ours(*operands(2, 3, 8, 8)), inplace)
        assert ("_RectifiedBackward" in self.backward_nodes(out)) == (tier == "fast")
        assert not {name for name in self.backward_nodes(out) if name.startswith("Relu")} or tier != "fast"

    def test_second_derivatives(self, tier, inplace):
        x, weight, bias = operands(2, 3, 4, 5)
        results = []
        with use_tier(tier):
            for function, dtype in (
                (lambda *args: rectified(ours(*args), inplace), torch.float32),
                (lambda *args: F.relu(torchs(*args)), torch.float64),
            ):
                own = [t.detach().to(dtype).requires_grad_() for t in (x, weight, bias)]
                first = torch.autograd.grad(function(*own).square().sum(), own, create_graph=True)
                results.append([*first, *torch.autograd.grad(sum(g.square().sum() for g in first), own[:2])])
        for one, other in zip(*results, strict=True):
            close(one, other)

    def test_who_reads_the_batch_norm_too_adds_a_gradient(self, tier, inplace):
        def read_twice(normalise, rectify):
            def function(*args):
                out = normalise(*args)
                also = 3 * out
                return rectify(out) + also

            return function

        with use_tier(tier):
            compare(
                read_twice(ours, lambda out: rectified(out, inplace)),
                read_twice(torchs, F.relu),
                operands(2, 3, 8, 8),
                [None] * 3,
            )

    @pytest.mark.parametrize("what", ["changed", "changed unrecorded", "hook", "retained"])
    def test_an_output_that_somebody_holds_is_differentiated_by_itself(self, tier, inplace, what):
        seen = []

        def with_output(normalise, rectify):
            def function(*args):
                out = normalise(*args)
                if what == "changed":
                    out.mul_(2)
                elif what == "changed unrecorded":
                    with torch.no_grad():
                        out.mul_(2)
                elif what == "hook":
                    out.register_hook(lambda grad: seen.append(grad) or 2 * grad)
                else:
                    out.retain_grad()
                return rectify(out)

            return function

        with use_tier(tier):
            compare(
                with_output(ours, lambda out: rectified(out, inplace)),
                with_output(torchs, lambda out: F.relu(out, inplace)),
                operands(2, 3, 8, 8),
                [None] * 3,
            )
        assert len(seen) == (2 if what == "hook" else 0)

    def test_undefined_numbers_pass_as_torch_lets_them_pass(self, tier, inplace):
        x = torch.randn(2, 3, 5, 5)
        x[0, 1, 2, 2] = torch.nan
        x.requires_grad_()
        with use_tier(tier):
            out = rectified(ours(x, None, None), inplace)
            (grad,) = torch.autograd.grad(out, x, torch.ones_like(out))
        assert grad[:, 1].isnan().all()
        assert grad[:, [0, 2]].isfinite().all()

    def test_without_gradients_it_is_relu(self, tier, inplace):
        x, weight, bias = operands(2, 3, 8, 8)
        with use_tier(tier), torch.no_grad():
            out = ours(x, weight, bias)
            result = rectified(out, inplace)
            assert (result is out) == inplace
            close(result, F.relu(torchs(x, weight, bias)))
