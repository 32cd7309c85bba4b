"""The networks have the shapes and counts of the paper."""

import pytest
import torch
from torch import nn

from rigl_lightning.models import CharGRU, LeNet300100, WideResNet


def _weight_layers(model):
    return [m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]


def test_wrn_22_2_has_the_papers_23_weight_layers_and_1076912_weights():
    layers = _weight_layers(WideResNet(22, 2))
    assert len(layers) == 23
    assert sum(layer.weight.numel() for layer in layers) == 1_076_912


def test_only_the_classifier_of_a_wide_resnet_has_a_bias():
    biased = [layer for layer in _weight_layers(WideResNet(10, 1)) if layer.bias is not None]
    assert [type(layer) for layer in biased] == [nn.Linear]


@pytest.mark.parametrize("depth", [4, 9, 20, 28 + 1])
def test_a_depth_that_is_not_6n_plus_4_is_refused(depth):
    with pytest.raises(ValueError, match=f"6n \\+ 4.*got {depth}.*depth"):
        WideResNet(depth)


def test_a_width_without_channels_is_refused():
    with pytest.raises(ValueError, match="width"):
        WideResNet(10, 0.01)


def test_a_fractional_width_makes_a_small_dense_network():
    first_stage = WideResNet(10, 0.5).stages[0][0]
    assert first_stage.conv1.out_channels == 8


@pytest.mark.parametrize("resolution", [8, 16, 32, 33])
def test_a_wide_resnet_takes_any_resolution(resolution):
    assert WideResNet(10, 1, num_classes=7)(torch.zeros(2, 3, resolution, resolution)).shape == (2, 7)


def test_the_first_block_of_every_stage_convolves_its_skip_and_the_others_pass_their_input():
    for stage in WideResNet(22, 2).stages:
        assert [block.skip is not None for block in stage] == [True, False, False]
        assert stage[0].skip.kernel_size == (1, 1)


def test_the_convolved_skip_sees_the_activated_input_and_the_identity_the_raw_one():
    changing, keeping = WideResNet(16, 2, dropout=0.0).eval().stages[0][:2]
    features = torch.randn(2, 16, 8, 8)
    nn.init.zeros_(changing.conv2.weight)
    torch.testing.assert_close(changing(features), changing.skip(changing.norm1(features).relu()))
    nn.init.zeros_(keeping.conv2.weight)
    features = torch.randn(2, 32, 8, 8)
    assert torch.equal(keeping(features), features)


def test_dropout_acts_in_training_only():
    model, images = WideResNet(10, 1), torch.randn(4, 3, 8, 8)
    block = model.stages[0][0]
    block.dropout.p = 0.99
    features = torch.randn(4, 16, 8, 8)
    assert not torch.equal(block(features), block(features))
    model.eval()
    assert torch.equal(model(images), model(images))


def test_lenet_has_266200_weights_for_mnist_and_zero_biases():
    layers = _weight_layers(LeNet300100())
    assert [layer.weight.shape for layer in layers] == [(300, 784), (100, 300), (10, 100)]
    assert all(layer.bias.count_nonzero() == 0 for layer in layers)
    assert LeNet300100()(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


@pytest.mark.parametrize("model", [LeNet300100(), WideResNet(10, 1)])
def test_image_networks_start_glorot_uniform(model):
    for layer in _weight_layers(model):
        receptive = layer.weight[0, 0].numel()
        fan_sum = (layer.weight.shape[0] + layer.weight.shape[1]) * receptive
        bound = (6 / fan_sum) ** 0.5
        assert 0.9 * bound < layer.weight.abs().max() <= bound


def test_the_gru_has_1179648_matrix_weights_with_its_embedding_counted_once():
    model = CharGRU()
    matrices = sum(p.numel() for p in model.parameters() if p.ndim == 2)
    assert matrices == 1_179_648
    assert matrices - model.embedding.weight.numel() == 1_146_880


def test_gru_logits_are_the_last_readout_times_the_embedding():
    model = CharGRU(vocabulary=5, embedding=3, hidden=4, readouts=(6, 3))
    tokens = torch.randint(5, (2, 7))
    hidden, _ = model.gru(model.embedding(tokens))
    readout = model.readouts[1](model.readouts[0](hidden).relu())
    torch.testing.assert_close(model(tokens)[0], readout @ model.embedding.weight.T)


def test_a_sequence_read_in_two_parts_gives_the_same_logits():
    model, tokens = CharGRU(vocabulary=5, embedding=3, hidden=4, readouts=(3,)), torch.randint(5, (2, 8))
    first, state = model(tokens[:, :3])
    second, _ = model(tokens[:, 3:], state)
    torch.testing.assert_close(torch.cat([first, second], dim=1), model(tokens)[0])


@pytest.mark.parametrize("readouts", [(), (256,), (128, 256)])
def test_a_last_readout_that_does_not_fit_the_embedding_is_refused(readouts):
    with pytest.raises(ValueError, match="readouts"):
        CharGRU(readouts=readouts)
