"""CIFAR-10, MNIST and the digits arrive as the paper has them; what is missing is said before training."""

from types import SimpleNamespace

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torchvision.datasets import CIFAR10

from rigl_lightning.data import CIFAR10DataModule, DigitsDataModule, MNISTDataModule
from rigl_lightning.data.augmentation import standardise
from rigl_lightning.models import LeNet300100
from rigl_lightning.modules import ImageClassifier


def _ready(data):
    data.prepare_data()
    data.setup("fit")
    return data


def test_all_cifar_training_images_train_and_the_test_images_validate_and_test(cifar_root):
    data = _ready(CIFAR10DataModule(cifar_root, batch_size=2))
    assert [len(part) for part in (data.train_set, data.val_set, data.test_set)] == [20, 4, 4]
    images, labels = next(iter(data.val_dataloader()))
    stored = CIFAR10(cifar_root, train=False)
    expected = standardise(torch.from_numpy(stored.data[:2]).permute(0, 3, 1, 2))
    torch.testing.assert_close(images, expected)
    assert labels.tolist() == stored.targets[:2]


@pytest.mark.parametrize(("resolution", "padding"), [(32, 4), (16, 2), (8, 1)])
def test_a_smaller_cifar_averages_areas_and_pads_less(cifar_root, resolution, padding):
    data = _ready(CIFAR10DataModule(cifar_root, batch_size=2, resolution=resolution))
    assert data.padding == padding
    factor = 32 // resolution
    pixels = CIFAR10(cifar_root).data[0].astype(float)
    means = pixels.reshape(resolution, factor, resolution, factor, 3).mean((1, 3)).transpose(2, 0, 1)
    assert np.abs(data.train_set[0][0].numpy() - means).max() <= 0.5
    images, labels = data.augment(next(iter(data.train_dataloader())))
    assert images.shape == (2, 3, resolution, resolution)
    assert images.dtype == torch.float32
    assert labels.dtype == torch.int64


@pytest.mark.parametrize("resolution", [0, 33])
def test_a_resolution_beyond_the_images_is_refused(resolution):
    with pytest.raises(ValueError, match=r"\[1, 32\], got .*`resolution` of"):
        CIFAR10DataModule(resolution=resolution)


def test_mnist_pixels_lie_in_0_to_1(mnist_root):
    data = _ready(MNISTDataModule(mnist_root, batch_size=3))
    images, labels = next(iter(data.test_dataloader()))
    assert images.shape == (3, 1, 28, 28)
    assert images.unique().tolist() == [0.0, 1.0]
    assert labels.tolist() == [0, 1, 2]
    assert len(data.train_set) == 6


@pytest.mark.parametrize(
    ("data_module", "name", "folder"),
    [(CIFAR10DataModule, "CIFAR-10", "cifar-10-batches-py"), (MNISTDataModule, "MNIST", "MNIST/raw")],
)
def test_missing_images_are_reported_in_one_line_that_says_what_to_set(tmp_path, data_module, name, folder):
    for step in (lambda data: data.prepare_data(), lambda data: data.setup("fit")):
        with pytest.raises(FileNotFoundError) as error:
            step(data_module(tmp_path))
        assert str(error.value) == (
            f"{name} not found under {tmp_path}. Set `root` of the data module to the folder that holds "
            f"{folder}, or `download` of the data module to True."
        )


def test_damaged_images_are_not_called_missing(tmp_path):
    (tmp_path / "cifar-10-batches-py").mkdir()
    with pytest.raises(ValueError, match=r"CIFAR-10 under .* is incomplete or damaged"):
        CIFAR10DataModule(tmp_path).prepare_data()


def test_the_digits_split_is_stratified_and_does_not_depend_on_the_seed():
    first, second = _ready(DigitsDataModule(seed=0)), _ready(DigitsDataModule(seed=1))
    assert (len(first.train_set), len(first.val_set)) == (1437, 360)
    assert torch.equal(first.train_set.inputs, second.train_set.inputs)
    shares = [torch.bincount(part.targets) / len(part) for part in (first.train_set, first.val_set)]
    torch.testing.assert_close(shares[0], shares[1], atol=0.003, rtol=0)
    images, _ = next(iter(first.val_dataloader()))
    assert images.shape == (50, 1, 8, 8)
    assert (images.min(), images.max()) == (0, 1)


def test_training_batches_are_whole_and_evaluation_is_complete():
    data = _ready(DigitsDataModule(batch_size=100))
    assert [len(labels) for _, labels in data.train_dataloader()] == [100] * 14
    assert [len(labels) for _, labels in data.val_dataloader()] == [100, 100, 100, 60]
    assert torch.equal(torch.cat([labels for _, labels in data.val_dataloader()]), data.val_set.targets)


def test_a_batch_larger_than_the_training_set_is_refused_before_a_loader_is_made():
    with pytest.raises(ValueError, match=r"at most 1437 .*got 1438.*`batch_size` of DigitsDataModule"):
        DigitsDataModule(batch_size=1438).setup("fit")
    DigitsDataModule(batch_size=1438).setup("test")  # evaluation has no such limit


def test_the_seed_of_seed_everything_is_used_unless_one_is_given(monkeypatch):
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    assert DigitsDataModule().seed == 0
    monkeypatch.setenv("PL_GLOBAL_SEED", "7")
    assert DigitsDataModule().seed == 7
    assert DigitsDataModule(seed=3).seed == 3


def test_a_network_learns_the_digits():
    torch.manual_seed(0)
    model = ImageClassifier(LeNet300100(64), 10, (1, 8, 8), learning_rate=0.1, milestones=(0.7,))
    trainer = pl.Trainer(
        max_epochs=8,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    trainer.fit(model, DigitsDataModule(seed=0))
    assert trainer.callback_metrics["val/accuracy"] > 0.95
    assert len(torch.cat(trainer.predict(model, DigitsDataModule()))) == 360


def test_the_example_input_of_a_model_summary_is_no_training_batch():
    data = DigitsDataModule()
    data.trainer = SimpleNamespace(training=True)
    example = torch.zeros(1, 1, 8, 8)
    state = torch.get_rng_state()
    assert data.on_after_batch_transfer(example, 0) is example
    assert torch.equal(torch.get_rng_state(), state)
