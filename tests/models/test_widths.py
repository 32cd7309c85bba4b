"""Networks of any width: timm's at width 1, and every layer scaled."""

import subprocess
import sys

import pytest
import timm
import torch

import rigl_lightning.models
from rigl_lightning.models import CharGRU, LeNet300100, mobilenet_v1, mobilenet_v2, resnet50
from rigl_lightning.models.channels import scaled_channels


def shapes(module):
    return {name: tuple(value.shape) for name, value in module.state_dict().items()}


def on_meta(build, *args, **kwargs):
    with torch.device("meta"):
        return build(*args, **kwargs)


@pytest.mark.parametrize(
    ("build", "name"),
    [(resnet50, "resnet50"), (mobilenet_v1, "mobilenetv1_100"), (mobilenet_v2, "mobilenetv2_100")],
)
def test_width_1_is_timms_network(build, name):
    assert shapes(on_meta(build)) == shapes(on_meta(timm.create_model, name))


@pytest.mark.parametrize("width", [0.1, 0.25, 0.26, 0.44, 1.5])
def test_every_layer_of_a_resnet50_is_scaled(width):
    wide, plain = shapes(on_meta(resnet50, width)), shapes(on_meta(resnet50))
    assert list(wide) == list(plain)  # also at a quarter, where the first shortcut could be an identity
    for name, (n_out, *_) in ((n, s) for n, s in plain.items() if n.endswith("conv2.weight")):
        assert wide[name][0] == int(n_out * width)


@pytest.mark.parametrize("build", [resnet50, mobilenet_v1, mobilenet_v2])
def test_a_narrow_network_computes_logits(build):
    assert build(0.2, num_classes=7).eval()(torch.zeros(2, 3, 64, 64)).shape == (2, 7)


def test_the_last_gamma_of_a_block_starts_at_zero_and_the_stem_does_not():
    model = resnet50(0.25, num_classes=3)
    assert model.layer1[0].bn3.weight.count_nonzero() == 0
    assert (model.bn1.weight == 1).all()


def test_a_resnet50_starts_as_the_authors():
    torch.manual_seed(0)
    model = resnet50(0.5, num_classes=50)
    for conv in (model.conv1, model.layer2[0].conv2, model.layer3[1].conv1):
        fan_in = conv.weight[0].numel()
        assert conv.weight.std().item() == pytest.approx(fan_in**-0.5, rel=0.05)  # scale 1, truncation made up for
        assert conv.weight.abs().max() <= 2 * fan_in**-0.5 / 0.8796 * 1.0001
    assert model.fc.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert not model.fc.bias.any()


def test_mobilenets_activate_with_relu():
    names = {type(m).__name__ for m in on_meta(mobilenet_v1, 0.25).modules()}
    assert "ReLU" in names
    assert "ReLU6" not in names


def test_channels_are_rounded_as_by_the_authors():
    assert scaled_channels(64, 0.353) == 22
    assert scaled_channels(64, 0.353, divisor=8) == 24
    assert scaled_channels(32, 0.3, divisor=8) == 16  # 8 would take more than a tenth of 9
    assert scaled_channels(8, 0.5, divisor=8) == 8
    with pytest.raises(ValueError, match="64 channels at least one, got 0.01"):
        scaled_channels(64, 0.01)


def test_a_narrow_lenet_and_gru_scale_their_hidden_layers():
    assert [m.out_features for m in LeNet300100(width=0.1) if hasattr(m, "out_features")] == [30, 10, 10]
    gru = CharGRU(width=0.5)
    assert gru.gru.hidden_size == 256
    assert gru(torch.zeros(1, 2, dtype=torch.int64))[0].shape == (1, 2, 256)


def test_the_small_networks_do_not_wait_for_timm():
    code = "import sys, rigl_lightning.models as m; m.LeNet300100(); print('timm' in sys.modules, m.resnet50.__name__)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown == "False resnet50\n"
    with pytest.raises(AttributeError, match="no attribute 'resnet51'"):
        rigl_lightning.models.resnet51  # noqa: B018
