"""sparse_gru and sparse_lstm equal torch's layers with masked weights."""

import pytest
import torch
from torch import nn

from rigl_lightning.kernels import Patterns, Weights, available, sparse_gru, sparse_lstm, use_tier
from tests.helpers.masked_layers import compare, sparse_weight

pytestmark = [pytest.mark.parametrize("tier", available()), pytest.mark.parametrize("kind", ["GRU", "LSTM"])]


def layer(kind, features, units, density=0.3, bias=True):
    gates = 3 if kind == "GRU" else 4
    ih, mask_ih, pattern_ih = sparse_weight(gates * units, features, density=density)
    hh, mask_hh, pattern_hh = sparse_weight(gates * units, units, density=density)
    biases = [torch.randn(gates * units, requires_grad=True) if bias else None for _ in range(2)]
    return Weights(ih, hh, *biases), Patterns(pattern_ih, pattern_hh), (mask_ih, mask_hh)


def sparse(kind, patterns, dense_grad=False):
    def run(x, *rest):
        if kind == "GRU":
            return sparse_gru(x, rest[0], Weights(*rest[1:]), patterns, dense_grad)
        return sparse_lstm(x, rest[:2], Weights(*rest[2:]), patterns, dense_grad)

    return run


def dense(kind):
    def run(x, *rest):
        states, weights = rest[:-4], rest[-4:]
        module = getattr(nn, kind)(x.shape[2], weights[1].shape[1], bias=weights[2] is not None, dtype=x.dtype)
        names = [name for name, _ in module.named_parameters()]
        given = dict(zip(names, weights, strict=False))
        state = tuple(s[None] for s in states) if kind == "LSTM" else states[0][None]
        out, last = torch.func.functional_call(module, given, (x, state))
        return (out, *(s[0] for s in last)) if kind == "LSTM" else (out, last[0])

    return run


def check(tier, kind, x, weights, patterns, masks, dense_grad=False):
    units, batch = weights.weight_hh.shape[1], x.shape[1]
    states = [torch.randn(batch, units, requires_grad=True) for _ in range(2 if kind == "LSTM" else 1)]
    inputs = [x, *states, *weights]
    all_masks = [None] * (1 + len(states)) + [*masks, None, None]
    with use_tier(tier):
        compare(sparse(kind, patterns, dense_grad), dense(kind), inputs, all_masks, dense_grad)


@pytest.mark.parametrize("seed", range(6))
def test_random_shapes_and_densities(tier, kind, seed):
    torch.manual_seed(seed)
    times, features, units = (int(n) for n in torch.randint(1, 24, (3,)))
    batch = int(torch.randint(1, 90, ()))
    built = layer(kind, features, units, float(torch.rand(())), bias=seed % 2 == 0)
    check(tier, kind, torch.randn(times, batch, features, requires_grad=True), *built, seed % 3 == 0)


@pytest.mark.parametrize("density", [0, 1])
def test_no_or_only_active_connections(tier, kind, density):
    check(tier, kind, torch.randn(3, 5, 7, requires_grad=True), *layer(kind, 7, 6, density))


def test_one_step_of_one_sample(tier, kind):
    check(tier, kind, torch.randn(1, 1, 4, requires_grad=True), *layer(kind, 4, 5))


def test_sequences_with_the_batch_first(tier, kind):
    x = torch.randn(6, 5, 4).transpose(0, 1).requires_grad_()
    check(tier, kind, x, *layer(kind, 4, 5))


def test_sequences_that_are_not_contiguous(tier, kind):
    x = torch.randn(5, 12, 8)[:, ::2, ::2].requires_grad_()
    check(tier, kind, x, *layer(kind, 4, 5))


def test_gates_far_from_zero_saturate(tier, kind):
    x = (100 * torch.randn(4, 9, 6)).requires_grad_()
    check(tier, kind, x, *layer(kind, 6, 8))


def test_nan_stays_in_its_sample(tier, kind):
    weights, patterns, _ = layer(kind, 4, 5, density=1)
    x = torch.randn(3, 20, 4)
    x[1, 7] = float("nan")
    states = [torch.zeros(20, 5) for _ in range(2)]
    with use_tier(tier):
        out = sparse(kind, patterns)(x, *states[: 2 if kind == "LSTM" else 1], *weights)[0]
    bad = out.isnan().any(2)
    assert bad.nonzero().tolist() == [[1, 7], [2, 7]]


def test_gradients_by_finite_differences(tier, kind):
    weights, patterns, masks = layer(kind, 3, 2, density=0.6)
    values = [w[m].detach().double().requires_grad_() for w, m in zip(weights[:2], masks, strict=True)]
    biases = [b.detach().double().requires_grad_() for b in weights[2:]]
    x, h, c = (torch.randn(s, dtype=torch.float64, requires_grad=True) for s in ((3, 2, 3), (2, 2), (2, 2)))
    states = [h, c] if kind == "LSTM" else [h]

    def run(x, ih, hh, *rest):
        full = [torch.zeros(m.shape, dtype=x.dtype).masked_scatter(m, v) for m, v in zip(masks, (ih, hh), strict=True)]
        out, last = sparse(kind, patterns)(x, *rest[2:], *full, *rest[:2])
        return (out, *last) if kind == "LSTM" else (out, last)

    with use_tier(tier):
        assert torch.autograd.gradcheck(run, (x, *values, *biases, *states))


def test_compiles_without_a_graph_break(tier, kind):
    if tier == "dense":
        pytest.skip("torch's own recurrent layers break the graph")
    weights, patterns, masks = layer(kind, 4, 5)
    torch._dynamo.reset()
    run = torch.compile(sparse(kind, patterns), backend="aot_eager", fullgraph=True)
    states = [torch.randn(6, 5, requires_grad=True) for _ in range(2 if kind == "LSTM" else 1)]
    inputs = [torch.randn(3, 6, 4, requires_grad=True), *states, *weights]
    with use_tier(tier):
        compare(run, dense(kind), inputs, [None] * (1 + len(states)) + [*masks, None, None])


def test_the_backward_pass_is_that_of_the_forward_passs_tier(tier, kind):
    weights, patterns, masks = layer(kind, 4, 5)
    states = [torch.randn(6, 5, requires_grad=True) for _ in range(2 if kind == "LSTM" else 1)]

    def run(*inputs):
        with use_tier(tier):
            return sparse(kind, patterns)(*inputs)

    inputs = [torch.randn(3, 6, 4, requires_grad=True), *states, *weights]
    compare(run, dense(kind), inputs, [None] * (1 + len(states)) + [*masks, None, None])


def test_autocast_answers_as_a_dense_layer_would(tier, kind):
    weights, patterns, _ = layer(kind, 4, 5)
    states = [torch.zeros(6, 5) for _ in range(2 if kind == "LSTM" else 1)]
    with use_tier(tier), torch.autocast("cpu", torch.bfloat16):
        out = sparse(kind, patterns)(torch.randn(3, 6, 4), *states, *weights)[0]
    assert out.dtype == torch.bfloat16


def test_what_does_not_fit_is_refused(tier, kind):
    weights, patterns, _ = layer(kind, 4, 5)
    states = [torch.zeros(6, 5) for _ in range(2 if kind == "LSTM" else 1)]
    with use_tier(tier):
        with pytest.raises(ValueError, match="Expected inputs"):
            sparse(kind, patterns)(torch.randn(3, 6, 3), *states, *weights)
        with pytest.raises(ValueError, match="Expected states"):
            sparse(kind, patterns)(torch.randn(3, 7, 4), *states, *weights)
        with pytest.raises(ValueError, match="both biases or none"):
            sparse(kind, patterns)(torch.randn(3, 6, 4), *states, *weights[:3], None)


def test_operators_keep_the_promises_of_torch_library(tier, kind):
    if tier == "dense":
        pytest.skip("no operator of ours")
    weights, patterns, _ = layer(kind, 4, 5)
    states = [torch.randn(1, 5) for _ in range(2 if kind == "LSTM" else 1)]
    tensors = [pattern.tensors() for pattern in patterns]
    args = (torch.randn(3, 1, 4), states, *weights, *tensors, False, tier)
    torch.library.opcheck(torch.ops.rigl_lightning.sparse_recurrent.default, args)
