"""Which layers are sparse, and what is said of the others."""

import pytest
import torch
from torch import nn
from torch.func import functional_call

from rigl_lightning import DNW, SNFS, GraSP, RigL, Sparsifier, Static, Uniform, UpdateSchedule, select_parameters
from rigl_lightning.compute import SparseCompute, compute_table, dense_layers, timed_choice


def start(module, compute="sparse", algorithm=None, **kwargs):
    torch.manual_seed(0)
    sparsifier = Sparsifier(select_parameters(module, **kwargs), algorithm or Static(0.6), total_steps=20)
    return sparsifier, SparseCompute(module, sparsifier, compute)


class OwnForward(nn.Linear):
    def forward(self, input):
        return 2 * super().forward(input)


class OwnFlag(nn.Linear):
    pass


class BareWeight(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 8))

    def forward(self, x):
        return x @ self.weight


@pytest.mark.parametrize(
    ("module", "x", "reason"),
    [
        (OwnForward(8, 8), torch.randn(4, 8), "OwnForward has a forward of its own"),
        (nn.Conv2d(8, 8, 3, groups=2), torch.randn(4, 8, 5, 5), "2 groups"),
        (nn.Conv1d(8, 8, 3), torch.randn(4, 8, 5), "not a Linear, Conv2d, GRU or LSTM"),
        (nn.LSTM(8, 8, proj_size=3), torch.randn(4, 2, 8), "projected states (proj_size)"),
        (BareWeight(), torch.randn(4, 8), "not a Linear, Conv2d, GRU or LSTM"),
        (nn.Linear(8, 8).bfloat16(), torch.randn(4, 8).bfloat16(), "in bfloat16"),
        (nn.Linear(8, 8), torch.randn(4, 8).double(), "called in float64"),
        (nn.Conv2d(8, 8, 3), torch.randn(8, 5, 5), "an image without a batch dimension"),
        (nn.GRU(8, 8), torch.randn(4, 8), "a sequence without a batch dimension"),
        (nn.GRU(8, 8), nn.utils.rnn.pack_sequence([torch.randn(4, 8)]), "called with a PackedSequence"),
    ],
)
def test_what_the_kernels_cannot_is_dense_and_named(module, x, reason):
    include = ["weight"] if isinstance(module, BareWeight) else None
    sparsifier, compute = start(module, include=include)
    call = pytest.raises(RuntimeError) if reason == "called in float64" else pytest.MonkeyPatch.context()
    with compute:
        with call:
            module(x)
        (name,) = {layer.name for layer in compute.layers} or {""}
        assert dense_layers(compute) == [f"{name} ({reason})"]
        assert reason in compute_table(compute)


@pytest.mark.parametrize("storage", ["dense", "connections"])
@pytest.mark.parametrize(("settings", "size"), [({}, (2, 5)), ({"padding": (2, 0)}, (5, 1)), ({"dilation": 3}, (9, 6))])
def test_an_image_smaller_than_the_kernel_is_torchs_error(storage, settings, size):
    module = nn.Conv2d(4, 8, 3, **settings)
    sparsifier = Sparsifier(select_parameters(module), Static(0.8, Uniform(first_layer_dense=False)))
    with SparseCompute(module, sparsifier, "sparse", storage=storage) as compute:
        with pytest.raises(RuntimeError, match="Kernel size can't be greater than actual input size"):
            module(torch.randn(2, 4, *size))
        assert compute.layers[0].last_refusal == "images smaller than the kernel"
        module(torch.randn(2, 4, 9, 9))
        assert compute.layers[0].is_sparse


def test_a_subclass_with_the_forward_of_its_base_is_sparse():
    sparsifier, compute = start(module := OwnFlag(8, 8))
    with compute:
        module(torch.randn(4, 8))
        assert compute.layers[0].is_sparse
        assert isinstance(module, OwnFlag)


def test_attention_uses_the_weight_of_its_projection_without_calling_it():
    sparsifier, compute = start(module := nn.MultiheadAttention(8, 2))
    x = torch.randn(3, 4, 8)
    with compute:
        module(x, x, x)[0].sum().backward()
    assert (
        "its module is not called"
        in dict(zip(sparsifier.parameters, dense_layers(compute), strict=True))["out_proj.weight"]
    )


def test_validation_and_other_weights_are_dense():
    sparsifier, compute = start(module := nn.Linear(8, 8))
    x = torch.randn(4, 8)
    other = torch.randn(8, 8)
    with compute:
        with torch.no_grad():
            module(x)
        assert not compute.layers[0].was_called
        found = functional_call(module, {"weight": other}, x)
        assert torch.equal(found, nn.functional.linear(x, other, module.bias))
        jacobian = torch.func.jacrev(lambda x: functional_call(module, {}, (x,)))(x[0])
        torch.testing.assert_close(jacobian, module.weight)
        torch.func.vmap(module)(x)
        assert not compute.layers[0].is_sparse
        module(x)
        assert compute.layers[0].is_sparse


@pytest.mark.parametrize("compute", ["sparse", "auto"])
def test_autocast_answers_in_its_dtype(compute, monkeypatch):
    monkeypatch.setattr(timed_choice, "LEAST_FLOPS", 0)
    sparsifier, compute = start(module := nn.Linear(8, 8), compute)
    with compute, torch.autocast("cpu", torch.bfloat16):
        assert module(torch.randn(4, 8)).dtype == torch.bfloat16
        assert compute.layers[0].is_sparse or compute.compute == "auto"
        assert compute.layers[0].choice is not None or compute.compute == "sparse"


def test_compiled_and_traced_calls_are_dense():
    sparsifier, compute = start(module := nn.Linear(8, 8))
    x = torch.randn(4, 8)
    with compute:
        torch.testing.assert_close(torch.compile(module, backend="eager", fullgraph=True)(x), module(x))
        graph = str(torch.jit.trace(module, x).inlined_graph)
    assert "aten::linear" in graph


def test_tied_weights_are_right_wherever_they_are_used():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)
            self.second.weight = self.first.weight

        def forward(self, x):
            return nn.functional.linear(self.second(self.first(x).tanh()).tanh(), self.first.weight)

    sparsifier, compute = start(module := Tied())
    x = torch.randn(4, 8)

    def gradient():
        module.zero_grad()
        module(x).square().sum().backward()
        sparsifier.mask_gradients()
        return module.first.weight.grad.clone()

    expected = gradient()
    with compute:
        torch.testing.assert_close(gradient(), expected)
        assert [layer.is_sparse for layer in compute.layers] == [True, True]


def test_a_pattern_is_built_again_only_when_its_mask_changes(monkeypatch):
    built = []
    original = torch.Tensor.nonzero
    sparsifier, compute = start(module := nn.Linear(8, 8), algorithm=RigL(0.6, schedule=UpdateSchedule(3, end=20)))
    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    with compute:
        for _ in range(7):
            optimizer.zero_grad()
            module(torch.randn(4, 8)).square().sum().backward()
            pattern = compute.patterns.of("weight", sparsifier.masks)
            built.append(id(pattern))
            assert torch.equal(pattern.positions, original(sparsifier.masks["weight"].view(-1))[:, 0])
            sparsifier.before_step(optimizer)
            optimizer.step()
            sparsifier.after_step(optimizer)
    # Updates at 0, 3 and 6.
    assert built[1] == built[2] == built[3]
    assert built[4] == built[5] == built[6]
    assert len(set(built)) == 3


@pytest.mark.parametrize(
    ("algorithm", "dense_steps"),
    [
        (Static(0.6), []),
        (RigL(0.6, schedule=UpdateSchedule(2, end=4)), [0, 2]),
        (SNFS(0.6, schedule=UpdateSchedule(2, end=4)), [0, 1, 2, 3, 4]),
        (DNW(0.6), [0, 1, 2, 3, 4]),
        (GraSP(0.6), []),  # no inactive connections at the step that ranks them
    ],
)
def test_the_dense_gradient_is_computed_on_the_steps_that_read_it(algorithm, dense_steps):
    sparsifier, compute = start(module := nn.Linear(8, 8), algorithm=algorithm)
    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    found = []
    with compute:
        for step in range(5):
            optimizer.zero_grad()
            loss = module(torch.randn(4, 8)).square().sum()
            sparsifier.before_backward(loss)
            loss.backward()
            if compute.layers[0].is_sparse and module.weight.grad[~sparsifier.masks["weight"]].any():
                found.append(step)
            sparsifier.before_step(optimizer)
            optimizer.step()
            sparsifier.after_step(optimizer)
    assert found == dense_steps
    note = "reads the gradient of inactive connections at every step" in compute_table(compute)
    assert note == (len(dense_steps) == 5)


# ---- auto --------------------------------------------------------------------------------------------------------


@pytest.fixture
def times(monkeypatch):
    """Seconds that the next measurements take, dense and sparse in turns."""
    seconds = {"dense": 1.0, "sparse": 0.5, "measurements": 0}

    def measured(layer, x, tensors):
        seconds["measurements"] += 1
        return seconds["sparse"] if "_timed_sparse" in str(layer) else seconds["dense"]

    monkeypatch.setattr(timed_choice, "_seconds", measured)
    monkeypatch.setattr(timed_choice, "LEAST_FLOPS", 0)
    return seconds


@pytest.mark.parametrize(
    ("sparse", "is_sparse", "why"),
    [(0.5, True, ""), (0.99, False, "within the margin"), (2.0, False, "dense is faster")],
)
def test_auto_takes_what_is_faster_by_more_than_noise(times, sparse, is_sparse, why):
    times["sparse"] = sparse
    _, compute = start(module := nn.Linear(8, 8), "auto")
    with compute:
        module(torch.randn(4, 8))
        measured = times["measurements"]
        module(torch.randn(3, 8))
        assert times["measurements"] == measured > 4
        assert compute.layers[0].is_sparse == is_sparse
    assert compute.layers[0].choice.speedup == pytest.approx(1 / sparse)
    *_, row, total = compute_table(compute).splitlines()
    assert row.split() == [
        "weight",
        "8x8",
        "sparse" if is_sparse else "dense",
        "dense",
        "1000.00",
        f"{1000 * sparse:.2f}",
        *why.split(),
    ]
    chosen = 1000 * sparse if is_sparse else 1000
    assert total.startswith(f"the 1 timed layer in one step: 1000.00 ms dense, {chosen:.2f} ms as chosen")


def test_layers_that_are_alike_are_one_line(times):
    module = nn.ModuleList([nn.ModuleDict({"a": nn.Linear(8, 8), "b": nn.Linear(8, 8)}) for _ in range(12)])
    _, compute = start(module, "auto")
    with compute:
        for block in module:
            times["sparse"] = 0.5
            block["a"](torch.randn(4, 8))
            times["sparse"] = 2.0
            block["b"](torch.randn(4, 8))
        lines = compute_table(compute).splitlines()
    assert [line.split() for line in lines[2:4]] == [
        ["12", "x", "*.a.weight", "8x8", "sparse", "dense", "1000.00", "500.00"],
        ["12", "x", "*.b.weight", "8x8", "dense", "dense", "1000.00", "2000.00", "dense", "is", "faster"],
    ]
    assert lines[4:] == [
        "the 24 timed layers in one step: 24000.00 ms dense, 18000.00 ms as chosen, 1.33 times as fast"
    ]


def test_layers_that_are_alike_are_timed_and_decided_together(times):
    """Noise would make every third one dense: 0.98 is within the margin of 1.0; the median, 0.9, is not."""
    module = nn.ModuleList(nn.Linear(8, 8) for _ in range(12))
    _, compute = start(module, "auto")
    noise = {id(layer.bias): seconds for layer, seconds in zip(module, [0.9, 0.98, 0.9] * 4, strict=True)}
    timed = set()

    def measured(layer, x, tensors):
        timed.add(id(tensors[1]))
        return noise[id(tensors[1])] if "_timed_sparse" in str(layer) else 1.0

    with compute, pytest.MonkeyPatch.context() as patch:
        patch.setattr(timed_choice, "_seconds", measured)
        for layer in module:
            layer(torch.randn(4, 8))
    assert timed == set(list(noise)[:3])
    assert [layer.is_sparse for layer in compute.layers] == [True] * 12
    assert {layer.choice.sparse_seconds for layer in compute.layers} == {0.9}


def test_layers_on_other_inputs_or_with_other_settings_are_timed_apart(times):
    module = nn.ModuleList([nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3, stride=2), nn.Conv2d(8, 8, 3)])
    _, compute = start(module, "auto")
    with compute:
        for layer, size in zip(module, (9, 9, 7), strict=True):
            layer(torch.randn(2, 8, size, size))
    assert len(compute.pools) == 3


def test_auto_decides_again_when_the_density_has_changed_by_a_quarter(times):
    sparsifier, compute = start(module := nn.Linear(20, 10), "auto")
    seen = []
    with compute:
        for density in (80, 70, 60, 59):
            mask = sparsifier.masks["weight"].view(-1)
            mask.copy_(torch.arange(200) < density)
            module(torch.randn(4, 20))
            seen.append(round(200 * compute.layers[0].choice.density))
    assert seen == [80, 80, 60, 60]


def test_auto_does_not_time_what_is_clear(times, monkeypatch):
    _, compute = start(module := nn.Linear(8, 8), "auto", Static(0.4))
    with compute:
        module(torch.randn(4, 8))
    assert dense_layers(compute) == ["weight (density 0.61)"]
    monkeypatch.setattr(timed_choice, "LEAST_FLOPS", 1e9)
    _, compute = start(module := nn.Linear(8, 8), "auto")
    with compute:
        module(torch.randn(4, 8))
    assert dense_layers(compute) == ["weight (too small to gain)"]
    assert times["measurements"] == 0


def test_auto_is_dense_where_runs_have_to_agree_to_the_bit(times):
    _, compute = start(module := nn.Linear(8, 8), "auto")
    torch.use_deterministic_algorithms(True)
    try:
        with compute:
            module(torch.randn(4, 8))
    finally:
        torch.use_deterministic_algorithms(False)
    assert dense_layers(compute) == ["weight (deterministic algorithms are asked for)"]
    assert times["measurements"] == 0


def test_auto_counts_what_building_patterns_costs(times):
    schedule = UpdateSchedule(1, end=20)
    sparsifier, compute = start(module := nn.Linear(8, 8), "auto", RigL(0.6, schedule=schedule))
    compute.patterns.seconds = lambda *_: 3.0
    with compute:
        module(torch.randn(4, 8))
    assert compute.layers[0].choice.sparse_seconds == pytest.approx(0.5 + 3.0)


def test_choices_are_taken_up_again(times):
    sparsifier, compute = start(module := nn.Linear(8, 8), "auto")
    with compute:
        module(torch.randn(4, 8))
    measured = times["measurements"]
    with SparseCompute(module, sparsifier, "auto", compute.state_dict()) as again:
        module(torch.randn(4, 8))
        assert again.layers[0].is_sparse
    assert times["measurements"] == measured


def test_a_real_measurement_leaves_gradients_hooks_and_the_random_state_alone(monkeypatch):
    monkeypatch.setattr(timed_choice, "LEAST_FLOPS", 0)
    sparsifier, compute = start(module := nn.GRU(8, 8, 2, dropout=0.5), "auto")
    for parameter in module.parameters():
        parameter.register_hook(lambda grad: pytest.fail("a hook saw the measurement"))
    x = torch.randn(4, 3, 8, requires_grad=True)
    state = torch.get_rng_state()
    with compute:
        compute.layers[0]._choose(x)
    assert torch.equal(torch.get_rng_state(), state)
    assert x.grad is None
    assert all(parameter.grad is None for parameter in module.parameters())


def test_an_unknown_way_is_refused():
    with pytest.raises(ValueError, match="Expected `compute` of auto, sparse or dense, got 'fast'"):
        start(nn.Linear(8, 8), "fast")
