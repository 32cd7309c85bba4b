"""Compact files: equal to the last bit, near the paper's size or below, and refused when they are something else."""

import pytest
import torch
from torch import nn

from rigl_lightning.export import compact, dense_state_dict, load_compact, paper_bytes, read_compact, save_compact
from rigl_lightning.export.encoding import decode, encode
from rigl_lightning.export.files import each_once
from rigl_lightning.kernels import available
from rigl_lightning.sparsity import Uniform
from tests.helpers.networks import char_gru, network


def assert_same(got, expected):
    assert got.keys() == expected.keys()
    for name, tensor in expected.items():
        assert got[name].dtype == tensor.dtype
        torch.testing.assert_close(got[name], tensor, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (40, 70), (2, 3, 3, 3), (0, 4), (1, 3000)])
@pytest.mark.parametrize("density", [0.0, 0.001, 0.05, 0.3, 1.0])
def test_codes_come_back(shape, density):
    mask = torch.rand(shape) < density
    code, data = encode(mask)
    assert torch.equal(decode(code, data, shape), mask)
    assert data.numel() <= -(-mask.numel() // 8)


def test_gaps_at_the_border_of_a_byte():
    for gap in (0, 1, 254, 255, 256, 509, 510, 511, 766):
        mask = torch.zeros(4000, dtype=torch.bool)
        mask[gap] = mask[2 * gap + 1] = True
        code, data = encode(mask)
        assert code == "gaps"
        assert torch.equal(decode(code, data, (4000,)), mask)


@pytest.mark.parametrize("name", ["lenet", "wrn", "shared"])
def test_a_file_loads_into_the_plain_module(name, tmp_path):
    model, _ = network(name)
    size = save_compact(model, tmp_path / "net.pt")
    assert size == (tmp_path / "net.pt").stat().st_size
    other, _ = network(name, sparsity=0.5)
    masks = load_compact(tmp_path / "net.pt", other)
    assert_same(other.state_dict(), model.state_dict())
    assert all(torch.equal(mask, model.get_parameter(key) != 0) for key, mask in masks.items())


def test_active_zeros_dtypes_and_what_is_not_finite_are_kept(tmp_path):
    weight = torch.tensor([[0.0, 1.0, 0.0, 0.0] * 8, [float("nan"), 0.0, 0.0, float("inf")] * 8])
    mask = weight != 0
    mask[0, 2] = True
    state = {"a.weight": weight, "b.weight": weight.to(torch.bfloat16), "count": torch.tensor(3)}
    save_compact(state, tmp_path / "net.pt", {"a.weight": mask})
    got, masks = read_compact(tmp_path / "net.pt")
    assert_same(got, state)
    assert torch.equal(masks["a.weight"], mask)


def layers(count=4, **settings):
    """Layers of one shape, with different zeros."""
    model = nn.Sequential(*(nn.Linear(40, 40, bias=False, **settings) for _ in range(count)))
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn(40, 40) * (torch.rand(40, 40) > 0.9))
    return model


def test_weights_of_any_device_are_told_apart(tmp_path, monkeypatch):
    """A copy on the CPU is freed before the next is made, which may lie at its address."""
    model = layers()
    model[3].weight = model[0].weight
    monkeypatch.setattr(torch.Tensor, "cpu", lambda self, *args, **kwargs: self.clone())
    save_compact(model, tmp_path / "net.pt")
    monkeypatch.undo()
    state, _ = read_compact(tmp_path / "net.pt")
    assert_same(state, model.state_dict())
    entries = torch.load(tmp_path / "net.pt", weights_only=True)["entries"]
    assert [entry.get("same") for entry in entries] == [None, None, None, "0.weight"]


def test_views_of_one_memory_are_told_apart(tmp_path):
    base = torch.randn(4, 4, dtype=torch.complex64)
    state = {"a": base, "b": base.conj(), "c": base.t(), "d": base[:2], "e": base.imag, "f": base.conj().imag}
    save_compact(state, tmp_path / "net.pt")
    assert_same(read_compact(tmp_path / "net.pt")[0], state)


class Counted(nn.Linear):
    def get_extra_state(self):
        return {"seen": 3, "mean": torch.ones(2)}

    def set_extra_state(self, state):
        self.seen = state["seen"]


FLOAT8 = [getattr(torch, name) for name in ("float8_e4m3fn", "float8_e5m2") if hasattr(torch, name)]


def test_a_modules_extra_state_comes_back(tmp_path):
    save_compact(Counted(8, 8), tmp_path / "net.pt")
    other = Counted(8, 8)
    load_compact(tmp_path / "net.pt", other)
    assert other.seen == 3
    assert paper_bytes(other.state_dict(), {}) == 4 * (64 + 8)


@pytest.mark.parametrize("dtype", [*FLOAT8, torch.int8, torch.bool, torch.float16, torch.complex64])
@pytest.mark.parametrize("masked", [True, False])
def test_every_dtype_comes_back(tmp_path, dtype, masked):
    weight = layers(1)[0].weight.detach().to(dtype)
    mask = weight.to(torch.complex64) != 0
    save_compact({"w": weight, "v": weight.clone()}, tmp_path / "net.pt", {"w": mask} if masked else None)
    state, masks = read_compact(tmp_path / "net.pt")
    for tensor in state.values():
        assert tensor.dtype == dtype
        assert torch.equal(tensor.to(torch.complex64), weight.to(torch.complex64))
    assert "w" not in masks or torch.equal(masks["w"], mask)


def test_sparse_and_quantized_tensors_come_back(tmp_path):
    weight = layers(1)[0].weight.detach()
    quantized = torch.quantize_per_tensor(weight, 0.1, 0, torch.qint8)
    state = {"csr": weight.to_sparse_csr(), "coo": weight.to_sparse(), "quantized": quantized, "type": torch.qint8}
    save_compact({**state, "pair": (quantized, None)}, tmp_path / "net.pt")
    got, _ = read_compact(tmp_path / "net.pt")
    assert [got["csr"].layout, got["coo"].layout] == [torch.sparse_csr, torch.sparse_coo]
    assert all(torch.equal(got[name].to_dense(), weight) for name in ("csr", "coo"))
    assert torch.equal(got["quantized"].int_repr(), quantized.int_repr())
    assert got["type"] is torch.qint8
    assert got["pair"][1] is None


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (object(), "'x' with object"),
        (nn.Linear(2, 2), "'x' with Linear"),
        (torch.ones(2, device="meta"), "numbers in 'x'"),
    ],
)
def test_what_could_not_be_read_again_is_refused_by_name(tmp_path, value, message):
    (tmp_path / "net.pt").write_bytes(b"before")
    with pytest.raises(ValueError, match=message):
        save_compact({"w": torch.ones(2), "x": value}, tmp_path / "net.pt")
    assert (tmp_path / "net.pt").read_bytes() == b"before"


def test_a_file_of_plain_tensors_has_the_form_that_earlier_versions_read(tmp_path):
    for state, form in (({"w": torch.ones(2)}, 1), ({"w": torch.ones(2), "x": 3}, 2)):
        save_compact(state, tmp_path / "net.pt")
        assert torch.load(tmp_path / "net.pt")["format"] == f"rigl_lightning.compact.{form}"


@pytest.mark.parametrize("sparsity", [0.8, 0.9, 0.95, 0.98])
def test_the_size_is_the_papers_or_less(sparsity, tmp_path):
    model = nn.Sequential(nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10))
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters() if p.ndim == 2}
    masks = {}
    with torch.no_grad():
        for name, s in Uniform(first_layer_dense=False)(shapes, sparsity).items():
            weight = model.get_parameter(name)
            masks[name] = torch.rand(weight.shape) >= s
            weight.mul_(masks[name])
    size = save_compact(model, tmp_path / "net.pt", masks)
    formula = paper_bytes(model.state_dict(), masks)
    assert size < formula + 4000  # the frame of the file
    if sparsity >= 0.95:
        assert size < 0.97 * formula + 4000


def test_the_formula_counts_sparse_biases_as_dense():
    layer = nn.Linear(8, 10)
    masks = {"bias": torch.arange(10) < 5}
    assert paper_bytes(layer.state_dict(), masks) == paper_bytes(layer.state_dict(), {}) == 4 * (80 + 10)


@pytest.mark.parametrize("name", ["embedding.weight", "head.weight"])
def test_a_tied_weight_counts_once_and_takes_a_mask_by_either_name(name, tmp_path):
    model = nn.ModuleDict({"embedding": nn.Embedding(10, 8), "head": nn.Linear(8, 10, bias=False)})
    model["head"].weight = model["embedding"].weight
    mask = torch.zeros(10, 8, dtype=torch.bool)
    mask[:, 0] = True
    with torch.no_grad():
        model["head"].weight.mul_(mask)[3] = 0.0  # an active zero
    state = model.state_dict()
    assert paper_bytes(state, {name: mask}) == 10 * 4 + 80 / 8 + 10 * 4  # values, a bit each, biases
    assert [t.nbytes for t in each_once(state).values()] == [4 * 80]
    save_compact(model, tmp_path / "net.pt", {name: mask})
    read, masks = read_compact(tmp_path / "net.pt")
    assert_same(read, state)
    assert torch.equal(masks[name], mask)


@pytest.mark.skipif(available()[0] != "fast", reason="needs numba")
@pytest.mark.parametrize("build", [lambda: network("wrn")[0], lambda: network("vit")[0], char_gru])
def test_a_compact_network_gives_its_dense_weights_back(build):
    model = build()
    small = compact(model, compute="sparse", fuse_layers=False)
    dense = dense_state_dict(small)
    assert_same(dense, dict(model.state_dict()))
    model.load_state_dict(dense)
    folded = compact(model, compute="dense")
    folded.load_state_dict(dense_state_dict(compact(model, compute="sparse")))


def test_refusals(tmp_path):
    model, _ = network("lenet")
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_compact(tmp_path / "none.pt")
    torch.save({"state_dict": {}}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match="Expected a compact file"):
        read_compact(tmp_path / "other.pt")
    (tmp_path / "noise.pt").write_bytes(b"noise")
    with pytest.raises(ValueError, match="Expected a compact file"):
        read_compact(tmp_path / "noise.pt")
    with pytest.raises(ValueError, match="of the module's tensors"):
        save_compact(model, tmp_path / "net.pt", {"none.weight": torch.ones(1, dtype=torch.bool)})
    with pytest.raises(ValueError, match="zeros outside the mask"):
        save_compact(model, tmp_path / "net.pt", {"1.weight": torch.zeros(300, 64, dtype=torch.bool)})
    with pytest.raises(ValueError, match="Expected a mask"):
        save_compact(model, tmp_path / "net.pt", {"1.weight": torch.zeros(3, dtype=torch.bool)})
    with pytest.raises(ValueError, match="the module that was trained"):
        save_compact(compact(model, compute="sparse"), tmp_path / "net.pt")
