"""ONNX and 2:4: what a CPU can check of them."""

import pytest
import torch
from torch import nn

from rigl_lightning.export import compact, export_onnx, fold_batch_norm, is_two_of_four, to_semi_structured
from tests.helpers.networks import network


@pytest.mark.slow
@pytest.mark.parametrize("name", ["wrn", "mobilenet_v1", "lenet"])
def test_onnx_runtime_computes_the_same(name, tmp_path):
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    model, shape = network(name)
    export_onnx(model, tmp_path / "net.onnx", torch.randn(1, *shape))
    session = runtime.InferenceSession(str(tmp_path / "net.onnx"), providers=["CPUExecutionProvider"])
    (entry,) = session.get_inputs()
    for batch in (1, 3):
        x = torch.randn(batch, *shape)
        (got,) = session.run(None, {entry.name: x.numpy()})
        torch.testing.assert_close(torch.from_numpy(got), model(x).detach(), rtol=1e-4, atol=1e-5)


def test_onnx_says_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"rigl-lightning\[onnx\]"):
        export_onnx(nn.Linear(2, 2), tmp_path / "net.onnx", torch.randn(1, 2))


@torch.no_grad()
def test_folding_keeps_zeros_and_outputs():
    conv, norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4).eval()
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.1, 2.0)
    norm.running_var[0] = 0.0
    conv.weight.mul_(torch.rand_like(conv.weight) > 0.5)
    x = torch.randn(2, 3, 5, 5)
    folded = fold_batch_norm(conv, norm)
    torch.testing.assert_close(folded(x), norm(conv(x)), rtol=1e-4, atol=1e-3)
    assert torch.equal(folded.weight == 0, conv.weight == 0)
    with pytest.raises(ValueError, match="running statistics"):
        fold_batch_norm(conv, nn.BatchNorm2d(4, track_running_stats=False))


@torch.no_grad()
def test_a_folded_network_is_dense():
    model, shape = network("resnet10")
    folded = compact(model, compute="dense")
    x = torch.randn(2, *shape)
    torch.testing.assert_close(folded(x), model(x), rtol=1e-4, atol=1e-4)
    assert not [m for m in folded.modules() if isinstance(m, nn.BatchNorm2d)]


def two_of_four(outputs, inputs):
    linear = nn.Linear(inputs, outputs)
    with torch.no_grad():
        linear.weight.mul_(torch.tensor([1.0, 0.0, 0.0, 1.0]).repeat(inputs // 4))
    return linear


def test_the_pattern_is_checked():
    assert is_two_of_four(two_of_four(4, 8).weight)
    assert not is_two_of_four(nn.Linear(8, 4).weight)
    assert not is_two_of_four(torch.zeros(4, 6))
    # Half of the connections is not enough: these four are side by side.
    assert not is_two_of_four(torch.tensor([[1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0]]))


def test_two_of_four_is_refused_where_it_cannot_run():
    with pytest.raises(ValueError, match="two of every four"):
        to_semi_structured(nn.Linear(64, 64))
    with pytest.raises(ValueError, match="half precision"):
        to_semi_structured(two_of_four(64, 64))
    with pytest.raises(ValueError, match="a multiple of 32"):
        to_semi_structured(two_of_four(16, 64).half())
    with pytest.raises(ValueError, match="on a GPU"):
        to_semi_structured(nn.Sequential(two_of_four(64, 128).half(), nn.ReLU()))


@torch.no_grad()
def test_torch_exports_the_module_and_the_compact_network():
    from rigl_lightning.models import LeNet300100

    model, x = LeNet300100(784, 10).eval(), torch.randn(2, 1, 28, 28)
    for weight in model.parameters():
        weight.mul_(torch.rand_like(weight) > 0.9)
    for exported in (model, compact(model, x)):
        torch.testing.assert_close(torch.export.export(exported, (x,)).module()(x), model(x), rtol=1e-4, atol=1e-5)


class OnlyLinear(torch.Tensor):
    """A weight of a layout that only a linear layer knows, as torch's 2:4 tensors are."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, dense):
        made = torch.Tensor._make_wrapper_subclass(cls, dense.shape, dtype=dense.dtype)
        made.held = dense.detach()
        return made

    @classmethod
    def __torch_dispatch__(cls, operator, types, args=(), kwargs=None):
        if operator is torch.ops.aten.detach.default:
            return args[0]
        if operator not in (torch.ops.aten.t.default, torch.ops.aten.addmm.default, torch.ops.aten.mm.default):
            raise NotImplementedError(f"{operator}")
        found = operator(*(a.held if isinstance(a, cls) else a for a in args), **(kwargs or {}))
        return cls(found) if operator is torch.ops.aten.t.default else found


@pytest.mark.parametrize("nested", [False, True])
@torch.no_grad()
def test_encoders_of_torch_call_their_two_of_four_layers(monkeypatch, nested):
    layer = nn.TransformerEncoderLayer(32, 2, 64, batch_first=True)
    for linear in (layer.linear1, layer.linear2):
        linear.weight.copy_(two_of_four(*linear.weight.shape).weight)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=nested).eval()
    if nested:  # one more layer, since the encoder's own are not converted
        model = nn.Sequential(two_of_four(32, 32), model).eval()
    monkeypatch.setattr("rigl_lightning.export.semi_structured._check", lambda *_: None)
    monkeypatch.setattr("torch.sparse.to_sparse_semi_structured", OnlyLinear)
    converted, x = to_semi_structured(model), torch.randn(3, 5, 32)
    torch.testing.assert_close(converted(x), model(x))
    assert sum(isinstance(p, OnlyLinear) for p in converted.parameters()) == (1 if nested else 4)
