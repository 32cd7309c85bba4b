"""Examples of calls: by position and by name, and where the samples of a batch lie in them."""

import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from rigl_lightning.export import compact, export_onnx
from rigl_lightning.export.example import batch_dimensions, example_of, with_samples


class TimeMajor(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(16, 8)

    def forward(self, x):
        return self.rnn(x)[0]


class WithState(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(16, 8, batch_first=True)

    def forward(self, x, state):
        out, (hidden, cell) = self.rnn(x, state)
        return out, hidden, cell


class QueryKey(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(16, 8)

    def forward(self, q, k):
        return self.net(q) @ self.net(k).T


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(16, 8)

    def forward(self, x, scale):
        return self.net(x) * scale


class OverTheBatch(nn.Module):
    def forward(self, x):
        return x - x.mean()


def state(batch, layers=1):
    return tuple(torch.randn(layers, batch, 8) for _ in range(2))


CASES = {
    "time first": (TimeMajor(), torch.randn(5, 1, 16), (1,)),
    "time first, as many as the batch": (TimeMajor(), torch.randn(5, 5, 16), (1,)),
    "batch first": (nn.GRU(16, 8, batch_first=True), torch.randn(5, 5, 16), (0,)),
    "a tuple of states": (WithState(), (torch.randn(2, 5, 16), state(2)), (0, 1, 1)),
    "a state of one sample": (WithState(), (torch.randn(1, 5, 16), state(1)), (0, 1, 1)),
    "one input is no batch": (QueryKey(), (torch.randn(3, 16), torch.randn(5, 16)), (0, None)),
    "by name": (Scaled(), {"scale": torch.ones(1), "x": torch.randn(2, 16)}, (None, 0)),
    "images": (nn.Conv2d(3, 4, 3), torch.randn(1, 3, 7, 7), (0,)),
    "tokens": (nn.Embedding(9, 4), torch.arange(6).view(2, 3), (0,)),
    "none": (OverTheBatch(), torch.randn(4, 4), None),
}


@pytest.mark.parametrize("case", CASES)
def test_the_batch_is_found(case):
    module, given, expected = CASES[case]
    assert batch_dimensions(module.eval(), example_of(module, given)) == expected


def test_samples_are_repeated_where_they_lie():
    example = with_samples(example_of(None, (torch.randn(2, 5, 16), state(2), 3)), (0, 1, 1), 7)
    assert [tuple(t.shape) for t in example.tensors()] == [(7, 5, 16), (1, 7, 8), (1, 7, 8)]
    assert example.args[2] == 3


class Module(pl.LightningModule):
    def __init__(self, example):
        super().__init__()
        self.net = nn.Linear(64, 64)
        with torch.no_grad():
            self.net.weight[:, ::2] = 0
        self.example_input_array = example

    def forward(self, x, scale):
        return self.net(x) * scale


@pytest.mark.parametrize("kind", ["tuple", "list", "dict"])
@pytest.mark.parametrize("compute", ["auto", "sparse", "dense"])
@torch.no_grad()
def test_example_input_array_may_be_all_that_lightning_takes(kind, compute):
    x, scale = torch.randn(2, 64), torch.full((1,), 3.0)
    module = Module({"tuple": (x, scale), "list": [x, scale], "dict": {"scale": scale, "x": x}}[kind]).eval()
    small = compact(module, compute=compute)
    torch.testing.assert_close(small(x, scale=scale), module(x, scale))


@pytest.mark.parametrize("case", ["time first", "a tuple of states", "one input is no batch", "by name"])
@torch.no_grad()
def test_onnx_leaves_the_batch_open_wherever_it_lies(case, tmp_path):
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    module, given, dims = CASES[case]
    example = example_of(module, given)
    export_onnx(module, tmp_path / "net.onnx", given)
    session = runtime.InferenceSession(str(tmp_path / "net.onnx"), providers=["CPUExecutionProvider"])
    for batch in (1, 3):
        call = with_samples(example, dims, batch)
        inputs = {entry.name: t.numpy() for entry, t in zip(session.get_inputs(), call.tensors(), strict=True)}
        got = session.run(None, inputs)
        expected = call.call(module)
        expected = expected if isinstance(expected, tuple) else (expected,)
        for a, b in zip(got, expected, strict=True):
            torch.testing.assert_close(torch.from_numpy(a), b, rtol=1e-4, atol=1e-5)


def test_onnx_says_what_to_set_where_samples_see_each_other(tmp_path):
    pytest.importorskip("onnxscript")
    with pytest.raises(ValueError, match="Set dynamic_batch=False"):
        export_onnx(OverTheBatch(), tmp_path / "net.onnx", torch.randn(4, 4))
    assert not list(tmp_path.iterdir())
    export_onnx(OverTheBatch(), tmp_path / "net.onnx", torch.randn(4, 4), dynamic_batch=False)
    assert [file.name for file in tmp_path.iterdir()] == ["net.onnx"]
