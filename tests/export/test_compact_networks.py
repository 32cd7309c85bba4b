"""A compact network computes what the trained one does, and the trained one stays as it was."""

import copy
import pickle

import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import nn
from torch.nn import functional as F

from rigl_lightning.export import compact, layers_of
from rigl_lightning.export.folded import FoldedConv2d
from rigl_lightning.export.sparse_weight import SparseWeight
from rigl_lightning.kernels import available, use_tier
from tests.helpers.networks import IMAGES, char_gru, network

pytestmark = pytest.mark.skipif(available()[0] != "fast", reason="needs numba")


def assert_equal(got, expected, tolerance=2e-5):
    scale = expected.abs().max().item() if expected.numel() else 1.0
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=tolerance * max(scale, 1e-6))


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "every class kept"])
@pytest.mark.parametrize("name", IMAGES)
@torch.no_grad()
def test_the_outputs_are_those_of_the_module(name, fused):
    model, shape = network(name)
    before = copy.deepcopy(model.state_dict())
    small = compact(model, torch.randn(2, *shape), compute="sparse", fuse_layers=fused)
    assert layers_of(small)
    for batch in (1, 3):
        x = torch.randn(batch, *shape)
        assert_equal(small(x), model(x))
    x = torch.randn(3, *shape)
    assert_equal(small(x.to(memory_format=torch.channels_last)), model(x))
    assert_equal(small(torch.randn(3, *shape[:-1], 2 * shape[-1])[..., ::2].copy_(x)), model(x))
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    assert all(p.requires_grad for p in model.parameters())


@torch.no_grad()
def test_a_chosen_network_computes_the_same():
    model, shape = network("mobilenet_v1")
    x = torch.randn(1, *shape)
    assert_equal(compact(model, x)(x), model(x))


@torch.no_grad()
def test_an_empty_batch():
    for name in ("lenet", "wrn"):
        model, shape = network(name)
        small = compact(model, compute="sparse")
        assert small(torch.randn(0, *shape)).shape == (0, 10)


@torch.no_grad()
def test_the_recurrent_network_goes_on_from_its_state():
    model = char_gru()
    small = compact(model, compute="sparse")
    tokens = torch.randint(256, (3, 7))
    logits, state = model(tokens)
    got, got_state = small(tokens)
    assert_equal(got, logits)
    assert_equal(got_state, state)
    assert_equal(small(tokens, got_state)[0], model(tokens, state)[0])


@pytest.mark.parametrize("threads", [1, 2, 3, 4])
@torch.no_grad()
def test_threads(threads):
    before = torch.get_num_threads()
    model, shape = network("mobilenet_v1")
    small, x = compact(model, compute="sparse"), torch.randn(2, *shape)
    try:
        torch.set_num_threads(threads)
        assert_equal(small(x), model(x))
    finally:
        torch.set_num_threads(before)


@torch.no_grad()
def test_calls_from_several_threads_of_python():
    from concurrent.futures import ThreadPoolExecutor

    model, shape = network("wrn")
    small = compact(model, compute="sparse")
    inputs = [torch.randn(1, *shape) for _ in range(16)]

    def run(x):
        with torch.no_grad():
            return small(x)

    with ThreadPoolExecutor(3) as pool:
        outputs = list(pool.map(run, inputs))
    for x, out in zip(inputs, outputs, strict=True):
        assert_equal(out, model(x))


@pytest.mark.parametrize("again", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"])
@pytest.mark.parametrize("fused", [True, False])
@torch.no_grad()
def test_copies_compute_the_same(again, fused):
    model, shape = network("wrn")
    small, x = compact(model, compute="sparse", fuse_layers=fused), torch.randn(2, *shape)
    expected = small(x)
    other = again(small)
    assert torch.equal(other(x), expected)
    other.load_state_dict(small.state_dict())
    assert torch.equal(other(x), expected)


@torch.no_grad()
def test_batch_norms_and_activations_are_gone_from_a_fused_resnet():
    small = compact(network("resnet50")[0], compute="sparse")
    assert not [m for m in small.modules() if isinstance(m, nn.BatchNorm2d | nn.ReLU)]


@torch.no_grad()
def test_torch_compile_and_jit_trace():
    layers = [nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 5, 1), nn.Flatten()]
    model, shape = nn.Sequential(*layers, nn.Linear(45, 4)).eval(), (3, 9, 9)
    for weight in model.parameters():
        weight.mul_(torch.rand_like(weight) > 0.5)
    x = torch.randn(2, *shape)
    small = compact(model, compute="sparse")
    assert len(layers_of(small)) == 4
    expected = small(x)
    torch._dynamo.reset()
    assert_equal(torch.compile(small, backend="aot_eager", fullgraph=True)(x), expected)
    traced = torch.jit.trace(small, x)
    other = torch.randn(2, *shape)
    assert_equal(traced(other), model(other))


def test_gradients_of_the_input_are_those_of_the_module():
    model, shape = network("wrn")
    small, x = compact(model, compute="sparse"), torch.randn(2, *shape, requires_grad=True)
    (expected,) = torch.autograd.grad(model(x).sum(), x)
    (got,) = torch.autograd.grad(small(x).sum(), x)
    assert_equal(got, expected, 1e-4)


def test_training_is_refused():
    small = compact(network("lenet")[0], compute="sparse")
    with pytest.raises(RuntimeError, match="stay in evaluation mode"):
        small.train()
    small.eval()


def test_what_is_missing_or_unknown_is_said():
    model, _ = network("lenet")
    with pytest.raises(ValueError, match="Expected an example"):
        compact(model)
    with pytest.raises(ValueError, match="Expected `compute`"):
        compact(model, compute="fast")


class Chooses(nn.Module):
    """Its graph depends on numbers, which no trace sees."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())

    def forward(self, x):
        return self.features(x if x.sum() > 0 else -x)


class AsksForTensors(nn.Module):
    """A trace sees the other branch."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)

    def forward(self, x):
        return self.conv(x) if isinstance(x, torch.Tensor) else self.conv(x[0])


@torch.no_grad()
def test_what_cannot_be_traced_is_fused_below():
    model = Chooses().eval()
    model.features[0].weight.mul_(torch.rand_like(model.features[0].weight) > 0.5)
    small = compact(model, compute="sparse")
    assert type(small) is Chooses
    for x in (torch.ones(1, 3, 8, 8), -torch.ones(1, 3, 8, 8)):
        assert_equal(small(x), model(x))
    assert not [m for m in small.modules() if isinstance(m, nn.BatchNorm2d)]


@torch.no_grad()
def test_a_wrong_trace_is_noticed_and_not_used():
    model = AsksForTensors().eval()
    with pytest.warns(UserWarning, match="not fused"):
        small = compact(model, torch.randn(1, 3, 8, 8), compute="dense")
    assert type(small) is AsksForTensors


class Written(nn.Module):
    """What it computes is given: with tensors that are changed in place, or weights that are read twice."""

    def __init__(self, run):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.norm, self.relu, self.run = nn.BatchNorm2d(8), nn.ReLU(inplace=True), run

    def forward(self, x):
        return self.run(self, x)


def relu_of_a_module_alone(m, x):
    y = m.first(x)
    m.relu(y)
    return m.second(y)


def relu_of_a_function_alone(m, x):
    y = m.first(x)
    F.relu(y, inplace=True)
    return m.second(y)


def sum_alone(m, x):
    y = torch.tanh(m.first(x))
    y.add_(m.second(y))
    return y


def sum_seen_under_another_name(m, x):
    y = same = m.relu(m.first(x))
    y += m.second(y)
    return y + same


def input_changed_before_the_sum(m, x):
    y = m.first(x)
    shortcut = m.second(y)
    return shortcut + m.norm(m.relu(y))


def input_overwritten_before_the_sum(m, x):
    y = m.first(x)
    shortcut = m.second(y)
    return shortcut + m.norm(torch.clamp(y, 0, 1, out=y))


def weight_read_by_a_tied_decoder(m, x):
    return F.conv_transpose2d(m.norm(m.first(x)), m.first.weight, padding=1)


@pytest.mark.parametrize(
    "run",
    [
        relu_of_a_module_alone,
        relu_of_a_function_alone,
        sum_alone,
        sum_seen_under_another_name,
        input_changed_before_the_sum,
        input_overwritten_before_the_sum,
        weight_read_by_a_tied_decoder,
    ],
)
@torch.no_grad()
def test_without_an_example_what_is_written_in_place_or_read_twice_is_kept(run):
    torch.manual_seed(0)
    model, x = Written(run).eval(), torch.randn(2, 3, 6, 6)
    model.norm.running_var.fill_(0.1)
    fused = compact(model, compute="dense")
    assert_equal(fused(x), model(x))
    assert_equal(pickle.loads(pickle.dumps(fused))(x), model(x))


@torch.no_grad()
def test_what_is_returned_beside_tensors_does_not_stop_fusing(recwarn):
    class WithCache(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))

        def forward(self, x, use_cache=True):
            return {"out": self.net(x), "cache": object(), "name": "x"}

    model, x = WithCache().eval(), torch.randn(2, 3, 4, 4)
    small = compact(model, x, compute="dense")
    assert_equal(small(x)["out"], model(x)["out"])
    assert not [m for m in small.modules() if isinstance(m, nn.BatchNorm2d)]
    assert not [w for w in recwarn if "not fused" in str(w.message)]


class Carries(nn.Module):
    """Goes on from its last output."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
        self.state = None

    def forward(self, x):
        self.state = self.conv(x) if self.state is None else self.conv(x) + self.state
        return self.state


@pytest.mark.parametrize("compute", ["auto", "sparse", "dense"])
@torch.no_grad()
def test_a_state_that_a_module_carries(compute):
    model, x = nn.Sequential(Carries()).eval(), torch.randn(2, 3, 4, 4)
    model[0].conv.weight[0] = 0.0
    small = compact(model, x, compute=compute)
    assert small[0].state is None
    for _ in range(3):
        assert_equal(small(x), model(x))


@torch.no_grad()
def test_a_constant_of_the_forward_pass_is_no_state():
    class Scales(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

        def forward(self, x):
            return self.norm(self.conv(x * torch.tensor([2.0])))

    model, x = Scales().eval(), torch.randn(2, 3, 4, 4)
    fused = compact(model, compute="dense")
    assert_equal(fused(x), model(x))
    assert not [m for m in fused.modules() if isinstance(m, nn.BatchNorm2d)]


@torch.no_grad()
def test_an_optional_argument_of_a_sequential():
    class Skips(nn.Sequential):
        def forward(self, x, skip=None):
            out = super().forward(x)
            return out if skip is None else out * skip

    model, x = Skips(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)).eval(), torch.randn(2, 3, 4, 4)
    small = compact(model, compute="dense")
    assert_equal(small(x), model(x))
    assert_equal(small(x, x), model(x, x))


@torch.no_grad()
def test_a_sum_that_writes_to_its_convolution_is_fused():
    def run(m, x):
        y = m.first(x)
        out = m.norm(m.second(m.relu(y)))
        out += y
        return m.relu(out)

    model, x = Written(run).eval(), torch.randn(2, 3, 6, 6)
    fused = compact(model, compute="dense")
    assert_equal(fused(x), model(x))
    assert [node.op for node in fused.graph.nodes].count("call_module") == 3  # with the ReLU that others see


@torch.no_grad()
def test_what_torch_has_compiled_is_replaced(monkeypatch):
    model, x = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).eval(), torch.randn(2, 3, 4, 4)
    forward, calls = FoldedConv2d.forward, []
    monkeypatch.setattr(FoldedConv2d, "forward", lambda *args: calls.append(1) or forward(*args))
    for compiled in (torch.compile(model, backend="eager"), nn.Sequential(torch.compile(model, backend="eager"))):
        small = compact(compiled, compute="dense")
        assert_equal(small(x), model(x))
        assert calls.pop()


@torch.no_grad()
def test_an_encoder_layer_makes_no_dense_weights(monkeypatch):
    model = thinned(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True))
    small, x = compact(model, compute="sparse"), torch.randn(2, 5, 16)
    expected = model(x)
    monkeypatch.setattr(SparseWeight, "dense", None)
    assert_equal(small(x), expected)


@pytest.mark.parametrize("compute", ["auto", "sparse"])
@torch.no_grad()
def test_an_encoder_that_packs_what_is_padded(compute):
    model = thinned(nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 2))
    x, padding = torch.randn(2, 5, 16), torch.arange(5) >= torch.tensor([[5], [3]])
    small = compact(model, {"src": x, "src_key_padding_mask": padding}, compute=compute)
    assert_equal(small(x, src_key_padding_mask=padding), model(x, src_key_padding_mask=padding))


def thinned(model):
    for weight in model.parameters():
        if weight.ndim == 2:
            weight.mul_(torch.rand_like(weight) > 0.5)
    return model.eval()


@torch.no_grad()
def test_attention_keeps_its_weights():
    model = thinned(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True))
    small, x = compact(model, compute="sparse"), torch.randn(2, 5, 16)
    assert_equal(small(x), model(x))
    assert layers_of(small)


@torch.no_grad()
def test_hooks_and_computed_weights_stay():
    model = nn.Sequential(nn.Linear(8, 8), nn.utils.parametrizations.weight_norm(nn.Linear(8, 8))).eval()
    model[0].weight[0] = 0
    seen = []
    model[0].register_forward_hook(lambda *_: seen.append(1))
    small = compact(model, compute="sparse")
    small(torch.randn(2, 8))
    assert seen
    assert not layers_of(small)


@torch.no_grad()
@pytest.mark.parametrize("layer", [nn.Identity(), nn.Dropout(), BatchNormAct2d(4)], ids=lambda m: type(m).__name__)
@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
@torch.no_grad()
def test_what_hooks_change_stays_changed(layer, before):
    model = nn.Sequential(nn.Conv2d(3, 4, 1), copy.deepcopy(layer), nn.Conv2d(4, 4, 1)).eval()
    if before:
        model[1].register_forward_pre_hook(lambda _, args: (args[0] + 3,))
    else:
        model[1].register_forward_hook(lambda _, args, out: out + 3)
    x = torch.randn(2, 3, 4, 4)
    assert_equal(compact(model, compute="sparse")(x), model(x))


@pytest.mark.parametrize("first", [nn.ReLU6(), nn.Hardtanh(-1.0, 0.5)], ids=lambda m: type(m).__name__)
@pytest.mark.parametrize("second", [nn.ReLU(), nn.Hardtanh(0.25, 2.0)], ids=lambda m: type(m).__name__)
@torch.no_grad()
def test_two_activations_bound_one_after_the_other(first, second):
    conv = nn.Conv2d(3, 4, 1)
    conv.weight.mul_(20.0)[0] = 0.0
    model = nn.Sequential(conv, first, second).eval()
    x = torch.randn(2, 3, 4, 4)
    assert_equal(compact(model, compute="sparse")(x), model(x))


def test_a_network_that_wants_one_precision_is_fused_in_it():
    class Strict(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x):
            if x.dtype == torch.float64:
                raise TypeError("no float64")
            return self.conv(x)

    x = torch.randn(1, 3, 5, 5)
    model = Strict()
    assert_equal(compact(model, x)(x), model(x))


def test_without_numba_the_outputs_are_the_same():
    model, shape = network("resnet50")
    small, x = compact(model, compute="sparse"), torch.randn(2, *shape)
    for tier in ("torch", "dense"):
        with use_tier(tier):
            assert_equal(small(x), model(x))
    assert small.double()(x.double()).dtype == torch.float64
