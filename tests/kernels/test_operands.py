"""Whatever a tensor is to torch, the kernels read its values: any strides, view, dtype, mode and thread count."""

import ast
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad
from torch.nn import functional as F

import rigl_lightning.kernels
from rigl_lightning.export import compact
from rigl_lightning.kernels import (
    Patterns,
    SparsePattern,
    Weights,
    available,
    release,
    sparse_conv2d,
    sparse_gru,
    sparse_linear,
    sparse_lstm,
    use_tier,
    workspace,
)
from rigl_lightning.kernels.masking import MasksTogether, zero_inactive_
from rigl_lightning.kernels.settings import Place, address
from tests.helpers.masked_layers import close, sparse_weight

TIERS = available()


def strided(tensor):
    """The same values with gaps between them."""
    wide = torch.full((*tensor.shape, 2), 7.0, dtype=tensor.dtype)
    wide[..., 0] = tensor
    return wide[..., 0]


def negated(tensor):
    """The same values as a view that torch negates when it is read."""
    return torch._neg_view(-tensor)


def conjugated(tensor):
    """The same values as the imaginary part of a conjugated tensor."""
    return torch.complex(torch.zeros_like(tensor), -tensor).conj().imag


def transposed(tensor):
    """The same values, the first dimension side by side in memory."""
    return tensor.transpose(0, -1).contiguous().transpose(0, -1)


def shifted(tensor):
    """The same values, not at the beginning of their memory."""
    return torch.cat([torch.full((3,), 7.0, dtype=tensor.dtype), tensor.reshape(-1)])[3:].view(tensor.shape)


VIEWS = [strided, negated, conjugated, transposed, shifted]


class Layer:
    """A sparse layer and its dense twin as functions of the same tensors."""

    def __init__(self, kind):
        torch.manual_seed(1)
        self.kind = kind
        if kind == "linear":
            weight, _, self.pattern = sparse_weight(12, 9)
            self.tensors = [torch.randn(5, 9), weight.detach(), torch.randn(12)]
        elif kind in ("1x1", "3x3", "3x3 of many"):
            size = int(kind[0])
            weight, _, self.pattern = sparse_weight(6, 4, size, size)
            self.tensors = [torch.randn(17 if "many" in kind else 3, 4, 7, 9), weight.detach(), torch.randn(6)]
        else:
            gates = 3 if kind == "gru" else 4
            (ih, _, p), (hh, _, q) = sparse_weight(gates * 5, 4), sparse_weight(gates * 5, 5)
            self.patterns = Patterns(p, q)
            states = [torch.randn(3, 5) for _ in range(gates - 2)]
            self.tensors = [torch.randn(6, 3, 4), *states, ih.detach(), hh.detach(), *torch.randn(2, gates * 5)]

    def sparse(self, *tensors):
        if self.kind == "linear":
            return sparse_linear(*tensors, self.pattern)
        if self.kind == "gru":
            return sparse_gru(*tensors[:2], Weights(*tensors[2:]), self.patterns)[0]
        if self.kind == "lstm":
            return sparse_lstm(tensors[0], tensors[1:3], Weights(*tensors[3:]), self.patterns)[0]
        return sparse_conv2d(*tensors, 1, int(self.kind[0]) // 2, 1, self.pattern)

    def dense(self, *tensors):
        if self.kind == "linear":
            return F.linear(*tensors)
        if self.kind == "gru":
            return torch._VF.gru(tensors[0], tensors[1][None], list(tensors[2:]), True, 1, 0.0, False, False, False)[0]
        if self.kind == "lstm":
            states = [state[None] for state in tensors[1:3]]
            return torch._VF.lstm(tensors[0], states, list(tensors[3:]), True, 1, 0.0, False, False, False)[0]
        return F.conv2d(*tensors, padding=int(self.kind[0]) // 2)

    def masks(self):
        if self.kind in ("gru", "lstm"):
            first = len(self.tensors) - 4
            return {first: self.patterns.ih, first + 1: self.patterns.hh}
        return {1: self.pattern}

    def check(self, tensors, grad=None, grad_view=lambda grad: grad, function=None, between=lambda: None):
        """Results and gradients equal those of the dense layer in float64."""
        tensors = [t.detach().requires_grad_() for t in tensors]
        exact = [t.detach().double().contiguous().requires_grad_() for t in tensors]
        out, expected = (function or self.sparse)(*tensors), self.dense(*exact)
        grad = torch.randn(out.shape) if grad is None else grad
        between()
        found = torch.autograd.grad(out, tensors, grad_view(grad))
        references = list(torch.autograd.grad(expected, exact, grad.double()))
        for i, pattern in self.masks().items():
            mask = torch.zeros(references[i].numel(), dtype=torch.bool)
            mask[pattern.positions] = True
            references[i] = references[i] * mask.view(references[i].shape)
        close(out, expected)
        for one, other in zip(found, references, strict=True):
            close(one, other)


KINDS = ["linear", "1x1", "3x3", "3x3 of many", "gru", "lstm"]


@pytest.fixture(params=KINDS)
def layer(request):
    return Layer(request.param)


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("view", VIEWS)
def test_any_operand_may_be_any_view(layer, view, tier):
    with use_tier(tier):
        for i in range(len(layer.tensors)):
            layer.check([view(t) if i == j else t for j, t in enumerate(layer.tensors)])


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("view", VIEWS)
def test_the_gradient_of_the_outputs_may_be_any_view(layer, view, tier):
    with use_tier(tier):
        layer.check(layer.tensors, grad_view=view)


@pytest.mark.parametrize("tier", TIERS)
def test_the_gradient_of_the_outputs_may_be_one_number(layer, tier):
    with use_tier(tier):
        layer.check(layer.tensors, grad=torch.tensor(2.0).expand_as(layer.dense(*layer.tensors)))


@pytest.mark.parametrize("threads", [(1, 3), (3, 1), (2, 5)])
def test_the_number_of_threads_may_change_between_the_passes(layer, threads):
    torch.set_num_threads(threads[0])
    layer.check(layer.tensors, between=lambda: torch.set_num_threads(threads[1]))


@pytest.mark.parametrize("batch", [9, 33, 65, 130])
@pytest.mark.parametrize("kind", ["gru", "lstm"])
def test_a_padded_batch_does_not_depend_on_threads(kind, batch):
    layer = Layer(kind)
    layer.tensors[0] = torch.randn(3, batch, 4)
    for i in range(1, len(layer.tensors) - 4):
        layer.tensors[i] = torch.randn(batch, 5)
    for before, after in ((1, 2), (3, 1), (1, 5)):
        torch.set_num_threads(before)
        layer.check(layer.tensors, between=lambda n=after: torch.set_num_threads(n))


def test_defaults_of_torch_do_not_matter(layer):
    release()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            torch.empty(1)
            out = layer.sparse(*layer.tensors)
    finally:
        torch.set_default_dtype(torch.float32)
    close(out, layer.dense(*(t.double() for t in layer.tensors)))


def test_a_pattern_does_not_depend_on_the_default_device():
    mask = torch.rand(4, 5) < 0.5
    with torch.device("meta"):
        pattern = SparsePattern.from_mask(mask)
    assert all(tensor.is_cpu for tensor in pattern.tensors())


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_bias_of_another_dtype_is_as_in_torch(layer, dtype, tier):
    tensors = [*layer.tensors[:-1], layer.tensors[-1].to(dtype)]

    def outcome(function):
        try:
            return function(*tensors)
        except (RuntimeError, ValueError) as error:
            return type(error)

    with use_tier(tier):
        expected, found = outcome(layer.dense), outcome(layer.sparse)
        if isinstance(expected, torch.Tensor):  # oneDNN's LSTM reads biases of both dtypes
            assert torch.equal(expected, found)
        else:
            assert expected is found
        if dtype == torch.bfloat16:
            with torch.autocast("cpu"):
                found = layer.sparse(*tensors)
            assert found.dtype == torch.bfloat16
            torch.testing.assert_close(found.float(), layer.dense(*layer.tensors), rtol=0.05, atol=0.05)


def test_what_inference_mode_leaves_behind_is_usable(layer):
    release()
    with torch.inference_mode():
        layer.sparse(*layer.tensors)
        mask = torch.rand(4, 5) < 0.5
        pattern = SparsePattern.from_mask(mask)
    assert not any(tensor.is_inference() for tensor in pattern.tensors())
    layer.check(layer.tensors)
    assert not any(tensor.is_inference() for tensor in workspace._KEPT.tensors.values())


def test_autocast_around_the_backward_pass_does_not_reach_the_kernels(layer):
    layer.check(layer.tensors)
    with torch.autocast("cpu", enabled=False):
        tensors = [t.detach().requires_grad_() for t in layer.tensors]
        out = layer.sparse(*tensors)
    plain = torch.autograd.grad(out, tensors, torch.ones_like(out), retain_graph=True)
    with torch.autocast("cpu"):
        within = torch.autograd.grad(out, tensors, torch.ones_like(out))
    for one, other in zip(within, plain, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("tier", TIERS)
def test_forward_mode_differentiation_is_that_of_the_dense_layer(layer, tier):
    if layer.kind == "lstm":
        pytest.skip("oneDNN's LSTM has no forward mode, and says so")
    tangents = [torch.randn_like(t) for t in layer.tensors]
    for i in range(len(tangents)):

        def derivative(function, i=i):
            with forward_ad.dual_level():
                dual = forward_ad.make_dual(layer.tensors[i], tangents[i] * layer_mask(layer, i))
                out = function(*(dual if j == i else t for j, t in enumerate(layer.tensors)))
                return forward_ad.unpack_dual(out).tangent

        with use_tier(tier):
            torch.testing.assert_close(derivative(layer.sparse), derivative(layer.dense), rtol=1e-4, atol=1e-5)


def layer_mask(layer, i):
    mask = torch.ones(layer.tensors[i].numel(), dtype=torch.bool)
    if i in layer.masks():
        mask.zero_()[layer.masks()[i].positions] = True
    return mask.view(layer.tensors[i].shape)


@pytest.mark.parametrize("tier", TIERS)
def test_several_gradients_at_once_are_those_of_one_after_the_other(layer, tier):
    with use_tier(tier):
        tensors = [t.detach().requires_grad_() for t in layer.tensors]
        out = layer.sparse(*tensors)
        grads = torch.randn(3, *out.shape)
        found = torch.autograd.grad(out, tensors, grads, retain_graph=True, is_grads_batched=True)
        for k, grad in enumerate(grads):
            for one, other in zip(torch.autograd.grad(out, tensors, grad, retain_graph=True), found, strict=True):
                torch.testing.assert_close(one, other[k], rtol=1e-4, atol=1e-4)


def test_infinite_pixels_reach_only_the_taps_that_read_them():
    layer = Layer("3x3")
    x, weight, bias = layer.tensors
    x[0, 0, 2, 0], x[1, 1, 0, 8] = torch.inf, torch.nan
    tensors = [x, weight.requires_grad_(), bias]
    exact = [x, weight.detach().requires_grad_(), bias]
    grad = torch.ones(3, 6, 7, 9)
    (found,) = torch.autograd.grad(layer.sparse(*tensors), tensors[1], grad)
    (expected,) = torch.autograd.grad(layer.dense(*exact), exact[1], grad)
    assert torch.equal(found.isfinite(), expected.isfinite() | ~layer_mask(layer, 1))


@pytest.mark.parametrize("view", VIEWS)
def test_compact_layers_read_any_view(view):
    torch.manual_seed(0)
    for module, x in (
        (nn.Linear(9, 12), torch.randn(1, 9)),
        (nn.Linear(9, 12), torch.randn(5, 9)),
        (nn.Conv2d(4, 6, 3, padding=1), torch.randn(2, 4, 7, 9)),
        (nn.Conv2d(4, 6, 1), torch.randn(2, 4, 7, 9)),
        (nn.Conv2d(4, 8, 3, groups=4), torch.randn(2, 4, 7, 9)),
        (nn.GRU(4, 5), torch.randn(6, 3, 4)),
        (nn.LSTM(4, 5), torch.randn(6, 3, 4)),
    ):
        small = compact(module.eval(), x, compute="sparse")
        with torch.no_grad():
            expected = first(module(x))
            close(first(small(view(x))), expected)
            small.load_state_dict({k: view(t) if t.ndim else t for k, t in small.state_dict().items()}, assign=True)
            close(first(small(x)), expected)
            if isinstance(module, nn.LSTM):  # oneDNN's has no forward mode, and says so
                continue
            with forward_ad.dual_level():
                found = first(small(forward_ad.make_dual(x, torch.ones_like(x))))
                assert forward_ad.unpack_dual(found).tangent is not None


def first(out):
    return out if isinstance(out, torch.Tensor) else out[0]


@pytest.mark.parametrize("view", VIEWS)
def test_masking_reads_any_view(view):
    tensor, mask = torch.randn(40, 50), torch.rand(40, 50) < 0.5
    expected = torch.where(mask, tensor, 0.0)
    seen = view(tensor)
    assert torch.equal(zero_inactive_(seen, mask), expected)
    assert torch.equal(zero_inactive_(tensor.clone(), mask.t().contiguous().t()), expected)
    assert torch.equal(zero_inactive_(tensor.clone(), mask[:1]), torch.where(mask[:1], tensor, 0.0))


@pytest.mark.parametrize("view", [strided, negated, conjugated, transposed])
def test_an_address_is_that_of_the_values_or_refused(view):
    with pytest.raises(ValueError, match="side by side"):
        address(view(torch.randn(4, 5)), torch.float32)
    with pytest.raises(ValueError, match="float32"):
        address(torch.zeros(3, dtype=torch.float64), torch.float32)
    with pytest.raises(ValueError, match="meta"):
        address(torch.zeros(3, device="meta"), torch.float32)
    x = torch.zeros(8)
    assert address(Place(x[::2], 3), torch.float32) == x.data_ptr() + 12


def test_addresses_are_taken_in_one_place():
    folder = Path(rigl_lightning.kernels.__file__).parent
    taken = {
        path.name
        for path in folder.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr == "data_ptr"
    }
    assert taken == {"settings.py"}


def test_masks_of_many_tensors_are_applied_together_whatever_the_tensors_are():
    torch.manual_seed(0)
    last = {"memory_format": torch.channels_last}
    tensors = {
        "small": torch.randn(3, 5),
        "large": torch.randn(300, 257),
        "parameter": nn.Parameter(torch.randn(64, 33)),
        "channels last": torch.randn(8, 6, 3, 3).contiguous(**last),
        "mask channels last": torch.randn(8, 6, 3, 3),
        "strided": torch.randn(40, 30)[:, ::2],
        "double": torch.randn(20, 20).double(),
        "half": torch.randn(20, 20).half(),
        "negated": torch.randn(20, 20, dtype=torch.complex64).conj().imag,
        "one": torch.randn(1),
    }
    masks = {name: torch.rand(t.shape) < 0.5 for name, t in tensors.items()}
    masks |= {name: masks[name].contiguous(**last) for name in ("channels last", "mask channels last")}
    together = MasksTogether(masks)
    for turn in range(4):  # again with masks that have changed, and with others, and without some tensors
        names = [name for name in tensors if turn != 3 or name not in ("large", "one")]
        given = {name: tensors[name].detach().clone(memory_format=torch.preserve_format) for name in names}
        given["parameter"] = nn.Parameter(given["parameter"])
        given["negated"] = tensors["negated"]  # a copy would not be negated when it is read
        expected = {name: torch.where(masks[name], t, torch.zeros_like(t)) for name, t in given.items()}
        versions = {name: t._version for name, t in given.items()}
        with torch.no_grad():
            together.zero_inactive_(given)
        assert all(torch.equal(given[name], expected[name]) for name in names), turn
        assert all(given[name]._version > versions[name] for name in names)
        for name, mask in masks.items():
            if turn == 1 and name != "large":
                masks[name] = mask.clone().logical_not_()
            else:
                mask.logical_xor_(torch.rand(mask.shape) < 0.3)
