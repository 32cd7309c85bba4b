import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from rigl_lightning.models import CharGRU
from rigl_lightning.sparsity.costs.flops import (
    FlopCounter,
    sparse_forward_flops,
    trace,
    trace_flops,
    training_flops,
    with_outputs,
)


class Uses(nn.Module):
    """A (3, 4) weight and what is done with it."""

    def __init__(self, function):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3, 4))
        self.function = function

    def forward(self, *inputs):
        return self.function(self.weight, *inputs)


class TestByHand:
    """Twice the weights, times how often each is used."""

    @pytest.mark.parametrize(
        ("module", "shape", "expected"),
        [
            (nn.Linear(4, 3), (5, 4), 2 * 12 * 5),
            (nn.Linear(4, 3), (4,), 2 * 12),
            (nn.Linear(4, 3), (2, 7, 4), 2 * 12 * 14),
            (nn.Conv1d(2, 3, 5), (1, 2, 9), 2 * 30 * 5),
            (nn.Conv2d(4, 6, 3), (1, 4, 8, 8), 2 * 216 * 36),
            (nn.Conv2d(4, 6, 3, stride=2, padding=1), (2, 4, 8, 8), 2 * 216 * 16 * 2),
            (nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2), (1, 4, 8, 8), 2 * 108 * 16),
            (nn.Conv2d(4, 4, 3, padding=1, groups=4), (1, 4, 8, 8), 2 * 36 * 64),
            (nn.Conv2d(4, 6, 3, dilation=2), (1, 4, 8, 8), 2 * 216 * 16),
            (nn.Conv3d(2, 3, 2), (1, 2, 4, 4, 4), 2 * 48 * 27),
            (nn.ConvTranspose2d(3, 5, 2, stride=2), (1, 3, 4, 4), 2 * 60 * 16),
            (nn.ConvTranspose2d(4, 6, 2, stride=2, groups=2), (2, 4, 4, 4), 2 * 48 * 32),
            (nn.ConvTranspose1d(3, 5, 4), (1, 3, 6), 2 * 60 * 6),
        ],
        ids=str,
    )
    def test_linear_and_convolutions(self, module, shape, expected):
        assert trace_flops(module, torch.zeros(shape)) == {"weight": expected}

    def test_gru(self):
        # 3 gates of 5: (15, 3) and (15, 5), met by 4 steps of 2 sequences.
        expected = {"weight_ih_l0": 2 * 45 * 8, "weight_hh_l0": 2 * 75 * 8}
        assert trace_flops(nn.GRU(3, 5), torch.zeros(4, 2, 3)) == expected
        assert trace_flops(nn.GRU(3, 5, batch_first=True), torch.zeros(2, 4, 3), torch.zeros(1, 2, 5)) == expected

    def test_lstm_of_two_layers_both_ways_with_projection(self):
        flops = trace_flops(nn.LSTM(3, 5, num_layers=2, bidirectional=True, proj_size=2), torch.zeros(4, 2, 3))
        assert len(flops) == 12
        assert flops["weight_ih_l0"] == 2 * (20 * 3) * 8
        assert flops["weight_hh_l0_reverse"] == 2 * (20 * 2) * 8
        assert flops["weight_hr_l1"] == 2 * (2 * 5) * 8
        assert flops["weight_ih_l1_reverse"] == 2 * (20 * 4) * 8  # two directions of two

    def test_rnn_with_packed_sequences(self):
        packed = nn.utils.rnn.pack_sequence([torch.zeros(4, 3), torch.zeros(2, 3)])
        model = nn.RNN(3, 5)
        with FlopCounter(model) as counter:
            model(packed)
        assert counter.flops == {"weight_ih_l0": 2 * 15 * 6, "weight_hh_l0": 2 * 25 * 6}

    @pytest.mark.parametrize(("cell", "gates"), [(nn.RNNCell, 1), (nn.GRUCell, 3), (nn.LSTMCell, 4)])
    def test_cells(self, cell, gates):
        expected = {"weight_ih": 2 * gates * 15 * 2, "weight_hh": 2 * gates * 25 * 2}
        assert trace_flops(cell(3, 5), torch.zeros(2, 3)) == expected

    def test_self_attention(self):
        # (12, 4) in and (4, 4) out, met by 2 sequences of 3; scores have no weights.
        x = torch.zeros(2, 3, 4)
        flops = trace_flops(nn.MultiheadAttention(4, 2, batch_first=True), x, x, x)
        assert flops == {"in_proj_weight": 2 * 48 * 6, "out_proj.weight": 2 * 16 * 6}

    def test_cross_attention_has_its_own_lengths(self):
        # Queries of 3 vectors, keys and values of 5: (4, 4) each, then (4, 4) out on the queries.
        query, key = torch.zeros(3, 1, 4), torch.zeros(5, 1, 4)
        flops = trace_flops(nn.MultiheadAttention(4, 2), query, key, key)
        assert flops == {"in_proj_weight": 2 * 16 * (3 + 5 + 5), "out_proj.weight": 2 * 16 * 3}
        key, value = torch.zeros(5, 1, 6), torch.zeros(5, 1, 7)
        assert trace_flops(nn.MultiheadAttention(4, 2, kdim=6, vdim=7), query, key, value) == {
            "q_proj_weight": 2 * 16 * 3,
            "k_proj_weight": 2 * 24 * 5,
            "v_proj_weight": 2 * 28 * 5,
            "out_proj.weight": 2 * 16 * 3,
        }

    def test_the_fast_path_of_transformers_is_not_missed(self):
        encoder, x = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval(), torch.zeros(2, 3, 8)
        expected = {"self_attn.in_proj_weight": 2 * 192 * 6, "self_attn.out_proj.weight": 2 * 64 * 6}
        expected |= {"linear1.weight": 2 * 128 * 6, "linear2.weight": 2 * 128 * 6}
        with torch.no_grad(), FlopCounter(encoder) as counter:
            encoder(x)
        assert counter.flops == expected
        assert trace_flops(encoder, x) == expected

    @pytest.mark.parametrize(
        "function",
        [
            lambda w, x: x @ w.t(),
            lambda w, x: (w @ x.t()).t(),
            lambda w, x: torch.matmul(x, w.T),
            lambda w, x: torch.mm(x, w.t()),
            lambda w, x: x.mm(w.t()),
            lambda w, x: torch.addmm(torch.zeros(3), x, w.t()) if x.device.type == "cpu" else x @ w.t(),
            lambda w, x: F.linear(input=x, weight=w),
            lambda w, x: torch.bmm(x[None], w.t()[None]),
            lambda w, x: torch.matmul(x, other=w.t()),
            lambda w, x: torch.einsum("bi,oi->bo", x, w),
        ],
        ids=["x@w.t", "w@x", "matmul", "mm", ".mm", "addmm", "F.linear", "bmm", "matmul(other=)", "einsum"],
    )
    def test_products_with_a_parameter(self, function):
        model, x = Uses(function), torch.zeros(5, 4)
        with FlopCounter(model) as counter:
            assert model(x).numel() == 15
        assert counter.flops == {"weight": 2 * 12 * 5}
        assert trace_flops(model, x) == {"weight": 2 * 12 * 5}

    def test_a_weight_meets_every_vector_of_a_batch_of_matrices(self):
        assert trace_flops(Uses(lambda w, x: x @ w.t()), torch.zeros(2, 5, 4)) == {"weight": 2 * 12 * 10}
        assert trace_flops(Uses(lambda w, x: w @ x), torch.zeros(4)) == {"weight": 2 * 12}

    def test_a_weight_used_twice_counts_twice(self):
        assert trace_flops(Uses(lambda w, x: F.linear(F.linear(x, w), w.t())), torch.zeros(5, 4)) == {"weight": 240}

    def test_a_tied_weight_is_one_parameter_that_costs_where_it_multiplies(self):
        model = CharGRU(vocabulary=11, embedding=4, hidden=6, readouts=(5, 4))
        flops = trace_flops(model, torch.zeros(2, 3, dtype=torch.long))
        assert flops == {  # six tokens; looking up an embedding costs nothing, the logits cost 11 x 4
            "gru.weight_ih_l0": 2 * 18 * 4 * 6,
            "gru.weight_hh_l0": 2 * 18 * 6 * 6,
            "readouts.0.weight": 2 * 30 * 6,
            "readouts.1.weight": 2 * 20 * 6,
            "embedding.weight": 2 * 44 * 6,
        }

    def test_norms_activations_and_pooling_cost_nothing(self):
        model = nn.Sequential(nn.BatchNorm2d(3), nn.PReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.LayerNorm(12))
        assert trace_flops(model, torch.zeros(2, 3, 4, 4)) == {}


class TestOutputs:
    """What the second convention adds: one FLOP for each number that a product makes."""

    @pytest.mark.parametrize(
        ("module", "shape", "expected"),
        [
            (nn.Linear(4, 3), (2, 7, 4), 3 * 14),
            (nn.Conv1d(2, 3, 5), (1, 2, 9), 3 * 5),
            (nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2), (2, 4, 8, 8), 6 * 16 * 2),
            (nn.Conv2d(4, 4, 3, padding=1, groups=4), (1, 4, 8, 8), 4 * 64),
            (nn.ConvTranspose2d(4, 6, 2, stride=2, groups=2), (2, 4, 4, 4), 6 * 64 * 2),
        ],
        ids=str,
    )
    def test_linear_and_convolutions(self, module, shape, expected):
        assert trace(module, torch.zeros(shape)).outputs == {"weight": expected}

    def test_gates_of_recurrent_layers_and_cells(self):
        assert trace(nn.GRU(3, 5), torch.zeros(4, 2, 3)).outputs == {"weight_ih_l0": 15 * 8, "weight_hh_l0": 15 * 8}
        lstm = trace(nn.LSTM(3, 5, proj_size=2), torch.zeros(4, 2, 3)).outputs
        assert lstm == {"weight_ih_l0": 20 * 8, "weight_hh_l0": 20 * 8, "weight_hr_l0": 2 * 8}
        assert trace(nn.LSTMCell(3, 5), torch.zeros(2, 3)).outputs == {"weight_ih": 20 * 2, "weight_hh": 20 * 2}

    def test_projections_of_attention(self):
        x = torch.zeros(2, 3, 4)
        outputs = trace(nn.MultiheadAttention(4, 2, batch_first=True), x, x, x).outputs
        assert outputs == {"in_proj_weight": 12 * 6, "out_proj.weight": 4 * 6}

    @pytest.mark.parametrize(
        "function",
        [
            lambda w, x: x @ w.t(),
            lambda w, x: torch.einsum("bi,oi->bo", x, w),
            lambda w, x: torch.tensordot(x, w.t(), 1),
        ],
        ids=["x@w.t", "einsum", "tensordot"],
    )
    def test_products(self, function):
        assert trace(Uses(function), torch.zeros(5, 4)).outputs == {"weight": 15}

    def test_they_are_dense_whatever_the_weight(self):
        flops = with_outputs({"a": 200, "b": 50}, {"a": 10, "b": 5})
        assert sum(flops.values()) == 265
        assert sparse_forward_flops(flops, {"a": 0.1, "b": 0.0}) == 20 + 10 + 5


class TestAgainstTorch:
    """torch.utils.flop_counter counts the products that are really dispatched; also 2 per multiply-accumulate."""

    def test_resnet50_dense_at_224(self, resnet50):
        flops = trace_flops(resnet50, torch.zeros(1, 3, 224, 224))
        assert len(flops) == 54
        assert sum(flops.values()) == 8_178_368_512

    def test_wrn_22_2_dense_at_32(self, wrn_22_2):
        flops = trace_flops(wrn_22_2, torch.zeros(1, 3, 32, 32))
        assert len(flops) == 23
        assert sum(flops.values()) == pytest.approx(3.15e8, rel=0.005)  # Sundar & Dwaraknath 2021, without bias

    @pytest.mark.parametrize("size", [64, 224])
    def test_resnet50_layer_sum(self, resnet50, size):
        images = torch.zeros(2, 3, size, size, device="meta")
        model = copy.deepcopy(resnet50).eval()
        with torch.no_grad(), FlopCounterMode(display=False) as witness:
            model(images)
        assert sum(trace_flops(resnet50, images).values()) == witness.get_total_flops()

    @pytest.mark.parametrize(
        ("model", "shape"),
        [
            (nn.Conv2d(4, 8, 3, stride=2, groups=2, padding=2, dilation=2), (3, 4, 9, 11)),
            (nn.ConvTranspose2d(4, 8, 3, stride=2), (3, 4, 5, 6)),
            (nn.Sequential(nn.Linear(6, 7), nn.ReLU(), nn.Linear(7, 2, bias=False)), (3, 5, 6)),
        ],
        ids=["conv", "transposed", "linear"],
    )
    def test_single_layers(self, model, shape):
        with torch.no_grad(), FlopCounterMode(display=False) as witness:
            model(torch.zeros(shape))
        assert sum(trace_flops(model, torch.zeros(shape)).values()) == witness.get_total_flops()

    @pytest.mark.parametrize(
        "name",
        [
            "mobilenetv1_100", "mobilenetv2_100", "mobilenetv3_small_100", "efficientnet_b0", "regnety_002",
            "resnext50_32x4d", "densenet121", "convnext_atto", "ghostnet_100",
        ],
    )  # fmt: skip
    def test_convolutional_networks_of_timm(self, name):
        model, images = on_meta(name), torch.zeros(1, 3, 64, 64, device="meta")
        assert sum(trace_flops(model, images).values()) == witness_of(model, images)

    @pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "mixer_s32_224", "swin_tiny_patch4_window7_224"])
    def test_transformers_of_timm_but_for_attention_which_has_no_weights(self, name):
        model, images = on_meta(name), torch.zeros(1, 3, 224, 224, device="meta")
        scores = witness_of(model, images, only=("bmm", "baddbmm", "_scaled_dot_product"))
        assert sum(trace_flops(model, images).values()) == witness_of(model, images) - scores


def on_meta(name):
    import timm

    with torch.device("meta"):
        return timm.create_model(name).eval()


def witness_of(model, images, only=("",)):
    with torch.no_grad(), FlopCounterMode(display=False) as witness:
        model(images)
    counts = witness.get_flop_counts()["Global"]
    return sum(n for operator, n in counts.items() if any(part in str(operator) for part in only))


def test_scaled_dot_product_attention_has_no_weights():
    model = Uses(lambda w, x: F.scaled_dot_product_attention(F.linear(x, w), F.linear(x, w), x[..., :3]))
    assert trace_flops(model, torch.zeros(2, 5, 4)) == {"weight": 2 * (2 * 12 * 10)}


class TestNothingChanges:
    def model(self):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten(), nn.LazyLinear(5), nn.Linear(5, 2)
        )

    def test_trace_leaves_no_mark(self):
        model, x = self.model(), torch.randn(2, 3, 6, 6)
        model(x).sum().backward()
        model[1].eval()  # a mixed mode, as when batch norms are frozen
        state = {name: value.clone() for name, value in model.state_dict().items()}
        grads = [p.grad.clone() for p in model.parameters()]
        modes = [module.training for module in model.modules()]
        rng = torch.get_rng_state()

        flops = trace_flops(model, x)

        assert list(flops) == ["0.weight", "4.weight", "5.weight"]
        assert torch.equal(torch.get_rng_state(), rng)
        assert [module.training for module in model.modules()] == modes
        assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), grads, strict=True))
        assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
        assert all(p.device.type == "cpu" for p in model.parameters())

    def test_hooks_and_batch_norms_of_the_user_are_left_as_they_are(self):
        model, x = self.model(), torch.randn(2, 3, 6, 6)
        model(x)
        handle = model[0].register_forward_hook(lambda module, args, output: output + 1)
        before = {name: value.clone() for name, value in model[1].named_buffers()}
        expected_hooks = list(model[0]._forward_hooks)

        trace(model, x)

        assert model.training
        assert list(model[0]._forward_hooks) == expected_hooks
        assert before.keys() == {"running_mean", "running_var", "num_batches_tracked"}
        assert all(torch.equal(value, before[name]) for name, value in model[1].named_buffers())
        handle.remove()

    def test_the_counter_changes_no_output_and_no_gradient(self):
        model, x = self.model(), torch.randn(2, 3, 6, 6)
        model(x)
        torch.manual_seed(1)
        expected = model(x)
        expected.sum().backward()
        grads = [p.grad.clone() for p in model.parameters()]
        model.zero_grad()
        torch.manual_seed(1)
        with FlopCounter(model):
            output = model(x)
        output.sum().backward()
        assert torch.equal(output, expected)
        assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), grads, strict=True))

    def test_nothing_is_counted_before_and_after(self):
        model = nn.Linear(4, 3)
        counter = FlopCounter(model)
        model(torch.zeros(1, 4))
        with counter:
            model(torch.zeros(5, 4))
        model(torch.zeros(7, 4))
        assert counter.flops == {"weight": 120}

    def test_weights_of_other_models_are_not_counted(self):
        model, other = nn.Linear(4, 3), nn.Linear(4, 3)
        with FlopCounter(model) as counter:
            other(torch.zeros(5, 4))
        assert counter.flops == {}

    def test_autocast_does_not_hide_a_weight(self):
        model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 3))
        with torch.autocast("cpu", torch.bfloat16), FlopCounter(model) as counter:
            model(torch.zeros(1, 1, 4, 4))
        assert counter.flops == {"0.weight": 2 * 18 * 4, "2.weight": 2 * 24}


def test_a_training_step_costs_three_forwards_or_the_dense_gradient():
    # f_S = 10, f_D = 100: static 3 f_S; RigL on update steps and SNFS 2 f_S + f_D; dense 3 f_D.
    assert training_flops(forward=10, weight_gradient=10) == 30
    assert training_flops(forward=10, weight_gradient=100) == 120


def test_unnamed_weights_count_as_dense():
    assert sparse_forward_flops({"a": 100, "b": 10, "c": 1}, {"a": 0.5, "c": 0.0}) == 60
    assert sparse_forward_flops({"a": 100}, {"of another model": 0.0}) == 100
