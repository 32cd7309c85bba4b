import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

from rigl_lightning import RigL, Sparsifier
from rigl_lightning.models import CharGRU
from rigl_lightning.sparsity.parameters import select_parameters


def network():
    return nn.ModuleDict(
        {
            "stem": nn.Conv2d(3, 8, 3),
            "norm": nn.BatchNorm2d(8),
            "depthwise": nn.Conv2d(8, 8, 3, groups=8),
            "grouped": nn.Conv2d(8, 8, 3, groups=2),
            "act": nn.PReLU(8),
            "embedding": nn.Embedding(5, 8),
            "scale": nn.LayerNorm((8, 8)),
            "fc": nn.Linear(8, 4),
        }
    )


class TestByDefault:
    def test_matrices_are_sparse_and_biases_norms_embeddings_and_depthwise_convolutions_are_not(self):
        # PReLU, LayerNorm (here of rank 2) and Embedding have a `weight` as well.
        assert list(select_parameters(network())) == ["stem.weight", "grouped.weight", "fc.weight"]

    @pytest.mark.parametrize(
        ("module", "expected"),
        [
            (nn.Conv1d(2, 3, 3), ["weight"]),
            (nn.Conv3d(2, 3, 3), ["weight"]),
            (nn.ConvTranspose2d(2, 3, 3), ["weight"]),
            (nn.Linear(2, 3), ["weight"]),
            (nn.RNN(2, 3), ["weight_ih_l0", "weight_hh_l0"]),
            (nn.GRU(2, 3, 2), ["weight_ih_l0", "weight_hh_l0", "weight_ih_l1", "weight_hh_l1"]),
            (nn.LSTM(2, 3, proj_size=1), ["weight_ih_l0", "weight_hh_l0", "weight_hr_l0"]),
            (nn.RNNCell(2, 3), ["weight_ih", "weight_hh"]),
            (nn.GRUCell(2, 3), ["weight_ih", "weight_hh"]),
            (nn.LSTMCell(2, 3), ["weight_ih", "weight_hh"]),
            (nn.MultiheadAttention(4, 2, add_bias_kv=True), ["in_proj_weight", "out_proj.weight"]),
            (
                nn.MultiheadAttention(4, 2, kdim=3, vdim=2),
                ["q_proj_weight", "k_proj_weight", "v_proj_weight", "out_proj.weight"],
            ),
            (nn.Conv2d(1, 4, 3, groups=1), ["weight"]),  # one input channel is no depthwise convolution
            (nn.Conv2d(4, 8, 3, groups=2), ["weight"]),
        ],
        ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
    )
    def test_every_kind_of_matrix_is_found(self, module, expected):
        assert list(select_parameters(module)) == expected

    def test_a_subclass_is_its_kind(self):
        class Mine(nn.Linear):
            pass

        assert list(select_parameters(nn.Sequential(Mine(2, 2)))) == ["0.weight"]

    def test_the_parameters_are_the_models_own(self):
        model = network()
        assert select_parameters(model)["fc.weight"] is model["fc"].weight

    def test_depthwise_convolutions_are_sparse_if_asked_for(self):
        assert "depthwise.weight" in select_parameters(network(), depthwise=True)
        multiplied = nn.Sequential(nn.Conv2d(4, 8, 3, groups=4), nn.Linear(2, 2))  # a channel multiplier of 2
        assert list(select_parameters(multiplied)) == ["1.weight"]

    def test_frozen_weights_are_left_alone(self):
        model = network()
        model["fc"].weight.requires_grad_(False)
        assert list(select_parameters(model)) == ["stem.weight", "grouped.weight"]

    def test_resnet50_has_its_54_weights(self, resnet50):
        selected = select_parameters(resnet50)
        assert (len(selected), sum(p.numel() for p in selected.values())) == (54, 25_502_912)

    def test_wrn_22_2_has_its_23_weights(self, wrn_22_2):
        selected = select_parameters(wrn_22_2)
        assert (len(selected), sum(p.numel() for p in selected.values())) == (23, 1_076_912)


class TestTied:
    def test_two_tied_layers_are_one_parameter(self):
        model = nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(3, 3)})
        model["b"].weight = model["a"].weight
        assert list(select_parameters(model)) == ["a.weight"]

    @pytest.mark.parametrize("first", ["embedding", "decoder"])
    def test_a_matrix_tied_to_an_embedding_stays_dense(self, first):
        modules = {"embedding": nn.Embedding(5, 3), "decoder": nn.Linear(3, 5), "fc": nn.Linear(3, 3)}
        modules["decoder"].weight = modules["embedding"].weight
        model = nn.ModuleDict({first: modules.pop(first), **modules})
        assert list(select_parameters(model)) == ["fc.weight"]

    def test_the_character_model_keeps_its_embedding(self):
        assert list(select_parameters(CharGRU())) == [
            "gru.weight_ih_l0",
            "gru.weight_hh_l0",
            "readouts.0.weight",
            "readouts.1.weight",
        ]


class TestPatterns:
    @pytest.mark.parametrize(
        ("include", "exclude", "expected"),
        [
            (["fc"], [], ["fc.weight"]),
            (["fc", "stem.weight"], [], ["stem.weight", "fc.weight"]),  # in the order of the network
            (["embedding"], [], ["embedding.weight"]),
            (["depthwise", "fc"], [], ["depthwise.weight", "fc.weight"]),
            (["*e*"], ["stem"], ["depthwise.weight", "grouped.weight", "embedding.weight", "scale.weight",
                                 "scale.bias", "fc.weight"]),
            (None, ["fc"], ["stem.weight", "grouped.weight"]),
            (None, ["*ed", "stem.weight"], ["fc.weight"]),
            (None, ["embedding"], ["stem.weight", "grouped.weight", "fc.weight"]),
        ],
    )  # fmt: skip
    def test_include_and_exclude(self, include, exclude, expected):
        assert list(select_parameters(network(), include, exclude)) == expected

    @pytest.mark.parametrize("setting", ["include", "exclude"])
    def test_a_pattern_that_matches_nothing_is_refused(self, setting):
        with pytest.raises(ValueError, match=rf"`{setting}`.*'steem' matches none.*'stem'"):
            select_parameters(network(), **{setting: ["fc", "steem"]})

    @pytest.mark.parametrize("model", [nn.BatchNorm2d(3), nn.Linear(2, 2).requires_grad_(False)])
    def test_a_model_without_a_weight_to_select_is_refused(self, model):
        with pytest.raises(ValueError, match="at least one weight"):
            select_parameters(model)

    def test_names_of_a_compiled_model_are_the_plain_ones(self):
        model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))
        assert list(select_parameters(torch.compile(model))) == ["0.weight", "1.weight"]
        model[1] = torch.compile(model[1])
        assert list(select_parameters(model, exclude=["0"])) == ["1.weight"]


class Half(nn.Module):
    def forward(self, weight):
        return weight / 2


def parametrized(layer):
    parametrize.register_parametrization(layer, "weight", Half())
    return layer


COMPUTED = {
    "parametrize": parametrized,
    "weight norm": parametrizations.weight_norm,
    "spectral norm": parametrizations.spectral_norm,
    "old weight norm": nn.utils.weight_norm,
    "old spectral norm": nn.utils.spectral_norm,
    "prune": lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
}


class TestComputedWeights:
    @pytest.mark.parametrize("make", COMPUTED.values(), ids=COMPUTED)
    def test_are_refused_with_the_layers_name(self, make):
        model = nn.ModuleDict({"plain": nn.Linear(3, 3), "computed": make(nn.Linear(3, 3))})
        with pytest.raises(ValueError, match=r"plain weights, but those of \['computed'\].*`exclude`"):
            select_parameters(model)

    @pytest.mark.parametrize("make", COMPUTED.values(), ids=COMPUTED)
    @pytest.mark.parametrize("exclude", ["computed", "computed*"])
    def test_may_be_excluded(self, make, exclude):
        model = nn.ModuleDict({"plain": nn.Linear(3, 3), "computed": make(nn.Linear(3, 3))})
        assert list(select_parameters(model, exclude=[exclude])) == ["plain.weight"]
        assert list(select_parameters(model, include=["plain"])) == ["plain.weight"]

    @pytest.mark.parametrize("make", COMPUTED.values(), ids=COMPUTED)
    def test_are_refused_at_the_root_and_if_included(self, make):
        with pytest.raises(ValueError, match="plain weights"):
            select_parameters(make(nn.Linear(3, 3)))
        with pytest.raises(ValueError, match="plain weights"):
            select_parameters(nn.ModuleDict({"computed": make(nn.Linear(3, 3))}), include=["computed*"])

    @pytest.mark.parametrize("make", COMPUTED.values(), ids=COMPUTED)
    def test_those_of_transformers_conv1d_too(self, make):
        pytest.importorskip("transformers")
        from transformers.pytorch_utils import Conv1D

        model = nn.ModuleDict({"plain": nn.Linear(3, 3), "computed": make(Conv1D(4, 3))})
        with pytest.raises(ValueError, match=r"plain weights, but those of \['computed'\].*`exclude`"):
            select_parameters(model)
        assert list(select_parameters(model, exclude=["computed*"])) == ["plain.weight"]

    @pytest.mark.parametrize("make", COMPUTED.values(), ids=COMPUTED)
    @pytest.mark.parametrize("pattern", ["*", "table", "table*"])
    def test_those_of_any_module_if_included(self, make, pattern):
        model = nn.ModuleDict({"plain": nn.Linear(3, 3), "table": make(nn.Embedding(4, 3))})
        with pytest.raises(ValueError, match=r"plain weights, but those of \['table'\].*`exclude`"):
            select_parameters(model, include=[pattern])
        assert list(select_parameters(model)) == ["plain.weight"]

    def test_those_of_an_own_module_and_its_originals(self):
        class Own(nn.Module):
            def __init__(self):
                super().__init__()
                self.kernel = nn.Parameter(torch.randn(3, 3))
                self.inner = nn.Linear(3, 3)
                self.class_weight = torch.ones(3, 3)  # no parameter, and computed from none

        own = Own()
        assert list(select_parameters(own, include=["*"])) == ["kernel", "inner.weight"]
        parametrize.register_parametrization(own, "kernel", Half())
        for pattern in ("*", "kernel", "parametrizations.kernel.original"):
            with pytest.raises(ValueError, match=r"plain weights, but those of \['kernel'\]"):
                select_parameters(own, include=[pattern])
        assert list(select_parameters(own, include=["inner"])) == ["inner.weight"]

    def test_recurrent_weights_too(self):
        with pytest.raises(ValueError, match="rnn"):
            select_parameters(nn.ModuleDict({"rnn": nn.utils.weight_norm(nn.GRU(2, 3), "weight_hh_l0")}))

    def test_weight_norm_of_a_bias_only_or_of_a_norm_is_no_matter(self):
        model = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3))
        parametrize.register_parametrization(model[1], "weight", Half())
        assert list(select_parameters(model)) == ["0.weight"]


def test_weights_on_the_meta_device_are_refused():
    layer = nn.Linear(3, 3, device="meta")
    assert list(select_parameters(layer)) == ["weight"]  # `build_sparse` begins so
    with pytest.raises(ValueError, match="weights with values, got 'weight' on the meta device.*`build_sparse`"):
        Sparsifier(select_parameters(layer), RigL(0.5), total_steps=9)


class TestLazy:
    @pytest.mark.parametrize("lazy", [nn.LazyLinear(3), nn.LazyConv2d(3, 3)], ids=["linear", "convolution"])
    def test_lazy_weights_are_refused_until_they_have_a_shape(self, lazy):
        model = nn.ModuleDict({"lazy": lazy, "plain": nn.Linear(2, 2)})
        with pytest.raises(ValueError, match=r"lazy \['lazy.weight'\]"):
            select_parameters(model)
        assert list(select_parameters(model, exclude=["lazy"])) == ["plain.weight"]
        lazy(torch.zeros(1, 2, 4, 4))
        assert list(select_parameters(model)) == ["lazy.weight", "plain.weight"]


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_a_weight_without_elements_is_left_alone():
    assert list(select_parameters(nn.Sequential(nn.Linear(4, 4), nn.Linear(0, 4)))) == ["0.weight"]
