"""Networks trained on a GPU: compact ones for the CPU, files, ONNX, and 2:4 tensors for the GPU itself."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from rigl_lightning import NM, RigL, Sparsifier, Uniform, UpdateSchedule, select_parameters
from rigl_lightning.export import compact, export_onnx, is_two_of_four, load_compact, save_compact, to_semi_structured
from tests.helpers.networks import network
from tests.helpers.small_training import small_network, sparsify

pytestmark = pytest.mark.gpu


@torch.no_grad()
@pytest.mark.parametrize("name", ["wrn", "mobilenet_v1", "lenet", "vit"])
def test_compact_of_a_network_on_the_gpu(name, device, tmp_path):
    model, shape = network(name)
    x = torch.randn(2, *shape)
    expected = model(x)
    model = model.to(device)
    small = compact(model, torch.randn(1, *shape), compute="sparse")
    torch.testing.assert_close(small.cpu()(x), expected, rtol=1e-3, atol=1e-3)
    save_compact(model, tmp_path / "net.pt")
    again, _ = network(name, sparsity=0.5)
    load_compact(tmp_path / "net.pt", again)
    torch.testing.assert_close(again(x), expected)


@pytest.mark.slow
def test_onnx_of_a_network_on_the_gpu(device, tmp_path):
    pytest.importorskip("onnxscript")
    model, shape = network("wrn")
    export_onnx(model.to(device), tmp_path / "net.onnx", torch.randn(1, *shape, device=device))
    assert (tmp_path / "net.onnx").stat().st_size


def trained_two_of_four(device, dtype=torch.float16):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(128, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 64)).to(device)
    algorithm = RigL(0.5, Uniform(first_layer_dense=False), UpdateSchedule(interval=3, end=20), structure=NM(2, 4))
    sparsifier = Sparsifier(select_parameters(model), algorithm)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    x, y = torch.randn(64, 128, device=device), torch.randint(64, (64,), device=device)
    for _ in range(12):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        sparsifier.before_step(optimizer)
        optimizer.step()
        sparsifier.after_step(optimizer)
    return model.to(dtype), x.to(dtype)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_a_trained_network_has_two_of_four(dtype, device):
    model, _ = trained_two_of_four(device, dtype)
    assert all(is_two_of_four(layer.weight) for layer in model if isinstance(layer, nn.Linear))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_two_of_four_tensors_compute_the_same(dtype, cuda):
    model, x = trained_two_of_four(cuda, dtype)
    converted = to_semi_structured(model)
    with torch.no_grad():
        expected = model.float()(x.float())
        found = converted(x).float()
    torch.testing.assert_close(found, expected, rtol=3e-2, atol=3e-2)


def test_an_encoder_layer_of_torch_calls_its_two_of_four_layers(cuda):
    layer = nn.TransformerEncoderLayer(128, 2, 256, batch_first=True).to(cuda, torch.float16).eval()
    x = torch.randn(4, 32, 128, device=cuda, dtype=torch.float16)
    with torch.no_grad():
        for linear in (layer.linear1, layer.linear2):
            linear.weight.mul_(torch.tensor([1.0, 0.0, 0.0, 1.0], device=cuda).repeat(linear.in_features // 4))
        torch.testing.assert_close(to_semi_structured(layer)(x), layer(x), rtol=3e-2, atol=3e-2)


def test_statistics_of_a_network_on_the_gpu(device):
    from rigl_lightning.trainer.metrics import mask_metrics

    model = small_network().to(device)
    sparsifier = sparsify(model, RigL(0.7), total_steps=100)
    metrics = mask_metrics(sparsifier, by_layer=True)
    on_cpu = mask_metrics(sparsify(small_network(), RigL(0.7), total_steps=100), by_layer=True)
    assert metrics == on_cpu
