"""ImageClassifier works in any Trainer and follows the paper's schedule."""

from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from rigl_lightning.models import LeNet300100, WideResNet
from rigl_lightning.modules import ImageClassifier
from rigl_lightning.modules.milestones import milestone_steps

QUIET = {
    "accelerator": "cpu",
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "enable_checkpointing": False,
}


def _classifier(**settings):
    return ImageClassifier(LeNet300100(4, 3), num_classes=3, input_shape=(1, 2, 2), **settings)


def _loader(n=10, batch_size=4):
    images = torch.randn(n, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    return DataLoader(TensorDataset(images, torch.arange(n) % 3), batch_size)


def test_the_papers_fractions_of_97656_steps_are_30k_60k_and_90k():
    module = _classifier(milestones=(0.3072, 0.6144, 0.9216), learning_rate_decay=0.2)
    module.trainer = SimpleNamespace(estimated_stepping_batches=97_656)
    scheduler = module.configure_optimizers()["lr_scheduler"]
    rates = scheduler["scheduler"].lr_lambdas[0]
    assert [step for step in range(1, 97_656) if rates(step) < rates(step - 1)] == [30_000, 60_000, 90_000]
    assert scheduler["interval"] == "step"


def test_the_learning_rate_drops_at_the_milestones_of_the_run():
    module = _classifier(learning_rate=1.0, milestones=(0.5, 1.0), learning_rate_decay=0.1)
    trainer = pl.Trainer(max_steps=8, **QUIET)
    trainer.fit(module, _loader())
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.01)


@pytest.mark.parametrize("total", [float("inf"), -1])
def test_milestones_of_an_endless_training_are_refused(total):
    with pytest.raises(ValueError, match=r"Set `max_steps` of the Trainer"):
        milestone_steps([0.5], total)
    assert milestone_steps([], total) == []


@pytest.mark.parametrize("milestones", [[0.0], [1.5], [30_000], [0.6, 0.3]])
def test_milestones_that_are_no_increasing_fractions_are_refused(milestones):
    with pytest.raises(ValueError, match="milestones"):
        milestone_steps(milestones, 100)


def test_weight_decay_spares_biases_and_batch_norms():
    module = ImageClassifier(WideResNet(10, 1), 10, (3, 8, 8), weight_decay=5e-4)
    module.trainer = SimpleNamespace(estimated_stepping_batches=1)
    decayed, free = module.configure_optimizers()["optimizer"].param_groups
    assert decayed["weight_decay"] == 5e-4
    assert free["weight_decay"] == 0.0
    assert {p.ndim for p in decayed["params"]} == {2, 4}
    assert {p.ndim for p in free["params"]} == {1}
    assert decayed["nesterov"]
    assert decayed["momentum"] == 0.9


@pytest.mark.parametrize("depthwise", [False, True])
def test_training_decays_depthwise_kernels_only_if_asked_to(depthwise):
    network = nn.Sequential(
        nn.Conv2d(2, 2, 3, groups=2, bias=False), nn.Conv2d(2, 3, 1, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    first, pointwise = network[0].weight.detach().clone(), network[1].weight.detach().clone()
    settings = {"learning_rate": 0.1, "momentum": 0.0, "nesterov": False, "weight_decay": 0.5}
    module = ImageClassifier(network, 3, (2, 4, 4), depthwise_weight_decay=depthwise, **settings)
    black = TensorDataset(torch.zeros(4, 2, 4, 4), torch.arange(4) % 3)  # gives both kernels no gradient but L2's
    pl.Trainer(max_epochs=2, **QUIET).fit(module, DataLoader(black, 4))
    shrunk = (1 - 0.1 * 0.5) ** 2
    torch.testing.assert_close(network[0].weight.detach(), first * (shrunk if depthwise else 1))
    torch.testing.assert_close(network[1].weight.detach(), pointwise * shrunk)


def test_validation_and_test_are_exact_over_a_last_batch_that_is_smaller():
    module, loader = _classifier(label_smoothing=0.1), _loader()
    trainer = pl.Trainer(max_epochs=1, **QUIET)
    trainer.fit(module, loader, loader)
    images, labels = loader.dataset.tensors
    logits = module(images)
    expected = {
        "loss": F.cross_entropy(logits, labels).item(),
        "accuracy": (logits.argmax(1) == labels).float().mean().item(),
    }
    tested = trainer.test(module, loader, verbose=False)[0]
    validated = trainer.validate(module, loader, verbose=False)[0]
    for name, value in expected.items():
        assert tested[f"test/{name}"] == pytest.approx(value, rel=1e-5)
        assert validated[f"val/{name}"] == pytest.approx(value, rel=1e-5)


def test_training_logs_its_loss_and_accuracy_over_the_epoch():
    module = _classifier(learning_rate=0.0)
    trainer = pl.Trainer(max_epochs=2, **QUIET)
    loader = _loader()
    trainer.fit(module, loader)
    images, labels = loader.dataset.tensors
    logits = module(images)
    metrics = trainer.callback_metrics
    assert set(metrics) == {"train/loss", "train/loss_epoch", "train/accuracy"}
    torch.testing.assert_close(metrics["train/loss_epoch"], F.cross_entropy(logits, labels))
    torch.testing.assert_close(metrics["train/accuracy"], (logits.argmax(1) == labels).float().mean())


def test_predict_gives_a_class_for_each_image():
    module = _classifier()
    classes = torch.cat(pl.Trainer(**QUIET).predict(module, _loader()))
    assert torch.equal(classes, module(_loader().dataset.tensors[0]).argmax(1))


def test_the_example_input_fits_the_model():
    module = _classifier()
    assert module(module.example_input_array).shape == (1, 3)


def test_a_network_that_torch_breaks_in_channels_last_stays_contiguous():
    narrow = WideResNet(10, 1)
    narrow.stages = torch.nn.Sequential(torch.nn.Conv2d(5, 12, 1, stride=2))
    with pytest.warns(
        UserWarning, match=r"channels_last is ignored: 'stages\.0' is a strided .*Set `channels_last` of"
    ):
        kept = ImageClassifier(narrow, 10, (3, 8, 8), channels_last=True)
    assert kept.memory_format is torch.contiguous_format


def test_channels_last_changes_the_layout_and_not_the_result():
    torch.manual_seed(0)
    images = torch.randn(2, 3, 8, 8)
    plain = ImageClassifier(WideResNet(10, 1), 10, (3, 8, 8)).eval()
    last = ImageClassifier(WideResNet(10, 1), 10, (3, 8, 8), channels_last=True).eval()
    last.load_state_dict(plain.state_dict())
    assert last.model.stem.weight.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(last(images), plain(images))


@pytest.mark.parametrize("warmup", [-0.1, 1.0])
def test_a_warm_up_out_of_range_is_refused(warmup):
    module = _classifier(warmup=warmup)
    module._trainer = SimpleNamespace(estimated_stepping_batches=10)
    with pytest.raises(ValueError, match=r"`warmup` in \[0, 1\), got .* Set `warmup` of the module"):
        module.configure_optimizers()


def test_a_network_that_timm_does_not_have_is_refused_with_the_closest():
    from rigl_lightning.models import timm_model

    with pytest.raises(ValueError, match="network of timm, got 'resnet5'. Did you mean 'resnet50'"):
        timm_model("resnet5")
