"""lightning-bolts' data with our module and callback; `make test-bolts` runs this in an environment of its own."""

import pickle

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from rigl_lightning import RigL, SparseTrainingCallback, UpdateSchedule
from rigl_lightning.models import WideResNet
from rigl_lightning.modules import ImageClassifier
from tests.helpers.small_runs import QUIET, Watch

datamodules = pytest.importorskip("pl_bolts.datamodules", reason="lightning-bolts is tested by `make test-bolts`")

N_PER_FILE = 60  # 300 images to train and validate on, 60 to test on


@pytest.fixture
def data(tmp_path, monkeypatch):
    """CIFAR10DataModule of bolts on blurred noise whose brightest colour is the label, in CIFAR-10's pickled layout."""
    from torchvision.datasets import CIFAR10

    monkeypatch.setattr(CIFAR10, "_check_integrity", lambda self: True)
    monkeypatch.setattr(CIFAR10, "_load_meta", lambda self: None)
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    random = np.random.default_rng(0)
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        labels = random.integers(0, 3, N_PER_FILE)
        images = random.integers(0, 128, (N_PER_FILE, 3, 32, 32))
        images[np.arange(N_PER_FILE), labels] += 100
        content = {"data": images.reshape(N_PER_FILE, -1).astype(np.uint8), "labels": labels.tolist()}
        (folder / name).write_bytes(pickle.dumps(content))
    return datamodules.CIFAR10DataModule(
        str(tmp_path), val_split=60, num_workers=0, normalize=True, batch_size=20, seed=0, drop_last=True
    )


def fit(data, epochs, folder, ckpt_path=None):
    torch.manual_seed(0)
    model = ImageClassifier(WideResNet(depth=10, width=1), 10, (3, 32, 32), learning_rate=0.05, weight_decay=5e-4)
    sparse = SparseTrainingCallback(RigL(0.8, schedule=UpdateSchedule(interval=5, end=30)), seed=5)
    watch = Watch(sparse)
    settings = {**QUIET, "max_epochs": epochs, "enable_checkpointing": False, "default_root_dir": folder}
    trainer = pl.Trainer(callbacks=[sparse, watch], **settings)
    trainer.fit(model, datamodule=data, ckpt_path=ckpt_path)
    return trainer, model, sparse, watch


def test_trains_saves_and_resumes_on_the_data_of_bolts(data, tmp_path):
    trainer, model, sparse, watch = fit(data, 2, tmp_path)
    assert watch.updates == [0, 5, 10, 15, 20]  # 240 images in batches of 20: 12 steps an epoch
    assert sparse.sparsifier.step == 24
    assert len(set(watch.densities)) == 1
    trainer.save_checkpoint(tmp_path / "two.ckpt")
    saved = torch.load(tmp_path / "two.ckpt", weights_only=True)["state_dict"]
    plain = WideResNet(depth=10, width=1)
    plain.load_state_dict(
        {k.removeprefix("model."): v for k, v in saved.items() if k.startswith("model.")}, strict=True
    )

    trainer, resumed, again, watch = fit(data, 4, tmp_path, tmp_path / "two.ckpt")
    assert watch.updates[-1] == 25
    assert again.sparsifier.step == 48
    assert again.sparsifier.n_active == sparse.sparsifier.n_active
    assert trainer.test(resumed, datamodule=data, verbose=False)[0]["test/accuracy"] > 0.6  # 0.33 by chance
    for name, mask in again.sparsifier.masks.items():
        assert not resumed.state_dict()[name][~mask].any()


def test_a_learning_rate_schedule_of_bolts_is_an_ordinary_one(data, tmp_path):
    from pl_bolts.optimizers import LinearWarmupCosineAnnealingLR

    class Warmed(ImageClassifier):
        def configure_optimizers(self):
            optimizer = torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)
            return [optimizer], [LinearWarmupCosineAnnealingLR(optimizer, warmup_epochs=1, max_epochs=2)]

    sparse = SparseTrainingCallback(RigL(0.8), seed=5)
    settings = {**QUIET, "max_epochs": 2, "enable_checkpointing": False, "default_root_dir": tmp_path}
    model = Warmed(WideResNet(depth=10, width=1), 10, (3, 32, 32))
    pl.Trainer(callbacks=[sparse, Watch(sparse)], **settings).fit(model, datamodule=data)
    assert sparse.sparsifier.step == 24
